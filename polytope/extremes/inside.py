"""Whether a region reaches into an area, with a point inside it that is proved to be there."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property

import numpy as np

from polytope.extremes.area import Area
from polytope.model import Network
from polytope.network.exact_ops import ExactArray
from polytope.pattern import ActivationPattern
from polytope.region import Region, region_at
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import row_ids
from polytope.regions.exact_interior import interior_point
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import homogeneous_floats
from polytope.regions.nearest import square_distance
from polytope.regions.section import Section
from polytope.robustness.cell import Cell, cell_distance
from solvers.least_norm import least_norm

#: Rows times coordinates up to which exact linear programs are solved.
EXACT_SIZE = 2**14
#: Parts of the way from a point of a region's closure to one inside the region or the domain.
WAYS = tuple(0.5**k for k in range(1, 40))


class Inside:
    """Points inside the regions of a network and an area.

    Parameters
    ----------
    net : Network
    area : Area
    """

    def __init__(self, net: Network, area: Area) -> None:
        self.net, self.area = net, area
        self.verdicts = 0

    @cached_property
    def maps(self) -> ExactMaps:
        """Exact maps over the domain: made when asked for, which takes long on large networks."""
        return ExactMaps(self.net, self.area.domain)

    def region(self, pieces: np.ndarray, near: np.ndarray) -> Region:
        """The region of a pattern."""
        pattern = ActivationPattern.from_pieces(pieces.astype(np.int64), self.net.layout)
        return region_at(self.net, self.area.domain.lift(near), pattern)

    def point(self, pieces: np.ndarray, hint: np.ndarray) -> np.ndarray | None:
        """A point (k,) strictly inside a region of the domain; a ball is set aside.

        None where the inside holds no float64 point that was found.

        Parameters
        ----------
        pieces : int array (units,)
            A region that has an inside in the domain.
        hint : float64 (k,)
            Perhaps such a point; NaN where none is known.
        """
        return self.in_domain(pieces, hint)[1]

    def in_domain(
        self, pieces: np.ndarray, hint: np.ndarray
    ) -> tuple[bool | None, np.ndarray | None]:
        """Whether a region has an inside in the domain, and a point of it, as `in_ball` does."""
        known = np.isfinite(hint).all()
        start = hint if known else self.area.domain.inside
        section = self.region(pieces, start).section(self.area.domain)
        if known and self.strictly(section, pieces, hint):
            return True, hint
        if known:  # perhaps only the domain's sides are in the way
            way = self.area.domain.inside - hint
            for part in WAYS:
                if _clearly(section, hint + part * way):
                    return True, hint + part * way
        center, _ = section.largest_ball()
        if center is not None and self.strictly(section, pieces, center):
            return True, center
        cell = Cell(section.A, section.b, section.normal_error, section.offset_error)
        if cell_distance(cell, start, math.inf, None).lower == math.inf:
            return False, None
        if not self._small():
            return None, None
        self.verdicts += 1
        found = interior_point(self._rows(pieces))
        if found is None:
            return False, None
        u = np.asarray(homogeneous_floats(found[None])[0, :-1])
        return True, u if self.strictly(section, pieces, u) else None

    def in_ball(
        self, pieces: np.ndarray, hint: np.ndarray
    ) -> tuple[bool | None, np.ndarray | None]:
        """Whether the inside of a region of the domain meets the open ball of the area.

        Returns
        -------
        meets : bool or None
            None: neither floats nor exact arithmetic of reasonable size decide it.
        point : float64 (k,) or None
            Inside both, where one was found.
        """
        assert self.area.ball is not None
        center, radius, _ = self.area.ball
        start = hint if np.isfinite(hint).all() else center
        section = self.region(pieces, start).section(self.area.domain)
        if start is hint and self.within(hint) and self.strictly(section, pieces, hint):
            return True, hint
        lower, foot = _nearest(section, self.area)
        if lower >= radius:
            return False, None
        inner = self.point(pieces, hint)
        if inner is not None and foot is not None:
            for way in WAYS:
                u = foot + way * (inner - foot)
                if self.within(u) and self.strictly(section, pieces, u):
                    return True, u
        return self._exactly_in_ball(pieces), None

    def strictly(self, section: Section, pieces: np.ndarray, u: np.ndarray) -> bool:
        """Whether a point is proved to be strictly inside a region and the domain."""
        if _clearly(section, u):
            return True
        if (section.A @ u - section.b > section.band(u)).any() or not self._small():
            return False
        self.verdicts += 1
        point = ExactArray.from_floats(np.append(u, 1.0)).integers
        return _strict(self._rows(pieces), point)

    def flat(self, pieces: np.ndarray, open_: np.ndarray) -> bool:
        """Whether the part of the domain where some units have given pieces is proved to be flat.

        Only layers count before which all units are decided: their rows are known exactly.

        Parameters
        ----------
        pieces : int array (units,)
        open_ : bool (units,)
            Units that have no given piece.
        """
        if not self._small():
            return False
        ids = row_ids(self.net, len(self.area.domain.A), pieces)
        keep = ids >= self.net.rows
        for layer in self.net.layers:
            own = (ids >= layer.row_slice.start) & (ids < layer.row_slice.stop)
            unit = layer.first_unit + (ids[own] - layer.first_row) // layer.slots
            keep[own] = ~open_[unit]
            if open_[layer.unit_slice].any():
                break
        self.verdicts += 1
        return interior_point(self.maps.rows(pieces, ids[keep])) is None

    def open_region(self, pieces: np.ndarray, z: np.ndarray) -> bool:
        """Whether an input (d,) is proved to be strictly inside the region of a pattern.

        Then every set whose closure holds the point, and which has an inside, meets the region.
        """
        pattern = ActivationPattern.from_pieces(pieces.astype(np.int64), self.net.layout)
        region = region_at(self.net, z, pattern)
        residual, band = region.A @ z - region.b, _band(region, z)
        pruned = ~region.A.any(axis=1) & (region.b >= 0)
        pruned &= (region.normal_error == 0) & (region.offset_error == 0)
        if ((residual < -band) | pruned).all():
            return True
        if (residual > band).any() or len(region.A) * len(z) > EXACT_SIZE:
            return False
        self.verdicts += 1
        everywhere = Domain(len(z), None, None, np.zeros((0, len(z))), np.zeros(0))
        point = ExactArray.from_floats(np.append(z, 1.0)).integers
        rows = ExactMaps(self.net, everywhere).rows(pieces, row_ids(self.net, 0, pieces))
        return _strict(rows, point)

    def within(self, u: np.ndarray) -> bool:
        """Whether a point is proved to be inside the area's ball, in exact arithmetic."""
        if self.area.ball is None:
            return True
        center, radius, p = self.area.ball
        steps = [Fraction(float(a)) - Fraction(float(c)) for a, c in zip(u, center, strict=True)]
        if p == 2:
            return sum((s * s for s in steps), Fraction(0)) < Fraction(radius) ** 2
        return sum((abs(s) for s in steps), Fraction(0)) < Fraction(radius)

    def _exactly_in_ball(self, pieces: np.ndarray) -> bool | None:
        """`in_ball` in rational arithmetic."""
        assert self.area.ball is not None
        center, radius, p = self.area.ball
        if not self._small():
            return None
        self.verdicts += 1
        rows = self._rows(pieces)
        if p == 2:
            square = square_distance(rows, center)
            return None if square is None else square < Fraction(radius) ** 2
        return interior_point(_in_diamond(rows, center, radius)) is not None

    def _rows(self, pieces: np.ndarray) -> np.ndarray:
        """Exact rows of a region in the domain."""
        whole = pieces.astype(np.int64)
        return self.maps.rows(whole, row_ids(self.net, len(self.area.domain.A), whole))

    def _small(self) -> bool:
        """Whether exact linear programs are of reasonable size."""
        k = self.area.domain.dimension
        return (self.net.rows + len(self.area.domain.A)) * k <= EXACT_SIZE


