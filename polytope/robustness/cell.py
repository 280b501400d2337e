"""The distance to the adversarial part of one region: an LP or QP, and a bound that is proved.

The solver only proposes.  For multipliers ``lam >= 0`` of the rows ``A z <= b`` every point of
the cell satisfies the single row ``(A' lam) z <= lam' b``; the distance to that halfspace
inside the box is an exact projection, and the best multipliers make it the distance to the
cell (strong duality).  So the bound holds whatever the solver returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array, hstack, vstack

from polytope.region import Region
from polytope.sets import Box
from solvers.norms import dual_exponent
from solvers.problem import LinearProgram, QuadraticProgram
from solvers.projection import project_to_hyperplane
from solvers.registry import available
from solvers.solution import Solution, Status
from solvers.solve import solve

#: Coordinates up to which a dense active-set method (daqp, if installed) takes the QPs.
DENSE = 1024
#: Seconds for one LP or QP; without an answer the bound known before stays.
TIME_LIMIT = 10.0


@dataclass(frozen=True)
class Cell:
    """``{z : A z <= b}`` with bounds on the errors of A (l_1 per row) and b."""

    A: np.ndarray
    b: np.ndarray
    normal_error: np.ndarray
    offset_error: np.ndarray


@dataclass(frozen=True)
class CellDistance:
    """A proved lower bound on the distance to a cell, and a step that may attain it.

    The bound is that of the halfspace that multipliers of the cell's rows combine.
    """

    lower: float
    step: np.ndarray | None
    multipliers: np.ndarray | None = None


def adversarial_cell(region: Region, label: int, target: int) -> Cell:
    """The part of a region where class `target` is at least as high as `label`."""
    jacobian, offset = region.jacobian, region.offset
    slope_error, value_error = region.jacobian_error, region.value_error
    if len(offset) == 1:
        jacobian = np.vstack([np.zeros_like(jacobian), jacobian])
        offset, slope_error, value_error = (
            np.append(0.0, v) for v in (offset, slope_error, value_error)
        )
    keep = ~region.zero_rows
    unit = np.finfo(np.float64).eps
    size = np.abs(jacobian[label]).sum() + np.abs(jacobian[target]).sum()
    return Cell(
        A=np.vstack([region.A[keep], jacobian[label] - jacobian[target]]),
        b=np.append(region.b[keep], offset[target] - offset[label]),
        normal_error=np.append(
            region.normal_error[keep], slope_error[label] + slope_error[target] + unit * size
        ),
        offset_error=np.append(
            region.offset_error[keep],
            value_error[label] + value_error[target]
            + unit * (abs(offset[label]) + abs(offset[target])),
        ),
    )  # fmt: skip


def facet_cell(region: Region, layer: int, unit: int, slot: int) -> Cell:
    """The part of a region on the hyperplane of one of its rows (a facet, if it is not empty)."""
    units = region.units
    mine = (units.layer == layer) & (units.unit == unit) & (units.slot == slot)
    keep = ~region.zero_rows | mine
    at = np.flatnonzero(mine[keep])
    A, b = region.A[keep], region.b[keep]
    normal_error, offset_error = region.normal_error[keep], region.offset_error[keep]
    return Cell(
        A=np.vstack([A, -A[at]]),
        b=np.append(b, -b[at]),
        normal_error=np.append(normal_error, normal_error[at]),
        offset_error=np.append(offset_error, offset_error[at]),
    )


def cell_distance(
    cell: Cell, x: np.ndarray, p: float, box: Box | None, quick: bool = False
) -> CellDistance:
    """Bound the l_p distance from a point to a cell met with a box.

    Parameters
    ----------
    cell : Cell
    x : array (d,)
        A point of the box.
    p : float
    box : Box or None
    quick : bool
        Take the multipliers of an LP (the nearest point in l_inf) for any norm: a weaker
        bound, but an empty cell is still proved empty. Norms other than 1, 2 and inf
        always do.

    Returns
    -------
    CellDistance
        ``lower`` is inf if the multipliers prove the cell empty within the box.
    """
    search = math.inf if quick or p not in (1.0, 2.0) else p
    scale = np.abs(cell.A).max(axis=1)
    scale[scale == 0] = 1.0
    A = cell.A / scale[:, None]
    slack = (cell.b - cell.A @ x) / scale
    low = np.full(len(x), -np.inf) if box is None else box.low - x
    high = np.full(len(x), np.inf) if box is None else box.high - x
    quadratic = search == 2 and len(x) <= DENSE and "daqp" in available()
    solution = solve(
        _nearest(A, slack, low, high, search), "daqp" if quadratic else None, time_limit=TIME_LIMIT
    )
    multipliers = _multipliers(solution, len(A))
    if multipliers is None:
        return CellDistance(0.0, None)
    lower, projected = _proved(cell, multipliers / scale, x, low, high, p)
    step = None
    if solution.status is Status.OPTIMAL and solution.x is not None:
        step = _step(solution.x, len(x), search)
        if search == 2 and projected is not None:  # more exact than the solver's
            step = projected
    return CellDistance(lower, step, multipliers / scale)


def _nearest(
    A: np.ndarray, slack: np.ndarray, low: np.ndarray, high: np.ndarray, p: float
) -> LinearProgram | QuadraticProgram:
    """Minimise the size of a step with ``A step <= slack`` inside the box."""
    rows, d = A.shape
    below = np.full(rows, -np.inf)
    if p == 2:
        return QuadraticProgram(
            c=np.zeros(d), A=csr_array(A), row_lower=below, row_upper=slack,
            lower=low, upper=high, P=eye_array(d).tocsr(),
        )  # fmt: skip
    if p == 1:
        zero = np.zeros(d)
        return LinearProgram(
            c=np.ones(2 * d), A=csr_array(np.hstack([A, -A])), row_lower=below, row_upper=slack,
            lower=np.zeros(2 * d), upper=np.concatenate([np.maximum(high, zero),
                                                        np.maximum(-low, zero)]),
        )  # fmt: skip
    one = csr_array(np.ones((d, 1)))
    eye = eye_array(d).tocsr()
    table = vstack(
        [
            hstack([csr_array(A), csr_array((rows, 1))]),
            hstack([eye, -one]),
            hstack([-eye, -one]),
        ]
    )
    return LinearProgram(
        c=np.append(np.zeros(d), 1.0),
        A=table.tocsr(),
        row_lower=np.full(rows + 2 * d, -np.inf),
        row_upper=np.append(slack, np.zeros(2 * d)),
        lower=np.append(low, 0.0),
        upper=np.append(high, np.inf),
    )


def _step(x: np.ndarray, d: int, p: float) -> np.ndarray:
    """The step in a solution of `_nearest`."""
    return x[:d] - x[d:] if p == 1 else x[:d]


def _multipliers(solution: Solution, rows: int) -> np.ndarray | None:
    """Non-negative multipliers of the cell's rows that the solver proposes."""
    if solution.status is Status.OPTIMAL and solution.duals is not None:
        return np.maximum(-solution.duals.rows[:rows], 0.0)
    if solution.status is Status.INFEASIBLE and solution.ray is not None:
        return np.maximum(-solution.ray[:rows], 0.0)
    return None


