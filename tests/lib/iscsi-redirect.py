#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A portal that answers every login with a redirection.

usage: iscsi-redirect.py PORT|self

Prints its port.
"""
import socket
import sys

sys.dont_write_bytecode = True  # nothing is left in the source folder

from iscsi_pdu import pdu

server = socket.create_server(('127.0.0.1', 0))
own = server.getsockname()[1]
to = own if sys.argv[1] == 'self' else int(sys.argv[1])
print(own, flush=True)
while True:
    client, _ = server.accept()
    try:
        h, _ = pdu(client)
        text = b'TargetAddress=127.0.0.1:%d,1\0' % to
        r = bytearray(48)
        r[0] = 0x23                     # login response
        r[5:8] = len(text).to_bytes(3, 'big')
        r[8:14] = h[8:14]               # ISID
        r[16:20] = h[16:20]             # task tag
        r[24:28] = b'\0\0\0\1'
        r[28:36] = h[24:28] + h[24:28]  # expected and largest CmdSN
        r[36:38] = b'\1\1'              # target moved temporarily
        client.sendall(bytes(r) + text + b'\0' * (-len(text) % 4))
        client.settimeout(1)
        client.recv(1)
    except (EOFError, OSError):
        pass
    client.close()
