"""One small network for every kind of layer that polytope compiles.

`ZOO` holds the piecewise-linear ones and `SMOOTH_ZOO` the smooth ones, as
``(name, factory, input_shape)``; a factory returns a fresh module in float64 and evaluation
mode, always with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Entry = tuple[str, Callable[[], nn.Module], tuple[int, ...]]


class Call(nn.Module):
    """A function of the input and of the layers that it is given."""

    def __init__(self, function: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.layers)


class Weighted(nn.Module):
    """A function of the input and of parameters of the given shapes."""

    def __init__(self, function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.weights)


class Residual(nn.Module):
    """A residual convolutional network with BatchNorm and max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2)
        self.inner = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True),
            nn.Conv2d(3, 3, 3, padding=1),
        )  # fmt: skip
        self.short = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.norm(self.stem(x))))
        x = F.relu(self.inner(x) + self.short(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class LeakyCell(nn.Module):
    """A recurrent cell written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again = nn.Linear(3, 4), nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x.new_zeros(x.shape[0], 4)
        for step in range(x.shape[1]):
            hidden = F.leaky_relu(self.into(x[:, step]) + self.again(hidden), 0.1)
        return self.out(hidden)


class Maxout(nn.Module):
    """Two maxout layers of three linear pieces each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 15), nn.Linear(5, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).view(-1, 5, 3).max(dim=2).values
        return self.second(x).view(-1, 3, 3).amax(-1)


def _degenerate(change: Callable[[nn.Sequential], None]) -> Callable[[], nn.Module]:
    """A small dense network after a change to its weights."""

    def make() -> nn.Module:
        net = _dense(4)
        with torch.no_grad():
            change(net)
        return net

    return make


def _dense(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def _zero_biases(net: nn.Sequential) -> None:
    for layer in (net[0], net[2], net[4]):
        layer.bias.zero_()


def _duplicate(net: nn.Sequential) -> None:
    net[0].weight[1], net[0].bias[1] = net[0].weight[0], net[0].bias[0]
    net[0].weight[2], net[0].bias[2] = -net[0].weight[0], -net[0].bias[0]


def _dead(net: nn.Sequential) -> None:
    net[0].weight[0], net[0].bias[0] = 0.0, 0.0
    net[0].weight[1], net[0].bias[1] = 0.0, -1.0
    net[2].weight[3], net[2].bias[3] = 0.0, 0.0


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A factory whose modules always have the same, generic weights and statistics."""

    def factory() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.5, 2)
                    if module.affine:
                        nn.init.uniform_(module.weight, 0.5, 1.5)
                        nn.init.normal_(module.bias, 0, 0.3)
        return model.double().eval()

    return factory


def _lift(function: Callable[[torch.Tensor], torch.Tensor], n: int = 6) -> Callable[[], nn.Module]:
    """A function between two linear layers of width n."""
    return lambda: nn.Sequential(nn.Linear(4, n), Call(function), nn.Linear(n, 3))


def _activation(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """An activation between two linear layers."""
    return lambda: nn.Sequential(nn.Linear(4, 6), layer(), nn.Linear(6, 3))


def _spatial(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Layers of an image, with a ReLU before and a ReLU behind them."""
    return lambda: nn.Sequential(nn.ReLU(), *(layer() for layer in layers), nn.ReLU())


def _conv(layer: type[nn.Module], *args: object, **kwargs: object) -> Callable[[], nn.Module]:
    """A convolution followed by a ReLU."""
    return lambda: nn.Sequential(layer(*args, **kwargs), nn.ReLU())


def _two(join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], nn.Module]:
    """Two linear branches joined by a function, then a ReLU."""
    return lambda: Call(lambda x, a, b: F.relu(join(a(x), b(x))), nn.Linear(4, 3), nn.Linear(4, 3))


def _shifted_pair(x: torch.Tensor) -> torch.Tensor:
    """In-place operations through a view: the rest of the tensor must see them."""
    y = x * 2
    y[:, 0] = 0.5
    y[:, 1:3].relu_()
    y += 1
    return y.abs_() - x


IMAGE = (2, 5, 6)

LINEAR: list[Entry] = [
    ("linear", lambda: _dense(4), (4,)),
    ("linear_no_bias", _activation(lambda: nn.Linear(6, 6, bias=False)), (4,)),
    ("linear_sequence", lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (5, 4)),
    ("single_logit", lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), (3,)),
    ("squeezed_logit",
     lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.Flatten(0)), (3,)),
    ("weight_norm",
     lambda: nn.Sequential(
         nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2)),
     (4,)),
    ("matmul_right", lambda: Weighted(lambda x, w: F.relu(x @ w), (4, 3)), (4,)),
    ("matmul_left", lambda: Weighted(lambda x, w: F.relu(w @ x), (5, 3)), (3, 4)),
    ("matmul_vector", lambda: Weighted(lambda x, w: F.relu(x @ w), (4,)), (3, 4)),
    ("matmul_stack", lambda: Weighted(lambda x, w: F.relu(x @ w), (3, 4, 2)), (3, 5, 4)),
    ("matmul_new_batch",
     lambda: Weighted(lambda x, w: F.relu(x.unsqueeze(1) @ w), (3, 4, 2)), (5, 4)),
    ("bmm", lambda: Weighted(
        lambda x, w: F.relu(torch.bmm(x, w.expand(x.shape[0], -1, -1))), (1, 4, 2)), (3, 4)),
    ("addmm", lambda: Weighted(
        lambda x, w, b: F.relu(torch.addmm(b, x, w, beta=0.5, alpha=2)), (4, 3), (3,)), (4,)),
    ("einsum", lambda: Weighted(
        lambda x, w: F.relu(torch.einsum("bij,jk->bki", x, w)), (4, 3)), (2, 4)),
    ("einsum_batch", lambda: Weighted(
        lambda x, w: F.relu(torch.einsum("bij,ijk->bjk", x, w)), (3, 4, 2)), (3, 4)),
    ("einsum_three", lambda: Weighted(
        lambda x, w, v: F.relu(torch.einsum("bi,ij,j->bj", x, w, v)), (4, 3), (3,)), (4,)),
    ("einsum_implicit", lambda: Weighted(
        lambda x, w: F.relu(torch.einsum("...i,oi", x, w)), (3, 4)), (2, 4)),
    ("outer", lambda: Weighted(
        lambda x, w: F.relu(torch.einsum("bi,o->bio", x, w)), (3,)), (4,)),
    ("weight_on_input", lambda: Weighted(lambda x, w: F.relu(F.linear(w, x[0])), (2, 4)), (5, 4)),
]  # fmt: skip

