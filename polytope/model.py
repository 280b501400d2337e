"""`compile` and `Network`: a model from any source, checked against it, ready for analysis."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from polytope.errors import EquivalenceError, FileProblem, InputError, Notice
from polytope.inputs import as_batch
from polytope.network.engine import Engine
from polytope.network.from_layers import read_layers
from polytope.network.from_onnx import read_onnx
from polytope.network.from_torch import read_torch
from polytope.network.source import Imported
from polytope.network.store import load_graph, save_graph
from polytope.pattern import ActivationPattern
from polytope.region import Region, region_at
from polytope.rows import as_logits

#: Relative difference allowed between the graph and the source evaluated in float64: both
#: round about depth * width times, in different orders.
FLOAT64_TOLERANCE = 1e-9
#: The same where the source can only be run in float32 (or below): its own rounding.
FLOAT32_TOLERANCE = 1e-3
#: Random inputs that a compiled graph is checked on.
CHECK_POINTS = 8


class Network(Engine):
    """A compiled network: the graph that is analysed, and the source it came from.

    Made by `polytope.compile` or `polytope.load`. Evaluation follows the device of its input.
    """

    def __init__(self, imported: Imported) -> None:
        super().__init__(imported.graph)
        self._source = imported

    @property
    def hash(self) -> str:
        """Canonical SHA-256 of the graph: equal for equal meaning, whatever the source."""
        return self.graph.hash

    @property
    def notices(self) -> tuple[str, ...]:
        """What was done at compile time that the user should know."""
        return self._source.notices

    @property
    def native_dtype(self) -> np.dtype:
        """The dtype of the source model."""
        return self._source.native_dtype

    def __repr__(self) -> str:
        """Input, outputs, units and hash."""
        return (
            f"Network(input_shape={tuple(self.input_shape)}, outputs={self.output_size}, "
            f"units={self.units}, layers={len(self.layers)}, hash={self.hash[:12]})"
        )

    def logits(self, X: object) -> np.ndarray:
        """Outputs of the compiled graph in float64: (n, classes); a single logit f as (0, f)."""
        with torch.no_grad():
            return np.asarray(as_logits(self.forward(as_batch(self, X)).flatten(1)).cpu().numpy())

    def predict(self, X: object) -> np.ndarray:
        """Classes decided by the compiled graph (n,); the first of equal logits wins."""
        return np.asarray(self.logits(X).argmax(axis=1))

    def native_logits(self, X: np.ndarray) -> np.ndarray:
        """Outputs of the source model in its own dtype, as (n, classes), for replays.

        A trailing softmax or sigmoid is left in place: it does not change the decision.
        """
        points = np.asarray(X, dtype=np.float64).reshape(-1, *self.input_shape)
        if self._source.native is None:
            return self.logits(points)
        outputs = self._source.native(points).reshape(len(points), -1)
        if outputs.shape[1] > 1:
            return outputs
        middle = 0.5 if self._source.head == "sigmoid" else 0.0
        return np.column_stack([np.full(len(points), middle), outputs[:, 0]])

    def round_to_native(self, X: np.ndarray) -> np.ndarray:
        """Points as the source model's dtype holds them, back in float64."""
        return X.astype(self.native_dtype).astype(np.float64)

    def live(self) -> Mapping[str, torch.Tensor]:
        """The graph's constants, carrying gradients to the source module's parameters.

        Pass it as ``constants=`` to make distances and gradients differentiable with respect
        to the weights.

        Raises
        ------
        InputError
            If the network was not compiled from a PyTorch module.
        """
        if self._source.live is None:
            raise InputError("live: the network was not compiled from a PyTorch module")
        current = self._source.live()
        sample = next(iter(current.values()), torch.zeros((), dtype=torch.float64))
        fixed = self.constants(sample.dtype, sample.device)
        return {**fixed, **current}

    @property
    def source_constants(self) -> Callable[[], Mapping[str, torch.Tensor]] | None:
        """What `live` calls: None if the network was not compiled from a module's parameters."""
        return self._source.live

    def region(self, x: object, pattern: ActivationPattern | None = None) -> Region:
        """The linear region of one point as halfspaces (see `polytope.region.Region`).

        Raises
        ------
        InputError, SmoothActivation
        """
        return region_at(self, x, pattern)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compiled graph (.npz, no pickle); `polytope.load` reads it back.

        Raises
        ------
        FileProblem
            If the file cannot be written.
        """
        save_graph(self.graph, path)


def load(path: str | os.PathLike[str]) -> Network:
    """A network that `Network.save` wrote.

    Raises
    ------
    FileProblem
        If the file is missing, damaged, or not a saved graph.
    """
    return Network(Imported(load_graph(path)))


def compile(
    model: torch.nn.Module | str | os.PathLike[str] | Sequence[tuple[object, object]],
    input_shape: Sequence[int] | int | None = None,
) -> Network:
    """Compile a trained network for exact analysis, and check it against its source.

    Parameters
    ----------
    model : torch.nn.Module, path, or list of (W, b)
        A module (captured by torch.export; left as it was), an ``.onnx`` file, an ``.npz``
        file written by `Network.save`, or fully connected layers with ReLU between them,
        ``W`` of shape (outputs, inputs).
    input_shape : tuple of int, optional
        Shape of one input without the batch; needed for a module.

    Returns
    -------
    Network
        In float64; a trailing softmax, log-softmax or sigmoid is taken off with a `Notice`.

    Raises
    ------
    UnsupportedOperation
        Naming the operation and its place.
    EquivalenceError
        If the compiled graph and the source disagree on random inputs.
    InputError, FileProblem
        For an unusable model, shape or file.
    """
    shape = as_shape(input_shape)
    if isinstance(model, torch.nn.Module):
        if shape is None:
            raise InputError(
                "compile: a PyTorch module needs input_shape, the shape of one input without "
                "the batch, for instance input_shape=(1, 28, 28)"
            )
        imported = read_torch(model, shape)
    elif isinstance(model, str | os.PathLike):
        imported = _read_file(Path(model), shape)
    elif isinstance(model, list | tuple):
        imported = read_layers(model)
    else:
        raise InputError(
            f"compile: got {type(model).__name__}, expected a torch.nn.Module, the path of an "
            ".onnx or saved .npz file, or a list of (W, b)"
        )
    net = Network(imported)
    if shape is not None and tuple(net.input_shape) != shape:
        raise InputError(
            f"compile: the model takes inputs of shape {tuple(net.input_shape)}, got "
            f"input_shape={shape}"
        )
    _check_equivalence(net, imported)
    for notice in imported.notices:
        warnings.warn(notice, Notice, stacklevel=2)
    return net


def as_shape(input_shape: Sequence[int] | int | None) -> tuple[int, ...] | None:
    """The input shape as a tuple of positive whole numbers; None stays None.

    Raises
    ------
    InputError
        For anything else.
    """
    if input_shape is None:
        return None
    sizes = tuple(input_shape) if isinstance(input_shape, Iterable) else (input_shape,)
    if not sizes or any(not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise InputError(
            f"input_shape: got {input_shape!r}, expected positive whole numbers, the shape of "
            "one input without the batch"
        )
    return tuple(int(n) for n in sizes)


def _read_file(path: Path, shape: tuple[int, ...] | None) -> Imported:
    """Read an ONNX file or a saved graph, by the file's suffix."""
    if not path.exists():
        raise FileProblem(f"{path}: no such file")
    if path.suffix == ".onnx":
        return read_onnx(path, shape)
    if path.suffix == ".npz":
        return Imported(load_graph(path))
    raise FileProblem(
        f"{path}: expected an .onnx file or an .npz file written by Network.save; a PyTorch "
        "checkpoint has to be loaded into its module in Python (polytope never unpickles)"
    )


