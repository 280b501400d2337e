"""The papers' networks, untrained: `fully_connected`, `convolutional`, and their named sizes.

All take pictures (n, channels, height, width) or flat points and give logits. Weights are
drawn from torch's generator: call `torch.manual_seed` before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import nn

from polytope.errors import InputError

#: Activations by name.
Activation = Literal["relu", "leaky_relu", "softplus", "tanh", "elu", "hardtanh"]
ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "leaky_relu": nn.LeakyReLU,
    "softplus": lambda _: nn.Softplus(),
    "tanh": lambda _: nn.Tanh(),
    "elu": lambda _: nn.ELU(),
    "hardtanh": lambda _: nn.Hardtanh(),
}
#: Slope of LeakyReLU below zero where none is given: torch's.
SLOPE = 0.01
#: How weights begin: torch's own, or He's normal cut at two deviations, biases zero (MMR).
Start = Literal["torch", "he"]
#: Hidden layers of the papers' fully connected networks.
WIDTHS: dict[str, tuple[int, ...]] = {
    "fc1": (1024,),  # MMR
    "fc10": (124, *(104,) * 7, 86, 86),  # MMR
    "roll": (300,) * 4,  # ROLL, Table 1
    "toy": (100,) * 4,  # ROLL, Figure 1
    "recurjac": (1024, 512, 256, 128, 64, 32),  # RecurJac, the ReLU network of Figure 2
}
#: MMR's convolutions: channels of 4 x 4 filters with stride 2 and padding 1; then a layer.
CHANNELS, DENSE = (16, 32), 100


class Normalise(nn.Module):
    """``(x - mean) / deviation`` as a first layer: distances are then those of the raw input.

    Parameters
    ----------
    mean, deviation : float or one for each channel
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, mean: float | Sequence[float] = 0.0, deviation: float | Sequence[float] = 1.0
    ) -> None:
        super().__init__()
        center, spread = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, deviation))
        for name, values in (("mean", center), ("deviation", spread)):
            if values.ndim > 1 or not bool(torch.isfinite(values).all()):
                raise InputError(
                    f"normalisation: {name}: got {values.tolist()!r}, expected a finite number, or "
                    "one for each channel"
                )
        if not bool((spread > 0).all()):
            raise InputError(f"normalisation: deviation: got {spread.tolist()!r}, expected above 0")
        for name, values in (("mean", center), ("scale", 1 / spread)):
            shaped = values if values.ndim == 0 else values[:, None, None]
            self.register_buffer(name, shaped.to(torch.get_default_dtype()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Points of any shape."""
        return (x - self.mean) * self.scale


def fully_connected(
    input_shape: Sequence[int],
    widths: Sequence[int],
    classes: int,
    *,
    activation: Activation = "relu",
    slope: float = SLOPE,
    start: Start = "torch",
    normalise: tuple[float, float] | None = None,
) -> nn.Sequential:
    """A fully connected network.

    Parameters
    ----------
    input_shape : tuple of int
        Of one point; flattened first.
    widths : sequence of int
        Units of the hidden layers.
    classes : int
        Outputs.
    activation : str
        One of `ACTIVATIONS`.
    slope : float
        Of "leaky_relu", below zero.
    start : {"torch", "he"}
        How weights begin: as torch begins them, or truncated normal of He's deviation with
        biases 0.
    normalise : (mean, deviation), optional
        A first layer that normalises the input.

    Raises
    ------
    InputError
        For unusable sizes or names.
    """
    _check(widths, "widths", classes, activation, start)
    sizes = [math.prod(input_shape), *widths, classes]
    layers: list[nn.Module] = [] if normalise is None else [Normalise(*normalise)]
    layers += [nn.Flatten()] if len(input_shape) != 1 else []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation](slope)]
    return _started(nn.Sequential(*layers[:-1]), start)


def convolutional(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = CHANNELS,
    widths: Sequence[int] = (DENSE,),
    *,
    activation: Activation = "relu",
    slope: float = SLOPE,
    start: Start = "torch",
    normalise: tuple[float, float] | None = None,
) -> nn.Sequential:
    """Convolutions of 4 x 4 filters with stride 2 and padding 1, then full layers: MMR's CNN.

    Parameters as in `fully_connected`; `input_shape` is (channels, height, width).

    Raises
    ------
    InputError
        For unusable sizes or names, or pictures too small for the convolutions.
    """
    _check([*channels, *widths], "channels and widths", classes, activation, start)
    if len(input_shape) != 3 or min(input_shape[1:]) < 2 ** len(channels):
        raise InputError(
            f"convolutional: got inputs of shape {tuple(input_shape)}, expected (channels, height, "
            f"width) with sides of at least {2 ** len(channels)} for {len(channels)} convolutions"
        )
    layers: list[nn.Module] = [] if normalise is None else [Normalise(*normalise)]
    for inputs, outputs in pairwise([input_shape[0], *channels]):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), ACTIVATIONS[activation](slope)]
    rows, columns = (side >> len(channels) for side in input_shape[1:])
    layers.append(nn.Flatten())
    for inputs, outputs in pairwise([channels[-1] * rows * columns, *widths, classes]):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation](slope)]
    return _started(nn.Sequential(*layers[:-1]), start)


def _check(sizes: Sequence[int], what: str, classes: int, activation: str, start: str) -> None:
    """Refuse sizes and names that make no network."""
    for name, values in ((what, sizes), ("classes", [classes])):
        if not values or any(
            isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in values
        ):
            raise InputError(
                f"network: {name}: got {list(values)}, expected whole numbers of at least 1"
            )
    if activation not in ACTIVATIONS:
        raise InputError(
            f"network: activation: got {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    if start not in get_args(Start):
        raise InputError(
            f"network: start: got {start!r}, expected one of {', '.join(get_args(Start))}"
        )


def _started(model: nn.Sequential, start: Start) -> nn.Sequential:
    """Draw He's weights, if asked for: deviation sqrt(2 / inputs), cut at two deviations."""
    if start == "he":
        for layer in model:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                deviation = math.sqrt(2 / layer.weight[0].numel())
                nn.init.trunc_normal_(layer.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return model
