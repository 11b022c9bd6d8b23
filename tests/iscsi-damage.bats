# SPDX-License-Identifier: BSD-3-Clause
# A proxy damages one answer of the target.  We neither crash nor hang, and
# take no wrong data for right ones where that can be known.

load lib/common
load lib/iscsi

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
@test "underflow of nothing, of too much, overflow: no success" {
  local damage
  for damage in underflow-zero underflow-huge overflow; do
    fails_once "$damage" EIO
    new_target
  done
}

@test "data for a command that wants none" {
  random_file disk 4194304
  serve_file disk
  through_proxy other-tag 3
  start_nbdkit iscsi "$url" timeout=4
  python_client "$uri" -c "data = open('disk', 'rb').read()
h.pwrite(data[:8192], 0)
for at in range(0, len(data), 65536):
    assert h.pread(65536, at) == data[at:at + 65536]"
  kill -0 "$server_pid"
}

# write_fails DAMAGE ERRNO: one write fails, the next one does not.
write_fails () {
  truncate -s 4194304 disk
  serve_file disk
  through_proxy "$1"
  start_nbdkit iscsi "$url" timeout=4
  python_client "$uri" -c "try:
    h.pwrite(b'1' * 8192, 0)
    raise SystemExit('written')
except nbd.Error as e:
    assert e.errno == '$2', e.errno
h.pwrite(b'2' * 8192, 8192)
h.flush()"
  assert_equal "$(dd if=disk bs=8192 skip=1 count=1 status=none | tr -s 2)" 2
}

@test "a thin pool that is full" {
  write_fails write-full ENOSPC
  assert_match "$(cat "$server_log")" 'sense 7/27/07'
}
@test "reservation conflict when writing" { write_fails write-conflict EPERM; }
@test "wrong residual of a write" {
  write_fails write-underflow EIO
  new_target
  write_fails write-overflow EIO
}

# map_survives DAMAGE: the map is right, or all data; never something else, and
# what follows is right.
map_survives () {
  truncate -s 4194304 disk
  dd if=/dev/urandom of=disk bs=65536 seek=16 count=1 conv=notrunc status=none
  serve_file disk thin_provisioning=1
  through_proxy "$1"
  start_nbdkit iscsi "$url" timeout=4
  local map
  map=$(map_of "$uri" | tr '\n' ';')
  case $map in
    '0 4194304 0;') ;;
    '0 1048576 3;1048576 65536 0;1114112 3080192 3;') ;;
    *) echo "$1: $map"; false ;;
  esac
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
  kill -0 "$server_pid"
}

@test "GET LBA STATUS: wrong length, too long, too short, elsewhere, empty, refused" {
  local damage
  for damage in map-length map-long map-short map-elsewhere map-empty \
                map-refused; do
    map_survives "$damage"
    new_target
  done
}