CONVOLUTIONS: list[Entry] = [
    ("conv1d", _conv(nn.Conv1d, 2, 3, 3, stride=2, padding=1), (2, 7)),
    ("conv2d", _conv(nn.Conv2d, 2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), IMAGE),
    ("conv2d_groups", _conv(nn.Conv2d, 4, 6, 3, groups=2, dilation=(1, 2)), (4, 4, 6)),
    ("conv2d_depthwise", _conv(nn.Conv2d, 2, 2, 3, groups=2, bias=False), IMAGE),
    ("conv2d_same", _conv(nn.Conv2d, 2, 2, 3, padding="same"), IMAGE),
    ("conv2d_same_even", _conv(nn.Conv2d, 2, 2, (2, 4), padding="same"), IMAGE),
    ("conv2d_valid", _conv(nn.Conv2d, 2, 2, 2, padding="valid"), IMAGE),
    *((f"conv2d_{mode}",
       _conv(nn.Conv2d, 2, 2, 3, padding=1, padding_mode=mode), IMAGE)
      for mode in ("reflect", "replicate", "circular")),
    ("conv2d_functional",
     lambda: Weighted(lambda x, w: F.relu(F.conv2d(x, w, padding=1)), (2, 2, 3, 3)), IMAGE),
    ("conv3d", _conv(nn.Conv3d, 1, 2, 2), (1, 3, 3, 3)),
    ("conv_transpose1d",
     _conv(nn.ConvTranspose1d, 2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4)),
    ("conv_transpose2d",
     _conv(nn.ConvTranspose2d, 2, 4, 3, stride=2, padding=1, dilation=2, groups=2), (2, 3, 3)),
    ("conv_transpose3d", _conv(nn.ConvTranspose3d, 1, 2, 2), (1, 2, 2, 2)),
    ("residual", Residual, (1, 6, 6)),
]  # fmt: skip

