#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# A new image is there, complete, or it is not there at all: nothing is left
# that the next attempt would stumble over.

load lib/common

# attempts ARGS...: the N-th call of some kind fails, for N = 1, 2, ..., until
# an attempt meets no failure.  new.img is the new image.
attempts () {
  local kind n status failed=0
  have gcc || skip "no gcc"
  [ "$(getconf LONG_BIT)" -eq 64 ] || skip "for 64 bits only"
  gcc -shared -fPIC -O1 -o fail-io.so "$lib/fail-io.c" -ldl
  for kind in sync write truncate; do
    for ((n = 1; ; n++)); do
      [ "$n" -lt 100 ]
      echo "$kind $n" >fail
      status=0
      FAIL_IO=$PWD/fail \
        VDKIT_PRELOAD="${VDKIT_PRELOAD:+$VDKIT_PRELOAD }$PWD/fail-io.so" \
        serve "$@" diff=new.img diff-write=require -- \
        'nbdinfo --size "$uri"' >out 2>&1 || status=$?
      if [ -e fail ]; then
        # It had nothing to fail.
        cat out
        [ "$status" -eq 0 ]
        break
      fi
      if [ "$status" -ne 0 ]; then
        failed=$((failed + 1))
        [ ! -e new.img ] || { echo "$kind $n"; cat out; false; }
      else
        # Failed at the end of it all: then it is there.
        [ -e new.img ]
      fi
      rm -f new.img
    done
    rm -f new.img fail
  done
  # Both creating and opening it were met.
  echo "$failed attempts failed"
  [ "$failed" -ge 3 ]
}

@test "a failing call, on the layer below: VDI" {
  random_file base.raw 1048576
  attempts --filter=diff file base.raw diff-create=vdi
  serve --filter=diff file base.raw diff=new.img diff-create=vdi -- \
    'nbdinfo "$uri"'
}

@test "a failing call, on the layer below: VMDK" {
  make_vdi base.vdi 1M
  attempts --filter=diff vdi base.vdi diff-create=vmdk
}

@test "a failing call, on one of our images" {
  make_vdi base.vdi 1M
  serve --filter=diff vdi base.vdi diff=one.vdi diff-create=vdi -- \
    'nbdinfo "$uri"'
  sha256sum one.vdi >sum
  attempts --filter=diff vdi base.vdi diff=one.vdi diff-create=vdi
  attempts --filter=diff --filter=diff vdi base.vdi diff=one.vdi \
    diff-create=vmdk
  sha256sum -c sum
}

@test "a chain that is wrong further down" {
  unpack vdi-chain4
  cd vdi-chain4
  run serve --filter=diff vdi base.vdi diff=diff1.vdi diff=diff3.vdi \
    diff=new.vdi diff-create=vdi -- true
  [ "$status" -ne 0 ]
  assert_match "$output" 'diff3.vdi: its parent is'
  [ ! -e new.vdi ]
  # Between two instances.
  run serve --filter=diff --filter=diff --filter=diff vdi base.vdi \
    diff=diff1.vdi diff=diff3.vdi diff=new.vdi diff-create=vdi -- true
  [ "$status" -ne 0 ]
  [ ! -e new.vdi ]
}

@test "a chain that does not go with the layer below" {
  unpack vdi-chain4
  cd vdi-chain4
  start_nbdkit --filter=diff vdi base.vdi diff=diff2.vdi diff=new.vdi \
    diff-create=vdi
  run nbdinfo --size "$uri"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" 'diff2.vdi: its parent is'
  [ ! -e new.vdi ]
  # Nobody writes into what has no name any more.
  run nbdinfo --size "$uri"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" 'new.vdi: was removed'
  stop_nbdkit
  [ -e diff2.vdi ]
  serve --filter=diff vdi base.vdi diff=diff1.vdi diff=new.vdi \
    diff-create=vdi -- 'nbdinfo --size "$uri"'
  [ -e new.vdi ]
}

@test "an image that was there is never removed" {
  unpack vdi-chain4
  cd vdi-chain4
  echo precious >new.vdi
  for args in "diff=new.vdi" "diff=diff1.vdi diff=new.vdi"; do
    # shellcheck disable=SC2086
    run serve --filter=diff vdi base.vdi $args diff-create=vdi -- \
      'nbdinfo "$uri"'
    [ "$status" -ne 0 ]
    assert_match "$output" 'new.vdi: .*exists'
    assert_equal "$(cat new.vdi)" precious
  done
}

@test "an image that appears after the start is not overwritten" {
  random_file base.raw 1048576
  start_nbdkit --filter=diff file base.raw diff=new.vdi diff-create=vdi
  echo precious >new.vdi
  run nbdinfo "$uri"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" 'new.vdi: .*exists'
  assert_equal "$(cat new.vdi)" precious
  # It is made for the first client who finds room.
  rm new.vdi
  nbdinfo "$uri"
  [ -s new.vdi ]
}
