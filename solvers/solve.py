"""The entry point: choose, run, check, and find the evidence the solver did not give."""

import math
import time
from dataclasses import replace
from typing import Final

import numpy as np
from scipy.sparse import diags_array, hstack

from solvers.accept import accept
from solvers.backend import Backend
from solvers.check import DEFAULT_TOLERANCE
from solvers.errors import ProblemError, UnsupportedProblemError
from solvers.problem import FloatArray, LinearProgram, MixedIntegerProgram, Problem
from solvers.registry import available, get
from solvers.scaling import Scaling, row_scales
from solvers.solution import Solution, Status

__all__ = ["choose", "run_checked", "solve"]

TOLERANCES: Final = (1e-10, 1e-2)
"""What can be asked for: HiGHS refuses tolerances below 1e-10, and an answer with less than two
digits is of no use."""

# Nobody limits iterations here, so a solver that reports the limit is stuck.
RETRIED: Final = frozenset(
    {
        Status.NUMERICAL,
        Status.UNKNOWN,
        Status.INFEASIBLE_OR_UNBOUNDED,
        Status.ITERATION_LIMIT,
    }
)


def solve(
    problem: Problem,
    backend: str | Backend | None = None,
    *,
    time_limit: float | None = None,
    tol: float = DEFAULT_TOLERANCE,
    start: FloatArray | None = None,
) -> Solution:
    """Solve a problem and check the answer.

    Parameters
    ----------
    problem : LinearProgram, QuadraticProgram or MixedIntegerProgram
    backend : str or Backend, optional
        A name of `available()`; by default the first that solves this kind of problem, and where
        its answer fails the checks twice, the next.
    time_limit : float, optional
        Seconds, at least 0, for all attempts together. Default none.
    tol : float
        Feasibility tolerance, relative to the size of each row, and for a MIP the gap; in
        [1e-10, 1e-2]. Default 1e-9: see `check.DEFAULT_TOLERANCE`.
    start : array (n,), optional
        A known point to start from (a MIP's incumbent); backends without `warm_start` ignore it.

    Returns
    -------
    Solution
        Checked: an OPTIMAL point meets the constraints and, for LP and QP, its multipliers the
        optimality conditions; a MIP's integers are integers exactly; INFEASIBLE LPs and QPs carry
        a Farkas ray, UNBOUNDED ones a feasible point and a ray. What fails becomes
        NUMERICAL. Running out of time, or Ctrl-C where the solver hears it, is a status.

    Raises
    ------
    ProblemError
        For a `tol`, `time_limit` or `start` out of range.
    UnknownBackendError, MissingPackageError, UnsupportedProblemError
        Where no backend can take the problem; the message says which could.
    """
    chosen = choose(problem, backend)
    limit = checked_limits(tol, time_limit)
    if start is not None:
        start = np.asarray(start, dtype=np.float64)
        if start.shape != problem.c.shape or not np.isfinite(start).all():
            raise ProblemError(
                f"start has shape {start.shape}; expected a finite point {problem.c.shape}."
            )
    deadline = time.perf_counter() + limit
    solution = run_checked(chosen, problem, tol=tol, time_limit=limit, start=start)
    for name in available() if backend is None else ():
        left = deadline - time.perf_counter()
        if solution.status not in RETRIED or left <= 0:
            break
        other = get(name)
        if other.name != chosen.name and other.capabilities.supports(problem):
            second = run_checked(other, problem, tol=tol, time_limit=left, start=solution.x)
            if second.status not in RETRIED or second.value < solution.value:
                solution = second
    return solution


def choose(problem: Problem, backend: str | Backend | None) -> Backend:
    """Return the backend asked for, or the first available one that solves this kind of problem."""
    kind = _kind(problem)
    if backend is None:
        for name in available():
            candidate = get(name)
            if candidate.capabilities.supports(problem):
                return candidate
        raise UnsupportedProblemError(
            f"no installed backend solves a {kind} (installed: {', '.join(available())}); SCIP "
            "solves every kind but continuous quadratic programs: pip install pyscipopt"
        )
    chosen = get(backend) if isinstance(backend, str) else backend
    if not chosen.capabilities.supports(problem):
        others = [name for name in available() if get(name).capabilities.supports(problem)]
        raise UnsupportedProblemError(
            f"backend {chosen.name!r} does not solve a {kind}; installed ones that do: "
            f"{', '.join(others) or 'none'}."
        )
    return chosen


