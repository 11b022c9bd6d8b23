# SPDX-License-Identifier: BSD-3-Clause
# One wrong value in an image: it is refused, served read-only or served, and
# what is lost is an error and never zeroes.  The images are made by
# tests/lib/vdi.py.

load lib/common
load lib/damage

# shellcheck disable=SC2034
format=vdi piece=$((512 << 10))
image_file () { vdi_file "$@"; }

# Whole sectors are served.
make_disk () {
  vdi_file make disk.vdi "$@" || return 1
  truncate -s $(($(stat -c %s disk.vdi.raw) / 512 * 512)) disk.vdi.raw
}

# lost_read_only "RANGES PATTERN": lost, and the server knows when it opens the
# image: clients get it read-only.
lost_read_only () {
  local pattern=${1#* }
  serve vdi disk.vdi -- '
    nbdinfo --json "$uri" | jq -e ".exports[0].is_read_only"' || return 1
  warned "$pattern" || return 1
  lost "$1" || return 1
  not_writable "$pattern"
}

@test "a wrong header is refused, with the field and its value" {
  each refused '
signature wrong; ; signature=0xbeda107e; signature
version 2.0; ; version=0x20000; version is 2\.0
version 0.1; ; version=1; version is 0\.1
version 0.3; ; version=3; version is 0\.3
cbHeader 383; ; cbHeader=383; cbHeader is 383
type 0; ; type=0; u32Type is 0
type 5; ; type=5; u32Type is 5
flags 2; ; flags=2; fFlags is 0x2
flags 0x80; ; flags=0x80; fFlags is 0x80
flags 0x100; ; flags=0x100; fFlags is 0x100
flags 0x200; ; flags=0x200; fFlags is 0x200
map inside the header; ; offBlocks=455; offBlocks is 455
map after the data; ; offBlocks=3M; offData is 2097152.*offBlocks 3145728
data one byte inside the map; ; offData=0x10001f; offData is 1048607
data at 0; ; offData=0; offData is 0
cbDisk 0; ; cbDisk=0; cbDisk is 0
cbDisk 511; ; cbDisk=511; cbDisk is 511
cbDisk one sector too large; ; cbDisk=8389120; cbDisk is 8389120
cbDisk huge; ; cbDisk=0xffffffffffffffff; cbDisk is 18446744073709551615
cbBlock 0; ; cbBlock=0; cbBlock is 0
cbBlock 1; ; cbBlock=1; cbBlock is 1,
cbBlock 2K; ; cbBlock=2K; cbBlock is 2048
cbBlock 1M-1; ; cbBlock=1048575; cbBlock is 1048575
cbBlock 3M; ; cbBlock=3M; cbBlock is 3145728
cbBlock 512M; ; cbBlock=512M; cbBlock is 536870912
cbBlock 2G; ; cbBlock=2G; cbBlock is 2147483648
extra 1; ; cbBlockExtra=1; cbBlockExtra is 1,
extra 3; ; cbBlockExtra=3; cbBlockExtra is 3
extra 2G; ; cbBlockExtra=2G; cbBlockExtra is 2147483648
cBlocks 0; ; cBlocks=0; cBlocks is 0
cBlocks too small; ; cBlocks=7; cBlocks \(7\)
cBlocks beyond the data; ; cBlocks=300000; cBlocks 300000
cBlocks 0x40000000; ; cBlocks=0x40000000; cBlocks is 1073741824|cBlocks 1073741824
cBlocks 0x40000001; ; cBlocks=0x40000001; cBlocks is 1073741825
cBlocks 0xffffffff; ; cBlocks=0xffffffff; cBlocks is 4294967295
parent named, type 1; ; uuidLinkage=0102030405060708090a0b0c0d0e0f10; 04030201-0605-0807-090a-0b0c0d0e0f10
type 4 without parent; ; type=4; parent
type 4; ; type=4 uuidLinkage=0102030405060708090a0b0c0d0e0f10; 04030201-0605-0807-090a-0b0c0d0e0f10
cut inside the map; ; truncate=1048600; block map.*1048600
cut inside the header; ; truncate=300; 300 bytes
cut inside the signature; ; truncate=66; .
empty; ; truncate=0; .
'
}

@test "an image that may be read only is served so, with the reason" {
  each read_only '
version 0.2; version=2; ; version is 0\.2
version 1.0; ; version=0x10000; version is 1\.0
version 1.2; ; version=0x10002; version is 1\.2
version 1.65535; ; version=0x1ffff; version is 1\.65535
flags above bit 23; ; flags=0x1000000; fFlags is 0x1000000
cbHeader 0xffffffff; ; cbHeader=0xffffffff; cbHeader is 4294967295
map in the last fields of the header; offBlocks=456 offData=1M; ; cbHeader is 400
map at an odd place; offBlocks=1048577 offData=2M; ; offBlocks is 1048577
data right behind the map; offData=1048608; ; offData is 1048608
extra 2; cbBlockExtra=2; ; cbBlockExtra is 2
no image UUID; ; uuidCreate=null; uuidCreate is null
no modification UUID; ; uuidModify=null; uuidModify is null
one entry too many, which is garbage; ; cBlocks=9; block map entry 8 is 0
'
}

@test "two blocks in one place are read, and not written" {
  vdi_file make disk.vdi
  vdi_file patch disk.vdi map[5]=0
  dd if=disk.vdi.raw of=disk.vdi.raw bs=1M skip=3 seek=5 count=1 \
    conv=notrunc status=none
  cp disk.vdi before.vdi
  read_only 'block map entry 5 is 0, as is an entry before it' >row.log 2>&1 ||
    { cat row.log; false; }
}

@test "what does no harm is served, and can be written" {
  each written '
nothing wrong; ; ;
other text; ; text=hello;
no text; ; text=;
cbHeader 384; ; cbHeader=384;
cbHeader 399; ; cbHeader=399;
cbHeader 512; ; cbHeader=512;
type 2 with free blocks; ; type=2;
flags 1; ; flags=1;
comment without end; ; comment=long;
comment with control characters; ; comment=\x1b[31m;
map right behind the old header; offBlocks=456 cbHeader=384 offData=1M; ;
map and data as qemu lays them out; offBlocks=512 offData=1K cbHeader=384; ;
legacy sector 0; ; legacySector=0;
legacy sector 4096; ; legacySector=4096;
geometry with sectors of 0; ; lchsSector=0;
geometry that makes no sense; ; lchsCylinders=32626 lchsHeads=30250084 lchsSectors=22009;
dummy 1; ; dummy=1;
cbDisk smaller than the map; cbDisk=4194816; ;
cbDisk odd; cbDisk=8388508; ; cbDisk is 8388508
one entry too many; map=1,free,free,0,free,free,free,free,free cbDisk=8M; ;
blocks of 4K; cbBlock=4K; ;
blocks of 64K; cbBlock=64K; ;
blocks of 128K; cbBlock=128K; ;
blocks of 4M; cbBlock=4M; ;
blocks of 256M; cbBlock=256M map=free; ;
extra 512; cbBlockExtra=512; ;
extra 1M; cbBlockExtra=1M; ;
count 0; ; cBlocksAllocated=0; cBlocksAllocated is 0
count too low; ; cBlocksAllocated=1; cBlocksAllocated is 1
count too high; ; cBlocksAllocated=7;
count as many as blocks; ; cBlocksAllocated=8;
count above the blocks; ; cBlocksAllocated=9; cBlocksAllocated is 9
count 0xffffffff; ; cBlocksAllocated=0xffffffff; cBlocksAllocated is 4294967295
parent modification, but no parent; ; uuidParentModify=0102030405060708090a0b0c0d0e0f10;
something behind the last block; tail=70000; ;
a hole in the numbering; map=3,free,free,1,free,free,free,free; ;
'
}

@test "lost blocks are errors, never zeroes, and the rest is served" {
  each lost_read_only '
entry beyond cBlocks; ; map[5]=1000; 10,11 block map entry 5 is 1000
entry beyond the file; ; map[5]=7; 10,11 block map entry 5 is 7
entry as high as can be; ; map[7]=0xfffffffd; 14,15 block map entry 7 is 4294967293
two of them, side by side; ; map[1]=6 map[2]=7; 2-5 block map entry 1 is 6
cut within a block; ; truncate=3670016; 1 block map entry 0 is 1
cut before the last block; ; truncate=3M; 0,1 block map entry 0 is 1
cut behind the map; ; truncate=2M; 0,1,6,7 block map entry 0 is 1
cut short of one sector; ; truncate=4193792; 1 block map entry 0 is 1
blocks of 4M, one is gone; cbBlock=4M; truncate=6M; 0-7 block map entry 0 is 1
'
}
