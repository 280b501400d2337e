"""What must hold for every graph of regions, and its comparison with the exact oracle."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
from scipy.spatial import ConvexHull, HalfspaceIntersection

from polytope.errors import InputError
from polytope.graph import RegionGraph
from polytope.model import Network
from polytope.network.ir import Gather, Graph, Linear, Node
from polytope.regions.domain import Domain
from tests.nets import pieces
from tests.oracle.rational import affine_exact
from tests.oracle.regions_2d import Pattern, Point, Polygon, Regions2D, regions_2d

Edges = set[frozenset[Pattern]]


def patterns(graph: RegionGraph) -> set[Pattern]:
    """The piece of every unit, for every region; no region twice."""
    found = [tuple(row) for row in graph.found.pieces.tolist()]
    assert len(set(found)) == len(found)
    return set(found)


def adjacency(graph: RegionGraph) -> Edges:
    """The patterns on the two sides of every shared facet; no pair twice."""
    found = [tuple(row) for row in graph.found.pieces.tolist()]
    pairs = [frozenset((found[i], found[j])) for i, j in graph.edges.tolist()]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def assert_same(one: RegionGraph, other: RegionGraph) -> None:
    """Two searches found the same regions and the same shared facets."""
    assert one.complete
    assert other.complete
    assert patterns(one) == patterns(other)
    assert adjacency(one) == adjacency(other)


def assert_sound(graph: RegionGraph, closures: int = 400) -> None:
    """Points inside, points of facets in both closures, something flips; by the arrays alone.

    Parameters
    ----------
    graph : RegionGraph
    closures : int
        Regions and facets (evenly spread) whose points are held against `Region.contains`.
    """
    n, m = len(graph), len(graph.edges)
    assert graph.coordinates.shape == (n, graph.domain.dimension)
    assert graph.edge_points.shape == (m, graph.domain.dimension)
    assert np.isfinite(graph.coordinates).all()
    assert np.isfinite(graph.edge_points).all()
    for points in (graph.coordinates, graph.edge_points):
        room = 1e-12 * (1 + np.abs(points).max(initial=0.0)) * (1 + _size(graph.domain))
        assert graph.domain.contains(points, room).all()
    patterns(graph)
    adjacency(graph)
    edges = graph.edges
    assert (edges[:, 0] < edges[:, 1]).all()
    flipped, _ = graph.flipped()
    assert set(flipped.tolist()) == set(range(m))
    own = pieces(graph.net, graph.points) if n else graph.found.pieces
    outside = np.flatnonzero((own != graph.found.pieces).any(axis=1))
    for i in outside[: closures // 4].tolist():  # within rounding of a facet, at most
        assert in_closure(graph, i, graph.points[i])
    at = graph.domain.lift(graph.edge_points)
    for e in _spread(m, closures).tolist():
        for i in edges[e].tolist():
            assert in_closure(graph, i, at[e])


def assert_tiled(graph: RegionGraph) -> None:
    """Regions of a bounded domain fill it: volumes (areas) sum to the domain's to 1e-9."""
    domain = graph.domain
    volumes = [_volume(graph, i) for i in range(len(graph))]
    if domain.dimension == 1:
        whole = float(np.ptp(domain.limits))
    else:
        rows = np.column_stack([domain.A, -domain.b])
        whole = ConvexHull(HalfspaceIntersection(rows, domain.inside).intersections).volume
    assert abs(math.fsum(volumes) - whole) <= 1e-9 * whole


def _volume(graph: RegionGraph, i: int) -> float:
    """The volume of a region; 0 for one so thin that floats cannot measure it."""
    try:
        return graph.volume(i).value
    except InputError as error:
        if "no interior" not in str(error):
            raise
        return 0.0


def assert_points_in_one_region(graph: RegionGraph, count: int = 30, seed: int = 0) -> None:
    """Random points of the domain lie in the closure of a region, strictly inside only one.

    The rows are those of `RegionGraph.region`, so that a point with a pattern that the graph
    lacks, or regions that overlap, are noticed.
    """
    rng = np.random.default_rng(seed)
    low, high = (np.clip(side, -1e3, 1e3) for side in graph.domain.limits)
    u = rng.uniform(low, high, (50 * count, graph.domain.dimension))
    u = u[graph.domain.contains(u)][:count]
    x = graph.domain.lift(u)
    strictly = np.zeros(len(x), dtype=int)
    closed = np.zeros(len(x), dtype=int)
    for i in range(len(graph)):
        region = graph.region(i)
        excess = x @ region.A.T - region.b
        band = region.error_band(x)
        strictly += (excess < -band)[:, ~region.zero_rows].all(axis=1)
        closed += (excess <= band).all(axis=1)
    assert (strictly <= 1).all()
    assert (closed >= 1).all()


def in_closure(graph: RegionGraph, i: int, point: np.ndarray) -> bool:
    """Whether a point satisfies every row of a region, up to the rounding of the point itself.

    That is a distance of some units in the last place of the point and of the domain, which is
    how long a facet may be: `Region.contains` allows for the rounding of the rows alone, and
    takes the point to be exact.
    """
    region = graph.region(i)
    limits = np.abs(graph.domain.limits)
    extent = limits[np.isfinite(limits)].max(initial=0.0)
    near = 1e-12 * (1 + np.abs(point).max()) + 1e-14 * extent
    room = near * np.linalg.norm(region.A, axis=1)
    excess = region.A @ point - region.b
    return bool((excess <= region.error_band(point)[0] + room).all())


