"""The three kinds of problem: plain frozen data, validated once, float64 and sparse.

All minimise ``c'x`` (plus ``x'Px / 2``) subject to ``row_lower <= A x <= row_upper`` and
``lower <= x <= upper``. A bound left out is infinite: columns are *free* by default (scipy's
``linprog`` differs, it starts them at zero). An equality has two equal bounds.
"""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from solvers.errors import ProblemError

__all__ = ["FloatArray", "LinearProgram", "MixedIntegerProgram", "Problem", "QuadraticProgram"]

FloatArray = NDArray[np.float64]

CONVEXITY_TOLERANCE: Final = 1e-10
"""Diagonal shift, relative to the trace of P, under which Cholesky must succeed.

Rounding alone makes a semidefinite P indefinite by about n * 1e-16 of its trace; a thousand
times more, at n = 1000, is curvature that a caller meant.
"""


class Derived(NamedTuple):
    """What every check of an answer needs of A, made once per matrix: sessions check often."""

    transposed: Any
    magnitude: Any  # |A|
    magnitude_transposed: Any
    row_sizes: FloatArray  # largest |coefficient| of each row (m,); 0 for an empty row


@dataclass(frozen=True, eq=False, init=False)
class Problem:
    """What `LinearProgram`, `QuadraticProgram` and `MixedIntegerProgram` share; use those.

    Parameters
    ----------
    c : array (n,), finite, n >= 1
    A : array or scipy sparse (m, n), finite, optional; left out there are no rows
    row_lower, row_upper : scalar or array (m,), optional; default infinite
    lower, upper : scalar or array (n,), optional; default infinite

    Raises
    ------
    ProblemError
        For NaN, a wrong shape, an infinite cost or coefficient, a lower bound above its upper
        bound (an empty box needs no solver), a lower bound of +inf or an upper bound of -inf.
    """

    c: FloatArray
    A: csr_array
    row_lower: FloatArray
    row_upper: FloatArray
    lower: FloatArray
    upper: FloatArray

    def __init__(
        self,
        c: ArrayLike,
        A: Any = None,
        row_lower: ArrayLike | None = None,
        row_upper: ArrayLike | None = None,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
    ) -> None:
        cost = _array("c", c)
        if cost.ndim != 1 or cost.size == 0:
            raise ProblemError(
                f"c has shape {cost.shape}; expected (n,) with n >= 1: one cost per variable "
                "(pass zeros for a pure feasibility problem)."
            )
        n = cost.size
        matrix = csr_array((0, n)) if A is None else _matrix("A", A, n)
        self._fill(cost, matrix, row_lower, row_upper, lower, upper)

    def _fill(
        self,
        c: ArrayLike,
        A: csr_array,
        row_lower: ArrayLike | None,
        row_upper: ArrayLike | None,
        lower: ArrayLike | None,
        upper: ArrayLike | None,
    ) -> None:
        m, n = A.shape
        cost = _vector("c", c, n)
        if not np.isfinite(cost).all():
            raise ProblemError(
                f"c[{_first(~np.isfinite(cost))}] is infinite; costs must be finite."
            )
        rows = _bounds("row_lower", row_lower, "row_upper", row_upper, m)
        columns = _bounds("lower", lower, "upper", upper, n)
        values = (cost, A, *rows, *columns)
        for name, value in zip(
            ("c", "A", "row_lower", "row_upper", "lower", "upper"), values, strict=True
        ):
            object.__setattr__(self, name, value)

    @property
    def quadratic(self) -> csr_array | None:
        """The matrix P (n, n) of the term ``x'Px / 2``, or None where the objective is linear."""
        return None

    @cached_property
    def derived(self) -> Derived:
        """Forms of A used by the checks."""
        magnitude = abs(self.A)
        sizes = np.zeros(self.A.shape[0])
        filled = np.diff(self.A.indptr) > 0
        if filled.any():
            sizes[filled] = np.maximum.reduceat(magnitude.data, self.A.indptr[:-1][filled])
        return Derived(self.A.T, magnitude, magnitude.T, sizes)

    @np.errstate(over="ignore", invalid="ignore")  # an infinite value is no one's optimum
    def objective(self, x: FloatArray) -> float:
        """``c'x + x'Px / 2`` at one point x (n,)."""
        value = float(self.c @ x)
        return value if self.quadratic is None else value + float(x @ (self.quadratic @ x)) / 2

    def gradient(self, x: FloatArray) -> FloatArray:
        """``c + Px`` (n,) at one point x (n,)."""
        return self.c if self.quadratic is None else self.c + self.quadratic @ x

    def updated(
        self,
        *,
        c: ArrayLike | None = None,
        A: Any = None,
        row_lower: ArrayLike | None = None,
        row_upper: ArrayLike | None = None,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
    ) -> Self:
        """Return a copy with the given fields replaced and validated; the others are shared."""
        new = copy.copy(self)
        if A is not None:
            new.__dict__.pop("derived", None)
        new._fill(
            self.c if c is None else c,
            self.A if A is None else _matrix("A", A, self.c.size),
            self.row_lower if row_lower is None else row_lower,
            self.row_upper if row_upper is None else row_upper,
            self.lower if lower is None else lower,
            self.upper if upper is None else upper,
        )
        return new

    @np.errstate(over="ignore")  # what overflows is infinite to a solver; answers are checked
    def scaled(self, rows: FloatArray, cost: float) -> Self:
        """Return a copy, row i and its bounds times ``rows[i] > 0``, the objective times `cost`.

        The feasible set and the minimisers stay the same, exactly so for powers of two.
        """
        new = copy.copy(self)
        new.__dict__.pop("derived", None)
        per_entry = np.repeat(rows, np.diff(self.A.indptr))
        matrix = csr_array(
            (self.A.data * per_entry, self.A.indices, self.A.indptr), shape=self.A.shape
        )
        for name, value in (
            ("c", self.c * cost),
            ("A", matrix),
            ("row_lower", self.row_lower * rows),
            ("row_upper", self.row_upper * rows),
        ):
            object.__setattr__(new, name, value)
        if self.quadratic is not None:
            object.__setattr__(new, "P", self.quadratic * cost)
        return new


