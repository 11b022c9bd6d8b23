# SPDX-License-Identifier: BSD-3-Clause
# VMDK images that other programs get wrong, silently for the most part: we
# serve them right or refuse them with the reason.  What the others do was
# measured with VirtualBox 7.2, qemu 7.2 and 11.1, 7-Zip 26, libvmdk and
# dissect.hypervisor.

load lib/common
load lib/m-cases

# shellcheck disable=SC2034
format=vmdk

# descriptor LINES...: disk.vmdk
descriptor () {
  { printf '# Disk DescriptorFile\nversion=1\nCID=12345678\n'
    printf 'parentCID=ffffffff\ncreateType="custom"\n\n# Extent description\n'
    printf '%s\n' "$@" '' '# The Disk Data Base' '#DDB'; } >disk.vmdk
}

@test "M01 a VirtualBox child is no base (qemu: zeroes for what the parent has)" {
  local file parent
  unpack vmdk-chain4
  mkdir alone
  for file in diff1.vmdk diff3.vmdk; do
    mv vmdk-chain4/$file alone
    parent=$(image_fact vmdk-chain4 $file parent_uuid)
    refused "$file: .*$parent" alone/$file
    refused "$file: .*$parent" alone/$file chain=none
    mv alone/$file vmdk-chain4
    assert_equal "$(hash_served vmdk vmdk-chain4/$file)" \
      "$(image_fact vmdk-chain4 $file raw_sha256)"
  done
}

# make_delta: base.vmdk and disk.vmdk by qemu, and disk.raw.
make_delta () {
  sample
  mv disk.vmdk base.vmdk
  qemu-img create -q -f vmdk -b base.vmdk -F vmdk disk.vmdk
  qemu-io -f vmdk -c 'write -P 7 5M 64k' disk.vmdk >io.log
  head -c 64K /dev/zero | tr '\0' '\7' |
    dd of=disk.raw bs=1M seek=5 conv=notrunc status=none
}

@test "M02 a delta of qemu, with its parent" {
  make_delta
  same_as disk.raw
}

@test "M02 the parent is gone: refused (VirtualBox: zeroes, exit 0)" {
  make_delta
  rm base.vmdk
  refused 'disk\.vmdk: .*base\.vmdk'
  refused 'disk\.vmdk: .*base\.vmdk' disk.vmdk chain=none
}

@test "M03 FLAT and ZERO, NOACCESS, RDONLY (qemu drops lines, or aborts)" {
  sample
  head -c 8M disk.raw >flat.raw
  descriptor 'RW 16384 FLAT "flat.raw" 0' 'RW 16384 ZERO'
  cp flat.raw want.raw
  truncate -s 16M want.raw
  same_as want.raw

  descriptor 'RW 16384 FLAT "flat.raw" 0' 'NOACCESS 16384 FLAT "flat.raw" 0'
  start_nbdkit -r vmdk disk.vmdk
  assert_equal "$(nbdinfo --size "$uri")" 16777216 size
  assert_equal "$(readable "$uri")" 0,1,2,3,4,5,6,7
  assert_match "$(cat "$server_log")" 'NOACCESS'
  run nbdcopy "$uri" null:
  [ "$status" -ne 0 ]

  descriptor 'RDONLY 16384 FLAT "flat.raw" 0'
  same_as flat.raw
  refuses 'none of its extents is RW' vmdk disk.vmdk write=require
}

@test "M04 an empty line before the extent (qemu: the extent twice)" {
  sample
  mv disk.raw flat.raw
  descriptor '' 'RW 32768 FLAT "flat.raw" 0' ''
  same_as flat.raw
}

@test "M05 a header that was resized, and a descriptor that was not" {
  vmdk_file sparse disk.vmdk capacity=32768 grains=0,17,255
  vmdk_file patch disk.vmdk capacity=98304
  same_as disk.vmdk.raw
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"a\" * 512, 12345 * 512)"'
  printf 'a%.0s' {1..512} |
    dd of=disk.vmdk.raw bs=512 seek=12345 conv=notrunc status=none
  same_as disk.vmdk.raw
  # The other way there is no disk to serve.
  vmdk_file sparse disk.vmdk capacity=32768 grains=0
  vmdk_file descriptor disk.vmdk 'RW 32768' 'RW 98304'
  refused 'disk\.vmdk: capacity is 32768, but the descriptor .*98304'
}

