"""Gradients of a frozen batch's rows: norms of all of them, squares with weights, a few in full.

Norms come a layer at a time and in chunks of points and input coordinates, so
(points x units x inputs) never stands in memory.  `Budget` says how large a chunk may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch.linalg import vector_norm

from polytope.errors import InputError
from polytope.jacobians import layer_gradients
from polytope.network.engine import Engine, gather_windows
from polytope.network.ir import Layer, Max, Piecewise
from polytope.rows import given_pieces
from polytope.training.frozen import (
    Frozen,
    pull,
    push,
    start_of_candidates,
    start_of_units,
)
from polytope.training.gram import (
    Chain,
    chain_bytes,
    chain_of,
    gram_pays,
    products_of,
    squared_norms,
)

Constants = Mapping[str, torch.Tensor]

#: Bytes of the widest layer's Gram matrices that are held at once on a CPU, half of the units
#: counted: more would leave its cache (measured: 2.5 times slower at 64 points of 4x300).
GRAM_CACHE = 2**20

#: Bytes of pairs that are pulled back at once on a CPU, where fresh pages cost more than loops.
PAIR_CACHE = 2**27
#: Bytes of images of directions that are held at once on a CPU, for the same reason.
DIRECTIONS_CACHE = 2**26

#: How all gradients, or their norms, are computed.
TrainingMethod: TypeAlias = Literal["auto", "gram", "dynamic", "perturbation", "backprop"]


@dataclass(frozen=True)
class Budget:
    """How much may be taken at once.

    Attributes
    ----------
    memory : int
        Bytes.
    """

    memory: int

    def points_and_axes(self, net: Engine, x: torch.Tensor, axes: int) -> tuple[int, int]:
        """Points and input coordinates of one chunk of directions, with their graph.

        What lies before every unit is the same for all points and is counted once.
        """
        shared, own = _sizes(net)
        direction = 3 * x.element_size()
        block = max(1, min(axes, self.memory // (direction * (shared + own))))
        memory = self.memory
        if x.device.type == "cpu":
            memory = min(memory, max(DIRECTIONS_CACHE, direction * block * (shared + own)))
        if not own:
            return len(x), block
        return max(1, (memory // (direction * block) - shared) // own), block

    def pairs(self, net: Engine, x: torch.Tensor) -> int:
        """Pairs of a point and a row whose gradients are pulled back at once, with graph."""
        each = 4 * sum(node.size for node in net.graph.nodes) + 8 * net.input_size
        memory = min(self.memory, PAIR_CACHE) if x.device.type == "cpu" else self.memory
        return max(1, memory // (each * x.element_size()))

    def chain_points(self, net: Engine, x: torch.Tensor) -> int:
        """Points whose Gram matrices are held at once."""
        most = max(1, self.memory // chain_bytes(net, x.element_size()))
        if x.device.type != "cpu":
            return most
        widest = max(layer.units for layer in net.layers)
        return min(most, max(1, 4 * GRAM_CACHE // (widest**2 * x.element_size())))


def _sizes(net: Engine) -> tuple[int, int]:
    """Elements of the nodes that directions pass before every unit, and behind some."""
    nodes = net.graph.nodes
    behind: set[int] = set()
    shared = own = 0
    for number in range(net.layers[-1].node):
        node = nodes[number]
        if isinstance(node.op, Piecewise | Max) or behind.intersection(node.inputs):
            behind.add(number)
            own += node.size
        else:
            shared += node.size
    if net.layers[-1].is_max:
        own += net.layers[-1].units * net.layers[-1].slots
    return shared, own


def choose_method(
    net: Engine, method: str, device: torch.device, euclidean: bool, what: str
) -> TrainingMethod:
    """The method that is meant by a name, for this network.

    Parameters
    ----------
    net : Engine
    method : str
    device : torch.device
    euclidean : bool
        Whether norms are l_2, which "gram" needs.
    what : str
        For messages.

    Raises
    ------
    InputError
        For an unknown method, or one that does not fit the network.
    """
    if method not in get_args(TrainingMethod):
        raise InputError(f"{what}: method: got {method!r}, expected one of "
                         f"{get_args(TrainingMethod)}")  # fmt: skip
    chain = chain_of(net)
    if method in ("gram", "dynamic") and chain is None:
        raise InputError(
            f"{what}: method={method!r} needs a chain of fully connected layers; use "
            "method='perturbation', which takes every architecture"
        )
    if method == "gram" and not euclidean:
        raise InputError(f"{what}: method='gram' gives l_2 norms only; use 'dynamic'")
    if method != "auto":
        return method  # type: ignore[return-value]
    if chain is not None and euclidean and gram_pays(net):
        return "gram"
    return "dynamic" if chain is not None and device.type == "cpu" else "perturbation"


def spans(count: int, most: int) -> list[slice]:
    """Slices of nearly equal length, none above `most`."""
    parts = max(1, -(-count // most))
    size = max(1, -(-count // parts))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def row_norms(frozen: Frozen, q: float, method: TrainingMethod, budget: Budget) -> torch.Tensor:
    """l_q norms of the gradients of all rows, without a graph: (batch, rows)."""
    net, x, c = frozen.net, frozen.x, frozen.detached
    with torch.no_grad():
        if method == "gram":
            chain = chain_of(net)
            assert chain is not None
            return _norms_of_chain(frozen, chain, c, budget)
        points, block = budget.points_and_axes(net, x, net.input_size)
        found = []
        for part in spans(len(x), points):
            norms: list[torch.Tensor] = []
            for axes in spans(net.input_size, block):
                some = [
                    _norm_of_rows(frozen, layer, g, c, part, q)
                    for layer, g in gradients(frozen, method, c, part, axes)
                ]
                norms = some if not norms else [
                    vector_norm(torch.stack(pair), q, dim=0)
                    for pair in zip(norms, some, strict=True)
                ]  # fmt: skip
            size = len(x[part])
            found.append(torch.cat([n.expand(size, -1) for n in norms], 1))
    return torch.cat(found)


def gradients(
    frozen: Frozen, method: TrainingMethod, c: Constants, points: slice, axes: slice | torch.Tensor
) -> Iterator[tuple[Layer, torch.Tensor]]:
    """Derivatives of what each layer reads along input coordinates: (1 or points, axes, n)."""
    x = frozen.x[points]
    if method in ("dynamic", "backprop"):
        assert isinstance(axes, slice)
        decide = given_pieces(_all_pieces(frozen)[points])
        with torch.set_grad_enabled(torch.is_grad_enabled() or method == "backprop"):
            for state in layer_gradients(frozen.net, x, method, c, decide, axes):
                assert state.layer is not None
                assert state.gradients is not None
                yield state.layer, state.gradients
                if state.layer == frozen.net.layers[-1]:
                    return
    positions = torch.arange(frozen.net.input_size, device=x.device)[axes]
    ones = x.new_zeros(len(positions), frozen.net.input_size)
    ones.scatter_(1, positions.unsqueeze(1), 1.0)
    directions = ones.reshape(1, len(positions), *frozen.net.input_shape)
    yield from push(frozen, directions, c, points)


def weighted_squares(
    frozen: Frozen,
    method: TrainingMethod,
    c: Constants,
    points: slice,
    axes: slice | torch.Tensor,
    weights: torch.Tensor | float,
) -> torch.Tensor:
    """``sum weights * (derivative of the row)^2`` over points, rows and input coordinates.

    Parameters
    ----------
    frozen, method, c, points, axes
        As in `gradients`.
    weights : tensor (batch, rows), or a number for all rows
    """
    total = frozen.x.new_zeros(())
    count = len(frozen.x[points])
    for layer, g in gradients(frozen, method, c, points, axes):
        if layer.is_max:
            g = _candidate_slopes(frozen, layer, g, c, points)
        squares = g.square().sum(1)
        if isinstance(weights, float):
            copies = weights * layer.slots if not layer.is_max else weights
            total = total + squares.sum() * (copies * count / len(squares))
        else:
            own = weights[points, layer.row_slice]
            if not layer.is_max:
                own = own.reshape(len(own), layer.units, layer.slots).sum(2)
            total = total + (squares * own).sum()
    return total


def normals(
    frozen: Frozen, c: Constants, samples: torch.Tensor, rows: torch.Tensor, stop: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of single rows, by the transpose of the frozen network.

    Parameters
    ----------
    frozen : Frozen
    c : mapping
        Constants; their gradients are followed.
    samples, rows : tensor (pairs,)
        The point and the row of each.
    stop : int
        As in `pull`; the rows' units read this node, or what comes after it.

    Returns
    -------
    normals : tensor (pairs, d)
        Layer by layer.
    order : tensor (pairs,)
        Which pair each of them is.
    """
    found, order = [frozen.x.new_zeros(0, frozen.net.graph.nodes[stop].size)], [rows[:0]]
    for layer in frozen.net.layers:
        place = layer.row_slice
        mine = ((rows >= place.start) & (rows < place.stop)).nonzero().flatten()
        if not len(mine):
            continue
        local, points = rows[mine] - place.start, samples[mine]
        if layer.is_max:
            start, a = start_of_candidates(frozen, layer, local, points, c)
        else:
            start, a = start_of_units(frozen, layer, local // layer.slots, c)
        found.append(pull(frozen, start, a, points, c, stop))
        order.append(mine)
    return torch.cat(found), torch.cat(order)


def _all_pieces(frozen: Frozen) -> torch.Tensor:
    """The pieces of all units: (batch, units), whole numbers."""
    return torch.cat(
        [frozen.pieces[layer.node].flatten(1).long() for layer in frozen.net.layers], 1
    )


def _norms_of_chain(frozen: Frozen, chain: Chain, c: Constants, budget: Budget) -> torch.Tensor:
    """`row_norms` by Gram matrices."""
    found = []
    products = products_of(frozen, chain, False)
    for part in spans(len(frozen.x), budget.chain_points(frozen.net, frozen.x)):
        size = len(frozen.x[part])
        squares = squared_norms(frozen, products, c, part)
        found.append(torch.cat(rows_of_units(frozen.net, squares, size), 1).sqrt())
    return torch.cat(found)


def rows_of_units(net: Engine, values: list[torch.Tensor], points: int) -> list[torch.Tensor]:
    """Values (1 or points, units) of a chain's layers as those of their rows."""
    return [
        torch.repeat_interleave(value, layer.slots, dim=1).expand(points, -1)
        for layer, value in zip(net.layers, values, strict=True)
    ]


def _norm_of_rows(
    frozen: Frozen, layer: Layer, g: torch.Tensor, c: Constants, points: slice, q: float
) -> torch.Tensor:
    """Norms over the directions: (1 or points, rows of the layer)."""
    if layer.is_max:
        norm: torch.Tensor = vector_norm(_candidate_slopes(frozen, layer, g, c, points), q, dim=1)
        return norm
    return torch.repeat_interleave(vector_norm(g, q, dim=1), layer.slots, dim=1)


def _candidate_slopes(
    frozen: Frozen, layer: Layer, g: torch.Tensor, c: Constants, points: slice
) -> torch.Tensor:
    """Derivatives "candidate minus winner" of a maximum's rows: (points, directions, rows)."""
    op = frozen.net.graph.nodes[layer.node].op
    assert isinstance(op, Max)
    where = frozen.winners(layer.node, c, points)
    spread = g.expand(len(where), -1, -1)
    winner = spread.gather(2, where.unsqueeze(1).expand(-1, spread.shape[1], -1))
    index = c[op.index]
    found = gather_windows(spread, index, 0.0) - winner.unsqueeze(3)
    return torch.where(index >= 0, found, 0.0).flatten(2)
