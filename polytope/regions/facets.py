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
from polytope.regions.section import Section, maximisation
from solvers.session import Session

#: Multipliers below this part of the largest are dropped before the proof is checked: they are
#: the solver's noise.
NOISE = 1e-12
#: Random rays for each row, which show most facets without a linear program.
RAYS = 4


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
        For each redundant row that floats decided: rows and their weights, which prove it.
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
    points = _shot(section, center, loose)
    multipliers: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    place = np.flatnonzero(section.proper)
    A, room = section.scaled(center)
    scale = float(room.min(initial=np.inf))
    if not 0 < scale < np.inf:
        return points, multipliers
    limits, open_side = room / scale, np.full(len(room), -np.inf)
    program = maximisation(A[0], A, limits)
    with Session(program, "highs") as session:
        for number, row in enumerate(place.tolist()):
            if row in points:
                continue
            session.change_objective(-A[number])
            session.change_row_bounds([number], open_side[:1], limits[[number]] + 1.0)
            solution = session.solve()
            session.change_row_bounds([number], open_side[:1], limits[[number]])
            if solution.x is None:
                continue
            point = _shown(section, center, scale * solution.x, row, loose)
            if point is not None:
                points[row] = point
            elif solution.duals is not None:
                weights = np.maximum(-solution.duals.rows, 0.0)
                weights[number] = 0.0
                used = np.flatnonzero(weights > NOISE * weights.max(initial=0.0))
                weights = _polished(A[used], A[number], weights[used])
                weights = weights * section.sizes[row] / section.sizes[place[used]]
                proof = place[used].astype(np.int64), weights
                if is_redundant(section, center, row, *proof):
                    multipliers[row] = proof
    return points, multipliers


def _shot(section: Section, center: np.ndarray, loose: np.ndarray) -> dict[int, np.ndarray]:
    """Facets that rays from the center hit first: cheap, and in few dimensions nearly all."""
    A, room = section.scaled(center)
    rng = np.random.default_rng(0)
    ways = np.vstack([A, rng.normal(size=(RAYS * len(A), section.dimension))])
    rise = ways @ A.T
    with np.errstate(divide="ignore"):
        reach = np.where(rise > 0, room / np.where(rise > 0, rise, 1.0), np.inf)
    place = np.flatnonzero(section.proper)
    points: dict[int, np.ndarray] = {}
    if len(A) < 2:
        return points
    first = reach.argmin(axis=1)
    two = np.partition(reach, 1, axis=1)[:, :2]
    clear = np.where(np.isfinite(two[:, 1]), two[:, 1], 2 * two[:, 0])
    gap = np.where(np.isfinite(two[:, 0]), clear / two[:, 0], 0.0)
    for ray in np.argsort(-gap).tolist():
        row = int(place[first[ray]])
        if row not in points and gap[ray] > 1:
            point = _shown(section, center, clear[ray] * ways[ray], row, loose)
            if point is not None:
                points[row] = point
    return points


def _polished(rows: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights whose combination of the rows meets the target to the last digits."""
    rest = target - weights @ rows
    return np.asarray(np.maximum(weights + np.linalg.lstsq(rows.T, rest, rcond=None)[0], 0.0))


def _shown(
    section: Section, center: np.ndarray, way: np.ndarray, row: int, loose: np.ndarray
) -> np.ndarray | None:
    """The point where the way out of the center crosses a row, if it proves a facet."""
    rise = float(section.A[row] @ way)
    room = float(section.b[row] - section.A[row] @ center)
    if not 0 < room < rise:
        return None
    crossing = room / rise
    beyond = center + (crossing + 0.5 * (1 - crossing)) * way
    residual, band = section.A @ beyond - section.b, section.band(beyond)
    held = (residual < -band) | loose
    held[row] = residual[row] > band[row]
    if held.all():
        return np.asarray(center + crossing * way)
    return None


def is_redundant(
    section: Section, center: np.ndarray, row: int, rows: np.ndarray, weights: np.ndarray
) -> bool:
    """Check a proof that a row never bounds the section, with every rounding accounted for.

    Were it to bound it, some point u of the section would lie on its hyperplane.  There
    ``a u - b <= sum weights_j (a_j u - b_j) + rest (u - center) + constant`` would have to be 0,
    but the right side is negative: the sum is at most 0, and u is no farther from the center
    than the domain's sides (`Section.sides`).  Without finite sides nothing is proved here.

    Parameters
    ----------
    section : Section
    center : array (k,)
        Surely inside.
    row : int
    rows, weights : int64, float64 array
        Other rows and their multipliers, at least 0.
    """
    low, high = section.sides
    reach = np.nextafter(np.maximum(high - center, center - low), np.inf)
    if (weights < 0).any() or (rows == row).any() or not np.isfinite(reach).all():
        return False
    A, b = section.A[rows], section.b[rows]
    rest = section.A[row] - weights @ A
    constant = (section.A[row] @ center - section.b[row]) - weights @ (A @ center - b)
    largest = float((np.abs(center) + reach).max(initial=0.0))
    error = section.normal_error * largest + section.offset_error
    unit = 4 * (section.dimension + len(rows) + 4) * np.finfo(np.float64).eps
    terms = np.abs(section.A) @ (np.abs(center) + reach) + np.abs(section.b)
    doubt = error[row] + weights @ error[rows] + unit * (terms[row] + weights @ terms[rows])
    return bool(constant + np.abs(rest) @ reach + doubt < 0)
