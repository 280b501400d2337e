"""Compiled: a polyhedral cell with its vertices, its facets, and how it is cut in two.

A cell is kept by its extreme points: vertices (w = 1) and, where it is unbounded, the
directions of its extreme rays (w = 0), each with a bound on its error (largest coordinate) and
the set of facets that contain it as the bits of a word.  Cutting is the double description
method on the two sides at once: extreme points keep to their side, and every edge that
changes sides gives a new one.  Two extreme points are joined by an edge if the facets they
share leave one dimension; in a degenerate cell, if no third one lies on all of them.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.sums import ROUNDING, SLACK
from solvers.compiled import kernel

#: Facets that a cell may have: the bits of a word.
SLOTS = 64
ONE = np.uint64(1)
NONE = np.uint64(0)


@kernel
def bits(word):
    """Number of bits set."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def band_of(row, gradient_error, constant_error):
    """How rounding blurs a row: the band at a point is ``a * error + b * extent + c * w``."""
    k = len(row) - 1
    length = largest = 0.0
    for i in range(k):
        length += abs(row[i])
        largest = max(largest, abs(row[i]))
    return (
        SLACK * (length + k * gradient_error),
        SLACK * (gradient_error + (k + 3) * ROUNDING * largest),
        SLACK * (constant_error + (k + 3) * ROUNDING * abs(row[k])),
    )


@kernel
def classify(row, gradient_error, constant_error, points, count, values, bands, signs):
    """The side of a row on which each extreme point lies: 1, -1, 0 (exactly on it) or 2 (open).

    Parameters
    ----------
    row : float64 (k + 1,)
    points : float64 (>= count, k + 3)
        Coordinates, w, the bound on their error, the sum of their absolute values.
    values, bands, signs : written
        The row's value at each point, the bound on its error, the side.

    Returns
    -------
    (points above, points below, points on it, points open)
    """
    k = len(row) - 1
    above = below = on = open_ = 0
    by_error, by_extent, by_weight = band_of(row, gradient_error, constant_error)
    for v in range(count):
        w = points[v, k]
        total = row[k] * w
        for i in range(k):
            total += row[i] * points[v, i]
        band = by_error * points[v, k + 1] + by_extent * points[v, k + 2] + by_weight * w
        values[v] = total
        bands[v] = band
        if total > band:
            signs[v] = 1
            above += 1
        elif -total > band:
            signs[v] = -1
            below += 1
        elif band == 0.0:
            signs[v] = 0
            on += 1
        else:
            signs[v] = 2
            open_ += 1
    return above, below, on, open_


@kernel
def extent_of(points, v, k):
    """Sum of the absolute coordinates, rounded up."""
    extent = 0.0
    for i in range(k):
        extent += abs(points[v, i])
    return extent * (1.0 + (k + 1) * 2 * ROUNDING)


@kernel
def _between(points, a, b, values, bands, new, at):
    """The extreme point where an edge (or the plane of two rays) meets the row's zero."""
    k = points.shape[1] - 3
    high, low = abs(values[a]), abs(values[b])
    total, doubt = high + low, bands[a] + bands[b]
    wa, wb = points[a, k], points[b, k]
    apart = 0.0
    for i in range(k):
        apart = max(apart, abs(points[a, i] - points[b, i]))
    if wa == wb:
        share = high / total if total > 0.0 else 0.5
        off = apart + points[a, k + 1] + points[b, k + 1]
        if total > 2.0 * doubt:
            blur = (1.0 - share) * bands[a] + share * bands[b]
            off = min(off, off * (blur / (total - doubt) + 4 * ROUNDING))
        error = (1.0 - share) * points[a, k + 1] + share * points[b, k + 1]
        size = 0.0
        for i in range(k):
            new[at, i] = points[a, i] + share * (points[b, i] - points[a, i])
            size = max(size, abs(new[at, i]))
        error = SLACK * (error + off) + 4 * ROUNDING * (size + apart)
        if wa == 0.0:
            error = np.inf if size <= 4.0 * error else 4.0 * error / size
            for i in range(k):
                new[at, i] /= max(size, 1e-300)
        new[at, k], new[at, k + 1] = wa, error
        new[at, k + 2] = extent_of(new, at, k)
        return
    # From the vertex along the ray until the row is zero.
    p, r = (a, b) if wa == 1.0 else (b, a)
    rise, slope = abs(values[p]), abs(values[r])
    if slope <= 2.0 * bands[r]:
        step, error = rise / max(slope, 1e-300), np.inf
        if not np.isfinite(step):
            step = 1.0
    else:
        step = rise / slope
        off = 4.0 * (bands[p] / slope + step * (bands[r] / slope + 2 * ROUNDING))
        error = SLACK * (points[p, k + 1] + (step + off) * points[r, k + 1] + off)
    size = 0.0
    for i in range(k):
        new[at, i] = points[p, i] + step * points[r, i]
        size = max(size, abs(new[at, i]), abs(points[p, i]))
    new[at, k], new[at, k + 1] = 1.0, error + 4 * ROUNDING * (size + step)
    new[at, k + 2] = extent_of(new, at, k)


