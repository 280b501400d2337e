"""The pattern behind a facet, right also where hyperplanes coincide or vanish.

Crossing one hyperplane changes the piece of its unit; the network is continuous, so every
other unit keeps its piece near the facet unless its own hyperplane contains the facet.  Those
units are decided by their map *behind* the facet, layer by layer: a unit whose value there is
``alpha`` times the facet's has the side that the sign of alpha says; a unit that is constant
is decided by its constant.  So coincident hyperplanes are crossed together, and the piece of
an identically zero unit is recomputed, never inherited.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polytope.network.engine import Engine, gather_windows
from polytope.network.ir import Layer, Max, Piecewise
from polytope.network.rounding import RoundingBounds, rounding_bounds
from polytope.rows import NEGLIGIBLE, neighbour_piece, row_normals, row_values, unit_of_row

#: A row is on the facet's hyperplane if it is a multiple of it to this relative accuracy.
PARALLEL = 1e-10
#: Rows whose cosine with the facet's is within this of 1 are looked at closely (a cosine
#: computed in float64 cannot tell angles below 1e-8 apart).
NEARLY = 1e-7


@dataclass(frozen=True)
class Crossing:
    """Decides the pieces behind one facet for each point of a batch (see `Engine.sweep`).

    Attributes
    ----------
    net : Engine
    pieces : tensor (batch, units)
        Pieces on this side.
    normal : tensor (batch, d)
        Outward normals of the facets.
    residual : tensor (batch,)
        Oriented values of the facets at the points.
    unit, piece : tensor (batch,)
        The unit whose hyperplane is crossed, and its piece behind it.
    bounds : list of RoundingBounds
        Rounding errors on this side, by layer.
    """

    net: Engine
    pieces: torch.Tensor
    normal: torch.Tensor
    residual: torch.Tensor
    unit: torch.Tensor
    piece: torch.Tensor
    bounds: list[RoundingBounds]

    def __call__(
        self, layer: Layer, values: torch.Tensor, gradients: torch.Tensor | None
    ) -> torch.Tensor:
        """The pieces (batch, units) of a layer behind the facets."""
        assert gradients is not None
        number = self.net.layers.index(layer)
        worst = self.bounds[number]
        op = self.net.graph.nodes[layer.node].op
        pieces = self.pieces[:, layer.unit_slice].clone()
        spread = gradients.expand(len(values), *gradients.shape[1:])
        bound = RoundingBounds(
            _useful(worst.value, values.abs()), _useful(worst.gradient, spread.abs().sum(dim=1))
        )
        if isinstance(op, Piecewise):
            pieces = self._piecewise(op, layer, pieces, values, spread, bound)
        else:
            assert isinstance(op, Max)
            pieces = self._max(op, pieces, values, spread, bound)
        mine = (self.unit >= layer.first_unit) & (self.unit < layer.unit_slice.stop)
        own = mine.nonzero().flatten()
        pieces[own, self.unit[own] - layer.first_unit] = self.piece[own]
        return pieces

    def _multiple(
        self, gradients: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return alpha (batch, n), and whether (gradient, value) is alpha times the facet's."""
        square = self.normal.square().sum(dim=1).clamp(min=torch.finfo(values.dtype).tiny)
        alpha = torch.einsum("bd,bdn->bn", self.normal, gradients) / square[:, None]
        size = torch.linalg.vector_norm(gradients, dim=1)
        cosine = alpha.abs() * square.sqrt()[:, None] / size.clamp(min=1e-300)
        on_facet = torch.zeros_like(cosine, dtype=torch.bool)
        sample, unit = ((cosine >= 1 - NEARLY) & (size > 0)).nonzero(as_tuple=True)
        if len(sample):
            factor = alpha[sample, unit]
            off = gradients[sample, :, unit] - factor[:, None] * self.normal[sample]
            normal_fits = torch.linalg.vector_norm(off, dim=1) <= PARALLEL * size[sample, unit]
            gap = (values[sample, unit] - factor * self.residual[sample]).abs()
            scale = values[sample, unit].abs() + size[sample, unit]
            on_facet[sample, unit] = normal_fits & (gap <= PARALLEL * scale)
        return alpha, on_facet

    def _piecewise(
        self,
        op: Piecewise,
        layer: Layer,
        pieces: torch.Tensor,
        values: torch.Tensor,
        gradients: torch.Tensor,
        bound: RoundingBounds,
    ) -> torch.Tensor:
        """Pieces of elementwise units."""
        c = self.net.constants(values.dtype, values.device)
        shape = self.net.graph.nodes[layer.node].shape
        breakpoints = c[op.breakpoints].expand(*shape, layer.slots).reshape(layer.units, -1)
        constant = gradients.abs().sum(dim=1) <= bound.gradient
        for slot in range(layer.slots):
            height = values - breakpoints[:, slot]
            alpha, on_facet = self._multiple(gradients, height)
            beyond = torch.where(alpha > 0, slot + 1, slot)
            pieces = torch.where(on_facet & ~constant, beyond, pieces)
        above = values.unsqueeze(2) - breakpoints > bound.value.unsqueeze(2)
        return torch.where(constant, above.sum(dim=2), pieces)

    def _max(
        self,
        op: Max,
        pieces: torch.Tensor,
        values: torch.Tensor,
        gradients: torch.Tensor,
        bound: RoundingBounds,
    ) -> torch.Tensor:
        """Winners: among the candidates equal on the facet the steepest across it."""
        index = self.net.constants(values.dtype, values.device)[op.index]
        table = index.unsqueeze(0).expand(len(values), *index.shape)
        winner = table.gather(2, pieces.unsqueeze(2)).squeeze(2)
        value = values.gather(1, winner)
        error = bound.value.gather(1, winner)
        noise = bound.gradient.gather(1, winner)
        slope = gradients.gather(2, winner.unsqueeze(1).expand(-1, gradients.shape[1], -1))
        floor = torch.full_like(value, -torch.inf)
        lead, best, chosen = torch.zeros_like(value), torch.zeros_like(value), pieces
        tied = gather_windows(values, index, -torch.inf)
        for slot in range(index.shape[1]):
            place = index[:, slot].clamp(min=0)
            other = (index[:, slot] >= 0) & (place != winner)
            difference = gradients[:, :, place] - slope
            rise = torch.where(other, tied[:, :, slot] - value, floor)
            constant = difference.abs().sum(dim=1) <= bound.gradient[:, place] + noise
            ahead = constant & other & (rise > bound.value[:, place] + error) & (rise > lead)
            lead = torch.where(ahead, rise, lead)
            alpha, on_facet = self._multiple(difference, torch.where(other, rise, value))
            steeper = on_facet & other & ~constant & (alpha > best) & (lead <= 0)
            best = torch.where(steeper, alpha, best)
            chosen = torch.where(ahead | steeper, slot, chosen)
        return chosen


