"""Reading PyTorch modules: every layer kind against the module itself, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polytope.errors import InputError, UnsupportedOperation
from polytope.network.engine import Engine
from polytope.network.from_torch import read_torch
from polytope.network.ir import Affine, Pool
from polytope.network.torch_module import CHUNK
from polytope.network.torch_ops import HANDLERS
from tests.oracle.interpreter import run_graph
from tests.zoo import SMOOTH_ZOO, ZOO, Call, Entry, Weighted

#: Both sides compute in float64; a few hundred operations, relative to the largest output.
TOLERANCE = 1e-10


def parametrise(entries: list[Entry]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=[name for name, _, _ in entries])


def some(*names: str) -> list[Entry]:
    return [entry for entry in ZOO if entry[0] in names]


def points(shape: tuple[int, ...], count: int = 4) -> np.ndarray:
    return 2 * np.random.default_rng(1).normal(size=(count, *shape))


def by_hand(model: nn.Module, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The module itself, one row at a time."""
    with torch.no_grad():
        return np.stack([model(torch.tensor(row)[None]).numpy().reshape(shape) for row in x])


def same(got: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    assert got.shape == expected.shape
    return bool(np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max()))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@parametrise(ZOO + SMOOTH_ZOO)
def test_graph_is_the_module(entry: Entry) -> None:
    _, make, shape = entry
    model = make()
    imported = read_torch(model, shape)
    graph, x = imported.graph, points(shape)
    expected = by_hand(model, x, graph.output_shape)
    assert same(np.stack([run_graph(graph, row) for row in x]), expected)
    assert same(Engine(graph).forward(torch.tensor(x)).numpy(), expected)
    assert imported.reference is not None
    assert imported.native is not None
    assert same(imported.reference(x), expected)
    bare = not model.state_dict()  # then the model is of torch's default dtype
    assert imported.native_dtype == (np.float32 if bare else np.float64)
    assert same(imported.native(x), expected, 1e-6 if bare else TOLERANCE)
    assert imported.head is None
    assert bool(graph.smooth) == (entry in SMOOTH_ZOO)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@parametrise(ZOO)
def test_live_constants_are_the_graphs(entry: Entry) -> None:
    _, make, shape = entry
    model = make()
    imported = read_torch(model, shape)
    if not list(model.parameters()):
        assert imported.live is None
        return
    assert imported.live is not None
    live = imported.live()
    for key, tensor in live.items():
        constant = imported.graph.constants[key]
        assert constant.dtype == np.float64
        assert tuple(tensor.shape) == constant.shape
        assert same(tensor.detach().numpy(), constant, 1e-15)


FOLLOWED = some(
    "linear", "weight_norm", "matmul_right", "einsum_three", "residual", "conv2d_same",
    "batch_norm1d", "prelu_image", "clamp_tensors", "divide_by_vector", "scale_parameter",
    "rnn_deep_bidirectional", "leaky_cell",
)  # fmt: skip


@parametrise(FOLLOWED)
def test_live_follows_the_callers_module(entry: Entry) -> None:
    _, make, shape = entry
    model = make()
    imported = read_torch(model, shape)
    assert imported.live is not None
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.25).add_(0.01)
    live, again = imported.live(), read_torch(model, shape).graph
    assert live.keys() <= again.constants.keys()
    for key, constant in again.constants.items():
        if key in live:
            assert same(live[key].detach().numpy(), constant, 1e-14)
            changed = not np.array_equal(imported.graph.constants[key], constant)
            assert changed or not constant.any()  # a zero first hidden state stays zero
        else:
            assert np.array_equal(imported.graph.constants[key], constant)
    sum(tensor.sum() for tensor in live.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_live_in_the_dtype_of_the_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())
    imported = read_torch(model, (3,))
    assert imported.live is not None
    live = imported.live()
    assert {tensor.dtype for tensor in live.values()} == {torch.float32}
    assert torch.equal(live["0.weight"], model[0].weight)
    assert np.array_equal(imported.graph.constants["0.weight"], model[0].weight.detach().double())


