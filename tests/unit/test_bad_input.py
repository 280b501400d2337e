"""Every bad input gets our own exception with one clear message."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import (
    FileProblem,
    InputError,
    PolytopeError,
    SmoothActivation,
    UnsupportedOperation,
)
from polytope.inputs import as_batch, as_labels
from polytope.margins import count_complete_regions, directional_margin, stability_intervals
from polytope.model import Network, compile, load
from tests.nets import compiled, dense
from tests.zoo import SMOOTH_ZOO

Method = Callable[[Network, object], object]

#: Every public function that takes points.
METHODS: dict[str, Method] = {
    "region": lambda net, X: net.region(X),
    "logits": lambda net, X: net.logits(X),
    "predict": lambda net, X: net.predict(X),
    "boundary_distance": lambda net, X: pt.boundary_distance(net, X),
    "decision_distance": lambda net, X: pt.decision_distance(net, X),
    "certify": lambda net, X: pt.certify(net, X),
    "directional_margin": lambda net, X: directional_margin(net, X, np.eye(net.input_size)),
    "stability_intervals": lambda net, X: stability_intervals(net, X),
    "count_complete_regions": lambda net, X: count_complete_regions(net, X),
}
EXACT = [name for name in METHODS if name not in ("logits", "predict")]
#: The ones with a norm and a box.
BOXED: dict[str, Callable[..., object]] = {
    "boundary_distance": pt.boundary_distance,
    "decision_distance": lambda net, X, **more: pt.decision_distance(net, X, None, **more),
    "certify": lambda net, X, **more: pt.certify(net, X, None, **more),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
boxed_methods = pytest.mark.parametrize("method", BOXED.values(), ids=BOXED)

X = np.full((2, 3), 0.5)


def network() -> Network:
    return dense(3, 5, 4)


def refused(error: type[PolytopeError], match: str, call: Callable[[], object]) -> None:
    """One clear message: our exception, on one line, and nothing else raised or warned."""
    with pytest.raises(error, match=match) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert 20 < len(message) < 400
    assert isinstance(caught.value, PolytopeError)


@every_method
@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.array([[0.5, np.nan, 0]]), "X: NaN or infinity in row\\(s\\) 0"),
        (np.array([[np.inf, 0.5, 0]]), "X: NaN or infinity in row\\(s\\) 0"),
        (np.array([0.5, -np.inf, 0]), "X: NaN or infinity in row\\(s\\) 0"),
        (np.zeros((2, 4)), "X: got shape \\(2, 4\\), expected \\(n, 3\\)"),
        (np.zeros(4), "X: got shape \\(4,\\), expected \\(n, 3\\)"),
        (np.zeros((1, 1, 3)), "X: got shape \\(1, 1, 3\\)"),
        (np.float64(3), "X: got shape \\(\\)"),
        (np.zeros((2, 3), int), "X: got torch.int64 values, expected floats; convert and scale"),
        (torch.zeros(2, 3, dtype=torch.uint8), "X: got torch.uint8 values, expected floats"),
        ([[1, 2, 3]], "X: got torch.int64 values, expected floats"),
        (np.zeros((2, 3), bool), "X: got torch.bool values"),
        (np.zeros((2, 3), complex), "X: got torch.complex128 values"),
        (torch.zeros(2, 3, device="meta"), "X: is on the 'meta' device"),
        ("abc", "X: expected an array of numbers, got str"),
        (None, "X: expected an array of numbers, got NoneType"),
        ([[1.0], [1.0, 2.0]], "X: expected an array of numbers, got list"),
        (np.array([["a", "b", "c"]]), "X: expected an array of numbers, got ndarray"),
    ],
)  # fmt: skip
def test_bad_points(method: Method, bad: object, match: str) -> None:
    refused(InputError, match, lambda: method(network(), bad))


@every_method
def test_odd_but_good_points(method: Method) -> None:
    """Views, other byte orders, read-only arrays, lists, half and long floats are all fine."""
    net, x = network(), np.array([0.25, 0.5, 0.75])
    frozen = x.copy()
    frozen.setflags(write=False)
    for good in (
        x[::-1][::-1], frozen, x.astype(">f8"), x.tolist(), x.astype(np.float32),
        x.astype(np.float16), x.astype(np.longdouble), torch.tensor(x), torch.tensor(x).half(),
        torch.tensor(x, requires_grad=True), np.repeat(x, 2)[::2],
    ):  # fmt: skip
        method(net, good)


def test_bad_rows_are_named() -> None:
    bad = np.zeros((9, 3))
    bad[2:9, 1] = np.nan
    refused(
        InputError, "row\\(s\\) 2, 3, 4, 5, 6, ... \\(7 in all\\)", lambda: network().logits(bad)
    )


def test_empty_batches_give_empty_results() -> None:
    for net in (network(), compiled("conv2d")[0], compiled("affine_only")[0]):
        none = np.zeros((0, net.input_size))
        assert net.logits(none).shape == (0, max(2, net.output_size))
        assert net.predict(none).shape == (0,)
        for y in (None, np.zeros(0, int), np.zeros(0), []):
            for p, box in ((2, None), ("inf", (0, 1))):
                found = pt.certify(net, none, y, p, box)
                assert len(found) == len(found.to_frame()) == 0
                assert found.witness.shape == (0, net.input_size)
                assert pt.decision_distance(net, none, y, p, box).distance.shape == (0,)


@boxed_methods
@pytest.mark.parametrize(
    ("box", "match"),
    [
        ((1, 0), "box: the lower bound 1 is above the upper bound 0"),
        (([0, 0, 1], [1, 1, 0.5]), "at coordinate 2"),
        ((0.6, 1), "lie outside the box \\(row 0, coordinate 0: 0.5 is not in \\[0.6, 1\\]\\)"),
        (([0, 0, 0], [1, 1, 0.25]), "row 0, coordinate 2: 0.5 is not in \\[0, 0.25\\]"),
        ((0, np.nan), "box: a bound is NaN"),
        ((0, 1, 2), "box: got \\(0, 1, 2\\), expected None, a pair"),
        (([0, 0], [1, 1]), "bounds for 2 coordinates, but the network has 3 inputs"),
        (("low", "high"), "box: a bound is not numeric"),
    ],
)
def test_bad_boxes(method: Callable[..., object], box: object, match: str) -> None:
    refused(InputError, match, lambda: method(network(), X, box=box))


@boxed_methods
@pytest.mark.parametrize(
    "p", [0.5, 0, -1, 0.999999, np.nan, "abc", "nan", None, -np.inf, [2], True, 1 + 1j]
)
def test_bad_norms(method: Callable[..., object], p: object) -> None:
    refused(InputError, "norm p: got .*, expected a number in \\[1, inf\\]",
            lambda: method(network(), X, p=p))  # fmt: skip


def test_bad_norm_of_a_center() -> None:
    refused(InputError, "norm p: got", lambda: network().region(X[0]).chebyshev_center(p=0.5))
    refused(InputError, "box: the lower", lambda: network().region(X[0]).chebyshev_center((1, 0)))


@pytest.mark.parametrize(
    "method", [pt.decision_distance, pt.certify], ids=["decision_distance", "certify"]
)
@pytest.mark.parametrize(
    ("y", "match"),
    [
        ([0, 4], "y: label 4 is out of range; the network decides among classes 0 to 3"),
        ([-1, 0], "y: label -1 is out of range"),
        ([0], "y: got shape \\(1,\\), expected one label for 2 rows"),
        ([[0, 1]], "y: got shape \\(1, 2\\)"),
        (0, "y: got shape \\(1,\\)"),
        ([0.5, 1], "y: labels must be whole numbers"),
        ([np.nan, 1], "y: labels must be whole numbers"),
        ([np.inf, 1], "y: labels must be whole numbers"),
        ([1j, 1], "y: labels must be whole numbers"),
        (["a", "b"], "y: expected an array of numbers"),
        (torch.zeros(2, device="meta"), "y: is on the 'meta' device"),
    ],
)
def test_bad_labels(method: Callable[..., object], y: object, match: str) -> None:
    refused(InputError, match, lambda: method(network(), X, y))


def test_odd_but_good_labels() -> None:
    for kind in (np.uint8, np.int8, np.uint16, np.uint32, np.uint64, np.int64, float, bool):
        y = np.array([0, 1]).astype(kind)
        y.setflags(write=False)
        assert as_labels(y, 2, 4).tolist() == [0, 1]
        assert pt.decision_distance(network(), X, y).label.tolist() == [0, 1]
    assert as_labels(torch.tensor([3, 1]), 2, 4).tolist() == [3, 1]
    assert as_labels(2, 1, 4).tolist() == [2]


def test_a_misclassified_point_is_no_error() -> None:
    net = network()
    wrong = (net.predict(X) + 1) % 4
    found = pt.certify(net, X, wrong)
    assert found.lower.tolist() == found.upper.tolist() == [0, 0]
    assert found.status.tolist() == ["misclassified"] * 2
    assert (pt.decision_distance(net, X, wrong).distance < 0).all()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("entry", SMOOTH_ZOO, ids=[name for name, _, _ in SMOOTH_ZOO])
def test_smooth_activations_are_refused_by_name(
    entry: tuple[str, Callable[[], nn.Module], tuple[int, ...]], name: str
) -> None:
    kind, make, shape = entry
    if kind not in SMOOTH:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            SMOOTH[kind] = compile(make(), shape)
    net = SMOOTH[kind]
    x = np.zeros((1, net.input_size))
    assert np.isfinite(net.logits(x)).all()
    word = {"selu": "elu", "celu": "elu", "tanh_rnn": "tanh"}.get(kind, kind)
    refused(
        SmoothActivation, f"^{name} needs a piecewise-linear network.*'{word}'.*"
        "interval, CROWN", lambda: METHODS[name](net, x),
    )  # fmt: skip


SMOOTH: dict[str, Network] = {}


def test_constants_on_another_device() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    net = compile(model, (3,))
    elsewhere = {key: value.to("meta") for key, value in net.live().items()}
    for method in (pt.boundary_distance, pt.decision_distance):
        refused(
            InputError, "constants: are on meta, but X is on cpu",
            lambda method=method: method(net, X, constants=elsewhere),
        )  # fmt: skip


def test_bad_options() -> None:
    net = network()
    for bad in (0, -1, 2.0, "3", None):
        refused(InputError, "max_regions: got", lambda bad=bad: pt.certify(net, X, max_regions=bad))
        refused(InputError, "k: got", lambda bad=bad: pt.boundary_distance(net, X, k=bad))
    for method in (pt.boundary_distance, pt.decision_distance, pt.certify):
        refused(InputError, "memory: got 0 bytes", lambda m=method: m(net, X, memory=0))
    refused(InputError, "method must be one of", lambda: pt.boundary_distance(net, X, method="x"))
    for method in (pt.boundary_distance, pt.decision_distance):
        refused(InputError, "dtype: got torch.int64",
                lambda m=method: m(net, X, dtype=torch.int64))  # fmt: skip
    refused(InputError, "dtype: got", lambda: as_batch(net, X, torch.bfloat16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[0].weight[1, 2] = value
    refused(InputError, "NaN or infinity", lambda: compile(model, (3,)))
    W = np.ones((2, 3))
    W[0, 0] = value
    refused(InputError, "NaN or infinity", lambda: compile([(W, np.zeros(2))]))
    refused(InputError, "NaN or infinity", lambda: compile([(np.ones((2, 3)), W[:, 0])]))


@pytest.mark.parametrize(
    "layers",
    [
        [], [(np.ones((2, 3)), np.ones(3))], [(np.ones((2, 3)), None), (np.ones((2, 3)), None)],
        [np.ones((2, 3))], [("a", None)], [(np.ones(3), None)], [(np.ones((0, 3)), None)],
    ],
)  # fmt: skip
def test_bad_layers(layers: list[object]) -> None:
    with pytest.raises(InputError) as caught:
        compile(layers)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    for name in ("none.onnx", "none.npz", "none.pt"):
        refused(FileProblem, "no such file", lambda name=name: compile(tmp_path / name))
    refused(FileProblem, "none.npz", lambda: load(tmp_path / "none.npz"))
    checkpoint = tmp_path / "model.pt"
    torch.save({"a": 1}, checkpoint)
    refused(FileProblem, "expected an .onnx file", lambda: compile(checkpoint))
    plain = tmp_path / "plain.npz"
    np.savez(plain, a=np.ones(3))
    refused(FileProblem, "plain.npz", lambda: compile(plain))
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    refused(FileProblem, "folder.onnx", lambda: compile(folder))


@pytest.mark.parametrize("suffix", ["onnx", "npz"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02 no model at all" * 20, b"PK\x03\x04 cut"])
def test_damaged_files(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    refused(FileProblem, "bad", lambda: compile(path))


def test_a_cut_onnx_file(tmp_path: Path) -> None:
    whole = onnx_file(tmp_path / "whole.onnx", "Relu")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) * 2 // 3])
    assert compile(whole).units == 3
    refused(FileProblem, "cut", lambda: compile(cut))


def test_an_unsupported_operation_is_refused_by_name(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "odd.onnx", "Erf")
    refused(UnsupportedOperation, "Erf", lambda: compile(path))

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erf(x)

    refused(UnsupportedOperation, "erf", lambda: compile(Odd(), (3,)))


def onnx_file(path: Path, operation: str) -> Path:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operation, ["x"], ["y"])], "net",
        [info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [info("y", onnx.TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    file = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    file.ir_version = 10
    onnx.save(file, str(path))
    return path
