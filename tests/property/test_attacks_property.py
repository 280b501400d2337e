"""Attacks on random small networks, against the optimum over all regions of the box."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.attacks import (
    FGSM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    LinearRegion,
    MultiTargeted,
    Untargeted,
    polish,
)
from polytope.enumeration import region_graph
from polytope.model import Network
from tests.nets import dense
from tests.oracle.brute_force import Cell, minimal_distance
from tests.unit.attacks.test_attack import assert_proved

#: What the oracle's interior-point solver is good for.
ORACLE = 1e-6
BOX = (-1.0, 1.0)


def cells(net: Network, box: tuple[float, float]) -> list[Cell]:
    """Rows and output maps of all regions of the box."""
    graph = region_graph(net, box)
    assert graph.complete
    found = []
    for i in range(len(graph)):
        region = graph.region(i)
        scale = np.abs(region.A).max(axis=1, initial=0.0)
        keep = scale > 0
        rows, right = region.A[keep] / scale[keep, None], region.b[keep] / scale[keep]
        found.append((rows, right, region.jacobian, region.offset))
    return found


@given(
    seed=st.integers(0, 10**6),
    d=st.sampled_from([2, 3]),
    widths=st.sampled_from([(4,), (8,), (4, 4)]),
    p=st.sampled_from([1.0, 2.0, math.inf]),
    targeted=st.booleans(),
)
@settings(max_examples=12)
def test_witnesses_are_proved_and_never_below_the_optimum(
    seed: int, d: int, widths: tuple[int, ...], p: float, targeted: bool
) -> None:
    net = dense(d, *widths, 3, seed=seed)
    x = np.random.default_rng(seed).uniform(-1, 1, (1, d))
    y = net.predict(x)
    label = int(y[0])
    target = (label + 1) % 3 if targeted else None
    regions = cells(net, BOX)
    rows = slice(None) if target is None else [label, target]
    own = label if target is None else 0
    optimum = minimal_distance(
        [(A, b, J[rows], c[rows]) for A, b, J, c in regions], x[0], own, p, BOX
    )
    attacks: list[Attack] = [PGD(), LinearRegion(), DeepFool()]
    if p == 2:
        attacks.append(CarliniWagner(steps=100, searches=6))
    for factor in (0.97, 1.5) if 0 < optimum < math.inf else ():
        eps = factor * optimum
        short = {"steps": 60, "restarts": 4, "rates": ((0, eps / 5), (30, eps / 50))}
        attacks += [FGSM(eps, steps=20), Untargeted(eps, **short), MultiTargeted(eps, **short)]
    best = math.inf
    for attack in attacks:
        found = attack(net, x, y, p, BOX, target)
        assert_proved(net, x, y, found, p, BOX, target)
        distance = float(found.distance[0])
        assert distance >= optimum * (1 - ORACLE) - ORACLE
        assert math.isinf(distance) or distance <= attack.radius()
        if math.isfinite(distance):
            fixed = polish(net, x[0], found.witness[0], label, p, BOX, target)
            assert optimum * (1 - ORACLE) - ORACLE <= fixed.distance <= distance
            best = min(best, fixed.distance)
    if math.isinf(optimum):
        assert math.isinf(best)


def test_small_networks_are_mostly_solved() -> None:
    """The linear-region attack is at the optimum on nearly all of 24 random networks."""
    solved, reachable = 0, 0
    for seed in range(24):
        p = (1.0, 2.0, math.inf)[seed % 3]
        net = dense(2, 8, 3, seed=seed)
        x = np.random.default_rng(seed).uniform(-1, 1, (1, 2))
        y = net.predict(x)
        optimum = minimal_distance(cells(net, BOX), x[0], int(y[0]), p, BOX)
        if math.isfinite(optimum):
            reachable += 1
            found = LinearRegion()(net, x, y, p, BOX)
            solved += bool(found.distance[0] <= optimum * (1 + ORACLE) + ORACLE)
    assert reachable >= 12
    assert solved >= 0.95 * reachable
