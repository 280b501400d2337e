"""The search of one part of a property: its stacks and leaves, and the threads at work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from polytope.robustness.flat import FlatNetwork
from polytope.verification.box_kernels import bound_box
from polytope.verification.proof_tree import tree_of
from polytope.verification.property import Unsafe
from polytope.verification.reduction import reduce_network
from polytope.verification.result import Proof
from polytope.verification.sheet import Root, Sheet, Work, root_of, sheet_of, work_for
from polytope.verification.split_kernels import (
    CANDIDATE,
    FULL,
    LEAF,
    STUCK,
    Log,
    Plan,
    Stack,
    search_boxes,
)
from polytope.verification.spool import Spool
from solvers.boxed import room

#: Undecided units up to which a box is split on units: of 2 to 48, 12 was the best on the hardest
#: instance of ACAS Xu (property 2 on network 3_3: 6 s; 4 and less, or 24 and more: over 10 s).
FEW = 12
ANY = 2**30
#: Units that a box may be split on, beyond which its coordinates are split (again): with FEW, and
#: where only units are split.
DEPTH, DEPTH_ALONE = 16, 64
#: Boxes that may wait in one stack: a search in depth needs some hundreds; and the bytes that all
#: stacks of a search may take, beyond which they are shorter, down to the least length.
WAITING, STACKS, LEAST = 512, 2**26, 64
#: Lines that a thread collects before they are packed away.
BUFFER = 2048
#: Points that are kept for attacks.
HINTS = 128
#: Seconds between two looks at the clock and at how the work is shared.
ROUND = 0.05


@dataclass(eq=False)
class _Worker:
    """What one thread works on."""

    number: int
    sheet: Sheet
    stack: Stack
    log: Log
    spool: Spool
    work: Work
    plan: Plan
    waiting: int = 0
    noted: int = 0
    before: int = 0
    budget: int = 16
    boxes: int = 0
    tried: float = 0.0

    def run(self, coordinates: bool, idle: bool = False) -> int:
        """Work for about one round (or not at all); why it ended."""
        begun = time.perf_counter()
        budget = 0 if idle else self.budget
        why, self.waiting, self.noted, boxes = search_boxes(
            self.sheet, self.stack, self.waiting, self.log, self.noted, self.before, self.number,
            budget, self.tried, FEW if coordinates else ANY, not coordinates, self.work, self.plan,
        )  # fmt: skip
        self.boxes += boxes
        spent = time.perf_counter() - begun
        if idle:
            return int(why)
        if spent > ROUND:
            self.budget = max(1, self.budget // 2)
        elif spent < ROUND / 2 and boxes == self.budget:
            self.budget *= 2
        return int(why)


@dataclass(eq=False)
class BoxSearch:
    """The search of one part; `run` goes on where it stopped.

    Parameters
    ----------
    network : FlatNetwork
    unsafe : Unsafe
    part : int
        Its number.
    coordinates : bool
        Split boxes of many undecided units on their coordinates; else on units only.
    workers : int
        Threads.
    memory : int
        Bytes of the proof that are kept in memory; the rest goes to temporary files.

    Attributes
    ----------
    boxes : int
        Boxes bounded.
    open : int
        Boxes set aside because they cannot be split.
    leaves : int
        Boxes refuted.
    hints : deque of float64 (d,)
        The latest points where bounds are lowest: an attack may begin there.
    """

    network: FlatNetwork
    unsafe: Unsafe
    part: int
    coordinates: bool
    workers: int
    memory: int
    open: int = 0
    boxes: int = 0
    leaves: int = 0
    hints: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=HINTS))
    _root: Root | None = None
    _team: list[_Worker] = field(default_factory=list)
    _logs: list[Spool] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Boxes that wait, or were set aside; 1 before the search begins."""
        if self._root is None:
            return 1
        return self.open + sum(worker.waiting for worker in self._team)

    @property
    def refuted(self) -> bool:
        """Whether nothing is left."""
        return self.waiting == 0

    @property
    def over(self) -> bool:
        """Whether there is nothing to work on any more."""
        return self._root is not None and self.waiting == self.open

    def run(self, until: float, pool: Executor, offer: Callable[[int, np.ndarray], bool]) -> bool:
        """Search until a time of `time.perf_counter`.

        Parameters
        ----------
        until : float
        pool : Executor
            Of at least as many threads as there are workers.
        offer : callable
            Takes the part and a point (d,) that may be unsafe; says whether it is.

        Returns
        -------
        bool
            Whether an unsafe point was found.
        """
        root = self._root or self._begin()
        while not self.over and time.perf_counter() < until:
            self._share()
            busy = [worker for worker in self._team if worker.waiting]
            if len(busy) == 1:
                ended = [busy[0].run(self.coordinates)]
            else:
                ended = list(pool.map(lambda worker: worker.run(self.coordinates), busy))
            for worker, why in zip(busy, ended, strict=True):
                self.boxes, worker.boxes = self.boxes + worker.boxes, 0
                self.hints.append(root.middle + worker.plan.step)
                if why == CANDIDATE and self._offer(worker, offer):
                    return True
                if why == STUCK:
                    if self._offer(worker, offer):
                        return True
                    self.open += 1  # first: a Ctrl-C in between must not lose the box
                    worker.waiting -= 1
                if why == FULL or worker.noted > BUFFER // 2:
                    self._pack(worker)
        if self.over:
            for worker in self._team:
                self._pack(worker)
            self._team = []
        return False

    def load(self) -> float:
        """Have the compiled code ready, which takes long once on a machine; the seconds it took."""
        begun = time.perf_counter()
        if self._root is None:
            self._begin()
        self._team[0].run(self.coordinates, idle=True)
        return time.perf_counter() - begun

    def proof(self) -> Proof:
        """The tree; once the search is over."""
        assert self._root is not None
        return tree_of(self.part, self.network, self._root.middle, self._logs)

    def close(self) -> None:
        """Give up the proof."""
        for log in self._logs:
            log.close()

    def _begin(self) -> Root:
        """Make the workers; the first gets the whole box."""
        root, team = root_of(self.unsafe.box), []
        values = self.network.values
        known = np.stack([np.full(values, -np.inf), np.full(values, np.inf)])
        sheet = sheet_of(self.network, root, self.unsafe.A, self.unsafe.b)
        if not self.coordinates:
            work = work_for(sheet, 0)
            bound_box(sheet, 0, known[0], known[1], root.low, root.high, work)
            reduced = reduce_network(self.network, work.pieces)
            sheet = sheet_of(reduced, root, self.unsafe.A, self.unsafe.b)
        depth = DEPTH if self.coordinates else DEPTH_ALONE
        rows = 2 * depth
        d, m = len(root.middle), len(self.unsafe.b)
        most = int(np.clip(STACKS // (16 * values * self.workers), LEAST, WAITING))
        for number in range(self.workers):
            self._logs.append(Spool(self.memory // self.workers))
            team.append(_Worker(
                number, sheet, _stack(most, d, values, depth), _log(m + rows), self._logs[-1],
                work_for(sheet, rows), _plan(d, m + rows),
            ))  # fmt: skip
        first = team[0]
        first.stack.low[0], first.stack.high[0] = root.low, root.high
        first.stack.known[0] = known
        first.waiting = 1
        self._team, self._root = team, root
        return root

    def _share(self) -> None:
        """Give a worker without work the older half of the longest stack."""
        for idle in self._team:
            richest = max(self._team, key=lambda worker: worker.waiting)
            if idle.waiting or richest.waiting < 2:
                continue
            given = richest.waiting // 2
            for own, other in zip(idle.stack, richest.stack, strict=True):
                own[:given] = other[:given]
                other[: richest.waiting - given] = other[given : richest.waiting].copy()
            idle.waiting, idle.budget = given, richest.budget
            richest.waiting -= given

    def _offer(self, worker: _Worker, offer: Callable[[int, np.ndarray], bool]) -> bool:
        """Have a worker's candidate checked; if it is none, ask for a clearer one next time."""
        assert self._root is not None
        if offer(self.part, self._root.middle + worker.plan.step):
            return True
        worker.tried = 2 * worker.tried - 1e-12
        return False

    def _pack(self, worker: _Worker) -> None:
        """Put a worker's lines away."""
        count, worker.noted, worker.before = worker.noted, 0, worker.before + worker.noted
        lines, cuts, multipliers = (array[:count] for array in worker.log)
        leaf = lines[:, 3] == LEAF
        used = np.arange(multipliers.shape[1]) < np.where(leaf, lines[:, 4], 0)[:, None]
        self.leaves += int(leaf.sum())
        worker.spool.append((lines.copy(), cuts.copy(), multipliers[used]))


def _stack(most: int, d: int, values: int, depth: int) -> Stack:
    return Stack(
        np.zeros((most, d)), np.zeros((most, d)), np.zeros((most, 2, values)),
        np.full((most, depth), -1), np.full((most, depth), -1), np.zeros(most, np.int64),
        np.full((most, 3), -1),
    )  # fmt: skip


def _log(rows: int) -> Log:
    return Log(np.zeros((BUFFER, 5), np.int64), np.zeros(BUFFER), np.zeros((BUFFER, rows)))


def _plan(d: int, rows: int) -> Plan:
    cost = np.zeros(d + 1)
    cost[d] = 1.0
    scratch = room(rows, d + 1)
    return Plan(
        cost, np.zeros(d + 1), np.zeros(d + 1), np.zeros(d + 1), np.zeros(rows * (d + 1)),
        np.zeros(rows), np.zeros(rows), np.zeros(d), np.zeros(d), np.zeros(d),
        scratch._replace(table=scratch.table.reshape(-1)),
    )  # fmt: skip
