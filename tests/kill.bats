# SPDX-License-Identifier: BSD-3-Clause
# However the server or a client ends, the image opens and what was flushed is
# there; and what was not, too, if the server ended in order.

load lib/common

recorder () { timeout "$LIMIT" "$PYTHON" "$lib/recorder.py" "$@" 3>&-; }

# kill_server: as the kernel does when memory is short.
kill_server () {
  local pid rest=()
  kill -KILL "$server_pid"
  wait "$server_pid" 2>/dev/null || true
  for pid in "${server_pids[@]}"; do
    [ "$pid" = "$server_pid" ] || rest+=("$pid")
  done
  server_pids=("${rest[@]}")
}

# After a kill the count of blocks in the header may be too high (never too
# low), which qemu-img calls an error; everything else must be in order.
check_after_kill () {
  local lines is should
  run qemu-img check -f vdi disk.vdi
  lines=$(grep -E '^(ERROR|Leaked|WARNING)' <<<"$output" |
            grep -v 'allocated blocks mismatch' || true)
  [ -z "$lines" ] || { echo "$output"; return 1; }
  if [ "$status" -ne 0 ]; then
    is=$(sed -n 's/.*blocks mismatch, is \([0-9]*\),.*/\1/p' <<<"$output")
    should=$(sed -n 's/.*should be \([0-9]*\).*/\1/p' <<<"$output")
    # "is": what qemu counted, "should be": what the header says.
    echo "header $should, used $is"
    [ "$should" -ge "$is" ]
  fi
}

# A session that ends in order puts the count right.
check_after_session () {
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(h.pread(512, 0), 0)"'
  qemu-img check -f vdi disk.vdi
}

@test "kill -9 under a client that records what it flushed" {
  local delay round=0 client
  make_vdi disk.vdi 48M
  for delay in 0.1 0.3 0.7 0.2 1.1 2.3; do
    round=$((round + 1))
    start_nbdkit vdi disk.vdi
    recorder write "$uri" state "$round" >client.log 2>&1 &
    client=$!
    wait_for grep -q connected client.log
    sleep "$delay"
    kill_server
    wait "$client" || { cat client.log; false; }
    echo "round $round, $(tail -n 1 client.log)"
    check_after_kill
    start_nbdkit vdi disk.vdi write=require
    recorder check "$uri" state
    stop_nbdkit
  done
  check_after_session
  start_nbdkit -r vdi disk.vdi
  recorder check "$uri" state
}

@test "kill -9 in the middle of nbdcopy" {
  local delay client
  random_file disk.raw 50000000
  truncate -s 50000384 disk.raw
  for delay in 0.1 0.5 2.2 3.1; do
    rm -f disk.vdi
    make_vdi disk.vdi 50000384
    # Slow enough that it is in the middle, also after the first blocks have
    # gone to the map by themselves, which they do when 2 seconds old.
    start_nbdkit --filter=rate vdi disk.vdi rate=100M
    nbdcopy --flush disk.raw "$uri" >client.log 2>&1 3>&- &
    client=$!
    sleep "$delay"
    kill_server
    wait "$client" || true
    check_after_kill
    start_nbdkit vdi disk.vdi write=require
    python_client "$uri" '
want = open("disk.raw", "rb")
there = size = h.get_size()
for offset in range(0, size, 1 << 20):
    n = min(1 << 20, size - offset)
    got, data = h.pread(n, offset), want.read(n)
    if got == data:
        continue
    for i in range(0, n, 512):
        if got[i:i + 512] != data[i:i + 512]:
            assert not any(got[i:i + 512]), offset + i
            there -= 512
print("%d of %d bytes are there" % (there, size))
'
    # The copy can be made again into the same image.
    nbdcopy --flush disk.raw "$uri"
    stop_nbdkit
    qemu-img check -f vdi disk.vdi
    assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
  done
}

something_in_the_map () {
  "$PYTHON" "$top_srcdir/tests/data/imgfacts.py" disk.vdi |
    jq -e '.allocated_count > 0'
}

