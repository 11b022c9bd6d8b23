# SPDX-License-Identifier: BSD-3-Clause
# How other programs start and use the plugin: virt-v2v's command line,
# filters on top, qemu-img and nbdfuse as clients, and random requests
# compared with nbdkit's memory plugin.

load lib/common
load lib/consumers

# shellcheck disable=SC2034
format=vdi
make_disk () { make_vdi "$@"; }
check_disk () { qemu-img check -q -f vdi "$1"; }

@test "as virt-v2v starts it" {
  make_disks
  # With this the server ends when the one who started it does.
  cat >v2v.sh <<'EOS'
LANG=C "$@" &
n=$!
for i in $(seq 300); do
  [ -s in0.pid ] && break
  sleep 0.1
done
nbdcopy --requests=64 --flush 'nbd+unix:///?socket=in0' out.raw &&
  cmp out.raw disk.raw && echo "same" &&
  nbdsh -u 'nbd+unix:///?socket=in0' -c 'h.pwrite(b"guest" * 100, 4096)' \
    -c 'h.pwrite(bytes(1 << 20), 0)' -c 'h.flush()' \
    -c 'assert not any(h.pread(1 << 20, 0))' && echo "written"
echo $n >server.pid
EOS
  sed -i "s|nbdsh -u|$NBDSH -u|" v2v.sh
  sha256sum disk.vdi >before
  nbdkit_command --exit-with-parent --foreground \
    --pidfile "$PWD/in0.pid" --unix "$PWD/in0" --threads 16 \
    -D nbdkit.backend.datapath=0 --verbose --filter=cow vdi "file=$PWD/disk.vdi"
  sh v2v.sh "${nbdkit[@]}" >v2v.log 2>&1 3>&- || { cat v2v.log; false; }
  grep -x same v2v.log || { cat v2v.log; false; }
  grep -x written v2v.log || { cat v2v.log; false; }
  server_is_gone () { ! kill -0 "$(cat server.pid)" 2>/dev/null; }
  wait_for server_is_gone
  # Everything stayed in the filter.
  sha256sum -c before
}

@test "as virt-v2v converts in place: writes, trims and flushes" {
  make_disks
  start_nbdkit --threads 16 --exit-with-parent -D nbdkit.backend.datapath=0 \
    vdi disk.vdi
  qemu-io -f raw -c 'write -P 7 1M 980k' -c 'write -P 9 23M 4k' -c 'flush' \
    -c 'discard 12M 9M' -c 'read -P 7 1M 980k' -c 'flush' "$uri"
  stop_nbdkit
  qemu-img check -f vdi disk.vdi
  "$PYTHON" - <<'EOP'
with open("disk.raw", "r+b") as f:
    f.seek(1 << 20)
    f.write(b"\7" * (980 << 10))
    f.seek(23 << 20)
    f.write(b"\x09" * 4096)
    f.seek(12 << 20)
    f.write(bytes(9 << 20))
EOP
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
}

@test "filters on top, reading" { filters_reading; }
@test "filters on top, writing" { filters_writing; }
@test "a partition of the disk, and a window of it" { partitions; }

@test "qemu-img converts to qcow2 and back, and compares" {
  make_disks
  serve -r vdi disk.vdi -- 'qemu-img convert -f raw -O qcow2 "$uri" out.qcow2'
  qemu-img compare -f raw -F qcow2 disk.raw out.qcow2
  rm disk.vdi
  make_vdi disk.vdi 25167360
  serve vdi disk.vdi -- \
    'qemu-img convert -n -W -m 16 -f qcow2 -O raw out.qcow2 "$uri"'
  qemu-img check -f vdi disk.vdi
  serve -r vdi disk.vdi -- 'qemu-img compare -f raw -F raw disk.raw "$uri"'
}

@test "nbdfuse: a file to read and write" {
  { [ -e /dev/fuse ] && have nbdfuse; } || skip "no FUSE"
  make_disks
  mkdir mnt
  cat >fuse.sh <<'EOS'
nbdfuse mnt/disk "$uri" >nbdfuse.log 2>&1 &
for i in $(seq 100); do
  [ -e mnt/disk ] && break
  sleep 0.1
done
cmp mnt/disk disk.raw && echo "same" >result
printf 'through the file' | dd of=mnt/disk bs=1 seek=3000000 conv=notrunc,fsync
fusermount3 -u mnt || fusermount -u mnt || umount mnt
wait
EOS
  serve vdi disk.vdi -- '. ./fuse.sh' || true
  [ -e result ] || { cat nbdfuse.log; skip "FUSE does not work here"; }
  printf 'through the file' |
    dd of=disk.raw bs=1 seek=3000000 conv=notrunc status=none
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
}

check_with_qemu () { qemu-img check -f vdi disk.vdi; }

@test "random requests, seed 1" { model_test 1 12M && check_with_qemu; }
@test "random requests, odd size" { model_test 2 9438208 && check_with_qemu; }
@test "random requests, blocks of 512K" { model_test 3 9438208 block-size=512K; }
@test "random requests, blocks of 4M" { model_test 4 25167360 block-size=4M; }
@test "random requests, fixed" {
  serve vdi disk.vdi create=fixed size=9438208 -- true
  model_sessions 9438208 5 6
  check_with_qemu
}
