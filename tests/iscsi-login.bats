# SPDX-License-Identifier: BSD-3-Clause
# Logging in: CHAP one-way and mutual, and errors at start that say what is
# wrong and tell no secrets.

load lib/common
load lib/iscsi

# fails ARGS... -- PATTERN: nbdkit does not start, and says so.
fails () {
  local args=()
  while [ "$1" != -- ]; do args+=("$1"); shift; done
  run serve iscsi "${args[@]}" -- 'echo started'
  [ "$status" -ne 0 ]
  assert_match "$output" "$2"
  if grep -i -e started -e secretsecret -e targetsecret -e wrongsecret \
     <<<"$output"; then
    return 1
  fi
}

one_way () {
  admin --op new --mode account --user alice --password secretsecret12
  admin --op bind --mode account --tid 1 --user alice
}

mutual () {
  one_way
  admin --op new --mode account --user bobtarget --password targetsecret12
  admin --op bind --mode account --tid 1 --user bobtarget --outgoing
}

@test "CHAP, one way" {
  random_file disk 2097152
  serve_file disk
  one_way
  echo secretsecret12 >secret
  assert_equal "$(hash_served iscsi "${url/127/alice@127}" password=+secret)" \
    "$(hash_file disk)"
  assert_equal "$(hash_served iscsi "$url" user=alice \
    password=secretsecret12)" "$(hash_file disk)"
  fails "$url" user=alice password=wrongsecret12 -- 'user or the password'
  fails "$url" user=bob password=secretsecret12 -- 'user or the password'
  fails "$url" -- 'user or the password|CHAP'
}

@test "CHAP, mutual: the target must prove itself" {
  random_file disk 2097152
  serve_file disk
  mutual
  assert_equal "$(hash_served iscsi "$url" user=alice \
    password=secretsecret12 target-user=bobtarget \
    target-password=targetsecret12)" "$(hash_file disk)"
  fails "$url" user=alice password=secretsecret12 target-user=bobtarget \
    target-password=wrongsecret12 -- 'target-password'
}

@test "CHAP with istgt, one way and mutual" {
  random_file disk 2097152
  start_istgt disk "CHAP Mutual"
  assert_equal "$(hash_served iscsi "$url" user=alice \
    password=secretsecret12 target-user=bobtarget \
    target-password=targetsecret12)" "$(hash_file disk)"
  fails "$url" user=alice password=secretsecret12 target-user=bobtarget \
    target-password=wrongsecret12 -- 'target-password'
  fails "$url" user=alice password=wrongsecret12 target-user=bobtarget \
    target-password=targetsecret12 -- 'user or the password|CHAP'
}

@test "secrets are not in messages or logs" {
  truncate -s 1M disk
  serve_file disk
  mutual
  run serve -v -D iscsi.log=10 iscsi "$url" user=alice \
    password=secretsecret12 target-user=bobtarget \
    target-password=targetsecret12 -- 'nbdinfo "$uri"'
  [ "$status" -eq 0 ]
  # nbdkit itself logs the parameters it was given.
  if grep -v 'config key=' <<<"$output" |
     grep -e secretsecret -e targetsecret; then
    false
  fi
  fails "iscsi://alice%secretsecret12@127.0.0.1/$target_name/1" -- 'password='
  fails "iscsi://alice:secretsecret12@127.0.0.1/$target_name/1" -- 'password='
}

@test "no such target, LUN, host; not a disk" {
  truncate -s 1M disk
  serve_file disk
  fails "${url/test:disk/test:other}" -- 'no target of that name'
  fails "${url%1}9" -- 'no such LUN'
  fails "${url%1}0" -- 'not a disk'
  fails "iscsi://127.0.0.1:$(free_port)/$target_name/1" -- 'refused'
  fails "iscsi://no-such-host.invalid/$target_name/1" -- 'no-such-host'
}

