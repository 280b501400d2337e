import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import ProblemError
from solvers.projection import (
    ProjectionStatus,
    dual_bound,
    hyperplane_distance,
    project_to_hyperplane,
)

INF = math.inf
# The optimality conditions: feasibility and duality gap, relative. Measured: about 1e-14.
TOLERANCE = 1e-10
ENGINES = ["compiled", "torch"]
OPTIMAL, ON_PLANE, UNREACHABLE, ZERO_NORMAL = ProjectionStatus


def rows(values):
    return torch.tensor(values, dtype=torch.float64)


def random_problems(rng, count, width):
    """Rows of many kinds: open, half-open, tight and frozen boxes; sparse and tied weights."""
    w = rng.normal(size=(count, width)) * 10.0 ** rng.uniform(-3, 3, size=(count, 1))
    w[rng.random((count, width)) < rng.choice([0.0, 0.3])] = 0.0
    tied = rng.random(count) < 0.2
    w[tied] = np.round(w[tied])
    lower = -rng.random((count, width)) * 10.0 ** rng.integers(-2, 2, size=(count, 1))
    upper = rng.random((count, width)) * 10.0 ** rng.integers(-2, 2, size=(count, 1))
    for bound, value in ((lower, -INF), (upper, INF), (lower, 0.0), (upper, 0.0)):
        bound[rng.random((count, width)) < rng.choice([0.0, 0.2])] = value
    push = np.where(w > 0, -lower, upper)
    reach = np.where(w == 0, 0.0, np.abs(w) * np.where(np.isinf(push), 3.0, push)).sum(1)
    residual = reach * rng.uniform(0.0, 1.1, size=count)
    flip = rng.random(count) < 0.5
    w[flip], residual[flip] = -w[flip], -residual[flip]
    return tuple(torch.from_numpy(t) for t in (w, residual, lower, upper))


def assert_optimal(problem, p, result):
    """Feasibility and weak duality in every row; returns how many rows have a finite distance.

    The gap is measured against max(distance, |multiplier r|): the second is what an error of one
    in the residual's last digit costs, and no method can know r better than that.
    """
    w, r, lower, upper = problem
    bound = dual_bound(w, r, lower, upper, p, result.multiplier, result.distance)
    reached = torch.isfinite(result.distance)
    step = torch.where(reached.unsqueeze(-1), result.delta, 0.0)
    assert (step >= lower).all()
    assert (step <= upper).all()
    miss = ((w * step).sum(-1) + r).abs()
    assert (miss <= TOLERANCE * r.abs())[reached].all()
    scale = torch.maximum(result.distance, (result.multiplier * r).abs())
    assert (result.distance - bound <= TOLERANCE * scale)[reached].all()
    size = torch.linalg.vector_norm(
        step / step.abs().amax(-1, keepdim=True).clamp(min=1e-300), p, -1
    )
    size = size * step.abs().amax(-1).clamp(min=1e-300)
    torch.testing.assert_close(size[reached], result.distance[reached], rtol=1e-12, atol=1e-299)
    # An infinite distance is proved: the bound is infinite too (or there is no hyperplane).
    assert (bound[~reached] == INF).all()
    assert ((result.status == UNREACHABLE) | (result.status == ZERO_NORMAL))[~reached].all()
    return int(reached.sum())


