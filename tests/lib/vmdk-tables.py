#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Check the tables of hosted sparse VMDK files (sparse extents).

vmdk-tables.py closed|open FILE...

No two grains share a place, and all are within the file.  The two copies of
the tables are equal; with "open", of a file that was not closed in order,
they may differ if the header says so.  Shares no code with the plugin.
"""

import struct
import sys


def tables(data, directory, count, per_table):
    result = []
    for at in struct.unpack_from("<%dI" % ((count + per_table - 1) //
                                           per_table), data, directory * 512):
        if at:
            result += struct.unpack_from("<%dI" % per_table, data, at * 512)
        else:
            result += [0] * per_table
    return result


def check(state, name):
    with open(name, "rb") as f:
        data = f.read()
    (magic, version, flags, capacity, grain, _, _, per_table, redundant,
     directory, overhead, unclean) = struct.unpack_from("<IIIQQQQIQQQB", data)
    assert magic == 0x564d444b and flags & 3 == 3, name
    count = (capacity + grain - 1) // grain
    first = tables(data, directory, count, per_table)
    copy = tables(data, redundant, count, per_table)
    for which, entries in (("table", first), ("copy", copy)):
        used = [e for e in entries if e > (1 if version == 2 else 0)]
        assert len(set(used)) == len(used), (name, which, "shared")
        for entry in used:
            assert overhead <= entry, (name, which, entry)
            assert (entry + grain) * 512 <= len(data), (name, which, entry)
            assert (entry - used[0]) % grain == 0, (name, which, entry)
    if first != copy:
        assert state == "open" and unclean, (name, "the copies differ")
    if state == "closed":
        assert not unclean, (name, "unclean")
    print("%s: %d of %d grains%s" %
          (name, sum(map(bool, first)), count, ", unclean" if unclean else ""))


if __name__ == "__main__":
    for n in sys.argv[2:]:
        check(sys.argv[1], n)
