"""Constants of a torch model: their values now, and how to compute them anew.

A weight of the graph is often not a parameter itself but made from parameters: a transpose,
a BatchNorm scale, a weight norm.  Each constant remembers the function and the arguments
that made it, so that training can recompute the graph's constants, with gradients, from the
current parameters of the user's module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx.node import map_aggregate


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the input.

    Attributes
    ----------
    key : str
        The name of a parameter or buffer, or a name of our own that begins with "=".
    value : tensor
        Its value when the model was read: float64 on the CPU, or integral.
    fixed : bool
        Whether no parameter or buffer enters it.
    function, arguments : callable or None, tuple
        What made it; arguments may hold other constants, at any depth.
    """

    key: str
    value: torch.Tensor
    fixed: bool
    function: Callable[..., torch.Tensor] | None = None
    arguments: tuple[Any, ...] = ()


def replaced(arguments: Any, function: Callable[[Any], Any]) -> Any:
    """Nested arguments (lists, tuples, dictionaries) with `function` applied to each leaf."""
    return map_aggregate(arguments, function)


def leaves_of(arguments: Any) -> list[Any]:
    """All leaves of nested arguments."""
    found: list[Any] = []
    replaced(arguments, found.append)
    return found


def constants_in(arguments: Any) -> list[Constant]:
    """All constants in nested arguments."""
    return [leaf for leaf in leaves_of(arguments) if isinstance(leaf, Constant)]


def with_values(arguments: Any, value_of: Callable[[Constant], torch.Tensor]) -> Any:
    """Nested arguments with each constant replaced by a tensor."""
    return replaced(arguments, lambda a: value_of(a) if isinstance(a, Constant) else a)


class CurrentValues:
    """Values of constants from the current parameters of a module.

    Parameters
    ----------
    tensors : mapping
        The module's parameters and buffers by name; read when a constant is first asked for.
    device : torch.device
        Where to compute.
    dtype : torch.dtype
        What to compute in; a parameter that has it already is taken as it is.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self._tensors = tensors
        self._device, self._dtype = device, dtype
        self._memo: dict[Constant, torch.Tensor] = {}

    def __call__(self, constant: Constant) -> torch.Tensor:
        """The constant's value, computed once."""
        if constant not in self._memo:
            value = self._compute(constant).to(self._device)
            self._memo[constant] = value.to(self._dtype) if value.is_floating_point() else value
        return self._memo[constant]

    def _compute(self, constant: Constant) -> torch.Tensor:
        if constant.fixed:
            return constant.value
        if constant.function is None:
            return self._tensors[constant.key]
        return constant.function(*with_values(constant.arguments, self))
