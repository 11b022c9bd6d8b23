# SPDX-License-Identifier: BSD-3-Clause
# VMDK below filters, and random requests compared with nbdkit's memory
# plugin, for every variant that can be written.

load lib/common
load lib/consumers

# shellcheck disable=SC2034
format=vmdk
create=sparse
make_disk () { make_vmdk "$1" "$create" "${@:2}"; }
check_disk () {
  case $create in
    sparse) qemu-img check -q -f vmdk "$1" &&
      "$PYTHON" "$lib/vmdk-tables.py" closed "$1" ;;
    split-sparse) qemu-img check -q -f vmdk "$1" &&
      "$PYTHON" "$lib/vmdk-tables.py" closed "${1%.vmdk}"-s*.vmdk ;;
  esac
}

@test "filters on top, reading" { filters_reading; }
@test "filters on top, reading a flat one" { create=flat; filters_reading; }
@test "filters on top, writing" { filters_writing; }
@test "a partition of the disk, and a window of it" { partitions; }

@test "filters on top, reading a stream" {
  local filters args
  make_disks
  serve vmdk stream.vmdk create=stream size=25167360 -- \
    'nbdcopy --flush disk.raw "$uri"'
  for filters in cow readahead blocksize noextents noparallel \
                 'cache blocksize readahead'; do
    filter_args
    assert_equal "$(hash_served "${args[@]}" vmdk stream.vmdk)" \
      "$(hash_file disk.raw)" "$filters"
  done
}

random_requests () {
  create=$1
  model_test "$2" "$3"
  check_disk disk.vmdk
}

@test "random requests, sparse" { random_requests sparse 1 12M; }
@test "random requests, sparse, odd size" { random_requests sparse 2 9438208; }
@test "random requests, split-sparse" { random_requests split-sparse 3 9438208; }
@test "random requests, flat" { random_requests flat 4 9438208; }
@test "random requests, split-flat" { random_requests split-flat 5 9M; }
@test "random requests, vmfs" { random_requests vmfs 6 9438208; }

@test "random requests, zeroed grains" {
  qemu-img create -q -f vmdk -o zeroed_grain=on disk.vmdk 9438208
  model_sessions 9438208 7 8
  qemu-img check -f vmdk disk.vmdk
  start_nbdkit -r vmdk disk.vmdk
  qemu-img compare -f raw -F vmdk "$uri" disk.vmdk
}
