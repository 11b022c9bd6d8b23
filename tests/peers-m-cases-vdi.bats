# SPDX-License-Identifier: BSD-3-Clause
# VDI images that other programs get wrong, silently for the most part: we
# serve them right or refuse them with the reason.  What the others do was
# measured with VirtualBox 7.2, qemu 7.2 and 11.1, 7-Zip 26 and
# dissect.hypervisor.

load lib/common

vdi () { "$PYTHON" "$lib/vdi.py" "$@"; }

# disk.raw, 16 MiB with data here and there, and disk.vdi made of it by qemu.
make_sample () {
  "$PYTHON" - <<'EOP'
import random
rnd = random.Random(16)
with open("disk.raw", "wb") as f:
    f.truncate(16 << 20)
    for offset, n in ((0, 65536), ((1 << 20) + 4096, 65536),
                      ((3 << 20) + 512, 100000), (7 << 20, 1 << 20),
                      ((15 << 20) + 1000, 5000)):
        f.seek(offset)
        f.write(rnd.randbytes(n))
EOP
  qemu-img convert -f raw -O vdi disk.raw disk.vdi
}

# readable URI: which of the 16 MiB can be read, and that they are right.
readable () {
  python_client "$1" '
want = open("disk.raw", "rb").read()
good = []
for i in range(16):
    try:
        data = h.pread(1 << 20, i << 20)
    except nbd.Error as e:
        assert e.errno == "EIO", e
        continue
    assert data == want[i << 20:(i + 1) << 20], i
    good.append(str(i))
print(",".join(good))
'
}

@test "M07 a file cut inside a block: error for this block only (qemu reads zeroes, exit 0)" {
  make_sample
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
  make_sample
  vdi patch disk.vdi 'map[3]=1000'
  start_nbdkit vdi disk.vdi
  assert_equal "$(readable "$uri")" 0,1,2,4,5,6,7,8,9,10,11,12,13,14,15
  assert_match "$(cat "$server_log")" \
    'disk\.vdi: cannot be written: block map entry 3 is 1000, '
}

@test "M08 two entries share a block: never written (VirtualBox writes both)" {
  make_sample
  vdi patch disk.vdi "map[5]=$(vdi get disk.vdi 'map[7]')"
  sha256sum disk.vdi >before
  run serve vdi disk.vdi write=require -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vdi: .*block map entry 7 is '
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
  vdi make disk.vdi cbBlockExtra=512
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.vdi.raw)"
  # And written in the right place: the bytes in front stay what they are.
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"in\" * 3000, 3145728)
h.pwrite(b\"new\" * 1000, 5 << 20)
"'
  printf 'in%.0s' {1..3000} |
    dd of=disk.vdi.raw bs=1M seek=3 conv=notrunc status=none
  printf 'new%.0s' {1..1000} |
    dd of=disk.vdi.raw bs=1M seek=5 conv=notrunc status=none
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.vdi.raw)"
  assert_equal "$(vdi get disk.vdi @2M:8 @3146240:8)" \
    "$(printf '%s\n' 17216961135462248174 17216961135462248174)" "extra bytes"
}

@test "M11 types: 3 is served as a base, 4 and 5 are refused (qemu serves all)" {
  vdi make disk.vdi
  vdi patch disk.vdi type=3
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.vdi.raw)"
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(bytes(range(256)), 9)"'
  assert_equal "$(vdi get disk.vdi type)" 3 "type after writing"

  vdi patch disk.vdi type=4
  run serve -r vdi disk.vdi -- 'nbdinfo "$uri"'
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vdi: is a differencing image, and names no parent'

  vdi patch disk.vdi type=5
  run serve -r vdi disk.vdi -- 'nbdinfo "$uri"'
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vdi: u32Type is 5'
}

@test "M12 trim frees space and reads as zeroes (qemu: success, nothing done)" {
  local before after
  make_sample
  before=$(stat -c %b disk.vdi)
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
assert h.can_trim()
h.trim(1 << 20, 7 << 20)
h.flush()
assert h.pread(1 << 20, 7 << 20) == bytes(1 << 20)
"'
  after=$(stat -c %b disk.vdi)
  [ $(((before - after) * 512)) -ge 1000000 ] || {
    echo "blocks before $before, after $after"
    # A file system without holes can give nothing back.
    fallocate -l 1M probe && fallocate -p -o 0 -l 1M probe || skip "no holes here"
    false
  }
  dd if=/dev/zero of=disk.raw bs=1M seek=7 count=1 conv=notrunc status=none
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
}

@test "M12 fast zero is done where it is announced (qemu announces it and refuses)" {
  make_sample
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
  assert_equal "$(vdi get disk.vdi cBlocksAllocated)" 0 "allocated"
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
  vdi make disk.vdi map=5,2,free,0,3,zero,1,4 cbDisk=8388096
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
  vdi make disk.vdi type=2 map=1,zero,free,0,2,free,zero,3
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.vdi.raw)"
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(b\"a\" * 512, 5 << 20)"'
  printf 'a%.0s' {1..512} |
    dd of=disk.vdi.raw bs=1M seek=5 conv=notrunc status=none
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.vdi.raw)"
  assert_equal "$(vdi get disk.vdi type)" 2 "type"
}

@test "M29 what qemu-nbd has open for writing is left alone (vbox-img rewrites its UUID)" {
  make_sample
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
