"""One search for regions: which engine, when to stop, what to save, how to go on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polytope.errors import FileProblem, InputError
from polytope.network.engine import Engine
from polytope.regions.complex import Complex
from polytope.regions.crossing import Crosser
from polytope.regions.domain import Domain
from polytope.regions.interrupt import interruptible
from polytope.regions.splitting import Splitter
from polytope.regions.walk import Walk
from polytope.regions.walker import TooManyFacets

#: Cells with vertices are the faster way up to this dimension of a bounded domain, and up to
#: the second one of an unbounded domain, where they have many rays.
SPLIT_BOUNDED, SPLIT_UNBOUNDED = 5, 3
METHODS = ("auto", "splitting", "crossing")
ORDERS = ("breadth", "nearest")


@dataclass(frozen=True)
class Limits:
    """When a search stops, and who is told.

    Attributes
    ----------
    max_regions : int or None
    time_limit : float or None
        Seconds.
    workers : int or None
        Threads; None: one for each core that the process may use.
    progress : callable or None
        Called as ``progress(regions found so far)``.
    save : callable or None
        Called as ``save(complex, state)`` every `save_every` seconds.
    save_every : float
    """

    max_regions: int | None = None
    time_limit: float | None = None
    workers: int | None = None
    progress: Callable[[int], None] | None = None
    save: Callable[[Complex, Mapping[str, np.ndarray]], None] | None = None
    save_every: float = 30.0

    def __post_init__(self) -> None:
        for name, least in (("max_regions", 1), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or value < least):
                raise InputError(f"{name}: got {value!r}, expected a whole number of at least 1")
        for name in ("time_limit", "save_every"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name}: got {value!r}, expected seconds, at least 0")


@dataclass(frozen=True)
class Outcome:
    """What a search ended with.

    Attributes
    ----------
    found : Complex
    state : mapping of str to array
        What `search` needs to go on; empty if everything was found.
    method : str
        "splitting" or "crossing".
    stopped : str
        Why it ended early: "max_regions", "time_limit", "interrupt", or "" if it did not.
    """

    found: Complex
    state: Mapping[str, np.ndarray]
    method: str
    stopped: str


class _Clock:
    """Decides when to stop and when to save."""

    def __init__(self, limits: Limits, interrupted: threading.Event) -> None:
        self._limits, self._interrupted = limits, interrupted
        now = time.monotonic()
        self._begun = self._saved = now
        self.stopped = ""

    def halt(self) -> bool:
        """Whether time is up, or the user wants to stop."""
        limit = self._limits.time_limit
        if self._interrupted.is_set():
            self.stopped = "interrupt"
        elif limit is not None and time.monotonic() - self._begun >= limit:
            self.stopped = "time_limit"
        return bool(self.stopped)

    def look(
        self, regions: int, snapshot: Callable[[], tuple[Complex, Mapping[str, np.ndarray]]]
    ) -> None:
        """Report, and save if it is time to."""
        if self._limits.progress is not None:
            self._limits.progress(regions)
        save = self._limits.save
        if save is not None and time.monotonic() - self._saved >= self._limits.save_every:
            save(*snapshot())
            self._saved = time.monotonic()


def search(
    net: Engine,
    domain: Domain,
    limits: Limits,
    start: np.ndarray | None = None,
    method: str = "auto",
    order: str | None = None,
    state: Mapping[str, np.ndarray] | None = None,
) -> Outcome:
    """Find the regions of a domain.

    Parameters
    ----------
    net : Engine
    domain : Domain
    limits : Limits
    start : float64 array (k,), optional
        Coordinates where a walk begins.
    method, order : str
        See `polytope.region_graph`.
    state : mapping, optional
        That of an earlier outcome: the search goes on from there.

    Raises
    ------
    InputError
    FileProblem
        If a state is damaged.
    """
    net.require_piecewise_linear("region_graph")
    state = dict(state or {})
    if state:
        method = _text(state, "method", ("splitting", "crossing"))
        order = _text(state, "order", ("", *ORDERS)) or None
        start = _start(state, domain) if method == "crossing" else None
    chosen = _method(domain, limits, start, method, order)
    with interruptible() as interrupted:
        clock = _Clock(limits, interrupted)
        if chosen == "splitting":
            try:
                return _split(net, domain, limits, clock, state)
            except TooManyFacets as error:
                if method == "splitting":
                    raise InputError(
                        "region_graph: a cell has more than 64 facets, which method='splitting' "
                        "cannot hold; use method='crossing' (or 'auto')"
                    ) from error
        return _cross(net, domain, limits, clock, start, order or "breadth", state)


def _method(
    domain: Domain, limits: Limits, start: np.ndarray | None, method: str, order: str | None
) -> str:
    """The engine.

    Raises
    ------
    InputError
        For an unknown one, or one that cannot do what is asked.
    """
    if method not in METHODS:
        raise InputError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if order is not None and order not in ORDERS:
        raise InputError(f"order: got {order!r}, expected one of {', '.join(ORDERS)}")
    if order == "nearest" and start is None:
        raise InputError("order='nearest' needs start=, the point whose nearest regions are wanted")
    walks = limits.max_regions is not None or start is not None or order is not None
    if method == "splitting" and (walks or domain.ball is not None):
        raise InputError(
            "method='splitting' finds all regions at once: it takes no max_regions, start or "
            "order, and no l_2 ball; use method='crossing' (or 'auto')"
        )
    if method != "auto":
        return method
    most = SPLIT_BOUNDED if domain.bounded else SPLIT_UNBOUNDED
    return (
        "crossing" if walks or domain.ball is not None or domain.dimension > most else "splitting"
    )


def _split(
    net: Engine, domain: Domain, limits: Limits, clock: _Clock, state: Mapping[str, np.ndarray]
) -> Outcome:
    """Search by splitting cells."""
    engine = Splitter(net, domain, limits.workers or cores())
    before = 0
    if not engine.begin(clock.halt):
        return Outcome(
            engine.complex(False, engine.verdicts),
            _named({}, "splitting"),
            "splitting",
            clock.stopped,
        )
    if _part(state):
        engine.restore(_part(state))
        before = int(state["verdicts"])

    def snapshot() -> tuple[Complex, Mapping[str, np.ndarray]]:
        return engine.complex(False, before + engine.verdicts), _named(engine.arrays(), "splitting")

    done = engine.run(clock.halt, lambda: clock.look(engine.regions, snapshot))
    clock.look(engine.regions, snapshot)
    found = engine.complex(done, before + engine.verdicts)
    left = {} if done else _named(engine.arrays(), "splitting")
    return Outcome(found, left, "splitting", clock.stopped)


def _cross(
    net: Engine,
    domain: Domain,
    limits: Limits,
    clock: _Clock,
    start: np.ndarray | None,
    order: str,
    state: Mapping[str, np.ndarray],
) -> Outcome:
    """Search by crossing facets."""
    begin = domain.inside if start is None else start
    engine = Crosser(net, domain, limits.workers or cores(), begin, order == "nearest")
    walk = Walk.from_arrays(_part(state)) if state else engine.begin()

    def arrays() -> dict[str, np.ndarray]:
        return _named(walk.arrays(), "crossing", order) | {"start": begin}

    def halt(done: int) -> bool:
        clock.look(done, lambda: (engine.complex(walk, False), arrays()))
        return clock.halt()

    done = engine.run(walk, limits.max_regions, halt)
    stopped = "" if done else clock.stopped or "max_regions"
    return Outcome(engine.complex(walk, done), {} if done else arrays(), "crossing", stopped)


def _named(arrays: Mapping[str, np.ndarray], method: str, order: str = "") -> dict[str, np.ndarray]:
    texts = {"method": method, "order": order}
    return dict(arrays) | {k: np.frombuffer(v.encode(), np.uint8) for k, v in texts.items()}


def _text(state: Mapping[str, np.ndarray], name: str, known: Sequence[str]) -> str:
    """A word of a state.

    Raises
    ------
    FileProblem
        If it is missing, or none of those known.
    """
    word = state[name].tobytes().decode(errors="replace") if name in state else "missing"
    if word not in known:
        raise FileProblem(f"the saved search is damaged: its {name} is {word!r}")
    return word


def _start(state: Mapping[str, np.ndarray], domain: Domain) -> np.ndarray:
    """The start of a walk.

    Raises
    ------
    FileProblem
    """
    start = state.get("start")
    if start is None or start.shape != (domain.dimension,):
        raise FileProblem("the saved search is damaged: its start is missing or no point")
    return start


def _part(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return {k: v for k, v in state.items() if k not in ("method", "order", "start")}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
