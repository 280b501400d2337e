"""Exact rescaling before a solve, undone after it.

Solvers test absolute tolerances, so ``1e-12 x >= 1e-12`` looks satisfied at x = 0, and with costs
of 1e-12 every point looks optimal. Each row, and a linear objective, is therefore multiplied by
the power of two that brings its largest coefficient into [1, 2): exact in floating point (short
of overflow), so the problem solved is the problem given.
"""

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from solvers.problem import FloatArray, Problem
from solvers.solution import Duals, Solution, Status

__all__ = ["Scaling", "cost_scale", "row_scales"]


def row_scales(problem: Problem) -> FloatArray:
    """Power of two for each row (m,).

    A row without coefficients is ``0`` between its bounds: where that is false, however slightly,
    its offset is brought to size one, so that no tolerance can hide it.
    """
    sizes = problem.derived.row_sizes
    offset = np.maximum(np.maximum(problem.row_lower, -problem.row_upper), 0.0)
    return _to_unit(np.where(sizes == 0, offset, sizes))


def cost_scale(problem: Problem) -> float:
    """Power of two for the objective: from P where there is one, as c only shifts its minimum."""
    P = problem.quadratic
    coefficients = problem.c if P is None or not P.nnz else P.data
    return float(_to_unit(np.abs(coefficients).max(keepdims=True))[0])


@final
@dataclass(frozen=True, eq=False)
class Scaling:
    """Row scales (m,) and the objective's scale, all powers of two."""

    rows: FloatArray
    cost: float

    @classmethod
    def of(cls, problem: Problem) -> "Scaling":
        """Return the scales that bring a problem to size one."""
        return cls(row_scales(problem), cost_scale(problem))

    @np.errstate(over="ignore", invalid="ignore")  # infinite multipliers fail the checks
    def undo(self, solution: Solution) -> Solution:
        """Translate back duals, dual bound and Farkas ray."""
        duals, ray = solution.duals, solution.ray
        if duals is not None:
            duals = Duals(duals.rows * self.rows / self.cost, duals.columns / self.cost)
        if ray is not None and solution.status is Status.INFEASIBLE:
            ray = ray * self.rows
        return replace(solution, duals=duals, ray=ray, dual_bound=solution.dual_bound / self.cost)


def _to_unit(sizes: FloatArray) -> FloatArray:
    exponents = np.where(sizes > 0, np.frexp(sizes)[1] - 1, 0)
    # A float's exponent ends at 1023: 1000 keeps both the scale and its inverse representable.
    scales: FloatArray = np.ldexp(1.0, -np.clip(exponents, -1000, 1000))
    return scales
