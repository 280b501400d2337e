"""Parts of a complex as the splitting kernels find them, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from polytope.network.engine import Engine
from polytope.regions.complex import Complex
from polytope.regions.cross_kernels import UNKNOWN
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import facets_behind, row_ids
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.expander import Expander
from polytope.regions.matching import Facets, Matched, match_facets
from polytope.regions.program import compile_program

#: Centers of facets with a larger error (relative to their size) are found anew.
BLURRED = 1e-10


@dataclass(frozen=True, eq=False)
class Part:
    """Regions and their facets, as the kernels found them (see `split_arrays.Found`)."""

    pieces: np.ndarray
    points: np.ndarray
    keys: np.ndarray
    facet_region: np.ndarray
    facet_row: np.ndarray
    facet_key: np.ndarray
    facet_point: np.ndarray
    facet_plain: np.ndarray


def joined(taken: Sequence[Part]) -> Part:
    """Several parts as one."""
    counts = np.cumsum([0, *(len(part.keys) for part in taken)])
    whole = {
        field.name: np.concatenate([getattr(part, field.name) for part in taken])
        for field in fields(Part)
    }
    whole["facet_region"] += np.repeat(counts[:-1], [len(part.facet_row) for part in taken])
    return Part(**whole)


def complex_of(whole: Part, net: Engine, domain: Domain, complete: bool, verdicts: int) -> Complex:
    """The complex of all parts.

    Facets that found no partner although everything was found (their centers are not known well
    enough to tell them apart) are crossed in exact arithmetic, which is counted.
    """
    # A pattern met in several start cells is one region.
    keys, first, number = np.unique(whole.keys, return_index=True, return_inverse=True)
    if (whole.pieces != whole.pieces[first[number]]).any():
        raise RuntimeError("two patterns have one 64-bit key; please report the network")
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first = first[order]
    pieces = whole.pieces[first]
    if max(count for _, count in net.layout) <= 256:
        pieces = pieces.astype(np.uint8)
    facets = Facets(
        rank[number][whole.facet_region], whole.facet_row, whole.facet_key, whole.facet_point,
        whole.facet_plain,
    )  # fmt: skip
    matched = match_facets(pieces, keys[order], facets)
    if complete and len(matched.alone):
        matched, settled = _settled(matched, facets, pieces, net, domain)
        verdicts += settled
    rows = _rows_of_cuts(matched, pieces, net)
    points, settled = _sharpened(matched, rows, pieces, whole.points[first], net, domain)
    return Complex(
        pieces, whole.points[first], matched.edges, points, rows, complete, verdicts + settled
    )


def _sharpened(
    matched: Matched,
    rows: np.ndarray,
    pieces: np.ndarray,
    inside: np.ndarray,
    net: Engine,
    domain: Domain,
) -> tuple[np.ndarray, int]:
    """Points of all edges, blurred ones found anew; how many of them exactly.

    The simplex method shows facets of a region by points that are right to the last digits.
    """
    points, error = matched.points[:, :-1].copy(), matched.points[:, -1]
    size = 1 + np.abs(points).max(axis=1, initial=0.0)
    blurred = np.flatnonzero(~(error <= BLURRED * size))
    if not len(blurred):
        return points, 0
    regions = np.unique(matched.edges[blurred, 0])
    expander = Expander(compile_program(net, domain), domain, net)
    own, none = pieces[regions].astype(np.uint16), np.full(len(regions), -1)
    found = expander.expand(own, inside[regions], none).facets
    number = regions[found.region]
    shown = {
        (i, row): point
        for i, row, kind, point in zip(
            number.tolist(), found.row.tolist(), found.kind, found.point, strict=True
        )
        if kind != UNKNOWN
    }
    exact, settled = ExactMaps(net, domain), 0
    for e in blurred.tolist():
        i, row = int(matched.edges[e, 0]), int(rows[e])
        if (i, row) in shown:
            points[e] = shown[i, row]
            continue
        settled += 1
        for _, _, point in facets_behind(exact, pieces[i], [row]):
            points[e] = point
    return points, settled


def _settled(
    matched: Matched, facets: Facets, pieces: np.ndarray, net: Engine, domain: Domain
) -> tuple[Matched, int]:
    """Match what is left alone by crossing it exactly; how many facets that took."""
    exact = ExactMaps(net, domain)
    index = {row.tobytes(): i for i, row in enumerate(pieces)}
    known = {(int(i), int(j)) for i, j in matched.edges}
    asked: dict[int, set[int]] = {}
    for f in matched.alone.tolist():
        row = int(facets.row[f])
        # On a cut of the domain the unit is not known: all rows are asked about.
        asked.setdefault(int(facets.region[f]), set()).update(
            (row,) if row < net.rows else range(net.rows)
        )
    edges, points, rows = [matched.edges], [matched.points], [matched.rows]
    for region, own in asked.items():
        bounding = set(row_ids(net, 0, pieces[region]).tolist())
        for row, behind, point in facets_behind(exact, pieces[region], sorted(own & bounding)):
            other = index.get(behind.astype(pieces.dtype).tobytes())
            if other is None or (min(region, other), max(region, other)) in known:
                continue
            known.add((min(region, other), max(region, other)))
            edges.append(np.array([[min(region, other), max(region, other)]]))
            points.append(np.append(point, 0.0)[None])
            rows.append(np.array([row if region < other else net.rows]))
    return (
        Matched(
            np.concatenate(edges), np.concatenate(points), np.concatenate(rows), matched.alone[:0]
        ),
        len(matched.alone),
    )


def _rows_of_cuts(matched: Matched, pieces: np.ndarray, net: Engine) -> np.ndarray:
    """Row ids of the edges, where a cut of the domain stands for a unit's hyperplane too."""
    rows = matched.rows.copy()
    for e in np.flatnonzero(rows >= net.rows).tolist():
        i, j = matched.edges[e]
        unit = int(np.argmax(pieces[i] != pieces[j]))
        layer = next(part for part in net.layers if unit < part.unit_slice.stop)
        here, there = int(pieces[i][unit]), int(pieces[j][unit])
        slot = there if layer.is_max else here if there > here else here - 1
        rows[e] = layer.first_row + (unit - layer.first_unit) * layer.slots + slot
    return rows
