"""The user's module, captured once: the graph's structure stays, its numbers are read anew.

`torch.export` traces the module a single time; from then on every step asks the module's
current parameters for the graph's constants, and autograd leads back through the functions
that made them (a transpose, a weight norm, BatchNorm's scale).  Nothing is exported again, and
nothing of a step is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from polytope.errors import InputError, UnsupportedOperation
from polytope.model import Network, compile
from polytope.network.engine import Engine
from polytope.network.from_torch import LiveConstants
from polytope.network.ir import Affine, Conv, Linear, Piecewise
from polytope.network.torch_constants import Constant, CurrentValues, constants_in
from polytope.network.torch_module import tensors_of
from polytope.training.checks import require_module

#: Which statistics a BatchNorm in training mode is taken with; None refuses such a module.
BatchNormMode: TypeAlias = Literal["running", "batch"] | None


@dataclass(frozen=True, eq=False)
class Captured:
    """A module's structure, and where its numbers come from.

    Attributes
    ----------
    model : torch.nn.Module
        The user's; read at every step, never changed.
    net : Engine
        The compiled graph.
    sources : mapping
        How each constant that depends on parameters or buffers is made.
    normalised : mapping
        The graph's nodes that read the statistics of a BatchNorm: its name in the module.
    plain : frozenset of int
        The nodes that are exactly ``max(z, 0)``.
    """

    model: nn.Module
    net: Engine
    sources: Mapping[str, Constant]
    normalised: Mapping[int, str]
    plain: frozenset[int]
    _fixed: dict[tuple[torch.dtype, torch.device], dict[str, torch.Tensor]] = field(
        default_factory=dict, repr=False
    )

    def fixed(self, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
        """The constants that no parameter enters (indices, breakpoints), as tensors."""
        found = self._fixed.get((dtype, device))
        if found is None:
            found = {
                key: torch.tensor(
                    array, dtype=dtype if array.dtype.kind == "f" else torch.int64, device=device
                )
                for key, array in self.net.graph.constants.items()
                if key not in self.sources and key.removesuffix("[0]") not in self.sources
            }
            self._fixed[dtype, device] = found
        return found


class Live(Mapping[str, torch.Tensor]):
    """The graph's constants from the module's present parameters, made when they are asked for.

    Parameters
    ----------
    captured : Captured
    dtype : torch.dtype
    device : torch.device
    """

    def __init__(self, captured: Captured, dtype: torch.dtype, device: torch.device) -> None:
        self._captured = captured
        self._fixed = captured.fixed(dtype, device)
        self._tensors = dict(tensors_of(captured.model))
        self._values = CurrentValues(self._tensors, device, dtype)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Let a tensor stand for a buffer of the module."""
        self._tensors[name] = tensor

    def __getitem__(self, key: str) -> torch.Tensor:
        """One constant.

        Raises
        ------
        InputError
            If the module no longer has the parameter, or has one of another shape.
        """
        if key in self._fixed:
            return self._fixed[key]
        sources = self._captured.sources
        try:
            if key in sources:
                value = self._values(sources[key])
            else:
                value = self._values(sources[key.removesuffix("[0]")])[0]
        except KeyError as error:
            raise InputError(
                f"the module no longer has {error.args[0]!r}: it was changed after the loss was "
                "made; make a new loss for the changed module"
            ) from error
        wanted = self._captured.net.graph.constants[key].shape
        if tuple(value.shape) != wanted:
            raise InputError(
                f"{key}: has shape {tuple(value.shape)} now and had {wanted} when the loss was "
                "made; make a new loss for the changed module"
            )
        return value

    def __iter__(self) -> Iterator[str]:
        """The constants' names."""
        return iter(self._captured.net.graph.constants)

    def __len__(self) -> int:
        """Their number."""
        return len(self._captured.net.graph.constants)


