"""Convex sets of inputs: boxes, balls, and polytopes in halfspace representation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from polytope.errors import InputError
from solvers.errors import ProblemError
from solvers.norms import NormLike, parse_norm


@dataclass(frozen=True)
class Box:
    """``{z : low <= z <= high}`` over the flattened input.

    Parameters
    ----------
    low, high : array
        Bounds per coordinate, flattened; infinite bounds leave a side open, equal bounds
        freeze a coordinate.

    Raises
    ------
    InputError
        If a bound is NaN or no number, the shapes differ, or a lower bound is above its upper
        bound.
    """

    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        low, high = (as_numbers(side, "box: a bound").reshape(-1) for side in (self.low, self.high))
        if low.shape != high.shape:
            raise InputError(
                f"box: got {low.size} lower and {high.size} upper bounds; give one of each per "
                "input coordinate, or a pair of numbers"
            )
        if np.isnan(low).any() or np.isnan(high).any():
            raise InputError("box: a bound is NaN; use -inf or inf for an open side")
        if (low > high).any():
            at = int(np.argmax(low > high))
            raise InputError(
                f"box: the lower bound {low[at]:g} is above the upper bound {high[at]:g} at "
                f"coordinate {at}, so the box is empty; swap them or widen the box"
            )
        if (low == np.inf).any() or (high == -np.inf).any():
            raise InputError("box: a lower bound is +inf or an upper bound is -inf: it is empty")
        for name, bound in (("low", low), ("high", high)):
            bound.setflags(write=False)
            object.__setattr__(self, name, bound)

    def contains(self, z: np.ndarray) -> np.ndarray:
        """Whether each row of `z` (..., *input_shape flattened to d) lies in the box: (n,)."""
        flat = _points(z, self.low.size)
        return np.asarray(((flat >= self.low) & (flat <= self.high)).all(axis=1))


#: What the public functions take for a box: a pair of numbers or arrays, a `Box`, or None.
BoxLike: TypeAlias = "Box | Sequence[object] | None"


def as_box(box: BoxLike, size: int) -> Box | None:
    """A `Box` over `size` coordinates; None stays None.

    Parameters
    ----------
    box : Box, pair (low, high) of numbers or of arrays with `size` values, or None
    size : int
        Number of input coordinates.

    Raises
    ------
    InputError
        For anything else, and for the reasons that `Box` gives.
    """
    if box is None:
        return None
    if not isinstance(box, Box):
        if isinstance(box, str) or not hasattr(box, "__len__") or len(box) != 2:
            raise InputError(
                f"box: got {box!r}, expected None, a pair (low, high) of numbers or arrays, or "
                "a polytope.Box"
            )
        sides = []
        for side in box:
            values = as_numbers(side, "box: a bound")
            sides.append(np.full(size, float(values)) if values.ndim == 0 else values.reshape(-1))
        box = Box(sides[0], sides[1])
    if box.low.size != size:
        raise InputError(
            f"box: got bounds for {box.low.size} coordinates, but the network has {size} inputs"
        )
    return box


def as_numbers(values: object, name: str) -> np.ndarray:
    """A float64 copy.

    Raises
    ------
    InputError
        If it does not hold numbers.
    """
    try:
        return np.asarray(values, dtype=np.float64).copy()
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not numeric ({error})") from error


def _points(z: np.ndarray, size: int) -> np.ndarray:
    """Points as (n, size).

    Raises
    ------
    InputError
        If the number of values is no multiple of `size`.
    """
    values = np.asarray(z, dtype=np.float64)
    if values.size % size:
        raise InputError(f"z: got shape {values.shape}, expected points with {size} coordinates")
    return values.reshape(-1, size)


@dataclass(frozen=True, eq=False)
class Ball:
    """``{z : ||z - center||_p <= radius}`` over the flattened input.

    Parameters
    ----------
    center : array
        Flattened.
    radius : float
        Positive.
    p : number or "inf"
        Norm, in [1, inf]; kept as a float.

    Raises
    ------
    InputError
        If the center is not finite, the radius not positive and finite, or p no norm.
    """

    center: np.ndarray
    radius: float
    p: NormLike = 2.0

    def __post_init__(self) -> None:
        center = as_numbers(self.center, "Ball: center").reshape(-1)
        radius = as_numbers(self.radius, "Ball: radius")
        if not center.size or not np.isfinite(center).all():
            raise InputError("Ball: the center must be finite numbers, one per input coordinate")
        if radius.ndim != 0 or not 0 < float(radius) < np.inf:
            raise InputError(
                f"Ball: got radius={self.radius!r}, expected one positive finite number (a ball "
                "of radius 0 has no inside; the whole space is domain=None)"
            )
        try:
            exponent = parse_norm(self.p)
        except ProblemError as error:
            raise InputError(f"Ball: {error}") from error
        center.setflags(write=False)
        for name, value in (("center", center), ("radius", float(radius)), ("p", exponent)):
            object.__setattr__(self, name, value)

    def contains(self, z: np.ndarray) -> np.ndarray:
        """Whether each row of `z` (..., d) lies in the ball, in float64: (n,)."""
        steps = _points(z, self.center.size) - self.center
        return np.asarray(np.linalg.norm(steps, ord=float(self.p), axis=1) <= self.radius)


@dataclass(frozen=True)
class HPolytope:
    """``{z : A z <= b}``.

    Parameters
    ----------
    A : array (rows, d)
    b : array (rows,)

    Raises
    ------
    InputError
        If the shapes do not fit or a number is not finite.
    """

    A: np.ndarray
    b: np.ndarray

    def __post_init__(self) -> None:
        A, b = as_numbers(self.A, "HPolytope: A"), as_numbers(self.b, "HPolytope: b")
        if A.ndim != 2 or b.shape != (A.shape[0],):
            raise InputError(
                f"HPolytope: got A of shape {A.shape} and b of shape {b.shape}, expected "
                "(rows, d) and (rows,)"
            )
        if not (np.isfinite(A).all() and np.isfinite(b).all()):
            raise InputError("HPolytope: A and b must be finite")
        object.__setattr__(self, "A", A)
        object.__setattr__(self, "b", b)

    def contains(self, z: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
        """Whether ``A z <= b + tolerance`` for each row of `z` (..., d), in float64."""
        flat = _points(z, self.A.shape[1])
        return np.asarray((flat @ self.A.T <= self.b + tolerance).all(axis=1))
