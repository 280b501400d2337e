"""The gradients of all units: three methods, autograd, weights, memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from polytope.errors import InputError
from polytope.hyperplanes import hyperplanes
from polytope.jacobians import Method, chunk_rows, is_dense_chain, layer_gradients
from polytope.model import Network, compile
from tests.nets import compiled, dense, every_kind, few_kinds, points, source_outputs
from tests.zoo import Call

#: torch rounds hardsigmoid's slope to float32, refuses a write into what relu_ saved, and stops
#: at detach: these are held against differences, which are exact up to rounding in a region.
NO_AUTOGRAD = ("hardsigmoid", "in_place", "move_dropout")
METHODS: list[Method] = ["perturbation", "dynamic", "backprop"]


def gradients(net: Network, x: torch.Tensor, method: Method, **more: object) -> list[torch.Tensor]:
    """All layers' gradients, expanded over the batch."""
    states = layer_gradients(net, x, method, **more)  # type: ignore[arg-type]
    found = [s.gradients for s in states]
    return [g.expand(len(x), *g.shape[1:]) for g in found if g is not None]


def shaped(net: Network, count: int = 3) -> torch.Tensor:
    return torch.tensor(points(net, count).reshape(-1, *net.input_shape))


@every_kind
def test_methods_agree(name: str) -> None:
    net, _ = compiled(name)
    x = shaped(net)
    expected = gradients(net, x, "backprop")
    assert len(expected) == len(net.layers) + 1
    methods: list[Method] = ["perturbation", "auto"]
    if is_dense_chain(net):
        methods.append("dynamic")
    else:
        with pytest.raises(InputError, match="perturbation"):
            gradients(net, x, "dynamic")
    for method in methods:
        for got, wanted in zip(gradients(net, x, method), expected, strict=True):
            assert got.shape == wanted.shape
            scale = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10 * scale)


@every_kind
def test_output_gradients_are_autograd_of_the_source(name: str) -> None:
    net, model = compiled(name)
    x = shaped(net)
    got = gradients(net, x, "perturbation")[-1]
    for row, mine in zip(x, got, strict=True):
        if name in NO_AUTOGRAD:
            step = 1e-6 * torch.eye(net.input_size, dtype=x.dtype).reshape(-1, *net.input_shape)
            ends = [source_outputs(model, net, (row + s * step).numpy()) for s in (1, -1)]
            wanted, tolerance = torch.tensor((ends[0] - ends[1]) / 2e-6), 1e-8
        else:
            theirs = torch.autograd.functional.jacobian(lambda z: model(z).flatten(), row[None])
            wanted, tolerance = theirs.flatten(1).T, 1e-10
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(mine, wanted, rtol=0, atol=tolerance * scale)


def test_hidden_gradients_are_autograd_of_the_layers() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 5).double(), nn.Linear(5, 4).double()
    model = nn.Sequential(first, nn.ReLU(), second, nn.LeakyReLU(0.2), nn.Linear(4, 2).double())
    net = compile(model, (3,))
    x = torch.randn(1, 3, dtype=torch.float64)
    for method in METHODS:
        got = gradients(net, x, method)
        for mine, stage in zip(got, (model[:1], model[:3], model), strict=True):
            theirs = torch.autograd.functional.jacobian(lambda z, s=stage: s(z).flatten(), x)
            torch.testing.assert_close(mine[0], theirs.flatten(1).T, rtol=0, atol=1e-12)


def probe(net: Network, x: torch.Tensor, method: Method) -> torch.Tensor:
    """A fixed random functional of all values and gradients, with live weights."""
    generator = torch.Generator().manual_seed(0)
    total = x.new_zeros(())
    for state in layer_gradients(net, x, method, net.live()):
        assert state.gradients is not None
        for tensor in (state.values, state.gradients):
            weight = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            total = total + (weight * tensor).sum()
    return total


def trainable() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(3)
    conv = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    nn.init.uniform_(conv[1].running_mean, -0.5, 0.5)
    nn.init.uniform_(conv[1].running_var, 0.5, 2)
    nn.init.uniform_(conv[1].weight, 0.5, 1.5)
    shared = nn.Linear(3, 3)
    return {
        "dense": (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)),
        "conv_bn_pool": (conv, (1, 4, 4)),
        "prelu": (nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)), (3,)),
        "shared": (Call(lambda x, a: a(torch.relu(a(x))).abs(), shared), (3,)),
        "rnn": (
            Call(lambda x, r: r(x)[0][:, -1], nn.RNN(2, 3, nonlinearity="relu", batch_first=True)),
            (3, 2),
        ),
    }


