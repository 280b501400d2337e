"""The least l_2 step into a few halfspaces inside a box, by a compiled dual Newton method.

For ``min 1/2 |s|^2  subject to  G s + h <= 0,  low <= s <= high`` and multipliers ``lam >= 0``,

    phi(lam) = min over the box of  1/2 |s|^2 + lam' (G s + h)

is concave and piecewise quadratic in as many variables as there are rows, and each of its values
is a lower bound (weak duality).  It is maximised by projected Newton steps with a line search
(Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J.
Control Optim. 1982), whose Hessian is that of the coordinates inside their bounds.  If phi
passes half the square of a radius, nothing is within it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from solvers.compiled import kernel
from solvers.errors import ProblemError

Floats = npt.NDArray[np.float64]
#: Newton steps; some ten are usual, and stopping early is sound.
STEPS = 60
#: Times a step is shortened, and to which part of it: to 1e-24 at the least, for steps from a
#: Hessian in which nearly all coordinates were at their bounds.
SHORTER, PART = 40, 0.25
#: Rows violated by less than this part of their terms, and multipliers that cost less than this
#: part of the value, are settled.
SETTLED = 1e-13
#: The Hessian's diagonal is raised by this part, for rows that depend on each other.
RIDGE = 1e-13
EPS = 2.0**-52


@dataclass(frozen=True)
class LeastNorm:
    """The answer to `least_norm`.

    Attributes
    ----------
    lower : float
        Proved lower bound of the l_2 distance, every rounding taken off.
    step : float64 (n,)
        The minimiser of the last multipliers, in the box; optimal within rounding if `settled`.
    multipliers : float64 (m,)
    settled : bool
        The optimality conditions hold, within rounding.
    """

    lower: float
    step: Floats
    multipliers: Floats
    settled: bool


@kernel(inline=True)
def _step(G: Floats, low: Floats, high: Floats, lam: Floats, w: Floats, s: Floats) -> None:
    """The minimiser over the box for given multipliers."""
    m, n = G.shape
    for i in range(n):
        w[i] = 0.0
    for k in range(m):
        if lam[k] != 0.0:
            for i in range(n):
                w[i] += lam[k] * G[k, i]
    for i in range(n):
        s[i] = min(max(-w[i], low[i]), high[i])


@kernel(inline=True)
def _phi(h: Floats, lam: Floats, w: Floats, s: Floats) -> float:
    """The dual function at its minimiser."""
    value = 0.0
    for i in range(len(s)):
        value += (0.5 * s[i] + w[i]) * s[i]
    for k in range(len(h)):
        value += lam[k] * h[k]
    return value


@kernel(inline=True)
def _solve(H: Floats, g: Floats, size: int) -> None:
    """Solve ``H p = g`` in place (Cholesky) for the leading block of a positive matrix."""
    for j in range(size):
        for k in range(j):
            H[j, j] -= H[j, k] * H[j, k]
        H[j, j] = math.sqrt(max(H[j, j], 1e-300))
        for i in range(j + 1, size):
            for k in range(j):
                H[i, j] -= H[i, k] * H[j, k]
            H[i, j] /= H[j, j]
        for k in range(j):
            g[j] -= H[j, k] * g[k]
        g[j] /= H[j, j]
    for j in range(size - 1, -1, -1):
        for i in range(j + 1, size):
            g[j] -= H[i, j] * g[i]
        g[j] /= H[j, j]


@kernel
def least_norm_kernel(
    G: Floats, h: Floats, low: Floats, high: Floats, enough: float, lam: Floats, s: Floats,
    w: Floats, H: Floats, g: Floats, trial: Floats, order: npt.NDArray[np.int64],
) -> bool:  # fmt: skip
    """Maximise phi from the multipliers given, compiled, without allocation; see `least_norm`.

    Parameters
    ----------
    G, h, low, high : float64 (m, n), (m,), (n,), (n,)
        Rows with largest entries about 1.
    enough : float
        Stop once phi is beyond this.
    lam, s : float64 (m,), (n,), written
    w, H, g, trial, order : float64 (n,), (m, m), (m,), (m,); int64 (m,)
        Scratch.
    """
    m, n = G.shape
    _step(G, low, high, lam, w, s)
    value = _phi(h, lam, w, s)
    for _ in range(STEPS):
        if value > enough:
            return True
        free = 0
        worst, cost = 0.0, 0.0
        for k in range(m):
            slack, size = h[k], abs(h[k])
            for i in range(n):
                slack += G[k, i] * s[i]
                size += abs(G[k, i] * s[i])
            if lam[k] > 0.0 or slack > 0.0:
                order[free] = k
                g[free] = slack
                free += 1
                if slack > SETTLED * size:
                    worst = max(worst, slack / size)
                cost += lam[k] * abs(slack)
        if worst == 0.0 and cost <= SETTLED * abs(value):
            return True
        for a in range(free):
            for b in range(a + 1):
                total = 0.0
                for i in range(n):
                    if low[i] <= -w[i] <= high[i]:
                        total += G[order[a], i] * G[order[b], i]
                H[a, b] = total
            H[a, a] += RIDGE * (1.0 + H[a, a])
        _solve(H, g, free)
        length, better = 1.0, False
        for _ in range(SHORTER):
            for k in range(m):
                trial[k] = 0.0
            for a in range(free):
                trial[order[a]] = max(lam[order[a]] + length * g[a], 0.0)
            _step(G, low, high, trial, w, s)
            new = _phi(h, trial, w, s)
            if new > value:
                better = True
                break
            length *= PART
        if not better:
            _step(G, low, high, lam, w, s)
            return False
        value = new
        for k in range(m):
            lam[k] = trial[k]
    return False


@kernel
def proved_kernel(
    G: Floats, h: Floats, low: Floats, high: Floats, lam: Floats, w: Floats, s: Floats
) -> float:
    """The l_2 distance that multipliers prove, every rounding taken off."""
    m, n = G.shape
    unit = (m + n + 8) * 2.0**-52
    _step(G, low, high, lam, w, s)
    value = _phi(h, lam, w, s)
    error = 0.0
    for k in range(m):
        error += abs(lam[k] * h[k])
    for i in range(n):
        terms = 0.0
        for k in range(m):
            terms += lam[k] * abs(G[k, i])
        far = max(abs(low[i]), abs(high[i]))
        # The weight is off by unit * terms, on a step of up to `far`; the rest is summing up.
        error += terms * (far if far < math.inf else abs(s[i]) + terms)
        error += 0.5 * s[i] * s[i] + abs(w[i] * s[i])
    square = 2.0 * (value - unit * error)
    if not square > 0.0:
        return 0.0
    return math.sqrt(square) * (1.0 - 4.0 * 2.0**-52)


def least_norm(
    G: npt.ArrayLike,
    h: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    radius: float = math.inf,
    start: npt.ArrayLike | None = None,
) -> LeastNorm:
    """The least step with ``G s + h <= 0`` in a box around zero.

    Parameters
    ----------
    G, h : float64 (m, n), (m,)
    low, high : float64 (n,)
        ``low <= 0 <= high``, finite.
    radius : float
        Distances beyond it need not be told apart: the search stops there.
    start : float64 (m,), optional
        Multipliers to begin with, at least 0.

    Raises
    ------
    ProblemError
        For shapes that do not fit, numbers that are not finite, or a box without zero.
    """
    rows, heights, lower, upper = (np.ascontiguousarray(a, dtype=np.float64)
                                   for a in (G, h, low, high))  # fmt: skip
    n, m = lower.size, heights.size
    if rows.shape != (m, n) or upper.shape != (n,) or lower.shape != (n,) or heights.ndim != 1:
        raise ProblemError(
            f"got shapes {rows.shape}, {heights.shape}, {lower.shape} and {upper.shape}, expected "
            "G (m, n), h (m,), and low and high (n,)"
        )
    if not all(np.isfinite(a).all() for a in (rows, heights, lower, upper)):
        raise ProblemError("all numbers must be finite; for open bounds use solvers.solve")
    if (lower > 0).any() or (upper < 0).any():
        raise ProblemError("the box does not hold the zero step; move the origin into it")
    scale = np.abs(rows).max(axis=1, initial=0.0)
    scale[scale == 0] = 1.0
    scaled, right = rows / scale[:, None], heights / scale
    lam = np.zeros(m) if start is None else np.maximum(np.asarray(start) * scale, 0.0)
    s, w = np.zeros(n), np.zeros(n)
    enough = math.inf if math.isinf(radius) else 0.5 * radius**2 * (1 + 1e-9)
    settled = least_norm_kernel(
        scaled, right, lower, upper, enough, lam, s, w, np.zeros((m, m)), np.zeros(m),
        np.zeros(m), np.zeros(m, np.int64),
    )  # fmt: skip
    lam /= scale
    step = s.copy()
    return LeastNorm(
        float(proved_kernel(rows, heights, lower, upper, lam, w, s)), step, lam, bool(settled)
    )
