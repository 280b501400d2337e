"""The public bounds of Jacobians, Lipschitz constants and pre-activations; what they refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import InputError, SmoothActivation, UnsupportedOperation
from tests.nets import compiled, dense
from tests.zoo import SMOOTH_ZOO

INF = math.inf
NET = dense(3, 6, 5, 2, seed=0)
CENTER = np.array([0.3, -0.2, 0.5])
BALL = pt.Ball(CENTER, 0.1, 2)


def smooth(kind: str) -> pt.Network:
    return pt.compile({name: make for name, make, _ in SMOOTH_ZOO}[kind](), (4,))


def refused(kind: type[Exception], words: str, call: Callable[[], object]) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert re.search(words, message, re.DOTALL), message
    assert "\n" not in message


def test_one_set_and_many() -> None:
    alone = pt.jacobian_bounds(NET, BALL)
    assert alone.lower.shape == alone.upper.shape == (2, 3)
    assert alone.jumps.shape == ()
    assert alone.exactness == "safe-float"
    balls = [BALL, pt.Ball(-CENTER, 0.3, 2)]
    many = pt.jacobian_bounds(NET, balls)
    assert many.lower.shape == (2, 2, 3)
    np.testing.assert_allclose(many.lower[0], alone.lower, rtol=1e-12)
    boxes = pt.jacobian_bounds(NET, [pt.Box(CENTER - 0.1, CENTER + 0.1)] * 3)
    assert boxes.lower.shape == (3, 2, 3)
    pair = pt.jacobian_bounds(NET, (CENTER - 0.1, CENTER + 0.1))
    np.testing.assert_allclose(pair.lower, boxes.lower[0], rtol=1e-12)
    whole, large = pt.jacobian_bounds(NET, None), pt.jacobian_bounds(NET, (-1e6, 1e6))
    assert (whole.lower <= large.lower + 1e-12).all()
    assert np.isfinite(whole.upper).all()


def test_small_blocks_change_nothing() -> None:
    net, _ = compiled("residual")
    x = np.random.default_rng(0).normal(size=(5, net.input_size))
    balls = [pt.Ball(row, 0.05, INF) for row in x]
    for method in ("recurjac", "recurjac-f0", "recurjac-f1", "fastlip"):
        whole = pt.jacobian_bounds(net, balls, method)
        parts = pt.jacobian_bounds(net, balls, method, memory=20_000)
        np.testing.assert_allclose(parts.lower, whole.lower, atol=1e-12)
        np.testing.assert_allclose(parts.upper, whole.upper, atol=1e-12)


def test_views_of_the_bounds() -> None:
    found = pt.jacobian_bounds(NET, BALL)
    assert found.contains((found.lower + found.upper) / 2)
    assert not found.contains(found.upper + 1)
    assert (found.size >= np.abs(found.lower)).all()
    assert found.signed.shape == (2, 3)
    assert (found.signed == (found.lower > 0) | (found.upper < 0)).all()
    larger = pt.jacobian_bounds(NET, pt.Ball(CENTER, 3.0, 2))
    met = larger.meet(found)
    np.testing.assert_array_equal(met.lower, np.maximum(found.lower, larger.lower))


def test_functions_of_the_outputs() -> None:
    margin = pt.jacobian_bounds(NET, BALL, functions=[[1.0, -1.0]])
    both = pt.jacobian_bounds(NET, BALL)
    assert margin.lower.shape == (1, 3)
    plain = both.lower[0] - both.upper[1]
    assert (margin.lower[0] >= plain - 1e-12).all()
    rows = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    each = pt.jacobian_bounds(NET, [BALL, BALL], functions=rows)
    np.testing.assert_allclose(each.lower[:, 0], both.lower, atol=1e-12)


@pytest.mark.parametrize("method", ["recurjac", "recurjac-f0", "fastlip"])
def test_maxima_as_they_are_beat_their_relu_identity(method: str) -> None:
    """max(a, b) = ReLU(a - b) + ReLU(b) - ReLU(-b): sound, and nowhere tighter."""
    torch.manual_seed(0)
    first, last = nn.Linear(3, 6).double(), nn.Linear(3, 2).double()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.first(x)
            return self.last(torch.maximum(z[:, :3], z[:, 3:]))

    class Identity(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.first(x)
            a, b = z[:, :3], z[:, 3:]
            return self.last(torch.relu(a - b) + torch.relu(b) - torch.relu(-b))

    found, wide = (
        pt.jacobian_bounds(pt.compile(kind(), (3,)), pt.Ball(CENTER, 2.0, INF), method)
        for kind in (Plain, Identity)
    )
    assert (found.lower >= wide.lower - 1e-12).all()
    assert (found.upper <= wide.upper + 1e-12).all()
    assert (found.upper - found.lower).sum() < 0.8 * (wide.upper - wide.lower).sum()


def test_abs_as_it_is_beats_its_relus() -> None:
    torch.manual_seed(1)
    first, middle, last = (nn.Linear(*s).double() for s in ((3, 5), (5, 5), (5, 2)))

    def build(size: Callable[[torch.Tensor], torch.Tensor]) -> pt.Network:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList([first, middle, last])

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return last(torch.relu(middle(size(first(x)))))

        return pt.compile(Net(), (3,))

    ball = pt.Ball(CENTER, 0.5, INF)
    found = pt.jacobian_bounds(build(torch.abs), ball)
    wide = pt.jacobian_bounds(build(lambda z: torch.relu(z) + torch.relu(-z)), ball)
    assert (found.size <= wide.size + 1e-12).all()


def test_f1_needs_a_first_layer_on_all_paths() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.a(x)) + self.b(x)

    net = pt.compile(Skipping().double(), (3,))
    refused(
        InputError, "recurjac-f1.*skips.*method='recurjac' or 'recurjac-f0'",
        lambda: pt.jacobian_bounds(net, BALL, "recurjac-f1"),
    )  # fmt: skip
    assert pt.jacobian_bounds(net, BALL, "recurjac-f0").lower.shape == (4, 3)


def test_lipschitz_of_an_affine_map_is_exact() -> None:
    W = np.array([[3.0, -4.0], [0.5, 1.0]])
    net = pt.compile([(W, np.zeros(2))])
    for p, q, value in ((2, INF, 5.0), (INF, INF, 7.0), (1, 1, 5.0), (INF, 1, 7.5)):
        for method in ("recurjac", "fastlip", "norm-product", "recurjac-f0"):
            found = pt.lipschitz(net, pt.Ball(np.zeros(2), 1.0, 2), p, q, method)
            assert found.upper == pytest.approx(value, rel=1e-9)
            assert found.value == pytest.approx(value, rel=1e-9)
            assert found.status == "exact"
    margin = pt.lipschitz(net, None, 2, 2, functional=[1.0, -1.0])
    assert margin.upper == pytest.approx(math.hypot(2.5, -5.0))


@pytest.mark.parametrize("kind", ["linear", "residual", "maxout", "abs", "tanh", "selu"])
def test_lipschitz_intervals_have_a_witness(kind: str) -> None:
    net = compiled(kind)[0] if kind not in ("tanh", "selu") else smooth(kind)
    center = np.random.default_rng(0).normal(size=net.input_size)
    ball = pt.Ball(center, 0.4, 2)
    for method in ("recurjac", "fastlip", "sampled", "norm-product", "recurjac-f0"):
        found = pt.lipschitz(net, ball, 2, 2, method)
        assert found.lower <= found.upper
        assert found.witness is not None
        assert ball.contains(found.witness[None]).all()
        assert found.jacobian is not None
        assert np.linalg.norm(found.jacobian, 2) == pytest.approx(found.lower, rel=1e-9)
        assert (found.pattern is None) == (kind in ("tanh", "selu"))
        assert (method == "sampled") == math.isinf(found.upper)
        assert (found.p, found.q, found.method) == (2.0, 2.0, method)
    listed = pt.lipschitz(net, [ball, pt.Ball(center, 0.1, 2)], INF, 1)
    assert len(listed) == 2
    assert listed[1].upper <= listed[0].upper


def test_every_pair_of_norms_that_a_method_takes() -> None:
    for p, q in ((1, 3), (1.5, INF), (2, 2), (3, 1), (INF, 2)):
        recurjac = pt.lipschitz(NET, BALL, p, q)
        assert recurjac.lower <= recurjac.upper < INF
    for p, q in ((3, 2), (2, 3), (1.5, 1.5)):
        for method in ("recurjac", "fastlip", "recurjac-f0"):
            refused(
                InputError, f"lipschitz, {method}.*p={p:g} to q={q:g}.*NP-hard.*p=1 with any q",
                lambda p=p, q=q, m=method: pt.lipschitz(NET, BALL, p, q, m),
            )  # fmt: skip
        product = pt.lipschitz(NET, BALL, p, q, "norm-product")
        sampled = pt.lipschitz(NET, BALL, p, q, "sampled")
        assert 0 < sampled.lower <= product.upper < INF


def test_the_global_constant() -> None:
    local, everywhere = pt.lipschitz(NET, BALL, 2, 2), pt.lipschitz(NET, None, 2, 2)
    assert local.upper <= everywhere.upper + 1e-12
    assert everywhere.lower > 0


def test_exact_and_mip_are_methods_too() -> None:
    box = pt.Box(CENTER - 0.2, CENTER + 0.2)
    exact = pt.lipschitz(NET, box, INF, INF, "exact")
    assert exact.value is not None
    assert exact.upper <= pt.lipschitz(NET, box, INF, INF).upper * (1 + 1e-12)
    claim = pt.lipschitz(NET, box, INF, INF, "mip")
    assert claim.claimed == pytest.approx(exact.value, rel=1e-7)
    assert claim.lower <= exact.upper
    assert len(pt.lipschitz(NET, [box, box], INF, INF, "exact")) == 2
    refused(
        SmoothActivation, "exact.*'tanh'.*RecurJac",
        lambda: pt.lipschitz(smooth("tanh"), None, 2, 2, "exact"),
    )  # fmt: skip
    refused(
        SmoothActivation, "mip.*'tanh'.*RecurJac",
        lambda: pt.lipschitz(smooth("tanh"), None, 1, 1, "mip"),
    )  # fmt: skip


def test_jumps_of_softplus_are_told() -> None:
    net = smooth("softplus")
    near, far = (pt.lipschitz(net, pt.Ball(np.zeros(4), r, 2), 2, 2) for r in (0.1, 50.0))
    assert not near.jumps
    assert far.jumps
    assert math.isfinite(far.upper)
    assert pt.jacobian_bounds(net, None).jumps


def test_bad_sets() -> None:
    for radius in (-1.0, 0.0, INF, math.nan):
        refused(InputError, "radius", lambda r=radius: pt.Ball(CENTER, r, 2))
    calls: list[Callable[..., object]] = [
        pt.jacobian_bounds, pt.lipschitz, pt.preactivation_bounds,
    ]  # fmt: skip
    for call in calls:
        refused(
            InputError, "ball 0 lies outside the box.*coordinate 1.*widen the box",
            lambda c=call: c(NET, BALL, box=(0, 1)),
        )  # fmt: skip
        refused(
            InputError, "over 2 coordinates.*3 inputs",
            lambda c=call: c(NET, pt.Ball([0.0, 0.0], 1.0, 2)),
        )  # fmt: skip
        refused(
            InputError, "one norm",
            lambda c=call: c(NET, [BALL, pt.Ball(CENTER, 1.0, 1)]),
        )  # fmt: skip
        refused(
            InputError, "balls only or boxes only",
            lambda c=call: c(NET, [BALL, pt.Box(CENTER, CENTER)]),
        )  # fmt: skip
        refused(InputError, "empty list", lambda c=call: c(NET, []))
        refused(InputError, "no Ball", lambda c=call: c(NET, (-1, 1), box=(0, 1)))
        refused(InputError, "expected None, a pair", lambda c=call: c(NET, "everywhere"))


def test_bad_options() -> None:
    refused(
        InputError, "method: got 'crown', expected one of.*recurjac",
        lambda: pt.jacobian_bounds(NET, BALL, "crown"),
    )  # fmt: skip
    refused(
        InputError, "method: got 'lipmip', expected one of.*exact",
        lambda: pt.lipschitz(NET, BALL, 2, 2, "lipmip"),
    )  # fmt: skip
    refused(
        InputError, "method: got 'recurjac', expected one of.*crown",
        lambda: pt.preactivation_bounds(NET, BALL, "recurjac"),
    )  # fmt: skip
    refused(InputError, "functions: got shape", lambda: pt.jacobian_bounds(NET, BALL, functions=3))
    refused(
        InputError, "functions: is not numeric",
        lambda: pt.jacobian_bounds(NET, BALL, functions="both"),
    )  # fmt: skip
    refused(InputError, "functional", lambda: pt.lipschitz(NET, BALL, functional=[1.0]))
    refused(InputError, "p: norm", lambda: pt.lipschitz(NET, BALL, 0.5, 2))
    refused(InputError, "q: norm", lambda: pt.lipschitz(NET, BALL, 2, "two"))
    refused(InputError, "samples", lambda: pt.lipschitz(NET, BALL, samples=0))
    refused(
        InputError, "max_regions and time_limit limit a search.*method='exact'",
        lambda: pt.lipschitz(NET, BALL, max_regions=3),
    )  # fmt: skip
    refused(
        InputError, "counts no regions",
        lambda: pt.lipschitz(NET, (-1, 1), 1, 1, "mip", max_regions=3),
    )  # fmt: skip
    bad = pt.compile(
        nn.Sequential(nn.Linear(2, 2), nn.Softplus(-1.0), nn.Linear(2, 1)).double(), (2,)
    )
    refused(UnsupportedOperation, "beta=-1", lambda: pt.jacobian_bounds(bad, None))


def test_bad_points_for_radii() -> None:
    X = CENTER[None]
    for call in (pt.certified_radius, pt.stationary_radius):
        refused(InputError, "method: got 'x'", lambda c=call: c(NET, X, method="x"))
        refused(InputError, "lie outside the box", lambda c=call: c(NET, X, box=(0, 1)))
        refused(InputError, "label 7", lambda c=call: c(NET, X, [7]))
        refused(InputError, "shape", lambda c=call: c(NET, np.zeros((1, 4))))
        refused(InputError, "norm p", lambda c=call: c(NET, X, p=0))
    label = int(NET.predict(X)[0])
    refused(
        InputError, "target of row 0 is its own class",
        lambda: pt.certified_radius(NET, X, targets=[label]),
    )  # fmt: skip
    refused(InputError, "intervals", lambda: pt.certified_radius(NET, X, intervals=0))


@pytest.mark.parametrize("name", ["linear", "residual", "maxout", "hardtanh", "tanh", "linear1"])
@pytest.mark.parametrize("p", [1, 1.5, 2, INF])
def test_preactivation_bounds_hold_and_tighten(name: str, p: float) -> None:
    net = smooth(name) if name == "tanh" else compiled(name.rstrip("1"))[0]
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(2, net.input_size))
    balls = [pt.Ball(c, 0.3, p) for c in centers]
    box = (centers.min(axis=0) - 0.1, centers.max(axis=0) + 0.1) if name == "linear1" else None
    methods = ["interval", "dual", "crown"] + ([] if name == "tanh" else ["lp"])
    found = {m: pt.preactivation_bounds(net, balls, m, box=box) for m in methods}
    steps = rng.normal(size=(300, net.input_size))
    steps *= 0.3 * rng.uniform(size=(300, 1)) / np.linalg.norm(steps, ord=p, axis=1)[:, None]
    for i, center in enumerate(centers):
        points = center + steps
        if box is not None:
            points = np.clip(points, *box)
        values = net.logits(points) if net.output_size > 1 else net.logits(points)[:, 1:]
        for bounds in found.values():
            assert (values >= bounds.output_lower[i] - 1e-9).all()
            assert (values <= bounds.output_upper[i] + 1e-9).all()
            assert len(bounds.names) == len(bounds.lower) == len(bounds.upper)
    assert found["crown"].exactness == "safe-float"
    if "lp" in found:
        assert found["lp"].exactness == "float"
        crown, programs = (pt.preactivation_bounds(net, balls[1], m, box=box) for m in methods[2:])
        for a, b in zip(
            (*programs.lower, programs.output_lower), (*crown.lower, crown.output_lower),
            strict=True,
        ):  # fmt: skip
            assert a.shape == b.shape
            assert (a >= b - 1e-9).all()
        np.testing.assert_allclose(programs.output_upper, found["lp"].output_upper[1], atol=1e-9)


def test_linear_programs_need_bounded_sets_and_pieces() -> None:
    refused(InputError, "bounded set", lambda: pt.preactivation_bounds(NET, None, "lp"))
    refused(
        SmoothActivation, "method='lp'.*'tanh'",
        lambda: pt.preactivation_bounds(smooth("tanh"), (-1, 1), "lp"),
    )  # fmt: skip
    point = pt.preactivation_bounds(NET, pt.Box(CENTER, CENTER), "lp")
    np.testing.assert_allclose(point.output_lower, NET.logits(CENTER[None])[0], atol=1e-9)


def test_an_overflow_is_infinite_and_no_nan() -> None:
    rng = np.random.default_rng(0)
    layers = [(1e200 * rng.normal(size=(4, 4)), rng.normal(size=4)) for _ in range(4)]
    net = pt.compile(layers)
    for method in ("recurjac", "recurjac-f0", "recurjac-f1", "fastlip"):
        found = pt.jacobian_bounds(net, pt.Ball(np.zeros(4), 1.0, 2), method)
        assert not np.isnan(found.lower).any()
        assert not np.isnan(found.upper).any()
        assert (found.lower <= found.upper).all()
        constant = pt.lipschitz(net, pt.Ball(np.zeros(4), 1.0, 2), 2, 2, method)
        assert constant.upper == INF


def test_results_print_shortly_and_become_tables() -> None:
    found = pt.jacobian_bounds(NET, [BALL, BALL], "fastlip")
    assert re.fullmatch(
        r"JacobianBounds\(2 sets, 2 outputs x 3 inputs, fastlip, safe-float, [\d.]+% of the signs "
        r"known\)",
        repr(found),
    )
    layers = pt.preactivation_bounds(NET, BALL)
    assert repr(layers).endswith("; crown, safe-float)")
    assert len(repr(layers)) < 200
    X = np.stack([CENTER, CENTER])
    table = pt.stationary_radius(NET, X).to_frame()
    assert list(table["radius"]) == list(pt.stationary_radius(NET, X).radius)
