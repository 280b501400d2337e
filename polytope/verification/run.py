"""One verification: attacks on all parts of a property, then searches of those that are left."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from polytope.model import Network
from polytope.robustness.flat import flat_network
from polytope.verification.attack import attack, descend
from polytope.verification.box_search import DEPTH, FEW, BoxSearch
from polytope.verification.property import Property
from polytope.verification.result import Proof, Verification, VerifyStats
from polytope.verification.witness import Witness, check_witness

#: Inputs up to which boxes are split; beyond, only the pieces of units are.
INPUTS = 12
#: The first slice of time of each part, in seconds; each round of all parts doubles it.
SLICE = 1.0
#: Part of the time limit that attacks may take, and the most seconds of it.
ATTACK, ATTACK_SECONDS = 0.2, 10.0
#: Looks for a point that the source model finds unsafe too.
DEEPER = 3


class Run:
    """One verification.

    Parameters
    ----------
    net : Network
    read : Property
    limit : float
        Seconds.
    seed : int
    workers : int
        Threads.
    memory : int
        Bytes of evidence that are kept.
    """

    def __init__(
        self, net: Network, read: Property, limit: float, seed: int, workers: int, memory: int
    ) -> None:
        self.net, self.read, self.seed, self.memory = net, read, seed, memory
        self.workers = workers
        self.begun = time.perf_counter()
        self.deadline = self.begun + limit
        self.witness: Witness | None = None
        self.engine, self.stopped = "none", ""
        self.checks = 0
        self.attacked = self.searched = 0.0
        self.searches: list[BoxSearch] = []

    def go(self) -> Verification:
        """Attack, then search."""
        try:
            self._attack()
            if self.witness is None and self.read.parts:
                self._search()
        except KeyboardInterrupt:
            self.stopped = "interrupt"
        return self._result()

    def offer(self, number: int, point: np.ndarray) -> bool:
        """Check a point that may be unsafe."""
        unsafe = self.read.parts[number]
        self.checks += 1
        found = check_witness(self.net, unsafe, number, point)
        if found is None:
            return False
        self.witness = found
        for _ in range(DEEPER if found.replayed is False else 0):
            deeper, _ = descend(self.net, unsafe, self.witness.point[None], 0.01, self.deadline)
            again = check_witness(self.net, unsafe, number, deeper)
            if again is not None:
                self.witness = again
            if self.witness.replayed:
                break
        return True

    def _attack(self) -> None:
        """Attack all parts."""
        begun = time.perf_counter()
        last = begun + min(ATTACK_SECONDS, ATTACK * (self.deadline - begun))
        self.engine = "attack" if self.read.parts else "none"
        for number, unsafe in enumerate(self.read.parts):
            if time.perf_counter() >= last:
                break
            point, margin = attack(self.net, unsafe, self.seed + number, last)
            if margin <= 0 and self.offer(number, point):
                break
        self.attacked = time.perf_counter() - begun

    def _search(self) -> None:
        """Search all parts in turns of growing length."""
        begun = time.perf_counter()
        self.engine = "boxes"
        few, depth = (FEW, DEPTH) if self.net.input_size <= INPUTS else (math.inf, 64)
        flat = flat_network(self.net)
        self.searches = [
            BoxSearch(
                flat, unsafe, number, int(min(few, 2**30)), depth, self.workers,
                self.memory // len(self.read.parts),
            )
            for number, unsafe in enumerate(self.read.parts)
        ]  # fmt: skip
        length = SLICE
        with ThreadPoolExecutor(self.workers) as pool:
            left = list(self.searches)
            while left and self.witness is None and time.perf_counter() < self.deadline:
                for search in left:
                    until = min(time.perf_counter() + length, self.deadline)
                    if search.run(until, pool, self.offer):
                        break
                left = [search for search in left if not search.over]
                length *= 2
        self.searched = time.perf_counter() - begun

    def _result(self) -> Verification:
        """What there is to say."""
        parts, refuted = len(self.read.parts), sum(search.refuted for search in self.searches)
        if self.witness is not None:
            verdict = "sat"
        elif refuted == parts:
            verdict = "unsat"
        elif self.stopped or all(search.over for search in self.searches):
            verdict, self.stopped = "unknown", self.stopped or "rounding"
        else:
            verdict, self.stopped = "timeout", "time_limit"
        proofs: tuple[Proof, ...] = ()
        if self.witness is None:
            proofs = tuple(search.proof() for search in self.searches if search.refuted)
        stats = VerifyStats(
            self.engine, sum(s.boxes for s in self.searches), sum(s.leaves for s in self.searches),
            sum(s.waiting for s in self.searches), refuted, parts, self.checks, self.attacked,
            self.searched, self.stopped,
        )  # fmt: skip
        w = self.witness
        return Verification(
            verdict, w.point if w else None, w.outputs if w else None,
            w.native_point if w else None, w.native_outputs if w else None,
            w.replayed if w else None, time.perf_counter() - self.begun,
            self._explain(verdict, stats), stats, proofs,
        )  # fmt: skip

    def _explain(self, verdict: str, stats: VerifyStats) -> str:
        """A sentence."""
        done = f"{stats.boxes} sub-boxes bounded, {stats.refuted} of {stats.parts} parts refuted"
        if verdict == "sat":
            by = "the attack" if stats.engine == "attack" else f"the search ({done})"
            assert self.witness is not None
            replay = {
                None: "", True: "; the source model agrees",
                False: "; the source model in its own rounding does not agree",
            }[self.witness.replayed]  # fmt: skip
            return f"{by} found an unsafe input, confirmed in exact arithmetic{replay}"
        if not stats.parts:
            return "nothing satisfies the property's input constraints, or it contradicts itself"
        if verdict == "unsat":
            return f"no input is unsafe: {done}"
        why = {
            "time_limit": "the time limit", "interrupt": "Ctrl-C",
            "rounding": "boxes too small to be split, where rounding cannot decide",
        }[stats.stopped]  # fmt: skip
        return f"stopped by {why}: {done}, {stats.waiting} are open"
