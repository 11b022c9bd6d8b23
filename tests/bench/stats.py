# SPDX-License-Identifier: BSD-3-Clause
"""What the runs say."""

import functools
import math
import statistics


@functools.lru_cache
def ranks(n):
    """(k, coverage): the k-th smallest and k-th largest of n pairs enclose
    the true median with that probability; as near to 0.9 as n allows.  No
    distribution is assumed (the sign test).
    """
    tail, best = 0, (0, 0)
    for k in range((n + 1) // 2):
        tail += math.comb(n, k) / 2 ** n
        coverage = 1 - 2 * tail
        if abs(coverage - 0.9) < abs(best[1] - 0.9):
            best = (k, coverage)
    return best


def estimate(values):
    """[median, low, high]"""
    k, _ = ranks(len(values))
    ordered = sorted(values)
    return [statistics.median(ordered), ordered[k], ordered[-1 - k]]


def spread(values):
    """[median, half the distance of the quartiles]"""
    if len(values) < 2:
        return [values[0], 0]
    q = statistics.quantiles(values, n=4, method='inclusive')
    return [statistics.median(values), (q[2] - q[0]) / 2]
