"""Which halfspaces of a region are facets and which are redundant, each with its proof.

A row is a *facet* if a point just beyond it lies strictly inside all others: the way there from
an interior point crosses nothing else.  It is *redundant* if multipliers ``lambda >= 0`` of
other rows show ``a u - b <= sum lambda_j (a_j u - b_j) + r u < 0`` over the region.  Floats may
prove either beyond their rounding bounds; what they leave open (rows that only touch the region,
rows that coincide, unbounded regions) is decided in exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polytope.errors import InputError
from polytope.regions.exact_facets import Verdict, exact_facets
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import homogeneous_floats
from polytope.regions.section import Section


@dataclass(frozen=True, eq=False)
class Facets:
    """The facets of a region inside a domain, and the proof for every row.

    Attributes
    ----------
    section : Section
        The rows that are judged, over the domain's coordinates.
    groups : tuple of tuple of int
        One entry per facet: the rows that lie on it, more than one where hyperplanes coincide.
    points : float64 array (facets, k)
        A point in the relative interior of each facet; of those decided in exact arithmetic,
        the exact point rounded.
    multipliers : mapping of int to (int64 array, float64 array)
        For each redundant row that floats decided: rows and their weights, which prove it; in an
        unbounded domain the weights are rounded, and those that prove it are near them.
    exact : tuple of int
        Rows that rational arithmetic decided.
    """

    section: Section
    groups: tuple[tuple[int, ...], ...]
    points: np.ndarray
    multipliers: dict[int, tuple[np.ndarray, np.ndarray]]
    exact: tuple[int, ...]

    def __len__(self) -> int:
        """Number of facets."""
        return len(self.groups)

    @property
    def ids(self) -> tuple[tuple[int, ...], ...]:
        """The ids of the rows of each facet; from ``net.rows`` on they are the domain's."""
        return tuple(tuple(int(self.section.ids[row]) for row in group) for group in self.groups)

    @property
    def on_domain(self) -> np.ndarray:
        """Which facets lie on the domain's boundary: bool (facets,)."""
        rows = self.section.net.rows
        return np.array([any(i >= rows for i in own) for own in self.ids], dtype=bool)

    @property
    def redundant(self) -> np.ndarray:
        """Which rows hold no facet: bool (rows,)."""
        result = np.ones(len(self.section.b), dtype=bool)
        for group in self.groups:
            result[list(group)] = False
        return result


def facets_of(section: Section, maps: ExactMaps | None = None) -> Facets:
    """Judge every row of a section.

    Parameters
    ----------
    section : Section
    maps : ExactMaps, optional
        Of the section's network and domain, where many regions are asked for.

    Raises
    ------
    InputError
        If the section has no interior, or the domain is an l_2 ball, which has no facets.
    """
    if section.domain.ball is not None:
        raise InputError(
            "facets: an l_2 ball has a round side; give a box, a polytope or a slice as the domain"
        )
    if maps is None:
        maps = ExactMaps(section.net, section.domain)
    found: dict[int, np.ndarray] = {}
    multipliers: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    center, loose = section.interior, _loose(section, maps)
    if center is not None and loose is not None:
        residual = section.A @ center - section.b
        if ((residual < -section.band(center)) | loose).all():
            found, multipliers = _by_floats(section, center, loose)
    settled = found.keys() | multipliers.keys()
    open_rows = [row for row in range(len(section.b)) if row not in settled]
    groups: list[tuple[tuple[int, ...], np.ndarray]] = [
        ((row,), point) for row, point in found.items()
    ]
    if open_rows:
        groups += _exactly(section, open_rows, maps)
    groups.sort(key=lambda entry: entry[0])
    points = np.array([point for _, point in groups]).reshape(-1, section.dimension)
    return Facets(
        section, tuple(own for own, _ in groups), points, multipliers, tuple(open_rows)
    )  # fmt: skip


def _loose(section: Section, maps: ExactMaps) -> np.ndarray | None:
    """Rows that cut nothing since their normal is zero: bool (rows,).

    None if some row whose normal floats cannot tell from zero does have one, or if such a row
    is violated: then nothing but exact arithmetic will do.
    """
    loose = section.harmless.copy()
    doubtful = np.flatnonzero(~section.proper & ~loose)
    exact = maps.rows(section.pieces, section.ids[doubtful])
    if exact[:, :-1].any() or (exact[:, -1] > 0).any():
        return None
    loose[doubtful] = True
    return loose


def _exactly(
    section: Section, rows: list[int], maps: ExactMaps
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The facets among rows that floats left open, with a point of each."""
    table = maps.rows(section.pieces, section.ids)
    try:
        verdicts = exact_facets(table, None, rows)
    except ArithmeticError as error:
        raise InputError(
            "facets: the region has no interior in the domain: it does not reach into it, or only "
            "touches it"
        ) from error
    group_of = {row: group for group in verdicts.groups for row in group}
    return [
        (group, homogeneous_floats(verdicts.points[group[0]][None])[0, :-1])
        for group in dict.fromkeys(group_of[r] for r in rows
                                   if verdicts.verdicts[r] is Verdict.FACET)
    ]  # fmt: skip


def _by_floats(
    section: Section, center: np.ndarray, loose: np.ndarray
) -> tuple[dict[int, np.ndarray], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Points of the rows that floats prove to be facets, multipliers of the redundant ones."""
    from solvers.simplex import FACET, REDUNDANT, facets  # compiled: only when it is wanted

    place = np.flatnonzero(~loose)
    low, high = section.sides
    reach = float(np.maximum(high - center, center - low).max(initial=0.0))
    error = np.column_stack([section.normal_error, section.offset_error])[place]
    found = facets(
        section.A[place], section.b[place], center, error=error, reach=np.nextafter(reach, np.inf)
    )
    points, multipliers = {}, {}
    for number, row in enumerate(place.tolist()):
        if found.verdict[number] == FACET:
            points[row] = found.points[number]
        elif found.verdict[number] == REDUNDANT:
            own = found.rows[number] >= 0
            multipliers[row] = place[found.rows[number][own]], found.multipliers[number][own]
    return points, multipliers
