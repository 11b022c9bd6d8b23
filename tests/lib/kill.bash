# SPDX-License-Identifier: BSD-3-Clause
# What kill.bats does for each format.  The file that loads this defines
# format               the plugin; the image is disk.$format
# make_disk SIZE       makes it
# check_after_kill     by another program: flushed tables are in order
# check_clean          the same after a session that ended in order
# shellcheck shell=bash disable=SC2154

recorder () { timeout "$LIMIT" "$PYTHON" "$lib/recorder.py" "$@" 3>&-; }

# A session that ends in order puts right what a kill left.  Zeroes where there
# is nothing would not be stored, and begin none.
check_after_session () {
  serve "$format" "disk.$format" -- \
    '$NBDSH -u "$uri" -c "
was = h.pread(512, 0)
h.pwrite(b\"x\" * 512, 0)
h.pwrite(was, 0)"'
  check_clean
}

# kill_recorder SECONDS...: after which the server is killed, in each round.
kill_recorder () {
  local delay round=0 client
  make_disk 48M
  for delay; do
    round=$((round + 1))
    start_nbdkit "$format" "disk.$format"
    rm -f client.log
    recorder write "$uri" state "$round" >client.log 2>&1 &
    client=$!
    wait_for grep -q connected client.log
    sleep "$delay"
    kill_server
    wait "$client" || { cat client.log; false; }
    echo "round $round, $(tail -n 1 client.log)"
    check_after_kill
    start_nbdkit "$format" "disk.$format" write=require
    recorder check "$uri" state
    stop_nbdkit
  done
  check_after_session
  start_nbdkit -r "$format" "disk.$format"
  recorder check "$uri" state
}

# kill_nbdcopy SECONDS...
kill_nbdcopy () {
  local delay client
  random_file disk.raw 50000000
  truncate -s 50000384 disk.raw
  for delay; do
    rm -f disk*."$format"
    make_disk 50000384
    # Slow enough that it is in the middle, also after the first blocks have
    # gone to the map by themselves, which they do when 2 seconds old.
    start_nbdkit --filter=rate "$format" "disk.$format" rate=100M
    nbdcopy --flush disk.raw "$uri" >client.log 2>&1 3>&- &
    client=$!
    sleep "$delay"
    kill_server
    wait "$client" || true
    check_after_kill
    start_nbdkit "$format" "disk.$format" write=require
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
    check_clean
    assert_equal "$(hash_served "$format" "disk.$format")" \
      "$(hash_file disk.raw)"
  done
}

# idle_client CODE: writes, does not flush, and stays connected.  Sets client.
idle_client () {
  # Or what another client wrote there could be taken for this one's.
  rm -f idle.log
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

signals_idle_client () {
  local signal
  for signal in TERM INT; do
    rm -f disk*."$format"
    make_disk 32M
    start_nbdkit "$format" "disk.$format"
    idle_client "$unflushed"
    kill -s "$signal" "$server_pid"
    # nbdkit 1.32 waits for its clients to leave.
    sleep 0.3
    kill -KILL "$client"
    wait_for server_is_gone
    check_clean
    assert_equal "$(hash_served "$format" "disk.$format")" \
      "$(hash_file want.raw)" "$signal"
  done
}

killed_client_in_run () {
  local i
  for i in 1 2 3 4 5; do
    rm -f disk*."$format"
    make_disk 32M
    # python_client is not known there: the shell that nbdkit starts is killed.
    printf '%s' "$unflushed" >client.py
    run serve "$format" "disk.$format" -- \
      '$NBDSH -u "$uri" -c "exec(open(\"client.py\").read())" -c "
import os, signal
os.kill(os.getpid(), signal.SIGKILL)"'
    [ "$status" -ne 0 ]
    check_clean
    assert_equal "$(hash_served "$format" "disk.$format")" \
      "$(hash_file want.raw)" "round $i"
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

# Each may also see that the other is about to write: then both are refused.
answered () { [ -s "$1" ]; }

# Two servers of one image, whose clients come at the same time: never two
# writers; and when one server has left, the other's next client can write.
two_servers () {
  local i first second uri1 uri2 pid1 pid2 written
  for i in 1 2 3 4 5; do
    rm -f disk*."$format" go a.log b.log
    make_disk 8M
    start_nbdkit "$format" "disk.$format"
    uri1=$uri pid1=$server_pid
    start_nbdkit "$format" "disk.$format"
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
    check_clean
    start_nbdkit -r "$format" "disk.$format"
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
