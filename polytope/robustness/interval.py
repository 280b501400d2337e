"""The interval that is proved for one point while engines work on it.

Engines raise its lower end by what they have proved and offer candidates for its upper end; a
candidate counts once it is adversarial in exact arithmetic.  So whatever stops an engine, and
wherever, the interval holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from polytope.attacks.polish import polished
from polytope.attacks.spot import Polished
from polytope.network.exact import is_adversarial
from polytope.region import region_at
from polytope.robustness.query import Query
from polytope.robustness.witness import exact_witnesses, lp_norm, prove_adversarial

#: Coordinates this near to a plain number, relative to the largest, are moved to it.
NEAR = 1e-10
#: A candidate nearer than this, relative to the largest coordinate, is x but for rounding; and
#: the lengths of steps beside it.
AT_X, LENGTHS = 1e-14, tuple(8.0**k * 2.0**-52 for k in range(9))


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Attributes
    ----------
    row : int
        The point's row in its batch.
    lower, upper : float
        The interval so far.
    seconds : float
        Since the point's search began.
    engine : str
        What works on it.
    """

    row: int
    lower: float
    upper: float
    seconds: float
    engine: str


@dataclass(eq=False)
class Interval:
    """What is known about one query.

    Attributes
    ----------
    query : Query
    deadline : float
        Of `time.perf_counter`.
    report : callable, optional
        Called with the interval whenever it has become smaller.
    lower : float
        Proved: no point of the box nearer than this changes the decision. Never decreases.
    upper : float
        Distance of `witness`, rounded up. Never increases.
    witness : float64 (d,) or None
        In the box and adversarial in exact arithmetic.
    held : int
        Bytes that the engine at work holds; it stops beyond the query's `memory`.
    begun : float
    trace : list of (seconds, lower, upper)
        Each change.
    """

    query: Query
    deadline: float
    report: Callable[[Interval], None] | None = None
    lower: float = 0.0
    upper: float = math.inf
    witness: np.ndarray | None = None
    held: int = 0
    begun: float = field(default_factory=time.perf_counter)
    trace: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time since the search began."""
        return time.perf_counter() - self.begun

    @property
    def reach(self) -> float:
        """How far there is anything left to prove: the witness's distance, or the radius."""
        return self.upper if self.query.radius is None else min(self.upper, self.query.radius)

    @property
    def exact(self) -> bool:
        """Whether the ends meet within the query's tolerance, or both are infinite."""
        if math.isinf(self.upper):
            return math.isinf(self.lower)
        return self.upper - self.lower <= self.query.tol * self.upper

    @property
    def settled(self) -> bool:
        """Whether the question is answered."""
        radius = self.query.radius
        return self.exact or (radius is not None and (self.upper <= radius or self.lower >= radius))

    @property
    def full(self) -> bool:
        """Whether the engine holds more memory than it may."""
        return self.held > self.query.memory

    @property
    def stopped(self) -> bool:
        """Whether an engine has to stop: settled, out of time, or out of memory."""
        return self.settled or self.full or time.perf_counter() >= self.deadline

    def prove(self, lower: float) -> None:
        """Nothing adversarial is nearer than `lower`, says a proof."""
        lower = min(lower, self.upper)
        if lower > self.lower:
            self.lower = float(lower)
            self._changed()

    def offer(self, point: np.ndarray, polish: bool = True) -> bool:
        """A candidate (d,), perhaps adversarial, perhaps a little outside of the box.

        It is pushed outward until it is adversarial in exact arithmetic, moved to the nearest
        point of its linear region, and taken if it is nearer than the witness.
        """
        query = self.query
        if query.box is not None:
            point = np.clip(point, query.box.low, query.box.high)
        best = self._proved(point)
        if best is None:
            return False
        if polish:
            best = polished(best, query.spot)
        return self.take(best.distance, best.witness)

    def _proved(self, point: np.ndarray) -> Polished | None:
        """The candidate pushed outward, or a plain point beside it, if that is adversarial."""
        query, labels = self.query, np.array([self.query.label])
        targets = None if query.target is None else np.array([query.target])
        distance, witness = exact_witnesses(
            query.net, query.x[None], (point - query.x)[None], labels, query.box, query.p,
            targets=targets,
        )  # fmt: skip
        if math.isfinite(distance[0]):
            return Polished(float(distance[0]), witness[0], 0)
        beside = self._beside(point)
        if beside is not None:
            return beside
        plain = self._plain(point)
        if (plain == point).all():
            return None
        _, possible = prove_adversarial(query.net, plain[None], labels, targets)
        shaped = plain.reshape(query.net.input_shape)
        if not possible[0] or not is_adversarial(
            query.net.graph, shaped, query.label, query.target
        ):
            return None
        return Polished(float(lp_norm((plain - query.x)[None], query.p)[0]), plain, 0)

    def _beside(self, point: np.ndarray) -> Polished | None:
        """Where the candidate is x itself but for rounding: the nearest floats that will do.

        The step is too small to be pushed, so the way is the steepest one, by ever larger parts
        of the point's size.
        """
        query = self.query
        size = max(float(np.abs(query.x).max(initial=0.0)), 1e-9)
        if np.abs(point - query.x).max(initial=0.0) > AT_X * size:
            return None
        region = region_at(query.net, query.x)
        low, high = query.steps()
        best: Polished | None = None
        for target in query.targets:
            lead = query.lead(target) @ region.jacobian
            way = np.where(lead > 0, np.where(low < 0, -lead, 0.0), np.where(high > 0, -lead, 0.0))
            largest = float(np.abs(way).max(initial=0.0))
            if largest == 0:
                continue
            for length in LENGTHS:
                distance, witness = exact_witnesses(
                    query.net, query.x[None], (length * size / largest * way)[None],
                    np.array([query.label]), query.box, query.p, targets=np.array([target]),
                )  # fmt: skip
                if math.isfinite(distance[0]):
                    found = Polished(float(distance[0]), witness[0], 0)
                    if best is None or found.distance < best.distance:
                        best = found
                    break
        return best

    def _plain(self, point: np.ndarray) -> np.ndarray:
        """The point with its coordinates moved to 0, x or the box's ends where these are near.

        Where the adversarial points are a single one (the origin, of a network without biases),
        it is there that all coordinates are plain.
        """
        query = self.query
        ends = [] if query.box is None else [query.box.low, query.box.high]
        room = NEAR * max(np.abs(point).max(initial=0.0), np.abs(query.x).max(initial=0.0))
        for other in (np.zeros(len(point)), query.x, *ends):
            point = np.where(np.abs(point - other) <= room, other, point)
        return point if query.box is None else np.clip(point, query.box.low, query.box.high)

    def take(self, distance: float, witness: np.ndarray) -> bool:
        """A witness that is proved already."""
        if not distance < self.upper:
            return False
        assert distance >= lp_norm((witness - self.query.x)[None], self.query.p)[0] * (1 - 1e-12)
        self.upper, self.witness = float(distance), witness
        self._changed()
        return True

    def _changed(self) -> None:
        self.trace.append((self.seconds, self.lower, self.upper))
        if self.report is not None:
            self.report(self)
