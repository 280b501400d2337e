"""Candidates become witnesses here: inside the box, and proved adversarial.

Of a piecewise-linear network the proof is in exact arithmetic.  A smooth activation has no exact
value, but an enclosure: the network is walked in interval arithmetic, rounded outwards, at the
point, and another class is as high as the label if its least value is at least the label's
greatest.
"""

from __future__ import annotations

import numpy as np
import torch

from polytope.attacks.criterion import Criterion
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import layer_bounds
from polytope.model import Network
from polytope.network.exact import is_adversarial
from polytope.robustness.witness import (
    ROUGH_PUSHES,
    exact_witnesses,
    lp_norm,
    prove_adversarial,
)
from polytope.rows import as_logits
from polytope.sets import Box

#: Points that are walked at once in interval arithmetic, which keeps the values of all nodes.
TOGETHER = 32


def prove(
    net: Network,
    points: np.ndarray,
    candidates: np.ndarray,
    criterion: Criterion,
    box: Box | None,
    p: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that are proved adversarial, clipped into the box and pushed if need be.

    Parameters
    ----------
    net : Network
    points, candidates : array (n, d)
        NaN where there is no candidate.
    criterion : Criterion
    box : Box or None
    p : float

    Returns
    -------
    distance : array (n,)
        l_p distance of each witness, rounded up; inf where none was proved.
    witness : array (n, d)
        NaN where none was proved.
    """
    labels, targets = criterion.labels, criterion.targets
    distance, witness = np.full(len(points), np.inf), np.full(points.shape, np.nan)
    inside = candidates if box is None else np.clip(candidates, box.low, box.high)
    given = np.flatnonzero(np.isfinite(candidates).all(axis=1))
    good = given[adversarial(net, inside[given], criterion.select(given))]
    witness[good] = inside[good]
    distance[good] = lp_norm(witness[good] - points[good], p)
    if net.graph.smooth:
        return _pushed(net, points, inside, criterion, box, p, distance, witness)
    for rough in (False, True):
        rest = np.setdiff1d(given, np.flatnonzero(np.isfinite(distance)))
        if len(rest):
            distance[rest], witness[rest] = exact_witnesses(
                net, points[rest], inside[rest] - points[rest], labels[rest], box, p, rough,
                targets=None if targets is None else targets[rest],
            )  # fmt: skip
    return distance, witness


def adversarial(net: Network, points: np.ndarray, criterion: Criterion) -> np.ndarray:
    """Which points (n, d) are proved adversarial: bool (n,).

    All that are, of a piecewise-linear network; of a smooth one all but those whose lead is within
    the rounding.
    """
    if not len(points):
        return np.zeros(0, dtype=bool)
    if net.graph.smooth:
        low, high = enclosed(net, points)
        least = low - np.take_along_axis(high, criterion.labels[:, None], axis=1)
        counted = torch.isfinite(criterion.leads(torch.zeros(low.shape))).numpy()
        return np.asarray((counted & (least >= 0)).any(axis=1))
    proved, possible = prove_adversarial(net, points, criterion.labels, criterion.targets)
    for row in np.flatnonzero(possible & ~proved):
        target = None if criterion.targets is None else int(criterion.targets[row])
        point = points[row].reshape(net.input_shape)
        proved[row] = is_adversarial(net.graph, point, int(criterion.labels[row]), target)
    return proved


def enclosed(net: Network, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (n, classes) of the exact logits at points (n, d), in interval arithmetic."""
    last = len(net.graph.nodes) - 1
    found = []
    for start in range(0, len(points), TOGETHER):
        x = torch.as_tensor(points[start : start + TOGETHER])
        with torch.no_grad():
            walk = layer_bounds(net, InputSet.from_box(x, x), method="interval").walk
        found.append([as_logits(side[last].flatten(1)) for side in (walk.low, walk.high)])
    low, high = (torch.cat(sides).numpy() for sides in zip(*found, strict=True))
    return low, high


def _pushed(
    net: Network,
    points: np.ndarray,
    candidates: np.ndarray,
    criterion: Criterion,
    box: Box | None,
    p: float,
    distance: np.ndarray,
    witness: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """`prove` of those that are left, moved outwards bit by bit."""
    for push in ROUGH_PUSHES[1:]:
        open_rows = ~np.isfinite(distance) & np.isfinite(candidates).all(axis=1)
        rest = np.flatnonzero(open_rows)
        trial = points[rest] + (1 + push) * (candidates[rest] - points[rest])
        trial = trial if box is None else np.clip(trial, box.low, box.high)
        good = adversarial(net, trial, criterion.select(rest))
        witness[rest[good]] = trial[good]
        distance[rest[good]] = lp_norm(trial[good] - points[rest[good]], p)
    return distance, witness
