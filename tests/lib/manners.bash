# SPDX-License-Identifier: BSD-3-Clause
# What every plugin owes to nbdkit's users, whatever the image holds.  A bats
# file sets plugin (its name, and what its files end in), module (its file),
# and variant (what create= makes there), and calls these in its tests.
# shellcheck shell=bash disable=SC2154,SC2016,SC2086,SC2034

teardown () {
    [ ! -s "$BATS_TEST_TMPDIR/pid" ] || kill "$(cat "$BATS_TEST_TMPDIR/pid")"
    common_teardown
}

# As typed by a user, in the foreground or not.
vdkit () {
    nbdkit_command "$@"
    timeout "$LIMIT" "${nbdkit[@]}" </dev/null 3>&-
}

# help_keys ARGS...: the words that start a line of the help with "word=".
help_keys () {
    vdkit "$@" --help | sed -n 's/^\([a-z-]*\)=.*/\1/p' | sort -u
}

# manual_keys FILE
manual_keys () {
    sed -n -e '/^=head1 PARAMETERS/,/^=head1 [^P]/!d' \
        -e 's/^=item \[*B<\([a-z-]*\)=.*/\1/p' \
        "$top_srcdir/$1" | sort -u
}

# symbols FILE: what is visible of a module.
symbols () {
    nm -D --defined-only "$1" | awk '$2 ~ /[TDBR]/ {print $3}' |
        sed 's/@.*//' | grep -v _debug_
}

# nbdkit must end by itself with a message that matches.
refused () {
    local pattern=$1
    shift
    run vdkit -U - $plugin "$@" --run true
    echo "$output"
    [ "$status" -eq 1 ]
    [[ $output =~ $pattern ]]
}

# --version tells the version
manners_version () {
    run vdkit $plugin --version
    [ "$status" -eq 0 ]
    [[ ${lines[1]} =~ ^$plugin\ [0-9]+\.[0-9]+ ]]
}

# the help and the manual list the same parameters
manners_help_is_manual () {
    [ "$(help_keys $plugin | wc -l)" -ge 10 ]
    diff <(help_keys $plugin) \
        <(manual_keys plugins/$plugin/nbdkit-$plugin-plugin.pod)
}

# the plugin takes every parameter that the help lists
manners_help_is_true () {
    for key in $(help_keys $plugin); do
        run vdkit -U - $plugin $key=@ --run true
        echo "$key: $output"
        [ "$status" -eq 1 ]
        [[ $output != *"unknown parameter"* ]]
    done
}

# --dump-plugin has the keys that the manual names
manners_dump_plugin () {
    run vdkit $plugin --dump-plugin
    [ "$status" -eq 0 ]
    for key in vdkit_version ${plugin}_capabilities ${plugin}_extensions \
               ${plugin}_config; do
        grep "^$key=." <<< "$output"
    done
    grep -x 'max_thread_model=parallel' <<< "$output"
    grep -x "${plugin}_extensions=$plugin" <<< "$output"
}

# only what nbdkit needs is visible of the module
manners_symbols () {
    [ "$(symbols "$module")" = plugin_init ]
}

# an unknown parameter is an error
manners_unknown_parameter () {
    refused "unknown parameter 'colour'" disk.$plugin colour=blue
}

# no file is an error
manners_no_file () {
    refused 'file= parameter is missing'
}

# two files are an error
manners_two_files () {
    refused "'a.$plugin' and 'b.$plugin'" a.$plugin b.$plugin
}

# a missing file is an error that names it
manners_missing_file () {
    refused "missing.$plugin" missing.$plugin
}

# what is no image is an error that names it
manners_no_image () {
    truncate -s 1M zeroes.$plugin
    refused "zeroes.$plugin" zeroes.$plugin
    refused "$BATS_TEST_TMPDIR" .
}

# bad values are errors
manners_bad_values () {
    refused 'write=maybe' disk.$plugin write=maybe
    refused 'lock=on' disk.$plugin lock=on
    refused 'size=0' disk.$plugin create=$variant size=0
    refused 'not a UUID' disk.$plugin create=$variant size=1M uuid=1234
    refused 'contradict' disk.$plugin readonly=true write=require
    # All name the parameter, also where nbdkit's message does not.
    refused 'honor-same=2: must be' disk.$plugin honor-same=2
    refused 'parent=missing: must be' disk.$plugin parent=missing
    # Before anything is made.
    touch parent
    refused 'create= and parent= contradict' \
            disk.$plugin create=$variant size=1M parent=parent
    [ ! -e disk.$plugin ]
}

# manners_needs_create PARAMETER...: create= needs size=, and that, uuid= and
# these need create=
manners_needs_create () {
    refused "create=$variant needs size=" disk.$plugin create=$variant
    for p in size=1M comment=c uuid=6ecb78ac-0000-4000-8000-000000000001 "$@"
    do
        refused "${p%%=*}= can only be used together with create=" \
                disk.$plugin $p
    done
    [ ! -e disk.$plugin ]
}

# create= refuses a variant that does not exist
manners_unknown_variant () {
    refused 'sparkling' disk.$plugin create=sparkling size=1M
    [ ! -e disk.$plugin ]
}