NORMALISATION: list[Entry] = [
    ("batch_norm1d",
     lambda: nn.Sequential(
         nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)), (4,)),
    ("batch_norm1d_sequence", _spatial(lambda: nn.BatchNorm1d(3)), (3, 4)),
    ("batch_norm2d", _spatial(lambda: nn.BatchNorm2d(2)), IMAGE),
    ("batch_norm2d_plain", _spatial(lambda: nn.BatchNorm2d(2, affine=False)), IMAGE),
]  # fmt: skip

POOLING: list[Entry] = [
    ("avg_pool1d", _spatial(lambda: nn.AvgPool1d(3, stride=2, padding=1)), (2, 7)),
    ("avg_pool2d", _spatial(lambda: nn.AvgPool2d((2, 3))), IMAGE),
    ("avg_pool2d_valid",
     _spatial(lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)), IMAGE),
    ("avg_pool2d_ceil", _spatial(lambda: nn.AvgPool2d(2, 2, padding=1, ceil_mode=True)), IMAGE),
    ("avg_pool2d_divisor", _spatial(lambda: nn.AvgPool2d(2, divisor_override=3)), IMAGE),
    ("adaptive_avg_pool1d", _spatial(lambda: nn.AdaptiveAvgPool1d(3)), (2, 7)),
    ("adaptive_avg_pool2d", _spatial(lambda: nn.AdaptiveAvgPool2d((2, None))), IMAGE),
    ("global_avg_pool", _spatial(lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten), IMAGE),
    ("max_pool1d", _spatial(lambda: nn.MaxPool1d(3, stride=2, padding=1)), (2, 7)),
    ("max_pool2d", _spatial(lambda: nn.MaxPool2d(2)), IMAGE),
    ("max_pool2d_dilation", _spatial(lambda: nn.MaxPool2d(2, 1, dilation=2)), IMAGE),
    ("max_pool2d_ceil",
     _spatial(lambda: nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)), IMAGE),
    ("pool3d", _spatial(
        lambda: nn.MaxPool3d(2, 1), lambda: nn.AvgPool3d(2, 1), lambda: nn.AdaptiveMaxPool3d(1)),
     (1, 4, 4, 4)),
    ("max_pool2d_indices",
     lambda: Call(lambda x: F.max_pool2d(x, 2, return_indices=True)[0] - x.sum((2, 3), True)),
     IMAGE),
    ("adaptive_max_pool1d", _spatial(lambda: nn.AdaptiveMaxPool1d(3)), (2, 7)),
    ("adaptive_max_pool2d", _spatial(lambda: nn.AdaptiveMaxPool2d(2)), IMAGE),
]  # fmt: skip

