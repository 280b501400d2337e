"""Small modules of every kind of layer, for the losses of `polytope.training`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tests.slow_losses import Abs


class Residual(nn.Module):
    """A residual block between a convolution and a head, with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.inner = nn.Sequential(
            nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        )
        self.act = nn.LeakyReLU(0.2)
        self.head = nn.Linear(2 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.head(self.act(y + self.inner(y)).flatten(1))


class Cell(nn.Module):
    """A recurrent cell of three steps that reads one weight matrix again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.over, self.out = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.acts = nn.ModuleList(nn.LeakyReLU(0.1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 3)
        for step, act in enumerate(self.acts):
            h = act(self.into(x[:, step]) + self.over(h))
        return self.out(h)


class Skip(nn.Module):
    """Wide inputs that the second layer reads too, beside the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(12, 4), nn.Linear(16, 4), nn.Linear(4, 3)
        self.acts = nn.ModuleList([nn.ReLU(), nn.ReLU()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.cat([self.acts[0](self.first(x)), x], 1)
        return self.out(self.acts[1](self.second(h)))


class Normalised(nn.Module):
    """Inputs are normalised in the module, before a fully connected chain."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1]))
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(),
                                    nn.Linear(4, 3))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(((x - self.mean) / 0.3).flatten(1))


def dense(act: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(4, 6), act(), nn.Linear(6, 5), act(), nn.Linear(5, 4), act(), nn.Linear(4, 3)
    )


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (dense(nn.ReLU), (4,)),
    "leaky": (dense(lambda: nn.LeakyReLU(0.3)), (4,)),
    "prelu": (dense(lambda: nn.PReLU(1, 0.2)), (4,)),
    "abs": (dense(Abs), (4,)),
    "hardtanh": (dense(lambda: nn.Hardtanh(-0.4, 0.3)), (4,)),
    "one_layer": (lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)), (4,)),
    "relu_first": (
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (4,)),
    "few_inputs": (
        lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
                              nn.Linear(8, 1)), (2,)),
    "batch_norm1d": (
        lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(),
                              nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(),
                              nn.Linear(5, 3)), (4,)),
    "weight_norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(),
                              nn.Linear(5, 3)), (4,)),
    "normalised": (Normalised, (2, 3)),
    "wide": (
        lambda: nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4), nn.LeakyReLU(0.2),
                              nn.Linear(4, 3)), (12,)),
    "skip": (Skip, (12,)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 4, stride=2, padding=1), nn.ReLU(),
                              nn.Conv2d(2, 2, 2, groups=2), nn.ReLU(), nn.Flatten(),
                              nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), (1, 6, 6)),
    "conv_transpose": (
        lambda: nn.Sequential(nn.ConvTranspose1d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(),
                              nn.Linear(14, 3)), (1, 3)),
    "pools": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                              nn.Conv2d(2, 3, 2), nn.LeakyReLU(0.1), nn.AvgPool2d(2, 1, 1),
                              nn.Flatten(), nn.Linear(12, 3)), (1, 4, 4)),
    "residual": (Residual, (1, 4, 4)),
    "recurrent": (Cell, (3, 2)),
}  # fmt: skip


class SmoothBlock(nn.Module):
    """A residual block of smooth units with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.inner = nn.Sequential(nn.BatchNorm2d(2), nn.Softplus(), nn.Conv2d(2, 2, 1))
        self.head = nn.Linear(2 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.head(torch.sigmoid(y + self.inner(y)).flatten(1))


#: Smooth modules, for the losses that take any.
SMOOTH: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "softplus": (dense(nn.Softplus), (4,)),
    "tanh": (dense(nn.Tanh), (4,)),
    "smooth_conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 4, stride=2, padding=1), nn.Softplus(), nn.Flatten(),
                              nn.Dropout(0.5), nn.Linear(18, 1)), (1, 6, 6)),
    "smooth_block": (SmoothBlock, (1, 4, 4)),
}  # fmt: skip

#: Fully connected chains, which "gram" and "dynamic" take.
CHAINS = ("relu", "leaky", "prelu", "abs", "hardtanh", "one_layer", "relu_first", "few_inputs",
          "batch_norm1d", "weight_norm", "normalised", "wide")  # fmt: skip


def make(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[int, ...]]:
    """A module with generic weights and statistics, in evaluation mode, and its input shape."""
    factory, shape = (MODULES | SMOOTH)[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        model = factory()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.3)
    return model.to(dtype).eval(), shape


def batch(
    shape: tuple[int, ...], count: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in [0, 1] and labels of three classes."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand((count, *shape), generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.arange(count) % 3


def gradients_of(loss: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradient of a loss in every parameter; zero where it has none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for name, p, g in zip(names, parameters, found, strict=True)
    }
