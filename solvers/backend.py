"""What a solver must offer to be a backend: one file of about a hundred lines each.

A backend translates. It does not validate, retry, scale, judge or repair: `solvers.solve` and
`solvers.session.Session` do, the same way for all. So a backend hears of a problem whose rows and
costs are of size one, answers in that problem's units, and reports its solver's status unchanged
(through a map that covers every status there is).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from solvers.problem import (
    FloatArray,
    MixedIntegerProgram,
    Problem,
    QuadraticProgram,
)
from solvers.solution import Solution

__all__ = ["Backend", "Capabilities", "Engine", "IndexArray", "RebuildEngine"]

IndexArray = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend can do.

    Attributes
    ----------
    lp, qp, mip, miqp : bool
        Kinds of problem.
    duals : bool
        Returns row duals for LP and QP.
    farkas : bool
        Returns rays by itself; without it `solve` finds them by one more LP.
    time_limit : bool
        Stops, and says so, when the time is over.
    warm_start : bool
        Makes use of a starting point.
    incremental : bool
        Re-solves a changed problem from where it was.
    basic : bool
        LPs end at a vertex, with every digit of x and its multipliers: what exact proofs are made
        of. Where it is missing, `solve` makes them by another backend's LP.
    """

    lp: bool = False
    qp: bool = False
    mip: bool = False
    miqp: bool = False
    duals: bool = False
    farkas: bool = False
    time_limit: bool = False
    warm_start: bool = False
    incremental: bool = False
    basic: bool = False

    def supports(self, problem: Problem) -> bool:
        """Whether problems of this kind can be solved."""
        if isinstance(problem, MixedIntegerProgram):
            return self.mip if problem.P is None else self.miqp
        return self.qp if isinstance(problem, QuadraticProgram) else self.lp


class Engine(ABC):
    """A problem loaded into a solver, changed in place and solved again.

    Indices are unique and in range, values validated; ``run`` returns as `Backend.run` does.
    """

    @abstractmethod
    def change_objective(self, c: FloatArray) -> None:
        """Set the linear costs (n,)."""

    @abstractmethod
    def change_row_bounds(self, rows: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        """Set the bounds of the rows (k,)."""

    @abstractmethod
    def change_bounds(self, columns: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        """Set the bounds of the columns (k,)."""

    @abstractmethod
    def add_rows(self, A: csr_array, lower: FloatArray, upper: FloatArray) -> None:
        """Append rows (k, n)."""

    @abstractmethod
    def delete_rows(self, rows: IndexArray) -> None:
        """Remove the rows (k,); those below move up."""

    @abstractmethod
    def run(self, time_limit: float) -> Solution:
        """Solve, from the last state where the solver can."""

    @abstractmethod
    def close(self) -> None:
        """Free what the solver holds; called once."""


class Backend(ABC):
    """One solver. Concrete backends are final and hold settings only, no state."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def run(
        self,
        problem: Problem,
        *,
        tol: float,
        time_limit: float,
        presolve: bool,
        start: FloatArray | None,
    ) -> Solution:
        """Solve once, from scratch.

        Parameters
        ----------
        problem : Problem
            Of a kind in `capabilities`.
        tol : float
            Feasibility and optimality tolerance to ask for; a MIP's gap too.
        time_limit : float
            Seconds; may be inf.
        presolve : bool
            False on a second attempt: take the most careful road the solver has.
        start : array (n,) or None
            A point to start from, where `Capabilities.warm_start`.

        Returns
        -------
        Solution
            With status, stats, x where the solver has one, and where it has them ``duals.rows``,
            the ray, and for a MIP the dual bound. The rest is recomputed. A breakdown of the
            solver is a status, not an exception.
        """

    def load(self, problem: Problem, *, tol: float) -> Engine:
        """Load the problem for repeated solves; the default solves anew each time."""
        return RebuildEngine(self, problem, tol)


@final
class RebuildEngine(Engine):
    """For solvers that keep nothing between solves: holds the problem, runs it anew."""

    def __init__(self, backend: Backend, problem: Problem, tol: float) -> None:
        self._backend, self._problem, self._tol = backend, problem, tol

    def change_objective(self, c: FloatArray) -> None:
        """Replace the costs."""
        self._problem = self._problem.updated(c=c)

    def change_row_bounds(self, rows: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        """Replace some row bounds."""
        self._problem = with_row_bounds(self._problem, rows, lower, upper)

    def change_bounds(self, columns: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        """Replace some column bounds."""
        self._problem = with_bounds(self._problem, columns, lower, upper)

    def add_rows(self, A: csr_array, lower: FloatArray, upper: FloatArray) -> None:
        """Append rows."""
        self._problem = with_rows(self._problem, A, lower, upper)

    def delete_rows(self, rows: IndexArray) -> None:
        """Remove rows."""
        self._problem = without_rows(self._problem, rows)

    def run(self, time_limit: float) -> Solution:
        """Solve from scratch."""
        return self._backend.run(
            self._problem, tol=self._tol, time_limit=time_limit, presolve=True, start=None
        )

    def close(self) -> None:
        """Do nothing: nothing is held."""


def with_row_bounds(
    problem: Problem, rows: IndexArray, lower: FloatArray, upper: FloatArray
) -> Problem:
    """Return a copy with new bounds of some rows."""
    low, high = problem.row_lower.copy(), problem.row_upper.copy()
    low[rows], high[rows] = lower, upper
    return problem.updated(row_lower=low, row_upper=high)


def with_bounds(
    problem: Problem, columns: IndexArray, lower: FloatArray, upper: FloatArray
) -> Problem:
    """Return a copy with new bounds of some columns."""
    low, high = problem.lower.copy(), problem.upper.copy()
    low[columns], high[columns] = lower, upper
    return problem.updated(lower=low, upper=high)


def with_rows(problem: Problem, A: csr_array, lower: FloatArray, upper: FloatArray) -> Problem:
    """Return a copy with rows appended."""
    return problem.updated(
        A=vstack([problem.A, A], format="csr"),
        row_lower=np.concatenate([problem.row_lower, lower]),
        row_upper=np.concatenate([problem.row_upper, upper]),
    )


def without_rows(problem: Problem, rows: IndexArray) -> Problem:
    """Return a copy with rows removed."""
    keep = np.ones(problem.A.shape[0], dtype=bool)
    keep[rows] = False
    return problem.updated(
        A=problem.A[np.flatnonzero(keep)],
        row_lower=problem.row_lower[keep],
        row_upper=problem.row_upper[keep],
    )
