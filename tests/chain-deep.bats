#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Chains as long as they may be, and longer; chains made to keep us busy.

load lib/common

# Each is refused, and soon: nobody waits for ever for a hostile chain.
fails () {
  local pattern=$1
  shift
  nbdkit_command -f -U - -r "$@" --run true
  run timeout -k 5 60 "${nbdkit[@]}" </dev/null 3>&-
  echo "$output" | tail -5
  [ "$status" -ne 0 ] && [ "$status" -ne 124 ] && [ "$status" -ne 137 ]
  assert_match "$output" "$pattern"
}

# vdi_chain N: 0.vdi (the base) to N.vdi, all empty.
vdi_chain () {
  rm -f 0.vdi 1.vdi
  make_vdi 0.vdi 1M block-size=4096 force=true
  serve --filter=diff vdi 0.vdi diff=1.vdi diff-create=vdi -- \
    'nbdinfo "$uri"' >/dev/null
  "$PYTHON" - "$1" <<'EOP'
import os, sys
n = int(sys.argv[1])
def uuid(i):
    return b"\xc0" * 12 + i.to_bytes(4, "little")
def put(f, offset, data):
    f.seek(offset)
    f.write(data)
template = open("1.vdi", "rb").read()
pieces = [(i, template[i:i + 4096]) for i in range(0, len(template), 4096)
          if any(template[i:i + 4096])]
with open("0.vdi", "r+b") as f:
    put(f, 392, uuid(0))
    f.seek(408)
    modification = f.read(16)
for i in range(1, n + 1):
    with open("%d.vdi" % i, "wb") as f:
        for offset, data in pieces:
            put(f, offset, data)
        f.truncate(len(template))
        put(f, 392, uuid(i))
        put(f, 408, modification)
        put(f, 424, uuid(i - 1))
        put(f, 440, modification)
EOP
}

@test "250 images: found, served, every level, written at the top" {
  vdi_chain 249
  serve vdi 249.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(b\"top\", 70000)"'
  start_nbdkit vdi 249.vdi
  [ "$(nbdinfo --list --json "$uri" | jq '.exports | length')" -eq 501 ]
  assert_equal "$(python_client "$uri" 'print(h.pread(5, 69999))')" \
    "bytearray(b'\\x00top\\x00')"
  assert_equal "$(python_client "nbd+unix:///248.vdi?socket=$socket" \
    'print(h.pread(5, 69999))')" "bytearray(b'\\x00\\x00\\x00\\x00\\x00')"
  stop_nbdkit
  # The same by the filter.
  local args=() i
  for ((i = 1; i < 250; i++)); do
    args+=("diff=$i.vdi")
  done
  assert_equal "$(hash_served --filter=diff vdi 0.vdi "${args[@]}")" \
    "$(hash_served vdi 249.vdi)"
}

@test "more than 250 images are refused" {
  local args=() i
  vdi_chain 260
  fails 'more than 249 images below it' vdi 260.vdi
  for ((i = 1; i <= 251; i++)); do
    args+=("diff=$i.vdi")
  done
  fails 'a chain of 251 images; 1 to 250' --filter=diff vdi 0.vdi "${args[@]}"
}

@test "a chain of 3,000 by UUID ends at 250, a folder of 10,000 at once" {
  vdi_chain 3000
  fails 'more than 249 images below it' vdi 3000.vdi
  vdi_chain 10000
  fails 'more than 4096 entries.*parent=FILE' vdi 10000.vdi
}

# VMDK descriptors alone, each naming the next.
hints () {
  "$PYTHON" - "$1" "$2" <<'EOP'
import sys
n, last = int(sys.argv[1]), sys.argv[2]
for i in range(n):
    hint = "%d.vmdk" % (i + 1) if i + 1 < n else last
    with open("%d.vmdk" % i, "w") as f:
        f.write('# Disk DescriptorFile\nversion=1\nCID=00000001\n'
                'parentCID=00000001\ncreateType="custom"\n'
                'parentFileNameHint="%s"\n'
                'RW 2048 SPARSE "x.vmdk"\nddb.adapterType = "ide"\n' % hint)
EOP
}

@test "10,000 images by hints, and circles of hints" {
  hints 10000 base.vmdk
  fails 'more than 249 images below it' vmdk 0.vmdk
  hints 1 0.vmdk
  fails 'circle' vmdk 0.vmdk
  hints 2 0.vmdk
  fails 'circle' vmdk 0.vmdk
  hints 200 100.vmdk
  fails 'circle' vmdk 0.vmdk
  # Links and other spellings lead to the same files.
  hints 2 ./././0.vmdk
  fails 'circle' vmdk 0.vmdk
  ln -s 0.vmdk soft.vmdk
  hints 2 soft.vmdk
  fails 'circle' vmdk 0.vmdk
  # Another name of the same file.
  ln 0.vmdk hard.vmdk
  hints 2 hard.vmdk
  fails 'circle|same file' vmdk 0.vmdk
}