@test "kill -9 in the middle of fio" {
  local delay client
  have fio || skip "no fio"
  fio --enghelp=nbd >/dev/null 2>&1 || skip "fio without nbd"
  make_vdi disk.vdi 64M
  for delay in 0.3 0.6 1; do
    start_nbdkit vdi disk.vdi
    # Each block holds its own offset, again and again.
    fio --name=kill --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k \
      --size=64M --iodepth=16 --time_based --runtime=60 --fsync=64 \
      --verify=pattern --verify_pattern=%o --do_verify=0 \
      --randseed="${delay#*.}" >fio.log 2>&1 3>&- &
    client=$!
    wait_for something_in_the_map
    sleep "$delay"
    kill_server
    # fio waits for ever for the answers of a server that has gone.
    kill -KILL "$client" 2>/dev/null || true
    wait "$client" 2>/dev/null || true
    check_after_kill
    start_nbdkit vdi disk.vdi write=require
    python_client "$uri" '
import struct
written = 0
for start in range(0, h.get_size(), 1 << 20):
    data = h.pread(1 << 20, start)
    for i in range(0, 1 << 20, 4096):
        block = data[i:i + 4096]
        if any(block) or start + i == 0:
            assert block == struct.pack("<Q", start + i) * 512, \
                (start + i, block[:64])
            written += 1
print("%d blocks were written" % written)
assert written > 1
'
    stop_nbdkit
  done
  check_after_session
}

# idle_client CODE: writes, does not flush, and stays connected.  Sets client.
idle_client () {
  python_client "$uri" "$1" '
import os, time
print("idle", os.getpid(), flush=True)
time.sleep(100)
' >idle.log 2>&1 &
  wait_for grep -q idle idle.log
  client=$(sed -n 's/^idle //p' idle.log)
}

server_is_gone () { ! kill -0 "$server_pid" 2>/dev/null; }

unflushed='
import random
rnd = random.Random(3)
want = bytearray(h.get_size())
for i in range(40):
    n = rnd.choice((512, 5000, 100000, 1 << 20))
    offset = rnd.randrange(len(want) - n)
    want[offset:offset + n] = rnd.randbytes(n)
    h.pwrite(want[offset:offset + n], offset)
h.zero(100000, 3 << 20)
want[3 << 20:(3 << 20) + 100000] = bytes(100000)
open("want.raw", "wb").write(want)
'

@test "SIGTERM and SIGINT while an idle client has not flushed: nothing is lost" {
  local signal
  for signal in TERM INT; do
    rm -f disk.vdi
    make_vdi disk.vdi 32M
    start_nbdkit vdi disk.vdi
    idle_client "$unflushed"
    kill -s "$signal" "$server_pid"
    # nbdkit 1.32 waits for its clients to leave.
    sleep 0.3
    kill -KILL "$client"
    wait_for server_is_gone
    qemu-img check -f vdi disk.vdi
    assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file want.raw)" "$signal"
  done
}

# nbdkit, told to stop, waits for clients; who then loses patience kills it.
# Blocks go to the map by themselves meanwhile.
@test "an idle client that has not flushed, and kill -9 some seconds later" {
  make_vdi disk.vdi 32M
  start_nbdkit vdi disk.vdi
  idle_client "$unflushed"
  kill "$server_pid"
  map_is_complete () {
    "$PYTHON" -c '
import struct
want = open("want.raw", "rb").read()
f = open("disk.vdi", "rb")
f.seek(1 << 20)
entries = struct.unpack("<32I", f.read(128))
for i in range(32):
    if any(want[i << 20:(i + 1) << 20]):
        assert entries[i] < 0xfffffffe, i
'
  }
  wait_for map_is_complete
  kill_server
  kill -KILL "$client"
  check_after_kill
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file want.raw)"
  check_after_session
}