@final
@dataclass(frozen=True, eq=False, init=False)
class LinearProgram(Problem):
    """Minimise ``c'x`` over a polyhedron; arguments as in `Problem`."""


@final
@dataclass(frozen=True, eq=False, init=False)
class QuadraticProgram(Problem):
    """Minimise ``c'x + x'Px / 2`` over a polyhedron, P symmetric positive semidefinite (n, n).

    The other arguments, and the errors, are as in `Problem`; ProblemError also where P is not
    symmetric to the last bit or not convex.
    """

    P: csr_array

    def __init__(
        self,
        c: ArrayLike,
        P: Any,
        A: Any = None,
        row_lower: ArrayLike | None = None,
        row_upper: ArrayLike | None = None,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
    ) -> None:
        super().__init__(c, A, row_lower, row_upper, lower, upper)
        object.__setattr__(self, "P", _convex(P, self.c.size))

    @property
    def quadratic(self) -> csr_array | None:
        """The matrix P of the objective."""
        return self.P


@final
@dataclass(frozen=True, eq=False, init=False)
class MixedIntegerProgram(Problem):
    """Minimise ``c'x`` (``+ x'Px / 2``) over a polyhedron, x_j integer where ``integrality[j]``.

    ``integrality`` is a boolean mask (n,), or one boolean for all columns; P is optional. The
    other arguments, and the errors, are as in `QuadraticProgram`. Bounds of integer columns are
    rounded inward to integers, which changes nothing but what solvers make of it: HiGHS 1.15 calls
    ``min -x + y, x + y <= 0`` infeasible over integers in [-0.01, 0.3]. ProblemError where no
    integer is left.
    """

    integrality: NDArray[np.bool_]
    P: csr_array | None

    def __init__(
        self,
        c: ArrayLike,
        integrality: ArrayLike,
        A: Any = None,
        row_lower: ArrayLike | None = None,
        row_upper: ArrayLike | None = None,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        P: Any = None,
    ) -> None:
        super().__init__(c, A, row_lower, row_upper, lower, upper)
        mask = np.asarray(integrality)
        n = self.c.size
        if mask.dtype != np.bool_ or mask.shape not in ((), (n,)):
            raise ProblemError(
                f"integrality has dtype {mask.dtype} and shape {mask.shape}; expected booleans "
                f"of shape ({n},), True where the variable is an integer."
            )
        mask = np.array(np.broadcast_to(mask, (n,)))
        mask.flags.writeable = False
        object.__setattr__(self, "integrality", mask)
        self._round_bounds()
        object.__setattr__(self, "P", None if P is None else _convex(P, n))

    @property
    def quadratic(self) -> csr_array | None:
        """The matrix P of the objective."""
        return self.P

    def updated(self, **fields: Any) -> Self:
        """Return a copy as `Problem.updated` does, bounds of integers rounded inward."""
        new = super().updated(**fields)
        new._round_bounds()
        return new

    def _round_bounds(self) -> None:
        lower = np.where(self.integrality, np.ceil(self.lower), self.lower)
        upper = np.where(self.integrality, np.floor(self.upper), self.upper)
        bad = lower > upper
        if bad.any():
            j = _first(bad)
            raise ProblemError(
                f"lower[{j}] = {self.lower[j]:.17g} and upper[{j}] = {self.upper[j]:.17g} leave no "
                "integer; no solver is needed to call that infeasible: treat it before this call."
            )
        for name, value in (("lower", lower), ("upper", upper)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    def relaxed(self) -> LinearProgram | QuadraticProgram:
        """Return the same problem without integrality."""
        rest = (self.A, self.row_lower, self.row_upper, self.lower, self.upper)
        if self.P is None:
            return LinearProgram(self.c, *rest)
        return QuadraticProgram(self.c, self.P, *rest)


def _array(name: str, value: ArrayLike) -> FloatArray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name} is not an array of real numbers: {error}.") from error
    if np.isnan(array).any():
        raise ProblemError(f"{name} contains NaN; remove it before building the problem.")
    array.flags.writeable = False
    return array


