"""Vertices and rays of cells as exact integer vectors, from the rows that are tight at them.

A point is homogeneous, (u, w) with w > 0 for the point u / w and w = 0 for a ray, so a row
[a | -b] is at most 0 there if and only if its integer product with the vector is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

Integers = list[int]


def exact_vertices(rows: np.ndarray, incidence: np.ndarray, hint: np.ndarray) -> np.ndarray:
    """The points and rays at which given rows are tight.

    Parameters
    ----------
    rows : object array (f, k + 1) of Python ints
        [a | -b].
    incidence : bool array (v, f)
        Which rows are tight at each vertex: at least k independent ones, and any others that
        are tight too.
    hint : float array (v, k + 1)
        Approximations; they only decide to which side a ray points.

    Returns
    -------
    object array (v, k + 1) of Python ints
        Primitive; the last number is positive for a point, 0 for a ray.

    Raises
    ------
    ArithmeticError
        If rows said to be tight together are not so at exactly one point or ray; or if a ray
        is orthogonal to its hint.
    """
    table: list[Integers] = rows.tolist()
    found = np.empty(hint.shape, dtype=object)
    for vertex, (tight, near) in enumerate(zip(incidence, hint, strict=True)):
        vector = _null_vector((table[i] for i in tight.nonzero()[0].tolist()), hint.shape[1])
        if vector is None:
            raise ArithmeticError(
                f"vertex {vertex}: its {int(tight.sum())} rows are not tight together at exactly "
                "one point; the incidence is wrong"
            )
        found[vertex] = vector if _points_along(vector, near) else [-v for v in vector]
    return found


def homogeneous_floats(points: np.ndarray) -> np.ndarray:
    """Exact homogeneous vectors (v, k + 1) as floats (v, k + 1), each correctly rounded.

    A point is divided by its last number, which becomes 1; a ray by its largest.  A quotient
    beyond the range of floats is infinite.
    """
    found = np.empty(points.shape)
    for position, vector in enumerate(points.tolist()):
        divisor = vector[-1] or max(map(abs, vector))
        found[position] = [_quotient(v, divisor) for v in vector]
    return found


def _quotient(numerator: int, denominator: int) -> float:
    """The quotient, rounded once."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if (numerator > 0) == (denominator > 0) else -math.inf


def _points_along(vector: Integers, hint: np.ndarray) -> bool:
    """Whether a vector is oriented as asked for: a point by its last number, a ray by a hint."""
    if vector[-1]:
        return vector[-1] > 0
    largest = max(map(abs, vector))
    along = math.fsum(v / largest * float(h) for v, h in zip(vector, hint, strict=True))
    if along == 0 or math.isnan(along):
        raise ArithmeticError(f"the hint {hint.tolist()} does not say where a ray points to")
    return along > 0


def _null_vector(rows: Iterable[Integers], size: int) -> Integers | None:
    """The primitive vector that spans the null space of the rows; None if nothing does.

    Gauss-Jordan without fractions: every pivot row has the same pivot, the determinant of the
    rows so far on their pivot columns, so that all divisions are exact (Bareiss).
    """
    reduced: list[Integers] = []
    columns: list[int] = []
    pivot = 1
    vector: Integers | None = None
    for row in rows:
        if vector is not None:
            if sum(r * v for r, v in zip(row, vector, strict=True)):
                return None
            continue
        new = row if pivot == 1 else [pivot * r for r in row]
        for basic, column in zip(reduced, columns, strict=True):
            if factor := row[column]:
                new = [n - factor * b for n, b in zip(new, basic, strict=True)]
        at = next((i for i, n in enumerate(new) if n), None)
        if at is None:
            continue
        head = new[at]
        reduced = [
            [(head * b - basic[at] * n) // pivot for b, n in zip(basic, new, strict=True)]
            for basic in reduced
        ]
        reduced.append(new)
        columns.append(at)
        pivot = head
        if len(columns) == size - 1:
            (free,) = set(range(size)).difference(columns)
            vector = [0] * size
            vector[free] = pivot
            for basic, column in zip(reduced, columns, strict=True):
                vector[column] = -basic[free]
            divisor = math.gcd(*vector)
            vector = [v // divisor for v in vector]
    return vector
