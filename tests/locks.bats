# SPDX-License-Identifier: BSD-3-Clause
# Two programs never write one image: not two of ours, and not qemu and we.

load lib/common

# A client that makes the server open the image for writing.
write_a_bit='h.pwrite(b"x", 0)'

@test "qemu cannot open what we write" {
  make_vdi disk.vdi 4M
  start_nbdkit vdi disk.vdi
  python_client "$uri" "$write_a_bit"
  # The lock stays when the client has gone.
  run qemu-img info disk.vdi
  [ "$status" -ne 0 ]
  assert_match "$output" 'lock'
  run qemu-img check -f vdi disk.vdi
  [ "$status" -ne 0 ]
  run qemu-io -f vdi -c 'write 0 512' disk.vdi
  [ "$status" -ne 0 ]
  assert_match "$output" 'lock'
  stop_nbdkit
  qemu-img check -f vdi disk.vdi
}

@test "qemu reads, and does not write, what we serve read-only" {
  make_vdi disk.vdi 4M
  start_nbdkit -r vdi disk.vdi
  hash_of "$uri"
  qemu-img info disk.vdi
  run qemu-io -f vdi -c 'write 0 512' disk.vdi
  [ "$status" -ne 0 ]
  assert_match "$output" 'lock'
}

@test "we refuse what qemu writes" {
  make_vdi disk.vdi 4M
  qemu-nbd -t -f vdi -k "$PWD/q" disk.vdi >qemu.log 2>&1 </dev/null 3>&- &
  server_pids+=($!)
  wait_for test -S q
  run serve vdi disk.vdi write=require -- true
  [ "$status" -ne 0 ]
  assert_match "$output" 'disk.vdi'
  assert_match "$output" 'lock|use'
  run serve -r vdi disk.vdi -- true
  [ "$status" -ne 0 ]
}

@test "we share with a qemu that only reads" {
  make_vdi disk.vdi 4M
  qemu-nbd -r -t -f vdi -k "$PWD/q" disk.vdi >qemu.log 2>&1 </dev/null 3>&- &
  server_pids+=($!)
  wait_for test -S q
  serve -r vdi disk.vdi -- 'nbdinfo "$uri"'
  run serve vdi disk.vdi write=require -- true
  [ "$status" -ne 0 ]
}

@test "lock=off leaves it to the user" {
  make_vdi disk.vdi 4M
  qemu-nbd -t -f vdi -k "$PWD/q" disk.vdi >qemu.log 2>&1 </dev/null 3>&- &
  server_pids+=($!)
  wait_for test -S q
  serve -r vdi disk.vdi lock=off -- 'nbdinfo "$uri"'
}

@test "two servers, one writer" {
  make_vdi disk.vdi 4M
  start_nbdkit vdi disk.vdi
  python_client "$uri" "$write_a_bit"
  run serve vdi disk.vdi -- 'nbdinfo "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'lock|use'
  python_client "$uri" "$write_a_bit"
}

@test "two servers started at once: exactly one may write" {
  local first second n=0
  make_vdi disk.vdi 4M
  for _ in 1 2 3 4 5; do
    (serve vdi disk.vdi write=require -- 'sleep 1') >a.log 2>&1 &
    first=$!
    (serve vdi disk.vdi write=require -- 'sleep 1') >b.log 2>&1 &
    second=$!
    n=0
    if wait "$first"; then n=$((n + 1)); fi
    if wait "$second"; then n=$((n + 1)); fi
    cat a.log b.log
    # Both may lose, as each may see the other's bytes; both must not win.
    [ "$n" -le 1 ]
  done
  serve vdi disk.vdi write=require -- true
}

@test "two servers share an image that both only read" {
  make_vdi disk.vdi 4M
  start_nbdkit -r vdi disk.vdi
  serve -r vdi disk.vdi -- 'nbdinfo "$uri"'
}

@test "the lock is held by a server in the background" {
  make_vdi disk.vdi 4M
  "$NBDKIT" -U "$PWD/s" -P "$PWD/pid" "$PLUGIN_VDI" "$PWD/disk.vdi" \
    write=require 3>&-
  wait_for test -s pid
  run qemu-img info disk.vdi
  kill "$(cat pid)"
  [ "$status" -ne 0 ]
  assert_match "$output" 'lock'
}
