"""Which regions share a facet: found facets matched in pairs.

A region's facet has one neighbour: near its relative interior only the hyperplanes that contain
it change sides.  Where that is one unit's, the neighbour's pattern is known and looked up by
key; elsewhere the neighbour is the region that has the same set as its facet, so the two
centers agree within their errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

#: Centers with a larger error (relative to their size) are not compared: too many would fit.
VAGUE = 1e-9


@dataclass(frozen=True, eq=False)
class Facets:
    """Facets as the engines found them, each from its own side.

    Attributes
    ----------
    region, row : int64 (m,)
    key : uint64 (m,)
        Key of the pattern behind, if the facet is plain.
    point : float64 (m, k + 1)
        The center, and a bound on its error.
    plain : bool (m,)
    """

    region: np.ndarray
    row: np.ndarray
    key: np.ndarray
    point: np.ndarray
    plain: np.ndarray


@dataclass(frozen=True, eq=False)
class Matched:
    """Edges between regions, and the facets that found no partner.

    `points` (m, k + 1) are centers with a bound on their error.
    """

    edges: np.ndarray
    points: np.ndarray
    rows: np.ndarray
    alone: np.ndarray


def match_facets(pieces: np.ndarray, keys: np.ndarray, facets: Facets) -> Matched:
    """Pair facets to edges.

    Parameters
    ----------
    pieces : array (n, units)
    keys : uint64 (n,)
        Keys of the regions, all different.
    facets : Facets
    """
    other = np.full(len(facets.region), -1, dtype=np.int64)
    order = np.argsort(keys)
    plain = np.flatnonzero(facets.plain)
    wanted = facets.key[plain]
    place = np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)
    hit = keys[order[place]] == wanted if len(order) else np.zeros(0, bool)
    other[plain[hit]] = order[place[hit]]
    _check_keys(pieces, facets.region[plain[hit]], other[plain[hit]])
    rest = np.flatnonzero(~facets.plain)
    if len(rest):
        other[rest] = _by_center(facets, rest)
    found = np.flatnonzero(other >= 0)
    first = np.minimum(facets.region[found], other[found])
    second = np.maximum(facets.region[found], other[found])
    # Seen from the lower region first, so that the row is one of its rows.
    order = np.lexsort((facets.region[found], second, first))
    found, first, second = found[order], first[order], second[order]
    new = np.ones(len(found), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    chosen = found[new]
    return Matched(
        edges=np.stack([first[new], second[new]], axis=1),
        points=facets.point[chosen],
        rows=facets.row[chosen],
        alone=np.flatnonzero(other < 0),
    )


def _check_keys(pieces: np.ndarray, here: np.ndarray, there: np.ndarray) -> None:
    """Equal keys must be equal patterns: one unit apart from this side."""
    for start in range(0, len(here), 2**16):
        part = slice(start, start + 2**16)
        if ((pieces[here[part]] != pieces[there[part]]).sum(axis=1) != 1).any():
            raise RuntimeError("two patterns have one 64-bit key; please report the network")


def _by_center(facets: Facets, rest: np.ndarray) -> np.ndarray:
    """The regions behind facets whose partner is known by its center only (-1: none)."""
    points, errors = facets.point[rest, :-1], facets.point[rest, -1]
    behind = np.full(len(rest), -1, dtype=np.int64)
    sharp = np.flatnonzero(errors <= VAGUE * (1 + np.abs(points).max(axis=1, initial=0.0)))
    if not len(sharp):
        return behind
    tree = cKDTree(points[sharp])
    reach = errors[sharp] + errors[sharp].max()
    for i, candidates in zip(
        sharp, tree.query_ball_point(points[sharp], reach, p=np.inf), strict=True
    ):
        regions = set()
        for j in sharp[candidates]:
            if np.abs(points[i] - points[j]).max() <= errors[i] + errors[j]:
                regions.add(int(facets.region[rest[j]]))
        regions.discard(int(facets.region[rest[i]]))
        if len(regions) == 1:
            behind[i] = regions.pop()
    return behind
