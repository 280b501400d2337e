"""Least values over balls met with boxes: exact optima, never above them, any scale."""

from __future__ import annotations

import math
from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytope.bounds.inputs import InputSet
from polytope.errors import InputError


def tensor(values: object) -> torch.Tensor:
    """In float64."""
    return torch.tensor(values, dtype=torch.float64)


#: Numbers of all sizes, zeros and repeated values among them.
SIZES = st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0, -7.25, 1e-12, -1e12, 1e-200, 0.1, -0.3])


def sets(p: float, box: bool, seed: int = 0) -> tuple[InputSet, torch.Tensor]:
    rng = np.random.default_rng(seed)
    center = torch.tensor(rng.uniform(size=(3, 6)))
    center[0, :2] = 0.0
    radius = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    sides = (torch.zeros(1, 6).double(), torch.ones(1, 6).double()) if box else (None, None)
    return InputSet.from_ball(center, radius, p, *sides), torch.tensor(rng.normal(size=(1, 5, 6)))


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
def test_least_values_are_optimal(p: float, box: bool) -> None:
    """Equal to cvxpy's optimum to 1e-7; the point attains the bound inside the set to 1e-12."""
    X, a = sets(p, box)
    found = X.least(a, points=True)
    assert found.point is not None
    center = sets(1, box)[0].center
    assert center is not None
    for i, radius in enumerate((0.0, 0.3, 2.0)):
        for j in range(a.shape[1]):
            x = cp.Variable(6)
            rules = [cp.norm(x - center[i].numpy(), p) <= radius]
            rules += [x >= 0, x <= 1] if box else []
            problem = cp.Problem(cp.Minimize(a[0, j].numpy() @ x), rules)
            problem.solve(solver="CLARABEL")
            assert found.value[i, j] <= problem.value + 1e-6
            assert found.value[i, j] >= problem.value - 1e-6
            z = found.point[i, j]
            assert torch.linalg.vector_norm(z - center[i], p) <= radius * (1 + 1e-12)
            assert abs(z @ a[0, j] - found.value[i, j]) <= 1e-12


@given(
    st.sampled_from([1, 2, math.inf]), st.booleans(),
    st.lists(st.tuples(SIZES, SIZES, SIZES, SIZES), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e-12, 0.3, 1.0, 1e12]),
)  # fmt: skip
def test_never_above_the_minimum(
    p: float, box: bool, rows: list[tuple[float, ...]], radius: float
) -> None:
    """In exact arithmetic, at the minimiser and at corners of the set."""
    a, c, below, above = (np.array(v) for v in zip(*rows, strict=True))
    low, high = c - np.abs(below), c + np.abs(above)
    sides = (torch.tensor(low[None]), torch.tensor(high[None])) if box else (None, None)
    X = InputSet.from_ball(torch.tensor(c[None]), tensor([radius]), p, *sides)
    found = X.least(torch.tensor(a[None, None]), points=True)
    assert found.point is not None
    bound = float(found.value[0, 0])
    corners = [c, found.point[0, 0].numpy()]
    for i in range(len(a)):
        for sign in (-1, 1):
            z = c.copy()
            z[i] += sign * radius
            corners.append(np.clip(z, low, high) if box else z)
    for z in corners:
        steps = [abs(Fraction(u) - Fraction(v)) for u, v in zip(z, c, strict=True)]
        size = max(steps) if p == math.inf else sum(s ** int(p) for s in steps)
        if size > (Fraction(radius) if p == math.inf else Fraction(radius) ** int(p)):
            continue
        value = sum(Fraction(u) * Fraction(v) for u, v in zip(a, z, strict=True))
        assert bound == -math.inf or value >= Fraction(bound)
    if p == 2 and not box and math.isfinite(bound):
        rest = sum(Fraction(u) * Fraction(v) for u, v in zip(a, c, strict=True)) - Fraction(bound)
        assert rest >= 0
        assert rest**2 >= Fraction(radius) ** 2 * sum(Fraction(u) ** 2 for u in a)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_any_multiplier_is_a_bound_and_ours_is_the_best(p: float) -> None:
    """The recorded multiplier gives the value by the module's formula, and others give less."""
    X, a = sets(p, True)
    found = X.least(a)
    assert X.center is not None
    assert X.radius is not None
    q = math.inf if p == 1 else p / (p - 1)

    def bound(lam: torch.Tensor) -> torch.Tensor:
        room = torch.where(a > 0, (X.center - X.low)[:, None], (X.high - X.center)[:, None])
        caps = torch.where(
            room > 0, lam[..., None] * room ** (p - 1), float(p == 1) * lam[..., None]
        )
        ball = torch.minimum(a.abs().expand_as(room), torch.nan_to_num(caps, nan=0.0))
        rest = ((a.abs() - ball) * room).sum(2)
        held = X.radius[:, None] * torch.linalg.vector_norm(ball, q, dim=2)
        return (a @ X.center[..., None]).squeeze(2) - held - rest

    torch.testing.assert_close(bound(found.multiplier), found.value, atol=1e-12, rtol=0)
    for factor in (0.0, 0.5, 0.9, 1.1, 2.0):
        assert (bound(factor * found.multiplier) <= found.value + 1e-12)[1:].all()


def test_long_rows_of_the_one_norm() -> None:
    """More coordinates must move than are sorted at first."""
    d = 200
    X = InputSet.from_ball(
        torch.full((1, d), 0.5).double(), tensor([60.0]), 1,
        torch.zeros(1, d).double(), torch.ones(1, d).double(),
    )  # fmt: skip
    a = torch.arange(1.0, d + 1).double()[None, None]
    found = X.least(a, points=True)
    expected = a.sum() / 2 - a[0, 0, -120:].sum() / 2
    torch.testing.assert_close(found.value[0, 0], expected, atol=1e-9, rtol=0)
    assert found.multiplier[0, 0] in (80.0, 81.0)


def test_open_sides() -> None:
    """An infinite side bounds functions that do not decrease towards it, and only those."""
    low, high = tensor([[0.0, -math.inf]]), tensor([[math.inf, 1.0]])
    X = InputSet.from_box(low, high)
    a = tensor([[[1.0, -2.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    value = X.least(a).value[0]
    torch.testing.assert_close(value[[0, 2]], tensor([-2.0, 0.0]), atol=1e-12, rtol=0)
    assert (value[[1, 3]] == -math.inf).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 0.5}, "norm p"), ({"radius": [-1.0]}, "negative"),
        ({"radius": [math.nan]}, "finite"),
        ({"radius": [1.0, 1.0]}, "expected"), ({"center": [[2.0, 0.0]]}, "above its box"),
        ({"center": [[-2.0, 0.0]]}, "below its box"), ({"center": [[math.inf, 0.0]]}, "finite"),
    ],
)  # fmt: skip
def test_bad_balls(change: dict[str, object], message: str) -> None:
    given = {"center": [[0.0, 0.0]], "radius": [1.0], "p": 2, **change}
    center, radius = (tensor(given[k]) for k in ("center", "radius"))
    side = torch.ones(1, 2).double()
    with pytest.raises(InputError, match=message):
        InputSet.from_ball(center, radius, given["p"], -side, side)  # type: ignore[arg-type]


def test_bad_boxes() -> None:
    side = torch.ones(1, 2).double()
    for low, high in ((side, -side), (side * math.nan, side), (side, side[0])):
        with pytest.raises(InputError, match="box"):
            InputSet.from_box(low, high)
