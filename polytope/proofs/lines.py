"""Lines below and above single units, and the pieces that bounds leave them.

Bounds, slopes and intercepts are floats, so that numbers stay short; whatever the slopes, the
intercepts are rounded to where the lines hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polytope.network.exact_layers import Layer, Pieces, Windows, floor
from polytope.proofs.enclosed import N


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines of the units of a layer over the bounds of what they read.

    Attributes
    ----------
    live : bool (units, pieces)
        The pieces that the bounds reach.
    low, low_rest, high, high_rest : float64 (units,)
        Slopes and intercepts.  For windows `low` is not used and `high` is (units, candidates).
    below : int64 (units,)
        For windows the candidate (its place in the window) that is the lower line.
    """

    live: np.ndarray
    low: np.ndarray
    low_rest: np.ndarray
    high: np.ndarray
    high_rest: np.ndarray
    below: np.ndarray


def piece_lines(
    units: Pieces,
    bounds: np.ndarray,
    given: tuple[np.ndarray, np.ndarray] | None,
    numbers: type[N],
) -> Lines:
    """Lines of piecewise linear units.

    Parameters
    ----------
    units : Pieces
    bounds : float64 (2, units)
        The least and the greatest pre-activation.
    given : pair of float64 (units,), optional
        Slopes of the lower and upper line; by default those of the hull's edges at the middle.
    numbers : type
        The arithmetic.
    """
    least, most = bounds
    breaks, slopes, rests = units.floats
    count = slopes.shape[1]
    low_end = np.concatenate([np.full((len(least), 1), -np.inf), breaks], axis=1)
    high_end = np.concatenate([breaks, np.full((len(least), 1), np.inf)], axis=1)
    # A piece is open below and closed above.  One that the interval only touches has a neighbour
    # with the same value there, unless the unit jumps (tables are rounded).
    touched = np.concatenate([units.jumps, np.zeros((len(least), 1), dtype=bool)], axis=1)
    reached = (least[:, None] < high_end) | (touched & (least[:, None] == high_end))
    live = (most[:, None] > low_end) & reached
    lone = np.flatnonzero(~live.any(axis=1))
    live[lone, (breaks[lone] <= least[lone, None]).sum(axis=1)] = True
    left, right = (np.clip(e, least[:, None], most[:, None]) for e in (low_end, high_end))
    low, high = given if given is not None else _hull_slopes(live, left, right, slopes, rests)
    found = []
    for slope, sign in ((low, 1.0), (high, -1.0)):
        steep = numbers.of(sign * slopes).plus(
            numbers.of(np.repeat(-sign * slope[:, None], count, axis=1))
        )
        rest = numbers.of(sign * rests)
        ends = [steep.each(numbers.of(end)).plus(rest).floor() for end in (left, right)]
        found.append(np.where(live, np.minimum(*ends), np.inf).min(axis=1))
    none = np.zeros(0, dtype=np.int64)
    return Lines(live, low, found[0], high, -found[1], none)


