"""`Region.neighbors`: what lies behind the facets of one region."""

import numpy as np
import pytest

import polytope as pt
from polytope.errors import InputError
from tests.nets import compiled, dense, pieces


def around(graph, i):
    """The patterns of a region's neighbours in a graph."""
    return {graph.pattern(int(j)) for j in graph.neighbors(i)}


@pytest.mark.parametrize("widths", [(2, 8, 8, 3), (3, 7, 5, 2), (1, 6, 6, 2)])
def test_they_are_those_of_the_graph(widths):
    net = dense(*widths, seed=3)
    box = (-1.0, 1.0)
    graph = pt.region_graph(net, box)
    assert len(graph) > 5
    for i in range(0, len(graph), max(1, len(graph) // 12)):
        found = [other.pattern for other in graph.region(i).neighbors(box)]
        assert len(set(found)) == len(found)
        assert set(found) == around(graph, i)


def test_a_neighbour_holds_the_shared_facet_and_has_this_one_for_its_own():
    net = dense(4, 10, 10, 3, seed=1)
    region = net.region(np.full(4, 0.1))
    others = region.neighbors((-1, 1))
    assert len(others) == (~region.facets((-1, 1)).on_domain).sum() > 2
    for other in others:
        assert region.contains(other.point)
        assert other.contains(other.point)
        assert region.pattern in [back.pattern for back in other.neighbors((-1, 1))]


def test_hyperplanes_that_coincide_are_crossed_together():
    net, _ = compiled("duplicated_neurons")
    x = np.random.default_rng(0).normal(size=net.input_size)
    region = net.region(x)
    most = 0
    for other in region.neighbors((-3, 3)):
        own = pieces(net, other.section((-3, 3)).interior[None])[0]
        np.testing.assert_array_equal(own, other.pattern.pieces)
        most = max(most, int((own != region.pattern.pieces).sum()))
    assert most > 1


def test_on_a_slice_only_what_the_slice_meets():
    net = dense(5, 9, 9, 2, seed=2)
    plane = pt.Slice(np.random.default_rng(4).normal(size=(3, 5)), margin=0.5)
    graph = pt.region_graph(net, plane)
    for i in (0, len(graph) // 2):
        found = {other.pattern for other in graph.region(i).neighbors(plane)}
        assert found == around(graph, i)


def test_no_interior_and_round_domains_are_refused():
    net = dense(2, 6, 2)
    region = net.region(np.zeros(2))
    with pytest.raises(InputError, match="interior"):
        region.neighbors((50, 51))
    with pytest.raises(InputError, match="round"):
        region.neighbors(pt.Ball(np.zeros(2), 1.0))
