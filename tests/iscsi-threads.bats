# SPDX-License-Identifier: BSD-3-Clause
# Many threads on one LUN, while the target closes connections all the time.

load lib/common
load lib/iscsi

@test "many threads, connections lost" {
  local program=${VDKIT_ISCSI_TEST:-$top_builddir/tests/unit/test-iscsi}
  [ -x "$program" ] || skip "no $program"
  truncate -s 8M disk
  serve_file disk
  VDKIT_ISCSI_URL=$url timeout 100 "$program" >out 2>&1 3>&- &
  local client=$! sid
  for _ in 1 2 3 4 5 6; do
    sleep 0.3
    for sid in $(admin --op show --mode conn --tid 1 |
                 sed -n 's/^Session: \([0-9]*\).*/\1/p'); do
      admin --op delete --mode conn --tid 1 --sid "$sid" --cid 0 || true
    done
  done
  wait "$client" || { cat out; false; }
  if grep WARNING out; then cat out; false; fi
}
