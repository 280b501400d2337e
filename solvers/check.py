"""Evidence, checked: residuals, rigorous dual bounds, Farkas proofs, unbounded rays.

Weak duality is the whole theory. For any multipliers y, with ``z = c - A'y``,

    c'x  >=  sum_i min(y_i r_i : r_i in [row_lower_i, row_upper_i]) + sum_j min(z_j x_j : x_j in
             [lower_j, upper_j])                                          for every feasible x,

so *any* y gives a true lower bound, whoever found it and however badly. With c = 0 a positive
bound proves infeasibility (Farkas). A convex quadratic lies above its tangent at any point x0:
``x'Px/2 + c'x >= (c + Px0)'x - x0'Px0/2``, which reduces it to the linear case (rigorous given
that P is semidefinite; a diagonal P is checked exactly when the problem is built).

The ``safe_`` functions use floats rounded outward, the ``rational_`` ones exact rationals. Both
answer "no proof" where an unbounded column has ``z_j != 0``: give such columns finite bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from solvers.problem import FloatArray, MixedIntegerProgram, Problem
from solvers.scaling import cost_scale

__all__ = [
    "DEFAULT_TOLERANCE",
    "Residuals",
    "dual_value",
    "farkas_holds",
    "rational_dual_bound",
    "rational_farkas",
    "ray_holds",
    "residuals",
    "safe_dual_bound",
    "safe_farkas",
]

DEFAULT_TOLERANCE: Final = 1e-9
"""Feasibility asked of a solver. Solvers default to 1e-6 or 1e-7, which was measured to give
wrong claimed bounds in the seventh digit; HiGHS accepts down to 1e-10, one digit of reserve."""

_EPS: Final = float(np.finfo(np.float64).eps)
_TINY: Final = 5e-324  # smallest positive float: covers the underflow of one product


@dataclass(frozen=True)
class Residuals:
    """Largest violations, without units: rows relative to the size of their terms.

    Attributes
    ----------
    primal : float
        Of rows (relative to the largest coefficient, or term, of the row) and columns (relative
        to ``max(1, |x_j|)``).
    integrality : float
        Distance of the integer columns from integers.
    dual : float
        Of the optimality conditions: a multiplier, relative to the size of the costs, times its
        slack, capped at one (so a multiplier on an infinite bound counts in full).
    """

    primal: float
    integrality: float
    dual: float


@np.errstate(all="ignore")  # overflow is a large residual, NaN an infinite one
def residuals(problem: Problem, x: FloatArray, rows: FloatArray | None = None) -> Residuals:
    """Residuals of a point x (n,) and, where given, of row multipliers (m,).

    A point that is not finite has infinite residuals. Without multipliers ``dual`` is 0.
    """
    if not np.isfinite(x).all():
        return Residuals(math.inf, math.inf, math.inf)
    activity = problem.A @ x
    size = np.maximum(problem.derived.row_sizes, problem.derived.magnitude @ np.abs(x))
    gap = np.maximum(np.maximum(problem.row_lower - activity, activity - problem.row_upper), 0)
    row_unit = np.where(size > 0, size, np.where(gap > 0, gap, 1.0))
    column_unit = np.maximum(1.0, np.abs(x))
    out = np.maximum(np.maximum(problem.lower - x, x - problem.upper), 0) / column_unit
    primal = _worst(np.concatenate([gap / row_unit, out]))
    integrality = 0.0
    if isinstance(problem, MixedIntegerProgram):
        integrality = _worst(np.abs(x - np.round(x))[problem.integrality])
    if rows is None:
        return Residuals(primal, integrality, 0.0)
    gradient = problem.gradient(x)
    z = gradient - problem.derived.transposed @ rows
    unit = 1.0 / cost_scale(problem)
    sizes = np.maximum(unit, np.abs(gradient) + problem.derived.magnitude_transposed @ np.abs(rows))
    columns = np.abs(z) / sizes * _slack(z, x, problem.lower, problem.upper, column_unit)
    pull = np.abs(rows) * problem.derived.row_sizes / unit
    bound = _slack(rows, activity, problem.row_lower, problem.row_upper, row_unit)
    return Residuals(primal, integrality, _worst(np.concatenate([columns, pull * bound])))


def _slack(
    sign: FloatArray, value: FloatArray, lower: FloatArray, upper: FloatArray, unit: FloatArray
) -> FloatArray:
    distance = np.where(sign > 0, value - lower, upper - value) / unit
    return np.clip(distance, 0.0, 1.0)


def _worst(violations: FloatArray) -> float:
    worst = float(violations.max(initial=0.0))
    return math.inf if math.isnan(worst) else worst


def safe_dual_bound(problem: Problem, rows: FloatArray, point: FloatArray | None = None) -> float:
    """Return a true lower bound on the optimum from any multipliers.

    For a MIP: on the optimum of its relaxation.

    Parameters
    ----------
    problem : Problem
    rows : array (m,)
        Multipliers signed as `Duals.rows`; entries that point at an infinite bound, or that are
        not finite, are taken as zero.
    point : array (n,), optional
        Where to take the tangent of a quadratic objective; best is the solution. Default 0.

    Returns
    -------
    float
        -inf where these multipliers prove nothing.
    """
    if problem.quadratic is None or point is None:
        return _float_bound(problem, problem.c, np.zeros_like(problem.c), rows)
    # Exact rationals for the tangent: it is cheap beside the solve, and needs no error analysis.
    gradient, constant = _tangent(problem, point, Fraction)
    nearest = np.array([float(g) for g in gradient])
    error = np.array([_up(abs(g - Fraction(f))) for g, f in zip(gradient, nearest, strict=True)])
    bound = _float_bound(problem, nearest, error, rows)
    if bound == -math.inf:
        return bound
    return _down(Fraction(bound) + constant)


@np.errstate(all="ignore")
def dual_value(problem: Problem, rows: FloatArray, point: FloatArray, tol: float) -> float:
    """Return the dual objective: what a solver would claim, not a proof.

    z_j != 0 is forgiven on unbounded columns, up to `tol` of its terms.
    """
    gradient = problem.gradient(point)
    sizes = (
        np.abs(gradient) + np.abs(problem.c) + problem.derived.magnitude_transposed @ np.abs(rows)
    )
    forgive = tol * np.maximum(sizes, 1.0 / cost_scale(problem))
    bound = _float_bound(problem, gradient, np.zeros_like(point), rows, forgive)
    return bound + problem.objective(point) - float(gradient @ point)


def safe_farkas(problem: Problem, rows: FloatArray) -> bool:
    """Whether the multipliers (m,) prove that no x satisfies rows and bounds, in safe floats."""
    zero = np.zeros_like(problem.c)
    return _float_bound(problem, zero, zero, rows) > 0


@np.errstate(all="ignore")
def farkas_holds(problem: Problem, rows: FloatArray, tol: float = DEFAULT_TOLERANCE) -> bool:
    """As `safe_farkas`, forgiving z_j != 0 on unbounded columns up to `tol` of its terms."""
    zero = np.zeros_like(problem.c)
    forgive = tol * (problem.derived.magnitude_transposed @ np.abs(rows))
    return _float_bound(problem, zero, zero, rows, forgive) > 0


@np.errstate(all="ignore")  # overflow ends as "no proof"
def _float_bound(
    problem: Problem,
    c: FloatArray,
    error: FloatArray,
    rows: FloatArray,
    forgive: FloatArray | float = 0.0,
) -> float:
    """Apply weak duality to costs within `error` of c.

    z_j up to `forgive` is taken as zero where x_j is unbounded. Every operation rounds to nearest,
    so its true result lies between the neighbours of the float; only the sums in A'y need more.
    """
    y = _usable(problem, rows)
    terms = np.abs(c) + problem.derived.magnitude_transposed @ np.abs(y)
    live = np.repeat(y != 0, np.diff(problem.A.indptr))
    count = np.bincount(problem.A.indices[live], minlength=c.size)
    # k products summed with c err by (k+2) eps/2 of sum |terms|; the rest covers the
    # rounding of this very estimate. Without products z is c, exactly.
    summed = np.where(count > 0, (count + 8) * _EPS * terms + (count + 1) * _TINY, 0.0)
    z_error = summed + error * (1 + 4 * _EPS)
    z = c - problem.derived.transposed @ y
    low = np.where(z_error == 0, z, _prev(z - z_error))
    high = np.where(z_error == 0, z, _next(z + z_error))
    low_inf, high_inf = np.isinf(problem.lower), np.isinf(problem.upper)
    raise_low = high_inf & (low < 0) & (low >= -forgive)
    low, high = np.where(raise_low, 0.0, low), np.where(raise_low, np.maximum(high, 0), high)
    cut_high = low_inf & (high > 0) & (high <= forgive)
    low, high = np.where(cut_high, np.minimum(low, 0), low), np.where(cut_high, 0.0, high)
    if np.any(high_inf & (low < 0)) or np.any(low_inf & (high > 0)):
        return -math.inf
    corners = [
        np.where((factor == 0) | np.isinf(bound), 0.0, _prev(factor * bound))
        for factor in (low, high)
        for bound in (problem.lower, problem.upper)
    ]
    for index, infinite in enumerate((low_inf, high_inf, low_inf, high_inf)):
        # z_j x_j towards an infinite bound only grows: its minimum is at the other one,
        # or, where both are infinite and z_j = 0, it is zero.
        corners[index] = np.where(infinite & ~(low_inf & high_inf), np.inf, corners[index])
    binding = np.where(y > 0, problem.row_lower, problem.row_upper)
    row_terms = np.where(y == 0, 0.0, _prev(y * np.where(y == 0, 0.0, binding)))
    parts = np.concatenate([row_terms, np.minimum.reduce(corners)])
    if not np.isfinite(parts).all():
        return -math.inf
    try:
        return math.nextafter(math.fsum(parts), -math.inf)
    except OverflowError:
        return -math.inf


def _usable(problem: Problem, rows: FloatArray) -> FloatArray:
    binding = np.where(rows > 0, problem.row_lower, problem.row_upper)
    return np.where(np.isfinite(binding) & np.isfinite(rows), rows, 0.0)


def _prev(values: FloatArray) -> FloatArray:
    return np.nextafter(values, -np.inf)


def _next(values: FloatArray) -> FloatArray:
    return np.nextafter(values, np.inf)


def _down(value: Fraction) -> float:
    try:
        return math.nextafter(float(value), -math.inf)
    except OverflowError:
        return -math.inf


def _up(value: Fraction) -> float:
    return 0.0 if value == 0 else -_down(-value)


def rational_dual_bound(
    problem: Problem, rows: FloatArray, point: FloatArray | None = None
) -> Fraction | None:
    """As `safe_dual_bound`, exact; None where these multipliers prove nothing.

    The data, the multipliers and the point are read as the rationals they are.
    """
    return _rational_bound(problem, rows, point, with_cost=True)


def rational_farkas(problem: Problem, rows: FloatArray) -> bool:
    """Whether the multipliers (m,) prove, in exact arithmetic, that no x is feasible."""
    bound = _rational_bound(problem, rows, None, with_cost=False)
    return bound is not None and bound > 0


def _rational_type() -> Callable[..., Any]:
    """Return the fastest exact rational installed; both take (numerator, denominator)."""
    try:
        from flint import fmpq
    except ImportError:
        return Fraction
    return fmpq  # type: ignore[no-any-return, unused-ignore]


def _rational_bound(
    problem: Problem, rows: FloatArray, point: FloatArray | None, with_cost: bool
) -> Fraction | None:
    Rational = _rational_type()
    total = Rational(0, 1)
    z = [Rational(0, 1)] * problem.c.size
    if with_cost:
        start = np.zeros_like(problem.c) if point is None else point
        z, total = _tangent(problem, start, Rational)
    y = _usable(problem, rows)
    A = problem.A
    for i in np.flatnonzero(y):
        y_i = Rational(*float(y[i]).as_integer_ratio())
        bound = problem.row_lower[i] if y[i] > 0 else problem.row_upper[i]
        total += y_i * Rational(*float(bound).as_integer_ratio())
        for k in range(A.indptr[i], A.indptr[i + 1]):
            z[A.indices[k]] -= y_i * Rational(*float(A.data[k]).as_integer_ratio())
    for z_j, low, high in zip(z, problem.lower, problem.upper, strict=True):
        if z_j == 0:
            continue
        bound = low if z_j > 0 else high
        if np.isinf(bound):
            return None
        total += z_j * Rational(*float(bound).as_integer_ratio())
    return total if isinstance(total, Fraction) else Fraction(int(total.p), int(total.q))


def _tangent(
    problem: Problem, point: FloatArray, Rational: Callable[..., Any]
) -> tuple[list[Any], Any]:
    """Exact gradient ``c + P x0`` and constant ``-x0'P x0 / 2`` of the tangent at x0."""
    gradient = [Rational(*float(c).as_integer_ratio()) for c in problem.c]
    constant = Rational(0, 1)
    P = problem.quadratic
    if P is None:
        return gradient, constant
    x = [Rational(*float(v).as_integer_ratio()) for v in point]
    for i in range(problem.c.size):
        for k in range(P.indptr[i], P.indptr[i + 1]):
            term = Rational(*float(P.data[k]).as_integer_ratio()) * x[P.indices[k]]
            gradient[i] += term
            constant -= x[i] * term / 2
    return gradient, constant


@np.errstate(all="ignore")
def ray_holds(problem: Problem, ray: FloatArray, tol: float = DEFAULT_TOLERANCE) -> bool:
    """Whether along the direction (n,) every feasible point stays so and the objective falls.

    Each condition is tested up to `tol` of the size of its terms.
    """
    size = np.abs(ray).max(initial=0.0)
    if not (np.isfinite(size) and size > 0):
        return False
    d = ray / size
    move, terms = problem.A @ d, problem.derived.magnitude @ np.abs(d)
    P = problem.quadratic
    curved = P is not None and np.any(np.abs(P @ d) > tol * (abs(P) @ np.abs(d)))
    leaves = (
        np.any(np.isfinite(problem.row_lower) & (move < -tol * terms))
        or np.any(np.isfinite(problem.row_upper) & (move > tol * terms))
        or np.any(np.isfinite(problem.lower) & (d < -tol))
        or np.any(np.isfinite(problem.upper) & (d > tol))
    )
    falls = problem.c @ d < -tol * (np.abs(problem.c) @ np.abs(d))
    return bool(falls and not leaves and not curved)
