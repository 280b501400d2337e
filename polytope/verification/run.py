"""One verification: attacks on all parts of a property, then searches of those that are left."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from polytope.model import Network
from polytope.robustness.flat import flat_network
from polytope.verification.attack import FIRST, attack, descend
from polytope.verification.box_search import BoxSearch
from polytope.verification.property import Property
from polytope.verification.result import Verification, VerifyStats
from polytope.verification.root_bounds import refuted_at_root
from polytope.verification.safe_certificate import safe_certificate
from polytope.verification.witness import Witness, check_witness

#: Inputs up to which boxes are split; beyond, only the pieces of units are.
INPUTS = 12
#: Pre-activations times inputs, and pieces of a unit, beyond which a network is not searched.
LARGE, PIECES = 2**25, 60
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
        Bytes of proofs that are kept in memory.
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
        self.checks = self.bounded = 0
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
        try:
            return self._result()
        finally:
            for search in self.searches:
                search.close()

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
        """Search all parts in turns of growing length; only bound them if the network is large."""
        begun = time.perf_counter()
        parts, nodes = self.read.parts, self.net.graph.nodes
        values = sum(nodes[nodes[layer.node].inputs[0]].size for layer in self.net.layers)
        most = max((layer.pieces for layer in self.net.layers), default=1)
        if most > PIECES or values * self.net.input_size > LARGE:
            self.engine, self.stopped = "bounds", "size"
            for unsafe in parts:
                if time.perf_counter() < self.deadline:
                    self.bounded += refuted_at_root(self.net, unsafe)
            return
        self.engine = "boxes"
        flat, split = flat_network(self.net), self.net.input_size <= INPUTS
        self.searches = [
            BoxSearch(flat, unsafe, number, split, self.workers, self.memory // len(parts))
            for number, unsafe in enumerate(parts)
        ]
        self.deadline += self.searches[0].load()
        length, left = SLICE, list(self.searches)
        with ThreadPoolExecutor(self.workers) as pool:
            while left and self.witness is None and time.perf_counter() < self.deadline:
                for search in left:
                    until = min(time.perf_counter() + length, self.deadline)
                    if search.run(until, pool, self.offer) or self._follow(search):
                        break
                left = [search for search in left if not search.over]
                length *= 2
        self.searched = time.perf_counter() - begun

    def _follow(self, search: BoxSearch) -> bool:
        """Attack from where the bounds of a search are lowest.

        Where the network is flat, gradients lead nowhere; bounds still do.
        """
        hints = np.array(search.hints)
        search.hints.clear()
        if search.over or not len(hints):
            return False
        box = search.unsafe.box
        starts = np.clip(hints, box.low, box.high)
        point, margin = descend(self.net, search.unsafe, starts, FIRST, self.deadline)
        return margin <= 0 and self.offer(search.part, point)

    def _result(self) -> Verification:
        """What there is to say."""
        parts = len(self.read.parts)
        refuted = self.bounded + sum(search.refuted for search in self.searches)
        if self.witness is not None:
            verdict = "sat"
        elif refuted == parts and self.stopped != "interrupt":
            verdict, self.stopped = "unsat", ""
        elif self.stopped:
            verdict = "unknown"
        elif self.searches and all(search.over for search in self.searches):
            verdict, self.stopped = "unknown", "rounding"
        else:
            verdict, self.stopped = "timeout", "time_limit"
        certificate, exactness = None, "rational" if verdict == "sat" else ""
        if verdict == "unsat":
            exactness = "safe-float"
            if self.searches:
                proofs = [search.proof() for search in self.searches]
                certificate = safe_certificate(self.net, self.read, proofs)
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
            self._explain(verdict, stats), stats, certificate, exactness,
        )  # fmt: skip

    def _explain(self, verdict: str, stats: VerifyStats) -> str:
        """A sentence."""
        done = f"{stats.boxes} sub-boxes bounded, {stats.refuted} of {stats.parts} parts refuted"
        if stats.engine == "bounds":
            done = f"bounds of the whole box refute {stats.refuted} of {stats.parts} parts"
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
            "size": "the size of the network, too large to be searched",
            "rounding": "boxes too small to be split, where rounding cannot decide",
        }[stats.stopped]  # fmt: skip
        return f"stopped by {why}: {done}" + f", {stats.waiting} are open" * bool(self.searches)
