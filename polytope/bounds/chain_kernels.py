"""One layer of units in the recursion of RecurJac, compiled: what rows pay and hand on."""

from __future__ import annotations

import numpy as np

from solvers.compiled import kernel


@kernel(fastmath=("reassoc", "contract"))
def _paid(row, up, down):
    total = 0.0
    for r in range(len(row)):
        t, ahead, behind = row[r], up[r], -down[r]
        total += (ahead if t > 0.0 else behind) * t
    return total


@kernel
def _handed(row, keep_up, keep_down, out):
    for k in range(len(out)):
        t, ahead, behind = row[k], keep_up[k], keep_down[k]
        out[k] = (ahead if t > 0.0 else behind) * t


@kernel
def pass_units(
    t: np.ndarray, shared: bool, pay: np.ndarray, keep: np.ndarray, total: np.ndarray,
    size: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Let tangents of a function and of its negative pass a layer of units.

    Parameters
    ----------
    t : float64 (2 d, units), or (d, units) if `shared`
        Tangents for the function, then for its negative.
    pay : float64 (2, 2, units)
        For either: what positive and negative tangents pay.
    keep : float64 (2, 2, count)
        For either: the factors of the positive and of the negative tangents that the first
        `count` units hand on.
    total, size : float64 (2, d), added to
        Payments and their absolute values.
    out : float64 (2 d, count), written
    """
    rows = total.shape[1]
    for side in range(2):
        for i in range(rows):
            row = t[i if shared else side * rows + i]
            paid = _paid(row, pay[side, 0], pay[side, 1])
            total[side, i] += paid
            size[side, i] += abs(paid)
            _handed(row, keep[side, 0], keep[side, 1], out[side * rows + i])
