"""A module as a function of single points: evaluation mode, one batch's statistics held.

In training mode a BatchNorm layer mixes the points of a batch. LLR takes the statistics of the
clean batch for the perturbed points too (arXiv 1907.02610, appendix F.2); then a point's loss is
a function of that point, and its gradient means something. The statistics keep their graph to the
parameters, none to the points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from polytope.errors import InputError, UnsupportedOperation
from polytope.training.captured import BatchNormMode


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and each of its parts as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def held(
    model: nn.Module, run: Callable[[], object], mode: BatchNormMode, what: str
) -> Iterator[None]:
    """The module in evaluation mode, its BatchNorm layers with the statistics asked for.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it was.
    run : callable
        Calls the module on the batch whose statistics count.
    mode : {"running", "batch"} or None
        For layers in training mode; None refuses them.
    what : str
        The loss, for messages.

    Raises
    ------
    InputError
        If a layer is in training mode and nobody said which statistics count, or has none.
    UnsupportedOperation
        If a layer that takes the batch's statistics is called more than once.
    """
    layers = _layers(model, mode, what)
    with evaluation(model), ExitStack() as stack:
        for layer in layers:
            layer.attach(stack)
        if layers:
            run()
            for layer in layers:
                layer.known = True
        yield


def _layers(model: nn.Module, mode: BatchNormMode, what: str) -> list[_Layer]:
    """The BatchNorm layers to be taken with the statistics of the batch."""
    training = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    }
    if mode == "batch" or not training:
        return [_Layer(module, name, what) for name, module in training.items()]
    name, module = next(iter(training.items()))
    if mode is None:
        raise InputError(
            f"{what}: BatchNorm {name!r} is in training mode, where an output depends on the "
            "whole batch and a point has no loss of its own. Pass batch_norm='batch' to hold the "
            "statistics of this batch fixed, batch_norm='running' for the network as it is in "
            f"evaluation, or put the layer in evaluation mode ({len(training)} in all)"
        )
    for name, module in training.items():
        if module.running_mean is None:
            raise InputError(
                f"{what}: BatchNorm {name!r} keeps no running statistics; use batch_norm='batch'"
            )
    return []


class _Layer:
    """A BatchNorm layer that takes the statistics of the first batch it sees."""

    def __init__(self, module: Any, name: str, what: str) -> None:
        self._module, self._name, self._what = module, name, what
        self._statistics: tuple[torch.Tensor, torch.Tensor] | None = None
        self.known = False

    def attach(self, stack: ExitStack) -> None:
        """Stand in for the layer until the stack is left."""
        stack.callback(self._module.register_forward_pre_hook(self._measure).remove)
        stack.callback(self._module.register_forward_hook(self._apply).remove)

    def _measure(self, module: nn.Module, args: tuple[torch.Tensor]) -> None:
        """The statistics of what the layer reads, if they are not known yet."""
        del module
        (z,) = args
        if self._statistics is None:
            if z.numel() // z.shape[1] < 2:
                raise InputError(
                    f"{self._what}: BatchNorm {self._name!r} in training mode needs more than one "
                    f"value per channel, got a batch of {len(z)}; give more points, or use "
                    "batch_norm='running'"
                )
            variance, mean = torch.var_mean(z, [0, *range(2, z.ndim)], correction=0)
            self._statistics = mean, variance
        elif not self.known:
            raise UnsupportedOperation(
                f"{self._what}: BatchNorm {self._name!r} is called more than once in one pass, "
                "each time with statistics of its own; use batch_norm='running', or a layer for "
                "each call"
            )

    def _apply(
        self, module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """The layer's output with the statistics held."""
        del module, output
        (z,) = args
        assert self._statistics is not None
        shape = (-1, *(1,) * (z.ndim - 2))
        mean, variance = (s.reshape(shape) for s in self._statistics)
        found: torch.Tensor = (z - mean) * torch.rsqrt(variance + self._module.eps)
        if self._module.affine:
            scale, shift = (s.reshape(shape) for s in (self._module.weight, self._module.bias))
            found = found * scale + shift
        return found
