#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make and patch VMDK files by byte offsets.  Shares no code with the core.

vmdk.py sparse FILE [NAME=VALUE...]   a sparse extent, and FILE.raw
vmdk.py stream FILE [NAME=VALUE...]   a compressed one, and FILE.raw
vmdk.py cowd FILE [NAME=VALUE...]     an extent of ESX, and FILE.raw
vmdk.py sesparse FILE [NAME=VALUE...] another, and FILE.raw
vmdk.py patch FILE [NAME=VALUE...]
vmdk.py get FILE NAME...
vmdk.py descriptor FILE OLD NEW       in the text inside, of any length

NAME is a field of the header below, gd[N], rgd[N], gt[N], rgt[N] (an entry by
its number in the disk), or @OFFSET:BYTES.  VALUE is a number (decimal, 0x,
negative, with K or M), or hex:DIGITS.  patch also takes truncate=BYTES,
fill-gt=BYTE and fill-rgt=BYTE (of the first grain table).

sparse takes capacity=SECTORS (520 grains, two tables), grains=N,N (0), line=SECTORS, text=no,
access=WORD (RW) and header fields; stream also footer=yes, short=yes, progress=yes and eos=no.
A grain is full of text that says where it belongs.
"""

import re
import struct
import sys
import zlib

# name: (offset, bytes)
FIELDS = {
    "magic": (0, 4), "version": (4, 4), "flags": (8, 4), "capacity": (12, 8),
    "grainSize": (20, 8), "descriptorOffset": (28, 8),
    "descriptorSize": (36, 8), "numGTEsPerGT": (44, 4), "rgdOffset": (48, 8),
    "gdOffset": (56, 8), "overHead": (64, 8), "uncleanShutdown": (72, 1),
    "newline": (73, 4), "compressAlgorithm": (77, 2),
}
UNITS = {"K": 10, "M": 20}
SECTOR = 512
AT_END = (1 << 64) - 1


def number(text):
    if text[-1:] in UNITS:
        return int(text[:-1], 0) << UNITS[text[-1]]
    return int(text, 0)


def encode(text, size):
    if text.startswith("hex:"):
        return bytes.fromhex(text[4:])
    return (number(text) % (1 << 8 * size)).to_bytes(size, "little")


def up(n, unit):
    return -(-n // unit) * unit


class File:
    def __init__(self, name, mode="r+b"):
        self.f = open(name, mode)

    def read(self, offset, n):
        self.f.seek(offset)
        return self.f.read(n)

    def write(self, offset, data):
        self.f.seek(offset)
        self.f.write(data)

    def int(self, offset, size):
        return int.from_bytes(self.read(offset, size), "little")

    def field(self, name):
        return self.int(*FIELDS[name])

    def table(self, kind, n=0):
        gd = self.field("rgdOffset" if kind == "rgt" else "gdOffset")
        return self.int(gd * SECTOR + n * 4, 4) * SECTOR

    def place(self, name):
        match = re.fullmatch(r"@(\w+):(\d+)", name)
        if match:
            return number(match[1]), int(match[2])
        match = re.fullmatch(r"(r?g[dt])\[(\d+)\]", name)
        if not match:
            return FIELDS[name]
        kind, n = match[1], int(match[2])
        if kind in ("gd", "rgd"):
            return self.field(kind + "Offset") * SECTOR + n * 4, 4
        per = self.field("numGTEsPerGT")
        return self.table(kind, n // per) + n % per * 4, 4


def patch(name, pairs):
    f = File(name)
    for key, value in pairs:
        if key == "truncate":
            f.f.truncate(number(value))
        elif key in ("fill-gt", "fill-rgt"):
            f.write(f.table(key[5:]), bytes([number(value)]) * 2048)
        else:
            offset, size = f.place(key)
            f.write(offset, encode(value, size))


def get(name, names):
    f = File(name, "rb")
    for key in names:
        print(f.int(*f.place(key)))


def descriptor(name, old, new):
    f = File(name)
    start = f.field("descriptorOffset") * SECTOR
    size = f.field("descriptorSize") * SECTOR
    text = f.read(start, size).rstrip(b"\0")
    old, new = (t.encode().decode("unicode_escape").encode("latin-1")
                for t in (old, new))
    if old not in text:
        sys.exit("%r is not in the descriptor" % old)
    f.write(start, text.replace(old, new).ljust(size, b"\0"))


def content(grain, size):
    return b"".join((b"grain %d sector %d" % (grain, n)).ljust(32, b".") * 16
                    for n in range(size // SECTOR))


def text_of(kind, access, sectors):
    return ('# Disk DescriptorFile\nversion=1\nCID=12345678\n'
            'parentCID=ffffffff\ncreateType="%s"\n\n# Extent description\n'
            '%s %d SPARSE "x.vmdk"\n\n# The Disk Data Base\n#DDB\n\n'
            'ddb.adapterType = "ide"\n' % (kind, access, sectors)).encode()


def header(fields, given):
    head = bytearray(SECTOR)
    base = {"magic": 0x564d444b, "version": 1, "flags": 3,
            "numGTEsPerGT": 512, "newline": 0x0a0d200a}
    base.update(fields)
    for key, value in base.items():
        offset, size = FIELDS[key]
        head[offset:offset + size] = encode(str(value), size)
    for key, value in given.items():
        offset, size = FIELDS[key]
        head[offset:offset + size] = encode(value, size)
    return bytes(head)


def hosted(name, given, packed):
    capacity = number(given.pop("capacity", "66560"))
    grain = number(given.pop("grainSize", "128"))
    per = number(given.pop("numGTEsPerGT", "512"))
    line = number(given.pop("line", str(capacity)))
    grains = [int(g) for g in given.pop("grains", "0").split(",") if g]
    text = given.pop("text", "yes") != "no"
    access = given.pop("access", "RW")
    footer = given.pop("footer", "no") == "yes"
    short = given.pop("short", "no") == "yes"
    progress = given.pop("progress", "no") == "yes"
    eos = given.pop("eos", "yes") == "yes"

    ngts = -(-(-(-capacity // grain)) // per)
    gd_sectors, gt_sectors = up(ngts * 4, 512) // 512, per * 4 // 512
    area = gd_sectors + ngts * gt_sectors
    rgd = 21
    gd = 21 if packed else rgd + area
    start = up(gd + area, grain) if not (packed and footer) else 128
    tables = [[0] * per for _ in range(ngts)]
    body = b""
    for g in grains:
        tables[g // per][g % per] = start + len(body) // SECTOR
        data = content(g, grain * SECTOR)
        if packed:
            if short and (g + 1) * grain > line:
                data = data[:(line - g * grain) * SECTOR]
            data = zlib.compress(data)
            data = struct.pack("<QI", g * grain, len(data)) + data
            data = data.ljust(up(len(data), SECTOR), b"\0")
        body += data
        if packed and progress:
            body += struct.pack("<QII", 0, 0, 4).ljust(SECTOR, b"\0")

    fields = {"capacity": capacity, "grainSize": grain, "numGTEsPerGT": per,
              "descriptorOffset": 1, "descriptorSize": 20, "overHead": start,
              "gdOffset": gd, "rgdOffset": 0 if packed else rgd}
    if not text:
        fields["descriptorOffset"] = fields["descriptorSize"] = 0
    if packed:
        fields.update(version=3, flags=0x30001, compressAlgorithm=1)

    def directory(at):
        first = at + gd_sectors
        data = b"".join(struct.pack("<I", first + i * gt_sectors)
                        for i in range(ngts)).ljust(gd_sectors * SECTOR, b"\0")
        return data + b"".join(struct.pack("<%dI" % per, *t) for t in tables)

    f = File(name, "w+b")
    if text:
        f.write(SECTOR, text_of("streamOptimized" if packed
                                else "monolithicSparse",
                                access, line))
    f.write(start * SECTOR, body)
    end = start + len(body) // SECTOR
    if packed and footer:
        def marker(value, kind):
            return struct.pack("<QII", value, 0, kind).ljust(SECTOR, b"\0")
        tail, places = b"", []
        for t in tables:
            tail += marker(gt_sectors, 1)
            places.append(end + len(tail) // SECTOR)
            tail += struct.pack("<%dI" % per, *t)
        tail += marker(gd_sectors, 2)
        at = end + len(tail) // SECTOR
        tail += struct.pack("<%dI" % ngts, *places).ljust(
            gd_sectors * SECTOR, b"\0")
        tail += marker(1, 3) + header(dict(fields, gdOffset=at), given)
        f.write(end * SECTOR, tail + (bytes(SECTOR) if eos else b""))
        fields["gdOffset"] = AT_END
    else:
        f.write(gd * SECTOR, directory(gd))
        if not packed:
            f.write(rgd * SECTOR, directory(rgd))
        elif eos:
            f.write(end * SECTOR, bytes(SECTOR))
        f.f.seek(0, 2)
        f.f.truncate(max(f.f.tell(), start * SECTOR))
    f.write(0, header(fields, given))

    with open(name + ".raw", "wb") as raw:
        for g in grains:
            raw.seek(g * grain * SECTOR)
            raw.write(content(g, grain * SECTOR))
        raw.truncate(line * SECTOR)


def cowd(name, given):
    capacity = number(given.pop("capacity", "32768"))
    grain = number(given.pop("grain", "1"))
    grains = [int(g) for g in given.pop("grains", "0,5").split(",")]
    n = -(-capacity // (4096 * grain))
    table = 4 + up(n * 4, SECTOR) // SECTOR
    data = table + 32
    f = File(name, "w+b")
    f.write(0, b"COWD" + struct.pack("<7I", 1, 3, capacity, grain, 4, n,
                                     data + len(grains) * grain))
    f.write(4 * SECTOR, struct.pack("<I", table))
    f.write(data * SECTOR, b"")
    with open(name + ".raw", "wb") as raw:
        for i, g in enumerate(grains):
            f.write(table * SECTOR + g * 4,
                    struct.pack("<I", data + i * grain))
            f.write((data + i * grain) * SECTOR, content(g, grain * SECTOR))
            raw.seek(g * grain * SECTOR)
            raw.write(content(g, grain * SECTOR))
        raw.truncate(capacity * SECTOR)


def sesparse(name, given):
    """capacity=SECTORS, grains=N,N (allocated, in this order),
    entries=N:VALUE,N:VALUE (as they are in the table)."""
    capacity = number(given.pop("capacity", "65536"))
    grains = [int(g) for g in given.pop("grains", "0,5").split(",") if g]
    entries = [e.split(":") for e in given.pop("entries", "").split(",") if e]
    ngts = -(-capacity // 32768)
    gd, gts, first = 16, 64, 64 + 64 * ngts
    f = File(name, "w+b")
    f.write(0, struct.pack("<26Q", 0xcafebabe, 0x200000001, capacity, 8, 64,
                           0, 0, 0, 0, 0, 1, 1, 2, 1, 3, 1, gd, 1,
                           gts, 64 * ngts, 4, 1, 5, 1, first, 1 << 20))
    f.write(SECTOR, struct.pack("<4Q", 0xcafecafe, ngts, 0, 0)
            .ljust(SECTOR, b"\0"))
    # The tables stand in the other order.
    for i in range(ngts):
        f.write(gd * SECTOR + i * 8,
                struct.pack("<Q", 0x10000000 << 32 | (ngts - 1 - i)))

    def entry(n, value):
        f.write((gts + (ngts - 1 - n // 4096) * 64) * SECTOR + n % 4096 * 8,
                struct.pack("<Q", value))

    with open(name + ".raw", "wb") as raw:
        for i, g in enumerate(grains):
            entry(g, 3 << 60 | (i & 0xfff) << 48 | i >> 12)
            f.write((first + i * 8) * SECTOR, content(g, 8 * SECTOR))
            raw.seek(g * 8 * SECTOR)
            raw.write(content(g, 8 * SECTOR))
        raw.truncate(capacity * SECTOR)
    for n, value in entries:
        entry(int(n), number(value))


def main(argv):
    if len(argv) < 2:
        sys.exit(__doc__)
    command, name, rest = argv[0], argv[1], argv[2:]
    if command == "get":
        get(name, rest)
    elif command == "descriptor":
        descriptor(name, *rest)
    else:
        pairs = [tuple(item.split("=", 1)) for item in rest]
        if command == "patch":
            patch(name, pairs)
        elif command == "cowd":
            cowd(name, dict(pairs))
        elif command == "sesparse":
            sesparse(name, dict(pairs))
        else:
            hosted(name, dict(pairs), {"sparse": False, "stream": True}[command])


if __name__ == "__main__":
    main(sys.argv[1:])
