"""All regions of a domain as they are found, without their graph: for what looks at each once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.regions.crossing import Crosser
from polytope.regions.domain import Domain
from polytope.regions.parts import Part
from polytope.regions.search import SPLIT_BOUNDED, SPLIT_UNBOUNDED
from polytope.regions.splitting import Splitter
from polytope.regions.walker import TooManyFacets

#: Regions that are handed over together.
BATCH = 2**10

#: Takes patterns (n, units) and a point inside each (n, k), NaN where none is known.
Take = Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Streamed:
    """How a stream ended.

    Attributes
    ----------
    complete : bool
        Every region of the domain was handed over.
    regions : int
        Regions handed over, each counted once.
    """

    complete: bool
    regions: int


def stream_regions(
    net: Engine,
    domain: Domain,
    take: Take,
    halt: Callable[[int], bool],
    max_regions: int | None = None,
) -> Streamed:
    """Hand over the activation regions of full dimension inside a domain, batch by batch.

    Parameters
    ----------
    net : Engine
        Piecewise linear, with at least one unit.
    domain : Domain
        Without an l_2 ball.
    take : callable
        Called as ``take(pieces, points)``; a region may come twice where the domain is unbounded,
        or where the engine was changed on the way.
    halt : callable
        Asked between batches with the number of regions so far; True ends the stream.
    max_regions : int, optional
        End after so many regions (a few more may be handed over).

    Raises
    ------
    InputError
        If the domain carries an l_2 ball.
    """
    if domain.ball is not None:
        raise InputError("stream_regions: got a domain with an l_2 ball; give the box around it")
    most = SPLIT_BOUNDED if domain.bounded else SPLIT_UNBOUNDED
    if domain.dimension <= most and max_regions is None:
        try:
            return _split(net, domain, take, halt)
        except TooManyFacets:
            pass  # a cell has more facets than the kernels hold: cross them instead
    return _cross(net, domain, take, halt, max_regions)


def _split(net: Engine, domain: Domain, take: Take, halt: Callable[[int], bool]) -> Streamed:
    """By splitting cells."""
    engine = Splitter(net, domain, 1)
    seen = 0
    stopped = False

    def ask() -> bool:
        nonlocal stopped
        stopped = stopped or halt(seen)
        return stopped

    keys: list[np.ndarray] = []
    waiting: list[Part] = []

    def hand_over() -> None:
        take(
            np.concatenate([part.pieces for part in waiting]),
            np.concatenate([part.points for part in waiting]),
        )
        waiting.clear()

    for part in engine.parts(ask):
        if len(part.keys):
            seen += len(part.keys)
            keys.append(part.keys)
            waiting.append(part)
        if sum(len(own.keys) for own in waiting) >= BATCH:
            hand_over()
    if waiting:
        hand_over()
    regions = seen if domain.bounded or not keys else len(np.unique(np.concatenate(keys)))
    return Streamed(not stopped, regions)


def _cross(
    net: Engine, domain: Domain, take: Take, halt: Callable[[int], bool], max_regions: int | None
) -> Streamed:
    """By crossing facets, breadth-first; regions met but not expanded come last."""
    engine = Crosser(net, domain, 1, domain.inside, False)
    walk = engine.begin()
    seen = 0

    def look(done: int) -> bool:
        nonlocal seen
        if done > seen:  # regions are expanded in the order in which they are numbered
            take(walk.pieces[seen:done].copy(), walk.points[seen:done].copy())
            seen = done
        return halt(done)

    complete = engine.run(walk, max_regions, look)
    done = int(walk.expanded[: walk.count].sum())
    if done > seen:
        take(walk.pieces[seen:done].copy(), walk.points[seen:done].copy())
    if walk.count > done:
        unknown = np.full((walk.count - done, domain.dimension), np.nan)
        take(walk.pieces[done : walk.count].copy(), unknown)
    return Streamed(complete, walk.count)
