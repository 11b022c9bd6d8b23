# SPDX-License-Identifier: BSD-3-Clause
# Under load, answers of the target are taken together.

load lib/common
load lib/iscsi

# serve_busy [PARAMETERS...]: with what is decided about answers in server_log.
serve_busy () {
  have fio || skip "no fio"
  truncate -s 20M disk
  serve_file disk
  start_nbdkit -v -D iscsi.log=2 iscsi "$url" "$@"
}

# As fast as it goes, and what was read must be what was written.
load_it () {
  timeout 120 fio --name=load --ioengine=nbd --uri="$uri" --rw=randwrite \
    --bs=4k --iodepth=32 --size=16M --verify=crc32c --verify_fatal=1 \
    --loops="$1" >fio.out 2>&1 || { cat fio.out; false; }
}

# Whether they are kept depends on the machine.
busy_until_tried () {
  load_it 2
  grep -q 'trying to take answers together, every [1-9][0-9]* us' \
    "$server_log" &&
    grep -qE 'answers are taken (together|as they come) \([0-9]+ and [0-9]+ ' \
      "$server_log"
}

@test "a busy server takes answers together, and none is lost" {
  serve_busy
  wait_for busy_until_tried
  load_it 4
  # One request at a time is not kept waiting for others.
  qemu-io -f raw -c 'read 0 1M' -c 'write -P 7 4096 4096' \
    -c 'read -P 7 4096 4096' "$uri"
  stop_nbdkit
  cmp -n 4096 -i 4096:0 disk <(head -c 4096 /dev/zero | tr '\0' '\7')
}

@test "coalesce=false: every answer is taken as it comes" {
  serve_busy coalesce=false
  load_it 6
  run grep 'take.* answers\|answers are taken' "$server_log"
  assert_equal "$status" 1
  stop_nbdkit
}
