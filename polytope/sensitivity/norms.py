"""Norms of interval Jacobians over input sets, rounded up."""

from __future__ import annotations

import math

import numpy as np
import torch

from polytope.bounds.derivatives import derivatives, has_jumps
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import MEMORY, layer_bounds
from polytope.bounds.recurjac import Backward
from polytope.network.engine import Engine
from polytope.operator_norms import UNIT, operator_norm_bounds, vector_norms
from polytope.sensitivity.jacobian import JacobianMethod, bounds_over
from solvers.norms import dual_exponent


def norms_over(
    net: Engine, inputs: InputSet, rows: torch.Tensor, p: float, method: JacobianMethod,
    memory: int = MEMORY,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Bounds of the Jacobian over n sets, and of the norms of its rows.

    Parameters
    ----------
    net : Engine
    inputs : InputSet
    rows : tensor (n or 1, m, outputs)
    p : float
        Norm of the inputs; rows have the dual norm.
    method : str
        Of `jacobian_bounds`.
    memory : int

    Returns
    -------
    low, high : float64 (n, m, d)
    norms : float64 (n, m)
        With the paper's improvement for p = inf where the method is "recurjac".
    jumps : bool (n,)
    """
    q = dual_exponent(p)
    if method != "recurjac" or p != math.inf:
        found, at = bounds_over(net, inputs, rows, method, memory)
        norms = norms_above(found.size.numpy(), q)
        return found.low.numpy(), found.high.numpy(), norms, at.numpy()
    bounds = layer_bounds(net, inputs, memory=memory)
    recursion = Backward(net, derivatives(bounds), rows, memory)
    found = recursion.jacobian()
    steps = (found.low > 0).to(found.low.dtype) - (found.high < 0).to(found.low.dtype)
    rest = torch.where(steps == 0, found.size, torch.zeros_like(found.size)).numpy()
    sums = rest.sum(axis=2) * (1 + 2 * rest.shape[2] * UNIT)
    sums = np.maximum((sums + recursion.along(steps).numpy()) * (1 + 4 * UNIT), 0.0)
    shape = (len(inputs), *found.low.shape[1:])
    low, high = (v.expand(shape).numpy() for v in (found.low, found.high))
    return low, high, np.broadcast_to(sums, shape[:2]), has_jumps(bounds).numpy()


def size_norm(size: np.ndarray, pair: tuple[float, float]) -> np.ndarray:
    """Upper bounds of the norms of matrices of absolute values; inf where one is infinite."""
    finite = np.isfinite(size).all(axis=(1, 2))
    safe = np.where(finite[:, None, None], size, 0.0)
    return np.where(finite, operator_norm_bounds(safe, *pair)[1], np.inf)


def norms_above(sizes: np.ndarray, p: float) -> np.ndarray:
    """p-norms along the last axis of values that are at least 0, rounded up."""
    powers = 0 if p in (1.0, 2.0, math.inf) else math.ceil(p)
    room = 64 * (sizes.shape[-1] + 64 * powers) * UNIT
    return np.asarray(vector_norms(sizes, p) * (1 + room))
