# SPDX-License-Identifier: BSD-3-Clause
"""What all parts of the benchmark use."""

import os
import subprocess
import sys

MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40
TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), '../..'))
TIMEOUT = 300                   # of one client


class Failed(Exception):
    """With a message for the user."""


# What ends one line and not the whole run.
PROBLEMS = (Failed, OSError, subprocess.TimeoutExpired)


def say(text):
    progress('')
    print(text, flush=True)


def progress(text):
    if sys.stdout.isatty():
        print('\r\033[K' + text, end='', flush=True)
