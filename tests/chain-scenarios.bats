#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# VirtualBox's own storage scenarios, through nbdkit, with every change made
# to a shadow copy too.  Sizes are a tenth of theirs.

load lib/common

SIZE=20971520                   # 20 MiB

# io.py: half of the disk is read and half of it written, at random, in pieces
# of 64 KiB, IN_FLIGHT at once; each read is compared.
write_io () {
  cat >io.py <<'EOP'
import os, random
def io(shadow, seed, in_flight, sequential=False):
    rnd = random.Random(seed)
    size, piece = len(shadow), 65536
    places = list(range(0, size, piece))
    if not sequential:
        rnd.shuffle(places)
    half = len(places) if sequential else len(places) // 2
    # What is in flight together is in different places.
    work = [("w", p) for p in places[:half]] + [("r", p) for p in places[half:]]
    if not sequential:
        rnd.shuffle(work)
    for start in range(0, len(work), in_flight):
        cookies = []
        for kind, at in work[start:start + in_flight]:
            n = min(piece, size - at)
            if kind == "w":
                data = rnd.randbytes(n)
                shadow[at:at + n] = data
                buf = nbd.Buffer.from_bytearray(bytearray(data))
                cookies.append((h.aio_pwrite(buf, at), None, at, n))
            else:
                buf = nbd.Buffer(n)
                cookies.append((h.aio_pread(buf, at), buf, at, n))
        for cookie, buf, at, n in cookies:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
            if buf is not None:
                assert buf.to_bytearray() == shadow[at:at + n], at
    h.flush()
def load():
    return bytearray(open("want.raw", "rb").read())
def save(shadow):
    assert h.pread(16 << 20, 0) == shadow[:16 << 20]
    open("want.raw", "wb").write(shadow)
EOP
}

io () {
  local code=$1
  shift
  serve "$@" -- '$NBDSH -u "$uri" -c "exec(open(\"io.py\").read())" -c "
shadow = load()
'"$code"'
save(shadow)"'
}

same () { assert_equal "$(hash_served "$@")" "$(hash_file want.raw)" "$*"; }

# plugin VARIANT: nbdkit's words for making the base.
io_script () {
  local base=$1 variant=$2 child=$3
  write_io
  truncate -s "$SIZE" want.raw
  serve "$base" base.img create="$variant" size="$SIZE" -- true
  io 'io(shadow, 1, 32, True)' "$base" base.img
  io 'io(shadow, 2, 1, True)' "$base" base.img
  same "$base" base.img
  cp want.raw base.raw
  sha256sum base.img >sums
  serve --filter=diff "$base" base.img diff=one.img diff-create="$child" -- \
    'nbdinfo --size "$uri"'
  io 'io(shadow, 3, 32); io(shadow, 4, 1)' \
    --filter=diff "$base" base.img diff=one.img
  same --filter=diff "$base" base.img diff=one.img
  cp want.raw one.raw
  sha256sum one.img >>sums
  serve --filter=diff "$base" base.img diff=one.img diff=two.img \
    diff-create="$child" -- 'nbdinfo --size "$uri"'
  io 'io(shadow, 5, 32); io(shadow, 6, 1)' \
    --filter=diff "$base" base.img diff=one.img diff=two.img
  same --filter=diff "$base" base.img diff=one.img diff=two.img
  # Deleted one by one, from the top.
  rm two.img
  cp one.raw want.raw
  same --filter=diff "$base" base.img diff=one.img
  sha256sum -c sums
  io 'io(shadow, 7, 32)' --filter=diff "$base" base.img diff=one.img
  same --filter=diff "$base" base.img diff=one.img
  rm one.img
  cp base.raw want.raw
  same "$base" base.img
  io 'io(shadow, 8, 32)' "$base" base.img
  same "$base" base.img
}

@test "a dynamic VDI, two children" { io_script vdi dynamic vdi; }
@test "a sparse VMDK, two children" { io_script vmdk sparse vmdk; }
@test "a fixed VDI, two VMDK children" { io_script vdi fixed vmdk; }
@test "a split VMDK, two VDI children" { io_script vmdk split-sparse vdi; }

@test "mixed: a VDI with five VMDK on top of it" {
  local i chain=()
  write_io
  truncate -s "$SIZE" want.raw
  serve vdi base.vdi create=dynamic size="$SIZE" -- true
  io 'io(shadow, 1, 32, True)' vdi base.vdi
  for i in 1 2 3 4 5; do
    chain+=("diff=$i.vmdk")
    serve --filter=diff vdi base.vdi "${chain[@]}" diff-create=vmdk -- \
      'nbdinfo --size "$uri"'
    io "io(shadow, 1$i, 32)" --filter=diff vdi base.vdi "${chain[@]}"
    cp want.raw "$i.raw"
  done
  # By itself, and the older states.
  same vmdk 5.vmdk
  for i in 4 2 1; do
    cp "$i.raw" want.raw
    same vmdk "$i.vmdk"
  done
  # A VDI on top of those.
  cp 5.raw want.raw
  serve --filter=diff vmdk 5.vmdk diff=6.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  io 'io(shadow, 16, 32)' vdi 6.vdi
  same vdi 6.vdi
}

@test "unaligned: 512 bytes at 3584 of a disk of 2 GiB, in a child too" {
  local format
  for format in vdi vmdk; do
    rm -f ./*.img
    serve "$format" base.img \
      create="$([ "$format" = vdi ] && echo dynamic || echo sparse)" \
      size=2G -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"A\" * 512, 3584)
h.pwrite(b\"B\" * 1024, (2 << 30) - 1024)
assert h.pread(512, 3584) == b\"A\" * 512"'
    serve --filter=diff "$format" base.img diff=child.img \
      diff-create="$format" -- '$NBDSH -u "$uri" -c "
assert h.pread(1024, 3072) == bytes(512) + b\"A\" * 512
h.pwrite(b\"C\" * 512, 3584)
h.pwrite(b\"D\" * 512, 4096)
h.pwrite(b\"E\" * 512, (2 << 30) - 512)"'
    serve -r --filter=diff "$format" base.img diff=child.img -- \
      '$NBDSH -u "$uri" -c "
assert h.pread(2048, 3072) == bytes(512) + b\"C\" * 512 + b\"D\" * 512 + bytes(512)
assert h.pread(1024, (2 << 30) - 1024) == b\"B\" * 512 + b\"E\" * 512"'
  done
}