def checked_limits(tol: float, time_limit: float | None) -> float:
    """Return the time limit, inf for none, once both numbers are known to be in range."""
    if not TOLERANCES[0] <= tol <= TOLERANCES[1]:
        raise ProblemError(f"tol = {tol}; expected {TOLERANCES[0]} to {TOLERANCES[1]}.")
    if time_limit is None:
        return math.inf
    if not time_limit >= 0:
        raise ProblemError(f"time_limit = {time_limit}; expected seconds, at least 0, or None.")
    return time_limit


def run_checked(
    backend: Backend,
    problem: Problem,
    *,
    tol: float,
    time_limit: float,
    start: FloatArray | None = None,
) -> Solution:
    """`solve` once the arguments are known to be good."""
    begin = time.perf_counter()
    deadline = begin + time_limit
    solution = _attempts(backend, problem, tol, deadline, start)
    solution = settle(backend, problem, solution, tol, deadline)
    return replace(solution, stats=replace(solution.stats, seconds=time.perf_counter() - begin))


def settle(
    backend: Backend, problem: Problem, solution: Solution, tol: float, deadline: float
) -> Solution:
    """Complete an accepted answer: rays for an LP or QP; for a MIP exact integers, or two runs."""
    if not isinstance(problem, MixedIntegerProgram):
        return _with_evidence(backend, problem, solution, tol, deadline)
    if solution.status is Status.OPTIMAL:
        return _polished(backend, problem, solution, tol, deadline)
    if solution.status is Status.INFEASIBLE:
        return _confirmed(backend, problem, solution, tol, deadline)
    return solution


def _attempts(
    backend: Backend, problem: Problem, tol: float, deadline: float, start: FloatArray | None
) -> Solution:
    solution = _attempt(backend, problem, tol, deadline, start, presolve=True)
    if solution.status in RETRIED and time.perf_counter() < deadline:
        first = solution
        start = start if first.x is None else first.x
        solution = _attempt(backend, problem, tol, deadline, start, presolve=False)
        if solution.status in RETRIED and first.value < solution.value:
            solution = first
        solution = replace(solution, stats=replace(solution.stats, attempts=2))
    return solution


def _attempt(
    backend: Backend,
    problem: Problem,
    tol: float,
    deadline: float,
    start: FloatArray | None,
    presolve: bool,
) -> Solution:
    scaling = Scaling.of(problem)
    raw = backend.run(
        problem.scaled(scaling.rows, scaling.cost),
        tol=tol,
        time_limit=max(0.0, deadline - time.perf_counter()),
        presolve=presolve,
        start=start,
    )
    return accept(problem, scaling.undo(raw), tol)


def _with_evidence(
    backend: Backend, problem: Problem, solution: Solution, tol: float, deadline: float
) -> Solution:
    """Settle by two more LPs what is unknown or unproven about an LP or QP; fail closed."""
    status, point, ray = solution.status, solution.x, solution.ray
    if status in (Status.INFEASIBLE, Status.UNBOUNDED):
        if ray is not None and (status is Status.INFEASIBLE or point is not None):
            return solution
        solution = Solution(Status.NUMERICAL, solution.stats)
    elif status not in RETRIED:
        return solution
    claim, phase_one = _with_farkas_ray(backend, problem, solution, tol, deadline)
    if claim.ray is not None:
        return claim
    if phase_one.x is not None:
        if status is not Status.UNBOUNDED or ray is None:
            steepest = ray_program(problem)
            helper = _exact_helper(backend, steepest)
            ray = _attempts(helper, steepest, tol, deadline, None).x
        point = phase_one.x[: problem.c.size]
        claim = Solution(Status.UNBOUNDED, solution.stats, x=point, ray=ray)
        claim = accept(problem, claim, tol)
        if claim.x is not None and claim.ray is not None:
            return claim
    if time.perf_counter() >= deadline:
        return replace(solution, status=Status.TIME_LIMIT)
    return solution


def _with_farkas_ray(
    backend: Backend, problem: Problem, solution: Solution, tol: float, deadline: float
) -> tuple[Solution, Solution]:
    """Claim infeasibility, with a ray if there is one; also return the LP that looked for it."""
    first = farkas_program(problem)
    found = _attempts(_exact_helper(backend, first), first, tol, deadline, None)
    rows = None if found.duals is None else found.duals.rows
    return accept(problem, Solution(Status.INFEASIBLE, solution.stats, ray=rows), tol), found


