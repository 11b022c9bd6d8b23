# SPDX-License-Identifier: BSD-3-Clause
# Every variant of VMDK, made, written and read by us and by qemu, VirtualBox,
# libvmdk and 7-Zip.  docs/vmdk-interop.md is what this test writes; to renew
# it: VDKIT_RENEW=1 bats tests/interop/vmdk-matrix.bats

load ../lib/common

teardown () {
  stop_peer_services
  common_teardown
}

# versions_in FILE: the programs that were used.
versions_in () { sed -n '/^| | |$/,/^$/p' "$1"; }

@test "the matrix: what must be ok, is; and the document says so" {
  local docs=$top_srcdir/docs/vmdk-interop.md
  requires_peers
  have vmdkinfo || skip "no vmdkinfo"
  have 7zz || have 7z || skip "no 7-Zip"
  VBOX_IPC_SOCKETID=${peers_dir##*/} \
    "$PYTHON" "$top_srcdir/tests/interop/vmdk-matrix" "$PLUGIN_VMDK" \
    "$VDKIT_PEERS" new.md
  [ -z "${VDKIT_RENEW-}" ] || cp new.md "$docs"
  # Other programs may do better or take another size.
  assert_equal "$(versions_in new.md)" "$(versions_in "$docs")" versions ||
    skip "other versions than in $docs"
  diff -u "$docs" new.md
}
