#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Chains that are wrong are refused, and the message says what is wrong and
# what to type; nothing is served with zeroes in place of a parent.

load lib/common

vdi_py () { "$PYTHON" "$lib/vdi.py" "$@"; }

# fails PATTERN ARGS...: nbdkit ends by itself with a message that matches, or
# refuses the client.  The patterns are tried one by one if there are several
# lines.
fails () {
  local pattern=$1 line
  shift
  run serve -r "$@" -- 'nbdcopy "$uri" null:'
  echo "$output"
  [ "$status" -ne 0 ] && [ "$status" -ne 124 ]
  while IFS= read -r line; do
    assert_match "$output" "$line"
  done <<<"$pattern"
}

works () { serve "$@" -- 'nbdcopy "$uri" null:'; }

# A VMDK descriptor, or part of a file, changed by sed; lengths must not.
edit () {
  local file=$1
  shift
  LC_ALL=C sed -i "$@" "$file"
}

# qemu_chain: q-base.vmdk and q-child.vmdk, linked as qemu does.
qemu_chain () {
  qemu-img create -q -f vmdk q-base.vmdk 4M
  qemu-io -f vmdk -c 'write -P 0x41 0 1M' q-base.vmdk
  qemu-img create -q -f vmdk -b q-base.vmdk -F vmdk q-child.vmdk
  qemu-io -f vmdk -c 'write -P 0x42 64k 64k' q-child.vmdk
  qemu-img convert -O raw q-child.vmdk q-child.raw
  want=$(hash_file q-child.raw)
}

@test "wrong parent: both UUIDs are named, force-link=true overrides" {
  unpack vdi-chain4
  cd vdi-chain4
  fails $'a0000000-0000-4000-8000-000000000011\na0000000-0000-4000-8000-000000000010\nforce-link=true' \
    vdi diff2.vdi parent=base.vdi
  fails $'a0000000-0000-4000-8000-000000000011\na0000000-0000-4000-8000-000000000010\nforce-link=true' \
    --filter=diff vdi base.vdi diff=diff2.vdi
  fails $'000000000012\n000000000011' \
    --filter=diff --filter=diff vdi base.vdi diff=diff1.vdi diff=diff3.vdi
  run works -r vdi diff2.vdi parent=base.vdi force-link=true
  [ "$status" -eq 0 ]
  assert_match "$output" 'warning: .*force-link'
  run works -r --filter=diff vdi base.vdi diff=diff2.vdi force-link=true
  [ "$status" -eq 0 ]
  assert_match "$output" 'warning: .*force-link'
}

@test "a level left out, and the wrong order" {
  unpack vmdk-chain4
  cd vmdk-chain4
  fails '000000000032.*000000000031|000000000031.*000000000030' \
    --filter=diff vmdk base.vmdk diff=diff1.vmdk diff=diff3.vmdk
  fails 'diff1.vmdk: its parent is' \
    --filter=diff vmdk base.vmdk diff=diff2.vmdk diff=diff1.vmdk
}

