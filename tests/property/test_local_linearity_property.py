"""Laws of the local linearity measure: Propositions 4.1 and C.2 of LLR (arXiv 1907.02610)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytope.training import LLR
from tests.training_nets import make


def entropies(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


@settings(max_examples=25)
@given(st.sampled_from(["softplus", "tanh", "smooth_block"]), st.integers(0, 2**31),
       st.floats(0.0, 2.0), st.sampled_from([2, "inf"]))  # fmt: skip
def test_changes_of_the_loss_are_bounded(name: str, seed: int, eps: float, p: int | str) -> None:
    """With the generalised Gauss-Newton matrix taken from a Jacobian of its own."""
    model, shape = make(name)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (2,), generator=generator)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    norm = torch.linalg.vector_norm(noise.flatten(1), float(p), dim=1)
    delta = eps * noise / norm.reshape(-1, *(1,) * len(shape))
    violation, change = LLR(model, shape, eps, p=p).parts(x, y, delta=delta)
    before, after = entropies(model, x, y), entropies(model, x + delta, y)
    assert ((after - before).abs() <= change + violation + 1e-12).all()
    for i in range(2):
        logits, pushed = torch.func.jvp(lambda z: model(z[None])[0], (x[i],), (delta[i],))
        p_ = logits.softmax(0)
        curvature = pushed @ (torch.diag(p_) - torch.outer(p_, p_)) @ pushed
        slope = (p_ - F.one_hot(y[i], 3)) @ pushed
        assert change[i].item() == pytest.approx(abs(slope.item()), abs=1e-10)
        error = after[i] - before[i] - slope - curvature / 2
        bound = (2 / p_[y[i]] * (violation[i] + error.abs())).sqrt()
        assert change[i] <= bound + 1e-7
