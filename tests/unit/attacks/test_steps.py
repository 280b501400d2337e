"""Projections onto balls met with boxes, against a modelling solver; directions of ascent."""

from __future__ import annotations

import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from polytope.attacks.steps import project, sizes, steepest


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("boxed", [True, False])
def test_projection_is_the_nearest_point(p: float, boxed: bool) -> None:
    rng = np.random.default_rng(0)
    step = rng.normal(size=(8, 5)) * rng.choice([0.1, 1, 10], (8, 1))
    far = np.full((8, 5), math.inf)
    low, high = (-rng.uniform(0, 1, (8, 5)), rng.uniform(0, 1, (8, 5))) if boxed else (-far, far)
    radius = rng.uniform(0.2, 1.5, 8)
    found = project(*(torch.as_tensor(v) for v in (step, radius, low, high)), p).numpy()
    for i in range(8):
        z = cp.Variable(5)
        limits = [cp.norm(z, p) <= radius[i]]
        limits += [z >= low[i], z <= high[i]] if boxed else []
        cp.Problem(cp.Minimize(cp.sum_squares(z - step[i])), limits).solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(found[i], z.value, atol=1e-4)
        assert np.linalg.norm(found[i], p) <= radius[i] * (1 + 1e-12)
        assert (found[i] >= low[i]).all()
        assert (found[i] <= high[i]).all()


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_other_norms_stay_in_ball_and_box(p: float) -> None:
    step = torch.tensor([[3.0, -4.0], [0.1, 0.2]], dtype=torch.float64)
    low, high = torch.full_like(step, -1), torch.full_like(step, 2)
    found = project(step, torch.tensor([0.5, 1.0], dtype=torch.float64), low, high, p)
    np.testing.assert_allclose(sizes(found, p)[0], 0.5)
    assert torch.equal(found[1], step[1])


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0, math.inf])
def test_steepest_ascent_attains_the_dual_norm(p: float) -> None:
    gradient = torch.randn(6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient[5] = 0
    direction = steepest(gradient, p, torch.ones(6))
    q = 1 / (1 - 1 / p) if p > 1 else math.inf
    gain = (gradient * direction).sum(dim=1)
    np.testing.assert_allclose(gain, sizes(gradient, q if p < math.inf else 1.0), rtol=1e-12)
    np.testing.assert_allclose(sizes(direction, p)[:5], 1, rtol=1e-12)
    assert not direction[5].any()


def test_sparse_steps_share_their_length() -> None:
    gradient = torch.tensor([[3.0, -2.0, 1.0], [0.0, 5.0, 0.0]])
    found = steepest(gradient, 1, torch.tensor([2.0, 2.0]))
    np.testing.assert_allclose(found, [[0.5, -0.5, 0], [0, 1, 0]])
