"""Local linearity of logit margins over a ball: LLR's gamma, exactly or as an interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from polytope.errors import InputError
from polytope.extremes.area import Area, as_area
from polytope.extremes.clock import Clock, check_regions, clock
from polytope.extremes.linearity_ascent import ascend, crown_upper
from polytope.extremes.margins import Anchor, as_class, margin, one_point, rivals_of
from polytope.extremes.small import is_small
from polytope.inputs import as_norm, positive_int
from polytope.lipschitz_result import EXACT
from polytope.model import Network
from polytope.sets import Ball, BoxLike
from solvers.norms import NormLike

if TYPE_CHECKING:
    from polytope.extremes.linearity_search import Departure

Method = Literal["auto", "exact", "pgd"]

#: Adam's step in LLR; smaller balls take half their radius.
STEP = 0.1


@dataclass(frozen=True, eq=False)
class LocalLinearity:
    """An interval around LLR's gamma of a logit margin.

    Attributes
    ----------
    lower : float
        ``|g(z) - g(x) - grad g(x) (z - x)|`` at the witness z, in exact arithmetic and rounded
        down.
    upper : float
        Proved.
    exact : bool
        Whether the two agree as far as rounding allows: to 1e-9 of the value, or of the size of
        the logits' affine maps in the ball.
    status : str
        "exact", "interval", or "stopped" (by time, regions or Ctrl-C).
    witness : float64 (d,)
        In the ball and the box.
    label, target : int
        The classes of the margin ``g = f_label - f_target``, of all asked for the one whose
        departure at the witness is the largest.
    radius, p : float
    method : str
        "exact" or "pgd".
    regions, programs : int
        Linear regions looked at and linear programs solved.
    seconds : float
    """

    lower: float
    upper: float
    exact: bool
    status: str
    witness: np.ndarray = field(repr=False)
    label: int
    target: int
    radius: float
    p: float
    method: str
    regions: int
    programs: int
    seconds: float


def local_linearity(
    net: Network,
    x: object,
    y: object,
    eps: float,
    p: NormLike = "inf",
    box: BoxLike = None,
    *,
    target: object = None,
    method: Method = "auto",
    steps: int = 50,
    restarts: int = 10,
    step: float | None = None,
    seed: int = 0,
    max_regions: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> LocalLinearity:
    """LLR's ``gamma(eps, x) = max |g(x + d) - g(x) - d grad g(x)|`` over a ball, of logit margins.

    Qin et al., Adversarial robustness through local linearization (NeurIPS 2019).  Theirs is of
    the cross-entropy, and a lower bound by ascent; of a margin of a piecewise-linear network it
    is the maximum of an affine function over each region met by the ball.

    Parameters
    ----------
    net : Network
        Piecewise linear.
    x : array (d,) or input_shape
        One point.  Where it lies on the boundary of regions its gradient is that of the region
        that the convention for ties names.
    y : int
        Class of the margin ``g = f_y - f_target``; a single output f is the logits (0, f).
    eps : float
        Radius of the ball.
    p : 1, 2 or "inf"
        Norm of the ball; 2 is for method="pgd" only, where maxima over regions are no linear
        programs.
    box : Box or pair, optional
        The ball is met with it; x lies inside.
    target : int, optional
        The other class; by default the largest departure over all of them.
    method : "auto", "exact" or "pgd"
        "exact" enumerates the regions (of many inputs: branches over the pieces of units) and
        solves two linear programs in those that matter.
        "pgd" gives an interval for networks of any size: ascent from below, CROWN from above.
        "auto" is "exact" on small networks and balls (`polytope.extremes.small`).
    steps, restarts, step : int, int, float
        Of the ascent, by Adam: LLR's measure has 50 steps of size 0.1.  By default the size is
        that, or half the radius if this is less.
    seed : int
    max_regions, time_limit : int, float, optional
        Stop after so many regions or seconds; so does Ctrl-C.
    progress : callable, optional
        Called now and then as ``progress(regions)``.

    Returns
    -------
    LocalLinearity

    Raises
    ------
    InputError
        For an unusable point, class, radius, norm, box, method or limit.
    SmoothActivation
        If the network is not piecewise linear.
    """
    from polytope.extremes.linearity_search import Departure  # compiled: only when it is wanted

    net.require_piecewise_linear("local_linearity")
    point, label = one_point(net, x), as_class(net, y, "y")
    rivals = rivals_of(net, label, target)
    exponent = as_norm(p)
    ball = Ball(point, eps, exponent)
    area = as_area(net, ball, box, "local_linearity")
    counts = positive_int(steps, "steps"), positive_int(restarts, "restarts")
    check_regions(max_regions)
    length = min(STEP, ball.radius / 2) if step is None else step
    if not 0 < length < math.inf:
        raise InputError(f"step: got {step!r}, expected a positive finite number")
    if method not in get_args(Method):
        raise InputError(f"method: got {method!r}, expected one of {', '.join(get_args(Method))}")
    if method == "exact" and exponent == 2:
        raise InputError(
            "local_linearity: over a region met with an l_2 ball the maximum is no linear "
            "program; use p=1 or p='inf', or method='pgd' for an interval"
        )
    if method == "auto":
        method = "exact" if exponent != 2 and is_small(net, area) else "pgd"
    functions = np.stack([margin(net, label, rival) for rival in rivals])
    anchor = Anchor.at(net, point)
    with clock(time_limit, progress) as watch:
        search = Departure(anchor, functions, area, ball)
        search.offer(point)
        assert area.inputs is not None
        for size, z in ascend(
            anchor, functions, area.inputs, ball.radius, exponent, *counts, length, seed, watch.halt
        ):
            if size > search.lower:
                search.offer(z)
        upper, regions = math.inf, 0
        if method == "exact":
            upper, regions = _enumerated(search, area, watch, max_regions)
        if method == "pgd" or watch.stopped or math.isinf(upper):
            bound = crown_upper(anchor, functions, area.inputs)
            upper = max(search.lower, min(upper, bound))
        seconds = watch.seconds
    assert search.witness is not None
    exact = upper - search.lower <= EXACT * max(upper, search.scale)
    cut = bool(watch.stopped) or (max_regions is not None and regions >= max_regions)
    status = "exact" if exact else "stopped" if cut else "interval"
    return LocalLinearity(
        search.lower, upper, exact, status, search.witness, label, rivals[search.function],
        ball.radius, exponent, method, regions, search.programs, seconds,
    )  # fmt: skip


def _enumerated(
    search: Departure, area: Area, watch: Clock, max_regions: int | None
) -> tuple[float, int]:
    """A proved upper bound (inf if not all regions were found), and regions looked at."""
    # compiled code: only when it is wanted
    from polytope.extremes.engines import engine_of
    from polytope.extremes.inside import Inside
    from polytope.extremes.tree import Tree
    from polytope.extremes.tree_linearity import LargestDeparture
    from polytope.regions.stream import stream_regions

    net = search.anchor.net
    if not net.layers:
        return search.lower, 1
    if engine_of(area, "auto", "local_linearity") == "branch_and_bound":
        assert area.inputs is not None
        question = LargestDeparture(search)
        inside = Inside(net, area)
        found = Tree(net, area.inputs, question, inside).run(watch.halt, max_regions)
        return max(found.upper, search.lower), question.regions
    stream = stream_regions(net, area.domain, search.take, watch.halt, max_regions)
    upper = search.settle(watch.halt)
    return upper if stream.complete else math.inf, stream.regions
