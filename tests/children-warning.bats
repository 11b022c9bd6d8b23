#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Writing to an image that others are on top of spoils those; where a .vbox
# shows that there are some, it is said.

load lib/common

setup () {
  common_setup
  unpack machine-a
  cd 'machine-a/Fixture Alpha' || return 1
  one='Snapshots/{de6ee40f-24ce-430e-bf47-a1b3fed056d9}.vdi'
  leaf='Snapshots/{5c98a506-927f-4175-a084-d380c0276124}.vdi'
  settings='Fixture Alpha.vbox'
}

# warnings ARGS...: how many there are while two clients come, the second one
# while the first is there; output has the messages.
warnings () {
  run serve "$@" -- '
    $NBDSH -u "$uri" -c "
import nbd
second = nbd.NBD()
second.connect_uri(\"$uri\")
" && nbdinfo --size "$uri" >/dev/null'
  echo "$output"
  [ "$status" -eq 0 ] || return 1
  count=$(grep -c 'warning: .*has children' <<<"$output" || true)
}

@test "an image with children that is opened for writing: a warning, once" {
  warnings vdi alpha-system.vdi
  assert_equal "$count" 1 warnings
  assert_match "$output" \
    "vdi: warning: $PWD/alpha-system.vdi: .*$PWD/$settings.*1, such as $one"
  warnings vdi alpha-system.vdi write=require
  assert_equal "$count" 1 warnings
  # In the middle of a chain.
  warnings vdi "$one"
  assert_equal "$count" 1 warnings
  assert_match "$output" "1, such as $leaf"
  # It is not refused.
  serve vdi alpha-system.vdi -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"spoilt\", 0)
assert h.pread(6, 0) == b\"spoilt\""'
}

@test "who only reads, or writes to the topmost image, is not warned" {
  warnings -r vdi alpha-system.vdi
  assert_equal "$count" 0 warnings
  warnings vdi alpha-system.vdi readonly=true
  assert_equal "$count" 0 warnings
  warnings vdi "$leaf"
  assert_equal "$count" 0 warnings
  warnings vdi "$leaf" write=require
  assert_equal "$count" 0 warnings
  rm "$settings"
  warnings vdi alpha-system.vdi
  assert_equal "$count" 0 warnings
}

@test "the filter: of the image on top only" {
  warnings --filter=diff vdi alpha-system.vdi diff="$one" diff="$leaf"
  assert_equal "$count" 0 warnings
  warnings --filter=diff --filter=diff vdi alpha-system.vdi diff="$one" \
    diff="$leaf"
  assert_equal "$count" 0 warnings
  warnings -r --filter=diff vdi alpha-system.vdi diff="$one"
  assert_equal "$count" 0 warnings
  warnings --filter=diff vdi alpha-system.vdi diff="$one"
  assert_equal "$count" 1 warnings
  assert_match "$output" "diff: warning: .*$one.*1, such as $leaf"
  warnings --filter=diff vdi alpha-system.vdi diff="$one" diff-write=require
  assert_equal "$count" 1 warnings
  # A new image on top makes the one that has children a base.
  warnings --filter=diff vdi alpha-system.vdi diff="$one" diff=new.vdi \
    diff-create=vdi
  assert_equal "$count" 0 warnings
}

@test "several children, and settings that are hostile" {
  local uuid=35fdf548-0213-4802-a852-6d7f8fbae3b9 i
  { echo '<VirtualBox><Machine><MediaRegistry><HardDisks>'
    echo "<HardDisk uuid='{$uuid}' location='alpha-system.vdi'>"
    for i in 1 2 3; do
      echo "<HardDisk uuid='{$uuid$i}' location='not a UUID'/>"
      echo "<HardDisk uuid='{0000000$i-0213-4802-a852-6d7f8fbae3b9}'
        location='x&#x9b;31m%s%n$i'/>"
    done
    echo '</HardDisk></HardDisks></MediaRegistry></Machine></VirtualBox>'
  } >"$settings"
  warnings vdi alpha-system.vdi
  assert_equal "$count" 1 warnings
  assert_match "$output" '3, such as x.xc2.x9b31m%s%n1\)'
  # A name of any length.
  sed -i "s/x&#x9b;/$(printf 'y%.0s' {1..9000})/" "$settings"
  warnings vdi alpha-system.vdi
  assert_equal "$count" 1 warnings
  assert_match "$output" 'such as y+\)'
}
