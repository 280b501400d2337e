"""daqp, a dual active-set method: small dense QPs, the fastest there is for them.

Traps this file knows: the tolerance is 1e-6 unless told otherwise; a singular P is solved by
proximal steps; multipliers of infeasible problems are left-over memory; infinity is 1e30, and a
row or column without a finite bound is an error in it; an upper bound's multiplier is positive.
"""

import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, final

import numpy as np
from scipy.sparse import csr_array

from solvers.backend import (
    Backend,
    Capabilities,
    Engine,
    IndexArray,
    with_bounds,
    with_row_bounds,
    with_rows,
    without_rows,
)
from solvers.problem import FloatArray, Problem
from solvers.solution import Duals, Solution, Stats, Status

__all__ = ["STATUS", "DaqpBackend"]

daqp: Any = import_module("daqp")  # untyped

STATUS: Final[dict[int, Status]] = {
    2: Status.NUMERICAL,  # optimal once soft constraints are violated: none is soft here
    1: Status.OPTIMAL,
    0: Status.UNKNOWN,
    -1: Status.INFEASIBLE,
    -2: Status.ITERATION_LIMIT,  # it cycles
    -3: Status.UNBOUNDED,
    -4: Status.ITERATION_LIMIT,
    -5: Status.NUMERICAL,  # P is not convex; ours is
    -6: Status.NUMERICAL,  # the first active set is over-determined; `solve` finds out
    -7: Status.TIME_LIMIT,
    -8: Status.NUMERICAL,  # not supported, it says
}
"""daqp's exit flags; any other is UNKNOWN."""

INFINITY: Final = 1e30
EQUALITY: Final = 5
INEQUALITY: Final = 0
SHORTEST: Final = 1e-9
"""Seconds; a limit of 0 means none to daqp."""

CAREFUL_PROXIMAL: Final = 1e-6
"""Weight of the proximal steps forced on the second attempt; the first takes them only where P is
found singular. It changes the steps, not the optimum."""


@final
@dataclass(frozen=True)
class DaqpBackend(Backend):
    """daqp: dense, so for at most some thousand columns and rows; warm in a `Session`."""

    name: ClassVar[str] = "daqp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        qp=True, duals=True, time_limit=True, warm_start=True, incremental=True
    )

    def run(
        self,
        problem: Problem,
        *,
        tol: float,
        time_limit: float,
        presolve: bool,
        start: FloatArray | None,
    ) -> Solution:
        """Solve once; see `Backend.run`."""
        return _DaqpEngine(problem, tol, presolve, start).run(time_limit)

    def load(self, problem: Problem, *, tol: float) -> Engine:
        """Load the problem into a workspace of daqp."""
        return _DaqpEngine(problem, tol, True, None)


@final
class _DaqpEngine(Engine):
    """Holds the problem; `_stale` names the parts of it that the workspace does not have yet."""

    def __init__(
        self, problem: Problem, tol: float, presolve: bool, start: FloatArray | None
    ) -> None:
        self._problem, self._start = problem, start
        self._model: Any = None
        self._settings = {"primal_tol": tol, "dual_tol": tol * 1e-3}
        if not presolve:
            self._settings |= {"eq_reduction": daqp.EQ_REDUCTION_OFF, "eps_prox": CAREFUL_PROXIMAL}
        self._stale: set[str] = set()
        self._sense = np.zeros(0, dtype=np.int32)

    def change_objective(self, c: FloatArray) -> None:
        self._problem = self._problem.updated(c=c)
        self._stale.add("f")

    def change_row_bounds(self, rows: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        self._problem = with_row_bounds(self._problem, rows, lower, upper)
        self._stale.add("bounds")

    def change_bounds(self, columns: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        self._problem = with_bounds(self._problem, columns, lower, upper)
        self._stale.add("bounds")

    def add_rows(self, A: csr_array, lower: FloatArray, upper: FloatArray) -> None:
        self._problem = with_rows(self._problem, A, lower, upper)
        self._model = None

    def delete_rows(self, rows: IndexArray) -> None:
        self._problem = without_rows(self._problem, rows)
        self._model = None

    def run(self, time_limit: float) -> Solution:
        begin = time.perf_counter()
        n = self._problem.c.size
        flag = self._load()
        point = duals = None
        iterations = 0
        if flag >= 0:
            left = time_limit - (time.perf_counter() - begin)
            limit = max(SHORTEST, left) if np.isfinite(left) else 0.0
            self._model.settings = {"time_limit": limit}
            x, _, flag, info = self._model.solve()
            iterations = int(info["iterations"])
        status = STATUS.get(flag, Status.UNKNOWN)
        if status is Status.OPTIMAL:
            self._start = point = np.array(x)
            duals = Duals(-np.array(info["lam"][n:]), np.zeros(n))
        else:
            self._model = None  # left in no state to go on from
        seconds = time.perf_counter() - begin
        stats = Stats("daqp", seconds, iterations, message=f"exit flag {flag}")
        return Solution(status, stats, x=point, duals=duals)

    def close(self) -> None:
        self._model = None

    def _load(self) -> int:
        """Bring the workspace up to date; return daqp's exit flag, 1 where all is well."""
        problem = self._problem
        flag = 1
        low = np.concatenate([problem.lower, problem.row_lower]).clip(-INFINITY, INFINITY)
        high = np.concatenate([problem.upper, problem.row_upper]).clip(-INFINITY, INFINITY)
        sense = np.where(low == high, EQUALITY, INEQUALITY).astype(np.int32)
        if self._model is None or not np.array_equal(sense, self._sense):
            assert problem.quadratic is not None  # no other kind is supported
            self._model = daqp.Model()
            self._model.settings = self._settings
            flag, _ = self._model.setup(
                problem.quadratic.toarray(),
                problem.c.copy(),
                problem.A.toarray(),
                high,
                low,
                sense,
                primal_start=self._start,
            )
            self._sense = sense
        else:
            if "f" in self._stale:
                flag = self._model.update(f=problem.c.copy())
            if "bounds" in self._stale and flag >= 0:
                flag = self._model.update(bupper=high, blower=low)
        self._stale.clear()
        return int(flag)
