# SPDX-License-Identifier: BSD-3-Clause
# Real iSCSI targets on the loopback interface, without kernel modules.
# Load after lib/common.  Each test has targets of its own; iscsi_teardown,
# called by teardown, stops them.
# shellcheck shell=bash disable=SC2034,SC2119,SC2120

target_name=iqn.2026-01.test:disk
target_pids=()

setup () {
  common_setup
  [ -e "$PLUGIN_ISCSI" ] || skip "no iSCSI plugin was built"
}
teardown () {
  iscsi_teardown
  common_teardown
}

iscsi_teardown () {
  local pid
  for pid in "${target_pids[@]}"; do
    kill -CONT "$pid" 2>/dev/null || true
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  target_pids=()
}

# A TCP port that nobody has, below those that clients get.
free_port () {
  "$PYTHON" -c 'import random, socket
while True:
    port = random.randrange(20000, 32000)
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", port))
    except OSError:
        continue
    print(port)
    break'
}

# start_tgtd [ADDRESS]: sets port, tgtd_pid.  Nothing is served yet.
start_tgtd () {
  local address=${1:-127.0.0.1} i
  command -v tgtd >/dev/null || skip "no tgtd (package tgt)"
  : "${port:=$(free_port)}"
  export TGT_IPC_SOCKET=$BATS_TEST_TMPDIR/ctl
  rm -f "$TGT_IPC_SOCKET".*
  tgtd -f -C "$port" --iscsi portal="$address:$port" \
    >>"$BATS_TEST_TMPDIR/tgtd.out" 2>&1 </dev/null 3>&- &
  tgtd_pid=$!
  target_pids+=("$tgtd_pid")
  for ((i = 0; i < 200; i++)); do
    admin --op show --mode system >/dev/null 2>&1 && return 0
    sleep 0.05
  done
  echo "tgtd did not start"
  cat "$BATS_TEST_TMPDIR/tgtd.out"
  return 1
}

admin () { tgtadm -C "$port" --lld iscsi "$@" 3>&-; }

# add_target [TID [NAME]]
add_target () {
  local tid=${1:-1}
  admin --op new --mode target --tid "$tid" -T "${2:-$target_name}"
  admin --op bind --mode target --tid "$tid" -I ALL
}

# add_lun LUN FILE [tgtadm OPTIONS...]
add_lun () {
  local lun=$1 file=$2
  shift 2
  admin --op new --mode logicalunit --tid 1 --lun "$lun" -b "$PWD/$file" "$@"
}

# lun_params LUN PARAMETERS: such as thin_provisioning=1.
lun_params () {
  admin --op update --mode logicalunit --tid 1 --lun "$1" --params "$2"
}

# serve_file FILE [PARAMETERS]: tgtd with FILE as LUN 1.
serve_file () {
  start_tgtd
  add_target
  add_lun 1 "$1"
  [ -z "${2:-}" ] || lun_params 1 "$2"
  url=iscsi://127.0.0.1:$port/$target_name/1
}

# through_proxy DAMAGE...: to the target through iscsi-proxy.py, whose record of
# commands is in the file "commands".
through_proxy () {
  rm -f proxy
  "$PYTHON" "$lib/iscsi-proxy.py" "$port" "$@" >proxy 2>proxy.err 3>&- &
  target_pids+=($!)
  wait_for test -s proxy
  url=iscsi://127.0.0.1:$(cat proxy)/$target_name/1
}

# new_target: once more in the same test, with nothing left of before.
new_target () {
  stop_nbdkit
  iscsi_teardown
  unset port
  rm -f disk proxy commands
}

kill_tgtd () {
  kill -KILL "$tgtd_pid"
  wait "$tgtd_pid" 2>/dev/null || true
}

# The same target with the file "disk" again after kill_tgtd.
again () {
  start_tgtd
  add_target
  add_lun 1 disk
}

# start_istgt FILE [AUTH-METHOD [LUN-LINES]]: sets port.  The user is alice
# with secretsecret12, the target's name bobtarget with targetsecret12.
start_istgt () {
  local file=$PWD/$1 dir=$BATS_TEST_TMPDIR/istgt control i
  command -v istgt >/dev/null || skip "no istgt"
  port=$(free_port)
  control=$(free_port)
  mkdir -p "$dir"
  cat >"$dir/auth.conf" <<END
[AuthGroup1]
  Auth "alice" "secretsecret12" "bobtarget" "targetsecret12"
END
  cat >"$dir/istgt.conf" <<END
[Global]
  NodeBase "iqn.2026-01.test"
  PidFile $dir/pid
  AuthFile $dir/auth.conf
  MediaDirectory $dir
  LogFacility "local7"
  Timeout 30
  NopInInterval 20
  DiscoveryAuthMethod None
  MaxSessions 32
  MaxConnections 4
  MaxR2T 32
  MaxOutstandingR2T 16
  DefaultTime2Wait 2
  DefaultTime2Retain 60
  FirstBurstLength 262144
  MaxBurstLength 1048576
  MaxRecvDataSegmentLength 262144
  InitialR2T Yes
  ImmediateData Yes
  DataPDUInOrder Yes
  DataSequenceInOrder Yes
  ErrorRecoveryLevel 0
[UnitControl]
  AuthMethod None
  Portal UC1 127.0.0.1:$control
  Netmask 127.0.0.1
[PortalGroup1]
  Portal DA1 127.0.0.1:$port
[InitiatorGroup1]
  InitiatorName "ALL"
  Netmask 127.0.0.0/8
[LogicalUnit1]
  TargetName disk
  Mapping PortalGroup1 InitiatorGroup1
  AuthMethod ${2:-None}
  AuthGroup AuthGroup1
  UnitType Disk
  UseDigest Auto
  QueueDepth 32
  LUN0 Storage $file Auto
${3:-}
END
  chmod 600 "$dir"/*.conf
  istgt -D -c "$dir/istgt.conf" -p "$dir/pid" \
    >"$BATS_TEST_TMPDIR/istgt.out" 2>&1 </dev/null 3>&- &
  target_pids+=($!)
  for ((i = 0; i < 200; i++)); do
    "$PYTHON" -c 'import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()' \
      "$port" 2>/dev/null && { url=iscsi://127.0.0.1:$port/$target_name/0
                               return 0; }
    sleep 0.1
  done
  cat "$BATS_TEST_TMPDIR/istgt.out"
  return 1
}
