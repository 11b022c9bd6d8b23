# SPDX-License-Identifier: BSD-3-Clause
# Sourced by quickstart and run-tests: install what is missing, and build.
# The caller sets top_srcdir.
# shellcheck shell=bash disable=SC2034

# Ordinary users have no sbin in their PATH, and mkfs and sfdisk live there.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

die () {
  printf '%s: error: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

say () { printf '== %s\n' "$*"; }

# What is needed, how to see that it is there, and the package that has it:
#   check                 apt                 dnf                  zypper
# check is cmd:PROGRAM, pc:PKG-CONFIG-MODULE or py:PYTHON-MODULE.  "-": this
# distribution does not have it, and the tests that want it are skipped.
needed_to_build='
cmd:autoreconf        autoconf            autoconf             autoconf
cmd:automake          automake            automake             automake
cmd:libtoolize        libtool             libtool              libtool
cmd:make              make                make                 make
cmd:gcc               gcc                 gcc                  gcc
file:stdio.h          libc6-dev           glibc-devel          glibc-devel
cmd:pkg-config        pkg-config          pkgconf-pkg-config   pkgconf-pkg-config
cmd:pod2man           perl                perl-podlators       perl
cmd:podchecker        perl                perl-Pod-Checker     perl
pc:uuid               uuid-dev            libuuid-devel        libuuid-devel
pc:libdeflate         libdeflate-dev      libdeflate-devel     libdeflate-devel
pc:libxml-2.0         libxml2-dev         libxml2-devel        libxml2-devel
pc:blkid              libblkid-dev        libblkid-devel       libblkid-devel
pc:libiscsi           libiscsi-dev        libiscsi-devel       libiscsi-devel
cmd:nbdkit            nbdkit              nbdkit               nbdkit
pc:nbdkit             nbdkit-plugin-dev   nbdkit-devel         nbdkit-devel
'
needed_to_look='
cmd:nbdcopy           libnbd-bin          libnbd               libnbd
cmd:nbdinfo           libnbd-bin          libnbd               libnbd
cmd:sfdisk            fdisk               util-linux           util-linux
cmd:mkfs.ext4         e2fsprogs           e2fsprogs            e2fsprogs
cmd:debugfs           e2fsprogs           e2fsprogs            e2fsprogs
'
needed_to_test='
pc:cmocka             libcmocka-dev       libcmocka-devel      libcmocka-devel
cmd:bats              bats                bats                 bats
cmd:python3           python3             python3              python3
py:nbd                python3-libnbd      python3-libnbd       python3-libnbd
cmd:qemu-img          qemu-utils          qemu-img             qemu-img
cmd:qemu-nbd          qemu-utils          qemu-img             qemu-tools
cmd:fio               fio                 fio                  fio
cmd:jq                jq                  jq                   jq
cmd:tar               tar                 tar                  tar
cmd:xz                xz-utils            xz                   xz
cmd:7z                p7zip-full          p7zip-plugins        p7zip-full
cmd:vmdkinfo          libvmdk-utils       libvmdk-tools        libvmdk-tools
cmd:setpriv           util-linux          util-linux           util-linux
cmd:strace            strace              strace               strace
cmd:tgtd              tgt                 scsi-target-utils    tgt
cmd:istgt             istgt               -                    -
cmd:ip                iproute2            iproute              iproute2
cmd:unshare           util-linux          util-linux           util-linux
'

# The python that has libnbd's module: not always the first one in PATH.
python_with_nbd () {
  local p
  for p in python3 /usr/bin/python3; do
    if "$p" -c 'import nbd' 2>/dev/null; then
      command -v "$p"
      return 0
    fi
  done
  return 1
}

is_there () {
  local what=${1#*:}
  case $1 in
    cmd:*) command -v "$what" >/dev/null ;;
    pc:*) pkg-config --exists "$what" 2>/dev/null ;;
    py:*) python_with_nbd >/dev/null ;;
    file:*) echo "#include <$what>" | gcc -E - >/dev/null 2>&1 ;;
  esac
}

