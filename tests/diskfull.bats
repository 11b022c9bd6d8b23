# SPDX-License-Identifier: BSD-3-Clause
# The file system runs full: the client is told, nothing that was written
# before is harmed, and when there is room again writing goes on.

load lib/common
load lib/diskfull

check_image () {
  qemu-img check -f vdi full/disk.vdi
  assert_equal "$(hash_served vdi full/disk.vdi)" "$(hash_file want.raw)"
}

runs_full () {
  small_fs "$1"
  make_vdi full/disk.vdi 32M
  start_nbdkit vdi full/disk.vdi
  python_client "$uri" "$until_full"
  assert_match "$(cat "$server_log")" 'disk\.vdi: .*make room'
  stop_nbdkit
  check_image
}

@test "tmpfs runs full" { runs_full tmpfs; }
@test "ext4 runs full" { runs_full ext4; }

# There is room for two blocks at least when the filler has gone.
go_on='
put(full << 20, rnd.randbytes(1 << 20))
put((full << 20) + 5, b"again")
h.flush()
same()
open("want.raw", "wb").write(want)
'

goes_on () {
  small_fs "$1"
  make_vdi full/disk.vdi 32M
  start_nbdkit vdi full/disk.vdi
  python_client "$uri" "$until_full" 'import os; os.unlink("full/filler")' \
    "$go_on"
  stop_nbdkit
  # Space that was found is not lost either.
  check_image
}

@test "tmpfs: room is made, and the same client goes on" { goes_on tmpfs; }

@test "ext4: room is made, and the same client goes on" { goes_on ext4; }

@test "in the middle of nbdcopy" {
  small_fs tmpfs
  random_file disk.raw 20000000
  truncate -s 32M disk.raw
  make_vdi full/disk.vdi 32M
  serve vdi full/disk.vdi -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"early\" * 1000, 30 << 20)"'
  run serve vdi full/disk.vdi -- 'nbdcopy disk.raw "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'No space left on device'
  qemu-img check -f vdi full/disk.vdi
  rm full/filler
  serve vdi full/disk.vdi write=require -- '$NBDSH -u "$uri" -c "
want = open(\"disk.raw\", \"rb\").read()
got = h.pread(30 << 20, 0)
for i in range(0, 30 << 20, 512):
    piece = got[i:i + 512]
    assert piece == want[i:i + 512] or not any(piece), i
tail = h.pread(6000, 30 << 20)
assert tail in (b\"early\" * 1000 + bytes(1000), want[30 << 20:(30 << 20) + 6000])
h.pwrite(b\"late\", 31 << 20)"'
  qemu-img check -f vdi full/disk.vdi
}

@test "a limit on the size of files" {
  make_vdi disk.vdi 32M
  cat >until.py <<'EOP'
want = {}
for i in range(32):
    try:
        h.pwrite(bytes([i + 1]) * 100000, i << 20)
        want[i] = i + 1
    except nbd.Error as e:
        print(i, e)
        # NBD has no EFBIG.
        assert e.errno in ("ENOSPC", "EFBIG", "EINVAL", "EIO"), e
assert 2 < len(want) < 30, want
h.flush()
for i in range(32):
    assert h.pread(100001, i << 20) == bytes([want.get(i, 0)]) * 100000 + b"\0"
EOP
  ( ulimit -f 12000
    serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "exec(open(\"until.py\").read())"' )
  qemu-img check -f vdi disk.vdi
}

@test "create, without room for a fixed image" {
  small_fs tmpfs
  run serve vdi full/disk.vdi create=fixed size=32M -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vdi: .*No space left'
  [ ! -e full/disk.vdi ]
  make_vdi full/disk.vdi 32M
}
