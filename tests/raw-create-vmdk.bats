# SPDX-License-Identifier: BSD-3-Clause
# create=full-device and create=partitioned-device: descriptions of disks of
# the host.  The disks are files; block devices where it matters.

load lib/common
load lib/diskfull
load lib/raw-disk
load lib/completions

teardown () {
  common_teardown
  ! mountpoint -q "$BATS_TEST_TMPDIR/full" || umount "$BATS_TEST_TMPDIR/full"
  release_devices
}

# refused_to_create PATTERN PARAMETER...: and nothing is left behind.
refused_to_create () {
  local pattern=$1
  shift
  refuses "$pattern" vmdk new.vmdk "$@" || return 1
  assert_equal "$(find . -name 'new*' | wc -l)" 0 "files left by $*"
}

# window FROM-TO...: the sectors of disk.raw in these ranges; else zeroes.
window () {
  "$PYTHON" -c 'import os, sys
disk = open("disk.raw", "rb")
out = open("want.raw", "wb")
out.truncate(os.path.getsize("disk.raw"))
for part in sys.argv[1:]:
    first, last = (int(n) * 512 for n in part.split("-"))
    disk.seek(first)
    out.seek(first)
    out.write(disk.read(last - first))' "$@"
}

@test "full-device: one extent, the size and the geometry of the device" {
  numbered_disk disk.raw 65536
  cp disk.raw before.raw
  serve vmdk new.vmdk create=full-device device=disk.raw raw-disk=allow -- \
    'nbdcopy "$uri" copy.raw'
  cmp copy.raw before.raw
  assert_equal "$(echo new*)" new.vmdk
  assert_equal "$(stat -c %a new.vmdk)" 600
  assert_equal "$(extents_of new.vmdk)" "RW 65536 FLAT \"$PWD/disk.raw\" 0"
  for line in 'createType="fullDevice"' \
    'ddb.geometry.cylinders = "65"' 'ddb.geometry.heads = "16"' \
    'ddb.geometry.sectors = "63"' 'ddb.adapterType = "ide"'; do
    grep -Fxq "$line" new.vmdk
  done
  # The name as in VMware, and the size, which is known.
  serve vmdk again.vmdk create=fullDevice device=disk.raw size=32M \
    raw-disk="$PWD/disk.raw" uuid=6ecb78ac-0000-4000-8000-000000000001 \
    comment=hello adapter=lsilogic -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"W\" * 512, 512)
h.flush()"'
  grep -Fxq 'ddb.uuid.image = "6ecb78ac-0000-4000-8000-000000000001"' \
    again.vmdk
  grep -Fxq 'ddb.adapterType = "lsilogic"' again.vmdk
  grep -Fxq 'ddb.geometry.heads = "255"' again.vmdk
  printf 'W%.0s' {1..512} |
    dd of=before.raw bs=512 seek=1 conv=notrunc status=none
  cmp disk.raw before.raw
}

@test "partitioned-device, MBR: the extents that VirtualBox makes" {
  mbr_disk disk.raw
  cp disk.raw before.raw
  describe new.vmdk disk.raw 1,5r,7
  assert_equal "$(echo new*)" 'new-pt.vmdk new.vmdk'
  assert_equal "$(stat -c '%a %s' new-pt.vmdk)" "600 $((4 << 20))"
  assert_equal "$(extents_of new.vmdk)" "$(sed "s|DISK|$PWD/disk.raw|" <<'END'
RW 2048 FLAT "new-pt.vmdk" 0
RW 8192 FLAT "DISK" 2048
RW 2048 ZERO
RW 2048 FLAT "new-pt.vmdk" 2048
RDONLY 8192 FLAT "DISK" 14336
RW 16384 ZERO
RW 2048 FLAT "new-pt.vmdk" 4096
RW 4096 ZERO
RW 2048 ZERO
RW 2048 FLAT "new-pt.vmdk" 6144
RW 8192 FLAT "DISK" 49152
RW 14336 ZERO
RW 20480 ZERO
RW 6144 ZERO
END
)"
  # What clients see is the disk but for what was left out.
  window 0-10240 12288-22528 38912-40960 47104-57344
  assert_equal "$(hash_served vmdk new.vmdk raw-disk=allow)" \
    "$(hash_file want.raw)"
  # And its partition table is that of the disk.
  sfdisk -d disk.raw | sed 's/disk\.raw/DISK/g' >want.table
  serve -r vmdk new.vmdk raw-disk=allow -- 'nbdcopy "$uri" got.raw'
  sfdisk -d got.raw | sed 's/got\.raw/DISK/g' >got.table
  [ "$(grep -c start= got.table)" -eq 6 ]
  diff want.table got.table
  # To describe it wrote nothing.
  cmp disk.raw before.raw
}

