#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""inspector.py FILE: would OpenStack accept this VMDK of a stranger?

The rules of the format inspector of oslo.utils (2026-06), written anew from
their description.  Prints why not, and exits with 1.
"""

import re
import struct
import sys

AT_END = (1 << 64) - 1


class Refused(Exception):
    pass


def check_footer(data, header):
    tail = data[-1536:]
    if len(tail) < 1536:
        raise Refused("no room for a footer")
    marker, footer, eos = tail[:512], tail[512:1024], tail[1024:]
    _, size, kind = struct.unpack("<QII", marker[:16])
    if size != 0 or kind != 3 or any(marker[16:]):
        raise Refused("no footer marker")
    if any(eos):
        raise Refused("no end-of-stream marker")
    if footer[:8] != header[:8]:
        raise Refused("the footer has another signature or version")
    if footer[28:44] != header[28:44]:
        raise Refused("the footer has another descriptor")
    if struct.unpack("<Q", footer[56:64])[0] == AT_END:
        raise Refused("the footer has no grain directory")


def check_line(line):
    """True for an extent."""
    if line.strip() == "" or line.startswith("#") or line.startswith("ddb"):
        return False
    if re.match(r"(rw|rdonly|noaccess)\s", line):
        if "/" in line:
            raise Refused("a path in an extent: %r" % line)
        return True
    if re.match(r"\w+\s*=", line) and " " not in line.split("=")[0]:
        return False
    raise Refused("a line that has no business there: %r" % line)


def check(data):
    header = data[:512]
    if len(header) < 512 or header[:4] != b"KDMV":
        raise Refused("no sparse header")
    if struct.unpack("<I", header[4:8])[0] not in (1, 2, 3):
        raise Refused("version")
    at, sectors = struct.unpack("<QQ", header[28:44])
    if at != 1 or not 0 < sectors * 512 < 1 << 20:
        raise Refused("descriptor at %d, %d sectors" % (at, sectors))
    if struct.unpack("<Q", header[56:64])[0] == AT_END:
        check_footer(data, header)
    try:
        text = data[512:512 + sectors * 512].split(b"\0")[0].decode("ascii")
    except UnicodeDecodeError:
        raise Refused("not ASCII")
    text = text.lower()
    kind = re.search(r'^createtype="?([^"\n]*)"?', text, re.M)
    if not kind or kind[1] not in ("monolithicsparse", "streamoptimized"):
        raise Refused("createType is %s" % (kind and kind[1]))
    if sum(check_line(line) for line in text.split("\n")) < 1:
        raise Refused("no extents")


def main(name):
    with open(name, "rb") as f:
        try:
            check(f.read())
        except Refused as e:
            print("%s: %s" % (name, e))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
