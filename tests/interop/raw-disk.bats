# SPDX-License-Identifier: BSD-3-Clause
# Descriptions of disks of the host: VirtualBox makes the same ones, reads and
# writes through ours, and qemu says that it does not know them.

load ../lib/common
load ../lib/raw-disk

teardown () {
  stop_peer_services
  common_teardown
  release_devices
}

# here FILE: its name in the chroot.
here () { echo "/data/${peers_dir##*/}/$1"; }

# theirs NEW PROPERTY...: VirtualBox makes NEW.vmdk of the disk at $node.
theirs () {
  local new=$1 args=()
  shift
  for property; do
    case $property in
      BootSector=*) args+=(--property-file "$property") ;;
      *) args+=(--property "$property") ;;
    esac
  done
  peer VBoxManage createmedium disk --filename "$(here "$new.vmdk")" \
    --format VMDK --variant RawDisk \
    --property RawDrive="$(here "${node##*/}")" "${args[@]}"
}

# for_peer FILE: our description names the disk as it is called in the chroot.
for_peer () { sed -i "s|\"$peers_dir/|\"$(here '')|" "$peers_dir/$1"; }

# plain NAME FILE: the extents of FILE without what does not matter: blanks at
# the end (VirtualBox), the name of the overlay, and where one table is two
# extents side by side (VirtualBox, GPT).
plain () {
  extents_of "$2" | sed -e 's/ *$//' -e "s/\"$1-pt/\"NAME-pt/" |
    awk '$4 == last && $4 ~ /-pt/ && $5 == end {
           size += $2; end += $2; next
         }
         { if (line != "") print line, size rest }
         { line = $1; size = $2; last = $4; end = $5 + $2
           rest = ""
           for (i = 3; i <= NF; i++)
             rest = rest " " (i == 5 && last ~ /-pt/ ? $5 : $i) }
         END { print line, size rest }'
}

# same_data FILE: VirtualBox reads there what we do.
same_data () {
  rm -f "$peers_dir/out.raw"
  peer vbox-img convert --srcfilename "$1" --srcformat VMDK \
    --dstfilename out.raw --dstformat RAW
  # In the chroot the disk has another name.
  sed "s|\"$(here '')|\"$peers_dir/|" "$peers_dir/$1" >"$peers_dir/read.vmdk"
  assert_equal "$(hash_served vmdk "$peers_dir/read.vmdk" raw-disk=allow)" \
    "$(hash_file "$peers_dir/out.raw")" "$1"
}

@test "a whole disk" {
  requires_peers
  mbr_disk disk.raw
  loop disk.raw
  node_in "$peers_dir"
  serve vmdk "$peers_dir/ours.vmdk" create=full-device device="$node" \
    raw-disk=allow -- true
  for_peer ours.vmdk
  theirs vbox
  diff <(plain ours "$peers_dir/ours.vmdk") <(plain vbox "$peers_dir/vbox.vmdk")
  # The geometry too.
  diff <(sed -n 's/^\(ddb\.geometry[^ =]*\)[ =]*/\1 /p' "$peers_dir/ours.vmdk") \
    <(sed -n 's/^\(ddb\.geometry[^ =]*\)[ =]*/\1 /p' "$peers_dir/vbox.vmdk")
  same_data ours.vmdk
  cmp "$peers_dir/out.raw" disk.raw
  run peer VBoxManage internalcommands createrawvmdk \
    -filename "$(here old.vmdk)" -rawdisk "$(here disk1)"
  echo "$output"
  diff <(plain ours "$peers_dir/ours.vmdk") <(plain old "$peers_dir/old.vmdk")
}

@test "partitions of an MBR" {
  requires_peers
  mbr_disk disk.raw
  loop disk.raw
  node_in "$peers_dir"
  head -c 440 /dev/zero | tr '\0' B >"$peers_dir/boot.bin"
  for choice in 1,5 3,6r,7 1r; do
    rm -f "$peers_dir"/ours* "$peers_dir"/vbox*.vmdk
    describe "$peers_dir/ours.vmdk" "$node" "$choice"
    for_peer ours.vmdk
    theirs vbox Partitions="$choice"
    diff <(plain ours "$peers_dir/ours.vmdk") \
      <(plain vbox "$peers_dir/vbox.vmdk")
    cmp "$peers_dir/ours-pt.vmdk" "$peers_dir/vbox-pt.vmdk"
    peer vbox-img info --filename ours.vmdk
    run peer VBoxManage showmediuminfo "$(here ours.vmdk)"
    echo "$output"
    [ "$status" -eq 0 ]
    assert_match "$output" 'Capacity: *48 MBytes'
    same_data ours.vmdk
    peer VBoxManage closemedium disk "$(here vbox.vmdk)"
    peer VBoxManage closemedium disk "$(here ours.vmdk)"
  done
  # Its own boot code.
  rm -f "$peers_dir"/ours* "$peers_dir"/vbox*.vmdk
  describe "$peers_dir/ours.vmdk" "$node" 1 boot-sector="$peers_dir/boot.bin"
  theirs vbox Partitions=1 BootSector="$(here boot.bin)"
  cmp "$peers_dir/ours-pt.vmdk" "$peers_dir/vbox-pt.vmdk"
  run cmp -s -n 512 "$peers_dir/ours-pt.vmdk" disk.raw
  [ "$status" -eq 1 ]
}

