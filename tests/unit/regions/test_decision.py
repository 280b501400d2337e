"""The decision boundary as polytopes: all of it, and nothing else."""

import numpy as np
import pytest

import polytope as pt
from polytope.graph import RegionGraph
from polytope.regions.domain import as_domain
from tests.complexes import split
from tests.nets import dense


def graph_of(net, domain=(-1, 1)):
    where = as_domain(net, domain)
    return RegionGraph(net, where, split(net, where))


def logits_at(graph, u):
    return graph.net.logits(graph.domain.lift(np.atleast_2d(u)))


def crossings(graph, lines=200, seed=0):
    """Points where the decided class changes along random segments, by bisection."""
    rng = np.random.default_rng(seed)
    for ends in rng.uniform(-1, 1, (lines, 2, graph.domain.dimension)):
        steps = ends[0] + np.linspace(0, 1, 60)[:, None] * (ends[1] - ends[0])
        label = logits_at(graph, steps).argmax(axis=1)
        for k in np.flatnonzero(np.diff(label)):
            a, b = steps[k], steps[k + 1]
            for _ in range(60):
                middle = (a + b) / 2
                same = logits_at(graph, middle).argmax() == label[k]
                a, b = (middle, b) if same else (a, middle)
            yield a


def on_piece(piece, u, slack=1e-9):
    close = abs(piece.normal @ u - piece.offset) <= slack * (1 + np.abs(piece.normal).sum())
    return close and (piece.A @ u <= piece.b + slack * (1 + np.abs(piece.A).sum(axis=1))).all()


@pytest.mark.parametrize("outputs", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 3])
def test_every_change_of_class_lies_on_a_piece(outputs, seed):
    graph = graph_of(dense(2, 8, 6, outputs, seed=seed))
    pieces = graph.decision_boundary()
    assert pieces
    points = list(crossings(graph))
    assert len(points) > 20
    for u in points:
        assert any(on_piece(piece, u) for piece in pieces)


@pytest.mark.parametrize("k", [2, 3])
def test_pieces_are_where_two_classes_share_the_first_place(k):
    graph = graph_of(dense(k, 7, 5, 3, seed=7))
    pieces = graph.decision_boundary()
    assert pieces
    seen = set()
    for piece in pieces:
        assert (piece.region, piece.classes) not in seen
        seen.add((piece.region, piece.classes))
        assert piece.proved
        assert not piece.everywhere
        s, t = piece.classes
        assert s < t
        f = logits_at(graph, piece.point)[0]
        assert f[s] == pytest.approx(f[t], abs=1e-12 * (1 + np.abs(f).max()))
        assert all(f[c] < f[s] for c in range(3) if c not in (s, t))
        region = graph.region(piece.region)
        assert region.contains(graph.domain.lift(piece.point))
        step = piece.normal / np.linalg.norm(piece.normal) * 1e-7
        ahead, behind = logits_at(graph, piece.point + [[1], [-1]] * step[None])
        assert ahead[s] > ahead[t]
        assert behind[s] < behind[t]


def test_on_a_slice():
    net = dense(6, 9, 8, 3, seed=1)
    plane = pt.Slice(np.random.default_rng(0).normal(size=(3, 6)), margin=1.0)
    graph = graph_of(net, plane)
    pieces = graph.decision_boundary()
    inside = [u for u in crossings(graph) if graph.domain.contains(u)[0]]
    assert len(inside) > 10
    for u in inside:
        assert any(on_piece(piece, u) for piece in pieces)


def test_only_the_regions_asked_for():
    graph = graph_of(dense(2, 8, 6, 3, seed=1))
    whole = graph.decision_boundary()
    region = whole[0].region
    some = graph.decision_boundary([region])
    assert [p.classes for p in some] == [p.classes for p in whole if p.region == region]


def test_a_boundary_along_a_facet_is_listed_on_both_sides():
    W = np.array([[1.0, 0.5], [-1, -0.5]])
    graph = graph_of(pt.compile([(W, np.zeros(2)), (np.array([[1.0, -2]]), np.zeros(1))]))
    assert len(graph) == 2
    pieces = graph.decision_boundary()
    assert [p.region for p in pieces] == [0, 1]
    for piece in pieces:
        assert abs(piece.point @ [1, 0.5]) < 1e-12
        assert not piece.proved


def test_where_two_logits_are_equal_everywhere():
    hidden = np.array([[1.0, 0]]), np.array([-0.2])
    graph = graph_of(pt.compile([hidden, (np.array([[1.0], [0.0]]), np.zeros(2))]))
    pieces = graph.decision_boundary()
    left = graph.index(np.array([-0.5, 0]))
    everywhere = [p for p in pieces if p.everywhere]
    assert [p.region for p in everywhere] == [left]
    shifted = graph_of(pt.compile([hidden, (np.array([[1.0], [0.0]]), np.array([0.1, 0]))]))
    assert not shifted.decision_boundary()
