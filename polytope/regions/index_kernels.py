"""Compiled: a hash table of patterns (open addressing, linear probing)."""

from __future__ import annotations

import numpy as np

from solvers.compiled import kernel

# FNV-1a, 64 bits.
BASIS, PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)


@kernel
def place_of(table, patterns, own):
    """The place of a pattern in the table: it is there, or the place is empty (-1)."""
    word = BASIS
    for u in range(len(own)):
        word = (word ^ np.uint64(own[u])) * PRIME
    word ^= word >> np.uint64(29)
    last = np.uint64(len(table) - 1)
    at = np.int64(word & last)
    while table[at] >= 0:
        other = patterns[table[at]]
        same = True
        for u in range(len(own)):
            if other[u] != own[u]:
                same = False
                break
        if same:
            return at
        at = np.int64(np.uint64(at + 1) & last)
    return at


@kernel
def enter(
    table: np.ndarray, patterns: np.ndarray, count: int, queries: np.ndarray,
    numbers: np.ndarray, fresh: np.ndarray,
) -> int:  # fmt: skip
    """Write the number of each query, new ones appended to the patterns.

    Parameters
    ----------
    table : int64 (size,)
        Numbers of patterns, -1 where empty; the size is a power of two.
    patterns : uint16 (room, units)
        The first `count` are entered; there is room for all queries.
    queries : uint16 (n, units)
    numbers : int64 (n,), written
    fresh : int64 (n,), written
        The queries that were new, in order.

    Returns
    -------
    int
        The new count.
    """
    new = 0
    for q in range(len(queries)):
        at = place_of(table, patterns, queries[q])
        if table[at] < 0:
            table[at] = count
            for u in range(queries.shape[1]):
                patterns[count, u] = queries[q, u]
            fresh[new] = q
            count += 1
            new += 1
        numbers[q] = table[at]
    return count


@kernel
def fill(table: np.ndarray, patterns: np.ndarray, count: int) -> None:
    """Enter all patterns into an empty table; they differ."""
    for i in range(count):
        table[place_of(table, patterns, patterns[i])] = i
