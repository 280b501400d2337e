"""Mixed-integer programs: against every linear region of small networks, and a real digit."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.attacks import LinearRegion
from polytope.robustness import mip
from polytope.robustness.cell import adversarial_cell, cell_distance
from polytope.robustness.interval import Interval
from polytope.robustness.mip import MixedIntegerRun, mixed_integer
from polytope.robustness.query import Query
from solvers import Solution, Status, UnknownBackendError, UnsupportedProblemError, solve
from solvers.mps import read_mps, write_mps
from tests.data import data_path
from tests.nets import dense

INF = math.inf
ATTACK = LinearRegion(restarts=0, rivals=0)


class Residual(nn.Module):
    """A residual sum, a pool of pairs, and leaky units."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(d, 6), nn.Linear(6, 6)
        self.pool, self.last = nn.MaxPool1d(3), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + nn.functional.leaky_relu(self.second(x), 0.1)
        return self.last(self.pool(x.unsqueeze(1)).squeeze(1))


def clipped(d: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, 5), nn.Hardtanh(), nn.Linear(5, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2)
    )


def pooled(d: int) -> nn.Module:
    """A convolution with a pool of overlapping windows behind it, and one logit."""
    return nn.Sequential(
        nn.Unflatten(1, (1, d)), nn.Conv1d(1, 2, 2, padding=1), nn.MaxPool1d(2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * d, 4), nn.Hardtanh(-0.5, 0.5), nn.Linear(4, 1),
    )  # fmt: skip


def plain(d: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))


KINDS = [plain, clipped, Residual, pooled]


@functools.cache
def network(make, seed: int) -> pt.Network:
    torch.manual_seed(seed)
    d = 2 + seed % 2
    model = make(d).double()
    with torch.no_grad():  # no class may win everywhere
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        last.bias -= model(4 * torch.rand(500, d, dtype=torch.float64) - 2).mean(dim=0)
    return pt.compile(model, (d,))


@functools.cache
def query(make, seed: int, p: float) -> Query:
    """With no tolerance, so that no proof of CROWN's spares the programs."""
    net = network(make, seed)
    d = net.input_size
    x = np.random.default_rng(seed).uniform(-1, 1, d)
    label = int(net.predict(x[None])[0])
    box = pt.Box(np.full(d, -2.0), np.full(d, 2.0))
    return Query(net, x, label, None, p, box, None, 0.0, seed, 2**30)


def answer(
    asked: Query, solver=None, tighten=None, attack=True
) -> tuple[Interval, MixedIntegerRun]:
    interval = Interval(asked, time.perf_counter() + 60)
    if attack:
        box, p = asked.box, "inf" if asked.p == INF else asked.p
        found = ATTACK(asked.net, asked.x[None], p=p, box=box, target=asked.target)
        if np.isfinite(found.distance[0]):
            interval.offer(found.witness[0])
    return interval, mixed_integer(asked, interval, solver, tighten)


@functools.cache
def regions(net: pt.Network) -> pt.RegionGraph:
    """All regions in the box of `query`."""
    graph = pt.region_graph(net, (-2, 2))
    assert graph.complete
    return graph


@functools.cache
def brute_force(asked: Query) -> float:
    """The least distance to the adversarial part of any linear region in the box."""
    graph = regions(asked.net)
    return min(
        cell_distance(
            adversarial_cell(graph.region(i), asked.label, t), asked.x, asked.p, asked.box
        ).lower
        for i in range(len(graph))
        for t in asked.targets
    )


def check(asked: Query, interval: Interval, run: MixedIntegerRun) -> None:
    expected = brute_force(asked)
    assert run.finished
    assert not run.contradicted
    assert interval.lower <= expected * (1 + 1e-9)
    assert interval.upper == pytest.approx(expected, rel=1e-9)
    if math.isfinite(expected):
        # Claims are lowered by solvers' tolerances, which are relative to the ball searched (1e-6,
        # whatever it is asked for, in scipy's gap); in l_2 they are of the square.
        ball = max(t.unit for t in run.targets if t.attempts)
        slack = 2e-6 * ball * (max(1.0, 2 * ball / expected) if asked.p == 2 else 1.0)
        assert run.claimed_lower == pytest.approx(expected, abs=slack)
    else:  # nothing in the box
        assert run.claimed_lower >= np.abs(np.concatenate(asked.steps())).max()


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_every_region_of_small_networks(make, seed: int) -> None:
    for p in (1.0, INF):
        asked = query(make, seed, p)
        check(asked, *answer(asked))
        check(asked, *answer(asked, attack=False))


