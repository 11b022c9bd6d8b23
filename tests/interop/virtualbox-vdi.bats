# SPDX-License-Identifier: BSD-3-Clause
# What we create and write, the real VirtualBox accepts and reads the same;
# and what it then writes, we read.

load ../lib/common

setup () {
  common_setup
  requires_peers
}

teardown () {
  stop_peer_services
  common_teardown
}

# In the folder that both see.
make_content () {
  "$PYTHON" - "$1" "$2" <<'EOP'
import random, sys
size = int(sys.argv[2])
rnd = random.Random(size)
with open(sys.argv[1], "wb") as f:
    f.truncate(size)
    for part in range(0, size, 1 << 20):
        kind = rnd.randrange(4)
        n = min(1 << 20, size - part)
        f.seek(part)
        if kind == 0:
            f.write(rnd.randbytes(n))
        elif kind == 1:
            at = rnd.randrange(n)
            f.seek(part + at)
            f.write(rnd.randbytes(min(5000, n - at)))
    # The last byte, too.
    f.seek(size - 1)
    f.write(b"E")
EOP
}

# ours SIZE [PARAMETER...]: makes disk.vdi, with data, with blocks that were
# written and zeroed, trimmed and written again; and disk.raw, what is in it
# by the book.  In two sessions.
ours () {
  local size=$1
  shift
  cd "$peers_dir" || return 1
  rm -f ./disk.vdi ./*.raw
  make_content disk.raw "$size"
  serve vdi disk.vdi size="$size" "$@" -- 'nbdcopy disk.raw "$uri"'
  cat >changes.py <<'EOP'
import random
rnd = random.Random(5)
size = h.get_size()
raw = open("disk.raw", "r+b")
def put(data, offset):
    raw.seek(offset)
    raw.write(data)
for i in range(12):
    n = rnd.choice((512, 100, 4096, 70000, 512 << 10, 1 << 20))
    offset = rnd.randrange(max(1, size - n))
    data = rnd.randbytes(min(n, size))
    h.pwrite(data, offset)
    put(data, offset)
for i in range(6):
    n = rnd.choice((512, 4096, 100000, 1 << 20))
    offset = rnd.randrange(max(1, size - n))
    h.zero(n, offset, rnd.choice((0, nbd.CMD_FLAG_NO_HOLE)))
    put(bytes(n), offset)
for i in range(2):
    offset = rnd.randrange(size >> 20) << 20
    n = min(1 << 20, size - offset)
    h.trim(n, offset)
    # Trimmed data may be anything; from here on it is known again.
    put(h.pread(n, offset), offset)
    h.pwrite(b"after the trim", offset)
    put(b"after the trim", offset)
# Zeroes that were written as data into blocks that hold nothing.
for offset in range(0, size - (1 << 20), 1 << 20):
    if not any(h.pread(1 << 20, offset)):
        h.pwrite(bytes(1 << 20), offset)
        break
raw.close()
EOP
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "exec(open(\"changes.py\").read())"'
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)" "by us"
}

# info KEY: of "VBoxManage showmediuminfo disk disk.vdi".
medium_info () {
  sed -n "s/^$1: *//p" medium.txt
}

# accepted: by vbox-img and VBoxManage, with the same content and facts.
accepted () {
  local facts
  facts=$("$PYTHON" "$top_srcdir/tests/data/imgfacts.py" disk.vdi)
  sha256sum disk.vdi >disk.vdi.sum

  peer vbox-img info --filename disk.vdi >info.txt
  cat info.txt
  assert_match "$(cat info.txt)" "$(jq -r .uuid <<<"$facts")"

  peer vbox-img convert --srcfilename disk.vdi --dstfilename converted.raw \
    --dstformat RAW
  cmp converted.raw disk.raw

  peer VBoxManage showmediuminfo disk "/data/${peers_dir##*/}/disk.vdi" \
    >medium.txt 2>&1 || { cat medium.txt; return 1; }
  cat medium.txt
  assert_match "$(medium_info State)" '^created$'
  assert_match "$(medium_info 'Storage format')" '^VDI$'
  peer VBoxManage clonemedium disk "/data/${peers_dir##*/}/disk.vdi" \
    "/data/${peers_dir##*/}/clone.raw" --format=RAW >clone.txt 2>&1 ||
    { cat clone.txt; return 1; }
  cmp clone.raw disk.raw
  # It would be known by its UUID, and a later clone refused.
  peer VBoxManage closemedium disk "/data/${peers_dir##*/}/clone.raw" \
    >close.txt 2>&1 || { cat close.txt; return 1; }
  # Looking at it did not change it (VirtualBox rewrites headers it dislikes).
  sha256sum -c disk.vdi.sum
}

@test "dynamic" { ours 16777216 create=dynamic && accepted; }
@test "dynamic, last block partial" { ours 5244416 create=dynamic && accepted; }
@test "dynamic, last block of one sector" { ours 7340544 create=dynamic && accepted; }
@test "dynamic, the smallest" { ours 1048576 create=dynamic && accepted; }
@test "dynamic, blocks of 512 KiB" { ours 9438208 create=dynamic block-size=512K && accepted; }
@test "dynamic, blocks of 2 MiB" { ours 25167360 create=dynamic block-size=2M && accepted; }
@test "dynamic, blocks of 8 MiB" { ours 25167360 create=dynamic block-size=8M && accepted; }
@test "dynamic, aligned to 512" { ours 9438208 create=dynamic data-alignment=512 && accepted; }
@test "dynamic, aligned to 4096" { ours 9438208 create=dynamic data-alignment=4096 && accepted; }
@test "dynamic, every zero stored" {
  ours 9438208 create=dynamic honor-zeroes=true honor-same=true && accepted
}
@test "fixed" { ours 8388608 create=fixed && accepted; }
@test "fixed, last block partial" { ours 5244416 create=fixed && accepted; }
@test "fixed, blocks of 2 MiB" { ours 9438208 create=fixed block-size=2M && accepted; }

