"""What `certify` promises beside its interval: batches, interruption, memory, the source."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.datasets import digits, digits_network
from polytope.errors import InputError, SmoothActivation
from polytope.robustness.batch import BatchSearch
from tests.data import data_path


def test_theorem_on_the_shipped_digits() -> None:
    """max_regions=1 is Theorem 3.1: lower is min(d_B, d_D), exact where d_D <= d_B."""
    X, y = digits()
    net = digits_network()
    for p in (1, 2, math.inf):
        result = pt.certify(net, X, p=p, box=(0, 1))
        boundary = pt.boundary_distance(net, X, p=p, box=(0, 1)).distance
        decision = pt.decision_distance(net, X, p=p, box=(0, 1)).distance
        np.testing.assert_allclose(result.lower, np.minimum(boundary, decision), rtol=1e-9)
        assert (result.exact == (decision <= boundary)).all()
        assert (result.exactness == "safe-float").all()
        assert (result.lower <= result.upper).all()
    wrong = pt.certify(net, X, y).status == "misclassified"
    assert wrong.sum() == (net.predict(X) != y).sum() > 0


def test_published_optima_of_the_digits_network() -> None:
    """Each interval holds the exact l_inf optimum that peers.md reports for ten digits."""
    data = np.load(data_path("digits", "digits_64_32_32_10.npz"))
    net = pt.compile(data_path("digits", "digits_64_32_32_10.onnx"))
    result = pt.certify(net, data["points"], data["labels"], p="inf", box=(0, 1), max_regions=20)
    assert (result.lower <= data["linf_optimum"] * (1 + 1e-9)).all()
    assert (result.upper >= data["linf_optimum"] * (1 - 1e-9)).all()
    assert (result.upper <= 2 * data["linf_optimum"]).any()


def test_native_witness_is_replayed_in_the_source_dtype() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.LeakyReLU(0.1), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(27, 3),
    )  # fmt: skip
    net = pt.compile(model, (1, 8, 8))
    X = torch.rand(6, 1, 8, 8)
    result = pt.certify(net, X, p="inf", box=(0, 1), max_regions=3)
    found = np.isfinite(result.native_upper)
    assert found.sum() >= 3
    replay = torch.as_tensor(result.native_witness[found]).float()
    assert (replay.double().numpy() == result.native_witness[found]).all()
    assert replay.min() >= 0
    assert replay.max() <= 1
    decided = model(replay.reshape(-1, 1, 8, 8)).argmax(1).numpy()
    assert (decided != result.label[found]).all()
    assert (result.native_upper >= result.lower).all()


def test_a_batch_is_its_points_one_by_one() -> None:
    X, _ = digits()
    net = digits_network()
    together = pt.certify(net, X[:12], p=2, box=(0, 1), max_regions=4)
    small = pt.certify(net, X[:12], p=2, box=(0, 1), max_regions=4, memory=2**18)
    for row in range(12):
        alone = pt.certify(net, X[row], p=2, box=(0, 1), max_regions=4)
        for other in (together.lower[row], small.lower[row]):
            assert alone.lower[0] == pytest.approx(other, rel=1e-12)


def test_interruption_returns_the_interval_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = digits()
    rounds = []
    plain = BatchSearch._round

    def interrupted(self: BatchSearch, limit: int) -> bool:
        rounds.append(limit)
        if len(rounds) == 8:
            raise KeyboardInterrupt
        return plain(self, limit)

    monkeypatch.setattr(BatchSearch, "_round", interrupted)
    result = pt.certify(digits_network(), X, p=2, box=(0, 1), max_regions=50)
    stopped = result.status == "stopped"
    assert stopped.any()
    assert (result.lower <= result.upper).all()
    assert (result.lower > 0)[result.status != "misclassified"].all()


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pt.certify(digits_network(), digits()[0][:2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_nothing_adversarial_in_the_box() -> None:
    net = pt.compile(
        [(np.array([[1.0]]), np.zeros(1)), (np.array([[1.0], [0.0]]), np.array([1.0, 0.0]))]
    )
    result = pt.certify(net, np.array([[0.5]]), p=2, box=(0, 1), max_regions=4)
    assert result.status[0] == "unreachable"
    assert result.lower[0] == result.upper[0] == math.inf
    assert result.exact[0]


def test_a_row_that_only_rounds_to_zero_is_not_called_proved() -> None:
    """1e200 * 1e200 * 1e-200 * 1e-200 overflows or underflows on the way, unlike its value."""
    weights = [(np.array([[v]]), np.zeros(1)) for v in (1e-200, 1e-200, 1e200)]
    layers = [
        *weights,
        (np.array([[1e200]]), -np.ones(1)),
        (np.array([[1.0], [0.0]]), np.array([0.0, 0.1])),
    ]
    result = pt.certify(pt.compile(layers), np.array([[0.5]]), p=2)
    true = 0.6
    assert result.lower[0] <= true or result.exactness[0] == "float"


def test_empty_batch() -> None:
    result = pt.certify(digits_network(), np.zeros((0, 64)), np.zeros(0, int))
    assert len(result) == 0
    assert len(result.to_frame()) == 0


@pytest.mark.parametrize("change", [
    {"p": 0.5}, {"p": math.nan}, {"box": (1, 0)}, {"box": (0.9, 1)}, {"max_regions": 0},
    {"max_regions": 1.5}, {"y": [10]}, {"y": [-1]}, {"y": [0, 1]}, {"y": [0.5]}, {"memory": 0},
])  # fmt: skip
def test_bad_arguments(change: dict) -> None:
    with pytest.raises(InputError) as caught:
        pt.certify(digits_network(), digits()[0][:1], **change)
    assert "\n" not in str(caught.value)


def test_smooth_networks_are_refused_by_name() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    net = pt.compile(model, (2,))
    with pytest.raises(SmoothActivation, match="tanh"):
        pt.certify(net, np.zeros((1, 2)))


def test_large_constants_hide_no_witness() -> None:
    """Logits of 1e8: floats prove no push of a billionth, exact arithmetic does."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=30)
    net = pt.compile([(np.stack([w, -w]), np.array([1e8, 1e8]))])
    X = rng.normal(size=(20, 30))
    for p in (1, 2, "inf"):
        found = pt.certify(net, X, None, p)
        assert (found.upper <= found.lower * (1 + 1e-6)).all()
