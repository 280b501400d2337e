"""Facets and redundant rows, with their proofs checked against exact arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polytope as pt
from polytope.errors import InputError
from polytope.graph import RegionGraph
from polytope.regions.domain import as_domain
from polytope.regions.exact_facets import Verdict, exact_facets
from polytope.regions.exact_maps import ExactMaps
from tests.complexes import split
from tests.nets import dense


def is_redundant(section, center, row, rows, weights):
    """Check a proof that a row never bounds the section, with every rounding accounted for.

    Were it to bound it, some point u of the section would lie on its hyperplane.  There
    ``a u - b <= sum weights_j (a_j u - b_j) + rest (u - center) + constant`` would have to be 0,
    but the right side is negative: the sum is at most 0, and u is no farther from the center
    than the domain's sides (`Section.sides`).  Without finite sides nothing is proved here.
    """
    low, high = section.sides
    reach = np.nextafter(np.maximum(high - center, center - low), np.inf)
    if (weights < 0).any() or (rows == row).any() or not np.isfinite(reach).all():
        return False
    A, b = section.A[rows], section.b[rows]
    rest = section.A[row] - weights @ A
    constant = (section.A[row] @ center - section.b[row]) - weights @ (A @ center - b)
    largest = float((np.abs(center) + reach).max(initial=0.0))
    error = section.normal_error * largest + section.offset_error
    unit = 4 * (section.dimension + len(rows) + 4) * np.finfo(np.float64).eps
    terms = np.abs(section.A) @ (np.abs(center) + reach) + np.abs(section.b)
    doubt = error[row] + weights @ error[rows] + unit * (terms[row] + weights @ terms[rows])
    return bool(constant + np.abs(rest) @ reach + doubt < 0)


def judged_exactly(section):
    """Groups of rows that are facets, all decided in rational arithmetic."""
    rows = ExactMaps(section.net, section.domain).rows(section.pieces, section.ids)
    verdicts = exact_facets(rows)
    return sorted(
        group for group in verdicts.groups if verdicts.verdicts[group[0]] is Verdict.FACET
    )


def check(found):
    section = found.section
    assert sorted(found.groups) == judged_exactly(section)
    for group, point in zip(found.groups, found.points, strict=True):
        residual = (section.A @ point - section.b) / np.maximum(section.sizes, 1e-300)
        assert np.abs(residual[list(group)]).max() < 1e-12 * (1 + np.abs(point).max())
        others = np.delete(residual, list(group))[np.delete(section.proper, list(group))]
        assert (others < (1e-15 if set(group) & set(found.exact) else 0)).all()
    redundant = set(np.flatnonzero(found.redundant).tolist())
    assert set(found.multipliers) | set(found.exact) >= redundant
    assert set(found.multipliers) <= redundant
    for row, (rows, weights) in found.multipliers.items():
        assert (weights >= 0).all()
        combined = weights @ section.A[rows], weights @ section.b[rows]
        np.testing.assert_allclose(combined[0], section.A[row], atol=1e-12 * section.sizes[row])
        assert combined[1] < section.b[row]


@pytest.mark.parametrize("widths", [(1, 6, 4, 2), (2, 8, 6, 2), (3, 8, 6, 2), (6, 9, 8, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_facets_in_a_box_are_the_exact_ones(widths, seed):
    net = dense(*widths, seed=seed)
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, widths[0])
    found = net.region(x).facets((-1, 1))
    check(found)
    assert found.exact == ()
    assert len(found) == len(found.groups) == len(found.points) == len(found.ids)
    rows = found.section.net.rows
    assert found.on_domain.tolist() == [ids[0] >= rows for ids in found.ids]


@pytest.mark.parametrize("domain", [None, (0, np.inf)])
def test_unbounded_regions(domain):
    net = dense(3, 6, 5, 2, seed=2)
    found = net.region(np.array([5.0, 4, 3])).facets(domain)
    check(found)
    assert len(found) >= 1


def test_on_a_slice_and_with_frozen_coordinates():
    net = dense(6, 9, 8, 2, seed=1)
    plane = pt.Slice(np.random.default_rng(0).normal(size=(3, 6)), margin=0.4)
    center = plane.coordinates.mean(axis=0)
    found = net.region(plane.lift(center)).facets(plane)
    check(found)
    assert found.points.shape[1] == 2
    low, high = -np.ones(6), np.ones(6)
    low[3:] = high[3:] = 0.25
    found = net.region(0.25 * np.ones(6)).facets((low, high))
    check(found)
    assert found.points.shape[1] == 3


def test_duplicated_units_share_a_facet():
    W = np.array([[1.0, 0.5], [1, 0.5], [-2, -1], [0, 1], [0.3, 0]])
    net = pt.compile([(W, np.array([-0.1, -0.1, 0.2, 0, 5])), (np.ones((2, 5)), np.zeros(2))])
    found = net.region(np.array([0.5, 0.5])).facets((-1, 1))
    check(found)
    assert (0, 1, 2) in found.ids
    assert found.exact


def test_rows_that_only_touch_are_redundant():
    net = pt.compile(
        [(np.array([[1.0, 0], [0, 1], [1, 1]]), np.zeros(3)), (np.ones((1, 3)), [0.0])]
    )
    found = net.region(np.array([0.3, 0.3])).facets((-1, 1))
    check(found)
    assert found.redundant.tolist() == [False, False, True, False, False, True, True]
    assert 2 in found.exact
    assert 5 not in found.exact


def test_pruned_units_have_no_facets():
    W = np.array([[0.0, 0], [1, 0.2], [0, 0]])
    net = pt.compile([(W, np.array([0.0, 0.1, 0.7])), (np.ones((2, 3)), np.zeros(2))])
    found = net.region(np.array([0.5, 0.5])).facets((-1, 1))
    check(found)
    assert found.redundant[[0, 2]].all()
    assert set(found.exact) <= {0, 2}


@pytest.mark.parametrize("scale", [2.0**-36, 2.0**40])
def test_scaled_layers_have_the_same_facets(scale):
    plain = dense(3, 8, 6, 2, seed=5)
    W, b = (plain.graph.constants[key] for key in plain.graph.nodes[1].constants)
    x = np.array([0.1, -0.2, 0.05])
    scaled = pt.compile([(scale * W, scale * b), (np.eye(8)[:2], np.zeros(2))])
    same = pt.compile([(W, b), (np.eye(8)[:2], np.zeros(2))])
    one, two = scaled.region(x).facets((-1, 1)), same.region(x).facets((-1, 1))
    check(one)
    assert one.ids == two.ids


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_small_integer_networks(seed, k):
    rng = np.random.default_rng(seed)
    layers = [(rng.integers(-2, 3, (5, k)).astype(float), rng.integers(-1, 2, 5).astype(float)),
              (rng.integers(-2, 3, (4, 5)).astype(float), rng.integers(-1, 2, 4).astype(float)),
              (np.ones((2, 4)), np.zeros(2))]  # fmt: skip
    net = pt.compile(layers)
    region = net.region(rng.uniform(-1, 1, k))
    check(region.facets((-1, 1)))


def test_facets_are_the_edges_of_the_graph():
    net = dense(3, 7, 6, 2, seed=4)
    domain = as_domain(net, (-1, 1))
    graph = RegionGraph(net, domain, split(net, domain))
    for i in range(0, len(graph), 3):
        found = graph.facets(i)
        assert (~found.on_domain).sum() == len(graph.neighbors(i))


def test_wrong_proofs_are_refused():
    found = dense(3, 8, 6, 2, seed=1).region(np.zeros(3)).facets((-1, 1))
    section, center = found.section, found.section.interior
    row, (rows, weights) = next(iter(found.multipliers.items()))
    assert is_redundant(section, center, row, rows, weights)
    assert not is_redundant(section, center, row, rows, 1.5 * weights)
    assert not is_redundant(section, center, row, rows, -weights)
    assert not is_redundant(section, center, row, np.append(rows, row), np.append(0 * weights, 1))
    for facet in np.flatnonzero(~found.redundant):
        assert not is_redundant(section, center, int(facet), rows, weights)


def test_regions_that_have_no_interior_there():
    net = dense(2, 6, 4, 2, seed=0)
    region = net.region(np.array([0.5, 0.5]))
    far = pt.HPolytope(np.vstack([np.eye(2), -np.eye(2)]), np.array([-50.0, -50, 51, 51]))
    assert net.region(np.array([-50.5, -50.5])).pattern != region.pattern
    with pytest.raises(InputError, match="no interior in the domain"):
        region.facets(far)
    with pytest.raises(InputError, match="round side"):
        region.facets(pt.Ball([0, 0], 1))
