# SPDX-License-Identifier: BSD-3-Clause
"""Chains of images, put together by the diff filter."""

import functools
import os
import statistics

from bench import Command, line
from clients import client, copy_out, fio
from common import MiB, TiB, say
from lines_vdi import set_map
from report import limit
from servers import Server, process_file

# chainN: N images on a base; {file} is their folder.
SERVERS = {
    'chain%d' % depth: Command(
        str(depth), ' '.join(
            ['{nbdkit} --filter={diff} {vdi} {file}/0.vdi']
            + ['diff={file}/%d.vdi' % i for i in range(1, depth + 1)]),
        'chain')
    for depth in (1, 2, 8, 64)
}


def lines(z):
    randread = functools.partial(fio, rw='randread', seconds=z.seconds)
    # The filter on a base against the plugin, then depth against depth.
    return [
        line('chain1-read', 'nbdcopy to null:, 1 image on a base',
             0.90, copy_out, 'full', 'vdkit', server='chain1'),
        line('chain1-rand', '4k random reads, 1 image on a base',
             0.90, randread, 'full', 'vdkit', server='chain1'),
    ] + [
        line('chain%d-%s' % (depth, name), '%s, %d images on a base' % (
            what, depth), target, work, 'chain', 'chain1',
             server='chain%d' % depth)
        for depth, target in ((2, None), (8, None), (64, 0.90))
        for name, what, work in (('read', 'nbdcopy to null:', copy_out),
                                 ('rand', '4k random reads', randread))
    ]


def make_chain(bench, path, form):
    """The disk of "full": block i is in image i % (depth + 1)."""
    depth = int(form)
    create_chain(bench, path, depth, bench.sizes.disk)
    raw = bench.image('full', 'raw')
    for level in range(depth + 1):
        # What is in this image; the rest is holes, which are not copied.
        part = bench.path('part.raw')
        with open(raw, 'rb') as src, open(part, 'wb') as dst:
            dst.truncate(bench.sizes.disk)
            for block in range(level, bench.sizes.disk // MiB, depth + 1):
                src.seek(block * MiB)
                dst.seek(block * MiB)
                dst.write(src.read(MiB))
        with Server(bench, chain_argv(bench, path, level)) as s:
            client(bench, 'nbdcopy', '--flush', '--destination-is-zero',
                   part, s.uri)
        os.unlink(part)
    with Server(bench, chain_argv(bench, path, depth, '-r')) as s:
        bench.compare(s.uri, raw)


def create_chain(bench, path, depth, size):
    os.mkdir(path)
    bench.create(os.path.join(path, '0.vdi'), 'vdi', size)
    for level in range(1, depth + 1):
        with Server(bench, chain_argv(
                bench, path, level) + ['diff-create=vdi']) as s:
            client(bench, 'nbdinfo', '--size', s.uri)


def chain_argv(bench, path, level, extra=''):
    """The chain up to this image; 0 is the base alone."""
    words = ['{nbdkit}', '{vdi}', '{file}/0.vdi']
    if level:
        words.insert(1, '--filter={diff}')
    words += ['diff={file}/%d.vdi' % i for i in range(1, level + 1)]
    return bench.argv(' '.join(words), path, extra)


def measure_chain_open(bench):
    """A chain of 64 images of 1 TiB whose maps are full."""
    say('chain-open')
    path = bench.path('deep')
    create_chain(bench, path, 63, TiB)
    n = TiB // MiB
    for level in range(64):
        # Each image holds its share of the blocks.
        entries = [0xffffffff] * n
        entries[level::64] = range(n // 64)
        set_map(os.path.join(path, '%d.vdi' % level), entries, n // 64)
    runs = []
    for _ in range(3):
        with Server(bench, chain_argv(bench, path, 63, '-r')) as s:
            out = {'start_s': s.start_seconds}
            out['open_s'], _ = client(bench, 'nbdinfo', '--size', s.uri)
            fio(bench, s.uri, 'randread', count=50000)
            out['peak_kib'] = process_file(s.pid, 'status', 'VmHWM')
        runs.append(out)
    return [
        limit('chain-open', 'time to start and serve a client, 64 images',
              statistics.median(r['start_s'] + r['open_s'] for r in runs)
              * 1000, 1000, 'ms'),
        limit('chain-open', 'most memory, random reads, 64 images',
              statistics.median(r['peak_kib'] for r in runs) / 1024, 128,
              'MiB'),
    ], {'chain': runs}


LIMITS = {'chain-open': ('the same, 64 images of 1 TiB', measure_chain_open)}
