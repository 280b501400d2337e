"""Operator norms written down once more, naively, for tests."""

from __future__ import annotations

import itertools

import numpy as np


def dual(p: float) -> float:
    return {1.0: np.inf, 2.0: 2.0, np.inf: 1.0}[p]


def norm_of(J: np.ndarray, p: float, q: float) -> float:
    """``||J||`` from l_p to l_q for p and q of 1, 2 and inf, by enumeration where it is hard."""
    if p == q == 2:
        return float(np.linalg.norm(J, 2))
    if p == 1:
        return max(np.linalg.norm(column, q) for column in J.T)
    if q == np.inf:
        return max(np.linalg.norm(row, dual(p)) for row in J)
    if q == 1:
        signs = itertools.product((1, -1), repeat=len(J))
        return max(np.linalg.norm(np.array(s) @ J, dual(p)) for s in signs)
    signs = itertools.product((1, -1), repeat=J.shape[1])
    return max(np.linalg.norm(J @ np.array(s), q) for s in signs)


def total_of(J: np.ndarray, p: float) -> float:
    """The sum of the dual norms of the rows."""
    return float(sum(np.linalg.norm(row, dual(p)) for row in J))
