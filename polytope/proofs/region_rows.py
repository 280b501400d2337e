"""The rows of a pattern in exact integers, and functions that are positive where steps may go.

For the checker of certificates of regions (`polytope.region_checker`).  Nothing is rounded, but
where it says so: there numbers are cut to fewer bits, always to the side that proves less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polytope.certificate_file import Rejected
from polytope.network.exact_layers import Exact, Layer, Map, Windows, finer

#: Rounds of the search for the part of a function that is held by the ball.
ROUNDS = 30
#: Fixed numbers that tell hyperplanes apart: any others would do.
DRAWN = 2**20


@dataclass(frozen=True, eq=False)
class Steps:
    """All steps s with ``|s|_p <= radius`` and ``-down <= s <= up``, in whole units.

    Attributes
    ----------
    p : float
        1, 2 or inf.
    free : int64 (k,)
        The coordinates that the box leaves free; the others do not move.
    radius, down, up : int, object arrays (k,) of Python integers
    at : object array (d,)
        The point.
    unit : Fraction
        What one unit is.
    """

    p: float
    free: np.ndarray
    radius: int
    down: np.ndarray
    up: np.ndarray
    at: np.ndarray
    unit: Fraction

    @classmethod
    def around(
        cls, x: np.ndarray, p: float, radius: float, low: np.ndarray, high: np.ndarray
    ) -> Steps:
        """From floats; an infinite side of the box is as far as the radius."""
        if (x < low).any() or (x > high).any():
            raise Rejected("the point is not in the box")
        sides = [np.where(np.isfinite(side), side, x) for side in (low, high)]
        every = Exact.of(np.concatenate([x, *sides, [radius]]))
        d, r = len(x), every.integers[-1]
        at, below, above = (every.integers[i * d : (i + 1) * d] for i in range(3))
        down = np.where(np.isfinite(low), np.minimum(at - below, r), r)
        up = np.where(np.isfinite(high), np.minimum(above - at, r), r)
        free = np.flatnonzero(low < high)
        return cls(p, free, r, down[free], up[free], at, every.scale)

    def positive(self, functions: np.ndarray, strict: np.ndarray) -> np.ndarray:
        """Which functions are shown to be positive at every step: bool (m,).

        For any b with ``0 <= b <= |g|`` Hoelder's inequality for the part b, and a corner of the
        box for the rest, show that ``g s + c > 0`` if ``c > sum (|g| - b) room + radius |b|_q``.

        Parameters
        ----------
        functions : object array (m, k + 1) of Python integers
            [g | c].
        strict : bool (m,)
            Where it is False ``>=`` will do.
        """
        g, c = functions[:, :-1], functions[:, -1]
        if not len(self.free):
            return np.array(c > 0, dtype=bool)
        size, room = abs(g), np.where(g > 0, self.down, self.up)
        # First with numbers of a few bits: sizes and rooms rounded up, constants down.
        bits = (61 - len(self.free).bit_length()) // 2
        cut = np.array([max(0, v.bit_length() - bits) for v in size.max(axis=1)], dtype=object)
        off = max(0, self.radius.bit_length() - bits)
        few = (-(-size >> cut[:, None])).astype(np.int64)
        space = (-(-room >> off)).astype(np.int64)
        far = -(-self.radius >> off)
        limit = np.clip(c >> (cut + off), -(2**62), 2**62).astype(np.int64)
        share = self._share(few.astype(float), space.astype(float), float(far))
        if self.p == 1:
            part = np.minimum(few, share[:, None]).astype(np.int64)
            held = part.max(axis=1)
        else:
            part = np.minimum(few, share[:, None] * space).astype(np.int64)
            held = np.sqrt((part * part).sum(axis=1)).astype(np.int64) + 2 * part.any(axis=1)
        found = np.asarray(limit > ((few - part) * space).sum(axis=1) + far * held)
        for i in np.flatnonzero(~found & (c >= 0).astype(bool)):
            found[i] = self._positive(size[i], room[i], c[i], bool(strict[i]))
        return found

    def _share(self, size: np.ndarray, room: np.ndarray, radius: float) -> np.ndarray:
        """What makes b good (m,): b is ``min(size, share)`` in l_1, ``min(size, share room)``."""
        found = np.zeros(len(size))
        if self.p == 1:
            order = np.argsort(-size, axis=1)
            used = np.cumsum(np.take_along_axis(room, order, axis=1), axis=1) >= radius
            last = np.take_along_axis(size, order, axis=1)[range(len(size)), used.argmax(axis=1)]
            return np.where(used.any(axis=1), last, 0.0)
        if self.p == math.inf:
            return found
        reach, t = room / radius, np.zeros(len(size))
        for _ in range(ROUNDS):
            full = t[:, None] * size > reach
            left = 1 - (np.where(full, reach, 0) ** 2).sum(axis=1)
            rest = (np.where(full, 0, size) ** 2).sum(axis=1)
            inside = (left <= 0) | (rest <= 0)  # there the box is inside of the ball
            longer = np.sqrt(left / np.where(inside, 1, rest), where=~inside, out=np.zeros(len(t)))
            if not (longer > t).any():
                break
            t = np.maximum(t, longer)
        return np.where(inside, 0.0, 1 / np.where(t > 0, t, 1) / radius)

    def _positive(self, size: np.ndarray, room: np.ndarray, c: int, strict: bool) -> bool:
        """The same for one function, in whole numbers."""
        if self.p == 1:
            part, used = 0 * size, 0
            for i in sorted(range(len(size)), key=lambda i: -size[i]):
                used += room[i]
                if used >= self.radius:
                    part = np.minimum(size, size[i])
                    break
        else:
            top = max(int(size.max()), 1)
            few, space = (np.array([[v / unit for v in row]])
                          for row, unit in ((size, top), (room, self.radius)))  # fmt: skip
            share = Fraction(self._share(few, space, 1.0)[0])
            more = 64 + self.radius.bit_length()  # on a finer scale b has whole numbers
            size, c = size << more, c << more
            part = np.minimum(size, int(share * (top << more) / self.radius) * room)
        left, held = c - ((size - part) * room).sum(), self.radius * part.max()
        if self.p == 2:
            left, held = left * abs(left), self.radius**2 * (part * part).sum()
        return bool(left > held if strict else left >= held)


class Pulled:
    """The rows of patterns as functions of the steps from a point.

    Rows have the numbers ``first_row + unit * slots + slot``: a unit of pieces of lines has one
    slot for each breakpoint, a maximum one for each candidate.

    Attributes
    ----------
    rows : int
        How many numbers there are.
    limits : int64 (units,)
        How many pieces each unit has.
    first : int64 (units,)
        The number of each unit's first row.
    pooled : bool (units,)
        Whether a unit is a maximum.
    """

    def __init__(self, layers: Sequence[Layer], outputs: Map, steps: Steps) -> None:
        self._layers, self._maps = layers, [*(layer.map for layer in layers), outputs]
        number: list[int] = []
        pooled: list[bool] = []
        for layer in layers:
            pool = isinstance(layer.units, Windows)
            if not pool:
                _require_meeting(layer)
            number += [_slots(layer) + (0 if pool else 1)] * layer.count
            pooled += [pool] * layer.count
        self.limits = np.array(number, dtype=np.int64)
        self.pooled = np.array(pooled, dtype=bool)
        slots = self.limits - ~self.pooled
        self.first = np.cumsum(slots) - slots
        self.rows = int(slots.sum())
        d, k = len(steps.at), len(steps.free)
        start = np.zeros((d, k + 1), dtype=object)
        start[steps.free, range(k)], start[:, -1] = 1, steps.at
        start_map = Exact(start, steps.unit)
        # Of the last pattern: its pieces, what each layer reads (the outputs last), its outputs.
        self._last = np.full(len(number), -1)
        self._outs = {-1: start_map}
        self._read = [_applied(map_, self._outs) for map_ in self._maps[:1]]

    def unpacked(self, packed: np.ndarray) -> np.ndarray:
        """The pieces, int32 (n, units), of packed patterns: by layers, the lowest bits first."""
        bits, found, at = np.unpackbits(packed, axis=1), [], 0
        for layer in self._layers:
            number = _slots(layer) + (0 if isinstance(layer.units, Windows) else 1)
            planes = max(1, (number - 1).bit_length())
            own = bits[:, at : at + planes * layer.count].reshape(len(bits), planes, layer.count)
            powers = 2 ** np.arange(planes, dtype=np.int32)
            found.append((own * powers[:, None]).sum(axis=1, dtype=np.int32))
            at += planes * layer.count
        if packed.shape[1] != (at + 7) // 8:
            raise Rejected("the patterns are of another size")
        pieces = np.concatenate([np.zeros((len(bits), 0), np.int32), *found], axis=1)
        if (pieces >= self.limits).any():
            raise Rejected("a pattern has a piece that its unit does not have")
        unit = 0
        for layer in self._layers:
            if isinstance(layer.units, Windows):
                own = pieces[:, unit : unit + layer.count]
                if (layer.units.index[np.arange(layer.count), own] < 0).any():
                    raise Rejected("a pattern has a winner that its maximum does not have")
            unit += layer.count
        return pieces

    def of(self, pieces: np.ndarray) -> tuple[np.ndarray, Exact]:
        """The rows of a pattern, and the outputs.

        Returns
        -------
        (numbers (m,), rows (m + outputs, k + 1))
            The outputs are the last.
        """
        self._follow(pieces)
        numbers, rows, unit = [np.zeros(0, np.int64)], [self._read[-1]], 0
        for layer, z in zip(self._layers, self._read[:-1], strict=True):
            own = slice(unit, unit + layer.count)
            ids, found = _rows_of(layer, pieces[own], z)
            numbers.append(self.first[own][ids[0]] + ids[1])
            rows.append(found)
            unit += layer.count
        scale = rows[0].scale
        for part in rows[1:]:
            scale = finer(scale, part.scale)
        every = np.concatenate([part.at(scale) for part in (*rows[1:], rows[0])])
        return np.concatenate(numbers), Exact(every, scale)

    def _follow(self, pieces: np.ndarray) -> None:
        """Bring what the layers read up to date, from the first unit that has changed."""
        changed = np.flatnonzero(pieces != self._last)
        unit = 0
        for index, layer in enumerate(self._layers):
            own = slice(unit, unit + layer.count)
            unit += layer.count
            if len(changed) and changed[0] < unit:
                del self._read[index + 1 :]
                self._outs[index] = _units(layer, pieces[own], self._read[index])
                self._read.append(_applied(self._maps[index + 1], self._outs))
        self._last = pieces.copy()


def _slots(layer: Layer) -> int:
    """Rows of each unit."""
    units = layer.units
    return int((units.index if isinstance(units, Windows) else units.breaks.integers).shape[1])


def _require_meeting(layer: Layer) -> None:
    """Breakpoints increase, and the pieces of a unit have one value where they meet."""
    units = layer.units
    assert not isinstance(units, Windows)
    breaks = units.breaks.integers
    ends = []
    for side in (slice(None, -1), slice(1, None)):
        slope, rest = units.slopes.integers[:, side], units.rests.integers[:, side]
        product = Exact(slope * breaks, units.slopes.scale * units.breaks.scale)
        ends.append(product.plus(Exact(rest, units.rests.scale)).integers)
    if (breaks[:, 1:] <= breaks[:, :-1]).any() or (ends[0] != ends[1]).any():
        raise Rejected("a unit has pieces that do not meet")


def _applied(map_: Map, found: Mapping[int, Exact]) -> Exact:
    """Values as functions of the steps, from those of the units that they read."""
    width = found[-1].integers.shape[1]
    constant = np.zeros((len(map_.constant.integers), width), dtype=object)
    constant[:, -1] = map_.constant.integers
    total = Exact(constant, map_.constant.scale)
    for source, part in map_.parts.items():
        given = found[source]
        live = (given.integers != 0).any(axis=1)  # most units that are off are left out
        total = total.plus(
            Exact(part.integers[:, live], part.scale).times(
                Exact(given.integers[live], given.scale)
            )
        )
    return total


def _units(layer: Layer, pieces: np.ndarray, z: Exact) -> Exact:
    """What units of given pieces make of the values that they read."""
    units, each = layer.units, np.arange(layer.count)
    if isinstance(units, Windows):
        return Exact(z.integers[units.index[each, pieces]], z.scale)
    slope = units.slopes.integers[each, pieces][:, None]
    rest = np.zeros(z.integers.shape, dtype=object)
    rest[:, -1] = units.rests.integers[each, pieces]
    return Exact(slope * z.integers, units.slopes.scale * z.scale).plus(
        Exact(rest, units.rests.scale)
    )


def _rows_of(layer: Layer, pieces: np.ndarray, z: Exact) -> tuple[np.ndarray, Exact]:
    """Units and slots (2, m) of a layer's rows, and the rows: at most 0 with these pieces."""
    units, slots = layer.units, np.arange(_slots(layer))
    if isinstance(units, Windows):
        own = (units.index >= 0) & (slots != pieces[:, None])
        unit, slot = np.nonzero(own)
        winner = units.index[unit, pieces[unit]]
        found = z.integers[units.index[unit, slot]] - z.integers[winner]
        return np.array([unit, slot]), Exact(found, z.scale)
    unit, slot = np.nonzero((slots == pieces[:, None]) | (slots == pieces[:, None] - 1))
    above = np.where(slot == pieces[unit], 1, -1).astype(object)  # the breakpoint is above
    limit = np.zeros((len(unit), z.integers.shape[1]), dtype=object)
    limit[:, -1] = -units.breaks.integers[unit, slot] * above
    row = Exact(z.integers[unit] * above[:, None], z.scale)
    return np.array([unit, slot]), row.plus(Exact(limit, units.breaks.scale))


