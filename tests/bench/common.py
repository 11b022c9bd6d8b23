# SPDX-License-Identifier: BSD-3-Clause
"""What all parts of the benchmark use."""

import os
import subprocess
import sys

MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40
TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), '../..'))
BUILD = os.path.join(TOP, 'build/bench')
TIMEOUT = 300                   # of one client


class Failed(Exception):
    """With a message for the user."""


# What ends one line and not the whole run.
PROBLEMS = (Failed, OSError, subprocess.TimeoutExpired)


def build(folder, plugin):
    """A build of its own with -O2, so that nothing else is measured.  Returns
    the plugin of that name.
    """
    script = r'''
        set -e
        mkdir -p "$1"
        [ -e "$2/configure" ] || (cd "$2" && ./autogen.sh)
        cd "$1"
        [ -e config.status ] || "$2/configure" CFLAGS='-O2 -g'
        make -j"$(nproc)"
    '''
    p = subprocess.run(['sh', '-c', script, 'sh', folder, TOP],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, encoding='utf-8',
                       errors='replace', check=False)
    if p.returncode != 0:
        raise Failed('the build in %s failed:\n%s' % (folder,
                                                     p.stdout[-2000:]))
    return os.path.join(folder, 'plugins', plugin, '.libs',
                        'nbdkit-%s-plugin.so' % plugin)


def say(text):
    progress('')
    print(text, flush=True)


def progress(text):
    if sys.stdout.isatty():
        print('\r\033[K' + text, end='', flush=True)
