"""Compiled least values over l_1 and l_2 balls: those of the tensors, and below the minimum."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.bounds.inputs import InputSet

#: Sizes of coefficients: zeros, repeated ones, and far apart.
SIZES = np.array([0.0, 1.0, 1.0, -1.0, 0.5, -3.0, 1e-9, 1e9, -1e-200, 0.1])


def drawn(seed: int, p: float, degenerate: bool) -> tuple[InputSet, torch.Tensor]:
    """Some balls met with a box, and functions: for each ball its own, or common ones."""
    rng = np.random.default_rng(seed)
    n, functions, d = (int(v) for v in rng.integers(1, [5, 6, 40]))
    center = rng.uniform(0, 1, (n, d))
    if degenerate:
        center = np.round(center)  # in a corner
    radius = rng.choice([0.0, 1e-6, 0.1, 1.0, 50.0], n)
    sides = (torch.zeros(1, d).double(), torch.ones(1, d).double())
    if rng.random() < 0.3:
        sides = (None, None)
    ball = InputSet.from_ball(torch.tensor(center), torch.tensor(radius), p, *sides)
    shape = (n if rng.random() < 0.5 else 1, functions, d)
    a = rng.choice(SIZES, shape) if degenerate else rng.normal(size=shape)
    return ball, torch.tensor(a)


def by_tensors(ball: InputSet, a: torch.Tensor):
    """The path with derivatives."""
    found = ball.least(a.clone().requires_grad_())
    assert found.value.requires_grad
    return found.value.detach(), found.multiplier.detach()


@given(seed=st.integers(0, 10**6), p=st.sampled_from([1.0, 2.0]), degenerate=st.booleans())
@settings(max_examples=150)
def test_both_paths_are_the_same(seed: int, p: float, degenerate: bool) -> None:
    ball, a = drawn(seed, p, degenerate)
    compiled = ball.least(a)
    value, _ = by_tensors(ball, a)
    assert compiled.value.shape == value.shape
    assert compiled.point is None
    size = (a.abs() * (ball.magnitude[:, None] + 1)).sum(dim=2)
    assert ((compiled.value - value).abs() <= 1e-12 * size + 1e-280).all()
    alone = ball.least(a, points=True)  # tensors too
    assert ((compiled.value - alone.value).abs() <= 1e-12 * size + 1e-280).all()


def exact_least(a, center, radius, low, high, p, lam) -> Fraction:
    """The module's inequality at a multiplier, in rationals (p = 1), or a little above it."""
    held, rest, total = Fraction(0), Fraction(0), Fraction(0)
    for g, c, lo, up in zip(a, center, low, high, strict=True):
        g, c = Fraction(float(g)), Fraction(float(c))
        room = c - Fraction(float(lo)) if g > 0 else Fraction(float(up)) - c
        part = min(abs(g), Fraction(float(lam)) * (room if p == 2 else 1))
        held = held + part**2 if p == 2 else max(held, part)
        rest += (abs(g) - part) * room
        total += g * c
    if p == 2:
        held = Fraction(math.sqrt(held)) * (1 - Fraction(1, 2**50))
    return total - Fraction(float(radius)) * held - rest


