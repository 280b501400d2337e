"""The set over which an extreme value is taken: a polytope, or a ball inside the box around it.

Regions are enumerated in a polytope.  Of an l_2 ball (or an l_1 ball of many dimensions, which has
too many facets) that is the smallest box around it, met with the user's box; whether a region of
that box meets the ball is decided for the few regions that matter (`polytope.extremes.inside`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from polytope.bounds.inputs import InputSet
from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.regions.domain import L1_DIMENSION, Domain, as_domain
from polytope.sets import Ball, Box, BoxLike, HPolytope, as_box
from polytope.slices import Slice

#: Norms of balls whose meeting with a region is decided exactly.
BALLS = (1.0, 2.0, math.inf)


@dataclass(frozen=True, eq=False)
class Area:
    """A convex set of inputs with an inside.

    Attributes
    ----------
    domain : Domain
        A polytope in coordinates of its own, perhaps the box around a ball.
    ball : tuple (center (k,), radius, p) or None
        With p 1 or 2: the area is the domain met with this ball, in coordinates.
    along : float64 (k, D) or None
        The directions of a slice: values are taken of the network along them. None: all inputs.
    inputs : InputSet or None
        The area (over all inputs) for bounds that hold all over it; None where it is no bounded
        box or ball.
    """

    domain: Domain
    ball: tuple[np.ndarray, float, float] | None = None
    along: np.ndarray | None = None
    inputs: InputSet | None = None


def as_area(
    net: Engine, domain: Ball | HPolytope | Slice | BoxLike, box: BoxLike = None, what: str = ""
) -> Area:
    """What the user gave as an `Area`.

    Parameters
    ----------
    net : Engine
    domain : Ball, Box, pair (low, high), HPolytope, Slice, or None (all inputs)
    box : Box or pair, optional
        A ball is met with it; its center lies inside.
    what : str
        Who asks; begins the messages.

    Raises
    ------
    InputError
        If the set does not fit the network, is empty or has no inside; for balls in other norms
        than 1, 2 and inf, and for a box beside anything but a ball.
    """
    if not isinstance(domain, Ball):
        if box is not None:
            raise InputError(
                f"{what}: box= limits a Ball, but the domain is a {type(domain).__name__}; put "
                "the box into the domain itself"
            )
        over = as_domain(net, domain)
        if isinstance(domain, Slice):
            return Area(over, along=domain.basis)
        if domain is None or isinstance(domain, HPolytope) or not over.bounded:
            return Area(over)
        sides = as_box(domain, net.input_size)
        assert sides is not None
        return Area(over, inputs=InputSet.from_box(*_rows(sides.low, sides.high)))
    return _ball(net, domain, box, what)


def _ball(net: Engine, ball: Ball, box: BoxLike, what: str) -> Area:
    """A ball met with a box."""
    size = net.input_size
    if ball.p not in BALLS:
        raise InputError(
            f"{what}: got a ball in l_{ball.p:g}, but regions are matched with balls in l_1, "
            "l_2 and l_inf only; use one of these"
        )
    if len(ball.center) != size:
        raise InputError(
            f"{what}: got a ball over {len(ball.center)} coordinates, but the network has "
            f"{size} inputs"
        )
    low, high = ball.center - ball.radius, ball.center + ball.radius
    limits = as_box(box, size)
    if limits is not None:
        outside = (ball.center < limits.low) | (ball.center > limits.high)
        if outside.any():
            at = int(np.argmax(outside))
            raise InputError(
                f"{what}: the ball's center is outside the box (coordinate {at}: "
                f"{ball.center[at]:g} is not in [{limits.low[at]:g}, {limits.high[at]:g}]); "
                "move it inside or widen the box"
            )
        low, high = np.maximum(low, limits.low), np.minimum(high, limits.high)
    around = as_domain(net, Box(low, high))
    sides = _rows(low, high)
    if ball.p == math.inf:
        return Area(around, inputs=InputSet.from_box(*sides))
    center = ball.center[low < high]
    reach = torch.tensor([ball.radius], dtype=torch.float64)
    inputs = InputSet.from_ball(torch.as_tensor(ball.center.copy())[None], reach, ball.p, *sides)
    if ball.p == 1 and len(center) <= L1_DIMENSION:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(center))))
        A, b = np.vstack([around.A, signs]), np.append(around.b, signs @ center + ball.radius)
        return Area(replace(around, A=A, b=b), inputs=inputs)
    return Area(around, (center, ball.radius, ball.p), inputs=inputs)


def _rows(low: np.ndarray, high: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The sides of one box as a batch."""
    return torch.as_tensor(low.copy())[None], torch.as_tensor(high.copy())[None]
