#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# Parameters that make no sense are refused when nbdkit starts, with a message
# that names the parameter and what was given; nothing is made before.

load lib/common

setup () {
  common_setup
  mkdir folder
  : >regular
  qemu-img create -q -f vdi ok.vdi 1M
  qemu-img create -q -f vmdk ok.vmdk 1M
  serve --filter=diff vdi ok.vdi diff=child.vdi diff-create=vdi -- \
    'nbdinfo --size "$uri"'
  long=$(printf 'y%.0s' {1..5000})
  url=iscsi://127.0.0.1:1/iqn.2026-11.org.example:x/0
  failed=()
}

# try MODULE PATTERN ARGS...: with an image of that module before; notes what is
# wrong in failed.
try () {
  local module=$1 pattern=$2 args=()
  shift 2
  case $module in
    vdi|vmdk) args=("$module" "ok.$module") ;;
    new-vdi) args=(vdi new.vdi create=dynamic size=1M) ;;
    new-vmdk) args=(vmdk new.vmdk create=sparse size=1M) ;;
    make-vdi) args=(vdi new.vdi) ;;
    make-vmdk) args=(vmdk new.vmdk) ;;
    diff) args=(--filter=diff vdi ok.vdi diff=child.vdi) ;;
    over) args=(--filter=diff vdi ok.vdi) ;;
    iscsi) args=(iscsi "$url") ;;
    bare-*) args=("${module#bare-}") ;;
  esac
  run serve "${args[@]}" "$@" -- 'echo CLIENT RAN'
  [ "$status" -eq 1 ] && [[ $output != *"CLIENT RAN"* ]] &&
    grep -Eq -e "^nbdkit: .*error: .*$pattern" <<<"$output" && [ ! -e new.vdi ] &&
    [ ! -e new.vmdk ] && return
  failed+=("$module $(cut -c 1-60 <<<"$*"): $status, ${output:0:400}")
  rm -f new.vdi new.vmdk
}

