#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Sit between an initiator and a target, and damage what the target sends.

usage: iscsi-proxy.py TARGET-PORT DAMAGE [N [COUNT]]

Prints its port.  DAMAGE (below) is done to the N-th answer, and to COUNT of
them; after that all goes through untouched.  Answers are data of a READ, a
page or more; with DAMAGE "write-..." the end of a WRITE, with "map-..." the
answer to GET LBA STATUS.  Every SCSI command that comes by is noted in the
file "commands", one number (hexadecimal) a line.
"""
import socket
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True  # nothing is left in the source folder

from iscsi_pdu import pdu

DATA_IN, RESPONSE, REJECT, ASYNC = 0x25, 0x21, 0x3f, 0x32
NOP_OUT, COMMAND = 0x00, 0x01
READS, WRITES, MAPS = (0x28, 0x88), (0x2a, 0x8a), (0x9e12,)

# Flags (overflow 4, underflow 2) and count.
RESIDUALS = {
    'underflow': (2, 512),
    'underflow-zero': (2, 0),
    'underflow-huge': (2, 0xffffffff),
    'overflow': (4, 512),
    'write-underflow': (2, 512),
    'write-overflow': (4, 0xffffffff),
}
tags = {}                       # of the last ping and the last write


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
    elif kind in RESIDUALS:
        flag, count = RESIDUALS[kind]
        h[1] = h[1] & ~0x06 | flag
        h[44:48] = struct.pack('>I', count)
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
    elif kind == 'ping-tag':
        # Data for a command that is none: the ping that is on its way.
        h[16:20] = tags.get('ping', b'\0\0\0\7')
    elif kind == 'other-tag':
        # Data for a command that wants none.
        h[16:20] = tags.get('write', b'\0\0\0\7')
    elif kind == 'write-full':
        return with_sense(h, sense(7, 0x2707))
    elif kind == 'write-conflict':
        return bytes(set_status(h, 0x18))
    elif kind == 'map-length':
        return bytes(h) + b'\xff\xff\xff\xf0' + data[4:]
    elif kind == 'map-long':
        # More than was asked for.
        data += data[8:24] * 4096
        h[5:8] = len(data).to_bytes(3, 'big')
        data = (len(data) - 4).to_bytes(4, 'big') + data[4:]
    elif kind == 'map-short':
        h[5:8] = (4).to_bytes(3, 'big')
        data = data[:4]
    elif kind == 'map-elsewhere':
        return bytes(h) + data[:8] + b'\0\0\0\0\x7f\0\0\0' + data[16:]
    elif kind == 'map-empty':
        return bytes(h) + data[:16] + b'\0\0\0\0' + data[20:]
    elif kind == 'map-refused':
        return with_sense(h, sense(5, 0x2000))
    elif kind == 'none':
        pass
    else:
        raise SystemExit('no such damage: ' + kind)
    return bytes(h) + data


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


def to_be_damaged(h, data, commands):
    kind, command = h[0] & 0x3f, commands.get(bytes(h[16:20]))
    if what.startswith('write-'):
        return kind == RESPONSE and command in WRITES
    if what.startswith('map-'):
        return kind == DATA_IN and command in MAPS
    return kind == DATA_IN and command in READS and len(data) >= 4096


def from_target(target, client, commands):
    try:
        while True:
            h, data = pdu(target)
            if to_be_damaged(h, data, commands) and unlucky():
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


def from_client(client, target, commands, log):
    try:
        while True:
            h, data = pdu(client)
            if h[0] & 0x3f == COMMAND:
                number = h[32]
                if number == 0x9e:
                    number = number << 8 | h[33] & 31
                commands[bytes(h[16:20])] = number
                log.write('%x\n' % number)
                log.flush()
                if number in WRITES:
                    tags['write'] = bytes(h[16:20])
            elif h[0] & 0x3f == NOP_OUT:
                tags['ping'] = bytes(h[16:20])
            target.sendall(bytes(h) + data)
    except (EOFError, OSError):
        pass
    shut(client, target)


port, what = int(sys.argv[1]), sys.argv[2]
first = int(sys.argv[3]) if len(sys.argv) > 3 else 1
count = int(sys.argv[4]) if len(sys.argv) > 4 else 1
log = open('commands', 'a')
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    a, _ = server.accept()
    b = socket.create_connection(('127.0.0.1', port))
    for s in (a, b):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    commands = {}               # what a task tag stands for
    for args in ((from_target, b, a, commands),
                 (from_client, a, b, commands, log)):
        threading.Thread(target=args[0], args=args[1:], daemon=True).start()