class Counted(nn.Module):
    """A module with all that must be left alone: hooks, buffers, gradients, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
        self.scale = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.drop(F.relu(self.norm(x)))) + self.scale[:2]


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_module_is_left_as_it_was(training: bool) -> None:
    model = Counted().train(training)
    model.norm.eval()
    model.out.bias.requires_grad_(False)
    model(torch.randn(5, 4)).sum().backward()
    handle = model.out.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    grads = {name: p.grad for name, p in model.named_parameters()}
    copies = {name: None if g is None else g.clone() for name, g in grads.items()}
    identity = {name: id(t) for name, t in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()

    imported = read_torch(model, (4,))
    assert imported.native is not None
    assert imported.live is not None
    imported.native(points((4,)))
    imported.live()

    assert [module.training for module in model.modules()] == modes
    assert model.out.bias.requires_grad is False
    assert model.out.weight.requires_grad is True
    assert list(model.out._forward_hooks) == [handle.id]
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    assert {name: id(t) for name, t in model.named_parameters()} == identity
    assert {t.dtype for t in model.parameters()} == {torch.float32}
    assert torch.equal(model.scale, torch.ones(4))
    assert "scale" in vars(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name]
        assert copies[name] is None or torch.equal(parameter.grad, copies[name])
    assert torch.equal(torch.get_rng_state(), random)


def test_native_is_a_snapshot() -> None:
    model = nn.Linear(3, 2)
    imported = read_torch(model, (3,))
    assert imported.native is not None
    x = points((3,))
    before = imported.native(x)
    with torch.no_grad():
        model.weight.zero_()
    assert np.array_equal(imported.native(x), before)


# Dtypes and batches ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_of_the_source(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)
    imported = read_torch(model, (4,))
    assert imported.native is not None
    assert imported.reference is not None
    x = points((4,))
    with torch.no_grad():
        expected = model(torch.tensor(x).to(dtype)).double().numpy()
    assert np.array_equal(imported.native(x), expected)
    assert imported.native_dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert same(Engine(imported.graph).forward(torch.tensor(x)).numpy(), imported.reference(x))


class OwnDtype(nn.Module):
    """Asks for float32 by name and for tensors of the default dtype, as much code does."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(3, 4, nonlinearity="relu"), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(x.shape[0], 4)
        for step in x.float().unbind(1):
            hidden = self.cell(step, hidden) * torch.tensor(0.1)
        return self.out(hidden)


def test_a_model_that_cannot_run_in_float64() -> None:
    model = OwnDtype()
    imported = read_torch(model, (4, 3))
    assert imported.reference is None
    assert imported.native is not None
    x = points((4, 3))
    exact = np.stack([run_graph(imported.graph, row) for row in x])
    assert same(imported.native(x), exact, 1e-5)
    tenths = [c for c in imported.graph.constants.values() if c.dtype.kind == "f" and c.size == 1]
    assert any(c == np.float32(0.1) for c in tenths)  # the model's own float, read exactly


def test_batches() -> None:
    apart = Call(lambda x: F.relu(x - x.mean()))
    for model, mixed in ((nn.Linear(3, 2).double(), False), (apart, True)):
        imported = read_torch(model, (3,))
        assert imported.native is not None
        x = points((3,), CHUNK + 3)
        whole = imported.native(x)
        assert same(whole[-2:], imported.native(x[-2:]))
        assert imported.native.rows == (1 if mixed else CHUNK)
        assert imported.native(x[:0]).shape == (0, *imported.graph.output_shape)


def test_a_model_for_a_batch_of_one() -> None:
    model = nn.Sequential(nn.Linear(6, 4), Call(lambda x: x.view(1, 2, 2).abs()))
    imported = read_torch(model, (6,))
    assert imported.native is not None
    assert imported.native(points((6,))).shape == (4, 2, 2)


# Exactness ---------------------------------------------------------------------------------


def test_batch_norm_scale_is_correctly_rounded() -> None:
    model = nn.Sequential(nn.Linear(3, 64), nn.BatchNorm1d(64)).eval()
    nn.init.normal_(model[1].weight)
    model[1].running_var.uniform_(0.1, 3)
    imported = read_torch(model, (3,))
    (notice,) = imported.notices
    assert "BatchNorm" in notice
    assert "rounded once" in notice
    scaled = [n for n in imported.graph.nodes if isinstance(n.op, Affine) and n.op.scale]
    scales = imported.graph.constants[str(scaled[0].op.scale)]  # type: ignore[union-attr]
    for scale, g, v in zip(scales, model[1].weight.detach(), model[1].running_var, strict=True):
        square = Fraction(float(g)) ** 2 / (Fraction(float(v)) + Fraction(model[1].eps))
        low = Fraction(float(np.nextafter(scale, 0.0)))
        high = Fraction(float(np.nextafter(scale, np.inf * np.sign(scale))))
        middle = Fraction(float(scale))
        assert ((low + middle) / 2) ** 2 <= square <= ((middle + high) / 2) ** 2


