"""A ball met with a box, in exact integers, for the checker of certificates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polytope.errors import InputError
from polytope.network.exact_layers import Exact, finer


@dataclass(frozen=True, eq=False)
class Set:
    """All x + step with ``|step|_p <= radius`` and ``-down <= step <= up``, on one scale."""

    p: float
    radius: int
    at: np.ndarray
    down: np.ndarray
    up: np.ndarray
    scale: Fraction
    bounded: bool

    @classmethod
    def around(
        cls, x: np.ndarray, p: float, radius: float, low: np.ndarray, high: np.ndarray
    ) -> Set:
        """From floats; infinite sides of the box are no farther than the radius."""
        finite = [np.where(np.isfinite(side), side, x) for side in (low, high)]
        every = Exact.of(np.concatenate([x, *finite, [radius]]))
        at, below, above = (every.integers[i * len(x) : (i + 1) * len(x)] for i in range(3))
        r = every.integers[-1]
        down = np.where(np.isfinite(low), np.minimum(at - below, r), r)
        up = np.where(np.isfinite(high), np.minimum(above - at, r), r)
        if (down < 0).any() or (up < 0).any():
            raise InputError("the point is not in the box")
        bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
        return cls(p, r, at, down, up, every.scale, bounded)

    @property
    def whole(self) -> bool:
        """Whether the ball holds the whole (bounded) box."""
        far = np.maximum(self.down, self.up)
        if not len(far) or not self.bounded:
            return False
        if self.p == math.inf:
            return bool((far < self.radius).all())
        power = int(self.p)
        return bool((far**power).sum() < self.radius**power)

    def at_least(self, g: Exact, constant: Exact, claims: Exact, strict: bool) -> np.ndarray:
        """Whether each ``g step + constant`` (a row each) is at least its claim: bool (m,).

        For p < inf and any b with ``0 <= b <= |g|``, Hoelder's inequality for the part b over the
        ball and the box for the rest show ``g step >= -r |b|_q - sum (|g| - b) room``.
        """
        size, room = abs(g.integers), np.where(g.integers > 0, self.down, self.up)
        part = np.array([self._ball_part(*row) for row in zip(size, room, strict=True)], object)
        part = part.reshape(size.shape)
        rest = ((size - part) * room).sum(axis=1) if size.size else np.zeros(len(size), object)
        scale = finer(finer(constant.scale, claims.scale), g.scale * self.scale)
        left = constant.at(scale) - claims.at(scale) - Exact(rest, g.scale * self.scale).at(scale)
        factor = (g.scale * self.scale / scale).numerator * self.radius
        if self.p == 2:
            held = (part * part).sum(axis=1) * factor**2
            enough = [v >= 0 and (v * v > h if strict else v * v >= h)
                      for v, h in zip(left, held, strict=True)]  # fmt: skip
            return np.array(enough, dtype=bool)
        held = part.max(axis=1, initial=0) * factor
        return np.array(left > held if strict else left >= held, dtype=bool)

    def _ball_part(self, size: np.ndarray, room: np.ndarray) -> np.ndarray:
        """A good b for one row; any would prove something."""
        if self.p == math.inf:
            return np.zeros_like(size)
        if self.p == 1:
            used, lam = 0, 0
            for i in sorted(range(len(size)), key=lambda i: -size[i]):
                lam, used = size[i], used + room[i]
                if used >= self.radius:
                    return np.asarray(np.minimum(size, lam))
            return np.zeros_like(size)
        top = max(int(size.max(initial=0)), 1)
        w = np.array([v / top for v in size])
        m = np.array([v / max(self.radius, 1) for v in room])
        t = 1 / max(float(np.linalg.norm(w)), 1e-300)
        for _ in range(30):
            full = t * w > m
            left, free = 1 - (m[full] ** 2).sum(), (w[~full] ** 2).sum()
            if left <= 0 or free <= 0:  # the box is inside of the ball where it matters
                return np.zeros_like(size)
            if math.sqrt(left / free) <= t:
                break
            t = math.sqrt(left / free)
        wanted = [int(Fraction(float(v)) * top) for v in m / t]
        return np.asarray(np.minimum(size, np.array(wanted, dtype=object)))
