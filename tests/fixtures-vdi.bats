# SPDX-License-Identifier: BSD-3-Clause
# Images made by VirtualBox's library and by qemu-img are read right.

load lib/common

# check_view SET FILE: content, size and UUIDs as MANIFEST.json has them.
check_view () {
  local text
  unpack "$1"
  assert_equal "$(hash_served vdi "$1/$2")" "$(image_fact "$1" "$2" raw_sha256)" \
    "content of $1/$2"
  check_description "$1" "$2"
  assert_equal "$(serve -r vdi "$1/$2" -- 'nbdinfo --size "$uri"')" \
    "$(image_fact "$1" "$2" virtual_size)" size
}

check_description () {
  local text
  text=$(serve -r vdi "$1/$2" -- 'nbdinfo --json "$uri"' |
           jq -r '.exports[0].description')
  assert_match "$text" '^vdkit1 '
  assert_match "$text " " uuid=$(image_fact "$1" "$2" uuid) "
  assert_match "$text " " muuid=$(image_fact "$1" "$2" mod_uuid) "
  assert_match "$text " " size=$(image_fact "$1" "$2" virtual_size) "
}

@test "dynamic image with zero blocks" { check_view vdi-dynamic disk.vdi; }
@test "last block is partial" { check_view vdi-odd-size odd.vdi; }
@test "fixed image of odd size" { check_view vdi-fixed fixed.vdi; }
@test "nothing allocated" { check_view vdi-empty empty.vdi; }
@test "blocks not in file order" { check_view vdi-shuffled shuffled.vdi; }
@test "blocks of 4 MiB" { check_view vdi-block4m big-blocks.vdi; }
@test "discarded blocks" { check_view vdi-discarded discarded.vdi; }
@test "written by qemu, dynamic" { check_view vdi-qemu qemu.vdi; }
@test "written by qemu, preallocated" { check_view vdi-qemu qemu-static.vdi; }
@test "base of a chain" { check_view vdi-chain4 base.vdi; }
@test "base of a mixed chain" { check_view mixed-chain base.vdi; }

@test "1 TiB: the parts that hold data, and the map" {
  unpack vdi-huge
  check_description vdi-huge huge.vdi
  start_nbdkit -r vdi vdi-huge/huge.vdi

  manifest '.sets[] | select(.name == "vdi-huge") | .views[0].images[0].regions
            | if length > 0 then . else error("none") end' >regions.json
  cat >read.py <<'EOF'
import hashlib, json
for r in json.load(open("regions.json")):
    data = h.pread(r["length"], r["offset"])
    print(r["offset"], hashlib.sha256(data).hexdigest())
EOF
  assert_equal "$(python_client "$uri" read.py)" \
    "$(jq -r '.[] | "\(.offset) \(.sha256)"' regions.json)" "hash of regions"

  # Data only where blocks are allocated, and each of those has some.
  map_of "$uri" | awk '$3 == 0 {
      for (b = int($1 / 1048576); b * 1048576 < $1 + $2; b++) print b }' |
    uniq >blocks
  assert_equal "$(cat blocks)" "$(printf '%s\n' 0 20 30 63 524288 1048575)" \
    "blocks with data"
}

@test "every VDI in the manifest that has no parent is tested here" {
  manifest '.sets[] | .name as $set | .views[]? | .images[]
            | select(.format == "VDI" and .parent == null)
            | "\($set) \(.file)"' | sort -u >all
  [ -s all ]
  while read -r set file; do
    grep -Eq "(check_view|unpack) $set( |\$)" "$BATS_TEST_FILENAME" ||
      { echo "no test for $set $file"; false; }
    grep -Fq "$file" "$BATS_TEST_FILENAME" ||
      { echo "no test for $set $file"; false; }
  done <all
}

@test "chain=none: a differencing image is refused, and its parent named" {
  local file parent
  unpack vdi-chain4
  for file in diff1.vdi diff2.vdi diff3.vdi; do
    parent=$(image_fact vdi-chain4 "$file" parent_uuid)
    run serve -r vdi "vdi-chain4/$file" chain=none -- 'nbdinfo "$uri"'
    [ "$status" -ne 0 ]
    assert_match "$output" "$parent"
  done
}