@test "M06 a flat image that VirtualBox has resized" {
  sample
  cp disk.raw flat.raw
  truncate -s 48M flat.raw
  descriptor '' 'RW 98304 FLAT "flat.raw" 0'
  same_as flat.raw
}

@test "M07 sparse, cut: errors, never zeroes (qemu reads zeroes, exit 0)" {
  sample
  # What is at the end of the file is at the end of the disk.
  truncate -s -200000 disk.vmdk
  start_nbdkit vmdk disk.vmdk
  assert_equal "$(readable "$uri")" 0,1,2,3,4,5,6,8,9,10,11,12,13,14
  assert_match "$(cat "$server_log")" 'disk\.vmdk: cannot be written: '
  run nbdcopy "$uri" null:
  [ "$status" -ne 0 ]
}

@test "M07 flat, half of it: errors, never zeroes (qemu reads zeroes)" {
  sample subformat=monolithicFlat
  truncate -s 8M disk-flat.vmdk
  start_nbdkit vmdk disk.vmdk
  assert_equal "$(readable "$uri")" 0,1,2,3,4,5,6,7
  assert_match "$(cat "$server_log")" 'disk-flat\.vmdk: is too short'
  assert_match "$(cat "$server_log")" 'disk\.vmdk: cannot be written: '
}

@test "M12 trim frees space and reads as zeroes (qemu: success, nothing done)" {
  trim_frees_space
  qemu-img convert -f vmdk -O raw disk.vmdk out.raw
  cmp out.raw disk.raw
}

@test "M13 zeroing a new image allocates nothing (qemu: every grain)" {
  local size
  make_vmdk disk.vmdk sparse 16M
  size=$(stat -c %s disk.vmdk)
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
h.zero(16 << 20, 0)
for i in range(16):
    h.pwrite(bytes(1 << 20), i << 20)
h.flush()
"'
  assert_equal "$(stat -c %s disk.vmdk)" "$size" size
}

@test "M14, M31 zeroed grains: zeroes (libvmdk: descriptor text)" {
  sample
  qemu-img create -q -f vmdk -o zeroed_grain=on disk.vmdk 16M
  qemu-io -f vmdk -c 'write -P 7 5M 128k' -c 'write -z 5M 64k' \
    -c 'write -z 9M 64k' disk.vmdk >io.log
  assert_equal "$(vmdk_file get disk.vmdk version 'gt[80]' 'gt[144]')" \
    "$(printf '%s\n' 2 1 1)" "version and entries"
  qemu-img convert -f vmdk -O raw disk.vmdk want.raw
  same_as want.raw
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"a\" * 512, (5 << 20) + 512)"'
  printf 'a%.0s' {1..512} |
    dd of=want.raw bs=512 seek=10241 conv=notrunc status=none
  same_as want.raw
  qemu-img convert -f vmdk -O raw disk.vmdk out.raw
  cmp out.raw want.raw
}

@test "M15 streams: qemu's are read, ours end with the end marker" {
  sample subformat=streamOptimized
  same_as disk.raw
  serve vmdk new.vmdk create=stream size=16M -- \
    'nbdcopy --flush disk.raw "$uri"'
  same_as disk.raw new.vmdk
  assert_equal "$(vmdk_file get new.vmdk version flags compressAlgorithm)" \
    "$(printf '%s\n' 3 $((0x30001)) 1)" "version, flags, compression"
  assert_equal "$(tail -c 512 new.vmdk | tr -d '\0' | wc -c)" 0 "last sector"
  assert_equal "$(($(stat -c %s new.vmdk) % 512))" 0 "odd bytes"
  qemu-img convert -f vmdk -O raw new.vmdk out.raw
  cmp out.raw disk.raw
}

@test "M16 a stream of ours, 256 MiB, in 7-Zip (fails on those of others)" {
  have 7z || skip "no 7z"
  sample
  truncate -s 256M disk.raw
  serve vmdk new.vmdk create=stream size=256M -- \
    'nbdcopy --flush disk.raw "$uri"'
  same_as disk.raw new.vmdk
  7z t -tvmdk new.vmdk || skip "this 7z reads no such stream"
}

@test "M17 a damaged table, and its copy is sound (qemu: zeroes, exit 0)" {
  local how
  for how in 'gd[0]=0x7fffffff' fill-gt=0 fill-gt=0xff; do
    sample
    vmdk_file patch disk.vmdk "$how"
    cp disk.vmdk before.vmdk
    run serve vmdk disk.vmdk -- 'nbdcopy "$uri" out.raw &&
      nbdinfo --json "$uri" | jq -e ".exports[0].is_read_only"'
    echo "$output"
    [ "$status" -eq 0 ]
    assert_match "$output" 'warning: .*disk\.vmdk: .*grain (table|directory)'
    cmp out.raw disk.raw
    cmp disk.vmdk before.vmdk
  done
}

