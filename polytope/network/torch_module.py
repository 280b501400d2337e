"""The source module itself: copied, checked and run, never changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from polytope.errors import InputError, UnsupportedOperation
from polytope.network.ir import Shape

#: Rows that a source model is given at once.
CHUNK = 256
#: How far the outputs of a batch may be from those of its rows, relative to the largest
#: output, for the model to be run in batches: far above float32 rounding, far below what a
#: model gives that mixes the rows of its batch.
BATCH_TOLERANCE = 1e-3

#: Layers whose inputs or outputs hide their name from a first failure.
UNSUPPORTED_LAYERS: dict[type[nn.Module], str] = {
    nn.LSTM: "its gates multiply; nn.RNN(nonlinearity='relu') is supported",
    nn.GRU: "its gates multiply; nn.RNN(nonlinearity='relu') is supported",
    nn.Embedding: "it takes integers; compile the part of the model that follows it",
    nn.EmbeddingBag: "it takes integers; compile the part of the model that follows it",
}


@dataclass(frozen=True)
class ModuleFunction:
    """A module as a function of float64 arrays; see `source.Evaluate`.

    Attributes
    ----------
    module : torch.nn.Module
        Ours alone, in evaluation mode.
    dtype, device : torch.dtype, torch.device
        What it computes in.
    output_shape : tuple of int
        Shape of one output.
    rows : int
        Rows that it is given at once; 1 if it only takes a batch of one.
    """

    module: nn.Module
    dtype: torch.dtype
    device: torch.device
    output_shape: Shape
    rows: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs (n, *output_shape) of inputs (n, *input_shape), both float64."""
        parts = [np.zeros((0, *self.output_shape))]
        with torch.no_grad():
            for start in range(0, len(x), self.rows):
                part = torch.as_tensor(x[start : start + self.rows], dtype=torch.float64)
                out = self.module(part.to(self.device, self.dtype)).double().cpu()
                parts.append(out.reshape(len(part), *self.output_shape).numpy())
        return np.concatenate(parts)


def tensors_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, shared ones under each of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def dtype_and_device(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of the first floating parameter or buffer.

    Raises
    ------
    InputError
        For weights that are not real floating numbers, or not there yet.
    """
    found = (torch.get_default_dtype(), torch.device("cpu"))
    for name, tensor in reversed(list(tensors_of(model))):
        if nn.parameter.is_lazy(tensor):
            raise InputError(f"{name} has no shape yet: run the lazy module once on an input first")
        if tensor.is_complex() or (
            isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()
        ):
            raise InputError(
                f"the parameter {name} is {tensor.dtype}: polytope needs real floating weights; "
                "convert the model to float32 or float64"
            )
        if tensor.is_floating_point():
            found = (tensor.dtype, tensor.device)
    return found


def snapshot(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode without gradients; the original is not touched."""
    held = [t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor)]
    # A tensor with a history (an old-style weight norm keeps one) cannot be deep-copied.
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in held if not t.is_leaf}
    return copy.deepcopy(model, memo).eval().requires_grad_(False)


def try_once(model: nn.Module, example: torch.Tensor) -> None:
    """Run one input, so that a wrong shape is told from an unsupported operation.

    Raises
    ------
    InputError
        If the model does not run.
    UnsupportedOperation
        If it does not return one real floating tensor.
    """
    try:
        with torch.no_grad():
            out = model(example)
    except Exception as error:
        _name_culprit(model)
        raise InputError(
            f"the model does not take an input of shape {tuple(example.shape)} (a batch of one "
            f"of input_shape {tuple(example.shape[1:])}): {first_line(error)}"
        ) from error
    if not isinstance(out, torch.Tensor):
        _name_culprit(model)
        raise UnsupportedOperation(
            f"the model returns a {type(out).__name__}, not one tensor; wrap it in a module "
            "that returns its logits alone"
        )
    if not out.is_floating_point():
        raise UnsupportedOperation(
            f"the model returns {out.dtype}, not floating numbers; return its logits instead"
        )


def _name_culprit(model: nn.Module) -> None:
    """Refuse a layer that explains why a model cannot be run on one floating tensor."""
    for path, module in model.named_modules():
        reason = UNSUPPORTED_LAYERS.get(type(module))
        if reason is not None:
            where = f" in {path!r}" if path else ""
            raise UnsupportedOperation(f"cannot compile {type(module).__name__}{where}: {reason}")


def batched(
    module: nn.Module, dtype: torch.dtype, device: torch.device, output: Shape, shape: Shape
) -> ModuleFunction:
    """The module as a function, run in batches if it treats the rows of a batch apart."""
    whole = ModuleFunction(module, dtype, device, output, CHUNK)
    apart = ModuleFunction(module, dtype, device, output, 1)
    random = np.random.default_rng(0)
    # Of many sizes, so that an activation that is flat on some rows does not hide a mixture.
    x = random.normal(size=(16, *shape)) * np.geomspace(0.1, 10, 16).reshape(-1, *(1,) * len(shape))
    rows = apart(x)
    try:
        batch = whole(x)
    except Exception:  # any failure of the user's code on a batch means one row at a time
        return apart
    close = np.abs(batch - rows) <= BATCH_TOLERANCE * np.abs(rows).max(initial=0.0)
    return whole if close.all() else apart


def first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """The numpy dtype; float32 stands for bfloat16, which numpy does not have."""
    plain = torch.float32 if dtype == torch.bfloat16 else dtype
    return torch.zeros((), dtype=plain).numpy().dtype
