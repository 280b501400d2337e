"""scipy.optimize's ``linprog`` and ``milp``: always installed, but HiGHS too, so no second opinion.

Traps this file knows: one status of scipy stands for many of HiGHS, infeasible-or-unbounded among
them; ``milp`` stops at a gap of 1e-4 unless told otherwise and takes no feasibility tolerance.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import vstack

from solvers.backend import Backend, Capabilities
from solvers.problem import FloatArray, MixedIntegerProgram, Problem
from solvers.solution import Duals, Solution, Stats, Status

__all__ = ["STATUS", "ScipyBackend"]

STATUS: Final = {
    0: Status.OPTIMAL,
    1: Status.ITERATION_LIMIT,  # or time: scipy's message tells which
    2: Status.INFEASIBLE,
    3: Status.UNBOUNDED,
    4: Status.UNKNOWN,
}


@final
@dataclass(frozen=True)
class ScipyBackend(Backend):
    """scipy's HiGHS: LP and MIP, nothing kept between solves."""

    name: ClassVar[str] = "scipy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        lp=True, mip=True, duals=True, time_limit=True, basic=True
    )

    def run(
        self,
        problem: Problem,
        *,
        tol: float,
        time_limit: float,
        presolve: bool,
        start: FloatArray | None,  # noqa: ARG002 - scipy takes none
    ) -> Solution:
        """Solve once; see `Backend.run`."""
        options: dict[str, Any] = {"presolve": presolve}
        if np.isfinite(time_limit):
            options["time_limit"] = time_limit
        if isinstance(problem, MixedIntegerProgram):
            return _timed(lambda: _mip(problem, options | {"mip_rel_gap": tol}))
        options |= {"primal_feasibility_tolerance": tol, "dual_feasibility_tolerance": tol}
        return _timed(lambda: _lp(problem, options))


def _timed(call: Callable[[], Solution]) -> Solution:
    begin = time.perf_counter()
    try:
        return call()
    except ValueError as error:  # scipy's word for data that HiGHS would not load
        seconds = time.perf_counter() - begin
        return Solution(Status.NUMERICAL, Stats("scipy", seconds, message=str(error)))


def _lp(problem: Problem, options: dict[str, Any]) -> Solution:
    low, high = problem.row_lower, problem.row_upper
    equal = low == high
    below, above = np.isfinite(high) & ~equal, np.isfinite(low) & ~equal
    result = linprog(
        problem.c,
        A_ub=vstack([problem.A[below], -problem.A[above]], format="csr"),
        b_ub=np.concatenate([high[below], -low[above]]),
        A_eq=problem.A[equal],
        b_eq=high[equal],
        bounds=np.column_stack([problem.lower, problem.upper]),
        method="highs",
        options=options,
    )
    duals = None
    if result.status == 0:
        rows = np.zeros(low.size)
        split = np.count_nonzero(below)
        rows[below] += result.ineqlin.marginals[:split]
        rows[above] -= result.ineqlin.marginals[split:]
        rows[equal] = result.eqlin.marginals
        duals = Duals(rows, result.lower.marginals + result.upper.marginals)
    stats = Stats("scipy", iterations=int(result.nit), message=result.message)
    return Solution(_status(result), stats, x=_point(result.x), duals=duals)


def _mip(problem: MixedIntegerProgram, options: dict[str, Any]) -> Solution:
    result = milp(
        problem.c,
        integrality=problem.integrality.astype(int),
        bounds=Bounds(problem.lower, problem.upper),
        constraints=LinearConstraint(problem.A, problem.row_lower, problem.row_upper),
        options=options,
    )
    bound, nodes = result.get("mip_dual_bound"), result.get("mip_node_count")
    stats = Stats("scipy", nodes=-1 if nodes is None else int(nodes), message=result.message)
    return Solution(
        _status(result),
        stats,
        x=_point(result.x),
        dual_bound=-np.inf if bound is None else float(bound),
    )


def _status(result: Any) -> Status:
    if result.status == 1 and "time limit" in result.message.lower():
        return Status.TIME_LIMIT
    return STATUS.get(result.status, Status.UNKNOWN)


def _point(x: Any) -> FloatArray | None:
    return None if x is None else np.asarray(x, dtype=np.float64)
