"""`Attack`: checks the request, lets an attack propose, and proves what it proposes."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import final

import numpy as np
import torch

from polytope.attacks.criterion import as_criterion
from polytope.attacks.polish import polished_batch
from polytope.attacks.proof import adversarial, prove
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels, as_norm, positive_int, require_inside
from polytope.jacobians import DEFAULT_MEMORY
from polytope.model import Network
from polytope.robustness.witness import native_witnesses
from polytope.rows import classes_of
from polytope.sets import BoxLike, as_box
from solvers.norms import NormLike


@dataclass(frozen=True)
class Attacked:
    """The nearest adversarial points that an attack found, one row per point.

    Attributes
    ----------
    distance : array (n,)
        Distance in the norm asked for, rounded up; inf where nothing was found (which proves
        nothing), 0 where the point itself is adversarial.
    witness : array (n, d)
        In the box and proved adversarial: another class (or the target) is at least as high as
        the label. NaN where nothing was found.
    native_distance, native_witness : arrays (n,), (n, d)
        The same for a point that the source model itself decides otherwise, in its own dtype;
        inf and NaN where none was found.
    label, target : int arrays (n,)
        The class left, and the class reached (-1 where nothing was found).
    proof : str array (n,)
        How the witness was proved: "exact", in exact arithmetic; "interval", of a network with
        smooth activations, in interval arithmetic rounded outwards (the library's exponentials
        and arc tangents are taken to be accurate to 8 units in the last place). "" where there
        is none.
    queries : int array (n,)
        Points at which the network was evaluated to propose (gradients included).
    seconds : array (n,)
        Wall time; shared equally by the points of a batch.
    seed : int array (n,)
        The attack on that row alone, given this seed, draws the same numbers.
    stopped : bool array (n,)
        The time limit or Ctrl-C came before the attack had run its course.
    """

    distance: np.ndarray
    witness: np.ndarray
    native_distance: np.ndarray
    native_witness: np.ndarray
    label: np.ndarray
    target: np.ndarray
    proof: np.ndarray
    queries: np.ndarray
    seconds: np.ndarray
    seed: np.ndarray
    stopped: np.ndarray

    def __len__(self) -> int:
        return len(self.distance)

    @property
    def found(self) -> np.ndarray:
        """Which points have a witness: bool (n,).

        Given the true labels, the mean of its negation is the accuracy under the attack.
        """
        return np.asarray(np.isfinite(self.distance))


class Attack(ABC):
    """A way to look for adversarial points.

    A new attack is a frozen dataclass of its settings with one method, `propose`; it need not
    be trusted, as `__call__` proves every candidate.
    """

    @abstractmethod
    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d) near the points of a task; NaN where it has none.

        Candidates are clipped into the box. At ``task.deadline`` it returns what it has.
        """

    def check(self, p: float) -> None:  # noqa: B027 (most attacks take every norm)
        """Refuse a norm that the attack cannot minimise, by an `InputError`."""

    def radius(self) -> float:
        """The largest distance that counts; inf for attacks that minimise it."""
        return math.inf

    def needs_regions(self) -> bool:
        """Whether the attack works on piecewise-linear networks alone."""
        return False

    def copies(self) -> int:
        """Points that are evaluated at once for each point attacked, to bound the memory."""
        return 1

    @final
    def __call__(
        self,
        net: Network,
        X: object,
        y: object = None,
        p: NormLike = 2,
        box: BoxLike = None,
        target: object = None,
        *,
        polish: bool = False,
        seed: int = 0,
        time_limit: float | None = None,
        memory: int = DEFAULT_MEMORY,
    ) -> Attacked:
        """Attack points and prove what is found.

        Parameters
        ----------
        net : Network
        X : array or tensor (n, d) or (n, *input_shape)
            A tensor is attacked on its device.
        y : array (n,), optional
            Classes; the predicted ones by default.
        p : number or "inf"
            The norm, in [1, inf].
        box : Box or pair (low, high), optional
            Only points inside the box count; the points of X must lie in it.
        target : int or array (n,), optional
            The class that has to come at least as high as the label; any other by default.
        polish : bool
            Move each witness to the nearest point of its linear region (`polish`).
        seed : int
            Row i draws its random numbers from ``seed + i``.
        time_limit : float, optional
            Seconds for the whole call. What was found until then is returned.
        memory : int
            Bytes that a batch may take.

        Returns
        -------
        Attacked
            Ctrl-C returns the batches that were finished; the other rows are `stopped`.

        Raises
        ------
        InputError
            For unusable points, labels, targets, norm, box, seed or time limit.
        SmoothActivation
            If the network is not piecewise linear, and the attack or `polish` needs that.
        """
        begin = time.perf_counter()
        if self.needs_regions() or polish:
            also = "" if self.needs_regions() else " with polish=True"
            net.require_piecewise_linear(f"{type(self).__name__}{also}")
        exponent, limits = as_norm(p), as_box(box, net.input_size)
        self.check(exponent)
        x = as_batch(net, X)
        require_inside(x, limits)
        labels = as_labels(net.predict(x) if y is None else y, len(x), classes_of(net))
        whole = Task(
            net, x, as_criterion(labels, target, classes_of(net)), exponent, limits,
            _seeds(seed, len(x)), positive_int(memory, "memory"),
            begin + _seconds(time_limit),
        )  # fmt: skip
        width = sum(node.size for node in net.graph.nodes) * 4 * x.element_size()
        step = max(1, memory // (width * max(1, self.copies())))
        done: list[Attacked] = []
        for start in range(0, len(x), step):
            rows = np.arange(start, min(start + step, len(x)))
            try:
                done.append(self._chunk(_part(whole, rows), polish))
            except KeyboardInterrupt:
                whole = replace(whole, deadline=-math.inf)
                done.append(self._chunk(_part(whole, rows), polish))
        return _join(done) if done else self._chunk(whole, polish)

    def _chunk(self, task: Task, polish: bool) -> Attacked:
        """Attack one batch."""
        begin = time.perf_counter()
        net, points, criterion = task.net, task.points, task.criterion
        distance, witness = np.full(len(task), math.inf), np.full(points.shape, np.nan)
        stopped = np.zeros(len(task), dtype=bool)
        lost = adversarial(net, points, criterion)
        distance[lost], witness[lost] = 0.0, points[lost]
        rows = np.flatnonzero(~lost)
        if len(rows) and not task.expired:
            part = _part(task, rows)
            candidates = np.asarray(self.propose(part), dtype=np.float64)
            task.queries[rows] = part.queries
            distance[rows], witness[rows] = prove(
                net, points[rows], candidates.reshape(len(rows), -1), part.criterion,
                task.box, task.p,
            )  # fmt: skip
            if polish:
                distance[rows], witness[rows] = polished_batch(part, distance[rows], witness[rows])
        stopped[rows] = task.expired
        self._drop_far(distance, witness)
        native_distance, native_witness = native_witnesses(
            net, points, witness, criterion.labels, task.box, task.p, criterion.targets
        )
        self._drop_far(native_distance, native_witness)
        kind = "interval" if net.graph.smooth else "exact"
        return Attacked(
            distance, witness, native_distance, native_witness, criterion.labels,
            _reached(task, witness), np.where(np.isfinite(distance), kind, ""), task.queries,
            np.full(len(task), (time.perf_counter() - begin) / max(len(task), 1)), task.seeds,
            stopped,
        )  # fmt: skip

    def _drop_far(self, distance: np.ndarray, witness: np.ndarray) -> None:
        """Take back, in place, what is farther than the attack's radius."""
        far = distance > self.radius()
        distance[far], witness[far] = math.inf, np.nan


def _part(task: Task, rows: np.ndarray) -> Task:
    """The same task for some of its points."""
    return Task(
        task.net, task.x[torch.as_tensor(rows, device=task.x.device)],
        task.criterion.select(rows), task.p, task.box, task.seeds[rows], task.memory,
        task.deadline, np.zeros(len(rows), dtype=np.int64),
    )  # fmt: skip


def _reached(task: Task, witness: np.ndarray) -> np.ndarray:
    """The class that each witness goes to; -1 where there is none."""
    target = np.full(len(task), -1, dtype=np.int64)
    found = np.flatnonzero(np.isfinite(witness).all(axis=1))
    if len(found):
        logits = torch.as_tensor(task.net.logits(witness[found]))
        leads = task.criterion.select(found).leads(logits)
        target[found] = leads.argmax(dim=1).numpy()
    return target


def _join(parts: Sequence[Attacked]) -> Attacked:
    """One result from consecutive chunks."""
    return Attacked(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Attacked))
    )


def _seeds(seed: object, count: int) -> np.ndarray:
    """One seed per point.

    Raises
    ------
    InputError
        If the first is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed: got {seed!r}, expected a whole number of at least 0")
    return int(seed) + np.arange(count)


def _seconds(time_limit: object) -> float:
    """A time limit in seconds, inf for none.

    Raises
    ------
    InputError
        If it is negative or no number.
    """
    if time_limit is None:
        return math.inf
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or time_limit < 0:
        raise InputError(
            f"time_limit: got {time_limit!r}, expected seconds, at least 0, or None for no limit"
        )
    return float(time_limit)
