"""A batch in a network whose pieces are held: its values, and what is linear in it.

One pass gives every row's value with its graph to the parameters, and the pieces, which carry
no gradient.  With them the network is affine at each point, so gradients of units are images
of directions (`push`, ROLL's appendix C) or pulled-back coefficients (`pull`), both of the
linear part alone: what the paper subtracts by a forward pass of zero is never added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from polytope.bounds.linear_nodes import constant_part
from polytope.bounds.linear_nodes import pull as pull_linear
from polytope.errors import InputError
from polytope.network.engine import (
    Engine,
    apply,
    gather_windows,
    natural_pieces,
    push_tangents,
    slopes_of,
    winning_positions,
)
from polytope.network.ir import Affine, Layer, Linear, Max, Node, Piecewise
from polytope.rows import as_logits
from polytope.training.captured import Captured, Live

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Frozen:
    """A batch and the affine networks at its points.

    Attributes
    ----------
    captured : Captured
    constants : mapping
        The graph's constants as they are now, with their graph to the parameters.
    x : tensor (batch, *input_shape)
    values : tensor (batch, rows)
        What each row is at the point: ``z - breakpoint`` of a unit, the candidate minus the
        winner of a maximum; with its graph. Not oriented.
    active : tensor (batch, rows) bool, or None
        The rows that bound the region; None if all do. Of two equal candidates of a maximum
        (two dead inputs) neither does.
    pieces : dict of tensor (batch, *shape)
        By node: the pieces, or for ``max(z, 0)`` whether the unit is on.
    logits : tensor (batch, classes)
        With its graph.
    """

    captured: Captured
    constants: dict[str, torch.Tensor]
    x: torch.Tensor
    values: torch.Tensor
    active: torch.Tensor | None
    pieces: dict[int, torch.Tensor]
    logits: torch.Tensor

    @property
    def net(self) -> Engine:
        """The compiled graph."""
        return self.captured.net

    @property
    def detached(self) -> dict[str, torch.Tensor]:
        """The constants without their graph."""
        return {key: value.detach() for key, value in self.constants.items()}

    def slopes(
        self, number: int, c: Constants, points: slice | torch.Tensor = slice(None)
    ) -> torch.Tensor:
        """Slopes of a layer's units at some of the points: (points, *shape)."""
        pieces = self.pieces[number][points]
        if number in self.captured.plain:
            return pieces.to(self.x.dtype)
        op = self.net.graph.nodes[number].op
        assert isinstance(op, Piecewise)
        slope, _ = slopes_of(op, pieces, c)
        return slope

    def winners(
        self, number: int, c: Constants, points: slice | torch.Tensor = slice(None)
    ) -> torch.Tensor:
        """Positions of a maximum's winners among what it reads: (points, units)."""
        op = self.net.graph.nodes[number].op
        assert isinstance(op, Max)
        return winning_positions(op, self.pieces[number][points], c)


def freeze(captured: Captured, x: torch.Tensor, own: frozenset[str], what: str) -> Frozen:
    """One forward pass of the graph with the parameters as they are.

    Parameters
    ----------
    captured : Captured
    x : tensor (batch, *input_shape)
    own : frozenset of str
        BatchNorm layers to be taken with the statistics of this batch.
    what : str
        The loss, for messages.
    """
    net, graph = captured.net, captured.net.graph
    c = Live(captured, x.dtype, x.device)
    layers = {layer.node: layer for layer in net.layers}
    values = {0: x}
    rows: list[torch.Tensor] = []
    active: list[torch.Tensor | None] = []
    pieces: dict[int, torch.Tensor] = {}
    for number, node in enumerate(graph.nodes[1:], start=1):
        args = [values[i] for i in node.inputs]
        if number in layers:
            z = args[0]
            if number in captured.plain:
                pieces[number] = z.detach() > 0
                values[number] = torch.relu(z)
                rows.append(z.flatten(1))
                active.append(None)
            else:
                pieces[number] = natural_pieces(node, z.detach(), c)
                values[number], row, bounding = _through(captured, layers[number], pieces, z, c)
                rows.append(row)
                active.append(bounding)
        else:
            name = captured.normalised.get(number)
            if name in own:
                values[number] = _centred(node, name, args, c, what)
            else:
                values[number] = apply(node, args, c)
        for source in node.inputs:
            if graph.last_use[source] <= number:
                values.pop(source, None)
    logits = as_logits(values[len(graph.nodes) - 1].flatten(1))
    return Frozen(
        captured, dict(c), x, torch.cat(rows, 1), _joined(active, rows), pieces, logits
    )  # fmt: skip


