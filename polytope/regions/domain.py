"""The set in which regions are enumerated, in coordinates of its own.

A box with frozen coordinates, a plane through given points, a ball: each is brought to
``x = origin + u @ basis`` with halfspaces ``A u <= b`` over the coordinates u (and, for a ball
in l_2, one quadratic).  The floats of all four are taken as exact numbers, so the domain is a
well-defined set even where rounding made it differ in the last digit from what was asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.network.exact_ops import ExactArray
from polytope.regions.exact_interior import interior_point
from polytope.sets import Ball, Box, BoxLike, HPolytope, as_box
from polytope.slices import Slice
from solvers.problem import LinearProgram
from solvers.solution import Solution, Status
from solvers.solve import solve

#: An l_1 ball has 2^k facets; above this dimension they are refused.
L1_DIMENSION = 12
#: A set less deep than this (relative to its offsets) is taken to have no interior: a linear
#: program in floats cannot tell.
NARROW = 1e-9


@dataclass(frozen=True)
class Domain:
    """A convex set of inputs in coordinates.

    Attributes
    ----------
    size : int
        Inputs of the network, D.
    origin, basis : array (D,), (k, D), or None
        The coordinates' frame; None where the coordinates are the inputs.
    A, b : array (r, k), (r,)
        Halfspaces over the coordinates.
    ball : (center (k,), radius) or None
        An l_2 ball that the halfspaces are met with.
    """

    size: int
    origin: np.ndarray | None
    basis: np.ndarray | None
    A: np.ndarray
    b: np.ndarray
    ball: tuple[np.ndarray, float] | None = None

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return int(self.A.shape[1])

    def lift(self, u: np.ndarray) -> np.ndarray:
        """Inputs (..., D) of coordinates (..., k)."""
        if self.basis is None or self.origin is None:
            return np.asarray(u, dtype=np.float64)
        return np.asarray(self.origin + u @ self.basis)

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """Coordinates (..., k) of inputs (..., D) that lie in the domain's affine hull.

        Raises
        ------
        InputError
            If a point is farther from the hull than rounding.
        """
        points = np.asarray(x, dtype=np.float64)
        if self.basis is None or self.origin is None:
            return points
        flat = (points - self.origin).reshape(-1, self.size)
        u = np.linalg.lstsq(self.basis.T, flat.T, rcond=None)[0].T
        off = np.abs(self.lift(u) - points.reshape(-1, self.size)).max(initial=0.0)
        if off > 1e-9 * (1 + np.abs(points).max(initial=0.0)):
            raise InputError(
                f"domain: a point is {off:.1e} off the slice (or the frozen coordinates); give "
                "one that lies in it"
            )
        return np.asarray(u.reshape(*points.shape[:-1], self.dimension))

    def contains(self, u: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
        """Whether coordinates (n, k) lie in the domain, in float64: (n,)."""
        flat = np.asarray(u, dtype=np.float64).reshape(-1, self.dimension)
        inside = (flat @ self.A.T <= self.b + tolerance).all(axis=1)
        if self.ball is not None:
            center, radius = self.ball
            inside &= np.linalg.norm(flat - center, axis=1) <= radius + tolerance
        return np.asarray(inside)

    @cached_property
    def inside(self) -> np.ndarray:
        """Coordinates (k,) of a point well inside; for an unbounded domain of one in it."""
        if self.ball is not None:
            return self.ball[0]
        return _deepest(self.A, self.b, self.dimension)[0]

    @cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds (k,) of every coordinate over the halfspaces (inf if none).

        A box's are its own; others are proved by multipliers from linear programs (of an
        unbounded set, the finite ones are hints).
        """
        k = self.dimension
        low, high = np.full(k, -np.inf), np.full(k, np.inf)
        if (np.count_nonzero(self.A, axis=1) == 1).all():
            for row, b in zip(self.A, self.b, strict=True):
                axis = int(np.argmax(row != 0))
                if row[axis] > 0:
                    high[axis] = min(high[axis], b / row[axis])
                else:
                    low[axis] = max(low[axis], b / row[axis])
            return low, high
        proofs = np.full((2, k, 2), np.inf)
        for axis, side in itertools.product(range(k), (0, 1)):
            cost = np.zeros(k)
            cost[axis] = 1.0 if side == 0 else -1.0
            solution = self._solve(cost)
            if solution.status is Status.INFEASIBLE:
                raise InputError("domain: the set is empty; check the signs of A z <= b")
            if solution.status is Status.OPTIMAL and solution.duals is not None:
                weights = np.maximum(-solution.duals.rows, 0.0)
                proofs[side, axis] = _reaches(self.A, self.b, -cost, weights)
        # With z -> a z <= value + rest |z| on all 2 k sides, |z| <= max value / (1 - max rest).
        value, rest = proofs[..., 0], proofs[..., 1]
        if rest.max() < 0.5:
            size = max(float(value.max()), 0.0) / (1.0 - float(rest.max())) * (1 + 1e-12)
            value = value + rest * size * (1 + 1e-12)
        low, high = -value[0], value[1]
        return low, high

    @property
    def bounded(self) -> bool:
        """Whether the domain is bounded."""
        if self.ball is not None:
            return True
        return bool(np.isfinite(np.concatenate(self.limits)).all())

    def _solve(self, cost: np.ndarray) -> Solution:
        k = self.dimension
        free = np.full(k, np.inf)
        return solve(
            LinearProgram(
                c=cost, A=self.A, row_lower=np.full(len(self.A), -np.inf), row_upper=self.b,
                lower=-free, upper=free,
            ),
            backend="highs",
        )  # fmt: skip


