"""Arrays of floats, each with a bound on how far the number that it stands for may be from it.

The fast arithmetic of the checker.  It has the methods of `exact_layers.Exact` that the proofs
use, so that the same text is run in either.  Every operation adds what IEEE rounding to nearest can
have done to it (Higham, "Accuracy and stability of numerical algorithms", section 3.1, for sums in
any order); an overflow gives NaN or infinity, which proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from polytope.network.exact_layers import Exact

#: The unit roundoff, with room for the rounding of the bounds themselves.
UNIT = 2.0**-52
#: More than all underflows of one operation; and more than the root of a sum of such squares.
TINY, SQUARES = 1e-290, 1e-140


@dataclass(frozen=True, eq=False)
class Enclosed:
    """Numbers within ``middle - radius`` and ``middle + radius``: float64 arrays of one shape."""

    middle: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(cls, floats: np.ndarray) -> Enclosed:
        """Floats, as they are."""
        middle = np.asarray(floats, dtype=np.float64)
        return cls(middle, np.zeros(middle.shape))

    @classmethod
    def given(cls, exact: Exact) -> Enclosed:
        """Exact numbers, rounded."""
        middle = exact.floats()
        near = np.array([v.is_integer() and abs(v) < 2**53 for v in middle.reshape(-1).tolist()])
        if exact.scale == 1 and near.all():
            return cls(middle, np.zeros(middle.shape))
        return cls(middle, UNIT * np.abs(middle) + TINY)

    @classmethod
    def norms(cls, rows: np.ndarray, p: float) -> Enclosed:
        """Of each row of floats (m, d) the dual of the l_p norm, p being 1 or 2: (m,)."""
        size = np.linalg.norm(rows, ord=2 if p == 2 else np.inf, axis=1)
        return cls(size, (rows.shape[1] + 4) * UNIT * size + SQUARES)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.middle.shape

    def part(self, index: Any) -> Enclosed:
        """Some of the entries."""
        return Enclosed(self.middle[index], self.radius[index])

    def plus(self, other: Enclosed) -> Enclosed:
        """The sum."""
        middle = self.middle + other.middle
        return Enclosed(middle, _up(self.radius + other.radius, middle))

    def minus(self) -> Enclosed:
        """The negative."""
        return Enclosed(-self.middle, self.radius)

    def each(self, other: Enclosed) -> Enclosed:
        """The products of entries."""
        middle = self.middle * other.middle
        radius = np.abs(self.middle) * other.radius
        radius = radius + self.radius * (np.abs(other.middle) + other.radius)
        return Enclosed(middle, _up(radius, middle))

    def times(self, other: Enclosed) -> Enclosed:
        """The matrix product."""
        middle, terms = self.middle @ other.middle, self.middle.shape[1] + 2
        size, reach = np.abs(self.middle), np.abs(other.middle)
        radius = terms * UNIT * (size @ reach)
        if self.radius.any():
            radius = radius + self.radius @ (reach + other.radius)
        if other.radius.any():
            radius = radius + size @ other.radius
        return Enclosed(middle, radius * (1 + terms * UNIT) + terms * TINY)

    def total(self) -> Enclosed:
        """The sums of rows."""
        terms = self.middle.shape[1] + 2
        radius = self.radius.sum(axis=1) + terms * UNIT * np.abs(self.middle).sum(axis=1)
        return Enclosed(self.middle.sum(axis=1), radius * (1 + terms * UNIT) + terms * TINY)

    def carried(self, low: Enclosed, high: Enclosed) -> Enclosed:
        """Entries times `low` where they are positive, times `high` where they are negative."""
        up = self.middle > 0
        product = self.each(low.chosen(up, high))
        unclear = np.abs(self.middle) < self.radius
        if not unclear.any():
            return product
        most = np.maximum(np.abs(low.middle) + low.radius, np.abs(high.middle) + high.radius)
        reach = (np.abs(self.middle) + self.radius) * most * (1 + 8 * UNIT) + TINY
        return Enclosed(
            np.where(unclear, 0.0, product.middle), np.where(unclear, reach, product.radius)
        )

    def chosen(self, mask: np.ndarray, other: Enclosed) -> Enclosed:
        """These entries where the mask holds, elsewhere those of another array."""
        return Enclosed(
            np.where(mask, self.middle, other.middle), np.where(mask, self.radius, other.radius)
        )

    def gathered(self, columns: np.ndarray, size: int) -> Enclosed:
        """Columns added up at their places among so many; a column at -1 is left out."""
        kept = np.flatnonzero(columns >= 0)
        place = np.zeros((len(columns), size))
        place[kept, columns[kept]] = 1.0
        return self.times(Enclosed.of(place))

    def floats(self) -> np.ndarray:
        """Floats near the numbers."""
        return self.middle

    def floor(self) -> np.ndarray:
        """Floats that are not above the numbers; NaN and infinities stay."""
        near = self.middle - self.radius
        return np.asarray(near - UNIT * np.abs(near) - TINY)


def _up(radius: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """A radius after one operation on each entry, rounded upwards."""
    return np.asarray((radius + UNIT * np.abs(middle)) * (1 + 8 * UNIT) + TINY)


#: The arithmetic of a check.
N = TypeVar("N", Exact, Enclosed)
