"""How far float64 can be off: rigorous bounds on rounding errors of values and gradients.

Standard forward error analysis (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1): a sum of n products computed in any order is within
``gamma_n = n u / (1 - n u)`` times the sum of the absolute products.  One sweep carries, for
every point, the values, a bound on their error, and the absolute row sums of the frozen
network, which bound the l_1 error of every computed gradient at once.

Products that underflow lose up to the smallest normal number each, which no relative bound
covers: it is added as an absolute term, except to gradients that are zero by structure (no
path of nonzero weights), whose bound is exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from polytope.network.engine import Engine, apply, gather_windows, slopes_of, winning_positions
from polytope.network.ir import (
    Affine,
    Concat,
    Conv,
    Gather,
    Linear,
    Max,
    Node,
    Piecewise,
    Pool,
    Sum,
)

#: Room for the rounding of the error bounds themselves and for the (n u)^2 terms.
SLACK = 1.01


@dataclass(frozen=True)
class RoundingBounds:
    """Error bounds of one layer's pre-activations (or of the outputs), per point.

    Attributes
    ----------
    value : tensor (batch, n)
        Bound on |computed - exact| of each pre-activation; exact is the affine map of the
        given pieces and, where they are those that the computed values chose, the network.
    gradient : tensor (batch, n)
        Bound on the l_1 norm of (computed - exact) gradient of each pre-activation; it
        bounds every other l_q norm of that difference too.
    """

    value: torch.Tensor
    gradient: torch.Tensor


def rounding_bounds(
    net: Engine, x: torch.Tensor, pieces: torch.Tensor, input_error: torch.Tensor | None = None
) -> list[RoundingBounds]:
    """Error bounds of a sweep at `x` with the given pieces, for each layer and the output.

    Parameters
    ----------
    net : Engine
    x : tensor (batch, *input_shape)
        Points; taken as exact.  float64 reads the constants exactly; in a lower dtype their
        rounding is counted too, but not constants that underflow in it.
    pieces : tensor (batch, units)
    input_error : tensor like x, optional
        The values' bounds then hold for every point this close to `x`, by coordinate.

    Returns
    -------
    list of RoundingBounds
        In the order in which `Engine.sweep` yields; infinite where the bound overflows.
        They hold for gradients taken forwards, as `Engine.sweep` and ROLL's appendix D do;
        a reverse pass sums over other paths.
    """
    unit, tiny = torch.finfo(x.dtype).eps / 2, torch.finfo(x.dtype).tiny
    rounds_constants = int(x.dtype != torch.float64)
    least = x[0].numel() * tiny / unit if len(x) else 0.0
    plain = net.constants(x.dtype, x.device)
    absolute = {k: v.abs() if v.is_floating_point() else v for k, v in plain.items()}
    layers = {layer.node: layer for layer in net.layers}
    nodes, last_use = net.graph.nodes, net.graph.last_use
    value = {0: x}
    error = {0: torch.zeros_like(x) if input_error is None else input_error}
    rows = {0: torch.ones_like(x)}
    depth = {0: 0}
    found: list[RoundingBounds] = []
    for number, node in enumerate(nodes[1:], start=1):
        args = [value[i] for i in node.inputs]
        errors = [error[i] for i in node.inputs]
        sums = [rows[i] for i in node.inputs]
        terms = max(depth[i] for i in node.inputs)
        if number in layers:
            layer = layers[number]
            found.append(_bounds(errors[0], sums[0], terms, unit))
            own = pieces[:, layer.unit_slice].reshape(len(x), *node.shape)
            value[number], error[number], rows[number] = _through_pieces(
                node, own, args[0], errors[0], sums[0], plain, least
            )
            depth[number] = terms + 1 + rounds_constants
        elif isinstance(node.op, Gather | Concat):
            value[number], error[number], rows[number] = (
                apply(node, tensors, plain) for tensors in (args, errors, sums)
            )
            depth[number] = terms
        else:
            count = terms_of(node, plain) + rounds_constants
            gamma = count * unit / (1 - count * unit)
            value[number] = apply(node, args, plain)
            inner = [e / gamma + a.abs() for e, a in zip(errors, args, strict=True)]
            moved = apply(_absolute(node), inner, absolute)
            error[number] = SLACK * (gamma * moved + 3 * count * tiny)
            alive = [(r > 0).to(r.dtype) for r in sums]
            reached = apply(_absolute(node), alive, absolute, bias=False) > 0
            carried = apply(_absolute(node), sums, absolute, bias=False)
            rows[number] = torch.where(reached, carried + least, carried)
            depth[number] = terms + count
        for source in {number, *node.inputs}:
            if last_use[source] <= number and source != len(nodes) - 1:
                for table in (value, error, rows):
                    table.pop(source, None)
    last = len(nodes) - 1
    found.append(_bounds(error[last], rows[last], depth[last], unit))
    return found


def _bounds(error: torch.Tensor, rows: torch.Tensor, terms: int, unit: float) -> RoundingBounds:
    """The two bounds at a layer; a gradient entry is a sum over paths of rounded products."""
    gamma = terms * unit / (1 - terms * unit)
    return RoundingBounds(
        torch.nan_to_num(error.flatten(1), nan=torch.inf, posinf=torch.inf),
        torch.nan_to_num(SLACK * gamma * rows.flatten(1), nan=torch.inf, posinf=torch.inf),
    )


def terms_of(node: Node, constants: Mapping[str, torch.Tensor]) -> int:
    """How many roundings one output of a node can suffer (0 where data is only moved)."""
    op = node.op
    if isinstance(op, Linear):
        return constants[op.weight].shape[1] + 1
    if isinstance(op, Conv):
        return constants[op.weight][0].numel() * constants[op.weight].shape[0] + 1
    if isinstance(op, Pool):
        return constants[op.index].shape[1] + 1
    if isinstance(op, Affine):
        return 2
    if isinstance(op, Sum):
        return len(op.coefficients)
    if isinstance(op, Gather | Concat):
        return 0
    raise TypeError(f"rounding bounds do not know {type(op).__name__}")


def _absolute(node: Node) -> Node:
    """The node with the signs of its own coefficients dropped."""
    if isinstance(node.op, Sum):
        op = Sum(tuple(abs(k) for k in node.op.coefficients))
        return Node(op, node.inputs, node.shape, node.name)
    return node


def _through_pieces(
    node: Node,
    pieces: torch.Tensor,
    z: torch.Tensor,
    error: torch.Tensor,
    rows: torch.Tensor,
    constants: Mapping[str, torch.Tensor],
    least: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value, error and absolute row sums behind a nonlinear node.

    The error uses the steepest slope, so that it holds even where rounding decides the piece.
    """
    op = node.op
    if isinstance(op, Piecewise):
        slope, intercept = slopes_of(op, pieces, constants)
        steepest = constants[op.slopes].abs().amax(dim=-1).expand(z.shape)
        value = z * slope + intercept
        limits = torch.finfo(z.dtype)
        exact = (slope == 0) | ((slope == 1) & (intercept == 0))
        rounded = torch.where(exact, 0.0, 2 * limits.eps * ((z * slope).abs() + intercept.abs()))
        lost = torch.where(exact & (error == 0), 0.0, 3 * limits.tiny)
        carried = rows * slope.abs()
        live = ~exact & (rows > 0)
        return (
            value,
            SLACK * (steepest * error + rounded + lost),
            torch.where(live, carried + least, carried),
        )
    assert isinstance(op, Max)
    where = winning_positions(op, pieces, constants)
    worst = gather_windows(error.flatten(1), constants[op.index], 0.0).amax(dim=-1)
    value = z.flatten(1).gather(1, where)
    kept = rows.flatten(1).gather(1, where)
    shape = (len(z), *node.shape)
    return value.reshape(shape), worst.reshape(shape), kept.reshape(shape)
