# SPDX-License-Identifier: BSD-3-Clause
# System calls fail under the plugin: the client is told, and nothing that was
# acknowledged is lost.  tests/lib/fail-io.c is preloaded.

load lib/common

setup () {
  common_setup
  have gcc || skip "no gcc"
  # Others have more names for the same calls.
  [ "$(getconf LONG_BIT)" -eq 64 ] || skip "for 64 bits only"
  gcc -shared -fPIC -O1 -o fail-io.so "$lib/fail-io.c" -ldl
  FAIL_IO=$PWD/fail
  export FAIL_IO
}

# start_failing ARGS...: a server that fails what the file "fail" says.
start_failing () {
  VDKIT_PRELOAD="${VDKIT_PRELOAD:+$VDKIT_PRELOAD }$PWD/fail-io.so" \
    start_nbdkit "$@"
}

client='
import os
def fail_next(what):
    with open("fail.new", "w") as f:
        f.write(what)
    os.rename("fail.new", "fail")
def fails(call, *errors):
    try:
        call()
    except nbd.Error as e:
        assert e.errno in errors, e
    else:
        raise SystemExit("did not fail")
'

@test "a sync that fails once: EIO from then on, until the next start" {
  make_vdi disk.vdi 16M
  start_failing vdi disk.vdi
  python_client "$uri" "$client" '
h.pwrite(b"flushed" * 1000, 0)
h.pwrite(b"flushed" * 1000, 3 << 20)
h.flush()
h.pwrite(b"not" * 1000, 5 << 20)
fail_next("sync")
fails(h.flush, "EIO")
assert not os.path.exists("fail")
# The kernel would say that all is well now.
fails(h.flush, "EIO")
fails(lambda: h.pwrite(b"x", 0), "EIO")
fails(lambda: h.pwrite(b"x", 9 << 20), "EIO")
fails(lambda: h.pwrite(b"x", 0, nbd.CMD_FLAG_FUA), "EIO")
fails(lambda: h.zero(512, 0), "EIO")
# Reading goes on, with what was written.
assert h.pread(7000, 0) == b"flushed" * 1000
assert h.pread(3000, 5 << 20) == b"not" * 1000
'
  # A new connection does not help.
  python_client "$uri" "$client" 'fails(h.flush, "EIO")'
  stop_nbdkit
  assert_match "$(cat "$server_log")" 'error: .*disk\.vdi'

  start_nbdkit vdi disk.vdi write=require
  python_client "$uri" '
assert h.pread(7000, 0) == b"flushed" * 1000
assert h.pread(7000, 3 << 20) == b"flushed" * 1000
assert h.pread(3000, 5 << 20) in (b"not" * 1000, bytes(3000))
h.pwrite(b"again" * 100, 5 << 20)
h.flush()
'
  stop_nbdkit
  qemu-img check -f vdi disk.vdi
}

@test "a FUA write whose sync fails" {
  make_vdi disk.vdi 16M
  start_failing vdi disk.vdi
  python_client "$uri" "$client" '
h.pwrite(b"a" * 4096, 0)
h.flush()
fail_next("dsync")
fails(lambda: h.pwrite(b"b" * 4096, 0, nbd.CMD_FLAG_FUA), "EIO")
assert not os.path.exists("fail")
assert h.pread(4096, 0) in (b"a" * 4096, b"b" * 4096)
'
}

# each_call KIND: the n-th call of that kind fails, for each n that there is.
each_call () {
  local kind=$1 n
  make_vdi empty.vdi 16M
  for ((n = 1; n < 200; n++)); do
    cp empty.vdi disk.vdi
    start_failing vdi disk.vdi
    python_client "$uri" "$client" "
kind, n = '$kind', $n
"'
fail_next("%s %d" % (kind, n))
old = {}
maybe = {}
def attempt(offset, data, zero=False):
    try:
        if zero:
            h.zero(len(data), offset)
        else:
            h.pwrite(data, offset)
    except nbd.Error as e:
        assert e.errno in ("EIO", "ENOSPC"), e
        maybe.setdefault(offset, []).append(data)
        return
    now[offset] = data
now = {}
flushed = {}
for round in range(3):
    for i in range(6):
        attempt((i * (round + 1) % 16) << 20, bytes([65 + i + round]) * 30000)
    attempt((round * 5 + 1) << 20, bytes(30000), True)
    try:
        h.flush()
        flushed = dict(now)
    except nbd.Error as e:
        assert e.errno == "EIO", e
        break
done = not os.path.exists("fail")
import pickle
pickle.dump((flushed, now, maybe, done), open("state", "wb"))
'
    # In order, and every other time not.
    if ((n % 2)); then
      stop_nbdkit
    else
      kill -KILL "$server_pid"
      wait "$server_pid" 2>/dev/null || true
      # shellcheck disable=SC2034
      server_pids=()
    fi
    rm -f fail
    start_nbdkit vdi disk.vdi write=require
    python_client "$uri" '
import pickle
flushed, now, maybe, done = pickle.load(open("state", "rb"))
for i in range(16):
    got = h.pread(30000, i << 20)
    offset = i << 20
    fits = [flushed.get(offset, bytes(30000)), now.get(offset), *maybe.get(offset, [])]
    assert got in fits, (i, got[:10], [f and f[:10] for f in fits])
h.pwrite(b"on" * 100, 15 << 20)
h.flush()
' || { echo "$kind $n"; return 1; }
    stop_nbdkit
    qemu-img check -q -f vdi disk.vdi || { echo "$kind $n"; return 1; }
    "$PYTHON" -c 'import pickle; raise SystemExit(
not pickle.load(open("state", "rb"))[3])' || break
  done
  echo "$kind: $n calls"
  [ "$n" -ge 2 ]
}

@test "each write fails, one after the other" { each_call write; }
@test "each growth of the file fails, one after the other" { each_call truncate; }
@test "each sync fails, one after the other" { each_call sync; }
