#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Chains that VirtualBox made: every state of the disk reads as it does there,
# however the chain is put together.

load lib/common

# chain_of SET: sets files (base first), hashes and uuids of its levels.
chain_of () {
  unpack "$1"
  cd "$1" || return 1
  mapfile -t files < <(manifest '.sets[] | select(.name == $set)
    | .views[0].images[].file' --arg set "$1")
  mapfile -t hashes < <(manifest '.sets[] | select(.name == $set)
    | .views[0].images[].raw_sha256' --arg set "$1")
  mapfile -t uuids < <(manifest '.sets[] | select(.name == $set)
    | .views[0].images[].uuid' --arg set "$1")
  [ "${#files[@]}" -ge 3 ]
  sha256sum "${files[@]}" >../sums
}

# Reading never changes any of them.
unchanged () { sha256sum --quiet -c ../sums; }

# plugin_of FILE: its word on nbdkit's command line.
plugin_of () { echo "${1##*.}"; }

# diffs LEVEL: sets args to the diff= parameters up to that level.
diffs () {
  local i
  args=()
  for ((i = 1; i <= $1; i++)); do
    args+=("diff=${files[i]}")
  done
}

through_the_filter () {
  local i
  chain_of "$1"
  for ((i = 1; i < ${#files[@]}; i++)); do
    diffs "$i"
    assert_equal "$(hash_served --filter=diff "$(plugin_of "${files[0]}")" \
      "${files[0]}" "${args[@]}")" "${hashes[i]}" "${files[i]}"
  done
  unchanged
}

through_stacked_filters () {
  local i filters
  chain_of "$1"
  for ((i = 1; i < ${#files[@]}; i++)); do
    diffs "$i"
    mapfile -t filters < <(printf -- '--filter=diff\n%.0s' "${args[@]}")
    assert_equal "$(hash_served "${filters[@]}" "$(plugin_of "${files[0]}")" \
      "${files[0]}" "${args[@]}")" "${hashes[i]}" "${files[i]}"
  done
  # Fewer filters than images: the innermost takes the rest.
  assert_equal "$(hash_served --filter=diff --filter=log --filter=diff \
    "$(plugin_of "${files[0]}")" "${files[0]}" "${args[@]}" \
    logfile=/dev/null)" "${hashes[i - 1]}" "two filters"
  unchanged
}

by_itself () {
  local i
  chain_of "$1"
  for ((i = 0; i < ${#files[@]}; i++)); do
    assert_equal "$(hash_served "$(plugin_of "${files[i]}")" "${files[i]}")" \
      "${hashes[i]}" "${files[i]}"
  done
  # From another folder, too.
  cd /
  assert_equal "$(hash_served "$(plugin_of "${files[i - 1]}")" \
    "$BATS_TEST_TMPDIR/$1/${files[i - 1]}")" "${hashes[i - 1]}" "from /"
  cd "$BATS_TEST_TMPDIR/$1" || return 1
  unchanged
}

# export_uri NAME
export_uri () { echo "nbd+unix:///$1?socket=$socket"; }

# exports_have FIRST: each level from that on, by UUID and by file name.
exports_have () {
  local i names
  names=$(nbdinfo --list --json "$uri" | jq -r '.exports[]."export-name"')
  for ((i = $1; i < ${#files[@]}; i++)); do
    grep -Fxq "${uuids[i]}" <<<"$names"
    grep -Fxq "${files[i]}" <<<"$names"
    assert_equal "$(hash_of "$(export_uri "${uuids[i]}")")" "${hashes[i]}" \
      "${uuids[i]}"
    assert_equal "$(hash_of "$(export_uri "${files[i]}")")" "${hashes[i]}" \
      "${files[i]}"
    assert_match "$(description_of "$(export_uri "${uuids[i]}")")" \
      "^vdkit1 uuid=${uuids[i]} "
    assert_match "$(nbdinfo "$(export_uri "${uuids[i]}")")" \
      'is_read_only: true'
  done
  assert_equal "$(hash_of "$uri")" "${hashes[i - 1]}" "the top"
}

as_exports () {
  chain_of "$1"
  start_nbdkit "$(plugin_of "${files[-1]}")" "${files[-1]}"
  exports_have 0
  stop_nbdkit

  diffs $((${#files[@]} - 1))
  start_nbdkit --filter=diff "$(plugin_of "${files[0]}")" "${files[0]}" \
    "${args[@]}"
  exports_have 1
  # The layer below, by the UUID that its child knows it by.
  assert_equal "$(hash_of "$(export_uri "${uuids[0]}")")" "${hashes[0]}" base
  stop_nbdkit

  start_nbdkit --filter=diff --filter=diff "$(plugin_of "${files[0]}")" \
    "${files[0]}" "${args[@]}"
  exports_have 1
  assert_equal "$(hash_of "$(export_uri "${uuids[0]}")")" "${hashes[0]}" base
  stop_nbdkit
  unchanged
}

@test "vdi-chain4: the filter" { through_the_filter vdi-chain4; }
@test "vdi-chain4: stacked filters" { through_stacked_filters vdi-chain4; }
@test "vdi-chain4: the plugin by itself" { by_itself vdi-chain4; }
@test "vdi-chain4: every level is an export" { as_exports vdi-chain4; }
@test "vmdk-chain4: the filter" { through_the_filter vmdk-chain4; }
@test "vmdk-chain4: stacked filters" { through_stacked_filters vmdk-chain4; }
@test "vmdk-chain4: the plugin by itself" { by_itself vmdk-chain4; }
@test "vmdk-chain4: every level is an export" { as_exports vmdk-chain4; }
@test "mixed-chain: the filter" { through_the_filter mixed-chain; }
@test "mixed-chain: stacked filters" { through_stacked_filters mixed-chain; }
@test "mixed-chain: the plugin by itself" { by_itself mixed-chain; }
@test "mixed-chain: every level is an export" { as_exports mixed-chain; }

@test "machine-a: every state of both disks, found by the .vbox" {
  local file hash n=0
  unpack machine-a
  while IFS=$'\t' read -r file hash; do
    assert_equal "$(hash_served "$(plugin_of "$file")" "machine-a/$file")" \
      "$hash" "$file"
    n=$((n + 1))
  done < <(manifest '.sets[] | select(.name == "machine-a").machine
    | (.snapshots[].attachments[], .current[])
    | select(.chain) | "\(.chain[-1])\t\(.raw_sha256)"')
  [ "$n" -eq 6 ]
}

@test "machine-a: without the .vbox the images are found by their UUIDs" {
  local file hash n=0
  unpack machine-a
  rm machine-a/*/*.vbox
  while IFS=$'\t' read -r file hash; do
    assert_equal "$(hash_served "$(plugin_of "$file")" "machine-a/$file")" \
      "$hash" "$file"
    n=$((n + 1))
  done < <(manifest '.sets[] | select(.name == "machine-a").machine
    | .current[] | select(.chain) | "\(.chain[-1])\t\(.raw_sha256)"')
  [ "$n" -eq 2 ]
}

@test "machine-a: every level is an export" {
  local chain=() i hash
  unpack machine-a
  mapfile -t chain < <(manifest '.sets[] | select(.name == "machine-a")
    .machine.current[0].chain[]')
  start_nbdkit -r vdi "machine-a/${chain[-1]}"
  for i in 0 1 2; do
    hash=$(manifest '[.sets[] | select(.name == "machine-a").machine
      | (.snapshots[].attachments[], .current[])
      | select(.chain and .chain[-1] == $file)][0].raw_sha256' \
      --arg file "${chain[i]}")
    # The braces of VirtualBox's names have to be escaped in a URI.
    assert_equal "$(hash_of "$(export_uri "$(jq -rn --arg n \
      "${chain[i]##*/}" '$n | @uri')")")" "$hash" "${chain[i]}"
  done
}

@test "chain-exports=none and diff-exports=none: the top only" {
  chain_of vdi-chain4
  start_nbdkit -r vdi diff2.vdi chain-exports=none
  [ "$(nbdinfo --list --json "$uri" | jq '.exports | length')" -eq 1 ]
  run nbdinfo "$(export_uri "${uuids[0]}")"
  [ "$status" -ne 0 ]
  start_nbdkit -r --filter=diff vdi base.vdi diff=diff1.vdi diff-exports=none
  [ "$(nbdinfo --list --json "$uri" | jq '.exports | length')" -eq 1 ]
  run nbdinfo "$(export_uri "${uuids[1]}")"
  [ "$status" -ne 0 ]
  run nbdinfo "$(export_uri "${uuids[0]}")"
  [ "$status" -ne 0 ]
}
