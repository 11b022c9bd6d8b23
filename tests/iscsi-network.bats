# SPDX-License-Identifier: BSD-3-Clause
# The network fails, in a network namespace of the test's own: nbdkit and tgtd
# run in it.

load lib/common
load lib/iscsi

has_own_network () {
  [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

setup () {
  common_setup
  [ -e "$PLUGIN_ISCSI" ] || skip "no iSCSI plugin was built"
  unshare -n true 2>/dev/null || skip "no network namespaces (not root)"
  unshare -n sleep 300 3>&- &
  target_pids+=($!)
  inside=(nsenter -t $! -n)
  # Not before it is there: what follows would change the machine's network.
  wait_for has_own_network $!
  wait_for "${inside[@]}" ip link set lo up
  printf '#!/bin/sh\nexec %s %s "$@"\n' "${inside[*]}" "$(command -v "$NBDKIT")" \
    >nbdkit-inside
  chmod +x nbdkit-inside
  NBDKIT=$PWD/nbdkit-inside
}

tgtd () { exec "${inside[@]}" "$(type -P tgtd)" "$@"; }

# A cable to nowhere, and a neighbour that never answers: 10.99.0.2.
silent_network () {
  "${inside[@]}" ip link add v0 type veth peer name v1 || skip "no veth devices"
  "${inside[@]}" ip addr add 10.99.0.1/24 dev v0
  "${inside[@]}" ip link set v0 up
  "${inside[@]}" ip link set v1 up
  "${inside[@]}" ip neigh add 10.99.0.2 lladdr 02:00:00:00:00:01 dev v0
}

@test "packets to the target vanish: an error at start, in time" {
  silent_network
  local start=$SECONDS
  run serve iscsi "iscsi://10.99.0.2/$target_name/1" timeout=1500ms -- true
  [ "$status" -ne 0 ]
  assert_match "$output" 'no answer in time'
  [ $((SECONDS - start)) -lt 6 ]
}

@test "no way to the target: an error at start" {
  run serve iscsi "iscsi://10.99.0.2/$target_name/1" timeout=2 -- true
  [ "$status" -ne 0 ]
  assert_match "$output" 'nreachable'
}

@test "the network goes and comes back: EIO in time, then data" {
  random_file disk 1048576
  "${inside[@]}" ip addr add 10.98.0.1/32 dev lo
  start_tgtd 10.98.0.1
  add_target
  add_lun 1 disk
  start_nbdkit iscsi "iscsi://10.98.0.1:$port/$target_name/1" timeout=2
  python_client "$uri" -c "import subprocess
data = open('disk', 'rb').read()
def ip(*args):
    subprocess.check_call('${inside[*]} ip'.split() + list(args))
assert h.pread(4096, 0) == data[:4096]
ip('addr', 'del', '10.98.0.1/32', 'dev', 'lo')
try:
    h.pread(4096, 4096)
    raise SystemExit('read over no network')
except nbd.Error as e:
    assert e.errno == 'EIO', e.errno
ip('addr', 'add', '10.98.0.1/32', 'dev', 'lo')
for n in range(10):
    try:
        assert h.pread(4096, 8192) == data[8192:12288]
        break
    except nbd.Error:
        pass
else:
    raise SystemExit('no way back')"
  kill -0 "$server_pid"
}
