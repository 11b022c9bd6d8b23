# SPDX-License-Identifier: BSD-3-Clause
# VDI images that other programs get wrong, silently for the most part: we
# serve them right or refuse them with the reason.  What the others do was
# measured with VirtualBox 7.2, qemu 7.2 and 11.1, 7-Zip 26 and
# dissect.hypervisor.

load lib/common
load lib/m-cases

# shellcheck disable=SC2034
format=vdi

@test "M07 a file cut inside a block: error for this block only (qemu reads zeroes, exit 0)" {
  sample
  # The last place holds block 15.
  truncate -s -1000000 disk.vdi
  start_nbdkit vdi disk.vdi
  assert_equal "$(readable "$uri")" 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14
  assert_match "$(cat "$server_log")" 'disk\.vdi: cannot be written: block map entry 15 '
  assert_match "$(cat "$server_log")" 'error: .*disk\.vdi: read at disk offset 15777216: block map entry'
  run nbdcopy "$uri" null:
  [ "$status" -ne 0 ]
}

@test "M08 a map entry of 1000 in 16: error for this block only (qemu reads zeroes)" {
  sample
  vdi_file patch disk.vdi 'map[3]=1000'
  start_nbdkit vdi disk.vdi
  assert_equal "$(readable "$uri")" 0,1,2,4,5,6,7,8,9,10,11,12,13,14,15
  assert_match "$(cat "$server_log")" \
    'disk\.vdi: cannot be written: block map entry 3 is 1000, '
}

@test "M08 two entries share a block: never written (VirtualBox writes both)" {
  sample
  vdi_file patch disk.vdi "map[5]=$(vdi_file get disk.vdi 'map[7]')"
  sha256sum disk.vdi >before
  refuses 'disk\.vdi: .*block map entry 7 is ' vdi disk.vdi write=require
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
assert h.is_read_only()
want = open("disk.raw", "rb").read()
block = want[7 << 20:8 << 20]
assert h.pread(1 << 20, 7 << 20) == block
assert h.pread(1 << 20, 5 << 20) == block
assert h.pread(5 << 20, 0) == want[:5 << 20]
'
  stop_nbdkit
  sha256sum -c before
}

@test "M10 512 bytes before each block: the right bytes (qemu, 7-Zip, dissect: shifted ones)" {
  vdi_file make disk.vdi cbBlockExtra=512
  same_as disk.vdi.raw
  # And written in the right place: the bytes in front stay what they are.
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"in\" * 3000, 3145728)
h.pwrite(b\"new\" * 1000, 5 << 20)
"'
  printf 'in%.0s' {1..3000} |
    dd of=disk.vdi.raw bs=1M seek=3 conv=notrunc status=none
  printf 'new%.0s' {1..1000} |
    dd of=disk.vdi.raw bs=1M seek=5 conv=notrunc status=none
  same_as disk.vdi.raw
  assert_equal "$(vdi_file get disk.vdi @2M:8 @3146240:8)" \
    "$(printf '%s\n' 17216961135462248174 17216961135462248174)" "extra bytes"
}

@test "M11 types: 3 is served as a base, 4 and 5 are refused (qemu serves all)" {
  vdi_file make disk.vdi
  vdi_file patch disk.vdi type=3
  same_as disk.vdi.raw
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(bytes(range(256)), 9)"'
  assert_equal "$(vdi_file get disk.vdi type)" 3 "type after writing"

  vdi_file patch disk.vdi type=4
  refused 'disk\.vdi: is a differencing image, and names no parent'

  vdi_file patch disk.vdi type=5
  refused 'disk\.vdi: u32Type is 5'
}

@test "M12 trim frees space and reads as zeroes (qemu: success, nothing done)" {
  trim_frees_space
}

@test "M12 fast zero is done where it is announced (qemu announces it and refuses)" {
  sample
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
if h.can_fast_zero():
    for n, offset in ((1 << 20, 7 << 20),      # allocated
                      (1 << 20, 12 << 20),     # not allocated
                      (16384, (3 << 20) + 4096)):
        h.zero(n, offset, nbd.CMD_FLAG_FAST_ZERO)
        assert h.pread(n, offset) == bytes(n)
'
}

@test "M13 zeroing a new image allocates nothing (qemu: every block)" {
  make_vdi disk.vdi 16M
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
h.zero(16 << 20, 0)
h.flush()
"'
  [ "$(stat -c %s disk.vdi)" -le $((2 << 20)) ]
  assert_equal "$(vdi_file get disk.vdi cBlocksAllocated)" 0 "allocated"
  # Plain zeroes as data, too.
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
for i in range(16):
    h.pwrite(bytes(1 << 20), i << 20)
h.pwrite(bytes(512), 5 << 20)
"'
  [ "$(stat -c %s disk.vdi)" -le $((2 << 20)) ]
  assert_equal "$(hash_served vdi disk.vdi)" \
    "$(head -c 16M /dev/zero | sha256sum | cut -c 1-64)"
}

@test "M25 one read over blocks that are not side by side (dissect: wrong and short)" {
  vdi_file make disk.vdi map=5,2,free,0,3,zero,1,4 cbDisk=8388096
  truncate -s 8388096 disk.vdi.raw
  start_nbdkit -r vdi disk.vdi
  python_client "$uri" '
want = open("disk.vdi.raw", "rb").read()
assert h.pread(len(want), 0) == want
for offset, n in ((1048575, 2), (1, 8388095), (512, 3 << 20), (4194303, 3145730)):
    assert h.pread(n, offset) == want[offset:offset + n], (offset, n)
'
}

@test "M26 a block size that cannot be: the message is about the block size" {
  run make_vdi disk.vdi 16M block-size=64K
  [ "$status" -eq 1 ]
  assert_match "$output" 'block.size'
  assert_match "$output" '512|65536|64'
  [ ! -e disk.vdi ]
  make_vdi disk.vdi 16M block-size=64K force=true
}

@test "M27 a fixed image with holes: the map decides, not the type" {
  vdi_file make disk.vdi type=2 map=1,zero,free,0,2,free,zero,3
  same_as disk.vdi.raw
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(b\"a\" * 512, 5 << 20)"'
  printf 'a%.0s' {1..512} |
    dd of=disk.vdi.raw bs=1M seek=5 conv=notrunc status=none
  same_as disk.vdi.raw
  assert_equal "$(vdi_file get disk.vdi type)" 2 "type"
}

@test "M29 what qemu-nbd has open for writing is left alone (vbox-img rewrites its UUID)" {
  sample
  sha256sum disk.vdi >before
  qemu-nbd -t -f vdi -k "$PWD/q" disk.vdi >qemu.log 2>&1 </dev/null 3>&- &
  server_pids+=($!)
  wait_for test -S q
  for how in -r write=require lock=auto; do
    run serve vdi disk.vdi $how -- 'nbdinfo "$uri"'
    [ "$status" -ne 0 ]
    assert_match "$output" 'disk\.vdi.*lock'
  done
  sha256sum -c before
}
