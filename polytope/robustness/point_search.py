"""The search of one point of a batch: attack, theorem, engine, and what was reached."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.attacks.attack import Attacked
from polytope.attacks.criterion import Criterion
from polytope.attacks.linear_region import LinearRegion
from polytope.attacks.proof import adversarial
from polytope.errors import InputError
from polytope.model import Network
from polytope.robustness.certificates import Certificates
from polytope.robustness.interval import Interval, Progress
from polytope.robustness.perturbation import Perturbation, Statistics
from polytope.robustness.query import Query
from polytope.robustness.ran import Ran
from polytope.robustness.theorem import certify
from polytope.robustness.witness import native_witnesses
from polytope.sets import Box

if TYPE_CHECKING:
    from polytope.robustness.engines import Engines

#: The attack that gives every point its first witness: repeated linearisation, then programs on
#: the regions behind the faces that hold the best one. What it misses, the engines find.
ATTACK = LinearRegion(restarts=0, starts=(), rivals=0)
#: The same where a target is given, which repeated linearisation does not take, and for networks
#: so large that a bad witness costs more than projected gradients.
LARGE = LinearRegion(restarts=0, rivals=0)


@dataclass(frozen=True)
class Asked:
    """The arguments, checked."""

    net: Network
    x: torch.Tensor
    criterion: Criterion
    p: float
    box: Box | None
    radius: float | None
    tol: float
    seed: int
    memory: int
    time_limit: float
    callback: Callable[[Progress], None] | None

    def query(self, row: int) -> Query:
        """The question for one point."""
        targets = self.criterion.targets
        return Query(
            self.net, self.x[row].flatten().numpy().copy(), int(self.criterion.labels[row]),
            None if targets is None else int(targets[row]), self.p, self.box, self.radius,
            self.tol, self.seed + row, self.memory,
        )  # fmt: skip


class Chunk:
    """Some rows that are attacked together, and then searched one by one.

    Parameters
    ----------
    asked : Asked
    rows : int array (n,)
    engines : Engines
    """

    def __init__(self, asked: Asked, rows: np.ndarray, engines: Engines) -> None:
        self._asked, self._engines = asked, engines
        self._place = {int(i): k for k, i in enumerate(rows)}
        self.interrupted = False
        begin = time.perf_counter()
        self._lost = np.zeros(len(rows), dtype=bool)
        self._refuted = np.zeros(len(rows), dtype=bool)
        self._attacked: Attacked | None = None
        self._theorem: Certificates | None = None
        if asked.time_limit > 0:
            try:
                self._start(rows)
            except KeyboardInterrupt:
                self.interrupted = True
        self._share = (time.perf_counter() - begin) / len(rows)

    def _start(self, rows: np.ndarray) -> None:
        """Attack the points, and bound them by their own linear regions.

        Where a radius is asked for, the bounds of a small network decide it sooner than an
        attack; those of a large one are tried once on each row.
        """
        asked, criterion = self._asked, self._asked.criterion.select(rows)
        x = asked.x[torch.as_tensor(rows)]
        self._lost = adversarial(asked.net, x.flatten(1).numpy(), criterion)
        if asked.radius is not None and self._engines.bounds_first:
            if self._engines.compiled:
                return
            refuted = [self._engines.refuted(asked.query(i), asked.radius) for i in rows.tolist()]
            self._refuted = np.array(refuted)
            if self._refuted.all():
                return
        attack = ATTACK if criterion.targets is None and self._engines.compiled else LARGE
        self._attacked = attack(
            asked.net, x, criterion.labels, asked.p, asked.box, criterion.targets,
            seed=asked.seed + int(rows[0]), time_limit=asked.time_limit * len(rows) / 4,
        )  # fmt: skip
        self._theorem = certify(asked.net, x, criterion.labels, asked.p, asked.box)

    def row(self, i: int) -> Perturbation:
        """Search one point."""
        asked, k = self._asked, self._place[i]
        begun = time.perf_counter() - self._share
        engine = "attack"
        report = None
        if asked.callback is not None:
            call = asked.callback

            def report(state: Interval) -> None:
                call(Progress(i, state.lower, state.upper, state.seconds, engine))

        query = asked.query(i)
        interval = Interval(query, begun + asked.time_limit, report, begun=begun)
        ran = Ran("attack", "the attack and the point's own linear region settled it")
        theorem = math.nan if self._theorem is None else float(self._theorem.lower[k])
        try:
            ran = self._known(interval, k, ran)
            if not interval.settled and not self.interrupted and not interval.stopped:
                engine, why = self._engines.choose(query, interval)
                interval.deadline += self._engines.ready(engine, query.p)
                ran = Ran(engine, f"{engine} ({why}) did not finish")
                ran = self._engines.run(query, interval, engine, why)
            self._by_theorem(interval, k)
        except KeyboardInterrupt:
            self.interrupted = True
        if ran.method == "attack" and not interval.settled:
            ran = replace(ran, explain="stopped before an engine began")
        attack_upper = math.inf if self._attacked is None else float(self._attacked.distance[k])
        statistics = Statistics(
            seconds=interval.seconds, attack_upper=attack_upper, theorem_lower=theorem,
            crown_lower=ran.crown, regions=ran.regions, nodes=ran.nodes, programs=ran.programs,
            trace=tuple(interval.trace),
        )  # fmt: skip
        return result(interval, ran, statistics, self.interrupted)

    def _known(self, interval: Interval, k: int, ran: Ran) -> Ran:
        """Start from what is known before an engine works.

        An engine that was asked for by name does not get the theorem's bound beforehand: what it
        proves is to be its own.
        """
        if self._lost[k]:
            interval.take(0.0, interval.query.x)
            return replace(ran, explain="the point itself is adversarial")
        if self._refuted[k] and interval.query.radius is not None:
            interval.prove(interval.query.radius)
            return Ran("branch_and_bound", "CROWN alone proves the radius", nodes=1)
        if self._attacked is not None and np.isfinite(self._attacked.distance[k]):
            interval.take(float(self._attacked.distance[k]), self._attacked.witness[k])
        if self._engines.method == "auto":
            self._by_theorem(interval, k)
        return ran

    def _by_theorem(self, interval: Interval, k: int) -> None:
        """Use what the point's own region proves (Theorem 3.1 of MMR)."""
        if self._theorem is None:
            return
        if self._theorem.exactness[k] == "safe-float":
            interval.prove(float(self._theorem.lower[k]))
        if interval.query.target is None and np.isfinite(self._theorem.upper[k]):
            interval.take(float(self._theorem.upper[k]), self._theorem.witness[k])


