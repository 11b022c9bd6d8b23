#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# What the vmdk plugin owes to nbdkit's users, whatever the image holds:
# parameters, messages, where files are, what ends nbdkit.

# SC2034: variables of lib/manners.  Words in variables here have no blanks.
# shellcheck disable=SC2034,SC2086

load lib/common
load lib/manners

plugin=vmdk
module=$PLUGIN_VMDK
variant=sparse

@test "--version tells the version" { manners_version; }
@test "the help and the manual list the same parameters" {
    manners_help_is_manual
}
@test "the plugin takes every parameter that the help lists" {
    manners_help_is_true
}
@test "only what nbdkit needs is visible of the module" { manners_symbols; }
@test "an unknown parameter is an error" { manners_unknown_parameter; }
@test "no file is an error" { manners_no_file; }
@test "two files are an error" { manners_two_files; }
@test "a missing file is an error that names it" { manners_missing_file; }
@test "what is no image is an error that names it" { manners_no_image; }
@test "create= refuses a variant that does not exist" {
    manners_unknown_variant
}
@test "create= does not touch a file that exists" { manners_existing_file; }
@test "create= in a folder that is not there is an error" {
    manners_create_nowhere
}
@test "a daemon finds an image with a relative name" { manners_daemon_opens; }
@test "a daemon creates an image with a relative name" {
    manners_daemon_creates
}
@test "clients are told what the disk can do" { manners_announced; }
@test "readonly=true and -r: nothing can be written, the file does not change" {
    manners_readonly
}
@test "reading over a connection that may write does not change the file" {
    manners_reading_writes_nothing
}
@test "write=require ends nbdkit if another reads the image" {
    manners_require_and_reader
}
@test "write=auto: with another reader the image is served read-only" {
    manners_auto_and_reader
}
@test "while somebody writes the image nbdkit does not start" {
    manners_writer
}
@test "a connection that meets a writer is refused, a later one is not" {
    manners_later_connection
}
@test "a connection that began as a reader sees what is written later" {
    manners_early_connection
}
@test "what was written is stored when the client leaves without a flush" {
    manners_no_flush
}
@test "--run: the image is complete when the command line returns" {
    manners_run_is_complete
}

@test "--dump-plugin has the keys that the manual names" {
    manners_dump_plugin
}

@test "bad values are errors" {
    manners_bad_values
    refused 'strict=perhaps: must be' disk.vmdk strict=perhaps
    refused 'allow-paths=missing: must be' disk.vmdk allow-paths=missing
    refused 'raw-disk=: must be' disk.vmdk raw-disk=
    refused 'create= and strict=true contradict' \
            disk.vmdk create=flat size=1M strict=true
    refused 'zero-extents=.*maybe' disk.vmdk zero-extents=maybe
    refused '512' disk.vmdk create=sparse size=1000
    refused 'adapter.*floppy' disk.vmdk create=sparse size=1M adapter=floppy
    refused 'hw-version' disk.vmdk create=sparse size=1M hw-version=many
    [ ! -e disk.vmdk ]
}

@test "create= needs size=, and size= and the like need create=" {
    manners_needs_create adapter=ide hw-version=4 force=true
}

