"""Checks what users pass: points, labels, numbers; each bad input gets one clear message."""

from __future__ import annotations

import math
from typing import Protocol, TypeAlias

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.engine import Constants
from polytope.sets import Box
from solvers.norms import NormLike, parse_norm

ArrayLike: TypeAlias = "np.ndarray | torch.Tensor"


class Shaped(Protocol):
    """What takes inputs of one shape: a network, or what stands for one."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def input_size(self) -> int:
        """Number of its coordinates."""


def as_batch(
    net: Shaped, x: object, dtype: torch.dtype = torch.float64, name: str = "X"
) -> torch.Tensor:
    """A batch (n, *input_shape) in `dtype` from flat or shaped points.

    Parameters
    ----------
    net : Shaped
    x : array or tensor
        (n, d), (n, *input_shape), or one point (d,) or input_shape, which becomes a batch of
        one.  A tensor stays on its device; an array goes to the CPU.
    dtype : torch.dtype
        float32 or float64.
    name : str
        What messages call it.

    Raises
    ------
    InputError
        For non-numeric, integer, complex, NaN or infinite input, or a wrong shape.
    """
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"dtype: got {dtype}, expected torch.float64 or torch.float32")
    points = x.detach() if isinstance(x, torch.Tensor) else _as_tensor(x, name)
    if not points.is_floating_point():
        raise InputError(
            f"{name}: got {points.dtype} values, expected floats; convert and scale them as the "
            "network was trained, for instance X.astype('float64') / 255"
        )
    shape, size = tuple(net.input_shape), net.input_size
    given = tuple(points.shape)
    if given in (shape, (size,)):
        points = points.reshape(1, *shape)
    elif given[1:] in (shape, (size,)):
        points = points.reshape(given[0], *shape)
    else:
        raise InputError(
            f"{name}: got shape {given}, expected (n, {', '.join(map(str, shape))}) or "
            f"(n, {size}); the network was compiled for that input_shape"
        )
    if points.device.type == "meta":
        raise InputError(f"{name}: is on the 'meta' device and holds no numbers; load it first")
    # A finite sum has finite terms, and is many times cheaper than looking at each of them.
    if not math.isfinite(float(points.sum())) and not bool(torch.isfinite(points).all()):
        bad = (~torch.isfinite(points.flatten(1))).any(dim=1).nonzero().flatten().tolist()
        raise InputError(
            f"{name}: NaN or infinity in row(s) {_few(bad)}; remove or mend those rows"
        )
    return points.to(dtype).contiguous()


def as_labels(y: object, rows: int, classes: int) -> torch.Tensor:
    """Labels (rows,) as int64 on the CPU.

    Raises
    ------
    InputError
        For labels that are not whole numbers, not one per row, or outside 0 .. classes - 1.
    """
    if isinstance(y, torch.Tensor) and y.device.type == "meta":
        raise InputError("y: is on the 'meta' device and holds no numbers; load it first")
    labels = y.detach().cpu() if isinstance(y, torch.Tensor) else _as_tensor(y, "y")
    labels = labels.reshape(1) if labels.ndim == 0 else labels
    if labels.shape != (rows,):
        raise InputError(f"y: got shape {tuple(labels.shape)}, expected one label for {rows} rows")
    if labels.numel() == 0:
        return labels.long()
    if labels.is_complex() or bool((labels != labels.long()).any()):
        raise InputError("y: labels must be whole numbers, the index of the class")
    labels = labels.long()
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        bad = int(labels[(labels < 0) | (labels >= classes)][0])
        raise InputError(
            f"y: label {bad} is out of range; the network decides among classes 0 to {classes - 1}"
        )
    return labels


def as_constants(
    constants: Constants | None, device: torch.device, dtype: torch.dtype
) -> Constants | None:
    """Live constants in the dtype of the work (None stays None).

    Raises
    ------
    InputError
        If they are on another device than the points.
    """
    if constants is None:
        return None
    for tensor in constants.values():
        if tensor.device != device:
            raise InputError(
                f"constants: are on {tensor.device}, but X is on {device}; move the module or X, "
                "then call net.live() again"
            )
    return {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in constants.items()
    }


def require_inside(x: torch.Tensor, box: Box | None) -> None:
    """Refuse points outside the box.

    Raises
    ------
    InputError
        Naming the rows, and a coordinate of the first.
    """
    if box is None:
        return
    points = x.detach().flatten(1).double().cpu().numpy()
    inside = box.contains(points)
    if not inside.all():
        rows = np.flatnonzero(~inside).tolist()
        point = points[rows[0]]
        at = int(np.argmax((point < box.low) | (point > box.high)))
        raise InputError(
            f"X: row(s) {_few(rows)} lie outside the box (row {rows[0]}, coordinate {at}: "
            f"{point[at]:g} is not in [{box.low[at]:g}, {box.high[at]:g}]); clip the data or "
            "widen the box"
        )


def as_norm(p: NormLike) -> float:
    """The exponent of a norm.

    Raises
    ------
    InputError
        For anything but a number in [1, inf].
    """
    try:
        return parse_norm(p)
    except ValueError as error:
        raise InputError(str(error)) from error


def positive_int(value: object, name: str) -> int:
    """A whole number of at least 1.

    Raises
    ------
    InputError
        For anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: got {value!r}, expected a whole number of at least 1")
    return int(value)


def to_like(result: torch.Tensor, like: object) -> np.ndarray | torch.Tensor:
    """A tensor if the caller gave a tensor, else an array."""
    return result if isinstance(like, torch.Tensor) else result.detach().cpu().numpy()


def _as_tensor(values: object, name: str) -> torch.Tensor:
    """A copy of an array on the CPU, whatever its strides, byte order and flags.

    Raises
    ------
    InputError
        If it does not hold numbers.
    """
    try:
        array = np.asarray(values)
        kinds: dict[str, type] = {"u": np.int64, "i": np.int64, "f": np.float64}
        return torch.from_numpy(array.astype(kinds.get(array.dtype.kind, array.dtype)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: expected an array of numbers, got {type(values).__name__}"
        ) from error


def _few(rows: list[int]) -> str:
    """A short list of row numbers."""
    text = ", ".join(str(row) for row in rows[:5])
    return text if len(rows) <= 5 else f"{text}, ... ({len(rows)} in all)"