def result(interval: Interval, ran: Ran, stats: Statistics, interrupted: bool) -> Perturbation:
    """What was reached."""
    query, net, d = interval.query, interval.query.net, len(interval.query.x)
    nothing = np.full(d, np.nan)
    witness = nothing if interval.witness is None else interval.witness
    labels = np.array([query.label])
    targets = None if query.target is None else np.array([query.target])
    native_upper, native = native_witnesses(
        net, query.x[None], witness[None], labels, query.box, query.p, targets
    )
    reached = -1
    if interval.witness is not None:
        logits = net.logits(witness[None])[0]
        reached = max(query.targets, key=lambda t: float(logits[t]))
    settled = interval.settled
    stopped = ""
    if not settled:
        if interrupted:
            stopped = "interrupt"
        elif interval.full:
            stopped = "memory"
        elif time.perf_counter() >= interval.deadline:
            stopped = "time_limit"
        else:
            stopped = "engine"
    return Perturbation(
        lower=interval.lower, upper=interval.upper, native_upper=float(native_upper[0]),
        exact=interval.exact, status=_status(interval), stopped=stopped,
        exactness=ran.exactness, label=query.label, target=reached, witness=witness,
        native_witness=native[0], method=ran.method, explain=ran.explain, claimed=ran.claimed,
        stats=stats, evidence=ran.evidence, query=query,
    )  # fmt: skip


def proved(found: Perturbation, time_limit: float) -> Perturbation:
    """A result whose lower end was proved by a certificate; not exact where that failed."""
    from polytope.checker import check

    if found.lower == 0 and not np.isfinite(found.upper):
        return found
    try:
        verdict = check(found.certificate(time_limit), found.query.net)
    except InputError as error:
        verdict = None
        why = str(error)
    if verdict is not None and verdict.valid:
        return replace(found, exactness="rational")
    if verdict is not None:
        why = f"the checker rejected the certificate: {verdict.reason}"
    status = "interval" if found.status in ("exact", "unreachable") else found.status
    return replace(found, exact=False, status=status, explain=f"{found.explain}; {why}")


def _status(interval: Interval) -> str:
    """The verdict in a word."""
    radius = interval.query.radius
    if interval.upper == 0:
        return "misclassified"
    if radius is not None:
        if interval.upper <= radius:
            return "not robust"
        return "robust" if interval.lower >= radius else "undecided"
    if math.isinf(interval.lower):
        return "unreachable"
    return "exact" if interval.exact else "interval"


def untouched(asked: Asked, row: int, method: str) -> Perturbation:
    """A row that Ctrl-C left out."""
    interval = Interval(asked.query(row), -math.inf)
    ran = Ran(method, "not begun: interrupted before")
    return result(interval, ran, Statistics(seconds=0.0), interrupted=True)
