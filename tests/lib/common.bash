# SPDX-License-Identifier: BSD-3-Clause
# Helpers for the bats files.  Each test runs in a folder of its own, which
# bats removes; servers that it started are stopped, and their messages are
# shown if it fails.
# shellcheck shell=bash

bats_require_minimum_version 1.5.0

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
: "${top_srcdir:=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)}"
: "${top_builddir:=$top_srcdir/build/tests}"
: "${NBDKIT:=nbdkit}"
: "${PLUGIN_VDI:=$top_builddir/plugins/vdi/.libs/nbdkit-vdi-plugin.so}"
: "${PLUGIN_VMDK:=$top_builddir/plugins/vmdk/.libs/nbdkit-vmdk-plugin.so}"
: "${FILTER_DIFF:=$top_builddir/filters/diff/.libs/nbdkit-diff-filter.so}"
: "${PLUGIN_ISCSI:=$top_builddir/plugins/iscsi/.libs/nbdkit-iscsi-plugin.so}"
: "${VDKIT_PEERS:=/var/lib/vdkit-peers}"
: "${VDKIT_CORPUS:=$top_srcdir/../shared/corpus}"
: "${PYTHON:=$(for p in python3 /usr/bin/python3; do
                 "$p" -c 'import nbd' 2>/dev/null && echo "$p" && break
               done)}"
# nbdsh for the commands given to serve: $NBDSH -u "$uri" -c "CODE"
NBDSH="${PYTHON:-python3} -m nbd"
MANIFEST=$top_srcdir/tests/data/MANIFEST.json
lib=$top_srcdir/tests/lib
export top_srcdir top_builddir NBDSH lib

# A test that hangs must fail: no client or server runs longer than this.
: "${LIMIT:=120}"

setup () { common_setup; }
teardown () { common_teardown; }

common_setup () {
  server_pids=()
  server_count=0
  peers_dir=
  umask 022
  cd "$BATS_TEST_TMPDIR" || return 1
  [ -e "$PLUGIN_VDI" ] || {
    echo "the plugin is not built: $PLUGIN_VDI"
    return 1
  }
}

common_teardown () {
  local pid log
  for pid in "${server_pids[@]}"; do
    stop_nbdkit "$pid" || true
  done
  for log in "$BATS_TEST_TMPDIR"/server*.log; do
    [ -s "$log" ] || continue
    echo "# ${log##*/}:"
    cat "$log"
  done
  [ -z "$peers_dir" ] || rm -rf "$peers_dir"
  cd / || return 1
}

# have TOOL || skip "no TOOL"
have () { command -v "$1" >/dev/null; }

# ---- servers -------------------------------------------------------------

# nbdkit as a user would type it; the words "vdi", "vmdk" and "--filter=diff"
# become what was just built.
# A plugin built with sanitizers needs their libraries in VDKIT_PRELOAD.
# Sets the array nbdkit: the whole command line.
nbdkit_command () {
  local arg
  nbdkit=(env ${VDKIT_PRELOAD:+"LD_PRELOAD=$VDKIT_PRELOAD"} "$NBDKIT")
  for arg; do
    case $arg in
      vdi) arg=$PLUGIN_VDI ;;
      vmdk) arg=$PLUGIN_VMDK ;;
      iscsi) arg=$PLUGIN_ISCSI ;;
      --filter=diff) arg=--filter=$FILTER_DIFF ;;
    esac
    nbdkit+=("$arg")
  done
}