@test "M18 the parent was written after the child was made: both values" {
  local before after
  make_delta
  before=$(grep -ao '^CID=.*' base.vmdk | head -n 1)
  qemu-io -f vmdk -c 'write -P 9 9M 64k' base.vmdk >io.log
  after=$(grep -ao '^CID=.*' base.vmdk | head -n 1)
  [ "$before" != "$after" ]
  refused "${before#CID=}"
  assert_match "$output" "${after#CID=}"
  assert_match "$output" 'disk\.vmdk'
  assert_match "$output" 'base\.vmdk'
}

@test "M20 an image that names itself as its parent (qemu: endless)" {
  vmdk_file sparse disk.vmdk capacity=32768
  vmdk_file descriptor disk.vmdk 'parentCID=ffffffff' \
    'parentCID=12345678\nparentFileNameHint="disk.vmdk"'
  LIMIT=20 refused 'disk\.vmdk'
  assert_match "$output" 'itself|cycle|loop|circle|own parent|ring'
  LIMIT=20 refused 'disk\.vmdk' disk.vmdk chain=none
}

@test "M21 a descriptor in a file called .img does not hand out a password file" {
  descriptor 'RW 2 FLAT "/etc/passwd" 0'
  truncate -s 1M disk.vmdk
  mv disk.vmdk disk.img
  refused '/etc/passwd: .*allow-paths=' disk.img
}

@test "M22 absolute names and .. are refused (qemu, VirtualBox: opened)" {
  mkdir sub
  sample
  descriptor "RW 32768 FLAT \"$PWD/disk.raw\" 0"
  refused 'disk\.raw: .*allow-paths='
  descriptor 'RW 32768 FLAT "../disk.raw" 0'
  mv disk.vmdk sub
  refused 'disk\.raw: .*allow-paths=' sub/disk.vmdk
}

@test "M23 two extents of one file, the second in its middle (libvmdk: wrong)" {
  sample
  descriptor 'RW 16384 FLAT "disk.raw" 16384' 'RW 16384 FLAT "disk.raw" 0'
  { tail -c 8M disk.raw; head -c 8M disk.raw; } >want.raw
  same_as want.raw
}

@test "M24 renamed images (libvmdk: looks for the old name)" {
  local how
  for how in monolithicSparse streamOptimized; do
    sample subformat=$how
    mkdir -p "else where"
    mv disk.vmdk "else where/other name.vmdk"
    same_as disk.raw "else where/other name.vmdk"
  done
}

@test "M26 a variant that cannot be: the message is about the variant" {
  run make_vmdk disk.vmdk vmfsSparse 16M
  [ "$status" -eq 1 ]
  assert_match "$output" 'vmfsSparse'
  [ ! -e disk.vmdk ]
  make_vmdk disk.vmdk vmfs 16M
  serve vmdk disk.vmdk -- 'nbdinfo --can write "$uri"'
}

@test "M30 an extent that is the descriptor; names like URLs" {
  descriptor 'RW 1 FLAT "disk.vmdk" 0'
  refused 'disk\.vmdk: .*names the descriptor itself'
  descriptor 'RW 1 FLAT "nbd://127.0.0.1:1/x" 0'
  refused 'nbd://127\.0\.0\.1:1/x: No such file'
  descriptor 'RW 1 FLAT "json:{\"driver\":\"nbd\"}" 0'
  refused 'disk\.vmdk: .*follows the extent file name'
}

@test "a sparse header without capacity does not lead to another file (qemu: does)" {
  vmdk_file sparse disk.vmdk capacity=32768
  vmdk_file patch disk.vmdk capacity=0
  vmdk_file descriptor disk.vmdk 'RW 32768 SPARSE "x.vmdk"' \
    'RW 4 FLAT "/etc/passwd" 0'
  refused 'disk\.vmdk: '
  [[ $output != */etc/passwd:* ]]
  # And an extent that has itself inside (qemu: crashes).
  vmdk_file sparse part.vmdk capacity=32768
  vmdk_file patch part.vmdk capacity=0
  vmdk_file descriptor part.vmdk x.vmdk part.vmdk
  descriptor 'RW 32768 SPARSE "part.vmdk"'
  refused 'part\.vmdk: capacity is 0'
}
