"""`compile` and `Network`: dispatch, the check against the source, hashes, files, notices."""

from __future__ import annotations

import copy
import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import polytope as pt
from polytope import model as model_module
from polytope.errors import EquivalenceError, FileProblem, InputError, Notice
from polytope.model import Network, compile, load
from polytope.network.source import Imported
from tests.nets import compiled, few_kinds, points


def small(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)


def layers_of(model: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in model
        if isinstance(layer, nn.Linear)
    ]


def as_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    buffer = io.BytesIO()
    dtype = next(model.parameters()).dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, *shape, dtype=dtype),), buffer, dynamo=False,
            input_names=["x"], dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    path.write_bytes(buffer.getvalue())
    return path


def onnx_relu_net(model: nn.Sequential, path: Path) -> Path:
    """The network written by hand as an ONNX file of Gemm and Relu."""
    nodes, weights, last = [], [], "x"
    pairs = layers_of(model)
    for i, (W, b) in enumerate(pairs):
        weights += [onnx.numpy_helper.from_array(a, f"{n}{i}") for a, n in ((W, "W"), (b, "b"))]
        nodes.append(onnx.helper.make_node("Gemm", [last, f"W{i}", f"b{i}"], [f"g{i}"], transB=1))
        last = f"g{i}"
        if i + 1 < len(pairs):
            nodes.append(onnx.helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    kind = onnx.helper.np_dtype_to_tensor_dtype(pairs[0][0].dtype)
    graph = onnx.helper.make_graph(
        nodes, "net",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", pairs[0][0].shape[1]])],
        [onnx.helper.make_tensor_value_info(last, kind, ["n", pairs[-1][0].shape[0]])],
        weights,
    )  # fmt: skip
    file = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    file.ir_version = 10
    onnx.save(file, str(path))
    return path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_hash_whatever_the_source(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small(dtype)
    from_torch = compile(model, (3,))
    from_layers = compile(layers_of(model))
    from_onnx = compile(onnx_relu_net(model, tmp_path / "net.onnx"))
    assert from_torch.hash == from_layers.hash == from_onnx.hash
    assert compile(model, 3).hash == from_torch.hash
    assert from_torch.native_dtype == from_onnx.native_dtype == np.dtype(str(dtype)[6:])
    assert from_layers.native_dtype == np.float64
    z = points(from_torch)
    for net in (from_layers, from_onnx):
        np.testing.assert_array_equal(net.logits(z), from_torch.logits(z))


def test_another_meaning_is_another_hash() -> None:
    base = compile(small(), (3,)).hash
    moved = small()
    with torch.no_grad():
        moved[2].bias[1] += 1e-12
    assert compile(moved, (3,)).hash != base
    leaky = small()
    leaky[1] = nn.LeakyReLU(0.01)
    assert compile(leaky, (3,)).hash != base


def test_the_name_of_an_activation_is_no_meaning() -> None:
    """Threshold(0, 0) is a ReLU: one meaning, one hash; the kind is kept for people."""
    nets = []
    for activation in (nn.ReLU(), nn.Threshold(0.0, 0.0)):
        model = small()
        model[1] = activation
        nets.append(compile(model, (3,)))
    assert nets[0].layers[0].kind != nets[1].layers[0].kind
    assert nets[0].hash == nets[1].hash


@few_kinds
def test_save_and_load(name: str, tmp_path: Path) -> None:
    net, _ = compiled(name)
    path = tmp_path / "net.npz"
    net.save(path)
    z = points(net)
    for again in (load(path), compile(path), compile(str(path), net.input_shape)):
        assert again.hash == net.hash
        assert again.layout == net.layout
        assert [layer.name for layer in again.layers] == [layer.name for layer in net.layers]
        np.testing.assert_array_equal(again.logits(z), net.logits(z))
        np.testing.assert_array_equal(again.region(z[0]).A, net.region(z[0]).A)
        with pytest.raises(InputError, match="live: the network was not compiled from"):
            again.live()


def test_save_to_nowhere(tmp_path: Path) -> None:
    net, _ = compiled("linear")
    with pytest.raises(FileProblem, match="cannot be saved"):
        net.save(tmp_path / "missing" / "net.npz")


@few_kinds
def test_predictions_are_the_sources(name: str) -> None:
    net, model = compiled(name)
    z = points(net, 6)
    with torch.no_grad():
        rows = [model(torch.tensor(row).reshape(1, *net.input_shape)).flatten() for row in z]
    outputs = torch.stack(rows).numpy()
    logits = np.column_stack([np.zeros(6), outputs]) if outputs.shape[1] == 1 else outputs
    np.testing.assert_allclose(net.logits(z), logits, atol=1e-12)
    np.testing.assert_allclose(net.native_logits(z), logits, atol=1e-12)
    assert (net.predict(z) == logits.argmax(1)).all()


@pytest.mark.parametrize(
    ("head", "word"), [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(1), "log_softmax")]
)
def test_a_trailing_softmax_is_taken_off(head: nn.Module, word: str) -> None:
    plain = small()
    with pytest.warns(Notice, match=word):
        net = compile(nn.Sequential(*plain, head), (3,))
    assert any(word in notice for notice in net.notices)
    assert net.hash == compile(plain, (3,)).hash
    z = points(net)
    wanted = head(plain(torch.tensor(z))).detach().numpy()
    np.testing.assert_allclose(net.native_logits(z), wanted)
    assert (net.predict(z) == wanted.argmax(1)).all()


def test_a_trailing_sigmoid_is_a_binary_decision() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid()).double()
    with pytest.warns(Notice, match="sigmoid"):
        net = compile(model, (3,))
    z = 5 * points(net, 100)
    with torch.no_grad():
        positive = model(torch.tensor(z)).numpy()[:, 0] > 0.5
    assert (net.predict(z) == positive).all()
    assert (net.native_logits(z).argmax(1) == positive).all()
    assert 0 < positive.sum() < 100


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore::polytope.errors.Notice")
def test_the_callers_module_is_left_as_it_was(training: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(4, 2),
    ).to(dtype)  # fmt: skip
    model.train(training)
    model[2].eval()
    model[0].weight.requires_grad_(False)
    x = torch.randn(2, 1, 4, dtype=dtype)
    model[5](torch.randn(1, 4, dtype=dtype)).sum().backward()
    modes = [module.training for module in model.modules()]
    state, grad = copy.deepcopy(model.state_dict()), model[5].weight.grad.clone()
    identities = [id(p) for p in model.parameters()]
    generator = torch.random.get_rng_state()
    net = compile(model, (1, 4))
    net.region(np.zeros(4))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == modes
    assert [id(p) for p in model.parameters()] == identities
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    for key, value in model.state_dict().items():
        assert value.dtype == state[key].dtype
        assert torch.equal(value, state[key])
    assert torch.equal(model[5].weight.grad, grad)
    assert model[0].weight.grad is None
    assert model.training is training
    # It means the module in evaluation mode, whatever mode that was in.
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval().double()(x.double()).numpy()
    np.testing.assert_allclose(net.logits(x.double()), wanted, atol=1e-6)


