#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# VMware's locks: a folder FILE.lck beside a file that a virtual machine has
# open.  What it may be writing is not written by us.

load lib/common

# vmware_locks FILE: as a virtual machine does.
vmware_locks () {
  mkdir "$1.lck"
  echo vmx-1234 > "$1.lck/M56789.lck"
}


@test "an image that VMware has open is served read-only, and not changed" {
  make_vmdk disk.vmdk sparse 1M
  cp disk.vmdk before
  vmware_locks disk.vmdk
  run serve vmdk disk.vmdk -- 'nbdinfo "$uri"; nbdcopy "$uri" null:'
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output == *"is_read_only: true"* ]]
  assert_match "$output" \
    "disk\.vmdk: is locked by VMware: the folder $PWD/disk\.vmdk\.lck holds M56789\.lck; shut .* remove that folder or use lock=off"
  cmp disk.vmdk before
  assert_equal "$(ls disk.vmdk.lck)" M56789.lck
}

@test "write=require: nbdkit does not start" {
  make_vmdk disk.vmdk sparse 1M
  vmware_locks disk.vmdk
  run serve vmdk disk.vmdk write=require -- 'echo CLIENT RAN'
  echo "$output"
  [ "$status" -ne 0 ]
  [[ $output != *"CLIENT RAN"* ]]
  assert_match "$output" "locked by VMware.*$PWD/disk\.vmdk\.lck.*lock=off"
}

@test "lock=off writes it all the same, and leaves the folder alone" {
  make_vmdk disk.vmdk sparse 1M
  random_file content 1048576
  vmware_locks disk.vmdk
  run serve vmdk disk.vmdk lock=off -- 'nbdcopy --flush content "$uri"'
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output != *VMware* ]]
  assert_equal "$(ls disk.vmdk.lck)" M56789.lck
  assert_equal "$(hash_served vmdk disk.vmdk lock=off)" "$(hash_file content)"
}

@test "a reader is warned, and can read" {
  make_vmdk disk.vmdk sparse 1M
  vmware_locks disk.vmdk
  run serve -r vmdk disk.vmdk -- 'nbdinfo --size "$uri"'
  echo "$output"
  [ "$status" -eq 0 ]
  assert_match "$output" "warning: .*disk\.vmdk: .*VMware may be writing it.*$PWD/disk\.vmdk\.lck"
  run serve -r vmdk disk.vmdk lock=off -- 'nbdinfo --size "$uri"'
  [[ $output != *VMware* ]]
}

@test "when the virtual machine is shut down the next connection may write" {
  make_vmdk disk.vmdk sparse 1M
  vmware_locks disk.vmdk
  start_nbdkit vmdk disk.vmdk
  nbdinfo "$uri" | grep 'is_read_only: true'
  rm -r disk.vmdk.lck
  nbdinfo "$uri" | grep 'is_read_only: false'
}

@test "a virtual machine that starts later keeps the next server out" {
  make_vmdk disk.vmdk sparse 1M
  start_nbdkit vmdk disk.vmdk
  vmware_locks disk.vmdk
  nbdinfo "$uri" | grep 'is_read_only: true'
}

@test "the lock of any file that would be written counts" {
  local file
  make_vmdk disk.vmdk split-sparse 5G
  make_vmdk flat.vmdk flat 1M
  for file in disk-s002.vmdk flat-flat.vmdk; do
    vmware_locks $file
    run serve vmdk "${file%-*}.vmdk" write=require -- true
    echo "$output"
    [ "$status" -ne 0 ]
    assert_match "$output" "locked by VMware.*$PWD/$file\.lck holds"
    rm -r $file.lck
    serve vmdk "${file%-*}.vmdk" write=require -- true
  done
}

@test "the diff filter names its own parameter, and that works" {
  make_vmdk base.vmdk sparse 1M
  serve --filter=diff vmdk base.vmdk diff=new.vmdk diff-create=vmdk -- \
    'nbdinfo --size "$uri"'
  vmware_locks new.vmdk
  run serve --filter=diff vmdk base.vmdk diff=new.vmdk diff-write=require -- \
    true
  echo "$output"
  [ "$status" -ne 0 ]
  assert_match "$output" 'new\.vmdk: is locked by VMware.* diff-lock=off'
  serve --filter=diff vmdk base.vmdk diff=new.vmdk diff-write=require \
    diff-lock=off -- true
}

@test "what is no lock of VMware does not count" {
  make_vmdk disk.vmdk sparse 1M
  mkdir disk.vmdk.lck                   # nobody holds it
  serve vmdk disk.vmdk write=require -- true
  rmdir disk.vmdk.lck
  echo x > disk.vmdk.lck                # a file
  serve vmdk disk.vmdk write=require -- true
  rm disk.vmdk.lck
  vmware_locks elsewhere                # a link that leads out is not followed
  mkdir in
  mv disk.vmdk in
  ln -s ../elsewhere.lck in/disk.vmdk.lck
  serve vmdk in/disk.vmdk write=require -- true
  mkfifo in/fifo
  rm in/disk.vmdk.lck
  ln -s fifo in/disk.vmdk.lck
  serve vmdk in/disk.vmdk write=require -- true
}

@test "a folder that cannot be looked into counts" {
  make_vmdk disk.vmdk sparse 1M
  vmware_locks disk.vmdk
  chmod 0311 disk.vmdk.lck
  if ls disk.vmdk.lck 2>/dev/null; then
    # Root may do everything, if nothing is taken away.
    have setpriv || skip "root, and no setpriv"
    printf '#!/bin/sh\nexec setpriv --bounding-set %s %s "$@"\n' \
      -dac_override,-dac_read_search "$NBDKIT" >nbdkit
    chmod 755 nbdkit
    NBDKIT=$PWD/nbdkit
  fi
  run serve vmdk disk.vmdk write=require -- true
  echo "$output"
  [ "$status" -ne 0 ]
  assert_match "$output" 'locked by VMware.*holds what cannot be read'
}

@test "a name in the folder cannot forge a message" {
  make_vmdk disk.vmdk sparse 1M
  mkdir disk.vmdk.lck
  : > "disk.vmdk.lck/$(printf 'a\nnbdkit: all is well\033[2J')"
  run serve vmdk disk.vmdk write=require -- true
  echo "$output"
  [ "$status" -ne 0 ]
  [[ $output == *"locked by VMware"* ]]
  [[ $output != *$'\n'"nbdkit: all is well"* ]]
  [[ $output != *$'\033'* ]]
}

@test "parents: only the image that is written must not be locked" {
  have qemu-img || skip "no qemu-img"
  qemu-img create -q -f vmdk base.vmdk 1M
  qemu-img create -q -f vmdk -b base.vmdk -F vmdk top.vmdk
  vmware_locks base.vmdk
  run serve vmdk top.vmdk write=require -- 'nbdinfo "$uri"'
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $output == *"is_read_only: false"* ]]
  assert_match "$output" 'base\.vmdk: .*VMware may be writing it'
  vmware_locks top.vmdk
  run serve vmdk top.vmdk write=require -- true
  echo "$output"
  [ "$status" -ne 0 ]
}
