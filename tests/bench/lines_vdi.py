# SPDX-License-Identifier: BSD-3-Clause
"""VDI against nbdkit's file plugin and qemu-nbd."""

import functools
import os
import random
import shutil
import statistics
import struct

from bench import Command, line
from clients import client, copy_in, copy_out, fio, status_map
from common import MiB, Failed, say
from report import limit
from servers import Server, process_file

SERVERS = {
    'vdkit': Command('vdi', '{nbdkit} {vdi} {file}'),
    'file': Command('raw', '{nbdkit} file {file}'),
    'qemu': Command('vdi', '{qemu_nbd} -f vdi {file}'),
}


def lines(z):
    # Writes that allocate: few of the requests meet a block a second time.
    # qemu writes a whole block for each, hence the smaller number.
    big = z.alloc_file * 4 * MiB
    small = z.alloc_qemu * 4 * MiB
    randread = functools.partial(fio, rw='randread', seconds=z.seconds)
    randwrite = functools.partial(fio, rw='randwrite', seconds=z.seconds)
    both = functools.partial(fio, rw='randrw', seconds=z.seconds,
                             jobs=2, depth=8)
    return [
        line('read-file', 'nbdcopy to null:',
             0.95, copy_out, 'full', 'file'),
        line('read-qemu', 'nbdcopy to null:',
             0.95, copy_out, 'full', 'qemu', ('-t 2', '-t 4')),
        line('write-file', 'nbdcopy --flush into a fresh image',
             0.80, copy_in, z.disk, 'file'),
        line('write-qemu', 'nbdcopy --flush into a fresh image',
             0.95, copy_in, z.disk, 'qemu', ('-t 2', '-t 4')),
        line('randread-file', '4k random reads',
             0.95, randread, 'full', 'file'),
        line('randread-qemu', '4k random reads',
             1.00, randread, 'full', 'qemu'),
        line('rewrite-file', '4k random writes, allocated',
             0.95, randwrite, 'rewritten', 'file'),
        line('rewrite-qemu', '4k random writes, allocated',
             1.00, randwrite, 'rewritten', 'qemu'),
        line('alloc-file', '4k random writes, fresh image',
             0.80, functools.partial(fio, rw='randwrite', count=z.alloc_file),
             big, 'file'),
        line('alloc-qemu', '4k random writes, fresh image',
             1.00, functools.partial(fio, rw='randwrite', count=z.alloc_qemu),
             small, 'qemu'),
        line('scale-file', '2 connections x 8, 4k reads and writes',
             0.95, both, 'rewritten', 'file', ('-t 8',)),
        # The raw file is in order, the VDI is not.  qemu does not look for
        # holes inside blocks.  nbdkit makes a system call for each extent.
        line('map-file', 'block status of a fragmented disk',
             None, status_map, 'fragmented', 'file'),
        line('map-qemu', 'block status of a fragmented disk',
             None, status_map, 'fragmented', 'qemu'),
    ]


# ---- images ----

def fresh_vdi(bench, path, size):
    """Through the plugin, as a user would."""
    argv = bench.argv('{nbdkit} {vdi} {file} create=dynamic size=%d'
                      % size, path)
    with Server(bench, argv):
        pass


