"""`polish`: the nearest adversarial point of a witness's own linear region, by one LP or QP.

On a region the network is affine, so the nearest point of it where the decision changes is the
solution of a linear (l_1, l_inf) or quadratic (l_2) program: Croce and Hein, "A randomized
gradient-free attack on ReLU networks" (GCPR 2018).  The solver only proposes: what it returns
is proved like every witness.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polytope.attacks.criterion import as_criterion
from polytope.attacks.proof import prove
from polytope.attacks.spot import Polished, Spot
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels, as_norm
from polytope.model import Network
from polytope.pattern import ActivationPattern
from polytope.rows import classes_of
from polytope.sets import BoxLike, as_box
from solvers.norms import NormLike


def polish(
    net: Network,
    x: object,
    witness: object,
    label: int,
    p: NormLike = 2,
    box: BoxLike = None,
    target: int | None = None,
) -> Polished:
    """Move a witness to the nearest adversarial point of its region, while that changes.

    Parameters
    ----------
    net : Network
    x, witness : array (d,) or input_shape
    label : int
        The class of `x`.
    p : number or "inf"
        The norm, in [1, inf]. For p other than 1, 2 and inf the program is the one in l_inf,
        and its solution is taken if it is nearer.
    box : Box or pair (low, high), optional
    target : int, optional
        The class that has to come as high as the label; any other by default.

    Returns
    -------
    Polished

    Raises
    ------
    InputError
        For unusable arguments, and if `witness` is not adversarial, or only outside the box.
    SmoothActivation
        If the network is not piecewise linear.
    """
    net.require_piecewise_linear("polish")
    exponent, limits = as_norm(p), as_box(box, net.input_size)
    point = as_batch(net, x, name="x")
    start = as_batch(net, witness, name="witness")
    if len(point) != 1 or len(start) != 1:
        raise InputError(f"polish: got {len(point)} points, expected one x and one witness")
    criterion = as_criterion(as_labels(label, 1, classes_of(net)), target, classes_of(net))
    points, starts = (t.flatten(1).cpu().numpy() for t in (point, start))
    distance, proved = prove(net, points, starts, criterion, limits, exponent)
    if not np.isfinite(distance[0]):
        raise InputError(
            "polish: witness is not adversarial: no class that counts is as high as the label "
            "there; start from a point that an attack found"
        )
    spot = Spot(net, points[0], criterion, exponent, limits)
    return polished(Polished(float(distance[0]), proved[0], 0), spot)


def polished(start: Polished, spot: Spot) -> Polished:
    """`polish` of a proved witness, its arguments checked."""
    best, seen = start, set[ActivationPattern]()
    while best.distance > 0:
        region, rival = spot.region_of(best.witness)
        if region.pattern in seen:
            break
        seen.add(region.pattern)
        nearer = spot.nearest(region, rival, best)
        if nearer is None:
            return replace(best, regions=start.regions + len(seen))
        best = nearer
    return replace(best, regions=start.regions + len(seen))


def polished_batch(
    task: Task, distance: np.ndarray, witness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`polished` of the proved witnesses of a task; infinite distances stay."""
    distance, witness, points = distance.copy(), witness.copy(), task.points
    for i in np.flatnonzero(np.isfinite(distance)):
        if task.expired:
            break
        spot = Spot(task.net, points[i], task.criterion.select(np.array([i])), task.p, task.box)
        best = polished(Polished(float(distance[i]), witness[i], 0), spot)
        distance[i], witness[i] = best.distance, best.witness
    return distance, witness
