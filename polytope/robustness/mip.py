"""The nearest adversarial point by mixed-integer programs: an opinion from outside, checked.

One program per target class (`polytope.robustness.encoding`), over the ball of the best witness
so far, by any solver that `solvers` knows.  A solver's word proves nothing: its points are
offered to the interval, which proves them, and its bounds are only recorded as claimed.  Where a
claim is refuted by a proved witness, or a claimed point cannot be proved at the distance claimed,
the program is solved again with its rows and columns in another order, which sends any solver
along another path; all of it is recorded.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from polytope.bounds.crown import function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, layer_bounds
from polytope.errors import InputError
from polytope.robustness.cell import Cell, cell_distance
from polytope.robustness.claims import Attempt, MixedIntegerRun, TargetRun
from polytope.robustness.encoding import Encoder, encoding_bytes
from polytope.robustness.interval import Interval
from polytope.robustness.query import Query
from polytope.robustness.tightening import Tighten, encoded
from polytope.robustness.witness import lp_norm
from solvers.problem import MixedIntegerProgram
from solvers.reorder import reordered
from solvers.solution import Solution, Status
from solvers.solve import choose, solve

__all__ = ["MixedIntegerRun", "mixed_integer", "program_solver"]

#: Norms whose ball has a linear or quadratic objective.
NORMS = (1.0, 2.0, math.inf)
#: Two distances agree within this part: solvers' claims are good to 1e-7 of the radius.
AGREES = 1e-6
#: The ball is larger than the witness's distance by this part, so that the witness lies inside
#: by more than the solvers' tolerances.
ROOM = 1e-5
#: A program is solved at most so many times again.
RETRIES = 2
#: The bounds are made anew once the reach is this part of what it was.
SHRUNK = 0.95
#: Part of the time left that may go into tightening bounds.
TIGHTENING = 0.25
#: A program that ran out of time is begun again only with this many times its time.
LONGER = 2.0
#: After these the program is solved again, in another order.
BROKEN = frozenset({Status.NUMERICAL, Status.UNKNOWN, Status.INFEASIBLE_OR_UNBOUNDED,
                    Status.ITERATION_LIMIT})  # fmt: skip


def mixed_integer(
    query: Query, interval: Interval, solver: str | None = None, tighten: Tighten | None = None
) -> MixedIntegerRun:
    """Search the ball of the interval's reach by one mixed-integer program per target class.

    Parameters
    ----------
    query : Query
        With a `radius`, any adversarial point within it settles the question.
    interval : Interval
        Its upper end is lowered by what the solver's points lead to, once proved; its lower end
        is raised by CROWN alone.
    solver : str, optional
        A name that `solvers.available` lists; HiGHS by default, SCIP in l_2.
    tighten : "crown", "lp" or "mip", optional
        How the bounds of open units are tightened: see `polytope.robustness.tightening`.

    Returns
    -------
    MixedIntegerRun

    Raises
    ------
    InputError
        For norms other than 1, 2 and inf, and where nothing bounds the search.
    SmoothActivation
        If the network is not piecewise linear.
    UnknownBackendError, MissingPackageError, UnsupportedProblemError
        Where the solver cannot be had, or does not solve this kind of program; the message names
        those that do.
    KeyboardInterrupt
        The interval keeps what was proved until then.
    """
    query.net.require_piecewise_linear("mixed_integer")
    if query.p not in NORMS:
        raise InputError(
            f"p: the mixed-integer programs know the norms 1, 2 and inf, got {query.p:g}; the "
            "other methods take any"
        )
    name = program_solver(query.p, solver)
    return _Search(query, interval, name, tighten or "lp").run()


def program_solver(p: float, solver: str | None) -> str:
    """The name of the solver for a norm: the one asked for, if it takes the programs.

    Raises
    ------
    UnknownBackendError, MissingPackageError, UnsupportedProblemError
        As `mixed_integer`.
    """
    name = solver or ("scip" if p == 2 else "highs")
    quadratic = [[1.0]] if p == 2 else None
    choose(MixedIntegerProgram([0.0], True, lower=0.0, upper=1.0, P=quadratic), name)
    return name


@dataclass(eq=False)
class _Search:
    """One run: what is known of each target, and the encoding of the ball that is searched."""

    query: Query
    interval: Interval
    solver: str
    tighten: Tighten
    runs: dict[int, TargetRun] = field(default_factory=dict)
    known: dict[int, float] = field(default_factory=dict)
    radius: float = math.inf
    encoder: Encoder | None = None

    def run(self) -> MixedIntegerRun:
        """All targets, those that CROWN leaves nearest first; unfinished ones once more."""
        interval, begin = self.interval, time.perf_counter()
        bounds = self._bounded()
        self._prove(bounds)
        if interval.witness is not None:
            rival = int(self.query.spot.rivals(interval.witness[None])[0])
            self.known[rival] = interval.upper
        waiting = [run.target for run in self._ordered() if not run.refuted]
        while waiting and not interval.stopped:
            unfinished: list[int] = []
            for i, target in enumerate(waiting):
                left = interval.deadline - time.perf_counter()
                share = max(left / (len(waiting) - i), LONGER * self.runs[target].seconds)
                if interval.stopped or share > left:
                    continue
                if not self._encode(bounds):
                    break
                if self.runs[target].refuted:  # in a smaller ball than before
                    continue
                self._solve(target, time.perf_counter() + share)
                if not (self.runs[target].finished or self.runs[target].contradicted):
                    unfinished.append(target)
            waiting = unfinished
        runs = self._ordered()
        claimed = min((run.claimed_lower for run in runs), default=math.inf)
        seconds = time.perf_counter() - begin
        return MixedIntegerRun(self.solver, self.tighten, runs, claimed, seconds)

    def _ordered(self) -> tuple[TargetRun, ...]:
        return tuple(sorted(self.runs.values(), key=lambda run: run.proved_lower))

    def _bounded(self) -> LayerBounds:
        """CROWN's bounds in the ball of the reach, or in the whole box."""
        query, radius = self.query, self.interval.reach
        low, high = query.steps(radius)
        if not np.isfinite(low).all() or not np.isfinite(high).all():
            raise InputError(
                "mixed_integer: neither the box, a radius, nor a known witness bounds the search; "
                "give a box or a radius, or run an attack first"
            )
        if math.isinf(radius):
            radius = float(lp_norm(np.maximum(-low, high)[None], query.p)[0])
        self.radius = radius * (1 + ROOM)
        x = torch.as_tensor(query.x)[None]
        box = (None, None) if query.box is None else (query.box.low, query.box.high)
        inputs = InputSet.from_ball(
            x, torch.tensor([self.radius], dtype=torch.float64), query.p,
            *(None if side is None else torch.as_tensor(side.copy()) for side in box),
        )  # fmt: skip
        with torch.no_grad():
            return layer_bounds(query.net, inputs)

    def _prove(self, bounds: LayerBounds) -> None:
        """What CROWN proves of each target: its linear bound of the lead holds in the ball."""
        query, targets = self.query, self.query.targets
        leads = torch.as_tensor(np.stack([query.lead(target) for target in targets]))
        with torch.no_grad():
            found = function_bounds(bounds, leads)
        lower, normal, offset = (part[0].numpy() for part in (found.lower, found.a, found.offset))
        for i, target in enumerate(targets):
            refuted, nearest = bool(lower[i] > 0), self.radius
            if not refuted:
                none = np.zeros(1)
                cell = Cell(normal[[i]], -offset[[i]], none, none)
                reached = cell_distance(cell, query.x, query.p, query.box)
                nearest = min(nearest, float(reached.lower))
            run = self.runs.get(target, TargetRun(target, 0.0))
            self.runs[target] = replace(
                run, proved_lower=max(run.proved_lower, nearest), refuted=run.refuted or refuted
            )
        self.interval.prove(min(run.proved_lower for run in self.runs.values()))

    def _encode(self, bounds: LayerBounds) -> bool:
        """Make the encoding, or make it anew in a smaller ball; False where it is too large."""
        interval = self.interval
        if self.encoder is not None:
            if interval.reach > SHRUNK * self.radius:
                return True
            bounds = self._bounded()
            self._prove(bounds)
        interval.held = encoding_bytes(self.query.net)
        if not interval.full:
            now = time.perf_counter()
            until = now + TIGHTENING * (interval.deadline - now)
            self.encoder = encoded(self.query, bounds, self.radius, self.tighten, until)
            interval.held = self.encoder.held
        return not interval.full

    def _solve(self, target: int, deadline: float) -> None:
        """One target, again in another order while its answer is contradicted."""
        assert self.encoder is not None
        query, interval = self.query, self.interval
        limit = min(1.0, interval.reach * (1 + ROOM) / self.radius)
        decide = query.radius is not None
        program = self.encoder.program(query.lead(target), limit, decide)
        run = self.runs[target]
        binaries = int(program.integrality.sum())
        run = replace(run, program=program, binaries=binaries, unit=self.radius)
        for _ in range(RETRIES + 1):
            found = self._asked(program, target, len(run.attempts), deadline)
            run = replace(run, attempts=(*run.attempts, self._judge(target, found, limit, decide)))
            self.runs[target] = run
            if found.status is Status.INTERRUPTED:
                raise KeyboardInterrupt
            if not run.contradicted or time.perf_counter() >= deadline:
                return

    def _asked(
        self, program: MixedIntegerProgram, target: int, before: int, deadline: float
    ) -> Solution:
        """The solver's answer; after the first attempt, to the program in another order."""
        rows, columns = np.arange(program.A.shape[0]), np.arange(program.A.shape[1])
        if before:
            rng = np.random.default_rng([self.query.seed, target, before])
            rows, columns = rng.permutation(rows), rng.permutation(columns)
        left = max(0.0, deadline - time.perf_counter())
        found = solve(reordered(program, rows, columns), self.solver, time_limit=left)
        if found.x is None:
            return found
        x = np.empty(len(columns))
        x[columns] = found.x
        return replace(found, x=x)

    def _judge(self, target: int, found: Solution, limit: float, decide: bool) -> Attempt:
        """Prove what can be proved of an answer, and compare it with what is known."""
        assert self.encoder is not None
        query, searched = self.query, limit * self.radius
        value, lower, proved = math.inf, 0.0, math.inf
        if found.status is Status.INFEASIBLE:
            lower = searched
        elif not decide or query.p == 2:
            lower = min(self._length(found.dual_bound), searched)
        if found.x is not None:
            step = self.encoder.step(found.x)
            value = float(lp_norm(step[None], query.p)[0])
            own = Interval(replace(query, target=target), self.interval.deadline)
            if own.offer(query.x + step):
                assert own.witness is not None
                proved = own.upper
                self.interval.take(own.upper, own.witness)
                self.known[target] = min(self.known.get(target, math.inf), own.upper)
        nearest = self.known.get(target, math.inf)
        wrong = ""
        if found.status in BROKEN:
            wrong = found.status.value
        elif lower > nearest * (1 + AGREES):
            wrong = f"claims nothing nearer than {lower:.9g}, but a witness is at {nearest:.9g}"
        elif found.status is Status.OPTIMAL and proved > max(value, searched if decide else 0.0) * (
            1 + AGREES
        ):
            wrong = f"claims a point at {value:.9g}, which was proved at {proved:.9g} only"
        return Attempt(
            found.status, value, lower, proved, found.stats.seconds, found.stats.nodes,
            found.stats.message, wrong,
        )  # fmt: skip

    def _length(self, value: float) -> float:
        """The distance that a value of the program stands for."""
        return self.radius * (math.sqrt(max(value, 0.0)) if self.query.p == 2 else max(value, 0.0))
