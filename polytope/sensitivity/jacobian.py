"""`jacobian_bounds`: elementwise bounds of the Jacobian over balls and boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from polytope.bounds.derivatives import derivatives, has_jumps
from polytope.bounds.fastlip import Interval, fastlip
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import MEMORY, layer_bounds
from polytope.bounds.recurjac import Backward
from polytope.bounds.recurjac_forward import forward_jacobian
from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.sensitivity.domains import DomainBatch, Domains, as_domains
from polytope.sets import BoxLike

JacobianMethod = Literal["recurjac", "recurjac-f0", "recurjac-f1", "fastlip"]


@dataclass(frozen=True, eq=False)
class JacobianBounds:
    """``lower <= J(x) <= upper`` elementwise, for the Jacobian of the outputs at every x of a set.

    J(x) is the Jacobian where the network is differentiable, and any limit of such Jacobians from
    inside the set elsewhere; convex combinations (Clarke's Jacobian) lie between the bounds too.

    Attributes
    ----------
    lower, upper : float64 (outputs, d), or (n, outputs, d) for a list of n sets
    jumps : bool (), or (n,)
        Whether a unit may jump in the set (torch's softplus at its threshold): the bounds are
        then those of the derivative on both sides of the jump.
    method : str
    exactness : str
        "safe-float": every rounding error is taken off.
    """

    lower: np.ndarray
    upper: np.ndarray
    jumps: np.ndarray
    method: str
    exactness: str

    def __repr__(self) -> str:
        """The sizes and how much is known: the arrays fill screens."""
        sets = "" if self.lower.ndim == 2 else f"{len(self.lower)} sets, "
        outputs, d = self.lower.shape[-2:]
        return (
            f"JacobianBounds({sets}{outputs} outputs x {d} inputs, {self.method}, "
            f"{self.exactness}, {self.signed.mean():.1%} of the signs known)"
        )

    @property
    def size(self) -> np.ndarray:
        """The largest absolute value that each entry may have."""
        return np.asarray(np.maximum(np.abs(self.lower), np.abs(self.upper)))

    @property
    def signed(self) -> np.ndarray:
        """Entries that are positive everywhere, or negative everywhere, in the set.

        Where a row has one, that output has no stationary point in the set (RecurJac, 4.1).
        """
        return np.asarray((self.lower > 0) | (self.upper < 0))

    def contains(self, J: np.ndarray) -> np.ndarray:
        """Whether matrices shaped like the bounds (or broadcast to them) lie between them."""
        return np.asarray(((self.lower <= J) & (self.upper >= J)).all(axis=(-2, -1)))

    def meet(self, larger: JacobianBounds) -> JacobianBounds:
        """These bounds tightened by those of a set that contains this one."""
        return replace(
            self,
            lower=np.maximum(self.lower, larger.lower),
            upper=np.minimum(self.upper, larger.upper),
        )


def jacobian_bounds(
    net: Engine,
    domain: Domains,
    method: JacobianMethod = "recurjac",
    *,
    box: BoxLike = None,
    functions: object = None,
    device: str | torch.device = "cpu",
    memory: int = MEMORY,
) -> JacobianBounds:
    """Bounds of every entry of the Jacobian of the outputs with respect to the input.

    Zhang, Zhang and Hsieh, RecurJac, AAAI 2019 (arXiv 1810.11783), over any compiled graph:
    convolutions, residual sums, pooling, and piecewise-linear and smooth activations; with
    pre-activation bounds by CROWN met with intervals.

    Parameters
    ----------
    net : Network
    domain : Ball, Box, pair (low, high), None, or a list of balls or of boxes
        None is the whole input space.  A smaller ball of a list also gets the bounds of larger
        ones around the same center, so that bounds grow with the radius.
    method : str
        "recurjac" goes backwards from the outputs (RecurJac-B); "recurjac-f0" forwards, costly
        for many inputs; "recurjac-f1" forwards behind the first layer, which must lie on all
        paths; "fastlip" multiplies intervals: the quickest and widest.  The forward ones are met
        with "fastlip".
    box : Box or pair, optional
        Balls are met with it; their centers must lie inside.
    functions : array (m, outputs), optional
        Linear functions of the outputs whose Jacobian is bounded instead; for a list of n sets
        also (n, m, outputs).
    device : str or torch.device
        Where to compute.
    memory : int
        Bytes for one block of work.

    Returns
    -------
    JacobianBounds

    Raises
    ------
    InputError
        For an unknown method, sets that do not fit, or a network to which a method does not
        apply.
    """
    require_method(method)
    batch = as_domains(net, domain, box, "jacobian_bounds", device)
    rows = as_functions(net, functions, len(batch), device)
    with torch.no_grad():
        parts, jumps = [], []
        for own in blocks(net, len(batch), rows.shape[1], memory):
            part = rows[own] if len(rows) > 1 else rows
            found = bounds_over(net, batch.take(own), part, method, memory)
            parts.append(found[0])
            jumps.append(found[1])
    low = torch.cat([v.low for v in parts]).cpu().numpy()
    high = torch.cat([v.high for v in parts]).cpu().numpy()
    if len(rows) == 1:  # the same functions for all sets
        low, high = nested(batch, low, high)
    at = torch.cat(jumps).cpu().numpy()
    if batch.alone:
        low, high, at = low[0], high[0], at[0]
    return JacobianBounds(low, high, at, method, "safe-float")


def require_method(method: str) -> None:
    """Refuse an unknown method.

    Raises
    ------
    InputError
    """
    if method not in get_args(JacobianMethod):
        raise InputError(f"method: got {method!r}, expected one of {get_args(JacobianMethod)}")


def as_functions(
    net: Engine, functions: object, samples: int, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Linear functions of the outputs as a tensor (samples or 1, m, outputs).

    Raises
    ------
    InputError
        If they are not finite numbers of that shape.
    """
    if functions is None:
        return torch.eye(net.output_size, dtype=torch.float64, device=device)[None]
    try:
        values = np.array(functions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"functions: is not numeric ({error})") from error
    fits = values.ndim == 2 or (values.ndim == 3 and len(values) in (1, samples))
    if not fits or values.shape[-1] != net.output_size or not np.isfinite(values).all():
        raise InputError(
            f"functions: got shape {values.shape}, expected finite coefficients of shape (m, "
            f"{net.output_size}) or ({samples}, m, {net.output_size}), one per output"
        )
    return torch.tensor(values.reshape(-1, *values.shape[-2:])).to(device)


def block_rows(net: Engine, functions: int, memory: int) -> int:
    """How many samples' payments fit into the memory."""
    cells = sum(node.size for node in net.graph.nodes)
    return max(1, memory // (8 * 24 * max(1, functions) * cells))


def blocks(net: Engine, samples: int, functions: int, memory: int) -> list[slice]:
    """Slices of the samples that fit into the memory."""
    step = block_rows(net, functions, memory)
    return [slice(i, i + step) for i in range(0, samples, step)]


def bounds_over(
    net: Engine, inputs: InputSet, rows: torch.Tensor, method: JacobianMethod, memory: int
) -> tuple[Interval, torch.Tensor]:
    """Bounds (n, m, d) over input sets, and on which of them a unit may jump (n,)."""
    bounds = layer_bounds(net, inputs, memory=memory)
    units = derivatives(bounds)
    if method == "recurjac":
        found = Backward(net, units, rows, memory).jacobian()
    else:
        found = fastlip(net, units, rows)
        if method != "fastlip":
            other = forward_jacobian(net, units, rows, method == "recurjac-f1", memory)
            found = Interval(
                torch.maximum(found.low, other.low), torch.minimum(found.high, other.high)
            )
    shape = (len(inputs), *found.low.shape[1:])
    return Interval(found.low.expand(shape), found.high.expand(shape)), has_jumps(bounds)


def nested(batch: DomainBatch, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds met with those of larger balls around the same center."""
    for rows in batch.order:
        low[rows] = np.maximum.accumulate(low[rows], axis=0)
        high[rows] = np.minimum.accumulate(high[rows], axis=0)
    return low, high
