# SPDX-License-Identifier: BSD-3-Clause
# Images in very many files.

load lib/common

# make_many N [ACCESS]: extents N FLAT files of 64K, two of every four in one
# file, and a ZERO one of 64K behind each fourth; and disk.raw.
make_many () {
  "$PYTHON" - "$1" "${2:-RDONLY}" <<'EOP'
import random, sys
n, access = int(sys.argv[1]), sys.argv[2]
rnd = random.Random(1)
size = 65536
with open("disk.vmdk", "w") as text, open("disk.raw", "wb") as raw:
    print('# Disk DescriptorFile\nversion=1\nCID=12345678\n'
          'parentCID=ffffffff\ncreateType="custom"\n'
          '# Extent description', file=text)
    for i in range(n):
        first = rnd.randbytes(size)
        name = "part-%d.bin" % i
        with open(name, "wb") as f:
            # What is not named must not be seen.
            f.write(b"!" * 512 + first + b"!" * 512)
        print('%s %d FLAT "%s" 1' % (access, size // 512, name), file=text)
        raw.write(first)
        if i % 4 == 3:
            print('%s %d ZERO' % (access, size // 512), file=text)
            raw.write(bytes(size))
    print('# The Disk Data Base', file=text)
EOP
}

open_files () { find "/proc/$server_pid/fd" -type l 2>/dev/null | wc -l; }

@test "1024 files and few file descriptors" {
  make_many 1024
  ulimit -n 300
  start_nbdkit -r vmdk disk.vmdk
  assert_equal "$(hash_of "$uri")" "$(hash_file disk.raw)" content
  [ "$(open_files)" -lt 300 ]
  # In any order, by many connections.
  read_at_random 8
  [ "$(open_files)" -lt 300 ]
}

# read_at_random N: by N connections, and compare with disk.raw.
read_at_random () {
  python_client "$uri" "
import random, threading
want = open('disk.raw', 'rb').read()
bad = []
def reader(seed):
    rnd = random.Random(seed)
    c = nbd.NBD()
    c.connect_uri('nbd+unix:///?socket=' + h.get_uri().split('socket=')[1])
    for i in range(300):
        n = rnd.choice((1, 512, 70000, 300000))
        at = rnd.randrange(len(want) - n)
        if c.pread(n, at) != want[at:at + n]:
            bad.append((seed, at, n))
threads = [threading.Thread(target=reader, args=(i,)) for i in range($1)]
for t in threads: t.start()
for t in threads: t.join()
assert not bad, bad
"
}

@test "300 files and 64 file descriptors" {
  local access
  ulimit -n 64
  for access in RDONLY RW; do
    make_many 300 $access
    start_nbdkit -r vmdk disk.vmdk
    assert_equal "$(hash_of "$uri")" "$(hash_file disk.raw)" content
    read_at_random 8
    [ "$(open_files)" -lt 60 ]
    stop_nbdkit
  done
  # To write it, all must be open, for their locks: that is refused, with the
  # limit, and reading goes on.
  start_nbdkit vmdk disk.vmdk
  run nbdinfo --size "$uri"
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" \
    'part-[0-9]*\.bin.*: Too many open files; .* 64 files .*ulimit -n'
  stop_nbdkit
  refuses 'Too many open files; .* 64 files .*ulimit -n' vmdk disk.vmdk \
    write=require
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file disk.raw)" content
}

# make_sparse N: disk.vmdk, N sparse files of three kinds, and disk.raw.
make_sparse () {
  vmdk_file sparse hosted.tmp capacity=256 grains=0 text=no
  vmdk_file cowd cowd.tmp capacity=256 grains=0
  vmdk_file sesparse sesparse.tmp capacity=256 grains=0
  "$PYTHON" - "$1" <<'EOP'
import sys
kinds = (("hosted", "SPARSE"), ("cowd", "VMFSSPARSE"), ("sesparse", "SESPARSE"))
with open("disk.vmdk", "w") as text, open("disk.raw", "wb") as raw:
    print('# Disk DescriptorFile\nversion=1\nCID=12345678\n'
          'parentCID=ffffffff\ncreateType="custom"', file=text)
    for i in range(int(sys.argv[1])):
        name, word = kinds[i % 3]
        new = b"piece %05d " % i
        old = b"grain 0 sect"
        data = open(name + ".tmp", "rb").read()
        want = open(name + ".tmp.raw", "rb").read()
        assert old in data and old in want
        with open("part-%d" % i, "wb") as f:
            f.write(data.replace(old, new))
        want = want.replace(old, new).ljust(256 * 512, b"\0")
        raw.write(want)
        print('RW %d %s "part-%d"' % (len(want) // 512, word, i), file=text)
EOP
}

@test "300 sparse files and 64 file descriptors" {
  make_sparse 300
  start_nbdkit -r vmdk disk.vmdk
  assert_equal "$(hash_of "$uri")" "$(hash_file disk.raw)" 'without a limit'
  [ "$(open_files)" -gt 300 ]
  stop_nbdkit
  ulimit -n 64
  start_nbdkit -r vmdk disk.vmdk
  assert_equal "$(hash_of "$uri")" "$(hash_file disk.raw)" content
  read_at_random 8
  [ "$(open_files)" -lt 60 ]
  # What is said of holes is the same, too.
  nbdinfo --map --totals "$uri"
}

@test "a file that is replaced while it is closed" {
  make_many 300
  ulimit -n 64
  start_nbdkit -r vmdk disk.vmdk
  hash_of "$uri"
  cp part-0.bin other
  mv other part-0.bin
  run python_client "$uri" 'h.pread(512, 0)'
  [ "$status" -ne 0 ]
  assert_match "$(cat "$server_log")" 'part-0.bin: was replaced'
}

@test "1024 files stay open where that many may be" {
  [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 4096 ] ||
    skip "few file descriptors here"
  make_many 1024
  # The limit that most users have; nbdkit may raise it.
  ulimit -Sn 1024
  start_nbdkit -r vmdk disk.vmdk
  assert_equal "$(hash_of "$uri")" "$(hash_file disk.raw)" content
  [ "$(open_files)" -ge 1024 ]
}

@test "ZERO extents are holes in the map, and FLAT ones are not" {
  make_many 64
  start_nbdkit -r vmdk disk.vmdk
  assert_equal "$(map_of "$uri")" "$(
    for ((i = 0; i < 16; i++)); do
      echo "$((i * 327680)) 262144 0"
      echo "$((i * 327680 + 262144)) 65536 3"
    done)" map
}

@test "1024 files that are written" {
  make_many 1024 RW
  ulimit -n 4096 || skip "few file descriptors here"
  start_nbdkit vmdk disk.vmdk
  python_client "$uri" '
import random
rnd = random.Random(3)
raw = open("disk.raw", "r+b")
for i in range(200):
    group = rnd.randrange(256)
    at = group * 327680 + rnd.randrange(262144 - 70000)
    data = rnd.randbytes(70000)
    h.pwrite(data, at)
    raw.seek(at)
    raw.write(data)
h.flush()
raw.close()
'
  stop_nbdkit
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file disk.raw)" content
  # And nothing beside what is named.
  run grep -L '^!!!!!!!!' part-*.bin
  [ -z "$output" ]
  # shellcheck disable=SC2012
  assert_equal "$(stat -c %s part-*.bin | sort -u)" 66560 "sizes"
}

@test "1024 pieces of one file (M23)" {
  random_file flat.raw $((1024 * 4096))
  { printf '# Disk DescriptorFile\nversion=1\nCID=12345678\n'
    printf 'parentCID=ffffffff\ncreateType="custom"\n'
    # Backwards.
    for ((i = 1023; i >= 0; i--)); do
      echo "RW 8 FLAT \"flat.raw\" $((i * 8))"
    done; } >disk.vmdk
  "$PYTHON" -c '
data = open("flat.raw", "rb").read()
open("want.raw", "wb").write(b"".join(data[i * 4096:(i + 1) * 4096]
                                      for i in range(1023, -1, -1)))'
  ulimit -n 100
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file want.raw)"
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"w\" * 10000, 4000)
assert h.pread(10000, 4000) == b\"w\" * 10000
"'
  printf 'w%.0s' {1..10000} |
    dd of=want.raw bs=4000 seek=1 conv=notrunc status=none
  assert_equal "$(hash_served vmdk disk.vmdk)" "$(hash_file want.raw)"
}
