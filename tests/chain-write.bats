#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Writing into the top of a chain: what is not written comes from the parent,
# zeroes stay zeroes, and nothing below the top is ever touched.

load lib/common

SIZE=4718592                    # 4.5 MiB

# The same changes to a disk over NBD and to FILE, from a seed.
changes () {
  cat <<EOP
import random
rnd = random.Random($2)
size = h.get_size()
raw = open("$1", "r+b")
def put(data, offset):
    raw.seek(offset)
    raw.write(data)
for i in range(40):
    n = rnd.choice((1, 512, 100, 4096, 70000, 65536, 512 << 10, 1 << 20))
    offset = rnd.randrange(size - n)
    if rnd.random() < 0.4:
        offset -= offset % 65536
    kind = rnd.randrange(4)
    if kind == 0:
        h.zero(n, offset, rnd.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        put(bytes(n), offset)
    elif kind == 1:
        h.pwrite(bytes(n), offset)
        put(bytes(n), offset)
    else:
        data = rnd.randbytes(n)
        h.pwrite(data, offset)
        put(data, offset)
    if rnd.random() < 0.1:
        h.flush()
raw.close()
EOP
}

# base WHAT: makes the base with random content, and base.raw; sets layer, the
# words of nbdkit's command line that serve it, and sums.
base () {
  random_file base.raw "$SIZE" 7
  # Part of it is empty.
  dd if=/dev/zero of=base.raw bs=64K seek=20 count=10 conv=notrunc status=none
  case $1 in
    vdi) serve vdi base.img create=dynamic size="$SIZE" -- \
           'nbdcopy base.raw "$uri"'
         layer=(vdi base.img) ;;
    vmdk) serve vmdk base.img create=sparse size="$SIZE" -- \
            'nbdcopy base.raw "$uri"'
          layer=(vmdk base.img) ;;
    qemu-vmdk) qemu-img convert -O vmdk base.raw base.img
               layer=(vmdk base.img) ;;
    raw) cp base.raw base.img
         layer=(file base.img) ;;
    log) cp base.raw base.img
         layer=(--filter=log --filter=cow file base.img logfile=/dev/null) ;;
    nbd) serve vdi base.img create=dynamic size="$SIZE" -- \
           'nbdcopy base.raw "$uri"'
         start_nbdkit vdi base.img
         layer=(nbd "uri=$uri") ;;
  esac
  sha256sum base.img >sums
}

# written_over FORMAT BASE: three sessions in a child, then a grandchild.
written_over () {
  local format=$1 seed
  base "$2"
  cp base.raw want.raw
  serve --filter=diff "${layer[@]}" diff=child."$format" \
    diff-create="$format" -- 'nbdinfo --size "$uri"'
  for seed in 1 2 3; do
    changes want.raw $seed >changes.py
    serve --filter=diff "${layer[@]}" diff=child."$format" -- \
      '$NBDSH -u "$uri" -c "exec(open(\"changes.py\").read())"; nbdcopy "$uri" now.raw'
    cmp now.raw want.raw
    assert_equal "$(hash_served --filter=diff "${layer[@]}" \
      diff=child."$format")" "$(hash_file want.raw)" "after session $seed"
  done
  cp want.raw child.raw
  sha256sum child."$format" >>sums
  serve --filter=diff "${layer[@]}" diff=child."$format" diff=grand.vdi \
    diff-create=vdi -- 'nbdinfo --size "$uri"'
  changes want.raw 4 >changes.py
  serve --filter=diff "${layer[@]}" diff=child."$format" diff=grand.vdi -- \
    '$NBDSH -u "$uri" -c "exec(open(\"changes.py\").read())"'
  assert_equal "$(hash_served --filter=diff --filter=diff "${layer[@]}" \
    diff=child."$format" diff=grand.vdi)" "$(hash_file want.raw)" grandchild
  sha256sum -c sums
}

