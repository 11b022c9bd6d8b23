# SPDX-License-Identifier: BSD-3-Clause
# VMDK of any size: none at all, one sector, and sizes that are no multiple of
# a grain, a grain table or a file.

load lib/common

# Writes all over the disk, first and last byte included, and shadow.raw is
# what must be there then.
fill='
import os, random
size = h.get_size()
assert size == int(os.environ["SIZE"]), size
rnd = random.Random(size)
spots = sorted({0, size - 1, size - 512, size // 2, (size - 1) // 65536 * 65536,
                *(rnd.randrange(size) for i in range(20))})
with open("shadow.raw", "wb") as f:
    f.truncate(size)
    for offset in spots:
        data = rnd.randbytes(min(rnd.choice((1, 512, 5000, 70000)),
                                 size - offset))
        h.pwrite(data, offset)
        f.seek(offset)
        f.write(data)
    n = min(1024, size)
    h.zero(n, size - n)
    f.seek(size - n)
    f.write(bytes(n))
    h.pwrite(b"E", size - 1)
    f.seek(size - 1)
    f.write(b"E")
h.flush()
'

# A stream is written once, from the front to the back.
fill_stream='
import os, random
size = h.get_size()
assert size == int(os.environ["SIZE"]), size
data = random.Random(size).randbytes(size)
for offset in range(0, size, 100000):
    h.pwrite(data[offset:offset + 100000], offset)
h.flush()
open("shadow.raw", "wb").write(data)
'

# same_in_qemu VARIANT SIZE
same_in_qemu () {
  qemu-img check -q -f vmdk disk.vmdk 2>check.log ||
    grep -q 'does not support checks' check.log || {
      cat check.log
      return 1
    }
  # It takes the size of a stream from the header, where whole grains count
  # (man page).
  [ "$1" != stream ] || truncate -s %64K shadow.raw
  assert_equal "$(qemu-img info --output=json disk.vmdk |
    jq '."virtual-size"')" "$(stat -c %s shadow.raw)" "size in qemu" &&
    qemu-img compare -f raw -F vmdk shadow.raw disk.vmdk || return 1
  truncate -s "$2" shadow.raw
}

