"""Better lines for each function by projected gradient ascent (alpha- and beta-CROWN).

Any slopes, and any multipliers at least 0 of the intervals in which pre-activations lie, give
a rigorous bound, so an optimiser can only choose, never break, it.  Xu et al., Fast and
Complete, ICLR 2021 (slopes); Wang et al., Beta-CROWN, NeurIPS 2021 (multipliers).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polytope.bounds.backward import Multipliers
from polytope.bounds.crown import FunctionBounds, function_bounds
from polytope.bounds.layers import MEMORY, LayerBounds, block_size
from polytope.bounds.relaxation import Corners, UnitLines, slope_ranges, unit_lines
from polytope.bounds.windows import WindowLines
from polytope.network.ir import Piecewise


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is chosen in one layer: slopes as parts of their ranges, multipliers in units."""

    at: Corners
    ranges: tuple[torch.Tensor, ...]
    low_at: torch.Tensor
    high_at: torch.Tensor
    low_unit: torch.Tensor
    high_unit: torch.Tensor

    def lines(self, chosen: torch.Tensor) -> UnitLines:
        """The lines of slopes chosen (2, n, functions, units)."""
        a, b, c, d = (r[:, None] for r in self.ranges)
        return unit_lines(self.at, a + chosen[0] * (b - a), c + chosen[1] * (d - c))

    def multipliers(self, chosen: torch.Tensor) -> Multipliers:
        """The multipliers chosen (2, n, functions, units)."""
        return Multipliers(
            chosen[0] * self.low_unit, chosen[1] * self.high_unit, self.low_at, self.high_at
        )


