"""SCIP through pyscipopt: LP, MIP, and MIPs with a convex quadratic objective.

An opinion independent of HiGHS. Traps this file knows: SCIP turns rows of one column into bounds
and proves infeasibility by propagation, both of which lose the multipliers, so an LP's rows are
declared modifiable and everything but the LP itself is switched off; its tolerances are 1e-6
unless told otherwise; 1e20 is its infinity, in bounds and in answers. A quadratic objective is
moved into a constraint, which is met within tolerance only: continuous QPs are better solved
elsewhere, and get no multipliers here.
"""

import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, final

import numpy as np

from solvers.backend import Backend, Capabilities
from solvers.problem import FloatArray, MixedIntegerProgram, Problem
from solvers.solution import Duals, Solution, Stats, Status

__all__ = ["STATUS", "ScipBackend"]

pyscipopt: Any = import_module("pyscipopt")  # untyped

STATUS: Final[dict[str, Status]] = {
    "unknown": Status.UNKNOWN,
    "userinterrupt": Status.INTERRUPTED,
    "terminate": Status.INTERRUPTED,
    "nodelimit": Status.ITERATION_LIMIT,
    "totalnodelimit": Status.ITERATION_LIMIT,
    "stallnodelimit": Status.ITERATION_LIMIT,
    "restartlimit": Status.ITERATION_LIMIT,
    "sollimit": Status.ITERATION_LIMIT,
    "bestsollimit": Status.ITERATION_LIMIT,
    "timelimit": Status.TIME_LIMIT,
    "memlimit": Status.MEMORY_LIMIT,
    "gaplimit": Status.OPTIMAL,  # the gap asked for is the tolerance
    "primallimit": Status.UNKNOWN,  # never asked for
    "duallimit": Status.UNKNOWN,  # never asked for
    "optimal": Status.OPTIMAL,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "inforunbd": Status.INFEASIBLE_OR_UNBOUNDED,
}
"""What ``Model.getStatus`` returns; any other word is UNKNOWN."""

INFINITY: Final = 1e20
"""SCIP's; a time limit may not exceed it either."""

CURVED: Final = 1e-7
"""Tolerance of a quadratic constraint. Finer ones make SCIP ask its LPs for a thousandth of it,
which they cannot do in floats. Integers found so are fixed, and the rest solved exactly."""


@final
@dataclass(frozen=True)
class ScipBackend(Backend):
    """SCIP; another `seed` is a cure for MIPs that take long by bad luck."""

    name: ClassVar[str] = "scip"
    capabilities: ClassVar[Capabilities] = Capabilities(
        lp=True,
        mip=True,
        miqp=True,
        duals=True,
        farkas=True,
        time_limit=True,
        warm_start=True,
        basic=True,
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
        model = pyscipopt.Model()
        model.hideOutput()
        for option, value in (
            ("numerics/feastol", tol if problem.quadratic is None else max(tol, CURVED)),
            ("numerics/dualfeastol", tol),
            ("limits/gap", tol),
            ("limits/absgap", tol),
            ("randomization/randomseedshift", self.seed if presolve else self.seed + 1),
        ):
            model.setParam(option, value)
        off = pyscipopt.SCIP_PARAMSETTING.OFF
        if not (presolve and search):
            model.setPresolve(off)
        if not search:
            model.setHeuristics(off)
            model.setSeparating(off)
            model.disablePropagation()
        x, rows = _fill(model, problem, modifiable=not search)
        if start is not None and search and problem.quadratic is None:
            offered = model.createSol()
            for variable, value in zip(x, start, strict=True):
                model.setSolVal(offered, variable, value)
            model.addSol(offered)
        left = time_limit - (time.perf_counter() - begin)
        model.setParam("limits/time", min(max(0.0, left), INFINITY))
        try:
            model.optimize()
        except Exception as error:  # all that pyscipopt makes of SCIP's return codes
            stats = Stats("scip", time.perf_counter() - begin, message=str(error))
            return Solution(Status.NUMERICAL, stats)
        solution = _answer(model, x, rows, search, time.perf_counter() - begin)
        model.freeProb()
        return solution


def _fill(model: Any, problem: Problem, modifiable: bool) -> tuple[list[Any], list[Any]]:
    whole = (
        problem.integrality
        if isinstance(problem, MixedIntegerProgram)
        else np.zeros(problem.c.size, dtype=bool)
    )
    columns = zip(whole, problem.lower, problem.upper, problem.c, strict=True)
    x = [
        model.addVar(vtype="I" if flag else "C", lb=_finite(low), ub=_finite(high), obj=float(cost))
        for flag, low, high, cost in columns
    ]
    A, rows = problem.A, []
    for i, (low, high) in enumerate(zip(problem.row_lower, problem.row_upper, strict=True)):
        entries = range(A.indptr[i], A.indptr[i + 1])
        terms = pyscipopt.quicksum(float(A.data[k]) * x[A.indices[k]] for k in entries)
        left, right = _finite(low), _finite(high)
        free = left is None and right is None
        row = None if free else pyscipopt.scip.ExprCons(terms, left, right)
        rows.append(None if free else model.addCons(row, modifiable=modifiable))
    P = problem.quadratic
    if P is not None and P.nnz:
        height = model.addVar(lb=0.0, obj=1.0)  # x'Px / 2 is not negative
        squares = zip(*P.tocoo().coords, P.data, strict=True)
        bowl = pyscipopt.quicksum(float(value) / 2 * x[i] * x[j] for i, j, value in squares)
        model.addCons(bowl - height <= 0)
    return x, rows


def _answer(model: Any, x: list[Any], rows: list[Any], search: bool, seconds: float) -> Solution:
    status = STATUS.get(model.getStatus(), Status.UNKNOWN)
    stats = Stats(
        backend="scip",
        seconds=seconds,
        iterations=int(model.getNLPIterations()),
        nodes=int(model.getNTotalNodes()) if search else -1,
        message=model.getStatus(),
    )
    point = duals = ray = None
    if model.getNSols() > 0:
        best = model.getBestSol()
        point = np.array([model.getSolVal(best, variable) for variable in x])
    if not search and status is Status.OPTIMAL:
        multipliers = [0.0 if row is None else model.getDualsolLinear(row) for row in rows]
        duals = Duals(np.array(multipliers), np.zeros(len(x)))
    elif not search and status is Status.INFEASIBLE:
        ray = np.array([0.0 if row is None else model.getDualfarkasLinear(row) for row in rows])
    elif not search and status is Status.UNBOUNDED and model.hasPrimalRay():
        ray = np.array([model.getPrimalRayVal(variable) for variable in x])
    bound = float(model.getDualbound()) if search else -np.inf
    if abs(bound) >= INFINITY:
        bound = float(np.copysign(np.inf, bound))
    return Solution(status, stats, x=point, dual_bound=bound, duals=duals, ray=ray)


def _finite(bound: float) -> float | None:
    return float(bound) if abs(bound) < INFINITY else None