def sides(rows: np.ndarray) -> np.ndarray:
    """Which rows lie on one hyperplane: int64 (m,), equal for positive multiples of one another.

    Rows on its other side have the negative number; a row with no normal has 0.
    """
    found = np.zeros(len(rows), dtype=np.int64)
    # Rows that are multiples of one another have the same ratio of two sums of their numbers.
    drawn = np.random.default_rng(0).integers(1, DRAWN, (2, rows.shape[1])).astype(object)
    sums = np.stack([(rows * line).sum(axis=1) for line in drawn], axis=1)
    known: dict[tuple[int, int], list[int]] = {}
    count = 0
    for i in np.flatnonzero((rows[:, :-1] != 0).any(axis=1)).tolist():
        a, b = sums[i]
        common = math.gcd(a, b) or 1
        key = (a // common, b // common)
        key = max(key, (-key[0], -key[1]))
        for j in known.setdefault(key, []):
            along = _multiple(rows[i], rows[j])
            if along:
                found[i] = along * found[j]
                break
        else:
            known[key].append(i)
            count += 1
            found[i] = count
    return found


def _multiple(row: np.ndarray, other: np.ndarray) -> int:
    """1 or -1 if a row is a positive or a negative multiple of another, else 0."""
    pivot = int((other != 0).argmax())
    if row[pivot] == 0 or (row * other[pivot] != other * row[pivot]).any():
        return 0
    return 1 if (row[pivot] > 0) == (other[pivot] > 0) else -1
