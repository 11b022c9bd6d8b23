#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A client that knows what must have survived when the server was killed.

recorder.py write URI STATE SEED   write and flush until the server is gone
recorder.py check URI STATE        every flushed byte is there; of the rest
                                   each byte is old or one that was written

STATE is a file; a second "write" goes on from what a "check" has found.
"""

import os
import pickle
import random
import sys

import nbd

IN_FLIGHT = 8


def overlaps(ops, offset, n):
    return any(o < offset + n and offset < o + len(d) for o, d in ops)


def write(uri, name, seed):
    h = nbd.NBD()
    h.connect_uri(uri)
    size = h.get_size()
    rnd = random.Random(seed)
    flushed = bytearray(size)
    if os.path.exists(name):
        with open(name, "rb") as f:
            flushed = pickle.load(f)["flushed"]
    pending = []
    flushes = 0
    print("connected", flush=True)
    try:
        while True:
            for _ in range(rnd.randrange(1, 4)):
                # Several at a time, which do not overlap: their order does
                # not matter then.
                batch = []
                while len(batch) < IN_FLIGHT:
                    n = rnd.choice((512, 4096, 5000, 65536, 300000, 1 << 20))
                    offset = rnd.randrange(size - n)
                    if rnd.randrange(2):
                        offset -= offset % 512
                    if rnd.randrange(6) == 0:
                        data = bytes(n)
                    else:
                        data = rnd.randbytes(n)
                    if not overlaps(batch, offset, n):
                        batch.append((offset, data))
                pending += batch
                cookies = []
                for offset, data in batch:
                    if data[0] == 0 and not any(data):
                        cookies.append(h.aio_zero(len(data), offset))
                    else:
                        buf = nbd.Buffer.from_bytearray(bytearray(data))
                        cookies.append(h.aio_pwrite(buf, offset))
                while cookies:
                    h.poll(-1)
                    cookies = [c for c in cookies
                               if not h.aio_command_completed(c)]
            h.flush()
            flushes += 1
            for offset, data in pending:
                flushed[offset:offset + len(data)] = data
            pending = []
    except nbd.Error as e:
        print("ended after %d flushes: %s" % (flushes, e))
    with open(name + ".new", "wb") as f:
        pickle.dump({"flushed": flushed, "pending": pending}, f)
    os.rename(name + ".new", name)


def check(uri, name):
    with open(name, "rb") as f:
        state = pickle.load(f)
    flushed, pending = state["flushed"], state["pending"]
    h = nbd.NBD()
    h.connect_uri(uri)
    size = h.get_size()
    assert size == len(flushed)
    step = 512
    got = bytearray()
    while len(got) < size:
        got += h.pread(min(16 << 20, size - len(got)), len(got))
    survived = 0
    for start in range(0, size, step):
        now = got[start:start + step]
        old = flushed[start:start + step]
        if now == old:
            continue
        allowed = [{b} for b in old]
        for offset, data in pending:
            for i in range(max(offset, start),
                           min(offset + len(data), start + step)):
                allowed[i - start].add(data[i - offset])
        for i in range(step):
            if now[i] not in allowed[i]:
                sys.exit("byte %d is %d, allowed are %s; pending there: %s" %
                         (start + i, now[i], sorted(allowed[i]),
                          [(o, len(d)) for o, d in pending
                           if o <= start + i < o + len(d)]))
        survived += 1
    print("right; %d sectors that were not flushed are there" % survived)
    with open(name, "wb") as f:
        pickle.dump({"flushed": got, "pending": []}, f)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], sys.argv[3], sys.argv[4])
    else:
        check(sys.argv[2], sys.argv[3])
