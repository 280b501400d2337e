"""The gradients of all units with respect to the input, batched, three ways.

- *perturbation* (ROLL, section 4.1 and appendix C): the unit vectors are sent through the
  network with its pieces frozen; exact by linearity, for every architecture, and a
  convolution stays a convolution.
- *dynamic* (ROLL, appendix D): layer by layer, ``J_l = W_l D_{l-1} J_{l-1}``, for fully
  connected networks; units whose slope is zero are skipped, which halves the work on ReLU.
- *backprop*: one reverse pass per unit; slow, and the independent oracle of the other two.

`layer_gradients` yields them a layer at a time; `chunk_rows` says how many points may be
taken at once so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch

from polytope.errors import InputError
from polytope.network.engine import Constants, Decide, Engine, LayerState, natural_pieces, slopes_of
from polytope.network.ir import Affine, Gather, Linear, Piecewise

Method = Literal["auto", "perturbation", "dynamic", "backprop"]

#: Memory that one chunk of gradients may take, in bytes.
DEFAULT_MEMORY = 2**29


def layer_gradients(
    net: Engine,
    x: torch.Tensor,
    method: Method = "auto",
    constants: Constants | None = None,
    decide: Decide | None = None,
    columns: slice | None = None,
) -> Iterator[LayerState]:
    """Gradients of all pre-activations, a layer at a time, then those of the outputs.

    Parameters
    ----------
    net : Engine
    x : tensor (batch, *input_shape)
        The whole batch is taken at once: see `chunk_rows`.
    method : {"auto", "perturbation", "dynamic", "backprop"}
        "auto" is "dynamic" on a fully connected chain on the CPU, else "perturbation".
    constants : mapping, optional
        Constants that carry gradients (``net.live()``): the result is then differentiable
        with respect to the weights (the pieces are not).
    decide : callable, optional
        Chooses the pieces (see `Engine.sweep`); the values do by default.
    columns : slice, optional
        Only these input coordinates; all by default.

    Yields
    ------
    LayerState
        With ``gradients`` of shape (batch or 1, input size, n).

    Raises
    ------
    InputError
        For an unknown method, or "dynamic" on a network that is not a chain of fully
        connected layers.
    """
    if method not in get_args(Method):
        raise InputError(f"method must be one of {get_args(Method)}, got {method!r}")
    chain = is_dense_chain(net)
    if method == "auto":
        method = "dynamic" if chain and x.device.type == "cpu" else "perturbation"
    if method == "dynamic":
        if not chain:
            raise InputError(
                "method='dynamic' needs a chain of fully connected layers (ROLL, appendix D); "
                "use method='perturbation', which takes every architecture"
            )
        yield from _dynamic(net, x, constants, decide, columns)
    elif method == "backprop":
        yield from _backprop(net, x, constants, decide, columns)
    else:
        axes = _axes(net, x, columns)
        tangents = axes.reshape(1, len(axes), *net.input_shape)
        yield from net.sweep(x, tangents, decide, constants)


def is_dense_chain(net: Engine) -> bool:
    """Whether the graph is a chain of fully connected layers and elementwise functions."""
    for number, node in enumerate(net.graph.nodes[1:], start=1):
        plain = isinstance(node.op, Piecewise | Affine | Linear) or node.op == Gather(None)
        if not plain or node.inputs != (number - 1,):
            return False
        if isinstance(node.op, Linear) and len(node.shape) != 1:
            return False
    return True


def chunk_rows(net: Engine, directions: int, itemsize: int, memory: int) -> int:
    """How many points may be swept at once with `directions` tangents within `memory` bytes.

    Counted are the largest node, twice (a layer and the next), its windows if it is a
    maximum, and the gathering of its inputs; 0 if not even one point fits.
    """
    largest = 1
    for node in net.graph.nodes:
        inputs = sum(net.graph.nodes[i].size for i in node.inputs)
        windows = sum(net.graph.constants[key].size for key in node.constants
                      if key == getattr(node.op, "index", None))  # fmt: skip
        largest = max(largest, 2 * node.size + inputs + 2 * windows)
    return int(memory // (largest * directions * itemsize))


def _axes(net: Engine, x: torch.Tensor, columns: slice | None) -> torch.Tensor:
    """The unit vectors of the chosen input coordinates: (columns, input size)."""
    chosen = torch.arange(net.input_size, device=x.device)[columns or slice(None)]
    axes = torch.zeros(len(chosen), net.input_size, dtype=x.dtype, device=x.device)
    return axes.scatter_(1, chosen.unsqueeze(1), 1.0)


def _dynamic(
    net: Engine,
    x: torch.Tensor,
    constants: Constants | None,
    decide: Decide | None,
    columns: slice | None,
) -> Iterator[LayerState]:
    """Appendix D of ROLL, with the zero slopes skipped when no graph is being recorded."""
    c = net.constants(x.dtype, x.device) if constants is None else constants
    layers = {layer.node: layer for layer in net.layers}
    z = x.flatten(1)
    jacobian: torch.Tensor | None = None  # the chosen columns of the identity
    slope: torch.Tensor | None = None
    for number, node in enumerate(net.graph.nodes[1:], start=1):
        op = node.op
        if isinstance(op, Linear):
            weight = c[op.weight]
            z = torch.nn.functional.linear(z, weight, c[op.bias] if op.bias else None)
            if jacobian is None:
                reach = weight if slope is None else weight * slope
                jacobian = reach[:, columns or slice(None)].unsqueeze(0)
            else:
                jacobian = _times(weight, slope, jacobian)
            slope = None
        elif isinstance(op, Affine):
            if op.scale is not None:
                scale = c[op.scale].expand(node.shape).reshape(1, -1)
                slope = scale if slope is None else slope * scale
                z = z * scale
            if op.shift is not None:
                z = z + c[op.shift].expand(node.shape).reshape(1, -1)
        elif isinstance(op, Piecewise):
            jacobian = _axes(net, x, columns).T.unsqueeze(0) if jacobian is None else jacobian
            jacobian, slope = _scaled(jacobian, slope), None
            shaped = z.reshape(len(z), *node.shape)
            rows = jacobian.transpose(1, 2)
            pieces = (
                natural_pieces(node, shaped, c).flatten(1)
                if decide is None
                else decide(layers[number], z, rows)
            )
            yield LayerState(layers[number], z, pieces, rows)
            factor, shift = slopes_of(op, pieces.reshape(shaped.shape), c)
            slope = factor.flatten(1)
            z = (shaped * factor + shift).flatten(1)
    jacobian = _axes(net, x, columns).T.unsqueeze(0) if jacobian is None else jacobian
    yield LayerState(None, z, None, _scaled(jacobian, slope).transpose(1, 2))


def _scaled(jacobian: torch.Tensor, slope: torch.Tensor | None) -> torch.Tensor:
    """``D J`` for the diagonal D (batch, n) of slopes."""
    return jacobian if slope is None else jacobian * slope.unsqueeze(2)


def _times(
    weight: torch.Tensor, slope: torch.Tensor | None, jacobian: torch.Tensor
) -> torch.Tensor:
    """``W D J`` for each point: (batch, out, inputs)."""
    if slope is None:
        return weight @ jacobian
    recording = torch.is_grad_enabled() and (
        weight.requires_grad or slope.requires_grad or jacobian.requires_grad
    )
    if recording:
        return weight @ (jacobian * slope.unsqueeze(2))
    alive = slope != 0
    width = int(alive.sum(dim=1).max()) if len(slope) else 0
    kept = alive.to(torch.uint8).argsort(dim=1, descending=True)[:, :width]
    factors = weight.T[kept] * slope.gather(1, kept).unsqueeze(2)
    if len(jacobian) == 1:
        rows = jacobian[0][kept]
    else:
        rows = jacobian.gather(1, kept.unsqueeze(2).expand(-1, -1, jacobian.shape[2]))
    return torch.bmm(factors.transpose(1, 2), rows)


def _backprop(
    net: Engine,
    x: torch.Tensor,
    constants: Constants | None,
    decide: Decide | None,
    columns: slice | None,
) -> Iterator[LayerState]:
    """One reverse pass per unit."""
    second = constants is not None
    with torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        states = list(net.sweep(points, None, decide, constants))
    for state in states:
        rows = []
        for unit in range(state.values.shape[1]):
            (gradient,) = torch.autograd.grad(
                state.values[:, unit].sum(), points, retain_graph=True, create_graph=second,
                allow_unused=True,
            )  # fmt: skip
            zero = torch.zeros_like(points)
            rows.append(
                (zero if gradient is None else gradient).flatten(1)[:, columns or slice(None)]
            )
        gradients = torch.stack(rows, dim=2)
        values = state.values if second else state.values.detach()
        yield LayerState(state.layer, values, state.pieces, gradients)
