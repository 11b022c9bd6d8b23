# SPDX-License-Identifier: BSD-3-Clause
"""Clients: each returns (seconds, number of units, unit)."""

import functools
import json
import subprocess
import time

from common import TIMEOUT, Failed, GiB, MiB


def client(bench, *argv):
    """Run to the end; returns (seconds, stdout)."""
    start = time.monotonic()
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=TIMEOUT,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       cwd=bench.dir, check=False)
    seconds = time.monotonic() - start
    if p.returncode != 0:
        raise Failed('%s: status %d\n%s' % (
            ' '.join(argv), p.returncode,
            p.stderr.decode(errors='replace')[-2000:]))
    return seconds, p.stdout


def copy_out(bench, uri):
    seconds, _ = client(bench, 'nbdcopy', uri, 'null:')
    return seconds, bench.sizes.disk / MiB, 'MiB'


def copy_in(bench, uri):
    seconds, _ = client(bench, 'nbdcopy', '--flush',
                        bench.image('full', 'raw'), uri)
    return seconds, bench.sizes.disk / MiB, 'MiB'


copy_in.writes = True


def status_map(bench, uri):
    seconds, _ = client(bench, 'nbdinfo', '--map', uri)
    return seconds, bench.sizes.fragmented / GiB, 'GiB'


def fio(bench, uri, rw, seconds=None, count=None, jobs=1, depth=16):
    """For so many seconds, or so many requests.  After writes a flush: vdkit
    does one when a writer leaves, and the peer must do the same work.  Each
    job has a connection of its own, and its share of the disk.
    """
    argv = ['fio', '--name=bench', '--ioengine=nbd', '--uri=' + uri,
            '--rw=' + rw, '--bs=4k', '--iodepth=%d' % depth,
            '--norandommap', '--randseed=1', '--output-format=json']
    if jobs > 1:
        share = '%d%%' % (100 // jobs)
        argv += ['--numjobs=%d' % jobs, '--size=' + share,
                 '--offset_increment=' + share]
    if seconds:
        argv += ['--time_based', '--runtime=%dms' % (seconds * 1000)]
    else:
        argv += ['--io_size=%dk' % (count * 4)]
    if rw != 'randread':
        argv += ['--end_fsync=1']
    _, out = client(bench, *argv)
    # fio prints other things before the JSON.
    result = json.loads(out[out.index(b'{'):])['jobs']
    done = sum(j[way]['total_ios'] for j in result for way in
               ('read', 'write'))
    if done == 0:
        raise Failed('fio did nothing')
    return max(j['job_runtime'] for j in result) / 1000, done, 'requests'


def writes(work):
    if isinstance(work, functools.partial):
        return work.keywords['rw'] != 'randread'
    return hasattr(work, 'writes')
