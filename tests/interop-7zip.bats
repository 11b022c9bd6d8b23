# SPDX-License-Identifier: BSD-3-Clause
# 7-Zip, which has a VDI reader of its own, unpacks our images right.

load lib/common

setup () {
  common_setup
  seven=$(command -v 7zz || command -v 7z) || skip "no 7-Zip"
  random_file data 3000000
}

# unpacks SIZE [PARAMETER...]: a disk that we make and write.
unpacks () {
  local size=$1 out
  shift
  cp data disk.raw
  truncate -s "$size" disk.raw
  printf 'end' | dd of=disk.raw bs=1 seek=$((size - 3)) conv=notrunc status=none
  serve vdi disk.vdi size="$size" "$@" -- '
    nbdcopy disk.raw "$uri" &&
    $NBDSH -u "$uri" -c "
h.pwrite(b\"mid\" * 20000, 4 << 20)
h.zero(1 << 20, 1 << 20)
h.zero(1 << 20, 3 << 20)"'
  printf 'mid%.0s' {1..20000} |
    dd of=disk.raw bs=1M seek=4 conv=notrunc status=none
  dd if=/dev/zero of=disk.raw bs=1M seek=1 count=1 conv=notrunc status=none
  dd if=/dev/zero of=disk.raw bs=1M seek=3 count=1 conv=notrunc status=none

  run "$seven" l -tVDI disk.vdi
  [ "$status" -eq 0 ] || { echo "$output"; return 1; }
  assert_match "$output" " $size "
  rm -rf out
  run "$seven" x -tVDI -oout disk.vdi
  [ "$status" -eq 0 ] || { echo "$output"; return 1; }
  out=(out/*)
  cmp "${out[0]}" disk.raw
}

@test "dynamic" { unpacks 8388608 create=dynamic; }
@test "dynamic, last block partial" { unpacks 9438208 create=dynamic; }
@test "fixed" { unpacks 8388608 create=fixed; }
@test "dynamic, aligned to 512" { unpacks 8388608 create=dynamic data-alignment=512; }
