"""Read a plain list of layers, ReLU between them: the simplest network there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.build import GraphBuilder
from polytope.network.source import Imported


def read_layers(layers: object) -> Imported:
    """Read ``[(W, b), ...]``: ``x W^T + b`` with a ReLU between, none after the last.

    Parameters
    ----------
    layers : sequence of (W, b)
        numpy arrays or torch tensors of any device and floating dtype, or integers; W is
        (out, in), b is (out,) or None.  They are copied, as float64.

    Returns
    -------
    Imported
        The graph; its input has the shape (in,) of the first layer.  There is no source
        model beside it.

    Raises
    ------
    InputError
        An empty list, a layer that is no pair, of a wrong shape (named), or with NaN.
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str) or not len(layers):
        raise InputError(
            "a network given as layers is a list of (W, b) pairs with at least one pair, got "
            f"{'an empty list' if isinstance(layers, Sequence) else type(layers).__name__}"
        )
    pairs = [_pair(number, layer) for number, layer in enumerate(layers)]
    builder = GraphBuilder()
    x = builder.input(pairs[0][0].shape[1:])
    width = pairs[0][0].shape[1]
    for number, (weight, bias) in enumerate(pairs):
        if weight.shape[1] != width:
            raise InputError(
                f"layer {number}: W has shape {weight.shape} and cannot take the {width} outputs "
                f"of layer {number - 1}: W is (out, in); transpose it if it is (in, out)"
            )
        width = weight.shape[0]
        if number:
            x = builder.relu(x, f"relu{number - 1}")
        bias_key = None if bias is None else builder.constant(bias, f"layers.{number}.bias")
        weight_key = builder.constant(weight, f"layers.{number}.weight")
        x = builder.linear(x, weight_key, bias_key, f"layers.{number}")
    return Imported(builder.finish(x))


def _pair(number: int, layer: object) -> tuple[np.ndarray, np.ndarray | None]:
    """One layer as float64 arrays of consistent shapes."""
    if not isinstance(layer, tuple | list) or len(layer) != 2:
        raise InputError(f"layer {number}: expected a pair (W, b), got {type(layer).__name__}")
    weight = _array(number, "W", layer[0])
    bias = None if layer[1] is None else _array(number, "b", layer[1])
    if weight.ndim != 2 or 0 in weight.shape:
        raise InputError(f"layer {number}: W must be (out, in), got shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"layer {number}: W has shape {weight.shape}, so b must have shape "
            f"{weight.shape[:1]}, got {bias.shape}: W is (out, in); transpose it if it is (in, out)"
        )
    return weight, bias


def _array(number: int, name: str, given: object) -> np.ndarray:
    """A copy of one array in float64."""
    if isinstance(given, torch.Tensor):
        given = given.detach().to("cpu", torch.float64).numpy()
    array = np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"layer {number}: {name} must be an array of real numbers, got {type(given).__name__} "
            f"of dtype {array.dtype}"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"layer {number}: {name} holds NaN or infinity: finite weights are needed")
    return array