def _proved(
    cell: Cell,
    multipliers: np.ndarray,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    p: float,
) -> tuple[float, np.ndarray | None]:
    """The distance to the halfspace of the combined rows, its rounding errors taken off."""
    largest = multipliers.max(initial=0.0)
    if largest <= 0 or not np.isfinite(largest):
        return 0.0, None
    weights = multipliers / largest
    normal = weights @ cell.A
    value = float(weights @ (cell.A @ x - cell.b))
    unit = (len(weights) + len(x) + 4) * np.finfo(np.float64).eps
    size = np.abs(x).max(initial=0.0)
    spread = weights @ (cell.normal_error + unit * np.abs(cell.A).sum(axis=1))
    error = weights @ (cell.offset_error + unit * np.abs(cell.b)) + size * spread
    if not value > error:
        return 0.0, None

    # Anywhere in the cell (|normal|_q + spread) |step|_p >= value - error; inside the box the
    # error of the normal acts on a step no longer than the box or the uncorrected distance.
    size_q = np.linalg.norm(normal, dual_exponent(p)) * (1 + unit)
    free = (value - error) / (size_q + spread) * (1 - unit) if size_q + spread > 0 else math.inf
    plain, step = _project(normal, value, low, high, p)
    reach = min(plain, float(np.maximum(high, -low).max(initial=0.0)))
    if not math.isfinite(reach):
        return free, step
    safe, _ = _project(normal, max(value - error - spread * reach, 0.0), low, high, p)
    return max(free, (1 - unit) * safe), step


def _project(
    normal: np.ndarray, residual: float, low: np.ndarray, high: np.ndarray, p: float
) -> tuple[float, np.ndarray | None]:
    """Distance inside the box to ``normal step = -residual``, and the step."""
    found = project_to_hyperplane(
        torch.as_tensor(normal), residual, torch.as_tensor(low), torch.as_tensor(high), p,
        return_delta=True,
    )  # fmt: skip
    return float(found.distance), None if found.delta is None else found.delta.numpy()
