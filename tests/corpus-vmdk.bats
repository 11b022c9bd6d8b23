# SPDX-License-Identifier: BSD-3-Clause
# VMDK images found in other projects are read right, or refused with the
# reason.

load lib/common

# check HASH [NAME]
check () {
  assert_equal "$(hash_served vmdk "${2:-$image}")" "$1"
}

# refused PATTERN [NAME]
refused () { refuses "error: .*$1" -r vmdk "${2:-$image}"; }

# 8 GiB of zeroes.
empty=ebfb4ef19ae410f190327b5ebd312711263bc7579970e87d9c1e2d84e06b3c25

# check_empty: as a whole it takes long to hash.
check_empty () {
  start_nbdkit -r vmdk "$image"
  assert_equal "$(map_of "$uri")" "0 8589934592 3"
  python_client "$uri" 'for i in range(64):
    assert h.pread(1 << 20, (i << 27) + (i << 20)) == bytes(1 << 20), i'
  [ -z "${VDKIT_LONG_TESTS:-}" ] || assert_equal "$(hash_of "$uri")" $empty
}

@test "streamOptimized by VMware, with a footer" {
  corpus blank-older.vmdk
  check_empty
}

@test "streamOptimized by VirtualBox, with two descriptor sectors" {
  corpus ubuntu.2.0-disk1.vmdk
  check_empty
}

@test "sparse, and its descriptor has another file name" {
  corpus valid-ext-exfat-fat32-ntfs.vmdk
  check 10808edfbc61762fc1bfa7e4fb6d18cb9fcafa7faad6692e4304ed8bff40006a
}

@test "sparse by qemu" {
  corpus ext2-a.vmdk
  check a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80
}

@test "200 sectors, no multiple of the grain" {
  corpus image.vmdk
  check 854c3db1c4a07a241e2ed9fbd8892adf2adc662c7862a75deed26f3483f414c9
}

@test "20 sectors, in an OVA" {
  corpus fake.ova
  tar -xf "$image" disk1.vmdk
  check 84ff92691f909a05b224e1c56abb4864f01b4f8e3c854e4bb4c7baf1d3f6d652 \
    disk1.vmdk
}

@test "seSparse" {
  corpus sesparse.vmdk
  corpus sesparse-desc.vmdk
  check 3afa48010241335528fe402f083fc9f3a1013a49485221443a78d9a8604e2f90
  refused 'sesparse\.vmdk: is one extent \(seSparse\) of a VMDK; open' \
    sesparse.vmdk
}

@test "a stream that was cut off, in an OVA" {
  local member
  corpus ttylinux-pc_i486-16.1.ova
  member=$(tar -tf "$image" 2>/dev/null | grep 'vmdk$' | head -n 1) || true
  [ -n "$member" ]
  tar -xf "$image" "$member"
  refused 'no (footer|end-of-stream) marker at offset' "$member"
}

@test "the file that the descriptor names is not there" {
  corpus test-vmdk-desc.vmdk
  refused '[^/]*\.vmdk: No such file'
}

@test "zeroes are no VMDK" {
  corpus CentOS-6.4-i386-Gnome-disk1.vmdk
  refused 'CentOS[^ ]*: is not a disk image of a known format'
}

@test "every VMDK of the collection is tested here" {
  local file
  [ -d "$VDKIT_CORPUS" ] || skip "no $VDKIT_CORPUS"
  for file in "$VDKIT_CORPUS"/*.vmdk* "$VDKIT_CORPUS"/*.ova*; do
    [ -e "$file" ] || continue
    file=${file##*/}
    grep -Fq "corpus ${file%.xz}" "$BATS_TEST_FILENAME" ||
      { echo "no test for $file"; false; }
  done
}
