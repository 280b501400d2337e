"""Linear bounds of piecewise-linear units on an interval, restricted to allowed pieces.

On ``[l, u]`` the graph of a unit, restricted to the pieces it may take, is a union of segments,
and a line is a bound if it is one at their ends, the *corners*.  So any slope s gives the valid
lower line ``s z + min (f - s t)`` over the corners (t, f), and the maximum the upper one: slopes
may be chosen freely (or optimised) and only intercepts carry the proof, rounded outwards.  The
default is the edge of the convex hull over the middle of [l, u], the line with the least area
under it; for a ReLU that is the chord above and CROWN's adaptive slope below.  A unit with one
piece left is that piece, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from polytope.network.engine import Constants
from polytope.network.ir import Node, Piecewise

#: How slopes are chosen: hull edges over the middle, or the lower parallel to the upper (FastLin).
Rule = Literal["adaptive", "parallel"]


@dataclass(frozen=True, eq=False)
class UnitLines:
    """Lines ``slope z + intercept`` below and above each unit.

    Attributes
    ----------
    lower_slope, lower_intercept, upper_slope, upper_intercept : tensor
        (n, units), or (n, functions, units) if each function has its own.
    """

    lower_slope: torch.Tensor
    lower_intercept: torch.Tensor
    upper_slope: torch.Tensor
    upper_intercept: torch.Tensor

    def take(self, functions: slice) -> UnitLines:
        """The lines of some of the functions."""
        if self.lower_slope.ndim == 2:
            return self
        return UnitLines(
            self.lower_slope[:, functions], self.lower_intercept[:, functions],
            self.upper_slope[:, functions], self.upper_intercept[:, functions],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Corners:
    """The ends of the segments of each unit's graph; two per piece.

    Attributes
    ----------
    t, f : tensor (n, units, corners)
        Places and values; places may be infinite (values are then unused).
    error : tensor like t
        Bound on the rounding of `f`.
    slope, intercept : tensor like t
        Of the piece that the corner ends.
    live : bool tensor like t
    low, high : tensor (n, units)
        The interval, tightened by the pieces that are left.
    pieces : bool tensor (n, units, pieces)
        The pieces that are left.
    empty : bool tensor (n,)
        Some unit has no piece left: there is no such input.
    """

    t: torch.Tensor
    f: torch.Tensor
    error: torch.Tensor
    slope: torch.Tensor
    intercept: torch.Tensor
    live: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    pieces: torch.Tensor
    empty: torch.Tensor

    @property
    def single(self) -> torch.Tensor:
        """Units with one piece left: bool (n, units)."""
        return self.pieces.sum(dim=2) == 1


def corners(
    node: Node, low: torch.Tensor, high: torch.Tensor, allowed: torch.Tensor | None, c: Constants
) -> Corners:
    """Corners of a layer's units.

    Parameters
    ----------
    node : Node
        With a `Piecewise` operation.
    low, high : tensor (n, units)
        Bounds of the pre-activations.
    allowed : bool tensor (n, units, pieces), optional
        Which pieces each unit may take; a piece is a closed interval here.
    c : constants
    """
    op = node.op
    assert isinstance(op, Piecewise)
    breaks, slopes, intercepts = (
        c[key].expand(*node.shape, -1).reshape(1, node.size, -1)
        for key in (op.breakpoints, op.slopes, op.intercepts)
    )
    ends = torch.nn.functional.pad(breaks, (1, 0), value=-torch.inf)
    start = torch.maximum(ends, low[..., None])
    stop = torch.minimum(torch.nn.functional.pad(breaks, (0, 1), value=torch.inf), high[..., None])
    pieces = start <= stop
    if allowed is not None:
        pieces = pieces & allowed
    pieces = _without_points(pieces, start < stop)
    empty = ~pieces.any(dim=2)
    new_low = torch.where(pieces, start, torch.inf).amin(dim=2)
    new_high = torch.where(pieces, stop, -torch.inf).amax(dim=2)
    new_low, new_high = torch.where(empty, low, new_low), torch.where(empty, high, new_high)
    new_low, new_high = torch.minimum(new_low, new_high), torch.maximum(new_low, new_high)
    pieces = pieces | empty[..., None]
    t = torch.cat([start, stop], dim=2)
    t = torch.where(torch.cat([pieces, pieces], dim=2), t, torch.zeros_like(t))
    slope, intercept = (torch.cat([v, v], dim=2).expand(t.shape) for v in (slopes, intercepts))
    finite = torch.where(torch.isinf(t), torch.zeros_like(t), t)
    product = slope * finite
    value = product + intercept
    exact = ((slope == 0) | (slope.abs() == 1)) & ((intercept == 0) | (slope == 0))
    limits = torch.finfo(t.dtype)
    rounded = limits.eps * (product.abs() + value.abs()) + limits.tiny
    error = torch.where(exact, 0.0, rounded.detach())
    return Corners(
        t, value, error, slope, intercept, torch.cat([pieces, pieces], dim=2),
        new_low, new_high, pieces, empty.any(dim=1),
    )  # fmt: skip


def _without_points(pieces: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """Drop a piece that only touches the interval in a point that a wide neighbour has too."""
    strong = pieces & wide
    beside = torch.zeros_like(strong)
    beside[..., 1:] |= strong[..., :-1]
    beside[..., :-1] |= strong[..., 1:]
    return strong | (pieces & ~beside)


def intercepts(at: Corners, slope: torch.Tensor, upper: bool) -> torch.Tensor:
    """The best rigorous intercept of lines of given slopes.

    Parameters
    ----------
    at : Corners
    slope : tensor (n, units) or (n, functions, units)
    upper : bool
        Above the graph; otherwise below it.

    Returns
    -------
    tensor like `slope`
        Infinite where no line of this slope is a bound.
    """
    t, f, error, own, constant, live = (
        (v if slope.ndim == 2 else v[:, None])
        for v in (at.t, at.f, at.error, at.slope, at.intercept, at.live)
    )
    s = slope[..., None]
    endless = torch.isinf(t)
    product = s * torch.where(endless, torch.zeros_like(t), t)
    value = f - product
    limits = torch.finfo(t.dtype)
    exact = (s == 0) | (s.abs() == 1) | (t == 0)
    slack = error + limits.eps * value.abs()
    slack = slack + torch.where(exact, 0.0, limits.eps * product.abs() + limits.tiny)
    slack = slack.detach()
    sign = 1.0 if upper else -1.0
    value = value + sign * slack
    if bool(endless.any()):
        beyond = torch.where(own == s, constant, ((own - s) * t.sign()).sign() * torch.inf)
        value = torch.where(endless, beyond, value)
    value = torch.where(live, value, -sign * torch.inf)
    return value.amax(dim=-1) if upper else value.amin(dim=-1)


def hull_slope(at: Corners, upper: bool) -> torch.Tensor:
    """Slope of the hull's edge over the middle of each interval: (n, units); differentiable."""
    with torch.no_grad():
        t, f = at.t, at.f
        first = torch.where(at.live, t, torch.inf).argmin(dim=2)
        last = torch.where(at.live, t, -torch.inf).argmax(dim=2)
        middle = (at.low / 2 + at.high / 2)[..., None, None]
        left, right = t[..., :, None], t[..., None, :]
        width = right - left
        valid = (left <= middle) & (middle <= right) & (width > 0) & torch.isfinite(width)
        valid &= at.live[..., :, None] & at.live[..., None, :]
        rise = f[..., None, :] - f[..., :, None]
        height = f[..., :, None] + rise * ((middle - left) / torch.where(valid, width, 1.0))
        sign = -1.0 if upper else 1.0
        height = torch.where(valid, sign * height, torch.inf).flatten(2)
        count = t.shape[2]
        best = height.argmin(dim=2)
        chord = torch.isfinite(height.gather(2, best[..., None]).squeeze(2))
        i, j = best // count, best % count
        endless_right = torch.isinf(at.high) & ~torch.isinf(at.low)
        end = torch.where(endless_right, last, first)
    t_i, t_j = (at.t.gather(2, k[..., None]).squeeze(2) for k in (i, j))
    f_i, f_j = (at.f.gather(2, k[..., None]).squeeze(2) for k in (i, j))
    width = torch.where(chord, t_j - t_i, torch.ones_like(t_i))
    plain = at.slope.gather(2, end[..., None]).squeeze(2)
    found = torch.where(chord, torch.where(chord, f_j - f_i, torch.zeros_like(f_i)) / width, plain)
    steepest, flattest = at.slope.amax(dim=2), at.slope.amin(dim=2)
    return torch.minimum(torch.maximum(found, flattest), steepest)


