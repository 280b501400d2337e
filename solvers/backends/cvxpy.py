"""cvxpy: LP and convex QP by Clarabel, an interior-point method, and MIP by HiGHS.

An opinion by another kind of algorithm; for MIPs by another road to a solver that is here already.
Traps this file knows: cvxpy reports one "user limit" for time and iterations, and
"optimal_inaccurate" as an optimum, so Clarabel's own status is read; Clarabel stops at 1e-8 unless
told otherwise; an interior point has tiny wrong multipliers where exact ones are zero, so it proves
nothing in exact arithmetic (`Capabilities.basic`); an equality's multiplier has the opposite sign
of ours; of a HiGHS that stopped early cvxpy drops the point and the bound, so HiGHS's own answer
is read.
"""

import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, final

import numpy as np

from solvers.backend import Backend, Capabilities
from solvers.backends.highs import SMALL_COEFFICIENT
from solvers.backends.highs import STATUS as HIGHS_STATUS
from solvers.problem import FloatArray, MixedIntegerProgram, Problem
from solvers.solution import Duals, Solution, Stats, Status

__all__ = ["STATUS", "CvxpyBackend"]

cvxpy: Any = import_module("cvxpy")  # its expressions are untyped

STATUS: Final[dict[str, Status]] = {
    "Solved": Status.OPTIMAL,
    "PrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.INFEASIBLE_OR_UNBOUNDED,  # no word on whether a point is feasible
    "AlmostSolved": Status.NUMERICAL,
    "AlmostPrimalInfeasible": Status.NUMERICAL,
    "AlmostDualInfeasible": Status.NUMERICAL,
    "MaxIterations": Status.ITERATION_LIMIT,
    "MaxTime": Status.TIME_LIMIT,
    "NumericalError": Status.NUMERICAL,
    "InsufficientProgress": Status.NUMERICAL,
    "CallbackTerminated": Status.INTERRUPTED,
    "Unsolved": Status.UNKNOWN,
}
"""By the names of ``clarabel.SolverStatus``; any other is UNKNOWN."""

SEARCH_STATUS: Final = {word.name: status for word, status in HIGHS_STATUS.items()}
"""By the names of HiGHS's statuses, which is what cvxpy passes on."""


@final
@dataclass(frozen=True)
class CvxpyBackend(Backend):
    """Clarabel, or HiGHS, by way of cvxpy's modelling; nothing is kept between solves."""

    name: ClassVar[str] = "cvxpy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        lp=True, qp=True, mip=True, duals=True, time_limit=True
    )

    def run(
        self,
        problem: Problem,
        *,
        tol: float,
        time_limit: float,
        presolve: bool,
        start: FloatArray | None,  # noqa: ARG002 - cvxpy passes none on
    ) -> Solution:
        """Solve once; see `Backend.run`."""
        if isinstance(problem, MixedIntegerProgram):
            return _search(problem, tol, time_limit, presolve)
        begin = time.perf_counter()
        x, constraints = _constraints(problem)
        cost = problem.c @ x
        P = problem.quadratic
        if P is not None:
            cost = cost + cvxpy.quad_form(x, cvxpy.psd_wrap(P)) / 2
        model = cvxpy.Problem(cvxpy.Minimize(cost), [row for row, _, _ in constraints])
        options = {
            # The gap asked for is ten times finer: what is left of it is spread over all rows.
            "tol_gap_abs": tol / 10,
            "tol_gap_rel": tol / 10,
            "tol_feas": tol / 10,
            "presolve_enable": presolve,
            "equilibrate_enable": presolve,
            "max_iter": 200,
        }
        data, chain, inverse = model.get_problem_data(cvxpy.CLARABEL, solver_opts=options)
        left = time_limit - (time.perf_counter() - begin)
        if left <= 0:
            return Solution(Status.TIME_LIMIT, Stats("cvxpy", time.perf_counter() - begin))
        options["time_limit"] = left
        try:
            raw = chain.solve_via_data(model, data, solver_opts=options)
        except ValueError as error:  # data that overflowed on the way
            return Solution(Status.NUMERICAL, Stats("cvxpy", message=str(error)))
        status = STATUS.get(str(raw.status), Status.UNKNOWN)
        point = duals = None
        if status is Status.OPTIMAL:
            model.unpack_results(raw, chain, inverse)
            point = np.array(x.value, dtype=np.float64)
            duals = Duals(_multipliers(problem, constraints), np.zeros(point.size))
        seconds = time.perf_counter() - begin
        stats = Stats("cvxpy", seconds, iterations=raw.iterations, message=str(raw.status))
        return Solution(status, stats, x=point, duals=duals)