none_failed () {
  [ ${#failed[@]} -eq 0 ] || { printf 'wrong: %s\n' "${failed[@]}"; false; }
}

# rows: of the form "module | parameter=value | pattern", from stdin.  In them
# LONG is 5000 bytes, and CTRL a control character.  A pattern that is left out
# is what was given, up to 40 characters.
rows () {
  local module parameter pattern
  while IFS='|' read -r module parameter pattern; do
    module=${module// /}
    [ -n "$module" ] || continue
    parameter=${parameter# }
    parameter=${parameter% }
    pattern=${pattern# }
    pattern=${pattern:-${parameter//LONG/yyyyyyyyyyyyyyy}}
    parameter=${parameter//LONG/$long}
    try "$module" "$pattern" "${parameter//CTRL/$'\001'}"
  done
}

@test "yes or no, and words" {
  local module key value
  for module in vdi vmdk; do
    for value in '' maybe -1 2 LONG trueCTRL; do
      for key in readonly honor-zeroes honor-same force-link single-link \
                 strict; do
        echo "$module | $key=$value | $key=${value%%[LC]*}"
      done
      for key in write lock chain chain-exports; do
        echo "$module | $key=$value | $key=${value%%[LC]*}"
      done
      echo "new-$module | force=$value | force=${value%%[LC]*}"
    done
    # They are what they are.
    echo "$module | write=AUTO"
    echo "$module | chain=None"
  done >table
  for value in '' maybe -1 2 LONG; do
    echo "vmdk | zero-extents=$value | zero-extents=${value%%[LC]*}"
    for key in readonly write lock exports create; do
      echo "diff | diff-$key=$value | diff-$key=${value%%[LC]*}"
    done
    for key in honor-zeroes honor-same force-link; do
      echo "diff | $key=$value | $key=${value%%[LC]*}"
    done
  done >>table
  rows <table
  none_failed
}

@test "sizes and numbers" {
  local module
  for module in vdi vmdk; do
    cat <<EOR
make-$module | size= | size=: must be a size
make-$module | size=0 | size=0: must be
make-$module | size=-1 | size=-1: must be
make-$module | size=x | size=x: must be
make-$module | size=1Q | size=1Q: must be
make-$module | size=1.5M | size=1.5M: must be
make-$module | size=99999999999999999999 | size=9+: must be
make-$module | size=9E | size=9E: must be
make-$module | size=1M2 | size=1M2: must be
make-$module | size=LONG | size=yyyy
EOR
  done >table
  cat >>table <<'EOR'
new-vdi | block-size= | block-size=: must be
new-vdi | block-size=0 | block-size=0: must be
new-vdi | block-size=-1 | block-size=-1: must be
new-vdi | block-size=x | block-size=x: must be
new-vdi | block-size=3M | block-size is 3145728
new-vdi | block-size=64G | block-size is 68719476736
new-vdi | block-size=4K | block-size is 4096.*force
new-vdi | data-alignment= | data-alignment=: must be
new-vdi | data-alignment=0 | data-alignment=0: must be
new-vdi | data-alignment=-1 | data-alignment=-1: must be
new-vdi | data-alignment=3M | alignment is 3145728
new-vdi | data-alignment=2M | alignment is 2097152
new-vmdk | hw-version= | hw-version=: must be a number from 1
new-vmdk | hw-version=0 | hw-version=0: must be a number from 1
new-vmdk | hw-version=-1 | hw-version=-1: must be a number from 1
new-vmdk | hw-version=1000 | hw-version=1000: must be a number from 1 to 999
new-vmdk | hw-version=4294967295 | hw-version=4294967295: must be
new-vmdk | hw-version=4294967297 | hw-version=4294967297: must be
new-vmdk | hw-version=x | hw-version=x: must be
new-vmdk | hw-version=4x | hw-version=4x: must be
new-vmdk | hw-version=LONG | hw-version=yyyy
iscsi | read-split= | read-split=: must be
iscsi | read-split=1 | read-split=1: must be from 64K
iscsi | read-split=33M | read-split=33M: must be from 64K
iscsi | write-split= | write-split=: must be
iscsi | write-split=0 | write-split=0: must be
iscsi | write-split=-1 | write-split=-1: must be
iscsi | write-split=1 | write-split=1: must be from 64K
iscsi | write-split=33M | write-split=33M: must be from 64K
iscsi | write-split=LONG | write-split=yyyy
iscsi | sessions= | sessions=: must be a number from 1
iscsi | sessions=0 | sessions=0: must be a number from 1
iscsi | sessions=-1 | sessions=-1: must be
iscsi | sessions=1000 | sessions=1000: must be
iscsi | sessions=LONG | sessions=yyyy
iscsi | gather= | gather
iscsi | gather=2 | gather
iscsi | gather=perhaps | gather.*perhaps
iscsi | coalesce= | coalesce
iscsi | coalesce=perhaps | coalesce.*perhaps
iscsi | timeout= | timeout: '' is not a time
iscsi | timeout=0 | timeout: '0' is not a time
iscsi | timeout=-1 | timeout: '-1' is not a time
iscsi | timeout=nan | timeout: 'nan' is not a time
iscsi | timeout=inf | timeout: 'inf' is not a time
iscsi | timeout=1e9 | timeout: '1e9' is not a time
iscsi | timeout=10m | timeout: '10m' is not a time
iscsi | keepalive= | keepalive: '' is not a time
iscsi | keepalive=-1 | keepalive: '-1' is not a time
iscsi | keepalive=LONG | keepalive: 'yyyy
iscsi | lun= | lun: '' is not a number
iscsi | lun=-1 | lun: '-1' is not a number
iscsi | lun=16384 | lun: '16384' is more than
iscsi | lun=99999999999999999999 | lun: '9+' is not a number
iscsi | lun=encx | lun: 'encx' is not a number
EOR
  rows <table
  none_failed
}

@test "names of files and folders" {
  local module
  for module in vdi vmdk; do
    cat <<EOR
$module | allow-paths= | allow-paths=: must be
$module | allow-paths=missing | allow-paths=missing: must be
$module | allow-paths=regular | allow-paths=regular: is not a folder
$module | allow-paths=ok.vdi/x | allow-paths=ok.vdi/x: must be
$module | allow-paths=LONG | allow-paths=yyyy
$module | allow-paths=CTRL | allow-paths=.: must be
$module | raw-disk= | raw-disk=: must be
$module | raw-disk=missing | raw-disk=missing: .*'allow', or a disk
$module | raw-disk=folder | raw-disk=folder: is not a disk
$module | raw-disk=/dev/null | raw-disk=/dev/null: is not a disk
$module | raw-disk=ALLOW | raw-disk=ALLOW: .*'allow'
$module | raw-disk=LONG | raw-disk=yyyy
$module | parent= | parent=: must be
$module | parent=missing | parent=missing: must be
$module | parent=folder | parent=folder: is a folder
$module | parent=LONG | parent=yyyy
bare-$module | file= | file=: must be
bare-$module | file=missing | file=missing: must be
bare-$module | file=LONG | file=yyyy
bare-$module | file=folder | /folder: is a directory
$module | file=ok.vdi | only one file .*'ok.$module' and 'ok.vdi'
EOR
  done >table
  cat >>table <<'EOR'
over | diff= | diff=: must be
over | diff=missing | /missing: open: No such file
over | diff=folder | /folder: is a directory
over | diff=LONG | /yyyy
diff | diff=child.vdi | child.vdi: is the same file as
diff | diff-base-export=LONG | diff-base-export=yyyy.*longer than 4096
EOR
  rows <table
  none_failed
}

@test "what is made: variants, UUIDs, comments, adapters" {
  local module
  for module in vdi vmdk; do
    cat <<EOR
make-$module | create= | create= needs size=
make-$module | create=LONG | create=yyyy.* needs size=
new-$module | uuid= | uuid=: not a UUID
new-$module | uuid=x | uuid=x: not a UUID
new-$module | uuid=00000000-0000-0000-0000-000000000000 | uuid=0+-.*: not a UUID
new-$module | uuid=6ecb78ac-0000-4000-8000-00000000000 | uuid=6ecb.*: not a UUID
new-$module | uuid=6ecb78ac-0000-4000-8000-0000000000011 | uuid=6ecb.*: not a UUID
new-$module | uuid=LONG | uuid=yyyy.*: not a UUID
new-$module | comment=LONG | comment is 5000 bytes
EOR
  done >table
  cat >>table <<'EOR'
new-vmdk | adapter= | adapter type is ""
new-vmdk | adapter=bogus | adapter type is "bogus"
new-vmdk | adapter=ideCTRL | adapter type is "ide.x01"
new-vmdk | adapter=LONG | adapter type is "yyyy
EOR
  rows <table
  for module in vdi vmdk; do
    for variant in '' nonsense Dynamic -1 "$long"; do
      try make-$module "create=${variant:0:40}: .*variant is \"${variant:0:40}" \
        create="$variant" size=1M
    done
  done
  try make-vdi 'size is 513, must be a multiple of 512' create=fixed size=513
  try make-vmdk 'size is 513, must be a multiple of 512' create=flat size=513
  # With force, too, nothing is written that could not be read again.
  for adapter in $'a\nb' 'a"b' "$long"; do
    try new-vmdk 'adapter' adapter="$adapter" force=true
  done
  none_failed
}

@test "what is given twice, or unknown" {
  local module row
  for row in readonly=false write=auto lock=auto honor-zeroes=false \
             honor-same=false chain=auto parent=ok.vdi force-link=false \
             single-link=false chain-exports=all strict=false; do
    for module in vdi vmdk; do
      try $module "$row: this parameter was given already" "$row" "$row"
    done
  done
  try vdi 'write=require: this parameter was given' write=auto write=require
  for module in vdi vmdk; do
    try new-$module 'size=2M: this parameter was given' size=2M
    try new-$module 'create=x: this parameter was given' create=x
    try new-$module 'comment=b: this parameter was given' comment=a comment=b
    try $module "'colour'" colour=blue
    try $module "'Write'" Write=auto
  done
  try new-vdi 'block-size=2M: this parameter was given' block-size=1M \
    block-size=2M
  try new-vmdk 'hw-version=5: this parameter was given' hw-version=4 \
    hw-version=5
  try new-vmdk 'adapter=ide: this parameter was given' adapter=buslogic \
    adapter=ide
  try vmdk 'zero-extents=drop: this parameter was given' zero-extents=refuse \
    zero-extents=drop
  for row in diff-readonly=false diff-write=auto diff-lock=auto \
             diff-exports=all diff-base-export= honor-zeroes=false \
             honor-same=false force-link=false; do
    try diff "$row: this parameter was given already" "$row" "$row"
  done
  try diff 'diff-create=vmdk: this parameter was given' diff=new.vdi \
    diff-create=vdi diff-create=vmdk
  try diff "'diff-colour'" diff-colour=blue
  try iscsi 'url=.*: this parameter was given' "$url"
  try iscsi 'sessions=2: this parameter was given' sessions=1 sessions=2
  try iscsi "'colour'" colour=blue
  none_failed
  # What can be repeated can be.
  serve vmdk ok.vmdk allow-paths=folder allow-paths=. allow-paths=folder \
    raw-disk=regular raw-disk=regular -- true
}

@test "where a LUN is" {
  rows <<'EOR'
bare-iscsi | url= | url: must be iscsi://
bare-iscsi | url=x | url: must be iscsi://
bare-iscsi | url=http://127.0.0.1/x | url: must be iscsi://
bare-iscsi | url=LONG | url: must be iscsi://
bare-iscsi | url=iscsi:// | host
bare-iscsi | url=iscsi://127.0.0.1:0/iqn.x:y/0 | port
bare-iscsi | url=iscsi://127.0.0.1:99999/iqn.x:y/0 | port
bare-iscsi | url=iscsi://127.0.0.1/%zz/0 | url: a % in
bare-iscsi | url=iscsi://127.0.0.1/iqn.x%00:y/0 | url: a % in
bare-iscsi | target=iqn.x:y | where is the target
iscsi | portal= | portal: there is no host
iscsi | portal=LONG | portal: the host name is too long
iscsi | portal=127.0.0.1:-1 | port
iscsi | target=x | target: 'x' does not start
iscsi | target=iqn.CTRL | target: 'iqn..x01' has a blank or control
iscsi | target=LONG | target: the name is longer than 223
iscsi | initiator-name= | initiator-name: '' does not start
iscsi | initiator-name=x | initiator-name: 'x' does not start
iscsi | initiator-name=LONG | initiator-name: the name is longer than 223
iscsi | user= | user: the name is empty
iscsi | user=LONG | user: the name is empty or longer than 255
iscsi | user=x | user= but no password=
iscsi | password=x | password= but no user=
iscsi | target-user= | target-user: the name is empty
iscsi | target-password=x | target-password= but no target-user=
iscsi | header-digest= | header-digest: '' is not none
iscsi | header-digest=CRC32C | header-digest: 'CRC32C' is not none
iscsi | header-digest=LONG | header-digest: 'yyyy
EOR
  # Secrets are not repeated.
  try iscsi 'password=\.\.\.: this parameter was given' user=u \
    password=secretsecret1 password=secretsecret2
  [[ $output != *secretsecret* ]] || failed+=("the password is shown")
  try iscsi 'target-password=\.\.\.: this parameter was given' \
    target-password=secretsecret1 target-password=secretsecret2
  [[ $output != *secretsecret* ]] || failed+=("the target's password is shown")
  try iscsi 'password: is empty' user=u password=
  try iscsi 'password: is empty or longer' user=u password="$long"
  none_failed
}
