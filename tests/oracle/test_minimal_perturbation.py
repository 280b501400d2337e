"""All engines against every linear region of small networks, degenerate ones above all."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

import polytope as pt
from polytope.network.exact import exact_pieces, is_adversarial
from polytope.robustness.compiled_nodes import CompiledNodes
from polytope.robustness.flat import flat_network
from polytope.robustness.node import Node
from polytope.robustness.nodes import TensorNodes
from polytope.robustness.query import Query
from tests.data import data_path
from tests.oracle.small_questions import BOXES, FLAWS, KINDS, PLACES, Drawn, Enumeration, draw

INF = math.inf
NORMS = (1.0, 2.0, INF)
#: Distances agree to this part, and to this absolutely: points on the decision boundary within
#: the rounding of their coordinates have distances of some 1e-16.
SAME, NOTHING = 1e-8, 1e-12

questions = st.builds(
    draw,
    seed=st.integers(0, 10**6),
    d=st.integers(2, 6),
    kind=st.sampled_from(KINDS),
    flaw=st.sampled_from(FLAWS),
    place=st.sampled_from(PLACES),
    box=st.sampled_from(BOXES),
    targeted=st.booleans(),
)


def close(a: float, b: float) -> bool:
    return a == b or (math.isfinite(a + b) and abs(a - b) <= SAME * max(a, b) + NOTHING)


def hold(drawn: Drawn, row: pt.Perturbation, p: float) -> None:
    """What every result promises."""
    assert row.lower <= row.upper
    assert row.explain
    lower, upper = np.array([(low, up) for _, low, up in row.stats.trace]).reshape(-1, 2).T
    assert (lower[1:] >= lower[:-1]).all()
    assert (upper[1:] <= upper[:-1]).all()
    if math.isfinite(row.upper):
        assert is_adversarial(drawn.net.graph, row.witness, drawn.label, drawn.target)
        size = float(np.linalg.norm(row.witness - drawn.x, ord=p))
        assert size <= row.upper <= size * (1 + 1e-14)
        if drawn.box is not None:
            assert (row.witness >= drawn.box.low).all()
            assert (row.witness <= drawn.box.high).all()


def agree(drawn: Drawn, p: float, tmp: object, methods: tuple[str, ...]) -> None:
    """The engines' distance is that of the nearest adversarial part of a region."""
    found = pt.cross_check(
        drawn.net, drawn.x[None], np.array([drawn.label]), p, drawn.box, methods, (),
        target=drawn.target, time_limit=600.0, out=tmp,
    )  # fmt: skip
    rows = {name: found.methods[name][0] for name in methods}
    least, expected = Enumeration(drawn, min(row.upper for row in rows.values()) * 1.01).distance(p)
    nearest = min(row.upper for row in rows.values())
    for name, row in rows.items():
        hold(drawn, row, p)
        assert row.lower <= nearest * (1 + SAME) + NOTHING, name
        if (
            drawn.flaw == "mixed"
        ):  # weights of 1e8 beside others of 1: the enumeration's floats lose regions
            continue
        assert row.lower <= expected * (1 + SAME) + NOTHING, name
        assert row.upper >= least * (1 - SAME) - NOTHING, name
        if not close(least, expected):  # a part that floats cannot tell to be empty
            continue
        if name == "mip":
            believed = found.verdict[0] != "disagree" and row.stopped in ("", "engine")
            assert not believed or close(row.upper, expected), name
        elif math.isfinite(expected):
            assert close(row.lower, expected), name
            assert close(row.upper, expected), name
        elif math.isfinite(row.upper):
            # A single point, such as the origin of a network without biases, is lost by the
            # enumeration's programs in floats; `hold` has proved it in exact arithmetic.
            assert all(close(row.upper, other.upper) for other in rows.values()), name
        else:
            # Without a box nothing bounds what has to be searched.
            assert drawn.box is None or row.status == "unreachable", name