def _search(
    problem: MixedIntegerProgram, tol: float, time_limit: float, presolve: bool
) -> Solution:
    """A MIP by cvxpy's HiGHS."""
    begin = time.perf_counter()
    x, constraints = _constraints(problem)
    model = cvxpy.Problem(cvxpy.Minimize(problem.c @ x), [row for row, _, _ in constraints])
    options: dict[str, Any] = {
        "primal_feasibility_tolerance": tol,
        "dual_feasibility_tolerance": tol,
        "mip_feasibility_tolerance": tol,
        "mip_abs_gap": tol,
        "mip_rel_gap": tol,
        "small_matrix_value": SMALL_COEFFICIENT,
        "random_seed": 0 if presolve else 1,
        "presolve": "choose" if presolve else "off",
        "mip_allow_restart": presolve,
    }
    data, chain, _ = model.get_problem_data(cvxpy.HIGHS)
    left = time_limit - (time.perf_counter() - begin)
    if left <= 0:
        return Solution(Status.TIME_LIMIT, Stats("cvxpy", time.perf_counter() - begin))
    raw = chain.solve_via_data(model, data, solver_opts=options | {"time_limit": left})
    status = SEARCH_STATUS.get(raw["model_status"], Status.UNKNOWN)
    info, found = raw["info"], raw["solution"]
    point = None
    if found.value_valid:
        # The columns of the problem as cvxpy passes it on are those of the variable.
        point = np.array(found.col_value, dtype=np.float64)
    whole = bool(problem.integrality.any())
    stats = Stats(
        "cvxpy", time.perf_counter() - begin, nodes=int(info.mip_node_count) if whole else -1,
        message=raw["model_status"],
    )  # fmt: skip
    bound = info.mip_dual_bound if whole else -np.inf
    return Solution(status, stats, x=point, dual_bound=bound)


def _constraints(problem: Problem) -> tuple[Any, list[tuple[Any, FloatArray | None, float]]]:
    """Return the variable, and each constraint with the rows it holds and its dual's sign.

    The rows of a constraint on columns are None.
    """
    integer: Any = False
    if isinstance(problem, MixedIntegerProgram) and problem.integrality.any():
        integer = np.nonzero(problem.integrality)
    x = cvxpy.Variable(problem.c.size, integer=integer)
    A, low, high = problem.A, problem.row_lower, problem.row_upper
    equal = low == high
    above, below = np.isfinite(low) & ~equal, np.isfinite(high) & ~equal
    found: list[tuple[Any, Any, float]] = []
    if equal.any():
        found.append((A[equal] @ x == low[equal], equal, -1.0))
    if above.any():
        found.append((A[above] @ x >= low[above], above, 1.0))
    if below.any():
        found.append((A[below] @ x <= high[below], below, -1.0))
    above, below = np.isfinite(problem.lower), np.isfinite(problem.upper)
    if above.any():
        found.append((x[above] >= problem.lower[above], None, 1.0))
    if below.any():
        found.append((x[below] <= problem.upper[below], None, -1.0))
    return x, found


def _multipliers(problem: Problem, constraints: list[tuple[Any, Any, float]]) -> FloatArray:
    rows = np.zeros(problem.row_lower.size)
    for constraint, where, sign in constraints:
        if where is not None:
            rows[where] += sign * np.asarray(constraint.dual_value)
    return rows
