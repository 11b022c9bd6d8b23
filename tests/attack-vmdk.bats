# SPDX-License-Identifier: BSD-3-Clause
# VMDKs made to be mistaken.
load lib/common

: "${PLUGIN_VMDK:=$top_builddir/plugins/vmdk/.libs/nbdkit-vmdk-plugin.so}"

# descriptor TYPE EXTENT...: d.vmdk
descriptor () {
  local type=$1
  shift
  {
    printf '# Disk DescriptorFile\nversion=1\nCID=12345678\n'
    printf 'parentCID=ffffffff\ncreateType="%s"\n\n' "$type"
    printf '# Extent description\n'
    printf '%s\n' "$@"
    printf '\n# The Disk Data Base\n#DDB\n\n'
    printf 'ddb.adapterType = "ide"\n'
  } >d.vmdk
}

@test "ZERO extents: zeroing and trimming succeed, data is refused" {
  truncate -s 64K a.bin b.bin
  descriptor custom 'RW 128 FLAT "a.bin" 0' 'RW 128 ZERO' \
    'RW 128 FLAT "b.bin" 0'
  cat >check.py <<'END2'
h.pwrite(b"x" * 65536, 0)
h.pwrite(b"z" * 65536, 131072)
h.zero(65536, 65536)
h.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
h.zero(65536, 65536, nbd.CMD_FLAG_FAST_ZERO)
h.trim(65536, 65536)
# across its borders
h.zero(131072, 32768)
assert h.pread(196608, 0) == b"x" * 32768 + bytes(131072) + b"z" * 32768
for data in (b"y" * 512, b"y" * 131072):
    try:
        h.pwrite(data, 65536)
        raise SystemExit("a ZERO extent took data")
    except nbd.Error as e:
        assert e.errno == "EPERM", e
assert h.pread(65536, 65536) == bytes(65536)
END2
  serve "$PLUGIN_VMDK" d.vmdk -- "$NBDSH -u \"\$uri\" -c 'exec(open(\"check.py\").read())'"
}

@test "a COWD extent that names a parent is not served without it" {
  "${PYTHON:-python3}" - <<'END2'
import struct
h = bytearray(4096)
struct.pack_into("<4s7I", h, 0, b"COWD", 1, 3, 128, 1, 4, 1, 5)
h[32:32 + 11] = b"parent.vmdk"
struct.pack_into("<I", h, 1056, 1)
open("x-delta.vmdk", "wb").write(h)
END2
  descriptor vmfsSparse 'RW 128 VMFSSPARSE "x-delta.vmdk"'
  run serve "$PLUGIN_VMDK" d.vmdk -- true
  [ "$status" -ne 0 ]
  [[ $output == *"parent"* ]]
}
