"""A proof from the regions of a traversal, as `polytope.region_checker` reads it.

The traversal is believed in nothing but its choice of patterns and multipliers.  From the first
region on, along the ways that are not proved to be beyond the radius, every pattern's rows are
computed once more, every multiplier is tried by bounds that hold whatever the rounding, and what
lies behind a row is found as the traversal finds it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from polytope.pattern import ActivationPattern
from polytope.region import region_at
from polytope.regions.index_kernels import fill
from polytope.robustness import region_proof_kernels as kernels
from polytope.robustness.cell import adversarial_cell, cell_distance
from polytope.robustness.query import Query
from polytope.robustness.region_proof_exact import ExactRows, NoProofError, pieces_meet
from polytope.robustness.region_proof_kernels import EMPTY, REGION, UNKNOWN, Known, Sheet
from polytope.robustness.traversal_arrays import EXPLORED, FLAT, new_place
from polytope.robustness.traversal_evidence import Traversal, unpacked
from polytope.robustness.traversal_rows import judge_rows
from polytope.robustness.traversal_task import free_steps, new_task, set_radius
from polytope.rows import classes_of

#: Part of the radius by which everything is proved beyond it: more than the rounding of a radius,
#: less than what a certificate leaves out of its bound.
BEYOND = 1e-13
#: Room for the weights of a list: as many as coordinates, and these.
SPARE = 72
#: A pattern whose region has no inside; and what patterns are called in a certificate: of one with
#: two rows that are opposite nothing has to be shown.
NO_INSIDE = 3
NAMES = {REGION: 0, EMPTY: 1, NO_INSIDE: 0}
NO_WAYS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, eq=False)
class RegionProof:
    """The arrays of a certificate, or why there are none.

    Attributes
    ----------
    arrays : dict of str to array
    regions, patterns : int
        How many were explored, of how many.
    doubtful : int
        Lists of multipliers that floats could not prove; exact arithmetic may.
    reason : str
        Why the evidence was not enough; empty if it was.
    """

    arrays: dict[str, np.ndarray]
    regions: int = 0
    patterns: int = 0
    doubtful: int = 0
    reason: str = ""


def region_proof(
    query: Query, found: Traversal, radius: float, deadline: float = math.inf
) -> RegionProof:
    """Make a proof that no class that counts is reached within a radius.

    Parameters
    ----------
    query : Query
    found : Traversal
        Of this query.
    radius : float
        Positive and finite.
    deadline : float
        Of `time.perf_counter`.
    """
    try:
        maker = _Maker(query, found, radius)
        maker.run(deadline)
    except NoProofError as error:
        return RegionProof({}, reason=str(error))
    return RegionProof(maker.arrays(), maker.regions, len(maker.order), maker.doubtful)


class _Maker:
    """The proof of one radius, as it grows."""

    def __init__(self, query: Query, found: Traversal, radius: float) -> None:
        net = query.net
        self.query, self.net, self.found = query, net, found
        self.radius = radius * (1 + BEYOND)
        if not len(found.patterns):
            raise NoProofError("the box is one point: there was nothing to traverse")
        if not pieces_meet(net):
            raise NoProofError("the pieces of a unit do not meet exactly")
        self.free, self.low, self.high = free_steps(query)
        self.task = new_task(query, self.free, self.low, self.high)
        set_radius(self.task, self.radius)
        self.place = new_place(net, self.task.program, query.p, len(query.targets))
        self.classes = np.array(query.targets)
        self.whole = net.rows + classes_of(net)
        self.known, self.sheet = self._known(), self._sheet()
        self.exact = ExactRows(query, self.free, radius)
        # Which patterns are in the certificate, and where; what is written of each.
        self.number = np.full(len(found.patterns), -1)
        self.order: list[int] = []
        self.status: list[int] = []
        self.ways: list[np.ndarray] = []
        self.lists: list[tuple[np.ndarray, ...]] = []
        self.hints = np.argsort(found.way[:, 0], kind="stable")
        each = np.arange(len(found.patterns) + 1)
        self.hint_begin = np.searchsorted(found.way[self.hints, 0], each)
        self.inward = np.zeros(net.input_size)
        self.regions = self.doubtful = 0

    def _known(self) -> Known:
        """What the traversal left."""
        found = self.found
        patterns = unpacked(found.patterns, self.net.layout)
        table = np.full(2 ** (2 + len(patterns).bit_length()), -1, np.int64)
        fill(table, patterns, len(patterns))
        use = np.full(len(patterns), UNKNOWN)
        use[(found.bound >= self.radius) & (found.status != FLAT)] = EMPTY
        use[(found.status == EXPLORED) & (found.key < self.radius)] = REGION
        # Room for the weights of one region's rows, and of a decision.
        self.spare, room = len(found.row), len(self.place.c) + 1
        return Known(
            patterns, table, use, np.where(found.bound[:, None] < 0, found.proof, 0),
            np.append(found.row, np.zeros(room, np.int64)), np.append(found.weight, np.zeros(room)),
        )  # fmt: skip

    def _sheet(self) -> Sheet:
        """Room to write of one pattern."""
        most, classes = len(self.place.c), len(self.classes)
        lists = most + classes
        used = lists * min(most + 1, len(self.free) + SPARE)

        def numbers(size: int) -> np.ndarray:
            return np.zeros(size, np.int64)

        return Sheet(
            np.zeros((self.whole + 1, 2), np.int64), numbers(most), numbers(most), numbers(lists),
            numbers(lists), numbers(lists), numbers(used), np.zeros(used), numbers(most),
            numbers(classes), np.zeros((1, self.net.units), np.uint16), numbers(5),
        )  # fmt: skip

    def run(self, deadline: float) -> None:
        """Write down all patterns that are not proved to be out of reach."""
        if self.known.use[0] != REGION:
            raise NoProofError("the first region was not explored")
        self._meet(0, REGION)
        at = 0
        while at < len(self.order):
            if time.perf_counter() >= deadline:
                raise NoProofError("time was up")
            q, begun = self.order[at], time.perf_counter()
            if self.status[at] == REGION:
                self._explore(q)
            elif self.status[at] == EMPTY:
                self._close(q)
            else:
                self._flatten(at, q)
            if at == 0:  # the first one may have had to be compiled
                deadline += time.perf_counter() - begun
            at += 1

    def _meet(self, q: int, status: int) -> int:
        """The number of a pattern in the certificate."""
        if self.number[q] < 0:
            self.number[q] = len(self.order)
            self.order.append(q)
            self.status.append(status)
        return int(self.number[q])

    def _load(self, q: int) -> int:
        """Bring the rows of a pattern to their place: how many there are."""
        doubt, pieces = self.sheet.open_row, self.known.patterns[q]
        m, doubts = kernels.load(self.task, self.place, pieces, doubt)
        place, region = self.place, self.place.region
        for i in doubt[:doubts].tolist():
            normal, value, spread, error = self.exact.row(pieces, int(region.ids[i]))
            region.A[i], place.c[i], region.b[i] = normal, value, -value
            region.error[i] = spread, error
        if doubts and judge_rows(self.task, place, m, doubt):
            raise NoProofError("rows that are too small for floats")
        return int(m)

    def _hint(self, q: int) -> None:
        """Say where the weights are that the traversal left of a pattern."""
        found, hint = self.found, self.sheet.hint
        own = self.hints[self.hint_begin[q] : self.hint_begin[q + 1]]
        hint[:] = 0
        hint[found.way[own, 1]] = found.way[own, 2:]
        hint[self.whole] = found.proof[q]

    def _explore(self, q: int) -> None:
        """Write down the decisions of an explored region, and its ways out."""
        m = self._load(q)
        if q == 0:
            self._begin(m)
        self._hint(q)
        pieces, sheet = self.known.patterns[q], self.sheet
        kernels.examine(
            self.task, self.place, self.known, sheet, pieces, m, self.radius, self.classes
        )
        for t in sheet.open_class[: sheet.counts[kernels.UNDECIDED]].copy().tolist():
            self._decide(q, m, t)
        count = int(sheet.counts[kernels.WAYS])
        ways = [
            (row, self._meet(to, int(self.known.use[to])))
            for row, to in zip(
                sheet.way_row[:count].tolist(), sheet.way_to[:count].tolist(), strict=True
            )
        ]
        for i in sheet.open_row[: sheet.counts[kernels.OPEN]].copy().tolist():
            ways += self._look_behind(pieces, m, i)
        self.regions += 1
        self._put(np.array(ways, dtype=np.int64).reshape(-1, 2), int(sheet.counts[kernels.LISTS]))

    def _decide(self, q: int, m: int, t: int) -> None:
        """Write the multipliers of a decision that the library's solvers find.

        What floats cannot prove with these is left to exact arithmetic.
        """
        query, net, rival = self.query, self.net, int(self.classes[t])
        pieces = self.known.patterns[q].astype(np.int64)
        region = region_at(net, query.x, ActivationPattern.from_pieces(pieces, net.layout))
        cell = adversarial_cell(region, query.label, rival)
        weights = cell_distance(cell, query.x, query.p, query.box).multipliers
        if weights is not None:
            units = region.units
            first = np.array([layer.first_row for layer in net.layers], dtype=np.int64)
            slots = np.array([layer.slots for layer in net.layers], dtype=np.int64)
            rows = first[units.layer] + units.unit * slots[units.layer] + units.slot
            rows = np.append(rows[~region.zero_rows], net.rows + rival)
            used = slice(self.spare, self.spare + len(rows))
            self.known.row[used], self.known.weight[used] = rows, weights
            self.sheet.hint[net.rows + rival] = self.spare, len(rows)
        self.doubtful += not kernels.decide(
            self.task, self.place, self.known, self.sheet, m, t, net.rows + rival, self.radius
        )

    def _look_behind(self, pieces: np.ndarray, m: int, i: int) -> list[tuple[int, int]]:
        """The way through a row that compiled code left open; none if none is needed."""
        row = int(self.place.region.ids[i])
        behind = self.exact.behind(pieces, row)
        to = kernels.number_of(self.known, behind)
        use = UNKNOWN if to < 0 else int(self.known.use[to])
        if use != UNKNOWN:
            return [(row, self._meet(to, use))]
        closed = kernels.closed_facet(
            self.task, self.place, self.known, self.sheet, m, i, self.radius
        )
        if closed or self.exact.needless(pieces, row, self.inward):
            return []
        if to >= 0 and self.found.status[to] == FLAT:
            return [(row, self._meet(to, NO_INSIDE))]
        raise NoProofError("a way out leads to a region that was not explored")

    def _close(self, q: int) -> None:
        """Write down the multipliers that prove a region to be beyond the radius."""
        m = self._load(q)
        self._hint(q)
        if not kernels.out_of_reach(
            self.task, self.place, self.known, self.sheet, m, self.whole, self.radius
        ):
            raise NoProofError("the bound of a region does not hold")
        self._put(NO_WAYS, 1)

    def _flatten(self, at: int, q: int) -> None:
        """Write down why a region has no inside."""
        found = self.exact.no_inside(self.known.patterns[q])
        self._put(NO_WAYS, 0)
        if found is not None:
            self.status[at] = EMPTY
            size = np.array([len(found[0])])
            self.lists[at] = np.array([self.whole]), size, np.zeros(1, np.int64), *found

    def _put(self, ways: np.ndarray, lists: int) -> None:
        """Keep what was written of a pattern."""
        sheet = self.sheet
        used = int(sheet.size[:lists].sum())
        each = sheet.subject[:lists], sheet.size[:lists], sheet.short[:lists]
        parts = *each, sheet.rows[:used], sheet.weights[:used]
        self.ways.append(ways)
        self.lists.append(tuple(part.copy() for part in parts))

    def _begin(self, m: int) -> None:
        """Find a direction from the point into the first region and the box."""
        sides = (self.low == 0).astype(np.int64) - (self.high == 0)
        place, region = self.place, self.place.region
        tight = np.flatnonzero((place.c[:m] >= -region.error[:m, 1]) & (place.length[:m] > 0))
        way = sides.astype(float)
        if len(tight):
            rows = region.A[tight] / place.length[tight, None]
            way = self.exact.inward(self.known.patterns[0], rows, sides)
        self.inward[self.free] = way

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the certificate."""
        n = len(self.order)
        number, place = (np.min_scalar_type(v) for v in (self.whole, n))
        ways = np.concatenate([NO_WAYS, *self.ways])
        arrays = {
            "patterns": self.found.patterns[self.order],
            "status": np.array([NAMES[s] for s in self.status], dtype=np.uint8),
            "inward": self.inward,
            "ways": np.array([len(w) for w in self.ways], dtype=np.uint16),
            "way_rows": ways[:, 0].astype(number),
            "way_to": ways[:, 1].astype(place),
        }
        subject, size, short, rows, weights = (
            np.concatenate([part[i] for part in self.lists]) for i in range(5)
        )
        owner = np.repeat(np.arange(n), [len(part[0]) for part in self.lists])
        for name, kind, own in (("", np.float64, short == 0), ("short_", np.float16, short == 1)):
            each = np.repeat(own, size)
            arrays |= {
                f"{name}lists": np.bincount(owner[own], minlength=n).astype(np.uint16),
                f"{name}subjects": subject[own].astype(number),
                f"{name}sizes": size[own].astype(np.uint16),
                f"{name}rows": rows[each].astype(number),
                f"{name}weights": weights[each].astype(kind),
            }
        return arrays
