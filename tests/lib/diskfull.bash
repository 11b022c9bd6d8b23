# SPDX-License-Identifier: BSD-3-Clause
# A file system that is too small, and a client that fills it.
# shellcheck shell=bash disable=SC2034

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

# For nbdsh, on a disk of 32 MiB that has not the room there: writes until it
# is full, and looks at what there is then.  Leaves want.raw.
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
tried = {}
for i in list(range(8, 20)) + list(range(22, 32)):
    n = rnd.choice((1 << 20, 1 << 20, 200000))
    data = rnd.randbytes(n)
    try:
        put(i << 20, data)
    except nbd.Error as e:
        assert e.errno == "ENOSPC", e
        full = i
        tried[i] = [data + bytes((1 << 20) - n)]
        break
assert full is not None, "there was room for everything"
# It stays full, also for the same block, and what is there can be read,
# written and flushed.
for i in (full, full, 31):
    data = rnd.randbytes(1 << 20)
    tried.setdefault(i, []).append(data)
    try:
        h.pwrite(data, i << 20)
    except nbd.Error as e:
        assert e.errno == "ENOSPC", e
    else:
        raise SystemExit("block %d was written" % i)
# What failed may have been written in part, where it was asked to be.
for i in tried:
    got = h.pread(1 << 20, i << 20)
    for at in range(0, 1 << 20, 512):
        piece = got[at:at + 512]
        assert not any(piece) or piece in \
            [data[at:at + 512] for data in tried[i]], (i, at)
    want[i << 20:(i + 1) << 20] = got
same()
h.flush()
put(1000, b"in place" * 1000)
h.flush()
same()
open("want.raw", "wb").write(want)
'
