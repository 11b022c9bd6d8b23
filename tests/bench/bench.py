# SPDX-License-Identifier: BSD-3-Clause
"""Runs in pairs, and how they are judged."""

import collections
import os
import shlex
import shutil
import statistics

from clients import client, writes
from common import MiB, GiB, TiB, progress, say
from servers import Server, busy_seconds, children_seconds, cpu_clock
from stats import estimate, spread

# Sizes in full and in quick mode.
Sizes = collections.namedtuple(
    'Sizes', 'pairs disk seconds alloc_file alloc_qemu fragmented huge')
FULL = Sizes(18, GiB, 1.5, 65536, 2048, 64 * GiB, 2 * TiB)
QUICK = Sizes(5, 256 * MiB, 0.4, 4096, 64, 8 * GiB, 2 * TiB)

# The image that is written to at random (make_rewritten).
REWRITTEN = 'rewritten'

# Cached in single pages: that one, and what is in a thousand files on one side
# and in one on the other (make_striped), as Linux makes larger folios for larger
# files.
BY_PAGE = (REWRITTEN, 'striped')

# A server: the format of the images that it serves, its command line, where
# {file} is the image, and the image if it is not the one that the line names.
Command = collections.namedtuple('Command', 'form argv image', defaults=[None])

# Speed of ours / speed of the peer must reach target; None: only shown.
# image is a name (make_NAME of a topic) or the size of a fresh one for each
# run.  Where ours has several variants (extra parameters), the best one counts.
# cpu: what the ratio of the CPU time must reach, if it is not target.  memory:
# the images are in memory if there is room, as the disk would be most of what
# is measured.
Line = collections.namedtuple(
    'Line', 'name what target work image peer ours server cpu memory')


def line(name, what, target, work, image, peer, ours=('',), server='vdkit',
         cpu=None, memory=False):
    return Line(name, what, target, work, image, peer, ours, server,
                target if cpu is None else cpu, memory)


