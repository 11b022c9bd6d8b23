# SPDX-License-Identifier: BSD-3-Clause
"""Reading iSCSI from a socket (RFC 7143, 11.2), for the programs beside this."""


def read(sock, n):
    """n bytes; EOFError if there are not so many."""
    out = b''
    while len(out) < n:
        part = sock.recv(n - len(out))
        if not part:
            raise EOFError
        out += part
    return out


def pdu(sock):
    """The header of a PDU, to be changed, and what follows it."""
    h = bytearray(read(sock, 48))
    length = int.from_bytes(h[5:8], 'big')
    return h, read(sock, h[4] * 4 + length + -length % 4)
