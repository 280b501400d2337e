"""Squared gradient norms of a fully connected chain, without the gradients.

``||J_i||_2^2`` is the i-th diagonal entry of ``G_l = J_l J_l^T``, and ROLL's dynamic
programming (appendix D) carries over from J to G: ``G_{l+1} = W D G_l D W^T``.  G is
(units x units) where J is (units x inputs), ``G_1 = W_1 W_1^T`` is the same for every point, and
only units whose slope is not zero enter.  The sum of all squared norms needs no G of the last
layer: ``tr(W D G D W^T) = <W^T W, D G D>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F

from polytope.jacobians import is_dense_chain
from polytope.network.engine import Engine
from polytope.network.ir import Affine, Linear
from polytope.training.frozen import Frozen

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Chain:
    """A fully connected chain: the nodes between one layer of units and the next.

    Attributes
    ----------
    blocks : tuple of tuple of int
        For each layer of units the nodes before it, in order.
    """

    blocks: tuple[tuple[int, ...], ...]


def chain_of(net: Engine) -> Chain | None:
    """The blocks of a fully connected chain; None of any other graph."""
    if not is_dense_chain(net):
        return None
    blocks: list[tuple[int, ...]] = []
    start = 1
    for layer in net.layers:
        blocks.append(tuple(range(start, layer.node)))
        start = layer.node + 1
    return Chain(tuple(blocks))


def gram_pays(net: Engine) -> bool:
    """Whether a chain's (units x units) products cost less than (units x inputs) ones."""
    widths = [layer.units for layer in net.layers]
    pairs = list(pairwise(widths))
    if not pairs:
        return True
    gram = sum((m * m * n + m * n * n) / 8 for m, n in pairs[:-1]) + widths[0] ** 2
    return gram < sum(m * n / 2 for m, n in pairs) * net.input_size


def matrix_of(net: Engine, block: tuple[int, ...], size: int, c: Constants) -> torch.Tensor:
    """The matrix that a block of linear nodes is: (outputs, size)."""
    matrix: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    for number in block:
        node = net.graph.nodes[number]
        if isinstance(node.op, Linear):
            weight = c[node.op.weight]
            if matrix is not None:
                matrix = weight @ matrix
            else:
                matrix = weight if scale is None else weight * scale
        elif isinstance(node.op, Affine) and node.op.scale is not None:
            factor = c[node.op.scale].expand(node.shape).reshape(-1)
            if matrix is not None:
                matrix = factor.unsqueeze(1) * matrix
            else:
                scale = factor if scale is None else scale * factor
    if matrix is None:
        some = next(t for t in c.values() if t.is_floating_point())
        matrix = torch.diag(some.new_ones(size) if scale is None else scale)
    return matrix


def matrices_of(net: Engine, chain: Chain, c: Constants) -> list[torch.Tensor]:
    """The matrices of all blocks."""
    sizes = [net.input_size, *(layer.units for layer in net.layers)]
    return [
        matrix_of(net, block, size, c) for block, size in zip(chain.blocks, sizes, strict=False)
    ]


@dataclass(frozen=True, eq=False)
class Products:
    """What the Gram matrices of all points share, made once per batch, with its graph.

    Attributes
    ----------
    matrices : list of tensor
        The matrix of each block.
    first : tensor (units, units)
        ``W_1 W_1^T``.
    squares : list of tensor
        ``W^T W`` of each later block; none where single norms are wanted.
    """

    matrices: list[torch.Tensor]
    first: torch.Tensor
    squares: list[torch.Tensor]

    def flat(self) -> list[torch.Tensor]:
        """All tensors in one list; `restored` is the inverse."""
        return [*self.matrices, self.first, *self.squares]

    def restored(self, tensors: Sequence[torch.Tensor]) -> Products:
        """Other tensors in the same places."""
        count = len(self.matrices)
        return Products(list(tensors[:count]), tensors[count], list(tensors[count + 1 :]))


def products_of(frozen: Frozen, chain: Chain, totals: bool) -> Products:
    """The shared products of a chain, those for sums of all squares included if asked for."""
    matrices = matrices_of(frozen.net, chain, frozen.constants)
    later = matrices[1:]
    return Products(
        matrices,
        matrices[0] @ matrices[0].T if later else matrices[0].square().sum(1),
        [matrix.T @ matrix for matrix in later] if totals else [],
    )