def _useful(bound: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """An error bound, but below every number that matters (see `hyperplanes.NEGLIGIBLE`)."""
    return torch.minimum(bound, NEGLIGIBLE * sizes.amax(dim=1, keepdim=True))


def crossing_behind(
    net: Engine,
    x: torch.Tensor,
    pieces: torch.Tensor,
    rows: torch.Tensor,
    classes: torch.Tensor,
    memory: int,
) -> Crossing:
    """The crossing of one row for each point of a batch.

    Parameters
    ----------
    net : Engine
    x : tensor (batch, *input_shape)
        Any points: only the affine maps of `pieces` matter, not where the points lie.
    pieces : tensor (batch, units)
        The regions to be left.
    rows : tensor (batch,)
        Row to be crossed in each (not a decision row).
    classes : tensor (batch,)
    memory : int
        Bytes for the reverse pass that finds the normals.
    """
    samples = torch.arange(len(x), device=x.device)
    residual, _, _ = row_values(net, x, pieces, rows, classes)
    places = [unit_of_row(net, row) for row in rows.tolist()]
    unit = torch.tensor([layer.first_unit + u for layer, u, _ in places], device=x.device)
    return Crossing(
        net=net,
        pieces=pieces,
        normal=row_normals(net, x, pieces, samples, rows, classes, memory=memory),
        residual=residual,
        unit=unit,
        piece=neighbour_piece(net, pieces, rows),
        bounds=rounding_bounds(net, x, pieces),
    )
