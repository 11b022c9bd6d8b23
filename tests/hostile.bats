# SPDX-License-Identifier: BSD-3-Clause
# Files that are no images, or change while they are served, and hosts that
# allow little.
load lib/common

refused () {
  run serve vdi "$1" -- true
  [ "$status" -ne 0 ]
  [ "$status" -ne 124 ]
  [[ $output == *"$2"* ]]
}

@test "what is neither a file nor a block device is refused at once" {
  mkfifo fifo
  mkdir folder
  ln -s two one
  ln -s one two
  refused fifo "neither a regular file nor a block device"
  refused folder "is a directory"
  refused /dev/zero "neither a regular file nor a block device"
  refused /dev/full "neither a regular file nor a block device"
  refused one "symbolic links"
  "${PYTHON:-python3}" -c 'import socket
socket.socket(socket.AF_UNIX).bind("sock")'
  refused sock "neither a regular file nor a block device"
}

@test "a file that becomes shorter while it is served: errors, never zeroes" {
  [ -n "$PYTHON" ] || skip "no libnbd for Python"
  serve vdi create=dynamic size=8M disk.vdi -- \
    "$NBDSH -u \"\$uri\" -c 'h.pwrite(b\"x\" * 4194304, 0); h.flush()'"
  start_nbdkit -r vdi disk.vdi
  truncate -s 3M disk.vdi
  cat >check.py <<'END'
h.add_meta_context("base:allocation")
h.connect_uri(uri)
found = []
h.block_status(4194304, 0, lambda m, o, e, err: found.extend(e))
offset = 0
for length, flags in zip(found[::2], found[1::2]):
    # 1 MiB of data is left
    assert flags == 0 or offset + length <= 1048576, found
    offset += length
assert h.pread(512, 0) == b"x" * 512
try:
    h.pread(512, 2097152)
    raise SystemExit("a read beyond the end succeeded")
except nbd.Error as e:
    assert e.errno == "EIO", e
END
  uri=$uri "$PYTHON" -c "import nbd, os
h = nbd.NBD(); uri = os.environ['uri']
$(cat check.py)"
}

@test "a huge sparse map costs neither time nor memory" {
  "${PYTHON:-python3}" - <<'END'
import struct
n = (2 << 40) // 4096                   # the map has 2 GiB
head = bytearray(512)
struct.pack_into('<II', head, 64, 0xbeda107f, 0x00010001)
struct.pack_into('<III256sII', head, 72, 400, 1, 0, b'', 512, 512 + 4 * n)
struct.pack_into('<I', head, 360, 512)
struct.pack_into('<QIIII', head, 368, 2 << 40, 4096, 0, n, 0)
head[392:424] = b'\xc1' * 32
struct.pack_into('<I', head, 468, 512)
with open('sparse.vdi', 'wb') as f:
    f.write(head)
    f.truncate(512 + 4 * n + 4 * 4096)
END
  local mode
  for mode in -r -f; do
    start_nbdkit "$mode" vdi sparse.vdi
    LIMIT=20 timeout 20 nbdinfo --size "$uri"
    timeout 20 qemu-io -r -f raw -c 'read 1T 64k' "$uri" >/dev/null || true
    run awk '/^VmHWM/ { print $2 }' "/proc/$server_pid/status"
    [ "$output" -lt 65536 ]
    stop_nbdkit
  done
  grep -q "cannot be written: block map entry 1 is 0" "$server_log"
}

@test "text in an image does not reach the terminal" {
  serve vdi create=dynamic size=8M disk.vdi \
    comment="$(printf 'a\033[31m\nnbdkit: fake')" -- true
  run serve -v vdi disk.vdi -- 'nbdinfo "$uri"'
  [ "$status" -eq 0 ]
  [[ $output != *$'\033[31m'* ]]
}

@test "few file descriptors" {
  make_vdi disk.vdi 8M 2>/dev/null ||
    serve vdi create=dynamic size=8M disk.vdi -- true
  ulimit -n 24
  run serve vdi disk.vdi -- 'nbdinfo --size "$uri"'
  [ "$status" -eq 0 ]
  [ "${lines[-1]}" = 8388608 ]
}

@test "nobody serves a file of root's read-only, and its own for writing" {
  [ "$(id -u)" -eq 0 ] || skip "not root"
  serve vdi create=dynamic size=8M disk.vdi -- true
  chmod 755 .
  chmod 644 disk.vdi
  run serve -u nobody vdi disk.vdi -- 'nbdinfo --json "$uri"'
  [ "$status" -eq 0 ]
  [[ $output == *'"is_read_only": true'* ]]
  [[ $output == *"served read-only"* ]]
  chown nobody disk.vdi
  run serve -u nobody vdi disk.vdi -- 'nbdinfo --json "$uri"'
  [ "$status" -eq 0 ]
  [[ $output == *'"is_read_only": false'* ]]
}
