#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# What the vdi plugin owes to nbdkit's users, whatever the image holds:
# parameters, messages, where files are, what ends nbdkit.

load lib/common

teardown () {
    [ ! -s "$BATS_TEST_TMPDIR/pid" ] || kill "$(cat "$BATS_TEST_TMPDIR/pid")"
    common_teardown
}

# As typed by a user, in the foreground or not; "vdi" is the plugin just built.
vdkit () {
    nbdkit_command "$@"
    timeout "$LIMIT" "${nbdkit[@]}" </dev/null 3>&-
}

# The words that start a line of the help with "word=".
help_keys () {
    vdkit vdi --help | sed -n 's/^\([a-z-]*\)=.*/\1/p' | sort -u
}

manual_keys () {
    sed -n -e '/^=head1 PARAMETERS/,/^=head1 [^P]/!d' \
        -e 's/^=item \[*B<\([a-z-]*\)=.*/\1/p' \
        "$top_srcdir/plugins/vdi/nbdkit-vdi-plugin.pod" | sort -u
}

# nbdkit must end by itself with a message that matches.
refused () {
    local pattern=$1
    shift
    run vdkit -U - vdi "$@" --run true
    echo "$output"
    [ "$status" -eq 1 ]
    [[ $output =~ $pattern ]]
}

@test "--version tells the version" {
    run vdkit vdi --version
    [ "$status" -eq 0 ]
    [[ ${lines[1]} =~ ^vdi\ [0-9]+\.[0-9]+ ]]
}

@test "the help and the manual list the same parameters" {
    [ "$(help_keys | wc -l)" -ge 10 ]
    diff <(help_keys) <(manual_keys)
}

@test "the plugin takes every parameter that the help lists" {
    for key in $(help_keys); do
        run vdkit -U - vdi $key=@ --run true
        echo "$key: $output"
        [ "$status" -eq 1 ]
        [[ $output != *"unknown parameter"* ]]
    done
}

@test "--dump-plugin has the keys that the manual names" {
    run vdkit vdi --dump-plugin
    [ "$status" -eq 0 ]
    for key in vdkit_version vdi_capabilities vdi_extensions vdi_config; do
        grep "^$key=." <<< "$output"
    done
    grep -x 'max_thread_model=parallel' <<< "$output"
    grep -x 'vdi_extensions=vdi' <<< "$output"
    grep 'vdi_config=AllocationBlockSize=1048576' <<< "$output"
}

@test "only what nbdkit needs is visible of the module" {
    [ "$(nm -D --defined-only "$PLUGIN_VDI" | awk '$2 ~ /[TDBR]/ {print $3}' |
             sed 's/@.*//' | grep -v _debug_)" = plugin_init ]
}

@test "an unknown parameter is an error" {
    refused "unknown parameter 'colour'" disk.vdi colour=blue
}

@test "no file is an error" {
    refused 'file= parameter is missing'
}

@test "two files are an error" {
    refused "'a.vdi' and 'b.vdi'" a.vdi b.vdi
}

@test "a missing file is an error that names it" {
    refused 'missing.vdi' missing.vdi
}

@test "what is no image is an error that names it" {
    truncate -s 1M zeroes.vdi
    refused 'zeroes.vdi' zeroes.vdi
    refused "$BATS_TEST_TMPDIR" .
}

@test "bad values are errors" {
    refused 'write=maybe' disk.vdi write=maybe
    refused 'lock=on' disk.vdi lock=on
    refused 'size=0' disk.vdi create=dynamic size=0
    refused 'not a UUID' disk.vdi create=dynamic size=1M uuid=1234
    refused 'not a UUID' disk.vdi create=dynamic size=1M \
            uuid=00000000-0000-0000-0000-000000000000
    refused 'contradict' disk.vdi readonly=true write=require
    [ ! -e disk.vdi ]
}

@test "create= needs size=, and size= and the like need create=" {
    refused 'create=dynamic needs size=' disk.vdi create=dynamic
    for p in size=1M block-size=1M data-alignment=1M comment=c force=true \
             uuid=6ecb78ac-0000-4000-8000-000000000001; do
        refused "${p%%=*}= can only be used together with create=" disk.vdi $p
    done
    [ ! -e disk.vdi ]
}

@test "create= refuses a variant that does not exist" {
    refused 'sparkling' disk.vdi create=sparkling size=1M
    [ ! -e disk.vdi ]
}

@test "create= does not touch a file that exists" {
    echo precious > disk.vdi
    refused '[Ff]ile exists' disk.vdi create=dynamic size=1M
    [ "$(cat disk.vdi)" = precious ]
}

@test "create= makes the image as it was asked to" {
    vdkit -U - vdi disk.vdi create=dynamic size=10M comment=hello \
           uuid=6ecb78ac-0000-4000-8000-000000000001 \
           --run 'nbdinfo "$uri"' > info
    grep 'export-size: 10485760' info
    grep 'vdkit1 uuid=6ecb78ac-0000-4000-8000-000000000001 ' info
    grep -a hello disk.vdi
    [ "$(stat -c %a disk.vdi)" = 600 ]
    qemu-img info disk.vdi | grep 'file format: vdi'
}

@test "create= is done also with -r, and what is made is read-only then" {
    vdkit -r -U - vdi disk.vdi create=fixed size=2M \
           --run 'nbdinfo "$uri"' > info
    grep 'is_read_only: true' info
    [ "$(stat -c %s disk.vdi)" -ge $((2 * 1024 * 1024)) ]
}

@test "create= in a folder that is not there is an error" {
    refused '/nowhere' nowhere/disk.vdi create=dynamic size=1M
}

