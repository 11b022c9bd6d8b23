# SPDX-License-Identifier: BSD-3-Clause
# What we create and write, qemu reads the same and finds clean; what qemu
# writes, we read.

load lib/common

# mixed_file NAME BYTES: random data, with gaps.
mixed_file () {
  local name=$1 bytes=$2
  random_file data 300000
  truncate -s "$bytes" "$name"
  dd if=data of="$name" conv=notrunc status=none
  if ((bytes > 3000000)); then
    dd if=data of="$name" bs=1 seek=1048000 count=5000 conv=notrunc status=none
    dd if=data of="$name" bs=512 seek=$(((bytes - 1024) / 512)) count=2 \
      conv=notrunc status=none
  fi
}

# check_write BYTES [PARAMETER...]
check_write () {
  local bytes=$1
  shift
  mixed_file disk.raw "$bytes"
  serve vdi file=disk.vdi size="$bytes" "$@" -- 'nbdcopy --flush disk.raw "$uri"'
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)" \
    "read back by us"
}

check_with_qemu () {
  qemu-img check -f vdi disk.vdi
  qemu-img compare -f raw -F vdi disk.raw disk.vdi
}

@test "dynamic" {
  check_write 16777216 create=dynamic
  check_with_qemu
}

@test "fixed" {
  check_write 8388608 create=fixed
  check_with_qemu
}

@test "dynamic, last block partial" {
  check_write 5244416 create=dynamic
  check_with_qemu
}

@test "fixed, last block partial" {
  check_write 3146240 create=fixed
  check_with_qemu
}

@test "smallest disk that VirtualBox makes" {
  check_write 1048576 create=dynamic
  check_with_qemu
}

# qemu knows blocks of 1 MiB only.
@test "blocks of 512 KiB, 2 MiB and 8 MiB are read back" {
  local size
  for size in 512K 2M 8M; do
    rm -f disk.vdi
    check_write 16777728 create=dynamic block-size="$size"
  done
}

@test "an image that was written in two sessions" {
  make_vdi disk.vdi 8388608
  mixed_file disk.raw 8388608
  serve vdi disk.vdi -- \
    '$NBDSH -u "$uri" -c "h.pwrite(open(\"disk.raw\", \"rb\").read(4194304), 0)"'
  serve vdi disk.vdi -- \
    '$NBDSH -u "$uri" -c "
f = open(\"disk.raw\", \"rb\")
f.seek(4194304)
h.pwrite(f.read(), 4194304)
"'
  check_with_qemu
}

@test "the header says how many blocks there are, after a client that never flushed" {
  make_vdi disk.vdi 16M
  serve vdi disk.vdi -- \
    '$NBDSH -u "$uri" -c "
for i in (9, 3, 12):
    h.pwrite(b\"x\" * 5000, i << 20)
"'
  qemu-img check -f vdi disk.vdi
  "$PYTHON" "$top_srcdir/tests/data/imgfacts.py" disk.vdi >facts.json
  assert_equal "$(jq -c '[.blocks_allocated_header, .allocated]' facts.json)" \
    '[3,["3","9","12"]]' "count, blocks"
}

@test "qemu-img convert to VDI is read by us" {
  mixed_file disk.raw 9438208
  qemu-img convert -f raw -O vdi disk.raw disk.vdi
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
  rm disk.vdi
  qemu-img convert -f raw -O vdi -o static=on disk.raw disk.vdi
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
}

@test "qemu-io writes into an image of ours" {
  have qemu-io || skip "no qemu-io"
  check_write 8388608 create=dynamic
  qemu-io -f vdi -c 'write -P 0x5a 2097152 70000' -c 'write -P 0xa5 100 1000' \
    disk.vdi
  qemu-io -f raw -c 'write -P 0x5a 2097152 70000' -c 'write -P 0xa5 100 1000' \
    disk.raw
  check_with_qemu
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
}

@test "we write into an image of qemu" {
  mixed_file disk.raw 8389120
  qemu-img create -q -f vdi disk.vdi 8389120
  serve vdi disk.vdi -- 'nbdcopy --flush disk.raw "$uri"'
  check_with_qemu
}

@test "qemu-img convert writes through NBD" {
  mixed_file disk.raw 8388608
  make_vdi disk.vdi 8388608
  serve vdi disk.vdi -- 'qemu-img convert -n -f raw -O raw disk.raw "$uri"'
  check_with_qemu
  serve -r vdi disk.vdi -- 'qemu-img compare -f raw -F raw disk.raw "$uri"'
}
