# SPDX-License-Identifier: BSD-3-Clause
# Writing, zeroing and trimming where a descriptor does not allow writing.

load lib/common

setup () {
  common_setup
}

# disk.vmdk of the extents given, lines with \n between.
disk () {
  printf '# Disk DescriptorFile\nversion=1\nCID=12345678\n' >disk.vmdk
  printf 'parentCID=ffffffff\ncreateType="custom"\n\n%b\n' "$1" >>disk.vmdk
}

@test "a ZERO extent is zeroed and trimmed, but not written" {
  random_file flat.raw 1048576
  disk 'RW 2048 FLAT "flat.raw" 0\nRW 2048 ZERO\nRW 0 ZERO'
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "$(cat "$lib/denied.py")" -c "
size = h.get_size()
assert size == 2 << 20
for flags in 0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_FAST_ZERO:
    h.zero(1 << 20, 1 << 20, flags)
    h.zero(512, size - 512, flags)
h.zero(1024, (1 << 20) - 512)
h.trim(1 << 20, 1 << 20)
denied(h.pwrite, b\"x\" * 512, 1 << 20)
denied(h.pwrite, b\"x\" * 512, size - 512)
assert h.pread(512, (1 << 20) - 512) == bytearray(512)
assert h.pread(1 << 20, 1 << 20) == bytearray(1 << 20)
"'
}

@test "a RDONLY sparse extent is zeroed where nothing is stored" {
  qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse new.vmdk 1M
  qemu-io -f vmdk -c 'write -P 120 0 64k' new.vmdk
  random_file flat.raw 1048576
  disk 'RW 2048 FLAT "flat.raw" 0\nRDONLY 2048 SPARSE "new-s001.vmdk"'
  sha256sum new-s001.vmdk >before
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "$(cat "$lib/denied.py")" -c "
m = 1 << 20
h.zero(m - 65536, m + 65536)
h.zero(512, 2 * m - 512, nbd.CMD_FLAG_FAST_ZERO)
denied(h.zero, m, m)
denied(h.pwrite, b\"x\" * 512, m + 65536)
assert h.pread(512, m) == b\"x\" * 512
assert h.pread(512, m + 65536) == bytearray(512)
"'
  sha256sum -c before
}
