#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Make configure from configure.ac; needed in a git checkout only.
set -e
cd "$(dirname "$0")"
mkdir -p m4 build-aux
exec autoreconf -fi
