"""The checker of certificates that cover a ball with linear regions.

**The claim.**  No z in S, the points within a radius of x (in l_1, l_2 or l_inf) and in the box,
has ``f_label(z) <= f_t(z)`` for a class t that counts.

**Patterns and regions.**  A pattern gives every unit a piece.  With these pieces all values are
affine functions of the input, and the pattern has *rows*, affine functions that are at most 0
where a unit is in its piece: ``z - b`` and ``b' - z`` for the breakpoints b above and b' below, and
for a maximum ``z_j - z_w`` for each candidate j and the winner w.  Its *region* is the closed
polyhedron where all its rows are at most 0; there the network is the pattern's affine function.
Coordinates that the box fixes are constants throughout: "inside" and "normal" speak of the free
ones.  S is convex and has an inside.

**The certificate** has a table of patterns, each called *explored* or *closed*; the first is
explored.  Nothing is asked of a pattern that is *flat*: two of its rows are opposite, so its region
has no inside.  Of the others are checked:

 1. *Start.*  For a direction v, given: where x is on a side of the box, v leads inward; every row
    of the first pattern is below 0 at x, or is 0 there and falls along v, or has no normal and is
    not above 0.  So near x + e v, for small e > 0, all points are inside of S and of the region.
 2. *Closed.*  Multipliers m >= 0 with ``sum m_k row_k`` at least 0 on S, and besides: not constant
    (so it is positive inside of S), or positive, or with m_k > 0 for a row with a normal.
 3. *Explored: decision.*  For each class t that counts, multipliers m >= 0 with ``m_0 (f_label -
    f_t) + sum m_k row_k > 0`` on S: no point of S in this region is adversarial.
 4. *Explored: every way out.*  Each row with a normal is one of these, or is a positive multiple of
    a row that is:
     a. above 0 at x, or 0 there and rising along v;
     b. closed: multipliers as in 2, but that of the row itself may be negative, and rows on its
        hyperplane do not count at the end (where none are given: -1 for the row alone);
     c. a way to a pattern N of the table, with these checks.  In the units in which the patterns
        differ their pieces are neighbours, with a *shared row* in each of the patterns: the
        breakpoint between the pieces, or the two winners of a maximum (any two are neighbours).
        In both patterns the first of these units (as the network computes them) has its shared
        row not zero everywhere, after units whose shared row is zero everywhere.  In the explored
        pattern the row is a positive multiple of it.  In N, the shared rows of all these units are
        positive multiples of it or zero everywhere, and no row is a negative multiple of it.

**Why the claim follows.**  By 3 it is enough that U, the union of the regions that are explored and
not flat, holds all of S.  If not, some ball B' inside of S is outside of U (U is closed).  Let B be
a small ball near x + e v as in 1, so small that the rows of 4a are above 0 in it.  Consider all
rows with a normal of all patterns, finitely many, and their hyperplanes.  For nearly all x' in B
and z' in B' the segment from x' to z' passes one hyperplane at a time, and lies in none.  It is
inside of S, begins in U and ends outside.  Where it leaves U first, call the point y: just before
y it is in the region of an explored P, just after y outside of U.  So it leaves P there: some row
of P with a normal is negative before y, 0 at y and positive after.  Let a be it, or any other row
of P on that side of its hyperplane h, which is the only one at y.

 - Not 4a: along the segment a rises, so a < 0 at x', which is in B.
 - Not 4b: at y, inside of S, a is 0, and rows of P with a normal and not on h are negative.  So the
   sum is not positive, and negative if such a row has a multiplier above 0.
 - Not 4c.  Take the units in order.  *Outputs of all units agree on h under P and N:* what a unit
   reads agrees on h, as all before agrees; if its piece is the same, so does its output; if not,
   its shared row in N is zero on h, that is, the unit is at the breakpoint between two pieces, or
   its two winners are equal: so its output is the same in both.  *Before the first unit whose
   shared row is not zero everywhere, outputs agree everywhere*, by the same words; so this unit is
   the same one in P and in N, what it reads agrees everywhere, and its shared rows in P and N are
   opposite; a is a positive multiple of the first, so the second is negative behind h.  *Rows of N
   are at most 0 at y:* if the unit's piece is that of P, the row is P's on h; if not, it is at the
   end of its piece, or its winner is as high as P's.  A row of N that is less than 0 at y stays so
   nearby.  One that is 0 at y is zero everywhere, or h is its hyperplane, which is the only one
   there: then by the checks it is a positive multiple of the shared row of N, and negative behind
   h.  So just after y the segment is inside of S and in the region of N, and all rows of N with a
   normal are negative.  N is not flat; not explored (we are outside of U); and not closed (the sum
   would not be positive, or would be negative).

So U holds all of S.  (With no free coordinate S is x, which 1 puts into the first region.)

**What is trusted.**  Python's integers and python-flint's, numpy, the reader of the compiled graph,
and this file with `polytope.proofs.region_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polytope.certificate_file import Fields, Rejected
from polytope.network.exact_layers import Exact, Layer, Map
from polytope.proofs.region_rows import Pulled, Steps, sides

#: What a pattern is called.
EXPLORED, CLOSED = range(2)


class Claims:
    """What the certificate says, in arrays of the right kinds and sizes.

    Each list of multipliers has a subject: the number of a row, `rows` + t for the decision against
    class t, or `whole`, `rows` + classes, for the pattern itself.
    """

    def __init__(self, fields: Fields, pulled: Pulled, whole: int) -> None:
        self.whole = whole
        packed = fields.array("patterns", np.uint8, None)
        if packed.ndim != 2 or not len(packed):
            raise Rejected("there are no patterns")
        self.pieces = pulled.unpacked(packed)
        n = len(packed)
        self.status = fields.array("status", np.uint8, (n,))
        if (self.status > CLOSED).any() or self.status[0] != EXPLORED:
            raise Rejected("a pattern is neither explored nor closed, or the first is not explored")
        count = fields.array("ways", np.uint16, (n,))
        total = int(count.sum())
        # Numbers are kept in as few bytes as the largest that there may be needs.
        self._number = np.min_scalar_type(whole).type
        self.way_row = fields.array("way_rows", self._number, (total,)).astype(np.int64)
        self.way_to = fields.array("way_to", np.min_scalar_type(n).type, (total,)).astype(np.int64)
        self.way_from = np.repeat(np.arange(n), count)
        if (self.way_to >= n).any():
            raise Rejected("a way leads to no pattern")
        self._multipliers = [self._lists(fields, n, "", np.float64, whole),
                             self._lists(fields, n, "short_", np.float16, whole)]  # fmt: skip

    def _lists(
        self, fields: Fields, n: int, name: str, kind: type, whole: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """First list of each pattern, subjects, ends, rows and weights."""
        count = fields.array(f"{name}lists", np.uint16, (n,))
        total = int(count.sum())
        subject = fields.array(f"{name}subjects", self._number, (total,))
        size = fields.array(f"{name}sizes", np.uint16, (total,))
        used = int(size.sum())
        rows = fields.array(f"{name}rows", self._number, (used,))
        weights = fields.array(f"{name}weights", kind, (used,))
        if (subject > whole).any():
            raise Rejected("multipliers are of nothing")
        first = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
        end = np.concatenate([[0], np.cumsum(size, dtype=np.int64)])
        return first, subject, end, rows, weights

    def multipliers(self, q: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Subject, rows and weights of each list of a pattern."""
        for first, subject, end, rows, weights in self._multipliers:
            for i in range(first[q], first[q + 1]):
                own = slice(end[i], end[i + 1])
                yield int(subject[i]), rows[own], weights[own].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Local:
    """One pattern: its rows, their places by number, and which hyperplane each lies on."""

    rows: np.ndarray
    place: dict[int, int]
    side: np.ndarray
    zero: np.ndarray

    @cached_property
    def flat(self) -> bool:
        """Whether two rows are opposite."""
        return bool(np.isin(-self.side[self.side != 0], self.side).any())


