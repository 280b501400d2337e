"""Exact maps, rows and germs of patterns, against plain fractions."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pytest

from polytope.errors import InputError
from polytope.model import Network, compile
from polytope.network.build import GraphBuilder
from polytope.network.engine import Engine
from polytope.network.ir import Max
from polytope.regions.domain import Domain
from polytope.regions.exact_interior import primitive
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import exact_vertices
from tests.nets import FEW, compiled, dense
from tests.oracle.rational import Vector, affine_exact, pieces_exact

TINY = Fraction(1, 2**200)
#: Networks of the zoo with at most 40 inputs: the oracle is too slow for more.
KINDS = [name for name in FEW if name not in ("conv2d", "max_pool2d")]
small_kinds = pytest.mark.parametrize("name", KINDS)


def whole_space(size: int) -> Domain:
    return Domain(size, None, None, np.zeros((0, size)), np.zeros(0))


def plane(size: int, k: int, seed: int = 0) -> Domain:
    """A slice with coordinates of its own, in a box of them."""
    rng = np.random.default_rng(seed)
    eye = np.eye(k)
    A, b = np.vstack([eye, -eye]), np.full(2 * k, 1.75)
    return Domain(size, rng.normal(size=size), rng.normal(size=(k, size)), A, b)


def lift(domain: Domain, u: Vector) -> Vector:
    """The input of exact coordinates."""
    if domain.basis is None or domain.origin is None:
        return u
    columns = zip(domain.origin.tolist(), domain.basis.T.tolist(), strict=True)
    return [
        Fraction(o) + sum(Fraction(w) * v for w, v in zip(row, u, strict=True))
        for o, row in columns
    ]


def some_pieces(net: Network, rng: np.random.Generator) -> np.ndarray:
    """Any pattern: pieces that each unit has, of no point in particular."""
    found = [np.zeros(0, np.int64)]
    for layer in net.layers:
        op = net.graph.nodes[layer.node].op
        if isinstance(op, Max):
            index = net.graph.constants[op.index]
            found.append(np.array([rng.choice(np.flatnonzero(row >= 0)) for row in index]))
        else:
            found.append(rng.integers(layer.pieces, size=layer.units))
    return np.concatenate(found)


def over_coordinates(
    domain: Domain, gradients: list[Vector], offsets: Vector
) -> list[list[Fraction]]:
    """Maps over the inputs as [gradient | constant] over the coordinates."""
    zero = lift(domain, [Fraction(0)] * domain.dimension)
    units = np.eye(domain.dimension, dtype=np.int64).tolist()
    ends = [lift(domain, [Fraction(v) for v in unit]) for unit in units]
    return [
        [
            *(sum(g * (e - z) for g, e, z in zip(row, end, zero, strict=True)) for end in ends),
            sum((g * z for g, z in zip(row, zero, strict=True)), offset),
        ]
        for row, offset in zip(gradients, offsets, strict=True)
    ]


def degenerate() -> dict[str, Network]:
    """Networks on which hyperplanes coincide, vanish or meet in one point."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(6, 2)), rng.normal(size=(6, 6))
    last, bias = rng.normal(size=(2, 6)), rng.normal(size=6)
    out = (last, np.zeros(2))
    zeros, twice, alive = np.zeros(6), [0, 1, 2, 0, 1, 2], np.array([1, 0, 1, 1, 0, 1.0])
    return {
        "zero_biases": compile([(first, zeros), (second, zeros), out]),
        "duplicates": compile([(first[twice], bias[twice]), (second[twice], bias[twice]), out]),
        "dead": compile([(alive[:, None] * first, alive * bias), (second, bias), out]),
        "scaled": compile([(first * 2.0**-36, bias * 2.0**-36), (second * 2.0**36, bias), out]),
        "integers": compile(
            [(np.round(2 * first), np.round(bias)), (np.round(2 * second), np.round(bias)), out]
        ),
    }


degenerate_nets = functools.cache(degenerate)
each_degenerate = pytest.mark.parametrize(
    "name", ["zero_biases", "duplicates", "dead", "scaled", "integers"]
)


