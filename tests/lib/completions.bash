# SPDX-License-Identifier: BSD-3-Clause
# What TAB offers, for "load lib/completions".
# shellcheck shell=bash disable=SC2154

# complete_words WORDS...: what TAB offers at the end of the last word, "own" if
# that is left to nbdkit's completion.  nbdkit finds our modules by name only
# where they are installed: give the files.
complete_words () {
  # shellcheck disable=SC2016
  bash -c '
    source "$1"
    shift
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    COMPREPLY=()
    compopt () { :; }
    _vdkit_nbdkit_own () { COMPREPLY=(own); }
    _vdkit_nbdkit
    printf "%s\n" "${COMPREPLY[@]}"
  ' bash "$top_srcdir/plugins/completions/nbdkit-vdkit" "$@" | sort | xargs
}
