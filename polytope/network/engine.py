"""Runs a compiled graph in torch: forward, and forward with tangents under frozen pieces.

One generator, `Engine.sweep`, serves everything that needs a region's geometry: it walks the
graph once and hands out, layer by layer, the pre-activations and their derivatives along any
set of directions.  Convolutions stay convolutions; a value is let go after its last reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from polytope.errors import SmoothActivation
from polytope.network.ir import (
    Affine,
    Concat,
    Conv,
    Gather,
    Graph,
    Input,
    Layer,
    Linear,
    Max,
    Node,
    Op,
    Piecewise,
    Pool,
    Shape,
    Smooth,
    Sum,
)
from polytope.pattern import PatternLayout, piece_of, winner_of

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class LayerState:
    """What a sweep knows when it reaches a nonlinear layer, or the output.

    Attributes
    ----------
    layer : Layer or None
        None at the output.
    values : tensor (batch, n)
        The pre-activations (for a max: all values that its windows read; at the output: the
        outputs), flattened.
    pieces : tensor (batch, units) or None
        The piece of each unit; None at the output.
    gradients : tensor (batch or 1, directions, n) or None
        Derivatives of `values` along each direction; batch 1 where they do not depend on
        the point; None if the sweep carries no directions.
    """

    layer: Layer | None
    values: torch.Tensor
    pieces: torch.Tensor | None
    gradients: torch.Tensor | None


#: Chooses the pieces of a layer: (layer, values, gradients) to (batch, units).
Decide = Callable[[Layer, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Engine:
    """A compiled graph ready to run; `Network` adds the source model and the public methods.

    Parameters
    ----------
    graph : Graph
        The meaning of the network.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._cache: dict[tuple[torch.dtype, torch.device], Constants] = {}

    @property
    def input_shape(self) -> Shape:
        """Shape of one input."""
        return self.graph.input_shape

    @property
    def input_size(self) -> int:
        """Number of input coordinates."""
        return math.prod(self.graph.input_shape)

    @property
    def output_size(self) -> int:
        """Number of outputs."""
        return math.prod(self.graph.output_shape)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The piecewise-linear layers, in topological order."""
        return self.graph.layers

    @property
    def units(self) -> int:
        """Number of piecewise-linear units."""
        return sum(layer.units for layer in self.layers)

    @property
    def rows(self) -> int:
        """Number of hyperplanes: one per breakpoint of a unit, one per candidate of a max."""
        return sum(layer.units * layer.slots for layer in self.layers)

    @property
    def layout(self) -> PatternLayout:
        """(units, pieces) of each layer."""
        return tuple((layer.units, layer.pieces) for layer in self.layers)

    def require_piecewise_linear(self, method: str) -> None:
        """Refuse an exact method on a network with smooth activations.

        Raises
        ------
        SmoothActivation
            Naming the activation, its place, and the bounds that do apply.
        """
        if self.graph.smooth:
            node = self.graph.smooth[0]
            raise SmoothActivation(
                f"{method} needs a piecewise-linear network, but {node.name!r} is "
                f"{type(node.op).__name__.lower()} {getattr(node.op, 'kind', '')!r}: it has no "
                "linear regions; use bounds that hold for smooth activations (interval, CROWN, "
                "RecurJac) instead, or replace the activation by a piecewise-linear one"
            )

    def constants(self, dtype: torch.dtype, device: torch.device) -> Constants:
        """The graph's constants as tensors: floats in `dtype`, indices in int64; cached."""
        found = self._cache.get((dtype, device))
        if found is None:
            found = {
                key: torch.tensor(
                    array, dtype=dtype if array.dtype.kind == "f" else torch.int64, device=device
                )
                for key, array in self.graph.constants.items()
            }
            self._cache[dtype, device] = found
        return found

    def forward(self, x: torch.Tensor, constants: Constants | None = None) -> torch.Tensor:
        """Outputs (batch, *output_shape) of a batch (batch, *input_shape)."""
        for state in self.sweep(x, constants=constants):
            values = state.values
        return values.reshape(len(x), *self.graph.output_shape)

    def pieces(self, x: torch.Tensor) -> torch.Tensor:
        """Pieces (batch, units) of a batch of points, by the convention for ties."""
        found = [s.pieces.flatten(1) for s in self.sweep(x) if s.pieces is not None]
        if not found:
            return torch.zeros((len(x), 0), dtype=torch.int64, device=x.device)
        return torch.cat(found, dim=1)

    def sweep(
        self,
        x: torch.Tensor,
        tangents: torch.Tensor | None = None,
        decide: Decide | None = None,
        constants: Constants | None = None,
    ) -> Iterator[LayerState]:
        """Walk the graph at the points `x`, with derivatives along `tangents`.

        Parameters
        ----------
        x : tensor (batch, *input_shape)
        tangents : tensor (1 or batch, directions, *input_shape), optional
            Directions; their images under the frozen network are the directional
            derivatives (ROLL, section 4.1 and appendix C).
        decide : callable, optional
            Chooses the pieces; by default the values do.  With pieces that are not those
            of `x` the values are those of the affine map of that pattern.
        constants : mapping, optional
            Constants that carry gradients (training); by default the graph's own.

        Yields
        ------
        LayerState
            One for each piecewise-linear layer, then one for the output.
        """
        c = self.constants(x.dtype, x.device) if constants is None else constants
        nodes, last_use = self.graph.nodes, self.graph.last_use
        layers = {layer.node: layer for layer in self.layers}
        values: dict[int, torch.Tensor] = {0: x}
        moved: dict[int, torch.Tensor] = {} if tangents is None else {0: tangents}
        for number, node in enumerate(nodes[1:], start=1):
            args = [values[i] for i in node.inputs]
            grads = [moved[i] for i in node.inputs] if moved else []
            if number in layers:
                z, dz = args[0], grads[0] if grads else None
                layer = layers[number]
                flat = z.flatten(1)
                flat_grads = None if dz is None else dz.flatten(2)
                if decide is not None:
                    pieces = decide(layer, flat, flat_grads)
                else:
                    pieces = natural_pieces(node, z, c).flatten(1)
                yield LayerState(layer, flat, pieces, flat_grads)
                shaped = pieces.reshape(len(pieces), *node.shape)
                values[number], result = _frozen(node, shaped, z, dz, c)
                if result is not None:
                    moved[number] = result
            else:
                values[number] = apply(node, args, c)
                if grads:
                    moved[number] = push_tangents(node, grads, c)
            for source in {number, *node.inputs}:
                if last_use[source] <= number and source != len(nodes) - 1:
                    values.pop(source, None)
                    moved.pop(source, None)
        out, gradients = values[len(nodes) - 1], moved.get(len(nodes) - 1)
        yield LayerState(
            None, out.flatten(1), None, None if gradients is None else gradients.flatten(2)
        )


