"""Candidates become witnesses here: inside the box, and adversarial in exact arithmetic."""

from __future__ import annotations

import numpy as np

from polytope.attacks.criterion import Criterion
from polytope.model import Network
from polytope.network.exact import is_adversarial
from polytope.robustness.witness import exact_witnesses, lp_norm, prove_adversarial
from polytope.sets import Box


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
    for rough in (False, True):
        rest = np.setdiff1d(given, np.flatnonzero(np.isfinite(distance)))
        if len(rest):
            distance[rest], witness[rest] = exact_witnesses(
                net, points[rest], inside[rest] - points[rest], labels[rest], box, p, rough,
                targets=None if targets is None else targets[rest],
            )  # fmt: skip
    return distance, witness


def adversarial(net: Network, points: np.ndarray, criterion: Criterion) -> np.ndarray:
    """Which points (n, d) are adversarial in exact arithmetic: bool (n,)."""
    if not len(points):
        return np.zeros(0, dtype=bool)
    proved, possible = prove_adversarial(net, points, criterion.labels, criterion.targets)
    for row in np.flatnonzero(possible & ~proved):
        target = None if criterion.targets is None else int(criterion.targets[row])
        point = points[row].reshape(net.input_shape)
        proved[row] = is_adversarial(net.graph, point, int(criterion.labels[row]), target)
    return proved
