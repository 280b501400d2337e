"""Activation regions merged into linear regions, where the network is the same affine map.

What "linear region" means differs between papers; Stargalla, Hertrich and Reichman (arXiv
2505.16716) compare six definitions.  In their words a node of a `RegionGraph` is a *proper
activation region*: one pattern, full dimension.  Here

- a **linear region** is a maximal set of such regions connected through facets on which the
  network is one affine map: their *open connected region*, the linear region of Montufar et
  al. (2014), and the *complete linear region* of ROLL (arXiv 1907.03207, section 3);
- an **affine region** is the set of all regions with one affine map, connected or not (their
  *affine region*).

All within the domain: what is connected only outside of it counts as two.  Maps are compared
on the domain, in float64 with rigorous error bounds, and exactly where those cannot decide.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from polytope.network.engine import Engine
from polytope.network.rounding import rounding_bounds
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.rows import given_pieces

#: Numbers that one batch may hold, counting every node of the graph: 128 MB in float64.
BATCH_VALUES = 2**24

#: What identifies an affine map: its integers, and their common scale.
MapKey = tuple[Fraction, tuple[int, ...]]


def linear_regions(net: Engine, domain: Domain, found: Complex) -> np.ndarray:
    """The linear region that each activation region belongs to: int64 (n,), from 0.

    Two regions that share a facet agree on it, so their maps differ everywhere off its
    hyperplane or nowhere: one interior point decides.
    """
    n = len(found.pieces)
    i, j = found.edges.T
    same = ~_differ(net, domain, found, i, j)
    doubtful = np.flatnonzero(same)
    exact = _ExactKeys(net, domain)
    for edge in doubtful:
        same[edge] = exact.key(found.pieces[i[edge]]) == exact.key(found.pieces[j[edge]])
    joined = coo_array((np.ones(same.sum()), (i[same], j[same])), shape=(n, n))
    return np.asarray(connected_components(joined, directed=False)[1], dtype=np.int64)


def affine_regions(
    net: Engine, domain: Domain, found: Complex, linear: np.ndarray | None = None
) -> np.ndarray:
    """The affine region that each activation region belongs to: int64 (n,), from 0.

    Parameters
    ----------
    net : Engine
    domain : Domain
    found : Complex
    linear : int64 array (n,), optional
        What `linear_regions` returned, if that is at hand.
    """
    if not len(found.pieces):
        return np.zeros(0, dtype=np.int64)
    label = linear_regions(net, domain, found) if linear is None else linear
    _, first = np.unique(label, return_index=True)
    point = np.repeat(_probe(found.points)[None], len(first), axis=0)
    values, errors = _values(net, domain, point, found.pieces[first])
    weights = np.random.default_rng(0).uniform(0.5, 1.0, size=values.shape[1:])
    value, error = values @ weights, errors @ weights
    error = error + len(weights) * np.finfo(np.float64).eps * (np.abs(values) @ weights)
    low, high = value - error, value + error
    order = np.argsort(low)
    reach = np.maximum.accumulate(high[order])
    cluster = np.cumsum(np.append(0, low[order][1:] > reach[:-1]))
    group = np.empty(len(first), dtype=np.int64)
    group[order] = cluster
    exact = _ExactKeys(net, domain)
    keys: list[tuple[int, MapKey | None]] = [
        (int(g), exact.key(found.pieces[region]) if crowded else None)
        for g, region, crowded in zip(group, first, np.bincount(group)[group] > 1, strict=True)
    ]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return np.asarray(np.array([number[key] for key in keys], dtype=np.int64)[label])


class _ExactKeys:
    """Exact affine maps of patterns on the domain, as keys to compare."""

    def __init__(self, net: Engine, domain: Domain) -> None:
        self._maps = ExactMaps(net, domain)
        self._layers = len(net.layers)
        self._known: dict[bytes, MapKey] = {}

    def key(self, pieces: np.ndarray) -> MapKey:
        """The canonical form of a pattern's map: equal for equal maps only."""
        name = pieces.tobytes()
        found = self._known.get(name)
        if found is None:
            exact = self._maps.layer(self._layers, pieces)
            numbers = exact.integers.reshape(-1).tolist()
            divisor = math.gcd(*numbers)
            scale = Fraction(divisor, exact.denominator) * Fraction(2) ** exact.exponent
            found = (scale, tuple(n // (divisor or 1) for n in numbers))
            self._known[name] = found
        return found


def _differ(
    net: Engine, domain: Domain, found: Complex, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Which pairs of neighbours have maps that surely differ: bool (m,).

    At one point in general position nearly all do; the others are compared inside a region.
    """
    if not len(i):
        return np.zeros(0, dtype=bool)
    probe = np.repeat(_probe(found.points)[None], len(found.pieces), axis=0)
    value, error = _values(net, domain, probe, found.pieces)
    result = np.asarray((np.abs(value[i] - value[j]) > error[i] + error[j]).any(axis=1))
    left = np.flatnonzero(~result)
    for block in blocks(net, len(left)):
        place = left[block]
        at = found.points[i[place]]
        one, error_one = _values(net, domain, at, found.pieces[i[place]])
        two, error_two = _values(net, domain, at, found.pieces[j[place]])
        result[place] = (np.abs(one - two) > error_one + error_two).any(axis=1)
    return result


def _values(
    net: Engine, domain: Domain, u: np.ndarray, pieces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Affine maps of patterns at coordinates u (n, k), and bounds on the errors: (n, outputs)."""
    values, errors = [], []
    for place in blocks(net, len(u)):
        x, error = lifted(domain, u[place])
        shaped = torch.as_tensor(x).reshape(-1, *net.input_shape)
        own = torch.as_tensor(pieces[place].astype(np.int64))
        with torch.no_grad():
            for state in net.sweep(shaped, None, given_pieces(own)):
                last = state.values
            room = torch.as_tensor(error).reshape(shaped.shape)
            bound = rounding_bounds(net, shaped, own, room)[-1].value
        values.append(last.flatten(1).numpy())
        errors.append(bound.flatten(1).numpy())
    return np.concatenate(values), np.concatenate(errors)


def lifted(domain: Domain, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, D) of coordinates (n, k), and how far rounding may have moved each number."""
    x = domain.lift(u)
    if domain.basis is None or domain.origin is None:
        return x, np.zeros_like(x)
    unit = (len(domain.basis) + 2) * np.finfo(np.float64).eps
    return x, unit * (np.abs(domain.origin) + np.abs(u) @ np.abs(domain.basis))


def blocks(net: Engine, count: int) -> list[slice]:
    """Rows in blocks whose values fit `BATCH_VALUES`."""
    size = max(1, BATCH_VALUES // sum(node.size for node in net.graph.nodes))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _probe(points: np.ndarray) -> np.ndarray:
    """A point in general position among the regions."""
    middle, spread = points.mean(axis=0), points.std(axis=0) + 1e-3
    return np.asarray(middle + spread * np.random.default_rng(0).normal(size=points.shape[1]))