def natural_pieces(node: Node, z: torch.Tensor, c: Constants) -> torch.Tensor:
    """The pieces that the values themselves are in: (batch, *node.shape)."""
    if isinstance(node.op, Piecewise):
        return piece_of(z, c[node.op.breakpoints])
    assert isinstance(node.op, Max)
    candidates = gather_windows(z.flatten(1), c[node.op.index], -math.inf)
    return winner_of(candidates).reshape(len(z), *node.shape)


def slopes_of(
    op: Piecewise, pieces: torch.Tensor, c: Constants
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and intercept of each unit's piece, in the shape of `pieces`."""
    slopes, intercepts = c[op.slopes], c[op.intercepts]
    slope = slopes[..., 0].expand(pieces.shape)
    intercept = intercepts[..., 0].expand(pieces.shape)
    for j in range(1, slopes.shape[-1]):
        slope = torch.where(pieces >= j, slopes[..., j], slope)
        intercept = torch.where(pieces >= j, intercepts[..., j], intercept)
    return slope, intercept


def gather_windows(flat: torch.Tensor, index: torch.Tensor, fill: float) -> torch.Tensor:
    """``flat[..., index]`` with `fill` where the index is -1."""
    found = flat[..., index.clamp(min=0)]
    absent = index < 0
    return found.masked_fill(absent, fill) if bool(absent.any()) else found


def winning_positions(op: Max, pieces: torch.Tensor, c: Constants) -> torch.Tensor:
    """Flat positions of the winners: (batch, units)."""
    index = c[op.index]
    table = index.unsqueeze(0).expand(len(pieces), *index.shape)
    return table.gather(2, pieces.flatten(1).unsqueeze(2)).squeeze(2)


def _frozen(
    node: Node,
    pieces: torch.Tensor,
    z: torch.Tensor,
    dz: torch.Tensor | None,
    c: Constants,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A nonlinear node as the affine map of its pieces, on values and on tangents."""
    op = node.op
    if isinstance(op, Piecewise):
        slope, intercept = slopes_of(op, pieces, c)
        return z * slope + intercept, None if dz is None else dz * slope.unsqueeze(1)
    assert isinstance(op, Max)
    where = winning_positions(op, pieces, c)
    out = z.flatten(1).gather(1, where).reshape(len(z), *node.shape)
    if dz is None:
        return out, None
    flat = dz.flatten(2)
    flat = flat.expand(len(z), *flat.shape[1:])
    index = where.unsqueeze(1).expand(-1, flat.shape[1], -1)
    return out, flat.gather(2, index).reshape(len(z), flat.shape[1], *node.shape)


def push_tangents(node: Node, grads: list[torch.Tensor], c: Constants) -> torch.Tensor:
    """The linear part of a node on tangents (batch or 1, directions, *shape)."""
    batch = max(len(g) for g in grads)
    same = [g.expand(batch, *g.shape[1:]) if len(g) != batch else g for g in grads]
    flat = [g.flatten(0, 1) for g in same]
    out = apply(node, flat, c, bias=False)
    return out.reshape(batch, -1, *node.shape)


def apply(node: Node, args: list[torch.Tensor], c: Constants, bias: bool = True) -> torch.Tensor:
    """A node that is not piecewise linear, on a batch; without `bias` its linear part."""
    op: Op = node.op
    x = args[0]
    match op:
        case Linear():
            return F.linear(x, c[op.weight], c[op.bias] if bias and op.bias else None)
        case Conv():
            return _convolve(op, x, c[op.weight], c[op.bias] if bias and op.bias else None)
        case Affine():
            scaled = x if op.scale is None else x * c[op.scale]
            return scaled if op.shift is None or not bias else scaled + c[op.shift]
        case Gather():
            flat = x.flatten(1)
            if op.index is not None:
                flat = gather_windows(flat, c[op.index], 0.0)
            return flat.reshape(len(x), *node.shape)
        case Concat():
            return torch.cat([a.flatten(1) for a in args], dim=1)
        case Sum():
            total = x if op.coefficients[0] == 1 else x * op.coefficients[0]
            for coefficient, other in zip(op.coefficients[1:], args[1:], strict=True):
                total = torch.add(total, other, alpha=coefficient)
            return total
        case Pool():
            sums = gather_windows(x.flatten(1), c[op.index], 0.0).sum(dim=-1)
            return (sums / c[op.divisor]).reshape(len(x), *node.shape)
        case Smooth():
            return _smooth(op, x)
        case Input() | Piecewise() | Max():
            raise TypeError(f"{type(op).__name__} is not applied as a plain operation")


def _convolve(
    op: Conv, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """A convolution of one, two or three spatial axes."""
    rank = weight.ndim - 2
    if op.transposed:
        turned = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        return turned(
            x, weight, bias, list(op.stride), list(op.padding), list(op.output_padding),
            op.groups, list(op.dilation),
        )  # fmt: skip
    plain = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return plain(x, weight, bias, list(op.stride), list(op.padding), list(op.dilation), op.groups)


def _smooth(op: Smooth, x: torch.Tensor) -> torch.Tensor:
    """A smooth activation."""
    match op.kind:
        case "sigmoid":
            return torch.sigmoid(x)
        case "tanh":
            return torch.tanh(x)
        case "atan":
            return torch.atan(x)
        case "softplus":
            return F.softplus(x, *op.parameters)
        case "elu":
            return F.elu(x, *op.parameters)  # type: ignore[arg-type]
        case _:
            raise TypeError(f"unknown smooth activation {op.kind!r}")