@test "a daemon finds an image with a relative name" {
    qemu-img create -q -f vdi disk.vdi 4M
    mkdir sub
    cd sub
    vdkit -P "$BATS_TEST_TMPDIR/pid" -U "$BATS_TEST_TMPDIR/sock" \
           vdi ../disk.vdi
    uri="nbd+unix:///?socket=$BATS_TEST_TMPDIR/sock"
    python_client "$uri" -c 'h.pwrite (b"x" * 512, 512)' -c 'h.flush ()'
    [ "$(python_client "$uri" -c 'print (h.pread (2, 512))')" = "bytearray(b'xx')" ]
}

@test "a daemon creates an image with a relative name" {
    vdkit -P pid -U "$BATS_TEST_TMPDIR/sock" \
           vdi disk.vdi create=dynamic size=4M
    [ -f disk.vdi ]
    nbdinfo --size "nbd+unix:///?socket=$BATS_TEST_TMPDIR/sock"
}

@test "clients are told what the disk can do" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -U - vdi disk.vdi --run 'nbdinfo "$uri"' > info
    for line in 'is_read_only: false' 'can_multi_conn: true' \
                'can_fua: true' 'can_flush: true' 'can_trim: true' \
                'can_zero: true' 'can_fast_zero: true' 'can_cache: true' \
                'is_rotational: false' 'block_size_minimum: 1' \
                'block_size_preferred: 4096'; do
        grep "$line" info
    done
}

@test "readonly=true and -r: nothing can be written, the file does not change" {
    qemu-img create -q -f vdi disk.vdi 4M
    sum=$(sha256sum disk.vdi)
    for how in "-r vdi disk.vdi" "vdi disk.vdi readonly=true"; do
        vdkit -U - $how --run 'nbdinfo "$uri"' | grep 'is_read_only: true'
        [ "$(sha256sum disk.vdi)" = "$sum" ]
    done
}

@test "reading over a connection that may write does not change the file" {
    qemu-img create -q -f vdi disk.vdi 4M
    sum=$(sha256sum disk.vdi)
    vdkit -U - vdi disk.vdi --run 'nbdcopy "$uri" null:'
    [ "$(sha256sum disk.vdi)" = "$sum" ]
}

@test "write=require ends nbdkit if another reads the image" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -r -P pid -U sock vdi disk.vdi
    refused 'disk.vdi' disk.vdi write=require
}

@test "write=auto: with another reader the image is served read-only" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -r -P pid -U sock vdi disk.vdi
    run vdkit -U - vdi disk.vdi --run 'nbdinfo "$uri"'
    echo "$output"
    [ "$status" -eq 0 ]
    grep 'nbdkit: vdi: warning: .*disk.vdi.*read-only' <<< "$output"
    grep 'is_read_only: true' <<< "$output"
}

@test "while somebody writes the image nbdkit does not start" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -P pid -U sock vdi disk.vdi write=require
    refused 'disk.vdi' disk.vdi
    vdkit -r -U - vdi disk.vdi lock=off --run 'nbdinfo --size "$uri"'
}

@test "a connection that meets a writer is refused, a later one is not" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -P pid -U sock vdi disk.vdi lock=auto
    # Before the first connection there is only a reader's lock; a writer can
    # come between by not looking at it.
    "$PYTHON" - <<'END'
import fcntl, os, struct, subprocess
fd = os.open ("disk.vdi", os.O_RDWR)
def lock (type):
    for byte in 101, 201, 203:
        fcntl.fcntl (fd, 37, struct.pack ("hhqqi4x", type, 0, byte, 1, 0))
def works ():
    return subprocess.call (["nbdinfo", "--size", "nbd+unix:///?socket=sock"],
                            stderr=subprocess.DEVNULL) == 0
lock (fcntl.F_RDLCK)
assert not works ()
lock (fcntl.F_UNLCK)
assert works ()
END
}

@test "a connection that began as a reader sees what is written later" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -P pid -U sock vdi disk.vdi
    python_client "nbd+unix:///?socket=sock" -c '
a = nbd.NBD ()
a.connect_uri ("nbd+unix:///?socket=sock")
b = nbd.NBD ()
b.connect_uri ("nbd+unix:///?socket=sock")
assert a.pread (3, 1000) == b"\0\0\0"
b.pwrite (b"new", 1000)
assert a.pread (3, 1000) == b"new"
a.flush ()
'
}

@test "what was written is stored when the client leaves without a flush" {
    qemu-img create -q -f vdi disk.vdi 4M
    vdkit -f -P pid -U sock vdi disk.vdi 3>&- &
    while [ ! -s pid ]; do sleep 0.1; done
    python_client "nbd+unix:///?socket=sock" -c 'h.pwrite (b"x" * 512, 3 << 20)'
    # The end of the session is not part of the connection's.
    for i in 1 2 3 4 5 6 7 8 9 10; do
        qemu-img convert -U -O raw disk.vdi disk.raw
        ! cmp -s -n 1 -i $((3 << 20)):0 disk.raw <(printf x) || break
        sleep 0.1
    done
    cmp -n 1 -i $((3 << 20)):0 disk.raw <(printf x)
}

@test "--run: the image is complete when the command line returns" {
    qemu-img create -q -f vdi disk.vdi 4M
    for i in 1 2 3 4 5; do
        vdkit -U - vdi disk.vdi \
          --run "$NBDSH -u \"\$uri\" -c 'h.pwrite (b\"$i\" * 512, $i << 19)'"
        qemu-img check -q disk.vdi
        qemu-img convert -O raw disk.vdi disk.raw
        cmp -n 1 -i $((i << 19)):0 disk.raw <(printf $i)
    done
}