# install_missing TABLE...: nothing is asked for that is there already.
install_missing () {
  local table check apt dnf zypper manager column packages=() sudo=()

  if command -v apt-get >/dev/null; then
    manager=apt
  elif command -v dnf >/dev/null; then
    manager=dnf
  elif command -v zypper >/dev/null; then
    manager=zypper
  else
    manager=
  fi

  table=$(printf '%s\n' "$@")
  while read -r check apt dnf zypper; do
    [ -n "$check" ] || continue
    is_there "$check" && continue
    case $manager in
      apt) column=$apt ;;
      dnf) column=$dnf ;;
      zypper) column=$zypper ;;
      *) column=${check#*:} ;;
    esac
    [ "$column" != - ] || continue
    case " ${packages[*]} " in
      *" $column "*) ;;
      *) packages+=("$column") ;;
    esac
  done <<<"$table"

  if [ ${#packages[@]} -gt 0 ]; then
    [ -n "$manager" ] ||
      die "there is no apt-get, dnf or zypper here; install these by hand:" \
          "${packages[*]}"
    if [ "$(id -u)" -ne 0 ]; then
      command -v sudo >/dev/null ||
        die "not root and no sudo; install these first: ${packages[*]}"
      sudo=(sudo)
    fi
    say "installing: ${packages[*]}"
    case $manager in
      apt)
        "${sudo[@]}" apt-get update -q </dev/null >/dev/null ||
          die "apt-get update failed"
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
          --no-install-recommends "${packages[@]}" </dev/null >/dev/null ;;
      dnf) "${sudo[@]}" dnf install -q -y "${packages[@]}" </dev/null ;;
      zypper)
        "${sudo[@]}" zypper --non-interactive --quiet install \
          "${packages[@]}" </dev/null ;;
    esac || die "$manager could not install: ${packages[*]}"
    hash -r
    while read -r check apt dnf zypper; do
      [ -n "$check" ] || continue
      case $manager in
        dnf) [ "$dnf" != - ] || continue ;;
        zypper) [ "$zypper" != - ] || continue ;;
      esac
      is_there "$check" ||
        die "${check#*:} is still missing after installing its package"
    done <<<"$table"
  fi

  pkg-config --atleast-version=1.32 nbdkit ||
    die "nbdkit $(pkg-config --modversion nbdkit) is too old: 1.32 is needed"
}

# Print the output of a command only if it fails.
quietly () {
  local log=$1
  shift
  if ! "$@" </dev/null >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    return 1
  fi
}

# configure_in DIR OPTIONS...: once for each set of options.
configure_in () {
  local dir=$1
  shift
  [ ! -e "$top_srcdir/config.status" ] ||
    die "the source folder itself is configured, which forbids a second" \
        "build: run 'make distclean' there first"
  mkdir -p "$dir"
  if [ ! -e "$top_srcdir/Makefile.in" ] ||
     [ ! -e "$top_srcdir/configure" ] ||
     [ "$top_srcdir/configure.ac" -nt "$top_srcdir/configure" ]; then
    say "making configure"
    quietly "$dir/autogen.log" "$top_srcdir/autogen.sh" ||
      die "autogen.sh failed"
  fi
  # make repeats configure by itself when configure.ac changes.
  if [ ! -e "$dir/config.status" ] ||
     [ "$(cat "$dir/configured-with" 2>/dev/null)" != "$*" ]; then
    say "configuring in ${dir#"$top_srcdir/"}"
    (cd "$dir" && quietly configure.log ../../configure "$@") ||
      die "configure failed (see ${dir#"$top_srcdir/"}/config.log)"
    echo "$*" >"$dir/configured-with"
  fi
}

# build_in DIR MAKE-ARGUMENTS...
build_in () {
  local dir=$1
  shift
  quietly "$dir/make.log" make -C "$dir" -j"$(nproc)" "$@"
}

# After "sudo ./quickstart" the owner of the checkout must still be able to
# build: give away what was made as root.
give_back () {
  local owner
  owner=$(stat -c %u "$top_srcdir")
  if [ "$(id -u)" -eq 0 ] && [ "$owner" -ne 0 ]; then
    (cd "$top_srcdir" &&
     find build build-aux m4 autom4te.cache aclocal.m4 configure config.h.in \
          Makefile.in ./*/Makefile.in ./*/*/Makefile.in -user root \
          -exec chown -h --reference=. {} + 2>/dev/null)
  fi
  return 0
}
