# SPDX-License-Identifier: BSD-3-Clause
# What a descriptor may look like, and what it must not: descriptors made by
# hand over a flat file of 1 MiB.

load lib/common

setup () {
  common_setup
  random_file flat.raw 1048576
  random_file other.raw 1048576 2
}

# A descriptor in the usual form; "extents" are lines with \n between.
# text EXTENTS [HEADER-LINES [DDB-LINES]]
text () {
  printf '# Disk DescriptorFile\nversion=1\nCID=12345678\n'
  printf 'parentCID=ffffffff\ncreateType="custom"\n'
  printf '%b' "${2:+$2\n}"
  printf '\n# Extent description\n%b\n' "$1"
  printf '\n# The Disk Data Base\n#DDB\n\nddb.adapterType = "ide"\n'
  printf '%b' "${3:+$3\n}"
}

flat='RW 2048 FLAT "flat.raw" 0'

# Both read disk.vmdk.
same_as () {
  assert_equal "$(hash_served vmdk disk.vmdk 2>>messages)" "$(hash_file "$1")"
}
refused () { refuses "error: .*disk\\.vmdk: .*$1" -r vmdk disk.vmdk; }

# accepted and rejected go through rows "what; extents; headers; ddb" and
# "what; extents; headers; ddb; message".
accepted () {
  local what extents headers ddb failed=()
  while IFS=';' read -r what extents headers ddb; do
    [ -n "$what" ] || continue
    text "$extents" "$headers" "$ddb" >disk.vmdk
    same_as flat.raw || failed+=("$what")
  done <<<"$1"
  [ ${#failed[@]} -eq 0 ] || { printf 'wrong: %s\n' "${failed[@]}"; false; }
}
rejected () {
  local what extents headers ddb message failed=()
  while IFS=';' read -r what extents headers ddb message; do
    [ -n "$what" ] || continue
    text "$extents" "$headers" "$ddb" >disk.vmdk
    refused "$message" || failed+=("$what")
  done <<<"$1"
  [ ${#failed[@]} -eq 0 ] || { printf 'wrong: %s\n' "${failed[@]}"; false; }
}

@test "extent lines that some program writes or reads" {
  accepted '
usual;RW 2048 FLAT "flat.raw" 0;;
blanks in front;  RW 2048 FLAT "flat.raw" 0;;
tabs between;RW\t2048\tFLAT\t"flat.raw"\t0;;
two blanks between;RW  2048  FLAT  "flat.raw"  0;;
blanks behind;RW 2048 FLAT "flat.raw" 0  ;;
no offset;RW 2048 FLAT "flat.raw";;
VMFS;RW 2048 VMFS "flat.raw";;
VMFS with an offset;RW 2048 VMFS "flat.raw" 0;;
more words behind the offset;RW 2048 FLAT "flat.raw" 0 partitionUUID 6ecb78ac deviceId;;
lower case;rw 2048 flat "flat.raw" 0;;
RDONLY;RDONLY 2048 FLAT "flat.raw" 0;;
in two pieces;RW 1000 FLAT "flat.raw" 0\nRW 1048 FLAT "flat.raw" 1000;;
in two pieces with an empty line between;RW 1000 FLAT "flat.raw" 0\n\nRW 1048 FLAT "flat.raw" 1000;;
an empty extent;RW 0 FLAT "flat.raw" 0\nRW 2048 FLAT "flat.raw" 0;;
'
}

@test "ZERO with and without a blank, among others" {
  local line
  cp flat.raw want.raw
  truncate -s 2M want.raw
  cat other.raw >>want.raw
  for line in 'RW 2048 ZERO' 'RW 2048 ZERO ' 'RDONLY 2048 ZERO'; do
    text "$flat\n$line\nRW 2048 FLAT \"other.raw\"" >disk.vmdk
    same_as want.raw
  done
}

@test "headers that some program writes or reads" {
  accepted '
blanks around =;RW 2048 FLAT "flat.raw" 0;x = "y";
unknown keys and lines;RW 2048 FLAT "flat.raw" 0;hello="world"\nwhat is this\nisNativeSnapshot="no";ddb.unknown = "1"
the same CID again;RW 2048 FLAT "flat.raw" 0;CID=12345678;
a key in upper case;RW 2048 FLAT "flat.raw" 0;CREATETYPE="CUSTOM";
UTF-8;RW 2048 FLAT "flat.raw" 0;encoding="UTF-8";
a database entry twice;RW 2048 FLAT "flat.raw" 0;;ddb.adapterType = "lsilogic"
geometry that is no number;RW 2048 FLAT "flat.raw" 0;;ddb.geometry.heads = "abc"
a UUID that is none;RW 2048 FLAT "flat.raw" 0;;ddb.uuid.image = "abc"
a UUID in braces;RW 2048 FLAT "flat.raw" 0;;ddb.uuid.image = "{6ECB78AC-0000-4000-8000-000000000001}"
longContentID;RW 2048 FLAT "flat.raw" 0;;ddb.longContentID = "0123456789abcdef0123456712345678"
key material without a value;RW 2048 FLAT "flat.raw" 0;keyID="";
'
  assert_match "$(cat messages)" 'warning: .*ddb\.uuid\.image is "abc", which is not a UUID'
}

@test "the version: 1 to 3, or none; 4 is not written" {
  local n
  for n in 1 2 3 '"1"' ' 1'; do
    text "$flat" | sed "s/^version=1/version=$n/" >disk.vmdk
    same_as flat.raw
  done
  text "$flat" | sed 's/^version=1/version = 1/' >disk.vmdk
  same_as flat.raw
  text "$flat" | sed '/^version=1/d' >disk.vmdk
  same_as flat.raw
  assert_match "$(cat messages)" 'has no version'
  text "$flat" | sed 's/^version=1/version=4/' >disk.vmdk
  same_as flat.raw
  run serve vmdk disk.vmdk write=require -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vmdk: cannot be written: version is 4'
  for n in 0 5 x ''; do
    text "$flat" | sed "s/^version=1/version=$n/" >disk.vmdk
    refused 'version is|proper value'
  done
}

@test "the first line in each spelling, or none" {
  local first
  for first in '# Disk DescriptorFile' '# Disk Descriptor File' \
               '#Disk Descriptor File' '#Disk DescriptorFile' \
               '# disk descriptorfile ' '  # Disk DescriptorFile' \
               '\n\n# Disk DescriptorFile' '\xef\xbb\xbf# Disk DescriptorFile' \
               '# hello' ''; do
    { printf '%b\n' "$first"; text "$flat" | tail -n +2; } >disk.vmdk
    same_as flat.raw || { echo "first line: $first"; false; }
  done
  { printf 'hello\n'; text "$flat"; } >disk.vmdk
  run serve -r vmdk disk.vmdk -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'disk\.vmdk: '
}

@test "line ends: CRLF is one, CR is none" {
  text "$flat" | sed 's/$/\r/' >disk.vmdk
  same_as flat.raw
  text "$flat" | tr '\n' '\r' >disk.vmdk
  refused '(CR without LF|known format)'
  text 'RW 2048 FLAT "flat.raw" 0\rRW 2048 ZERO' >disk.vmdk
  refused '(CR without LF|known format)'
}

@test "the end: no newline, NUL bytes, and what is behind them" {
  printf '%s' "$(text "$flat")" >disk.vmdk
  same_as flat.raw
  text "$flat" >disk.vmdk
  truncate -s 10240 disk.vmdk
  same_as flat.raw
  printf 'RW 5 FLAT "/etc/passwd" 0\n' >>disk.vmdk
  same_as flat.raw
  { printf '\0'; text "$flat"; } >disk.vmdk
  run serve -r vmdk disk.vmdk -- true
  [ "$status" -eq 1 ]
}

@test "the order of the sections does not matter" {
  { echo '# Disk DescriptorFile'
    echo 'version=1'
    echo 'ddb.adapterType = "ide"'
    echo "$flat"
    echo 'createType="custom"'
    echo 'parentCID=ffffffff'
    echo 'CID=12345678'; } >disk.vmdk
  same_as flat.raw
  assert_match "$(serve -r vmdk disk.vmdk -- 'nbdinfo "$uri"') " \
    ' cid=12345678 '
}

@test "a line that is meant as an extent and is none is an error" {
  rejected '
no quotes;RW 2048 FLAT flat.raw 0;;;must be in double quotes
a quote in the name;RW 2048 FLAT "fl"at.raw" 0;;;follows the extent file name
one quote;RW 2048 FLAT "flat.raw 0;;;must be in double quotes
no name;RW 2048 FLAT;;;has no file name
name behind the offset;RW 2048 FLAT 0 "flat.raw";;;must be in double quotes
negative size;RW -5 FLAT "flat.raw" 0;;;extent size is "-5"
a size of 2^64;RW 18446744073709551616 FLAT "flat.raw" 0;;;extent size is
sizes that add up to more than there can be;RW 18014398509481984 FLAT "flat.raw" 0\nRW 18014398509481984 FLAT "flat.raw" 0;;;sectors
a size in hex;RW 0x800 FLAT "flat.raw" 0;;;extent size is "0x800"
no size;RW FLAT "flat.raw" 0;;;extent size is
negative offset;RW 2048 FLAT "flat.raw" -1;;;extent offset is "-1"
offset of a sparse extent;RW 2048 SPARSE "flat.raw" 1;;;extent offset is 1
unknown type;RW 2048 FLOT "flat.raw" 0;;;extent type is "FLOT"
no type;RW 2048;;;has no type
no blank;RW2048 FLAT "flat.raw" 0;;;begins as an extent
continued in the next line;RW 2048 FLAT \\\\\n"flat.raw" 0;;;double quotes
an escape in the name;RW 2048 FLAT "flat\033.raw" 0;;;control character
nothing at all;;;;no extents
'
}

@test "headers that must not be ignored are refused if they are wrong" {
  rejected '
two CIDs;RW 2048 FLAT "flat.raw" 0;CID=12345679;;CID is 12345679, but it was 12345678
two parents;RW 2048 FLAT "flat.raw" 0;parentCID=00000001;;parentCID is 00000001, but
two types;RW 2048 FLAT "flat.raw" 0;createType="vmfs";;createType is "vmfs", but
'
  text "$flat" | sed 's/^CID=.*/CID=123456789/' >disk.vmdk
  refused 'CID is "123456789"'
  text "$flat" | sed 's/^CID=.*/CID=xyz/' >disk.vmdk
  refused 'CID is "xyz"'
  text "$flat" | sed 's/^CID=.*/CID=0xABCDEF/' >disk.vmdk
  assert_match "$(serve -r vmdk disk.vmdk -- 'nbdinfo "$uri"') " \
    ' cid=00abcdef '
}

@test "encrypted disks are refused" {
  rejected '
keyID;RW 2048 FLAT "flat.raw" 0;keyID="abc";;encrypted
keySafe;RW 2048 FLAT "flat.raw" 0;vmware.keySafe="vmware:key/list";;encrypted
cipherKey;RW 2048 FLAT "flat.raw" 0;cipherKey="1";;encrypted
encryption;RW 2048 FLAT "flat.raw" 0;encryption.data="abc";;encrypted
filter;RW 2048 FLAT "flat.raw" 0;;ddb.iofilters = "vmwarevmcrypt";encrypted
'
  printf '%s\n' '.encoding = "UTF-8"' 'encryption.keySafe = "vmware:key"' \
    'encryption.data = "abc"' >disk.vmdk
  refused 'encrypted'
}

@test "raw device mappings are refused" {
  rejected '
VMFSRDM;RW 2048 VMFSRDM "flat.raw";;;raw device mapping
VMFSRAW;RW 2048 VMFSRAW "flat.raw";;;raw device mapping
'
}

@test "changed block tracking: read in both places, not written" {
  local where
  for where in header behind; do
    if [ $where = header ]; then
      text "$flat" 'changeTrackPath="disk-ctk.vmdk"'
    else
      text "$flat\n\n# Change Tracking File\nchangeTrackPath=\"disk-ctk.vmdk\""
    fi >disk.vmdk
    same_as flat.raw
    run serve vmdk disk.vmdk write=require -- true
    [ "$status" -eq 1 ]
    assert_match "$output" 'cannot be written: changeTrackPath is set'
  done
}

@test "RDONLY is not written, RW beside it is" {
  text "$flat\nRDONLY 2048 FLAT \"other.raw\"" >disk.vmdk
  cat flat.raw other.raw >want.raw
  same_as want.raw
  sha256sum other.raw >before
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "$(cat "$lib/denied.py")" -c "
denied(h.pwrite, b\"x\" * 512, 1 << 20)
denied(h.pwrite, b\"x\" * 512, (2 << 20) - 512)
denied(h.zero, 512, 1 << 20)
h.pwrite(b\"x\" * 512, (1 << 20) - 512)
h.flush()
assert h.pread(512, (1 << 20) - 512) == b\"x\" * 512
"'
  sha256sum -c before
  assert_equal "$(tail -c 512 flat.raw | tr -d x | wc -c)" 0 "other bytes"
}

@test "one file as RW and as RDONLY: RDONLY holds for its part" {
  text "RW 1024 FLAT \"flat.raw\" 0\nRDONLY 1024 FLAT \"flat.raw\" 1024" \
    >disk.vmdk
  same_as flat.raw
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"x\" * 512, 0)
try:
    h.pwrite(b\"x\" * 512, 1 << 19)
    raise SystemExit(\"written\")
except nbd.Error as e:
    assert e.errno == \"EPERM\", e
"'
  assert_equal "$(head -c 512 flat.raw | tr -d x | wc -c)" 0 "other bytes"
}

@test "NOACCESS is an error, and not zeroes" {
  text "$flat\nNOACCESS 2048 FLAT \"other.raw\"\n$flat" >disk.vmdk
  start_nbdkit -r vmdk disk.vmdk
  python_client "$uri" '
want = open("flat.raw", "rb").read()
assert h.get_size() == 3 << 20
assert h.pread(1 << 20, 0) == want
assert h.pread(1 << 20, 2 << 20) == want
for offset in (1 << 20, (2 << 20) - 512):
    try:
        h.pread(512, offset)
        raise SystemExit("read")
    except nbd.Error as e:
        assert e.errno == "EIO", e
'
  assert_match "$(cat "$server_log")" 'NOACCESS'
}

@test "a missing file is named" {
  text "$flat\nRW 2048 FLAT \"missing.raw\" 0" >disk.vmdk
  run serve -r vmdk disk.vmdk -- true
  [ "$status" -eq 1 ]
  assert_match "$output" 'missing\.raw: No such file'
}

@test "a flat file that is too short: errors behind its end, not written" {
  truncate -s 600K flat.raw
  text "$flat" >disk.vmdk
  start_nbdkit vmdk disk.vmdk
  python_client "$uri" '
assert h.is_read_only()
assert h.pread(600 << 10, 0) == open("flat.raw", "rb").read()
for offset, n in ((600 << 10, 512), ((600 << 10) - 512, 1024), ((1 << 20) - 1, 1)):
    try:
        h.pread(n, offset)
        raise SystemExit("read")
    except nbd.Error as e:
        assert e.errno == "EIO", e
'
  assert_match "$(cat "$server_log")" 'flat\.raw: is too short'
  assert_equal "$(stat -c %s flat.raw)" $((600 << 10)) size
}

@test "names in another encoding, and names that are bytes" {
  local name
  for name in '\xe4' 'a b' "it's" '\xc3\xa4' '$x;y' 'back\\\\slash'; do
    cp flat.raw "$(printf '%b' "$name").raw"
    text "RW 2048 FLAT \"$name.raw\" 0" >disk.vmdk
    same_as flat.raw || { echo "name $name"; false; }
  done
  rm -f ./*.raw
  random_file "$(printf '\xc3\xa4').raw" 1048576
  text 'RW 2048 FLAT "\xe4.raw" 0' 'encoding="windows-1252"' >disk.vmdk
  same_as "$(printf '\xc3\xa4').raw"
  text 'RW 2048 FLAT "\xe4.raw" 0' 'encoding="martian"' >disk.vmdk
  refused 'encoding is "martian"'
}

@test "writing changes CID and keeps every other line" {
  text "$flat" 'x-header = "keep me"' 'ddb.x-key = "and me"\n# and me' \
    >disk.vmdk
  sed -i '1a # a comment' disk.vmdk
  cp disk.vmdk before.vmdk
  serve vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "h.pwrite(b\"x\", 0)"'
  diff <(tr -d '\0' <disk.vmdk) before.vmdk >difference || true
  cat difference
  grep -q '^> CID=12345678' difference
  grep -q '^< CID=' difference
  # What is new may be UUIDs only.
  run grep -Ev '^([0-9,acd]+|---|[<>] CID=.*|< ddb\.uuid\..*)$' difference
  [ -z "$output" ]
}

@test "limits: 1 MiB, long lines, 16384 lines, 8192 extents" {
  { text "$flat"; head -c 1048576 /dev/zero | tr '\0' '\n'; } >disk.vmdk
  refused '.'
  { text "$flat"; printf '#%05000d\n' 0; } >disk.vmdk
  refused 'bytes long'
  { text "$flat"; yes '#' | head -n 16400; } >disk.vmdk
  refused '16384|lines'
  { text "$flat"; yes '#' | head -n 16000; } >disk.vmdk
  same_as flat.raw
  text "$(yes 'RW 0 ZERO' | head -n 8193)" >disk.vmdk
  refused '8193 extents'
}
