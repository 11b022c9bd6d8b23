# SPDX-License-Identifier: BSD-3-Clause
# Disks of the host, as files and loop devices, with partition tables and
# without.
# shellcheck shell=bash disable=SC2034

devices=()

# For teardown, behind common_teardown: a server may hold a device.
release_devices () {
  local device
  for device in "${devices[@]}"; do
    partx -d "$device" 2>/dev/null || true
    losetup -d "$device"
  done
}

# loop FILE [OPTION...]: sets device.
loop () {
  local file=$1
  shift
  [ "$(id -u)" -eq 0 ] || skip "loop devices need root"
  have losetup || skip "no losetup"
  device=$(losetup -f --show "$@" "$file" 2>&1) ||
    skip "no loop device can be made here: $device"
  devices+=("$device")
}

# nodes_in FOLDER: nodes of $device and its partitions there (/dev may be
# without); sets node to that of the disk, disk1.
nodes_in () {
  local name=${device##*/} sys major minor
  partx -a "$device" 2>/dev/null || true
  [ -e "/sys/block/$name/${name}p1" ] ||
    skip "the system makes no devices of partitions here"
  node_in "$1"
  for sys in "/sys/block/$name/${name}p"*; do
    IFS=: read -r major minor <"$sys/dev"
    mknod "${node}p${sys##*p}" b "$major" "$minor"
  done
}

# node_in FOLDER: a node of $device; sets node.
node_in () {
  node=$1/disk1
  mknod "$node" b "0x$(stat -c %t "$device")" "0x$(stat -c %T "$device")" ||
    skip "no nodes can be made here"
  dd if="$node" of=/dev/null count=1 status=none 2>/dev/null ||
    skip "nodes do not work on this file system"
}

# numbered_disk FILE SECTORS: no sector like another.
numbered_disk () {
  "$PYTHON" -c 'import sys
sys.stdout.write("".join(("sector %d " % n).ljust(512, "#")
                         for n in range(int(sys.argv[1]))))' "$2" >"$1"
}

# partition FILE-or-DEVICE [OPTION...]: by sfdisk, which leaves all but the
# tables as it is.
partition () {
  local disk=$1
  shift
  have sfdisk || skip "no sfdisk"
  sfdisk -q --no-reread --no-tell-kernel -w never "$@" "$disk"
}

# mbr_disk FILE: 48 MiB; 1, 3, and 5 to 7 in the extended partition 2.
mbr_disk () {
  numbered_disk "$1" 98304
  partition "$1" <<'END'
label: dos
label-id: 0x12345678
1 : start=2048, size=8192, type=83, bootable
2 : start=12288, size=57344, type=5
3 : start=71680, size=20480, type=83
5 : start=14336, size=8192, type=83
6 : start=40960, size=4096, type=83
7 : start=49152, size=8192, type=83
END
}

# gpt_disk FILE: 32 MiB, three partitions.
gpt_disk () {
  numbered_disk "$1" 65536
  partition "$1" <<'END'
label: gpt
label-id: 6ECB78AC-0000-4000-8000-000000000001
1 : start=2048, size=8192
2 : start=12288, size=8192
3 : start=20480, size=8192
END
}

# mbr_of_4k_sectors DEVICE [OPTION...]: 1, and 5 and 6 in the extended 2.
mbr_of_4k_sectors () {
  partition "$@" <<'END'
label: dos
1 : start=256, size=1024
2 : start=2048, size=8192, type=5
5 : start=2304, size=1024
6 : start=4096, size=1024
END
}

# only_p_at SECTOR: it is full of "P", all else in disk.raw is as in before.raw.
only_p_at () {
  printf 'P%.0s' {1..512} |
    dd of=before.raw bs=512 seek="$1" conv=notrunc status=none
  sync disk.raw
  cmp disk.raw before.raw
}

# describe NEW DISK PARTITIONS [PARAMETER...]: create=partitioned-device
describe () {
  local new=$1 disk=$2 partitions=$3
  shift 3
  serve vmdk "$new" create=partitioned-device device="$disk" \
    partitions="$partitions" raw-disk=allow "$@" -- true
}

extents_of () { grep -E '^(RW|RDONLY) ' "$1"; }
