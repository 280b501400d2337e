"""`minimal_perturbation`: the distance to the nearest change of a decision, exactly."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.attacks.attack import Attacked
from polytope.attacks.criterion import Criterion, as_criterion
from polytope.attacks.linear_region import LinearRegion
from polytope.attacks.proof import adversarial
from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels, as_norm, positive_int, require_inside
from polytope.model import Network
from polytope.robustness.certificates import Certificates
from polytope.robustness.interval import Interval, Progress
from polytope.robustness.perturbation import Perturbation, Perturbations, Statistics
from polytope.robustness.query import Query
from polytope.robustness.ran import METHODS, Ran
from polytope.robustness.saved_rows import SavedRows, question
from polytope.robustness.theorem import certify
from polytope.robustness.witness import native_witnesses
from polytope.rows import classes_of
from polytope.sets import Box, BoxLike, as_box
from solvers.errors import SolverError, UnsupportedProblemError
from solvers.norms import NormLike
from solvers.registry import get

if TYPE_CHECKING:
    from polytope.robustness.engines import Engines

#: The attack that gives every point its first witness: repeated linearisation, then programs on
#: the regions behind the faces that hold the best one. What it misses, the engines find.
ATTACK = LinearRegion(restarts=0, starts=(), rivals=0)
#: The same where a target is given, which repeated linearisation does not take.
TARGETED = LinearRegion(restarts=0, rivals=0)
#: Points that are attacked together on a small network.
TOGETHER = 32
#: Rows times inputs of a small network: one point's share of the attack then takes milliseconds.
SMALL = 2**17
#: Tolerances: below, float64 cannot close the interval; above, it would not be called exact.
TOLERANCES = (1e-12, 1e-3)
#: Bytes that a search may hold by default.
MEMORY = 2**31
NORMS = (1.0, 2.0, math.inf)


@dataclass(frozen=True)
class _Asked:
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


def minimal_perturbation(
    net: Network,
    x: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    target: object = None,
    radius: float | None = None,
    method: str = "auto",
    time_limit: float = 60.0,
    tol: float = 1e-9,
    callback: Callable[[Progress], None] | None = None,
    *,
    solver: str | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    save: str | os.PathLike[str] | None = None,
) -> Perturbation | Perturbations:
    """How far a point is from being decided otherwise, exactly, or as a proved interval.

    An attack gives a witness, and programs on linear regions move it to the nearest point of its
    own; then an engine proves that nothing is nearer, or finds it.

    Parameters
    ----------
    net : Network
    x : array or tensor (d,) or input_shape for one point; (n, d) or (n, *input_shape) for several
        In the box.
    y : int or array (n,), optional
        The classes; those that the network decides by default. A point decided otherwise has
        distance 0 and status "misclassified".
    p : 1, 2 or "inf"
        The norm.
    box : Box or pair (low, high), optional
        Only points inside the box count.
    target : int or array (n,), optional
        The only class that counts; any other than the label by default. A point is adversarial
        where the target is at least as high as the label.
    radius : float, optional
        Only decide whether the decision holds within this distance, which is faster.
    method : {"auto", "branch_and_bound", "traversal", "mip"}
        "auto" picks, and says why in ``explain``. "mip" asks a solver of mixed-integer programs
        whose points are proved but whose bounds are only reported as ``claimed``.
    time_limit : float
        Seconds for each point.
    tol : float
        The interval is exact when it is no wider than this, relative to its upper end; from
        1e-12 (float64 cannot do better) to 1e-3.
    callback : callable, optional
        Called with a `Progress` whenever an interval becomes smaller.
    solver : str, optional
        For "mip": "highs" (default), "scip" (the default in l_2), "pulp" (CBC), "scipy", "cvxpy".
    seed : int
        For all that is random; row i uses ``seed + i``.
    memory : int
        Bytes that the search of a point may hold; reaching it returns the interval.
    save : path, optional
        Each row is written to this file as it ends, and rows that it holds are not searched
        again (those that were stopped are).

    Returns
    -------
    Perturbation, or Perturbations for a batch
        The time limit, the memory limit and Ctrl-C return the interval reached.

    Raises
    ------
    InputError
        For unusable arguments; an unknown method or solver (the message lists those there are).
    FileProblem
        If `save` cannot be written, or answers another question.
    SmoothActivation
        If the network is not piecewise linear.

    Notes
    -----
    The bounds hold in exact arithmetic for the compiled graph (`Perturbation.exactness` says
    where a deep network makes that impossible); `native_upper` is replayed in the source model.
    """
    from polytope.robustness.engines import Engines  # compiled code: only when it is wanted

    asked = _checked(
        net, x, y, p, box, target, radius, time_limit, tol, callback, seed, memory, method, solver
    )
    saved = None
    if save is not None:
        criterion = asked.criterion
        rest = (asked.p, asked.box, criterion.targets, asked.radius, method, solver, tol, seed)
        saved = SavedRows(save, question(net, asked.x.numpy(), criterion.labels, *rest))
    rows: list[Perturbation] = []
    size = TOGETHER if net.rows * net.input_size <= SMALL else 1
    engines: Engines | None = None
    interrupted = False
    for start in range(0, len(asked.x), size):
        part = np.arange(start, min(start + size, len(asked.x)))
        finished = [] if saved is None else [i for i in part.tolist() if i in saved]
        open_ = np.setdiff1d(part, finished)
        found: dict[int, Perturbation] = {}
        if len(open_) and not interrupted:
            if engines is None:
                engines = Engines(net, method, solver)
            chunk = _Chunk(asked, open_, engines)
            for i in open_.tolist():
                found[i] = chunk.row(i)
                if saved is not None:
                    saved.put(i, found[i])
                if chunk.interrupted:
                    interrupted = True
                    break
        for i in part.tolist():
            if saved is not None and i in saved:
                rows.append(saved.get(i, net))
            else:
                rows.append(found[i] if i in found else _untouched(asked, i, method))
    return rows[0] if _alone(net, x) else Perturbations(tuple(rows))


def _alone(net: Network, x: object) -> bool:
    """Whether one point was given, not a batch of one."""
    shape = tuple(x.shape) if isinstance(x, torch.Tensor) else np.asarray(x).shape
    return shape in (tuple(net.input_shape), (net.input_size,))


class _Chunk:
    """Some rows that are attacked together, and then searched one by one."""

    def __init__(self, asked: _Asked, rows: np.ndarray, engines: Engines) -> None:
        self._asked, self._engines = asked, engines
        self._place = {int(i): k for k, i in enumerate(rows)}
        self.interrupted = False
        begin = time.perf_counter()
        self._lost = np.zeros(len(rows), dtype=bool)
        self._attacked: Attacked | None = None
        self._theorem: Certificates | None = None
        if asked.time_limit > 0:
            try:
                self._start(rows)
            except KeyboardInterrupt:
                self.interrupted = True
        self._share = (time.perf_counter() - begin) / len(rows)

    def _start(self, rows: np.ndarray) -> None:
        """Attack the points, and bound them by their own linear regions."""
        asked, criterion = self._asked, self._asked.criterion.select(rows)
        x = asked.x[torch.as_tensor(rows)]
        points = x.flatten(1).numpy()
        self._lost = adversarial(asked.net, points, criterion)
        attack = ATTACK if criterion.targets is None else TARGETED
        self._attacked = attack(
            asked.net, x, criterion.labels, asked.p, asked.box, criterion.targets,
            seed=asked.seed + int(rows[0]), time_limit=asked.time_limit * len(rows) / 4,
        )  # fmt: skip
        if not self._attacked.stopped.any():
            self._theorem = certify(asked.net, x, criterion.labels, asked.p, asked.box)

    def row(self, i: int) -> Perturbation:
        """Search one point."""
        asked, k = self._asked, self._place[i]
        query = asked.query(i)
        begun = time.perf_counter() - self._share
        report = None
        if asked.callback is not None:
            call = asked.callback

            def report(state: Interval) -> None:
                call(Progress(i, state.lower, state.upper, state.seconds, method))

        method = "attack"
        interval = Interval(query, begun + asked.time_limit, report, begun=begun)
        ran = Ran("attack", "the attack and the point's own linear region settled it")
        theorem = math.nan
        try:
            if self._lost[k]:
                interval.take(0.0, query.x)
                ran = replace(ran, explain="the point itself is adversarial")
            else:
                self._begin(interval, k)
                if self._theorem is not None:
                    theorem, ran = self._by_theorem(interval, k, ran)
            if not interval.settled and not self.interrupted and not interval.stopped:
                method, why = self._engines.choose(query, interval)
                ran = replace(ran, method=method, explain=f"{method} ({why}) did not finish")
                ran = self._engines.run(query, interval, method, why)
        except UnsupportedProblemError as error:
            raise InputError(f"solver: {error}") from error
        except KeyboardInterrupt:
            self.interrupted = True
        attack_upper = math.inf if self._attacked is None else float(self._attacked.distance[k])
        statistics = Statistics(
            seconds=interval.seconds, attack_upper=attack_upper, theorem_lower=theorem,
            crown_lower=ran.crown, regions=ran.regions, nodes=ran.nodes, programs=ran.programs,
            trace=tuple(interval.trace),
        )  # fmt: skip
        return _result(interval, ran, statistics, self.interrupted)

    def _begin(self, interval: Interval, k: int) -> None:
        """Start from what the attack found."""
        if self._attacked is not None and np.isfinite(self._attacked.distance[k]):
            interval.take(float(self._attacked.distance[k]), self._attacked.witness[k])

    def _by_theorem(self, interval: Interval, k: int, ran: Ran) -> tuple[float, Ran]:
        """Use what the point's own region proves (Theorem 3.1 of MMR)."""
        assert self._theorem is not None
        lower, safe = float(self._theorem.lower[k]), self._theorem.exactness[k] == "safe-float"
        if safe:
            interval.prove(lower)
        if interval.query.target is None and np.isfinite(self._theorem.upper[k]):
            interval.take(float(self._theorem.upper[k]), self._theorem.witness[k])
        return lower, ran