@pytest.mark.filterwarnings("ignore::polytope.errors.Notice")
@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name in ("dense", "conv_bn_pool", "prelu", "shared", "rnn")
        for method in METHODS
        if method != "dynamic" or name in ("dense", "prelu")
    ],
)
def test_differentiable_in_the_weights(name: str, method: Method) -> None:
    model, shape = trainable()[name]
    model.double().eval()
    net = compile(model, shape)
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, *shape)))
    probe(net, x, method).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        analytic, numeric = parameter.grad.flatten(), []
        flat = parameter.data.view(-1)
        for i in range(flat.numel()):
            ends = []
            for step in (1e-6, -1e-6):
                before = flat[i].item()
                flat[i] = before + step
                ends.append(probe(net, x, method).item())
                flat[i] = before
            numeric.append((ends[0] - ends[1]) / 2e-6)
        np.testing.assert_allclose(analytic.numpy(), numeric, rtol=1e-6, atol=1e-6)


def test_live_weights_follow_the_module_and_the_graph_does_not() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    net = compile(model, (2,))
    x = torch.ones(1, 2, dtype=torch.float64)
    before = net.forward(x)
    with torch.no_grad():
        model[2].bias += 1
    torch.testing.assert_close(net.forward(x), before)
    torch.testing.assert_close(net.forward(x, net.live()), model(x))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name in ("linear", "duplicated_neurons", "hardtanh", "max_pool2d", "rnn")
        for method in ("auto", *METHODS)
        if method != "dynamic" or name not in ("max_pool2d", "rnn")
    ],
)
def test_column_blocks_give_the_same(name: str, method: Method) -> None:
    """A memory budget below one point takes the input coordinates in blocks."""
    net, _ = compiled(name)
    x = shaped(net, 2)
    little = 20 * net.input_size
    assert chunk_rows(net, net.input_size, 8, little) == 0
    for q in (1.0, 3.0, float("inf")):
        wanted, got = (
            hyperplanes(net, x, q, method=method, memory=memory) for memory in (2**29, little)
        )
        for field in ("residual", "norm", "decision", "decision_norm"):
            torch.testing.assert_close(
                getattr(got, field), getattr(wanted, field), rtol=1e-12, atol=1e-14
            )


@few_kinds
def test_columns_are_columns(name: str) -> None:
    net, _ = compiled(name)
    x = shaped(net)
    part = slice(0, max(1, net.input_size // 2))
    methods: list[Method] = ["perturbation", "backprop"]
    for method in [*methods, *(["dynamic"] if is_dense_chain(net) else [])]:
        whole = gradients(net, x, method)  # type: ignore[arg-type]
        some = gradients(net, x, method, columns=part)  # type: ignore[arg-type]
        for all_columns, columns in zip(whole, some, strict=True):
            torch.testing.assert_close(columns, all_columns[:, part], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "conv2d", "maxout"])
def test_float32(name: str) -> None:
    net, _ = compiled(name)
    x = shaped(net)
    for got, wanted in zip(
        gradients(net, x.float(), "auto"), gradients(net, x, "auto"), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


def test_unknown_method() -> None:
    net = dense(2, 3, 2)
    with pytest.raises(InputError, match="method must be one of"):
        next(layer_gradients(net, torch.zeros(1, 2, dtype=torch.float64), "magic"))  # type: ignore[arg-type]


def test_memory_is_bounded_whatever_the_batch() -> None:
    """512 points of a 784-4x300-10 network, whose gradients would take 6 GiB at once."""
    script = """
        import resource
        import numpy as np
        import torch
        from tests.nets import dense
        from polytope.distances import boundary_distance
        torch.set_num_threads(1)
        net = dense(784, 300, 300, 300, 300, 10)
        x = np.random.default_rng(0).uniform(size=(512, 784))
        boundary_distance(net, x[:2], 2, box=(0, 1))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        boundary_distance(net, x, 2)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print((after - before) / 2**20)
    """
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0
