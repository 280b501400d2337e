"""The linear-region attack of Croce and Hein (GCPR 2018), and a descent across faces.

On a linear region the nearest adversarial point is an LP or QP away.  From the first witness
the attack solves its region, then the regions behind the faces that hold the solution, as long
as that helps; then regions at random points around the best, those whose decision hyperplane
is nearest first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.criterion import Criterion
from polytope.attacks.pgd import PGD, rival_order
from polytope.attacks.polish import polished
from polytope.attacks.proof import prove
from polytope.attacks.spot import Polished, Spot
from polytope.attacks.steps import project
from polytope.attacks.task import Task
from polytope.distances import project_rows
from polytope.errors import InputError
from polytope.inputs import positive_int
from polytope.pattern import ActivationPattern
from polytope.region import Region
from polytope.robustness.first_witness import HALVINGS, POLISHES, STEPS, first_witnesses
from polytope.rows import row_values

#: A face holds a solution if its residual is within this part of its terms: what the programs
#: are solved to, and far below the distance between faces.
ON_FACE = 1e-9
#: A region is solved only if its hyperplane is nearer than the best by this part: less is
#: rounding.
WORTH = 1e-12

#: Ends of the descents from two starts are the same if their distances agree to this part.
SAME = 1e-9
#: Random points are drawn around the ends of the descents up to this much farther than the
#: nearest: the best end of all is seldom behind a worse one.
PROMISING = 1.1


@dataclass(frozen=True)
class LinearRegion(Attack):
    """Programs on linear regions near the best witness; every norm, any box.

    Parameters
    ----------
    restarts : int
        Rounds of random points around the best witness, 0 for none.
    samples : int
        Random points of a round.
    programs : int
        Most regions solved for one point.
    starts : sequence of Attack
        Attacks that give first witnesses, beside repeated linearisation (which serves where
        any class counts, not for targets).
    rivals : int
        Where any class counts, the starts aim at so many classes one by one as well, those
        nearest to the decision first: the class that is reached first need not be the nearest.

    Raises
    ------
    InputError
        If a number is negative, `samples` or `programs` is 0, or a start is no attack.
    """

    restarts: int = 8
    samples: int = 64
    programs: int = 100
    starts: Sequence[Attack] = (PGD(steps=30, restarts=3, rounds=8),)
    rivals: int = 3

    def __post_init__(self) -> None:
        positive_int(self.samples, "samples")
        positive_int(self.programs, "programs")
        for name in ("restarts", "rivals"):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or value < 0:
                raise InputError(f"{name}: got {value!r}, expected a whole number of at least 0")
        if not all(isinstance(start, Attack) for start in self.starts):
            raise InputError(f"starts: got {self.starts!r}, expected attacks such as (PGD(),)")

    def check(self, p: float) -> None:
        """Refuse a norm that a start refuses."""
        for start in self.starts:
            start.check(p)

    def needs_regions(self) -> bool:
        """It solves programs on them."""
        return True

    def copies(self) -> int:
        """Points evaluated at once for each point attacked."""
        return max((start.copies() for start in self.starts), default=1)

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d): the best witnesses, already proved."""
        starts = self._starts(task)
        best = np.full(task.points.shape, np.nan)
        for i, generator in enumerate(task.generators()):
            found = [
                Polished(float(distance[i]), witness[i], 0)
                for distance, witness in starts
                if math.isfinite(distance[i])
            ]
            if found:
                best[i] = self._search(task, i, found, generator).witness
        return best

    def _search(
        self, task: Task, row: int, starts: list[Polished], generator: np.random.Generator
    ) -> Polished:
        """The best witness of one point, from the first ones."""
        search = _Search(_spot(task, row), task, row, starts[0])
        ends: list[Polished] = []
        for start in sorted(starts, key=lambda start: start.distance):
            end = search.enter(start, self.programs)
            if all(abs(end.distance - other.distance) > SAME * end.distance for other in ends):
                ends.append(end)
        nearest = min(end.distance for end in ends)
        for end in sorted(ends, key=lambda end: end.distance):
            if end.distance > PROMISING * nearest:
                break
            search.best = end
            for number in range(self.restarts):
                if task.expired or search.solved >= self.programs:
                    break
                search.sample(generator, self.samples, (number + 1) / self.restarts)
                search.descend(self.programs)
            ends.append(search.best)
        task.queries[row] += search.solved
        return min(ends, key=lambda end: end.distance)

    def _starts(self, task: Task) -> list[tuple[np.ndarray, np.ndarray]]:
        """First witnesses, proved: distances and points from each source."""
        found = []
        if task.criterion.targets is None:
            distance, witness, _ = first_witnesses(
                task.net, task.x, task.criterion.labels, task.box, task.p, task.memory
            )
            found.append((distance, witness))
            task.queries[:] += STEPS + (POLISHES + 1) * HALVINGS
        for criterion in self._aims(task):
            for start in self.starts:
                if task.expired:
                    break
                candidates = start.propose(replace(task, criterion=criterion))
                found.append(prove(task.net, task.points, candidates, criterion, task.box, task.p))
        return found

    def _aims(self, task: Task) -> list[Criterion]:
        """The criterion itself, and where any class counts those of the nearest classes."""
        aims = [task.criterion]
        order = rival_order(task).cpu().numpy()
        if task.criterion.targets is None and order.shape[1] > 1:
            labels = task.criterion.labels
            aims += [
                Criterion(labels, order[:, k]) for k in range(min(self.rivals, order.shape[1]))
            ]
        return aims


