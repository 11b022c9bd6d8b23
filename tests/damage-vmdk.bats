# SPDX-License-Identifier: BSD-3-Clause
# One wrong value in an image: it is refused, served read-only or served, and
# what is lost is an error and never zeroes.  The images are made by
# tests/lib/vmdk.py.

load lib/common
load lib/damage

# shellcheck disable=SC2034
format=vmdk piece=$((64 << 10))
image_file () { vmdk_file "$@"; }
make_disk () { vmdk_file "${1:-sparse}" disk.vmdk "${@:2}"; }

# lost_read_only: the same, and the server knows before anyone reads.
lost_read_only () {
  lost "$1" || return 1
  not_writable ""
}

# recovered PATTERN: nothing is lost, as there is a second copy; a warning says
# so, and the file stays as it is.
recovered () {
  serve -r vmdk disk.vmdk -- 'nbdcopy "$uri" out.raw' || return 1
  warned "$1" || return 1
  cmp out.raw disk.vmdk.raw || return 1
  : >row.log
  read_only "$1"
}

@test "a wrong header is refused, with the field and its value" {
  each refused '
signature wrong; ; magic=0x664d444b; .
unfinished; ; magic=0x766d646b; incomplete stream
version 0; ; version=0; version .*is 0,
version 4; ; version=4; version .*is 4,
unknown high flag; ; flags=0x40003; flags is 0x40003.*0x40000
newline bytes wrong; ; @73:4=0x0a0a0a0a; text mode
newline bytes converted; ; @75:1=0x0a; text mode
grainSize 0; ; grainSize=0; grainSize is 0
grainSize 1; ; grainSize=1; grainSize is 1,
grainSize 2; ; grainSize=2; grainSize is 2
grainSize 4; ; grainSize=4; grainSize is 4
grainSize 3; ; grainSize=3; grainSize is 3
grainSize 12; ; grainSize=12; grainSize is 12
grainSize 4096; ; grainSize=4096; grainSize is 4096
grainSize 2^40; ; grainSize=0x10000000000; grainSize is 1099511627776
numGTEsPerGT 0; ; numGTEsPerGT=0; numGTEsPerGT is 0
numGTEsPerGT 1; ; numGTEsPerGT=1; numGTEsPerGT is 1,
numGTEsPerGT 32; ; numGTEsPerGT=32; numGTEsPerGT is 32
numGTEsPerGT 64; ; numGTEsPerGT=64; numGTEsPerGT is 64
numGTEsPerGT 100; ; numGTEsPerGT=100; numGTEsPerGT is 100
numGTEsPerGT 8192; ; numGTEsPerGT=8192; numGTEsPerGT is 8192
numGTEsPerGT all ones; ; numGTEsPerGT=-1; numGTEsPerGT is 4294967295
capacity 0; ; capacity=0; capacity is 0
capacity less than the line; ; capacity=1000; capacity is 1000, .*66560
capacity 2^40; ; capacity=0x10000000000; does not lie in the file
capacity 2^64-1; ; capacity=-1; capacity is 18446744073709551615
gdOffset and rgdOffset beyond the end; ; gdOffset=0x100000 rgdOffset=0x100000; gdOffset is 1048576
gdOffset and rgdOffset 0; ; gdOffset=0 rgdOffset=0; gdOffset is 0
gdOffset beyond the end, no copy; sparse flags=1; gdOffset=0x7fffffff; gdOffset is 2147483647
gdOffset 0, no copy; sparse flags=1; gdOffset=0; gdOffset is 0
gdOffset says footer; ; gdOffset=-1; gdOffset is 18446744073709551615
descriptorSize 0; ; descriptorSize=0; descriptorSize is 0
descriptorSize 20481; ; descriptorSize=20481; descriptorSize is 20481
descriptorSize 2049; ; descriptorSize=2049; descriptorSize is 2049
descriptorOffset beyond the end; ; descriptorOffset=0x100000; descriptorOffset is 1048576
no descriptor inside; ; descriptorOffset=0; without a descriptor in it
overHead beyond the end; ; overHead=0x100000; overHead is 1048576
compressAlgorithm 1, not compressed; ; compressAlgorithm=1; compressAlgorithm is 1
compressAlgorithm 2; ; compressAlgorithm=2; compressAlgorithm is 2
compressed without markers; ; flags=0x10003 compressAlgorithm=1; without markers
markers, not compressed; ; flags=0x20003; markers but not compressed
compressAlgorithm 0 in a stream; stream; compressAlgorithm=0; compressAlgorithm is 0
compressAlgorithm 2 in a stream; stream; compressAlgorithm=2; compressAlgorithm is 2
header cut; ; truncate=511; 511 bytes
signature only; ; truncate=4; 4 bytes
empty; ; truncate=0; .
'
}

