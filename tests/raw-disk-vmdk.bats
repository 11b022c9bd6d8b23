# SPDX-License-Identifier: BSD-3-Clause
# Disks and partitions of the host (fullDevice, partitionedDevice), with real
# block devices: what may be written is written there and nowhere else.

load lib/common
load lib/raw-disk

teardown () {
  common_teardown
  ! mountpoint -q "$BATS_TEST_TMPDIR/mounted" ||
    umount "$BATS_TEST_TMPDIR/mounted"
  release_devices
}

# disk_of_host: host.raw, which is behind $device.  16 MiB, no sector like
# another.
disk_of_host () {
  numbered_disk host.raw 32768
  cp host.raw before.raw
  loop host.raw "$@"
}

# describe TYPE LINE...: disk.vmdk.
describe () {
  local type=$1
  shift
  printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 \
    parentCID=ffffffff "createType=\"$type\"" '# Extent description' "$@" \
    '# The Disk Data Base' '#DDB' 'ddb.adapterType="ide"' >disk.vmdk
}

# As VirtualBox makes it for partitions 1 (read and write) and 3 (read only):
# the tables are a copy beside the descriptor.
partitions () {
  head -c 1M host.raw | tr '#' 't' >disk-pt.vmdk
  cp disk-pt.vmdk pt.before
  describe partitionedDevice 'RW 2048 FLAT "disk-pt.vmdk" 0' \
    "${1:-RW} 8192 FLAT \"${4:-$device}\" 2048" 'RW 2048 ZERO ' \
    'RW 4096 ZERO ' "${2:-RDONLY} 8192 FLAT \"${3:-$device}\" 16384" \
    'RW 8192 ZERO '
}

# parts: what a client sees of it.
parts () {
  cat pt.before
  tail -c +$((2048 * 512 + 1)) before.raw | head -c 4M
  head -c 3M /dev/zero
  tail -c +$((16384 * 512 + 1)) before.raw | head -c 4M
  head -c 4M /dev/zero
}