@test "partitioned-device, GPT: both tables are copied" {
  gpt_disk disk.raw
  cp disk.raw before.raw
  describe new.vmdk disk.raw 2,3r
  assert_equal "$(extents_of new.vmdk)" "$(sed "s|DISK|$PWD/disk.raw|" <<'END'
RW 2048 FLAT "new-pt.vmdk" 0
RW 8192 ZERO
RW 2048 ZERO
RW 8192 FLAT "DISK" 12288
RDONLY 8192 FLAT "DISK" 20480
RW 36831 ZERO
RW 33 FLAT "new-pt.vmdk" 2048
END
)"
  window 0-2048 12288-28672 65503-65536
  serve -r vmdk new.vmdk raw-disk=allow -- 'nbdcopy "$uri" got.raw'
  cmp got.raw want.raw
  # Partitioning programs find nothing to complain about.
  sfdisk -V got.raw
  if have sgdisk; then
    run sgdisk -v got.raw
    echo "$output"
    assert_match "$output" 'No problems found'
  fi
  cmp disk.raw before.raw
}

@test "what is behind a table is copied up to 4 MiB" {
  numbered_disk disk.raw 65536
  partition disk.raw <<'END'
label: dos
1 : start=20480, size=8192
END
  describe new.vmdk disk.raw 1
  assert_equal "$(extents_of new.vmdk)" "$(sed "s|DISK|$PWD/disk.raw|" <<'END'
RW 8193 FLAT "new-pt.vmdk" 0
RW 12287 ZERO
RW 8192 FLAT "DISK" 20480
RW 36864 ZERO
END
)"
  window 0-8193 20480-28672
  assert_equal "$(hash_served vmdk new.vmdk raw-disk=allow)" \
    "$(hash_file want.raw)"
}

@test "a file system in a partition is what it is on the disk" {
  have mkfs.ext4 && have debugfs || skip "no e2fsprogs"
  gpt_disk disk.raw
  mkdir files
  random_file files/random 1000000
  seq 100000 >files/numbers
  truncate -s 4M fs
  mkfs.ext4 -q -d files fs
  dd if=fs of=disk.raw bs=512 seek=12288 conv=notrunc status=none
  describe new.vmdk disk.raw 2
  serve -r --filter=partition vmdk new.vmdk raw-disk=allow partition=2 -- \
    'nbdcopy "$uri" got.fs'
  cmp got.fs fs
  e2fsck -fn got.fs
  debugfs -R 'dump /random got' got.fs
  cmp got files/random
  debugfs -R 'dump /numbers got' got.fs
  cmp got files/numbers
  # A file that is written there is on the disk; nothing else has changed.
  cp disk.raw before.raw
  seq 5 >new-file
  debugfs -w -R 'write new-file five' got.fs
  serve --filter=partition vmdk new.vmdk raw-disk=allow partition=2 -- \
    'nbdcopy --flush got.fs "$uri"'
  dd if=disk.raw of=fs bs=512 skip=12288 count=8192 status=none
  e2fsck -fn fs
  debugfs -R 'dump /five got' fs
  cmp got new-file
  dd if=fs of=before.raw bs=512 seek=12288 conv=notrunc status=none
  cmp disk.raw before.raw
}

