# SPDX-License-Identifier: BSD-3-Clause
# A LUN of tgtd: reading, writing, zeroing, the map, compared with the file
# behind it.

load lib/common
load lib/iscsi

@test "the content is that of the backing file" {
  random_file disk 33554432
  serve_file disk
  assert_equal "$(hash_served iscsi "$url")" "$(hash_file disk)"
}

@test "what is copied in arrives" {
  random_file new 20000256 7
  truncate -s 33554432 disk
  cp disk want
  dd if=new of=want conv=notrunc status=none
  serve_file disk
  serve iscsi "$url" -- 'nbdcopy --flush new "$uri"'
  cmp disk want
}

@test "size, block size, description and features" {
  truncate -s 64M disk
  serve_file disk thin_provisioning=1
  run serve iscsi "$url" -- 'nbdinfo --json "$uri"'
  [ "$status" -eq 0 ]
  assert_equal "$(jq -r '.exports[0] | [."export-size", .block_size_minimum,
    .can_trim, .can_zero, .can_fua, .can_multi_conn, .can_flush,
    .is_read_only] | map(tostring) | join(" ")' <<<"$output")" \
    "67108864 512 true true true true true false"
  assert_match "$(jq -r '.exports[0].description' <<<"$output")" \
    "^iSCSI 127.0.0.1:$port/$target_name/1 \\(IET VIRTUAL-DISK\\)$"
}

@test "zero, trim and the map" {
  random_file disk 16777216
  cp disk want
  dd if=/dev/zero of=want bs=1M seek=2 count=3 conv=notrunc status=none
  dd if=/dev/zero of=want bs=1M seek=8 count=2 conv=notrunc status=none
  dd if=/dev/zero of=want bs=1M seek=12 count=1 conv=notrunc status=none
  serve_file disk thin_provisioning=1
  start_nbdkit iscsi "$url"
  python_client "$uri" -c "h.zero(3 << 20, 2 << 20)
h.zero(2 << 20, 8 << 20, nbd.CMD_FLAG_NO_HOLE)
h.trim(1 << 20, 12 << 20)
h.zero(1 << 20, 2 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.flush()"
  cmp disk want
  assert_equal "$(map_of "$uri" | tr '\n' ';')" \
    "0 2097152 0;2097152 3145728 3;5242880 7340032 0;12582912 1048576 3;13631488 3145728 0;"
}

@test "the map of a thick LUN is all data, and zeroing it writes" {
  random_file disk 8388608
  cp disk want
  dd if=/dev/zero of=want bs=1M seek=2 count=3 conv=notrunc status=none
  serve_file disk
  start_nbdkit iscsi "$url"
  python_client "$uri" -c "assert not h.can_trim()
h.zero(3 << 20, 2 << 20)
h.flush()
try:
    h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO)
    raise SystemExit('fast zero was done')
except nbd.Error as e:
    assert e.errno in ('ENOTSUP', 'EOPNOTSUPP', 'EINVAL'), e.errno"
  cmp disk want
}

@test "many extents" {
  truncate -s 16M disk
  "$PYTHON" -c "
import os
fd = os.open('disk', os.O_RDWR)
for i in range(0, 4096, 2):
    os.pwrite(fd, b'x' * 4096, i * 4096)"
  serve_file disk thin_provisioning=1
  start_nbdkit iscsi "$url"
  assert_equal "$(map_of "$uri" | wc -l)" 4096
  assert_equal "$(map_of "$uri" | tail -1)" "16773120 4096 3"
}

