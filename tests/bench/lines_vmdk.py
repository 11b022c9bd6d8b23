# SPDX-License-Identifier: BSD-3-Clause
"""VMDK against nbdkit's file plugin, qemu-nbd and qemu-img."""

import functools
import os
import statistics

from bench import Command, line
from clients import client, copy_in, copy_out, fio
from common import MiB, TiB, Failed, say
from report import limit
from servers import Server, process_file

# Flat images and those of many files are folders.
SERVERS = {
    'sparse': Command('sparse', '{nbdkit} {vmdk} {file}'),
    'flat': Command('flat', '{nbdkit} {vmdk} {file}/disk.vmdk'),
    'stream': Command('stream', '{nbdkit} {vmdk} {file}'),
    'many': Command('many', '{nbdkit} {vmdk} {file}/disk.vmdk'),
    'qemu-sparse': Command('sparse', '{qemu_nbd} -f vmdk {file}'),
    'qemu-stream': Command('stream', '{qemu_nbd} -f vmdk {file}'),
    # Not servers: {file} is what is converted, and {out} the result.
    'make-stream': Command('raw', '{nbdkit} -U - {vmdk} {out} create=stream '
                           'size={size} --run \'nbdcopy "{file}" "$uri"\''),
    'qemu-make-stream': Command('raw', 'qemu-img convert -f raw -O vmdk -o '
                                'subformat=streamOptimized {file} {out}'),
}

# What a server may be given; the best counts.
THREADS = ('', '-t 2', '-t 4')


def lines(z):
    randread = functools.partial(fio, rw='randread', seconds=z.seconds)
    randwrite = functools.partial(fio, rw='randwrite', seconds=z.seconds)
    out = []
    for name in 'flat', 'sparse':
        ours = functools.partial(line, server=name)
        out += [
            ours(name + '-read', 'nbdcopy to null:',
                 0.95, copy_out, 'full', 'file'),
            ours(name + '-rand', '4k random reads',
                 0.95, randread, 'full', 'file'),
            ours(name + '-copy', 'nbdcopy --flush over allocated data',
                 0.95, copy_in, 'rewritten', 'file'),
            ours(name + '-write', '4k random writes, allocated',
                 0.95, randwrite, 'rewritten', 'file'),
        ]

    ours = functools.partial(line, server='sparse', peer='qemu-sparse',
                             ours=THREADS)
    out += [
        ours('sparse-read-qemu', 'nbdcopy to null:',
             1.60, copy_out, 'full'),
        ours('sparse-rand-qemu', '4k random reads',
             1.40, randread, 'full'),
        ours('sparse-write-qemu', '4k random writes, allocated',
             5.00, randwrite, 'rewritten', memory=True),
    ]

    # By many threads at once: what is gained in time is not gained in CPU.
    ours = functools.partial(line, server='stream', peer='qemu-stream',
                             ours=THREADS, cpu=1.0)
    out += [
        ours('stream-read-qemu', 'nbdcopy to null:',
             3.00, copy_out, 'tree'),
        ours('stream-rand-qemu', '4k random reads',
             2.00, randread, 'tree'),
    ]
    ours = functools.partial(line, server='make-stream',
                             peer='qemu-make-stream', cpu=1.0)
    out += [
        ours('stream-make', 'a raw file to a stream, programs and texts',
             4.00, make_stream, 'tree'),
        ours('stream-make-random', 'a raw file to a stream, random bytes',
             None, make_stream, 'full'),
    ]

    ours = functools.partial(line, server='many', peer='flat')
    out += [
        ours('many-read', 'nbdcopy to null:, 1024 extents',
             0.90, copy_out, 'striped'),
        ours('many-rand', '4k random reads, 1024 extents',
             0.90, randread, 'striped'),
    ]
    return out


def make_stream(bench, command, raw):
    path = bench.path('out.vmdk')
    size = os.path.getsize(raw)

    def check():
        with Server(bench, bench.argv('stream', path, '-r')) as s:
            bench.compare(s.uri, raw)
        made = os.path.getsize(path)
        os.unlink(path)
        return made

    return (bench.argv(command, raw, out=path, size=size), size / MiB, 'MiB',
            check)


make_stream.alone = True


# ---- images ----

def create(bench, path, kind, size):
    argv = bench.argv('{nbdkit} {vmdk} {file} create=%s size=%d'
                      % (kind, size), path)
    with Server(bench, argv):
        pass


def fresh_sparse(bench, path, size):
    create(bench, path, 'sparse', size)


def fresh_stream(bench, path, size):
    create(bench, path, 'stream', size)


def fresh_flat(bench, path, size):
    os.mkdir(path)
    create(bench, os.path.join(path, 'disk.vmdk'), 'flat', size)


