"""The exact Lipschitz constant: the largest norm of the Jacobian over the linear regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from polytope.errors import InputError
from polytope.extremes.area import Area, as_area
from polytope.extremes.clock import check_regions, clock
from polytope.extremes.maps import Jacobians
from polytope.extremes.measures import Measure, OperatorNorm, TotalNorm
from polytope.lipschitz_result import EXACT, Lipschitz
from polytope.model import Network
from polytope.operator_norms import norm_pair, require_computable
from polytope.pattern import ActivationPattern
from polytope.sets import Ball, BoxLike, HPolytope
from polytope.slices import Slice
from solvers.norms import NormLike

if TYPE_CHECKING:
    from polytope.extremes.engines import Maximum

#: What underflow may add to bounds.
UNDERFLOW = 1e-290


def exact_lipschitz(
    net: Network,
    domain: Ball | HPolytope | Slice | BoxLike,
    p: NormLike,
    q: NormLike,
    *,
    box: BoxLike = None,
    functional: object = None,
    total: bool = False,
    method: Literal["auto", "enumeration", "branch_and_bound"] = "auto",
    max_regions: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Lipschitz:
    """The largest ``||J||`` from l_p to l_q over the linear regions that a set meets.

    Regions are those of full dimension that meet the *open* inside of the domain (within its
    flat, where a box freezes coordinates).  A region that only touches it on a face is not
    counted, and need not be: for two points of the closed convex domain a segment moved a little
    inwards passes through regions that meet the inside, and the network is continuous, so on a
    domain with an inside the value is the least L with ``||f(x) - f(z)||_q <= L ||x - z||_p`` for
    all its points.

    Parameters
    ----------
    net : Network
        Piecewise linear.
    domain : Box, pair (low, high), Ball in l_1, l_2 or l_inf, HPolytope, Slice, or None
        None is the whole input space: the global constant.  A Slice gives the constant of the
        network along it, in its isometric coordinates: for p = 2 only.
    p, q : number or "inf"
        Norms of the inputs and of the outputs: pairs whose operator norm can be computed
        (`polytope.operator_norms`).
    box : Box or pair, optional
        A Ball is met with it.
    functional : array (outputs,), optional
        Coefficients c: the constant of ``c f`` (a margin between two classes, say) instead of
        that of all outputs.
    total : bool
        The sum over the outputs of the dual norm of their gradients, instead of an operator
        norm: what LipMIP (Jordan and Dimakis, NeurIPS 2020) reports for several outputs, with
        p = inf.  Never below the norm from l_p to l_1, so q has to be 1.
    method : "auto", "enumeration" or "branch_and_bound"
        All regions, streamed from the enumeration; or the pieces of units fixed one after
        another, with Fast-Lip's bound of each part and linear programs (for bounded boxes and
        balls), which leaves most regions out where there are many.  "auto" enumerates up to
        twelve inputs.
    max_regions : int, optional
        Stop after so many regions (of branch and bound: regions reached).
    time_limit : float, optional
        Seconds.
    progress : callable, optional
        Called now and then as ``progress(regions)``.

    Returns
    -------
    Lipschitz
        Where the search is complete `lower` and `upper` are the neighbouring float64 numbers of
        the exact value, or some roundings apart (``exactness``); the witness is strictly inside
        its region and the domain, which is proved in exact arithmetic, or None in the rare case
        that the region holds no float64 point.  Stopped early (time, regions, Ctrl-C) `lower` is
        the best region so far and `upper` the least of RecurJac's bound and the tree's (infinite
        for a domain that is neither a bounded box nor a ball).

    Raises
    ------
    InputError
        For a domain without inside or that does not fit, a pair of norms that is NP-hard, an
        unusable functional or limit.
    SmoothActivation
        If the network is not piecewise linear.
    """
    from polytope.extremes.engines import engine_of, largest  # compiled: only when it is wanted

    net.require_piecewise_linear("exact_lipschitz")
    check_regions(max_regions)
    functions = None if functional is None else as_functional(net, functional)
    area = as_area(net, domain, box, "exact_lipschitz")
    jacobians = Jacobians(net, area, functions)
    measure = measure_of(jacobians, area, p, q, total, "exact_lipschitz")
    engine = engine_of(area, method, "exact_lipschitz")
    with clock(time_limit, progress) as watch:
        maximum = largest(net, jacobians, measure, engine, watch, max_regions)
        seconds = watch.seconds
    return _result(net, area, measure, maximum, seconds)


def as_functional(net: Network, functional: object) -> np.ndarray:
    """Coefficients of the outputs as one row (1, outputs).

    Raises
    ------
    InputError
        If they are not one finite number for each output.
    """
    try:
        row = np.asarray(functional, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InputError(f"functional: is not numeric ({error})") from error
    if row.shape != (net.output_size,) or not np.isfinite(row).all():
        raise InputError(
            f"functional: got {row.size} numbers, expected {net.output_size} finite "
            "coefficients, one for each output of the network"
        )
    return row[None]


def measure_of(
    jacobians: Jacobians, area: Area, p: NormLike, q: NormLike, total: bool, what: str
) -> Measure:
    """What is asked for.

    Raises
    ------
    InputError
    """
    exponents = norm_pair(p, q)
    if area.along is not None and exponents[0] != 2:
        raise InputError(
            f"{what}: on a Slice lengths are those of its isometric coordinates, so p "
            f"has to be 2, got p={exponents[0]:g}; give a box for other norms"
        )
    if not total:
        pair = require_computable(p, q, jacobians.outputs, jacobians.inputs, what)
        return OperatorNorm(*pair)
    if exponents[1] != 1:
        raise InputError(
            f"{what}: total=True adds up the outputs, which bounds the norm to l_1: "
            f"q has to be 1, got q={exponents[1]:g}"
        )
    return TotalNorm(exponents[0])


def _result(
    net: Network,
    area: Area,
    measure: Measure,
    maximum: Maximum,
    seconds: float,
) -> Lipschitz:
    """The result, with the network's own Jacobian at the witness."""
    found, upper = maximum.found, maximum.upper
    pattern = jacobian = witness = None
    if found.pieces is not None:
        pattern = ActivationPattern.from_pieces(found.pieces.astype(np.int64), net.layout)
        jacobian = Jacobians(net, Area(area.domain)).of(found.pieces[None])[0][0]
        witness = None if found.point is None else area.domain.lift(found.point)
    narrow = upper - found.lower <= EXACT * upper + UNDERFLOW
    status = "exact" if narrow else "stopped" if maximum.stopped else "interval"
    exactness = found.exactness if upper <= found.upper else "safe-float"
    p, q = (measure.p, 1.0) if isinstance(measure, TotalNorm) else _pair(measure)
    return Lipschitz(
        found.lower, upper, (found.lower + upper) / 2 if narrow else None, p, q, maximum.engine,
        status, exactness, witness, jacobian, pattern, maximum.regions, seconds,
    )  # fmt: skip


def _pair(measure: Measure) -> tuple[float, float]:
    assert isinstance(measure, OperatorNorm)
    return measure.p, measure.q
