# SPDX-License-Identifier: BSD-3-Clause
# A second opinion: istgt, which has no thin provisioning and other limits.

load lib/common
load lib/iscsi

@test "istgt: reading, writing, zeroing" {
  random_file disk 16777216
  cp disk want
  random_file new 5000192 7
  dd if=new of=want conv=notrunc status=none
  dd if=/dev/zero of=want bs=1M seek=8 count=2 conv=notrunc status=none
  start_istgt disk
  start_nbdkit iscsi "$url" header-digest=crc32c
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
  python_client "$uri" -c "h.pwrite(open('new', 'rb').read(), 0)
h.zero(2 << 20, 8 << 20)
h.flush()
assert not h.can_trim()"
  cmp disk want
  assert_equal "$(hash_of "$uri")" "$(hash_file want)"
}

@test "istgt: a LUN with 4096-byte blocks" {
  random_file disk 4194304
  start_istgt disk None "  BlockLength 4096"
  start_nbdkit iscsi "$url"
  assert_equal "$(hash_of "$uri")" "$(hash_file disk)"
}