# serve ARGS... -- COMMAND: run COMMAND (for sh) while nbdkit serves; $uri and
# $unixsocket are set in it.  Returns its exit status, 124 if it hung.
serve () {
  local args=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    args+=("$1")
    shift
  done
  [ $# -eq 2 ] || { echo "serve: no -- COMMAND"; return 2; }
  nbdkit_command -f -U - "${args[@]}" --run "unset LD_PRELOAD; $2"
  timeout -k 10 "$LIMIT" "${nbdkit[@]}" </dev/null 3>&-
}

# refuses PATTERN ARGS...: "nbdkit ARGS" ends at once, before any client runs,
# and says why.
refuses () {
  local pattern=$1
  shift
  run serve "$@" -- 'echo CLIENT RAN'
  echo "$output"
  [ "$status" -eq 1 ] || return 1
  [[ $output != *CLIENT\ RAN* ]] || return 1
  assert_match "$output" "$pattern"
}

# start_nbdkit ARGS...: in the background, until the test ends or stop_nbdkit.
# Sets uri, socket, server_pid, server_log.
start_nbdkit () {
  local n=$((++server_count)) pidfile i
  socket=$BATS_TEST_TMPDIR/socket$n
  uri="nbd+unix:///?socket=$socket"
  server_log=$BATS_TEST_TMPDIR/server$n.log
  pidfile=$BATS_TEST_TMPDIR/pid$n
  nbdkit_command -f -U "$socket" -P "$pidfile" "$@"
  "${nbdkit[@]}" >"$server_log" 2>&1 </dev/null 3>&- &
  server_pid=$!
  for ((i = 0; i < 300; i++)); do
    if [ -s "$pidfile" ]; then
      server_pids+=("$server_pid")
      return 0
    fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  echo "nbdkit did not start:"
  cat "$server_log"
  return 1
}

# stop_nbdkit [PID]: in order, as a user would; a server that does not stop
# is a failure.
stop_nbdkit () {
  local pid=${1:-$server_pid} other rest=() i
  for other in "${server_pids[@]}"; do
    [ "$other" = "$pid" ] || rest+=("$other")
  done
  server_pids=("${rest[@]}")
  kill "$pid" 2>/dev/null || return 0
  for ((i = 0; i < 200; i++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  if ((i == 200)); then
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null
    echo "nbdkit did not stop within 10 s"
    return 1
  fi
  wait "$pid" 2>/dev/null || true
}

# kill_server: as the kernel does when memory is short.
kill_server () {
  local pid rest=()
  kill -KILL "$server_pid"
  wait "$server_pid" 2>/dev/null || true
  for pid in "${server_pids[@]}"; do
    [ "$pid" = "$server_pid" ] || rest+=("$pid")
  done
  server_pids=("${rest[@]}")
}

# wait_for COMMAND...: until it succeeds, at most 10 s.
wait_for () {
  local i
  for ((i = 0; i < 100; i++)); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  echo "waited in vain for: $*"
  return 1
}

# ---- images --------------------------------------------------------------

# make_vdi NAME SIZE [PARAMETER...]
make_vdi () {
  local name=$1 size=$2
  shift 2
  serve vdi file="$name" create=dynamic size="$size" "$@" -- true
}

# make_vmdk NAME VARIANT SIZE [PARAMETER...]
make_vmdk () {
  local name=$1 variant=$2 size=$3
  shift 3
  serve vmdk file="$name" create="$variant" size="$size" "$@" -- true
}

# vdi_file, vmdk_file WHAT IMAGE...: make, patch and look at images by names of
# fields or byte offsets.
vdi_file () { "$PYTHON" "$lib/vdi.py" "$@"; }
vmdk_file () { "$PYTHON" "$lib/vmdk.py" "$@"; }

# hash_of URI: SHA-256 of the whole content.
hash_of () {
  ( set -o pipefail
    timeout "$LIMIT" nbdcopy "$1" - | sha256sum | cut -c 1-64 )
}

# hash_served ARGS...: the same of what "nbdkit -r ARGS" serves.
hash_served () {
  ( set -o pipefail
    serve -r "$@" -- 'nbdcopy "$uri" -' | sha256sum | cut -c 1-64 )
}

hash_file () { sha256sum <"$1" | cut -c 1-64; }

# map_of URI: "offset length type" lines; type 0 data, 2 zero, 3 hole.
map_of () {
  timeout "$LIMIT" nbdinfo --map --json "$1" |
    jq -r '.[] | "\(.offset) \(.length) \(.type)"'
}

# description_of URI
description_of () {
  timeout "$LIMIT" nbdinfo --json "$1" |
    jq -r '.exports[0].description // ""'
}

# python_client URI [-c] FILE-or-CODE...: Python with libnbd's handle h
# connected.
python_client () {
  local uri=$1 arg args=()
  shift
  for arg; do
    [ "$arg" != -c ] || continue
    [ ! -f "$arg" ] || arg=$(cat "$arg")
    args+=(-c "$arg")
  done
  timeout "$LIMIT" "$PYTHON" -m nbd -u "$uri" "${args[@]}" 3>&-
}

# random_file NAME BYTES [SEED]: the same bytes on every machine.
random_file () {
  "$PYTHON" -c 'import random, sys
sys.stdout.buffer.write(random.Random(sys.argv[2]).randbytes(int(sys.argv[1])))' \
    "$2" "${3:-1}" >"$1"
}

# assert_equal ACTUAL EXPECTED [WHAT].  Nothing is not equal to nothing: both
# may come from commands that failed.
assert_equal () {
  [ "$1" = "$2" ] && [ -n "$2" ] && return 0
  printf '%s\n  is       %s\n  expected %s\n' "${3:-value}" "$1" "$2"
  return 1
}

# assert_match TEXT PATTERN (an extended regular expression)
assert_match () {
  grep -Eq -e "$2" <<<"$1" && return 0
  printf 'nothing in\n%s\nmatches %s\n' "$1" "$2"
  return 1
}

# ---- fixtures ------------------------------------------------------------

# unpack FIXTURE: into the folder FIXTURE.
unpack () { tar -xJf "$top_srcdir/tests/data/$1.tar.xz"; }

# manifest FILTER [jq OPTIONS...]
manifest () {
  local filter=$1
  shift
  jq -r "$@" "$filter" "$MANIFEST"
}

# image_fact SET FILE KEY: of an image in MANIFEST.json.
image_fact () {
  manifest '[.sets[] | select(.name == $set) | .views[]? | .images[]
             | select(.file == $file)][0] | .[$key]' \
    --arg set "$1" --arg file "$2" --arg key "$3"
}

# corpus FILE: sets image to an unpacked copy of a sample made by others.
# They are not part of this project: skipped where absent.
corpus () {
  image=$BATS_TEST_TMPDIR/$1
  if [ -e "$VDKIT_CORPUS/$1" ]; then
    cp "$VDKIT_CORPUS/$1" "$image"
  elif [ -e "$VDKIT_CORPUS/$1.xz" ]; then
    xz -dc "$VDKIT_CORPUS/$1.xz" >"$image"
  else
    skip "no $1 in $VDKIT_CORPUS (VDKIT_CORPUS names the folder)"
  fi
}

# ---- peers: the real VirtualBox tools, in a chroot -----------------------

# requires_peers: sets peers_dir, a folder that peer sees as its current one.
requires_peers () {
  [ -x "$VDKIT_PEERS/usr/bin/vbox-img" ] ||
    skip "no VirtualBox tools in $VDKIT_PEERS (see tests/interop/make-peers)"
  [ "$(id -u)" -eq 0 ] || skip "chroot needs root"
  peers_dir=$(mktemp -d "$VDKIT_PEERS/data/vdkit.XXXXXX")
  chmod 755 "$peers_dir"
}

# peer PROGRAM ARGS...: in the chroot, in peers_dir, with a VirtualBox service
# of its own for this test.
peer () {
  local name=${peers_dir##*/}
  timeout "$LIMIT" chroot "$VDKIT_PEERS" env \
    HOME="/data/$name" VBOX_USER_HOME="/data/$name/vbox" \
    VBOX_IPC_SOCKETID="$name" LC_ALL=C.UTF-8 \
    sh -c 'cd "$HOME" && exec "$@"' sh "$@" </dev/null 3>&-
}

# stop_peer_services: VBoxManage starts a service, which would outlive the
# test by some seconds.  For teardown.
stop_peer_services () {
  local exe
  [ -n "$peers_dir" ] || return 0
  for exe in /proc/[0-9]*; do
    if [ "$(readlink "$exe/root")" = "$(realpath "$VDKIT_PEERS")" ] &&
       tr '\0' '\n' <"$exe/environ" 2>/dev/null |
         grep -Fxq "VBOX_IPC_SOCKETID=${peers_dir##*/}"; then
      kill "${exe##*/}" 2>/dev/null || true
    fi
  done
}
