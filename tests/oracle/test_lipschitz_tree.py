"""Branch and bound over pieces against the enumeration, and on networks too large for it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import polytope as pt
from polytope.extremes.lipschitz import exact_lipschitz
from tests.data import data_path
from tests.nets import NAMES, compiled, dense
from tests.oracle.degenerate_nets import COUNTED, DEGENERATE

INF = math.inf
PAIRS = [(2.0, 2.0), (INF, INF), (1.0, 1.0), (2.0, INF), (INF, 1.0)]
#: Four inputs, and few enough units that both engines are quick.
KINDS = [
    name
    for name in NAMES
    if compiled(name)[0].input_size <= 4 and 0 < compiled(name)[0].units <= 24
]


@functools.cache
def network(name: str) -> pt.Network:
    net = COUNTED[name]
    return pt.compile(net.model(), (net.widths[0],))


@pytest.fixture(scope="module")
def digits() -> tuple[pt.Network, np.ndarray]:
    """A trained network of 64 inputs and a digit."""
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        return net, file["points"][1].astype(np.float64)


def assert_agree(net: pt.Network, domain: object, p: float, q: float, **kind: object) -> None:
    every = exact_lipschitz(net, domain, p, q, method="enumeration", **kind)
    tree = exact_lipschitz(net, domain, p, q, method="branch_and_bound", **kind)
    assert tree.method == "branch_and_bound"
    assert tree.status == "exact"
    assert tree.lower <= every.upper
    assert every.lower <= tree.upper
    assert tree.value == pytest.approx(every.value, rel=1e-9, abs=1e-280)
    if tree.witness is not None and net.layers:
        region = net.region(tree.witness)
        assert region.pattern == tree.pattern


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_network(name: str) -> None:
    net, _ = compiled(name)
    pairs = [pair for pair in PAIRS if net.output_size <= 8 or pair != (INF, 1.0)]
    p, q = pairs[KINDS.index(name) % len(pairs)]
    assert_agree(net, (-0.31, 0.47), p, q)


@pytest.mark.parametrize(
    ("name", "p"),
    [
        (name, p)
        for name in ("A1", "S4", "T5", *(net.name for net in DEGENERATE))
        # Without biases the ball around the origin takes a quarter of a minute each.
        for p in ((1.0,) if name == "zero_biases" else (1.0, 2.0, INF))
    ],
)
def test_boxes_and_balls(name: str, p: float) -> None:
    net = network(name)
    center = np.linspace(-0.2, 0.3, net.input_size)
    assert_agree(net, pt.Ball(center, 0.4, p), 2, 2)
    assert_agree(net, pt.Ball(center, 0.4, p), INF, 1, total=True)
    assert_agree(net, pt.Ball(center, 0.4, p), 1, INF, box=(-0.25, 0.35))


def test_functionals_and_frozen_inputs() -> None:
    net = dense(5, 8, 6, 3, seed=7)
    assert_agree(net, (-0.5, 0.5), 2, 2, functional=[1.0, -1.0, 0.5])
    box = pt.Box(np.array([-0.5, 0.2, -0.5, -0.1, 0.4]), np.array([0.5, 0.2, 0.5, -0.1, 0.4]))
    assert_agree(net, box, INF, INF)


def test_many_inputs(digits: tuple[pt.Network, np.ndarray]) -> None:
    """64 inputs: where a few dozen units are open; the bound holds for sampled Jacobians."""
    net, x = digits
    found = exact_lipschitz(net, pt.Ball(x, 0.03, INF), INF, INF, box=(0, 1))
    assert found.method == "branch_and_bound"
    assert found.status == "exact"
    assert (np.abs(found.witness - x) <= 0.03 * (1 + 1e-12)).all()
    shown = np.abs(net.region(found.witness).jacobian).sum(axis=1).max()
    assert shown == pytest.approx(found.value, rel=1e-9)
    rng = np.random.default_rng(0)
    samples = np.clip(x + rng.uniform(-0.03, 0.03, (50, 64)), 0, 1)
    for z in samples:
        assert np.abs(net.region(z).jacobian).sum(axis=1).max() <= found.upper
    bound = pt.lipschitz(net, pt.Ball(x, 0.03, INF), INF, INF, method="recurjac")
    assert found.upper <= bound.upper


def test_stopping_the_tree(digits: tuple[pt.Network, np.ndarray]) -> None:
    net, x = digits
    found = exact_lipschitz(net, pt.Ball(x, 0.3, INF), INF, INF, box=(0, 1), time_limit=2.0)
    assert found.status == "stopped"
    assert 0 < found.lower < found.upper < INF
    assert found.seconds < 20
    few = exact_lipschitz(
        net, pt.Ball(x, 0.3, INF), INF, INF, box=(0, 1), max_regions=1, time_limit=2
    )
    assert few.lower <= few.upper


def test_distortion_in_many_inputs(digits: tuple[pt.Network, np.ndarray]) -> None:
    """By branch and bound: above what the genetic algorithm finds, below its upper bound."""
    net, x = digits
    exact = pt.gradient_distortion(net, x, 3, 0.02, "inf", (0, 1), method="exact", samples=0)
    evolved = pt.gradient_distortion(
        net, x, 3, 0.02, "inf", (0, 1), method="genetic", population=400, epochs=6, samples=0
    )
    assert exact.status == "exact"
    assert evolved.lower <= exact.upper
    assert exact.lower <= evolved.upper


def test_what_has_no_tree_is_refused() -> None:
    net = network("A1")
    with pytest.raises(pt.PolytopeError, match="bounded box or a ball"):
        exact_lipschitz(net, None, 2, 2, method="branch_and_bound")
    with pytest.raises(pt.PolytopeError, match="expected one of auto, enumeration"):
        exact_lipschitz(net, (-1, 1), 2, 2, method="guess")


def test_linearity_in_many_inputs(digits: tuple[pt.Network, np.ndarray]) -> None:
    """By branch and bound, beside the ascent and CROWN; the witness shows it."""
    net, x = digits
    y = int(net.predict(x[None])[0])
    for p, eps in ((INF, 0.03), (1.0, 0.5)):
        exact = pt.local_linearity(net, x, y, eps, p, (0, 1), method="exact")
        interval = pt.local_linearity(net, x, y, eps, p, (0, 1), method="pgd")
        assert exact.status == "exact"
        assert interval.lower <= exact.upper
        assert exact.lower <= interval.upper
        step = exact.witness - x
        assert np.linalg.norm(step, p) <= eps * (1 + 1e-12)
        region, z = net.region(x), exact.witness
        gap = net.logits(z[None])[0] - region.affine(z)[0]
        assert abs(gap[y] - gap[exact.target]) == pytest.approx(exact.lower, rel=1e-8)
