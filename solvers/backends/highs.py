"""HiGHS through its own Python package, highspy: LP, convex QP, MIP.

Traps this file knows: the time limit counts from the first run of an instance; MIPs stop at a gap
of 1e-4 and QPs minimise a regularised objective unless told otherwise; the QP solver may cycle;
coefficients below 1e-9 are dropped; a failed run leaves the status "not set" and no error; a MIP
may stall at its root for ever, where another seed, without presolve and restarts, ends in seconds;
a MIP without integers is solved, but with a dual bound of 0; a lower bound of 1e20 or more is
refused, and a refused model crashes the process when run.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, final

import numpy as np
from scipy.sparse import csr_array, tril

from solvers.backend import Backend, Capabilities, Engine, IndexArray
from solvers.problem import FloatArray, MixedIntegerProgram, Problem
from solvers.solution import Duals, Solution, Stats, Status

__all__ = ["STATUS", "HighsBackend"]

highspy: Any = import_module("highspy")  # its stubs lack half of what it has
Model = highspy.HighsModelStatus

STATUS: Final[dict[Any, Status]] = {
    Model.kNotset: Status.UNKNOWN,
    Model.kLoadError: Status.NUMERICAL,
    Model.kModelError: Status.NUMERICAL,
    Model.kPresolveError: Status.NUMERICAL,
    Model.kSolveError: Status.NUMERICAL,
    Model.kPostsolveError: Status.NUMERICAL,
    Model.kModelEmpty: Status.UNKNOWN,
    Model.kOptimal: Status.OPTIMAL,
    Model.kInfeasible: Status.INFEASIBLE,
    Model.kUnboundedOrInfeasible: Status.INFEASIBLE_OR_UNBOUNDED,
    Model.kUnbounded: Status.UNBOUNDED,
    Model.kObjectiveBound: Status.UNKNOWN,  # never asked for
    Model.kObjectiveTarget: Status.UNKNOWN,  # never asked for
    Model.kTimeLimit: Status.TIME_LIMIT,
    Model.kIterationLimit: Status.ITERATION_LIMIT,
    Model.kUnknown: Status.UNKNOWN,
    Model.kSolutionLimit: Status.ITERATION_LIMIT,
    Model.kInterrupt: Status.INTERRUPTED,
    Model.kMemoryLimit: Status.MEMORY_LIMIT,
    Model.kHighsInterrupt: Status.INTERRUPTED,
}

SMALL_COEFFICIENT: Final = 1e-12
"""Coefficients below this are dropped; the least HiGHS allows, in rows of size one."""

CAREFUL_REGULARISATION: Final = 1e-10
"""Of the QP's second attempt. The default 1e-7 moves optima in the eighth digit; zero, the first
attempt, fails on some singular P. At this value the error stays below the tolerance."""

PATIENCE: Final = 10.0
"""Seconds that the first attempt at a MIP may stay at its root. Those measured left it in under
four, or stalled for 27 and more."""


@final
@dataclass(frozen=True)
class HighsBackend(Backend):
    """HiGHS. A MIP that stalls at its root is given up once, and tried again from another `seed`.

    Attributes
    ----------
    seed : int
        Of the first attempt; the second has the next one, no presolve and no restarts.
    patience : float
        Seconds until a stall; see `PATIENCE`.
    """

    name: ClassVar[str] = "highs"
    capabilities: ClassVar[Capabilities] = Capabilities(
        lp=True,
        qp=True,
        mip=True,
        duals=True,
        farkas=True,
        time_limit=True,
        warm_start=True,
        incremental=True,
        basic=True,
    )
    seed: int = 0
    patience: float = PATIENCE

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
        engine = _HighsEngine(problem, tol, self.seed if presolve else self.seed + 1, presolve)
        if isinstance(problem, MixedIntegerProgram):
            if presolve:
                engine.watch(self.patience)
            if start is not None:
                engine.suggest(start)
        solution = engine.run(time_limit)
        engine.close()
        return solution

    def load(self, problem: Problem, *, tol: float) -> Engine:
        """Load the problem into an instance of HiGHS."""
        return _HighsEngine(problem, tol, self.seed, presolve=True)


@final
class _HighsEngine(Engine):
    def __init__(self, problem: Problem, tol: float, seed: int, presolve: bool) -> None:
        self._integer = isinstance(problem, MixedIntegerProgram) and bool(problem.integrality.any())
        self._highs = highs = highspy.Highs()
        m, n = problem.A.shape
        for option, value in (
            ("output_flag", False),
            ("primal_feasibility_tolerance", tol),
            ("dual_feasibility_tolerance", tol),
            ("mip_feasibility_tolerance", tol),
            ("mip_abs_gap", tol),
            ("mip_rel_gap", tol),
            ("small_matrix_value", SMALL_COEFFICIENT),
            ("qp_regularization_value", 0.0 if presolve else CAREFUL_REGULARISATION),
            # An active-set QP solver changes each constraint a few times, unless it cycles.
            ("qp_iteration_limit", 1000 + 20 * (m + n)),
            ("random_seed", seed),
            ("presolve", "choose" if presolve else "off"),
            ("mip_allow_restart", presolve),
        ):
            highs.setOptionValue(option, value)
        # Ctrl-C needs a second thread: worth it for searches, not for millisecond LPs.
        highs.HandleKeyboardInterrupt = self._integer
        self._refused = highs.passModel(_model(problem)) == highspy.HighsStatus.kError
        self._stalled = False

    def watch(self, patience: float) -> None:
        """Stop a search that is still at its root after so many seconds."""

        def look(event: Any) -> None:
            told = event.data_out
            if told.running_time > patience and told.mip_node_count <= 1:
                self._stalled = True
                event.interrupt()

        self._highs.cbMipInterrupt += look

    def suggest(self, x: FloatArray) -> None:
        """Offer a first incumbent."""
        self._highs.setSolution(x.size, np.arange(x.size, dtype=np.int32), x)

    def change_objective(self, c: FloatArray) -> None:
        self._highs.changeColsCost(c.size, np.arange(c.size, dtype=np.int32), c)

    def change_row_bounds(self, rows: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        self._highs.changeRowsBounds(rows.size, rows.astype(np.int32), lower, upper)

    def change_bounds(self, columns: IndexArray, lower: FloatArray, upper: FloatArray) -> None:
        self._highs.changeColsBounds(columns.size, columns.astype(np.int32), lower, upper)

    def add_rows(self, A: csr_array, lower: FloatArray, upper: FloatArray) -> None:
        self._highs.addRows(A.shape[0], lower, upper, A.nnz, A.indptr[:-1], A.indices, A.data)

    def delete_rows(self, rows: IndexArray) -> None:
        self._highs.deleteRows(rows.size, np.sort(rows).astype(np.int32))

    def run(self, time_limit: float) -> Solution:
        highs = self._highs
        if self._refused:
            return Solution(Status.NUMERICAL, Stats("highs", message="HiGHS refuses the model"))
        highs.setOptionValue("time_limit", highs.getRunTime() + time_limit)
        begin = highs.getRunTime()
        highs.solve()
        status = STATUS.get(highs.getModelStatus(), Status.UNKNOWN)
        if self._stalled and status is Status.INTERRUPTED:
            status = Status.ITERATION_LIMIT
        info, found = highs.getInfo(), highs.getSolution()
        stats = Stats(
            backend="highs",
            seconds=highs.getRunTime() - begin,
            iterations=info.simplex_iteration_count + info.qp_iteration_count,
            nodes=int(info.mip_node_count) if self._integer else -1,
            message=highs.modelStatusToString(highs.getModelStatus()),
        )
        ray = None
        if status is Status.INFEASIBLE and not self._integer:
            ray = _ray(highs.getDualRay())
        elif status is Status.UNBOUNDED and not self._integer:
            ray = _ray(highs.getPrimalRay())
        duals = found.dual_valid and not self._integer
        return Solution(
            status,
            stats,
            x=np.array(found.col_value) if found.value_valid else None,
            dual_bound=info.mip_dual_bound if self._integer else -np.inf,
            duals=Duals(np.array(found.row_dual), np.array(found.col_dual)) if duals else None,
            ray=ray,
        )

    def close(self) -> None:
        self._highs.clear()


def _ray(answer: tuple[Any, bool, FloatArray]) -> FloatArray | None:
    _, exists, ray = answer
    return np.array(ray) if exists else None


def _model(problem: Problem) -> Any:
    model = highspy.HighsModel()
    lp = model.lp_
    lp.num_row_, lp.num_col_ = problem.A.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = problem.c, problem.lower, problem.upper
    lp.row_lower_, lp.row_upper_ = problem.row_lower, problem.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = problem.A.indptr
    lp.a_matrix_.index_ = problem.A.indices
    lp.a_matrix_.value_ = problem.A.data
    if isinstance(problem, MixedIntegerProgram):
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in problem.integrality]
    model.lp_ = lp
    if problem.quadratic is not None:
        lower = tril(problem.quadratic, format="csc")
        hessian = model.hessian_
        hessian.dim_ = problem.c.size
        hessian.format_ = highspy.HessianFormat.kTriangular
        hessian.start_, hessian.index_ = lower.indptr, lower.indices
        hessian.value_ = lower.data
        model.hessian_ = hessian
    return model