def truth(net: Network, domain: Domain) -> Regions2D:
    """The exact regions in a domain of two coordinates (its floats taken as they are)."""
    graph = net.graph if domain.basis is None else restricted(net.graph, domain)
    return regions_2d(graph, under=(domain.A, domain.b))


def restricted(graph: Graph, domain: Domain) -> Graph:
    """A network over the coordinates of a domain: its frame as a first linear node."""
    assert domain.basis is not None
    constants = {**graph.constants, "frame": domain.basis.T, "origin": domain.origin}
    first = (
        Node(graph.nodes[0].op, (), (domain.dimension,), "coordinates"),
        Node(Linear("frame", "origin"), (0,), (domain.size,), "frame"),
        Node(Gather(None), (1,), graph.input_shape, "input"),
    )
    rest = (replace(node, inputs=tuple(i + 2 for i in node.inputs)) for node in graph.nodes[1:])
    return Graph((*first, *rest), constants)


def assert_exact(graph: RegionGraph, expected: Regions2D, areas: bool = False) -> None:
    """The regions and the shared facets of the oracle, and points where they belong."""
    assert graph.complete
    assert patterns(graph) == expected.patterns
    assert adjacency(graph) == expected.adjacency
    assert_sound(graph, 40)
    if areas:
        own = expected.areas
        for i, row in enumerate(graph.found.pieces.tolist()):
            area = own[tuple(row)]
            assert area is not None
            found = graph.volume(i)
            assert abs(found.value - float(area)) <= 1e-9 * float(area) + 1e-15


def total(expected: Regions2D) -> Fraction:
    """The area of all regions."""
    return sum((area for area in expected.areas.values() if area is not None), Fraction(0))


def _size(domain: Domain) -> float:
    return float(np.abs(domain.A).max(initial=0.0))


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def partition(graph: RegionGraph, labels: np.ndarray) -> set[frozenset[Pattern]]:
    """Labels of the regions as sets of patterns."""
    groups: dict[int, set[Pattern]] = {}
    for label, row in zip(labels.tolist(), graph.found.pieces.tolist(), strict=True):
        groups.setdefault(label, set()).add(tuple(row))
    return {frozenset(group) for group in groups.values()}


def merged(
    net: Network, domain: Domain, expected: Regions2D
) -> tuple[set[frozenset[Pattern]], set[frozenset[Pattern]]]:
    """Linear regions (connected) and affine regions of the plane, by exact affine maps."""
    graph = net.graph if domain.basis is None else restricted(net.graph, domain)
    maps: dict[Pattern, object] = {}
    by_map: dict[object, set[Pattern]] = {}
    for pattern in expected.patterns:
        gradients, offsets = affine_exact(graph, pattern)[-1]
        maps[pattern] = key = (tuple(map(tuple, gradients)), tuple(offsets))
        by_map.setdefault(key, set()).add(pattern)
    groups = {pattern: {pattern} for pattern in expected.patterns}
    for one, other in map(tuple, expected.adjacency):
        if maps[one] == maps[other] and groups[one] is not groups[other]:
            groups[one] |= groups[other]
            for pattern in groups[other]:
                groups[pattern] = groups[one]
    return (
        {frozenset(group) for group in groups.values()},
        {frozenset(group) for group in by_map.values()},
    )


def in_ball(expected: Regions2D, center: np.ndarray, radius: float) -> tuple[set[Pattern], Edges]:
    """The regions and pairs whose inside or shared segment enters an open l_2 ball, exactly.

    `expected` must be of bounded regions that cover the ball.
    """
    square = Fraction(float(radius)) ** 2
    at = (Fraction(float(center[0])), Fraction(float(center[1])))
    regions = {
        pattern
        for pattern, parts in expected.polygons.items()
        if any(_square_distance_to_polygon(part, at) < square for part in parts)
    }
    pairs = {
        pair
        for pair, segments in expected.shared.items()
        if any(_square_distance_to_segment(p, q, at) < square for p, q in segments)
    }
    return regions, pairs


def _square_distance_to_polygon(polygon: Polygon, at: Point) -> Fraction:
    corners = [(Fraction(x, w), Fraction(y, w)) for x, y, w in polygon]
    sides = list(zip(corners, (*corners[1:], corners[0]), strict=True))
    if all((q[0] - p[0]) * (at[1] - p[1]) >= (q[1] - p[1]) * (at[0] - p[0]) for p, q in sides):
        return Fraction(0)
    return min(_square_distance_to_segment(p, q, at) for p, q in sides)


def _square_distance_to_segment(p: Point, q: Point, at: Point) -> Fraction:
    step, away = (q[0] - p[0], q[1] - p[1]), (at[0] - p[0], at[1] - p[1])
    along = (step[0] * away[0] + step[1] * away[1]) / (step[0] ** 2 + step[1] ** 2)
    along = min(max(along, Fraction(0)), Fraction(1))
    return (away[0] - along * step[0]) ** 2 + (away[1] - along * step[1]) ** 2
