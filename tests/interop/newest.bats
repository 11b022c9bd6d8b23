# SPDX-License-Identifier: BSD-3-Clause
# The newest nbdkit, libnbd and qemu: the plugin built here with the nbdkit of
# this machine runs in them, and they agree with us.

load ../lib/common

setup () {
  common_setup
  requires_peers
  cd "$peers_dir" || return 1
  cp "$PLUGIN_VDI" plugin.so
  # Its libraries, but for the C library's own, come along.
  ldd plugin.so | awk '$3 ~ "^/" {print $3}' |
    grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*)\.so' |
    xargs -r cp -L -t .
  random_file disk.raw 3000000
  truncate -s 9438208 disk.raw
  printf 'end' | dd of=disk.raw bs=1 seek=9438205 conv=notrunc status=none
}

# A plugin that was built with sanitizers needs their libraries.
loads () {
  peer env LD_LIBRARY_PATH=. nbdkit ./plugin.so --version >version.txt 2>&1 && return 0
  cat version.txt
  [ -z "${VDKIT_PRELOAD-}" ] || skip "the plugin is built with sanitizers"
  ! grep -q 'GLIBC_[0-9.]*. not found' version.txt ||
    skip "the C library there is older than the one here"
  return 1
}

@test "the newest nbdkit serves with the plugin built here" {
  loads
  peer env LD_LIBRARY_PATH=. nbdkit ./plugin.so --dump-plugin >dump.txt
  assert_match "$(cat dump.txt)" '^vdi_capabilities='
  peer env LD_LIBRARY_PATH=. nbdkit -U - ./plugin.so disk.vdi create=dynamic size=9438208 --run \
    'nbdinfo "$uri" && nbdcopy --flush disk.raw "$uri" &&
     nbdinfo --map "$uri" && nbdcopy "$uri" back.raw'
  cmp disk.raw back.raw
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)" \
    "read by the nbdkit here"
  qemu-img check -f vdi disk.vdi
}

@test "the newest nbdkit gives the reason why it refuses" {
  loads
  echo "not an image" >disk.vdi
  run peer env LD_LIBRARY_PATH=. nbdkit -r -U - ./plugin.so disk.vdi --run 'nbdinfo "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'disk\.vdi: '
}

@test "filters of the newest nbdkit over the plugin built here" {
  loads
  make_vdi disk.vdi 9438208
  serve vdi disk.vdi -- 'nbdcopy --flush disk.raw "$uri"'
  local filter
  for filter in cow cache readahead blocksize noparallel; do
    peer env LD_LIBRARY_PATH=. nbdkit -r -U - --filter="$filter" ./plugin.so disk.vdi --run \
      'nbdcopy "$uri" back.raw'
    cmp disk.raw back.raw
  done
}

@test "a client that has not flushed, and SIGTERM to the newest nbdkit" {
  loads
  peer env LD_LIBRARY_PATH=. sh -c '
    nbdkit -f -U "$PWD/s" -P pid ./plugin.so disk.vdi create=dynamic size=8M &
    n=$!
    while [ ! -s pid ]; do sleep 0.1; done
    (echo "write -P 5 2M 5k"; sleep 3) |
      qemu-io -t writeback -f raw "nbd+unix:///?socket=$PWD/s" >qemu-io.log &
    while ! grep -q wrote qemu-io.log; do sleep 0.1; done
    kill $n
    wait $n'
  qemu-img check -f vdi disk.vdi
  serve -r vdi disk.vdi -- '$NBDSH -u "$uri" -c "
assert h.pread(5121, 2 << 20) == bytes([5]) * 5120 + bytes(1)"'
}

@test "the newest qemu finds our images clean, and the same" {
  local how
  for how in dynamic fixed; do
    rm -f disk.vdi
    serve vdi disk.vdi create=$how size=9438208 -- \
      'nbdcopy --flush disk.raw "$uri"'
    peer qemu-img check -f vdi disk.vdi
    peer qemu-img compare -f raw -F vdi disk.raw disk.vdi
  done
}

@test "what the newest qemu writes, we read" {
  peer qemu-img convert -f raw -O vdi disk.raw disk.vdi
  assert_equal "$(hash_served vdi disk.vdi)" "$(hash_file disk.raw)" convert
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(b\"z\" * 512, 8 << 20)"'
  printf 'z%.0s' {1..512} |
    dd of=disk.raw bs=1M seek=8 conv=notrunc status=none
  peer qemu-img check -f vdi disk.vdi
  peer qemu-img compare -f raw -F vdi disk.raw disk.vdi
}