@test "a parent that is not there: its UUID, the places, what to type" {
  unpack vdi-chain4
  rm vdi-chain4/diff1.vdi
  fails "a0000000-0000-4000-8000-000000000011
looked in $BATS_TEST_TMPDIR/vdi-chain4
parent=FILE
allow-paths=DIR" vdi vdi-chain4/diff3.vdi
  # In VirtualBox's layout two folders are looked at.
  unpack machine-a
  rm machine-a/*/alpha-system.vdi
  fails "35fdf548-0213-4802-a852-6d7f8fbae3b9
Fixture Alpha/Snapshots, .*Fixture Alpha and" \
    vdi 'machine-a/Fixture Alpha/Snapshots/{5c98a506-927f-4175-a084-d380c0276124}.vdi'
}

@test "a damaged parent, which only its UUID would lead to, is named" {
  local patch pattern failed=()
  unpack vdi-chain4
  cp -r vdi-chain4 good
  while IFS='|' read -r patch pattern; do
    cp good/diff1.vdi vdi-chain4/diff1.vdi
    vdi_py patch vdi-chain4/diff1.vdi "$patch"
    fails "diff2.vdi: .* was not found: UUID a0000000-.*11
vdi-chain4/diff1.vdi: .*$pattern
parent=FILE" vdi vdi-chain4/diff2.vdi || failed+=("$patch")
    [[ $output != *base.vdi* ]] || failed+=("$patch: base.vdi is sound")
  done <<'EOR'
signature=0|is not a disk image of a known format
version=0x20000|version
cbDisk=0|cbDisk
cBlocks=4294967295|cBlocks
EOR
  [ ${#failed[@]} -eq 0 ] || { printf 'wrong: %s\n' "${failed[@]}"; false; }
  : >vdi-chain4/diff1.vdi
  fails 'vdi-chain4/diff1.vdi: .*not a disk image' vdi vdi-chain4/diff2.vdi
  # What is not an image by itself, or sound, is not suspected; and one file of
  # several is named, rather the one that is damaged than a stranger.
  cp good/base.vdi vdi-chain4/other.vdi
  vdi_py patch vdi-chain4/other.vdi cbDisk=0
  head -c 4096 /dev/urandom >vdi-chain4/x-flat.vmdk
  fails 'one of 2 files there that cannot be read may be it, such as .*other.vdi: .*cbDisk' \
    vdi vdi-chain4/diff2.vdi
  # The right one beside damaged ones is found.
  cp good/diff1.vdi vdi-chain4/diff1.vdi
  works -r vdi vdi-chain4/diff2.vdi
}

@test "a parent that may not be read is named" {
  [ "$(id -u)" -ne 0 ] || have setpriv || skip "no setpriv"
  unpack vdi-chain4
  chmod 000 vdi-chain4/diff1.vdi
  chmod -R o+rX .
  chmod 755 "$BATS_TEST_TMPDIR" "$BATS_RUN_TMPDIR"
  if [ "$(id -u)" -eq 0 ]; then
    chmod 000 vdi-chain4/diff1.vdi
    nbdkit_command -f -r -U - vdi vdi-chain4/diff2.vdi --run 'echo CLIENT RAN'
    run timeout 60 setpriv --reuid=65534 --regid=65534 --clear-groups \
      --bounding-set=-all "${nbdkit[@]}" 3>&-
    echo "$output"
    [ "$status" -ne 0 ]
  else
    fails 'not found' vdi vdi-chain4/diff2.vdi
  fi
  assert_match "$output" 'vdi-chain4/diff1.vdi: .*Permission denied'
}

@test "a damaged parent that is named (hint, .vbox, parent=, diff=)" {
  local two='Snapshots/{5c98a506-927f-4175-a084-d380c0276124}.vdi'
  qemu_chain
  vmdk_file patch q-base.vmdk version=77
  fails 'q-base.vmdk: .*version' vmdk q-child.vmdk
  fails 'q-base.vmdk: .*version' vmdk q-child.vmdk parent=q-base.vmdk
  fails 'q-base.vmdk: .*version' --filter=diff vmdk q-base.vmdk \
    diff=q-child.vmdk
  unpack machine-a
  cd 'machine-a/Fixture Alpha'
  vdi_py patch alpha-system.vdi cbDisk=0
  fails 'alpha-system.vdi: .*cbDisk' vdi "$two"
  [[ $output != *'was not found'* ]]
  cd ../..
  unpack vdi-chain4
  cd vdi-chain4
  vdi_py patch diff1.vdi cbDisk=0
  fails 'diff1.vdi: .*cbDisk' --filter=diff vdi base.vdi diff=diff1.vdi \
    diff=diff2.vdi
  fails 'diff1.vdi: .*cbDisk' --filter=diff --filter=diff vdi base.vdi \
    diff=diff1.vdi diff=diff2.vdi
}

@test "a parent that is not there: the hint of a VMDK" {
  qemu_chain
  mv q-base.vmdk elsewhere.vmdk
  fails $'file q-base.vmdk\nparent=FILE' vmdk q-child.vmdk
  assert_equal "$(hash_served vmdk q-child.vmdk parent=elsewhere.vmdk)" \
    "$want" 'parent='
}

@test "parent= finds the rest of the chain beside that parent" {
  local want
  want=$(manifest '.sets[] | select(.name == "vdi-chain4")
    | .views[0].images[3].raw_sha256')
  unpack vdi-chain4
  mkdir leaf
  mv vdi-chain4/diff3.vdi leaf
  assert_equal "$(hash_served vdi leaf/diff3.vdi parent=vdi-chain4/diff2.vdi)" \
    "$want" 'parent='
  fails 'allow-paths=DIR' vdi leaf/diff3.vdi
  assert_equal "$(hash_served vdi leaf/diff3.vdi allow-paths=vdi-chain4)" \
    "$want" 'allow-paths='
}

@test "hints are relative to the image that they are in" {
  qemu_chain
  mkdir sub
  mv q-base.vmdk q-child.vmdk sub
  qemu-img create -q -f vmdk -b sub/q-child.vmdk -F vmdk leaf.vmdk
  assert_equal "$(hash_served vmdk leaf.vmdk)" "$want"
  # A file of that name beside the leaf is not meant.
  qemu-img create -q -f vmdk q-base.vmdk 4M
  assert_equal "$(hash_served vmdk leaf.vmdk)" "$want"
}

@test "hints that lead out of the folder are refused" {
  qemu_chain
  mkdir sub
  mv q-child.vmdk sub
  # qemu-img cannot change the hint.
  "$PYTHON" - sub/q-child.vmdk <<'EOF'
import sys
with open(sys.argv[1], 'r+b') as f:
    f.seek(512)
    text = f.read(20 * 512).rstrip(b'\0')
    assert b'"q-base.vmdk"' in text
    f.seek(512)
    f.write(text.replace(b'"q-base.vmdk"', b'"../q-base.vmdk"')
            .ljust(20 * 512, b'\0'))
EOF
  fails 'sub/\.\./q-base.vmdk: the image names this file by a path with
allow-paths=' vmdk sub/q-child.vmdk
}

@test "a chain that bites its tail" {
  unpack vdi-chain4
  cd vdi-chain4
  # diff1's parent is diff3 now.
  vdi_py patch diff1.vdi uuidLinkage="$(dd if=diff3.vdi bs=1 skip=392 \
    count=16 status=none | od -An -tx1 | tr -d ' \n')"
  fails 'circle|bites its tail' vdi diff3.vdi
  fails 'same file' --filter=diff vdi base.vdi diff=diff3.vdi diff=diff3.vdi \
    force-link=true
}

@test "an image that is its own parent, by UUID" {
  unpack vdi-chain4
  cd vdi-chain4
  vdi_py patch diff1.vdi uuidLinkage="$(dd if=diff1.vdi bs=1 skip=392 \
    count=16 status=none | od -An -tx1 | tr -d ' \n')"
  fails 'circle|own parent' vdi diff1.vdi
}

@test "M20: an image that is its own parent, by hint" {
  qemu_chain
  mv q-child.vmdk q-self0.vmdk
  edit q-self0.vmdk 's/parentFileNameHint="q-base.vmdk"/parentFileNameHint="q-self0.vmd"/'
  mv q-self0.vmdk q-self0.vmd
  fails 'circle|own parent' vmdk q-self0.vmd
}

@test "a fixed image can only be the base" {
  serve vdi fixed.vdi create=fixed size=4M -- true
  make_vdi base.vdi 4M
  fails $'fixed.vdi: is a fixed image\nonly be the base' \
    --filter=diff vdi base.vdi diff=fixed.vdi
  fails 'only be the base' \
    --filter=diff vdi base.vdi diff=fixed.vdi force-link=true
}

@test "a base image in the middle is refused, unless forced" {
  make_vdi base.vdi 4M
  make_vdi other.vdi 4M
  fails 'other.vdi: is a base image' --filter=diff vdi base.vdi diff=other.vdi
  run works -r --filter=diff vdi base.vdi diff=other.vdi force-link=true
  [ "$status" -eq 0 ]
}

# Whatever the child does not hold beyond the parent's end is zero.
@test "a child larger than its parent" {
  random_file base.raw $((1048576 + 512))
  serve --filter=diff file base.raw diff=child.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  # 3 MiB, as after a resize.
  vdi_py patch child.vdi cbDisk=3M cBlocks=3 'map[2]=free'
  cp base.raw want.raw
  truncate -s 3M want.raw
  assert_equal "$(hash_served --filter=diff file base.raw diff=child.vdi)" \
    "$(hash_file want.raw)"
  serve --filter=diff file base.raw diff=child.vdi -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"edge\", 1048576 + 510)
h.pwrite(b\"end\", (3 << 20) - 3)
"'
  printf edge | dd of=want.raw bs=1 seek=$((1048576 + 510)) conv=notrunc status=none
  printf end | dd of=want.raw bs=1 seek=$((3145728 - 3)) conv=notrunc status=none
  assert_equal "$(hash_served --filter=diff file base.raw diff=child.vdi)" \
    "$(hash_file want.raw)"
}

@test "a child smaller than its parent" {
  random_file base.raw 3145728
  serve --filter=diff file base.raw diff=child.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  vdi_py patch child.vdi cbDisk=1049088 cBlocks=2
  head -c 1049088 base.raw >want.raw
  assert_equal "$(hash_served --filter=diff file base.raw diff=child.vdi)" \
    "$(hash_file want.raw)"
}

@test "a parent that another program writes" {
  local child
  make_vdi base.vdi 4M
  serve --filter=diff vdi base.vdi diff=child.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  child=$(hash_file child.vdi)
  qemu-nbd -f vdi -k "$PWD/qemu.sock" -t base.vdi &
  server_pids+=("$!")
  wait_for nbdinfo "nbd+unix:///?socket=$PWD/qemu.sock"
  fails 'base.vdi: .*(writ|lock)' vdi child.vdi
  fails 'base.vdi: .*(writ|lock)' --filter=diff vdi base.vdi diff=child.vdi
  stop_nbdkit "$!"
  assert_equal "$(hash_file child.vdi)" "$child" child
  # And nobody can write it while we serve the child.
  start_nbdkit vdi child.vdi
  python_client "$uri" -c 'h.pwrite(b"x", 0)'
  run qemu-io -f vdi -c 'write 0 512' base.vdi
  [ "$status" -ne 0 ]
  qemu-io -r -U -f vdi -c 'read 0 512' base.vdi
}

@test "two files with the searched UUID: parent= or the .vbox decides" {
  unpack machine-a
  cd 'machine-a/Fixture Alpha'
  cp alpha-system.vdi copy.vdi
  local leaf='Snapshots/{de6ee40f-24ce-430e-bf47-a1b3fed056d9}.vdi'
  works -r vdi "$leaf"
  rm ./*.vbox
  fails $'alpha-system.vdi\ncopy.vdi\nparent=FILE' vdi "$leaf"
  works -r vdi "$leaf" parent=copy.vdi
  # Two names of one file are one image.
  rm copy.vdi
  ln alpha-system.vdi hard.vdi
  ln -s alpha-system.vdi soft.vdi
  works -r vdi "$leaf"
}

@test "a link that leads out of the folder is not followed" {
  unpack vdi-chain4
  mkdir private
  mv vdi-chain4/base.vdi private
  ln -s ../private/base.vdi vdi-chain4/base.vdi
  fails 'parent was not found' vdi vdi-chain4/diff1.vdi
  works -r vdi vdi-chain4/diff1.vdi allow-paths=private
}

@test "fewer diff= parameters than filters" {
  make_vdi base.vdi 4M
  fails 'diff=FILE is missing.*1 times.*0' --filter=diff vdi base.vdi
  fails '2 times.*1' --filter=diff --filter=diff vdi base.vdi diff=x.vdi
}

@test "an export that does not exist" {
  unpack vdi-chain4
  start_nbdkit -r vdi vdi-chain4/diff1.vdi
  run nbdinfo "nbd+unix:///nonsense?socket=$socket"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" "no export 'nonsense'"
  start_nbdkit -r --filter=diff vdi vdi-chain4/base.vdi \
    diff=vdi-chain4/diff1.vdi
  run nbdinfo "nbd+unix:///nonsense?socket=$socket"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" "no export 'nonsense'"
}

@test "chain=none refuses a differencing image" {
  unpack vdi-chain4
  fails 'differencing image.*a0000000-0000-4000-8000-000000000010' \
    vdi vdi-chain4/diff1.vdi chain=none
  works -r vdi vdi-chain4/base.vdi chain=none
  fails 'contradict' vdi vdi-chain4/diff1.vdi chain=none \
    parent=vdi-chain4/base.vdi
}

@test "strict=true does not look for parents" {
  unpack vdi-chain4
  unpack vmdk-chain4
  fails 'differencing image' vdi vdi-chain4/diff1.vdi strict=true
  fails 'differencing image' vmdk vmdk-chain4/diff1.vmdk strict=true
  works -r vdi vdi-chain4/base.vdi strict=true
  fails 'contradict' vdi vdi-chain4/diff1.vdi strict=true \
    parent=vdi-chain4/base.vdi
  fails 'contradict' vdi vdi-chain4/base.vdi strict=true allow-paths=.
}

@test "single-link=true: one image alone, read-only" {
  unpack vdi-chain4
  cd vdi-chain4
  rm base.vdi diff1.vdi
  sha256sum diff2.vdi >sum
  serve vdi diff2.vdi single-link=true -- 'nbdinfo "$uri"' >info
  assert_match "$(cat info)" 'is_read_only: true'
  # Its own blocks are there, the others are holes.
  serve vdi diff2.vdi single-link=true -- 'nbdinfo --map "$uri"' >map
  assert_match "$(cat map)" 'hole,zero'
  assert_match "$(cat map)" ' data'
  fails 'contradict' vdi diff2.vdi single-link=true write=require
  fails 'contradict' vdi diff2.vdi single-link=true parent=diff3.vdi
  sha256sum -c sum
  # A base needs nothing below it, fixed or not.
  make_vdi base.vdi 4M
  works vdi base.vdi single-link=true
  serve vdi fixed.vdi create=fixed size=4M -- true
  works vdi fixed.vdi single-link=true
}

# ---- cases in which others are silently wrong -------------------------------

@test "M01: a VMDK of VirtualBox, without CID and hint, needs its parent" {
  unpack vmdk-chain4
  mkdir alone
  cp vmdk-chain4/diff1.vmdk alone
  fails 'a0000000-0000-4000-8000-000000000030' vmdk alone/diff1.vmdk
}

@test "M02: a VMDK of qemu, without its parent, is refused" {
  qemu_chain
  assert_equal "$(hash_served vmdk q-child.vmdk)" "$want"
  rm q-base.vmdk
  fails 'q-base.vmdk' vmdk q-child.vmdk
  fails 'differencing' vmdk q-child.vmdk chain=none
}

@test "M18: the parent was written since the snapshot" {
  qemu_chain
  qemu-io -f vmdk -c 'write -P 0x43 2M 64k' q-base.vmdk
  fails $'parentCID is\nforce-link=true' vmdk q-child.vmdk
  works -r vmdk q-child.vmdk force-link=true
  fails $'parentCID is' --filter=diff vmdk q-base.vmdk diff=q-child.vmdk
}

@test "a parent modification UUID that is stale is a warning" {
  unpack vdi-chain4
  vdi_py patch vdi-chain4/base.vdi uuidModify=00112233445566778899aabbccddeeff
  run works -r vdi vdi-chain4/diff1.vdi
  [ "$status" -eq 0 ]
  assert_match "$output" 'warning: .*parent modification UUID'
}

# ---- settings of machines -----------------------------------------------------

# hostile: the .vbox of machine-a is spoiled, and the image is found all the
# same, by its UUID.
hostile () {
  run works -r vdi "$leaf"
  echo "$output"
  [ "$status" -eq 0 ]
  assert_match "$output" "warning: .*$1"
}

machine () {
  unpack machine-a
  cd 'machine-a/Fixture Alpha' || return 1
  leaf='Snapshots/{5c98a506-927f-4175-a084-d380c0276124}.vdi'
  settings='Fixture Alpha.vbox'
}

@test "a .vbox with a document type or entities is ignored" {
  machine
  cat >"$settings" <<'EOX'
<?xml version="1.0"?>
<!DOCTYPE VirtualBox [ <!ENTITY x SYSTEM "file:///etc/passwd"> ]>
<VirtualBox xmlns="http://www.virtualbox.org/"><Machine>&x;</Machine></VirtualBox>
EOX
  hostile 'DOCTYPE'
  { echo '<!DOCTYPE VirtualBox [ <!ENTITY a0 "ha">'
    for i in {1..40}; do
      echo "<!ENTITY a$i \"&a$((i - 1));&a$((i - 1));&a$((i - 1));\">"
    done
    echo ']><VirtualBox><HardDisk uuid="&a40;" location="&a40;"/></VirtualBox>'
  } >"$settings"
  SECONDS=0
  hostile 'Fixture Alpha.vbox'
  [ "$SECONDS" -lt 10 ]
}

@test "a .vbox that is huge, deep, empty or nonsense is ignored" {
  machine
  truncate -s 17M "$settings"
  hostile '16777216 bytes'
  { echo '<VirtualBox>'; printf '<HardDisk>%.0s' {1..100000}; } >"$settings"
  hostile 'not well-formed'
  { echo '<VirtualBox>'; printf '<A>%.0s' {1..240}
    printf '</A>%.0s' {1..240}; echo '</VirtualBox>'; } >"$settings"
  works -r vdi "$leaf"
  : >"$settings"
  hostile 'not well-formed'
  echo '<html/>' >"$settings"
  hostile 'not a VirtualBox settings file'
  rm "$settings"
  mkfifo "$settings"
  works -r vdi "$leaf"
}

@test "an encrypted disk is refused" {
  machine
  sed -i 's|<HardDisk uuid="{35fdf548[^>]*>|&<Property name="CRYPT/KeyId" value="x"/>|' \
    "$settings"
  fails 'encrypted' vdi "$leaf"
  fails 'encrypted' vdi alpha-system.vdi
  fails 'encrypted' vdi alpha-system.vdi chain=none
  works -r vmdk 'data disk.vmdk'
}

@test "an encrypted disk is refused by the filter, too" {
  local one=de6ee40f-24ce-430e-bf47-a1b3fed056d9 uuid chain
  local two=5c98a506-927f-4175-a084-d380c0276124
  machine
  chain=(vdi alpha-system.vdi "diff=Snapshots/{$one}.vdi"
         "diff=Snapshots/{$two}.vdi")
  works -r --filter=diff "${chain[@]}"
  sed "s|\({$two}.vdi\" format=\"VDI\"\)/>|\1></HardDisk>|" "$settings" >plain
  for uuid in "$one" "$two"; do
    sed "s|<HardDisk uuid=.{$uuid}[^>]*>|&<Property name=\"CRYPT/KeyId\" value=\"x\"/>|" \
      plain >"$settings"
    grep -q CRYPT "$settings"
    fails "{$uuid}.vdi: is encrypted, as .*Fixture Alpha.vbox says" \
      --filter=diff "${chain[@]}"
    fails "{$uuid}.vdi: is encrypted" --filter=diff --filter=diff \
      "${chain[@]}"
    # And no new image is made on it.
    fails "{$uuid}.vdi: is encrypted" --filter=diff "${chain[@]}" \
      diff=new.vdi diff-create=vdi
    [ ! -e new.vdi ]
  done
  works -r --filter=diff vmdk 'data disk.vmdk' \
    'diff=Snapshots/{eaf75c30-f369-406a-ac23-8d131c98568e}.vmdk'
}

@test "an absolute location in a .vbox is refused, unless allowed" {
  machine
  mkdir ../private
  mv alpha-system.vdi ../private
  sed -i "s|location=\"alpha-system.vdi\"|location=\"$(realpath ../private)/alpha-system.vdi\"|" \
    "$settings"
  fails "$(realpath ../private)/alpha-system.vdi: .*Fixture Alpha.vbox names
absolute path.*allow-paths=" vdi "$leaf"
  works -r vdi "$leaf" allow-paths=../private
  # One that is not there is refused with the same words: who has no business
  # there does not learn which files exist.
  local with=$output
  rm ../private/alpha-system.vdi
  fails 'allow-paths=DIR' vdi "$leaf"
  assert_equal "$output" "$with"
}

@test "a location in a .vbox with .. is refused" {
  machine
  mkdir ../private
  mv alpha-system.vdi ../private
  sed -i 's|location="alpha-system.vdi"|location="../private/alpha-system.vdi"|' \
    "$settings"
  fails '/\.\./private/alpha-system.vdi: .*Fixture Alpha.vbox names.*allow-paths=
allow-paths=DIR' vdi "$leaf"
  ln -s ../private/alpha-system.vdi link.vdi
  sed -i 's|"../private/alpha-system.vdi"|"link.vdi"|' "$settings"
  fails 'Alpha/link.vdi: .*Fixture Alpha.vbox names .* is not in its folder
allow-paths=DIR' vdi "$leaf"
  # Names of settings files are no better than those in them.
  mv "$settings" 'x\.vbox'
  fails 'Alpha/link.vdi: .*Alpha/x.x5c.vbox names' vdi "$leaf"
}

@test "the layout of older settings files" {
  machine
  sed -i -e 's/1.19-linux/1.12-linux/' -e 's|<HardDisks>|<HardDisks >|' \
    -e 's|location="|location="./|' "$settings"
  works -r vdi "$leaf"
}

@test "a linked clone: its parents are in another machine's folder" {
  local want
  machine
  want=$(manifest '.sets[] | select(.name == "machine-a").machine
    | .current[0].raw_sha256')
  cd ..
  mkdir -p Clone/Snapshots
  mv "Fixture Alpha/$leaf" Clone/Snapshots/
  fails 'allow-paths=DIR' vdi "Clone/$leaf"
  assert_equal "$(hash_served vdi "Clone/$leaf" \
    allow-paths='Fixture Alpha')" "$want"
}

@test "a folder with very many files: only who needs it is refused" {
  machine
  (cd Snapshots && seq -f 'x%.0f' 4200 | xargs touch)
  works -r vdi alpha-system.vdi
  cp alpha-system.vdi Snapshots/
  works -r vdi Snapshots/alpha-system.vdi
  rm Snapshots/alpha-system.vdi "$settings" alpha-system.vdi
  fails $'too many\nparent=FILE' vdi "$leaf"
}
