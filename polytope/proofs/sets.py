"""A ball met with a box, and the least values of affine functions in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from polytope.certificate_file import Rejected
from polytope.network.exact_layers import Exact
from polytope.proofs.enclosed import N

#: Rounds of the search for the part of a function that is held by the ball.
ROUNDS = 30


@dataclass(frozen=True, eq=False)
class Set:
    """All x + step with ``|step|_p <= radius`` and ``low <= step <= high``.

    Attributes
    ----------
    p, radius : float
    x, low, high : Exact (d,)
    bounded : bool
        Whether the box is; infinite sides of it are as far as the radius here.
    """

    p: float
    radius: float
    x: Exact
    low: Exact
    high: Exact
    bounded: bool

    @classmethod
    def around(
        cls, x: np.ndarray, p: float, radius: float, low: np.ndarray, high: np.ndarray
    ) -> Set:
        """From floats.

        Raises
        ------
        Rejected
            If the point is not in the box.
        """
        if (x < low).any() or (x > high).any():
            raise Rejected("the point is not in the box")
        finite = [np.where(np.isfinite(side), side, x) for side in (low, high)]
        every = Exact.of(np.concatenate([x, *finite, [radius]])).integers
        at, below, above = (every[i * len(x) : (i + 1) * len(x)] for i in range(3))
        scale, r = Exact.of(np.concatenate([x, *finite, [radius]])).scale, every[-1]
        down = np.where(np.isfinite(low), np.minimum(at - below, r), r)
        up = np.where(np.isfinite(high), np.minimum(above - at, r), r)
        bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
        return cls(p, radius, Exact(at, scale), Exact(-down, scale), Exact(up, scale), bounded)

    @property
    def whole(self) -> bool:
        """Whether the ball holds the whole (bounded) box."""
        far = [max(abs(a), abs(b)) * self.low.scale
               for a, b in zip(self.low.integers, self.high.integers, strict=True)]  # fmt: skip
        if not far or not self.bounded:
            return False
        if self.p == math.inf:
            return bool(max(far) < Fraction(self.radius))
        power = int(self.p)
        return bool(sum(v**power for v in far) < Fraction(self.radius) ** power)

    def cut(self, coordinate: int, place: float) -> tuple[Set, Set]:
        """The parts of a box below and above a place of one coordinate.

        Raises
        ------
        Rejected
            If the place is not between its ends, or the set is no box.
        """
        one = slice(coordinate, coordinate + 1)
        step = Exact.of(np.array([place])).plus(self.x.part(one).minus())
        parts = []
        for side, sign in ((self.high, 1), (self.low, -1)):
            room = side.part(one).plus(step.minus()).integers[0] * sign
            if self.p != math.inf or room <= 0:
                raise Rejected("a box is cut where it cannot be")
            here = np.arange(len(side.integers)) == coordinate
            parts.append(Exact(np.where(here, step.integers, 0), step.scale).chosen(here, side))
        return replace(self, high=parts[0]), replace(self, low=parts[1])

    @cached_property
    def _room(self) -> tuple[np.ndarray, np.ndarray]:
        """How far each coordinate goes down and up, roughly."""
        return np.maximum(-self.low.floats(), 0), np.maximum(self.high.floats(), 0)

    def least(self, g: N, constant: N) -> np.ndarray:
        """Floats that are not above ``g step + constant`` (a row each) in the set: float64 (m,).

        For p < inf a part b of g is held by the ball: ``b step >= -radius |b|_q`` (Hoelder), for
        any b; what is left of g is least in a corner of the box.
        """
        numbers = type(g)
        low, high = numbers.given(self.low), numbers.given(self.high)
        if self.p == math.inf:
            return constant.plus(g.carried(low, high).total()).floor()
        part = self._part(g.floats())
        rest = g.plus(numbers.of(-part)).carried(low, high).total()
        held = numbers.norms(part, self.p).each(numbers.of(np.full(len(part), -self.radius)))
        return constant.plus(rest).plus(held).floor()

    def _part(self, g: np.ndarray) -> np.ndarray:
        """A good b for each row (m, d); any would prove something."""
        down, up = self._room
        found = np.zeros(g.shape)
        for row, b in zip(np.nan_to_num(g), found, strict=True):
            b[:] = np.sign(row) * _held(np.abs(row), np.where(row > 0, down, up), self)
        return found


def _held(size: np.ndarray, room: np.ndarray, around: Set) -> np.ndarray:
    """The part of the sizes of a row that is best left to the ball."""
    nothing = np.zeros_like(size)
    if around.p == 1:
        order = np.argsort(-size)
        used = np.cumsum(room[order])
        full = np.flatnonzero(used >= around.radius)
        return np.asarray(np.minimum(size, size[order[full[0]]])) if len(full) else nothing
    top = float(size.max(initial=0.0)) or 1.0
    w, m = size / top, room / around.radius
    t = 1 / max(float(np.linalg.norm(w)), 1e-300)
    for _ in range(ROUNDS):
        full_ = t * w > m
        left, free = 1 - (m[full_] ** 2).sum(), (w[~full_] ** 2).sum()
        if left <= 0 or free <= 0:  # the box is inside of the ball where it matters
            return nothing
        if math.sqrt(left / free) <= t:
            break
        t = math.sqrt(left / free)
    return np.asarray(np.minimum(size, m / t * top))
