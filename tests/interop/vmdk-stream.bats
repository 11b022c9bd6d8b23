# SPDX-License-Identifier: BSD-3-Clause
# Streams that we make: their structure, who accepts them, and what becomes of
# one that was not finished.

load ../lib/common
load ../lib/kill

teardown () {
  stop_peer_services
  common_teardown
}

walk () { "$PYTHON" "$lib/stream-walk.py" "$@"; }

# disk.raw: what is compressible and what is not, and gaps of all sizes.
make_raw () {
  "$PYTHON" - "$1" <<'EOP'
import random, sys
size = int(sys.argv[1])
rnd = random.Random(size)
with open("disk.raw", "wb") as f:
    f.truncate(size)
    offset = 0
    while offset < size:
        n = min(rnd.choice((512, 3000, 70000, 300000, 1 << 20)), size - offset)
        kind = rnd.randrange(3)
        f.seek(offset)
        if kind == 0:
            f.write(rnd.randbytes(n))
        elif kind == 1:
            f.write((b"text %8d\n" % offset * (n // 14 + 1))[:n])
        offset += n
    f.seek(size - 7)
    f.write(b"the end")
EOP
}

# ours SIZE: disk.vmdk of disk.raw.
ours () {
  make_raw "$1"
  serve vmdk disk.vmdk create=stream size="$1" -- \
    'nbdcopy --flush disk.raw "$uri"'
}

# same_but_longer FILE: as disk.raw, and zeroes up to the end of the grain.
same_but_longer () {
  local size longer
  size=$(stat -c %s disk.raw)
  longer=$(((size + 65535) / 65536 * 65536))
  cp disk.raw longer.raw
  truncate -s $longer longer.raw
  cmp "$1" longer.raw
}

@test "the structure is what VMware's tools want" {
  local size
  for size in 512 65536 66048 199168 $((32 << 20)) $((64 << 20)) \
              $(((64 << 20) + 1536)); do
    rm -f disk.vmdk
    ours "$size"
    walk disk.vmdk disk.raw
  done
}

# size_and_qemus: of disk.raw as a stream, in bytes.
size_and_qemus () {
  rm -f disk.vmdk qemu.vmdk
  serve vmdk disk.vmdk create=stream size="$(stat -c %s disk.raw)" -- \
    'nbdcopy --flush disk.raw "$uri"'
  qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw \
    qemu.vmdk
  size=$(stat -c %s disk.vmdk)
  qemus=$(stat -c %s qemu.vmdk)
  echo "ours $size, qemu's $qemus"
}

@test "the file is no larger than qemu's" {
  local folder size qemus
  for folder in /usr/bin /usr/share/doc; do
    tar -cf - -C $folder . 2>/dev/null | head -c 32M >disk.raw || true
    truncate -s 32M disk.raw
    size_and_qemus
    [ "$size" -le "$qemus" ]
  done
  # Where hardly anything can be compressed the difference is the markers and
  # the footer, which qemu leaves out (per table 5 sectors, and 5), and here
  # and there a grain that takes a sector more or less.
  make_raw $((32 << 20))
  size_and_qemus
  [ "$size" -le $((qemus + 512 * 10 + qemus / 2000)) ]
}

@test "accepted by qemu, the newest qemu, VirtualBox, libvmdk and 7-Zip" {
  local size seven here
  requires_peers
  cd "$peers_dir"
  here=/data/${peers_dir##*/}
  seven=$(command -v 7zz || command -v 7z || true)
  for size in $((40 << 20)) 9438208; do
    rm -rf ./disk.vmdk ./*.raw out
    ours "$size"
    sha256sum disk.vmdk >before
    qemu-img check -f vmdk disk.vmdk
    qemu-img convert -f vmdk -O raw disk.vmdk qemu.raw
    same_but_longer qemu.raw
    peer qemu-img check -f vmdk disk.vmdk
    peer qemu-img convert -f vmdk -O raw disk.vmdk newest.raw
    same_but_longer newest.raw
    peer vbox-img convert --srcfilename disk.vmdk --srcformat VMDK \
      --dstfilename vbox.raw --dstformat RAW
    cmp vbox.raw disk.raw
    peer VBoxManage clonemedium disk "$here/disk.vmdk" "$here/clone.raw" \
      --format=RAW
    cmp clone.raw disk.raw
    peer VBoxManage closemedium disk "$here/clone.raw"
    peer VBoxManage closemedium disk "$here/disk.vmdk"
    if have vmdkinfo; then
      run vmdkinfo disk.vmdk
      [ "$status" -eq 0 ] || { echo "$output"; false; }
      assert_match "$output" "\\($size bytes\\)"
      assert_match "$output" 'Stream optimized'
    fi
    if [ -n "$seven" ]; then
      "$seven" x -tVMDK -oout disk.vmdk
      same_but_longer out/*
    fi
    sha256sum -c before
  done
}

@test "parallel nbdcopy, with many requests of odd sizes" {
  local requests
  make_raw $(((48 << 20) + 512))
  for requests in 1 64; do
    rm -f disk.vmdk
    serve vmdk disk.vmdk create=stream size=$(((48 << 20) + 512)) -- "
      nbdcopy --requests=$requests --request-size=65536 --flush disk.raw \"\$uri\""
    walk disk.vmdk disk.raw
  done
  # Without a flush, too: the client's leaving completes it.
  rm -f disk.vmdk
  serve vmdk disk.vmdk create=stream size=$(((48 << 20) + 512)) -- \
    'nbdcopy disk.raw "$uri"'
  walk disk.vmdk disk.raw
}

@test "out of order within the window, in pieces that are no grains" {
  make_raw $((24 << 20))
  start_nbdkit vmdk disk.vmdk create=stream size=24M
  python_client "$uri" '
import random
rnd = random.Random(4)
data = open("disk.raw", "rb").read()
pieces, offset = [], 0
while offset < len(data):
    n = min(rnd.choice((512, 1000, 65536, 70001, 500000)), len(data) - offset)
    pieces.append((offset, n))
    offset += n
# All of it fits into the window: any order will do.
rnd.shuffle(pieces)
for offset, n in pieces:
    h.pwrite(data[offset:offset + n], offset)
h.flush()
'
  stop_nbdkit
  walk disk.vmdk disk.raw
}

@test "behind the front: an error that says so, and no complete image" {
  start_nbdkit vmdk disk.vmdk create=stream size=160M
  python_client "$uri" '
def put(offset):
    h.pwrite(bytes([offset >> 20 | 1]) * (1 << 20), offset)
for i in range(1, 160):
    try:
        put(i << 20)
    except nbd.Error as e:
        raise SystemExit("forwards, at %d MiB: %s" % (i, e))
try:
    put(0)
    h.flush()
except nbd.Error as e:
    print("refused:", e)
else:
    raise SystemExit("written where it is too late")
'
  assert_match "$(cat "$server_log")" 'disk\.vmdk: .*(order|late|behind|already)'
  stop_nbdkit || true
  incomplete
}

# incomplete: nobody takes disk.vmdk for a whole one.
incomplete () {
  run serve -r vmdk disk.vmdk -- 'nbdinfo "$uri"'
  echo "$output"
  [ "$status" -ne 0 ]
  assert_match "$output" 'disk\.vmdk: .*(footer|incomplete|not complete|end)'
  run qemu-img convert -f vmdk -O raw disk.vmdk qemu.raw
  echo "$output"
  [ "$status" -ne 0 ]
}

@test "zeroes are left out, however they come" {
  serve vmdk disk.vmdk create=stream size=16M -- '$NBDSH -u "$uri" -c "
h.pwrite(bytes(1 << 20), 0)
h.pwrite(b\"x\" * 512, 1 << 20)
h.zero(2 << 20, 2 << 20)
h.zero(1 << 20, 4 << 20, nbd.CMD_FLAG_NO_HOLE)
h.trim(1 << 20, 5 << 20)
h.pwrite(bytes(65536 * 3), 8 << 20)
h.pwrite(b\"y\" * 100, (12 << 20) + 65536 - 50)
h.flush()"'
  run walk disk.vmdk
  echo "$output"
  [ "$output" = "grains 3 file-bytes $(stat -c %s disk.vmdk)" ]
  qemu-img check -f vmdk disk.vmdk
}

@test "a disk of zeroes: copied, and without any client" {
  truncate -s 64M disk.raw
  serve vmdk disk.vmdk create=stream size=64M -- \
    'nbdcopy --flush disk.raw "$uri"'
  walk disk.vmdk disk.raw
  serve vmdk none.vmdk create=stream size=64M -- true
  walk none.vmdk disk.raw
  for file in disk.vmdk none.vmdk; do
    qemu-img check -f vmdk $file
    qemu-img compare -f raw -F vmdk disk.raw $file
    assert_equal "$(hash_served vmdk $file)" "$(hash_file disk.raw)"
  done
}

@test "kill -9 in the middle: refused as incomplete" {
  local delay client
  make_raw $((64 << 20))
  for delay in 0.1 0.3 0.5; do
    rm -f disk.vmdk
    start_nbdkit --filter=rate vmdk disk.vmdk create=stream size=64M rate=100M
    nbdcopy --flush disk.raw "$uri" >client.log 2>&1 3>&- &
    client=$!
    sleep "$delay"
    kill_server
    if wait "$client"; then
      echo "nbdcopy was too fast"
      false
    fi
    incomplete
  done
}

@test "kill -9 after the first byte, and after a flush too early" {
  local code client
  for code in 'h.pwrite(b"x", 0)' 'h.pwrite(b"x" * 65536, 9 << 20)' \
              'h.pwrite(b"x" * 65536, 0); h.flush()'; do
    rm -f disk.vmdk
    start_nbdkit vmdk disk.vmdk create=stream size=64M
    idle_client "$code"
    kill_server
    kill -KILL "$client" 2>/dev/null || true
    incomplete
  done
}

# The client's leaving completes the image, so one that gave up leaves what a
# disk would have: what it wrote, and zeroes.  Its error tells.
@test "a client that gives up: what it wrote, and zeroes" {
  make_raw $((32 << 20))
  run serve --filter=error vmdk disk.vmdk create=stream size=32M \
    error-pwrite=EIO error-pwrite-rate=10% -- 'nbdcopy --flush disk.raw "$uri"'
  [ "$status" -ne 0 ]
  walk disk.vmdk
  qemu-img check -f vmdk disk.vmdk
  serve -r vmdk disk.vmdk -- 'nbdcopy "$uri" out.raw'
  "$PYTHON" -c '
got, want = open("out.raw", "rb").read(), open("disk.raw", "rb").read()
assert len(got) == len(want)
for i in range(0, len(got), 512):
    piece = got[i:i + 512]
    assert piece == want[i:i + 512] or not any(piece), i
assert got != want'
}

@test "a complete one is not written again" {
  ours $((8 << 20))
  sha256sum disk.vmdk >before
  run serve vmdk disk.vmdk write=require -- 'nbdinfo "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'disk\.vmdk: .*(stream|compressed)'
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "assert h.is_read_only()"'
  sha256sum -c before
}
