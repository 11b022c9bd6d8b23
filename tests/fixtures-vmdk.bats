# SPDX-License-Identifier: BSD-3-Clause
# VMDK images made by VirtualBox's library and by qemu-img are read right.

load lib/common

none=00000000-0000-0000-0000-000000000000

# check_view SET FILE [PARAMETER...]: content, size and UUIDs as MANIFEST.json
# has them.
check_view () {
  local set=$1 file=$2
  shift 2
  unpack "$set"
  start_nbdkit -r vmdk "$set/$file" "$@"
  assert_equal "$(hash_of "$uri")" "$(image_fact "$set" "$file" raw_sha256)" \
    "content of $set/$file"
  check_description "$set" "$file"
}

# check_description SET FILE: of the image that is served.
check_description () {
  local text key value
  text="$(description_of "$uri") "
  assert_match "$text" '^vdkit1 '
  assert_equal "$(nbdinfo --size "$uri")" \
    "$(image_fact "$1" "$2" virtual_size)" size
  assert_match "$text" " size=$(image_fact "$1" "$2" virtual_size) "
  assert_match "$text" \
    " cid=$(image_fact "$1" "$2" on_disk | jq -r .CID) "
  for key in uuid mod_uuid; do
    value=$(image_fact "$1" "$2" "$key")
    [ "$value" != $none ] || continue
    assert_match "$text" " ${key/mod_/m}=$value "
  done
}

@test "sparse" { check_view vmdk-sparse sparse.vmdk; }
@test "flat" { check_view vmdk-flat flat.vmdk; }
@test "wanted split, one sparse file" {
  check_view vmdk-split-sparse-small small.vmdk
}
@test "wanted split, one flat file" { check_view vmdk-split-flat-small sfs.vmdk; }
@test "stream" { check_view vmdk-stream stream.vmdk; }
@test "ESX" { check_view vmdk-esx esx.vmdk; }
@test "extents of several kinds" { check_view vmdk-multi-extent multi.vmdk; }
@test "base of a chain" { check_view vmdk-chain4 base.vmdk; }
@test "qemu, sparse" { check_view vmdk-qemu q-sparse.vmdk; }
@test "qemu, stream" { check_view vmdk-qemu q-stream.vmdk; }
@test "qemu, split" { check_view vmdk-qemu q-split.vmdk; }
@test "qemu, flat" { check_view vmdk-qemu q-flat.vmdk; }

@test "a raw disk, if it is allowed" {
  check_view vmdk-raw-disk full.vmdk raw-disk=allow
}

@test "partitions of a raw disk, if they are allowed" {
  check_view vmdk-raw-disk partitions.vmdk raw-disk=allow
}

@test "raw disks are refused otherwise" {
  local file
  unpack vmdk-raw-disk
  for file in full.vmdk partitions.vmdk; do
    run serve -r vmdk "vmdk-raw-disk/$file" -- true
    [ "$status" -eq 1 ]
    assert_match "$output" "$file: its createType is (full|partitioned)Device.*raw-disk="
  done
}

# check_large SET FILE: the parts that hold data, and where there are any.
check_large () {
  unpack "$1"
  start_nbdkit -r vmdk "$1/$2"
  check_description "$1" "$2"
  manifest '[.sets[] | select(.name == $set) | .views[].images[]
             | select(.file == $file)][0].regions
            | if length > 0 then . else error("none") end' \
    --arg set "$1" --arg file "$2" >regions.json
  python_client "$uri" '
import hashlib, json
for r in json.load(open("regions.json")):
    data = h.pread(r["length"], r["offset"])
    assert hashlib.sha256(data).hexdigest() == r["sha256"], r
'
  # All of it: what is mapped, and zeroes between.
  map_of "$uri" >map
  assert_equal "$(awk '{ n += $2 } END { printf "%.0f\n", n }' map)" \
    "$(image_fact "$1" "$2" virtual_size)" "length of the map"
  assert_equal "$(python_client "$uri" '
import hashlib
digest = hashlib.sha256()
zero = bytes(1 << 20)
with open("map") as lines:
    for line in lines:
        offset, length, kind = map(int, line.split())
        while length:
            n = min(length, 1 << 20)
            digest.update(zero[:n] if kind else h.pread(n, offset))
            offset += n
            length -= n
print(digest.hexdigest())
')" "$(image_fact "$1" "$2" raw_sha256)" "content of $1/$2"
}

@test "three sparse files of 2047 MiB" { check_large vmdk-split-sparse split.vmdk; }
@test "two flat files of 2047 MiB" { check_large vmdk-split-flat splitflat.vmdk; }

@test "every VMDK in the manifest that has no parent is tested here" {
  manifest '.sets[] | .name as $set | .views[]? | .images[]
            | select(.format == "VMDK" and .parent == null)
            | "\($set) \(.file)"' | sort -u >all
  [ -s all ]
  while read -r set file; do
    grep -Eq "(check_view|check_large) $set $file( |;|\$)" \
      "$BATS_TEST_FILENAME" || { echo "no test for $set $file"; false; }
  done <all
}

@test "a differencing image is refused, and its parent named" {
  local file
  unpack vmdk-chain4
  for file in diff1.vmdk diff2.vmdk diff3.vmdk; do
    run serve -r vmdk "vmdk-chain4/$file" chain=none -- 'nbdinfo "$uri"'
    [ "$status" -eq 1 ]
    assert_match "$output" "$(image_fact vmdk-chain4 "$file" parent_uuid)"
  done
}

@test "the disks of a machine" {
  local file="Fixture Alpha/data disk.vmdk" hash
  unpack machine-a
  hash=$(manifest '.sets[] | select(.name == "machine-a") | .machine.images[]
                   | select(.file == $file) | .raw_sha256' --arg file "$file")
  assert_equal "$(hash_served vmdk "machine-a/$file")" "$hash"
}
