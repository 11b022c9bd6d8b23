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

@test "a durable write that completes a stream is durable" {
  cat >check.py <<'END2'
h.pwrite(b"x" * 1048576, 0)
h.pwrite(b"y" * 1048576, 1048576, nbd.CMD_FLAG_FUA)
import os
os.kill(int(open("pid").read()), 9)
END2
  nbdkit_command -f -P pid -U sock "$PLUGIN_VMDK" s.vmdk create=stream size=2M
  "${nbdkit[@]}" &
  for _ in {1..50}; do [ -s pid ] && break; sleep 0.1; done
  run $NBDSH -u 'nbd+unix:///?socket=sock' -c 'exec(open("check.py").read())'
  wait || true
  serve -r "$PLUGIN_VMDK" s.vmdk -- \
    "$NBDSH -u \"\$uri\" -c 'assert h.pread(2097152, 0) == b\"x\" * 1048576 + b\"y\" * 1048576'"
}

@test "a thousand extents in one file do not take a table cache each" {
  "${PYTHON:-python3}" - <<'END2'
import struct
tables, grain, gtes = 64, 8, 4096
capacity, first = tables * grain * gtes, 2
h = bytearray(1024)
struct.pack_into("<IIIQQQQIQQQ", h, 0, 0x564d444b, 1, 1, capacity, grain,
                 0, 0, gtes, 0, 1, first + tables * 32)
h[73:77] = b"\n \r\n"
for i in range(tables):
    struct.pack_into("<I", h, 512 + 4 * i, first + 32 * i)
open("x.vmdk", "wb").write(h + bytes(tables * 32 * 512))
END2
  extents=()
  for _ in {1..1024}; do
    extents+=("RDONLY 2097152 SPARSE \"x.vmdk\"")
  done
  descriptor custom "${extents[@]}"
  nbdkit_command -f -r -P pid -U sock "$PLUGIN_VMDK" d.vmdk
  "${nbdkit[@]}" &
  server_pids+=($!)
  for _ in {1..50}; do [ -s pid ] && break; sleep 0.1; done
  $NBDSH -u 'nbd+unix:///?socket=sock' -c '
for offset in range(0, h.get_size(), 16 << 20): h.pread(512, offset)'
  peak=$(sed -n 's/^VmHWM:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$(cat pid)/status")
  [ "$peak" -lt 200000 ]
}

@test "extents that begin and end inside grains, against a shadow" {
  serve "$PLUGIN_VMDK" create=split-sparse size=8M s.vmdk -- true
  truncate -s 3584 f.bin
  truncate -s 64K k.bin
  descriptor custom 'RW 0 ZERO' 'RW 7 FLAT "f.bin" 0' \
    'RW 1001 SPARSE "s-s001.vmdk"' 'RW 3 ZERO' 'RW 128 FLAT "k.bin" 0' \
    'RW 0 FLAT "f.bin" 0'
  cat >check.py <<'END2'
import random
random.seed(5)
size = (7 + 1001 + 3 + 128) * 512
shadow = bytearray(size)
zero, end = (7 + 1001) * 512, (7 + 1001 + 3) * 512
for i in range(800):
    offset = random.randrange(size)
    n = min(random.choice([1, 511, 512, 513, 4096, 65536, 100000]),
            size - offset)
    what = random.randrange(4)
    if what == 0:
        h.zero(n, offset, random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        shadow[offset:offset + n] = bytes(n)
    elif what == 1:
        if offset < end and offset + n > zero:
            continue
        data = bytes([random.randrange(256)]) * n
        h.pwrite(data, offset, random.choice([0, nbd.CMD_FLAG_FUA]))
        shadow[offset:offset + n] = data
    elif what == 2:
        assert h.pread(n, offset) == shadow[offset:offset + n], (i, offset, n)
    else:
        h.flush()
open("shadow", "wb").write(shadow)
END2
  serve "$PLUGIN_VMDK" d.vmdk -- \
    "$NBDSH -u \"\$uri\" -c 'exec(open(\"check.py\").read())'"
  serve -r "$PLUGIN_VMDK" d.vmdk -- 'nbdcopy "$uri" out'
  cmp out shadow
}

# What is behind a name may change at any moment.  Whatever is served is the
# image's, and what is not is refused.
@test "files that change their places while the image is opened" {
  local i swapper ok=0 wrong=0
  mkdir images
  head -c 1M /dev/zero | tr '\0' a >images/a.bin
  head -c 1M /dev/zero | tr '\0' b >images/b.bin
  head -c 1M /dev/zero | tr '\0' s >secret
  ln -s ../secret images/link
  descriptor custom 'RW 1024 FLAT "a.bin" 0' 'RW 1024 FLAT "b.bin" 1024' \
    'RW 1024 FLAT "a.bin" 1024'
  mv d.vmdk images
  : >go
  "${PYTHON:-python3}" - <<'END2' 3>&- &
import itertools, os, time
os.chdir("images")
# a becomes b, a link that leads out, or nothing.
steps = (("a.bin", "t"), ("b.bin", "a.bin"), ("t", "b.bin"),
         ("a.bin", "t"), ("link", "a.bin"), ("a.bin", "link"), ("t", "a.bin"))
for old, new in itertools.cycle(steps):
    os.rename(old, new)
    time.sleep(0.0003)
    if old == "t" and new == "a.bin" and not os.path.exists("../go"):
        break
END2
  swapper=$!
  for i in {1..40}; do
    rm -f copy
    if serve "$PLUGIN_VMDK" images/d.vmdk write=require -- \
      'nbdcopy "$uri" copy' >out 2>&1; then
      ok=$((ok + 1))
      # One file, the other, and the first again.
      grep -Eqx 'aba|bab' <<<"$(tr -s ab <copy)" || wrong=$i
    elif [ -e copy ]; then
      # It was opened, and then something failed.
      wrong=$i
    fi
    [ "$wrong" -eq 0 ] || break
  done
  rm go
  wait "$swapper"
  echo "served $ok times"
  cat out
  [ "$wrong" -eq 0 ]
  serve "$PLUGIN_VMDK" images/d.vmdk write=require -- 'nbdcopy "$uri" copy'
  assert_match "$(tr -s ab <copy)" '^(aba|bab)$'
}
