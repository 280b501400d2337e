"""A network with the units put away that a whole root box decides: they are affine there.

What is left has the same values on the box, as sums over the inputs and the undecided units alone,
so that pulling them back to many inputs costs a fraction.  Every number carries a bound on its
rounding, as in `polytope.regions.sums`.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.sums import Sums
from polytope.robustness.flat import UNIT, FlatNetwork

#: Values times units up to which the sums fit into full arrays.
FULL = 2**23


def reduce_network(network: FlatNetwork, pieces: np.ndarray) -> FlatNetwork:
    """Put away the units that have one piece left; the network itself if it is too large.

    Parameters
    ----------
    network : FlatNetwork
    pieces : int64 (units,)
        The pieces left in the root box, as bits.
    """
    flat, sums, units = network.flat, network.sums, network.net.units
    if network.values * units > FULL:
        return network
    owner = np.repeat(np.arange(network.values), np.diff(sums.start))
    weight, weight_error = np.zeros((2, network.values, units))
    weight[owner, sums.source], weight_error[owner, sums.source] = sums.weight, sums.weight_error
    base, base_error = sums.base.copy(), sums.base_error.copy()
    decided, value, slope, intercept = _decided(network, pieces)
    size, reach = np.abs(base) + base_error, np.abs(weight) + weight_error
    rounding, put = (units + 4) * UNIT, np.flatnonzero(decided)
    for first, end, *_ in flat.layers.tolist():
        here = slice(first, end)
        own, own_error = weight[here, put].copy(), weight_error[here, put].copy()
        total, at = np.abs(own) + own_error, value[put]
        used = total.any(axis=0)
        own, own_error, total, at = own[:, used], own_error[:, used], total[:, used], at[used]
        steep = slope[put[used], None]
        shift = np.zeros((len(at), base.shape[1]))
        shift[:, -1] = intercept[put[used]]
        for array, error, sizes, extra in (
            (base, base_error, size, shift), (weight, weight_error, reach, 0.0)
        ):  # fmt: skip
            if array is weight:
                array[here, put] = error[here, put] = sizes[here, put] = 0.0
            array[here] += own @ (steep * array[at] + extra)
            sizes[here] += 1.01 * total @ (np.abs(steep) * sizes[at] + np.abs(extra))
            error[here] += np.abs(own) @ (np.abs(steep) * error[at])
            error[here] += 1.01 * own_error @ (np.abs(steep) * sizes[at] + np.abs(extra))
            error[here] = 1.01 * (error[here] + rounding * sizes[here] * bool(len(at)))
    row, source = np.nonzero(reach)
    start = np.searchsorted(row, np.arange(network.values + 1)).astype(np.int64)
    left = Sums(
        base, base_error, start, source.astype(np.int64), weight[row, source],
        weight_error[row, source],
    )  # fmt: skip
    plain = np.asarray(~base[:, :-1].any(axis=1))
    smaller = flat._replace(
        base=np.ascontiguousarray(base[:, :-1]), plain=plain, start=left.start,
        source=left.source, weight=left.weight,
    )  # fmt: skip
    return FlatNetwork(network.net, left, smaller)


def _decided(
    network: FlatNetwork, pieces: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which units are decided, and the value, slope and intercept of each one's piece."""
    flat, units = network.flat, network.net.units
    decided = (pieces > 0) & ((pieces & (pieces - 1)) == 0)
    value = np.zeros(units, dtype=np.int64)
    slope, intercept = np.ones(units), np.zeros(units)
    piece = np.log2(np.where(decided, pieces, 1)).astype(np.int64)
    for number, (first, _, unit, count, slots, offset) in enumerate(flat.layers.tolist()):
        own, local = np.arange(unit, unit + count), np.arange(count)
        if flat.winners[number]:
            value[own] = flat.table[offset + local * flat.winners[number] + piece[own]]
        elif count:
            at = flat.pieces_at[number] + local * (slots + 1) + piece[own]
            value[own], slope[own], intercept[own] = (
                first + local,
                flat.slopes[at],
                flat.intercepts[at],
            )
    return decided, value, slope, intercept