@pytest.mark.parametrize("make", KINDS)
def test_every_backend(make) -> None:
    for p in (1.0, INF):
        asked = query(make, 0, p)
        for solver in ("highs", "scipy", "scip", "pulp", "cvxpy"):
            check(asked, *answer(asked, solver))


@pytest.mark.parametrize("make", KINDS)
def test_l2_by_a_quadratic_objective(make) -> None:
    for seed in range(2):
        asked = query(make, seed, 2.0)
        check(asked, *answer(asked, attack=seed == 0))


@pytest.mark.parametrize("make", KINDS)
def test_every_way_to_tighten(make) -> None:
    asked = query(make, 1, INF)
    for tighten in ("crown", "lp", "mip"):
        check(asked, *answer(asked, tighten=tighten, attack=False))


def test_targets() -> None:
    asked = query(plain, 1, INF)
    for target in asked.targets:
        own = replace(asked, target=target)
        interval, run = answer(own)
        check(own, interval, run)
        assert [t.target for t in run.targets] == [target]


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_radius(p: float) -> None:
    asked = query(plain, 0, p)
    nearest = brute_force(asked)
    for part, robust in ((0.9, True), (1.1, False)):
        own = replace(asked, radius=part * nearest)
        interval, run = answer(own, attack=False)
        assert run.finished or interval.settled
        assert (interval.upper <= own.radius) == (not robust)
        assert (run.claimed_lower >= own.radius) == robust


def test_one_of_the_real_digits() -> None:
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        x, label = file["points"][1].astype(float), int(file["labels"][1])
        optimum = float(file["linf_optimum"][1])
    asked = Query(net, x, label, None, INF, pt.Box(np.zeros(64), np.ones(64)), None, 1e-9, 0, 2**30)
    for solver in ("highs", "scip", "pulp"):
        interval, run = answer(asked, solver)
        assert interval.upper == pytest.approx(optimum, rel=1e-9)
        assert run.claimed_lower == pytest.approx(optimum, rel=1e-6)
        assert 0 < interval.lower < optimum  # CROWN's, and not the solver's word


