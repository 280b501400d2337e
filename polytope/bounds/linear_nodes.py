"""The linear operations of the graph, backwards: coefficients on outputs to those on inputs.

A coefficient array is (rows, *shape); rows are all pairs of a sample and a function.
Convolutions stay convolutions: backwards one is a transposed convolution and the reverse.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from polytope.network.engine import Constants
from polytope.network.ir import (
    Affine,
    Concat,
    Conv,
    Gather,
    Linear,
    Node,
    Pool,
    Shape,
    Sum,
)


def pull(node: Node, a: torch.Tensor, shapes: list[Shape], c: Constants) -> list[torch.Tensor]:
    """Coefficients on each input of a linear node.

    Parameters
    ----------
    node : Node
        Not a nonlinear one.
    a : tensor (rows, *node.shape)
    shapes : list of shapes
        Of the node's inputs.
    c : constants

    Returns
    -------
    list of tensor (rows, *shape)
        One per input of the node, in order.
    """
    op, rows = node.op, len(a)
    match op:
        case Linear():
            return [a @ c[op.weight]]
        case Conv():
            return [_pull_convolution(op, a, shapes[0], c[op.weight])]
        case Affine():
            return [a if op.scale is None else a * c[op.scale]]
        case Gather():
            if op.index is None:
                return [a.reshape(rows, *shapes[0])]
            return [scatter(a.flatten(1), c[op.index], math.prod(shapes[0])).view(rows, *shapes[0])]
        case Concat():
            sizes = [math.prod(shape) for shape in shapes]
            parts = torch.split(a.flatten(1), sizes, dim=1)
            return [p.reshape(rows, *s) for p, s in zip(parts, shapes, strict=True)]
        case Sum():
            return [a if k == 1 else a * k for k in op.coefficients]
        case Pool():
            index = c[op.index]
            shares = (a.flatten(1) / c[op.divisor]).unsqueeze(2).expand(-1, *index.shape)
            flat = scatter(shares.flatten(1), index.flatten(), math.prod(shapes[0]))
            return [flat.view(rows, *shapes[0])]
        case _:
            raise TypeError(f"{type(op).__name__} is not a linear operation")


def scatter(a: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    """Add ``a[:, i]`` into column ``index[i]`` of a (rows, size) array; -1 is dropped."""
    kept = index >= 0
    if not bool(kept.all()):
        a, index = a[:, kept], index[kept]
    return a.new_zeros(len(a), size).index_add(1, index, a)


def repeats(index: torch.Tensor) -> int:
    """How often the most frequent position of an index table occurs."""
    kept = index[index >= 0]
    return int(torch.bincount(kept).max()) if len(kept) else 0


def terms_back(node: Node, c: Constants) -> int:
    """How many roundings one pulled coefficient can suffer (0 where data is only moved)."""
    op = node.op
    match op:
        case Linear():
            return c[op.weight].shape[0]
        case Conv():
            weight = c[op.weight]
            channels = weight.shape[1] if op.transposed else weight.shape[0] // op.groups
            return channels * weight[0, 0].numel()
        case Affine():
            return int(op.scale is not None)
        case Sum():
            return int(any(abs(k) != 1 for k in op.coefficients))
        case Gather():
            count = 1 if op.index is None else repeats(c[op.index])
            return count if count > 1 else 0
        case Pool():
            return 1 + repeats(c[op.index])
        case _:
            return 0


def terms_ahead(node: Node, c: Constants) -> int:
    """How many roundings one output of a linear node can suffer, its bias included."""
    op = node.op
    match op:
        case Linear():
            return c[op.weight].shape[1] + 1
        case Conv():
            weight = c[op.weight]
            channels = weight.shape[0] // op.groups if op.transposed else weight.shape[1]
            return channels * weight[0, 0].numel() + 1
        case Affine():
            return 2
        case Sum():
            return len(op.coefficients) + 1
        case Pool():
            return c[op.index].shape[1] + 1
        case _:
            return 0


def constant_part(node: Node, c: Constants) -> torch.Tensor | None:
    """The constant that a linear node adds, broadcastable to its shape; None if there is none."""
    op = node.op
    if isinstance(op, Linear) and op.bias is not None:
        return c[op.bias]
    if isinstance(op, Conv) and op.bias is not None:
        return c[op.bias].view(-1, *(1,) * (len(node.shape) - 1))
    if isinstance(op, Affine) and op.shift is not None:
        return c[op.shift]
    return None


def _pull_convolution(
    op: Conv, a: torch.Tensor, shape: Shape, weight: torch.Tensor
) -> torch.Tensor:
    """The transpose of a convolution of one, two or three spatial axes."""
    rank = weight.ndim - 2
    stride, padding, dilation = list(op.stride), list(op.padding), list(op.dilation)
    if op.transposed:
        plain = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        found = plain(a, weight, None, stride, padding, dilation, op.groups)
        for axis, size in enumerate(shape[1:], start=2):
            found = found.narrow(axis, 0, size)
        return found
    turned = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    extra = [
        n - ((m - 1) * s - 2 * q + d * (k - 1) + 1)
        for n, m, s, q, d, k in zip(
            shape[1:], a.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    ]
    return turned(a, weight, None, stride, padding, extra, op.groups, dilation)