def test_division_by_whole_numbers_is_exact() -> None:
    imported = read_torch(Call(lambda x: x / 255), (3,))
    assert [type(node.op) for node in imported.graph.nodes[1:]] == [Pool]
    assert imported.notices == ()
    rounded = read_torch(Call(lambda x: x / 0.3), (3,))
    assert "reciprocal" in rounded.notices[0]


def test_weights_are_read_exactly() -> None:
    model = nn.Conv2d(2, 3, 3)
    constants = read_torch(model, (2, 4, 4)).graph.constants
    assert np.array_equal(constants["weight"], model.weight.detach().double().numpy())
    assert np.array_equal(constants["bias"], model.bias.detach().double().numpy())


def test_units_bear_the_names_of_the_model() -> None:
    model = nn.Sequential()
    model.add_module("block", nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    model.add_module("rnn", Call(
        lambda x, rnn: rnn(x[:, None])[0],
        nn.RNN(4, 2, nonlinearity="relu", batch_first=True)))  # fmt: skip
    names = [layer.name for layer in read_torch(model, (3,)).graph.layers]
    assert names[0] == "block.1"
    assert names[1].startswith("rnn.layers.0.relu")


# Heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("softmax", nn.Softmax(dim=-1)),
        ("softmax", nn.Softmax(dim=1)),
        ("log_softmax", Call(lambda x: F.log_softmax(x, -1).contiguous())),
        ("sigmoid", nn.Sigmoid()),
        ("sigmoid", Call(lambda x: torch.sigmoid(x).reshape(-1, 3, 1))),
        (None, Call(lambda x: torch.sigmoid(x) * 2)),
        (None, Call(lambda x: torch.sigmoid(x)[:, :2])),
        (None, Call(lambda x: torch.add(y := torch.sigmoid(x), y))),
    ],
)
def test_trailing_head(head: str | None, tail: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 3), tail).double()
    imported = read_torch(model, (4,))
    assert imported.head == head
    assert any("taken off" in notice for notice in imported.notices) == (head is not None)
    assert bool(imported.graph.smooth) == (head is None)
    if head is not None:
        x = points((4,))
        logits = Engine(imported.graph).forward(torch.tensor(x))
        turned = torch.sigmoid(logits) if head == "sigmoid" else getattr(F, head)(logits, -1)
        assert imported.reference is not None
        assert same(turned.numpy(), imported.reference(x))


# Refusals ----------------------------------------------------------------------------------


def _changing(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def test_nothing_is_printed_beside_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedOperation, match=r"control flow .*test_from_torch.py:\d+"):
        read_torch(Call(_changing), (4,))
    assert capfd.readouterr().err == ""


class Signed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sign()