@kernel
def new_points(points, masks, count, values, bands, signs, fresh, fresh_masks):
    """The extreme points on the edges that change sides: their number (-1: no room)."""
    k = points.shape[1] - 3
    found = 0
    for a in range(count):
        if signs[a] != 1:
            continue
        simple_a = bits(masks[a]) == k
        for b in range(count):
            if signs[b] != -1:
                continue
            shared = masks[a] & masks[b]
            number = bits(shared)
            if number < k - 1:
                continue
            if not (number == k - 1 and (simple_a or bits(masks[b]) == k)):
                joined = True
                for c in range(count):
                    if c != a and c != b and (masks[c] & shared) == shared:
                        joined = False
                        break
                if not joined:
                    continue
            if found == len(fresh):
                return -1
            _between(points, a, b, values, bands, fresh, found)
            fresh_masks[found] = shared
            found += 1
    return found


@kernel
def take_side(
    side, slot, points, masks, count, signs, fresh, fresh_masks, found, to_points, to_masks
):
    """Write one side of a cut (in place is allowed); the number of its extreme points."""
    bit = ONE << np.uint64(slot)
    width = points.shape[1]
    kept = 0
    for v in range(count):
        sign = signs[v]
        if sign == side or sign == 0:
            for i in range(width):
                to_points[kept, i] = points[v, i]
            to_masks[kept] = masks[v] | bit if sign == 0 else masks[v]
            kept += 1
    for v in range(found):
        for i in range(width):
            to_points[kept, i] = fresh[v, i]
        to_masks[kept] = fresh_masks[v] | bit
        kept += 1
    return kept


@kernel
def drop_slots(masks, count, used, k):
    """Forget the facets that too few extreme points are left on; the slots still in use."""
    keep = NONE
    left = used
    slot = 0
    while left != NONE:
        bit = ONE << np.uint64(slot)
        if left & bit:
            left ^= bit
            number = 0
            for v in range(count):
                if masks[v] & bit:
                    number += 1
                    if number == k:
                        break
            if number >= k:
                keep |= bit
        slot += 1
    for v in range(count):
        masks[v] &= keep
    return keep


@kernel
def faces_within(masks, count, used, signs):
    """The facets all of whose extreme points lie on the row: it coincides with them."""
    outside = NONE
    for v in range(count):
        if signs[v] != 0:
            outside |= masks[v]
    return used & ~outside


@kernel
def facet_kind(masks, count, used, slot):
    """Whether a slot is a facet: 0 no, 1 yes, 2 yes but another slot is the same facet.

    Of several slots for one facet the first is the one that counts.
    """
    bit = ONE << np.uint64(slot)
    common = used
    number = 0
    for v in range(count):
        if masks[v] & bit:
            common &= masks[v]
            number += 1
    common &= ~bit
    kind = 1
    other = 0
    while common != NONE:
        beside = ONE << np.uint64(other)
        if common & beside:
            common ^= beside
            size = 0
            for v in range(count):
                if masks[v] & beside:
                    size += 1
            if size > number or other < slot:
                return 0
            kind = 2
        other += 1
    return kind