class Bench:
    """topics: the modules whose lines there are.  Each has SERVERS (name:
    Command), lines(sizes), LIMITS (name: (text, function that returns rows
    and a dict of raw numbers)); make_NAME(bench, path, form) for an image
    NAME, and fresh_FORM(bench, path, size) for an empty one.
    """

    def __init__(self, args, folder, topics):
        self.args = args
        self.dir = folder
        self.sizes = QUICK if args.quick else FULL
        self.pairs = args.pairs or self.sizes.pairs
        self.topics = topics
        self.servers = {}
        for topic in topics:
            self.servers.update(topic.SERVERS)
        self.words = {
            'nbdkit': args.nbdkit,
            'qemu_nbd': args.qemu_nbd,
            'vdi': args.plugin,
            'vmdk': args.vmdk,
            'diff': args.filter,
        }
        self.made = {}

    def topic_function(self, name):
        return next(getattr(t, name) for t in self.topics if hasattr(t, name))

    def argv(self, server, file, extra='', **more):
        words = dict(self.words, file=file, **more)
        if server in self.servers:
            server = self.servers[server].argv
        argv = [word.format(**words) for word in shlex.split(server)]
        return argv[:1] + extra.split() + argv[1:]

    # ---- images ----

    def path(self, name):
        return os.path.join(self.dir, name)

    def image(self, name, form):
        """The file of an image in a format; made when first asked for."""
        key = (name, form)
        if key not in self.made:
            path = self.path('%s.%s' % key)
            say('making %s' % os.path.basename(path))
            self.topic_function('make_' + name)(self, path, form)
            for file in files_of(path):
                uncache(file)
                warm(file, name in BY_PAGE)
            self.made[key] = path
        return self.made[key]

    def drop_images(self):
        for path in self.made.values():
            remove(path)
        self.made = {}

    def create(self, path, form, size):
        """An empty image."""
        if form == 'raw':
            with open(path, 'wb') as f:
                f.truncate(size)
        else:
            self.topic_function('fresh_' + form)(self, path, size)

    def fill(self, path, form, raw, *options):
        """Copy a raw file into an image of ours, and compare."""
        server = next(name for name, c in self.servers.items()
                      if c.form == form)
        with Server(self, self.argv(server, path)) as s:
            client(self, 'nbdcopy', '--flush', *options, raw, s.uri)
        with Server(self, self.argv(server, path, '-r')) as s:
            self.compare(s.uri, raw)

    def compare(self, uri, raw):
        client(self, 'bash', '-o', 'pipefail', '-c',
               'nbdcopy "$1" - | cmp - "$2"', 'bash', uri, raw)

    def fresh(self, server, size):
        form = self.servers[server].form
        path = self.path('fresh.' + form)
        remove(path)
        if server == 'qemu':
            client(self, 'qemu-img', 'create', '-q', '-f', form, path,
                   str(size))
        else:
            self.create(path, form, size)
        return path

    def place_anew(self, what, sides, first):
        """Which pages of memory an image is cached in makes a few percent in
        small writes, and it keeps them: so each pair gets others.
        """
        if what.image != REWRITTEN:
            return
        paths = {self.image(self.servers[server].image or what.image,
                            self.servers[server].form): None
                 for server, _ in sides}
        files = [file for path in paths for file in files_of(path)]
        for file in files:
            uncache(file)
        for file in files[::-1 if first else 1]:
            warm(file, True)

    def settle(self, path=None):
        """Nothing of one run is left for the next to pay for."""
        if path:
            remove(path)
        os.sync()

    # ---- runs ----

    def run(self, what, server, extra):
        """One run: dict of raw numbers."""
        fresh = isinstance(what.image, int)
        if fresh:
            path = self.fresh(server, what.image)
            os.sync()
        else:
            path = self.image(self.servers[server].image or what.image,
                              self.servers[server].form)
        if hasattr(what.work, 'alone'):
            return self.run_alone(what, server, path)
        if not writes(what.work):
            extra += ' -r'
        with Server(self, self.argv(server, path, extra)) as s:
            busy, children = busy_seconds(), children_seconds()
            seconds, units, unit = what.work(self, s.uri)
            busy = busy_seconds() - busy
            ours = (children_seconds() - children
                    + cpu_clock(s.pid) - s.cpu_start)
        if writes(what.work):
            self.settle(path if fresh else None)
        return {'seconds': seconds, 'units': units, 'unit': unit,
                'server_cpu': s.cpu,
                'other_cpu': max(0, busy - ours) / seconds}

    def run_alone(self, what, server, path):
        """The same for a program that is not a server, and the size of what
        it makes.
        """
        argv, units, unit, check = what.work(self, server, path)
        os.sync()
        busy, children = busy_seconds(), children_seconds()
        seconds, _ = client(self, *argv)
        busy = busy_seconds() - busy
        ours = children_seconds() - children
        return {'seconds': seconds, 'units': units, 'unit': unit,
                'server_cpu': ours, 'bytes': check(),
                'other_cpu': max(0, busy - ours) / seconds}

    def measure(self, what):
        sides = [(what.server, extra) for extra in what.ours]
        sides.append((what.peer, ''))
        # The peer gets the same limits, except for qemu, which has none.
        if len(what.ours) == 1 and not what.peer.startswith('qemu'):
            sides[-1] = (what.peer, what.ours[0])
        for server, extra in sides:             # warms the page cache
            self.run(what, server, extra)
        runs = [[] for _ in sides]
        for i in range(self.pairs):
            self.place_anew(what, sides, i % 2)
            # Each goes first as often as the other.
            for j in range(len(sides))[::-1 if i % 2 else 1]:
                server, extra = sides[j]
                progress('%s %d/%d' % (what.name, i + 1, self.pairs))
                runs[j].append(self.run(what, server, extra))
        progress('')
        results = [self.judge(what, sides[j][1], runs[j], runs[-1])
                   for j in range(len(sides) - 1)]
        best = max(results, key=lambda r: (r['reached'], r['ratio'][0]))
        return dict(best, name=what.name, what=what.what, peer=what.peer,
                    variants=results if len(results) > 1 else None,
                    peer_runs=runs[-1])

    def judge(self, what, extra, ours, peer):
        def speeds(runs):
            return [r['units'] / r['seconds'] for r in runs]

        def costs(runs):
            return [r['server_cpu'] / r['units'] for r in runs]

        ratio = estimate([a / b for a, b in zip(speeds(ours), speeds(peer))])
        cpu = estimate([b / a for a, b in zip(costs(ours), costs(peer))])
        sizes = [statistics.median(r['bytes'] for r in runs)
                 for runs in (ours, peer) if 'bytes' in runs[0]]
        missed = []
        if what.target is not None and ratio[2] < what.target:
            missed.append('time')
        if what.cpu is not None and cpu[0] < what.cpu:
            missed.append('CPU')
        if sizes and sizes[0] > sizes[1]:
            missed.append('size')
        if missed:
            verdict = 'not reached: ' + ' and '.join(missed)
        elif what.target is None and not sizes:
            verdict = 'for information'
        else:
            verdict = 'reached'
        return {
            'variant': extra, 'target': what.target, 'unit': ours[0]['unit'],
            'ratio': ratio, 'cpu_ratio': cpu,
            'speed': spread(speeds(ours)), 'peer_speed': spread(speeds(peer)),
            'cpu': spread(costs(ours)), 'peer_cpu': spread(costs(peer)),
            'other_cpu': statistics.median(
                r['other_cpu'] for r in ours + peer),
            'sizes': sizes,
            'reached': not missed,
            'verdict': verdict,
            'runs': ours,
        }


def files_of(path):
    """An image is a file or a folder."""
    if os.path.isfile(path):
        return [path]
    return [os.path.join(path, f) for f in os.listdir(path)]


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def uncache(path):
    """Out of the page cache."""
    with open(path, 'rb', buffering=0) as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(path, by_page):
    """Into the page cache, and in the same way for all files: how costly a
    page is to use depends on how it got there.  With by_page they are single
    pages, not large folios: small writes to those cost many times the CPU,
    which would hide the server's part.
    """
    with open(path, 'rb', buffering=0) as f:
        fd = f.fileno()
        st = os.fstat(fd)
        if st.st_blocks * 512 < st.st_size // 2:
            return                              # sparse and huge
        if by_page:
            # Linux then makes no folios, however much is read at once.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        while f.read(MiB):
            pass
