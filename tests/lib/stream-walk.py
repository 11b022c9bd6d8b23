#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Walk through a streamOptimized VMDK as VMware's tools read it from a pipe.

stream-walk.py DISK.vmdk [DISK.raw]

Every rule of the structure is asserted; the content is compared with a raw
file.  Prints "grains N file-bytes N".  Shares no code with the plugin.
"""

import struct
import sys
import zlib

S = 512
GRAIN = 128
END = (1 << 64) - 1


def header(data, where):
    (magic, version, flags, capacity, grain, desc_at, desc_size, per_table,
     redundant, directory, overhead, unclean, newlines, algorithm) = \
        struct.unpack_from("<IIIQQQQIQQQB4sH", data)
    assert magic == 0x564d444b, where
    assert version == 3, (where, version)
    assert flags == 0x30001, (where, hex(flags))
    assert grain == GRAIN and per_table == 512, where
    assert capacity % GRAIN == 0, (where, capacity)
    assert unclean == 0 and newlines == b"\n \r\n", where
    assert algorithm == 1, (where, algorithm)
    assert redundant == 0, (where, redundant)
    assert not any(data[79:512]), where
    return capacity, desc_at, desc_size, directory, overhead


def walk(disk, raw):
    assert len(disk) % S == 0, len(disk)
    front = header(disk[:S], "header")
    capacity, desc_at, desc_size, directory, overhead = front
    assert directory == END, directory
    text = disk[desc_at * S:(desc_at + desc_size) * S].rstrip(b"\0").decode()
    assert text.startswith("# Disk DescriptorFile\n"), text[:40]
    assert 'createType="streamOptimized"' in text, text
    extents = [line.split() for line in text.split("\n")
               if line.split()[:1] in (["RW"], ["RDONLY"])]
    assert len(extents) == 1 and extents[0][2] == "SPARSE", extents
    size = int(extents[0][1])
    assert capacity == (size + GRAIN - 1) // GRAIN * GRAIN, (size, capacity)
    assert not any(disk[(desc_at + desc_size) * S:overhead * S])

    at, last = overhead, -1
    grains, tables, directory, footer = {}, {}, None, None
    places = []
    while True:
        value, count, kind = struct.unpack_from("<QII", disk, at * S)
        if count:
            assert directory is None and value % GRAIN == 0, (at, value)
            # Forwards only, and within the disk.
            assert last < value < capacity, (at, last, value)
            last = value
            packed = disk[at * S + 12:at * S + 12 + count]
            assert len(packed) == count
            z = zlib.decompressobj()
            data = z.decompress(packed)
            assert z.eof and not z.unused_data, at
            # The last one, too, is whole.
            assert len(data) == GRAIN * S, (at, len(data))
            assert any(data), "grain of zeroes at %d" % value
            end = (12 + count + S - 1) // S
            assert not any(disk[at * S + 12 + count:(at + end) * S]), at
            grains[value // GRAIN] = (at, data)
            at += end
            continue
        assert not any(disk[at * S + 16:(at + 1) * S]), at
        payload = disk[(at + 1) * S:(at + 1 + value) * S]
        assert len(payload) == value * S
        if kind == 0:
            assert value == 0
            break
        if kind == 1:
            assert value == 4 and directory is None, (at, value)
            tables[at + 1] = struct.unpack("<512I", payload)
        elif kind == 2:
            assert directory is None
            n = (capacity // GRAIN + 511) // 512
            assert value == (n * 4 + S - 1) // S, (at, value)
            directory = (at + 1, struct.unpack_from("<%dI" % n, payload))
        else:
            assert kind == 3 and value == 1 and footer is None, (at, kind)
            footer = header(payload, "footer")
            assert at * S == len(disk) - 3 * S, "footer is not at the end"
        at += 1 + value

    # The end marker is the very last sector.
    assert (at + 1) * S == len(disk), (at, len(disk))
    assert footer is not None and directory is not None
    assert footer[3] == directory[0], (footer, directory[0])
    assert (footer[0], footer[1], footer[2], footer[4]) == \
        (front[0], front[1], front[2], front[4])
    for i, entry in enumerate(directory[1]):
        if entry:
            assert entry in tables, (i, entry)
            table = tables[entry]
            assert any(table), "empty table %d" % i
        else:
            table = (0,) * 512
        for j, place in enumerate(table):
            grain = i * 512 + j
            if place:
                assert grains[grain][0] == place, grain
                places.append(grain)
            else:
                assert grain not in grains, grain
    assert sorted(places) == sorted(grains)
    assert len(set(e for e in directory[1] if e)) == len(tables)

    if raw is not None:
        assert len(raw) == size * S, (len(raw), size)
        for i in range((size + GRAIN - 1) // GRAIN):
            want = raw[i * GRAIN * S:(i + 1) * GRAIN * S]
            want += bytes(GRAIN * S - len(want))
            if i in grains:
                assert grains[i][1] == want, i
            else:
                assert not any(want), i
    print("grains %d file-bytes %d" % (len(grains), len(disk)))


def whole(name):
    with open(name, "rb") as f:
        return f.read()


if __name__ == "__main__":
    walk(whole(sys.argv[1]), whole(sys.argv[2]) if sys.argv[2:] else None)
