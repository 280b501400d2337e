"""Every activation region of a network of two inputs, by exact integers: the oracle.

Convex polygons are split layer by layer, unit by unit, row by row. A vertex is three integers
(x, y, w) that stand for the point (x/w, y/w), or with w = 0 for the direction (x, y): so an
unbounded polygon is a polygon like any other, and the plane is its four quadrants, each a
triangle with two vertices at infinity. It shares nothing with the product but the compiled
graph, and the convention for ties by definition: a value equal to a breakpoint belongs to the
lower piece, and of equal candidates the first wins.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from polytope.network import ir
from tests.oracle.rational import Vector, affine_exact

Triple = tuple[int, int, int]
#: Vertices in counterclockwise order.
Polygon = tuple[Triple, ...]
Pattern = tuple[int, ...]
Point = tuple[Fraction, Fraction]
#: Corners in counterclockwise order; their floats are taken exactly.
Corners = Sequence[tuple[float | Fraction, float | Fraction]]

QUADRANTS: tuple[Polygon, ...] = tuple(
    ((0, 0, 1), first, second)
    for first, second in itertools.pairwise(
        [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0), (1, 0, 0)]
    )
)


@dataclass(frozen=True)
class Regions2D:
    """The regions of full dimension.

    Attributes
    ----------
    polygons : dict from pattern to polygons
        One polygon each; in the whole plane one for each quadrant that the region meets.
    """

    polygons: dict[Pattern, list[Polygon]]

    def __len__(self) -> int:
        return len(self.polygons)

    @property
    def patterns(self) -> set[Pattern]:
        """The piece of every unit, for every region."""
        return set(self.polygons)

    @cached_property
    def areas(self) -> dict[Pattern, Fraction | None]:
        """The exact area of every region; None where it is unbounded."""
        return {
            pattern: None
            if any(w == 0 for polygon in polygons for _, _, w in polygon)
            else sum(map(_area, polygons), Fraction(0))
            for pattern, polygons in self.polygons.items()
        }

    @cached_property
    def adjacency(self) -> set[frozenset[Pattern]]:
        """The pairs of regions whose closures share a segment of positive length.

        The edges of all polygons are laid out on the lines that hold them, whatever made the
        line, and overlaps are looked for.
        """
        return {pair for pair, _, _, _ in self._overlaps}

    @cached_property
    def shared(self) -> dict[frozenset[Pattern], list[tuple[Point, Point]]]:
        """The segments that pairs of bounded regions share."""
        found: dict[frozenset[Pattern], list[tuple[Point, Point]]] = defaultdict(list)
        for pair, line, start, end in self._overlaps:
            found[pair].append((_at(line, start), _at(line, end)))
        return dict(found)

    @cached_property
    def _overlaps(self) -> list[tuple[frozenset[Pattern], Triple, _Place, _Place]]:
        """Pairs of regions with each piece of a line that they share."""
        lines: dict[Triple, list[tuple[_Place, _Place, Pattern]]] = defaultdict(list)
        for pattern, polygons in self.polygons.items():
            for polygon in polygons:
                for p, q in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
                    line = _line(p, q)
                    if line[:2] != (0, 0):
                        ends = sorted((_place(line, p), _place(line, q)))
                        lines[line].append((ends[0], ends[1], pattern))
        found = []
        for line, edges in lines.items():
            edges.sort()
            for number, (_, end, pattern) in enumerate(edges):
                for start, other_end, other in itertools.islice(edges, number + 1, None):
                    if start >= end:
                        break
                    if other != pattern:
                        pair = frozenset((pattern, other))
                        found.append((pair, line, start, min(end, other_end)))
        return found

    def within(self, corners: Corners) -> Regions2D:
        """The regions that meet the inside of a convex polygon, cut off at its sides."""
        domain = _polygon(corners)
        return self._above([_cross(p, q) for p, q in itertools.pairwise([*domain, domain[0]])])

    def under(self, A: np.ndarray, b: np.ndarray) -> Regions2D:
        """The regions that meet the inside of ``{A z <= b}``, cut off at its sides."""
        return self._above(_sides(A, b))

    def _above(self, sides: Sequence[Triple]) -> Regions2D:
        """The parts of full dimension where affine functions are all positive."""
        inside = {pattern: _above(parts, sides) for pattern, parts in self.polygons.items()}
        return Regions2D({pattern: parts for pattern, parts in inside.items() if parts})


def regions_2d(
    graph: ir.Graph,
    corners: Corners | None = None,
    under: tuple[np.ndarray, np.ndarray] | None = None,
) -> Regions2D:
    """The regions inside a convex polygon, inside ``{A z <= b}``, or in the whole plane."""
    parts: Iterable[Polygon] = QUADRANTS if corners is None else [_polygon(corners)]
    if under is not None:
        parts = _above(parts, _sides(*under))
    cells: list[tuple[Pattern, Polygon]] = [((), part) for part in parts]
    for layer in graph.layers:
        before = ir.Graph(graph.nodes[: graph.nodes[layer.node].inputs[0] + 1], graph.constants)
        known: dict[Pattern, list[Vector]] = {}
        split = []
        for pattern, polygon in cells:
            if pattern not in known:
                own = pattern[: sum(other.units for other in before.layers)]
                gradients, offsets = affine_exact(before, own)[-1]
                known[pattern] = [[*g, c] for g, c in zip(gradients, offsets, strict=True)]
            split.extend(_split_by_layer(graph, layer, known[pattern], pattern, polygon))
        cells = split
    polygons: dict[Pattern, list[Polygon]] = defaultdict(list)
    for pattern, polygon in cells:
        polygons[pattern].append(polygon)
    return Regions2D(dict(polygons))


def box_corners(low: float, high: float) -> Corners:
    """The corners of the square [low, high]^2."""
    return [(low, low), (high, low), (high, high), (low, high)]


def _split_by_layer(
    graph: ir.Graph, layer: ir.Layer, values: list[Vector], pattern: Pattern, polygon: Polygon
) -> list[tuple[Pattern, Polygon]]:
    """The cells of one cell: `values` are the affine functions (gx, gy, c) that a layer takes."""
    node = graph.nodes[layer.node]
    cells = [(pattern, polygon)]
    for unit in range(layer.units):
        split = _by_winner if isinstance(node.op, ir.Max) else _by_breakpoints
        cells = [
            ((*start, piece), part)
            for start, whole in cells
            for piece, part in split(graph, node, values, unit, whole)
        ]
    return cells


def _by_breakpoints(
    graph: ir.Graph, node: ir.Node, values: list[Vector], unit: int, polygon: Polygon
) -> list[tuple[int, Polygon]]:
    assert isinstance(node.op, ir.Piecewise)
    table = graph.constants[node.op.breakpoints]
    breakpoints = np.broadcast_to(table, (*node.shape, table.shape[-1])).reshape(node.size, -1)
    found = []
    rest: Polygon | None = polygon
    gx, gy, c = values[unit]
    for piece, t in enumerate(breakpoints[unit]):
        lower, rest = _cut(rest, _integers([gx, gy, c - Fraction(float(t))]))
        if lower is not None:
            found.append((piece, lower))
        if rest is None:
            return found
    return [*found, (breakpoints.shape[1], rest)]


def _by_winner(
    graph: ir.Graph, node: ir.Node, values: list[Vector], unit: int, polygon: Polygon
) -> list[tuple[int, Polygon]]:
    assert isinstance(node.op, ir.Max)
    row = graph.constants[node.op.index][unit]
    candidates = [k for k, i in enumerate(row) if i >= 0]
    won = [(candidates[0], polygon)]
    for k in candidates[1:]:
        challenged = []
        for champion, part in won:
            lead = [a - b for a, b in zip(values[row[k]], values[row[champion]], strict=True)]
            stays, falls = _cut(part, _integers(lead))
            challenged.extend([(champion, stays)] if stays is not None else [])
            challenged.extend([(k, falls)] if falls is not None else [])
        won = challenged
    return won


def _cut(polygon: Polygon, row: Triple) -> tuple[Polygon | None, Polygon | None]:
    """The parts of full dimension where an affine function is <= 0, and where it is > 0."""
    a, b, c = row
    values = [a * x + b * y + c * w for x, y, w in polygon]
    if max(values) <= 0:
        return polygon, None
    if min(values) >= 0:
        return None, polygon
    lower: list[Triple] = []
    upper: list[Triple] = []
    size = len(polygon)
    for i, (p, value) in enumerate(zip(polygon, values, strict=True)):
        q, other = polygon[(i + 1) % size], values[(i + 1) % size]
        if value <= 0:
            lower.append(p)
        if value >= 0:
            upper.append(p)
        if (value < 0 < other) or (other < 0 < value):
            s, t = abs(other), abs(value)
            crossing = _reduced(*(s * v + t * u for v, u in zip(p, q, strict=True)))
            lower.append(crossing)
            upper.append(crossing)
    return tuple(lower), tuple(upper)


def _above(polygons: Iterable[Polygon], sides: Sequence[Triple]) -> list[Polygon]:
    """The parts of full dimension of polygons where affine functions are all positive."""
    found = []
    for polygon in polygons:
        rest: Polygon | None = polygon
        for side in sides:
            _, rest = (None, None) if rest is None else _cut(rest, side)
        if rest is not None:
            found.append(rest)
    return found


def _sides(A: np.ndarray, b: np.ndarray) -> list[Triple]:
    """The rows of {A z <= b} as affine functions that are positive inside; floats exactly."""
    return [
        _integers([Fraction(float(v)) for v in row])
        for row in np.column_stack([-A, b])
        if row.any()
    ]


def _polygon(corners: Corners) -> Polygon:
    return tuple(_integers([Fraction(x), Fraction(y), Fraction(1)]) for x, y in corners)


def _integers(row: Sequence[Fraction]) -> Triple:
    """A positive multiple in integers."""
    scale = math.lcm(*(v.denominator for v in row))
    x, y, z = (v.numerator * (scale // v.denominator) for v in row)
    return _reduced(x, y, z)


def _reduced(x: int, y: int, z: int) -> Triple:
    divisor = math.gcd(x, y, z) or 1
    return x // divisor, y // divisor, z // divisor


def _cross(p: Triple, q: Triple) -> Triple:
    """The affine function that is 0 on the line from p to q and positive to its left."""
    return _reduced(p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0])


def _line(p: Triple, q: Triple) -> Triple:
    """The line through two vertices, the same for both directions."""
    a, b, c = _cross(p, q)
    return (-a, -b, -c) if (a, b, c) < (0, 0, 0) else (a, b, c)


#: Where a vertex lies along a line: at infinity (-1 or 1), or a number.
_Place = tuple[int, Fraction]


def _place(line: Triple, p: Triple) -> _Place:
    along = line[0] * p[1] - line[1] * p[0]
    if p[2] == 0:
        return (1 if along > 0 else -1), Fraction(0)
    return 0, Fraction(along, p[2])


def _at(line: Triple, place: _Place) -> Point:
    """The point at a finite place of a line: a x + b y + c = 0 and a y - b x = place."""
    a, b, c = line
    along, square = place[1], a * a + b * b
    return (-a * c - b * along) / square, (a * along - b * c) / square


def _area(polygon: Polygon) -> Fraction:
    points = [(Fraction(x, w), Fraction(y, w)) for x, y, w in polygon]
    return (
        sum(
            (
                p[0] * q[1] - p[1] * q[0]
                for p, q in zip(points, (*points[1:], points[0]), strict=True)
            ),
            Fraction(0),
        )
        / 2
    )
