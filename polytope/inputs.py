"""Checks what users pass: points, labels, numbers; each bad input gets one clear message."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.sets import Box

ArrayLike: TypeAlias = "np.ndarray | torch.Tensor"


def as_batch(net: Engine, x: object, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A batch (n, *input_shape) in `dtype` from flat or shaped points.

    Parameters
    ----------
    net : Engine
    x : array or tensor
        (n, d), (n, *input_shape), or one point (d,) or input_shape, which becomes a batch of
        one.  A tensor stays on its device; an array goes to the CPU.
    dtype : torch.dtype

    Raises
    ------
    InputError
        For non-numeric, integer, complex, NaN or infinite input, or a wrong shape.
    """
    if isinstance(x, torch.Tensor):
        points = x.detach()
    else:
        try:
            points = torch.as_tensor(np.asarray(x))
        except (TypeError, ValueError) as error:
            raise InputError(f"X: expected an array of numbers, got {type(x).__name__}") from error
    if not points.is_floating_point():
        raise InputError(
            f"X: got {points.dtype} values, expected floats; convert and scale them as the "
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
            f"X: got shape {given}, expected (n, {', '.join(map(str, shape))}) or (n, {size}); "
            "the network was compiled for that input_shape"
        )
    if points.device.type == "meta":
        raise InputError("X: is on the 'meta' device and holds no numbers; load it first")
    if not bool(torch.isfinite(points).all()):
        bad = (~torch.isfinite(points.flatten(1))).any(dim=1).nonzero().flatten().tolist()
        raise InputError(f"X: NaN or infinity in row(s) {_few(bad)}; remove or mend those rows")
    return points.to(dtype).contiguous()


def as_labels(y: object, rows: int, classes: int) -> torch.Tensor:
    """Labels (rows,) as int64 on the CPU.

    Raises
    ------
    InputError
        For labels that are not whole numbers, not one per row, or outside 0 .. classes - 1.
    """
    labels = torch.as_tensor(np.asarray(y.cpu() if isinstance(y, torch.Tensor) else y))
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


def _few(rows: list[int]) -> str:
    """A short list of row numbers."""
    text = ", ".join(str(row) for row in rows[:5])
    return text if len(rows) <= 5 else f"{text}, ... ({len(rows)} in all)"