@pytest.mark.parametrize("which", ["reference", "native"])
@pytest.mark.parametrize("error", [1e-6, np.nan])
def test_the_check_can_fail(which: str, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gets the network wrong by 1e-6 is caught, in both ways of checking."""
    right = model_module.read_torch

    def wrong(model: nn.Module, shape: tuple[int, ...]) -> Imported:
        good = right(model, shape)
        evaluate = good.reference
        assert evaluate is not None

        def off(x: np.ndarray) -> np.ndarray:
            return evaluate(x) * (1 + 10 * error)

        if which == "reference":
            return dataclasses.replace(good, reference=off)
        return dataclasses.replace(good, reference=None, native=off)

    monkeypatch.setattr(model_module, "read_torch", wrong)
    with pytest.raises(EquivalenceError, match="differs from the source model"):
        compile(small(), (3,))


def test_the_check_sees_a_wrong_number_of_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = model_module.read_torch

    def wrong(model: nn.Module, shape: tuple[int, ...]) -> Imported:
        return dataclasses.replace(right(model, shape), reference=lambda x: np.zeros((len(x), 5)))

    monkeypatch.setattr(model_module, "read_torch", wrong)
    with pytest.raises(EquivalenceError, match="2 outputs, the source 5"):
        compile(small(), (3,))


def test_a_module_that_changes_from_call_to_call_is_refused() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.layer = nn.Linear(3, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.layer(x) * self.calls

    with pytest.raises(pt.PolytopeError):
        compile(Noisy(), (3,))


def test_data_decides_the_branch_only_at_some_inputs() -> None:
    """Control flow on values cannot be traced: an error, not a wrong graph."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if float(x.detach().sum()) > 0 else -self.layer(x)

    with pytest.raises(pt.PolytopeError):
        compile(Branch(), (3,))


def test_torch_export_of_onnx_agrees_with_the_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    net = compile(model, (1, 4, 4))
    file = compile(as_onnx(model, (1, 4, 4), tmp_path / "net.onnx"))
    z = points(net)
    np.testing.assert_allclose(file.logits(z), net.logits(z), atol=1e-12)
    assert file.layout == net.layout


def test_dispatch_refuses_what_is_no_model() -> None:
    for bad in (3, None, {"W": 1}, np.eye(2), torch.eye(2), lambda x: x):
        with pytest.raises(InputError, match=r"expected a torch\.nn\.Module"):
            compile(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs input_shape"):
        compile(small())
    with pytest.raises(InputError, match="takes inputs of shape"):
        compile(layers_of(small()), (4,))


@pytest.mark.parametrize("shape", [(0,), (-3,), (), 3.5, "3", (3.0,), [None], 0])
def test_bad_input_shapes(shape: object) -> None:
    with pytest.raises(InputError, match="input_shape: got"):
        compile(small(), shape)  # type: ignore[arg-type]


def test_repr_and_public_names() -> None:
    net = pt.compile(small(), (3,))
    assert isinstance(net, Network)
    text = repr(net)
    for part in ("input_shape=(3,)", "outputs=2", "units=4", net.hash[:12]):
        assert part in text
    for name in pt.__all__:
        assert getattr(pt, name) is not None


def test_round_to_native() -> None:
    net = compile(small(torch.float32), (3,))
    x = np.array([[0.1, 0.2, 0.3]])
    assert (net.round_to_native(x) == x.astype(np.float32)).all()
    assert net.round_to_native(x).dtype == np.float64
