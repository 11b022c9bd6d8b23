# SPDX-License-Identifier: BSD-3-Clause
# The file system runs full: the client is told, nothing that was written
# before is harmed, and when there is room again writing goes on.

load lib/common

teardown () {
  common_teardown
  ! mountpoint -q "$BATS_TEST_TMPDIR/full" || umount "$BATS_TEST_TMPDIR/full"
}

# small_fs TYPE: 16 MiB in the folder "full", of which 2 MiB are taken by the
# file "filler".
small_fs () {
  [ "$(id -u)" -eq 0 ] || skip "mount needs root"
  mkdir full
  if [ "$1" = tmpfs ]; then
    mount -t tmpfs -o size=16M tmpfs full || skip "no tmpfs can be mounted"
  else
    have "mkfs.$1" || skip "no mkfs.$1"
    truncate -s 20M fs.img
    "mkfs.$1" -q fs.img || skip "mkfs.$1 fails"
    mount -o loop fs.img full 2>/dev/null || skip "no $1 can be mounted"
  fi
  head -c 2M /dev/zero | tr '\0' f >full/filler
}

until_full='
import random
rnd = random.Random(8)
want = bytearray(h.get_size())
def put(offset, data):
    h.pwrite(data, offset)
    want[offset:offset + len(data)] = data
def same():
    for offset in range(0, len(want), 1 << 20):
        assert h.pread(1 << 20, offset) == want[offset:offset + (1 << 20)], \
            offset

for i in range(4):
    put((i * 7 << 20) + 1000, rnd.randbytes(700000))
h.flush()

# Unflushed, and now the rest, in pieces of blocks and whole ones.
put(5 << 20, rnd.randbytes(300000))
full = None
for i in list(range(8, 20)) + list(range(22, 32)):
    n = rnd.choice((1 << 20, 1 << 20, 200000))
    try:
        put(i << 20, rnd.randbytes(n))
    except nbd.Error as e:
        assert e.errno == "ENOSPC", e
        full = i
        break
assert full is not None, "there was room for everything"
# It stays full, also for the same block, and what is there can be read,
# written and flushed.
for i in (full, full, 31):
    try:
        h.pwrite(rnd.randbytes(1 << 20), i << 20)
    except nbd.Error as e:
        assert e.errno == "ENOSPC", e
    else:
        raise SystemExit("block %d was written" % i)
# What failed may have been written in part, where it was asked to be.
got = h.pread(1 << 20, full << 20)
assert not any(got), "the block that failed holds something"
same()
h.flush()
put(1000, b"in place" * 1000)
h.flush()
same()
open("want.raw", "wb").write(want)
'

check_image () {
  qemu-img check -f vdi full/disk.vdi
  assert_equal "$(hash_served vdi full/disk.vdi)" "$(hash_file want.raw)"
}

runs_full () {
  small_fs "$1"
  make_vdi full/disk.vdi 32M
  start_nbdkit vdi full/disk.vdi
  python_client "$uri" "$until_full"
  assert_match "$(cat "$server_log")" 'disk\.vdi: .*make room'
  stop_nbdkit
  check_image
}

@test "tmpfs runs full" { runs_full tmpfs; }
@test "ext4 runs full" { runs_full ext4; }

# There is room for two blocks at least when the filler has gone.
go_on='
put(full << 20, rnd.randbytes(1 << 20))
put((full << 20) + 5, b"again")
h.flush()
same()
open("want.raw", "wb").write(want)
'

goes_on () {
  small_fs "$1"
  make_vdi full/disk.vdi 32M
  start_nbdkit vdi full/disk.vdi
  python_client "$uri" "$until_full" 'import os; os.unlink("full/filler")' \
    "$go_on"
  stop_nbdkit
  # Space that was found is not lost either.
  check_image
}

@test "tmpfs: room is made, and the same client goes on" { goes_on tmpfs; }

@test "ext4: room is made, and the same client goes on" { goes_on ext4; }

@test "in the middle of nbdcopy" {
  small_fs tmpfs
  random_file disk.raw 20000000
  truncate -s 32M disk.raw
  make_vdi full/disk.vdi 32M
  serve vdi full/disk.vdi -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"early\" * 1000, 30 << 20)"'
  run serve vdi full/disk.vdi -- 'nbdcopy disk.raw "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'No space left on device'
  qemu-img check -f vdi full/disk.vdi
  rm full/filler
  serve vdi full/disk.vdi write=require -- '$NBDSH -u "$uri" -c "
want = open(\"disk.raw\", \"rb\").read()
got = h.pread(30 << 20, 0)
for i in range(0, 30 << 20, 512):
    piece = got[i:i + 512]
    assert piece == want[i:i + 512] or not any(piece), i
tail = h.pread(6000, 30 << 20)
assert tail in (b\"early\" * 1000 + bytes(1000), want[30 << 20:(30 << 20) + 6000])
h.pwrite(b\"late\", 31 << 20)"'
  qemu-img check -f vdi full/disk.vdi
}

@test "a limit on the size of files" {
  make_vdi disk.vdi 32M
  cat >until.py <<'EOP'
want = {}
for i in range(32):
    try:
        h.pwrite(bytes([i + 1]) * 100000, i << 20)
        want[i] = i + 1
    except nbd.Error as e:
        print(i, e)
        # NBD has no EFBIG.
        assert e.errno in ("ENOSPC", "EFBIG", "EINVAL", "EIO"), e
assert 2 < len(want) < 30, want
h.flush()
for i in range(32):
    assert h.pread(100001, i << 20) == bytes([want.get(i, 0)]) * 100000 + b"\0"
EOP
  ( ulimit -f 12000
    serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "exec(open(\"until.py\").read())"' )
  qemu-img check -f vdi disk.vdi
}

@test "create, without room for a fixed image" {
  small_fs tmpfs
  run serve vdi full/disk.vdi create=fixed size=32M -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vdi: .*No space left'
  [ ! -e full/disk.vdi ]
  make_vdi full/disk.vdi 32M
}
