"""Lines of units and of maxima hold at every allowed point, in exact arithmetic, and are tight."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytope.bounds.relaxation import (
    corners,
    default_slopes,
    slope_ranges,
    unit_lines,
    value_bounds,
)
from polytope.bounds.windows import restrict, window_lines, windows
from polytope.network.build import GraphBuilder


def tensor(values: object) -> torch.Tensor:
    """In float64."""
    return torch.tensor(values, dtype=torch.float64)


ENDS = st.one_of(
    st.sampled_from([0.0, -1.0, 1.0, 0.4, -0.3, 1e-12, -1e12, 1e12, 1e-300, math.inf, -math.inf]),
    st.floats(-3, 3),
)


def unit(slopes: list[float], breaks: list[float]) -> tuple[object, dict[str, torch.Tensor]]:
    """One continuous piecewise-linear unit (its first intercept is 0), and its constants."""
    intercepts = [0.0]
    for t, a, b in zip(breaks, slopes, slopes[1:], strict=False):
        intercepts.append(intercepts[-1] + (a - b) * t)
    build = GraphBuilder()
    graph = build.finish(
        build.piecewise(build.input((1,)), "unit", breaks, slopes, intercepts, "piecewise")
    )
    return graph.nodes[-1], {k: torch.tensor(v) for k, v in graph.constants.items()}


def inside(z: Fraction, low: float, high: float) -> bool:
    return (low == -math.inf or Fraction(low) <= z) and (high == math.inf or z <= Fraction(high))


@given(
    st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.01, 0.3, -2.5, 1e-9]), min_size=2, max_size=4),
    ENDS, ENDS, st.integers(1, 15), st.floats(-2, 2),
)  # fmt: skip
def test_unit_lines_hold_exactly(
    slopes: list[float], u: float, v: float, mask: int, free: float
) -> None:
    """Any slope, any pieces, any interval: default lines, given slopes, values, pieces."""
    low, high = min(u, v), max(u, v)
    if math.isinf(low) and low == high:
        return
    breaks = [-0.7, 0.0, 1.1][: len(slopes) - 1]
    node, c = unit(slopes, breaks)
    own = [bool(mask >> k & 1) for k in range(len(slopes))]
    allowed = torch.tensor([[own]])
    at = corners(node, *(tensor([[v]]) for v in (low, high)), allowed, c)  # type: ignore[arg-type]
    ends = [-math.inf, *breaks, math.inf]
    found = [at.low, at.high, *breaks, low, high]
    places = [Fraction(float(v)) for v in found if math.isfinite(float(v))]
    places += [(a + b) / 2 for a in places for b in places] + [Fraction(v) for v in (-5e13, 5e13)]
    intercepts = [float(v) for v in c[node.op.intercepts].flatten()]  # type: ignore[attr-defined]
    given_slope = torch.full((1, 1), free).double()
    lines = [
        unit_lines(at, *default_slopes(at, "adaptive")),
        unit_lines(at, *default_slopes(at, "parallel")),
        unit_lines(at, given_slope, given_slope),
    ]
    least, most = value_bounds(at)
    seen = False
    for k, live in enumerate(own):
        for z in places:
            if not (live and inside(z, low, high) and inside(z, ends[k], ends[k + 1])):
                continue
            seen = True
            value = Fraction(slopes[k]) * z + Fraction(intercepts[k])
            assert inside(z, float(at.low), float(at.high))
            assert inside(value, float(least), float(most))
            for line in lines:
                below, above = (float(v) for v in (line.lower_intercept, line.upper_intercept))
                s, t = Fraction(float(line.lower_slope)), Fraction(float(line.upper_slope))
                assert below == -math.inf or s * z + Fraction(below) <= value
                assert above == math.inf or t * z + Fraction(above) >= value
    if bool(at.empty):
        assert not seen
    if not bool(at.empty) and math.isfinite(low) and math.isfinite(high):
        assert all(math.isfinite(float(v)) for line in lines for v in vars(line).values())


def test_relu_lines_are_the_known_ones() -> None:
    """The chord above; below slope 1 where u > -l, else 0; exact where decided; hull ranges."""
    node, c = unit([0.0, 1.0], [0.0])
    low = tensor([[-1.0, -3.0, -2.0, 0.0, -2.0, -1.0]]).T
    high = tensor([[3.0, 1.0, 2.0, 2.0, 0.0, -0.5]]).T
    at = corners(node, low, high, None, c)  # type: ignore[arg-type]
    line = unit_lines(at, *default_slopes(at, "adaptive"))
    assert line.lower_slope.flatten().tolist() == [1, 0, 0, 1, 0, 0]
    assert line.upper_slope.flatten().tolist() == [0.75, 0.25, 0.5, 1, 0, 0]
    np.testing.assert_allclose(line.upper_intercept.flatten(), [0.75, 0.75, 1, 0, 0, 0], atol=1e-15)
    assert line.lower_intercept.flatten().tolist() == [0] * 6
    assert at.single.flatten().tolist() == [False] * 3 + [True] * 3
    parallel = unit_lines(at, *default_slopes(at, "parallel"))
    assert torch.equal(parallel.lower_slope, parallel.upper_slope)
    a, b, e, f = (v.flatten()[:3].tolist() for v in slope_ranges(at))
    assert (a, b, e, f) == ([0] * 3, [1] * 3, [0.75, 0.25, 0.5], [0.75, 0.25, 0.5])


def test_hull_edges_of_hardtanh() -> None:
    """Between -1 and 1: four cases of the hull over the middle, and a hole in the middle."""
    node, c = unit([0.0, 1.0, 0.0], [-1.0, 1.0])
    low = tensor([[-4.0, -2.0, -0.5]]).T
    high = tensor([[1.5, 2.0, 4.0]]).T
    at = corners(node, low, high, None, c)  # type: ignore[arg-type]
    lower, upper = default_slopes(at, "adaptive")
    np.testing.assert_allclose(lower.flatten(), [0.0, 2 / 3, 1.5 / 4.5], atol=1e-15)
    np.testing.assert_allclose(upper.flatten(), [2 / 5, 2 / 3, 0.0], atol=1e-15)
    hole = corners(node, low, high, torch.tensor([[[True, False, True]]]), c)  # type: ignore[arg-type]
    assert hole.low.flatten().tolist() == [-4, -2, 1]
    assert hole.pieces.tolist() == [[[True, False, True]]] * 2 + [[[False, False, True]]]


@given(
    st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=4), st.integers(1, 15),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)  # fmt: skip
def test_window_lines_hold_exactly(
    ends: list[tuple[float, float]], mask: int, parts: list[float]
) -> None:
    """At corners and inside, wherever an allowed candidate wins."""
    low, high = np.array([min(e) for e in ends]), np.array([max(e) for e in ends])
    if (low == math.inf).any() or (high == -math.inf).any():
        return
    index = torch.tensor([[*range(len(ends)), -1]])
    own = [bool(mask >> k & 1) for k in range(len(ends))] + [True]
    allowed = torch.tensor([[own]])
    bounds = restrict(*(torch.tensor(v[None]) for v in (low, high)), index, allowed)
    at = windows(*bounds, index, allowed)
    line = window_lines(at)
    a, b = np.clip(low, -1e13, 1e13), np.clip(high, -1e13, 1e13)
    tried = [a, b, a / 2 + b / 2, a + np.array(parts[: len(a)]) * (b - a)]
    tried += [np.where(np.arange(len(a)) == k, b, a) for k in range(len(a))]
    tried += [np.where(np.arange(len(a)) == k, a, b) for k in range(len(a))]
    for z in tried:
        x = [Fraction(v) for v in np.clip(z, low, high)]
        best = max(x)
        if not any(v == best and ok for v, ok in zip(x, own, strict=False)):
            continue
        assert not bool(at.empty)
        assert any(v == best and bool(p) for v, p in zip(x, at.pieces[0, 0], strict=False))
        for k, v in enumerate(x):
            assert inside(v, float(bounds[0][0, k]), float(bounds[1][0, k]))
        weights = [[Fraction(float(w)) for w in side[0, 0][:-1]]
                   for side in (line.lower_weights, line.upper_weights)]  # fmt: skip
        below, above = (sum(w * v for w, v in zip(side, x, strict=True)) for side in weights)
        top = float(line.upper_intercept)
        assert below <= best
        assert top == math.inf or above + Fraction(top) >= best


def test_two_candidates_have_their_envelope() -> None:
    """The planes of the concave envelope of max(a, b), and exact dominance."""
    index = torch.tensor([[0, 1]])
    low, high = tensor([[0.0, 1.0]]), tensor([[4.0, 2.0]])
    line = window_lines(windows(low, high, index, None))
    a, b = (v.flatten() for v in (line.upper_weights, line.lower_weights))
    np.testing.assert_allclose(a, [0.5, 0.0])
    np.testing.assert_allclose(line.upper_intercept, [[2.0]])
    assert b.tolist() == [1, 0]
    sure = windows(tensor([[3.0, 1.0]]), tensor([[4.0, 3.0]]), index, None)
    assert sure.pieces.tolist() == [[[True, False]]]
    line = window_lines(sure)
    assert line.upper_weights.flatten().tolist() == [1, 0]
    assert float(line.upper_intercept) == 0


def test_no_line_above_open_candidates() -> None:
    """A candidate that may not win lends no line where those that may are unbounded."""
    index = torch.tensor([[0, 1, 2]])
    low, high = tensor([[0.0, -math.inf, -math.inf]]), tensor([[1.0, math.inf, math.inf]])
    allowed = torch.tensor([[[False, True, True]]])
    at = windows(low, high, index, allowed)
    assert float(window_lines(at).upper_intercept) == math.inf
    ends = tensor([[-1.0, -1.0]]), tensor([[0.0, math.inf]])
    line = window_lines(windows(*ends, index[:, :2], None))
    assert line.upper_weights.flatten().tolist() == [1, 1]
    assert abs(float(line.upper_intercept) - 1) < 1e-14
    line = window_lines(windows(torch.zeros_like(low), high, index, allowed))
    assert line.upper_weights.flatten().tolist() == [0, 1, 1]
    assert abs(float(line.upper_intercept) - 0) < 1e-14