def make_full(bench, path, form):
    """Random bytes; the blocks are in order."""
    if form == 'raw':
        with open(path, 'wb') as f:
            for _ in range(bench.sizes.disk // MiB):
                f.write(os.urandom(MiB))
        return
    bench.create(path, form, bench.sizes.disk)
    bench.fill(path, form, bench.image('full', 'raw'), '--synchronous')


def make_rewritten(bench, path, form):
    full = bench.image('full', form)
    if os.path.isdir(full):
        shutil.copytree(full, path)
    else:
        shutil.copyfile(full, path)


def make_fragmented(bench, path, form):
    """A page of data at the start of every second MiB.  The blocks of
    the VDI are in random order.
    """
    n = bench.sizes.fragmented // MiB
    places = list(range(n // 2))
    if form == 'raw':
        with open(path, 'wb') as f:
            f.truncate(n * MiB)
        offsets = [2 * MiB * place for place in places]
    else:
        bench.create(path, 'vdi', n * MiB)
        random.Random(1).shuffle(places)
        entries = [0xffffffff] * n
        entries[::2] = places
        data = set_map(path, entries, n // 2)
        offsets = [data + MiB * place for place in sorted(places)]
    with open(path, 'r+b') as f:
        for offset in offsets:
            f.seek(offset)
            f.write(os.urandom(4096))


def make_huge(bench, path, form):
    """All blocks allocated, in random order, without any data."""
    n = bench.sizes.huge // MiB
    bench.create(path, 'vdi', bench.sizes.huge)
    places = list(range(n))
    random.Random(1).shuffle(places)
    set_map(path, places, n)


def set_map(path, entries, allocated):
    """Write the block map of a VDI (blocks of 1 MiB) and give the file the
    size it asks for.  Returns where the data starts.
    """
    with open(path, 'r+b') as f:
        f.seek(0x154)
        blocks, data = struct.unpack('<II', f.read(8))
        f.seek(0x180)
        n, = struct.unpack('<I', f.read(4))
        if n != len(entries):
            raise Failed('%s: has %d blocks, not %d' % (path, n,
                                                        len(entries)))
        f.write(struct.pack('<I', allocated))
        f.seek(blocks)
        f.write(struct.pack('<%dI' % n, *entries))
        f.truncate(data + allocated * MiB)
    return data


# ---- memory, and what opening costs ----

def measure_memory(bench):
    """A disk of 2 TiB with a full map, against nbdkit with nothing to do."""
    say('memory')
    disk = bench.image('huge', 'vdi')
    map_bytes = bench.sizes.huge // MiB * 4

    def look(argv, read):
        with Server(bench, argv) as s:
            out = {'start_s': s.start_seconds,
                   'start_bytes': process_file(s.pid, 'io', 'rchar'),
                   'idle_kib': process_file(s.pid, 'status', 'VmRSS')}
            out['open_s'], _ = client(bench, 'nbdinfo', '--size', s.uri)
            out['open_bytes'] = process_file(s.pid, 'io', 'rchar')
            if read:
                # Random reads of all of it: every page of the map.
                fio(bench, s.uri, 'randread', count=50000)
            out['peak_kib'] = process_file(s.pid, 'status', 'VmHWM')
        return out

    null = [look(bench.argv('{nbdkit} null size=2T', ''), False)
            for _ in range(3)]
    readers = [look(bench.argv('vdkit', disk, '-r'), True)]
    writers = [look(bench.argv('vdkit', disk), True) for _ in range(3)]

    def median(runs, key):
        return statistics.median(r[key] for r in runs)

    row = functools.partial(limit, 'memory')

    idle = median(null, 'idle_kib')
    return [
        row('most memory, read-only, above idle',
            (median(readers, 'peak_kib') - idle) / 1024, 40, 'MiB'),
        row('most memory, writable, above idle',
            (median(writers, 'peak_kib') - idle) / 1024, 40, 'MiB'),
        row('read when nbdkit starts',
            (median(writers, 'start_bytes') - median(null, 'start_bytes'))
            / 1024, 128, 'KiB'),
        row('read when a writer connects, beside the map',
            (median(writers, 'open_bytes') - median(writers, 'start_bytes')
             - map_bytes) / 1024, 128, 'KiB'),
        row('time to start',
            (median(writers, 'start_s') - median(null, 'start_s')) * 1000,
            50, 'ms'),
        row('time until a writer is connected',
            (median(writers, 'open_s') - median(null, 'open_s')) * 1000,
            500, 'ms'),
    ], {'null': null, 'readers': readers, 'writers': writers}


LIMITS = {'memory': ('memory and opening, 2 TiB', measure_memory)}
