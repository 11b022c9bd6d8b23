# SPDX-License-Identifier: BSD-3-Clause
# The target goes away, hangs, comes back, or has a bad disk: nothing is lost,
# nothing hangs, and what cannot be done is an error in time.

load lib/common
load lib/iscsi

@test "the target is killed while it is read, and comes back" {
  random_file disk 134217728
  serve_file disk
  start_nbdkit --filter=rate iscsi "$url" rate=400M burstiness=0.1
  nbdcopy "$uri" copy 3>&- &
  local client=$!
  sleep 0.7
  kill_tgtd
  sleep 1
  kill -0 "$client"
  again
  wait "$client"
  cmp disk copy
}

@test "the target is killed while it is written, and comes back" {
  random_file new 134217728
  truncate -s 134217728 disk
  serve_file disk
  start_nbdkit --filter=rate iscsi "$url" rate=400M burstiness=0.1
  nbdcopy --flush new "$uri" 3>&- &
  local client=$!
  sleep 0.7
  kill_tgtd
  sleep 1
  kill -0 "$client"
  again
  wait "$client"
  cmp disk new
}

@test "fio verifies across two restarts of the target" {
  have fio || skip "no fio"
  truncate -s 32M disk
  serve_file disk
  start_nbdkit iscsi "$url"
  timeout 60 fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bs=4k \
    --iodepth=16 --size=32M --io_size=400M --time_based --runtime=5 \
    --verify=crc32c --verify_fatal=1 --verify_backlog=64 \
    >fio.out 2>&1 3>&- &
  local client=$!
  for _ in 1 2; do
    sleep 1
    kill_tgtd
    sleep 0.5
    again
  done
  wait "$client" || { cat fio.out; false; }
}

@test "the target stays away: EIO in time, and life goes on when it is back" {
  random_file disk 1048576
  serve_file disk
  start_nbdkit iscsi "$url" timeout=2
  cat >client.py <<'END'
import os, time
data = open('disk', 'rb').read()
assert h.pread(4096, 0) == data[:4096]
open('connected', 'w').close()
while not os.path.exists('killed'):
    time.sleep(0.05)
start = time.monotonic()
try:
    h.pread(4096, 4096)
    raise SystemExit('read from a dead target')
except nbd.Error as e:
    assert e.errno == 'EIO', e.errno
took = time.monotonic() - start
assert 1.5 < took < 5, took
open('failed', 'w').close()
while not os.path.exists('back'):
    time.sleep(0.05)
for n in range(30):
    try:
        assert h.pread(4096, 8192) == data[8192:12288]
        break
    except nbd.Error:
        pass
else:
    raise SystemExit('no way back')
END
  python_client "$uri" client.py 3>&- &
  local client=$!
  wait_for test -e connected
  kill_tgtd
  touch killed
  wait_for test -e failed
  assert_match "$(cat "$server_log")" 'no answer from the target within 2000 ms.*refused'
  again
  touch back
  wait "$client"
}

@test "the target hangs: EIO after the timeout, data after it goes on" {
  random_file disk 1048576
  serve_file disk
  start_nbdkit iscsi "$url" timeout=2
  python_client "$uri" -c "import os, signal, time
pid = $tgtd_pid
h.pread(512, 0)
os.kill(pid, signal.SIGSTOP)
for op in (lambda: h.pread(512, 0), lambda: h.pwrite(b'x' * 512, 0), h.flush):
    start = time.monotonic()
    try:
        op()
        raise SystemExit('done by a stopped target')
    except nbd.Error as e:
        assert e.errno == 'EIO', e.errno
    assert time.monotonic() - start < 5
os.kill(pid, signal.SIGCONT)
for n in range(5):
    try:
        h.pread(512, 4096)
        break
    except nbd.Error:
        pass
else:
    raise SystemExit('no way back')
h.pwrite(b'y' * 512, 512)
h.flush()"
  assert_equal "$(dd if=disk bs=512 skip=1 count=1 status=none | tr -d '\n' | tr -s y)" y
}