@pytest.mark.parametrize("p", [1, 2, 3, "inf", 1.5, 10])
def test_ten_thousand_random_problems_are_optimal(p):
    rng = np.random.default_rng(7)
    widths = [1, 2, 3, 4, 784, *np.unique(np.geomspace(1, 784, 45).astype(int)).tolist()]
    each = -(-10_000 // len(widths)) if p in (1, 2, 3, "inf") else 20
    solved = total = 0
    for width in widths:
        problem = random_problems(rng, each, width)
        result = project_to_hyperplane(*problem, p, return_delta=True)
        solved += assert_optimal(problem, float(p), result)
        total += each
    assert total >= (10_000 if each > 20 else 500)
    assert 0.6 * total < solved < total  # both kinds occur


@pytest.mark.parametrize("p", [1, 1.01, 1.5, 2, 3, 7.5, "inf"])
def test_both_engines_agree(p):
    rng = np.random.default_rng(3)
    for width in (1, 2, 5, 40, 300):
        problem = random_problems(rng, 60, width)
        one = project_to_hyperplane(*problem, p, return_delta=True, engine="compiled")
        two = project_to_hyperplane(*problem, p, return_delta=True, engine="torch")
        assert_optimal(problem, float(p), two)
        assert torch.equal(one.status, two.status)
        torch.testing.assert_close(one.distance, two.distance, rtol=1e-10, atol=0)
        torch.testing.assert_close(one.delta, two.delta, rtol=1e-7, atol=1e-9, equal_nan=True)


def test_torch_engine_in_chunks(monkeypatch):
    problem = random_problems(np.random.default_rng(5), 23, 6)
    whole = project_to_hyperplane(*problem, 2, return_delta=True, engine="torch")
    monkeypatch.setattr("solvers.projection.CHUNK_ELEMENTS", 24)
    parts = project_to_hyperplane(*problem, 2, return_delta=True, engine="torch")
    assert torch.equal(whole.distance, parts.distance)
    torch.testing.assert_close(whole.delta, parts.delta, rtol=0, atol=0, equal_nan=True)


weights = st.sampled_from([0.0, 1.0, -1.0, 1.0 + 2**-52, 0.3, -7.0, 1e-300, -1e-300, 1e150, -1e150])
room = st.sampled_from([0.0, INF, 1.0, 1.0, 0.1, 1e-200, 1e3])


@st.composite
def degenerate_problems(draw):
    width = draw(st.integers(1, 7))
    w = np.array(draw(st.lists(weights, min_size=width, max_size=width)))
    lower = -np.array(draw(st.lists(room, min_size=width, max_size=width)))
    upper = np.array(draw(st.lists(room, min_size=width, max_size=width)))
    share = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0 + 1e-9, 2.0]))
    moving = np.where(w > 0, -lower, upper)
    reach = (np.abs(w[w != 0]) * moving[w != 0]).sum()
    r = share * (reach if np.isfinite(reach) and reach < 1e300 else 1.0)
    if draw(st.booleans()):
        w, r = -w, -r
    return tuple(torch.from_numpy(np.asarray(t))[None] for t in (w, r, lower, upper))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("p", [1, 1.0000001, 1.2, 2, 3, 100, "inf"])
@settings(max_examples=120, deadline=None)
@given(problem=degenerate_problems())
def test_degenerate_rows_are_optimal(engine, p, problem):
    result = project_to_hyperplane(*problem, p, return_delta=True, engine=engine)
    assert not torch.isnan(result.distance).any()
    assert_optimal(problem, float(p), result)
    if problem[1].item() == 0.0:
        assert result.distance.item() == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), p=st.sampled_from([1, 1.5, 2, 3, "inf"]))
