# SPDX-License-Identifier: BSD-3-Clause
# What consumers.bats does for each format.  The file that loads this defines
# format               the plugin; images are disk.$format and new.$format
# make_disk FILE SIZE [PARAMETER...]
# check_disk FILE      by another program
# shellcheck shell=bash disable=SC2154

# disk.$format and disk.raw: 24 MiB and a bit, with data here and there.
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
  make_disk "disk.$format" 25167360
  serve "$format" "disk.$format" -- 'nbdcopy --flush disk.raw "$uri"'
}

# filter_args: of the words in $filters.  Sets args.
filter_args () {
  local f
  args=()
  for f in $filters; do
    args+=("--filter=$f")
  done
}

filters_reading () {
  local filters args
  make_disks
  for filters in cow cache readahead blocksize nozero noextents noparallel \
                 nocache fua 'cow cache' 'cache blocksize readahead' \
                 'noparallel noextents cow'; do
    filter_args
    assert_equal "$(hash_served "${args[@]}" "$format" "disk.$format")" \
      "$(hash_file disk.raw)" "$filters"
    # The same holes, or none, where the filter lets one see them.
    if [[ $filters =~ ^(nozero|noparallel|nocache|fua)$ ]]; then
      [ "$(serve -r "${args[@]}" "$format" "disk.$format" -- 'nbdinfo --map "$uri"')" = \
        "$(serve -r "$format" "disk.$format" -- 'nbdinfo --map "$uri"')" ]
    fi
  done
}

filters_writing () {
  local filters args
  make_disks
  for filters in cache blocksize nozero noextents noparallel fua \
                 'cache blocksize'; do
    filter_args
    rm -f new*."$format"
    make_disk "new.$format" 25167360
    serve "${args[@]}" "$format" "new.$format" -- 'nbdcopy --flush disk.raw "$uri"'
    check_disk "new.$format" || { echo "$filters"; false; }
    qemu-img compare -q -f raw -F "$format" disk.raw "new.$format" ||
      { echo "$filters"; false; }
  done
}

partitions () {
  have sfdisk || skip "no sfdisk"
  make_disks
  printf 'start=2048, size=8192, type=83\nstart=12288, size=20480, type=83\n' |
    sfdisk -q disk.raw
  serve "$format" "disk.$format" -- 'nbdcopy --flush disk.raw "$uri"'
  for n in 1 2; do
    assert_equal "$(hash_served --filter=partition "$format" "disk.$format" partition=$n)" \
      "$(hash_served --filter=partition file disk.raw partition=$n)" \
      "partition $n"
  done
  assert_equal "$(hash_served --filter=offset "$format" "disk.$format" offset=1234567 range=7654321)" \
    "$(hash_served --filter=offset file disk.raw offset=1234567 range=7654321)"
  # Writing a partition leaves the rest alone.
  random_file part 4194304
  serve --filter=partition "$format" "disk.$format" partition=1 -- 'nbdcopy part "$uri"'
  dd if=part of=disk.raw bs=1M seek=1 conv=notrunc status=none
  assert_equal "$(hash_served "$format" "disk.$format")" "$(hash_file disk.raw)"
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

# model_sessions SIZE SEED...: on disk.$format, which is empty.
model_sessions () {
  local size=$1
  shift
  start_nbdkit memory "$size"
  export ORACLE=$uri SEED
  for SEED; do
    start_nbdkit "$format" "disk.$format"
    python_client "$uri" "$model" || { echo "seed $SEED"; return 1; }
    stop_nbdkit
  done
  assert_equal "$(hash_served "$format" "disk.$format")" "$(hash_of "$ORACLE")"
}

# model_test SEED SIZE PARAMETER...: of create.
model_test () {
  local seed=$1 size=$2
  shift 2
  make_disk "disk.$format" "$size" "$@"
  model_sessions "$size" "$seed".{1,2,3,4}
}
