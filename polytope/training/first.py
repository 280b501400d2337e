"""What stands before the first units: the same for every point, so its norms are made once.

A row of the first layer has one norm for all points.  Where everything else reads the input
through one fully connected block with matrix W, the l_2 norm of a deeper row needs no gradient
in the input either: with coefficients a on the block's outputs it is ``sqrt(a W W' a')``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.linalg import vector_norm

from polytope.network.engine import Engine
from polytope.network.ir import Affine, Gather, Layer, Linear, Piecewise
from polytope.training.frozen import Frozen, push
from polytope.training.gram import matrix_of

#: A squared norm this small, in units of the rounding of the sum that it is, is taken anew from
#: the gradient itself: 1 percent of it may be rounding.
DOUBTFUL = 100.0


@dataclass(frozen=True, eq=False)
class Shared:
    """Norms that all points share, with their graph.

    Attributes
    ----------
    norms : tensor (rows,)
        Of the first layers' rows; 1 of all others.
    known : tensor (rows,), bool
        Which are known.
    node : int
        Where `gram` belongs; 0 without it.
    gram : tensor (n, n), or None
        ``W W'`` of the block that ends in the node.
    """

    norms: torch.Tensor
    known: torch.Tensor
    node: int
    gram: torch.Tensor | None


def shared_norms(frozen: Frozen, q: float, memory: int, pairs: int) -> Shared:
    """The norms of the first layers' rows, and the Gram matrix if it saves work.

    Parameters
    ----------
    frozen : Frozen
    q : float
        Exponent of the norms.
    memory : int
        Bytes; a layer whose gradients would take more is left to be treated point by point.
    pairs : int
        How many deeper rows are asked for.
    """
    net, x = frozen.net, frozen.x
    norms = x.new_ones(net.rows)
    known = torch.zeros(net.rows, dtype=torch.bool, device=x.device)
    node, gram = 0, None
    for layer in _first_layers(net):
        source = net.graph.nodes[layer.node].inputs[0]
        block = _dense_block(net, source)
        if block is not None:
            matrix = matrix_of(net, block, net.input_size, frozen.constants)
            norm = vector_norm(matrix, q, dim=1)
            if q == 2 and _gram_pays(len(matrix), net.input_size, pairs) and _is_gate(net, block):
                node, gram = source, matrix @ matrix.T
        else:
            sizes = sum(node.size for node in net.graph.nodes[: layer.node])
            if 4 * net.input_size * sizes * x.element_size() > memory:
                continue
            axes = torch.eye(net.input_size, dtype=x.dtype, device=x.device)
            directions = axes.reshape(1, net.input_size, *net.input_shape)
            sweep = push(frozen, directions, frozen.constants, slice(0, 1), layer.node)
            norm = next(vector_norm(g[0], q, dim=0) for other, g in sweep if other == layer)
        place = torch.arange(layer.row_slice.start, layer.row_slice.stop, device=x.device)
        norms = norms.index_put((place,), torch.repeat_interleave(norm, layer.slots))
        known[layer.row_slice] = True
    return Shared(norms, known, node, gram)


def norms_by_gram(a: torch.Tensor, gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms ``sqrt(a gram a')`` of rows (pairs, n), and which of them are mostly rounding.

    Half of the derivative is written out, as the matrix is symmetric: that spares a product.
    """
    own = a.detach()
    product = own @ gram
    squares = (product * own).sum(1) + 2 * ((a - own) * product.detach()).sum(1)
    with torch.no_grad():
        scale = (own.abs() @ gram.diagonal().clamp(min=0).sqrt()).square()
        doubtful = squares <= DOUBTFUL * torch.finfo(a.dtype).eps * scale
    return torch.where(doubtful, torch.ones_like(squares), squares).sqrt(), doubtful


def _first_layers(net: Engine) -> list[Layer]:
    """The layers of elementwise units whose inputs pass no other unit."""
    units = {layer.node for layer in net.layers}
    behind: set[int] = set()
    for number, node in enumerate(net.graph.nodes):
        if number in units or behind.intersection(node.inputs):
            behind.add(number)
    return [
        layer
        for layer in net.layers
        if isinstance(net.graph.nodes[layer.node].op, Piecewise)
        and net.graph.nodes[layer.node].inputs[0] not in behind
    ]


def _dense_block(net: Engine, end: int) -> tuple[int, ...] | None:
    """The nodes from the input to another, if they are fully connected and elementwise."""
    nodes, block = net.graph.nodes, []
    number, dense = end, False
    while number:
        op = nodes[number].op
        if isinstance(op, Linear):
            if len(nodes[number].shape) != 1:
                return None
            dense = True
        elif not (isinstance(op, Affine) or op == Gather(None)):
            return None
        block.append(number)
        number = nodes[number].inputs[0]
    return tuple(reversed(block)) if dense else None


def _is_gate(net: Engine, block: tuple[int, ...]) -> bool:
    """Whether all other nodes read the input through the block's last one."""
    inner = {0, *block[:-1]}
    return not any(
        inner.intersection(node.inputs)
        for number, node in enumerate(net.graph.nodes)
        if number not in block
    )


def _gram_pays(units: int, inputs: int, pairs: int) -> bool:
    """Whether three products with the Gram matrix and making it cost less than four without it."""
    return 3 * units * inputs + 3 * pairs * units < 4 * pairs * inputs