ACTIVATIONS: list[Entry] = [
    ("leaky_relu", _activation(lambda: nn.LeakyReLU(0.2)), (4,)),
    ("prelu", _activation(nn.PReLU), (4,)),
    ("prelu_channels", _activation(lambda: nn.PReLU(6)), (4,)),
    ("prelu_image", _spatial(lambda: nn.Conv2d(2, 3, 2), lambda: nn.PReLU(3)), IMAGE),
    ("rrelu", _activation(nn.RReLU), (4,)),
    ("hardtanh", _activation(lambda: nn.Hardtanh(-0.3, 0.4)), (4,)),
    ("relu6", _activation(nn.ReLU6), (4,)),
    ("hardsigmoid", _lift(lambda x: F.hardsigmoid(4 * x)), (4,)),
    ("clamp", _lift(lambda x: x.clamp(-0.2, 0.3)), (4,)),
    ("clamp_min", _lift(lambda x: torch.clamp(x, min=-0.2)), (4,)),
    ("clamp_max", _lift(lambda x: x.clamp_max(0.1)), (4,)),
    ("clamp_tensors",
     lambda: nn.Sequential(
         nn.Linear(4, 3),
         Weighted(lambda x, low, gap: x.clamp(low - 1, low + gap.abs()), (3,), (3,))), (4,)),
    ("threshold", _activation(lambda: nn.Threshold(0.1, 0.1)), (4,)),
    ("abs", _lift(torch.abs), (4,)),
    ("maximum", _two(torch.maximum), (4,)),
    ("minimum", _two(torch.minimum), (4,)),
    ("fmin", _two(torch.fmin), (4,)),
    ("max_other", _two(torch.max), (4,)),
    ("maximum_constant",
     lambda: nn.Sequential(
         nn.Linear(4, 3), Weighted(lambda x, w: torch.maximum(w, x), (3,)), nn.Linear(3, 2)), (4,)),
    ("minimum_constant",
     lambda: Weighted(lambda x, w: torch.minimum(x, w), (2, 1, 6)), IMAGE),
    ("maxout", Maxout, (4,)),
    ("max_over_all", _two(lambda a, b: (a + b).max() + a.min(dim=1, keepdim=True).values), (4,)),
]  # fmt: skip

ARITHMETIC: list[Entry] = [
    ("residual_add", _two(lambda a, b: torch.add(a, b, alpha=3)), (4,)),
    ("residual_add_fraction", _two(lambda a, b: torch.sub(a, b, alpha=0.25)), (4,)),
    ("broadcast_add", _two(lambda a, b: a.unsqueeze(1) - b.unsqueeze(2)), (4,)),
    ("constants", _lift(lambda x: F.relu(3 - 2 * (x + 0.5) / 4) - x / 3 + (1 - x) / 0.3), (4,)),
    ("normalised_input",
     lambda: nn.Sequential(
         Call(lambda x: (x - torch.tensor([0.1307], dtype=x.dtype)) / 0.3081), *_dense(4)), (4,)),
    ("divide_by_vector",
     lambda: Weighted(lambda x, w: F.relu(x / torch.tensor([3, 2, 1]) / w), (3,)), (3,)),
    ("rsub_neg", _lift(lambda x: F.relu(-torch.rsub(x, 1.5, alpha=2))), (4,)),
    ("mean", _two(lambda a, b: a * 1 - b.mean()), (4,)),
    ("mean_dim", lambda: Call(lambda x: F.relu(x.mean((2, 3), keepdim=True) - x)), IMAGE),
    ("sum_dim", lambda: Call(lambda x: F.relu(x.sum(1) - x.sum())), IMAGE),
    ("scale_parameter", lambda: Weighted(lambda x, a, b: F.relu(x * a + b), (3,), (2, 1)), (2, 3)),
    ("in_place", _lift(_shifted_pair), (4,)),
]  # fmt: skip