def test_laws(seed, p):
    """Never below the unboxed distance; equal to it in an open box; larger boxes come nearer."""
    w, r, lower, upper = random_problems(np.random.default_rng(seed), 8, 6)
    tight = project_to_hyperplane(w, r, lower, upper, p).distance
    loose = project_to_hyperplane(w, r, 2 * lower, 2 * upper, p).distance
    free = hyperplane_distance(w, r, p)
    opened = project_to_hyperplane(w, r, -INF, INF, p).distance
    slack = 1 + 1e-12
    assert (free <= tight * slack).all()
    assert (loose <= tight * slack).all()
    torch.testing.assert_close(opened, free, rtol=1e-12, atol=0)
    scaled = project_to_hyperplane(3.7 * w, 3.7 * r, lower, upper, p).distance
    torch.testing.assert_close(scaled, tight, rtol=1e-9, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("near", "limit"), [(1.0000001, 1), (1.0 + 2**-52, 1), (2.0000001, 2), (1e7, "inf")]
)
def test_distances_are_continuous_in_p(near, limit, engine):
    problem = random_problems(np.random.default_rng(11), 30, 20)
    at = project_to_hyperplane(*problem, limit).distance
    beside = project_to_hyperplane(*problem, near, engine=engine).distance
    torch.testing.assert_close(beside, at, rtol=1e-5, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
def test_every_status(engine, p):
    w = rows([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    r = rows([1.0, 0.0, 10.0, 0.0, -1.0])
    result = project_to_hyperplane(w, r, -1.0, 1.0, p, return_delta=True, engine=engine)
    expected = [OPTIMAL, ON_PLANE, UNREACHABLE, ZERO_NORMAL, ZERO_NORMAL]
    assert result.status.tolist() == expected
    assert result.status.dtype == torch.int8
    assert result.distance[1:].tolist() == [0.0, INF, 0.0, INF]
    assert result.multiplier[1:].tolist() == [0.0, INF, 0.0, -INF]
    assert result.delta[[1, 3]].abs().max() == 0.0
    assert torch.isnan(result.delta[[2, 4]]).all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.distance = w


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("p", [1, 2, 4, "inf"])
def test_reach_exactly_equal_to_the_residual(engine, p):
    rng = np.random.default_rng(1)
    w, _, lower, upper = random_problems(rng, 50, 30)
    lower, upper = lower.clamp(min=-5.0), upper.clamp(max=5.0)
    room = torch.where(w > 0, -lower, upper)
    r = (w.abs() * room).sum(-1)
    result = project_to_hyperplane(w, r, lower, upper, p, return_delta=True, engine=engine)
    assert (result.status != UNREACHABLE).all()
    assert_optimal((w, r, lower, upper), float(p), result)
    above = project_to_hyperplane(w, r * (1 + 1e-9), lower, upper, p, engine=engine)
    assert (above.distance[r > 0] == INF).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
def test_frozen_coordinates_do_not_move(engine, p):
    rng = np.random.default_rng(2)
    w, r, lower, upper = random_problems(rng, 40, 12)
    lower[:, ::3] = upper[:, ::3] = 0.0
    keep = torch.ones(12, dtype=torch.bool)
    keep[::3] = False
    full = project_to_hyperplane(w, r, lower, upper, p, return_delta=True, engine=engine)
    part = project_to_hyperplane(w[:, keep], r, lower[:, keep], upper[:, keep], p, engine=engine)
    torch.testing.assert_close(full.distance, part.distance, rtol=1e-12, atol=0)
    moved = full.delta[torch.isfinite(full.distance)]
    assert (moved[:, ~keep] == 0).all()


def test_results_beyond_the_floats_are_infinite():
    result = project_to_hyperplane(rows([[1e-300, 1e-310]]), rows([1e50]), -INF, INF, 2)
    assert result.distance.item() == INF
    assert result.status.item() == UNREACHABLE


def test_mixed_magnitudes_keep_the_small_weight():
    """After the huge weight is capped the tiny one decides: no underflow may drop it."""
    w, upper = rows([[-1e150, -1e-300]]), rows([1e-200, INF])
    for p in (1, 1.3, 2, 3, "inf"):
        for engine in ENGINES:
            result = project_to_hyperplane(w, rows([1.0]), 0.0, upper, p, engine=engine)
            assert result.distance.item() == pytest.approx(1e300, rel=1e-12)


@pytest.mark.parametrize("p", [1, 1.3, 2, 3, "inf"])
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_against_finite_differences(p, engine):
    rng = np.random.default_rng(4)
    w = torch.from_numpy(rng.normal(size=(6, 9)))
    lower = torch.from_numpy(-rng.uniform(0.1, 1.0, size=(6, 9)))
    upper = torch.from_numpy(rng.uniform(0.1, 1.0, size=9))
    r = (w.abs().sum(-1) * torch.from_numpy(rng.uniform(-0.25, 0.25, size=6))).clone()
    inputs = tuple(t.requires_grad_() for t in (w, r, lower, upper))

    def distance(*args):
        return project_to_hyperplane(*args, p, engine=engine).distance

    assert torch.isfinite(distance(*inputs)).all()
    assert torch.autograd.gradcheck(distance, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
def test_gradients_are_zero_where_nothing_is_attained(p):
    w = rows([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [1.0, 0.0]]).requires_grad_()
    r = rows([0.0, 10.0, 1.0, 0.5]).requires_grad_()
    lower = rows([-1.0, -INF]).repeat(4, 1)
    lower[1] = -1.0
    lower.requires_grad_()
    result = project_to_hyperplane(w, r, lower, 1.0, p)
    # A loss that sees the infinities must not turn them into NaN.
    torch.where(torch.isfinite(result.distance), result.distance, 0.0).sum().backward()
    assert (w.grad[:3] == 0).all()
    assert r.grad.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert torch.isfinite(lower.grad).all()


def test_hyperplane_distance_closed_form():
    w, r = rows([[3.0, -4.0], [0.0, 0.0], [0.0, 0.0]]), rows([-10.0, 0.0, 2.0])
    assert hyperplane_distance(w, r, 2).tolist() == [2.0, 0.0, INF]
    assert hyperplane_distance(w, r, 1).tolist() == [2.5, 0.0, INF]
    assert hyperplane_distance(w, r, "inf")[0].item() == pytest.approx(10 / 7)
    w.requires_grad_()
    hyperplane_distance(w, r, 2)[:2].sum().backward()
    assert torch.isfinite(w.grad).all()


@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_dual_bound_never_exceeds_the_distance(p, seed):
    rng = np.random.default_rng(seed)
    problem = random_problems(rng, 20, 5)
    distance = project_to_hyperplane(*problem, p).distance
    multiplier = torch.from_numpy(rng.normal(size=20) * 10.0 ** rng.uniform(-3, 3, size=20))
    guess = torch.from_numpy(10.0 ** rng.uniform(-3, 3, size=20))
    bound = dual_bound(*problem, p, multiplier, guess)
    assert (bound <= distance * (1 + 1e-12)).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_broadcast_and_match_row_by_row(engine):
    rng = np.random.default_rng(9)
    w = torch.from_numpy(rng.normal(size=(4, 3, 5)))
    r = torch.from_numpy(rng.normal(size=(4, 1)))
    lower = torch.from_numpy(-rng.random((4, 1, 5))).requires_grad_()
    upper = torch.from_numpy(rng.random(5))
    result = project_to_hyperplane(w, r, lower, upper, 2, return_delta=True, engine=engine)
    assert result.distance.shape == result.status.shape == result.multiplier.shape == (4, 3)
    assert result.delta.shape == (4, 3, 5)
    for i in range(4):
        for j in range(3):
            one = project_to_hyperplane(w[i, j], r[i, 0], lower[i, 0], upper, 2, engine=engine)
            assert one.distance.shape == ()
            torch.testing.assert_close(one.distance, result.distance[i, j], rtol=1e-12, atol=0)
    result.distance[torch.isfinite(result.distance)].sum().backward()
    assert lower.grad.shape == (4, 1, 5)


@pytest.mark.parametrize("engine", ENGINES)
def test_empty_batch(engine):
    result = project_to_hyperplane(
        torch.empty(0, 5), torch.empty(0), 0.0, 1.0, 2, return_delta=True, engine=engine
    )
    assert result.distance.shape == (0,)
    assert result.delta.shape == (0, 5)


def test_float32_and_numpy():
    problem = random_problems(np.random.default_rng(8), 30, 10)
    narrow = tuple(t.float() for t in problem)
    wide = project_to_hyperplane(*(t.double() for t in narrow), 2)
    result = project_to_hyperplane(*(t.numpy() for t in narrow), 2, return_delta=True)
    assert result.distance.dtype == result.delta.dtype == torch.float32
    assert torch.equal(result.distance, wide.distance.float())
    assert project_to_hyperplane(*problem, 2).delta is None


GOOD = {"normal": torch.ones(3, 2), "residual": torch.ones(3), "lower": -1.0, "upper": 1.0, "p": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 0.5}, "norm p"),
        ({"normal": torch.full((3, 2), math.nan)}, "normal: got NaN or infinite"),
        ({"normal": torch.full((3, 2), INF)}, "normal: got NaN or infinite"),
        ({"residual": torch.tensor([1.0, INF, 0.0])}, "residual: got NaN or infinite"),
        ({"normal": torch.ones(3, 2, dtype=torch.int64)}, "normal: got dtype torch.int64"),
        ({"normal": torch.tensor(1.0)}, "expected .* with d >= 1"),
        ({"normal": torch.ones(3, 0)}, "expected .* with d >= 1"),
        ({"normal": "w"}, "normal: got str"),
        ({"residual": torch.ones(4)}, r"residual: got shape \(4,\).*\(3,\)"),
        ({"lower": -torch.ones(3)}, r"lower: got shape \(3,\).*\(3, 2\)"),
        ({"lower": 0.1}, "lower: got a slack of 0.1"),
        ({"upper": torch.tensor([1.0, -0.5])}, "upper: got a slack of -0.5"),
        ({"lower": math.nan}, "lower: got a slack of nan"),
        ({"upper": torch.ones(2, device="meta")}, "upper: got a tensor on meta"),
        ({"engine": "fast"}, "engine: got 'fast'"),
    ],
)
def test_bad_input_gets_one_clear_message(change, message):
    with pytest.raises(ProblemError, match=message):
        project_to_hyperplane(**{**GOOD, **change})


def test_compiled_engine_refuses_other_devices():
    w = torch.ones(3, 2, device="meta")
    with pytest.raises(ProblemError, match="expected tensors on the cpu"):
        project_to_hyperplane(w, w[:, 0], w, w, 2, engine="compiled")
