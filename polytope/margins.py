"""Margins along directions, stability of each input coordinate, and counts of regions (ROLL).

ROLL (arXiv 1907.03207), Proposition 4 and appendix B: along a direction the margin of a
region can be found by bisection on the activation pattern, or in closed form, since the
region is a polytope (a ratio test on its rows).  Both are here, and test each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from polytope.errors import InputError
from polytope.hyperplanes import hyperplanes
from polytope.inputs import as_batch
from polytope.jacobians import DEFAULT_MEMORY, chunk_rows
from polytope.network.engine import Engine, LayerState
from polytope.network.rounding import rounding_bounds
from polytope.rows import (
    NEGLIGIBLE,
    RowTable,
    layer_slopes,
    negligible,
    pieces_of_states,
    row_table,
)

#: Bisection ends when the two ends are this close (ROLL, appendix B).
BISECTION_GAP = 1e-7
#: The exponential search gives up, and the margin is infinite, beyond this step.
FARTHEST = 2.0**60


def directional_margin(
    net: Engine,
    X: object,
    directions: object,
    method: Literal["ratio", "bisection"] = "ratio",
    *,
    memory: int = DEFAULT_MEMORY,
) -> np.ndarray:
    """How far each point can move along each direction within its linear region.

    Parameters
    ----------
    net : Network
    X : array (n, d) or (n, *input_shape)
    directions : array (m, d) or (m, *input_shape)
        Not normalised: the margin is in units of the direction's length.
    method : {"ratio", "bisection"}
        The closed form on the region's rows, or ROLL's search on activation patterns, whose
        result is the lower end of an interval shorter than 1e-7.
    memory : int
        Bytes that a chunk may take.

    Returns
    -------
    float64 array (n, m)
        inf where the region is unbounded in that direction; 0 on a boundary crossed by it.

    Raises
    ------
    InputError
        For unusable points or directions, or an unknown method.
    SmoothActivation
        If the network is not piecewise linear.
    """
    net.require_piecewise_linear("directional_margin")
    x = as_batch(net, X)
    steps = as_batch(net, directions, name="directions").to(x.device)
    if method not in ("ratio", "bisection"):
        raise InputError(f"method: got {method!r}, expected 'ratio' or 'bisection'")
    size = max(1, chunk_rows(net, len(steps), 8, memory))
    parts = [np.zeros((0, len(steps)))]
    with torch.no_grad():
        for start in range(0, len(x), size):
            part = x[start : start + size]
            if method == "ratio":
                margins, _ = _ratio_margins(net, part, steps)
            else:
                margins = torch.stack([_bisection(net, part, d) for d in steps], 1)
            parts.append(margins.cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class StabilityIntervals:
    """How far each coordinate alone can move before the region ends (ROLL, Figure 3).

    Attributes
    ----------
    down, up : float64 array (n, *input_shape)
        Room below and above; inf where the region is unbounded. The least over all of them
        is the region's l_1 margin.
    """

    down: np.ndarray
    up: np.ndarray

    @property
    def l1_margin(self) -> np.ndarray:
        """The l_1 margin (n,): the least room over the 2 d directions (Proposition 5)."""
        axes = tuple(range(1, self.down.ndim))
        return np.asarray(np.minimum(self.down, self.up).min(axis=axes))


def stability_intervals(
    net: Engine, X: object, *, memory: int = DEFAULT_MEMORY
) -> StabilityIntervals:
    """Per-coordinate room within the linear region: directional margins along the axes.

    Parameters
    ----------
    net : Network
    X : array (n, d) or (n, *input_shape)
    memory : int
        Bytes that a chunk may take; coordinates are taken in blocks if need be.

    Returns
    -------
    StabilityIntervals

    Raises
    ------
    InputError, SmoothActivation
    """
    net.require_piecewise_linear("stability_intervals")
    x = as_batch(net, X)
    size = net.input_size
    axes = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *net.input_shape)
    block = max(1, min(size, chunk_rows(net, 1, 8, memory)))
    rows = max(1, chunk_rows(net, block, 8, memory))
    down, up = np.zeros((len(x), size)), np.zeros((len(x), size))
    with torch.no_grad():
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            for first in range(0, size, block):
                ahead, back = _ratio_margins(net, part, axes[first : first + block])
                up[start : start + rows, first : first + block] = ahead.cpu().numpy()
                down[start : start + rows, first : first + block] = back.cpu().numpy()
    shape = (len(x), *net.input_shape)
    return StabilityIntervals(down.reshape(shape), up.reshape(shape))


def _ratio_margins(
    net: Engine, x: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins along the directions and against them: two tensors (batch, directions)."""
    states = list(net.sweep(x, steps.unsqueeze(0)))
    plain = [LayerState(s.layer, s.values, s.pieces, None) for s in states]
    c = net.constants(x.dtype, x.device)
    pieces = pieces_of_states(states, x)
    classes = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    table = row_table(net, x, plain, pieces, classes, c)
    best = [torch.full((len(x), len(steps)), torch.inf, dtype=x.dtype, device=x.device)] * 2
    longest = steps.flatten(1).abs().amax(dim=1)
    for state in states[:-1]:
        assert state.layer is not None
        place = state.layer.row_slice
        room = (-table.residual[:, place]).clamp(min=0)
        slopes = layer_slopes(net, state, c)
        noise = table.normal_error[:, None, place] * longest[None, :, None]
        steepest = slopes.abs().amax(dim=(1, 2), keepdim=True)
        noise = torch.minimum(noise, NEGLIGIBLE * steepest)
        active = table.active[:, None, place]
        for side, sign in enumerate((1.0, -1.0)):
            toward = sign * slopes
            hits = active & (toward > noise)
            ratio = room.unsqueeze(1) / torch.where(hits, toward, 1.0)
            ratio = torch.where(hits, ratio, torch.inf)
            best[side] = torch.minimum(best[side], ratio.amin(dim=2))
    return best[0], best[1]