@test "requests that are no multiples of a 4096-byte block" {
  random_file disk 4194304
  cp disk want
  start_tgtd
  add_target
  add_lun 1 disk --blocksize 4096
  url=iscsi://127.0.0.1:$port/$target_name/1
  start_nbdkit iscsi "$url"
  assert_equal "$(nbdinfo --json "$uri" | jq '.exports[0].block_size_minimum')" 4096
  cat >client.py <<'END'
import random
h.set_strict_mode(0)
rng = random.Random(3)
want = bytearray(open('want', 'rb').read())
for n in range(300):
    size = rng.choice((1, 100, 512, 4095, 4096, 5000, 20000))
    at = rng.randrange(0, len(want) - size)
    kind = rng.randrange(4)
    if kind == 0:
        assert h.pread(size, at) == want[at:at + size], (at, size)
    elif kind == 1:
        data = rng.randbytes(size)
        h.pwrite(data, at)
        want[at:at + size] = data
    elif kind == 2:
        h.zero(size, at)
        want[at:at + size] = bytes(size)
    else:
        # Neighbours in one block, at the same time.
        at = at & ~4095
        pieces = [rng.randbytes(512) for _ in range(8)]
        cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(p)),
                                at + 512 * i) for i, p in enumerate(pieces)]
        for c in cookies:
            while not h.aio_command_completed(c):
                h.poll(-1)
        want[at:at + 4096] = b''.join(pieces)
h.flush()
open('want', 'wb').write(want)
END
  python_client "$uri" client.py
  cmp disk want
}

@test "a write-protected LUN is served read-only" {
  random_file disk 4194304
  serve_file disk readonly=1
  start_nbdkit iscsi "$url"
  assert_equal "$(nbdinfo --json "$uri" | jq '.exports[0].is_read_only')" true
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
}

@test "several LUNs, flat and encoded numbers" {
  local n
  start_tgtd
  add_target
  for n in 1 2 300; do
    random_file "disk$n" 2097152 "$n"
    add_lun "$n" "disk$n"
  done
  for n in 1 2 300; do
    assert_equal "$(hash_served iscsi \
      "iscsi://127.0.0.1:$port/$target_name/$n")" "$(hash_file "disk$n")"
  done
  assert_equal "$(hash_served iscsi portal="127.0.0.1:$port" \
    target="$target_name" lun=enc0x0002000000000000)" "$(hash_file disk2)"
  assert_equal "$(hash_served iscsi lun=0x12c portal="127.0.0.1:$port" \
    target="$target_name")" "$(hash_file disk300)"
}

@test "IPv6" {
  random_file disk 2097152
  start_tgtd '[::1]'
  add_target
  add_lun 1 disk
  assert_equal "$(hash_served iscsi "iscsi://[::1]:$port/$target_name/1")" \
    "$(hash_file disk)"
}

@test "header digests" {
  random_file disk 4194304
  serve_file disk
  admin --op update --mode target --tid 1 -n HeaderDigest -v CRC32C
  local d
  for d in crc32c crc32c-none none-crc32c; do
    assert_equal "$(hash_served iscsi "$url" header-digest=$d)" \
      "$(hash_file disk)" "$d"
  done
}

@test "several sessions" {
  random_file disk 33554432
  truncate -s 33554432 copy
  start_tgtd
  add_target
  add_lun 1 disk
  add_lun 2 copy
  url=iscsi://127.0.0.1:$port/$target_name
  assert_equal "$(hash_served iscsi "$url/1" sessions=3)" "$(hash_file disk)"
  serve iscsi "$url/2" sessions=4 -- 'nbdcopy --flush disk "$uri"'
  cmp disk copy
}

@test "a long read is sent in pieces of read-split, and all of it comes" {
  local how each
  random_file disk 8388608
  for how in '' read-split=256K read-split=64K; do
    serve_file disk
    through_proxy none
    start_nbdkit iscsi "$url" $how
    python_client "$uri" -c '
data = open("disk", "rb").read()
assert h.pread(4 << 20, 0) == data[:4 << 20]
assert h.pread(5 << 20, 3 << 20) == data[3 << 20:]
assert h.pread(300032, 1024) == data[1024:301056]'
    each=$((16 * 9 + 5))
    [ "$how" != read-split=256K ] || each=$((4 * 9 + 2))
    assert_equal "$(grep -cx 88 commands)" "$each" "$how"
    new_target
    random_file disk 8388608
  done
}