@test "force=true makes a sparse disk of more than 2 TiB" {
    refused 'force.*must not become full' disk.vmdk create=sparse size=3T
    [ ! -e disk.vmdk ]
    refused 'perhaps' disk.vmdk create=sparse size=3T force=perhaps
    serve vmdk disk.vmdk create=sparse size=3T force=true -- '$NBDSH -u "$uri" -c "
h.pwrite(b\"end.\" * 128, 3 * 2**40 - 512)
h.flush()
"'
    serve -r vmdk disk.vmdk -- '$NBDSH -u "$uri" -c "
assert h.get_size() == 3 * 2**40
assert h.pread(1024, 3 * 2**40 - 1024) == bytes(512) + b\"end.\" * 128
"'
    # What others make of it.
    qemu-img info -U --output=json disk.vmdk | grep -F '"virtual-size": 3298534883328'
}

# created VARIANT TYPE FILES...: what create=VARIANT makes of 5 MiB.
created () {
    local variant=$1 type=$2
    shift 2
    mkdir "$variant"
    cd "$variant" || return 1
    vdkit -U - vmdk disk.vmdk create="$variant" size=5M comment=hello \
          adapter=lsilogic hw-version=7 \
          uuid=6ecb78ac-0000-4000-8000-000000000001 \
          --run 'nbdinfo "$uri"' > ../info
    grep 'export-size: 5242880' ../info
    grep 'vdkit1 uuid=6ecb78ac-0000-4000-8000-000000000001 ' ../info
    assert_equal "$(echo *)" "$*" "files of $variant"
    assert_equal "$(stat -c %a "$@" | sort -u)" 600 "permissions of $variant"
    for text in "createType=\"$type\"" 'ddb.adapterType = "lsilogic"' \
                'ddb.virtualHWVersion = "7"' 'ddb.comment = "hello"'; do
        grep -aFq "$text" disk.vmdk || { echo "$variant: no $text"; false; }
    done
    qemu-img info -f vmdk disk.vmdk | grep "create type: $type"
    # It is what it says: written by us, read by qemu.
    random_file ../content 5242880
    vdkit -U - vmdk disk.vmdk --run 'nbdcopy --flush ../content "$uri"'
    qemu-img convert -f vmdk -O raw disk.vmdk ../copy
    cmp ../copy ../content
    cd "$BATS_TEST_TMPDIR" || return 1
}

@test "create= makes each variant, with its files" {
    created sparse monolithicSparse disk.vmdk
    created flat monolithicFlat disk-flat.vmdk disk.vmdk
    created split-sparse twoGbMaxExtentSparse disk-s001.vmdk disk.vmdk
    created split-flat twoGbMaxExtentFlat disk-f001.vmdk disk.vmdk
    created vmfs vmfs disk-flat.vmdk disk.vmdk
    created stream streamOptimized disk.vmdk
}

@test "create= takes createTypes too, and reserves space where it is asked to" {
    for type in monolithicSparse monolithicFlat twoGbMaxExtentSparse \
                twoGbMaxExtentFlat vmfs streamOptimized; do
        vdkit -U - vmdk $type.vmdk create=$type size=1M --run true
        grep -aFq "createType=\"$type\"" $type.vmdk
    done
    for variant in flat split-flat vmfs; do
        vdkit -U - vmdk p-$variant.vmdk create=$variant-preallocated size=4M \
              --run true
        [ "$(stat -c %b p-$variant-f*.vmdk)" -ge 8192 ]
        vdkit -U - vmdk n-$variant.vmdk create=$variant size=4M --run true
        [ "$(stat -c %b n-$variant-f*.vmdk)" -lt 8192 ]
    done
}

@test "split images have files of 2047 MiB" {
    for variant in split-sparse split-flat; do
        vdkit -U - vmdk $variant.vmdk create=$variant size=5G \
              --run 'nbdinfo --size "$uri"' > size
        grep -x 5368709120 size
        assert_equal "$(sed -n 's/^RW \([0-9]*\) .*/\1/p' $variant.vmdk)" \
                     "$(printf '%s\n' 4192256 4192256 2101248)"
    done
    assert_equal "$(echo split-sparse-*)" \
        "split-sparse-s001.vmdk split-sparse-s002.vmdk split-sparse-s003.vmdk"
    assert_equal "$(echo split-flat-*)" \
        "split-flat-f001.vmdk split-flat-f002.vmdk split-flat-f003.vmdk"
}

@test "create= touches nothing if any of its files exists" {
    while read -r variant file; do
        echo precious > $file
        refused '[Ff]ile exists' disk.vmdk create=$variant size=5G
        [ "$(cat $file)" = precious ]
        rm $file
        assert_equal "$(find . -name '*.vmdk' | wc -l)" 0 "files of $variant"
    done << 'END'
sparse disk.vmdk
flat disk-flat.vmdk
split-sparse disk-s003.vmdk
split-flat disk-f002.vmdk
vmfs disk-flat.vmdk
stream disk.vmdk
END
}

@test "create= is done also with -r, and what is made is read-only then" {
    for variant in sparse flat split-sparse; do
        vdkit -r -U - vmdk $variant.vmdk create=$variant size=2M \
              --run 'nbdinfo "$uri"' | grep 'is_read_only: true'
    done
}

# A split image: disk.vmdk and three files.
split_disk () {
    vdkit -U - vmdk disk.vmdk create=split-sparse size=5G --run true
}

@test "every file of an image is locked while we write" {
    split_disk
    start_nbdkit vmdk disk.vmdk
    python_client "$uri" 'h.pwrite (b"x", 0)'
    for file in disk-s001.vmdk disk-s002.vmdk disk-s003.vmdk; do
        run qemu-io -f raw -c 'write 100M 1' $file
        echo "$output"
        [ "$status" -ne 0 ]
        [[ $output == *lock* ]]
    done
    for how in "qemu-img info" "qemu-img check -f vmdk" \
               "qemu-io -f vmdk -c quit"; do
        run $how disk.vmdk
        echo "$output"
        [ "$status" -ne 0 ]
        [[ $output == *lock* ]]
    done
    stop_nbdkit
    qemu-img check -f vmdk disk.vmdk
}

@test "qemu may read, and not write, every file that we read" {
    split_disk
    start_nbdkit -r vmdk disk.vmdk
    qemu-img info disk.vmdk
    for file in disk-s001.vmdk disk-s003.vmdk; do
        run qemu-io -f raw -c 'write 100M 1' $file
        [ "$status" -ne 0 ]
        [[ $output == *lock* ]]
    done
}

@test "we refuse what qemu writes, be it one file of the image" {
    split_disk
    for file in disk.vmdk disk-s002.vmdk; do
        format=raw
        [ $file != disk.vmdk ] || format=vmdk
        qemu-nbd -t -f $format -k "$PWD/q" $file >qemu.log 2>&1 </dev/null 3>&- &
        qemu=$!
        server_pids+=("$qemu")
        wait_for test -S q
        refused 'disk[^ ]*\.vmdk.*(lock|use)' disk.vmdk
        refused 'disk[^ ]*\.vmdk.*(lock|use)' -r disk.vmdk
        refused 'disk[^ ]*\.vmdk.*(lock|use)' disk.vmdk write=require
        vdkit -r -U - vmdk disk.vmdk lock=off --run 'nbdinfo --size "$uri"'
        stop_nbdkit $qemu
        rm -f q
    done
}

@test "two servers, one writer" {
    split_disk
    start_nbdkit vmdk disk.vmdk write=require
    refused 'disk[^ ]*\.vmdk.*(lock|use)' disk.vmdk
    stop_nbdkit
    start_nbdkit -r vmdk disk.vmdk
    vdkit -r -U - vmdk disk.vmdk --run 'nbdinfo --size "$uri"'
}