MOVEMENT: list[Entry] = [
    ("flatten", lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(60, 2)), IMAGE),
    *((f"move_{name}", (lambda f: lambda: Call(lambda x: F.relu(f(x)) - 1))(function), IMAGE)
      for name, function in {
          "permute": lambda x: x.permute(0, 3, 1, 2),
          "transpose": lambda x: x.transpose(1, 2).contiguous().view(x.shape[0], -1),
          "slice": lambda x: x[:, :, 1:4:2, -3:],
          "select": lambda x: x[:, 1, ..., None],
          "narrow": lambda x: x.narrow(2, 1, 3),
          "split": lambda x: torch.cat(x.split(2, dim=2)[::-1], 2),
          "chunk": lambda x: x.chunk(2, dim=1)[0] - x.chunk(2, dim=1)[1],
          "unbind": lambda x: torch.stack(x.unbind(2)[1:], -1),
          "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
          "repeat": lambda x: x.repeat(1, 2, 1, 1),
          "flip": lambda x: x.flip(2, 3),
          "roll": lambda x: x.roll((1, 2), (2, 3)),
          "pad": lambda x: F.pad(x, (1, 0, 2, 1)),
          "pad_value": lambda x: F.pad(x, (1, 0, 2, 1), value=1.5),
          "pad_negative": lambda x: F.pad(x, (-1, 0, 0, -2)),
          "pad_reflect": lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"),
          "pad_replicate": lambda x: F.pad(x, (2, 1, 1, 0), mode="replicate"),
          "pad_circular": lambda x: F.pad(x, (2, 1, 1, 0), mode="circular"),
          "unfold": lambda x: x.unfold(3, 3, 2),
          "im2col": lambda x: F.unfold(x, 2),
          "pixel_unshuffle": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x[:, :, 1:], 2), 2),
          "cat": lambda x: torch.cat([x, x.abs()], 1),
          "cat_constant": lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1),
          "index": lambda x: x[:, [1, 0, 1]][..., torch.tensor([0, 2])],
          "index_select": lambda x: x.index_select(3, torch.tensor([4, 1])),
          "where": lambda x: torch.where(torch.arange(6) > 2, x, 0.25),
          "masked_fill": lambda x: x.masked_fill(torch.arange(6) == 1, -2.0),
          "tril": torch.tril,
          "upsample": lambda x: F.interpolate(x, scale_factor=2),
          "squeeze": lambda x: x[:, :, 2:3].squeeze(2).unsqueeze(-1),
          "unflatten": lambda x: x.flatten(1).unflatten(1, (4, 15)),
          "dropout": lambda x: F.dropout(x, training=False).detach(),
          "to": lambda x: x.to(torch.float64).clone(),
      }.items()),
]  # fmt: skip

RECURRENT: list[Entry] = [
    ("rnn", lambda: Call(
        lambda x, rnn, out: out(rnn(x)[0][:, -1]),
        nn.RNN(3, 4, nonlinearity="relu", batch_first=True), nn.Linear(4, 2)), (4, 3)),
    ("rnn_deep_bidirectional", lambda: Call(
        lambda x, rnn, out: out(rnn(x)[0].flatten(1)),
        nn.RNN(2, 3, 2, nonlinearity="relu", batch_first=True, bidirectional=True),
        nn.Linear(18, 2)), (3, 2)),
    ("leaky_cell", LeakyCell, (4, 3)),
    ("rnn_cell", lambda: Call(
        lambda x, cell: cell(x[:, 1], cell(x[:, 0])), nn.RNNCell(3, 4, nonlinearity="relu")),
     (2, 3)),
]  # fmt: skip

DEGENERATE: list[Entry] = [
    ("zero_biases", _degenerate(_zero_biases), (4,)),
    ("duplicated_neurons", _degenerate(_duplicate), (4,)),
    ("dead_units", _degenerate(_dead), (4,)),
    ("affine_only", lambda: nn.Linear(4, 3), (4,)),
    ("identity", nn.Identity, (4,)),
    ("one_input", lambda: nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2)), (1,)),
]  # fmt: skip

ZOO: list[Entry] = [
    (name, _seeded(factory), shape)
    for name, factory, shape in (
        *LINEAR, *CONVOLUTIONS, *NORMALISATION, *POOLING, *ACTIVATIONS, *ARITHMETIC, *MOVEMENT,
        *RECURRENT, *DEGENERATE,
    )
]  # fmt: skip

SMOOTH_ZOO: list[Entry] = [
    (name, _seeded(factory), (4,))
    for name, factory in {
        "sigmoid": _activation(nn.Sigmoid),
        "tanh": _activation(nn.Tanh),
        "atan": _lift(torch.atan),
        "softplus": _activation(lambda: nn.Softplus(2.0, 3.0)),
        "elu": _activation(lambda: nn.ELU(0.7)),
        "selu": _activation(nn.SELU),
        "celu": _activation(lambda: nn.CELU(0.5)),
        "tanh_rnn": lambda: Call(
            lambda x, rnn: rnn(x.view(-1, 2, 2))[0][:, -1], nn.RNN(2, 3, batch_first=True)
        ),
    }.items()
]