def _spot(task: Task, row: int) -> Spot:
    """One point of a task."""
    own = task.criterion.select(np.array([row]))
    return Spot(task.net, task.points[row], own, task.p, task.box)


@dataclass
class _Search:
    """The search around one point: the best witness, and the regions waiting to be solved."""

    spot: Spot
    task: Task
    row: int
    best: Polished
    solved: int = 0
    seen: set[tuple[ActivationPattern, int]] = field(default_factory=set)
    waiting: list[tuple[float, ActivationPattern, int]] = field(default_factory=list)

    def enter(self, start: Polished, programs: int) -> Polished:
        """Polish a first witness and go on from it, whatever was found from others."""
        self.best = start
        if not self.task.expired and self.solved < programs:
            self.best = polished(start, self.spot)
            self.solved += self.best.regions
            self._behind_faces()
            self.descend(programs)
        return self.best

    def descend(self, programs: int) -> None:
        """Solve the waiting regions, the nearest hyperplane first, and go on behind the best."""
        while self.waiting and self.solved < programs and not self.task.expired:
            self.waiting.sort(key=lambda entry: -entry[0])
            bound, pattern, rival = self.waiting.pop()
            if bound >= (1 - WORTH) * self.best.distance:
                self.waiting.clear()
                return
            self.solved += 1
            nearer = self.spot.nearest(self.spot.region(pattern), rival, self.best)
            if nearer is not None:
                self.best = nearer
                self._behind_faces()

    def sample(self, generator: np.random.Generator, count: int, spread: float) -> None:
        """Queue the regions of random points around the best witness, nearer than it."""
        spot, step = self.spot, self.best.witness - self.spot.x
        noise = generator.normal(size=(count, len(step)))
        noise *= spread * generator.uniform(0, 1, (count, 1)) * np.abs(step).max(initial=0.0)
        if spot.p == 1:
            noise *= generator.uniform(0, 1, noise.shape) < np.mean(step != 0)
        free = torch.full((len(step),), math.inf, dtype=torch.float64)
        low = -free if spot.box is None else torch.as_tensor(spot.box.low - spot.x)
        high = free if spot.box is None else torch.as_tensor(spot.box.high - spot.x)
        radius = torch.full((count,), self.best.distance, dtype=torch.float64)
        moved = project(torch.as_tensor(step + noise), radius, low, high, spot.p)
        z = spot.x + moved.numpy()
        with torch.no_grad():
            pieces = spot.net.pieces(torch.as_tensor(z).reshape(-1, *spot.net.input_shape)).numpy()
        self.task.queries[self.row] += count
        self._queue(pieces, spot.rivals(z))

    def _behind_faces(self) -> None:
        """Queue the regions behind the faces that hold the best witness."""
        region, rival = self.spot.region_of(self.best.witness)
        self.seen.add((region.pattern, rival))
        faces = _faces(region, self.best.witness)
        own, units = region.pattern.pieces, region.units
        first = [layer.first_unit for layer in self.spot.net.layers]
        pieces = [own] if len(faces) else []
        for face in faces:
            beyond = own.copy()
            beyond[first[units.layer[face]] + units.unit[face]] = units.beyond[face]
            pieces.append(beyond)
        if pieces:
            self._queue(np.array(pieces), np.full(len(pieces), rival))

    def _queue(self, pieces: np.ndarray, rivals: np.ndarray) -> None:
        """Queue regions not seen before whose decision hyperplane is near enough."""
        spot, fresh, patterns = self.spot, [], []
        for k, rival in enumerate(rivals.tolist()):
            pattern = ActivationPattern.from_pieces(pieces[k], spot.net.layout)
            if (pattern, rival) not in self.seen:
                self.seen.add((pattern, rival))
                fresh.append(k)
                patterns.append(pattern)
        if not fresh:
            return
        bounds = self._bounds(torch.as_tensor(pieces[fresh]), torch.as_tensor(rivals[fresh]))
        for bound, pattern, k in zip(bounds.tolist(), patterns, fresh, strict=True):
            if bound < (1 - WORTH) * self.best.distance:
                self.waiting.append((bound, pattern, int(rivals[k])))

    def _bounds(self, pieces: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        """Distances in the box to the decision hyperplanes of regions (m,)."""
        spot, net = self.spot, self.spot.net
        x = (
            torch.as_tensor(spot.x)
            .reshape(1, *net.input_shape)
            .expand(len(pieces), *net.input_shape)
        )
        labels = torch.full((len(pieces),), spot.label)
        rows = rivals + net.rows
        samples = torch.arange(len(pieces))
        with torch.no_grad():
            residual, _, _ = row_values(net, x, pieces, rows, labels)
            distance, _ = project_rows(
                net, x, pieces, labels, samples, rows, residual.clamp(max=0), spot.box, spot.p,
                memory=self.task.memory,
            )  # fmt: skip
        return distance


def _faces(region: Region, z: np.ndarray) -> np.ndarray:
    """Rows of a region that hold a point (d,)."""
    size = np.abs(region.A) @ np.abs(z) + np.abs(region.b)
    near = np.abs(region.A @ z - region.b) <= ON_FACE * size
    return np.flatnonzero(near & ~region.zero_rows)
