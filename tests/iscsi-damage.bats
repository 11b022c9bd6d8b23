# SPDX-License-Identifier: BSD-3-Clause
# A proxy damages one answer of the target.  We neither crash nor hang, and
# take no wrong data for right ones where that can be known.

load lib/common
load lib/iscsi

through_proxy () {
  "$PYTHON" "$lib/iscsi-proxy.py" "$port" "$@" >proxy 2>proxy.err 3>&- &
  target_pids+=($!)
  wait_for test -s proxy
  url=iscsi://127.0.0.1:$(cat proxy)/$target_name/1
}

# The answer is thrown away, and what was asked is asked again.
recovers () {
  random_file disk 4194304
  serve_file disk
  through_proxy "$@"
  start_nbdkit iscsi "$url" timeout=4
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
  kill -0 "$server_pid"
  [ ! -s proxy.err ] || { cat proxy.err; false; }
}

# fails_once DAMAGE ERRNO: one read fails, the next one does not.
fails_once () {
  random_file disk 4194304
  serve_file disk
  through_proxy "$1"
  start_nbdkit iscsi "$url" timeout=4
  python_client "$uri" -c "data = open('disk', 'rb').read()
try:
    h.pread(8192, 0)
    raise SystemExit('read')
except nbd.Error as e:
    assert e.errno == '$2', e.errno
assert h.pread(8192, 0) == data[:8192]"
}

@test "unknown opcode" { recovers opcode 3; }
@test "answer to what was not asked" { recovers text 3; }
@test "segment too long" { recovers huge 3; }
@test "additional header" { recovers ahs 3; }
@test "wrong buffer offset" { recovers offset 3; }
@test "unknown task tag" { recovers itt 3; }
@test "reject" { recovers reject 3; }
@test "asynchronous message: log out" { recovers async 3; }
@test "cut in the middle" { recovers cut 3; }
@test "closed" { recovers close 3; }
@test "closed three times" { recovers close 2 3; }
@test "unknown status" { recovers status 2; }
@test "busy" { recovers busy 2; }
@test "task set full" { recovers full 2; }
@test "unit attention" { recovers attention 2; }
@test "stall for longer than the time for an answer" { recovers stall 3; }
@test "underflow: too few bytes are no success" { fails_once underflow EIO; }
@test "reservation conflict" { fails_once conflict EPERM; }
@test "no sense data" { fails_once nosense EIO; }
@test "sense data of one byte" { fails_once sense1 EIO; }
@test "long sense data" { fails_once longsense EIO; }
