"""What the checker is made of, against plain fractions: enclosures, lines, least values."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.certificate_file import Rejected
from polytope.network.exact_layers import Exact, Pieces, Windows
from polytope.proofs.enclosed import Enclosed
from polytope.proofs.lines import piece_lines, window_lines
from polytope.proofs.sets import Set

SIZES = [0.0, 1e-300, 1e-20, 1e-5, 0.1, 1.0, 3.0, 1e5, 1e20]


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of very different sizes, zeros and repetitions among them."""
    return rng.choice(SIZES, shape) * rng.choice([-1.0, 1.0, 1.5, 1 / 3], shape)


def enclosed(rng: np.random.Generator, *shape: int) -> tuple[Enclosed, list[Fraction]]:
    """Intervals, and numbers somewhere in them."""
    middle, radius = floats(rng, *shape), np.abs(floats(rng, *shape)) * rng.integers(0, 2, shape)
    where = rng.choice([-1.0, 0.0, 0.5, 1.0], shape)
    exact = [Fraction(m) + Fraction(r) * Fraction(w) for m, r, w in
             zip(middle.flat, radius.flat, where.flat, strict=True)]  # fmt: skip
    return Enclosed(middle, radius), exact


def holds(found: Enclosed, exact: list[Fraction]) -> None:
    for m, r, v in zip(found.middle.flat, found.radius.flat, exact, strict=True):
        assert abs(Fraction(float(m)) - v) <= Fraction(float(r))
    assert all(Fraction(float(low)) <= v for low, v in zip(found.floor().flat, exact, strict=True))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_enclosures_hold_what_they_stand_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n, k = rng.integers(1, 5, 3)
    (a, x), (b, y), (c, z) = enclosed(rng, m, n), enclosed(rng, m, n), enclosed(rng, n, k)
    holds(a.plus(b), [u + v for u, v in zip(x, y, strict=True)])
    holds(a.minus(), [-u for u in x])
    holds(a.each(b), [u * v for u, v in zip(x, y, strict=True)])
    rows = [x[i * n : (i + 1) * n] for i in range(m)]
    holds(a.total(), [sum(row) for row in rows])
    columns = [z[j::k] for j in range(k)]
    product = [sum(u * v for u, v in zip(row, column, strict=True))
               for row in rows for column in columns]  # fmt: skip
    holds(a.times(c), product)
    (low, p), (high, q) = enclosed(rng, n), enclosed(rng, n)
    carried = [v * (p[j] if v > 0 else q[j]) for row in rows for j, v in enumerate(row)]
    holds(a.carried(low, high), carried)
    exact = Exact.fractions(x)
    holds(Enclosed.given(exact), x)
    assert (exact.floor() <= exact.floats()).all()


def unit(
    breaks: list[Fraction], slopes: list[Fraction], rests: list[Fraction], t: Fraction
) -> tuple[Fraction, int]:
    """Value and piece."""
    piece = sum(t > b for b in breaks)
    return slopes[piece] * t + rests[piece], piece


@given(st.integers(0, 2**32 - 1), st.sampled_from([Exact, Enclosed]), st.booleans())
@settings(max_examples=150)
def test_lines_hold_over_the_bounds(
    seed: int, numbers: type[Exact] | type[Enclosed], own: bool
) -> None:
    """Continuous units of up to four pieces, on bounds that may be a point or touch a break."""
    rng = np.random.default_rng(seed)
    count, slots = 5, int(rng.integers(0, 4))
    breaks = np.sort(rng.choice([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0], (count, slots)), axis=1)
    slopes = rng.choice([-1.0, 0.0, 0.25, 1.0, 2.0], (count, slots + 1))
    rests = np.zeros((count, slots + 1))
    rests[:, 0] = rng.choice([-1.0, 0.0, 3.0], count)
    for k in range(slots):
        rests[:, k + 1] = rests[:, k] + (slopes[:, k] - slopes[:, k + 1]) * breaks[:, k]
    units = Pieces(Exact.of(breaks), Exact.of(slopes), Exact.of(rests))
    ends = np.sort(rng.choice([-3.0, -1.0, 0.0, 0.1, 1 / 3, 1.0, 4.0], (2, count)), axis=0)
    given_ = (floats(rng, count), floats(rng, count)) if own else None
    lines = piece_lines(units, ends, given_, numbers)  # type: ignore[type-var]
    for u in range(count):
        b, s, r = ([Fraction(v) for v in part[u]] for part in (breaks, slopes, rests))
        for share in (Fraction(0), Fraction(1, 7), Fraction(1, 2), Fraction(1)):
            t = Fraction(ends[0, u]) * (1 - share) + Fraction(ends[1, u]) * share
            value, piece = unit(b, s, r, t)
            below = Fraction(lines.low[u]) * t + Fraction(lines.low_rest[u])
            above = Fraction(lines.high[u]) * t + Fraction(lines.high_rest[u])
            assert below <= value <= above
            same = [k for k in np.flatnonzero(lines.live[u]) if s[k] * t + r[k] == value]
            assert lines.live[u, piece] or same
        if given_ is None and lines.live[u].sum() == 1:
            assert lines.low[u] == lines.high[u] == slopes[u, lines.live[u].argmax()]


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=150)
def test_lines_of_maxima_hold(seed: int, own: bool) -> None:
    rng = np.random.default_rng(seed)
    values, count, places = 6, 3, 4
    index = rng.integers(-1, values, (count, places))
    index[:, rng.integers(places)] = rng.integers(values, size=count)
    ends = np.sort(rng.choice([-3.0, -1.0, 0.0, 0.1, 1 / 3, 1.0, 4.0], (2, values)), axis=0)
    there = [np.flatnonzero(row >= 0) for row in index]
    given_ = None
    if own:
        given_ = np.array([rng.choice(row) for row in there]), floats(rng, count, places)
    lines = window_lines(Windows(index), ends, given_)
    for _ in range(8):
        shares = [Fraction(int(v), 4) for v in rng.integers(0, 5, values)]
        z = [Fraction(a) * (1 - w) + Fraction(b) * w for a, b, w in zip(*ends, shares, strict=True)]
        for u in range(count):
            best = max(z[index[u, k]] for k in there[u])
            assert z[index[u, lines.below[u]]] <= best
            above = sum(Fraction(lines.high[u, k]) * z[index[u, k]] for k in there[u])
            assert best <= above + Fraction(lines.high_rest[u])
            assert any(lines.live[u, k] and z[index[u, k]] == best for k in there[u])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, math.inf]))
