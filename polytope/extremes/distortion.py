"""Gradient distortion over a ball: how far a logit's gradient moves, exactly or as an interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from polytope.errors import InputError
from polytope.extremes.area import Area, as_area
from polytope.extremes.clock import Clock, check_regions, clock
from polytope.extremes.genetic import Gradients, evolve, expected
from polytope.extremes.maps import Jacobians
from polytope.extremes.margins import Anchor, as_class, margin, one_point, rivals_of
from polytope.extremes.measures import Distortion
from polytope.extremes.small import is_small
from polytope.inputs import as_norm, positive_int
from polytope.lipschitz_result import EXACT
from polytope.model import Network
from polytope.network.exact import exact_pieces
from polytope.rows import classes_of
from polytope.sets import Ball, BoxLike
from solvers.norms import NormLike

Method = Literal["auto", "exact", "genetic"]

#: Candidates of the genetic algorithm that are looked at, until one is inside a region.
CANDIDATES = 64


@dataclass(frozen=True, eq=False)
class GradientDistortion:
    """An interval around the largest change of a gradient over a ball.

    Attributes
    ----------
    lower : float
        ``||grad f(z) - grad f(x)||_r`` at the witness z, rounded down.
    upper : float
        Proved.
    exact : bool
        Whether the two agree as far as rounding allows: to 1e-9 of the value, or of the size of
        the gradient.
    status : str
        "exact", "interval", or "stopped" (by time, regions or Ctrl-C).
    witness : float64 (d,) or None
        Inside a linear region that the ball meets; None where none was found.
    gradient : float64 (d,)
        At x.
    expected, expected_error : float
        Mean over uniform samples of the ball (met with the box), and its standard error; NaN
        without samples.
    radius, p, r : float
    method : str
        "exact" or "genetic".
    regions : int
        Linear regions looked at.
    seconds : float
    """

    lower: float
    upper: float
    exact: bool
    status: str
    witness: np.ndarray | None = field(repr=False)
    gradient: np.ndarray = field(repr=False)
    expected: float
    expected_error: float
    radius: float
    p: float
    r: float
    method: str
    regions: int
    seconds: float


def gradient_distortion(
    net: Network,
    x: object,
    y: object,
    eps: float,
    p: NormLike = "inf",
    box: BoxLike = None,
    *,
    r: NormLike = 1,
    target: object = None,
    method: Method = "auto",
    population: int = 4800,
    epochs: int = 30,
    samples: int = 8000,
    seed: int = 0,
    max_regions: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> GradientDistortion:
    """The largest ``||grad f_y(z) - grad f_y(x)||_r`` over the points z of a ball (ROLL).

    Lee et al., Towards robust, locally linear deep networks (ICLR 2019), section 5.3: with r = 1,
    an l_inf ball and the box [0, 1].  The gradient is constant in each linear region, so the
    maximum is one over the regions that meet the open ball.

    Parameters
    ----------
    net : Network
        Piecewise linear.
    x : array (d,) or input_shape
        One point.  Where it lies on the boundary of regions its gradient is that of the region
        that the convention for ties names.
    y : int
        The class whose logit is meant; a single output f is the logits (0, f).
    eps : float
        Radius of the ball.
    p : 1, 2 or "inf"
        Norm of the ball; the genetic algorithm and the samples are for "inf".
    box : Box or pair, optional
        The ball is met with it; x lies inside.
    r : number or "inf"
        Norm of the difference.
    target : int, optional
        The gradient of the margin ``f_y - f_target`` instead.
    method : "auto", "exact" or "genetic"
        "exact" enumerates the regions, or branches over the pieces of units where inputs are
        many.  "genetic" is ROLL's algorithm, a lower bound, below an
        upper bound by RecurJac.  "auto" is "exact" on small networks and
        balls (`polytope.extremes.small`) and for p = 1 and 2.
    population, epochs : int
        Of the genetic algorithm.
    samples : int
        For the expected distortion (p = "inf"); 0 for none.
    seed : int
    max_regions, time_limit : int, float, optional
        Stop after so many regions or seconds; so does Ctrl-C.
    progress : callable, optional
        Called now and then as ``progress(regions)``.

    Returns
    -------
    GradientDistortion

    Raises
    ------
    InputError
        For an unusable point, class, radius, norm, box, method or limit.
    SmoothActivation
        If the network is not piecewise linear.
    """
    net.require_piecewise_linear("gradient_distortion")
    point, label = one_point(net, x), as_class(net, y, "y")
    function = _function(net, label, target)
    ball, size = Ball(point, eps, as_norm(p)), as_norm(r)
    area = as_area(net, ball, box, "gradient_distortion")
    counts = positive_int(population, "population"), positive_int(epochs, "epochs")
    check_regions(max_regions)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise InputError(f"samples: got {samples!r}, expected a whole number of at least 0")
    if method not in get_args(Method):
        raise InputError(f"method: got {method!r}, expected one of {', '.join(get_args(Method))}")
    cube = ball.p == math.inf
    if method == "genetic" and not cube:
        raise InputError(
            f"gradient_distortion: the genetic algorithm draws its points from l_inf balls, got "
            f"p={p!r}; use p='inf', or method='exact'"
        )
    if method == "auto":
        method = "exact" if not cube or is_small(net, area) else "genetic"
    anchor = Anchor.at(net, point)
    with clock(time_limit, progress) as watch:
        search = _Search(net, area, function, anchor, size)
        mean, spread = math.nan, math.nan
        if samples and cube:
            mean, spread = expected(search.gradients, search.low, search.high, samples, seed)
        if method == "exact":
            found = search.enumerated(watch, max_regions)
        else:
            found = search.evolved(*counts, seed, watch)
        seconds = watch.seconds
    lower, upper, witness, regions, stopped = found
    upper = max(lower, upper)
    exact = upper - lower <= EXACT * max(upper, float(np.abs(search.gradients.origin).sum()))
    status = "exact" if exact else "stopped" if stopped else "interval"
    return GradientDistortion(
        lower, upper, exact, status, witness, search.gradients.origin.copy(), mean, spread,
        ball.radius, float(as_norm(p)), size, method, regions, seconds,
    )  # fmt: skip


#: lower, upper, witness, regions, whether it was stopped early.
_Found = tuple[float, float, "np.ndarray | None", int, bool]


class _Search:
    """One question, ready for either method."""

    def __init__(
        self, net: Network, area: Area, function: np.ndarray, anchor: Anchor, r: float
    ) -> None:
        self.net, self.area, self.function = net, area, function[None]
        self.jacobians = Jacobians(net, area, self.function)
        J, error = self.jacobians.of(anchor.pieces[None])
        rational = self.jacobians.exact(anchor.pieces)
        self.measure = Distortion(J[0], float(error[0, 0]), r, rational)
        self.gradients = Gradients(net, function, J[0, 0], r)
        assert area.inputs is not None
        self.low, self.high = (s[0].numpy() for s in (area.inputs.low, area.inputs.high))

    def enumerated(self, watch: Clock, max_regions: int | None) -> _Found:
        """By all regions, or by branch and bound over them."""
        from polytope.extremes.engines import engine_of, largest  # compiled: only when wanted

        engine = engine_of(self.area, "auto", "gradient_distortion")
        maximum = largest(self.net, self.jacobians, self.measure, engine, watch, max_regions)
        point = maximum.found.point
        witness = None if point is None else self.area.domain.lift(point)
        return maximum.found.lower, maximum.upper, witness, maximum.regions, maximum.stopped

    def evolved(self, population: int, epochs: int, seed: int, watch: Clock) -> _Found:
        """By the genetic algorithm; its best points that are strictly inside of a region count."""
        # compiled code: only when it is wanted
        from polytope.extremes.bound import upper_over
        from polytope.extremes.inside import Inside

        points, _ = evolve(
            self.gradients, self.low, self.high, population, epochs, seed, watch.halt
        )
        upper = upper_over(self.net, self.area, self.measure, self.function)
        inside = Inside(self.net, self.area)
        for z in points[:CANDIDATES]:
            pieces = exact_pieces(self.net.graph, z.reshape(self.net.input_shape))
            if inside.open_region(pieces, z):
                J, error = self.jacobians.of(pieces[None])
                lower = float(self.measure.bounds(J, error)[0][0])
                return lower, upper, z.copy(), 0, bool(watch.stopped)
        return 0.0, upper, None, 0, bool(watch.stopped)


def _function(net: Network, label: int, target: object) -> np.ndarray:
    """Coefficients of the outputs whose gradient is meant."""
    if target is not None:
        (rival,) = rivals_of(net, label, target)
        return margin(net, label, rival)
    if classes_of(net) != net.output_size:
        return np.array([float(label)])  # the logits (0, f)
    function = np.zeros(net.output_size)
    function[label] = 1.0
    return function
