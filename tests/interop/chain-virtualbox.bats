# SPDX-License-Identifier: BSD-3-Clause
# Snapshots: what we write into a child the real VirtualBox reads, and it can
# delete the snapshot; what it makes of its own, we read.  The same with
# qemu-img for VMDK.

load ../lib/common

setup () {
  common_setup
  requires_peers
  cd "$peers_dir" || return 1
}

teardown () {
  stop_peer_services
  common_teardown
}

vbox () { peer VBoxManage "$@" >vbox.txt 2>&1 || { cat vbox.txt; return 1; }; }
here () { echo "/data/${peers_dir##*/}/$1"; }

# changes SEED: to the disk that is served and to want.raw.
changes () {
  cat >changes.py <<EOP
import random
rnd = random.Random($1)
size = h.get_size()
raw = open("want.raw", "r+b")
for i in range(25):
    n = rnd.choice((512, 4096, 70000, 65536, 1 << 20))
    offset = rnd.randrange((size - n) // 512 + 1) * 512
    if rnd.random() < 0.4:
        offset -= offset % (1 << 20)
    data = bytes(n) if rnd.random() < 0.4 else rnd.randbytes(n)
    if any(data) or rnd.random() < 0.5:
        h.pwrite(data, offset)
    else:
        h.zero(n, offset)
    raw.seek(offset)
    raw.write(data)
raw.close()
EOP
}

write_into () {
  changes "$1"
  shift
  serve "$@" write=require -- \
    '$NBDSH -u "$uri" -c "exec(open(\"changes.py\").read())"'
}

# vbox_reads FILE: VirtualBox clones it, flattened, and it is want.raw.
vbox_reads () {
  vbox clonemedium disk "$(here "$1")" "$(here clone.raw)" --format=RAW
  cmp clone.raw want.raw
  vbox closemedium disk "$(here clone.raw)"
  rm clone.raw
}

# The base, by us or by VirtualBox; want.raw is what is in it.
base () {
  local format=$1 property=("${@:2}")
  vbox createmedium disk --filename="$(here "base.$format")" \
    --sizebyte=6292992 --format="${format^^}" "${property[@]}"
  truncate -s 6292992 want.raw
  write_into 1 "$format" "base.$format"
  cp want.raw base.raw
}

# VirtualBox makes the child, we write it, VirtualBox reads it.
child () {
  local base=$1 format=$2 n
  vbox createmedium disk --filename="$(here "child.$format")" \
    --diffparent="$(here "base.$base")" --format="${format^^}"
  for n in 2 3; do
    write_into "$n" "$format" "child.$format"
    assert_equal "$(hash_served "$format" "child.$format")" \
      "$(hash_file want.raw)" "by us"
  done
  assert_equal "$(hash_served --filter=diff "$base" "base.$base" \
    diff="child.$format")" "$(hash_file want.raw)" "by the filter"
  assert_equal "$(hash_served "$base" "base.$base")" "$(hash_file base.raw)" \
    "the base"
  vbox_reads "child.$format"
}

@test "VDI child of a VDI" { base vdi && child vdi vdi; }
@test "VDI child of a VMDK" { base vmdk && child vmdk vdi; }
@test "VMDK child of a VMDK" { base vmdk && child vmdk vmdk; }
@test "VMDK child of a VDI" { base vdi && child vdi vmdk; }
@test "VDI child of a VDI with blocks of 512 KiB" {
  base vdi --property AllocationBlockSize=524288 && child vdi vdi
}
@test "VDI child of a fixed VDI" { base vdi --variant=Fixed && child vdi vdi; }
@test "VMDK child of a split VMDK" {
  base vmdk --variant=Split2G && child vmdk vmdk
}

# A machine with one disk; its snapshots are VirtualBox's, with our writes.
machine () {
  vbox createvm --name=m --register --basefolder="$(here machines)" \
    --ostype=Linux_64
  vbox storagectl m --name S --add sata
  vbox createmedium disk --filename="$(here "machines/m/disk.$1")" \
    --sizebyte=6292992 --format="${1^^}"
  vbox storageattach m --storagectl S --port 0 --device 0 --type hdd \
    --medium "$(here "machines/m/disk.$1")"
  truncate -s 6292992 want.raw
  write_into 1 "$1" "machines/m/disk.$1"
}

# The newest file in Snapshots: sets leaf, and format.
newest_leaf () {
  leaf=$(find machines/m/Snapshots -name '{*' -printf '%T@ %p\n' |
           sort -n | tail -1 | cut -d' ' -f2-)
  [ -n "$leaf" ]
  format=${leaf##*.}
}

# With the service gone VirtualBox looks at all images anew.
settle () {
  stop_peer_services
  sleep 1
}

snapshots () {
  local leaf format
  machine "$1"
  settle
  vbox snapshot m take one
  newest_leaf
  cp want.raw one.raw
  write_into 2 "$format" "$leaf"
  sleep 0.1
  settle
  vbox snapshot m take two
  newest_leaf
  cp want.raw two.raw
  write_into 3 "$format" "$leaf"
  assert_equal "$(hash_served "$format" "$leaf")" "$(hash_file want.raw)" \
    "two snapshots"
  settle
  vbox_reads "$leaf"
  # It deletes the snapshots, newest first, by merging what we wrote.
  settle
  vbox snapshot m delete two
  newest_leaf
  assert_equal "$(hash_served "$format" "$leaf")" "$(hash_file want.raw)" \
    "snapshot two deleted"
  write_into 4 "$format" "$leaf"
  settle
  vbox snapshot m delete one
  assert_equal "$(hash_served "$1" "machines/m/disk.$1")" \
    "$(hash_file want.raw)" "both deleted"
  [ -z "$(ls machines/m/Snapshots 2>/dev/null)" ]
}

@test "snapshots of a machine with a VDI, written by us, deleted by VirtualBox" {
  snapshots vdi
}

@test "snapshots of a machine with a VMDK, written by us, deleted by VirtualBox" {
  snapshots vmdk
}

@test "our own child: VirtualBox registers and reads it" {
  base vdi
  serve --filter=diff vdi base.vdi diff=ours.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  write_into 5 vdi ours.vdi
  stop_peer_services
  sleep 1
  # It has to know the parent first.
  vbox showmediuminfo disk "$(here base.vdi)"
  vbox_reads ours.vdi
}

@test "VirtualBox writes into a child of ours, and we read it" {
  base vdi
  serve --filter=diff vdi base.vdi diff=ours.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  write_into 6 vdi ours.vdi
  stop_peer_services
  sleep 1
  vbox showmediuminfo disk "$(here base.vdi)"
  # "mediumio formatfat" is the only tool that writes into a medium.
  vbox mediumio --disk="$(here ours.vdi)" formatfat --quick
  assert_equal "$(hash_served vdi base.vdi)" "$(hash_file base.raw)" base
  peer VBoxManage clonemedium disk "$(here ours.vdi)" "$(here clone.raw)" \
    --format=RAW >vbox.txt 2>&1
  assert_equal "$(hash_served vdi ours.vdi)" "$(hash_file clone.raw)"
  run cmp -s clone.raw want.raw
  [ "$status" -eq 1 ]
}

@test "qemu-img reads a VMDK child of ours over its base, and the reverse" {
  random_file base.raw 4194304
  qemu-img convert -f raw -O vmdk base.raw base.vmdk
  cp base.raw want.raw
  qemu-img create -q -f vmdk -b base.vmdk -F vmdk one.vmdk
  write_into 7 vmdk one.vmdk
  qemu-img convert -f vmdk -O raw one.vmdk qemu.raw
  cmp qemu.raw want.raw
  serve --filter=diff vmdk base.vmdk diff=one.vmdk diff=two.vmdk \
    diff-create=vmdk -- 'nbdinfo --size "$uri"'
  write_into 8 vmdk two.vmdk
  assert_equal "$(hash_served vmdk two.vmdk)" "$(hash_file want.raw)" ours
  qemu-img convert -f vmdk -O raw two.vmdk qemu.raw
  cmp qemu.raw want.raw
  qemu-img create -q -f vmdk -b two.vmdk -F vmdk theirs.vmdk
  qemu-io -f vmdk -c 'write -P 0x61 64k 128k' theirs.vmdk
  head -c 131072 /dev/zero | tr '\0' a |
    dd of=want.raw bs=64K seek=1 conv=notrunc status=none
  assert_equal "$(hash_served vmdk theirs.vmdk)" "$(hash_file want.raw)" \
    "theirs over ours"
  write_into 9 vmdk theirs.vmdk
  qemu-img convert -f vmdk -O raw theirs.vmdk qemu.raw
  cmp qemu.raw want.raw
}
