"""Lower bounds of Lipschitz constants: the operator norm of the Jacobian at sampled points.

Candidates are found in floats; the best are then proved.  RecurJac over the single point gives an
interval matrix around the Jacobian there that counts every rounding error (and, at a kink, holds
all the Jacobians nearby), and a step that this matrix must stretch is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from polytope.bounds.derivatives import derivatives
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import MEMORY, layer_bounds
from polytope.bounds.recurjac import Backward
from polytope.network.engine import Engine
from polytope.operator_norms import UNIT, computable, norm_and_step, steepest, vector_norms
from polytope.sensitivity.domains import sample_points
from solvers.norms import dual_exponent

#: Steps of the power method where a norm is NP-hard; any step is a lower bound.
POWER_STEPS = 12
#: Candidates that are proved.
PROVED = 2


@dataclass(frozen=True, eq=False)
class Stretched:
    """What was proved at the best sample of each set.

    Attributes
    ----------
    lower : float64 (n,)
    point : float64 (n, d)
    jacobian : float64 (n, m, d)
    """

    lower: np.ndarray
    point: np.ndarray
    jacobian: np.ndarray


def sampled_lower(
    net: Engine,
    inputs: InputSet,
    rows: torch.Tensor,
    p: float,
    q: float,
    samples: int,
    seed: int,
    memory: int = MEMORY,
) -> Stretched:
    """Proved lower bounds of the largest ``||J||`` from l_p to l_q over n sets.

    Parameters
    ----------
    net : Engine
    inputs : InputSet
    rows : tensor (1, m, outputs)
        The functions of the outputs that are meant.
    p, q : float
    samples : int
        Points per set.
    seed : int
    memory : int
        Bytes for one block.
    """
    points = sample_points(inputs, samples, seed)
    n, _, d = points.shape
    m = rows.shape[1]
    best, place, matrix = np.full(n, -1.0), np.zeros((n, d)), np.zeros((n, m, d))
    for i in range(n):
        sizes = []
        for part in torch.split(points[i], max(1, memory // (16 * m * d))):
            found = jacobians(net, part, rows).cpu().numpy()
            sizes.append(stretch(np.where(np.isfinite(found), found, 0.0), p, q)[0])
        order = np.argsort(-np.concatenate(sizes), kind="stable")[:PROVED]
        chosen = points[i][torch.as_tensor(order.copy())]
        lower, middle = proved_norms(net, chosen, rows, p, q, memory)
        k = int(lower.argmax())
        best[i], place[i], matrix[i] = lower[k], chosen[k].cpu().numpy(), middle[k]
    return Stretched(best, place, matrix)


def jacobians(net: Engine, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Jacobians of ``rows @ outputs`` at points (k, d), by reverse passes: (k, m, d)."""
    with torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        outputs = net.forward(points.reshape(-1, *net.input_shape)).flatten(1) @ rows[0].T
        found = []
        for j in range(rows.shape[1]):
            gradient = None
            if outputs.requires_grad:
                (gradient,) = torch.autograd.grad(
                    outputs[:, j].sum(), points, retain_graph=True, allow_unused=True
                )
            found.append(torch.zeros_like(points) if gradient is None else gradient)
    return torch.stack(found, dim=1).detach()


def proved_norms(
    net: Engine, x: torch.Tensor, rows: torch.Tensor, p: float, q: float, memory: int = MEMORY
) -> tuple[np.ndarray, np.ndarray]:
    """Proved lower bounds of ``||J||`` at points (k, d), and the Jacobians there."""
    with torch.no_grad():
        bounds = layer_bounds(net, InputSet.from_box(x, x), memory=memory)
        found = Backward(net, derivatives(bounds), rows, memory).jacobian()
    shape = (len(x), *found.low.shape[1:])
    low, high = (v.expand(shape).cpu().numpy() for v in (found.low, found.high))
    finite = (np.isfinite(low) & np.isfinite(high)).all(axis=(1, 2), keepdims=True)
    low, high = (np.where(finite, v, 0.0) for v in (low, high))
    middle, radius = (low + high) / 2, (high - low) / 2
    radius = radius * (1 + 4 * UNIT) + 2 * UNIT * np.maximum(np.abs(low), np.abs(high))
    _, step = stretch(middle, p, q)
    image = np.einsum("nmd,nd->nm", middle, step)
    rounding = 2 * (middle.shape[2] + 4) * UNIT
    off = np.einsum("nmd,nd->nm", radius + rounding * np.abs(middle), np.abs(step))
    length = vector_norms(np.maximum(np.abs(image) - off * (1 + rounding), 0.0), q)
    room = 1 - 64 * (sum(middle.shape[1:]) + 16 * (_power(p) + _power(q))) * UNIT
    size = vector_norms(step, p)
    proved = np.where(size > 0, length / np.where(size > 0, size, 1.0) * room, 0.0)
    return np.where(finite[:, 0, 0], proved, 0.0), middle


def stretch(J: np.ndarray, p: float, q: float) -> tuple[np.ndarray, np.ndarray]:
    """How far some step of p-norm 1 is stretched: the operator norm where it is computable.

    Elsewhere Boyd's power method, from the steps that are steepest for each row.
    """
    n, m, d = J.shape
    if computable(p, q, m, d):
        return norm_and_step(J, p, q)
    best, step = np.full(n, -1.0), np.zeros((n, d))
    for start in range(m):
        v = steepest(J[:, start], p)
        for _ in range(POWER_STEPS):
            image = np.einsum("nmd,nd->nm", J, v)
            length = vector_norms(image, q)
            better = length > best
            best, step = np.where(better, length, best), np.where(better[:, None], v, step)
            v = steepest(np.einsum("nmd,nm->nd", J, steepest(image, dual_exponent(q))), p)
    return best, step


def _power(p: float) -> int:
    return 0 if p in (1.0, 2.0, math.inf) else math.ceil(p)