def _check_equivalence(net: Network, imported: Imported) -> None:
    """Compare the graph with its source on random inputs of several sizes.

    Raises
    ------
    EquivalenceError
        If they differ by more than rounding.
    """
    evaluate = imported.reference or imported.native
    if evaluate is None:
        return
    exact = imported.reference is not None or imported.native_dtype == np.float64
    tolerance = FLOAT64_TOLERANCE if exact else FLOAT32_TOLERANCE
    rng = np.random.default_rng(0)
    shape = (CHECK_POINTS, *net.input_shape)
    batches = [rng.uniform(0, 1, shape), rng.normal(size=shape), 10 * rng.normal(size=shape)]
    points = np.concatenate(batches)
    if not exact:
        points = net.round_to_native(points)
    theirs = evaluate(points).reshape(len(points), -1)
    with torch.no_grad():
        ours = _with_head(net.forward(torch.as_tensor(points)).flatten(1), imported.head).numpy()
    if theirs.shape != ours.shape:
        raise EquivalenceError(
            f"the compiled graph has {ours.shape[1]} outputs, the source {theirs.shape[1]}; "
            "please report the model"
        )
    scale = 1 + np.abs(theirs).max(axis=1, keepdims=True)
    worst = float((np.abs(ours - theirs) / scale).max(initial=0.0))
    if not worst <= tolerance:
        raise EquivalenceError(
            f"the compiled graph differs from the source model by {worst:.1e} relative on random "
            f"inputs (allowed: {tolerance:.0e}); nothing proved on it would hold for the model. "
            "A module that behaves differently from call to call, or depends on its batch, "
            "cannot be compiled"
        )


def _with_head(logits: torch.Tensor, head: str | None) -> torch.Tensor:
    """Put the function back that was taken off the graph."""
    if head == "softmax":
        return torch.softmax(logits, dim=-1)
    if head == "log_softmax":
        return torch.log_softmax(logits, dim=-1)
    return torch.sigmoid(logits) if head == "sigmoid" else logits
