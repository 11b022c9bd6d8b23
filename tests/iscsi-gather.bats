# SPDX-License-Identifier: BSD-3-Clause
# nbdkit's threads on one processor, as long as that is enough for them.

load lib/common
load lib/iscsi

# start_load [PARAMETERS...]: a client that keeps the server busy, but not too
# busy for one processor.  The array options is for nbdkit.
options=()
start_load () {
  have fio || skip "no fio"
  [ -e disk ] || truncate -s 20M disk
  serve_file disk
  start_nbdkit "${options[@]}" iscsi "$url" "$@"
  timeout 120 fio --name=load --ioengine=nbd --uri="$uri" --rw=randrw --bs=4k \
    --iodepth=16 --size=16M --time_based --runtime=120 --rate_iops=2000,2000 \
    >fio.out 2>&1 3>&- &
  load_pid=$!
}

stop_load () {
  kill -0 "$load_pid" || { cat fio.out; false; }
  kill "$load_pid"
  wait "$load_pid" || true
}

# Where each thread of nbdkit may run, one line for each, the main one first.
masks () {
  local task
  for task in "/proc/$server_pid/task/"*; do
    sed -n 's/^Cpus_allowed_list:\s*//p' "$task/status" || true
  done 2>/dev/null
}

# gathered N: at least so many threads have one processor, which is the same.
gathered () {
  [ "$(masks | tail -n +2 | grep -xE '[0-9]+' | sort | uniq -c |
       awk '$1 > n { n = $1 } END { print n + 0 }')" -ge "$1" ]
}

# All but the one that waits for the end of the connection.
free_again () {
  [ "$(masks | grep -cvxF "$(masks | head -n 1)")" -le 1 ]
}

@test "the threads of a busy server gather on one processor" {
  start_load
  wait_for gathered 4
  # Only those that carry requests: not nbdkit's own, nor the session's.
  assert_equal "$(masks | head -n 1)" \
    "$(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status)"
  stop_load
}

# all_on CPU: at least four threads are bound to it, and none to another.
all_on () {
  [ "$(masks | tail -n +2 | grep -cx "$1")" -ge 4 ] &&
    [ "$(masks | tail -n +2 | grep -xE '[0-9]+' | sort -u)" = "$1" ]
}

@test "while all processors are busy, they follow the client" {
  local cpus i job burners=()
  mapfile -t cpus < <(taskset -cp $$ | sed 's/.*: //' | tr , '\n' |
    awk -F- '{ for (i = $1; i <= (NF > 1 ? $2 : $1); i++) print i }')
  start_load
  wait_for gathered 4
  for ((i = 0; i < $(nproc --all); i++)); do
    timeout 120 nice -n 19 sh -c 'while :; do :; done' 3>&- &
    burners+=($!)
  done
  # timeout has started fio, and fio a process for its job.
  job=$(pgrep -P "$(pgrep -P "$load_pid")")
  for i in "${cpus[0]}" "${cpus[-1]}" "${cpus[0]}"; do
    taskset -cp "$i" "$job" >taskset.out
    wait_for all_on "$i"
  done
  kill "${burners[@]}"
  stop_load
}

@test "gather=false: they run where the user lets them" {
  start_load gather=false
  local i
  for ((i = 0; i < 20; i++)); do
    sleep 0.1
    assert_equal "$(masks | sort -u)" "$(masks | head -n 1)"
  done
  [ "$(masks | wc -l)" -ge 10 ]
  stop_load
}

@test "what taskset says meanwhile holds" {
  start_load
  local first i
  first=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')
  wait_for gathered 4
  taskset -acp "$first" "$server_pid" >taskset.out
  # Longer than they stay at one place.
  for ((i = 0; i < 60; i++)); do
    sleep 0.1
    assert_equal "$(masks | sort -u)" "$first"
  done
  stop_load
}

@test "a client that comes meanwhile is not bound to that processor" {
  # The partition filter reads when a client connects, and nbdkit starts this
  # client's threads after that.
  truncate -s 20M disk
  printf '2048,,L\n' | sfdisk -q disk
  options=(-t 2 --filter=partition)
  start_load partition=1
  wait_for gathered 2
  cat >client.py <<'END'
import os, time
open('connected', 'w').close()
while not os.path.exists('alone'):
    time.sleep(0.05)
while not os.path.exists('seen'):
    for i in range(8):
        h.aio_pread(nbd.Buffer(4096), i * 4096)
    while h.aio_in_flight() > 0:
        h.poll(-1)
    time.sleep(0.05)
END
  python_client "$uri" client.py >client.out 2>&1 3>&- &
  local client=$!
  wait_for test -e connected
  stop_load
  touch alone
  wait_for free_again
  touch seen
  wait "$client" || { cat client.out; false; }
}
