"""The traversal of regions: against every linear region of small networks, and the digits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import InputError
from polytope.graph import RegionGraph
from polytope.pattern import ActivationPattern
from polytope.robustness.cell import adversarial_cell, cell_distance
from polytope.robustness.interval import Interval
from polytope.robustness.query import Query
from polytope.robustness.traversal import Traversal, traverse
from polytope.robustness.traversal_arrays import EXPLORED, FLAT
from tests.data import data_path

NORMS = (1.0, 2.0, math.inf)
TOL = 1e-9


class Residual(nn.Module):
    """A residual sum, a pool of pairs, and leaky units."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(d, 6), nn.Linear(6, 6)
        self.pool, self.last = nn.MaxPool1d(2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + nn.functional.leaky_relu(self.second(x), 0.1)
        return self.last(self.pool(x.unsqueeze(1)).squeeze(1))


class Convolution(nn.Module):
    """A convolution, a pool, and one output row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.last = nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pool(torch.relu(self.conv(x))).flatten(1))


def dense(d: int, *sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip((d, *sizes[:-1]), sizes, strict=True):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain(d: int) -> nn.Module:
    return dense(d, 7, 5, 3)


def clipped(d: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, 5), nn.Hardtanh(), nn.Linear(5, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2)
    )


def one_output(d: int) -> nn.Module:
    return dense(d, 6, 1)


@torch.no_grad()
def no_biases(d: int) -> nn.Module:
    model = dense(d, 6, 4, 3)
    model[0].bias.zero_()
    model[2].bias.zero_()
    return model


@torch.no_grad()
def duplicates(d: int) -> nn.Module:
    """Neurons that are equal, opposite, multiples of one another, and pruned."""
    model = dense(d, 6, 4, 3)
    for p in (model[0].weight, model[0].bias):
        p[1], p[2], p[3], p[5] = p[0], -p[0], 0.0, 2 * p[4]
    for p in (model[2].weight, model[2].bias):
        p[1] = p[0]
    return model


@torch.no_grad()
def cancelling(d: int) -> nn.Module:
    """A unit that is zero, and two that are equal, only by what their inputs are."""
    model = dense(d, 6, 4, 3)
    for p in (model[0].weight, model[0].bias):
        p[1] = p[0]
    second = model[2]
    second.weight[0] = torch.tensor([0.1, -0.1, 0, 0, 0, 0])
    second.bias[0] = 0.0
    second.weight[1], second.bias[1] = second.weight[2], second.bias[2]
    second.weight[1, :2] += torch.tensor([0.5, -0.5])
    return model


@torch.no_grad()
def scaled(d: int) -> nn.Module:
    """The same function with tiny and huge weights."""
    model = dense(d, 6, 4, 3)
    model[0].weight *= 2.0**-36
    model[0].bias *= 2.0**-36
    model[2].weight *= 2.0**36
    return model


@torch.no_grad()
def integers(d: int) -> nn.Module:
    """Hyperplanes that meet in many points."""
    model = dense(d, 6, 4, 3)
    for p in model.parameters():
        p.copy_(torch.randint(-2, 3, p.shape).to(p.dtype))
    return model


FAMILIES = (
    plain, clipped, Residual, one_output, no_biases, duplicates, cancelling, scaled, integers,
)  # fmt: skip


def question(
    net: pt.Network,
    x: np.ndarray,
    p: float,
    box: pt.Box | None,
    target: int | None = None,
    radius: float | None = None,
    seconds: float = 600.0,
) -> Interval:
    query = Query(
        net, x, int(net.predict(x[None])[0]), target, p, box, radius, TOL, 0, 2**30
    )  # fmt: skip
    return Interval(query, time.perf_counter() + seconds)


def brute_force(graph: RegionGraph, interval: Interval) -> float:
    """The least distance to the adversarial part of any linear region."""
    query = interval.query
    return min(
        cell_distance(
            adversarial_cell(graph.region(i), query.label, t), query.x, query.p, query.box
        ).lower
        for i in range(len(graph)) for t in query.targets
    )  # fmt: skip


def check(found: Traversal, interval: Interval, expected: float) -> None:
    assert found.complete or interval.settled
    assert found.exactness == "safe-float"
    assert interval.lower <= interval.upper
    assert interval.lower == pytest.approx(expected, rel=1e-8, abs=1e-13)
    assert interval.upper == pytest.approx(expected, rel=1e-8, abs=1e-13)


def points(rng: np.random.Generator, d: int) -> list[np.ndarray]:
    """Inside, in a corner of the box, and where integer hyperplanes meet."""
    return [
        rng.uniform(-1, 1, d), np.where(rng.random(d) < 0.5, 2.0, -2.0),
        np.round(rng.uniform(-2, 2, d)),
    ]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_region_of_small_networks(family: Callable[[int], nn.Module]) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        rng, d = np.random.default_rng(seed), 2 + seed
        net = pt.compile(family(d).double(), (d,))
        classes = max(2, net.output_size)
        box = pt.Box(np.full(d, -2.0), np.full(d, 2.0))
        graph = pt.region_graph(net, box)
        assert graph.complete
        for x in points(rng, d):
            label = int(net.predict(x[None])[0])
            for p in NORMS:
                target = [None, (label + 1) % classes][int(rng.integers(2))]
                interval = question(net, x, p, box, target)
                found = traverse(interval.query, interval)
                check(found, interval, brute_force(graph, interval))
                assert found.regions <= 5 * len(graph)  # some that only touch the way


@pytest.mark.parametrize("family", [plain, no_biases, duplicates, Residual])
def test_the_whole_space(family: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(4)
    net = pt.compile(family(2).double(), (2,))
    graph = pt.region_graph(net, None)
    x = np.random.default_rng(4).uniform(-1, 1, 2)
    for p in NORMS:
        interval = question(net, x, p, None)
        expected = brute_force(graph, interval)
        found = traverse(interval.query, interval)
        if expected < 1e6:
            check(found, interval, expected)
        else:  # nothing adversarial anywhere: that is only proved as far as floats reach
            assert math.isinf(interval.upper)
            assert interval.lower > 1e6


def test_frozen_coordinates_of_a_convolution() -> None:
    rng = np.random.default_rng(3)
    for seed in range(3):
        torch.manual_seed(seed)
        net = pt.compile(Convolution().double(), (1, 3, 3))
        x = rng.uniform(-1, 1, 9)
        low, high = x.copy(), x.copy()
        low[[1, 4, 6]], high[[1, 4, 6]] = -2.0, 2.0
        box = pt.Box(low, high)
        graph = pt.region_graph(net, box)
        for p in NORMS:
            interval = question(net, x, p, box)
            check(traverse(interval.query, interval), interval, brute_force(graph, interval))


def test_on_a_hyperplane_and_where_many_meet() -> None:
    torch.manual_seed(1)
    net = pt.compile(no_biases(2).double(), (2,))
    box = pt.Box(np.full(2, -1.0), np.full(2, 1.0))
    graph = pt.region_graph(net, box)
    with torch.no_grad():
        normal = net.constants(torch.float64, torch.device("cpu"))
    weight = next(v for k, v in normal.items() if tuple(v.shape) == (6, 2)).numpy()
    along = 0.25 * np.array([-weight[0, 1], weight[0, 0]])
    for x in (np.zeros(2), along):
        for p in NORMS:
            interval = question(net, x, p, box)
            check(traverse(interval.query, interval), interval, brute_force(graph, interval))


def test_radius_target_and_nothing_adversarial() -> None:
    torch.manual_seed(2)
    net = pt.compile(plain(2).double(), (2,))
    box = pt.Box(np.full(2, -30.0), np.full(2, 30.0))
    x = np.array([0.3, -0.2])
    for p in NORMS:
        interval = question(net, x, p, box)
        traverse(interval.query, interval)
        distance = interval.upper
        if math.isinf(distance):
            assert math.isinf(interval.lower)
            continue
        for part, robust in ((0.99, True), (1.01, False)):
            decided = question(net, x, p, box, radius=part * distance)
            traverse(decided.query, decided)
            assert decided.settled
            assert (decided.lower >= part * distance) is robust
            assert (decided.upper <= part * distance) is not robust
        near = 0.5 * distance / (2 if p == 1 else 1)
        small = pt.Box(x - near / 2, x + near / 2)
        interval = question(net, x, p, small)
        found = traverse(interval.query, interval)
        assert found.complete
        assert math.isinf(interval.lower)
        assert interval.witness is None


def test_a_box_that_is_one_point_and_a_network_without_units() -> None:
    net = pt.compile(nn.Sequential(nn.Linear(2, 2)).double(), (2,))
    x = np.array([0.5, 0.25])
    interval = question(net, x, 2.0, pt.Box(x, x))
    assert traverse(interval.query, interval).complete
    assert math.isinf(interval.lower)
    box = pt.Box(np.full(2, -9.0), np.full(2, 9.0))
    for p in NORMS:
        interval = question(net, x, p, box)
        label = interval.query.label
        cell = adversarial_cell(net.region(x), label, 1 - label)
        found = traverse(interval.query, interval)
        check(found, interval, cell_distance(cell, x, p, box).lower)


def test_stops_with_the_interval_reached() -> None:
    torch.manual_seed(5)
    net = pt.compile(dense(6, 24, 24, 3).double(), (6,))
    x = np.zeros(6)
    interval = question(net, x, 2.0, pt.Box(np.full(6, -9.0), np.full(6, 9.0)), seconds=0.0)
    found = traverse(interval.query, interval)
    assert not found.complete
    assert found.regions == 0
    assert interval.lower == 0.0


def test_an_interrupt_leaves_a_proved_interval() -> None:
    torch.manual_seed(6)
    net = pt.compile(plain(3).double(), (3,))
    box = pt.Box(np.full(3, -9.0), np.full(3, 9.0))
    x = np.array([0.4, -0.1, 0.2])
    whole = question(net, x, 2.0, box)
    traverse(whole.query, whole)

    def interrupt(interval: Interval) -> None:
        if interval.lower > 0:
            raise KeyboardInterrupt

    interval = question(net, x, 2.0, box)
    interval.report = interrupt
    with pytest.raises(KeyboardInterrupt):
        traverse(interval.query, interval)
    assert 0 < interval.lower <= whole.upper
    assert interval.upper >= whole.lower


def test_other_norms_are_refused() -> None:
    net = pt.compile(plain(2).double(), (2,))
    interval = question(net, np.zeros(2), 3.0, None)
    with pytest.raises(InputError, match="p = 1, 2 and inf"):
        traverse(interval.query, interval)


def test_the_evidence() -> None:
    """Every proof is one by the rows of its region: bounds follow from the weights alone."""
    torch.manual_seed(7)
    net = pt.compile(plain(3).double(), (3,))
    x = np.array([0.1, 0.2, -0.3])
    box = pt.Box(np.full(3, -4.0), np.full(3, 4.0))
    interval = question(net, x, 2.0, box)
    found = traverse(interval.query, interval)
    assert len(found.patterns) == len(found.status) == len(found.bound) == len(found.proof)
    assert (found.status == EXPLORED).sum() == found.regions
    assert not (found.status == FLAT).any()
    graph = pt.region_graph(net, box)
    real = {graph.region(i).pattern.packed for i in range(len(graph))}
    for packed, status in zip(found.patterns, found.status, strict=True):
        assert status != EXPLORED or packed.tobytes() in real
    for (region, row, begin, count), bound in zip(found.way, found.way_bound, strict=True):
        pattern = ActivationPattern(found.patterns[region].tobytes(), net.layout)
        rows = net.region(x, pattern)
        first = np.array([layer.first_row for layer in net.layers])
        ids = first[rows.units.layer] + rows.units.unit  # ReLU: one row for each unit
        normal, value = np.zeros(3), 0.0
        used = slice(begin, begin + count)
        for i, weight in zip(found.row[used], found.weight[used], strict=True):
            if i >= net.rows:
                rival = int(i) - net.rows
                a = rows.jacobian[interval.query.label] - rows.jacobian[rival]
                c = float((rows.offset[interval.query.label] - rows.offset[rival]) + a @ x)
            else:
                at = int(np.flatnonzero(ids == i)[0])
                a, c = rows.A[at], float(rows.A[at] @ x - rows.b[at])
                assert weight >= 0 or i == row
            normal, value = normal + weight * a, value + weight * c
        step = np.clip(-normal, box.low - x, box.high - x)
        dual = value + 0.5 * step @ step + normal @ step
        assert math.sqrt(max(2 * dual, 0.0)) >= bound * (1 - 1e-7)


@pytest.mark.parametrize(
    ("p", "number", "optimum"),
    # By branch and bound over the units' pieces; in l_inf by mixed-integer programs too.
    [
        (2.0, 1, 0.210394212390745), (2.0, 8, 0.2943681858151422), (1.0, 8, 0.7891985415405383),
        (1.0, 1, 0.4408628813741901), (math.inf, 9, 0.031223144062942902),
    ],
)  # fmt: skip
def test_real_digits(p: float, number: int, optimum: float) -> None:
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        x = file["points"][number].astype(float)
    interval = question(net, x, p, pt.Box(np.zeros(64), np.ones(64)))
    found = traverse(interval.query, interval)
    assert found.complete
    assert interval.exact
    assert interval.upper == pytest.approx(optimum, rel=1e-9)
    assert interval.lower == pytest.approx(optimum, rel=1e-9)