@test "hints that are hostile" {
  local hint
  for hint in /etc/passwd ../../../../etc/passwd nbd://127.0.0.1:1/x \
      'json:{driver:raw,filename:/etc/passwd}' /dev/zero /dev/stdin \
      fifo . .. / '//' 'x/' "$(printf 'a%.0s' {1..3000})" '%s%s%n' \
      '\\\\server\\share\\x.vmdk' 'C:\\x\\y.vmdk' '/proc/self/fd/0'; do
    rm -f fifo
    mkfifo fifo
    hints 1 "$hint"
    fails 'parent was not found|circle|not found' vmdk 0.vmdk
  done
}

@test "the sum of many images is not held open twice" {
  vdi_chain 249
  nbdkit_command -f -U - -r vdi 249.vdi --run 'nbdinfo "$uri"'
  # 1024 files are a usual limit.
  ( ulimit -n 1024 && timeout "$LIMIT" "${nbdkit[@]}" </dev/null 3>&- )
}

# vmdk_chain N [KIND]: 000.vmdk (the base) to N.vmdk, linked by CID and hint, and
# top.raw.  KIND text: each is a descriptor and a file of its own.
vmdk_chain () {
  vmdk_file sparse template capacity=256 grains=0
  vmdk_file sparse base capacity=256 grains=0,1
  vmdk_file sparse extent capacity=256 grains=0 text=no
  vmdk_file descriptor template parentCID=ffffffff \
    'parentCID=99999999\nparentFileNameHint="999.vmdk"'
  "$PYTHON" - "$@" <<'EOP'
import sys
n, text = int(sys.argv[1]), sys.argv[2:] == ["text"]
for i in range(n + 1):
    data = open("template" if i else "base", "rb").read()
    cid = b"CID=%08x\n" % (i + 1)
    assert b"CID=12345678\n" in data
    data = data.replace(b"CID=12345678\n", cid)
    data = data.replace(b"CID=99999999", b"CID=%08x" % i)
    data = data.replace(b"999.vmdk", b"%03d.vmdk" % (i - 1))
    with open("%03d.vmdk" % i, "wb") as f:
        if text and i:
            f.write(data[512:512 + 20 * 512].rstrip(b"\0")
                    .replace(b"x.vmdk", b"%03d-s001.vmdk" % i))
            data = open("extent", "rb").read()
            f = open("%03d-s001.vmdk" % i, "wb")
        f.write(data.replace(b"grain 0 sect", b"piece %05d " % i))
with open("top.raw", "wb") as f:
    f.write(open("base.raw", "rb").read()
            .replace(b"grain 0 sect", b"piece %05d " % n))
EOP
  truncate -s 131072 top.raw
}

# Whatever the limit is, the chain is served as it is, or the limit is named.
@test "250 images and few file descriptors" {
  local kind n served=0 refused=0
  for kind in sparse text; do
    rm -f ./*.vmdk
    vmdk_chain 249 $kind
    assert_equal "$(hash_served vmdk 249.vmdk)" "$(hash_file top.raw)" $kind
    for n in 40 64 100 251 259 300 400 500 520 600 755 770 800 1024; do
      nbdkit_command -f -U - -r vmdk 249.vmdk --run 'nbdcopy "$uri" out.raw'
      run bash -c 'ulimit -n "$1"; shift; exec timeout 60 "$@"' bash "$n" \
        "${nbdkit[@]}" 3>&-
      if [ "$status" -eq 0 ]; then
        cmp out.raw top.raw
        served=$((served + 1))
      else
        echo "$kind $n: $output"
        assert_match "$output" \
          "error: .*Too many open files; .* $n files .*ulimit -n"
        refused=$((refused + 1))
      fi
    done
    # 1024 is what most users have.
    [ "$status" -eq 0 ]
  done
  [ "$served" -gt 1 ] && [ "$refused" -gt 1 ]
}

@test "a search that lacks file descriptors does not call the parent absent" {
  local n
  unpack machine-a
  cd 'machine-a/Fixture Alpha'
  for ((n = 16; n < 64; n++)); do
    nbdkit_command -f -U - -r vdi \
      'Snapshots/{5c98a506-927f-4175-a084-d380c0276124}.vdi' \
      --run 'echo CLIENT RAN'
    run bash -c 'ulimit -n "$1"; shift; exec timeout 60 "$@"' bash "$n" \
      "${nbdkit[@]}" 3>&-
    [[ $output == *'CLIENT RAN'* ]] ||
      assert_match "$output" 'Too many open files|EMFILE' ||
      { echo "at $n"; return 1; }
    [[ $output != *'not found'* && $output != *'ignored'* ]] ||
      { echo "at $n: $output"; return 1; }
  done
  assert_match "$output" 'CLIENT RAN'
}