def as_domain(net: Engine, domain: Box | Ball | HPolytope | Slice | BoxLike) -> Domain:
    """What the user gave as a `Domain`.

    Parameters
    ----------
    net : Engine
    domain : Box, pair (low, high), Ball, HPolytope, Slice, or None (all inputs)

    Raises
    ------
    InputError
        If the set does not fit the network, is empty or has no interior.
    """
    size = net.input_size
    if domain is None:
        return Domain(size, None, None, np.zeros((0, size)), np.zeros(0))
    if isinstance(domain, Slice):
        return _slice_domain(domain, size)
    if isinstance(domain, HPolytope):
        if domain.A.shape[1] != size:
            raise InputError(
                f"domain: got an HPolytope over {domain.A.shape[1]} coordinates, but the network "
                f"has {size} inputs"
            )
        return _with_interior(Domain(size, None, None, domain.A, domain.b))
    if isinstance(domain, Ball):
        return _ball_domain(domain, size)
    box = as_box(domain, size)
    assert box is not None
    return _box_domain(box, size)


def _box_domain(box: Box, size: int) -> Domain:
    """A box; frozen coordinates are taken out."""
    free = np.flatnonzero(box.low < box.high)
    if not len(free):
        raise InputError(
            "domain: every coordinate of the box is frozen (low == high): it is one point and has "
            "no regions; use net.region(x)"
        )
    eye = np.eye(len(free))
    low, high = box.low[free], box.high[free]
    upper, lower = np.isfinite(high), np.isfinite(low)
    A = np.vstack([eye[upper], -eye[lower]])
    b = np.concatenate([high[upper], -low[lower]])
    if len(free) == size:
        return Domain(size, None, None, A, b)
    origin = box.low.copy()
    origin[free] = 0.0
    return Domain(size, origin, np.eye(size)[free], A, b)


def _ball_domain(ball: Ball, size: int) -> Domain:
    """A ball in l_1, l_2 or l_inf."""
    center, radius = ball.center, ball.radius
    if len(center) != size:
        raise InputError(
            f"domain: got a ball over {len(center)} coordinates, but the network has {size} inputs"
        )
    if not radius > 0:
        raise InputError(f"domain: a ball of radius {radius:g} has no interior; use net.region(x)")
    box = _box_domain(Box(center - radius, center + radius), size)
    if ball.p == np.inf:
        return box
    if ball.p == 2:
        return Domain(size, None, None, box.A, box.b, (center, radius))
    if ball.p == 1 and size <= L1_DIMENSION:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=size)))
        return Domain(size, None, None, signs, signs @ center + radius)
    if ball.p == 1:
        raise InputError(
            f"domain: an l_1 ball over {size} coordinates has 2^{size} facets; enumerate the "
            f"l_inf ball around it, or use at most {L1_DIMENSION} inputs (or a Slice)"
        )
    raise InputError(
        f"domain: regions in an l_{ball.p:g} ball cannot be enumerated; use p = 1, 2 or inf"
    )