def test_a_step_that_is_not_finite_is_no_candidate(tmp_path) -> None:
    drawn = draw(2, 2, "residual", "integers", "boundary", "none", False)
    agree(drawn, 2.0, tmp_path, ("branch_and_bound",))


@given(drawn=questions, p=st.sampled_from(NORMS))
@settings(max_examples=25)
def test_every_region_of_small_networks(tmp_path_factory, drawn: Drawn, p: float) -> None:
    methods = ("branch_and_bound", "traversal")
    if drawn.box is None:  # where no class is as high anywhere, nothing bounds the search
        near = pt.minimal_perturbation(
            drawn.net, drawn.x, drawn.label, p, None, drawn.target, radius=1e3
        )
        if math.isinf(near.upper):
            assert near.status == "robust"
            assume(drawn.net.input_size <= 3)
            methods = ("traversal",)
    if drawn.flaw == "integers" and p == 2:
        # Where many hyperplanes meet in a point, the traversal in l_2 goes through empty regions
        # behind them, hundreds in two dimensions: what it proves holds, but it takes minutes.
        assume(len(methods) == 2)
        methods = ("branch_and_bound",)
    agree(drawn, p, tmp_path_factory.mktemp("check"), methods)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", NORMS)
def test_programs_too(tmp_path, kind: str, p: float) -> None:
    seed = (KINDS.index(kind) + NORMS.index(p)) % 3
    flaw, place, box = (
        ("none", "anywhere", "wide"), ("duplicates", "boundary", "flat"), ("dead", "corner", "wide")
    )[seed]  # fmt: skip
    drawn = draw(seed, 3, kind, flaw, place, box, seed == 1)
    agree(drawn, p, tmp_path, ("branch_and_bound", "traversal", "mip"))


def test_programs_on_badly_scaled_networks_agree_or_say_so(tmp_path) -> None:
    for flaw in ("tiny", "huge", "mixed"):
        for kind in ("deep", "pooled"):
            drawn = draw(3, 2, kind, flaw, "anywhere", "wide", False)
            agree(drawn, INF, tmp_path, ("branch_and_bound", "mip"))


def affine(weight: object, bias: object) -> pt.Network:
    return pt.compile([(np.array(weight, dtype=float), np.array(bias, dtype=float))])


@pytest.mark.parametrize("method", ["branch_and_bound", "traversal", "mip"])
@pytest.mark.parametrize("p", NORMS)
def test_known_distances(method: str, p: float) -> None:
    net = affine([[0.0, 0.0], [3.0, 4.0]], [10.0, 0.0])  # class 1 where 3 a + 4 b >= 10
    free = {1.0: 2.5, 2.0: 2.0, INF: 10 / 7}[p]
    found = pt.minimal_perturbation(net, np.zeros(2), p=p, method=method)
    assert found.upper == pytest.approx(free, rel=1e-12)
    assert method == "mip" or found.exact
    boxed = {1.0: 1 + 7 / 3, 2.0: math.hypot(1, 2), INF: 2.0}[p]
    boxed = {1.0: 3.0, 2.0: math.sqrt(5), INF: 2.0}[p]  # a <= 2, b <= 1: only the corner is left
    found = pt.minimal_perturbation(net, np.zeros(2), p=p, box=([-1, -1], [2, 1]), method=method)
    assert found.upper == pytest.approx(boxed, rel=1e-12)
    assert found.witness.tolist() == [2.0, 1.0]
    none = pt.minimal_perturbation(net, np.zeros(2), p=p, box=([-1, -1], [2, 0.9]), method=method)
    assert none.status == "unreachable"
    assert none.lower == none.upper == INF
    assert none.exact
    assert none.target == -1
    assert none.region is None
    assert np.isnan(none.witness).all()


