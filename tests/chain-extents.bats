#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Block status of a chain: the pieces of all images and of the layer below, in
# one answer or one at a time.

load lib/common

# Blocks of 64 KiB: i % 4 is 0: of the layer below, 1: the child's, 2: zeroes
# in the child over data, 3: in neither.
make_chain () {
  "$PYTHON" - <<'EOP'
with open('base.raw', 'wb') as f:
    for i in range(64):
        f.seek(i * 65536)
        if i % 4 in (0, 2):
            f.write(b'B' * 65536)
    f.truncate(64 * 65536)
EOP
  qemu-img create -q -f vmdk -o zeroed_grain=on child.vmdk 4M
  serve --filter=diff file base.raw diff=child.vmdk force-link=true -- '
    $NBDSH -u "$uri" -c "
for i in range(1, 64, 4):
    h.pwrite(b\"C\" * 65536, i * 65536)
    h.zero(65536, (i + 1) * 65536)
"'
}

# check.py: block status of every range, whole and one by one, is the truth
# about what is read, and says of all that it can be known of.
cat_check () {
  cat <<'EOP'
import os
size = h.get_size()
disk = h.pread(size, 0)
exact = os.environ["EXACT"] == "1"
def ask(n, offset, flags=0):
    got = []
    def f(context, offset, entries, error):
        if context == "base:allocation":
            for i in range(0, len(entries), 2):
                got.append((entries[i], entries[i + 1]))
    h.block_status(n, offset, f, flags)
    return got
def walk(offset, end, flags):
    while offset < end:
        got = ask(end - offset, offset, flags)
        assert got and (not flags or len(got) == 1), (offset, got)
        for n, kind in got:
            assert n > 0
            yield offset, n, kind
            offset += n
for offset, end in [(0, size), (1, size - 1), (65535, 65537 + 65536),
                    (3 * 65536, 9 * 65536 + 5), (100000, 1000000)]:
    for flags in 0, nbd.CMD_FLAG_REQ_ONE:
        kinds = {}
        for at, n, kind in walk(offset, end, flags):
            if kind & nbd.STATE_ZERO:
                assert not any(disk[at:at + n]), (at, n)
            for block in range(at // 65536, (min(at + n, end) - 1) // 65536 + 1):
                kinds.setdefault(block, set()).add(kind)
        for block, kind in kinds.items():
            want = 0 if block % 4 < 2 else 3
            if exact or block % 4 in (1, 2):
                assert kind == {want}, (block, kind, offset, end, flags)
EOP
}

check () {
  cat_check >check.py
  EXACT=$1
  export EXACT
  shift
  serve -r "$@" -- '$NBDSH --base-allocation -u "$uri" \
    -c "exec(open(\"check.py\").read())"'
}

@test "over a raw file" {
  make_chain
  check 1 --filter=diff file base.raw diff=child.vmdk force-link=true
}

@test "over a layer that is particular about requests" {
  make_chain
  nbdkit --dump-plugin --filter=blocksize-policy file >/dev/null ||
    skip "no blocksize-policy filter"
  check 1 --filter=diff --filter=blocksize-policy file base.raw \
    diff=child.vmdk force-link=true blocksize-minimum=4096 \
    blocksize-preferred=4096 blocksize-maximum=131072 \
    blocksize-error-policy=error
}

@test "over a layer that knows no extents" {
  make_chain
  check 0 --filter=diff --filter=noextents file base.raw diff=child.vmdk \
    force-link=true
}

@test "over an NBD server" {
  make_chain
  start_nbdkit -r file base.raw
  check 1 --filter=diff nbd "uri=$uri" diff=child.vmdk force-link=true
}

@test "over a layer that is smaller" {
  make_chain
  truncate -s $((33 * 65536 + 512)) base.raw
  check 0 --filter=diff file base.raw diff=child.vmdk force-link=true
}

# The layer below is asked once, not for each piece.
@test "one question to the layer below for the whole of a request" {
  make_chain
  serve -r --filter=diff --filter=log file base.raw diff=child.vmdk \
    force-link=true logfile=log -- 'nbdinfo --map "$uri"' >/dev/null
  grep -c ' Extents ' log || cat log
  [ "$(grep -c ' Extents ' log)" -le 2 ]
  # One extent is asked for where one is wanted.
  serve -r --filter=diff --filter=log file base.raw diff=child.vmdk \
    force-link=true logfile=log1 -- '$NBDSH --base-allocation -u "$uri" -c "
h.block_status(h.get_size(), 0, lambda *args: 0, nbd.CMD_FLAG_REQ_ONE)
"'
  cat log1
  assert_match "$(grep ' Extents ' log1)" 'req_one=1'
}

# Many times the parents change hands with the child; their files are asked
# for holes once for each run of data, and not for each piece.
@test "the files of parents are not looked through again and again" {
  have strace || skip "no strace"
  make_vdi base.vdi 64M
  serve vdi base.vdi -- '$NBDSH -u "$uri" -c "
for i in range(64): h.pwrite(b\"B\" * 1048576, i << 20)"'
  serve --filter=diff vdi base.vdi diff=child.vdi diff-create=vdi -- \
    '$NBDSH -u "$uri" -c "
for i in range(0, 64, 2): h.pwrite(b\"C\" * 1048576, i << 20)"'
  nbdkit_command -f -U - -r vdi child.vdi --run 'nbdinfo --map "$uri"'
  timeout "$LIMIT" strace -f -o trace -e trace=lseek "${nbdkit[@]}" \
    </dev/null 3>&- || { [ -s trace ] || skip "strace cannot trace here"; false; }
  [ "$(grep -c SEEK_HOLE trace)" -le 8 ]
}
