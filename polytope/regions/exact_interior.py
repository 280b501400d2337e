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
    # One more coordinate t, by which every row may be violated; t < 0 is what we look for.
    k = rows.shape[1] - 1
    table = np.column_stack([-proper[:, :-1], np.full(len(proper), 1, object), -proper[:, -1]])
    dictionary = ExactDictionary(table)
    dictionary.exchange(k, k + 1 + int(proper[:, -1].argmax()))
    found = dictionary.below_zero(k)
    if found is None:
        return None
    return primitive(np.array(found[:k] + found[k + 1 :], dtype=object))