REFUSED: list[tuple[str, nn.Module, tuple[int, ...]]] = [
    ("'gelu' in 'layer.act' (GELU)", nn.GELU(), (4,)),
    ("'silu' in 'layer.act' (SiLU)", nn.SiLU(), (4,)),
    ("'hardswish' in 'layer.act' (Hardswish)", nn.Hardswish(), (4,)),
    ("'layer_norm' in 'layer.act' (LayerNorm)", nn.LayerNorm(4), (4,)),
    ("'group_norm' in 'layer.act' (GroupNorm)", nn.GroupNorm(2, 4), (4,)),
    ("'instance_norm' in 'layer.act'", nn.InstanceNorm1d(4), (4, 3)),
    ("'lstm' in 'layer.act.layers.0' (LSTM)", Call(lambda x, m: m(x)[0], nn.LSTM(4, 2)), (3, 4)),
    ("'gru' in 'layer.act.layers.0' (GRU)", Call(lambda x, m: m(x)[0], nn.GRU(4, 2)), (3, 4)),
    ("Embedding in 'layer.act'", nn.Embedding(4, 2), (4,)),
    ("'softmax' in 'layer.act.0'", nn.Sequential(nn.Softmax(-1), nn.ReLU()), (4,)),
    ("'mul' in 'layer.act'", Call(lambda x: x * x.abs()), (4,)),
    ("'div' in 'layer.act'", Call(lambda x: x / x.sum()), (4,)),
    ("'matmul' in 'layer.act'", Call(lambda x: x @ x), (3, 3)),
    ("'gt' in 'layer.act'", Call(lambda x: torch.where(x > 0, x, 0.5)), (4,)),
    ("test_from_torch.py:", Signed(), (4,)),
    ("'threshold'", nn.Threshold(0.1, 0.5), (4,)),
    ("'celu'", nn.CELU(0.3), (4,)),
    ("rounds", Call(lambda x: torch.div(x, 2, rounding_mode="floor")), (4,)),
    ("int64", Call(lambda x: x.long().double()), (4,)),
    ("random", Call(lambda x: F.dropout(x, 0.5, training=True)), (4,)),
    ("random", Call(lambda x: x + torch.rand(4)), (4,)),
    ("running statistics", nn.BatchNorm1d(4, track_running_stats=False), (4, 3)),
    ("position of a maximum", Call(lambda x: x + x.max(1, keepdim=True)[1].double()), (4,)),
    ("'median'", Call(lambda x: x.median()), (4,)),
    ("returns a tuple", nn.RNN(4, 2), (3, 4)),
    ("LSTM in 'layer.act'", nn.LSTM(4, 2), (3, 4)),
    ("returns torch.int64", Call(lambda x: x.argmax(1)), (4,)),
    ("control flow depends", Call(_changing), (4,)),
    ("repeated index", Call(lambda x: torch.einsum("bii->b", x)), (3, 3)),
]


@pytest.mark.parametrize(("text", "layer", "shape"), REFUSED)
def test_refused_by_name_and_place(text: str, layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential()
    model.add_module("layer", nn.Sequential())
    model.layer.add_module("act", layer)
    with pytest.raises(UnsupportedOperation) as caught:
        read_torch(model, shape)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_form_of_an_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLERS, "relu", lambda reader, name: (reader, name))
    with pytest.raises(UnsupportedOperation, match=r"'relu' in '1' \(ReLU\).*this form"):
        read_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (2,))


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 2


def test_a_model_that_changes_its_own_state_is_refused() -> None:
    model = Stateful()
    with pytest.raises(UnsupportedOperation, match="calls"):
        read_torch(model, (3,))
    assert model.calls == 0


def _with(change: Callable[[nn.Linear], None]) -> nn.Module:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        change(layer)
    return layer


def _negative_variance() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    norm.running_var[1] = -1.0
    return norm


BAD: list[tuple[str, nn.Module, tuple[int, ...]]] = [
    (r"does not take an input of shape \(1, 5\)", nn.Linear(3, 2), (5,)),
    (r"does not take an input of shape \(1, 1, 8, 8\)", nn.Conv2d(3, 2, 3), (1, 8, 8)),
    ("does not take", nn.Bilinear(3, 3, 2), (3,)),
    ("weight", _with(lambda layer: layer.weight[0].fill_(float("nan"))), (3,)),
    ("bias", _with(lambda layer: layer.bias[0].fill_(float("inf"))), (3,)),
    ("complex64", _with(
            lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.to(torch.complex64)))
        ), (3,)),
    ("int64", _with(lambda layer: setattr(
        layer, "count", nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False))),
     (3,)),
    ("lazy", nn.LazyLinear(3), (3,)),
    ("zero", Weighted(lambda x, w: x / (w - w), (3,)), (3,)),
    ("variance", _negative_variance(), (3,)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "model", "shape"), BAD)
def test_bad_input(text: str, model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=text):
        read_torch(model, shape)


def test_old_weight_norm_keeps_its_history() -> None:
    with pytest.warns(FutureWarning):
        model = nn.utils.weight_norm(nn.Linear(3, 2)).double()
    imported = read_torch(model, (3,))
    x = points((3,))
    assert same(by_hand(model, x, (2,)), np.stack([run_graph(imported.graph, r) for r in x]))
