# SPDX-License-Identifier: BSD-3-Clause
# The filter over layers that are particular about requests.

load lib/common

setup () { common_setup; }

@test "no request to the layer below is larger than it allows" {
  local base=(--filter=blocksize-policy file base.raw
              blocksize-minimum=512 blocksize-preferred=4096
              blocksize-maximum=65536 blocksize-error-policy=error)
  nbdkit --dump-plugin --filter=blocksize-policy file >/dev/null ||
    skip "no blocksize-policy filter"
  random_file base.raw 4194304
  serve --filter=diff "${base[@]}" diff=child.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  serve --filter=diff "${base[@]}" diff=child.vdi -- '$NBDSH -u "$uri" -c "
want = open(\"base.raw\", \"rb\").read()
for offset, n in (0, 4 << 20), (1, (4 << 20) - 2), (65535, 65538), (513, 65536):
    assert h.pread(n, offset) == want[offset:offset + n], (offset, n)
h.pwrite(b\"x\", (1 << 20) + 5)
assert h.pread(3, (1 << 20) + 4) == want[(1 << 20) + 4:(1 << 20) + 5] + b\"x\" + want[(1 << 20) + 6:(1 << 20) + 7]
"'
}

@test "many first clients of a new image on the layer below" {
  local i pids=()
  random_file base.raw 1048576
  start_nbdkit --filter=diff file base.raw diff=child.vdi diff-create=vdi
  for i in 1 2 3 4 5 6 7 8; do
    nbdinfo --list "$uri" >"list$i" &
    pids+=("$!")
    nbdinfo --json "$uri" >"info$i" &
    pids+=("$!")
  done
  for i in "${pids[@]}"; do
    wait "$i"
  done
}