def check_maps(net: Network, domain: Domain, rng: np.random.Generator, patterns: int = 2) -> None:
    maps = ExactMaps(net, domain)
    for _ in range(patterns):
        pieces = some_pieces(net, rng)
        for number, (gradients, offsets) in enumerate(affine_exact(net.graph, pieces.tolist())):
            found = maps.layer(number, pieces.astype(np.uint16))
            expected = over_coordinates(domain, gradients, offsets)
            assert found.integers.shape == (len(offsets), domain.dimension + 1)
            assert found.to_fractions() == [v for row in expected for v in row]
            assert maps.layer(number, pieces) is found


@small_kinds
def test_maps_over_inputs(name: str) -> None:
    net = compiled(name)[0]
    check_maps(net, whole_space(net.input_size), np.random.default_rng(0), 1)


@small_kinds
def test_maps_over_a_slice(name: str) -> None:
    net = compiled(name)[0]
    check_maps(net, plane(net.input_size, 2), np.random.default_rng(1), 1)


@each_degenerate
def test_maps_of_degenerate_networks(name: str) -> None:
    check_maps(degenerate_nets()[name], whole_space(2), np.random.default_rng(2), 8)


def test_few_maps_are_kept_and_the_rest_made_again() -> None:
    net = dense(2, 5, 5, 5, 2)
    maps, rng = ExactMaps(net, whole_space(2), kept=3), np.random.default_rng(0)
    patterns = [rng.integers(2, size=15) for _ in range(6)]
    first = [maps.layer(3, pieces).to_fractions() for pieces in patterns]
    assert len(maps._states) == 3
    assert [maps.layer(3, pieces).to_fractions() for pieces in patterns] == first


def test_every_earlier_unit_tells_maps_apart() -> None:
    net, domain = dense(2, 4, 4, 2), whole_space(2)
    kept, pieces = ExactMaps(net, domain), np.ones(8, np.uint8)
    kept.layer(2, pieces)
    for unit in range(8):
        flipped = pieces.copy()
        flipped[unit] = 0
        fresh = ExactMaps(net, domain).layer(2, flipped)
        assert kept.layer(2, flipped).to_fractions() == fresh.to_fractions()


def test_empty_places_of_a_window_have_rows_of_zeros() -> None:
    b = GraphBuilder()
    x = b.input((3,))
    graph = b.finish(b.max(x, np.array([[0, -1, 1], [2, 1, -1]]), (2,), "max"))
    rows = ExactMaps(Engine(graph), whole_space(3)).rows(np.array([2, 0]), np.arange(6))
    assert rows.tolist() == [
        [1, -1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0],
        [0, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, 0],
    ]  # fmt: skip


def expected_row(
    net: Network, maps: list[list[list[Fraction]]], pieces: np.ndarray, row: int
) -> list[Fraction]:
    """One oriented row by the definitions."""
    number, layer = next(
        (n, x) for n, x in enumerate(net.layers) if x.row_slice.start <= row < x.row_slice.stop
    )
    node = net.graph.nodes[layer.node]
    unit, slot = divmod(row - layer.first_row, layer.slots)
    piece, own = int(pieces[layer.first_unit + unit]), maps[number]
    if isinstance(node.op, Max):
        table = net.graph.constants[node.op.index][unit]
        if table[slot] < 0:
            return [Fraction(0)] * len(own[0])
        return [a - b for a, b in zip(own[table[slot]], own[table[piece]], strict=True)]
    limits = net.graph.constants[node.op.breakpoints]
    every = np.broadcast_to(limits, (*node.shape, layer.slots)).reshape(-1, layer.slots)
    signed = [*own[unit][:-1], own[unit][-1] - Fraction(float(every[unit, slot]))]
    return signed if piece <= slot else [-v for v in signed]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "affine_only"])
def test_rows_are_oriented_and_primitive(name: str) -> None:
    net = compiled(name)[0]
    domain, rng = plane(net.input_size, 2, seed=3), np.random.default_rng(3)
    exact = ExactMaps(net, domain)
    pieces = some_pieces(net, rng)
    maps = [over_coordinates(domain, *pair) for pair in affine_exact(net.graph, pieces.tolist())]
    ids = rng.permutation(net.rows)[:60]
    found = exact.rows(pieces, ids)
    for row, integers in zip(ids.tolist(), found, strict=True):
        expected = expected_row(net, maps, pieces, row)
        divisor = np.gcd.reduce(integers) if integers.any() else 1
        assert divisor == 1
        at = next((i for i, v in enumerate(expected) if v), None)
        scale = 1 if at is None else Fraction(integers[at]) / expected[at]
        assert scale > 0
        assert [scale * v for v in expected] == integers.tolist()
        assert exact.row(pieces, row).tolist() == integers.tolist()


