# SPDX-License-Identifier: BSD-3-Clause
# How other programs start and use the plugin: virt-v2v's command line,
# filters on top, qemu-img and nbdfuse as clients, and random requests
# compared with nbdkit's memory plugin.

load lib/common

# disk.vdi and disk.raw: 24 MiB and a bit, with data here and there.
make_disks () {
  "$PYTHON" - <<'EOP'
import random
rnd = random.Random(24)
with open("disk.raw", "wb") as f:
    f.truncate((24 << 20) + 1536)
    for i in (0, 1, 5, 6, 7, 12, 20):
        f.seek((i << 20) + rnd.randrange(300000))
        f.write(rnd.randbytes(rnd.choice((512, 70000, 600000))))
    f.seek(24 << 20)
    f.write(rnd.randbytes(1536))
EOP
  make_vdi disk.vdi 25167360
  serve vdi disk.vdi -- 'nbdcopy --flush disk.raw "$uri"'
}

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

@test "filters on top, reading" {
  local filters f args
  make_disks
  for filters in cow cache readahead blocksize nozero noextents noparallel \
                 nocache fua 'cow cache' 'cache blocksize readahead' \
                 'noparallel noextents cow'; do
    args=()
    for f in $filters; do
      args+=("--filter=$f")
    done
    assert_equal "$(hash_served "${args[@]}" vdi disk.vdi)" \
      "$(hash_file disk.raw)" "$filters"
    # The same holes, or none, where the filter lets one see them.
    if [[ $filters =~ ^(nozero|noparallel|nocache|fua)$ ]]; then
      [ "$(serve -r "${args[@]}" vdi disk.vdi -- 'nbdinfo --map "$uri"')" = \
        "$(serve -r vdi disk.vdi -- 'nbdinfo --map "$uri"')" ]
    fi
  done
}

@test "filters on top, writing" {
  local filters f args
  make_disks
  for filters in cache blocksize nozero noextents noparallel fua \
                 'cache blocksize'; do
    args=()
    for f in $filters; do
      args+=("--filter=$f")
    done
    rm -f new.vdi
    make_vdi new.vdi 25167360
    serve "${args[@]}" vdi new.vdi -- 'nbdcopy --flush disk.raw "$uri"'
    qemu-img check -q -f vdi new.vdi || { echo "$filters"; false; }
    qemu-img compare -q -f raw -F vdi disk.raw new.vdi ||
      { echo "$filters"; false; }
  done
}

@test "a partition of the disk, and a window of it" {
  have sfdisk || skip "no sfdisk"
  make_disks
  printf 'start=2048, size=8192, type=83\nstart=12288, size=20480, type=83\n' |
    sfdisk -q disk.raw
  serve vdi disk.vdi -- 'nbdcopy --flush disk.raw "$uri"'
  for n in 1 2; do
    assert_equal "$(hash_served --filter=partition vdi disk.vdi partition=$n)" \
      "$(hash_served --filter=partition file disk.raw partition=$n)" \
      "partition $n"
  done
  assert_equal "$(hash_served --filter=offset vdi disk.vdi offset=1234567 range=7654321)" \
    "$(hash_served --filter=offset file disk.raw offset=1234567 range=7654321)"
  # Writing a partition leaves the rest alone.
  random_file part 4194304
  serve --filter=partition vdi disk.vdi partition=1 -- 'nbdcopy part "$uri"'
  dd if=part of=disk.raw bs=1M seek=1 conv=notrunc status=none
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)"
}

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

# The same requests to both; the image is opened again and again.
model='
import os, random
other = nbd.NBD()
other.connect_uri(os.environ["ORACLE"])
rnd = random.Random(os.environ["SEED"])
size = h.get_size()
assert other.get_size() >= size

def place():
    n = rnd.choice((1, 511, 512, 4096, 5000, 65536, 200000, 1 << 20, 3 << 20))
    n = min(n, size)
    offset = rnd.randrange(size - n + 1)
    align = rnd.choice((1, 512, 4096, 1 << 20))
    offset -= offset % align
    if rnd.randrange(8) == 0:
        offset = size - n
    return offset, n

def compare(offset, n):
    assert h.pread(n, offset) == other.pread(n, offset), (offset, n)

unknown = []
for i in range(150):
    offset, n = place()
    op = rnd.randrange(10)
    fua = nbd.CMD_FLAG_FUA if rnd.randrange(5) == 0 else 0
    if op < 4:
        data = rnd.randbytes(n) if rnd.randrange(4) else bytes(n)
        h.pwrite(data, offset, fua)
        other.pwrite(data, offset)
    elif op < 6:
        if n == 1 << 20 or rnd.randrange(2):
            fua |= nbd.CMD_FLAG_NO_HOLE
        h.zero(n, offset, fua)
        other.zero(n, offset)
    elif op == 6:
        # What is trimmed may be anything, but must stay the same then.
        h.trim(n, offset, fua)
        other.pwrite(h.pread(n, offset), offset)
    elif op == 7:
        h.flush()
    else:
        compare(offset, n)
for offset in range(0, size, 1 << 20):
    compare(offset, min(1 << 20, size - offset))

# Holes are zeroes.
h.set_strict_mode(0)
def extent(context, offset, entries, error):
    for n, flags in zip(entries[::2], entries[1::2]):
        if flags & nbd.STATE_ZERO:
            assert not any(other.pread(n, offset)), (offset, n)
        offset += n
if h.can_meta_context("base:allocation"):
    h.block_status(size, 0, extent)
'

# model_test SEED SIZE PARAMETER...: of create.
model_test () {
  local seed=$1 size=$2 session
  shift 2
  start_nbdkit memory "$size"
  export ORACLE=$uri
  make_vdi disk.vdi "$size" "$@"
  for session in 1 2 3 4; do
    export SEED=$seed.$session
    start_nbdkit vdi disk.vdi
    python_client "$uri" "$model" || { echo "seed $SEED"; return 1; }
    stop_nbdkit
  done
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_of "$ORACLE")"
}

check_with_qemu () { qemu-img check -f vdi disk.vdi; }

@test "random requests, seed 1" { model_test 1 12M && check_with_qemu; }
@test "random requests, odd size" { model_test 2 9438208 && check_with_qemu; }
@test "random requests, blocks of 512K" { model_test 3 9438208 block-size=512K; }
@test "random requests, blocks of 4M" { model_test 4 25167360 block-size=4M; }
@test "random requests, fixed" {
  start_nbdkit memory 9438208
  model_fixed=$uri
  serve vdi disk.vdi create=fixed size=9438208 -- true
  for SEED in 5 6; do
    start_nbdkit vdi disk.vdi
    ORACLE=$model_fixed SEED=$SEED python_client "$uri" "$model"
    stop_nbdkit
  done
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_of "$model_fixed")"
  check_with_qemu
}
