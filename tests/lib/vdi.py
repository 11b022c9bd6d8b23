#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make and patch VDI files by byte offsets.  Shares no code with the core.

vdi.py make FILE [NAME=VALUE...]   FILE, and FILE.raw with the disk's content
vdi.py patch FILE [NAME=VALUE...]
vdi.py get FILE NAME...

NAME is a field of the header below, map[N], or @OFFSET:BYTES.  VALUE is a
number (decimal or 0x, with K, M or G), or free or zero in the map; for uuid
fields "null" or 32 hex digits.  make also takes map=V,V,... (default: blocks
0 and 3 of 8 are allocated, in the places 1 and 0), blocks_in_file=N and
tail=BYTES; version=2 makes the oldest layout, 0.2.  patch also takes text=,
comment= and truncate=BYTES.
"""

import os
import re
import struct
import sys

# name: (offset, bytes)
FIELDS = {
    "signature": (64, 4), "version": (68, 4),
    "cbHeader": (72, 4), "type": (76, 4), "flags": (80, 4),
    "offBlocks": (340, 4), "offData": (344, 4),
    "legacySector": (360, 4), "dummy": (364, 4),
    "cbDisk": (368, 8), "cbBlock": (376, 4), "cbBlockExtra": (380, 4),
    "cBlocks": (384, 4), "cBlocksAllocated": (388, 4),
    "uuidCreate": (392, 16), "uuidModify": (408, 16),
    "uuidLinkage": (424, 16), "uuidParentModify": (440, 16),
    "lchsCylinders": (456, 4), "lchsHeads": (460, 4), "lchsSectors": (464, 4),
    "lchsSector": (468, 4),
}
FIELDS_0 = {
    "signature": (64, 4), "version": (68, 4), "type": (72, 4),
    "flags": (76, 4), "legacySector": (348, 4), "cbDisk": (352, 8),
    "cbBlock": (360, 4), "cBlocks": (364, 4), "cBlocksAllocated": (368, 4),
    "uuidCreate": (372, 16), "uuidModify": (388, 16), "uuidLinkage": (404, 16),
}
SPECIAL = {"free": 0xffffffff, "zero": 0xfffffffe}
UNITS = {"K": 10, "M": 20, "G": 30}


def number(text):
    if text in SPECIAL:
        return SPECIAL[text]
    if text[-1:] in UNITS:
        return int(text[:-1], 0) << UNITS[text[-1]]
    return int(text, 0)


def encode(text, size):
    if size == 16:
        return bytes(16) if text == "null" else bytes.fromhex(text)
    return number(text).to_bytes(size, "little")


def place(read, name):
    """Offset and size of NAME; read(offset, n) gives bytes of the file."""
    match = re.fullmatch(r"map\[(\d+)\]", name)
    if match:
        start = struct.unpack("<I", read(340, 4))[0]
        return start + 4 * int(match[1]), 4
    match = re.fullmatch(r"@(\w+):(\d+)", name)
    if match:
        return number(match[1]), int(match[2])
    return FIELDS[name]


def patch(name, pairs):
    with open(name, "r+b") as f:
        def read(offset, n):
            f.seek(offset)
            return f.read(n)
        for key, value in pairs:
            if key == "truncate":
                f.truncate(number(value))
                continue
            if key == "comment":
                f.seek(84)
                f.write((value * 256).encode()[:256])
                continue
            if key == "text":
                f.seek(0)
                f.write(value.encode().ljust(64, b"\0"))
                continue
            offset, size = place(read, key)
            f.seek(offset)
            f.write(encode(value, size))


def get(name, names):
    with open(name, "rb") as f:
        def read(offset, n):
            f.seek(offset)
            return f.read(n)
        for key in names:
            offset, size = place(read, key)
            data = read(offset, size)
            if size == 16:
                print(data.hex())
            else:
                print(int.from_bytes(data, "little"))


def content(block, size):
    """What a block holds: each sector tells where it belongs."""
    return b"".join((b"block %d sector %d" % (block, n)).ljust(32, b".") * 16
                    for n in range(size // 512))


def make(name, pairs):
    given = dict(pairs)
    entries = [SPECIAL.get(e, e) for e in
               given.pop("map", "1,free,free,0,free,free,free,free").split(",")]
    entries = [e if isinstance(e, int) else number(e) for e in entries]
    block = number(given.get("cbBlock", "1M"))
    extra = number(given.get("cbBlockExtra", "0"))
    oldest = given.get("version") == "2"
    off_blocks = 420 if oldest else number(given.get("offBlocks", "1M"))
    off_data = 420 + 4 * len(entries) if oldest else number(given.get("offData", "0")) or \
        -(-(off_blocks + 4 * len(entries)) // 0x100000) * 0x100000
    disk = number(given.get("cbDisk", "0")) or block * len(entries)
    used = [e for e in entries if e < SPECIAL["zero"]]
    in_file = number(given.pop("blocks_in_file", str(1 + max(used, default=-1))))
    tail = number(given.pop("tail", "0"))
    header = {
        "signature": "0xbeda107f", "version": "0x10001", "cbHeader": "400",
        "type": "1", "flags": "0", "offBlocks": str(off_blocks),
        "offData": str(off_data), "legacySector": "512", "dummy": "0",
        "cbDisk": str(disk), "cbBlock": str(block),
        "cbBlockExtra": str(extra), "cBlocks": str(len(entries)),
        "cBlocksAllocated": str(in_file),
        "uuidCreate": "11" * 16, "uuidModify": "22" * 16,
        "uuidLinkage": "null", "uuidParentModify": "null",
        "lchsCylinders": "0", "lchsHeads": "0", "lchsSectors": "0",
        "lchsSector": "512",
    }
    header.update(given)
    fields = FIELDS_0 if oldest else FIELDS
    if number(header["cbHeader"]) < 400 and off_blocks < 472:
        for key in list(header):
            if key.startswith("lchs"):
                del header[key]
    with open(name, "wb") as f, open(name + ".raw", "wb") as raw:
        f.write(b"<<< made by a test >>>\n".ljust(64, b"\0"))
        for key, value in header.items():
            if key in fields:
                offset, size = fields[key]
                f.seek(offset)
                f.write(encode(value, size))
        f.seek(off_blocks)
        f.write(struct.pack("<%dI" % len(entries), *entries))
        f.truncate(max(off_data, off_blocks + 4 * len(entries)))
        for index, entry in enumerate(entries):
            if entry >= in_file:
                continue
            start = off_data + entry * (block + extra)
            f.seek(start)
            f.write(b"\xee" * extra)
            f.write(content(index, block))
            if index * block < disk:
                raw.seek(index * block)
                raw.write(content(index, block)[:disk - index * block])
        raw.truncate(disk)
        f.seek(0, os.SEEK_END)
        f.truncate(max(f.tell(), off_data + in_file * (block + extra)))
        f.seek(0, os.SEEK_END)
        f.write(b"\xdd" * tail)


def main(argv):
    if len(argv) < 2:
        sys.exit(__doc__)
    command, name, rest = argv[0], argv[1], argv[2:]
    if command == "get":
        get(name, rest)
        return
    pairs = [tuple(item.split("=", 1)) for item in rest]
    {"make": make, "patch": patch}[command](name, pairs)


if __name__ == "__main__":
    main(sys.argv[1:])