def _confirmed(
    backend: Backend, problem: MixedIntegerProgram, solution: Solution, tol: float, deadline: float
) -> Solution:
    """Prove an infeasible MIP by its relaxation, or else ask again without presolve.

    Presolving was seen to lose feasible points; what two runs do not agree on is not claimed.
    """
    proved, _ = _with_farkas_ray(backend, problem, solution, tol, deadline)
    if proved.ray is not None:
        return proved
    if solution.stats.attempts > 1:
        return solution
    again = _attempt(backend, problem, tol, deadline, None, presolve=False)
    again = replace(again, stats=replace(again.stats, attempts=2))
    if again.status is Status.OPTIMAL:
        return _polished(backend, problem, again, tol, deadline)
    return again


def farkas_program(problem: Problem) -> LinearProgram:
    """Ask for the least total violation of the rows within the bounds.

    Always feasible and bounded; its row duals are Farkas multipliers if the optimum is positive.
    """
    m, n = problem.A.shape
    slack = diags_array(1.0 / row_scales(problem), shape=(m, m), format="csr")
    return LinearProgram(
        np.concatenate([np.zeros(n), np.ones(2 * m)]),
        hstack([problem.A, slack, -slack], format="csr"),
        problem.row_lower,
        problem.row_upper,
        np.concatenate([problem.lower, np.zeros(2 * m)]),
        np.concatenate([problem.upper, np.full(2 * m, np.inf)]),
    )


def ray_program(problem: Problem) -> LinearProgram:
    """Ask for the steepest descent along directions that never leave the feasible set.

    They have entries up to one, and do not bend the objective.
    """
    A, row_lower, row_upper = problem.A, problem.row_lower, problem.row_upper
    low, high = _cone(row_lower, row_upper, np.inf)
    if problem.quadratic is not None:
        A = np.concatenate([A.toarray(), problem.quadratic.toarray()])
        flat = np.zeros(problem.c.size)
        low, high = np.concatenate([low, flat]), np.concatenate([high, flat])
    return LinearProgram(problem.c, A, low, high, *_cone(problem.lower, problem.upper, 1.0))


def _cone(lower: FloatArray, upper: FloatArray, size: float) -> tuple[FloatArray, FloatArray]:
    return np.where(np.isfinite(lower), 0.0, -size), np.where(np.isfinite(upper), 0.0, size)


def _polished(
    backend: Backend, problem: MixedIntegerProgram, solution: Solution, tol: float, deadline: float
) -> Solution:
    """Fix the integers at integers and solve for the rest.

    Solvers agree to 6 digits before this step and to 15 after it.
    """
    assert solution.x is not None  # accept() saw to it
    integer = problem.integrality
    rounded = np.round(solution.x)
    whole = np.array_equal(rounded[integer], solution.x[integer])
    if time.perf_counter() >= deadline:
        return solution if whole else _pointless(solution, Status.TIME_LIMIT)
    fixed = problem.relaxed().updated(
        lower=np.where(integer, rounded, problem.lower),
        upper=np.where(integer, rounded, problem.upper),
    )
    found = _attempts(_exact_helper(backend, fixed), fixed, tol, deadline, None)
    if found.x is None:
        hurried = found.status in (Status.TIME_LIMIT, Status.INTERRUPTED)
        if hurried and whole:
            return solution
        status = found.status if hurried else Status.NUMERICAL
        return _pointless(solution, status)
    # Integer columns come back within a rounding of their fixed bounds: put them there.
    exact = accept(problem, replace(solution, x=np.where(integer, rounded, found.x)), tol)
    bound = solution.dual_bound if integer.any() else found.dual_bound
    return replace(exact, dual_bound=min(bound, exact.value))


def _pointless(solution: Solution, status: Status) -> Solution:
    """Return what is left of an answer whose point did not hold."""
    return replace(solution, status=status, x=None, value=math.inf)


def _exact_helper(backend: Backend, problem: Problem) -> Backend:
    """Return the backend itself where its answers are exact, or the best one that is."""
    if backend.capabilities.basic and backend.capabilities.supports(problem):
        return backend
    return choose(problem, None)


def _kind(problem: Problem) -> str:
    if isinstance(problem, MixedIntegerProgram):
        return "mixed-integer program" + (
            " with a quadratic objective" if problem.P is not None else ""
        )
    return "linear program" if problem.quadratic is None else "quadratic program"
