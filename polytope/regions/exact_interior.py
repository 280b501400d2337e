"""Exact: whether rows with integer entries have a common interior, and a point in it."""

from __future__ import annotations

import math

import numpy as np

from polytope.regions.exact_simplex import ExactDictionary


def primitive(row: np.ndarray) -> np.ndarray:
    """A vector of Python ints divided by their greatest common divisor."""
    divisor = math.gcd(*row.tolist())
    return np.asarray(row // divisor) if divisor > 1 else row


def interior_point(rows: np.ndarray) -> np.ndarray | None:
    """A point strictly inside all rows with a normal, or None if there is none.

    So a region has full dimension if and only if a point is found.

    Parameters
    ----------
    rows : object array (m, k + 1) of Python ints
        A row with zero normal is decided by its offset: ``0 <= b`` holds, or nothing does.

    Returns
    -------
    object array (k + 1,) of Python ints, or None
        Homogeneous, the last number positive.
    """
    normal = (rows[:, :-1] != 0).any(axis=1)
    if (rows[~normal, -1] > 0).any():
        return None
    proper = np.array([primitive(row) for row in rows[normal]], dtype=object)
    origin = np.array([0] * (rows.shape[1] - 1) + [1], dtype=object)
    if not len(proper) or (proper[:, -1] < 0).all():
        return origin
    k = rows.shape[1] - 1
    found = _deepest(proper).below_zero(k)
    if found is None:
        return None
    return primitive(np.array(found[:k] + found[k + 1 :], dtype=object))


def multipliers_of_nothing(rows: np.ndarray) -> list[int] | None:
    """What proves that rows have no common interior; None if they have one.

    Parameters
    ----------
    rows : object array (m, k + 1) of Python ints
        As in `interior_point`.

    Returns
    -------
    list of int (m), or None
        Multipliers, not negative and not all 0: with these the normals of the rows add up to 0, and
        the rows to a constant that is not negative.
    """
    found = [0] * len(rows)
    normal = (rows[:, :-1] != 0).any(axis=1)
    for i in np.flatnonzero(~normal & (rows[:, -1] > 0))[:1]:
        found[i] = 1
        return found
    proper, k = rows[normal], rows.shape[1] - 1
    if not len(proper) or (proper[:, -1] < 0).all():
        return None
    dictionary = _deepest(proper)
    if dictionary.below_zero(k) is not None:
        return None
    # At its least t is a constant and slacks times slopes; a slack is t less its row.
    for variable, slope in dictionary.slopes(k).items():
        if slope:
            found[np.flatnonzero(normal)[variable - k - 1]] = slope
    return found


def _deepest(rows: np.ndarray) -> ExactDictionary:
    """A program with one more coordinate t, by which every row may be violated."""
    k = rows.shape[1] - 1
    table = np.column_stack([-rows[:, :-1], np.full(len(rows), 1, object), -rows[:, -1]])
    dictionary = ExactDictionary(table)
    dictionary.exchange(k, k + 1 + int(rows[:, -1].argmax()))
    return dictionary
