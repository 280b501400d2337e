"""Linear bounds of maxima: one line over all candidates of a window, below and above.

Below, any candidate is a bound; the one with the highest middle is taken.  Above, with the
candidates that may win, ``Uo`` the largest upper bound among the others, and ``r`` any number,

    max x <= max(x_k, Uo)              and      max x <= r + sum_k max(x_k - r, 0);

a chord of each convex function of one candidate makes both linear.  For two candidates these
are the two planes of the concave envelope.  The line that is lowest in the middle of the box is
taken.  A maximum that one candidate must win is that candidate, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polytope.bounds.rounding import above, gamma

#: Lines whose heights differ by less, relative to 1 + height, tie: the first is taken, so that
#: rounding does not choose.
TIE = 1e-9


@dataclass(frozen=True, eq=False)
class WindowLines:
    """Lines ``sum_k weight_k x_k + intercept`` below and above each maximum.

    Attributes
    ----------
    lower_weights, upper_weights : tensor (n, units, candidates)
        0 for absent candidates; the lower intercept is 0.
    upper_intercept : tensor (n, units)
    """

    lower_weights: torch.Tensor
    upper_weights: torch.Tensor
    upper_intercept: torch.Tensor

    def take(self, functions: slice) -> WindowLines:
        """All functions share these lines."""
        del functions
        return self


@dataclass(frozen=True, eq=False)
class Windows:
    """Candidates of each maximum and their bounds.

    Attributes
    ----------
    low, high : tensor (n, units, candidates)
        -inf for absent candidates.
    pieces : bool tensor (n, units, candidates)
        Candidates that may win.
    empty : bool tensor (n,)
        Some maximum has no winner left: there is no such input.
    """

    low: torch.Tensor
    high: torch.Tensor
    pieces: torch.Tensor
    empty: torch.Tensor


def restrict(
    low: torch.Tensor, high: torch.Tensor, index: torch.Tensor, allowed: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of the values that windows read, tightened by the allowed winners.

    No value of a window exceeds the largest upper bound among its allowed winners, and an only
    allowed winner is no less than any lower bound in its window.

    Parameters
    ----------
    low, high : tensor (n, size)
    index : int64 tensor (units, candidates)
        -1 is no candidate.
    allowed : bool tensor (n, units, candidates), optional

    Returns
    -------
    two tensors (n, size)
        Lower bounds above upper ones show that there is no such input.
    """
    if allowed is None:
        return low, high
    present = index >= 0
    may = allowed & present
    safe = index.clamp(min=0)
    top = torch.where(may, high[:, safe], -torch.inf).amax(dim=2, keepdim=True)
    top = torch.where(present, top, torch.inf)
    only = may & (may.sum(dim=2, keepdim=True) == 1)
    bottom = torch.where(present, low[:, safe], -torch.inf).amax(dim=2, keepdim=True)
    bottom = torch.where(only, bottom, -torch.inf)
    places = safe.flatten().expand(len(low), -1)
    high = high.scatter_reduce(1, places, top.flatten(1), "amin")
    return low.scatter_reduce(1, places, bottom.flatten(1), "amax"), high


def windows(
    low: torch.Tensor, high: torch.Tensor, index: torch.Tensor, allowed: torch.Tensor | None
) -> Windows:
    """Bounds and possible winners of each window; arguments as for `restrict`."""
    present = (index >= 0).expand(len(low), *index.shape)
    safe = index.clamp(min=0)
    lows = torch.where(present, low[:, safe], -torch.inf)
    highs = torch.where(present, high[:, safe], -torch.inf)
    pieces = present if allowed is None else present & allowed
    pieces = pieces & (highs >= lows.amax(dim=2, keepdim=True))
    empty = ~pieces.any(dim=2)
    pieces = pieces | (empty[..., None] & present)
    others = _largest_other(torch.where(pieces, highs, -torch.inf))
    sure = pieces & (lows >= others)
    first = sure & (sure.to(torch.int64).cumsum(dim=2) == 1)
    pieces = torch.where(sure.any(dim=2, keepdim=True), first, pieces)
    return Windows(lows, highs, pieces, empty.any(dim=1))


