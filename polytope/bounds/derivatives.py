"""Which derivatives the units of a network can have on an input set.

RecurJac (arXiv 1810.11783), equations 6 to 8: each unit's slope lies in an interval.  A maximum
has instead the candidates that may win.  Pieces that [low, high] meets in an end point only do
not count: where a unit stands at that point on an open set, its gradient is zero there, and
elsewhere that happens on a set without volume only.  The Jacobians meant are therefore those at
points of the set where the network is differentiable, and their limits from inside the set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polytope.bounds.layers import LayerBounds
from polytope.bounds.smooth import jumps, slope_bounds
from polytope.network.ir import Max, Piecewise, Smooth


@dataclass(frozen=True, eq=False)
class Slopes:
    """Bounds of the slopes of a layer of units: two tensors (n, units)."""

    low: torch.Tensor
    high: torch.Tensor

    @property
    def size(self) -> torch.Tensor:
        """The largest absolute slopes."""
        return torch.maximum(self.low.abs(), self.high.abs())


@dataclass(frozen=True, eq=False)
class Winners:
    """The candidates that may win each maximum.

    Attributes
    ----------
    index : int64 tensor (units, candidates)
        Positions among the values that the layer reads; -1 is none.
    may : bool tensor (n, units, candidates)
    """

    index: torch.Tensor
    may: torch.Tensor


#: What is known of the derivative of each nonlinear node, by node.
Derivatives = dict[int, Slopes | Winners]


def derivatives(bounds: LayerBounds) -> Derivatives:
    """Slopes or winners of every nonlinear node.

    Parameters
    ----------
    bounds : LayerBounds
        Of n input sets.
    """
    net, walk = bounds.net, bounds.walk
    c = net.constants(bounds.inputs.low.dtype, bounds.inputs.low.device)
    found: Derivatives = {}
    for layer, pieces in zip(net.layers, bounds.pieces, strict=True):
        node = net.graph.nodes[layer.node]
        if isinstance(node.op, Max):
            found[layer.node] = Winners(c[node.op.index], pieces)
        else:
            assert isinstance(node.op, Piecewise)
            slopes = c[node.op.slopes].expand(*node.shape, -1).reshape(1, node.size, -1)
            least = torch.where(pieces, slopes, torch.inf).amin(dim=2)
            most = torch.where(pieces, slopes, -torch.inf).amax(dim=2)
            found[layer.node] = Slopes(least, most)
    for number, node in enumerate(net.graph.nodes):
        if isinstance(node.op, Smooth):
            source = node.inputs[0]
            low, high = walk.low[source].flatten(1), walk.high[source].flatten(1)
            found[number] = Slopes(*slope_bounds(node.op, low, high))
    return found


def has_jumps(bounds: LayerBounds) -> torch.Tensor:
    """The samples on which a unit may jump (torch's softplus at its threshold): bool (n,).

    There the network has no Lipschitz constant, though it is differentiable almost everywhere.
    """
    found = torch.zeros(len(bounds.inputs), dtype=torch.bool, device=bounds.inputs.low.device)
    for node in bounds.net.graph.nodes:
        if isinstance(node.op, Smooth):
            source = node.inputs[0]
            low, high = (v[source].flatten(1) for v in (bounds.walk.low, bounds.walk.high))
            found = found | jumps(node.op, low, high).any(dim=1)
    return found
