# SPDX-License-Identifier: BSD-3-Clause
"""Servers, and what they use."""

import os
import signal
import subprocess
import time

from common import Failed


def cpu_clock(pid):
    """CPU seconds of a process so far, all its threads, in nanoseconds: the
    clock that clock_getcpuclockid(3) returns.
    """
    return time.clock_gettime((~pid << 3) | 2)


def process_file(pid, name, key):
    with open('/proc/%d/%s' % (pid, name), encoding='ascii') as f:
        for text in f:
            if text.startswith(key + ':'):
                return int(text.split()[1])
    raise Failed('/proc/%d/%s: no %s' % (pid, name, key))


class Server:
    """Running while the context lasts; uri, pid, cpu (seconds after it was
    ready, its orderly end included; valid afterwards), start_seconds.
    """

    def __init__(self, bench, argv):
        self.socket = os.path.join(bench.dir, 'socket')
        self.pidfile = os.path.join(bench.dir, 'pid')
        self.log = os.path.join(bench.dir, 'server.log')
        self.uri = 'nbd+unix:///?socket=' + self.socket
        self.argv = argv
        if os.path.basename(argv[0]).startswith('qemu-nbd'):
            self.argv = argv[:1] + ['-k', self.socket, '-t', '--shared=0',
                                    '--pid-file=' + self.pidfile] + argv[1:]
        else:
            self.argv = argv[:1] + ['-f', '-U', self.socket,
                                    '-P', self.pidfile] + argv[1:]

    def __enter__(self):
        for name in (self.socket, self.pidfile):
            if os.path.exists(name):
                os.unlink(name)
        with open(self.log, 'wb') as log:
            start = time.monotonic()
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self.process.pid
        while not (os.path.exists(self.pidfile)
                   and os.path.getsize(self.pidfile) > 0):
            if self.process.poll() is not None:
                raise Failed('%s: did not start\n%s' % (
                    ' '.join(self.argv), self.messages()))
            if time.monotonic() - start > 30:
                self.process.kill()
                self.process.wait()
                raise Failed('%s: not ready after 30 s'
                             % ' '.join(self.argv))
            time.sleep(0.001)
        self.start_seconds = time.monotonic() - start
        self.cpu_start = cpu_clock(self.pid)
        return self

    def __exit__(self, kind, value, traceback):
        # Not through Popen, which might take the usage away.
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime - self.cpu_start
        if kind is None and self.process.returncode not in (
                0, -signal.SIGTERM):
            raise Failed('%s: ended with status %d\n%s' % (
                ' '.join(self.argv), self.process.returncode,
                self.messages()))

    def messages(self):
        with open(self.log, encoding='utf-8', errors='replace') as f:
            return f.read()[-2000:]


def machine_seconds():
    """How long all processors together were in each state so far, in the order
    of proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
    """
    with open('/proc/stat', encoding='ascii') as f:
        return [int(x) / os.sysconf('SC_CLK_TCK')
                for x in f.readline().split()[1:9]]


def busy_seconds():
    """CPU seconds that the whole machine has spent."""
    seconds = machine_seconds()
    # Not idle and iowait.
    return sum(seconds) - seconds[3] - seconds[4]


def stolen_seconds():
    """What the host of a virtual machine has kept from all its processors."""
    return machine_seconds()[7]


def children_seconds():
    t = os.times()
    return t.children_user + t.children_system
