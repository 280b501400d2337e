"""What is maximised over the regions: a number for each Jacobian, in floats and exactly."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np

from polytope.extremes.maps import Rationals
from polytope.operator_norms import operator_norm, operator_norm_bounds, vector_norms
from solvers.norms import dual_exponent

#: Signs over so many outputs or inputs are enumerated in exact arithmetic.
EXACT_SIGNS = 8
#: Norms whose values, or their squares, are rational numbers for rational matrices.
RATIONAL = (1.0, 2.0, math.inf)


@dataclass(frozen=True, order=True)
class Root:
    """An exact value by its square, so that values can be compared."""

    square: Fraction

    def ends(self) -> tuple[float, float]:
        """The nearest float64 numbers below and above (equal where the value is a float64)."""
        # sqrt(a / b) = sqrt(a b) / b, scaled so that the integer root has some 64 more bits.
        numerator, denominator = self.square.numerator, self.square.denominator
        shift = 2 * max(0, 80 + denominator.bit_length() - numerator.bit_length() // 2)
        whole = math.isqrt((numerator * denominator) << shift)
        guess = Fraction(whole, denominator << (shift // 2))
        low, high = below(guess), above(guess + Fraction(1, denominator << (shift // 2)))
        if Fraction(high) ** 2 == self.square:
            return high, high
        return (low, low) if Fraction(low) ** 2 == self.square else (low, high)


class Measure(ABC):
    """A number for each Jacobian (m, inputs)."""

    @abstractmethod
    def values(self, J: np.ndarray) -> np.ndarray:
        """The numbers of a batch (n, m, inputs), in floats: (n,)."""

    @abstractmethod
    def bounds(self, J: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds (n,) that hold if the rows of J are off by `error` (n, m) in the l_1 norm."""

    @abstractmethod
    def exact(self, J: Rationals) -> Root | None:
        """The number itself; None where it is no root of a rational, or would take long."""

    def rows(self, size: np.ndarray) -> np.ndarray:
        """Which rows of matrices (n, m, inputs) decide the number: weights (n, m)."""
        return np.ones(size.shape[:2])

    @abstractmethod
    def over(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """An upper bound (n,) for all Jacobians between `low` and `high` (n, m, inputs)."""


@final
@dataclass(frozen=True)
class OperatorNorm(Measure):
    """``||J||`` from l_p to l_q."""

    p: float
    q: float

    def values(self, J: np.ndarray) -> np.ndarray:
        """See `operator_norm`."""
        return operator_norm(J, self.p, self.q)

    def bounds(self, J: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An error E of the rows changes the norm by at most the q-norm of their l_1 norms."""
        low, high = operator_norm_bounds(J, self.p, self.q)
        off = vector_norms(error, self.q) * (1 + 1e-12)
        return np.maximum(low - off, 0.0), high + off

    def over(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The norm of the largest absolute values (RecurJac, Proposition 2)."""
        return operator_norm_bounds(np.maximum(np.abs(low), np.abs(high)), self.p, self.q)[1]

    def rows(self, size: np.ndarray) -> np.ndarray:
        """For q = inf the largest row alone."""
        if self.q != math.inf:
            return np.ones(size.shape[:2])
        norms = vector_norms(size, dual_exponent(self.p))
        return np.asarray(norms == norms.max(axis=1, keepdims=True), dtype=np.float64)

    def exact(self, J: Rationals) -> Root | None:
        """Largest columns, rows or sums over signs."""
        p, q, m, d = self.p, self.q, len(J), len(J[0])
        if not any(v for row in J for v in row):
            return Root(Fraction(0))
        if not {p, q} <= set(RATIONAL):
            return None
        if p == 1 or d == 1:
            columns = ([row[k] for row in J] for k in range(d))
            return max(_norm(column, q) for column in columns)
        if q == math.inf or m == 1:
            return max(_norm(row, dual_exponent(p)) for row in J)
        if q == 1 and m <= EXACT_SIGNS:
            return max(_norm(_total(J, s), dual_exponent(p)) for s in _signs(m))
        if p == math.inf and d <= EXACT_SIGNS:
            turned = [[row[k] for row in J] for k in range(d)]
            return max(_norm(_total(turned, s), q) for s in _signs(d))
        return None


@final
@dataclass(frozen=True)
class TotalNorm(Measure):
    """The sum over the outputs of the dual norm of their gradients."""

    p: float

    def values(self, J: np.ndarray) -> np.ndarray:
        """The sums."""
        return np.asarray(vector_norms(J, dual_exponent(self.p)).sum(axis=1))

    def bounds(self, J: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each gradient's norm is off by its own error."""
        sides = [operator_norm_bounds(J[:, [i]], self.p, 1.0) for i in range(J.shape[1])]
        unit = 1 + 2 * J.shape[1] * 2.0**-52
        off = error.sum(axis=1) * unit
        none = np.zeros(len(J))
        low, high = (sum((s[i] for s in sides), none) for i in (0, 1))
        return np.maximum(low / unit - off, 0.0), high * unit + off

    def over(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """That of the largest absolute values."""
        J = np.maximum(np.abs(low), np.abs(high))
        return self.bounds(J, np.zeros(J.shape[:2]))[1]

    def exact(self, J: Rationals) -> Root | None:
        """Of l_1 and l_inf the sum is rational."""
        q = dual_exponent(self.p)
        if q == 1:
            total = sum((abs(v) for row in J for v in row), Fraction(0))
        elif q == math.inf:
            total = sum((max(abs(v) for v in row) for row in J), Fraction(0))
        else:
            return None if any(v for row in J for v in row) else Root(Fraction(0))
        return Root(total**2)


@final
@dataclass(frozen=True, eq=False)
class Distortion(Measure):
    """``||J - J_0||_r`` of a single gradient from the one at a point.

    Parameters
    ----------
    origin : float64 (1, inputs)
        J_0, in floats.
    error : float
        Bound on the l_1 norm of its error.
    r : float
    rational : Rationals or None
        J_0 exactly.
    """

    origin: np.ndarray
    error: float
    r: float
    rational: Rationals | None

    def values(self, J: np.ndarray) -> np.ndarray:
        """The distances."""
        return np.asarray(vector_norms((J - self.origin)[:, 0], self.r))

    def bounds(self, J: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both gradients may be off."""
        low, high = operator_norm_bounds(J - self.origin, dual_exponent(self.r), math.inf)
        rounded = 2.0**-52 * (np.abs(J) + np.abs(self.origin)).sum(axis=(1, 2))
        off = (error[:, 0] + self.error + rounded) * (1 + 1e-12)
        return np.maximum(low - off, 0.0), high + off

    def over(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The farther end of every entry."""
        far = np.maximum(np.abs(low - self.origin), np.abs(high - self.origin))
        rounded = 2.0**-52 * (np.abs(low) + np.abs(high) + 2 * np.abs(self.origin)).sum(axis=(1, 2))
        top = operator_norm_bounds(far, dual_exponent(self.r), math.inf)[1]
        return np.asarray(top + (self.error + rounded) * (1 + 1e-12))

    def exact(self, J: Rationals) -> Root | None:
        """The distance of the rationals."""
        if self.rational is None or self.r not in RATIONAL:
            return None
        step = [a - b for a, b in zip(J[0], self.rational[0], strict=True)]
        return _norm(step, self.r)


def below(value: Fraction) -> float:
    """The largest float64 that is not above a rational."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def above(value: Fraction) -> float:
    """The least float64 that is not below a rational."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def _norm(values: list[Fraction], p: float) -> Root:
    """The p-norm of a vector, p one of `RATIONAL`."""
    if p == 2:
        return Root(sum((v * v for v in values), Fraction(0)))
    sizes = [abs(v) for v in values]
    return Root((sum(sizes, Fraction(0)) if p == 1 else max(sizes)) ** 2)


def _total(rows: Rationals, signs: tuple[int, ...]) -> list[Fraction]:
    """The rows with signs, added up."""
    return [
        sum((s * v for s, v in zip(signs, column, strict=True)), Fraction(0))
        for column in zip(*rows, strict=True)
    ]


def _signs(size: int) -> list[tuple[int, ...]]:
    """All sign vectors, up to a common sign."""
    return [(*signs, 1) for signs in itertools.product((1, -1), repeat=size - 1)]