def _joined(active: list[torch.Tensor | None], rows: list[torch.Tensor]) -> torch.Tensor | None:
    """Which rows bound the region: None if all do."""
    if all(part is None for part in active):
        return None
    return torch.cat(
        [
            torch.ones_like(row, dtype=torch.bool) if part is None else part
            for part, row in zip(active, rows, strict=True)
        ],
        1,
    )


def _through(
    captured: Captured, layer: Layer, pieces: dict[int, torch.Tensor], z: torch.Tensor, c: Constants
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's output, its rows' values, and which of them bound the region."""
    node = captured.net.graph.nodes[layer.node]
    own = pieces[layer.node]
    if isinstance(node.op, Piecewise):
        slope, intercept = slopes_of(node.op, own, c)
        breakpoints = c[node.op.breakpoints].expand(*node.shape, layer.slots)
        row = (z.unsqueeze(-1) - breakpoints).flatten(1)
        slots = torch.arange(layer.slots, device=z.device)
        piece = own.unsqueeze(-1)
        return z * slope + intercept, row, ((piece == slots) | (piece == slots + 1)).flatten(1)
    assert isinstance(node.op, Max)
    flat, index = z.flatten(1), c[node.op.index]
    where = winning_positions(node.op, own, c)
    winner = flat.gather(1, where)
    candidates = gather_windows(flat, index, 0.0)
    row = torch.where(index >= 0, candidates - winner.unsqueeze(2), 0.0).flatten(1)
    return winner.reshape(len(z), *node.shape), row, row.detach() != 0


def _centred(node: Node, name: str, args: list[torch.Tensor], c: Live, what: str) -> torch.Tensor:
    """A node that subtracts a BatchNorm's mean, with the statistics of this batch.

    The layer's other constants are made from them when they are asked for.
    """
    z = args[0] if isinstance(node.op, Affine) else apply(node, args, c, bias=False)
    axes = [0, *range(2, z.ndim)]
    if z.numel() // z.shape[1] < 2:
        raise InputError(
            f"{what}: BatchNorm {name!r} in training mode needs more than one value per channel, "
            f"got a batch of {len(z)}; give more points, or use batch_norm='running'"
        )
    variance, mean = torch.var_mean(z, axes, correction=0)
    c.put(f"{name}.running_mean", mean)
    c.put(f"{name}.running_var", variance)
    shift = constant_part(node, c)
    assert shift is not None
    return z + shift


def push(
    frozen: Frozen, directions: torch.Tensor, c: Constants, points: slice, last: int | None = None
) -> Iterator[tuple[Layer, torch.Tensor]]:
    """Derivatives of what each layer reads along directions, a layer at a time.

    Parameters
    ----------
    frozen : Frozen
    directions : tensor (1 or points, directions, *input_shape)
    c : mapping
        Constants; their gradients are followed.
    points : slice
        Of the batch.
    last : int, optional
        Stop behind this node.

    Yields
    ------
    Layer, tensor (1 or points, directions, n)
    """
    net, graph = frozen.net, frozen.net.graph
    layers = {layer.node: layer for layer in net.layers}
    final = net.layers[-1].node if last is None else last
    moved = {0: directions}
    for number, node in enumerate(graph.nodes[1 : final + 1], start=1):
        args = [moved[i] for i in node.inputs]
        if number in layers:
            yield layers[number], args[0].flatten(2)
            if number < final:
                moved[number] = _pushed(frozen, number, args[0], c, points)
        else:
            moved[number] = push_tangents(node, args, c)
        for source in node.inputs:
            if graph.last_use[source] <= number:
                moved.pop(source, None)


def _pushed(
    frozen: Frozen, number: int, dz: torch.Tensor, c: Constants, points: slice
) -> torch.Tensor:
    """Directions behind a nonlinear layer."""
    node = frozen.net.graph.nodes[number]
    if isinstance(node.op, Piecewise):
        return dz * frozen.slopes(number, c, points).unsqueeze(1)
    where = frozen.winners(number, c, points)
    flat = dz.flatten(2).expand(len(where), -1, -1)
    index = where.unsqueeze(1).expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).reshape(*index.shape[:2], *node.shape)


def pull(
    frozen: Frozen,
    start: int,
    a: torch.Tensor,
    samples: torch.Tensor,
    c: Constants,
    stop: int = 0,
) -> torch.Tensor:
    """Coefficients on a node as coefficients on the input, each at a point of its own.

    Parameters
    ----------
    frozen : Frozen
    start : int
        The node.
    a : tensor (pairs, *shape of the node)
    samples : tensor (pairs,)
        The point of each.
    c : mapping
        Constants; their gradients are followed.
    stop : int
        Coefficients on this node are asked for in place of the input, which is read through it.

    Returns
    -------
    tensor (pairs, d)
    """
    nodes = frozen.net.graph.nodes
    pending = {start: a}
    for number in range(start, stop, -1):
        here = pending.pop(number, None)
        if here is None:
            continue
        node = nodes[number]
        shapes = [nodes[i].shape for i in node.inputs]
        if isinstance(node.op, Piecewise):
            parts = [here * frozen.slopes(number, c, samples)]
        elif isinstance(node.op, Max):
            where = frozen.winners(number, c, samples)
            flat = a.new_zeros(len(a), math.prod(shapes[0]))
            parts = [flat.scatter_add(1, where, here.flatten(1)).reshape(-1, *shapes[0])]
        else:
            parts = pull_linear(node, here, shapes, c)
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    found = pending.get(stop)
    return a.new_zeros(len(a), nodes[stop].size) if found is None else found.flatten(1)


def start_of_units(
    frozen: Frozen, layer: Layer, units: torch.Tensor, c: Constants
) -> tuple[int, torch.Tensor]:
    """The node and the coefficients on it that a layer's units read.

    Where a fully connected layer stands before the units, its own rows are taken, so that no
    product with a one-hot vector is made.
    """
    nodes = frozen.net.graph.nodes
    number = nodes[layer.node].inputs[0]
    node = nodes[number]
    if isinstance(node.op, Linear) and len(node.shape) == 1:
        return node.inputs[0], c[node.op.weight][units]
    one = frozen.x.new_zeros(len(units), node.size)
    return number, one.scatter_(1, units.unsqueeze(1), 1.0).reshape(-1, *node.shape)


def start_of_candidates(
    frozen: Frozen, layer: Layer, rows: torch.Tensor, samples: torch.Tensor, c: Constants
) -> tuple[int, torch.Tensor]:
    """The node and the coefficients "candidate minus winner" of a maximum's rows."""
    nodes = frozen.net.graph.nodes
    op = nodes[layer.node].op
    assert isinstance(op, Max)
    number = nodes[layer.node].inputs[0]
    units, slots = rows // layer.slots, rows % layer.slots
    winner = frozen.winners(layer.node, c, samples).gather(1, units.unsqueeze(1))
    candidate = c[op.index][units, slots].unsqueeze(1)
    a = frozen.x.new_zeros(len(rows), nodes[number].size)
    a.scatter_(1, candidate, 1.0)
    a.scatter_add_(1, winner, torch.full_like(winner, -1, dtype=a.dtype))
    return number, a.reshape(-1, *nodes[number].shape)