@test "a short hang is a pause" {
  random_file disk 1048576
  serve_file disk
  start_nbdkit iscsi "$url" timeout=8
  kill -STOP "$tgtd_pid"
  (sleep 5; kill -CONT "$tgtd_pid") 3>&- &
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
}

@test "a server that waits for a hanging target stops when told to" {
  truncate -s 1M disk
  serve_file disk
  start_nbdkit iscsi "$url" timeout=5
  nbdinfo "$uri" >/dev/null
  kill -STOP "$tgtd_pid"
  python_client "$uri" -c 'h.pread(512, 0)' >/dev/null 2>&1 3>&- &
  sleep 0.5
  stop_nbdkit
}

@test "an administrator closes the connection: nobody notices" {
  random_file disk 1048576
  serve_file disk
  start_nbdkit iscsi "$url"
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
  local sid
  sid=$(admin --op show --mode conn --tid 1 |
        sed -n 's/^Session: \([0-9]*\)/\1/p' | head -1)
  admin --op delete --mode conn --tid 1 --sid "$sid" --cid 0
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
}

@test "a bad place fails alone" {
  random_file disk 4194304
  serve_file disk
  start_nbdkit iscsi "$url"
  nbdinfo "$uri" >/dev/null
  cp disk whole
  truncate -s 2M disk
  python_client "$uri" -c "data = open('whole', 'rb').read()
assert h.pread(1 << 20, 1 << 20) == data[1 << 20:2 << 20]
try:
    h.pread(4096, 3 << 20)
    raise SystemExit('read what is not there')
except nbd.Error as e:
    assert e.errno == 'EIO', e.errno
assert h.pread(4096, 0) == data[:4096]"
  assert_match "$(cat "$server_log")" 'medium error: unrecovered read error \(sense 3/11/00\)'
  cp whole disk
  assert_equal "$(hash_of "$uri")" "$(hash_file whole)"
}

@test "write protection comes and goes" {
  random_file disk 1048576
  serve_file disk
  start_nbdkit iscsi "$url"
  python_client "$uri" -c "import subprocess
def protect(n):
    subprocess.check_call(['tgtadm', '-C', '$port', '--lld', 'iscsi', '--op',
      'update', '--mode', 'logicalunit', '--tid', '1', '--lun', '1',
      '--params', 'readonly=%d' % n])
h.pwrite(b'1' * 512, 0)
protect(1)
for op in (lambda: h.pwrite(b'2' * 512, 0), lambda: h.zero(512, 0)):
    try:
        op()
        raise SystemExit('wrote to a protected LUN')
    except nbd.Error as e:
        assert e.errno == 'EPERM', e.errno
assert h.pread(512, 0) == b'1' * 512
h.flush()
protect(0)
h.pwrite(b'3' * 512, 0)
assert h.pread(512, 0) == b'3' * 512"
}

@test "the LUN is removed, and comes back bigger" {
  truncate -s 1M disk
  serve_file disk
  start_nbdkit iscsi "$url" timeout=2
  nbdinfo "$uri" >/dev/null
  admin --op delete --mode logicalunit --tid 1 --lun 1
  run python_client "$uri" -c 'h.pread(512, 0)'
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" 'no such LUN'
  truncate -s 2M disk
  add_lun 1 disk
  assert_equal "$(nbdinfo --size "$uri")" 2097152
}

@test "another initiator reserves the LUN: EPERM, until it gives it back" {
  random_file disk 1048576
  serve_file disk
  gcc -o reserve "$lib/iscsi-reserve.c" -liscsi
  start_nbdkit iscsi "$url" timeout=4
  python_client "$uri" -c "import subprocess
h.pwrite(b'1' * 512, 0)
other = subprocess.Popen(['./reserve', '$url'], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
assert other.stdout.readline() == b'reserved\\n'
try:
    h.pwrite(b'2' * 512, 0)
    raise SystemExit('wrote to a reserved LUN')
except nbd.Error as e:
    assert e.errno == 'EPERM', e.errno
assert h.pread(512, 0) == b'1' * 512
other.communicate()
assert other.returncode == 0
h.pwrite(b'3' * 512, 0)
h.flush()"
  assert_match "$(cat "$server_log")" 'reserv'
}
