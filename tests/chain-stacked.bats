#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Differencing images of several instances of the filter are one chain: what
# is wrong in it is found, and said, as in one instance.

load lib/common

vdi_py () { "$PYTHON" "$lib/vdi.py" "$@"; }

# stacked N: sets filters, so many times the word --filter=diff.
stacked () {
  local i
  filters=()
  for ((i = 0; i < $1; i++)); do
    filters+=(--filter=diff)
  done
}

# refusal ARGS...: prints why, without what differs between two runs.
refusal () {
  local status=0
  serve -r "$@" -- 'nbdcopy "$uri" null:' >out 2>&1 || status=$?
  if [ "$status" -eq 0 ] || [ "$status" -eq 124 ]; then
    cat out
    return 1
  fi
  grep -E '^nbdkit: .*error' out | sed 's/^nbdkit: .*error: //' | head -1
}

# both PATTERN N ARGS...: refused by one instance and by N, with one message.
both () {
  local pattern=$1 n=$2 one many
  shift 2
  one=$(refusal --filter=diff "$@")
  stacked "$n"
  many=$(refusal "${filters[@]}" "$@")
  assert_match "$one" "$pattern"
  assert_equal "$many" "$one" "message of $n instances"
}

set_parent () {                 # CHILD PARENT: by UUID
  vdi_py patch "$1" uuidLinkage="$(dd if="$2" bs=1 skip=392 count=16 \
    status=none | od -An -tx1 | tr -d ' \n')"
}

@test "the wrong parent" {
  unpack vdi-chain4
  cd vdi-chain4
  both 'diff3.vdi: its parent is the image with UUID .*12, but .*diff1.vdi' \
    2 vdi base.vdi diff=diff1.vdi diff=diff3.vdi
  unpack vmdk-chain4
  cd vmdk-chain4
  both 'diff1.vmdk: its parent is' \
    2 vmdk base.vmdk diff=diff2.vmdk diff=diff1.vmdk
}

@test "the same file twice" {
  unpack vdi-chain4
  cd vdi-chain4
  both 'diff2.vdi: is the same file as .*diff2.vdi' \
    2 vdi base.vdi diff=diff2.vdi diff=diff2.vdi force-link=true
  # With others in between, and two in the innermost.
  both 'diff1.vdi: is the same file as' \
    3 vdi base.vdi diff=diff1.vdi diff=diff2.vdi diff=diff1.vdi
  both 'diff1.vdi: is the same file as' \
    2 vdi base.vdi diff=diff1.vdi diff=diff2.vdi diff=diff1.vdi
  ln diff1.vdi hard.vdi
  both 'hard.vdi: is the same file as .*diff1.vdi' \
    3 vdi base.vdi diff=diff1.vdi diff=diff2.vdi diff=hard.vdi
}

@test "a copy, and a chain that bites its tail" {
  unpack vdi-chain4
  cd vdi-chain4
  cp diff1.vdi copy.vdi
  set_parent copy.vdi diff2.vdi
  both 'copy.vdi: has the UUID of .*diff1.vdi' \
    3 vdi base.vdi diff=diff1.vdi diff=diff2.vdi diff=copy.vdi
}

@test "the layer below once more above itself" {
  unpack vdi-chain4
  cd vdi-chain4
  cp base.vdi copy.vdi
  set_parent copy.vdi diff1.vdi
  both 'copy.vdi: has the UUID of the layer below' \
    1 vdi base.vdi diff=diff1.vdi diff=copy.vdi force-link=true
  # The file itself: not one to read and another one to write.
  run serve --filter=diff vdi base.vdi diff=base.vdi force-link=true -- \
    'nbdinfo "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'base.vdi: has the UUID of the layer below'
}

@test "a fixed image, and a base image, in the middle" {
  unpack vdi-chain4
  cd vdi-chain4
  serve vdi fixed.vdi create=fixed size=4M -- true
  make_vdi other.vdi 4M
  both 'fixed.vdi: is a fixed image .*only be the base' \
    2 vdi base.vdi diff=diff1.vdi diff=fixed.vdi
  both 'fixed.vdi: is a fixed image .*only be the base' \
    3 vdi base.vdi diff=diff1.vdi diff=fixed.vdi diff=diff2.vdi \
    force-link=true
  both 'other.vdi: is a base image' \
    3 vdi base.vdi diff=diff1.vdi diff=other.vdi diff=diff2.vdi
}

@test "force-link= goes for links between instances, too" {
  unpack vdi-chain4
  cd vdi-chain4
  run serve -r --filter=diff --filter=diff vdi base.vdi diff=diff1.vdi \
    diff=diff3.vdi force-link=true -- 'nbdcopy "$uri" null:'
  [ "$status" -eq 0 ]
  assert_match "$output" 'warning: .*diff3.vdi: its parent is .*force-link'
}

exports_of () {
  nbdinfo --list --json "$uri" | jq -r '.exports[]."export-name"'
}

@test "equal file names: by UUID only, whichever instance they are in" {
  local names n
  unpack vdi-chain4
  cd vdi-chain4
  mkdir sub
  mv diff1.vdi sub/diff3.vdi
  for n in 1 2 3; do
    stacked "$n"
    start_nbdkit -r "${filters[@]}" vdi base.vdi diff=sub/diff3.vdi \
      diff=diff2.vdi diff=diff3.vdi
    names=$(exports_of)
    run grep -Fx diff3.vdi <<<"$names"
    [ "$status" -ne 0 ]
    assert_match "$names" '^diff2.vdi$'
    # Three images and the base.
    [ "$(grep -c '^a0000000-' <<<"$names")" -eq 4 ]
    [ "$(sort <<<"$names" | uniq -d | wc -l)" -eq 0 ]
    run nbdinfo "nbd+unix:///diff3.vdi?socket=$socket"
    [ "$status" -ne 0 ]
    stop_nbdkit
  done
}