@test "VDI over VDI" { written_over vdi vdi; }
@test "VDI over VMDK" { written_over vdi vmdk; }
@test "VDI over raw" { written_over vdi raw; }
@test "VDI over the log and cow filters" { written_over vdi log; }
@test "VDI over an NBD server" { written_over vdi nbd; }
@test "VMDK over VDI" { written_over vmdk vdi; }
@test "VMDK over VMDK" { written_over vmdk vmdk; }
@test "VMDK over a VMDK of qemu" { written_over vmdk qemu-vmdk; }
@test "VMDK over an NBD server" { written_over vmdk nbd; }

@test "a new VMDK on a disk without a name is refused, and nothing is left" {
  base raw
  run serve --filter=diff file base.img diff=child.vmdk diff-create=vmdk -- \
    'nbdinfo --size "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'neither a UUID nor a CID'
  [ ! -e child.vmdk ]
}

@test "diff-create= on one of our images, known at once; both links are made" {
  base vmdk
  serve --filter=diff vmdk base.img diff=one.vmdk diff-create=vmdk -- \
    'nbdinfo --size "$uri"'
  serve --filter=diff vmdk base.img diff=one.vmdk diff=two.vmdk \
    diff-create=vmdk -- 'nbdinfo --size "$uri"'
  strings two.vmdk >text
  assert_match "$(cat text)" 'parentFileNameHint="one.vmdk"'
  assert_match "$(cat text)" \
    "ddb.uuid.parent = \"$(strings one.vmdk | sed -n 's/^ddb.uuid.image = "\(.*\)"/\1/p')\""
  assert_match "$(cat text)" \
    "parentCID=$(strings one.vmdk | sed -n 's/^CID=//p')"
  # It must not exist.
  sha256sum two.vmdk >sum
  run serve --filter=diff vmdk base.img diff=one.vmdk diff=two.vmdk \
    diff-create=vmdk -- true
  [ "$status" -ne 0 ]
  assert_match "$output" 'exists'
  sha256sum -c sum
}

@test "diff-create=vmdk in another folder: the hint still leads to the parent" {
  mkdir a b
  serve vmdk a/base.vmdk create=sparse size="$SIZE" -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"base\" * 1000, 0)"'
  serve --filter=diff vmdk a/base.vmdk diff=a/one.vmdk diff-create=vmdk -- \
    'nbdinfo --size "$uri"'
  serve --filter=diff vmdk a/base.vmdk diff=a/one.vmdk diff=b/two.vmdk \
    diff-create=vmdk -- '$NBDSH -u "$uri" -c "h.pwrite(b\"two\", 5000)"'
  assert_match "$(strings b/two.vmdk)" \
    "parentFileNameHint=\"$PWD/a/one.vmdk\""
}

# ---- zeroes --------------------------------------------------------------------

# VirtualBox issue 850: two blocks of 0x5a, one is zeroed in the child; after
# a reopen it must still be zero.
zeroes_stay () {
  serve "$1" base.img create="$2" size=4M -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"\x5a\" * (2 << 20), 0)"'
  issue850 "$1" "$3"
}

