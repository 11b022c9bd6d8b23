# SPDX-License-Identifier: BSD-3-Clause
# Disks and requests of any size and place.

load lib/common

cat_sizes='
import random
rnd = random.Random(7)
size = h.get_size()
shadow = bytearray(size)
def put(offset, n):
    data = rnd.randbytes(n)
    h.pwrite(data, offset)
    shadow[offset:offset + n] = data
def check(offset, n):
    got = h.pread(n, offset)
    assert got == bytes(shadow[offset:offset + n]), (offset, n)
'

# exercise SIZE [PARAMETER...]: create=dynamic if there are none
exercise () {
  local size=$1
  shift
  serve vdi disk.vdi size="$size" "${@:-create=dynamic}" -- true
  start_nbdkit vdi disk.vdi
  assert_equal "$(timeout 60 nbdinfo --size "$uri")" "$size" size
  cat >requests.py <<EOF
$cat_sizes
# First and last byte, first and last sector, across a block's border.
put(0, 1)
put(size - 1, 1)
check(0, 512)
check(size - 512, 512)
put(size - 512, 512)
for border in (512, 4096, 65536, 512 << 10, 1 << 20, 2 << 20):
    if border + 3 < size:
        put(border - 3, 6)
        put(border, 1)
        check(border - 512, 1024)
for i in range(200):
    n = rnd.choice((1, 2, 511, 512, 513, 1024, 4096, 4097, 70000))
    n = min(n, size)
    offset = rnd.randrange(size - n + 1)
    if i % 3:
        offset -= offset % 512
    put(offset, n)
    check(offset, n)
h.flush()
step = 1 << 20
for offset in range(0, size, step):
    check(offset, min(step, size - offset))
open("shadow.raw", "wb").write(shadow)
EOF
  python_client "$uri" requests.py
  stop_nbdkit
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file shadow.raw)" \
    "content after reopening"
  rm disk.vdi
}

@test "a whole number of blocks" { exercise 4194304; }
@test "last block of one sector" { exercise 3146240; }
@test "last block short of one sector" { exercise 4193792; }
@test "blocks of 512 KiB" {
  exercise 3146240 create=dynamic block-size=512K
}
@test "blocks of 8 MiB" {
  exercise 9437696 create=dynamic block-size=8M
}
@test "fixed image" { exercise 3146240 create=fixed; }

@test "beyond the end is refused" {
  make_vdi disk.vdi 3146240
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
h.set_strict_mode(0)
size = h.get_size()
for call in (lambda: h.pread(2, size - 1), lambda: h.pwrite(b"xx", size - 1),
             lambda: h.pread(1, size), lambda: h.pwrite(b"x", size)):
    try:
        call()
    except nbd.Error as e:
        print(e)
    else:
        raise SystemExit("accepted")
'
}

@test "a new image is zero to its last byte" {
  make_vdi disk.vdi 5244416
  assert_equal "$(hash_served vdi disk.vdi)" \
    "$(head -c 5244416 /dev/zero | sha256sum | cut -c 1-64)"
}

@test "2 TiB: first and last byte" {
  make_vdi disk.vdi 2T
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
h.pwrite(b"first", 0)
h.pwrite(b"last", h.get_size() - 4)
h.flush()
'
  stop_nbdkit
  start_nbdkit -r vdi disk.vdi
  python_client "$uri" '
assert h.get_size() == 2 << 40
assert h.pread(6, 0) == b"first\0"
assert h.pread(5, h.get_size() - 5) == b"\0last"
'
  # The map takes 8 MiB, two blocks 2 MiB.
  [ "$(stat -c %s disk.vdi)" -lt $((16 << 20)) ]
}

@test "create refuses what VDI cannot hold" {
  local bad
  for bad in 1000001 0; do
    run make_vdi disk.vdi "$bad"
    [ "$status" -ne 0 ]
    [ ! -e disk.vdi ]
  done
}

@test "create does not touch a file that is there" {
  echo precious >disk.vdi
  run make_vdi disk.vdi 4M
  [ "$status" -ne 0 ]
  assert_match "$output" 'disk.vdi'
  assert_equal "$(cat disk.vdi)" precious
}
