"""Small complexes: by brute force along lines through a 2-D domain, and by cells alone."""

from __future__ import annotations

import numpy as np

from polytope.model import Network
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.splitting import Splitter
from tests.nets import pieces


def split(net: Network, domain: Domain) -> Complex:
    """All regions of a domain, by splitting in one thread."""
    engine = Splitter(net, domain, 1)
    assert engine.begin(lambda: False)
    assert engine.run(lambda: False, lambda: None)
    return engine.complex(True, engine.verdicts)


def walked(
    net: Network, domain: Domain, lines: int = 60, seed: int = 0, size: float = 1
) -> Complex:
    """Regions and facets that random segments in ``[-size, size]^2`` meet (ReLU only).

    A region is convex: a segment whose ends have one pattern lies in it.
    """
    rng = np.random.default_rng(seed)
    number: dict[bytes, int] = {}
    points: list[np.ndarray] = []
    patterns: list[np.ndarray] = []
    edges: dict[tuple[int, int], np.ndarray] = {}

    def at(u: np.ndarray) -> tuple[int, np.ndarray]:
        own = pieces(net, domain.lift(u[None]))[0].astype(np.uint8)
        if own.tobytes() not in number:
            number[own.tobytes()] = len(points)
            points.append(u)
            patterns.append(own)
        return number[own.tobytes()], u

    def walk(a: tuple[int, np.ndarray], b: tuple[int, np.ndarray]) -> None:
        if a[0] == b[0]:
            return
        if np.abs(a[1] - b[1]).max() < 1e-13:
            edges.setdefault((min(a[0], b[0]), max(a[0], b[0])), (a[1] + b[1]) / 2)
            return
        middle = at((a[1] + b[1]) / 2)
        walk(a, middle)
        walk(middle, b)

    for start, end in size * rng.uniform(-1, 1, (lines, 2, 2)):
        walk(at(start), at(end))
    pairs = np.array(list(edges), dtype=np.int64).reshape(-1, 2)
    table = np.array(patterns)
    changed = [int(np.flatnonzero(table[i] != table[j])[0]) for i, j in pairs]
    return Complex(
        pieces=table,
        points=_centers(net, domain, table, np.array(points), size),
        edges=pairs,
        edge_points=np.array(list(edges.values())).reshape(-1, 2),
        edge_rows=np.array(changed, dtype=np.int64),
        complete=False,
    )


def _centers(
    net: Network, domain: Domain, table: np.ndarray, points: np.ndarray, size: float
) -> np.ndarray:
    """Means of the samples of each region, which lie inside it; or the point itself."""
    u = np.random.default_rng(9).uniform(-size, size, (20_000, 2))
    own = pieces(net, domain.lift(u)).astype(np.uint8)
    result = points.copy()
    for i, row in enumerate(table):
        inside = (own == row).all(axis=1)
        if inside.any():
            result[i] = u[inside].mean(axis=0)
    return result