def _slice_domain(plane: Slice, size: int) -> Domain:
    """An affine subspace, with the box and the window that it carries."""
    if plane.basis.shape[1] != size:
        raise InputError(
            f"domain: the slice lies in {plane.basis.shape[1]} dimensions, but the network has "
            f"{size} inputs"
        )
    k = len(plane.basis)
    rows, limits = [np.zeros((0, k))], [np.zeros(0)]
    if plane.box is not None:
        box = as_box(plane.box, size)
        assert box is not None
        room = box.high - plane.origin, plane.origin - box.low
        for sign, side in zip((1.0, -1.0), room, strict=True):
            keep = np.isfinite(side) & plane.basis.any(axis=0)
            rows.append(sign * plane.basis[:, keep].T)
            limits.append(side[keep])
    if plane.window is not None:
        eye = np.eye(k)
        rows += [eye, -eye]
        limits += [plane.window.high, -plane.window.low]
    A, b = np.concatenate(rows), np.concatenate(limits)
    return _with_interior(Domain(size, plane.origin, plane.basis, A, b))


def _with_interior(domain: Domain) -> Domain:
    """The domain itself.

    Raises
    ------
    InputError
        If it is empty or has no interior.
    """
    zero = ~domain.A.any(axis=1)
    if (domain.b[zero] < 0).any():
        raise InputError("domain: a row 0 z <= b with b < 0 cannot hold: the set is empty")
    point, depth = _deepest(domain.A, domain.b, domain.dimension)
    A, b = domain.A[~zero], domain.b[~zero]
    band = (domain.dimension + 3) * 2.0**-52 * (np.abs(b) + np.abs(A) @ np.abs(point))
    if (b - A @ point > band).all():
        return domain
    rows = [ExactArray.from_floats(row).integers for row in np.column_stack([domain.A, -domain.b])]
    if interior_point(np.array(rows, dtype=object)) is not None:
        return domain
    if depth < -NARROW * (1 + np.abs(domain.b).max(initial=0.0)):
        raise InputError(
            "domain: the set is empty; check the signs of A z <= b, or that the slice meets its box"
        )
    raise InputError(
        "domain: the set has no interior (it is empty or lies in a hyperplane), so it holds no "
        "region of full dimension; widen it, or use a Slice to go down a dimension"
    )


def _reaches(
    A: np.ndarray, b: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """What multipliers prove: ``target z <= value + rest |z|`` (largest entry) on {A z <= b}."""
    own = np.flatnonzero(weights)
    unit = (len(own) + 3) * 2.0**-52
    value, size = weights[own] @ b[own], weights[own] @ np.abs(b[own])
    rest = np.abs(target - weights[own] @ A[own]).sum()
    terms = (np.abs(target) + weights[own] @ np.abs(A[own])).sum()
    return float(value + unit * size), float(rest + unit * terms)


def _deepest(A: np.ndarray, b: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """A point (k,) of {A u <= b} far from its sides, and how far it is from the nearest.

    Distances beyond 1 count as 1, so that the point exists in unbounded sets too; the distance
    is negative where no point is inside.
    """
    sizes = np.linalg.norm(A, axis=1)
    proper = sizes > 0
    if not proper.any():
        return np.zeros(k), 1.0
    A, b = A[proper] / sizes[proper, None], b[proper] / sizes[proper]
    cost = np.zeros(k + 1)
    cost[-1] = -1.0
    free = np.full(k, np.inf)
    solution = solve(
        LinearProgram(
            c=cost, A=np.column_stack([A, np.ones(len(A))]),
            row_lower=np.full(len(A), -np.inf), row_upper=b,
            lower=np.append(-free, -np.inf), upper=np.append(free, 1.0),
        ),
        backend="highs",
    )  # fmt: skip
    if solution.x is None:
        raise InputError(
            f"domain: the linear program for a point inside ended as {solution.status}; rescale "
            "A and b, or give the set as a Box"
        )
    point = solution.x[:-1]
    return point, float((b - A @ point).min())
