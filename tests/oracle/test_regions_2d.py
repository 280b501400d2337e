"""The oracle of regions in the plane, against known counts and against sampled points."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from polytope.model import compile
from polytope.network import ir
from tests.oracle.degenerate_nets import COUNTED, relu_net
from tests.oracle.rational import pieces_exact
from tests.oracle.regions_2d import Pattern, Polygon, Regions2D, box_corners, regions_2d


def graph_of(model: nn.Module) -> ir.Graph:
    return compile(model, (2,)).graph


@pytest.mark.parametrize(
    "name", ["A1", "zero_biases", "duplicated", "rescaled", "pruned"]
)  # A2 agrees too (1180 and 5355), in 80 s
def test_known_counts(name: str) -> None:
    net = COUNTED[name]
    graph = graph_of(net.model())
    inside = regions_2d(graph, box_corners(-1, 1))
    everywhere = regions_2d(graph)
    assert (len(inside), len(everywhere)) == (net.in_box, net.in_space)
    cut = everywhere.within(box_corners(-1, 1))
    assert cut.areas == inside.areas
    assert cut.adjacency == inside.adjacency
    areas = list(inside.areas.values())
    assert sum(areas) == 4
    assert min(areas) > 0


def test_rescaled_is_the_same_complex() -> None:
    plain, scaled = (
        regions_2d(graph_of(m)) for m in (relu_net(2, 8, 8, 1), COUNTED["rescaled"].model())
    )
    assert plain.adjacency == scaled.adjacency
    assert plain.areas == scaled.areas


def test_lines_in_general_position() -> None:
    """n generic lines: 1 + n + n(n-1)/2 regions, n^2 edges, (n-1)(n-2)/2 bounded regions."""
    n = 9
    rng = np.random.default_rng(0)
    found = regions_2d(compile([(rng.normal(size=(n, 2)), rng.normal(size=n)),
                                (np.ones((1, n)), np.zeros(1))]).graph)  # fmt: skip
    assert len(found) == 1 + n + n * (n - 1) // 2
    assert len(found.adjacency) == n * n
    assert sum(v is not None for v in found.areas.values()) == (n - 1) * (n - 2) // 2


def test_lines_through_one_point_and_coincident_rows() -> None:
    """Opposite sectors touch in a point only, and a dead or doubled row adds nothing."""
    weight = np.array([[1.0, 0], [0, 1], [1, 1], [-2, -2], [0, 0], [0, 0]])
    bias = np.array([0.0, 0, 0, 0, 3, 0])
    layers = [(weight, bias), (np.ones((1, 6)), np.zeros(1))]
    for corners in (None, box_corners(-1, 1), box_corners(-3, 0.5)):
        found = regions_2d(compile(layers).graph, corners)
        assert len(found) == len(found.adjacency) == 6
        assert {pattern[4:] for pattern in found.patterns} == {(1, 0)}
        assert {pattern[2] + pattern[3] for pattern in found.patterns} == {1}


def test_edge_in_the_border_of_the_domain() -> None:
    """A line along the border cuts nothing, and the region has the piece of its inside."""
    layers = [(np.array([[1.0, 0]]), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))]
    graph = compile(layers).graph
    assert regions_2d(graph, box_corners(0, 1)).patterns == {(1,)}
    assert regions_2d(graph, box_corners(-1, 0)).patterns == {(0,)}
    assert regions_2d(graph, [(0, 0), (1, -1), (1, 1)]).areas == {(1,): 1}


class MaxPair(nn.Module):
    """Pairwise maxima, where two of the candidates are equal everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = relu_net(2, 6)[0]
        self.second = relu_net(3, 4, seed=1)[0]
        with torch.no_grad():
            self.first.weight[1] = self.first.weight[0]
            self.first.bias[1] = self.first.bias[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool1d(self.first(x)[:, None], 2)[:, 0]
        return nn.functional.hardtanh(self.second(h))


def swapped(*activations: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    widths = [2, *[5] * len(activations), 1]
    layers = [nn.Linear(n, m) for n, m in itertools.pairwise(widths)]
    return nn.Sequential(
        *(part for pair in zip(layers[:-1], activations, strict=True) for part in pair), layers[-1]
    )


KINDS = {
    "relu": lambda: relu_net(2, 7, 7, 2),
    "leaky": lambda: swapped(nn.LeakyReLU(0.125), nn.LeakyReLU(0.25)),
    "hardtanh": lambda: swapped(nn.Hardtanh(-0.25, 0.5), nn.ReLU6(), nn.Hardtanh(-0.5, 0.125)),
    "max": MaxPair,
    **{name: COUNTED[name].model for name in ("zero_biases", "duplicated", "pruned")},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_against_points(kind: str) -> None:
    """Random points lie in the polygon of their own pattern and strictly in no other."""
    graph = graph_of(KINDS[kind]())
    inside, everywhere = regions_2d(graph, box_corners(-1, 1)), regions_2d(graph)
    assert inside.patterns <= everywhere.patterns
    assert sum(inside.areas.values()) == 4
    rng = np.random.default_rng(0)
    for spread, found in ((1, inside), (1, everywhere), (100, everywhere)):
        for x in rng.uniform(-spread, spread, size=(60, 2)):
            pattern = tuple(int(p) for p in pieces_exact(graph, x))
            assert holders(found, x) == {pattern}


@pytest.mark.parametrize("kind", list(KINDS))
def test_adjacency_by_walking(kind: str) -> None:
    """Regions that follow each other along random lines are adjacent, and no pair is left over.

    Each shared side is met by a line through its middle, so with lines aimed at the sides of
    the polygons the pairs met are all pairs.
    """
    graph = graph_of(KINDS[kind]())
    found = regions_2d(graph, box_corners(-1, 1))
    met = set()
    rng = np.random.default_rng(1)
    for polygons in found.polygons.values():
        for polygon in polygons:
            points = [(Fraction(x, w), Fraction(y, w)) for x, y, w in polygon]
            for (px, py), (qx, qy) in itertools.pairwise([*points, points[0]]):
                share = Fraction(float(rng.uniform(0.2, 0.8)))
                middle = (px + share * (qx - px), py + share * (qy - py))
                step = (qy - py, px - qx)
                met |= followers(found, middle, step)
    assert met == found.adjacency


def holders(found: Regions2D, x: np.ndarray) -> set[Pattern]:
    """The regions that hold a point, by the sides of their polygons."""
    at = (Fraction(float(x[0])), Fraction(float(x[1])))
    return {
        pattern
        for pattern, polygons in found.polygons.items()
        if any(all(side >= 0 for side in sides(polygon, at)) for polygon in polygons)
    }


def sides(polygon: Polygon, at: tuple[Fraction, Fraction]) -> list[Fraction]:
    """Positive to the left of each edge: determinants of two vertices and the point."""
    x, y = at
    return [
        x * (p[1] * q[2] - p[2] * q[1])
        + y * (p[2] * q[0] - p[0] * q[2])
        + (p[0] * q[1] - p[1] * q[0])
        for p, q in itertools.pairwise([*polygon, polygon[0]])
    ]


def followers(
    found: Regions2D, at: tuple[Fraction, Fraction], step: tuple[Fraction, Fraction]
) -> set[frozenset[Pattern]]:
    """The two regions just behind and just ahead of a point along a direction, if two."""
    behind, ahead = (
        {
            pattern
            for pattern, polygons in found.polygons.items()
            if any(enters(polygon, at, (sign * step[0], sign * step[1])) for polygon in polygons)
        }
        for sign in (-1, 1)
    )
    assert len(behind) <= 1
    assert len(ahead) <= 1
    return {frozenset(behind | ahead)} if behind and ahead and behind != ahead else set()


def enters(
    polygon: Polygon, at: tuple[Fraction, Fraction], step: tuple[Fraction, Fraction]
) -> bool:
    """Whether the points just after `at` in a direction lie inside a bounded polygon."""
    values = sides(polygon, at)
    ahead = sides(polygon, (at[0] + step[0], at[1] + step[1]))
    return all(v > 0 or (v == 0 and w > v) for v, w in zip(values, ahead, strict=True))