# create= does not touch a file that exists
manners_existing_file () {
    echo precious > disk.$plugin
    refused '[Ff]ile exists' disk.$plugin create=$variant size=1M
    [ "$(cat disk.$plugin)" = precious ]
}

# create= in a folder that is not there is an error
manners_create_nowhere () {
    refused nowhere nowhere/disk.$plugin create=$variant size=1M
}

# a daemon finds an image with a relative name
manners_daemon_opens () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    mkdir sub
    cd sub || return 1
    vdkit -P "$BATS_TEST_TMPDIR/pid" -U "$BATS_TEST_TMPDIR/sock" \
           $plugin ../disk.$plugin
    uri="nbd+unix:///?socket=$BATS_TEST_TMPDIR/sock"
    python_client "$uri" -c 'h.pwrite (b"x" * 512, 512)' -c 'h.flush ()'
    [ "$(python_client "$uri" -c 'print (h.pread (2, 512))')" = "bytearray(b'xx')" ]
}

# a daemon creates an image with a relative name
manners_daemon_creates () {
    vdkit -P pid -U "$BATS_TEST_TMPDIR/sock" \
           $plugin disk.$plugin create=$variant size=4M
    [ -f disk.$plugin ]
    nbdinfo --size "nbd+unix:///?socket=$BATS_TEST_TMPDIR/sock"
}

# clients are told what the disk can do
manners_announced () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -U - $plugin disk.$plugin --run 'nbdinfo "$uri"' > info
    for line in 'is_read_only: false' 'can_multi_conn: true' \
                'can_fua: true' 'can_flush: true' 'can_trim: true' \
                'can_zero: true' 'can_fast_zero: true' 'can_cache: true' \
                'is_rotational: false' 'block_size_minimum: 1' \
                'block_size_preferred: 4096'; do
        grep "$line" info
    done
}

# readonly=true and -r: nothing can be written, the file does not change
manners_readonly () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    sum=$(sha256sum disk.$plugin)
    for how in "-r $plugin disk.$plugin" "$plugin disk.$plugin readonly=true"; do
        vdkit -U - $how --run 'nbdinfo "$uri"' | grep 'is_read_only: true'
        [ "$(sha256sum disk.$plugin)" = "$sum" ]
    done
}

# reading over a connection that may write does not change the file
manners_reading_writes_nothing () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    sum=$(sha256sum disk.$plugin)
    vdkit -U - $plugin disk.$plugin --run 'nbdcopy "$uri" null:'
    [ "$(sha256sum disk.$plugin)" = "$sum" ]
}

# write=require ends nbdkit if another reads the image
manners_require_and_reader () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -r -P pid -U sock $plugin disk.$plugin
    refused "disk.$plugin" disk.$plugin write=require
}

# write=auto: with another reader the image is served read-only
manners_auto_and_reader () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -r -P pid -U sock $plugin disk.$plugin
    run vdkit -U - $plugin disk.$plugin --run 'nbdinfo "$uri"'
    echo "$output"
    [ "$status" -eq 0 ]
    grep "nbdkit: $plugin: warning: .*disk.$plugin.*read-only" <<< "$output"
    grep 'is_read_only: true' <<< "$output"
}

# while somebody writes the image nbdkit does not start
manners_writer () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -P pid -U sock $plugin disk.$plugin write=require
    refused "disk.$plugin" disk.$plugin
    vdkit -r -U - $plugin disk.$plugin lock=off --run 'nbdinfo --size "$uri"'
}

# a connection that meets a writer is refused, a later one is not
manners_later_connection () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -P pid -U sock $plugin disk.$plugin lock=auto
    # Before the first connection there is only a reader's lock; a writer can
    # come between by not looking at it.
    "$PYTHON" - <<END
import fcntl, os, struct, subprocess
fd = os.open ("disk.$plugin", os.O_RDWR)
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

# a connection that began as a reader sees what is written later
manners_early_connection () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -P pid -U sock $plugin disk.$plugin
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

# what was written is stored when the client leaves without a flush
manners_no_flush () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    vdkit -f -P pid -U sock $plugin disk.$plugin 3>&- &
    while [ ! -s pid ]; do sleep 0.1; done
    python_client "nbd+unix:///?socket=sock" -c 'h.pwrite (b"x" * 512, 3 << 20)'
    # The end of the session is not part of the connection's.
    for i in 1 2 3 4 5 6 7 8 9 10; do
        qemu-img convert -U -O raw disk.$plugin disk.raw
        ! cmp -s -n 1 -i $((3 << 20)):0 disk.raw <(printf x) || break
        sleep 0.1
    done
    cmp -n 1 -i $((3 << 20)):0 disk.raw <(printf x)
}

# --run: the image is complete when the command line returns
manners_run_is_complete () {
    qemu-img create -q -f $plugin disk.$plugin 4M
    for i in 1 2 3 4 5; do
        vdkit -U - $plugin disk.$plugin \
          --run "$NBDSH -u \"\$uri\" -c 'h.pwrite (b\"$i\" * 512, $i << 19)'"
        qemu-img check -q disk.$plugin
        qemu-img convert -O raw disk.$plugin disk.raw
        cmp -n 1 -i $((i << 19)):0 disk.raw <(printf %s $i)
    done
}
