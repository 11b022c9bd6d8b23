# SPDX-License-Identifier: BSD-3-Clause
# A LUN as the base of a chain: what is written goes to the snapshot and never
# to the LUN, and reading asks the target for data only.

load lib/common
load lib/iscsi

@test "a VDI snapshot of a LUN, new and opened again" {
  [ -e "$FILTER_DIFF" ] || skip "no diff filter"
  random_file disk 8388608
  cp disk want
  cp disk untouched
  random_file new 1000000 9
  dd if=new of=want conv=notrunc status=none
  dd if=new of=want conv=notrunc bs=1M seek=3 status=none
  dd if=/dev/zero of=want conv=notrunc bs=1M seek=5 count=1 status=none
  serve_file disk thin_provisioning=1
  start_nbdkit --filter=diff iscsi "$url" diff=snap.vdi diff-create=vdi
  python_client "$uri" -c "h.pwrite(open('new', 'rb').read(), 0)
h.flush()"
  stop_nbdkit
  start_nbdkit --filter=diff iscsi "$url" diff=snap.vdi
  python_client "$uri" -c "h.pwrite(open('new', 'rb').read(), 3 << 20)
h.zero(1 << 20, 5 << 20)
h.trim(4096, 7 << 20)
h.flush()"
  assert_equal "$(hash_of "$uri")" "$(hash_file want)"
  cmp disk untouched
}


@test "a VMDK snapshot of a LUN is refused: it could not name its parent" {
  [ -e "$FILTER_DIFF" ] || skip "no diff filter"
  random_file disk 1048576
  cp disk untouched
  serve_file disk
  start_nbdkit --filter=diff iscsi "$url" diff=snap.vmdk diff-create=vmdk
  run nbdinfo "$uri"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" 'neither a UUID nor a CID.*a VDI can'
  cmp disk untouched
}

@test "reading a chain on a LUN does not ask for its map" {
  [ -e "$FILTER_DIFF" ] || skip "no diff filter"
  random_file disk 8388608
  serve_file disk thin_provisioning=1
  through_proxy none
  start_nbdkit --filter=diff iscsi "$url" diff=snap.vdi diff-create=vdi
  python_client "$uri" -c "data = bytearray(open('disk', 'rb').read())
h.pwrite(b'1' * 4096, 65536)
data[65536:65536 + 4096] = b'1' * 4096
for at in range(0, len(data), 32768):
    assert h.pread(32768, at) == data[at:at + 32768]"
  grep -q 88 commands
  assert_equal "$(grep -c 9e12 commands || true)" 0
  map_of "$uri" >/dev/null
  assert_match "$(grep -c 9e12 commands)" '^[1-9]$'
}
