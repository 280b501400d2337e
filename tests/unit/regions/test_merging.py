"""Merging: one affine map or two, decided exactly where floats cannot."""

import numpy as np
import pytest

import polytope as pt
from polytope.graph import RegionGraph
from polytope.regions import merging
from polytope.regions.domain import as_domain
from tests.complexes import walked
from tests.nets import dense


def graph_of(layers, domain=(-1, 1), seed=0, **options):
    net = pt.compile(layers)
    where = as_domain(net, domain)
    return RegionGraph(net, where, walked(net, where, seed=seed, **options))


def groups(labels):
    return sorted(np.bincount(labels).tolist())


def oracle_linear(graph):
    """Union of neighbours whose maps on the domain agree to 1e-9, by Jacobians."""
    labels = np.arange(len(graph))
    regions = [graph.region(i) for i in range(len(graph))]
    basis = np.eye(graph.net.input_size) if graph.domain.basis is None else graph.domain.basis
    origin = np.zeros(graph.net.input_size) if graph.domain.basis is None else graph.domain.origin
    maps = [np.c_[r.jacobian @ basis.T, r.jacobian @ origin + r.offset] for r in regions]
    for i, j in graph.edges:
        if np.abs(maps[i] - maps[j]).max() < 1e-9:
            labels[labels == labels[j]] = labels[i]
    return labels, maps


def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a)) == len(set(b))


def test_a_unit_that_nothing_reads_is_merged_away():
    W = np.array([[1.0, 0.2], [-0.3, 1], [0.5, 0.5]])
    graph = graph_of([(W, np.array([0.1, 0, -0.2])), (np.array([[1.0, 2, 0]]), np.zeros(1))])
    assert len(graph) == 7
    labels = graph.linear_regions()
    assert groups(labels) == [1, 2, 2, 2]
    np.testing.assert_array_equal(np.unique(labels), np.arange(4))
    assert same_partition(labels, graph.found.pieces[:, :2].astype(int) @ [1, 2])
    assert same_partition(labels, graph.affine_regions())
    table = graph.edge_statistics()
    edge, unit = graph.flipped()
    assert table["same_map"].tolist() == (unit[edge == np.arange(len(edge))] == 2).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_dead_layers_of_a_random_network(seed):
    rng = np.random.default_rng(seed)
    layers = [(rng.normal(size=(6, 2)), rng.normal(size=6) / 2),
              (rng.normal(size=(6, 6)), rng.normal(size=6)),
              (rng.normal(size=(2, 6)), np.zeros(2))]  # fmt: skip
    layers[1][1][:3] = -30.0  # units that are off everywhere in the box
    layers[1][0][3:, :2] = 0.0  # so nothing reads the first two units
    graph = graph_of(layers, seed=seed)
    expected, maps = oracle_linear(graph)
    assert len(set(expected)) < len(graph) - 3
    assert same_partition(graph.linear_regions(), expected)
    by_map = [next(k for k, m in enumerate(maps) if np.abs(m - own).max() < 1e-9) for own in maps]
    assert same_partition(graph.affine_regions(), np.array(by_map))


def test_generic_networks_merge_nothing():
    net = dense(2, 8, 6, 3, seed=3)
    where = as_domain(net, (-1, 1))
    graph = RegionGraph(net, where, walked(net, where))
    assert len(set(graph.linear_regions())) == len(set(oracle_linear(graph)[0])) > 10


def bump(extra=0.0):
    """0, then up, then down, then 0 (or `extra` times y)."""
    hidden = np.array([[1.0, 0], [1, 0], [1, 0]]), np.array([0.5, 0, -0.5])
    return [hidden, (np.array([[1.0, -2, 1]]), np.array([extra]))]


def test_the_same_map_on_both_sides_of_a_bump():
    graph = graph_of(bump())
    assert len(graph) == 4
    assert groups(graph.linear_regions()) == [1, 1, 1, 1]
    assert groups(graph.affine_regions()) == [1, 1, 2]
    left, right = graph.index([-0.9, 0]), graph.index([0.9, 0])
    assert graph.affine_regions()[left] == graph.affine_regions()[right]


@pytest.mark.parametrize("weight", [0.0, 2.0**-60, 2.0**-200])
def test_a_difference_below_rounding_is_a_difference(weight):
    layers = [(np.array([[0.0, 1]]), np.array([-0.1])), (np.array([[weight]]), np.array([1e6]))]
    graph = graph_of(layers)
    assert len(graph) == 2
    kinds = 1 if weight == 0 else 2
    assert len(set(graph.linear_regions())) == kinds
    assert len(set(graph.affine_regions())) == kinds


def test_on_a_slice_only_the_slice_counts():
    hidden = np.array([[1.0, 0.25, 1], [1.0, 0.25, -1]]), np.zeros(2)
    net = pt.compile([hidden, (np.array([[1.0, -1]]), np.zeros(1))])
    flat = as_domain(net, pt.Slice(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), margin=2.0))
    graph = RegionGraph(net, flat, walked(net, flat))
    jacobians = {graph.region(i).jacobian.tobytes() for i in range(len(graph))}
    assert len(graph) == len(jacobians) == 2
    assert graph.linear_regions().tolist() == [0, 0]
    tilted = as_domain(net, pt.Slice(np.array([[0.0, 0, 0], [1, 0, 0.1], [0, 1, 0]]), margin=2.0))
    graph = RegionGraph(net, tilted, walked(net, tilted))
    assert len(set(graph.linear_regions())) == len(graph) == 4


def test_blocks_make_no_difference(monkeypatch):
    graph = graph_of(bump())
    whole = graph.linear_regions(), graph.affine_regions()
    monkeypatch.setattr(merging, "BATCH_VALUES", 1)
    np.testing.assert_array_equal(whole[0], graph.linear_regions())
    np.testing.assert_array_equal(whole[1], graph.affine_regions())


def test_floats_decide_almost_everything(monkeypatch):
    net = dense(2, 12, 12, 3, seed=5)
    where = as_domain(net, (-1, 1))
    graph = RegionGraph(net, where, walked(net, where, lines=150))
    asked = []

    def count(keys, pieces):
        asked.append(keys)
        return (0, (len(asked), *pieces.tolist()))

    monkeypatch.setattr(merging._ExactKeys, "key", count)
    graph.linear_regions()
    assert len(asked) < 0.05 * len(graph.edges)