@test "a new image without data, with UUID and comment" {
  local uuid=5af0b0a8-2b6c-4c1a-9d0e-5b0a7f3c1d2e
  cd "$peers_dir"
  make_vdi disk.vdi 5244416 uuid=$uuid comment='made for a test'
  truncate -s 5244416 disk.raw
  accepted
  assert_equal "$(medium_info UUID)" "$uuid" UUID
  assert_equal "$("$PYTHON" "$top_srcdir/tests/data/imgfacts.py" disk.vdi |
                    jq -r .comment)" 'made for a test' comment
  assert_equal "$(medium_info Capacity)" '5 MBytes' Capacity
}

@test "served to qemu-img convert while it is made" {
  cd "$peers_dir"
  make_content disk.raw 9438208
  make_vdi disk.vdi 9438208
  serve vdi disk.vdi -- 'qemu-img convert -n -f raw -O raw disk.raw "$uri"'
  accepted
}

@test "killed with -9 after a flush, and not opened since" {
  cd "$peers_dir"
  make_content disk.raw 9438208
  make_vdi disk.vdi 9438208
  start_nbdkit vdi disk.vdi
  nbdcopy --flush disk.raw "$uri"
  kill -KILL "$server_pid"
  wait "$server_pid" || true
  accepted
}

# read_back WHAT: what VirtualBox made of disk.vdi reads as disk.raw; and it
# can be written, and VirtualBox reads that.
read_back () {
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)" "$1"
  serve vdi disk.vdi write=require -- '$NBDSH -u "$uri" -c "
raw = open(\"disk.raw\", \"r+b\")
size = h.get_size()
for offset in range(300, size - 5000, (1 << 20) - 1000):
    h.pwrite(b\"we write %8d\" % offset * 50, offset)
    raw.seek(offset)
    raw.write(b\"we write %8d\" % offset * 50)
raw.close()
"'
  accepted
}

vbox () { peer VBoxManage "$@" >vbox.txt 2>&1 || { cat vbox.txt; return 1; }; }
here () { echo "/data/${peers_dir##*/}/$1"; }

@test "VirtualBox converts from raw, and we read and write it" {
  local variant
  cd "$peers_dir"
  for variant in Standard Fixed; do
    make_content disk.raw 6292992
    vbox convertfromraw "$(here disk.raw)" "$(here disk.vdi)" --format=VDI \
      --variant=$variant
    read_back "$variant"
    vbox closemedium disk "$(here disk.vdi)"
    rm disk.vdi ./*.raw
  done
}

@test "vbox-img converts from raw, and we read and write it" {
  cd "$peers_dir"
  make_content disk.raw 12583424
  peer vbox-img convert --srcfilename disk.raw --srcformat RAW \
    --dstfilename disk.vdi --dstformat VDI
  read_back convert
}

@test "VirtualBox creates, we write and read" {
  local size
  cd "$peers_dir"
  for size in 524288 1048576 2097152 4194304; do
    vbox createmedium disk --filename="$(here disk.vdi)" --sizebyte=12583424 \
      --property AllocationBlockSize=$size
    truncate -s 12583424 disk.raw
    read_back "blocks of $size"
    vbox closemedium disk "$(here disk.vdi)"
    rm disk.vdi ./*.raw
  done
}

@test "VirtualBox compacts what we wrote, and we go on" {
  local before
  ours 25166336 create=dynamic honor-zeroes=true honor-same=true
  # Blocks that hold zeroes only, for it to remove.
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "
for i in (2, 3, 7, 11):
    h.zero(1 << 20, i << 20)
"'
  for i in 2 3 7 11; do
    dd if=/dev/zero of=disk.raw bs=1M seek=$i count=1 conv=notrunc status=none
  done
  before=$(stat -c %s disk.vdi)
  vbox modifymedium disk "$(here disk.vdi)" --compact
  [ "$(stat -c %s disk.vdi)" -le $((before - (4 << 20))) ]
  read_back compacted
}

@test "VirtualBox compacts a fixed image of ours: fixed with holes" {
  local before
  ours 9438208 create=fixed
  before=$(stat -c %s disk.vdi)
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.zero(4 << 20, 2 << 20)"'
  dd if=/dev/zero of=disk.raw bs=1M seek=2 count=4 conv=notrunc status=none
  peer vbox-img compact --filename disk.vdi
  [ "$(stat -c %s disk.vdi)" -lt "$before" ]
  read_back compacted
}

@test "VirtualBox resizes what we wrote, and we go on" {
  ours 9437184 create=dynamic
  vbox modifymedium disk "$(here disk.vdi)" --resizebyte=20972032
  truncate -s 20972032 disk.raw
  read_back resized
}

# Aligned to 512 the map has no room to grow: blocks must move.
@test "VirtualBox resizes what we wrote, and blocks move" {
  ours 9437184 create=dynamic data-alignment=512
  peer vbox-img resize --filename disk.vdi --size 524288000
  truncate -s 524288000 disk.raw
  read_back resized
}

@test "VirtualBox sets a UUID, and we show it" {
  local uuid=0f1e2d3c-4b5a-4697-8877-665544332211
  ours 2097152 create=dynamic
  peer vbox-img setuuid --filename disk.vdi --uuid $uuid
  assert_match "$(serve -r vdi disk.vdi -- 'nbdinfo --json "$uri"' |
                    jq -r '.exports[0].description')" "uuid=$uuid"
  read_back setuuid
}