@pytest.mark.parametrize("solver", ["highs", "scip", "pulp"])
def test_tiny_weights_change_nothing(solver: str) -> None:
    """What a unit reads may be as small as a solver's tolerance."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(6, 2)), rng.normal(size=(3, 6))
    bias = 0.3 * rng.normal(size=6)
    x, box = np.array([0.2, -0.1]), pt.Box(np.full(2, -2.0), np.full(2, 2.0))
    found = []
    for size in (1.0, 2.0**-27):
        net = pt.compile([(first * size, bias * size), (second / size, np.zeros(3))])
        label = int(net.predict(x[None])[0])
        asked = Query(net, x, label, None, INF, box, None, 0.0, 0, 2**30)
        interval, run = answer(asked, solver, attack=False)
        assert run.finished
        assert not run.contradicted
        assert run.claimed_lower == pytest.approx(interval.upper, rel=2e-6)
        found.append(interval.upper)
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_a_program_out_of_time_is_begun_again(monkeypatch) -> None:
    """In another order, as long as there is twice the time that it has had."""
    asked = query(plain, 0, INF)
    own = replace(asked, target=asked.targets[0])
    calls = []

    def slow(program, *args, **settings) -> Solution:
        found = solve(program, *args, **settings)
        calls.append(program)
        return replace(found, status=Status.TIME_LIMIT, x=None) if len(calls) == 1 else found

    monkeypatch.setattr(mip, "solve", slow)
    interval = Interval(own, time.perf_counter() + 60)
    run = mixed_integer(own, interval)
    assert run.targets[0].attempts[0].status is Status.TIME_LIMIT
    assert len(calls) == 2
    assert (calls[0].c != calls[1].c).any()
    check(own, interval, run)


def test_a_claim_above_a_known_witness_is_refuted_and_asked_again(monkeypatch) -> None:
    asked = query(plain, 0, INF)
    nearest = brute_force(asked)
    interval, _ = answer(asked)
    calls = []

    def lying(program, *args, **settings) -> Solution:
        """Nothing within the ball, says the first answer to each program."""
        found = solve(program, *args, **settings)
        calls.append(program)
        return replace(found, status=Status.INFEASIBLE, x=None) if len(calls) == 1 else found

    monkeypatch.setattr(mip, "solve", lying)
    own = replace(asked, target=int(asked.spot.rivals(interval.witness[None])[0]))
    again = Interval(own, time.perf_counter() + 60)
    again.offer(interval.witness)
    run = mixed_integer(own, again)
    first, second = run.targets[0].attempts
    assert "a witness is at" in first.wrong
    assert not second.wrong
    assert run.targets[0].retries == 1
    assert not run.contradicted
    assert run.claimed_lower == pytest.approx(nearest, rel=1e-6)
    # The second was the same program in another order.
    assert (calls[0].c != calls[1].c).any()
    assert calls[0].A.nnz == calls[1].A.nnz


def test_a_point_that_cannot_be_proved_is_not_believed(monkeypatch) -> None:
    asked = query(plain, 0, INF)

    def lying(program, *args, **settings) -> Solution:
        """A point halfway to the nearest one."""
        found = solve(program, *args, **settings)
        x = None if found.x is None else found.x / 2
        return replace(found, x=x, dual_bound=found.dual_bound / 2)

    monkeypatch.setattr(mip, "solve", lying)
    interval, run = answer(asked, attack=False)
    assert run.contradicted
    assert max(t.retries for t in run.targets) == mip.RETRIES
    assert interval.lower <= brute_force(asked)


def test_stopping() -> None:
    asked = query(plain, 0, INF)
    out_of_time = Interval(asked, time.perf_counter() - 1)
    run = mixed_integer(asked, out_of_time)
    assert not run.finished
    assert run.claimed_lower <= out_of_time.upper
    no_room = replace(asked, memory=10)
    run = mixed_integer(no_room, Interval(no_room, time.perf_counter() + 60))
    assert not any(target.attempts for target in run.targets)


def test_ctrl_c_leaves_what_was_proved(monkeypatch) -> None:
    asked = query(plain, 0, INF)

    def interrupted(program, *args, **settings) -> Solution:
        return replace(solve(program, *args, **settings), status=Status.INTERRUPTED)

    monkeypatch.setattr(mip, "solve", interrupted)
    interval = Interval(asked, time.perf_counter() + 60)
    with pytest.raises(KeyboardInterrupt):
        mixed_integer(asked, interval)
    assert math.isfinite(interval.upper)
    assert interval.lower <= brute_force(asked) <= interval.upper


def test_refusals() -> None:
    asked = query(plain, 0, INF)
    interval = Interval(asked, time.perf_counter() + 60)
    with pytest.raises(UnknownBackendError, match="available here: highs"):
        mixed_integer(asked, interval, "gurobi")
    with pytest.raises(UnsupportedProblemError, match="installed ones that do: highs"):
        mixed_integer(asked, interval, "daqp")
    with pytest.raises(UnsupportedProblemError, match=r"quadratic objective.*scip"):
        mixed_integer(replace(asked, p=2.0), interval, "highs")
    with pytest.raises(pt.errors.InputError, match="norms 1, 2 and inf"):
        mixed_integer(replace(asked, p=3.0), interval)
    unbounded = replace(asked, box=None)
    with pytest.raises(pt.errors.InputError, match="give a box or a radius"):
        mixed_integer(unbounded, Interval(unbounded, time.perf_counter() + 60))


def test_the_program_can_be_written(tmp_path) -> None:
    asked = query(Residual, 0, INF)
    _, run = answer(asked)
    solved = next(target for target in run.targets if target.attempts)
    write_mps(solved.program, tmp_path / "program.mps")
    again = read_mps(tmp_path / "program.mps")
    assert solved.binaries == int(again.integrality.sum())
    found = solve(again, "scip")
    first = solved.attempts[-1]
    assert found.status is first.status
    if found.status is Status.OPTIMAL:
        assert solved.unit * found.value == pytest.approx(first.claimed_value, rel=1e-6)


def test_a_network_without_open_units() -> None:
    net = dense(3, 4, 3, seed=2)
    x = np.zeros(3)
    box = pt.Box(np.full(3, -2.0), np.full(3, 2.0))
    label = int(net.predict(x[None])[0])
    asked = Query(net, x, label, None, INF, box, 1e-6, 1e-9, 0, 2**30)
    interval, run = answer(asked, attack=False)
    assert run.finished
    assert interval.lower >= asked.radius
