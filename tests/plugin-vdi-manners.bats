#!/usr/bin/env bats
# SPDX-License-Identifier: BSD-3-Clause
#
# What the vdi plugin owes to nbdkit's users, whatever the image holds:
# parameters, messages, where files are, what ends nbdkit.

# SC2034: variables of lib/manners.  Words in variables here have no blanks.
# shellcheck disable=SC2034,SC2086

load lib/common
load lib/manners

plugin=vdi
module=$PLUGIN_VDI
variant=dynamic

@test "--version tells the version" { manners_version; }
@test "the help and the manual list the same parameters" {
    manners_help_is_manual
}
@test "the plugin takes every parameter that the help lists" {
    manners_help_is_true
}

@test "--dump-plugin has the keys that the manual names" {
    manners_dump_plugin
    grep 'vdi_config=AllocationBlockSize=1048576' <<< "$output"
}

@test "only what nbdkit needs is visible of the module" { manners_symbols; }
@test "an unknown parameter is an error" { manners_unknown_parameter; }
@test "no file is an error" { manners_no_file; }
@test "two files are an error" { manners_two_files; }
@test "a missing file is an error that names it" { manners_missing_file; }
@test "what is no image is an error that names it" { manners_no_image; }

@test "bad values are errors" {
    manners_bad_values
    refused 'not a UUID' disk.vdi create=dynamic size=1M \
            uuid=00000000-0000-0000-0000-000000000000
    [ ! -e disk.vdi ]
}

@test "create= needs size=, and size= and the like need create=" {
    manners_needs_create block-size=1M data-alignment=1M force=true
}

@test "create= refuses a variant that does not exist" {
    manners_unknown_variant
}
@test "create= does not touch a file that exists" { manners_existing_file; }

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