@test "what does no harm is served, and can be written" {
  each written '
nothing wrong; ; ; 
newline bytes wrong, not to be checked; sparse flags=2; @73:4=0x0a0a0a0a;
no redundant tables; sparse flags=1; ;
grains of 8 sectors; sparse grainSize=8 capacity=8192; ;
grains of 256 sectors; sparse grainSize=256; ;
grains of 1024 sectors; sparse grainSize=1024; ;
grains of 2048 sectors; sparse grainSize=2048; ;
128 entries in a table; sparse numGTEsPerGT=128; ;
1024 entries in a table; sparse numGTEsPerGT=1024; ;
2048 entries in a table; sparse numGTEsPerGT=2048; ;
4096 entries in a table; sparse numGTEsPerGT=4096; ;
grains in any order; sparse grains=515,3,0,514; ;
not shut down in order; ; uncleanShutdown=1;
unknown low flag; ; flags=0x8003;
version 2; ; version=2;
version 3, no change tracking; ; version=3;
389 sectors; sparse capacity=389 grains=0,3; ;
389 sectors, rounded up in the header; sparse capacity=512 line=389 grains=0,3; ;
1954 sectors; sparse capacity=1954 grains=15; ;
zeroed grain; sparse version=2 flags=7; gt[5]=1 rgt[5]=1;
zeroed grain, version 1; sparse flags=7; gt[5]=1 rgt[5]=1;
'
}

@test "what is lost is an error, never zeroes, and the rest is served" {
  each lost '
entry beyond the end of the file; sparse grains=0,3; gt[3]=0x100000 rgt[3]=0x100000; 3 beyond the end of the file
entry as high as can be; sparse grains=0,3; gt[3]=-1 rgt[3]=-1; 3 beyond the end of the file
entry in the metadata; sparse grains=0,3; gt[3]=2 rgt[3]=2; 3 into the metadata
entry in the grain tables; sparse grains=0,3; gt[3]=30 rgt[3]=30; 3 into the metadata
entry 1 without zeroed grains; sparse grains=0,3; gt[3]=1 rgt[3]=1; 3 entry is 1
both directory entries beyond the end; sparse grains=0,515; gd[1]=0x7fffffff rgd[1]=0x7fffffff; 512-519 grain directory entry 1 is 2147483647
directory entry beyond the end, no copy; sparse flags=1 grains=0,515; gd[0]=0x7fffffff; 0-511 grain directory entry 0 is 2147483647
directory entry in the header, no copy; sparse flags=1 grains=0,515; gd[1]=1 ; 512-519 grain directory entry 1 is 1,
cut before the last grain; sparse grains=0,3; truncate=131072; 3 beyond the end of the file
'
}

