# SPDX-License-Identifier: BSD-3-Clause
# A guest's file system, read and written by libguestfs over NBD.  Runs only
# where guestfish and a kernel for it are installed; run-tests installs
# them when CI is set.  Emulated: /dev/kvm exists in places where it does not work.

load lib/common

@test "guestfish reads, writes and trims a file system" {
  local sum
  have guestfish || skip "no guestfish"
  have mkfs.ext4 || skip "no mkfs.ext4"
  have sfdisk || skip "no sfdisk"
  export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
  LIMIT=280

  mkdir files
  random_file files/known.bin 8388608
  random_file files/old.bin 8388608 2
  sum=$(hash_file files/known.bin)
  truncate -s 64M disk.raw
  printf 'start=2048, type=83\n' | sfdisk -q disk.raw
  mkfs.ext4 -q -F -d files -E offset=1048576 disk.raw $((63 * 1024))k
  make_vdi disk.vdi 64M
  serve vdi disk.vdi -- 'nbdcopy --flush disk.raw "$uri"'

  start_nbdkit vdi disk.vdi
  if ! timeout "$LIMIT" guestfish --format=raw -a "nbd://?socket=$socket" \
       >fish.log 2>fish.err 3>&- <<'EOF2'
run
mount-options discard /dev/sda1 /
checksum sha256 /known.bin
rm /old.bin
write /new "written by a guest"
sync
fstrim /
umount /
EOF2
  then
    cat fish.err
    # It says so when it cannot start at all; then it is not about us.
    ! grep -Eq 'appliance|supermin|launch' fish.err ||
      skip "libguestfs does not start here: $(tail -n 1 fish.err)"
    false
  fi
  assert_match "$(cat fish.log)" "$sum"
  stop_nbdkit
  qemu-img check -f vdi disk.vdi

  serve -r vdi disk.vdi -- 'nbdcopy "$uri" after.raw'
  tail -c +1048577 after.raw >part.raw
  e2fsck -fn part.raw
  assert_equal "$(debugfs -R 'cat /new' part.raw 2>/dev/null)" \
    "written by a guest"
  assert_equal "$(debugfs -R 'cat /known.bin' part.raw 2>/dev/null |
                    sha256sum | cut -c 1-64)" "$sum" known.bin
  run debugfs -R 'stat /old.bin' part.raw
  assert_match "$output" 'File not found'
}
