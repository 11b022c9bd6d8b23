# SPDX-License-Identifier: BSD-3-Clause
# VMDK: however the server or a client ends, the image opens and what was
# flushed is there; in one file, and split; and when the file system is full.
# shellcheck disable=SC2317

load lib/common
load lib/kill
load lib/diskfull

# shellcheck disable=SC2034
format=vmdk
make_disk () { make_vmdk disk.vmdk sparse "$@"; }
sparse_files () { echo disk.vmdk; }

tables () {
  # shellcheck disable=SC2046
  "$PYTHON" "$lib/vmdk-tables.py" "$1" $(sparse_files)
}

check_after_kill () {
  qemu-img check -f vmdk disk.vmdk
  tables open
}

check_clean () {
  qemu-img check -f vmdk disk.vmdk
  tables closed
}

# split: make_disk makes three extents that are as small as the tests need.
split () {
  sparse_files () { echo disk-s00[123].vmdk; }
  make_disk () {
    local sectors i n
    sectors=$(($(numfmt --from=iec "$1") / 512))
    rm -f disk*.vmdk
    {
      printf '# Disk DescriptorFile\nversion=1\nCID=12345678\n'
      printf 'parentCID=ffffffff\ncreateType="twoGbMaxExtentSparse"\n\n'
      printf '# Extent description\n'
      for i in 1 2 3; do
        n=$((sectors / 3 / 128 * 128))
        [ $i -lt 3 ] || n=$((sectors - 2 * n))
        qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse \
          part.vmdk $((n * 512)) >&2
        mv part-s001.vmdk disk-s00$i.vmdk
        printf 'RW %d SPARSE "disk-s00%d.vmdk"\n' $n $i
      done
      printf '\n# The Disk Data Base\n#DDB\n\nddb.adapterType = "ide"\n'
    } >disk.vmdk
    rm part.vmdk
  }
}

@test "kill -9 under a client that records what it flushed" {
  kill_recorder 0.1 0.5 0.2 2.3
}
@test "split: kill -9 under a client that records what it flushed" {
  split
  kill_recorder 0.1 1
}
@test "kill -9 in the middle of nbdcopy" { kill_nbdcopy 0.1 2.2; }
@test "split: kill -9 in the middle of nbdcopy" { split; kill_nbdcopy 0.4; }
@test "SIGTERM and SIGINT while an idle client has not flushed: nothing is lost" {
  signals_idle_client
}
@test "split: SIGTERM and SIGINT while an idle client has not flushed" {
  split
  signals_idle_client
}
@test "a client that is killed within --run" { killed_client_in_run; }
@test "two servers at once, without write=require: one writer, nothing lost" {
  two_servers
}

# Without a session that writes in between, others read what was flushed.
@test "killed after a flush: qemu reads it, and only then do we" {
  random_file disk.raw 9000000
  truncate -s 12M disk.raw
  make_disk 12M
  start_nbdkit vmdk disk.vmdk
  nbdcopy --flush disk.raw "$uri"
  kill_server
  check_after_kill
  qemu-img compare -f raw -F vmdk disk.raw disk.vmdk
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file disk.raw)"
  check_after_session
}

# ---- disk full -------------------------------------------------------------

runs_full () {
  small_fs tmpfs
  cd full || return 1
  make_disk 32M
  start_nbdkit vmdk disk.vmdk
  python_client "$uri" "${until_full//want.raw/../want.raw}" "${1-pass}"
  assert_match "$(cat "$server_log")" '\.vmdk: .*make room'
  stop_nbdkit
  check_clean
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file ../want.raw)"
}

go_on='
import os
os.unlink("filler")
put(full << 20, rnd.randbytes(1 << 20))
put((full << 20) + 5, b"again")
h.flush()
same()
open("../want.raw", "wb").write(want)
'

@test "the file system runs full" { runs_full; }
@test "split: the file system runs full" { split; runs_full; }
@test "room is made, and the same client goes on" { runs_full "$go_on"; }

@test "a stream that runs full is an error, and incomplete" {
  small_fs tmpfs
  random_file disk.raw 20000000
  truncate -s 20M disk.raw
  run serve vmdk full/disk.vmdk create=stream size=20M -- \
    'nbdcopy --flush disk.raw "$uri"'
  echo "$output"
  [ "$status" -ne 0 ]
  assert_match "$output" 'No space left on device'
  run serve -r vmdk full/disk.vmdk -- 'nbdinfo "$uri"'
  [ "$status" -ne 0 ]
  run qemu-img convert -f vmdk -O raw full/disk.vmdk out.raw
  [ "$status" -ne 0 ]
}

@test "create, without room for a preallocated image" {
  small_fs tmpfs
  run serve vmdk full/disk.vmdk create=flat-preallocated size=32M -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk-flat\.vmdk: .*No space left'
  [ ! -e full/disk.vmdk ]
  [ ! -e full/disk-flat.vmdk ]
  make_vmdk full/disk.vmdk sparse 32M
}
