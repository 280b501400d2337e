"""Lines, values and slopes of smooth activations against 60-digit arithmetic and samples."""

from __future__ import annotations

import math
import warnings

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polytope as pt
from polytope.bounds.crown import crown
from polytope.bounds.inputs import InputSet
from polytope.bounds.smooth import jumps, slope_bounds, smooth_lines, smooth_values
from polytope.errors import UnsupportedOperation
from polytope.network.engine import apply
from polytope.network.ir import Node, Smooth
from tests.zoo import SMOOTH_ZOO

KINDS = [
    Smooth("sigmoid"), Smooth("tanh"), Smooth("atan"), Smooth("softplus", (1.0, 20.0)),
    Smooth("softplus", (2.0, 3.0)), Smooth("elu", (1.0,)), Smooth("elu", (0.7,)),
    Smooth("elu", (1.7,)), Smooth("elu", (-0.5,)), Smooth("elu", (0.0,)),
]  # fmt: skip
each_kind = pytest.mark.parametrize("op", KINDS, ids=lambda op: f"{op.kind}{op.parameters}")


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def exact(op: Smooth, z: mpmath.mpf) -> list[tuple[mpmath.mpf, mpmath.mpf]]:
    """(value, derivative) of every part that holds at z."""
    one = mpmath.mpf(1)
    if op.kind == "sigmoid":
        s = one / (one + mpmath.exp(-z))
        return [(s, s * (one - s))]
    if op.kind == "tanh":
        return [(mpmath.tanh(z), one - mpmath.tanh(z) ** 2)]
    if op.kind == "atan":
        return [(mpmath.atan(z), one / (one + z * z))]
    if op.kind == "softplus":
        beta, threshold = (mpmath.mpf(v) for v in op.parameters)
        if beta * z > threshold:
            return [(z, one)]
        grown = mpmath.exp(beta * z)
        return [(mpmath.log1p(grown) / beta, grown / (one + grown))]
    alpha = mpmath.mpf(op.parameters[0])
    return [(z, one)] if z > 0 else [(alpha * mpmath.expm1(z), alpha * mpmath.exp(z))]


@each_kind
@given(
    center=st.floats(-40, 40), width=st.sampled_from([0.0, 1e-12, 1e-3, 0.5, 3.0, 60.0, 1e4]),
    part=st.floats(0, 1), rule=st.sampled_from(["adaptive", "parallel"]),
)  # fmt: skip
def test_lines_values_and_slopes_hold_exactly(
    op: Smooth, center: float, width: float, part: float, rule: str
) -> None:
    low, high = center - width / 2, center + width / 2
    ends = tensor(low), tensor(high)
    lines = smooth_lines(op, *ends, rule)
    values, slopes = smooth_values(op, *ends), slope_bounds(op, *ends)
    with mpmath.workdps(60):
        inner = mpmath.mpf(low) + (mpmath.mpf(high) - mpmath.mpf(low)) * mpmath.mpf(part)
        for z in (mpmath.mpf(low), inner, mpmath.mpf(high)):
            for value, slope in exact(op, z):
                under = mpmath.mpf(lines.lower_slope.item()) * z
                over = mpmath.mpf(lines.upper_slope.item()) * z
                assert under + mpmath.mpf(lines.lower_intercept.item()) <= value
                assert over + mpmath.mpf(lines.upper_intercept.item()) >= value
                assert mpmath.mpf(values[0].item()) <= value <= mpmath.mpf(values[1].item())
                if low < z < high:
                    assert mpmath.mpf(slopes[0].item()) <= slope <= mpmath.mpf(slopes[1].item())
        if width == 0 and rule == "adaptive":
            gap = values[1].item() - values[0].item()
            assert gap <= 1e-13 * (1 + abs(center)) + 0.03 * (op.kind == "softplus")