def _clearly(section: Section, u: np.ndarray) -> bool:
    """Whether a point is strictly inside of all rows, beyond all rounding."""
    # A pruned unit has a row that is identically zero, known without rounding.
    pruned = ~section.A.any(axis=1) & (section.b >= 0)
    pruned &= (section.normal_error == 0) & (section.offset_error == 0)
    residual = section.A @ u - section.b
    return bool(((residual < -section.band(u)) | pruned).all())


def _strict(rows: np.ndarray, point: np.ndarray) -> bool:
    """Whether an exact point is strictly inside of exact rows, those without normal set aside."""
    sides = (rows * point).sum(axis=1)
    flat = ~(rows[:, :-1] != 0).any(axis=1)
    return bool((sides[flat] <= 0).all() and (sides[~flat] < 0).all())


def _band(region: Region, z: np.ndarray) -> np.ndarray:
    """How far rounding may move ``A z - b``, rigorous: (rows,)."""
    unit = (len(z) + 2) * np.finfo(np.float64).eps
    terms = np.abs(region.A) @ np.abs(z) + np.abs(region.b)
    largest = float(np.abs(z).max(initial=0.0))
    return np.asarray(largest * region.normal_error + region.offset_error + unit * terms)


def _nearest(section: Section, area: Area) -> tuple[float, np.ndarray | None]:
    """A proved bound of a section's distance from the ball's center, and a point that near."""
    assert area.ball is not None
    center, radius, p = area.ball
    if p == 2 and area.domain.bounded:
        low, high = area.domain.limits
        reach = np.maximum(np.abs(low), np.abs(high)).max()
        unit = (len(center) + 4) * 2.0**-52
        terms = np.abs(section.A) @ np.abs(center) + np.abs(section.b)
        band = reach * section.normal_error + section.offset_error + unit * terms
        height = section.A @ center - section.b - band
        # The sides as seen from the center, rounded outward.
        below = np.minimum(np.nextafter(low - center, -np.inf), 0.0)
        above = np.maximum(np.nextafter(high - center, np.inf), 0.0)
        found = least_norm(section.A, height, below, above, radius)
        if found.settled or found.lower >= radius:
            return found.lower, center + found.step
    cell = Cell(section.A, section.b, section.normal_error, section.offset_error)
    near = cell_distance(cell, center, p, None)
    return near.lower, None if near.step is None else center + near.step


def _in_diamond(rows: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Rows of a region met with an l_1 ball, with one more coordinate for each: t >= |u - c|."""
    k = len(center)
    numbers = ExactArray.from_floats(np.append(center, radius))
    one = Fraction(2) ** -numbers.exponent
    scale = max(1, one.denominator)
    unit, whole = int(one * scale), [int(v) * scale for v in numbers.integers]
    more = np.zeros((2 * k + 1, 2 * k + 1), dtype=object)
    for i in range(k):
        for row, sign in ((2 * i, 1), (2 * i + 1, -1)):
            more[row, i], more[row, k + i] = sign * unit, -unit
            more[row, -1] = -sign * whole[i]
    more[-1, k : 2 * k], more[-1, -1] = unit, -whole[k]
    wide = np.zeros((len(rows), 2 * k + 1), dtype=object)
    wide[:, :k], wide[:, -1] = rows[:, :-1], rows[:, -1]
    return np.vstack([wide, more])
