# SPDX-License-Identifier: BSD-3-Clause
# Streams (streamOptimized) that clients fill, and how they leave.

load lib/common

# left CODE: what a Python client does with a new stream of 8 MiB; sets output
# to the messages of the server, and leaves disk.vmdk, copy.raw.
left () {
  start_nbdkit vmdk disk.vmdk create=stream size=8M
  python_client "$uri" "$1" || true
  # The next connection finds it complete.
  wait_for sh -c "nbdinfo '$uri' | grep 'is_read_only: true'"
  stop_nbdkit
  output=$(cat "$server_log")
  serve -r vmdk disk.vmdk -- 'nbdcopy "$uri" copy.raw'
}

killed='
import os, signal
h.pwrite(b"d" * (3 << 20), 0)
os.kill(os.getpid(), signal.SIGKILL)
'

@test "a client that is killed in the middle: complete in form, and a warning" {
  left "$killed"
  assert_match "$output" \
    'warning: .*disk\.vmdk: .*without a flush.* first 3145728 of 8388608 bytes'
  { head -c 3M /dev/zero | tr '\0' d; head -c 5M /dev/zero; } >want.raw
  cmp copy.raw want.raw
  qemu-img compare -f raw -F vmdk want.raw disk.vmdk
}

@test "a client that leaves in order in the middle, after a flush: no warning" {
  left 'h.pwrite(b"d" * (3 << 20), 0)
h.flush()
h.shutdown()'
  [[ $output != *warning* ]]
  left_one=$(hash_file copy.raw)
  rm disk.vmdk
  # A flush before the last write is none.
  left 'h.pwrite(b"d" * (2 << 20), 0)
h.flush()
h.pwrite(b"d" * (1 << 20), 2 << 20)
h.shutdown()'
  assert_match "$output" 'warning: .*without a flush'
  assert_equal "$(hash_file copy.raw)" "$left_one"
}

@test "a client that has written all of the disk: no warning" {
  local end
  for end in 'os._exit(1)' 'h.shutdown()'; do
    rm -f disk.vmdk
    left "import os
h.pwrite(b'd' * (5 << 20), 0)
h.zero (3 << 20, 5 << 20)
$end"
    [[ $output != *warning* ]]
  done
}

@test "a flush in the middle returns, one at the end completes the image" {
  start_nbdkit vmdk disk.vmdk create=stream size=8M
  python_client "$uri" '
h.pwrite(b"d" * (3 << 20), 0)
h.flush()
open("middle", "wb").write(open("disk.vmdk", "rb").read())
h.pwrite(b"d" * (5 << 20), 3 << 20)
h.flush()
open("end", "wb").write(open("disk.vmdk", "rb").read())
'
  run qemu-img check -f vmdk middle
  [ "$status" -ne 0 ]
  qemu-img check -f vmdk end
  qemu-img convert -f vmdk -O raw end end.raw
  assert_equal "$(tr -d d <end.raw | wc -c)" 0
}

@test "a disk that begins with a hole is complete after the flush" {
  start_nbdkit vmdk disk.vmdk create=stream size=8M
  python_client "$uri" '
h.zero(1 << 20, 2 << 20)
h.zero(1 << 20, 0)
h.flush()
h.zero(1 << 20, 1 << 20)
open("zeroes", "wb").write(open("disk.vmdk", "rb").read())
h.pwrite(b"d" * (5 << 20), 3 << 20)
h.flush()
import os, signal
os.kill('"$server_pid"', signal.SIGKILL)'
  run qemu-img check -f vmdk zeroes
  [ "$status" -ne 0 ]
  qemu-img check -f vmdk disk.vmdk
  serve -r vmdk disk.vmdk -- 'nbdcopy "$uri" copy.raw'
  { head -c 3M /dev/zero; head -c 5M /dev/zero | tr '\0' d; } >want.raw
  cmp copy.raw want.raw
}

@test "a client that zeroes the disk first: complete when its end was written" {
  start_nbdkit vmdk disk.vmdk create=stream size=8M
  python_client "$uri" '
h.zero(4 << 20, 4 << 20)
h.zero(4 << 20, 0)
h.flush()
h.pwrite(b"d" * (3 << 20), 1 << 20)
h.flush()
open("middle", "wb").write(open("disk.vmdk", "rb").read())
h.pwrite(b"d" * (1 << 20), 7 << 20)
h.flush()
import os, signal
os.kill('"$server_pid"', signal.SIGKILL)'
  run qemu-img check -f vmdk middle
  [ "$status" -ne 0 ]
  serve -r vmdk disk.vmdk -- 'nbdcopy "$uri" copy.raw'
  {
    head -c 1M /dev/zero
    head -c 3M /dev/zero | tr '\0' d
    head -c 3M /dev/zero
    head -c 1M /dev/zero | tr '\0' d
  } >want.raw
  cmp copy.raw want.raw
}

@test "nbdcopy --flush of a disk with holes, and the server is killed then" {
  truncate -s 8M disk.raw
  printf data | dd of=disk.raw bs=1M seek=2 conv=notrunc status=none
  printf data | dd of=disk.raw bs=1M seek=5 conv=notrunc status=none
  start_nbdkit vmdk disk.vmdk create=stream size=8M
  # A second client that stays keeps the first one's end from completing it.
  python_client "$uri" '
import os, signal, subprocess
subprocess.run(["nbdcopy", "--flush", "disk.raw", "'"$uri"'"], check=True)
os.kill('"$server_pid"', signal.SIGKILL)'
  serve -r vmdk disk.vmdk -- 'nbdcopy "$uri" copy.raw'
  cmp copy.raw disk.raw
}

@test "a client that leaves gaps: the warning says where the first one is" {
  left 'import os, signal
h.pwrite(b"d" * (1 << 20), 0)
h.pwrite(b"d" * (1 << 20), 7 << 20)
os.kill(os.getpid(), signal.SIGKILL)'
  assert_match "$output" \
    'warning: .*without a flush.* first 1048576 of 8388608 bytes'
}

@test "the server is killed in the middle: refused by all" {
  start_nbdkit vmdk disk.vmdk create=stream size=8M
  python_client "$uri" 'h.pwrite(b"d" * (3 << 20), 0)
h.flush()
import os, signal
os.kill('"$server_pid"', signal.SIGKILL)'
  run serve -r vmdk disk.vmdk -- true
  echo "$output"
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vmdk: .*(incomplete|cut off|no footer)'
  run qemu-img info -f vmdk disk.vmdk
  [ "$status" -ne 0 ]
}
