#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# A child that is written when the server is killed or the disk runs full, and
# two who want to write in one chain: the parent is never touched.

load lib/common
load lib/diskfull

recorder () { timeout "$LIMIT" "$PYTHON" "$lib/recorder.py" "$@" 3>&-; }

teardown () {
  common_teardown
  ! mountpoint -q "$BATS_TEST_TMPDIR/full" || umount "$BATS_TEST_TMPDIR/full"
}

# base FORMAT SIZE: base.img with data all over, and sums.
base () {
  serve "$1" base.img create="$2" size="$3" -- '$NBDSH -u "$uri" -c "
import random
rnd = random.Random(5)
for offset in range(0, h.get_size(), 3 << 19):
    h.pwrite(rnd.randbytes(min(1 << 20, h.get_size() - offset)), offset)
"'
  sha256sum base.img >sums
}

# What must be there at first: state, for recorder.py.
start_state () {
  python_client "$uri" '
import pickle
disk = bytearray()
while len(disk) < h.get_size():
    disk += h.pread(1 << 20, len(disk))
pickle.dump({"flushed": disk, "pending": []}, open("state", "wb"))
'
}

kill_child () {
  local delay round=0 client
  base "$1" "$2" 24M
  for format in vdi vmdk; do
    rm -f child.img
    start_nbdkit --filter=diff "$1" base.img diff=child.img \
      diff-create="$format"
    start_state
    stop_nbdkit
    for delay in 0.2 0.6 1.2; do
      round=$((round + 1))
      start_nbdkit --filter=diff "$1" base.img diff=child.img
      rm -f client.log
      recorder write "$uri" state "$round" >client.log 2>&1 &
      client=$!
      wait_for grep -q connected client.log
      sleep "$delay"
      kill_server
      wait "$client" || { cat client.log; false; }
      echo "$format, round $round, $(tail -n 1 client.log)"
      start_nbdkit --filter=diff "$1" base.img diff=child.img \
        diff-write=require
      recorder check "$uri" state
      stop_nbdkit
      sha256sum --quiet -c sums
    done
    # It is as good a child as before for others.
    serve "$format" child.img parent=base.img -- \
      'nbdcopy "$uri" null:'
  done
}

@test "kill -9 while children of a VDI are written" { kill_child vdi dynamic; }
@test "kill -9 while children of a VMDK are written" { kill_child vmdk sparse; }

full_child () {
  local format=$1
  [ "$(id -u)" -eq 0 ] || skip "mount needs root"
  serve vdi base.img create=dynamic size=32M -- true
  sha256sum base.img >sums
  mkdir full
  mount -t tmpfs -o size=16M tmpfs full || skip "no tmpfs can be mounted"
  head -c 2M /dev/zero | tr '\0' f >full/filler
  start_nbdkit --filter=diff vdi base.img diff=full/child.img \
    diff-create="$format"
  python_client "$uri" "$until_full"
  assert_match "$(cat "$server_log")" 'child\.img: .*make room'
  stop_nbdkit
  serve -r --filter=diff vdi base.img diff=full/child.img -- \
    'nbdcopy "$uri" now.raw'
  cmp now.raw want.raw
  sha256sum -c sums
}

@test "a VDI child on a file system that runs full" { full_child vdi; }
@test "a VMDK child on a file system that runs full" {
  # Its grains are smaller than what $until_full takes for a block: only the
  # parent and what was there before are looked at.
  [ "$(id -u)" -eq 0 ] || skip "mount needs root"
  base vdi dynamic 32M
  mkdir full
  mount -t tmpfs -o size=8M tmpfs full || skip "no tmpfs can be mounted"
  start_nbdkit --filter=diff vdi base.img diff=full/child.vmdk \
    diff-create=vmdk
  python_client "$uri" '
before = h.pread(8 << 20, 24 << 20)
h.pwrite(b"kept" * 1000, 5000)
h.flush()
try:
    for i in range(1, 24):
        h.pwrite(bytes([i]) * (1 << 20), i << 20)
except nbd.Error as e:
    assert e.errno == "ENOSPC", e
else:
    raise SystemExit("there was room for everything")
assert h.pread(4000, 5000) == b"kept" * 1000
assert h.pread(8 << 20, 24 << 20) == before
h.flush()
'
  stop_nbdkit
  serve -r --filter=diff vdi base.img diff=full/child.vmdk -- \
    '$NBDSH -u "$uri" -c "assert h.pread(4000, 5000) == b\"kept\" * 1000"'
  sha256sum -c sums
}

