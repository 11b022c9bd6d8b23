# SPDX-License-Identifier: BSD-3-Clause
# Write zeroes and trim leave the same content as on a plain file.

load lib/common

# both SIZE SCRIPT: run the nbdsh script against a VDI and against a raw file
# served by nbdkit's file plugin, and compare.
both () {
  make_vdi disk.vdi "$1"
  truncate -s "$1" disk.raw
  start_nbdkit vdi disk.vdi
  python_client "$uri" "$2"
  stop_nbdkit
  start_nbdkit file disk.raw
  python_client "$uri" "$2"
  stop_nbdkit
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_served file disk.raw)" \
    content
  qemu-img check -f vdi disk.vdi
}

@test "zero requests of every size and place" {
  cat >ops.py <<'EOF'
import random
rnd = random.Random(11)
size = h.get_size()
M = 1 << 20
h.pwrite(rnd.randbytes(5 * M), 3 * M)
for i in range(300):
    n = rnd.choice((1, 511, 512, 4096, 65536, M - 512, M, M + 1, 3 * M))
    offset = rnd.randrange(size - n + 1)
    if i % 4 == 0:
        offset -= offset % M
    elif i % 4 == 1:
        offset -= offset % 512
    if i % 5 == 0:
        h.pwrite(rnd.randbytes(min(n, 100000)), offset)
    else:
        h.zero(n, offset, rnd.choice((0, nbd.CMD_FLAG_NO_HOLE,
                                      nbd.CMD_FLAG_FUA)))
    if i % 50 == 0:
        h.flush()
h.flush()
EOF
  both 16777728 ops.py
}

@test "a zero request of 1 GiB over data and holes" {
  cat >ops.py <<'EOF'
M = 1 << 20
for i in (0, 63, 64, 65, 127, 128, 200, 1023):
    h.pwrite(b"x" * M, i * M)
h.flush()
h.zero(1024 * M - 1000, 500)
h.flush()
assert h.pread(1000, 0) == b"x" * 500 + bytes(500)
for i in (63, 64, 65, 127, 128, 200):
    assert h.pread(M, i * M) == bytes(M), i
assert h.pread(501, 1024 * M - 501) == bytes(1) + b"x" * 500
EOF
  both 1G ops.py
}

@test "whole blocks that are zeroed take no space in an empty image" {
  make_vdi disk.vdi 64M
  start_nbdkit vdi disk.vdi
  python_client "$uri" 'h.zero(64 << 20, 0); h.flush()'
  assert_equal "$(map_of "$uri")" "0 67108864 3"
  stop_nbdkit
  [ "$(stat -c %s disk.vdi)" -lt $((4 << 20)) ]
}

@test "no-hole zeroes over data keep their space" {
  local before
  make_vdi disk.vdi 4M
  start_nbdkit vdi disk.vdi
  python_client "$uri" 'h.pwrite(b"x" * (4 << 20), 0); h.flush()'
  before=$(stat -c %b disk.vdi)
  python_client "$uri" '
h.zero(4 << 20, 0, nbd.CMD_FLAG_NO_HOLE)
h.flush()
assert h.pread(4 << 20, 0) == bytes(4 << 20)
'
  [ "$(stat -c %b disk.vdi)" -ge "$before" ]
}

@test "zeroes written as data take no space unless honor-zeroes and honor-same" {
  local options stored=()
  for options in '' 'honor-zeroes=true' 'honor-same=true' \
                 'honor-zeroes=true honor-same=true'; do
    rm -f disk.vdi
    make_vdi disk.vdi 4M
    # shellcheck disable=SC2086
    serve vdi disk.vdi $options -- \
      '$NBDSH -u "$uri" -c "h.pwrite(bytes(2 << 20), 1 << 20)"'
    stored+=("$("$PYTHON" "$top_srcdir/tests/data/imgfacts.py" disk.vdi |
                  jq .allocated_count)")
  done
  assert_equal "${stored[*]}" "0 0 0 2" "stored blocks"
}

@test "a fast zero is fast or refused at once, and never wrong" {
  make_vdi disk.vdi 8M
  start_nbdkit vdi disk.vdi
  cat >fast.py <<'EOF'
import errno
M = 1 << 20
if not h.can_fast_zero():
    print("fast zero is not offered")
    raise SystemExit(0)
h.pwrite(b"x" * (4 * M), 0)
for offset, n in ((0, M), (M + 512, 1024), (2 * M + 1, 3), (5 * M, 2 * M)):
    before = h.pread(n, offset)
    try:
        h.zero(n, offset, nbd.CMD_FLAG_FAST_ZERO)
    except nbd.Error as e:
        assert e.errnum in (errno.ENOTSUP, errno.EOPNOTSUPP), e
        assert h.pread(n, offset) == before
        print(offset, n, "refused")
    else:
        assert h.pread(n, offset) == bytes(n)
        print(offset, n, "done")
EOF
  python_client "$uri" fast.py
}

@test "trim gives space back and reads as zeroes" {
  local before
  make_vdi disk.vdi 32M
  start_nbdkit vdi disk.vdi
  python_client "$uri" 'h.pwrite(b"x" * (16 << 20), 0); h.flush()'
  before=$(stat -c %b disk.vdi)
  python_client "$uri" '
h.trim(8 << 20, 4 << 20)
h.flush()
assert h.pread(8 << 20, 4 << 20) == bytes(8 << 20)
assert h.pread(4 << 20, 0) == b"x" * (4 << 20)
assert h.pread(4 << 20, 12 << 20) == b"x" * (4 << 20)
'
  stop_nbdkit
  [ "$(stat -c %b disk.vdi)" -le $((before - 15000)) ] ||
    { echo "$(stat -c %b disk.vdi) of $before sectors left"; false; }
  qemu-img check -f vdi disk.vdi
}

@test "trim and write again, many times: nothing is lost, nothing grows" {
  make_vdi disk.vdi 16M
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
M = 1 << 20
for i in range(20):
    h.pwrite(bytes([i + 1]) * (8 * M), 4 * M)
    h.trim(8 * M, 4 * M)
    h.flush()
h.pwrite(b"y" * M, 5 * M)
h.flush()
assert h.pread(M, 5 * M) == b"y" * M
assert h.pread(M, 4 * M) == bytes(M)
'
  stop_nbdkit
  qemu-img check -f vdi disk.vdi
  [ "$(stat -c %s disk.vdi)" -le $((11 << 20)) ]
}

@test "nbdcopy of zeroes over data" {
  random_file data 3000000
  make_vdi disk.vdi 256M
  truncate -s 256M zero.raw
  serve vdi disk.vdi -- '
    $NBDSH -u "$uri" -c "
d = open(\"data\", \"rb\").read()
for i in (0, 70, 130, 250):
    h.pwrite(d, i << 20)
" &&
    nbdcopy --flush zero.raw "$uri"'
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file zero.raw)"
  qemu-img check -f vdi disk.vdi
}
