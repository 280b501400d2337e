"""`lipschitz`: intervals around local Lipschitz constants, by the method of one's choice."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal, get_args, overload

import numpy as np
import torch

from polytope.bounds.derivatives import has_jumps
from polytope.bounds.layers import MEMORY, layer_bounds
from polytope.errors import InputError
from polytope.extremes.lipschitz import as_functional, exact_lipschitz
from polytope.extremes.lipschitz_mip import lipschitz_mip
from polytope.inputs import positive_int
from polytope.lipschitz_result import EXACT, Lipschitz
from polytope.model import Network
from polytope.operator_norms import norm_pair, require_computable, sign_vectors
from polytope.pattern import ActivationPattern
from polytope.sensitivity.domains import Domain, DomainBatch, Domains, as_domains
from polytope.sensitivity.jacobian import JacobianMethod, as_functions, blocks, nested
from polytope.sensitivity.norms import norms_above, norms_over, size_norm
from polytope.sensitivity.product import norm_product
from polytope.sensitivity.samples import Stretched, sampled_lower
from polytope.sets import Ball, Box, BoxLike
from solvers.norms import NormLike

LipschitzMethod = Literal[
    "norm-product", "fastlip", "recurjac", "recurjac-f0", "recurjac-f1", "sampled", "exact", "mip"
]
#: Outputs whose signed sums are bounded one by one for q = 1.
SIGNED = 6
#: Methods that search the linear regions and can be limited.
SEARCHES = ("exact", "mip")


@overload
def lipschitz(  # type: ignore[overload-overlap]
    net: Network, domain: Sequence[Ball] | Sequence[Box], p: NormLike = ..., q: NormLike = ...,
    method: LipschitzMethod = ..., *, box: BoxLike = ..., functional: object = ...,
    samples: int = ..., seed: int = ..., max_regions: int | None = ...,
    time_limit: float | None = ..., memory: int = ...,
) -> list[Lipschitz]: ...  # fmt: skip


@overload
def lipschitz(
    net: Network, domain: Domain, p: NormLike = ..., q: NormLike = ...,
    method: LipschitzMethod = ..., *, box: BoxLike = ..., functional: object = ...,
    samples: int = ..., seed: int = ..., max_regions: int | None = ...,
    time_limit: float | None = ..., memory: int = ...,
) -> Lipschitz: ...  # fmt: skip


def lipschitz(
    net: Network,
    domain: Domains,
    p: NormLike = 2,
    q: NormLike = 2,
    method: LipschitzMethod = "recurjac",
    *,
    box: BoxLike = None,
    functional: object = None,
    samples: int = 100,
    seed: int = 0,
    max_regions: int | None = None,
    time_limit: float | None = None,
    memory: int = MEMORY,
) -> Lipschitz | list[Lipschitz]:
    """The largest operator norm of the Jacobian over a ball or box: an interval.

    Parameters
    ----------
    net : Network
    domain : Ball, Box, pair (low, high), None, or a list of balls or of boxes
        None is the whole input space: the global constant.  A list gives a list of results; a
        ball of it is bounded by larger ones around the same center too.
    p, q : number or "inf"
        Norms of the inputs and of the outputs, whatever the norm of the ball.
    method : str
        "norm-product": the product of the layers' operator norms, for the whole space (any p, q).
        "fastlip", "recurjac", "recurjac-f0", "recurjac-f1": the norm of the largest absolute
        values of elementwise bounds (`jacobian_bounds`), for p = 1, q = inf, p = q = 2, q = 1, or
        p = inf; "recurjac" with p = inf sums the entries of known sign before bounding them
        (section 3.4 of the paper); for q = 1 and few outputs every sum ``+-f_1 +- f_2 ...`` is
        bounded by itself.  On networks with maxima they are met with "norm-product".
        "sampled": a lower bound only, at sampled points (any p, q).
        "exact": the maximum over all linear regions (`polytope.extremes.exact_lipschitz`).
        "mip": the same by a mixed-integer program, for norms in {1, inf}; its interval is what is
        proved beside the solver's claim (`polytope.extremes.lipschitz_mip`).
    box : Box or pair, optional
        Balls are met with it; their centers must lie inside.
    functional : array (outputs,), optional
        The constant of this linear function of the outputs (a margin, say) instead.
    samples : int
        Points at which the bounding and sampling methods look for a lower bound.
    seed : int
    max_regions : int, optional
        For "exact".
    time_limit : float, optional
        Seconds per domain, for "exact" and "mip".
    memory : int
        Bytes for one block of work.

    Returns
    -------
    Lipschitz, or a list of them

    Raises
    ------
    InputError
        For a set that does not fit, norms that a method does not support, or a limit given to a
        method that does not search.
    SmoothActivation
        If "exact" or "mip" is asked of a network that is not piecewise linear.
    """
    if method not in get_args(LipschitzMethod):
        raise InputError(f"method: got {method!r}, expected one of {get_args(LipschitzMethod)}")
    pair = norm_pair(p, q)
    count = positive_int(samples, "samples")
    if method in SEARCHES:
        return _searched(net, domain, pair, method, box, functional, max_regions, time_limit)
    if max_regions is not None or time_limit is not None:
        raise InputError(
            f"lipschitz: max_regions and time_limit limit a search, but method={method!r} takes "
            "one pass; leave them out, or use method='exact'"
        )
    begin = time.perf_counter()
    batch = as_domains(net, domain, box, "lipschitz")
    rows = as_functions(net, None if functional is None else as_functional(net, functional), 1)
    exponents = (
        pair
        if method in ("norm-product", "sampled")
        else require_computable(*pair, rows.shape[1], net.input_size, f"lipschitz, {method}", True)
    )
    below = sampled_lower(net, batch.inputs, rows, *exponents, count, seed, memory)
    with torch.no_grad():
        upper, jumps = _upper(net, batch, rows, exponents, method, functional is not None, memory)
    seconds = (time.perf_counter() - begin) / len(batch)
    found = [
        _result(net, below, i, (upper[i], bool(jumps[i])), pair, method, seconds)
        for i in range(len(batch))
    ]
    return found[0] if batch.alone else found


def _searched(
    net: Network, domain: Domains, pair: tuple[float, float], method: str, box: BoxLike,
    functional: object, max_regions: int | None, time_limit: float | None,
) -> Lipschitz | list[Lipschitz]:  # fmt: skip
    """The methods that search regions, one domain after another."""
    net.require_piecewise_linear(f"lipschitz, method={method!r}")
    if isinstance(domain, list | tuple) and any(isinstance(v, Ball | Box) for v in domain):
        found = [
            _searched(net, one, pair, method, box, functional, max_regions, time_limit)
            for one in domain
        ]
        return [one for one in found if isinstance(one, Lipschitz)]
    if method == "exact":
        return exact_lipschitz(
            net, domain, *pair, box=box, functional=functional, max_regions=max_regions,
            time_limit=time_limit,
        )  # fmt: skip
    if max_regions is not None:
        raise InputError("lipschitz: method='mip' counts no regions; use time_limit")
    claim = lipschitz_mip(
        net, domain, *pair, box=box, functional=functional, time_limit=time_limit
    )  # fmt: skip
    narrow = claim.upper - claim.lower <= EXACT * claim.upper
    return Lipschitz(
        claim.lower, claim.upper, (claim.lower + claim.upper) / 2 if narrow else None, *pair,
        method, "exact" if narrow else "interval", "safe-float", claim.witness, claim.jacobian,
        claim.pattern, 0, claim.seconds, claim.claimed,
    )  # fmt: skip


def _upper(
    net: Network, batch: DomainBatch, rows: torch.Tensor, pair: tuple[float, float], method: str,
    functional: bool, memory: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Proved upper bounds (n,), inf where the method has none, and where a unit may jump (n,)."""
    product = math.inf
    if method == "norm-product" or (method != "sampled" and any(k.is_max for k in net.layers)):
        # An interval matrix forgets that one candidate of a maximum wins: met with the product.
        product = norm_product(net, *pair, rows[0] if functional else None)
    if method in ("norm-product", "sampled"):
        jumps = [
            has_jumps(layer_bounds(net, batch.take(own), method="interval"))
            for own in blocks(net, len(batch), 1, memory)
        ]
        return np.full(len(batch), product), torch.cat(jumps).numpy()
    kind: JacobianMethod = method  # type: ignore[assignment]
    found = [
        norms_over(net, batch.take(own), rows, pair[0], kind, memory)
        for own in blocks(net, len(batch), rows.shape[1], memory)
    ]
    low, high, sums, jumps_at = (np.concatenate(parts) for parts in zip(*found, strict=True))
    low, high = nested(batch, low, high)
    upper = size_norm(np.maximum(np.abs(low), np.abs(high)), pair)
    if pair[0] == math.inf:
        upper = np.fmin(upper, norms_above(sums, pair[1]))
    if pair[1] == 1 and 1 < rows.shape[1] <= SIGNED:
        signed = torch.as_tensor(sign_vectors(rows.shape[1])) @ rows
        each = [
            norms_over(net, batch.take(own), signed, pair[0], kind, memory)[2].max(axis=1)
            for own in blocks(net, len(batch), signed.shape[1], memory)
        ]
        upper = np.fmin(upper, np.concatenate(each))
    upper = np.fmin(upper, product)
    for chain in batch.order:
        upper[chain] = np.minimum.accumulate(upper[chain])
    return upper, jumps_at


def _result(
    net: Network, below: Stretched, i: int, above: tuple[float, bool], pair: tuple[float, float],
    method: str, seconds: float,
) -> Lipschitz:  # fmt: skip
    """One domain's result."""
    lower, upper = float(below.lower[i]), float(above[0])
    narrow = upper - lower <= EXACT * upper
    point = below.point[i]
    pattern = None
    if not net.graph.smooth:
        x = torch.as_tensor(point).reshape(1, *net.input_shape)
        with torch.no_grad():
            pieces = net.pieces(x)[0].numpy()
        pattern = ActivationPattern.from_pieces(pieces, net.layout)
    return Lipschitz(
        lower, upper, (lower + upper) / 2 if narrow else None, *pair, method,
        "exact" if narrow else "interval", "safe-float", point, below.jacobian[i], pattern, 1,
        seconds, jumps=above[1],
    )  # fmt: skip