def _vector(name: str, value: ArrayLike, size: int) -> FloatArray:
    array = _array(name, value)
    if array.shape not in ((), (size,)):
        raise ProblemError(f"{name} has shape {array.shape}; expected ({size},) or a scalar.")
    return array if array.ndim else np.broadcast_to(array, (size,))


def _bounds(
    low_name: str, low: ArrayLike | None, high_name: str, high: ArrayLike | None, size: int
) -> tuple[FloatArray, FloatArray]:
    lower = _vector(low_name, -np.inf if low is None else low, size)
    upper = _vector(high_name, np.inf if high is None else high, size)
    bad = (lower > upper) | (lower == np.inf) | (upper == -np.inf)
    if bad.any():
        i = _first(bad)
        raise ProblemError(
            f"{low_name}[{i}] = {lower[i]:.17g} and {high_name}[{i}] = {upper[i]:.17g} leave no "
            "value; no solver is needed to call that infeasible: treat it before this call."
        )
    return lower, upper


def _matrix(name: str, value: Any, columns: int) -> csr_array:
    if issparse(value):
        matrix = csr_array(value, dtype=np.float64, copy=True)
    else:
        dense = _array(name, value)
        if dense.ndim != 2:
            raise ProblemError(f"{name} has shape {dense.shape}; expected (rows, {columns}).")
        matrix = csr_array(dense)
    if matrix.ndim != 2 or matrix.shape[1] != columns:
        raise ProblemError(f"{name} has shape {matrix.shape}; expected (rows, {columns}).")
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if not np.isfinite(matrix.data).all():
        raise ProblemError(f"{name} contains NaN or infinity; coefficients must be finite.")
    return matrix


def _convex(value: Any, n: int) -> csr_array:
    P = _matrix("P", value, n)
    if P.shape != (n, n):
        raise ProblemError(f"P has shape {P.shape}; expected ({n}, {n}).")
    if (P != P.T).nnz:
        raise ProblemError("P is not symmetric; pass (P + P.T) / 2, which is the same objective.")
    diagonal = P.diagonal()
    trace = float(np.abs(diagonal).sum())
    convex = bool((diagonal >= 0).all())
    if convex and P.nnz > np.count_nonzero(diagonal):
        try:
            np.linalg.cholesky(P.toarray() + CONVEXITY_TOLERANCE * trace * np.eye(n))
        except np.linalg.LinAlgError:
            convex = False
    if not convex:
        raise ProblemError(
            "P is not positive semidefinite, so the problem is not convex; only convex "
            "quadratic objectives are solved here."
        )
    return P


def _first(mask: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(mask)[0])