def test_rows_of_a_point_hold_at_it() -> None:
    net, domain = compiled("max_pool2d")[0], plane(compiled("max_pool2d")[0].input_size, 2)
    u = [Fraction(3, 7), Fraction(-5, 11)]
    pieces = np.array(pieces_exact(net.graph, np.array(lift(domain, u), dtype=object)))
    rows = ExactMaps(net, domain).rows(pieces, np.arange(net.rows + 4))
    assert all(row[0] * u[0] + row[1] * u[1] + row[2] <= 0 for row in rows)


def test_domain_rows_and_foreign_rows() -> None:
    net = dense(2, 3, 2)
    maps = ExactMaps(net, plane(2, 2))
    pieces = np.zeros(3, np.uint8)
    assert maps.rows(pieces, [3, 6]).tolist() == [[4, 0, -7], [0, -4, -7]]
    for row in (-1, 7):
        with pytest.raises(InputError, match="expected 0 to 6"):
            maps.row(pieces, row)


def test_primitive() -> None:
    assert primitive(np.array([6, -9, 2**90 * 3], dtype=object)).tolist() == [2, -3, 2**90]
    assert primitive(np.array([0, 0], dtype=object)).tolist() == [0, 0]


def check_germs(net: Network, domain: Domain, corners: np.ndarray, seed: int) -> None:
    maps, rng = ExactMaps(net, domain), np.random.default_rng(seed)
    for corner in corners:
        direction = rng.integers(-5, 6, size=domain.dimension)
        u = [
            Fraction(c, corner[-1]) + TINY * int(d)
            for c, d in zip(corner[:-1], direction, strict=True)
        ]
        beyond = np.array(lift(domain, u), dtype=object)
        assert maps.germ_pieces(corner, direction).tolist() == pieces_exact(net.graph, beyond)


def corners_of(net: Network, domain: Domain, seed: int, count: int = 6) -> np.ndarray:
    """Points where two hyperplanes of some pattern meet, with k = 2."""
    rng, maps, found = np.random.default_rng(seed), ExactMaps(net, domain), []
    while len(found) < count:
        pieces = some_pieces(net, rng)
        rows = maps.rows(pieces, rng.choice(net.rows, 2, replace=net.rows < 2))
        determinant = rows[0, 0] * rows[1, 1] - rows[0, 1] * rows[1, 0]
        if determinant:
            tight = np.ones((1, 2), dtype=bool)
            found.append(exact_vertices(rows, tight, np.ones((1, 3)))[0])
        elif rows[0, 0]:
            found.append(np.array([-rows[0, 2], 0, rows[0, 0]]) * (1 if rows[0, 0] > 0 else -1))
    return np.array(found, dtype=object)


@each_degenerate
def test_germs_at_corners_of_degenerate_networks(name: str) -> None:
    net, domain = degenerate_nets()[name], whole_space(2)
    origin = np.array([[0, 0, 1]] * 6, dtype=object)
    check_germs(net, domain, np.concatenate([origin, corners_of(net, domain, 1, 30)]), 0)


@pytest.mark.parametrize(
    "name", ["max_pool2d", "maxout", "hardtanh", "maximum", "residual", "avg_pool1d", "abs"]
)
def test_germs_at_corners_on_a_slice(name: str) -> None:
    net = compiled(name)[0]
    domain = plane(net.input_size, 2)
    check_germs(net, domain, corners_of(net, domain, 2), 1)


def test_of_several_directions_the_next_one_decides_ties() -> None:
    net = compile([(np.eye(2), np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
    maps, origin = ExactMaps(net, whole_space(2)), np.array([0, 0, 1], dtype=object)
    assert maps.germ_pieces(origin, np.array([1, 0])).tolist() == [1, 0]
    assert maps.germ_pieces(origin, np.array([[1, 0], [-1, 1]])).tolist() == [1, 1]
    with pytest.raises(InputError, match="not > 0"):
        maps.germ_pieces(np.array([0, 0, 0], dtype=object), np.array([1, 0]))
