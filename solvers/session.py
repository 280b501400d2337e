"""Many solves of one problem that changes a little each time."""

import time
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, final

import numpy as np
from numpy.typing import ArrayLike

from solvers.accept import accept
from solvers.backend import (
    Backend,
    IndexArray,
    with_bounds,
    with_row_bounds,
    with_rows,
    without_rows,
)
from solvers.check import DEFAULT_TOLERANCE
from solvers.errors import ProblemError, SolverError
from solvers.problem import FloatArray, LinearProgram, Problem
from solvers.scaling import Scaling, cost_scale, row_scales
from solvers.solution import Solution
from solvers.solve import RETRIED, checked_limits, choose, run_checked, settle

__all__ = ["Session"]


@final
class Session:
    """A problem loaded once, changed in place and solved again from the last state.

    Use it as a context manager. Every answer passes the same checks as in `solve`; where the warm
    answer fails them, the problem is solved cold. Backends without `Capabilities.incremental`
    work too, without the speed.

    Parameters
    ----------
    problem : LinearProgram, QuadraticProgram or MixedIntegerProgram
    backend : str or Backend, optional
    tol : float
        As in `solve`.

    Raises
    ------
    Like `solve`; ``change_...`` and ``..._rows`` raise ProblemError for bad values or indices, and
    leave the session as it was.

    Examples
    --------
    >>> from solvers import LinearProgram, Session
    >>> with Session(LinearProgram([1.0], lower=0)) as session:
    ...     session.add_rows([[2.0]], lower=1.0)
    ...     session.solve().value
    0.5
    """

    def __init__(
        self,
        problem: Problem,
        backend: str | Backend | None = None,
        *,
        tol: float = DEFAULT_TOLERANCE,
    ) -> None:
        checked_limits(tol, None)
        self._backend = choose(problem, backend)
        self._tol = tol
        self._problem = problem
        self._scaling = Scaling.of(problem)
        self._engine = self._backend.load(
            problem.scaled(self._scaling.rows, self._scaling.cost), tol=tol
        )
        self._closed = False

    @property
    def problem(self) -> Problem:
        """The problem as it now stands."""
        return self._problem

    def change_objective(self, c: ArrayLike) -> None:
        """Replace the linear costs (n,)."""
        self._check_open()
        self._problem = self._problem.updated(c=c)
        self._scaling = Scaling(self._scaling.rows, cost_scale(self._problem))
        self._engine.change_objective(self._problem.c * self._scaling.cost)

    def change_row_bounds(self, rows: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        """Set the bounds of rows (k,), or of one row; -inf and inf for none."""
        self._check_open()
        at = _indices("row", rows, self._problem.A.shape[0])
        self._problem = with_row_bounds(
            self._problem, at, _shaped("lower", lower, at), _shaped("upper", upper, at)
        )
        empty = np.diff(self._problem.A.indptr)[at] == 0
        if empty.any():  # their scale depends on their bounds
            self._scaling = Scaling(row_scales(self._problem), self._scaling.cost)
        scale = self._scaling.rows[at]
        self._engine.change_row_bounds(
            at, self._problem.row_lower[at] * scale, self._problem.row_upper[at] * scale
        )

    def change_bounds(self, columns: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        """Set the bounds of columns (k,), or of one column; -inf and inf for none."""
        self._check_open()
        at = _indices("column", columns, self._problem.c.size)
        self._problem = with_bounds(
            self._problem, at, _shaped("lower", lower, at), _shaped("upper", upper, at)
        )
        self._engine.change_bounds(at, self._problem.lower[at], self._problem.upper[at])

    def add_rows(self, A: Any, lower: ArrayLike = -np.inf, upper: ArrayLike = np.inf) -> None:
        """Append rows A (k, n), dense or sparse, with bounds scalar or (k,)."""
        self._check_open()
        n = self._problem.c.size
        new = LinearProgram(np.zeros(n), A, lower, upper)
        self._problem = with_rows(self._problem, new.A, new.row_lower, new.row_upper)
        scale = row_scales(new)
        scaled = new.scaled(scale, 1.0)
        self._scaling = Scaling(np.concatenate([self._scaling.rows, scale]), self._scaling.cost)
        self._engine.add_rows(scaled.A, scaled.row_lower, scaled.row_upper)

    def delete_rows(self, rows: ArrayLike) -> None:
        """Remove rows (k,); those below move up."""
        self._check_open()
        at = _indices("row", rows, self._problem.A.shape[0])
        self._problem = without_rows(self._problem, at)
        self._scaling = Scaling(np.delete(self._scaling.rows, at), self._scaling.cost)
        self._engine.delete_rows(at)

    def solve(self, time_limit: float | None = None) -> Solution:
        """Solve the problem as it now stands, within `time_limit` seconds; see `solve`."""
        self._check_open()
        begin = time.perf_counter()
        deadline = begin + checked_limits(self._tol, time_limit)
        raw = self._engine.run(deadline - begin)
        solution = accept(self._problem, self._scaling.undo(raw), self._tol)
        if solution.status not in RETRIED:
            solution = settle(self._backend, self._problem, solution, self._tol, deadline)
        if solution.status in RETRIED and time.perf_counter() < deadline:
            limit = max(0.0, deadline - time.perf_counter())
            return run_checked(self._backend, self._problem, tol=self._tol, time_limit=limit)
        seconds = time.perf_counter() - begin
        return replace(solution, stats=replace(solution.stats, seconds=seconds))

    def close(self) -> None:
        """Free what the solver holds; a closed session refuses further use."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SolverError("this session is closed; open a new Session for another solve.")


def _indices(what: str, value: ArrayLike, size: int) -> IndexArray:
    at = np.atleast_1d(np.asarray(value))
    if at.size == 0:
        return np.zeros(0, dtype=np.intp)
    if at.ndim != 1 or at.dtype.kind not in "iu" or at.min() < 0 or at.max() >= size:
        raise ProblemError(
            f"{what} indices {value!r}; expected integers from 0 to {size - 1}, one-dimensional."
        )
    if np.unique(at).size != at.size:
        raise ProblemError(f"{what} indices {value!r} name a {what} twice; name each once.")
    return at.astype(np.intp)


def _shaped(name: str, value: ArrayLike, at: IndexArray) -> FloatArray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), at.shape):
        raise ProblemError(f"{name} has shape {array.shape}; expected a scalar or {at.shape}.")
    return array
