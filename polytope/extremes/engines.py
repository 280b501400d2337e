"""The largest measure of the Jacobian over an area, by either engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from polytope.errors import InputError
from polytope.extremes.area import Area
from polytope.extremes.best import Best, Extreme
from polytope.extremes.bound import upper_over
from polytope.extremes.clock import Clock
from polytope.extremes.inside import Inside
from polytope.extremes.maps import Jacobians
from polytope.extremes.measures import Measure
from polytope.extremes.tree import Tree
from polytope.extremes.tree_questions import LargestMeasure
from polytope.model import Network
from polytope.regions.stream import stream_regions

Engine = Literal["auto", "enumeration", "branch_and_bound"]

#: Inputs up to which "auto" enumerates: the compiled engines are made for few.
DIMENSIONS = 12


@dataclass(frozen=True)
class Maximum:
    """What an engine found.

    Attributes
    ----------
    found : Extreme
        Of the regions looked at.
    upper : float
        Proved over the whole area.
    regions : int
        Regions looked at.
    stopped : bool
    engine : str
    """

    found: Extreme
    upper: float
    regions: int
    stopped: bool
    engine: str


def engine_of(area: Area, engine: str, what: str) -> str:
    """The engine that is meant.

    Raises
    ------
    InputError
        For an unknown one, or branch and bound over what is no bounded box or ball.
    """
    if engine not in get_args(Engine):
        raise InputError(
            f"{what}: got method={engine!r}, expected one of {', '.join(get_args(Engine))}"
        )
    if engine == "auto":
        few = area.inputs is None or area.domain.dimension <= DIMENSIONS
        return "enumeration" if few else "branch_and_bound"
    if engine == "branch_and_bound" and area.inputs is None:
        raise InputError(
            f"{what}: branch and bound needs a bounded box or a ball, over which CROWN bounds the "
            "network; use method='enumeration' for other sets"
        )
    return engine


def largest(
    net: Network, jacobians: Jacobians, measure: Measure, engine: str, watch: Clock,
    max_regions: int | None,
) -> Maximum:  # fmt: skip
    """The largest measure, and a proved upper bound whatever ends the search."""
    area = jacobians.area
    inside = Inside(net, area)
    if not net.layers:
        best = Best(jacobians, measure, inside)
        best.take(np.zeros((1, 0), np.uint16), area.domain.inside[None])
        found = best.settle(watch.halt)
        return Maximum(found, found.upper, 1, False, engine)
    if engine == "enumeration":
        best = Best(jacobians, measure, inside)
        stream = stream_regions(net, area.domain, best.take, watch.halt, max_regions)
        found = best.settle(watch.halt)
        stopped = bool(watch.stopped) or not stream.complete
        # Regions of a ball's box that were not yet tested count in `found`.
        upper = found.upper
        if not stream.complete:
            upper = upper_over(net, area, measure, jacobians.functions)
        return Maximum(found, max(upper, found.lower), stream.regions, stopped, engine)
    assert area.inputs is not None
    question = LargestMeasure(jacobians, measure, inside)
    searched = Tree(net, area.inputs, question, inside).run(watch.halt, max_regions)
    found = question.best.settle(lambda: False)
    upper = max(found.upper, searched.upper)
    if not searched.complete:
        upper = min(upper, upper_over(net, area, measure, jacobians.functions))
        upper = max(upper, found.lower)
    if not math.isfinite(upper):
        upper = math.inf
    return Maximum(found, upper, question.regions, not searched.complete, engine)
