"""RegionGraph: what it holds, looks up, merges and counts."""

import networkx as nx
import numpy as np
import pytest

import polytope as pt
from polytope.errors import InputError
from polytope.graph import RegionGraph
from polytope.regions.complex import Complex
from polytope.regions.domain import as_domain
from tests.complexes import walked
from tests.nets import dense, pieces


@pytest.fixture(scope="module")
def small():
    net = dense(2, 8, 6, 3, seed=3)
    domain = as_domain(net, (-1, 1))
    return RegionGraph(net, domain, walked(net, domain))


@pytest.fixture(scope="module")
def sliced():
    net = dense(5, 8, 6, 3, seed=4)
    plane = pt.Slice(np.random.default_rng(0).normal(size=(3, 5)), margin=0.5)
    domain = as_domain(net, plane)
    return RegionGraph(net, domain, walked(net, domain))


@pytest.fixture(params=["small", "sliced"])
def graph(request):
    return request.getfixturevalue(request.param)


def test_points_patterns_and_regions_belong_together(graph):
    assert len(graph) > 15
    assert graph.points.shape == (len(graph), graph.net.input_size)
    np.testing.assert_array_equal(pieces(graph.net, graph.points), graph.found.pieces)
    for i in range(0, len(graph), 5):
        np.testing.assert_array_equal(graph.pattern(i).pieces, graph.found.pieces[i])
        region = graph.region(i)
        assert region.contains(graph.points[i])
        assert region.pattern == graph.pattern(i)
        assert graph.index(graph.points[i]) == i
        assert graph.index(graph.pattern(i)) == i


def test_repr_says_that_it_is_partial(small):
    assert "partial" in repr(small)
    whole = Complex(**{**vars(small.found), "complete": True})
    assert "partial" not in repr(RegionGraph(small.net, small.domain, whole))


def test_neighbors_are_the_edges(graph):
    pairs = {(i, int(j)) for i in range(len(graph)) for j in graph.neighbors(i)}
    edges = {(int(i), int(j)) for i, j in graph.edges}
    assert pairs == edges | {(j, i) for i, j in edges}
    assert all((np.diff(graph.neighbors(i)) > 0).all() for i in range(len(graph)))


def test_flipped_units_are_the_difference(graph):
    edge, unit = graph.flipped()
    assert (np.diff(edge) >= 0).all()
    for number, (i, j) in enumerate(graph.edges):
        own = graph.found.pieces
        assert set(unit[edge == number]) == set(np.flatnonzero(own[i] != own[j]))
    some_edge, some_unit = graph.flipped([4, 2])
    assert set(some_unit[some_edge == 0]) == set(unit[edge == 4])
    assert set(some_unit[some_edge == 1]) == set(unit[edge == 2])


def test_flips_in_blocks_are_the_same(graph, monkeypatch):
    whole = graph.flipped()
    monkeypatch.setattr("polytope.regions.flips.BLOCK_PIECES", 40)
    for one, two in zip(whole, graph.flipped(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_networkx_graph_says_the_same(graph):
    found = graph.graph
    assert isinstance(found, nx.Graph)
    assert found is graph.graph
    assert found.number_of_nodes() == len(graph)
    assert {tuple(sorted(e)) for e in found.edges} == {tuple(e) for e in graph.edges.tolist()}
    assert found.graph == {
        "network": graph.net.hash, "dimension": 2, "complete": False
    }  # fmt: skip
    assert found.nodes[3]["pattern"] == graph.pattern(3).packed.hex()
    assert found.nodes[3]["point"] == tuple(graph.coordinates[3])
    edge, unit = graph.flipped()
    for number, (i, j) in enumerate(graph.edges.tolist()):
        layers = graph.net.layers
        names = [(layer, layers[layer].first_unit + u) for layer, u in found[i][j]["units"]]
        assert [u for _, u in names] == unit[edge == number].tolist()
        assert all(layers[layer].unit_slice.stop > u for layer, u in names)
        assert found[i][j]["point"] == tuple(graph.edge_points[number])


def test_bad_look_ups(small):
    with pytest.raises(InputError, match="outside the graph's domain"):
        small.index(np.array([2.0, 0]))
    with pytest.raises(InputError, match="NaN"):
        small.index(np.array([np.nan, 0]))
    with pytest.raises(InputError, match="expected one"):
        small.index(np.zeros((2, 2)))
    with pytest.raises(InputError, match="of another network"):
        small.index(dense(2, 3, 2).region(np.zeros(2)).pattern)
    unknown = small.pattern(0).flip(0, 1 - int(small.found.pieces[0, 0]))
    for unit in range(1, 8):
        unknown = unknown.flip(unit, 0)
    with pytest.raises(InputError, match=r"no region of the graph .* partial"):
        small.index(unknown)
    for bad in (-1, len(small), 1.0, "a"):
        with pytest.raises(InputError, match="the graph has regions 0 to"):
            small.region(bad)
        with pytest.raises(InputError, match="the graph has regions 0 to"):
            small.neighbors(bad)


def test_a_point_off_the_slice_is_refused(sliced):
    with pytest.raises(InputError, match="off the slice"):
        sliced.index(sliced.points[0] + 0.1)


def test_statistics(graph):
    table = graph.statistics()
    assert table["region"].tolist() == list(range(len(graph)))
    degree = np.bincount(graph.edges.reshape(-1), minlength=len(graph))
    assert table["neighbors"].tolist() == degree.tolist()
    layers = table["neighbors_layer_0"] + table["neighbors_layer_1"]
    assert layers.tolist() == degree.tolist()
    assert table["label"].tolist() == graph.net.predict(graph.points).tolist()
    edges = graph.edge_statistics()
    assert edges[["i", "j"]].to_numpy().tolist() == graph.edges.tolist()
    edge, unit = graph.flipped()
    assert edges["units"].tolist() == np.bincount(edge).tolist()
    first = [int(unit[edge == e].min() >= 8) for e in range(len(edges))]
    assert edges["layer"].tolist() == first
    assert 0 < edges["layer"].mean() < 1
    labels = table["label"].to_numpy()[graph.edges]
    assert edges["label_changes"].tolist() == (labels[:, 0] != labels[:, 1]).tolist()


def test_an_affine_network_is_one_region():
    net = pt.compile([(np.eye(2), np.zeros(2))])
    found = Complex(
        np.zeros((1, 0), np.uint8), np.zeros((1, 2)), np.zeros((0, 2), np.int64),
        np.zeros((0, 2)), np.zeros(0, np.int64), complete=True,
    )  # fmt: skip
    graph = RegionGraph(net, as_domain(net, (-1, 1)), found)
    assert graph.index(np.zeros(2)) == 0
    assert graph.graph.number_of_nodes() == 1
    assert graph.linear_regions().tolist() == [0]
    assert graph.affine_regions().tolist() == [0]
    assert graph.statistics()["neighbors"].tolist() == [0]
    assert len(graph.edge_statistics()) == 0
    assert graph.neighbors(0).tolist() == []