def optimised_bounds(
    bounds: LayerBounds,
    C: torch.Tensor,
    d: torch.Tensor | None = None,
    steps: int = 20,
    rate: float = 0.1,
    multipliers: bool = True,
    memory: int = MEMORY,
) -> FunctionBounds:
    """Lower bounds of ``C f(x) + d`` with slopes and multipliers chosen for each function.

    Parameters
    ----------
    bounds : LayerBounds
    C, d : tensor
        As for `function_bounds`.
    steps : int
        Steps of Adam; each costs a forward and a backward pass.
    rate : float
        Step length, relative to the ranges of the slopes.
    multipliers : bool
        Also use the constraints of units whose interval ends at a breakpoint, as the allowed
        pieces of a branch make them.
    memory : int
        Bytes for one block of functions.

    Returns
    -------
    FunctionBounds
        Not below those of the default lines (beyond rounding). No gradients.

    Raises
    ------
    InputError
        If C or d do not fit the outputs.
    """
    n = len(bounds.inputs)
    with torch.no_grad():
        first = function_bounds(bounds, C, d, memory=memory)
    a = C if C.ndim == 3 else C.unsqueeze(0)
    block = max(1, block_size(bounds.net, n, memory) // 3)
    parts = []
    for i in range(0, a.shape[1], block):
        own = slice(i, i + block)
        shift = None if d is None else d[..., own]
        parts.append(
            _optimised_block(bounds, first, own, a[:, own], shift, steps, rate, multipliers)
        )
    lines: list[UnitLines | WindowLines] = []
    held: list[Multipliers | None] = []
    for k, line in enumerate(bounds.lines):
        if not isinstance(line, UnitLines):
            lines.append(line)
            held.append(None)
            continue
        found = [part[k] for part in parts]
        lines.append(_join_lines([line for line, _ in found]))
        held.append(_join_multipliers([m for _, m in found]) if multipliers else None)
    with torch.no_grad():
        last = function_bounds(bounds, C, d, lines, held, memory)
    return last


def _optimised_block(
    bounds: LayerBounds,
    first: FunctionBounds,
    own: slice,
    a: torch.Tensor,
    d: torch.Tensor | None,
    steps: int,
    rate: float,
    multipliers: bool,
) -> dict[int, tuple[UnitLines, Multipliers]]:
    """The best lines and multipliers of some functions, by layer."""
    layers = _layers(bounds, first, own)
    functions = a.shape[1]
    slopes, forces = {}, {}
    for k, layer in layers.items():
        line = bounds.lines[k]
        assert isinstance(line, UnitLines)
        a_low, b_low, a_high, b_high = layer.ranges
        start = torch.stack(
            [_part_of(line.lower_slope, a_low, b_low), _part_of(line.upper_slope, a_high, b_high)]
        )
        shape = (2, len(bounds.inputs), functions, start.shape[-1])
        slopes[k] = start[:, :, None].detach().expand(shape).clone().requires_grad_()
        forces[k] = torch.zeros_like(slopes[k]).requires_grad_()
    best = first.lower[:, own].clone()
    kept = {k: (slopes[k].detach().clone(), forces[k].detach().clone()) for k in layers}
    variables = [*slopes.values(), *(forces.values() if multipliers else ())]
    if variables and steps > 0:
        ascent = torch.optim.Adam(variables, lr=rate, maximize=True)
        for step in range(steps + 1):
            with torch.enable_grad():
                lines = [
                    layers[k].lines(slopes[k]) if k in layers else line
                    for k, line in enumerate(bounds.lines)
                ]
                held = [
                    layers[k].multipliers(forces[k]) if multipliers and k in layers else None
                    for k in range(len(lines))
                ]
                value = function_bounds(bounds, a, d, lines, held).lower
            with torch.no_grad():
                better = value > best
                best = torch.where(better, value, best)
                for k in layers:
                    old = kept[k]
                    new = (slopes[k], forces[k])
                    mask = better[..., None]
                    kept[k] = (torch.where(mask, new[0], old[0]), torch.where(mask, new[1], old[1]))
            if step == steps:
                break
            ascent.zero_grad()
            finite = torch.where(torch.isfinite(value), value, torch.zeros_like(value))
            finite.sum().backward()  # type: ignore[no-untyped-call]
            for variable in variables:
                if variable.grad is not None:
                    variable.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            ascent.step()
            with torch.no_grad():
                for k in layers:
                    slopes[k].clamp_(0, 1)
                    forces[k].clamp_(min=0)
    with torch.no_grad():
        return {k: (layers[k].lines(kept[k][0]), layers[k].multipliers(kept[k][1])) for k in layers}


def _layers(bounds: LayerBounds, first: FunctionBounds, own: slice) -> dict[int, _Layer]:
    """The layers of piecewise-linear units, with the scales of what is chosen in them."""
    found = {}
    graph = bounds.net.graph
    c = bounds.net.constants(bounds.inputs.low.dtype, bounds.inputs.low.device)
    for k, (layer, at) in enumerate(zip(bounds.net.layers, bounds.corners, strict=True)):
        if at is None:
            continue
        node = graph.nodes[layer.node]
        assert isinstance(node.op, Piecewise)
        breaks = c[node.op.breakpoints].expand(*node.shape, -1).reshape(1, layer.units, -1)
        ends = [(v[..., None] == breaks).any(dim=2) for v in (at.low, at.high)]
        scale = first.coefficients[k][:, own].detach().abs().amax(dim=2, keepdim=True)
        scale = torch.where(torch.isfinite(scale), scale, torch.zeros_like(scale))
        low_at, high_at = (
            torch.where(end, v, torch.zeros_like(v)).detach()
            for end, v in zip(ends, (at.low, at.high), strict=True)
        )
        low_unit, high_unit = (end[:, None] * scale for end in ends)
        ranges = slope_ranges(at)
        found[k] = _Layer(at, ranges, low_at, high_at, low_unit, high_unit)
    return found


def _part_of(slope: torch.Tensor, least: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Where a slope stands in its range, in [0, 1]."""
    width = largest - least
    part = (slope - least) / torch.where(width > 0, width, torch.ones_like(width))
    return part.clamp(0, 1)


def _join_lines(parts: list[UnitLines]) -> UnitLines:
    return UnitLines(
        torch.cat([p.lower_slope for p in parts], 1),
        torch.cat([p.lower_intercept for p in parts], 1),
        torch.cat([p.upper_slope for p in parts], 1),
        torch.cat([p.upper_intercept for p in parts], 1),
    )


def _join_multipliers(parts: list[Multipliers]) -> Multipliers:
    return Multipliers(
        torch.cat([p.low for p in parts], 1), torch.cat([p.high for p in parts], 1),
        parts[0].low_at, parts[0].high_at,
    )  # fmt: skip