def _bisection(net: Engine, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """ROLL, appendix B: exponential search for an upper end, then bisection (batch,)."""
    home = net.pieces(x)

    def stays(length: torch.Tensor) -> torch.Tensor:
        moved = x + length.reshape(-1, *([1] * step.ndim)) * step
        return (net.pieces(moved) == home).all(dim=1)

    low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    high = torch.full_like(low, BISECTION_GAP)
    growing = stays(high)
    while bool(growing.any()):
        low = torch.where(growing, high, low)
        high = torch.where(growing, 2 * high, high)
        growing = growing & (high < FARTHEST) & stays(high)
    unbounded = stays(high)
    while bool((high - low > BISECTION_GAP).logical_and(~unbounded).any()):
        middle = 0.5 * (low + high)
        if bool(((middle == low) | (middle == high))[~unbounded].all()):
            break
        inside = stays(middle)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.where(unbounded, torch.inf, low)


@dataclass(frozen=True)
class RegionCount:
    """How many complete linear regions a data set meets (ROLL, Lemma 7).

    Attributes
    ----------
    lower : int
        Logit Jacobians that differ beyond rounding.
    upper : int
        Distinct activation patterns.
    ties : int64 array
        Rows that lie on a boundary (within rounding): if there are any, Lemma 7's condition
        fails for them and `upper` holds only for the convention for ties.
    """

    lower: int
    upper: int
    ties: np.ndarray


def count_complete_regions(net: Engine, X: object, *, memory: int = DEFAULT_MEMORY) -> RegionCount:
    """Bounds on the number of complete linear regions among the points.

    A complete linear region is a set of points with one activation pattern up to equal
    Jacobians: distinct patterns bound their number from above, distinct Jacobians from
    below. Jacobians are compared by a random linear functional with its rounding error:
    functionals whose error intervals are disjoint belong to different Jacobians.

    Parameters
    ----------
    net : Network
    X : array (n, d) or (n, *input_shape)
    memory : int

    Returns
    -------
    RegionCount

    Raises
    ------
    InputError, SmoothActivation
    """
    net.require_piecewise_linear("count_complete_regions")
    x = as_batch(net, X)
    outputs = net.output_size
    rng = np.random.default_rng(0)
    probe = rng.uniform(-1, 1, (outputs, *net.input_shape))
    steps = torch.as_tensor(probe, dtype=x.dtype, device=x.device)
    size = max(1, chunk_rows(net, outputs, 8, memory))
    c = net.constants(x.dtype, x.device)
    seen: dict[bytes, tuple[float, float]] = {}
    ties: list[int] = []
    with torch.no_grad():
        for start in range(0, len(x), size):
            part = x[start : start + size]
            states = list(net.sweep(part, steps.unsqueeze(0)))
            pieces = pieces_of_states(states, part)
            plain = [LayerState(s.layer, s.values, s.pieces, None) for s in states]
            classes = torch.zeros(len(part), dtype=torch.int64, device=x.device)
            table = row_table(net, part, plain, pieces, classes, c)
            ties += [start + row for row in _tied(net, part, classes, table, memory)]
            last = states[-1].gradients
            assert last is not None
            last = last.expand(len(part), outputs, outputs)
            value = torch.einsum("bkk->b", last)
            error = rounding_bounds(net, part, pieces)[-1].gradient.sum(dim=1)
            error = error + outputs * torch.finfo(x.dtype).eps * last.abs().sum(dim=(1, 2))
            for key, v, e in zip(
                pieces.to(torch.int16).cpu().numpy(), value.tolist(), error.tolist(), strict=True
            ):
                seen.setdefault(key.tobytes(), (v, e))
    reach, lower = -np.inf, 0
    for low, high in sorted(((v - e, v + e) for v, e in seen.values()), key=lambda i: i[1]):
        if low > reach:
            lower, reach = lower + 1, high
    return RegionCount(lower, len(seen), np.array(ties, dtype=np.int64))


def _tied(
    net: Engine,
    x: torch.Tensor,
    classes: torch.Tensor,
    table: RowTable,
    memory: int,
) -> list[int]:
    """The points that lie on a hyperplane (within rounding), null rows not counted."""
    split = net.rows
    close = negligible(net, table.residual[:, :split], table.value_error[:, :split]) & table.active
    rows = close.any(dim=1).nonzero().flatten()
    if not len(rows):
        return []
    planes = hyperplanes(net, x[rows], 2.0, classes[rows], memory=memory)
    return rows[(close[rows] & ~planes.null).any(dim=1)].tolist()
