"""RecurJac's Theorem 2: a margin cannot fall faster than its local Lipschitz constants allow.

With ``Lip(r)`` a Lipschitz constant of the margin g over the ball of radius r,

    g(x + delta) >= g(x) - integral of Lip over [0, ||delta||] >= g(x) - (R/n) sum_i Lip(i R/n).

The paper searches the largest R for which this is not negative by bisection, with n constants for
every R tried.  Here one grid over [0, R] gives more: the constants hold on each of its intervals,
so the sum is followed to the point where it uses up the margin, between two grid points.  The
radius found is proved as it stands; grids with an end ever nearer to it make it the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from polytope.bounds.inputs import InputSet
from polytope.network.engine import Engine
from polytope.operator_norms import UNIT
from polytope.sensitivity.jacobian import JacobianMethod, block_rows
from polytope.sensitivity.norms import norms_above, norms_over
from solvers.norms import dual_exponent

#: Grids at most.
GRIDS = 8
#: Another grid is only made while the radius grows by more than this part.
GAIN = 1e-3
#: The first grids have this many times fewer intervals.
COARSER = 5
#: Doublings of a radius that no grid reached the end of.
DOUBLINGS = 40

#: The balls of some points (by number) of given radii, met with the box.
Balls = Callable[[np.ndarray, np.ndarray], InputSet]


@dataclass(frozen=True)
class Integral:
    """How local Lipschitz constants are computed and summed."""

    net: Engine
    method: JacobianMethod
    p: float
    intervals: int
    memory: int

    def radii(
        self, balls: Balls, C: torch.Tensor, margin: np.ndarray, reach: np.ndarray, cap: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The radius proved for each point, and the margin that stops it.

        Parameters
        ----------
        balls : callable
        C : tensor (n, k, outputs)
            The margins of each point.
        margin : float64 (n, k)
            Lower bounds of their values at the points.
        reach : float64 (n,)
            The margins' distance to 0 along their gradients: no radius by constants is larger.
        cap : float64 (n,)
            A radius that all of the box lies within, or inf.

        Returns
        -------
        radius : float64 (n,)
            0 where a margin is not positive; inf where nothing in the box uses them up.
        place : int64 (n,)
            -1 where none does.
        """
        best, place = np.zeros(len(margin)), margin.argmin(axis=1)
        end = np.minimum(reach * (1 + 1e-6), cap)
        for intervals in (max(2, self.intervals // COARSER), self.intervals):
            rows = np.flatnonzero((margin > 0).all(axis=1) & np.isfinite(best))
            for _ in range(GRIDS + DOUBLINGS):
                if not len(rows):
                    break
                grid = end[rows, None] * np.arange(1, intervals + 1) / intervals
                found, at = _followed(grid, self._constants(balls, C, rows, grid), margin[rows])
                through = np.isinf(found)
                done = through & (end[rows] >= cap[rows])
                before = best[rows]
                reached = np.where(through, end[rows] * (1 - 1e-12), found)
                better = reached > before
                best[rows] = np.where(done, np.inf, np.maximum(before, reached))
                place[rows] = np.where(done, -1, np.where(better & ~through, at, place[rows]))
                nearer = np.minimum(best[rows] * (1 + 1 / intervals), cap[rows])
                further = np.where(before > 0, 1 + 4 / intervals, 2.0) * end[rows]
                worth = (reached > before * (1 + GAIN)) & (nearer < end[rows] * (1 - GAIN))
                end[rows] = np.where(through, np.minimum(further, cap[rows]), nearer)
                rows = rows[~done & (through | (worth & (reached > 0)))]
        return best, place

    def _constants(
        self, balls: Balls, C: torch.Tensor, rows: np.ndarray, grid: np.ndarray
    ) -> np.ndarray:
        """Lipschitz constants of the margins over nested balls: (rows, intervals, k), ascending."""
        count, functions = grid.shape[1], C.shape[1]
        step = block_rows(self.net, functions * count, self.memory)
        parts = []
        for start in range(0, len(rows), step):
            own = rows[start : start + step]
            sets = balls(own.repeat(count), grid[start : start + step].reshape(-1))
            each = C[torch.as_tensor(own.repeat(count))]
            low, high, norms, jumps = (
                v.reshape(len(own), count, *v.shape[1:])
                for v in norms_over(self.net, sets, each, self.p, self.method, self.memory)
            )
            low = np.maximum.accumulate(low[:, ::-1], axis=1)[:, ::-1]
            high = np.minimum.accumulate(high[:, ::-1], axis=1)[:, ::-1]
            sizes = np.maximum(np.abs(low), np.abs(high))
            norms = np.fmin(norms, norms_above(sizes, dual_exponent(self.p)))
            norms = np.minimum.accumulate(norms[:, ::-1], axis=1)[:, ::-1]
            parts.append(np.where(jumps[:, :, None], np.inf, norms))
        return np.concatenate(parts)


def _followed(
    grid: np.ndarray, constants: np.ndarray, margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the sums of the constants use up a margin first; inf if they do not.

    Parameters
    ----------
    grid : float64 (n, intervals)
        Radii, ascending.
    constants : float64 (n, intervals, k)
    margin : float64 (n, k)
        Positive.

    Returns
    -------
    radius : float64 (n,)
    place : int64 (n,)
    """
    n, count, k = constants.shape
    steps = np.diff(grid, prepend=0.0, axis=1)
    sums = np.cumsum(steps[:, :, None] * constants, axis=1) * (1 + 4 * count * UNIT)
    before = np.concatenate([np.zeros((n, 1, k)), sums[:, :-1]], axis=1)
    used = sums >= margin[:, None] * (1 - 8 * UNIT)
    first = used.argmax(axis=1)[:, None]
    last, slope = (np.take_along_axis(v, first, axis=1)[:, 0] for v in (before, constants))
    start = np.take_along_axis(grid - steps, first[:, 0], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.maximum((margin - last) / slope, 0.0)
    found = (start * (1 - 4 * UNIT) + np.where(np.isnan(rest), 0.0, rest)) * (1 - 1e-11)
    found = np.where(used.any(axis=1), found, np.inf)
    return found.min(axis=1), found.argmin(axis=1)
