# SPDX-License-Identifier: BSD-3-Clause
# What the m-cases files do for each format.  The file that loads this sets
# format, the plugin; the image is disk.$format.
# shellcheck shell=bash disable=SC2154,SC2119,SC2120

# sample [OPTIONS]: disk.raw, 16 MiB with data here and there, and
# disk.$format made of it by qemu.
sample () {
  "$PYTHON" - <<'EOP'
import random
rnd = random.Random(16)
with open("disk.raw", "wb") as f:
    f.truncate(16 << 20)
    for offset, n in ((0, 65536), ((1 << 20) + 4096, 65536),
                      ((3 << 20) + 512, 100000), (7 << 20, 1 << 20),
                      ((15 << 20) + 1000, 5000)):
        f.seek(offset)
        f.write(rnd.randbytes(n))
EOP
  qemu-img convert -f raw -O "$format" ${1:+-o "$1"} disk.raw "disk.$format"
}

# same_as RAW [IMAGE]
same_as () {
  assert_equal "$(hash_served "$format" "${2:-disk.$format}")" \
    "$(hash_file "$1")"
}

# refused PATTERN [IMAGE [PARAMETER...]]
refused () {
  local pattern=$1
  shift
  refuses "$pattern" -r "$format" "${@:-disk.$format}"
}

# readable URI: which of the 16 MiB can be read, and that they are right.
readable () {
  python_client "$1" '
want = open("disk.raw", "rb").read()
good = []
for i in range(16):
    try:
        data = h.pread(1 << 20, i << 20)
    except nbd.Error as e:
        assert e.errno == "EIO", e
        continue
    assert data == want[i << 20:(i + 1) << 20], i
    good.append(str(i))
print(",".join(good))
'
}

trim_frees_space () {
  local before after
  sample
  before=$(stat -c %b "disk.$format")
  serve "$format" "disk.$format" -- '$NBDSH -u "$uri" -c "
assert h.can_trim()
h.trim(1 << 20, 7 << 20)
h.flush()
assert h.pread(1 << 20, 7 << 20) == bytes(1 << 20)
"'
  after=$(stat -c %b "disk.$format")
  [ $(((before - after) * 512)) -ge 1000000 ] || {
    echo "blocks before $before, after $after"
    # A file system without holes can give nothing back.
    { fallocate -l 1M probe && fallocate -p -o 0 -l 1M probe; } ||
      skip "no holes here"
    false
  }
  dd if=/dev/zero of=disk.raw bs=1M seek=7 count=1 conv=notrunc status=none
  same_as disk.raw
}