issue850 () {
  serve --filter=diff "$1" base.img diff=child.img diff-create="$2" -- '
    $NBDSH -u "$uri" -c "
h.pwrite(bytes(1 << 20), 0)
h.zero(65536, (1 << 20) + 65536)
h.zero(65536, (1 << 20) + 3 * 65536, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(1 << 20, 0) == bytes(1 << 20)
"'
  head -c $((1 << 20)) /dev/zero >want.raw
  head -c $((1 << 20)) /dev/zero | tr '\0' Z >>want.raw
  truncate -s 4M want.raw
  dd if=/dev/zero of=want.raw bs=64K seek=17 count=1 conv=notrunc status=none
  dd if=/dev/zero of=want.raw bs=64K seek=19 count=1 conv=notrunc status=none
  for _ in 1 2; do
    serve --filter=diff "$1" base.img diff=child.img -- 'nbdcopy "$uri" now.raw'
    cmp now.raw want.raw
    # And under another child.
    serve --filter=diff "$1" base.img diff=child.img -- \
      '$NBDSH -u "$uri" -c "h.pwrite(b\"Z\", (1 << 20) + 100)"'
  done
}

@test "zeroes in a VDI child stay (VDI base)" { zeroes_stay vdi dynamic vdi; }
@test "zeroes in a VDI child stay (VMDK base)" { zeroes_stay vmdk sparse vdi; }
@test "zeroes in a VMDK child stay (VMDK base)" { zeroes_stay vmdk sparse vmdk; }
@test "zeroes in a VMDK child stay (VDI base)" { zeroes_stay vdi dynamic vmdk; }

@test "zeroes in a VMDK child with zeroed grains stay" {
  qemu-img create -q -f vmdk base.img 4M
  qemu-io -f vmdk -c 'write -P 0x5a 0 2M' base.img
  qemu-img create -q -f vmdk -o zeroed_grain=on -b base.img -F vmdk child.img
  serve --filter=diff vmdk base.img diff=child.img -- '
    $NBDSH -u "$uri" -c "
h.pwrite(bytes(1 << 20), 0)
h.zero(65536, (1 << 20) + 65536)
"'
  # Marked, not stored.
  [ "$(stat -c %s child.img)" -lt 524288 ]
  serve -r --filter=diff vmdk base.img diff=child.img -- 'nbdcopy "$uri" now.raw'
  qemu-img convert -O raw child.img qemu.raw
  cmp now.raw qemu.raw
  [ "$(head -c 1048576 now.raw | tr -d '\0' | wc -c)" -eq 0 ]
  assert_equal "$(od -An -tx1 -j1048576 -N1 now.raw)" ' 5a'
}

@test "trim in a child: zero or as before, never older data" {
  base vdi
  serve --filter=diff vdi base.img diff=child.vdi diff-create=vdi -- '
    $NBDSH -u "$uri" -c "
new = b\"N\" * (1 << 20)
h.pwrite(new, 0)
h.trim(1 << 20, 0)
assert h.pread(1 << 20, 0) in (new, bytes(1 << 20))
h.trim(1 << 20, 2 << 20)
h.trim(1000, (3 << 20) + 100)
open(\"trimmed\", \"wb\").write(h.pread(h.get_size(), 0))
"'
  serve -r --filter=diff vdi base.img diff=child.vdi -- 'nbdcopy "$uri" now.raw'
  cmp now.raw trimmed
  sha256sum -c sums
  # The part of a block that was not trimmed is the parent's.
  cmp -n 100 -i 3145728 now.raw base.raw
}

# ---- honor-zeroes, honor-same ------------------------------------------------------

@test "what changes nothing is stored with honor-same only" {
  base vdi
  cat >same.py <<'EOP'
data = open("base.raw", "rb").read()
h.pwrite(data[:1 << 20], 0)
h.pwrite(data[5 << 18:(5 << 18) + 4096], 5 << 18)
EOP
  local n before
  for n in "" honor-same=true; do
    rm -f child.vdi
    serve --filter=diff vdi base.img diff=child.vdi diff-create=vdi -- \
      'nbdinfo --size "$uri"'
    before=$(stat -c %s child.vdi)
    serve --filter=diff vdi base.img diff=child.vdi ${n:+"$n"} -- \
      '$NBDSH -u "$uri" -c "exec(open(\"same.py\").read())"'
    if [ -z "$n" ]; then
      assert_equal "$(stat -c %s child.vdi)" "$before" "size without"
    else
      assert_equal "$(stat -c %s child.vdi)" "$((before + (2 << 20)))" \
        "size with"
    fi
  done
}

# ---- UUIDs -------------------------------------------------------------------------

field () { "$PYTHON" "$lib/vdi.py" get "$@"; }

@test "the first stored write renews the modification UUID and the CID" {
  base vdi
  serve --filter=diff vdi base.img diff=child.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  sha256sum child.vdi >same
  serve -r --filter=diff vdi base.img diff=child.vdi -- 'nbdcopy "$uri" null:'
  serve --filter=diff vdi base.img diff=child.vdi -- 'nbdcopy "$uri" null:'
  # A write that is suppressed is none.
  serve --filter=diff vdi base.img diff=child.vdi -- \
    '$NBDSH -u "$uri" -c "h.pwrite(h.pread(5000, 300), 300)"'
  sha256sum -c same
  local before
  before=$(field child.vdi uuidModify)
  serve --filter=diff vdi base.img diff=child.vdi -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"x\", 0)"'
  [ "$(field child.vdi uuidModify)" != "$before" ]

  serve --filter=diff vdi base.img diff=child.vmdk diff-create=vmdk -- \
    'nbdinfo --size "$uri"'
  strings child.vmdk | grep -a -E '^CID=|modification' >ids
  serve --filter=diff vdi base.img diff=child.vmdk -- 'nbdcopy "$uri" null:'
  strings child.vmdk | grep -a -E '^CID=|modification' | diff - ids
  serve --filter=diff vdi base.img diff=child.vmdk -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"x\", 0)"'
  # Both lines differ now, and the parent's are as they were.
  [ "$(strings child.vmdk | grep -a -E '^CID=|ddb.uuid.modification' |
         grep -vxFc -f ids)" -eq 2 ]
  [ "$(strings child.vmdk | grep -a -c parentmodification)" -eq 1 ]
  strings child.vmdk | grep -a parentmodification | grep -xqFf ids
  sha256sum -c sums
}

@test "-r, readonly=true and diff-readonly=true write nothing" {
  unpack vdi-chain4
  cd vdi-chain4
  sha256sum ./* >../sums
  serve -r vdi diff3.vdi -- 'nbdinfo "$uri"' >../info
  assert_match "$(cat ../info)" 'is_read_only: true'
  serve vdi diff3.vdi readonly=true -- 'nbdinfo "$uri"' >../info
  assert_match "$(cat ../info)" 'is_read_only: true'
  serve --filter=diff vdi base.vdi diff=diff1.vdi diff-readonly=true -- \
    'nbdinfo "$uri"' >../info
  assert_match "$(cat ../info)" 'is_read_only: true'
  sha256sum -c ../sums
  fails=$(serve --filter=diff vdi base.vdi diff=diff1.vdi \
    diff-readonly=true diff-write=require -- true 2>&1) && false
  assert_match "$fails" 'contradict'
}

# ---- below the top --------------------------------------------------------------------

@test "nothing below the top is opened for writing" {
  have strace || skip "no strace"
  unpack mixed-chain
  cd mixed-chain
  sha256sum base.vdi mid.vmdk >../sums
  nbdkit_command -f -U - vdi top.vdi --run \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"x\" * 100000, 12345)"'
  timeout "$LIMIT" strace -f -o ../trace -e trace=openat,openat2,open \
    "${nbdkit[@]}" </dev/null 3>&- || {
    [ -s ../trace ] || skip "strace cannot trace here"
    false
  }
  run grep -E '(base\.vdi|mid\.vmdk).*O_(RDWR|WRONLY)' ../trace
  [ "$status" -ne 0 ]
  sha256sum -c ../sums
}

@test "a chain whose parents cannot be written is written at its top" {
  unpack vdi-chain4
  cd vdi-chain4
  chmod 444 base.vdi diff1.vdi diff2.vdi
  sha256sum base.vdi diff1.vdi diff2.vdi >../sums
  serve vdi diff3.vdi write=require -- \
    '$NBDSH -u "$uri" -c "h.pwrite(b\"x\" * 100000, 12345)"'
  sha256sum -c ../sums
}

@test "the plugin by itself writes the top only, and other levels stand still" {
  unpack vmdk-chain4
  cd vmdk-chain4
  sha256sum base.vmdk diff1.vmdk diff2.vmdk >../sums
  start_nbdkit vmdk diff3.vmdk
  before=$(hash_of "nbd+unix:///diff2.vmdk?socket=$socket")
  python_client "$uri" -c 'h.pwrite(b"live" * 5000, 777)'
  # The leaf's own name is a live view of it.
  assert_equal "$(hash_of "nbd+unix:///diff3.vmdk?socket=$socket")" \
    "$(hash_of "$uri")" "live view"
  assert_equal "$(hash_of "nbd+unix:///diff2.vmdk?socket=$socket")" \
    "$before" "below"
  stop_nbdkit
  sha256sum -c ../sums
}