@test "parameters that cannot be" {
  local u=iscsi://127.0.0.1/$target_name/1
  fails -- 'where is the target'
  fails portal="127.0.0.1:$(free_port)" -- \
    'cannot be listed.*refused'
  fails target="$target_name" -- 'where is the target'
  fails "iser://127.0.0.1/$target_name/1" -- 'iSER'
  fails "http://127.0.0.1/" -- 'must be'
  fails "$u?header_digest" -- 'parameters of the plugin'
  fails "iscsi://[::1/$target_name/1" -- 'IPv6'
  fails "iscsi://127.0.0.1:70000/$target_name/1" -- 'port'
  fails "iscsi://127.0.0.1/disk/1" -- 'iqn'
  fails "$u" target="iqn.%s%s%n$(printf '%0300d' 0)" -- 'longer than 223'
  fails "$u" lun=16384 -- 'more than 16383'
  fails "$u" lun=-1 -- 'not a number'
  fails "$u" lun=65537x -- 'not a number'
  fails "$u" lun=enc0x0001000200000000 -- 'more than one level'
  fails "$u" user=alice -- 'no password='
  fails "$u" password=secretsecret12 -- 'no user='
  fails "$u" user=alice password= -- 'password'
  fails "$u" target-user=bob target-password=targetsecret12 -- 'needs user='
  fails "$u" header-digest=md5 -- 'header-digest'
  fails "$u" timeout=0 -- 'timeout'
  fails "$u" timeout=nan -- 'timeout'
  fails "$u" sessions=0 -- 'sessions'
  fails "$u" write-split=1 -- 'write-split'
  fails "$u" colour=red -- 'unknown parameter'
}

@test "a target that does not answer: an error in time" {
  "$PYTHON" -c 'import socket, time
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
time.sleep(60)' >silent 3>&- &
  target_pids+=($!)
  wait_for test -s silent
  local start=$SECONDS
  fails "iscsi://127.0.0.1:$(cat silent)/$target_name/1" timeout=1500ms -- \
    'no answer in time'
  [ $((SECONDS - start)) -lt 6 ]
}

@test "without a target those of the portal are listed" {
  truncate -s 1M disk
  serve_file disk
  add_target 2 iqn.2026-01.test:second
  fails portal="127.0.0.1:$port" -- 'target= is missing'
  assert_match "$output" "target=$target_name portal=127.0.0.1:$port"
  assert_match "$output" "target=iqn.2026-01.test:second"
  fails "iscsi://127.0.0.1:$port" -- "target=$target_name"
  admin --op unbind --mode target --tid 1 -I ALL
  admin --op unbind --mode target --tid 2 -I ALL
  fails portal="127.0.0.1:$port" -- 'none that'
}

@test "--dump-plugin has the keys that the manual names" {
  nbdkit_command iscsi --dump-plugin
  run "${nbdkit[@]}"
  [ "$status" -eq 0 ]
  local key
  for key in vdkit_version iscsi_capabilities iscsi_config \
             iscsi_max_sessions; do
    grep "^$key=." <<<"$output"
    grep "=item C<$key=>" "$top_srcdir/plugins/iscsi/nbdkit-iscsi-plugin.pod"
  done
  grep -x 'max_thread_model=parallel' <<<"$output"
  grep -x 'iscsi_extensions=' <<<"$output"
}

# redirect_to PORT [TIMES]: a portal that sends its guests there; sets url.
redirect_to () {
  "$PYTHON" "$lib/iscsi-redirect.py" "$1" >redirect 2>redirect.err 3>&- &
  target_pids+=($!)
  wait_for test -s redirect
  url=iscsi://127.0.0.1:$(cat redirect)/$target_name/1
}

@test "a portal that redirects is followed" {
  random_file disk 1048576
  serve_file disk
  redirect_to "$port"
  assert_equal "$(hash_served iscsi "$url" timeout=4)" "$(hash_file disk)"
}

@test "a portal that redirects to itself: an error in time" {
  redirect_to self
  local start=$SECONDS
  fails "$url" timeout=1500ms -- 'too many tries'
  [ $((SECONDS - start)) -lt 6 ]
}
