# SPDX-License-Identifier: BSD-3-Clause
# What an image may name: a stranger's image must not hand out files of the
# host.  What is refused is not even opened.

load lib/common

setup () {
  common_setup
  mkdir images secret
  random_file secret/secret.raw 1048576 7
  random_file images/flat.raw 1048576 8
}

# describe NAME [TYPE [HEADERS]]: images/disk.vmdk, whose extent is NAME.
describe () {
  printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 \
    parentCID=ffffffff "createType=\"${2:-monolithicFlat}\"" ${3:+"$3"} \
    '# Extent description' "RW 2048 FLAT \"$1\" 0" \
    '# The Disk Data Base' >images/disk.vmdk
}

# refused PATTERN [TARGET [PARAMETER...]]: with the reason, and the target is
# not opened.
refused () {
  local pattern=$1 target=${2:-}
  shift $(($# > 1 ? 2 : 1))
  nbdkit_command -f -r -U - vmdk images/disk.vmdk "$@" --run 'echo CLIENT RAN'
  have strace || skip "no strace"
  run timeout 20 strace -f -y -qq -e trace=openat,open,openat2,connect \
    -o trace "${nbdkit[@]}" 3>&-
  echo "$output"
  [ "$status" -eq 1 ] || return 1
  [[ $output != *CLIENT\ RAN* ]] || return 1
  assert_match "$output" "$pattern" || return 1
  grep -q 'disk\.vmdk>' trace || { echo "strace saw nothing"; return 1; }
  [ -n "$target" ] || return 0
  # O_PATH looks a name up and opens nothing.
  if grep -F "<$(realpath "$target")>" trace | grep '= [0-9]' |
      grep -v O_PATH; then
    echo "$target was opened"
    return 1
  fi
}

same_as () {
  local file=$1
  shift
  assert_equal "$(hash_served vmdk images/disk.vmdk "$@")" "$(hash_file "$file")"
}

@test "a file beside the image, and in a folder below" {
  describe flat.raw
  same_as images/flat.raw
  mkdir -p images/a/b
  cp secret/secret.raw images/a/b/c.raw
  describe a/b/c.raw
  same_as secret/secret.raw
  describe ./a/./b//c.raw
  same_as secret/secret.raw
}

@test "an absolute name" {
  describe "$PWD/secret/secret.raw"
  refused 'secret\.raw: .*allow-paths=' secret/secret.raw
  # In its own folder it is of no use either, and it is not said to be
  # elsewhere.
  describe "$PWD/images/flat.raw"
  refused 'images/flat\.raw: .*by an absolute path.*allow-paths=' \
    images/flat.raw
  [[ $output != *'is not in'* ]]
  same_as images/flat.raw allow-paths=images
  describe /etc/passwd
  refused '/etc/passwd: .*allow-paths=' secret/secret.raw
}

@test "a name with .." {
  describe ../secret/secret.raw
  refused 'secret\.raw: .*allow-paths=' secret/secret.raw
  mkdir images/a
  describe a/../../secret/secret.raw
  refused 'secret\.raw: .*allow-paths=' secret/secret.raw
  describe ..
  refused 'images/\.\.: .*allow-paths='
  describe a/../flat.raw
  refused 'a/\.\./flat\.raw: .*by a path with "\.\.".*allow-paths=' \
    images/flat.raw
  [[ $output != *'is not in'* ]]
  same_as images/flat.raw allow-paths=images
}

@test "a link that leads out" {
  ln -s "$PWD/secret/secret.raw" images/absolute.raw
  ln -s ../secret/secret.raw images/relative.raw
  ln -s ../secret images/folder
  ln -s /proc/self/cwd/secret/secret.raw images/magic.raw
  describe absolute.raw
  refused 'absolute\.raw: .*is not in its folder.*allow-paths=' \
    secret/secret.raw
  describe relative.raw
  refused 'relative\.raw: .*allow-paths=' secret/secret.raw
  describe folder/secret.raw
  refused 'folder/secret\.raw: .*allow-paths=' secret/secret.raw
  describe magic.raw
  refused 'magic\.raw: .*allow-paths=' /etc/passwd
}

@test "a link that stays inside" {
  mkdir images/a
  ln -s flat.raw images/link.raw
  ln -s ../flat.raw images/a/up.raw
  describe link.raw
  same_as images/flat.raw
  describe a/up.raw
  same_as images/flat.raw
}

@test "an image that is reached through a link has its own folder" {
  describe flat.raw
  ln -s "$PWD/images/disk.vmdk" secret/disk.vmdk
  assert_equal "$(hash_served vmdk secret/disk.vmdk)" \
    "$(hash_file images/flat.raw)"
}

@test "devices" {
  local name
  for name in /dev/zero /dev/null /dev/mem /dev/loop0 /dev/sda; do
    describe "$name"
    refused "$name: .*raw-disk=" "$name"
  done
  [ "$(id -u)" -eq 0 ] || return 0
  mknod images/node c 1 5 2>/dev/null || return 0
  describe node
  refused 'node: .*(regular file|device)' images/node
}

@test "a block device in the image's own folder" {
  [ "$(id -u)" -eq 0 ] || skip "not root"
  mknod images/node b 7 0 2>/dev/null || skip "no mknod here"
  describe node
  refused 'node: is a block device' images/node
}

@test "a FIFO, a socket, a folder" {
  mkfifo images/fifo
  mkdir images/folder
  "$PYTHON" -c 'import socket
socket.socket(socket.AF_UNIX).bind("images/socket")'
  describe fifo
  refused 'fifo: .*regular file' images/fifo
  describe socket
  refused 'socket: .*regular file' images/socket
  describe folder
  refused 'folder: is a directory' images/folder
  describe .
  refused 'is a directory'
  describe ''
  refused 'no name'
}

@test "the image itself (M30)" {
  describe disk.vmdk
  refused 'disk\.vmdk: line [0-9]+ names the descriptor itself'
  ln images/disk.vmdk images/hard.vmdk
  describe hard.vmdk
  ln -f images/disk.vmdk images/hard.vmdk
  refused 'names the descriptor itself'
}

@test "URLs and the like are plain names (M30)" {
  local name
  for name in nbd://127.0.0.1:10809/x nbd:unix:/tmp/socket http://127.0.0.1/x \
              json:{} fd:0 file:flat.raw file.filename=flat.raw; do
    describe "$name"
    refused 'No such file'
    run grep -E 'connect\(.*(INET|127\.0\.0\.1)' trace
    [ -z "$output" ]
  done
  describe "nbd:flat.raw"
  mv images/flat.raw images/nbd:flat.raw
  same_as images/nbd:flat.raw
}

@test "allow-paths= allows what is in that folder, and nothing else" {
  random_file other.raw 1048576 9
  describe "$PWD/secret/secret.raw"
  same_as secret/secret.raw allow-paths="$PWD/secret"
  same_as secret/secret.raw allow-paths=secret
  same_as secret/secret.raw allow-paths=/usr allow-paths="$PWD/secret"
  describe ../secret/secret.raw
  same_as secret/secret.raw allow-paths="$PWD/secret"
  ln -s ../secret/secret.raw images/link.raw
  describe link.raw
  same_as secret/secret.raw allow-paths="$PWD/secret"
  describe ../other.raw
  refused 'other\.raw: .*allow-paths=' other.raw allow-paths="$PWD/secret"
  describe "$PWD/secret/../other.raw"
  refused 'other\.raw: .*allow-paths=' other.raw allow-paths="$PWD/secret"
  # A folder whose name only begins alike.
  mkdir secret2
  mv other.raw secret2
  describe ../secret2/other.raw
  refused 'other\.raw: .*allow-paths=' secret2/other.raw \
    allow-paths="$PWD/secret"
  # And links there do not lead out of it.
  ln -s ../secret2/other.raw secret/link.raw
  describe ../secret/link.raw
  refused 'link\.raw: .*allow-paths=' secret2/other.raw \
    allow-paths="$PWD/secret"
}

@test "a disk of the host needs raw-disk=, and then it is that one only" {
  describe "$PWD/secret/secret.raw" fullDevice
  refused 'disk\.vmdk: its createType is fullDevice.*raw-disk=' secret/secret.raw
  random_file other.raw 1048576 9
  refused 'secret\.raw: .*raw-disk=' secret/secret.raw raw-disk="$PWD/other.raw"
  cp other.raw images/another.raw
  refused 'secret\.raw: .*raw-disk=' secret/secret.raw \
    raw-disk=images/another.raw
  same_as secret/secret.raw raw-disk="$PWD/secret/secret.raw"
  same_as secret/secret.raw raw-disk=allow
  # raw-disk= is for those who say that they are one.
  describe "$PWD/secret/secret.raw"
  refused 'secret\.raw: .*allow-paths=' secret/secret.raw raw-disk=allow
}

@test "a partition table beside the image does not bring the disk in" {
  printf '%s\n' '# Disk DescriptorFile' version=1 CID=12345678 \
    parentCID=ffffffff 'createType="partitionedDevice"' \
    'RW 1024 FLAT "flat.raw" 0' "RW 1024 FLAT \"$PWD/secret/secret.raw\" 1024" \
    >images/disk.vmdk
  refused 'createType is partitionedDevice' secret/secret.raw
  { head -c 512K images/flat.raw; tail -c 512K secret/secret.raw; } >want.raw
  same_as want.raw raw-disk="$PWD/secret/secret.raw"
}

# delta HINT: a child without data.
delta () {
  vmdk_file sparse images/disk.vmdk capacity=2048 grains=
  vmdk_file descriptor images/disk.vmdk parentCID=ffffffff \
    "parentCID=12345678\\nparentFileNameHint=\"$1\""
}

@test "the name of a parent is no better than that of an extent" {
  vmdk_file sparse secret/parent.vmdk capacity=2048 grains=0
  delta "$PWD/secret/parent.vmdk"
  refused 'disk\.vmdk' secret/parent.vmdk
  delta ../secret/parent.vmdk
  refused 'disk\.vmdk' secret/parent.vmdk
  ln -s ../secret/parent.vmdk images/link.vmdk
  delta link.vmdk
  refused 'disk\.vmdk|link\.vmdk' secret/parent.vmdk
  rm images/link.vmdk
  delta nbd://127.0.0.1:10809/x
  refused 'disk\.vmdk'
  run grep -E 'connect\(.*INET' trace
  [ -z "$output" ]
  mkfifo images/fifo
  delta fifo
  refused 'disk\.vmdk|fifo' images/fifo
  delta disk.vmdk
  refused 'disk\.vmdk'
}

@test "strict=true accepts what we make for strangers' eyes, as OpenStack does" {
  local variant
  for variant in sparse stream; do
    serve vmdk $variant.vmdk create=$variant size=16M -- \
      'nbdcopy --flush images/flat.raw "$uri" || exit 1'
    "$PYTHON" "$lib/inspector.py" $variant.vmdk
    { cat images/flat.raw; head -c 15M /dev/zero; } >want.raw
    assert_equal "$(hash_served vmdk $variant.vmdk strict=true)" \
      "$(hash_file want.raw)" $variant
  done
  # What qemu makes, too.
  for variant in monolithicSparse streamOptimized; do
    qemu-img convert -f raw -O vmdk -o subformat=$variant images/flat.raw \
      $variant.vmdk
    "$PYTHON" "$lib/inspector.py" $variant.vmdk
    assert_equal "$(hash_served vmdk $variant.vmdk strict=true)" \
      "$(hash_file images/flat.raw)" $variant
  done
}

# not_strict [WHAT]: images/disk.vmdk is refused by both.
not_strict () {
  run "$PYTHON" "$lib/inspector.py" images/disk.vmdk
  [ "$status" -eq 1 ] || { echo "inspector accepts: $1"; return 1; }
  run serve -r vmdk images/disk.vmdk strict=true -- 'echo CLIENT RAN'
  echo "$output"
  [ "$status" -eq 1 ] || { echo "accepted: $1"; return 1; }
  assert_match "$output" 'disk\.vmdk: '
}

@test "strict=true refuses every descriptor of text" {
  describe flat.raw
  not_strict text
  cp images/disk.vmdk images/kept.vmdk
  run serve -r vmdk images/kept.vmdk strict=true -- true
  assert_match "$output" 'is a text descriptor, which strict=true does not'
}

@test "strict=true refuses what has no business in a descriptor" {
  local old new failed=()
  while IFS=';' read -r old new; do
    [ -n "$old" ] || continue
    vmdk_file sparse images/disk.vmdk capacity=2048
    serve -r vmdk images/disk.vmdk strict=true -- true
    vmdk_file descriptor images/disk.vmdk "$old" "$new"
    not_strict "$new" || failed+=("$new")
  done <<'EOR'
monolithicSparse;monolithicFlat
monolithicSparse;custom
monolithicSparse;twoGbMaxExtentSparse
createType="monolithicSparse";# nothing
x.vmdk;a/x.vmdk
x.vmdk;/etc/passwd
RW 2048 SPARSE "x.vmdk";# nothing
version=1;version=1\nwhat is this
version=1;version=1\nhello
version=1;version=1\na b = c
# Extent;# \xc3\xa4 Extent
EOR
  [ ${#failed[@]} -eq 0 ] || { printf 'wrong: %s\n' "${failed[@]}"; false; }
}

@test "strict=true refuses a descriptor elsewhere" {
  vmdk_file sparse images/disk.vmdk capacity=2048
  dd if=images/disk.vmdk of=images/disk.vmdk bs=512 skip=1 seek=2 count=1 \
    conv=notrunc status=none
  vmdk_file patch images/disk.vmdk descriptorOffset=2 descriptorSize=18
  not_strict "descriptor at sector 2"
}

@test "strict=true refuses a footer that differs" {
  local size failed=() row patches
  vmdk_file stream images/disk.vmdk capacity=2048 footer=yes
  size=$(stat -c %s images/disk.vmdk)
  hash_served vmdk images/disk.vmdk strict=true
  while IFS=';' read -r row patches; do
    [ -n "$row" ] || continue
    vmdk_file stream images/disk.vmdk capacity=2048 footer=yes
    vmdk_file patch images/disk.vmdk "$patches"
    not_strict "$row" || failed+=("$row")
  done <<EOR
type;@$((size - 1536 + 12)):4=2
size;@$((size - 1536 + 8)):4=7
padding of the marker;@$((size - 1536 + 100)):4=7
signature;@$((size - 1024)):4=7
version;@$((size - 1024 + 4)):4=1
descriptor offset;@$((size - 1024 + 28)):8=2
descriptor size;@$((size - 1024 + 36)):8=19
no grain directory;@$((size - 1024 + 56)):8=-1
end marker;@$((size - 512 + 12)):4=9
padding of the end marker;@$((size - 512 + 100)):4=9
EOR
  vmdk_file stream images/disk.vmdk capacity=2048 footer=yes
  head -c 100 images/flat.raw >>images/disk.vmdk
  not_strict "bytes behind the end" || failed+=("bytes behind the end")
  [ ${#failed[@]} -eq 0 ] || { printf 'wrong: %s\n' "${failed[@]}"; false; }
}

@test "strict=true does not follow a parent, nor go with what widens it" {
  local parameter
  vmdk_file sparse images/parent.vmdk capacity=2048 grains=0
  delta parent.vmdk
  run serve -r vmdk images/disk.vmdk strict=true -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vmdk'
  for parameter in allow-paths=/tmp raw-disk=allow; do
    run serve -r vmdk images/disk.vmdk strict=true $parameter -- true
    [ "$status" -eq 1 ]
    assert_match "$output" 'strict=true and .* contradict'
  done
}