@settings(max_examples=150)
def test_least_values_are_below_all_and_near_one(seed: int, p: float) -> None:
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 4))
    x, radius = rng.normal(size=d), float(rng.choice([1e-9, 0.3, 2.0]))
    low = np.where(rng.random(d) < 0.3, x, x - rng.exponential(size=d))
    high = np.where(rng.random(d) < 0.3, x, x + rng.exponential(size=d))
    low[rng.random(d) < 0.2] = -np.inf
    around = Set.around(x, p, radius, low, high)
    g, c = floats(rng, 3, d).clip(-1e5, 1e5), rng.normal(size=3)
    found = [numbers_least(around, kind, g, c) for kind in (Exact, Enclosed)]
    size = (np.abs(g).sum(axis=1) * radius) + np.abs(c)
    assert (np.abs(found[0] - found[1]) <= 1e-12 * size + 1e-280).all()
    down, up = np.maximum(low - x, -radius), np.minimum(high - x, radius)
    grid = np.array(list(itertools.product(*np.linspace(down, up, 7).T)))
    grid = grid[np.linalg.norm(grid, p, axis=1) <= radius]
    for step in grid[:200]:
        exact = [Fraction(float(v)) for v in step]
        if not inside(exact, p, radius, x, low, high):
            continue
        for row, rest, least in zip(g, c, found[0], strict=True):
            value = sum((Fraction(a) * s for a, s in zip(row, exact, strict=True)), Fraction(rest))
            assert Fraction(float(least)) <= value
    if p == math.inf:
        corner = np.where(g > 0, down, up)
        np.testing.assert_allclose(found[0], (g * corner).sum(axis=1) + c, atol=1e-9 * size.max())


def numbers_least(
    around: Set, kind: type[Exact] | type[Enclosed], g: np.ndarray, c: np.ndarray
) -> np.ndarray:
    return around.least(kind.of(g), kind.of(c))  # type: ignore[type-var]


def inside(
    step: list[Fraction], p: float, radius: float, x: np.ndarray, low: np.ndarray,
    high: np.ndarray,
) -> bool:  # fmt: skip
    size = max(map(abs, step)) if p == math.inf else sum(abs(v) ** int(p) for v in step)
    z = [Fraction(float(a)) + s for a, s in zip(x, step, strict=True)]
    within = all((math.isinf(a) or v >= Fraction(a)) and v <= Fraction(b)
                 for v, a, b in zip(z, low.tolist(), high.tolist(), strict=True))  # fmt: skip
    return within and size <= Fraction(radius) ** (2 if p == 2 else 1)


def test_boxes_that_are_cut() -> None:
    around = Set.around(np.zeros(2), math.inf, 4.0, -np.ones(2), np.ones(2))
    below, above = around.cut(0, 1 / 3)
    g, c = Exact.of(np.array([[1.0, 0.0], [-1.0, 0.0]])), Exact.of(np.zeros(2))
    assert below.least(g, c).tolist() == [-1.0, -1 / 3]
    assert above.least(g, c).tolist() == [1 / 3, -1.0]
    far, _ = above.cut(0, 0.5)
    assert far.least(g, c).tolist() == [1 / 3, -0.5]
    for place in (-1.5, 1.5):
        with pytest.raises(Rejected, match="cut where it cannot be"):
            around.cut(0, place)
    with pytest.raises(Rejected, match="cut where it cannot be"):
        Set.around(np.zeros(2), 2.0, 4.0, -np.ones(2), np.ones(2)).cut(0, 0.0)
    with pytest.raises(Rejected, match="not in the box"):
        Set.around(2 * np.ones(2), 2.0, 4.0, -np.ones(2), np.ones(2))
