# SPDX-License-Identifier: BSD-3-Clause
# The real VirtualBox tools read what we write, and we read what they write.

load ../lib/common

# Random data with gaps, the last bytes included.
mixed_file () {
  random_file data 300000
  truncate -s "$2" "$1"
  dd if=data of="$1" conv=notrunc status=none
  dd if=data of="$1" bs=512 seek=4000 count=500 conv=notrunc status=none
  dd if=data of="$1" bs=512 seek=$(($2 / 512 - 3)) count=3 conv=notrunc \
    status=none
}

# check BYTES PARAMETER...: we write, vbox-img converts, VBoxManage looks.
check () {
  local bytes=$1 vdi
  shift
  requires_peers
  vdi=$peers_dir/disk.vdi
  mixed_file disk.raw "$bytes"
  serve vdi file="$vdi" size="$bytes" "$@" -- \
    'nbdcopy --flush disk.raw "$uri"'
  peer vbox-img info --filename disk.vdi
  peer vbox-img convert --srcfilename disk.vdi --srcformat VDI \
    --dstfilename out.raw --dstformat RAW
  cmp disk.raw "$peers_dir/out.raw"
  run peer VBoxManage showmediuminfo disk.vdi
  echo "$output"
  [ "$status" -eq 0 ]
  assert_match "$output" 'Accessible: *yes|State: *(created|locked)'
  # Looking at it must not have changed what is in it.
  assert_equal "$(hash_served vdi "$vdi")" "$(hash_file disk.raw)"
}

@test "dynamic" { check 16777216 create=dynamic; }
@test "fixed" { check 8388608 create=fixed; }
@test "odd size" { check 5244416 create=dynamic; }
@test "blocks of 2 MiB" { check 16777728 create=dynamic block-size=2M; }
@test "blocks of 512 KiB" { check 9437696 create=dynamic block-size=512K; }

@test "zero blocks" {
  local vdi
  requires_peers
  vdi=$peers_dir/disk.vdi
  make_vdi "$vdi" 8M
  truncate -s 8M disk.raw
  cat >ops.py <<'EOF'
M = 1 << 20
h.pwrite(b"x" * 3 * M, 0)
h.pwrite(bytes(2 * M), 5 * M)
h.zero(M, M)
h.flush()
EOF
  serve vdi "$vdi" -- '$NBDSH -u "$uri" -c "$(cat ops.py)"'
  serve file disk.raw -- '$NBDSH -u "$uri" -c "$(cat ops.py)"'
  peer vbox-img convert --srcfilename disk.vdi --srcformat VDI \
    --dstfilename out.raw --dstformat RAW
  cmp disk.raw "$peers_dir/out.raw"
}

@test "VBoxManage clones what we wrote, and we read the clone" {
  requires_peers
  mixed_file disk.raw 6291968
  serve vdi file="$peers_dir/disk.vdi" create=dynamic size=6291968 -- \
    'nbdcopy --flush disk.raw "$uri"'
  peer VBoxManage clonemedium disk disk.vdi clone.vdi
  assert_equal "$(hash_served vdi "$peers_dir/clone.vdi")" \
    "$(hash_file disk.raw)"
}

@test "VirtualBox converts a raw disk, and we read and write the result" {
  local variant
  requires_peers
  mixed_file "$peers_dir/disk.raw" 8389120
  for variant in Standard Fixed; do
    rm -f "$peers_dir/v.vdi"
    peer VBoxManage convertfromraw disk.raw v.vdi --format VDI \
      --variant "$variant"
    assert_equal "$(hash_served vdi "$peers_dir/v.vdi")" \
      "$(hash_file "$peers_dir/disk.raw")" "$variant"
  done
  cat >ops.py <<'EOF'
h.pwrite(b"new" * 100000, 3 << 20)
h.pwrite(b"end", h.get_size() - 3)
EOF
  serve vdi "$peers_dir/v.vdi" -- '$NBDSH -u "$uri" -c "$(cat ops.py)"'
  serve file "$peers_dir/disk.raw" -- '$NBDSH -u "$uri" -c "$(cat ops.py)"'
  peer vbox-img convert --srcfilename v.vdi --srcformat VDI \
    --dstfilename out.raw --dstformat RAW
  cmp "$peers_dir/disk.raw" "$peers_dir/out.raw"
}