@each_kind
def test_lines_touch_the_function(op: Smooth) -> None:
    """Wherever the interval, each line meets the function's hull within a small gap."""
    rng = np.random.default_rng(0)
    center = torch.tensor(4 * rng.normal(size=(1, 500)))
    width = 1e-3 + torch.tensor(6 * rng.uniform(size=(1, 500)) ** 4)
    low, high = center - width, center + width
    lines = smooth_lines(op, low, high, "adaptive")
    z = low + (high - low) * torch.linspace(0, 1, 401, dtype=torch.float64)[:, None, None]
    node = Node(op, (0,), (500,), "f")
    f = apply(node, [z], {})
    below = (f - lines.lower_slope * z - lines.lower_intercept).amin(dim=0)
    above = (lines.upper_slope * z + lines.upper_intercept - f).amin(dim=0)
    limit = 0.002 if op.parameters == (2.0, 3.0) else 1e-4  # torch's jump there is 0.024
    assert below.max() < limit
    assert above.max() < limit
    found = slope_bounds(op, low, high)
    rise = (f[1:] - f[:-1]) / (z[1:] - z[:-1])
    smooth = ~jumps(op, low, high)
    assert (found[0] - rise.amin(dim=0))[smooth].max() <= 1e-6
    assert (rise.amax(dim=0) - found[1])[smooth].max() <= 1e-6


def test_textbook_values() -> None:
    """Slopes as RecurJac gives them, and lines that are known by hand."""
    sigmoid = Smooth("sigmoid")
    ends = tensor(1.0, -2.0, -2.0), tensor(2.0, -1.0, 1.0)
    low, high = slope_bounds(sigmoid, *ends)
    d = [math.exp(z) / (1 + math.exp(z)) ** 2 for z in (1.0, 2.0)]
    assert low[0].tolist() == pytest.approx([d[1], d[1], d[1]], rel=1e-13)
    assert high[0].tolist() == pytest.approx([d[0], d[0], 0.25], rel=1e-13)
    lines = smooth_lines(Smooth("softplus", (1.0, 20.0)), tensor(-1.0), tensor(1.0), "adaptive")
    assert lines.lower_slope.item() == pytest.approx(0.5)
    assert lines.lower_intercept.item() == pytest.approx(math.log(2))
    assert lines.upper_slope.item() == pytest.approx(0.5)


def test_endless_intervals() -> None:
    for op in KINDS:
        for low, high in ((-math.inf, 1.0), (-1.0, math.inf), (-math.inf, math.inf)):
            lines = smooth_lines(op, tensor(low), tensor(high), "adaptive")
            values, slopes = (
                f(op, tensor(low), tensor(high)) for f in (smooth_values, slope_bounds)
            )
            for z in (-30.0, -0.5, 0.7, 40.0):
                if low <= z <= high:
                    f = apply(Node(op, (0,), (1,), "f"), [tensor(z)], {}).item()
                    assert lines.lower_slope.item() * z + lines.lower_intercept.item() <= f
                    assert f <= lines.upper_slope.item() * z + lines.upper_intercept.item()
                    assert values[0].item() <= f <= values[1].item()
            assert torch.isfinite(torch.cat(slopes)).all()


def test_the_jump_of_softplus_is_seen() -> None:
    op = Smooth("softplus", (2.0, 3.0))
    assert jumps(op, tensor(1.0, 1.6, 0.0), tensor(1.4, 2.0, 9.0)).tolist() == [
        [False, False, True]
    ]
    assert not jumps(Smooth("tanh"), tensor(-1.0), tensor(1.0)).any()


@pytest.mark.parametrize("entry", SMOOTH_ZOO, ids=[entry[0] for entry in SMOOTH_ZOO])
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_bounds_of_networks_hold_at_samples_and_are_exact_at_a_point(
    entry: tuple, p: float
) -> None:
    _, make, shape = entry
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = pt.compile(make(), shape)
    rng = np.random.default_rng(0)
    center, radius = torch.tensor(rng.normal(size=(3, net.input_size))), tensor(0.0, 0.3, 3.0)[0]
    X = InputSet.from_ball(center, radius, p)
    C = torch.cat([torch.eye(net.output_size), -torch.eye(net.output_size)]).double()
    bounds, found = crown(net, X, C)
    assert not bounds.empty.any()
    for i in range(3):
        steps = rng.normal(size=(500, net.input_size))
        steps /= np.linalg.norm(steps, ord=p, axis=1)[:, None]
        steps *= rng.uniform(size=(500, 1)) * float(radius[i])
        points = (center[i] + torch.tensor(steps)).reshape(-1, *net.input_shape)
        values = net.forward(points).flatten(1) @ C.T
        slack = (values - found.lower[i]).amin(dim=0)
        assert slack.min() >= -1e-14
        if i == 0:
            assert slack.max() <= 1e-12


def test_a_softplus_turned_round_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="beta=-1"):
        smooth_lines(Smooth("softplus", (-1.0, 20.0)), tensor(0.0), tensor(1.0), "adaptive")
