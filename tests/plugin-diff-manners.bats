#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# The manuals and the help of the diff filter and of the vmdk plugin name the
# same parameters.

load lib/common
load lib/manners
load lib/completions

@test "the help and the manual of the diff filter list the same parameters" {
  [ "$(manual_keys filters/diff/nbdkit-diff-filter.pod | wc -l)" -ge 10 ]
  # What the plugin below has is in the help, too.
  diff <(help_keys --filter=diff null | grep -vxE 'size') \
    <(manual_keys filters/diff/nbdkit-diff-filter.pod)
}

@test "the help and the manual of the vmdk plugin list the same parameters" {
  [ "$(manual_keys plugins/vmdk/nbdkit-vmdk-plugin.pod | wc -l)" -ge 15 ]
  diff <(help_keys vmdk) <(manual_keys plugins/vmdk/nbdkit-vmdk-plugin.pod)
}

@test "only what nbdkit needs is visible of the filter" {
  [ "$(symbols "$FILTER_DIFF")" = filter_init ]
}

@test "TAB completes the values of the diff filter" {
  touch snap1.vdi snap2.vdi
  local w=(nbdkit --filter "=" "$FILTER_DIFF")
  assert_equal "$(complete_words "${w[@]}" file diff-create = '')" 'vdi vmdk'
  assert_equal "$(complete_words "${w[@]}" "$PLUGIN_VDI" diff-create = vm)" vmdk
  assert_equal "$(complete_words "${w[@]}" "$PLUGIN_VDI" diff-exports =)" \
    'all none'
  assert_equal "$(complete_words "${w[@]}" file diff = snap)" \
    'snap1.vdi snap2.vdi'
  # In one word, where "=" does not end one.
  assert_equal "$(complete_words nbdkit "--filter=$FILTER_DIFF" \
    --filter="$FILTER_DIFF" file diff-lock=a)" 'diff-lock=auto'
  # Whatever is not ours.
  assert_equal "$(complete_words "${w[@]}" file --filter = '')" own
  assert_equal "$(complete_words "${w[@]}" file nonsense = '')" own
  assert_equal "$(complete_words nbdkit file diff-create = '')" own
  # The plugins have theirs as before.
  assert_equal "$(complete_words nbdkit "$PLUGIN_VDI" chain = '')" 'auto none'
}