@test "what is written to the tables or to what is hidden never reaches the disk" {
  local part
  mbr_disk disk.raw
  cp disk.raw before.raw
  describe new.vmdk disk.raw 1,5r
  cp new-pt.vmdk before-pt.vmdk
  for policy in refuse drop; do
    POLICY=$policy serve vmdk new.vmdk raw-disk=allow write=require \
      zero-extents=$policy -- '$NBDSH -u "$uri" -c "
import os
drop = os.environ[\"POLICY\"] == \"drop\"
def refused(f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        assert e.errno == \"EPERM\", e
    else:
        raise SystemExit(\"done: %r\" % (args[1:],))
# The MBR, the room behind it, the table of 5 and that of 6.
for sector in 0, 2047, 12288, 38912:
    h.pwrite(b\"T\" * 512, sector * 512)
# 5 is read-only.
refused(h.pwrite, b\"P\" * 512, 14336 * 512)
# A gap, the hidden partitions 6 and 3, the tail.
for sector in 10240, 40960, 71680, 98303:
    if drop:
        h.pwrite(b\"Z\" * 512, sector * 512)
    else:
        refused(h.pwrite, b\"Z\" * 512, sector * 512)
    assert h.pread(512, sector * 512) == bytes(512)
h.flush()
"'
    cmp disk.raw before.raw
  done
  for part in 0 2047 2048 4096; do
    printf 'T%.0s' {1..512} |
      dd of=before-pt.vmdk bs=512 seek=$part conv=notrunc status=none
  done
  cmp new-pt.vmdk before-pt.vmdk
  # What is written to partition 1 does.
  serve vmdk new.vmdk raw-disk=allow -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"P\" * 512, 2048 * 512)
h.flush()"'
  only_p_at 2048
}

@test "boot-sector= changes the code in the copy, and nothing else" {
  local size
  mbr_disk disk.raw
  cp disk.raw before.raw
  for size in 1 440 446; do
    rm -f new*
    head -c "$size" /dev/zero | tr '\0' B >boot.bin
    describe new.vmdk disk.raw 1 boot-sector=boot.bin
    head -c 1048576 disk.raw >want
    dd if=boot.bin of=want conv=notrunc status=none
    cmp -n 1048576 new-pt.vmdk want
    cmp disk.raw before.raw
  done
  # The table is the same.
  serve -r vmdk new.vmdk raw-disk=allow -- 'nbdcopy "$uri" got.raw'
  [ "$(sfdisk -l -o Start got.raw | grep -c '^ *[0-9]')" -eq 6 ]
  for size in 0 447 512 4096; do
    rm -f new*
    head -c "$size" /dev/zero >boot.bin
    refused_to_create "boot-sector=$PWD/boot.bin: has $size bytes, must have 1 to 446" \
      create=partitioned-device device=disk.raw partitions=1 \
      raw-disk=allow boot-sector=boot.bin
  done
  mkfifo pipe
  refused_to_create "boot-sector=$PWD/pipe: is not a file" \
    create=partitioned-device device=disk.raw partitions=1 raw-disk=allow \
    boot-sector=pipe
  refused_to_create "boot-sector=$PWD/none: No such file" \
    create=partitioned-device device=disk.raw partitions=1 raw-disk=allow \
    boot-sector=none
}

@test "a block device" {
  mbr_disk disk.raw
  loop disk.raw
  cp disk.raw before.raw
  serve vmdk full.vmdk create=full-device device="$device" \
    raw-disk="$device" -- true
  assert_equal "$(extents_of full.vmdk)" "RW 98304 FLAT \"$device\" 0"
  describe new.vmdk "$device" 1,7
  window 0-10240 12288-14336 38912-40960 47104-57344
  assert_equal "$(hash_served vmdk new.vmdk raw-disk="$device")" \
    "$(hash_file want.raw)"
  serve vmdk new.vmdk raw-disk="$device" write=require -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"T\" * 512, 0)
h.pwrite(b\"P\" * 512, 49152 * 512)
h.flush()"'
  only_p_at 49152
}

@test "sectors of 4 KiB: MBR and GPT" {
  # What a loop device says, and what is found in a file, which says nothing.
  truncate -s 64M disk.raw
  loop disk.raw -b 4096
  partition "$device" <<'END'
label: gpt
1 : start=256, size=1024
2 : start=2048, size=1024
END
  sync disk.raw
  for disk in "$device" "$PWD/disk.raw"; do
    rm -f new*
    run describe new.vmdk "$disk" 2
    echo "$output"
    [ "$status" -eq 0 ]
    assert_match "$output" \
      'warning: device=.*its partition table counts in sectors of 4096 bytes'
    assert_equal "$(extents_of new.vmdk)" "$(sed "s|DISK|$disk|" <<'END'
RW 2048 FLAT "new-pt.vmdk" 0
RW 8192 ZERO
RW 6144 ZERO
RW 8192 FLAT "DISK" 16384
RW 106456 ZERO
RW 40 FLAT "new-pt.vmdk" 2048
END
)"
  done
  mbr_of_4k_sectors "$device" -W always
  rm -f new*
  describe new.vmdk "$device" 1,6
  assert_equal "$(extents_of new.vmdk)" "$(sed "s|DISK|$device|" <<'END'
RW 2048 FLAT "new-pt.vmdk" 0
RW 8192 FLAT "DISK" 2048
RW 6144 ZERO
RW 2048 FLAT "new-pt.vmdk" 2048
RW 8192 ZERO
RW 4096 ZERO
RW 2048 FLAT "new-pt.vmdk" 4096
RW 8192 FLAT "DISK" 32768
RW 90112 ZERO
END
)"
}

@test "an MBR beyond 2 TiB is refused, and not found elsewhere" {
  truncate -s 5T disk.raw || skip "no files of 5 TiB here"
  loop disk.raw -b 4096
  # At 2 TiB + 1 MiB; of 2 TiB exactly; of 3 TiB.
  for part in 'start=536871168, size=1024' 'start=256, size=536870912' \
    'start=256, size=805306368'; do
    partition "$device" -W always <<END
label: dos
2 : $part
END
    refused_to_create 'MBR a partition begins at byte .*beyond 2 TiB.* GPT' \
      create=partitioned-device device="$device" partitions=2 raw-disk=allow
  done
  serve vmdk full.vmdk create=full-device device="$device" \
    raw-disk="$device" -- true
  partition "$device" -W always <<END
label: gpt
2 : start=536871168, size=1024
END
  describe new.vmdk "$device" 2
  extents_of new.vmdk |
    grep -Fx "RW 8192 FLAT \"$device\" $((536871168 * 8))"
}

@test "relative=true: the partitions by devices of their own" {
  mbr_disk disk.raw
  loop disk.raw
  mkdir nodes
  nodes_in "$PWD/nodes"
  cp disk.raw before.raw
  describe new.vmdk "$node" 1,5r relative=true
  assert_equal "$(extents_of new.vmdk | sed 's| "[^"]*/nodes/| "|')" "$(cat <<'END'
RW 2048 FLAT "new-pt.vmdk" 0
RW 8192 FLAT "disk1p1" 0
RW 2048 ZERO
RW 2048 FLAT "new-pt.vmdk" 2048
RDONLY 8192 FLAT "disk1p5" 0
RW 16384 ZERO
RW 2048 FLAT "new-pt.vmdk" 4096
RW 4096 ZERO
RW 2048 ZERO
RW 2048 FLAT "new-pt.vmdk" 6144
RW 8192 ZERO
RW 14336 ZERO
RW 20480 ZERO
RW 6144 ZERO
END
)"
  window 0-10240 12288-22528 38912-40960 47104-49152
  # The disk itself is not needed.
  assert_equal "$(hash_served vmdk new.vmdk raw-disk="${node}p1" \
    raw-disk="${node}p5")" "$(hash_file want.raw)"
  serve vmdk new.vmdk raw-disk=allow write=require -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"P\" * 512, 10239 * 512)
h.flush()"'
  only_p_at 10239

  # By a link, as udev makes them; that of the partition too, or not.
  rm new*
  ln -s disk1 nodes/ata-X
  describe new.vmdk "$PWD/nodes/ata-X" 1 relative=true
  grep -Fx "RW 8192 FLAT \"${node}p1\" 0" new.vmdk
  ln -s disk1p1 nodes/ata-X-part1
  rm new*
  describe new.vmdk "$PWD/nodes/ata-X" 1 relative=true
  grep -Fx "RW 8192 FLAT \"$PWD/nodes/ata-X-part1\" 0" new.vmdk
  rm new*

  # Each is to be allowed.
  refused_to_create "add raw-disk=${node}p5" create=partitioned-device \
    device="$node" partitions=1,5 relative=true raw-disk="$node" \
    raw-disk="${node}p1"
  # A name is not enough.
  mv nodes/disk1p5 nodes/disk1p1
  refused_to_create 'no device that is just partition 1' \
    create=partitioned-device device="$node" partitions=1 relative=true \
    raw-disk=allow
  rm nodes/disk1p1
  refused_to_create 'relative=true: no device that is just partition 1 .*partprobe' \
    create=partitioned-device device="$node" partitions=1 relative=true \
    raw-disk=allow
}

@test "relative=true: the same partition of another disk is not taken" {
  mbr_disk disk.raw
  cp disk.raw other.raw
  loop other.raw
  mkdir nodes other
  nodes_in "$PWD/other"
  loop disk.raw
  nodes_in "$PWD/nodes"
  mv other/disk1p1 nodes/disk1p1
  refused_to_create 'no device that is just partition 1' \
    create=partitioned-device device="$node" partitions=1 relative=true \
    raw-disk=allow
  describe new.vmdk "$node" 5 relative=true
}

@test "a disk whose table the system has not read again" {
  mbr_disk disk.raw
  loop disk.raw
  mkdir nodes
  nodes_in "$PWD/nodes"
  # Partition 1 begins elsewhere now.
  partition disk.raw -N 1 <<<'start=4096, size=4096'
  sync disk.raw
  blockdev --flushbufs "$device"
  refused_to_create 'no device that is just partition 1' \
    create=partitioned-device device="$node" partitions=1 relative=true \
    raw-disk=allow
}

@test "bad parameters are errors, and nothing is made" {
  local make="create=partitioned-device device=disk.raw raw-disk=allow"
  local full="create=full-device device=disk.raw raw-disk=allow"
  mbr_disk disk.raw
  # shellcheck disable=SC2086
  while IFS='|' read -r pattern params; do
    refused_to_create "$pattern" $params || return 1
  done <<END
partitions=4: there is no such partition on .*disk\.raw .MBR.; it has 1, 3, 5, 6, 7|$make partitions=1,4
partitions=2: is the extended partition .* choose among 1, 3, 5, 6, 7|$make partitions=2
partitions=5: is named twice|$make partitions=5,1,5r
partitions=,1: must be numbers|$make partitions=,1
partitions=1,: must be numbers|$make partitions=1,
partitions=1-3: must be numbers|$make partitions=1-3
partitions=1rr: must be numbers|$make partitions=1rr
partitions=0: must be numbers|$make partitions=0
partitions=-1: must be numbers|$make partitions=-1
partitions=99999999999: must be numbers|$make partitions=99999999999
partitions=: must be numbers|$make partitions=
relative=maybe: must be|$make partitions=1 relative=maybe
relative=true: .*disk\.raw is a file|$make partitions=1 relative=true
create=partitioned-device needs partitions=.*create=full-device|$make
create=full-device .*partitions= cannot be used|$full partitions=1
create=full-device .*relative=true cannot be used|$full relative=true
create=full-device .*boot-sector= cannot be used|$full boot-sector=disk.raw
create=full-device needs device=|create=full-device size=48M raw-disk=allow
create=partitioned-device needs device=|create=partitioned-device size=48M
create=full-device needs size=, or device=|create=full-device raw-disk=allow
create=partitioned-device needs size=, or device=|create=partitioned-device
device=.*a "sparse" VMDK is not made of a disk|create=sparse size=48M device=disk.raw raw-disk=allow
device=.*a "stream" VMDK is not made of a disk|create=stream size=48M device=disk.raw raw-disk=allow
partitions= can only be used together with device=|create=flat size=48M partitions=1
relative= can only be used together with device=|create=partitioned-device size=48M relative=true
boot-sector= can only be used together with device=|create=sparse size=48M boot-sector=disk.raw
size=1048576: .*disk\.raw has 50331648 bytes; leave size= out|$make partitions=1 size=1M
size=104857600: .*disk\.raw has 50331648 bytes; leave size= out|$full size=100M
device=.*disk\.raw: .*add raw-disk=.*disk\.raw, or raw-disk=allow|create=full-device device=disk.raw
device=.*disk\.raw: .*add raw-disk=.*disk\.raw, or raw-disk=allow|create=full-device device=disk.raw raw-disk=/etc/passwd
device=.*disk\.raw: .*add raw-disk=.*disk\.raw, or raw-disk=allow|create=full-device device=disk.raw allow-paths=.
device=/dev/sdnone: No such file|create=full-device device=/dev/sdnone raw-disk=allow
device=: must be|create=full-device device= raw-disk=allow
device=/dev/null: is a character device, must be a block device|create=full-device device=/dev/null raw-disk=allow
device=.*: is a folder, must be a block device|create=full-device device=. raw-disk=allow
size=0: must be a size, greater than 0|$full size=0
create= and strict=true contradict|$full strict=true
block-size|$full block-size=1M
END
  for param in device=disk.raw partitions=1 relative=true boot-sector=x; do
    refused_to_create "${param%%=*}= can only be used together with create=" \
      "$param"
  done
  refuses "unknown parameter 'device'" vdi new.vdi create=fixed size=1M \
    device=disk.raw
}

@test "disks that cannot be described are errors, and nothing is made" {
  local make="create=partitioned-device device=disk.raw raw-disk=allow"
  local full="create=full-device device=disk.raw raw-disk=allow"
  : >disk.raw
  # shellcheck disable=SC2086
  {
    refused_to_create 'device=.*disk\.raw: has no bytes' $full
    refused_to_create 'device=.*disk\.raw: has no bytes' $make partitions=1
    truncate -s 1000 disk.raw
    refused_to_create 'device=.*disk\.raw: has 1000 bytes, .*512' $full
    truncate -s 512 disk.raw
    refused_to_create 'device=.*disk\.raw: no partition table was found' \
      $make partitions=1
    random_file disk.raw 1048576
    refused_to_create 'device=.*disk\.raw: no partition table was found' \
      $make partitions=1
    if have mkfs.ext4; then
      rm disk.raw
      truncate -s 8M disk.raw
      mkfs.ext4 -q disk.raw
      refused_to_create 'device=.*disk\.raw: no partition table was found' \
        $make partitions=1
    fi
    truncate -s 8M disk.raw
    sfdisk -q -w always -W always disk.raw <<<'label: sun'
    refused_to_create 'its partition table is of the type "sun", only MBR and GPT' \
      $make partitions=1
    # The disk is smaller than the one that was partitioned.
    mbr_disk disk.raw
    truncate -s 40M disk.raw
    refused_to_create 'device=.*disk\.raw: partition 3 begins at sector 71680 .*smaller' \
      $make partitions=1
    gpt_disk disk.raw
    truncate -s 20M disk.raw
    refused_to_create 'device=.*disk\.raw: ' $make partitions=1
  }
}

# poke OFFSET HEX...: bytes of disk.raw.
poke () {
  "$PYTHON" -c 'import sys
f = open("disk.raw", "r+b"); f.seek(int(sys.argv[1]))
f.write(bytes.fromhex("".join(sys.argv[2:])))' "$@"
}

@test "damaged tables are errors, and nothing is made" {
  local make="create=partitioned-device device=disk.raw raw-disk=allow"
  # shellcheck disable=SC2086
  {
    # The second extended table names the first one again.
    mbr_disk disk.raw
    poke $((38912 * 512 + 462)) 000000000500000000000000 00080000
    refused_to_create 'the tables in the extended partition 2 do not end' \
      $make partitions=1
    # It lies outside of the extended partition.
    mbr_disk disk.raw
    poke $((12288 * 512 + 462 + 8)) 00f0ffff
    refused_to_create 'a table of the extended partition 2 .*outside' \
      $make partitions=1
    # Two partitions overlap.
    mbr_disk disk.raw
    poke $((446 + 32 + 8)) 00100000
    refused_to_create 'partitions 1 and 3 overlap' $make partitions=1
    # One overlaps the table.
    mbr_disk disk.raw
    poke $((446 + 8)) 00000000
    refused_to_create 'partition 1 overlaps the partition table at byte 0' \
      $make partitions=1
    # Only the backup of the GPT is left.
    gpt_disk disk.raw
    poke 512 0000000000000000
    refused_to_create 'the first GPT is damaged.*gdisk' $make partitions=1
  }
  # The backup is not left: a warning.
  gpt_disk disk.raw
  poke $((65535 * 512)) 0000000000000000
  run describe new.vmdk disk.raw 1
  echo "$output"
  [ "$status" -eq 0 ]
  assert_match "$output" 'warning: device=.*no backup of the GPT at sector 65535'
  extents_of new.vmdk | tail -n 1 | grep -Fx 'RW 36864 ZERO'
}

@test "a table that cannot be read once is not half a table" {
  local n failed=
  have strace || skip "no strace"
  # libblkid reads the MBR and then the tables of 5, 6 and 7.
  for n in 1 2 3 4; do
    mbr_disk disk.raw
    nbdkit_command -f -U - vmdk new.vmdk create=partitioned-device \
      device=disk.raw partitions=1 raw-disk=allow --run true
    run timeout "$LIMIT" strace -f -qq -o trace -P "$PWD/disk.raw" \
      -e inject="read:error=EIO:when=$n" "${nbdkit[@]}" </dev/null 3>&-
    echo "$output"
    [ -s trace ] || skip "strace cannot trace here"
    grep -q 'read(.*INJECTED' trace || skip "libblkid reads in another way"
    if [ "$status" -eq 0 ]; then
      # It was done again.
      extents_of new.vmdk | grep -Fx 'RW 2048 FLAT "new-pt.vmdk" 4096'
    else
      assert_match "$output" \
        'libblkid has not found the partition at|no partition table was found'
      assert_equal "$(find . -name 'new*' | wc -l)" 0
      failed+=$n
    fi
    rm -f new*
  done
  [ -n "$failed" ]
}

@test "no file that exists is touched, and nothing is left" {
  mbr_disk disk.raw
  for file in new.vmdk new-pt.vmdk; do
    echo precious >"$file"
    refuses '[Ff]ile exists' vmdk new.vmdk create=partitioned-device \
      device=disk.raw partitions=1 raw-disk=allow
    assert_equal "$(cat new*)" precious
    assert_equal "$(echo new*)" "$file"
    rm "$file"
  done
  # An overlay that there is does not disturb a whole disk.
  echo precious >new-pt.vmdk
  serve vmdk new.vmdk create=full-device device=disk.raw raw-disk=allow -- true
  assert_equal "$(cat new-pt.vmdk)" precious
}

@test "no room for the copy of the tables: nothing is left" {
  mbr_disk disk.raw
  small_fs tmpfs
  head -c 11M /dev/zero >full/more
  refuses 'full/new-pt\.vmdk: .*No space left' vmdk full/new.vmdk \
    create=partitioned-device device=disk.raw partitions=1 raw-disk=allow
  assert_equal "$(cd full && echo *)" 'filler more'
  rm full/more
  describe full/new.vmdk disk.raw 1
}

@test "whatever cannot be made durable: nothing is left" {
  local how call n made="create=partitioned-device device=disk.raw partitions=1"
  have strace || skip "no strace"
  mbr_disk disk.raw
  # The copy, and twice the description; the folder, twice.
  for how in "fdatasync 1 $made" "fdatasync 2 $made" "fdatasync 3 $made" \
    "fsync 1 $made" "fsync 2 $made" 'fsync 2 create=flat size=1M'; do
    # shellcheck disable=SC2086
    set -- $how
    call=$1 n=$2
    shift 2
    nbdkit_command -f -U - vmdk new.vmdk "$@" raw-disk=allow --run true
    run timeout "$LIMIT" strace -f -qq -o trace -e trace="$call" \
      -e inject="$call:error=EIO:when=$n" "${nbdkit[@]}" </dev/null 3>&-
    echo "$output"
    [ -s trace ] || skip "strace cannot trace here"
    [ "$status" -ne 0 ]
    assert_match "$output" "$call: Input/output error"
    assert_equal "$(find . -name 'new*' | wc -l)" 0 "files left by $how"
  done
}

@test "a disk that another process writes is not described" {
  mbr_disk disk.raw
  describe other.vmdk disk.raw 1
  start_nbdkit vmdk other.vmdk raw-disk=allow write=require
  refused_to_create 'disk\.raw: is open for writing in another process' \
    create=partitioned-device device=disk.raw partitions=1 raw-disk=allow
  stop_nbdkit
  describe new.vmdk disk.raw 1
}

@test "TAB completes device=, raw-disk=, boot-sector= and the variants" {
  touch disk1 disk2
  assert_equal "$(complete_words nbdkit "$PLUGIN_VMDK" device = disk)" \
    'disk1 disk2'
  assert_equal "$(complete_words nbdkit "$PLUGIN_VMDK" raw-disk = disk)" \
    'disk1 disk2'
  assert_equal "$(complete_words nbdkit "$PLUGIN_VMDK" raw-disk = al)" allow
  [ -z "$(complete_words nbdkit "$PLUGIN_VMDK" raw-disk = DEV)" ]
  assert_equal "$(complete_words nbdkit "$PLUGIN_VMDK" boot-sector = disk1)" \
    disk1
  assert_equal "$(complete_words nbdkit "$PLUGIN_VMDK" create = full)" \
    full-device
}