def unit_lines(at: Corners, lower: torch.Tensor, upper: torch.Tensor) -> UnitLines:
    """Lines of the given slopes; units with one piece left are that piece."""
    below, above = intercepts(at, lower, False), intercepts(at, upper, True)
    single, own = at.single, at.pieces.to(torch.int64).argmax(dim=2)
    slope, constant = (
        v[..., : at.pieces.shape[2]].gather(2, own[..., None]).squeeze(2)
        for v in (at.slope, at.intercept)
    )
    if lower.ndim == 3:
        single, slope, constant = single[:, None], slope[:, None], constant[:, None]
    return UnitLines(
        torch.where(single, slope, lower), torch.where(single, constant, below),
        torch.where(single, slope, upper), torch.where(single, constant, above),
    )  # fmt: skip


def default_slopes(at: Corners, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """Slopes (lower, upper) of a rule: two tensors (n, units)."""
    upper = hull_slope(at, True)
    return (upper if rule == "parallel" else hull_slope(at, False)), upper


def slope_ranges(at: Corners) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Least and largest slopes of the hull's lower edges, then of its upper edges.

    Returns
    -------
    four tensors (n, units)
        Lower slopes outside of the first two, and upper ones outside of the others, give valid
        but nowhere better lines.  Where the interval is infinite or a point: the range of the
        pieces' slopes.
    """
    t, f, live = at.t, at.f, at.live
    flattest = torch.where(live, at.slope, torch.inf).amin(dim=2)
    steepest = torch.where(live, at.slope, -torch.inf).amax(dim=2)
    plain = (at.high > at.low) & torch.isfinite(at.low) & torch.isfinite(at.high)
    first = torch.where(live, t, torch.inf).argmin(dim=2, keepdim=True)
    last = torch.where(live, t, -torch.inf).argmax(dim=2, keepdim=True)
    from_first = (f - f.gather(2, first)) / (t - t.gather(2, first))
    to_last = (f.gather(2, last) - f) / (t.gather(2, last) - t)
    found = []
    for lower in (True, False):
        skip = torch.inf if lower else -torch.inf
        ahead = torch.where(live & (t > t.gather(2, first)), from_first, skip)
        behind = torch.where(live & (t < t.gather(2, last)), to_last, -skip)
        a = ahead.amin(dim=2) if lower else ahead.amax(dim=2)
        b = behind.amax(dim=2) if lower else behind.amin(dim=2)
        found += [torch.minimum(a, b), torch.maximum(a, b)]
    for k in range(4):
        fallback = flattest if k % 2 == 0 else steepest
        inside = torch.minimum(torch.maximum(found[k], flattest), steepest)
        found[k] = torch.where(plain, inside, fallback).detach()
    return found[0], found[1], found[2], found[3]


def value_bounds(at: Corners) -> tuple[torch.Tensor, torch.Tensor]:
    """Interval bounds of the units' values: two tensors (n, units)."""
    end = torch.where(at.slope == 0, at.intercept, (at.slope * at.t.sign()).sign() * torch.inf)
    endless = torch.isinf(at.t)
    low = torch.where(endless, end, at.f - at.error)
    high = torch.where(endless, end, at.f + at.error)
    low = torch.where(at.live, low, torch.inf).amin(dim=2)
    return low, torch.where(at.live, high, -torch.inf).amax(dim=2)