def capture(model: object, input_shape: object, what: str) -> Captured:
    """Capture a module for a loss.

    Parameters
    ----------
    model : torch.nn.Module
    input_shape : tuple of int
        Shape of one input, without the batch.
    what : str
        The loss, for messages.

    Raises
    ------
    InputError
        If it is no module, has no units or no parameters that training could change.
    UnsupportedOperation, SmoothActivation
        Naming the operation that has no linear regions.
    """
    module = require_module(model, what)
    net = compile(module, input_shape)  # type: ignore[arg-type]
    net.require_piecewise_linear(what)
    if not net.units:
        raise InputError(
            f"{what}: the model is affine and has no units whose regions could be enlarged; "
            "use it on a network with piecewise-linear activations"
        )
    live = _sources(net, what)
    nodes = net.graph.nodes
    normalised = dict(_normalisations(module, net, live.sources))
    plain = frozenset(
        number
        for number, node in enumerate(nodes)
        if isinstance(node.op, Piecewise)
        and not any(key in live.sources for key in node.constants)
        and _is_relu(net, node.op)
    )
    return Captured(module, Engine(net.graph), live.sources, normalised, plain)


def _sources(net: Network, what: str) -> LiveConstants:
    """How the constants follow the module."""
    live = net.source_constants
    if not isinstance(live, LiveConstants):
        raise InputError(
            f"{what}: the model has no parameters, so there is nothing to train; pass the module "
            "whose parameters the optimiser changes"
        )
    return live


def _is_relu(net: Engine, op: Piecewise) -> bool:
    """Whether a function is ``max(z, 0)`` for every unit."""
    table = net.graph.constants
    slopes, kinks, shifts = table[op.slopes], table[op.breakpoints], table[op.intercepts]
    if slopes.shape[-1] != 2 or kinks.any() or shifts.any():
        return False
    return bool((slopes[..., 0] == 0).all() and (slopes[..., 1] == 1).all())


def _normalisations(
    model: nn.Module, net: Engine, sources: Mapping[str, Constant]
) -> Iterator[tuple[int, str]]:
    """The nodes that subtract a BatchNorm's mean and nothing else: number and layer's name."""
    names = {
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
    }
    for number, node in enumerate(net.graph.nodes):
        op = node.op
        if isinstance(op, Affine):
            key = None if op.scale is not None else op.shift
        elif isinstance(op, Linear | Conv):
            key = op.bias
        else:
            continue
        source = None if key is None else sources.get(key.removesuffix("[0]"))
        leaves = [] if source is None else list(_leaves(source))
        name, _, tensor = leaves[0].rpartition(".") if len(leaves) == 1 else ("", "", "")
        if tensor == "running_mean" and name in names:
            yield number, name


def _leaves(constant: Constant) -> Iterator[str]:
    """The names of the parameters and buffers that a constant is made from."""
    if constant.function is None:
        yield constant.key
    for inner in constants_in(constant.arguments):
        yield from _leaves(inner)


def training_norms(captured: Captured) -> list[str]:
    """The module's BatchNorm layers that are in training mode now."""
    return [
        name
        for name, module in captured.model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and module.training
    ]


def require_statistics(captured: Captured, mode: BatchNormMode, what: str) -> frozenset[str]:
    """The BatchNorm layers to be taken with the statistics of the batch.

    Raises
    ------
    InputError
        If a layer is in training mode and nobody said which statistics count.
    UnsupportedOperation
        If a layer that takes the batch's statistics is called more than once.
    """
    training = training_norms(captured)
    if not training or mode == "running":
        return frozenset()
    if mode is None:
        raise InputError(
            f"{what}: BatchNorm {training[0]!r} is in training mode, where an output depends on "
            "the whole batch and a point has no region of its own. Pass batch_norm='batch' to "
            "hold the statistics of this batch fixed, batch_norm='running' for the network as it "
            f"is in evaluation, or put the layer in evaluation mode ({len(training)} in all)"
        )
    used = list(captured.normalised.values())
    read = {leaf for source in captured.sources.values() for leaf in _leaves(source)}
    for name in training:
        if not used.count(name) and f"{name}.running_mean" in read:
            raise UnsupportedOperation(
                f"{what}: the statistics of BatchNorm {name!r} are used outside the layer, so the "
                "batch's cannot stand for them; use batch_norm='running'"
            )
        if used.count(name) > 1:
            raise UnsupportedOperation(
                f"{what}: BatchNorm {name!r} is called {used.count(name)} times in one pass, each "
                "with statistics of its own; use batch_norm='running', or a layer for each call"
            )
    return frozenset(training)