def _result(interval: Interval, ran: Ran, stats: Statistics, interrupted: bool) -> Perturbation:
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
        stats=stats, evidence=ran.evidence, net=net,
    )  # fmt: skip


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


def _untouched(asked: _Asked, row: int, method: str) -> Perturbation:
    """A row that Ctrl-C left out."""
    interval = Interval(asked.query(row), -math.inf)
    ran = Ran(method, "not begun: interrupted before")
    return _result(interval, ran, Statistics(seconds=0.0), interrupted=True)


def _checked(
    net: Network, x: object, y: object, p: NormLike, box: BoxLike, target: object,
    radius: float | None, time_limit: float, tol: float,
    callback: Callable[[Progress], None] | None, seed: int, memory: int, method: str,
    solver: str | None,
) -> _Asked:  # fmt: skip
    """Refuse what cannot be used."""
    net.require_piecewise_linear("minimal_perturbation")
    exponent = as_norm(p)
    if exponent not in NORMS:
        raise InputError(
            f"p: got {p!r}; the minimal perturbation is exact for p = 1, 2 and inf; for other "
            "norms certify gives a proved interval"
        )
    if method not in METHODS:
        raise InputError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if solver is not None:
        try:
            get(solver)
        except SolverError as error:
            raise InputError(f"solver: {error}") from error
        if method != "mip":
            raise InputError(
                f"solver: got {solver!r} with method={method!r}; only method='mip' asks a solver"
            )
    limits = as_box(box, net.input_size)
    batch = as_batch(net, x, name="x").cpu()
    require_inside(batch, limits)
    classes = classes_of(net)
    labels = as_labels(net.predict(batch) if y is None else y, len(batch), classes)
    if classes < 2:
        raise InputError("net: decides between classes, but has only one")
    numbers = {"time_limit": time_limit, "tol": tol, "radius": 0.0 if radius is None else radius}
    for name, value in numbers.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not value >= 0 or (name == "radius" and math.isinf(value)):
            raise InputError(f"{name}: got {value!r}, expected a number of at least 0")
    if not TOLERANCES[0] <= tol <= TOLERANCES[1]:
        raise InputError(
            f"tol: got {tol!r}, expected from {TOLERANCES[0]:g} (float64 cannot do better) to "
            f"{TOLERANCES[1]:g}"
        )
    if callback is not None and not callable(callback):
        raise InputError(f"callback: got {callback!r}, expected a function of one Progress")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed: got {seed!r}, expected a whole number of at least 0")
    return _Asked(
        net, batch, as_criterion(labels, target, classes), exponent, limits,
        None if radius is None else float(radius), float(tol), int(seed),
        positive_int(memory, "memory"), float(time_limit), callback,
    )  # fmt: skip
