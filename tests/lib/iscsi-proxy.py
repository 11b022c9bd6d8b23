#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Sit between an initiator and a target, and damage what the target sends.

usage: iscsi-proxy.py TARGET-PORT DAMAGE [N [COUNT]]

Prints its port.  DAMAGE (below) is done to the N-th answer that has data or a
status of a READ, and to COUNT of them; after that all goes through untouched.
"""
import socket
import struct
import sys
import threading
import time

DATA_IN, RESPONSE, REJECT, ASYNC = 0x25, 0x21, 0x3f, 0x32


def set_status(h, status):
    """The command ends with this status: a response without data."""
    r = bytearray(48)
    r[0], r[1], r[3] = RESPONSE, 0x80, status
    r[16:36] = h[16:20] + b'\0' * 4 + h[24:36]
    return r


def with_sense(h, sense):
    r = set_status(h, 2)
    data = struct.pack('>H', len(sense)) + sense if sense is not None else b''
    r[5:8] = len(data).to_bytes(3, 'big')
    return bytes(r) + data + b'\0' * (-len(data) % 4)


def sense(key, ascq, size=18):
    s = bytearray(size)
    s[0] = 0x70
    if size > 13:
        s[2], s[7], s[12], s[13] = key, size - 8, ascq >> 8, ascq & 255
    return bytes(s)


def damage(kind, h, data):
    """The bytes to send in place of a PDU; None: close; () : reset."""
    whole = bytes(h) + data
    if kind == 'opcode':
        h[0] = 0x3e
    elif kind == 'text':
        h[0] = 0x24
    elif kind == 'huge':
        h[5:8] = b'\xff\xff\xff'
    elif kind == 'ahs':
        h[4] = 0xff
    elif kind == 'offset':
        h[40:44] = b'\x7f\xff\xff\xf0'
    elif kind == 'itt':
        h[16:20] = b'\x12\x34\x56\x78'
    elif kind == 'reject':
        h[0] = REJECT
    elif kind == 'async':
        a = bytearray(48)
        a[0], a[1], a[36] = ASYNC, 0x80, 1
        a[16:20] = b'\xff' * 4
        a[24:36] = h[24:36]
        return bytes(a) + whole
    elif kind == 'status':
        return bytes(set_status(h, 0x99))
    elif kind == 'underflow':
        h[1] |= 0x02
        h[44:48] = struct.pack('>I', 512)
    elif kind == 'cut':
        return whole[:len(whole) // 2], None
    elif kind == 'close':
        return None
    elif kind == 'busy':
        return bytes(set_status(h, 0x08))
    elif kind == 'full':
        return bytes(set_status(h, 0x28))
    elif kind == 'conflict':
        return bytes(set_status(h, 0x18))
    elif kind == 'attention':
        return with_sense(h, sense(6, 0x2a09))
    elif kind == 'nosense':
        return with_sense(h, None)
    elif kind == 'sense1':
        return with_sense(h, b'\x70')
    elif kind == 'longsense':
        return with_sense(h, sense(3, 0x1100, 252))
    elif kind == 'stall':
        time.sleep(6)
    else:
        raise SystemExit('no such damage: ' + kind)
    return bytes(h) + data


def read(sock, n):
    out = b''
    while len(out) < n:
        part = sock.recv(n - len(out))
        if not part:
            raise EOFError
        out += part
    return out


def shut(*socks):
    for s in socks:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


lock = threading.Lock()
seen = 0


def unlucky():
    global seen
    with lock:
        seen += 1
        return first <= seen < first + count


def from_target(target, client):
    try:
        while True:
            h = bytearray(read(target, 48))
            length = int.from_bytes(h[5:8], 'big')
            data = read(target, h[4] * 4 + length + -length % 4)
            # Data of more than a page's worth of answers about the LUN.
            if h[0] & 0x3f == DATA_IN and length >= 4096 and unlucky():
                out = damage(what, h, data)
                if out is None:
                    break
                if isinstance(out, tuple):
                    client.sendall(out[0])
                    break
                client.sendall(out)
            else:
                client.sendall(bytes(h) + data)
    except (EOFError, OSError):
        pass
    shut(target, client)


def from_client(client, target):
    try:
        while True:
            data = client.recv(65536)
            if not data:
                break
            target.sendall(data)
    except OSError:
        pass
    shut(target, client)


port, what = int(sys.argv[1]), sys.argv[2]
first = int(sys.argv[3]) if len(sys.argv) > 3 else 1
count = int(sys.argv[4]) if len(sys.argv) > 4 else 1
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    a, _ = server.accept()
    b = socket.create_connection(('127.0.0.1', port))
    for s in (a, b):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=from_target, args=(b, a), daemon=True).start()
    threading.Thread(target=from_client, args=(a, b), daemon=True).start()
