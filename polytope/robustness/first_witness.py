"""A first witness for every point: repeated linearisation, then bisection.

DeepFool (Moosavi-Dezfooli et al., CVPR 2016) in any norm and inside a box: the affine map at
the current iterate is taken for the whole network, and the iterate is projected onto its
nearest decision hyperplane.  Where the segment back to the point crosses the decision
boundary, the point itself is projected onto the hyperplane of that region (as in the
linear-region attack of Croce and Hein, GCPR 2018).  It proves nothing: what it finds is
verified like every other witness.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from polytope.model import Network
from polytope.robustness.witness import exact_witnesses
from polytope.rows import as_logits, row_normals
from polytope.sets import Box
from solvers.projection import project_to_hyperplane

#: Linearisations from a point; most points that can be changed are changed within five.
STEPS = 12
#: How far beyond the hyperplane the next iterate lies, relative to the step (DeepFool's 0.02).
OVERSHOOT = 0.02
#: Halvings of the segment to the best iterate: to a millionth; the last projections do the rest.
HALVINGS = 20
#: Projections onto the decision hyperplane of the region where the segment crosses it.
POLISHES = 3


def first_witnesses(
    net: Network,
    x: torch.Tensor,
    labels: np.ndarray,
    box: Box | None,
    p: float,
    memory: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adversarial points near `x`, verified in exact arithmetic.

    Parameters
    ----------
    net : Network
    x : tensor (n, *input_shape)
        Points decided as `labels`.
    labels : array (n,)
    box : Box or None
    p : float
    memory : int

    Returns
    -------
    distance : array (n,)
        l_p distance, rounded up; inf where none was found.
    witness : array (n, d)
    target : array (n,)
        The class that the witness goes to; -1 where there is none.
    """
    points = x.flatten(1).cpu().numpy()
    best = _iterate(net, x, labels, box, p, memory)
    distance, witness = exact_witnesses(net, points, best - points, labels, box, p)
    found = np.flatnonzero(np.isfinite(distance))
    here = _bisect(net, points[found], best[found], labels[found])
    for _ in range(POLISHES):
        if not len(found):
            break
        steps = _linearised(net, x[found], points[found], here, labels[found], box, p, memory)
        for candidate in (here - points[found], steps):
            nearer, moved = exact_witnesses(
                net, points[found], candidate, labels[found], box, p, rough=True
            )
            better = nearer < distance[found]
            distance[found[better]] = nearer[better]
            witness[found[better]] = moved[better]
        here = _bisect(net, points[found], witness[found], labels[found])
    target = np.full(len(points), -1, dtype=np.int64)
    if len(found):
        rivals = net.logits(witness[found])
        rivals[np.arange(len(found)), labels[found]] = -np.inf
        target[found] = rivals.argmax(axis=1)
    return distance, witness, target


def _iterate(
    net: Network, x: torch.Tensor, labels: np.ndarray, box: Box | None, p: float, memory: int
) -> np.ndarray:
    """The nearest adversarial iterate of each point (n, d); NaN where there was none."""
    points = x.flatten(1).cpu().numpy()
    here, best = points.copy(), np.full(points.shape, np.nan)
    nearest = np.full(len(points), math.inf)
    for _ in range(STEPS):
        steps = _linearised(net, x, here, here, labels, box, p, memory)
        moved = here + (1 + OVERSHOOT) * steps
        moved = moved if box is None else np.clip(moved, box.low, box.high)
        usable = np.asarray(np.isfinite(moved).all(axis=1))
        if not usable.any():
            break
        here = np.where(usable[:, None], moved, here)
        changed = usable & (net.predict(here) != labels)
        size = np.linalg.norm(here - points, ord=p, axis=1)
        better = changed & (size < nearest)
        nearest[better], best[better] = size[better], here[better]
    return best


def _linearised(
    net: Network,
    x: torch.Tensor,
    origin: np.ndarray,
    here: np.ndarray,
    labels: np.ndarray,
    box: Box | None,
    p: float,
    memory: int,
) -> np.ndarray:
    """Steps from `origin` to the nearest decision hyperplane of the affine maps at `here`.

    Only the shape and device of `x` are used; all arrays are (n, d).
    """
    points = torch.as_tensor(origin, device=x.device)
    own = torch.as_tensor(labels, device=x.device)
    at = torch.as_tensor(here, device=x.device)
    iterates = at.reshape(x.shape)
    pieces = net.pieces(iterates)
    logits = as_logits(net.forward(iterates).flatten(1))
    classes = logits.shape[1]
    lead = logits - logits.gather(1, own[:, None])
    rival = torch.arange(classes, device=x.device) != own[:, None]
    samples, targets = rival.nonzero(as_tuple=True)
    normal = row_normals(net, iterates, pieces, samples, targets + net.rows, own, memory=memory)
    residual = lead[samples, targets] + (normal * (points - at)[samples]).sum(dim=1)
    low, high = torch.full_like(points, -torch.inf), torch.full_like(points, torch.inf)
    if box is not None:
        low = torch.as_tensor(box.low.copy(), device=x.device) - points
        high = torch.as_tensor(box.high.copy(), device=x.device) - points
    shape = (len(x), classes - 1)
    found = project_to_hyperplane(
        normal.reshape(*shape, -1), residual.reshape(shape), low.unsqueeze(1), high.unsqueeze(1),
        p, return_delta=True,
    )  # fmt: skip
    assert found.delta is not None
    chosen = found.distance.argmin(dim=1)
    return np.asarray(found.delta[torch.arange(len(x), device=x.device), chosen].cpu().numpy())


def _bisect(
    net: Network, points: np.ndarray, changed: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Move changed points toward the originals while they stay changed."""
    low, high = np.zeros(len(points)), np.ones(len(points))
    for _ in range(HALVINGS if len(points) else 0):
        middle = (low + high) / 2
        trial = points + middle[:, None] * (changed - points)
        over = net.predict(trial) != labels
        high, low = np.where(over, middle, high), np.where(over, low, middle)
    return np.asarray(points + high[:, None] * (changed - points))
