"""Across a region's facets in exact arithmetic: what an engine falls back on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from polytope.network.engine import Engine
from polytope.network.exact_ops import ExactArray
from polytope.regions.exact_facets import Verdict, exact_facets
from polytope.regions.exact_interior import interior_point
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import homogeneous_floats

#: A facet: (row, pattern behind it, a point on it).
Behind = tuple[int, np.ndarray, np.ndarray]


def row_ids(net: Engine, domain_rows: int, pieces: np.ndarray) -> np.ndarray:
    """Ids of the rows that bound a region, those of the domain last: int64 (m,)."""
    parts = []
    for layer in net.layers:
        own = np.asarray(pieces[layer.unit_slice], dtype=np.int64)
        slots = np.arange(layer.slots)
        if layer.is_max:
            near = slots[None] != own[:, None]
        else:
            near = (slots[None] == own[:, None] - 1) | (slots[None] == own[:, None])
        parts.append(layer.first_row + np.flatnonzero(near))
    return np.concatenate([*parts, net.rows + np.arange(domain_rows)]).astype(np.int64)


def facets_behind(exact: ExactMaps, pieces: np.ndarray, asked: Iterable[int]) -> list[Behind]:
    """The facets of a region among some of its rows, one for each hyperplane.

    Facets on a row of the domain are left out: nothing lies behind them.

    Parameters
    ----------
    exact : ExactMaps
    pieces : int array (units,)
    asked : iterable of int
        Row ids of the network.
    """
    net = exact.net
    ids = row_ids(net, exact.domain_rows, pieces)
    rows = exact.rows(pieces, ids)
    place = {int(row): i for i, row in enumerate(ids)}
    found = exact_facets(rows, which=[place[row] for row in asked])
    group_of = {i: group for group in found.groups for i in group}
    result: list[Behind] = []
    for i, verdict in found.verdicts.items():
        group = group_of.get(i, ())
        first = min((j for j in group if j in found.verdicts), default=i)
        on_border = any(ids[j] >= net.rows for j in group)
        if verdict is not Verdict.FACET or on_border or i != first:
            continue
        point = found.points[i]
        behind = exact.germ_pieces(point, rows[i, :-1]).astype(np.uint16)
        result.append((int(ids[i]), behind, homogeneous_floats(point[None])[0, :-1]))
    return result


def pattern_behind(exact: ExactMaps, pieces: np.ndarray, row: int, near: np.ndarray) -> np.ndarray:
    """The pattern behind a facet of which a point is known but for rounding.

    The point is moved onto the hyperplane exactly; it has to be inside the facet by more than
    that.
    """
    normal = exact.row(pieces, row)
    point = ExactArray.from_floats(np.append(near, 1.0)).integers
    square = int((normal[:-1] * normal[:-1]).sum())
    height = int((normal * point).sum())
    foot = point * square
    foot[:-1] -= height * normal[:-1]
    return exact.germ_pieces(foot, normal[:-1]).astype(np.uint16)


def point_inside(exact: ExactMaps, pieces: np.ndarray) -> np.ndarray:
    """A point inside a region of full dimension: float64 (k,).

    Raises
    ------
    RuntimeError
        If the region has no full dimension: then it should not have been met.
    """
    rows = exact.rows(pieces, row_ids(exact.net, exact.domain_rows, pieces))
    inside = interior_point(rows)
    if inside is None:
        raise RuntimeError("a region without inside was entered; please report the network")
    return np.asarray(homogeneous_floats(inside[None])[0, :-1])