def make_tree(bench, path, form):
    """Programs and texts, half and half, as they are on this machine."""
    size = bench.sizes.disk
    if form != 'raw':
        bench.create(path, form, size)
        bench.fill(path, form, bench.image('tree', 'raw'))
        return
    for i, folder in enumerate(('/usr/lib', '/usr/share')):
        # tar is stopped by the closed pipe.
        client(bench, 'bash', '-c', 'tar -cf - --sort=name --mtime=@0 '
               '--owner=0 --group=0 "$1" 2>/dev/null | head -c "$2" '
               '>>"$3"', 'bash', folder, str(size // 2), path)
        if os.path.getsize(path) != (i + 1) * size // 2:
            raise Failed('%s: less than %d bytes' % (folder, size // 2))


EXTENTS = 1024
ZERO_EVERY = 8                  # extents


def make_striped(bench, path, form):
    """1024 extents in files of their own; each eighth has no file.  In the
    flat and raw images it is a hole.
    """
    size = bench.sizes.disk // EXTENTS
    if form == 'flat':
        bench.create(path, form, bench.sizes.disk)
        bench.fill(path, form, bench.image('striped', 'raw'))
        return
    if form == 'raw':
        with open(path, 'wb') as f:
            f.truncate(bench.sizes.disk)
            for i in range(EXTENTS):
                if i % ZERO_EVERY != ZERO_EVERY - 1:
                    f.seek(i * size)
                    f.write(os.urandom(size))
        return
    os.mkdir(path)
    with open(bench.image('striped', 'raw'), 'rb') as raw, \
            open(os.path.join(path, 'disk.vmdk'), 'w',
                 encoding='ascii') as text:
        print('# Disk DescriptorFile\nversion=1\nCID=12345678\n'
              'parentCID=ffffffff\ncreateType="custom"\n'
              '# Extent description', file=text)
        for i in range(EXTENTS):
            data = raw.read(size)
            if i % ZERO_EVERY == ZERO_EVERY - 1:
                print('RW %d ZERO' % (size // 512), file=text)
                continue
            name = 'part-%04d.bin' % i
            with open(os.path.join(path, name), 'wb') as part:
                part.write(data)
            print('RW %d FLAT "%s" 0' % (size // 512, name), file=text)
        print('# The Disk Data Base', file=text)
    with Server(bench, bench.argv('many', path, '-r')) as s:
        bench.compare(s.uri, bench.image('striped', 'raw'))


# ---- memory, and what opening costs ----

HUGE = 62 * TiB


def read_in_order(bench, uri):
    """16384 pieces of 1 MiB, from the start to the end of the disk."""
    client(bench, 'fio', '--name=bench', '--ioengine=nbd', '--uri=' + uri,
           '--rw=read:%dm' % (HUGE // MiB // 16384 - 1), '--bs=1m',
           '--iodepth=16', '--io_size=16g')


def read_map(bench, uri):
    client(bench, 'nbdinfo', '--map', uri)


def measure_memory(bench):
    """An image of 62 TiB against a small one, and against nbdkit with nothing
    to do.
    """
    say('vmdk-memory')
    small, huge = bench.path('small.vmdk'), bench.path('huge.vmdk')
    fresh_sparse(bench, small, 64 * MiB)
    create(bench, huge, 'sparse force=true', HUGE)

    def look(argv, read=None):
        with Server(bench, argv) as s:
            out = {'idle_kib': process_file(s.pid, 'status', 'VmRSS')}
            seconds, _ = client(bench, 'nbdinfo', '--size', s.uri)
            out['open_s'] = s.start_seconds + seconds
            if read:
                read(bench, s.uri)
            out['peak_kib'] = process_file(s.pid, 'status', 'VmHWM')
        return out

    def median(runs, key):
        return statistics.median(r[key] for r in runs)

    null = [look(bench.argv('{nbdkit} null size=62T', ''))
            for _ in range(3)]
    opened = {(file, extra): [look(bench.argv('sparse', file, extra))
                              for _ in range(5)]
              for file in (small, huge) for extra in ('-r', '')}
    row = functools.partial(limit, 'vmdk-memory')
    idle = median(null, 'idle_kib')

    def longer(extra):
        return (median(opened[huge, extra], 'open_s')
                - median(opened[small, extra], 'open_s')) * 1000

    # A writer looks at every entry of the directories.
    rows = [row('opening, 62 TiB longer than 64 MiB', longer('-r'), 20, 'ms'),
            row('until a writer is connected, the same', longer(''), 500,
                'ms')]
    raw = {'null': null, 'open': list(opened.values())}
    # An empty disk, and then one that has been written at random.
    ways = (('in order', read_in_order),
            ('random', functools.partial(fio, rw='randread', count=100000)),
            ('map', read_map))
    steps = [('empty, ' + name, '-r', read) for name, read in ways]
    steps.append(('written at random', '', functools.partial(
        fio, rw='randwrite', count=50000)))
    steps += [('data, ' + name, '-r', read) for name, read in ways]
    for name, extra, read in steps:
        run = look(bench.argv('sparse', huge, extra), read)
        raw[name] = run
        rows.append(row('most memory above idle, ' + name,
                        (run['peak_kib'] - idle) / 1024,
                        64 if extra else 128, 'MiB'))
    os.unlink(huge)
    return rows, {'vmdk_memory': raw}


LIMITS = {'vmdk-memory': ('memory and opening, 62 TiB', measure_memory)}
