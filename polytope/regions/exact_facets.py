"""Which rows of a region are facets, decided in exact rational arithmetic.

Rows are [a | -b] in integers, oriented outward; points are homogeneous integers (u, w), w > 0.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from polytope.network.exact_ops import ExactArray
from polytope.regions.exact_interior import interior_point, primitive
from polytope.regions.exact_simplex import ExactDictionary
from polytope.regions.exact_vertices import homogeneous_floats


class Verdict(enum.Enum):
    """What a row is to its region."""

    FACET = "its hyperplane holds a facet"
    REDUNDANT = "the region is the same without its hyperplane"
    ZERO = "its normal is zero"


@dataclass(frozen=True)
class ExactFacets:
    """The verdicts on the rows of one region.

    Attributes
    ----------
    verdicts : mapping of int to Verdict
        By row, of those asked for.
    points : mapping of int to object array (k + 1,)
        By row, for facets: a point in the relative interior, which lies strictly inside all
        rows of other hyperplanes.
    groups : tuple of tuple of int
        All rows with a normal, by hyperplane: those of one group are positive multiples.
    """

    verdicts: Mapping[int, Verdict]
    points: Mapping[int, np.ndarray]
    groups: tuple[tuple[int, ...], ...]


def exact_facets(
    rows: np.ndarray, interior: np.ndarray | None = None, which: Iterable[int] | None = None
) -> ExactFacets:
    """Decide which rows are facets of a region of full dimension.

    Parameters
    ----------
    rows : object array (m, k + 1) of Python ints
        The region; with rows of zero normal, duplicates and multiples as they come. It may be
        unbounded and may contain lines.
    interior : object array (k + 1,) of Python ints, optional
        A point strictly inside all rows with a normal; found if not given.
    which : iterable of int, optional
        The rows to decide; by default all.

    Returns
    -------
    ExactFacets

    Raises
    ------
    ArithmeticError
        If `interior` is not strictly inside, or the region has no full dimension.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        if row[:-1].any():
            groups.setdefault(tuple(primitive(row).tolist()), []).append(number)
    normals = np.array(list(groups), dtype=object).reshape(-1, rows.shape[1])
    if interior is None:
        interior = interior_point(rows)
    if interior is None or not _strictly_inside(normals, interior):
        raise ArithmeticError("exact_facets: no point is given or found strictly inside the rows")
    center = _rounded(normals, interior)
    members = list(groups.values())
    asked = set(range(len(rows)) if which is None else which)
    pending = [g for g, own in enumerate(members) if not asked.isdisjoint(own)]
    points = _facet_points(normals, center, pending)
    group_of = {number: g for g, own in enumerate(members) for number in own}
    verdicts, found = {}, {}
    for number in sorted(asked):
        group = group_of.get(number)
        if group is None:
            verdicts[number] = Verdict.ZERO
        elif group in points:
            verdicts[number], found[number] = Verdict.FACET, points[group]
        else:
            verdicts[number] = Verdict.REDUNDANT
    return ExactFacets(verdicts, found, tuple(tuple(own) for own in members))


def _facet_points(
    normals: np.ndarray, center: np.ndarray, pending: list[int]
) -> dict[int, np.ndarray]:
    """Points on the facets among the `pending` rows (all distinct), by row."""
    k = len(center) - 1
    room = -(normals @ center)
    # Coordinates y = w u - center, so that y = 0 satisfies all rows and no first phase is needed.
    dictionary = ExactDictionary(np.column_stack([-normals[:, :-1], room]))
    points: dict[int, np.ndarray] = {}
    waiting = list(pending)
    while waiting:
        # A row that is tight at the present vertex mostly shows its facet without a pivot.
        row = next((r for r in waiting if dictionary.at_zero(k + r)), waiting[0])
        waiting.remove(row)
        found = dictionary.below_zero(k + row)
        if found is None:
            dictionary.drop(k + row)
            continue
        step = np.array(found, dtype=object)
        beyond = center * step[-1]
        beyond[:-1] += step[:-1]
        points[row] = primitive((normals[row] @ beyond) * center + room[row] * beyond)
    return points


def _rounded(rows: np.ndarray, point: np.ndarray) -> np.ndarray:
    """A nearby point with shorter numbers, if one is strictly inside: pivots are cheaper there."""
    floats = homogeneous_floats(point[None])[0]
    if not np.isfinite(floats).all():
        return point
    exact = ExactArray.from_floats(floats)
    short = exact.integers // math.gcd(*exact.integers.tolist())
    return np.asarray(short) if _strictly_inside(rows, short) else point


def _strictly_inside(rows: np.ndarray, point: np.ndarray) -> bool:
    return bool((rows @ point < 0).all())
