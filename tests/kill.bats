# SPDX-License-Identifier: BSD-3-Clause
# However the server or a client ends, the image opens and what was flushed is
# there; and what was not, too, if the server ended in order.

load lib/common
load lib/kill

# shellcheck disable=SC2034
format=vdi
make_disk () { make_vdi disk.vdi "$@"; }
check_clean () { qemu-img check -f vdi disk.vdi; }

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

@test "kill -9 under a client that records what it flushed" {
  kill_recorder 0.1 0.3 0.7 0.2 1.1 2.3
}

@test "kill -9 in the middle of nbdcopy" { kill_nbdcopy 0.1 0.5 2.2 3.1; }

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

@test "SIGTERM and SIGINT while an idle client has not flushed: nothing is lost" { signals_idle_client; }

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

@test "a client that is killed within --run" { killed_client_in_run; }

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

@test "two servers at once, without write=require: one writer, nothing lost" { two_servers; }