@test "damage in one copy of the tables is made good from the other (M17)" {
  each recovered '
first directory entry; sparse grains=0,3,515; gd[0]=0x7fffffff; grain (directory|table)
second directory entry; sparse grains=0,3,515; gd[1]=0x7fffffff; grain (directory|table)
first table all 0x00; sparse grains=0,3,515; fill-gt=0; grain table (0|entry)
first table all 0xff; sparse grains=0,3,515; fill-gt=0xff; grain table (0|entry)
one entry lost; sparse grains=0,3,515; gt[3]=0; grain table (0|entry)
one entry beyond the end; sparse grains=0,3,515; gt[3]=0x7fffffff; grain table (0|entry)
the redundant table; sparse grains=0,3,515; fill-rgt=0xff; grain table (0|entry)
the redundant directory entry; sparse grains=0,3,515; rgd[0]=0x7fffffff; grain (directory|table)
gdOffset beyond the end; sparse grains=0,3,515; gdOffset=0x100000; gdOffset is 1048576
gdOffset 0; sparse grains=0,3,515; gdOffset=0; gdOffset is 0
gdOffset inside the copies of the tables; sparse grains=0,3,515; gdOffset=22; gdOffset is 22
gdOffset further inside; sparse grains=0,3,515; gdOffset=26; gdOffset is 26
rgdOffset inside the tables; sparse grains=0,3,515; rgdOffset=31; rgdOffset is 31
rgdOffset inside the second table; sparse grains=0,3,515; rgdOffset=35; rgdOffset is 35
rgdOffset in the data; sparse grains=0,3,515; rgdOffset=130; rgdOffset is 130
rgdOffset in the descriptor; sparse grains=0,3,515; rgdOffset=2; (grain table 0|directory entry 0)
rgdOffset is gdOffset; sparse grains=0,3,515; rgdOffset=30; rgdOffset is 30
rgdOffset beyond the end; sparse grains=0,3,515; rgdOffset=0x100000; rgdOffset is 1048576
'
}

@test "one entry differs and the session was not closed: the later one counts" {
  each written '
the primary is behind; sparse grains=0,3,515; gt[3]=0 uncleanShutdown=1;
the copy is behind; sparse grains=0,3,515; rgt[3]=0 uncleanShutdown=1;
'
}

@test "streams of all makes are read, and not written" {
  each read_only '
tables in front; stream grains=0,3,515; ; written once
tables at the end; stream grains=0,3,515 footer=yes; ; written once
RDONLY, as VirtualBox has it; stream grains=0,3,515 footer=yes access=RDONLY; ; a stream \(streamOptimized\) is written once.*create=sparse.*--filter=diff
no end marker, tables in front; stream grains=0,3,515 eos=no; ; written once
short last grain; stream capacity=389 grains=0,3 short=yes; ; written once
full last grain; stream capacity=389 grains=0,3; ; written once
capacity rounded up; stream capacity=512 line=389 grains=3 footer=yes; ; written once
progress markers; stream grains=0,3,515 progress=yes footer=yes; ; written once
no grains; stream grains= footer=yes; ; written once
'
}

@test "some bytes behind the end of a stream do no harm" {
  local n
  for n in 1 100 511; do
    vmdk_file stream disk.vmdk grains=0,3,515 footer=yes
    head -c $n /dev/urandom >>disk.vmdk
    assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file disk.vmdk.raw)"
  done
}

@test "a stream without its end is refused" {
  local size
  vmdk_file stream disk.vmdk grains=0,3,515 footer=yes
  size=$(stat -c %s disk.vmdk)
  each refused "
abandoned; stream grains=0,3,515 footer=yes; truncate=$((size - 5120)); (incomplete|cut off)
no end marker; stream grains=0,3,515 footer=yes eos=no; ; (incomplete|cut off)
cut short of a sector; stream grains=0,3,515 footer=yes; truncate=$((size - 512)); (incomplete|cut off)
footer marker of another type; stream grains=0,3,515 footer=yes; @$((size - 1536 + 12)):4=2; no footer marker
no directory in the footer; stream grains=0,3,515 footer=yes; @$((size - 1024 + 56)):8=-1; gdOffset is missing
directory beyond the end; stream grains=0,3,515 footer=yes; @$((size - 1024 + 56)):8=0x100000; gdOffset
footer of another version; stream grains=0,3,515 footer=yes; @$((size - 1024 + 4)):4=1; the footer has version 1
end marker of another type; stream grains=0,3,515 footer=yes; @$((size - 512 + 12)):4=9; no end-of-stream marker
lower-case magic; stream grains=0; @0:4=0x766d646b; incomplete
"
}