@pytest.mark.parametrize("method", ["branch_and_bound", "traversal", "mip"])
def test_ties_and_points_on_the_boundary(method: str) -> None:
    tied = affine([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], [0.0, 0.0, -9.0])
    found = pt.minimal_perturbation(tied, np.array([0.3, 0.1]), method=method)
    assert found.upper == 0  # the other one is as high
    assert found.status == "misclassified"
    assert found.exact
    apart = pt.minimal_perturbation(tied, np.array([0.3, 0.1]), target=2, p=2, method=method)
    assert apart.upper == pytest.approx(9.5 / math.sqrt(5), rel=1e-12)
    corner = pt.minimal_perturbation(
        tied, np.zeros(2), np.array(0), p=1, target=1, box=(0, 1), method=method
    )
    assert corner.upper == 0


def test_the_origin_alone_is_adversarial() -> None:
    """Without biases all outputs are 0 there; around it class 0 is the higher one."""
    net = pt.compile([
        (np.array([[1.0, 0.3], [-1.0, 0.2], [0.1, -1.0], [0.2, 1.0]]), np.zeros(4)),
        (np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]), np.zeros(2)),
    ])  # fmt: skip
    x = np.array([0.3, -0.7])
    for p in NORMS:
        size = float(np.linalg.norm(x, ord=p))
        for method in ("branch_and_bound", "traversal"):
            found = pt.minimal_perturbation(net, x, p=p, box=(-1, 1), method=method)
            assert found.exact, (p, method)
            assert found.upper == pytest.approx(size, rel=1e-9)


@pytest.mark.parametrize("p", NORMS)
def test_decisions_within_a_radius(p: float) -> None:
    for kind in ("deep", "residual", "one_output"):
        drawn = draw(5, 3, kind, "none", "anywhere", "wide", False)
        ask = (drawn.net, drawn.x, drawn.label, p, drawn.box, drawn.target)
        exact = pt.minimal_perturbation(*ask)
        assert exact.status == "exact"
        for method in ("auto", "branch_and_bound", "traversal"):
            near = pt.minimal_perturbation(*ask, radius=0.9 * exact.lower, method=method)
            assert near.status == "robust"
            assert 0.9 * exact.lower <= near.lower <= exact.upper
            far = pt.minimal_perturbation(*ask, radius=1.1 * exact.upper, method=method)
            assert far.status == "not robust"
            assert exact.lower <= far.upper <= 1.1 * exact.upper
            assert is_adversarial(drawn.net.graph, far.witness, drawn.label)
            at = pt.minimal_perturbation(*ask, radius=exact.upper, method=method)
            assert at.status in ("not robust", "undecided")
            assert at.lower <= exact.upper
            assert at.stopped == ""
        far = pt.minimal_perturbation(*ask, radius=1.1 * exact.upper, method="mip")
        assert far.status == "not robust"


# Bounds of nodes.


def within(drawn: Drawn, p: float, radius: float, count: int, seed: int) -> np.ndarray:
    """Points of the ball and the box."""
    rng = np.random.default_rng(seed)
    step = rng.normal(size=(count, len(drawn.x)))
    step /= np.linalg.norm(step, ord=p, axis=1)[:, None]
    step *= radius * (1 - 1e-12) * rng.random((count, 1)) ** 0.5
    points = drawn.x + step
    return points if drawn.box is None else np.clip(points, drawn.box.low, drawn.box.high)


def at_boundary(drawn: Drawn, target: int, points: np.ndarray) -> np.ndarray:
    """Between points of both decisions, the adversarial ends of the last bisection."""
    lead = drawn.net.logits(points)
    lead = lead[:, drawn.label] - lead[:, target]
    inner, outer = points[lead > 0][:6], points[lead <= 0][:6]
    count = min(len(inner), len(outer))
    inner, outer = inner[:count].copy(), outer[:count].copy()
    for _ in range(50 if count else 0):
        middle = (inner + outer) / 2
        logits = drawn.net.logits(middle)
        over = logits[:, drawn.label] <= logits[:, target]
        outer[over], inner[~over] = middle[over], middle[~over]
    return outer


