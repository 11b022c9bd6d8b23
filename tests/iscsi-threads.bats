# SPDX-License-Identifier: BSD-3-Clause
# Many threads on one LUN, while the target closes connections or is killed all
# the time.  ./run-tests also does this with the program built with sanitizers:
# VDKIT_ISCSI_TEST is its command line.

load lib/common
load lib/iscsi

# Sets client.
start_threads () {
  local program
  read -ra program <<<"${VDKIT_ISCSI_TEST:-$top_builddir/tests/unit/test-iscsi}"
  [ -x "${program[-1]}" ] || skip "no ${program[-1]}"
  truncate -s 8M disk
  serve_file disk
  VDKIT_ISCSI_URL=$url timeout 100 "${program[@]}" >out 2>&1 3>&- &
  client=$!
}

finish_threads () {
  wait "$client" || { cat out; false; }
  if grep WARNING out; then cat out; false; fi
}

@test "many threads, connections lost" {
  start_threads
  local sid
  for _ in 1 2 3 4 5 6; do
    sleep 0.3
    for sid in $(admin --op show --mode conn --tid 1 |
                 sed -n 's/^Session: \([0-9]*\).*/\1/p'); do
      admin --op delete --mode conn --tid 1 --sid "$sid" --cid 0 || true
    done
  done
  finish_threads
}

@test "many threads, the target killed at random moments" {
  start_threads
  local n=0
  # One of which the threads see nothing would show nothing.
  kill -0 "$client"
  while kill -0 "$client" 2>/dev/null && [ $((++n)) -le 12 ]; do
    sleep "0.$((RANDOM % 400 + 100))"
    kill_tgtd
    again
  done
  finish_threads
}
