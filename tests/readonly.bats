# SPDX-License-Identifier: BSD-3-Clause
# Read-only stays read-only, and a file that cannot be written is served so.

load lib/common

state () { sha256sum disk.vdi; stat -c '%Y %Z %s %y' disk.vdi; ls; }

make_disk () {
  make_vdi disk.vdi 4M
  serve vdi disk.vdi -- '$NBDSH -u "$uri" -c "h.pwrite(b\"data\" * 1000, 5)"'
}

refuses_writes='
assert h.is_read_only()
h.set_strict_mode(0)
for what, call in (("write", lambda: h.pwrite(b"x", 0)),
                   ("zero", lambda: h.zero(512, 0)),
                   ("trim", lambda: h.trim(512, 0))):
    try:
        call()
    except nbd.Error as e:
        print(what, e.errno)
    else:
        raise SystemExit(what + " was accepted")
assert h.pread(4, 5) == b"data"
'

@test "-r changes nothing" {
  local before
  make_disk
  before=$(state)
  sleep 1.1
  start_nbdkit -r vdi disk.vdi
  python_client "$uri" "$refuses_writes"
  hash_of "$uri"
  stop_nbdkit
  rm -f socket* pid* server*
  assert_equal "$(state)" "$before"
}

@test "readonly=true changes nothing" {
  local before
  make_disk
  before=$(state)
  sleep 1.1
  start_nbdkit vdi disk.vdi readonly=true
  python_client "$uri" "$refuses_writes"
  stop_nbdkit
  rm -f socket* pid* server*
  assert_equal "$(state)" "$before"
}

@test "a writable client that writes nothing leaves the content alone" {
  local before
  make_disk
  before=$(hash_file disk.vdi)
  serve vdi disk.vdi -- 'nbdcopy "$uri" null:'
  assert_equal "$(hash_file disk.vdi)" "$before"
}

# as_nobody COMMAND...: root can write anything.
as_nobody () {
  if [ "$(id -u)" -eq 0 ]; then
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_TEST_TMPDIR"
    chmod 777 .
    setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
  else
    "$@"
  fi
}

# The plugin in a place that everybody can read.
public_plugin () {
  cp "$PLUGIN_VDI" "$BATS_TEST_TMPDIR/"
  PLUGIN_VDI=$BATS_TEST_TMPDIR/${PLUGIN_VDI##*/}
  if [ "$(id -u)" -eq 0 ]; then
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_TEST_TMPDIR"
    as_nobody test -r "$PLUGIN_VDI" ||
      skip "nobody cannot read the tests' folder"
  fi
}

@test "a file that must not be written is served read-only" {
  local before
  make_disk
  public_plugin
  chmod 444 disk.vdi
  before=$(hash_file disk.vdi)
  # shellcheck disable=SC2086
  as_nobody "$NBDKIT" -f -U - "$PLUGIN_VDI" disk.vdi \
    --run "nbdinfo --json \"\$uri\"" >info.json
  assert_equal "$(jq .exports[0].is_read_only info.json)" true
  assert_equal "$(hash_file disk.vdi)" "$before"
}

@test "write=require refuses a file that must not be written" {
  make_disk
  public_plugin
  chmod 444 disk.vdi
  run as_nobody "$NBDKIT" -f -U - "$PLUGIN_VDI" disk.vdi write=require \
    --run 'nbdinfo "$uri"'
  [ "$status" -ne 0 ]
  assert_match "$output" 'disk.vdi'
}

@test "write=require serves a file that can be written" {
  make_disk
  serve vdi disk.vdi write=require -- 'nbdinfo --can write "$uri"'
}

@test "an image that cannot be written: said to who would write, once" {
  local image
  random_file disk.raw 262144
  qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw \
    stream.vmdk
  # A stream; a VDI that is damaged where readers do not suffer.
  make_vdi disk.vdi 4M
  "$PYTHON" "$lib/vdi.py" patch disk.vdi 'map[0]=7'
  for image in 'vmdk stream.vmdk' 'vdi disk.vdi'; do
    # shellcheck disable=SC2086
    run serve -r $image -- 'nbdinfo "$uri" && nbdinfo "$uri"'
    [ "$status" -eq 0 ]
    [[ $output != *warning* ]] || { echo "$image -r: $output"; return 1; }
    # shellcheck disable=SC2086
    run serve $image readonly=true -- 'nbdinfo "$uri" && nbdinfo "$uri"'
    [ "$status" -eq 0 ]
    [[ $output != *warning* ]] || { echo "$image: $output"; return 1; }
    # shellcheck disable=SC2086
    run serve $image -- 'nbdinfo "$uri" && nbdinfo "$uri"'
    [ "$status" -eq 0 ]
    assert_match "$output" 'is_read_only: true'
    assert_equal "$(grep -c 'warning: .*cannot be written' <<<"$output")" 1 \
      "$image: warnings"
    # shellcheck disable=SC2086
    run serve $image write=require -- 'echo CLIENT RAN'
    [ "$status" -eq 1 ]
    assert_match "$output" 'error: .*cannot be written'
    [[ $output != *CLIENT* ]]
  done
}