def sum_of_squares(frozen: Frozen, products: Products, c: Constants, points: slice) -> torch.Tensor:
    """The sum of ``||J_i||^2`` over some points and the units of all layers but the first.

    Parameters
    ----------
    frozen : Frozen
    products : Products
        With `squares`.
    c : mapping
        Constants; their gradients are followed, as are those of the products.
    points : slice
    """
    total = frozen.x.new_zeros(())
    layers = frozen.net.layers
    matrices = products.matrices[1:]
    gram: torch.Tensor | None = None
    kept = _alive(frozen, layers[0].node, c, points)
    for number, (matrix, square) in enumerate(zip(matrices, products.squares, strict=True), 1):
        if gram is None:
            gram = _scaled(_part(products.first, kept, kept), kept)
        total = total + (_part(square, kept, kept) * gram).sum()
        if number < len(matrices):
            after = _alive(frozen, layers[number].node, c, points)
            part = _part(matrix, after, kept)
            gram, kept = _scaled(part @ gram @ part.transpose(1, 2), after), after
    return total


def squared_norms(
    frozen: Frozen, products: Products, c: Constants, points: slice
) -> list[torch.Tensor]:
    """``||J_i||^2`` of every unit, by layer: (1 or points, units)."""
    layers = frozen.net.layers
    matrices = products.matrices[1:]
    if not matrices:
        return [products.first.unsqueeze(0)]
    found = [products.first.diagonal().unsqueeze(0)]
    kept = _alive(frozen, layers[0].node, c, points)
    gram = _scaled(_part(products.first, kept, kept), kept)
    for number, matrix in enumerate(matrices, 1):
        wide = _columns(matrix, kept)
        product = wide @ gram
        found.append((product * wide).sum(2).clamp(min=0))
        if number < len(matrices):
            after = _alive(frozen, layers[number].node, c, points)
            gram, kept = _close(product, matrix, kept, after), after
    return found


def chain_bytes(net: Engine, itemsize: int) -> int:
    """Memory that one point takes, its graph included: every unit counted as alive."""
    widths = [layer.units for layer in net.layers]
    pairs = pairwise(widths)
    own = sum(4 * m * m + 4 * m * n for m, n in pairs)
    return (own + sum(widths)) * itemsize + 8 * sum(widths)


@dataclass(frozen=True, eq=False)
class _Alive:
    """The units of a layer that pass anything on, point by point.

    Attributes
    ----------
    index : tensor (points, width) or None
        Their positions, padded with the number of units; None if all are kept.
    slope : tensor (points, width) or None
        Their slopes (0 in the padding); None if all are 1.
    """

    index: torch.Tensor | None
    slope: torch.Tensor | None


def _alive(frozen: Frozen, number: int, c: Constants, points: slice) -> _Alive:
    """The units of a layer whose slope is not zero."""
    slope = frozen.slopes(number, c, points).flatten(1)
    kept = slope.detach() != 0
    units = kept.shape[1]
    width = int(kept.sum(1).max()) if len(kept) else 0
    if width == units:
        return _Alive(None, slope)
    order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    index = torch.where(kept.gather(1, order), order, units)
    if number in frozen.captured.plain:
        return _Alive(index, None)
    return _Alive(index, slope.gather(1, order))


def _part(matrix: torch.Tensor, rows: _Alive, columns: _Alive) -> torch.Tensor:
    """``matrix[rows][:, columns]`` of each point, zero in the padding: (points or 1, ., .)."""
    if rows.index is None and columns.index is None:
        return matrix.unsqueeze(0)
    padded = F.pad(matrix, (0, 1, 0, 1))
    row = _positions(rows, matrix.shape[0], matrix.device)
    column = _positions(columns, matrix.shape[1], matrix.device)
    flat = row.unsqueeze(2) * padded.shape[1] + column.unsqueeze(1)
    return padded.flatten().index_select(0, flat.flatten()).view(flat.shape)


def _positions(kept: _Alive, units: int, device: torch.device) -> torch.Tensor:
    """The positions of kept units: (points or 1, width)."""
    return torch.arange(units, device=device).unsqueeze(0) if kept.index is None else kept.index


def _scaled(gram: torch.Tensor, kept: _Alive) -> torch.Tensor:
    """``D G D``."""
    if kept.slope is None:
        return gram
    return gram * kept.slope.unsqueeze(1) * kept.slope.unsqueeze(2)


def _columns(matrix: torch.Tensor, kept: _Alive) -> torch.Tensor:
    """``W[:, kept]`` of each point: (points or 1, units, width)."""
    if kept.index is None:
        return matrix.unsqueeze(0)
    return F.embedding(kept.index, F.pad(matrix.T, (0, 0, 0, 1))).transpose(1, 2)


def _close(
    product: torch.Tensor, matrix: torch.Tensor, kept: _Alive, after: _Alive
) -> torch.Tensor:
    """The next G from ``W D G D``."""
    rows = product
    if after.index is not None:
        last = product.shape[1] - 1  # padded rows meet zero columns later
        index = after.index.clamp(max=last).unsqueeze(2).expand(-1, -1, product.shape[2])
        rows = product.gather(1, index)
    return _scaled(rows @ _part(matrix, after, kept).transpose(1, 2), after)