@given(seed=st.integers(0, 10**6), p=st.sampled_from([1.0, 2.0]), degenerate=st.booleans())
@settings(max_examples=40)
def test_every_rounding_is_taken_off(seed: int, p: float, degenerate: bool) -> None:
    """The least value is at least what any multiplier gives, exactly; points are above."""
    ball, a = drawn(seed, p, degenerate)
    found = ball.least(a)
    assert ball.center is not None
    assert ball.radius is not None
    rng = np.random.default_rng(seed)
    for i in range(len(ball)):
        for k in range(min(a.shape[1], 2)):
            g = a[i if len(a) > 1 else 0, k].numpy()
            center, low, high = (t[i].numpy() for t in (ball.center, ball.low, ball.high))
            radius, value = float(ball.radius[i]), float(found.value[i, k])
            lam = max(0.0, float(found.multiplier[i, k]))
            if math.isfinite(lam):
                assert value <= exact_least(g, center, radius, low, high, p, lam)
            steps = rng.normal(size=(5, len(g)))
            steps /= np.maximum(np.linalg.norm(steps, ord=p, axis=1), 1e-300)[:, None]
            for x in np.clip(center + radius * (1 - 1e-12) * steps, low, high):
                pairs = zip(g, x, strict=True)
                assert value <= sum(Fraction(float(v)) * Fraction(float(z)) for v, z in pairs)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_minimum_is_reached(p: float) -> None:
    for seed in range(12):
        ball, a = drawn(seed, p, seed % 2 == 1)
        a = torch.where(a.abs() < 1e-6, 0.0, a).clamp(-10, 10)
        found = ball.least(a).value
        assert ball.center is not None
        assert ball.radius is not None
        for i in range(len(ball)):
            x = cp.Variable(a.shape[2])
            center, radius = ball.center[i].numpy(), float(ball.radius[i])
            low, high = ball.low[i].numpy(), ball.high[i].numpy()
            rules = [cp.norm(x - center, p) <= radius, x >= low, x <= high]
            problem = cp.Problem(cp.Minimize(a[i if len(a) > 1 else 0, 0].numpy() @ x), rules)
            problem.solve(solver=cp.CLARABEL)
            room = 1e-6 * (1 + abs(problem.value)) * (1 + radius)
            assert found[i, 0] <= problem.value + room
            assert found[i, 0] >= problem.value - room


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_same_set_many_times(p: float) -> None:
    one = InputSet.from_ball(
        torch.full((1, 6), 0.3).double(), torch.tensor([0.5]).double(), p,
        torch.zeros(1, 6).double(), torch.ones(1, 6).double(),
    )  # fmt: skip
    sides = (one.low, one.high, one.center, one.radius)
    low, high, center, radius = (
        None if side is None else side.expand(4, *side.shape[1:]).contiguous() for side in sides
    )
    many = InputSet(low, high, center, radius, p)
    a = torch.tensor(np.random.default_rng(0).normal(size=(1, 5, 6)))
    plain, same = many.least(a), replace(many, same=True).least(a)
    assert (plain.value == same.value).all()
    assert (plain.multiplier == same.multiplier).all()
    assert same.value.shape == (4, 5)
    own = torch.tensor(np.random.default_rng(1).normal(size=(4, 5, 6)))
    assert (many.least(own).value == replace(many, same=True).least(own).value).all()
    points = replace(many, same=True).least(a, points=True).point
    assert points is not None
    assert points.shape == (4, 5, 6)


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("which", ["radius", "center", "low"])
def test_derivatives_over_the_set(p: float, which: str) -> None:
    """Whatever carries derivatives, the path with derivatives is taken."""
    parts = {
        "center": torch.full((2, 4), 0.4).double(), "radius": torch.tensor([0.2, 0.9]).double(),
        "low": torch.zeros(2, 4).double(), "high": torch.ones(2, 4).double(),
    }  # fmt: skip
    parts[which].requires_grad_()
    ball = InputSet(parts["low"], parts["high"], parts["center"], parts["radius"], p)
    a = torch.tensor(np.random.default_rng(0).normal(size=(1, 3, 4)))
    value = ball.least(a).value
    (gradient,) = torch.autograd.grad(value.sum(), parts[which])
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        assert torch.allclose(ball.least(a).value, value, rtol=1e-12, atol=1e-12)


def test_float32_and_other_norms_are_left_to_tensors() -> None:
    ball = InputSet.from_ball(torch.zeros(1, 3), torch.ones(1), 2)
    found = ball.least(torch.ones(1, 1, 3)).value
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-math.sqrt(3), rel=1e-5)
    third = InputSet.from_ball(torch.zeros(1, 3).double(), torch.ones(1).double(), 3)
    assert third.least(torch.ones(1, 1, 3).double()).value.item() == pytest.approx(-(3 ** (2 / 3)))
