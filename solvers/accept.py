"""The one gate between solvers and callers: no answer passes on a solver's word alone."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from solvers.check import dual_value, farkas_holds, ray_holds, residuals
from solvers.problem import MixedIntegerProgram, Problem
from solvers.scaling import cost_scale
from solvers.solution import Duals, Solution, Status

__all__ = ["accept"]

RESIDUAL_SLACK: Final = 100.0
"""A solver meets its tolerance on a presolved, rescaled problem; undoing that costs up to two
digits. An answer worse than this many times the tolerance counts as a failure."""

INTEGRALITY_TOLERANCE: Final = 1e-6
"""Default of every MIP solver. What is nearer to integers is rounded: a point is returned with
integers, or not at all."""

GAP_TOLERANCE: Final = 1e-6
"""Between value and dual bound of an optimal MIP, relative to their size. Gaps of 1e-9 are asked
for and eight digits (CBC prints no more) of a point returned: a wider gap is a search cut short."""


def accept(problem: Problem, solution: Solution, tol: float) -> Solution:
    """Keep of a backend's answer what passes.

    A point that is not feasible is dropped, a wrong ray is dropped, "optimal" without a point or
    with residuals above ``RESIDUAL_SLACK * tol`` becomes NUMERICAL; value, reduced costs and (for
    LP and QP) the dual bound are recomputed. A MIP's dual bound stays the solver's word, lowered by
    what its tolerances can make of it; "optimal" beside a wide gap becomes NUMERICAL. "Infeasible
    or unbounded" is infeasible where the bounds of the columns leave nothing else; an "unbounded"
    MIP without a point may be either, since solvers say so of its relaxation.
    """
    limit = RESIDUAL_SLACK * tol
    status, x, duals, ray = solution.status, solution.x, solution.duals, solution.ray
    linear = not isinstance(problem, MixedIntegerProgram)
    if status is Status.UNBOUNDED and x is None and not linear:
        status = Status.INFEASIBLE_OR_UNBOUNDED
    if status is Status.INFEASIBLE_OR_UNBOUNDED and _bounded_below(problem):
        status = Status.INFEASIBLE
    bound = -math.inf if linear or math.isnan(solution.dual_bound) else solution.dual_bound
    rows = None
    if duals is not None and linear and np.isfinite(duals.rows).all():
        rows = duals.rows
    if x is not None:
        found = residuals(problem, x, rows)
        if found.primal > limit or found.integrality > INTEGRALITY_TOLERANCE:
            x = None
        elif status is Status.OPTIMAL and found.dual > limit:
            status = Status.NUMERICAL
    if x is not None and isinstance(problem, MixedIntegerProgram):
        whole = np.where(problem.integrality, np.round(x), x)
        if residuals(problem, whole).primal <= limit:
            x = whole
        elif status is not Status.OPTIMAL:  # `solve` looks for a whole point beside an optimal one
            x = None
    if status is Status.OPTIMAL and (x is None or (linear and duals is not None and rows is None)):
        status = Status.NUMERICAL
    duals = None
    if x is not None and rows is not None:
        duals = Duals(rows, problem.gradient(x) - problem.derived.transposed @ rows)
        bound = dual_value(problem, rows, x, limit)
    value = math.inf if x is None else problem.objective(x)
    if not linear and math.isfinite(bound):
        size = max(1.0 / cost_scale(problem), abs(bound))
        if status is Status.OPTIMAL and value - bound > GAP_TOLERANCE * size:
            status = Status.NUMERICAL
        bound -= limit * size
    if ray is not None:
        holds = farkas_holds if status is Status.INFEASIBLE else ray_holds
        ray = ray if holds(problem, ray, limit) else None
    if status is Status.INFEASIBLE:
        x, value, bound, duals = None, math.inf, math.inf, None
    elif status is Status.UNBOUNDED:
        value, bound, duals = -math.inf, -math.inf, None
    return replace(
        solution,
        status=status,
        x=x,
        value=value,
        dual_bound=min(bound, value),
        duals=duals,
        ray=ray,
    )


def _bounded_below(problem: Problem) -> bool:
    """Whether the bounds of the columns alone keep the objective from falling for ever."""
    falls_down = (problem.c > 0) & np.isinf(problem.lower)
    falls_up = (problem.c < 0) & np.isinf(problem.upper)
    return not (falls_down | falls_up).any()