@test "a whole disk is read and written" {
  disk_of_host
  describe fullDevice "RW 32768 FLAT \"$device\" 0"
  assert_equal "$(hash_served vmdk disk.vmdk raw-disk="$device")" \
    "$(hash_file host.raw)"
  random_file part 3000000
  serve vmdk disk.vmdk raw-disk="$device" -- '$NBDSH -u "$uri" -c "
data = open(\"part\", \"rb\").read()
h.pwrite(data, 1000001)
h.pwrite(b\"W\" * 512, h.get_size() - 512, nbd.CMD_FLAG_FUA)
h.zero(1 << 20, 5 << 20)
h.trim(1 << 20, 7 << 20)
h.flush()
want = open(\"before.raw\", \"r+b\")
want.seek(1000001); want.write(data)
want.seek(-512, 2); want.write(b\"W\" * 512)
want.seek(5 << 20); want.write(bytes(1 << 20))
want.seek(7 << 20)
got = h.pread(1 << 20, 7 << 20)
assert got in (bytes(1 << 20), want.read(1 << 20))
want.seek(7 << 20); want.write(got)
want.close()
"'
  sync host.raw
  cmp host.raw before.raw
  # The descriptor tells that the disk has changed.
  grep -q '^CID=' disk.vmdk
  run grep -x 'CID=12345678' disk.vmdk
  [ "$status" -ne 0 ]
}

@test "a disk with sectors of 4 KiB" {
  disk_of_host -b 4096
  describe fullDevice "RW 32768 FLAT \"$device\" 0"
  serve vmdk disk.vmdk raw-disk=allow -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"W\" * 700, 10000)
h.zero(513, 30000)
h.flush()
"'
  "$PYTHON" -c 'f = open("before.raw", "r+b")
f.seek(10000); f.write(b"W" * 700)
f.seek(30000); f.write(bytes(513))'
  sync host.raw
  cmp host.raw before.raw
}

@test "only the disk that the user names" {
  disk_of_host
  describe fullDevice "RW 32768 FLAT \"$device\" 0"
  for param in chain=auto raw-disk=/dev/null raw-disk="$PWD/host.raw" \
    allow-paths=/dev strict=true; do
    run serve -r vmdk disk.vmdk "$param" -- 'echo CLIENT RAN'
    echo "$param: $output"
    [ "$status" -eq 1 ]
    [[ $output != *"CLIENT RAN"* ]]
  done
}

@test "partitions: each part is written where it belongs, or not at all" {
  disk_of_host
  for order in 'RW RDONLY' 'RDONLY RW'; do
    cp before.raw host.raw
    partitions "${order% *}" "${order#* }"
    parts >want.raw
    case $order in RW*) rw=$((1 << 20)) ro=$((8 << 20)) at=$((1 << 20)) ;;
      *) rw=$((8 << 20)) ro=$((1 << 20)) at=$((8 << 20)) ;; esac
    assert_equal "$(hash_served vmdk disk.vmdk raw-disk="$device")" \
      "$(hash_file want.raw)" "$order"
    RW=$rw RO=$ro serve vmdk disk.vmdk raw-disk="$device" write=require -- '
      $NBDSH -u "$uri" -c "$(cat "$lib/denied.py")" -c "
import os
rw, ro = int(os.environ[\"RW\"]), int(os.environ[\"RO\"])
h.pwrite(b\"T\" * 512, 446)             # the table: a copy
h.pwrite(b\"P\" * 100000, rw + 777)
h.zero(4096, rw + 200000)
denied(h.pwrite, b\"P\" * 512, ro)
denied(h.zero, 512, ro)
denied(h.pwrite, b\"Z\" * 512, 5 << 20)      # nothing
denied(h.pwrite, b\"Z\" * 512, h.get_size() - 512)
h.zero(3 << 20, 5 << 20)                # is zeroes
h.trim(3 << 20, 5 << 20)
h.flush()
assert h.pread(512, 5 << 20) == bytes(512)
assert h.pread(512, 446) == b\"T\" * 512
"'
    cp before.raw want.raw
    AT=$at "$PYTHON" -c 'import os
f = open("want.raw", "r+b"); at = int(os.environ["AT"])
f.seek(at + 777); f.write(b"P" * 100000)
f.seek(at + 200000); f.write(bytes(4096))
f = open("pt.before", "r+b"); f.seek(446); f.write(b"T" * 512)'
    sync host.raw
    cmp host.raw want.raw
    cmp disk-pt.vmdk pt.before
  done
}

@test "zero-extents=drop: writing between partitions succeeds, as in VirtualBox" {
  disk_of_host
  partitions
  parts >want.raw
  serve vmdk disk.vmdk raw-disk="$device" zero-extents=drop -- '
    $NBDSH -u "$uri" -c "
h.pwrite(b\"Z\" * 512, 5 << 20)
h.pwrite(b\"Z\" * 4096, (5 << 20) + 12345, nbd.CMD_FLAG_FUA)
h.zero(4096, 6 << 20)
h.trim(4096, 6 << 20)
# Half of it is there, and half is not.
h.pwrite(b\"E\" * 1024, (5 << 20) - 512)
h.flush()
assert h.pread(3 << 20, 5 << 20) == bytes(3 << 20)
assert h.pread(512, (5 << 20) - 512) == b\"E\" * 512
# What must not be written fails as before.
try:
    h.pwrite(b\"P\" * 512, 8 << 20)
    raise SystemExit(\"written\")
except nbd.Error as e:
    assert e.errno == \"EPERM\", e
"'
  printf 'E%.0s' {1..512} |
    dd of=before.raw bs=512 seek=$((2048 + 8191)) conv=notrunc status=none
  sync host.raw
  cmp host.raw before.raw
  # Elsewhere a ZERO extent is no gap: there it stays an error.
  describe custom 'RW 2048 FLAT "disk-pt.vmdk" 0' 'RW 2048 ZERO'
  serve vmdk disk.vmdk zero-extents=drop -- '$NBDSH -u "$uri" -c "
try:
    h.pwrite(b\"Z\" * 512, 1 << 20)
    raise SystemExit(\"written\")
except nbd.Error as e:
    assert e.errno == \"EPERM\", e
"'
}

@test "what VirtualBox has described, on a block device" {
  unpack vmdk-raw-disk
  cd vmdk-raw-disk
  cp disk.bin host.raw
  loop host.raw
  sed -i "s|\"disk\\.bin\"|\"$device\"|" full.vmdk partitions.vmdk
  for file in full.vmdk partitions.vmdk; do
    assert_equal "$(hash_served vmdk $file raw-disk="$device")" \
      "$(image_fact vmdk-raw-disk $file raw_sha256)" $file
  done
  # Partition 1 is sectors 2048 to 6143 of both.
  serve vmdk partitions.vmdk raw-disk="$device" write=require -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"W\" * 512, (6144 - 1) * 512)
h.flush()"'
  printf 'W%.0s' {1..512} |
    dd of=disk.bin bs=512 seek=6143 conv=notrunc status=none
  sync host.raw
  cmp host.raw disk.bin
}

@test "partitions by devices of their own, as VirtualBox does with Relative=1" {
  disk_of_host
  first=$device
  loop host.raw -o $((16384 * 512)) --sizelimit 4M
  describe partitionedDevice "RW 8192 FLAT \"$device\" 0" 'RW 2048 ZERO '
  losetup -d "$first"
  # shellcheck disable=SC2034
  devices=("$device")
  serve vmdk disk.vmdk raw-disk="$device" write=require -- '
    $NBDSH -u "$uri" -c "h.pwrite(b\"W\" * 512, (4 << 20) - 512); h.flush()"'
  printf 'W%.0s' {1..512} |
    dd of=before.raw bs=512 seek=$((16384 + 8191)) conv=notrunc status=none
  sync host.raw
  cmp host.raw before.raw
}

@test "two nodes of one device are one device" {
  disk_of_host
  mknod node b "0x$(stat -c %t "$device")" "0x$(stat -c %T "$device")" ||
    skip "no nodes can be made here"
  dd if=node of=/dev/null count=1 status=none 2>/dev/null ||
    skip "nodes do not work on this file system"
  # Side by side they can be written, although it is opened exclusively.
  partitions RW RW node
  serve vmdk disk.vmdk raw-disk="$device" write=require -- '
    $NBDSH -u "$uri" -c "h.pwrite(b\"1\" * 512, 1 << 20)
h.pwrite(b\"2\" * 512, 8 << 20); h.flush()"'
  sync host.raw
  assert_equal "$(tail -c +$((2048 * 512 + 1)) host.raw | head -c 1)" 1
  assert_equal "$(tail -c +$((16384 * 512 + 1)) host.raw | head -c 1)" 2
  # The same bytes twice cannot.
  describe partitionedDevice "RW 8192 FLAT \"$device\" 0" \
    'RW 8192 FLAT "node" 8191'
  run serve vmdk disk.vmdk raw-disk="$device" write=require -- true
  echo "$output"
  [ "$status" -eq 1 ]
  assert_match "$output" 'extents 0 and 1 are the same bytes'
}

@test "a disk that is mounted, or that another server writes, is not written" {
  have mkfs.ext4 || skip "no mkfs.ext4"
  disk_of_host
  describe fullDevice "RW 32768 FLAT \"$device\" 0"
  start_nbdkit vmdk disk.vmdk raw-disk="$device" write=require
  cp disk.vmdk other.vmdk
  run serve vmdk other.vmdk raw-disk="$device" write=require -- true
  echo "$output"
  [ "$status" -eq 1 ]
  assert_match "$output" "$device: .*(in use|open for writing)"
  stop_nbdkit
  mkfs.ext4 -q "$device"
  mkdir mounted
  mount "$device" mounted || skip "ext4 cannot be mounted here"
  run serve vmdk disk.vmdk raw-disk="$device" write=require -- true
  echo "$output"
  [ "$status" -eq 1 ]
  assert_match "$output" "$device: the block device is in use .*mounted"
  # It can be read.
  serve -r vmdk disk.vmdk raw-disk="$device" -- 'nbdinfo --size "$uri"'
}

@test "a disk that has become smaller: what is missing is an error" {
  disk_of_host
  describe fullDevice "RW 40000 FLAT \"$device\" 0"
  run serve vmdk disk.vmdk raw-disk="$device" -- '$NBDSH -u "$uri" -c "
assert h.get_size() == 40000 * 512
assert h.is_read_only()
assert h.pread(16 << 20, 0) == open(\"before.raw\", \"rb\").read()
try:
    h.pread(512, 16 << 20)
    raise SystemExit(\"read\")
except nbd.Error as e:
    assert e.errno == \"EIO\", e
"'
  echo "$output"
  [ "$status" -eq 0 ]
  assert_match "$output" "$device: is too short for extent 0"
}