def window_lines(at: Windows) -> WindowLines:
    """The lines of each window."""
    may = at.pieces
    low, high = (torch.where(may, v, torch.zeros_like(v)) for v in (at.low, at.high))
    middle = torch.where(may, low / 2 + high / 2, -torch.inf)
    best = middle.nan_to_num(nan=-torch.inf).argmax(dim=2, keepdim=True)
    lower = torch.zeros_like(low).scatter(2, best, 1.0)

    floor = _largest_other(torch.where(may, high, -torch.inf))
    alone = torch.isinf(floor) & (floor < 0)
    slope, intercept = _chord(low, high, torch.where(alone, low, floor))
    slope, intercept = (torch.where(alone, s, v) for s, v in ((1.0, slope), (0.0, intercept)))
    intercept = torch.where(may, intercept, torch.inf)
    ends = torch.where(torch.isinf(low), high, low)
    middle = torch.where(torch.isfinite(middle), middle, torch.where(torch.isinf(ends), 0.0, ends))
    heights = slope * middle + intercept
    height = heights.amin(dim=2, keepdim=True)
    tied = heights <= height + TIE * (1 + height.abs())
    chosen = tied.to(torch.int64).argmax(dim=2, keepdim=True)
    weights = torch.zeros_like(low).scatter(2, chosen, slope.gather(2, chosen))
    constant, height = intercept.gather(2, chosen).squeeze(2), height.squeeze(2)

    base = torch.where(may, at.low, -torch.inf).amax(dim=2, keepdim=True)
    base = torch.where(torch.isinf(base), torch.zeros_like(base), base)
    each, rest = _chord(low, high, base)
    each = torch.where(may, each, torch.zeros_like(each))
    rest = torch.where(may, above(rest - base), torch.zeros_like(rest))
    total = base.squeeze(2) + rest.sum(dim=2)
    size = base.squeeze(2).abs() + rest.abs().sum(dim=2)
    total = above(total + (gamma(low.shape[2] + 4, low.dtype) * size).detach())
    sum_height = (each * middle).sum(dim=2) + total
    margin = torch.where(torch.isinf(height), 0.0, TIE * (1 + height.abs()))
    better = (sum_height < height - margin) | (torch.isinf(constant) & torch.isfinite(total))
    better = better & (may.sum(dim=2) > 1)
    return WindowLines(
        lower, torch.where(better[..., None], each, weights), torch.where(better, total, constant)
    )


def _largest_other(values: torch.Tensor) -> torch.Tensor:
    """For each candidate the largest value among the others (-inf if there is none)."""
    if values.shape[2] == 1:
        return torch.full_like(values, -torch.inf)
    top = values.topk(2, dim=2)
    first = torch.zeros_like(values, dtype=torch.bool).scatter(2, top.indices[..., :1], True)
    return torch.where(first, top.values[..., 1:], top.values[..., :1])


def _chord(
    low: torch.Tensor, high: torch.Tensor, floor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and rigorous intercept of a line above ``max(x, floor)`` on [low, high]."""
    ends = [torch.maximum(end, floor) for end in (low, high)]
    width = high - low
    plain = torch.isfinite(width) & (width > 0)
    rise = torch.where(plain & torch.isfinite(floor), ends[1] - ends[0], torch.zeros_like(width))
    slope = (rise / torch.where(plain, width, torch.ones_like(width))).clamp(0, 1)
    slope = torch.where(torch.isinf(high), torch.ones_like(slope), slope)
    limits = torch.finfo(low.dtype)
    found = []
    for t, value in zip((low, high), ends, strict=True):
        endless = torch.isinf(t)
        product = slope * torch.where(endless, torch.zeros_like(t), t)
        exact = (slope == 0) | (slope == 1)
        lost = torch.where(exact, 0.0, limits.eps * product.abs() + limits.tiny).detach()
        line = torch.where(endless, torch.zeros_like(value), value) - product
        line = line + (lost + torch.where(product == 0, 0.0, limits.eps * line.abs())).detach()
        up = torch.where(slope == 1, 0.0, torch.inf)
        down = torch.where(slope == 0, floor.expand_as(t), torch.inf)
        found.append(torch.where(endless, torch.where(t > 0, up, down), line))
    return slope, torch.maximum(*found)