# ---- two writers ----------------------------------------------------------------

refused () {
  run serve "$@" -- '$NBDSH -u "$uri" -c "h.pwrite(b\"x\", 0)"'
  echo "$output"
  [ "$status" -ne 0 ]
  assert_match "$output" 'in another process'
}

@test "who writes a child keeps writers from it and from its parents" {
  base vdi dynamic 8M
  serve --filter=diff vdi base.img diff=one.img diff-create=vdi -- \
    'nbdinfo "$uri"'
  serve --filter=diff vdi base.img diff=one.img diff=two.img \
    diff-create=vmdk -- 'nbdinfo "$uri"'
  sha256sum base.img one.img >sums
  start_nbdkit --filter=diff vdi base.img diff=one.img diff=two.img
  python_client "$uri" 'h.pwrite(b"mine", 0); h.flush()'
  # The lock stays when the client has gone.
  refused --filter=diff vdi base.img diff=one.img diff=two.img
  refused --filter=diff vdi base.img diff=one.img diff=two.img diff-write=require
  refused vdi one.img parent=base.img write=require
  refused vdi base.img write=require
  refused --filter=diff vdi base.img diff=one.img diff-write=require
  # Others may read the parents, and make children of their own.
  serve -r vdi one.img parent=base.img -- 'nbdcopy "$uri" null:'
  serve --filter=diff vdi base.img diff=one.img diff=three.img \
    diff-create=vdi -- '$NBDSH -u "$uri" -c "h.pwrite(b\"theirs\", 0)"'
  assert_equal "$(python_client "$uri" 'print(h.pread(4, 0))')" \
    "bytearray(b'mine')"
  stop_nbdkit
  sha256sum -c sums
}

@test "who writes the parent keeps everyone from the child" {
  base vdi dynamic 8M
  serve --filter=diff vdi base.img diff=one.img diff-create=vdi -- \
    'nbdinfo "$uri"'
  sha256sum one.img >sums
  start_nbdkit vdi base.img write=require
  refused vdi one.img parent=base.img
  refused -r vdi one.img parent=base.img
  # Through the filter the base is opened by the plugin.
  refused --filter=diff vdi base.img diff=one.img
  sha256sum -c sums
}

# ---- nothing below the top is written --------------------------------------------

@test "a chain on a read-only file system, its top elsewhere" {
  [ "$(id -u)" -eq 0 ] || skip "mount needs root"
  mkdir full
  mount -t tmpfs tmpfs full || skip "no tmpfs can be mounted"
  unpack mixed-chain
  cp mixed-chain/*.v* full
  mount -o remount,ro full
  start_nbdkit --filter=diff vdi full/base.vdi diff=full/mid.vmdk \
    diff=full/top.vdi diff=new.vdi diff-create=vdi
  python_client "$uri" '
h.pwrite(b"x" * 100000, 12345)
h.zero(65536, 1 << 20)
h.trim(65536, 2 << 20)
h.flush()
'
  stop_nbdkit
  serve vdi new.vdi parent=full/top.vdi -- \
    '$NBDSH -u "$uri" -c "assert h.pread(100000, 12345) == b\"x\" * 100000"'
  # The top itself is served read-only.
  run serve vdi full/top.vdi -- 'nbdinfo "$uri"'
  [ "$status" -eq 0 ]
  assert_match "$output" 'is_read_only: true'
}