@test "partitions of a GPT: the same but for the backup, which VirtualBox leaves out" {
  requires_peers
  gpt_disk disk.raw
  loop disk.raw
  node_in "$peers_dir"
  describe "$peers_dir/ours.vmdk" "$node" 2,3r
  for_peer ours.vmdk
  theirs vbox Partitions=2,3r
  plain ours "$peers_dir/ours.vmdk" >our-extents
  plain vbox "$peers_dir/vbox.vmdk" >their-extents
  assert_equal "$(tail -n 2 our-extents)" "$(printf '%s\n' 'RW 36831 ZERO' \
    'RW 33 FLAT "NAME-pt.vmdk" 2048')"
  assert_equal "$(tail -n 1 their-extents)" 'RW 36864 ZERO'
  diff <(head -n -2 our-extents) <(head -n -1 their-extents)
  cmp -n 1048576 "$peers_dir/ours-pt.vmdk" "$peers_dir/vbox-pt.vmdk"
  same_data ours.vmdk
  cmp -i $((65503 * 512)) "$peers_dir/out.raw" disk.raw
}

@test "sectors of 4 KiB" {
  requires_peers
  truncate -s 64M disk.raw
  loop disk.raw -b 4096
  mbr_of_4k_sectors "$device"
  node_in "$peers_dir"
  describe "$peers_dir/ours.vmdk" "$node" 1,6
  for_peer ours.vmdk
  theirs vbox Partitions=1,6
  diff <(plain ours "$peers_dir/ours.vmdk") <(plain vbox "$peers_dir/vbox.vmdk")
  cmp "$peers_dir/ours-pt.vmdk" "$peers_dir/vbox-pt.vmdk"
  same_data ours.vmdk
}

@test "partitions by devices of their own" {
  requires_peers
  mbr_disk disk.raw
  loop disk.raw
  nodes_in "$peers_dir"
  describe "$peers_dir/ours.vmdk" "$node" 1,5r relative=true
  for_peer ours.vmdk
  theirs vbox Partitions=1,5r Relative=1
  diff <(plain ours "$peers_dir/ours.vmdk") <(plain vbox "$peers_dir/vbox.vmdk")
  same_data ours.vmdk
}

@test "VirtualBox writes through our description: to what was chosen only" {
  requires_peers
  mbr_disk disk.raw
  cp disk.raw want.raw
  loop disk.raw
  node_in "$peers_dir"
  describe "$peers_dir/ours.vmdk" "$node" 1,7
  for_peer ours.vmdk
  # A disk of W's is copied over it.
  head -c 48M /dev/zero | tr '\0' W >"$peers_dir/other.raw"
  peer VBoxManage convertfromraw other.raw other.vdi --format VDI
  peer VBoxManage clonemedium disk "$(here other.vdi)" "$(here ours.vmdk)" \
    --existing
  for part in 2048 49152; do
    dd if="$peers_dir/other.raw" of=want.raw bs=512 seek=$part count=8192 \
      conv=notrunc status=none
  done
  sync disk.raw
  cmp disk.raw want.raw
  cmp "$peers_dir/ours-pt.vmdk" <(head -c 4M "$peers_dir/other.raw")
}

@test "qemu does not know these disks, and does not show something else" {
  mbr_disk disk.raw
  serve vmdk full.vmdk create=full-device device=disk.raw raw-disk=allow -- true
  describe part.vmdk disk.raw 1,7
  for file in full part; do
    if qemu-img convert -f vmdk -O raw $file.vmdk $file.raw 2>message; then
      assert_equal "$(hash_file $file.raw)" \
        "$(hash_served vmdk $file.vmdk raw-disk=allow)" "$file with qemu"
    else
      cat message
      grep -F "Unsupported image type" message
    fi
  done
  # Through us it reads them.
  serve -r vmdk part.vmdk raw-disk=allow -- \
    'qemu-img convert -f raw -O raw "$uri" got.raw'
  assert_equal "$(hash_file got.raw)" \
    "$(hash_served vmdk part.vmdk raw-disk=allow)"
}
