"""Checks that all losses share: the module, its numbers, the points of a batch."""

from __future__ import annotations

import math

import torch
from torch import nn

from polytope.errors import InputError, PolytopeError
from polytope.inputs import Shaped, as_batch
from polytope.network.torch_module import dtype_and_device, tensors_of

#: How far the sum of float32 probabilities may be from 1.
ROUNDING = 1e-5


def require_module(model: object, what: str) -> nn.Module:
    """The module that a loss is made for.

    Raises
    ------
    InputError
        If it is none.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{what}: got {type(model).__name__} as model, expected the torch.nn.Module that is "
            "trained; its parameters are read at every step"
        )
    return model


def precision(model: nn.Module, what: str) -> tuple[torch.dtype, torch.device]:
    """The module's dtype and device.

    Raises
    ------
    InputError
        For half precision, in which gradients of gradients are worthless.
    """
    dtype, device = dtype_and_device(model)
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{what}: the model is {dtype}; keep its parameters in float32 (or float64) and use "
            "torch.autocast for the rest of the step"
        )
    return dtype, device


def require_logits(outputs: torch.Tensor, what: str) -> None:
    """Refuse probabilities: the cross entropy would take the softmax of a softmax.

    Rows of at least two points that are all nonnegative and sum to 1, to float32's rounding.

    Raises
    ------
    InputError
        If they are no logits.
    """
    rows = outputs.detach()
    if min(rows.shape) < 2 or bool((rows < 0).any()):
        return
    if bool(((rows.sum(dim=1) - 1).abs() < ROUNDING).all()):
        raise InputError(
            f"{what}: the model returns probabilities (rows that sum to 1), expected logits; "
            "train it without its last softmax"
        )


def points_of(model: nn.Module, shape: Shaped, x: object, what: str) -> torch.Tensor:
    """The points of a batch (batch, *input_shape), in the module's dtype and on its device.

    Parameters
    ----------
    model : torch.nn.Module
    shape : Shaped
        What the module takes.
    x : object
        What the user gave.
    what : str
        The loss, for messages.

    Raises
    ------
    InputError
        For points of another shape, dtype or device than the module's, NaN, none at all, or
        points that ask for a gradient.
    """
    dtype, device = precision(model, what)
    points = as_batch(shape, x, dtype, "x")
    if not len(points):
        raise InputError(f"{what}: x: got an empty batch, expected at least one point")
    if isinstance(x, torch.Tensor):
        if x.requires_grad:
            raise InputError(
                f"{what}: x requires a gradient, but the loss is differentiable in the "
                "parameters only; pass x.detach()"
            )
        if x.dtype != dtype:
            raise InputError(
                f"{what}: x: got {x.dtype}, but the model is {dtype}; convert one of them"
            )
    if points.device != device:
        raise InputError(
            f"{what}: x: is on {points.device}, but the model is on {device}; move one of them"
        )
    return points


def require_finite(model: nn.Module, computed: torch.Tensor, what: str) -> None:
    """Say where NaN or infinity came from.

    Parameters
    ----------
    model : torch.nn.Module
    computed : tensor
        What must be finite.
    what : str
        The loss, for messages.

    Raises
    ------
    InputError
        Naming the first parameter that is not finite.
    PolytopeError
        If all are, so that the values overflow.
    """
    # A finite sum has finite terms, and is many times cheaper than looking at each of them.
    if math.isfinite(float(computed.detach().sum())):
        return
    if bool(torch.isfinite(computed).all()):
        return
    for name, tensor in tensors_of(model):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{what}: {name} holds NaN or infinity, so the training has diverged; go back to "
                "an earlier state with a smaller learning rate or weight"
            )
    raise PolytopeError(
        f"{what}: NaN or infinity although the parameters and the points are finite: the values "
        f"overflow {computed.dtype}; lower the learning rate, or train in float64"
    )