@test "a client that is killed within --run" {
  local i
  for i in 1 2 3 4 5; do
    rm -f disk.vdi
    make_vdi disk.vdi 32M
    # python_client is not known there: the shell that nbdkit starts is killed.
    printf '%s' "$unflushed" >client.py
    run serve vdi disk.vdi -- \
      '$NBDSH -u "$uri" -c "exec(open(\"client.py\").read())" -c "
import os, signal
os.kill(os.getpid(), signal.SIGKILL)"'
    [ "$status" -ne 0 ]
    qemu-img check -f vdi disk.vdi
    assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file want.raw)" "round $i"
  done
}

@test "the shell of --run is killed with its client connected" {
  make_vdi disk.vdi 32M
  printf '%s' "$unflushed" >client.py
  run serve vdi disk.vdi -- '
    $NBDSH -u "$uri" -c "exec(open(\"client.py\").read())" \
      -c "open(\"done\", \"w\").close(); import time; time.sleep(5)" \
      </dev/null >/dev/null 2>&1 &
    while [ ! -e done ]; do sleep 0.05; done
    kill -9 $$'
  [ "$status" -ne 0 ]
  qemu-img check -f vdi disk.vdi
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file want.raw)"
}

@test "--run, 20 times a client that leaves without flush and without goodbye" {
  local i
  for i in {1..20}; do
    rm -f disk.vdi
    serve vdi disk.vdi create=dynamic size=8M -- '$NBDSH -u "$uri" -c "
for i in range(8):
    h.pwrite(bytes([i + 1]) * 70000, (i * 3 % 8) << 20)
import os
os._exit(0)"'
    qemu-img check -q -f vdi disk.vdi || { echo "round $i"; false; }
    serve -r vdi disk.vdi -- '$NBDSH -u "$uri" -c "
for i in range(8):
    assert h.pread(70001, (i * 3 % 8) << 20) == \
        bytes([i + 1]) * 70000 + bytes(1), i"' || { echo "round $i"; false; }
  done
}

# writes_if_it_can URI OFFSET LOG: a client that stays until "go" exists.
writes_if_it_can () {
  python_client "$1" "
import os, time
if h.is_read_only():
    print('read-only', flush=True)
else:
    h.pwrite(b'$2' * 2500, $2)
    h.flush()
    print('wrote', flush=True)
while not os.path.exists('go'):
    time.sleep(0.05)
" >"$3" 2>&1
}

answered () { grep -Eq 'read-only|wrote|rror' "$1"; }

# Two servers of one image, whose clients come at the same time: never two
# writers; and when one server has left, the other's next client can write.
@test "two servers at once, without write=require: one writer, nothing lost" {
  local i first second uri1 uri2 pid1 pid2 written
  for i in 1 2 3 4 5; do
    rm -f disk.vdi go a.log b.log
    make_vdi disk.vdi 8M
    start_nbdkit vdi disk.vdi
    uri1=$uri pid1=$server_pid
    start_nbdkit vdi disk.vdi
    uri2=$uri pid2=$server_pid
    writes_if_it_can "$uri1" 1000000 a.log &
    first=$!
    writes_if_it_can "$uri2" 3000000 b.log &
    second=$!
    wait_for answered a.log
    wait_for answered b.log
    touch go
    wait "$first" || true
    wait "$second" || true
    cat a.log b.log
    written=$(cat a.log b.log | grep -c wrote || true)
    [ "$written" -le 1 ]
    # The one that may have written stays, the other leaves.
    if grep -q wrote b.log; then
      uri1=$uri2
      stop_nbdkit "$pid1"
    else
      stop_nbdkit "$pid2"
      pid2=$pid1
    fi
    writes_if_it_can "$uri1" 5000000 c.log
    cat c.log
    grep -q wrote c.log
    stop_nbdkit "$pid2"
    qemu-img check -f vdi disk.vdi
    start_nbdkit -r vdi disk.vdi
    python_client "$uri" "
assert h.pread(17500, 5000000) == b'5000000' * 2500
for log, at in (('a.log', 1000000), ('b.log', 3000000)):
    wrote = 'wrote' in open(log).read()
    want = str(at).encode() * 2500 if wrote else bytes(17500)
    assert h.pread(17500, at) == want, log
"
    stop_nbdkit
  done
}
