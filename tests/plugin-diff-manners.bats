#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# The manuals and the help of the diff filter and of the vmdk plugin name the
# same parameters.

load lib/common
load lib/manners

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