class Regions:
    """The proof of one certificate."""

    def __init__(
        self, layers: Sequence[Layer], outputs: Map, steps: Steps, leads: dict[int, np.ndarray],
        fields: Fields,
    ) -> None:  # fmt: skip
        self.steps, self.leads = steps, leads
        self.pulled = Pulled(layers, outputs, steps)
        classes = max(2, len(outputs.constant.integers))
        self.claims = Claims(fields, self.pulled, self.pulled.rows + classes)
        self.v = Exact.of(fields.array("inward", np.float64, (len(steps.at),))).integers[steps.free]
        if (self.v[steps.down == 0] <= 0).any() or (self.v[steps.up == 0] >= 0).any():
            raise Rejected("the direction of the start does not lead into the box")
        self.into = np.argsort(self.claims.way_to, kind="stable")
        self.into_begin = np.searchsorted(self.claims.way_to[self.into], range(self.count + 1))
        self.out_begin = np.searchsorted(self.claims.way_from, range(self.count + 1))

    @property
    def count(self) -> int:
        """How many patterns there are."""
        return len(self.claims.pieces)

    def check(self) -> int:
        """Check all patterns; how many there are."""
        # In this order neighbours have much in common, which is then not computed again.
        order = np.arange(self.count)
        if self.claims.pieces.shape[1]:
            order = np.lexsort(self.claims.pieces.T[::-1])
        for q in order.tolist():
            self._pattern(q)
        return self.count

    def _pattern(self, q: int) -> None:
        claims = self.claims
        status = claims.status[q]
        numbers, exact = self.pulled.of(claims.pieces[q])
        rows = exact.integers[: len(numbers)]
        zero = ~(rows != 0).any(axis=1)
        here = Local(rows, dict(zip(numbers.tolist(), range(len(rows)), strict=True)),
                     sides(rows), zero)  # fmt: skip
        if q == 0:
            self._start(here)
        for way in self.into[self.into_begin[q] : self.into_begin[q + 1]].tolist():
            self._way_in(way, here)
        ways = range(self.out_begin[q], self.out_begin[q + 1])
        if status != EXPLORED and len(ways):
            raise Rejected("a way leads out of a pattern that is not explored")
        if here.flat:
            return
        proved, functions, strict = self._combined(q, here, exact.integers[len(numbers) :])
        if status == CLOSED:
            if claims.whole not in proved:
                raise Rejected("a pattern is called closed without multipliers")
        else:
            for t, lead in self.leads.items():
                if self.pulled.rows + t not in proved:
                    functions.append((lead[:, None] * exact.integers[len(numbers) :]).sum(axis=0))
                    strict.append(True)
            self._ways_out(here, ways, proved, functions)
            strict += [False] * (len(functions) - len(strict))
        table = np.array(functions, dtype=object).reshape(len(functions), rows.shape[1])
        if not self.steps.positive(table, np.array(strict, dtype=bool)).all():
            raise Rejected("multipliers do not prove what they are of")

    def _start(self, here: Local) -> None:
        """Check that the points near x + e v are inside of the first region."""
        value, slope = here.rows[:, -1], (here.rows[:, :-1] * self.v).sum(axis=1)
        fine = (value < 0) | ((value == 0) & ((slope < 0) | (here.side == 0)))
        if not fine.astype(bool).all():
            raise Rejected("the first region does not hold the points near the start")

    def _flips(self, way: int, other: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where the patterns of a way differ: units, and their shared rows in one of the two."""
        claims, pulled = self.claims, self.pulled
        old, new = claims.pieces[claims.way_from[way]], claims.pieces[claims.way_to[way]]
        units = np.flatnonzero(old != new)
        a, b, pooled = old[units], new[units], pulled.pooled[units]
        if ((abs(a - b) != 1) & ~pooled).any():
            raise Rejected("a way leads to a pattern with a piece that is no neighbour")
        # Of a maximum the row of the other winner.
        slot = np.where(pooled, a if other else b, np.minimum(a, b))
        return units, pulled.first[units] + slot

    def _shared(self, way: int, here: Local, other: bool) -> tuple[int, np.ndarray]:
        """The side of the first shared row that is not zero everywhere, and all their places."""
        _, numbers = self._flips(way, other)
        places = np.array([here.place[i] for i in numbers.tolist()], dtype=np.int64)
        live = np.flatnonzero(~here.zero[places])
        side = int(here.side[places[live[0]]]) if len(live) else 0
        if side == 0:
            raise Rejected("a way passes no hyperplane")
        return side, places

    def _way_in(self, way: int, here: Local) -> None:
        """Check a way into this pattern, on this pattern's side."""
        side, places = self._shared(way, here, True)
        if not (here.zero[places] | (here.side[places] == side)).all():
            raise Rejected("a way passes units whose boundary is another one")
        if (here.side == -side).any():
            raise Rejected("a way leads to a pattern that is not behind the facet")

    def _ways_out(
        self, here: Local, ways: range, proved: set[int], functions: list[np.ndarray]
    ) -> None:
        """Check the ways out on this pattern's side, and that no way out is left open."""
        value, slope = here.rows[:, -1], (here.rows[:, :-1] * self.v).sum(axis=1)
        beyond = (value > 0) | ((value == 0) & (slope > 0))
        done = set(here.side[beyond.astype(bool)].tolist()) | {0}
        done |= {int(here.side[here.place[i]]) for i in proved if i in here.place}
        for way in ways:
            row = here.place.get(int(self.claims.way_row[way]))
            side, _ = self._shared(way, here, False)
            if row is None or here.side[row] != side:
                raise Rejected("a way leads through another hyperplane than that of its row")
            done.add(side)
        for side, row in zip(here.side.tolist(), here.rows, strict=True):
            if side not in done:
                done.add(side)
                functions.append(-row)

    def _combined(
        self, q: int, here: Local, outputs: np.ndarray
    ) -> tuple[set[int], list[np.ndarray], list[bool]]:
        """What multipliers of a pattern are of, what is to be positive, and whether strictly."""
        proved: set[int] = set()
        functions: list[np.ndarray] = []
        strict: list[bool] = []
        for subject, rows, weights in self.claims.multipliers(q):
            own = int(here.side[here.place[subject]]) if subject in here.place else 0
            lead = self.leads.get(subject - self.pulled.rows)
            total, apart = np.zeros(here.rows.shape[1], dtype=object), False
            for row, weight in zip(rows.tolist(), Exact.of(weights).integers.tolist(), strict=True):
                if weight < 0 and (row != subject or row not in here.place):
                    raise Rejected("a multiplier is negative")
                if row in here.place:
                    total = total + weight * here.rows[here.place[row]]
                    apart |= weight > 0 and int(here.side[here.place[row]]) not in (0, own, -own)
                elif lead is not None and row == subject:
                    total = total + weight * (lead[:, None] * outputs).sum(axis=0)
                else:
                    raise Rejected("a multiplier is of no row of its pattern")
            proved.add(subject)
            functions.append(total)
            decides = self.pulled.rows <= subject < self.claims.whole
            strict.append(decides or not (apart or total[:-1].any()))
        return proved, functions, strict


def check_regions(
    layers: Sequence[Layer],
    outputs: Map,
    fields: Fields,
    p: float,
    radius: float,
    leads: dict[int, np.ndarray],
) -> int:
    """Check that no class that counts is reached within a radius; how many patterns that took.

    Parameters
    ----------
    layers, outputs : list of Layer, Map
        The network.
    fields : Fields
        The certificate.
    p, radius : float
        Of the ball around ``fields.array("x")``, met with the box from `low` to `high`.
    leads : dict of int to object array (outputs,)
        By class the coefficients of the label's lead over it: whole numbers.

    Raises
    ------
    Rejected
        If a step does not hold.
    """
    x, low, high = (fields.array(name, np.float64, None) for name in ("x", "low", "high"))
    if not radius > 0:
        raise Rejected("the radius is not above 0")
    return Regions(layers, outputs, Steps.around(x, p, radius, low, high), leads, fields).check()