# ---- the link to the layer below, through its description ----------------------

@test "the link is checked through an NBD server and other filters" {
  local layer
  unpack vdi-chain4
  cd vdi-chain4
  sha256sum ./* >../sums
  start_nbdkit -r vdi base.vdi
  for layer in "nbd uri=$uri" "--filter=log nbd uri=$uri logfile=/dev/null" \
               "--filter=cow vdi base.vdi" \
               "--filter=log --filter=cow vdi base.vdi logfile=/dev/null"; do
    # shellcheck disable=SC2086
    assert_equal "$(hash_served --filter=diff $layer diff=diff1.vdi)" \
      "$(image_fact vdi-chain4 diff1.vdi raw_sha256)" "$layer"
    # shellcheck disable=SC2086
    assert_match "$(refusal --filter=diff $layer diff=diff2.vdi)" \
      'diff2.vdi: its parent is .*11, but the layer below has UUID .*10'
    # shellcheck disable=SC2086
    assert_match "$(refusal --filter=diff --filter=diff $layer \
                      diff=diff2.vdi diff=diff3.vdi)" \
      'diff2.vdi: its parent is .*11, but the layer below has UUID .*10'
  done
  sha256sum --quiet -c ../sums
}

@test "a chain over a chain that another server serves" {
  unpack vdi-chain4
  cd vdi-chain4
  start_nbdkit -r --filter=diff vdi base.vdi diff=diff1.vdi diff=diff2.vdi
  assert_equal "$(hash_served --filter=diff nbd "uri=$uri" diff=diff3.vdi)" \
    "$(image_fact vdi-chain4 diff3.vdi raw_sha256)" 'its top'
  # One of its other levels.
  assert_equal "$(hash_served --filter=diff nbd \
    "uri=nbd+unix:///diff1.vdi?socket=$socket" diff=diff2.vdi)" \
    "$(image_fact vdi-chain4 diff2.vdi raw_sha256)" 'diff1'
  assert_match "$(refusal --filter=diff nbd \
                    "uri=nbd+unix:///diff1.vdi?socket=$socket" \
                    diff=diff3.vdi)" 'diff3.vdi: its parent is'
  # A plugin that has several exports.
  assert_equal "$(hash_served --filter=diff vdi diff2.vdi diff=diff2.vdi \
    diff-base-export=diff1.vdi)" \
    "$(image_fact vdi-chain4 diff2.vdi raw_sha256)" 'diff-base-export='
}

@test "the CID of a VMDK below" {
  qemu-img create -q -f vmdk base.vmdk 4M
  qemu-img create -q -f vmdk -b base.vmdk -F vmdk child.vmdk
  start_nbdkit -r vmdk base.vmdk
  serve -r --filter=diff nbd "uri=$uri" diff=child.vmdk -- \
    'nbdcopy "$uri" null:'
  stop_nbdkit
  qemu-io -f vmdk -c 'write -P 0x43 2M 64k' base.vmdk
  start_nbdkit -r vmdk base.vmdk
  assert_match "$(refusal --filter=diff nbd "uri=$uri" diff=child.vmdk)" \
    'child.vmdk: its parentCID is .*the layer below'
}

@test "a stale modification UUID is said once, not to each client" {
  unpack vdi-chain4
  cd vdi-chain4
  vdi_py patch base.vdi uuidModify=00112233445566778899aabbccddeeff
  start_nbdkit -r --filter=diff vdi base.vdi diff=diff1.vdi
  for _ in 1 2 3; do
    nbdinfo "$uri" >/dev/null
    nbdinfo --list "$uri" >/dev/null
  done
  assert_equal "$(grep -c 'warning: .*modification UUID' "$server_log")" 1
}

@test "a description that lies is text" {
  # The nbdkit plugin for shell scripts says what it wants.
  nbdkit --dump-plugin sh >/dev/null || skip "no sh plugin"
  unpack vdi-chain4
  cd vdi-chain4
  cat >liar <<'EOL'
#!/bin/sh
case $1 in
  get_size) echo 4194304 ;;
  pread) head -c "$3" /dev/zero ;;
  export_description) cat description ;;
  *) exit 2 ;;
esac
EOL
  chmod +x liar
  local bad
  for bad in 'vdkit1' 'vdkit1 uuid=' 'vdkit1 uuid' 'vdkit1 =' 'vdkit1  ' \
             'vdkit1 cid=zz' 'vdkit2 uuid=00000000-0000-0000-0000-000000000001' \
             'vdkit1 uuid=x uuid=a0000000-0000-4000-8000-000000000010' \
             "vdkit1 uuid=$(printf 'a%.0s' {1..4000})"; do
    echo "$bad" >description
    serve -r --filter=diff sh liar diff=diff1.vdi -- 'nbdinfo "$uri"' >/dev/null
  done
  echo 'vdkit1 uuid=a0000000-0000-4000-8000-000000000099' >description
  assert_match "$(refusal --filter=diff sh liar diff=diff1.vdi)" \
    'the layer below has UUID a0000000-0000-4000-8000-000000000099'
}
