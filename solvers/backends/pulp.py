"""CBC, the solver that PuLP brings along: LP and MIP.

An opinion independent of HiGHS. Traps this file knows: after a time-out with a point PuLP says
"Optimal", only `sol_status` tells; on infeasible models it leaves garbage values; CBC was seen to
return wrong optima because it infers that objectives come in steps (cure: ``increment``); PuLP
writes 13 digits and CBC prints 8, so integers are taken from here and the rest from an exact LP;
PuLP forgets columns that stand nowhere, so each stands in the objective; "infeasible" may be CBC's
"infeasible or unbounded"; a time limit and the bound reached are told in CBC's log only; with
``preprocess off`` CBC 2.10.3 crashes on infeasible models, so that is never asked for.
"""

import re
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, final

import numpy as np

from solvers.backend import Backend, Capabilities
from solvers.problem import FloatArray, MixedIntegerProgram, Problem
from solvers.solution import Duals, Solution, Stats, Status

__all__ = ["STATUS", "PulpBackend"]

pulp: Any = import_module("pulp")  # half typed

STATUS: Final[dict[tuple[int, int], Status]] = {
    (pulp.LpStatusOptimal, pulp.LpSolutionOptimal): Status.OPTIMAL,
    # Stopped, with a point and without one; time if CBC's log says so:
    (pulp.LpStatusOptimal, pulp.LpSolutionIntegerFeasible): Status.ITERATION_LIMIT,
    (pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound): Status.ITERATION_LIMIT,
    (pulp.LpStatusInfeasible, pulp.LpSolutionInfeasible): Status.INFEASIBLE,
    (pulp.LpStatusInfeasible, pulp.LpSolutionNoSolutionFound): Status.INFEASIBLE,  # of integers
    (pulp.LpStatusUnbounded, pulp.LpSolutionUnbounded): Status.UNBOUNDED,
    (pulp.LpStatusUndefined, pulp.LpSolutionNoSolutionFound): Status.UNKNOWN,
}
"""What PuLP makes of CBC's words, as (status, sol_status); any other pair is UNKNOWN."""

BOUND_ROUNDING: Final = 1e-3
"""CBC prints the bound of an unfinished search with three decimals, rounded to nearest."""

_LOWER_BOUND: Final = re.compile(r"^Lower bound:\s+(\S+)", re.MULTILINE)
_NODES: Final = re.compile(r"^Enumerated nodes:\s+(\d+)", re.MULTILINE)


@final
@dataclass(frozen=True)
class PulpBackend(Backend):
    """CBC in a process of its own, some 20 ms a call; another `seed` helps where it is stuck."""

    name: ClassVar[str] = "pulp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        lp=True, mip=True, duals=True, time_limit=True, warm_start=True
    )
    seed: int = 0

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
        begin = time.perf_counter()
        search = isinstance(problem, MixedIntegerProgram)
        model, x, rows = _model(problem)
        if start is not None and search:
            for variable, value in zip(x, start, strict=True):
                variable.setInitialValue(float(value), check=False)
        left = time_limit - (time.perf_counter() - begin)
        if left <= 0:
            return Solution(Status.TIME_LIMIT, Stats("pulp", time.perf_counter() - begin))
        options = [f"primalT {tol}", f"dualT {tol}", f"randomS {1 + self.seed}"]
        if search:
            options += [f"integerT {tol}", "increment 1e-10", f"randomC {1 + self.seed}"]
            options += [] if presolve else ["cuts off"]
        with TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            solver = pulp.COIN_CMD(
                path=pulp.PULP_CBC_CMD.pulp_cbc_path,
                msg=False,
                mip=search,
                timeLimit=left if np.isfinite(left) else None,
                gapRel=tol,
                gapAbs=tol,
                presolve=None if presolve else False,
                warmStart=start is not None and search,
                options=options,
                logPath=str(log),
            )
            solver.tmpDir = folder
            try:
                model.solve(solver)
            except pulp.PulpSolverError as error:
                stats = Stats("pulp", time.perf_counter() - begin, message=str(error))
                return Solution(Status.NUMERICAL, stats)
            said = log.read_text(errors="replace")
        return _answer(problem, model, x, rows, said, time.perf_counter() - begin)


def _model(problem: Problem) -> tuple[Any, list[Any], list[list[tuple[Any, float]]]]:
    """Return the model, its variables, and for each row its constraints."""
    model = pulp.LpProblem("program", pulp.LpMinimize)
    n = problem.c.size
    integer = getattr(problem, "integrality", np.zeros(n, dtype=bool))
    x = [
        model.add_variable(
            f"x{j}",
            _finite(problem.lower[j]),
            _finite(problem.upper[j]),
            pulp.LpInteger if integer[j] else pulp.LpContinuous,
        )
        for j in range(n)
    ]
    model.setObjective(pulp.LpAffineExpression([(x[j], float(problem.c[j])) for j in range(n)]))
    A, rows = problem.A, []
    for i, (low, high) in enumerate(zip(problem.row_lower, problem.row_upper, strict=True)):
        entries = range(A.indptr[i], A.indptr[i + 1])
        terms = [(x[A.indices[k]], float(A.data[k])) for k in entries]
        sides = [(pulp.LpConstraintGE, low), (pulp.LpConstraintLE, high)]
        if low == high:
            sides = [(pulp.LpConstraintEQ, low)]
        made = [
            pulp.LpConstraint(pulp.LpAffineExpression(terms), sense, f"r{i}_{k}", float(bound))
            for k, (sense, bound) in enumerate(sides)
            if np.isfinite(bound)
        ]
        for constraint in made:
            model.addConstraint(constraint)
        rows.append(made)
    return model, x, rows


def _answer(
    problem: Problem, model: Any, x: list[Any], rows: list[Any], said: str, seconds: float
) -> Solution:
    search = isinstance(problem, MixedIntegerProgram)
    status = STATUS.get((model.status, model.sol_status), Status.UNKNOWN)
    result = said.partition("Result - ")[2].partition("\n")[0]
    if status is Status.ITERATION_LIMIT and result.startswith("Stopped on time"):
        status = Status.TIME_LIMIT
    elif status is Status.INFEASIBLE and "says infeasible or unbounded" in said:
        status = Status.INFEASIBLE_OR_UNBOUNDED
    nodes = _NODES.search(said)
    stats = Stats("pulp", seconds, nodes=int(nodes[1]) if nodes else -1, message=result)
    point = duals = None
    bound = -np.inf
    if model.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        point = np.array([variable.varValue for variable in x], dtype=np.float64)
    if search and point is not None and status is Status.OPTIMAL:
        bound = problem.objective(point)  # CBC's claim; its log has fewer digits
    elif search and (claim := _LOWER_BOUND.search(said)):
        bound = float(claim[1]) - BOUND_ROUNDING
    elif not search and status is Status.OPTIMAL:
        multipliers = [sum(constraint.pi or 0.0 for constraint in made) for made in rows]
        duals = Duals(np.array(multipliers, dtype=np.float64), np.zeros(len(x)))
    return Solution(status, stats, x=point, dual_bound=bound, duals=duals)


def _finite(bound: float) -> float | None:
    return float(bound) if np.isfinite(bound) else None
