# SPDX-License-Identifier: BSD-3-Clause
# Block status says what is there: clients skip holes because of it.

load lib/common

@test "a fresh image is one hole" {
  make_vdi disk.vdi 16M
  start_nbdkit -r vdi disk.vdi
  assert_equal "$(map_of "$uri")" "0 16777216 3"
}

@test "a fresh fixed image reads as zeroes everywhere" {
  serve vdi file=disk.vdi create=fixed size=8M -- true
  start_nbdkit -r vdi disk.vdi
  assert_equal "$(hash_of "$uri")" \
    "$(head -c 8388608 /dev/zero | sha256sum | cut -c 1-64)"
}

@test "written blocks are data, the rest is hole" {
  make_vdi disk.vdi 16M
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
for block in (2, 3, 9):
    h.pwrite(b"x" * (1 << 20), block << 20)
h.flush()
'
  assert_equal "$(map_of "$uri")" "0 2097152 3
2097152 2097152 0
4194304 5242880 3
9437184 1048576 0
10485760 6291456 3"
}

@test "in a partly written block, what was written is data" {
  make_vdi disk.vdi 4M
  start_nbdkit vdi disk.vdi
  python_client "$uri" 'h.pwrite(b"x" * 4096, (1 << 20) + 8192); h.flush()'
  map_of "$uri" >map
  cat map
  # The block around it may be data too, where the file system says so.
  awk '$3 == 0 && $1 <= 1056768 && $1 + $2 >= 1060864 { found = 1 }
       $3 == 0 && ($1 < 1048576 || $1 + $2 > 2097152) { bad = 1 }
       END { exit !found || bad }' map
}

@test "the whole disk is asked in one call, and answered coalesced" {
  make_vdi disk.vdi 1G
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
for i in range(100, 140):
    h.pwrite(b\"x\" * (1 << 20), i << 20)
"'
  start_nbdkit -r --filter=log vdi disk.vdi logfile="$PWD/log"
  assert_equal "$(map_of "$uri")" "0 104857600 3
104857600 41943040 0
146800640 926941184 3"
  stop_nbdkit
  assert_equal "$(grep -c ' Extents ' log)" 1 "calls"
}

@test "a request for one extent gets one" {
  make_vdi disk.vdi 16M
  start_nbdkit vdi disk.vdi
  python_client "$uri" 'h.pwrite(b"x" * (1 << 20), 2 << 20); h.flush()'
  cat >one.py <<'EOF'
import os
import nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(os.environ["URI"])
for start, flags in ((0, nbd.CMD_FLAG_REQ_ONE), (1 << 20, 0),
                     (3 << 20, nbd.CMD_FLAG_REQ_ONE)):
    got = []
    h.block_status(h.get_size() - start, start,
                   lambda metacontext, offset, e, err: got.extend(e),
                   flags=flags)
    print(start, got[:2], "one" if len(got) == 2 else "more")
EOF
  URI=$uri timeout "$LIMIT" "$PYTHON" one.py >out
  cat out
  assert_equal "$(cut -d ' ' -f 1,4 out)" "0 one
1048576 more
3145728 one"
  assert_match "$(cat out)" '^0 .2097152, 3. one$'
}

@test "trimmed blocks are holes" {
  make_vdi disk.vdi 8M
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
h.pwrite(b"x" * (4 << 20), 0)
h.flush()
h.trim(2 << 20, 1 << 20)
h.flush()
assert h.pread(2 << 20, 1 << 20) == bytes(2 << 20)
'
  assert_equal "$(map_of "$uri")" "0 1048576 0
1048576 2097152 3
3145728 1048576 0
4194304 4194304 3"
  stop_nbdkit
  # Their places are kept: qemu-img check would call a lost one an error.
  qemu-img check -f vdi disk.vdi
}

@test "zeroed blocks read as zero, and may or may not take space" {
  make_vdi disk.vdi 4M
  start_nbdkit vdi disk.vdi
  python_client "$uri" '
h.pwrite(b"x" * (4 << 20), 0)
h.zero(1 << 20, 0)
h.zero(1 << 20, 2 << 20, nbd.CMD_FLAG_NO_HOLE)
h.flush()
assert h.pread(1 << 20, 0) == bytes(1 << 20)
assert h.pread(1 << 20, 2 << 20) == bytes(1 << 20)
'
  map_of "$uri" >map
  cat map
  assert_equal "$(head -n 1 map)" "0 1048576 3"
  grep -q '^1048576 .* 0$' map
}

@test "zero blocks of VirtualBox are holes, unallocated blocks too" {
  unpack vdi-dynamic
  start_nbdkit -r vdi vdi-dynamic/disk.vdi
  map_of "$uri" >map
  cat map
  # Blocks 2, 4 and 5 are not stored (4 is an explicit zero block).
  grep -qx '2097152 1048576 3' map
  grep -qx '4194304 2097152 3' map
}