def _hull_slopes(
    live: np.ndarray, left: np.ndarray, right: np.ndarray, slopes: np.ndarray, rests: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of the edges of the lower and upper hull that cross the middle of the interval.

    Any slopes are sound, so these are plain floats.
    """
    number, each = slopes.shape[1], np.arange(len(slopes))
    first = live.argmax(axis=1)
    last = number - 1 - live[:, ::-1].argmax(axis=1)
    middle = 0.5 * (left[each, first] + right[each, last])
    # Corners: the left end of each live piece, and the right end of the last.
    t = np.concatenate([left, right[each, last][:, None]], axis=1)
    f = np.concatenate([slopes * left + rests,
                        (slopes[each, last] * t[:, -1] + rests[each, last])[:, None]],
                       axis=1)  # fmt: skip
    corner = np.concatenate([live, np.ones((len(live), 1), dtype=bool)], axis=1)
    best = [np.full(len(live), np.inf), np.full(len(live), -np.inf)]
    found = [np.zeros(len(live)), np.zeros(len(live))]
    for i, j in itertools.combinations(range(number + 1), 2):
        across = corner[:, i] & corner[:, j] & (t[:, i] <= middle) & (middle <= t[:, j])
        across &= t[:, i] < t[:, j]
        width = np.where(across, t[:, j] - t[:, i], 1.0)
        slope = np.where(across, f[:, j] - f[:, i], 0.0) / width
        height = f[:, i] + slope * (middle - t[:, i])
        for side, better in enumerate((height < best[0], height > best[1])):
            taken = across & better
            found[side] = np.where(taken, slope, found[side])
            best[side] = np.where(taken, height, best[side])
    alone = first == last
    own = slopes[each, first]
    return np.where(alone, own, found[0]), np.where(alone, own, found[1])


def window_lines(
    units: Windows, bounds: np.ndarray, given: tuple[np.ndarray, np.ndarray] | None
) -> Lines:
    """Lines of maxima: a candidate below, a weighted sum of candidates above.

    Parameters
    ----------
    units : Windows
    bounds : float64 (2, values)
    given : (int64 (units,), float64 (units, candidates)), optional
        The places of the lower candidates, and the weights.
    """
    least, most = ([Fraction(v) for v in side.tolist()] for side in bounds)
    windows = units.index.tolist()
    live = np.zeros(units.index.shape, dtype=bool)
    high, rest, below = np.zeros(live.shape), np.zeros(len(live)), np.zeros(len(live), np.int64)
    for u, window in enumerate(windows):
        own = {k: v for k, v in enumerate(window) if v >= 0}
        floor_ = max(least[v] for v in own.values())
        may = [k for k, v in own.items() if most[v] >= floor_]
        sure = [k for k in may if all(least[own[k]] >= most[own[j]] for j in may if j != k)]
        live[u, sure[:1] or may] = True
        if given is None:
            below[u], high[u] = _window_choice(own, sure[:1] or may, least, most, len(window))
        else:
            below[u], high[u] = given[0][u], given[1][u]
        shares = [Fraction(w) for w in high[u].tolist()]
        gains = []
        for winner in np.flatnonzero(live[u]).tolist():  # the most it is above the weighted sum
            gain = dict.fromkeys(own.values(), Fraction(0))
            gain[own[winner]] += 1
            for k, v in own.items():
                gain[v] -= shares[k]
            gains.append(sum(c * (most[v] if c > 0 else least[v]) for v, c in gain.items()))
        rest[u] = -floor(-Fraction(max(gains)))
    zero = np.zeros(len(live))
    return Lines(live, zero, zero, high, rest, below)


def _window_choice(
    own: dict[int, int],
    may: Sequence[int],
    least: Sequence[Fraction],
    most: Sequence[Fraction],
    size: int,
) -> tuple[int, np.ndarray]:
    """A lower candidate, and weights: of one candidate against the next, or of all of them."""
    weights = np.zeros(size)
    middle = {k: (least[own[k]] + most[own[k]]) / 2 for k in may}
    below = max(may, key=lambda k: middle[k])
    if len(may) == 1:
        weights[below] = 1.0
        return below, weights
    floor_ = max(least[own[k]] for k in may)
    tops = sorted((most[own[k]] for k in may), reverse=True)

    def chord(k: int, over: Fraction) -> tuple[Fraction, Fraction]:
        """Slope, and height at the middle, of the chord of ``max(x, over)``."""
        low, high = least[own[k]], most[own[k]]
        left, right = max(low, over), max(high, over)
        slope = (right - left) / (high - low) if high > low else Fraction(0)
        return slope, left + slope * (middle[k] - low)

    single = {k: chord(k, tops[1] if most[own[k]] == tops[0] else tops[0]) for k in may}
    every = {k: chord(k, floor_) for k in may}
    height = floor_ + sum((h - floor_ for _, h in every.values()), Fraction(0))
    best = min(may, key=lambda k: single[k][1])
    if height < single[best][1]:
        for k, (slope, _) in every.items():
            weights[k] = float(slope)
    else:
        weights[best] = float(single[best][0])
    return below, weights


def lines_of(
    layer: Layer,
    bounds: np.ndarray,
    given: tuple[np.ndarray, np.ndarray] | None,
    numbers: type[N],
) -> Lines:
    """Lines of a layer's units: see `piece_lines` and `window_lines`."""
    if isinstance(layer.units, Windows):
        return window_lines(layer.units, bounds, given)
    return piece_lines(layer.units, bounds, given, numbers)
