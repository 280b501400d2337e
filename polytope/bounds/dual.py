"""The dual bound of Wong and Kolter (ICML 2018, arXiv 1711.00851), and the radius it proves.

Their dual network with the slope ``u / (u - l)`` below and above an open ReLU is the backward
pass of crown.py with parallel lines, for hidden layers as for the output; the same holds for
every piecewise-linear or smooth unit.  Bounds of hidden layers are also met with intervals.

The paper searches the largest radius by Newton's method on the bound, which may overshoot: the
bound falls ever faster as more units open.  Here a step of the secant is only a proposal inside a
bracket, and a radius is returned only if the bound has been computed *at it* and is positive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from polytope.bounds.crown import function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import MEMORY, layer_bounds
from polytope.bounds.relaxation import Rule
from polytope.network.engine import Engine

#: Steps of a search; the bracket shrinks by at least a quarter in each.
STEPS = 30
#: A search ends once its bracket is this narrow, relative to its upper end.
NARROW = 1e-4


def least_margins(
    net: Engine, inputs: InputSet, C: torch.Tensor, rule: Rule, memory: int = MEMORY
) -> torch.Tensor:
    """Lower bounds of ``C f(x)`` over n sets: (n, functions).

    Parameters
    ----------
    net : Engine
    inputs : InputSet
    C : tensor (n, functions, outputs)
    rule : "parallel" for the dual bound of Wong and Kolter, or "adaptive"
    memory : int
    """
    bounds = layer_bounds(net, inputs, rule=rule, memory=memory)
    return function_bounds(bounds, C, memory=memory).lower


def search_radius(
    value: Callable[[np.ndarray, np.ndarray], np.ndarray], start: np.ndarray, cap: np.ndarray
) -> np.ndarray:
    """The largest radii found at which a bound is positive; each has been checked itself.

    Parameters
    ----------
    value : callable
        ``value(rows, radii)``: the bounds of some rows at their radii.
    start : float64 (n,)
        Where to begin; positive and finite.
    cap : float64 (n,)
        Beyond these radii nothing changes: a bound positive there proves every radius.

    Returns
    -------
    float64 (n,)
        0 where no radius was proved, inf where all are.
    """
    n = len(start)
    low, high = np.zeros(n), np.full(n, np.inf)
    at_low, at_high = np.full(n, np.nan), np.full(n, np.nan)
    proposal = np.minimum(start, cap)
    rows = np.arange(n)
    for _ in range(STEPS):
        if not len(rows):
            break
        radii = proposal[rows]
        found = value(rows, radii)
        good = found > 0
        low[rows[good]], at_low[rows[good]] = radii[good], found[good]
        high[rows[~good]], at_high[rows[~good]] = radii[~good], found[~good]
        low[rows[good & (radii >= cap[rows])]] = np.inf
        wide = np.isinf(high) | (high * (1 - NARROW) > low)
        rows = np.flatnonzero(~np.isinf(low) & wide)
        proposal = _proposals(low, high, at_low, at_high, proposal)
        proposal = np.minimum(proposal, cap)
    return low


def _proposals(
    low: np.ndarray, high: np.ndarray, at_low: np.ndarray, at_high: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Where the secant crosses 0, kept off the ends of the bracket; twice or half without one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        width = high - low
        secant = low + width * at_low / (at_low - at_high)
        inside = np.clip(secant, low + width / 4, high - width / 4)
        inside = np.where(np.isfinite(inside), inside, low + width / 2)
    found = np.where(np.isinf(high), 2 * last, np.where(low == 0, high / 4, inside))
    return np.where(np.isinf(low), last, found)
