"""Values that are one constant all over the domain, whatever the pieces: known exactly beforehand.

On a plane through images whole windows of a convolution see the same dark pixels.  Their values
are equal constants, but sums in floats have errors: every tie between them, and every row that
compares a live value with one of several equal constants, would be left to exact arithmetic,
region by region.  Here such constants are computed exactly once, and of the constant candidates
of a maximum only the one that can win is kept.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from polytope.network.engine import Engine
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.sums import Sums


def without_constants(
    net: Engine, domain: Domain, first: np.ndarray, sums: Sums, table: np.ndarray
) -> tuple[Sums, np.ndarray]:
    """The sums with constant values written as such, and the table without beaten constants.

    Parameters
    ----------
    net : Engine
    domain : Domain
    first : int64 (layers + 1,)
        Where the values of each layer begin.
    sums : Sums
    table : int64 (...)
        Values that the candidates of the maxima read, -1 for none.  Of several constants in one
        window only the largest stays (of equal ones the first, which wins by convention).
    """
    free = np.asarray(~(sums.base[:, :-1].any(axis=1) | sums.base_error[:, :-1].any(axis=1)))
    constant, windows = _constants(net, first, free, sums, table)
    known = (sums.start[1:] == sums.start[:-1]) & (sums.base_error[:, -1] == 0)
    if not (constant & ~known).any() and not any(
        (constant[window] & (window >= 0)).sum(axis=1).max() > 1 for _, window in windows
    ):
        return sums, table
    values = np.flatnonzero(constant)
    exact = dict(zip(values.tolist(), _exactly(net, domain, first, values), strict=True))
    base, base_error, table = sums.base.copy(), sums.base_error.copy(), table.copy()
    for v, c in exact.items():
        base[v, -1] = float(c)
        base_error[v, -1] = 0.0 if Fraction(float(c)) == c else np.spacing(abs(float(c)))
    for at, window in windows:
        crowded = np.flatnonzero((constant[window] & (window >= 0)).sum(axis=1) > 1)
        for unit in crowded.tolist():
            slots = [s for s, v in enumerate(window[unit].tolist()) if v in exact]
            best = max(slots, key=lambda s: (exact[int(window[unit, s])], -s))
            table[[at + unit * window.shape[1] + s for s in slots if s != best]] = -1
    counts = np.diff(sums.start)
    keep = np.repeat(~constant, counts)
    start = np.append(0, np.cumsum(np.where(constant, 0, counts)))
    terms = (part[keep] for part in (sums.source, sums.weight, sums.weight_error))
    return Sums(base, base_error, start, *terms), table


def _constants(
    net: Engine, first: np.ndarray, free: np.ndarray, sums: Sums, table: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Which values are constant: bool (values,); the windows of maxima, by place in the table."""
    constant = np.zeros(len(free), dtype=bool)
    still = np.zeros(net.units, dtype=bool)
    offset = 0
    windows: list[tuple[int, np.ndarray]] = []
    for number, layer in enumerate(net.layers):
        own = np.arange(first[number], first[number + 1])
        moving = np.append(0, np.cumsum(~still[sums.source]))
        constant[own] = free[own] & (moving[sums.start[own + 1]] == moving[sums.start[own]])
        if layer.is_max:
            size = layer.units * layer.slots
            window = table[offset : offset + size].reshape(layer.units, layer.slots)
            windows.append((offset, window))
            offset += size
            still[layer.unit_slice] = (constant[window] | (window < 0)).all(axis=1)
        else:
            still[layer.unit_slice] = constant[own]
    return constant, windows


def _exactly(net: Engine, domain: Domain, first: np.ndarray, values: np.ndarray) -> list[Fraction]:
    """The constants as rationals, read off at one point of the coordinates."""
    if not len(values):
        return []
    maps = ExactMaps(net, domain)
    k = domain.dimension
    point = np.array([0] * k + [1], dtype=object)
    pieces = maps.germ_pieces(point, np.eye(k, dtype=int).astype(object))
    result: list[Fraction] = []
    for number in range(len(net.layers)):
        own = values[(first[number] <= values) & (values < first[number + 1])] - first[number]
        if len(own):
            map_ = maps.layer(number, pieces)
            scale = Fraction(2) ** map_.exponent / map_.denominator
            result += [int(c) * scale for c in map_.integers[own, -1]]
    return result
