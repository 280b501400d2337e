"""d_B and d_D: by hand from the region's rows, inside boxes, signs, gradients, corner cases."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

from polytope.distances import boundary_distance, decision_distance
from polytope.errors import InputError
from polytope.hyperplanes import hyperplanes
from polytope.inputs import as_batch
from polytope.jacobians import Method, is_dense_chain
from polytope.model import Network, compile
from polytope.region import Region
from polytope.sets import Box
from solvers.norms import dual_exponent
from solvers.projection import project_to_hyperplane
from tests.nets import compiled, dense, few_kinds, points

NORMS = [1, 2, 3, np.inf]
norms = pytest.mark.parametrize("p", NORMS)


def row_distances(region: Region, p: float) -> np.ndarray:
    """Distances to the rows of a region that are hyperplanes, by hand."""
    keep = ~region.zero_rows
    A, b = region.A[keep], region.b[keep]
    room = np.maximum(b - A @ region.point, 0)
    return np.sort(room / np.linalg.norm(A, dual_exponent(p), axis=1)) if len(A) else np.zeros(0)


def boxed_distances(
    A: np.ndarray, residual: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray, p: float
) -> np.ndarray:
    """Distances inside a box to every row, none left out."""
    if len(A) == 0:
        return np.zeros(0)
    found = project_to_hyperplane(A, residual, low - x, high - x, p, engine="torch")
    return found.distance.numpy()


@norms
@few_kinds
def test_boundary_distance_by_hand(name: str, p: float) -> None:
    net, _ = compiled(name)
    X = points(net, 5)
    found = boundary_distance(net, X, p, k=3)
    assert found.projections == 0
    for i, x in enumerate(X):
        region = net.region(x)
        wanted = row_distances(region, p)
        top = np.full(found.nearest.shape[1], np.inf)
        top[: len(wanted)] = wanted[: len(top)]
        np.testing.assert_allclose(found.nearest[i], top, rtol=1e-10)
        assert found.distance[i] == found.nearest[i, 0]
    assert found.hyperplanes == sum(int((~net.region(x).zero_rows).sum()) for x in X)


@few_kinds
def test_the_nearest_units_are_named(name: str) -> None:
    net, _ = compiled(name)
    X = points(net, 3)
    for box in (None, (-6, 6)):
        found = boundary_distance(net, X, 2, box, k=4)
        for i, x in enumerate(X):
            region = net.region(x)
            rows = list(map(region.units.__getitem__, range(len(region.units))))
            for j in range(found.nearest.shape[1]):
                place = (found.layer[i, j], found.unit[i, j], found.slot[i, j])
                if not np.isfinite(found.nearest[i, j]):
                    assert place == (-1, -1, -1)
                    continue
                (row,) = [n for n, u in enumerate(rows) if (u.layer, u.unit, u.slot) == place]
                room = region.b[row] - region.A[row] @ x
                free = room / np.linalg.norm(region.A[row])
                if box is None:
                    assert found.nearest[i, j] == pytest.approx(free, rel=1e-10)
                else:
                    assert found.nearest[i, j] >= free * (1 - 1e-10)


@norms
@pytest.mark.parametrize("engine_method", ["perturbation", "dynamic", "backprop"])
def test_methods_agree(engine_method: Method, p: float) -> None:
    for name in ("linear", "hardtanh", "max_pool2d"):
        net, _ = compiled(name)
        if engine_method == "dynamic" and not is_dense_chain(net):
            continue
        X = points(net, 3)
        wanted = boundary_distance(net, X, p)
        found = boundary_distance(net, X, p, method=engine_method)
        np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-10)
        planes = hyperplanes(net, as_batch(net, X), dual_exponent(p), method=engine_method)
        ours = planes.decision_distances().numpy()
        theirs = decision_distance(net, X, None, p)
        np.testing.assert_allclose(ours.min(axis=1), theirs.distance, rtol=1e-10)


@norms
@few_kinds
def test_boxed_is_the_projection_of_every_row(name: str, p: float) -> None:
    """The early stop changes nothing: it only saves projections."""
    net, _ = compiled(name)
    X = np.clip(points(net, 5), -1, 1)
    low, high = np.full(net.input_size, -1.0), np.full(net.input_size, 1.0)
    found = boundary_distance(net, X, p, (low, high), k=2)
    for i, x in enumerate(X):
        region = net.region(x)
        keep = ~region.zero_rows
        A, b = region.A[keep], region.b[keep]
        wanted = np.sort(boxed_distances(A, A @ x - b, x, low, high, p))
        top = np.full(found.nearest.shape[1], np.inf)
        top[: len(wanted)] = wanted[: len(top)]
        np.testing.assert_allclose(found.nearest[i], top, rtol=1e-9, atol=1e-14)
    assert found.projections <= found.hyperplanes


def test_the_early_stop_saves_and_says_so() -> None:
    net = dense(20, 60, 60, 5)
    X = np.random.default_rng(0).uniform(size=(10, 20))
    for p in NORMS:
        found = boundary_distance(net, X, p, (0, 1))
        assert found.hyperplanes == 10 * 120
        assert 0 < found.projections < found.hyperplanes / 5


@norms
def test_the_early_stop_misses_nothing(p: float) -> None:
    """Points in corners of tight boxes, where the order inside the box is another one."""
    net = dense(8, 40, 40, 3, seed=5)
    rng = np.random.default_rng(6)
    X = rng.uniform(-1, 1, (40, 8))
    for k, x in enumerate(X):
        low = x - rng.choice([0, 0.05, 1, np.inf], 8)
        high = x + rng.choice([0, 0.05, 1, np.inf], 8)
        found = boundary_distance(net, x, p, (low, high), k=1 + k % 3)
        region = net.region(x)
        residual = region.A @ x - region.b
        wanted = np.sort(boxed_distances(region.A, residual, x, low, high, p))
        np.testing.assert_allclose(found.nearest[0], wanted[: 1 + k % 3], rtol=1e-9)


@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
def test_boxed_against_cvxpy(p: float | str) -> None:
    net = dense(6, 8, 3, seed=2)
    X = np.random.default_rng(1).uniform(-1, 1, size=(2, 6))
    low, high = np.full(6, -1.0), np.array([1, 1, 2, np.inf, 1, 1])
    low[2], high[2] = X[0, 2], X[0, 2]
    X[1, 2] = X[0, 2]
    found = boundary_distance(net, X, p, (low, high), k=8)
    signed = decision_distance(net, X, None, p, (low, high))
    for i, x in enumerate(X):
        region = net.region(x)
        wanted = sorted(
            by_cvxpy(row, bound, x, low, high, p)
            for row, bound in zip(region.A, region.b, strict=True)
        )
        np.testing.assert_allclose(found.nearest[i], wanted, rtol=1e-4, atol=1e-5)
        logits, c = region.affine(x)[0], signed.label[i]
        rows = np.delete(region.jacobian - region.jacobian[c], c, axis=0)
        gaps = np.delete(logits - logits[c], c)
        decisions = [
            by_cvxpy(row, row @ x - gap, x, low, high, p)
            for row, gap in zip(rows, gaps, strict=True)
        ]
        assert signed.distance[i] == pytest.approx(min(decisions), rel=1e-4)


def by_cvxpy(
    row: np.ndarray, bound: float, x: np.ndarray, low: np.ndarray, high: np.ndarray, p: float | str
) -> float:
    z = cp.Variable(len(x))
    below, above = np.isfinite(low), np.isfinite(high)
    limits = [row @ z == bound, z[below] >= low[below], z[above] <= high[above]]
    problem = cp.Problem(cp.Minimize(cp.norm(z - x, p)), limits)
    problem.solve(solver="CLARABEL")
    return float(problem.value)


@norms
def test_boxes_per_coordinate_and_open_sides(p: float) -> None:
    net, _ = compiled("linear")
    X = points(net, 6)
    free = boundary_distance(net, X, p)
    signed = decision_distance(net, X, None, p)
    endless = Box(np.full(4, -np.inf), np.full(4, np.inf))
    np.testing.assert_allclose(boundary_distance(net, X, p, endless).distance, free.distance)
    np.testing.assert_allclose(
        decision_distance(net, X, None, p, endless).distance, signed.distance
    )
    smaller = boundary_distance(net, X, p, (X.min(0) - 1, X.max(0) + 0.5)).distance
    tight = boundary_distance(net, X, p, (X.min(0), X.max(0))).distance
    assert (smaller >= free.distance - 1e-12).all()
    assert (tight >= smaller - 1e-12).all()


@norms
def test_frozen_coordinates_are_a_smaller_network(p: float) -> None:
    """Freezing coordinates is the distance of the network on the others."""
    rng = np.random.default_rng(0)
    W, b, V = rng.normal(size=(7, 5)), rng.normal(size=7), rng.normal(size=(3, 7))
    x = rng.normal(size=(1, 5))
    whole = compile([(W, b), (V, None)])
    part = compile([(W[:, 2:], b + W[:, :2] @ x[0, :2]), (V, None)])
    low, high = np.full(5, -9.0), np.full(5, 9.0)
    low[:2] = high[:2] = x[0, :2]
    for of in (boundary_distance, lambda n, X, p, box: decision_distance(n, X, None, p, box)):
        np.testing.assert_allclose(
            of(whole, x, p, (low, high)).distance, of(part, x[:, 2:], p, (-9, 9)).distance
        )


@norms
def test_unreachable_is_infinite(p: float) -> None:
    net = compile([(np.eye(2), np.array([5.0, 7.0])), (np.eye(2), np.array([0.0, 100.0]))])
    X = np.array([[0.5, 0.5]])
    found = boundary_distance(net, X, p, (0, 1), k=2)
    assert np.isposinf(found.nearest).all()
    assert found.layer.tolist() == [[-1, -1]]
    signed = decision_distance(net, X, None, p, (0, 1))
    assert np.isposinf(signed.distance).all()
    assert np.isneginf(decision_distance(net, X, [0], p, (0, 1)).distance).all()
    frozen = boundary_distance(net, X, p, (X[0], X[0]))
    assert np.isposinf(frozen.distance).all()


def test_a_network_without_units_has_no_boundary() -> None:
    net, _ = compiled("affine_only")
    for box in (None, (-9, 9)):
        found = boundary_distance(net, points(net, 3), 2, box, k=2)
        assert np.isposinf(found.distance).all()
        assert found.nearest.shape == (3, 1)
        assert (found.layer == -1).all()


@norms
def test_decision_distance_by_hand(p: float) -> None:
    net = dense(5, 9, 7, 4, seed=3)
    X = points(net, 8)
    labels = np.arange(8) % 4
    found = decision_distance(net, X, labels, p)
    predicted = decision_distance(net, X, None, p)
    assert (found.label == labels).all()
    assert (predicted.label == net.predict(X)).all()
    assert (predicted.distance >= 0).all()
    negative = 0
    for i, x in enumerate(X):
        region = net.region(x)
        logits, c = region.affine(x)[0], labels[i]
        rows = region.jacobian[c] - region.jacobian
        signed = (logits[c] - logits) / np.maximum(
            np.linalg.norm(rows, dual_exponent(p), axis=1), 1e-300
        )
        signed[c] = np.inf
        assert found.distance[i] == pytest.approx(signed.min(), rel=1e-10)
        assert found.target[i] == signed.argmin() != c
        assert (found.distance[i] < 0) == (logits.argmax() != c)
        negative += int(found.distance[i] < 0)
    assert 0 < negative < 8
    boxed = decision_distance(net, X, labels, p, (-50, 50))
    np.testing.assert_allclose(boxed.distance, found.distance, rtol=1e-9)


def test_single_logit_is_a_binary_decision() -> None:
    net, model = compiled("single_logit")
    X = points(net, 10)
    with torch.no_grad():
        logit = model(torch.tensor(X)).numpy()[:, 0]
    assert (net.predict(X) == (logit > 0)).all()
    found = decision_distance(net, X, np.ones(10), 2)
    for i, x in enumerate(X):
        norm = np.linalg.norm(net.region(x).jacobian)
        wanted = logit[i] / norm if norm else np.copysign(np.inf, logit[i])
        assert found.distance[i] == pytest.approx(wanted)
    other = decision_distance(net, X, np.zeros(10), 2)
    np.testing.assert_allclose(other.distance, -found.distance)
    assert (other.target == 1).all()
    own = decision_distance(net, X)
    np.testing.assert_allclose(own.distance, np.abs(found.distance))


def test_constant_decision_rows() -> None:
    """Two equal logits that never differ: a tie at distance 0, whatever the norm."""
    W = np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]])
    X = np.array([[1.0, 1.0]])
    tied = decision_distance(compile([(W, np.zeros(3))]), X, [0])
    assert tied.distance.tolist() == [0.0]
    assert tied.target.tolist() == [1]
    ahead = compile([(W[:2], np.array([0.0, -1.0]))])
    assert decision_distance(ahead, X, [0]).distance.tolist() == [np.inf]
    assert decision_distance(ahead, X, [1]).distance.tolist() == [-np.inf]


def test_points_on_a_boundary_have_distance_0() -> None:
    net = compile([(np.eye(2), np.array([-1.0, -2.0])), (np.ones((2, 2)), None)])
    X = np.array([[1.0, 0.0], [0.25, 2.0], [1.0, 2.0]])
    for box in (None, (-5, 5), (X.min(0), X.max(0))):
        assert boundary_distance(net, X, 2, box).distance.tolist() == [0.0, 0.0, 0.0]


def test_pruned_units_are_no_boundary() -> None:
    """A unit that is identically zero is no hyperplane, although its value is 0."""
    W = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    net = compile([(W, np.array([0.0, 0.0, 3.0])), (np.ones((2, 3)), None)])
    X = np.array([[0.75, 1.0]])
    for box in (None, (-2, 2)):
        found = boundary_distance(net, X, 2, box, k=3)
        assert found.nearest.tolist() == [[0.75, np.inf, np.inf]]
    dead = compile([(W * 0, np.array([0.0, 1.0, -1.0])), (np.ones((2, 3)), None)])
    assert boundary_distance(dead, X).distance.tolist() == [np.inf]


def test_equal_candidates_of_a_maximum_are_no_boundary() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return torch.maximum(y, y.flip(1).flip(1)) - 1

    found = boundary_distance(compile(Twice(), (2,)), np.ones((1, 2)))
    assert np.isposinf(found.distance).all()


@pytest.mark.parametrize("p", [1.01, 1.1, 30.0])
@pytest.mark.parametrize("scale", [1e-120, 1e-30, 1.0, 1e30, 1e120])
def test_norms_do_not_underflow(p: float, scale: float) -> None:
    """The distance does not depend on the size of the weights, nor break down for odd norms."""
    W = np.random.default_rng(0).normal(size=(4, 3))
    X = np.array([[0.3, -0.2, 0.5]])
    nets = [compile([(s * W, s * np.ones(4)), (W[:2] @ W.T, None)]) for s in (scale, 1.0)]
    for box in (None, (-3, 3)):
        ours, wanted = (boundary_distance(net, X, p, box).distance for net in nets)
        np.testing.assert_allclose(ours, wanted, rtol=1e-9)
        ours, wanted = (decision_distance(net, X, None, p, box).distance for net in nets)
        np.testing.assert_allclose(ours, wanted, rtol=1e-9)


@norms
def test_a_deep_network_keeps_its_rows(p: float) -> None:
    """Every row counts, although the rigorous error bounds exceed the rows themselves."""
    net = dense(10, *[40] * 30, 5, seed=4)
    X = points(net, 3)
    found = boundary_distance(net, X, p, k=5)
    for i, x in enumerate(X):
        region = net.region(x)
        sizes = np.linalg.norm(region.A, dual_exponent(p), axis=1)
        wanted = np.sort((region.b - region.A @ x) / sizes)[:5]
        np.testing.assert_allclose(found.nearest[i], wanted, rtol=1e-9)
    assert found.hyperplanes == 3 * 1200


def test_chunks_do_not_matter() -> None:
    for name in ("linear", "max_pool2d", "rnn"):
        net, _ = compiled(name)
        X = points(net, 7)
        for box in (None, (-9, 9)):
            wanted, found = (boundary_distance(net, X, 3, box, 2, memory=m) for m in (2**29, 2000))
            np.testing.assert_allclose(found.nearest, wanted.nearest, rtol=1e-10)
            assert (found.unit == wanted.unit).all()
            ours = decision_distance(net, X, None, 3, box, memory=2000)
            np.testing.assert_allclose(
                ours.distance, decision_distance(net, X, None, 3, box).distance, rtol=1e-10
            )


def test_float32() -> None:
    net = dense(20, 30, 30, 4)
    X = np.random.default_rng(0).uniform(size=(6, 20))
    for box in (None, (0, 1), (np.minimum(X.min(0), 0.1), X.max(0))):
        wanted = boundary_distance(net, X, 2, box)
        found = boundary_distance(net, X, 2, box, dtype=torch.float32)
        assert found.distance.dtype == np.float32
        np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-3, atol=1e-5)
        signed = decision_distance(net, X, None, 2, box, dtype=torch.float32)
        np.testing.assert_allclose(
            signed.distance, decision_distance(net, X, None, 2, box).distance, rtol=1e-3
        )
    with pytest.raises(InputError, match="dtype"):
        boundary_distance(net, X, dtype=torch.float16)


def test_tensors_in_tensors_out() -> None:
    net, _ = compiled("linear")
    X = points(net, 3)
    for box in (None, (-5, 5)):
        for given in (torch.tensor(X), torch.tensor(X).float()):
            found = boundary_distance(net, given, 2, box)
            signed = decision_distance(net, given, None, 2, box)
            assert isinstance(found.distance, torch.Tensor)
            assert isinstance(found.nearest, torch.Tensor)
            assert isinstance(signed.distance, torch.Tensor)
            assert isinstance(found.layer, np.ndarray)
            np.testing.assert_allclose(
                found.distance, boundary_distance(net, given.double().numpy(), 2, box).distance
            )


@pytest.mark.parametrize("box", [None, (-1, 1)])
def test_an_empty_batch_gives_an_empty_result(box: tuple[int, int] | None) -> None:
    for name in ("linear", "conv2d", "affine_only"):
        net, _ = compiled(name)
        for X in (np.zeros((0, net.input_size)), torch.zeros(0, *net.input_shape)):
            found = boundary_distance(net, X, 2, box, k=2)
            width = min(2, max(net.rows, 1))
            assert tuple(found.distance.shape) == (0,)
            assert tuple(found.nearest.shape) == found.layer.shape == (0, width)
            assert (found.projections, found.hyperplanes) == (0, 0)
            signed = decision_distance(net, X, np.zeros(0, int), 2, box)
            assert tuple(signed.distance.shape) == signed.target.shape == signed.label.shape == (0,)


def test_k_is_at_most_the_number_of_rows() -> None:
    net = dense(3, 4, 2)
    found = boundary_distance(net, points(net, 2), k=100)
    assert found.nearest.shape == (2, 4)
    assert (np.diff(found.nearest) >= 0).all()
    for bad in (0, -1, 1.5, "two", True):
        with pytest.raises(InputError, match="k: got"):
            boundary_distance(net, points(net, 2), k=bad)  # type: ignore[arg-type]


def trainable(name: str) -> tuple[Network, nn.Module]:
    torch.manual_seed(1)
    if name == "dense":
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    elif name == "dead":
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        with torch.no_grad():
            model[0].weight[0] = 0
            model[0].bias[0] = -1
    else:
        model = nn.Sequential(
            nn.Conv1d(1, 2, 2), nn.PReLU(2), nn.MaxPool1d(3), nn.Flatten(), nn.Linear(2, 3)
        )
    model = model.double()
    return compile(model, (4,) if name != "conv" else (1, 4)), model


@pytest.mark.parametrize("box", [None, (-2, 2)])
@norms
@pytest.mark.parametrize("name", ["dense", "conv", "dead"])
def test_gradients_in_the_weights(name: str, p: float, box: tuple[int, int] | None) -> None:
    net, model = trainable(name)
    X = torch.tensor(np.random.default_rng(5).uniform(-1, 1, (3, *net.input_shape)))
    labels = [0, 1, 2]

    def loss() -> torch.Tensor:
        live = net.live()
        near = boundary_distance(net, X, p, box, k=2, constants=live).nearest
        signed = decision_distance(net, X, labels, p, box, constants=live).distance
        assert isinstance(near, torch.Tensor)
        assert isinstance(signed, torch.Tensor)
        kept = [t[torch.isfinite(t)] for t in (near, signed)]
        return (kept[0] ** 2).sum() + kept[1].sum()

    plain = boundary_distance(net, X, p, box, k=2).nearest
    live = boundary_distance(net, X, p, box, k=2, constants=net.live()).nearest
    torch.testing.assert_close(live.detach(), plain)
    loss().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        flat, numeric = parameter.data.view(-1), []
        for i in range(flat.numel()):
            before, ends = flat[i].item(), []
            for step in (1e-6, -1e-6):
                flat[i] = before + step
                ends.append(loss().item())
            flat[i] = before
            numeric.append((ends[0] - ends[1]) / 2e-6)
        moved = np.array(numeric)
        if name == "dead":  # a unit with a zero normal has no gradient: its distance is infinite
            moved = np.where(np.abs(moved) > 1e3, parameter.grad.flatten().numpy(), moved)
        np.testing.assert_allclose(parameter.grad.flatten().numpy(), moved, rtol=2e-5, atol=2e-6)


def test_live_distances_of_arrays_carry_gradients() -> None:
    """An array as X and live constants: the result is a tensor, with its gradients."""
    net, model = trainable("dense")
    X = np.random.default_rng(5).uniform(-1, 1, (3, 4))
    found = boundary_distance(net, X, constants=net.live())
    assert isinstance(found.distance, torch.Tensor)
    found.distance.sum().backward()
    assert model[0].weight.grad is not None


def test_live_and_unreachable_rows_stay_infinite() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.copy_(torch.tensor([-0.75, 5.0]))
    net = compile(model, (2,))
    X = torch.tensor([[0.25, 0.5]], dtype=torch.float64)
    found = boundary_distance(net, X, 2, (0, 1), k=2, constants=net.live())
    assert found.nearest.detach().tolist() == [[0.5, np.inf]]
    found.distance.sum().backward()
    assert model[0].bias.grad is not None
    assert model[0].bias.grad.tolist() == [-1.0, 0.0]


@norms
def test_live_distances_in_a_box_follow_the_weights(p: float) -> None:
    """Rows are chosen by the weights as they are, not as they were when compiled."""
    net, model = trainable("conv")
    X = torch.tensor(np.random.default_rng(5).uniform(-1, 1, (6, *net.input_shape)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    found = boundary_distance(net, X, p, (-1, 1), k=3, constants=net.live())
    again = boundary_distance(compile(model, net.input_shape), X, p, (-1, 1), k=3)
    torch.testing.assert_close(found.nearest.detach(), again.nearest)
    assert (found.unit == again.unit).all()


def test_float32_module_with_live_constants() -> None:
    """Live constants are in the module's dtype; the work is in the dtype asked for."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net = compile(model, (3,))
    X = np.random.default_rng(0).normal(size=(2, 3))
    for dtype in (torch.float64, torch.float32):
        found = boundary_distance(net, X, 2, (-5, 5), constants=net.live(), dtype=dtype)
        assert found.distance.dtype == dtype
        signed = decision_distance(net, X, constants=net.live(), dtype=dtype)
        (found.distance.sum() + signed.distance.sum()).backward()
        assert model[0].weight.grad is not None
