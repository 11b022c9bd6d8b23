# SPDX-License-Identifier: BSD-3-Clause
"""The table, and what was measured where."""

import datetime
import os
import subprocess

from common import TOP
from stats import ranks


def limit(name, what, value, most, unit):
    return {'name': name, 'what': what, 'value': value, 'limit': most,
            'unit': unit, 'reached': value < most,
            'verdict': 'reached' if value < most else 'not reached'}


def speed_text(speed):
    value, half = speed
    digits = 0 if value >= 100 else 1
    return '%.*f +-%.0f%%' % (digits, value, 100 * half / value)


def goal_text(target):
    return '-' if target is None else '%.2f' % target


def print_table(results, limits, pairs):
    if results:
        print('\n%-18s %-6s %-10s %16s %16s  %-20s %-5s  %-5s %s' % (
            'line', 'ours', 'unit/s', 'vdkit', 'peer',
            'ratio (%.0f %%)' % (100 * ranks(pairs)[1]), 'CPU', 'goal', ''))
    for r in results:
        for v in r['variants'] or [r]:
            best = v['variant'] == r['variant']
            print('%-18s %-6s %-10s %16s %16s  %.2f (%.2f to %.2f)  %5.2f  '
                  '%-4s  %s' % (
                      r['name'], v['variant'], v['unit'],
                      speed_text(v['speed']), speed_text(v['peer_speed']),
                      *v['ratio'], v['cpu_ratio'][0], goal_text(v['target']),
                      v['verdict'] if best else '(not the best)'))
    for r in results:
        if r['sizes']:
            print('%-18s made %d bytes, the peer %d' % (
                r['name'], *r['sizes']))
    if limits:
        print()
    for r in limits:
        print('%-18s %-44s %8.1f %-3s  limit %4d  %s' % (
            r['name'], r['what'], r['value'], r['unit'], r['limit'],
            r['verdict']))


def output_of(*argv):
    try:
        p = subprocess.run(argv, stdout=subprocess.PIPE, check=True,
                           stderr=subprocess.STDOUT, encoding='utf-8')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return p.stdout.split('\n', maxsplit=1)[0]


def file_system(folder):
    return output_of('stat', '-f', '-c', '%T', folder)


def processor():
    with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as f:
        for text in f:
            if text.startswith('model name'):
                return text.split(':', 1)[1].strip()
    return os.uname().machine


def facts(args, bench):
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'),
        'vdkit': output_of('git', '-C', TOP, 'describe', '--always',
                           '--dirty'),
        'plugin': args.plugin,
        'processor': processor(),
        'cpus': os.cpu_count(),
        'memory_bytes': os.sysconf('SC_PAGE_SIZE')
        * os.sysconf('SC_PHYS_PAGES'),
        'kernel': os.uname().release,
        'file_system': file_system(bench.dir),
        'nbdkit': output_of(args.nbdkit, '--version'),
        'qemu_nbd': output_of(args.qemu_nbd, '--version'),
        'nbdcopy': output_of('nbdcopy', '--version'),
        'fio': output_of('fio', '--version'),
        'quick': args.quick,
        'pairs': bench.pairs,
        'coverage': ranks(bench.pairs)[1],
        'sizes': bench.sizes._asdict(),
        'load_before': os.getloadavg(),
    }