def readings(net: pt.Network, points: np.ndarray) -> np.ndarray:
    """What all units read: (n, values)."""
    with torch.no_grad():
        states = list(net.sweep(torch.as_tensor(points.reshape(-1, *net.input_shape))))
    none = np.zeros((len(points), 0))
    return np.hstack([none, *(state.values.flatten(1).numpy() for state in states[:-1])])


@given(
    drawn=questions, p=st.sampled_from(NORMS), size=st.sampled_from([0.01, 0.3, 2.0]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
@settings(max_examples=25)
def test_bounds_of_nodes_hold(drawn: Drawn, p: float, size: float, share: float) -> None:
    """Of random nodes, and of what is tight: points of their boundary, in exact arithmetic."""
    net, target = drawn.net, drawn.targets[0]
    points = within(drawn, p, size, 200, 0)
    points = np.vstack([points, at_boundary(drawn, target, points)])
    with torch.no_grad():
        pieces = net.pieces(torch.as_tensor(points.reshape(-1, *net.input_shape))).numpy()
    logits, read = net.logits(points), readings(net, points)
    over = logits[:, target] >= logits[:, drawn.label]
    rng = np.random.default_rng(1)
    chosen = rng.choice(np.append(np.flatnonzero(over), len(points) - 1))
    fixed = np.where(rng.random(net.units) < share, pieces[chosen], -1).astype(np.int16)
    own = ((pieces == fixed) | (fixed < 0)).all(axis=1)
    query = Query(net, drawn.x, drawn.label, drawn.target, p, drawn.box, None, 1e-9, 0, 2**30)
    for bounds in (CompiledNodes(flat_network(net), query), TensorNodes(query)):
        node = Node(0.0, 0, target, fixed, bounds.known(), size)
        (judged,) = bounds.judge([node], size)
        slack = 1e-9 * (1 + np.abs(read).max(initial=0.0))
        if judged is None:
            bad = own & over & (logits[:, target] - logits[:, drawn.label] > slack)
            assert not bad.any(), bounds
            if not (own & over).any():
                continue
        else:
            low, high = judged.known[:, : read.shape[1]]
            assert (read[own & over] >= low - slack).all()
            assert (read[own & over] <= high + slack).all()
            assert all(len(branch) > 1 for _, branch in judged.choices)
            if not judged.choices and judged.pieces is not None and own.any():
                assert (judged.pieces[fixed >= 0] == fixed[fixed >= 0]).all()
            value = (points - drawn.x) @ judged.normal.T + judged.height
            room = 1e-9 * (1 + np.abs(judged.normal).sum(axis=1) * size + np.abs(judged.height))
            assert (value[own & over] <= room).all()
        for point in points[own & over][-3:]:  # what is tight, exactly
            if not is_adversarial(net.graph, point, drawn.label, target):
                continue
            mine = exact_pieces(net.graph, point)
            if not ((mine == fixed) | (fixed < 0)).all():
                continue
            assert judged is not None, bounds
            for normal, height in zip(judged.normal, judged.height, strict=True):
                exact = Fraction(float(height)) + sum(
                    Fraction(float(a)) * (Fraction(float(z)) - Fraction(float(v)))
                    for a, z, v in zip(normal, point, drawn.x, strict=True)
                )
                assert exact <= 0, bounds


@given(drawn=questions, p=st.sampled_from(NORMS))
@settings(max_examples=10)
def test_leaves_cover_what_is_nearer_than_the_lower_bound(drawn: Drawn, p: float) -> None:
    found = pt.minimal_perturbation(
        drawn.net, drawn.x, drawn.label, p, drawn.box, drawn.target, method="branch_and_bound",
        time_limit=2.0,
    )  # fmt: skip
    if found.evidence is None:
        return
    far = min(found.lower, 10.0)
    points = within(drawn, p, far, 100, 2)
    with torch.no_grad():
        shaped = torch.as_tensor(points.reshape(-1, *drawn.net.input_shape))
        pieces = drawn.net.pieces(shaped).numpy()
    leaves = found.evidence.leaves
    for target in drawn.targets:
        fixed = np.stack([leaf.fixed for leaf in leaves if leaf.target == target])
        match = ((fixed[:, None] == pieces) | (fixed[:, None] < 0)).all(axis=2)
        assert match.any(axis=0).all()
    if math.isfinite(found.lower):
        assert min(leaf.lower for leaf in leaves) >= found.lower * (1 - 1e-9)


# Real data, and real training.


@pytest.fixture(scope="module")
def digits() -> tuple[pt.Network, np.ndarray, np.ndarray, np.ndarray]:
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        return net, file["points"].astype(float), file["labels"], file["linf_optimum"]


def test_ten_digits(digits) -> None:
    net, points, labels, optimum = digits
    found = pt.minimal_perturbation(net, points, labels, "inf", (0, 1))
    assert found.exact.all()
    assert np.abs(found.upper - optimum).max() <= 1e-12
    assert (found.lower <= optimum * (1 + 1e-13)).all()
    session = onnxruntime.InferenceSession(
        str(data_path("digits", "digits_64_32_32_10.onnx")), providers=["CPUExecutionProvider"]
    )
    name, kind = session.get_inputs()[0].name, session.get_inputs()[0].type
    for row, x, label in zip(found, points, labels.tolist(), strict=True):
        assert is_adversarial(net.graph, row.witness, label, row.target)
        assert (row.witness >= 0).all()
        assert (row.witness <= 1).all()
        native = row.native_witness.astype(np.float32 if kind == "tensor(float)" else np.float64)
        assert (native == row.native_witness).all()  # it is a number of that type
        (logits,) = session.run(None, {name: native[None]})
        assert int(logits[0].argmax()) != label
        assert row.native_upper == pytest.approx(row.upper, abs=1e-4)
        assert np.abs(row.native_witness - x).max() <= row.native_upper


@pytest.mark.parametrize("p", [1, 2])
def test_digits_by_two_engines(digits, p: int) -> None:
    net, points, labels, _ = digits
    few = [0, 1, 7, 8, 9]
    found = [
        pt.minimal_perturbation(net, points[few], labels[few], p, (0, 1), method=method)
        for method in ("branch_and_bound", "traversal")
    ]
    for rows in found:
        assert rows.exact.all()
    assert np.abs(found[0].upper / found[1].upper - 1).max() <= 1e-9
    assert np.abs(found[0].lower / found[1].lower - 1).max() <= 2e-9


def test_a_network_trained_with_weight_decay(tmp_path) -> None:
    """Until most of its weights are below 1e-6 and whole units are all but dead."""
    images, labels = load_digits(n_class=3, return_X_y=True)
    X = torch.tensor(images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16)
    y = torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(),
                              nn.Linear(8, 3)).double()  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for _ in range(1200):
            loss = nn.functional.cross_entropy(model(X), y)
            loss = loss + 1e-4 * sum(w.abs().sum() + 50 * (w**2).sum() for w in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():  # what decay leaves of a weight after more epochs
            for weight in model.parameters():
                weight[weight.abs() < 1e-2] *= 1e-6
    small = torch.cat([w.detach().abs().flatten() for w in model.parameters()])
    assert ((small > 0) & (small < 1e-6)).sum() > 50
    net = pt.compile(model, (16,))
    points = X[::180].numpy()
    for p in NORMS:
        found = pt.cross_check(
            net, points, p=p, box=(0, 1), methods=("branch_and_bound", "traversal"), attacks=(),
            out=tmp_path,
        )  # fmt: skip
        assert (found.verdict == "agree").all(), found.to_frame()
    found = pt.cross_check(net, points, p="inf", box=(0, 1), methods=("auto", "mip"), attacks=(),
                           out=tmp_path)  # fmt: skip
    assert (found.verdict == "agree").all(), found.to_frame()
