"""The largest radius within which CROWN alone proves the decision."""

from __future__ import annotations

import math

import numpy as np

from polytope.robustness.interval import Interval
from polytope.robustness.node import Node, NodeBounds
from polytope.robustness.query import Query

#: Radii that are tried together in a round; each round leaves one part of so many plus one.
TOGETHER = 7
#: Rounds; the radius is then known to a part of (TOGETHER + 1) ** -ROUNDS of the first reach.
ROUNDS = 4


def crown_radius(query: Query, interval: Interval, bounds: NodeBounds) -> float:
    """The largest of the radii tried that CROWN proves for all targets.

    Parameters
    ----------
    query : Query
    interval : Interval
        Its reach, finite, is where the search begins; the search ends where it has to stop.
    bounds : NodeBounds
        Of this query.

    Returns
    -------
    float
        Nothing adversarial is nearer.
    """
    proved, beyond = 0.0, interval.reach
    if not math.isfinite(beyond):
        return 0.0
    fixed = np.full(query.net.units, -1, dtype=np.int16)
    for _ in range(ROUNDS):
        for radius in np.linspace(beyond, proved, TOGETHER + 2)[1:-1]:
            if interval.stopped:
                return proved
            nodes = [
                Node(0.0, i, target, fixed, bounds.known(), float(radius))
                for i, target in enumerate(query.targets)
            ]
            if all(found is None for found in bounds.judge(nodes, float(radius))):
                proved = float(radius)
                break
            beyond = float(radius)
    return proved
