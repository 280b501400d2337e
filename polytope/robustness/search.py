"""The search of one point: a queue of hyperplanes by distance, region by region.

MMR, appendix A.2, made sound.  A straight path from the point to the nearest adversarial
point leaves every explored region through one of its rows, at no less than that row's
distance, and no less than the distance at which it entered.  So the next unexplored distance
is a lower bound, whatever the unexplored regions look like; an upper bound is the distance
of a witness, never a distance to a hyperplane.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np

#: Rows whose distance inside the box is computed together once one of them is needed.
BLOCK = 8
#: How far a queued distance has been worked out: to the bare hyperplane, to the hyperplane
#: inside the box, to the part of it that bounds its region.
FREE, BOXED, REFINED = 0, 1, 2


@dataclass(frozen=True)
class Entry:
    """A row of an explored region that is next in the queue.

    Attributes
    ----------
    key : float
        Lower bound of the distance at which a path can pass the row.
    region, row : int
        Rows from the network's number of rows on are decision rows.
    refined : bool
        Whether the key takes the region's other rows into account.
    """

    key: float
    region: int
    row: int
    refined: bool = False


@dataclass
class Explored:
    """A region that was explored: its pieces, and its rows in the order of their distance."""

    pieces: np.ndarray
    rows: np.ndarray
    distances: np.ndarray
    entered: float
    cursor: int = 0


@dataclass
class Search:
    """The state of one point's search; `pop` says what has to be done next."""

    boxed: bool
    regions: list[Explored] = field(default_factory=list)
    visited: set[bytes] = field(default_factory=set)
    heap: list[tuple[float, int, int, int]] = field(default_factory=list)
    lower: float = 0.0
    upper: float = math.inf
    target: int = -1
    done: bool = False

    def add(self, pieces: np.ndarray, distances: np.ndarray, entered: float) -> None:
        """Put a region's rows in the queue (distances without a box; inf is left out)."""
        order = np.argsort(distances, kind="stable")
        order = order[: int(np.isfinite(distances).sum())]
        self.regions.append(Explored(pieces, order, distances[order], entered))
        self._next(len(self.regions) - 1)

    def _next(self, number: int) -> None:
        """Queue the next row of a region."""
        region = self.regions[number]
        if region.cursor < len(region.rows):
            at = region.cursor
            key = max(region.entered, float(region.distances[at]))
            heapq.heappush(self.heap, (key, FREE, number, int(region.rows[at])))
            region.cursor += 1

    def pop(self) -> tuple[Entry | None, list[Entry]]:
        """The next row that needs work, or rows whose distance in the box is wanted first.

        Returns
        -------
        entry : Entry or None
            A row whose distance is final: to be crossed, or a decision row. None if the
            queue is empty, if its next row is not below the upper bound, or if `wanted`.
        wanted : list of Entry
            Rows of one region to be projected into the box and put back by `put`.
        """
        if not self.heap:
            self._close(math.inf)
            return None, []
        key, final, number, row = heapq.heappop(self.heap)
        self.lower = max(self.lower, min(key, self.upper))
        if key >= self.upper:
            self._close(key)
            return None, []
        if final or not self.boxed:
            if not final:
                self._next(number)
            return Entry(key, number, row, final == REFINED), []
        wanted = [Entry(key, number, row)]
        region = self.regions[number]
        while len(wanted) < BLOCK and region.cursor < len(region.rows):
            at = region.cursor
            distance = max(region.entered, float(region.distances[at]))
            if distance >= self.upper:
                break
            wanted.append(Entry(distance, number, int(region.rows[at])))
            region.cursor += 1
        self._next(number)
        return None, wanted

    def put(self, entry: Entry, distance: float, refined: bool = False) -> None:
        """Queue a row again, with its distance inside the box (inf: it cannot be reached)."""
        if distance < math.inf:
            final = REFINED if refined else BOXED
            key = max(entry.key, distance)
            heapq.heappush(self.heap, (key, final, entry.region, entry.row))

    def improve(self, upper: float, target: int) -> bool:
        """Take a witness's distance if it is nearer."""
        if upper < self.upper:
            self.upper, self.target = upper, target
            return True
        return False

    def stop(self, key: float) -> None:
        """End with the interval reached: nothing adversarial is nearer than `key`."""
        self.lower = max(self.lower, min(key, self.upper))
        self.done = True

    def _close(self, key: float) -> None:
        """End with everything nearer than the upper bound explored."""
        self.lower = max(self.lower, min(key, self.upper))
        self.done = True