# exercise VARIANT SIZE
exercise () {
  local variant=$1 SIZE=$2 code=$fill
  export SIZE
  [ "$variant" != stream ] || code=$fill_stream
  echo "$variant, $SIZE bytes"
  rm -f ./*.vmdk
  make_vmdk disk.vmdk "$variant" "$SIZE" 2>/dev/null || return 1
  if [ "$variant" != stream ]; then
    assert_equal "$(hash_served vmdk disk.vmdk)" \
      "$(head -c "$SIZE" /dev/zero | sha256sum | cut -c 1-64)" new || return 1
  fi
  start_nbdkit vmdk disk.vmdk write=require || return 1
  python_client "$uri" "$code" || return 1
  stop_nbdkit
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file shadow.raw)" \
    "content after reopening" || return 1
  same_in_qemu "$variant" "$SIZE" || return 1
  if [ "$variant" != stream ]; then
    # As others may find it: qemu writes, and we read.
    qemu-io -f vmdk -c "write -P 0x51 $((SIZE - 512)) 512" disk.vmdk >/dev/null ||
      return 1
    printf 'Q%.0s' {1..512} |
      dd of=shadow.raw bs=512 seek=$((SIZE / 512 - 1)) conv=notrunc status=none
    assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file shadow.raw)" \
      "what qemu wrote" || return 1
  fi
}

exercise_sizes () {
  local size
  for size in 512 1024 65024 65536 66048 1000448 33553920 33554432 33554944; do
    exercise "$1" $size || return 1
  done
}

@test "sparse" { exercise_sizes sparse; }
@test "flat" { exercise_sizes flat; }
@test "split-sparse" { exercise_sizes split-sparse; }
@test "split-flat" { exercise_sizes split-flat; }
@test "vmfs" { exercise_sizes vmfs; }
@test "stream" { exercise_sizes stream; }

@test "split: the last file has one sector" {
  local variant SIZE=$(((2047 << 20) + 512))
  export SIZE
  for variant in split-sparse split-flat; do
    rm -f ./*.vmdk
    make_vmdk disk.vmdk $variant $SIZE 2>/dev/null
    serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
size = h.get_size()
h.pwrite(b\"a\" * 1024, size - 1024)    # across the border
h.pwrite(b\"z\", size - 1)
h.flush()
"'
    assert_equal "$(find . -name 'disk-?00?.vmdk' | wc -l)" 2
    serve -r vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
import os
size = h.get_size()
assert size == int(os.environ[\"SIZE\"]), size
assert h.pread(1536, size - 1536) == bytes(512) + b\"a\" * 1023 + b\"z\"
"'
    run qemu-io -r -f vmdk -c "read -P 0x61 $((SIZE - 1024)) 512" disk.vmdk
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output != *"verification failed"* ]]
  done
}

# nothing: the disk has no bytes, and that is all right.
nothing () {
  local how
  for how in -r ''; do
    serve $how vmdk "$1" -- '$NBDSH -u "$uri" -c "
h.set_strict_mode(0)
assert h.get_size() == 0
for call in (lambda: h.pread(1, 0), lambda: h.pwrite(b\"x\", 0)):
    try:
        call()
        raise SystemExit(\"accepted\")
    except nbd.Error:
        pass
if h.can_flush():
    h.flush()
"' || return 1
    serve $how vmdk "$1" -- 'nbdcopy "$uri" null: && nbdinfo "$uri"' ||
      return 1
  done
}

@test "a disk without a byte, by qemu" {
  local subformat
  for subformat in monolithicSparse monolithicFlat twoGbMaxExtentSparse \
    twoGbMaxExtentFlat streamOptimized; do
    rm -f ./*.vmdk
    qemu-img create -q -f vmdk -o subformat=$subformat disk.vmdk 0
    if ! grep -aq '^RW ' disk.vmdk; then
      # qemu writes no extent at all; that is no disk.
      run serve -r vmdk disk.vmdk -- true
      echo "$subformat: $output"
      [ "$status" -eq 1 ]
      assert_match "$output" 'disk\.vmdk: descriptor has no extents'
      continue
    fi
    echo "$subformat"
    nothing disk.vmdk
  done
}

@test "extents without a sector" {
  random_file a.raw 1024 1
  random_file b.raw 1024 2
  : >none.raw
  describe () {
    printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 \
      parentCID=ffffffff 'createType="custom"' "$@" >disk.vmdk
  }
  describe 'RW 0 FLAT "none.raw" 0'
  nothing disk.vmdk
  describe 'RW 0 FLAT "none.raw" 0' 'RW 2 FLAT "a.raw" 0' 'RW 0 ZERO' \
    'RW 0 FLAT "none.raw" 0' 'RW 2 FLAT "b.raw" 0' 'RW 0 FLAT "none.raw" 0'
  cat a.raw b.raw >want.raw
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file want.raw)"
  serve vmdk disk.vmdk write=require -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"w\" * 1026, 511); h.flush()"'
  printf 'w%.0s' {1..1026} |
    dd of=want.raw bs=1 seek=511 conv=notrunc status=none
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file want.raw)"
  cat a.raw b.raw | cmp - want.raw
  [ ! -s none.raw ]
}

@test "create refuses what is no number of sectors, or none" {
  local size variant
  for variant in sparse flat split-sparse split-flat vmfs stream; do
    for size in 0 1 511 513 1000001; do
      run make_vmdk disk.vmdk $variant $size
      echo "$output"
      [ "$status" -ne 0 ]
      assert_match "$output" 'size.*(512|greater than 0)'
      [ -z "$(ls ./*.vmdk 2>/dev/null)" ]
    done
  done
}
