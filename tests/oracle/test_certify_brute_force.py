"""`certify` against the distance found by trying every pattern of small networks."""

from __future__ import annotations

import math

import numpy as np
import pytest

import polytope as pt
from polytope.network.build import GraphBuilder
from polytope.network.ir import Graph
from polytope.network.source import Imported
from tests.oracle.brute_force import cells, minimal_distance
from tests.oracle.rational import run_exact

#: cvxpy's own accuracy.
ORACLE = 1e-6


def network(kind: str, seed: int) -> Graph:
    """A network of two inputs and at most 7 units, of one kind."""
    rng = np.random.default_rng(seed)
    b = GraphBuilder()
    x = b.input((2,))
    weights = rng.normal(size=(4, 2))
    if kind == "duplicated":
        weights[1] = weights[0]
        weights[3] = -2 * weights[2]
    if kind == "dead":
        weights[0] = 0
    bias = np.zeros(4) if kind in ("zero_bias", "duplicated") else rng.normal(size=4)
    if kind == "dead":
        bias[0] = 0
    if kind == "tiny":
        weights, bias = weights * 2.0**-36, bias * 2.0**-36
    h = b.linear(x, b.constant(weights), b.constant(bias))
    if kind == "leaky":
        h = b.leaky_relu(h, 0.2)
    elif kind == "max":
        h = b.max(h, np.array([[0, 1], [2, 3]]), (1, 2), "pool")
    elif kind == "hardtanh":
        h = b.clamp(h, -0.5, 0.7)
    elif kind == "abs":
        h = b.abs(h)
    else:
        h = b.relu(h)
    width = h.size
    if kind == "residual":
        inner = b.linear(h, b.constant(rng.normal(size=(4, 4)) / 2), b.constant(rng.normal(size=4)))
        h = b.sum([h, b.relu(inner)], [1, 1])
    elif kind != "hardtanh":
        scale = 2.0**36 if kind == "tiny" else 1.0
        weights2 = scale * rng.normal(size=(3, width))
        h = b.relu(b.linear(h, b.constant(weights2), b.constant(rng.normal(size=3) / 2)))
    outputs = 1 if kind == "single" else 3
    last = rng.normal(size=(outputs, h.size))
    return b.finish(b.linear(h, b.constant(last), b.constant(rng.normal(size=outputs) / 2)))


KINDS = (
    "plain", "leaky", "max", "hardtanh", "abs", "residual", "zero_bias", "duplicated", "dead",
    "tiny", "single",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "seed"), [*((kind, 0) for kind in KINDS), ("plain", 1), ("max", 1), ("duplicated", 1)]
)
def test_interval_holds_the_true_distance(kind: str, seed: int) -> None:
    graph = network(kind, seed)
    net = pt.Network(Imported(graph))
    x = np.random.default_rng(100 + seed).uniform(-0.9, 0.9, (1, 2))
    label = int(net.predict(x)[0])
    regions = cells(graph)
    for p in (1, 2, math.inf):
        for box in (None, (-1.0, 1.0)):
            true = minimal_distance(regions, x[0], label, p, box)
            for limit in (1, 3, 40):
                hold_against(true, pt.certify(net, x, p=p, box=box, max_regions=limit))


def hold_against(true: float, result: pt.Certificates) -> None:
    """The interval holds the true distance, and the claims beside it are right."""
    slack = ORACLE * max(1.0, true) if true < math.inf else 0.0
    lower, upper = result.lower[0], result.upper[0]
    assert lower <= true + slack
    assert upper >= true - slack
    if result.exact[0] and true < math.inf:
        assert abs(upper - true) <= slack
    if result.status[0] == "unreachable":
        assert true == math.inf


def test_witnesses_are_adversarial_in_rational_arithmetic() -> None:
    seen = 0
    for kind in KINDS:
        for seed in range(4):
            graph = network(kind, seed)
            net = pt.Network(Imported(graph))
            x = np.random.default_rng(seed).uniform(-0.9, 0.9, (3, 2))
            for p in (1, 2, 3, math.inf):
                result = pt.certify(net, x, p=p, box=(-1, 1), max_regions=2)
                for row in np.flatnonzero(np.isfinite(result.upper)):
                    label, witness = result.label[row], result.witness[row]
                    values = run_exact(graph, witness)
                    values = [0, *values] if len(values) == 1 else values
                    rivals = [v for s, v in enumerate(values) if s != label]
                    assert max(rivals) >= values[label]
                    step = np.linalg.norm(witness - x[row], ord=p)
                    assert step <= result.upper[row] <= step * (1 + 1e-14)
                    assert (np.abs(witness) <= 1).all()
                    seen += 1
    assert seen > 60


def test_exact_results_are_found_at_all() -> None:
    """The interval test would pass on [0, inf]: most of these points must be proved."""
    exact = 0
    for seed in range(5):
        net = pt.Network(Imported(network("plain", seed)))
        x = np.random.default_rng(seed).uniform(-0.9, 0.9, (3, 2))
        exact += int(pt.certify(net, x, p=2, box=(-1, 1), max_regions=60).exact.sum())
    assert exact >= 14