@test "a damaged grain of a stream is an error, and the rest is served" {
  local at
  vmdk_file stream disk.vmdk grains=0,3,515 footer=no
  at=$(($(vmdk_file get disk.vmdk 'gt[3]') * 512))
  each lost_read_only "
of another place; stream grains=0,3,515; @$at:8=128; 3 belongs to sector 128, not 384
no bytes; stream grains=0,3,515; @$((at + 8)):4=0; 3 size is 0
too many bytes; stream grains=0,3,515; @$((at + 8)):4=131073; 3 size is 131073
beyond the end of the file; stream grains=0,3,515; @$((at + 8)):4=131072; 3 beyond the end of the file
fewer bytes than there are; stream grains=0,3,515; @$((at + 8)):4=20; 3 do not inflate
damaged; stream grains=0,3,515; @$((at + 40)):4=0x12345678; 3 inflate
no zlib header; stream grains=0,3,515; @$((at + 12)):2=0; 3 do not inflate
entry beyond the end; stream grains=0,3,515; gt[3]=0x7fffffff; 3 beyond the end of the file
entry in the metadata; stream grains=0,3,515; gt[3]=2; 3 metadata
a grain that is too short; stream grains=0,3,515; @$at:8=384 @$((at + 8)):4=9 @$((at + 12)):9=hex:789c030000000001ff; 3 inflate
"
}

@test "COWD is read, and not written" {
  local grain
  for grain in 1 8; do
    vmdk_file cowd disk-delta.vmdk grain=$grain
    printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 \
      parentCID=ffffffff 'createType="vmfsSparse"' \
      'RW 32768 VMFSSPARSE "disk-delta.vmdk"' >disk.vmdk
    cp disk.vmdk before.vmdk
    mv disk-delta.vmdk.raw disk.vmdk.raw
    : >row.log
    read_only '(COWD|vmfsSparse)' >row.log 2>&1 || { cat row.log; false; }
  done
  run serve -r vmdk disk-delta.vmdk -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'is one extent \(COWD\)'
}

# sesparse PARAMETERS PATCHES: disk.vmdk, and what it must read as.
sesparse () {
  # shellcheck disable=SC2086
  vmdk_file sesparse disk-sesparse.vmdk $1
  # shellcheck disable=SC2086
  [ -z "$2" ] || vmdk_file patch disk-sesparse.vmdk $2
  printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 \
    parentCID=ffffffff 'createType="seSparse"' \
    'RW 65536 SESPARSE "disk-sesparse.vmdk"' >disk.vmdk
  cp disk.vmdk before.vmdk
  mv disk-sesparse.vmdk.raw disk.vmdk.raw
}

