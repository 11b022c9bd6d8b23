# SPDX-License-Identifier: BSD-3-Clause
# For nbdsh: -c "$(cat "$lib/denied.py")".


def denied(call, *args):
    """The server must answer EPERM."""
    try:
        call(*args)
    except nbd.Error as e:
        assert e.errno == "EPERM", e
    else:
        raise SystemExit("not denied: %r" % (args[-2:],))
