"""Fast-Lip: interval matrices pulled back layer by layer (Weng et al., ICML 2018).

In the notation of RecurJac (arXiv 1810.11783): with ``L <= Y <= U`` for the derivatives Y of the
outputs with respect to a layer's outputs and slopes in [lam, mu], the entries of ``Y D`` lie
between the least and the largest of the four products, and

    (Y D) W  lies in  mid W -+ rad |W|,

mid and rad being the middle and half the width: the paper's W+ U + W- L.  A node that several
nodes read gets the sum of their intervals (the chain rule of a sum of paths).  A maximum hands
[min(L, 0), max(U, 0)] to each candidate that may win, and [L, U] to an only one.  Roundings are
bounded by ``gamma |W|`` times the sizes, and widen the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polytope.bounds.derivatives import Derivatives, Slopes, Winners
from polytope.bounds.interval import part_of
from polytope.bounds.linear_nodes import pull, scatter, terms_back
from polytope.bounds.rounding import SLACK, above, below, gamma
from polytope.network.engine import Constants, Engine
from polytope.network.ir import Node, Shape


@dataclass(frozen=True, eq=False)
class Interval:
    """Matrices ``low <= M <= high``: two tensors (n or 1, rows, size)."""

    low: torch.Tensor
    high: torch.Tensor

    @property
    def size(self) -> torch.Tensor:
        """The largest absolute entries."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def ordered(self) -> Interval:
        """Infinite where an overflow has left no number."""
        low, high = self.low, self.high
        bad = torch.isnan(low) | torch.isnan(high)
        if not bool(bad.any()):
            return self
        return Interval(torch.where(bad, -torch.inf, low), torch.where(bad, torch.inf, high))

    def plus(self, other: Interval) -> Interval:
        """The sum, rounded outwards."""
        return Interval(below(self.low + other.low), above(self.high + other.high))


def fastlip(net: Engine, derivatives: Derivatives, rows: torch.Tensor) -> Interval:
    """Bounds of the Jacobian of ``rows @ outputs`` with respect to the input.

    Parameters
    ----------
    net : Engine
    derivatives : dict
        Of all nonlinear nodes, for n input sets.
    rows : tensor (n or 1, m, outputs)

    Returns
    -------
    Interval
        (n or 1, m, inputs).
    """
    last = len(net.graph.nodes) - 1
    return pull_interval(net, derivatives, last, Interval(rows, rows))


def pull_interval(
    net: Engine, derivatives: Derivatives, start: int, outer: Interval, until: int = 0
) -> Interval:
    """Intervals of derivatives with respect to a node as such with respect to an earlier one.

    Parameters
    ----------
    net : Engine
    derivatives : dict
        Of the nonlinear nodes between the two, `start` included.
    start : int
        The node on whose values `outer` is.
    outer : Interval
        (n or 1, m, size of the node).
    until : int
        The earlier node.
    """
    c = net.constants(outer.low.dtype, outer.low.device)
    nodes = net.graph.nodes
    pending = {start: outer}
    for number in range(start, until, -1):
        here = pending.pop(number, None)
        if here is None:
            continue
        node = nodes[number]
        if number in derivatives:
            source = node.inputs[0]
            parts = [through_units(derivatives[number], here, nodes[source].size)]
        else:
            parts = through_linear(node, here, [nodes[i].shape for i in node.inputs], c)
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source].plus(part) if source in pending else part
    found = pending.get(until)
    if found is None:
        zero = outer.low.new_zeros(1, outer.low.shape[1], nodes[until].size)
        return Interval(zero, zero)
    return found.ordered()


def through_units(units: Slopes | Winners, outer: Interval, size: int) -> Interval:
    """Intervals on a layer's outputs as intervals on the `size` values that it reads."""
    if isinstance(units, Slopes):
        lam, mu = units.low[:, None], units.high[:, None]
        products = [end * slope for end in (outer.low, outer.high) for slope in (lam, mu)]
        low = torch.minimum(torch.minimum(*products[:2]), torch.minimum(*products[2:]))
        high = torch.maximum(torch.maximum(*products[:2]), torch.maximum(*products[2:]))
        exact = (lam == mu) & ((lam == 0) | (lam.abs() == 1))
        return Interval(torch.where(exact, low, below(low)), torch.where(exact, high, above(high)))
    may = units.may[:, None]
    alone = may.sum(dim=3, keepdim=True) == 1
    rows = max(len(may), len(outer.low)) * outer.low.shape[1]
    ends = []
    for end, extreme in ((outer.low, torch.clamp_max), (outer.high, torch.clamp_min)):
        each = torch.where(alone, end[..., None], extreme(end, 0.0)[..., None])
        flat = torch.where(may, each, torch.zeros_like(each)).reshape(rows, -1)
        summed = scatter(flat, units.index.flatten(), size)
        ends.append(summed.reshape(-1, outer.low.shape[1], size))
    low, high = ends
    lost = gamma(units.index.numel(), low.dtype) * torch.maximum(low.abs(), high.abs())
    return Interval(low - lost, high + lost)


def through_linear(
    node: Node, outer: Interval, shapes: list[Shape], c: Constants
) -> list[Interval]:
    """Intervals on each input of a linear node."""
    n, m = outer.low.shape[:2]
    middle, radius = (outer.high + outer.low) / 2, (outer.high - outer.low) / 2
    terms = terms_back(node, c) + 4
    unit = SLACK * gamma(terms, middle.dtype)
    plain = torch.equal(outer.low, outer.high)
    wide = radius * (1 + 4 * unit) + unit * outer.size
    part = part_of(node, c, 0)
    assert part is not None

    def pulled(values: torch.Tensor, absolute: bool) -> list[torch.Tensor]:
        rows = values.reshape(n * m, *node.shape)
        parts = pull(*part[:1], rows, shapes, part[1]) if absolute else pull(node, rows, shapes, c)
        return [v.reshape(n, m, -1) for v in parts]

    moves_only = plain and terms_back(node, c) == 0
    middles = pulled(middle, False)
    if moves_only:
        return [Interval(v, v) for v in middles]
    tiny = 4 * terms * torch.finfo(middle.dtype).tiny
    widths = [v * (1 + 2 * unit) + tiny for v in pulled(wide, True)]
    return [Interval(below(v - w), above(v + w)) for v, w in zip(middles, widths, strict=True)]