# What is in an entry, whole: unmapped by the guest (1), zeroes (2), a grain
# (3), and what no entry can be.
sesparse_entries='
import os
bad = {int(g) for g in os.environ["BAD"].split(",") if g}
want = open("disk.vmdk.raw", "rb").read()
for g in range(len(want) // 4096):
    try:
        got = h.pread(4096, g * 4096)
    except nbd.Error as e:
        assert g in bad, (g, e)
        assert e.errno == "EIO", e
    else:
        assert g not in bad, "%d is served" % g
        assert got == want[g * 4096:][:4096], g
'

@test "seSparse: every kind of entry" {
  local n entries='' BAD=''
  # 20 to 31 are of the kinds 4 to 15; 40 is of kind 0 and not 0; 41 is a
  # grain beyond the end of the file.
  for n in {4..15}; do
    entries+=,$((n + 16)):0x$(printf %x "$n")000000000000000
    BAD+=$((n + 16)),
  done
  BAD+=40,41
  export BAD
  sesparse "grains=8191,0,5,4095,4096 entries=7:0x1000000000000000,8:0x1fff00000000ffff,9:0x2000000000000000,10:0x2000000000000007,40:1,41:0x30000000000ffff0$entries"
  start_nbdkit vmdk disk.vmdk
  nbdinfo "$uri" | grep 'is_read_only: true'
  python_client "$uri" "$sesparse_entries"
  assert_match "$(cat "$server_log")" 'seSparse extent is only read'
  assert_match "$(cat "$server_log")" \
    'grain table entry is of an unknown type \(value 0xf000000000000000|grain table entry is of an unknown type'
  assert_match "$(cat "$server_log")" 'grain table entry is of type 0 and not 0'
  # Damage is no hole; unmapped and zero ones are.
  map_of "$uri" >map
  python_client "$uri" '
import os
bad = {int(g) for g in os.environ["BAD"].split(",") if g}
kinds = {}
for line in open("map"):
    offset, n, kind = map(int, line.split())
    for g in range(offset // 4096, (offset + n) // 4096):
        kinds[g] = kind
assert all(kinds[g] == 0 for g in bad | {0, 5, 4095, 4096, 8191}), kinds
assert all(kinds[g] & 2 for g in (1, 7, 8, 9, 10, 4000)), kinds
'
}

@test "seSparse: unmapped and zero grains hide the parent, unallocated ones do not" {
  local n
  sesparse 'grains=5 entries=7:0x1000000000000000,9:0x2000000000000000'
  "$PYTHON" -c 'print(end="p" * (1 << 25))' >base-flat.vmdk
  printf '%s\n' '# Disk DescriptorFile' version=1 CID=0000abcd \
    parentCID=ffffffff 'createType="vmfs"' \
    'RW 65536 VMFS "base-flat.vmdk"' >base.vmdk
  sed -i 's/^parentCID=.*/parentCID=abcd\nparentFileNameHint="base.vmdk"/' \
    disk.vmdk
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
want = open(\"disk.vmdk.raw\", \"rb\").read()
for g in range(12):
    got = h.pread(4096, g * 4096)
    if g == 5:
        assert got == want[g * 4096:][:4096]
    else:
        assert got == (bytes(4096) if g in (7, 9) else b\"p\" * 4096), g
"'
}

@test "seSparse: what is not known, or not finished, is refused" {
  local patch pattern
  while IFS=';' read -r patch pattern; do
    rm -f disk*.vmdk
    sesparse grains=0,5 "$patch"
    echo "$patch"
    run serve -r vmdk disk.vmdk -- 'echo CLIENT RAN'
    echo "$output"
    [ "$status" -eq 1 ]
    assert_match "$output" "disk-sesparse\.vmdk: $pattern"
  done <<'END'
@0:8=0xcafebabf;is not an seSparse extent
@8:8=0x200000002;version is 0x200000002
@24:8=16;grain size is 0x10
@32:8=128;grain table size is 0x80
@40:8=1;flags is 0x1
@48:8=1;reserved1 is 0x1
@300:1=1;the header goes on
@536:8=1;is a dirty seSparse extent
@512:8=0;the magic of the volatile header
@80:8=0xfffffff;the volatile header is at sector
@128:8=0xfffffff;the grain directory is at sector
@136:8=0;the grain directory has 0 sectors
@16:8=100;the capacity is 100 sectors
END
}

@test "the last grain below 2 TiB is written, the next one has no room" {
  vmdk_file sparse disk.vmdk capacity=131072 grains=
  truncate -s $(((1 << 41) - (1 << 16))) disk.vmdk ||
    skip "no files of 2 TiB here"
  # The place before the last one is in use.
  vmdk_file patch disk.vmdk 'gt[9]=4294967040' 'rgt[9]=4294967040'
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"a\" * 512, 0)
try:
    h.pwrite(b\"b\" * 512, 1 << 20)
    raise SystemExit(\"written\")
except nbd.Error as e:
    assert e.errno == \"ENOSPC\", e
h.flush()
assert h.pread(512, 0) == b\"a\" * 512
assert h.pread(512, 1 << 20) == bytes(512)
"'
  assert_equal "$(vmdk_file get disk.vmdk 'gt[0]' 'gt[16]')" \
    "$(printf '%s\n' 4294967168 0)" "entries"
}
