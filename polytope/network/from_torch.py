"""Reads a PyTorch module: captures it with torch.export and builds the graph.

The program is captured from a float64 copy of the module, for a batch of one, in evaluation
mode; the caller's module is never touched.  torch_module.py copies and runs the module,
torch_reader.py walks the program, torch_ops.py holds the table of operations, and
torch_constants.py remembers how constants are made from parameters.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export.graph_signature import InputKind, OutputKind

from polytope.errors import UnsupportedOperation
from polytope.network.build import Value
from polytope.network.ir import Graph, Shape
from polytope.network.source import Imported
from polytope.network.torch_constants import Constant, CurrentValues
from polytope.network.torch_module import (
    ModuleFunction,
    batched,
    dtype_and_device,
    first_line,
    numpy_dtype,
    snapshot,
    tensors_of,
    try_once,
)
from polytope.network.torch_ops import HANDLERS, MOVES, REFUSED, RESHAPES
from polytope.network.torch_reader import TorchReader, operation

#: Trailing operations that are taken off: they keep the order of the outputs.
HEADS = ("softmax", "log_softmax", "sigmoid")


def read_torch(model: nn.Module, input_shape: tuple[int, ...]) -> Imported:
    """Read a PyTorch module, as it is in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        Takes one floating tensor (batch, *input_shape) and returns one.  Its mode, dtype,
        device, gradients and buffers are left as they are.
    input_shape : tuple of int
        Shape of one input, without the batch.

    Returns
    -------
    Imported
        `native` runs a snapshot of the module in its own dtype and on its own device,
        `reference` one in float64 on the CPU.  A model that asks for a dtype of its own in
        its code (``torch.zeros(n)``, ``x.float()``) may not run in float64; `reference` is
        then None.  `live` follows the caller's module: a later change of its parameters is
        seen.

    Raises
    ------
    UnsupportedOperation
        Naming the operation and its place, or what keeps the model from being captured.
    InputError
        If the model does not take an input of `input_shape`, or its weights are not finite
        floating numbers.
    """
    dtype, device = dtype_and_device(model)
    native = snapshot(model)
    shape = tuple(int(n) for n in input_shape)
    try_once(native, torch.zeros((1, *shape), dtype=dtype, device=device))
    double = copy.deepcopy(native).cpu().double()
    try:
        program = _capture(double, torch.zeros((1, *shape), dtype=torch.float64))
        in_double = dtype == torch.float64 or not _rounds(program)
    except UnsupportedOperation:
        if dtype == torch.float64:
            raise
        in_double = False
    if not in_double:
        on_cpu = copy.deepcopy(native).cpu()
        program = _capture(on_cpu, torch.zeros((1, *shape), dtype=dtype))
    head = _head(program.graph)
    reader = TorchReader(HANDLERS, MOVES, REFUSED)
    graph = _build(reader, program, shape, head)
    notices = [
        f"{what} are rounded once to float64 (largest relative deviation {deviation:.1e})"
        for what, deviation in reader.deviations.items()
    ]
    kind = None
    if head is not None:
        kind = operation(head.target)
        notices.append(
            f"the trailing {kind} was taken off: the compiled network gives the logits before it"
        )
    run = batched(native, dtype, device, graph.output_shape, shape)
    reference = None
    if in_double:
        reference = ModuleFunction(
            double, torch.float64, torch.device("cpu"), graph.output_shape, run.rows
        )
    has_parameters = any(True for _ in model.parameters())
    return Imported(
        graph=graph,
        native=run,
        native_dtype=numpy_dtype(dtype),
        reference=reference,
        head=kind,
        notices=tuple(notices),
        live=LiveConstants(model, graph, reader.sources) if has_parameters else None,
    )


@dataclass(frozen=True)
class LiveConstants:
    """The graph's floating constants from the current parameters of the caller's module.

    Attributes
    ----------
    model : torch.nn.Module
        The caller's.
    graph : Graph
    sources : mapping
        For each key of the graph the constant that it came from.
    """

    model: nn.Module
    graph: Graph
    sources: Mapping[str, Constant]

    def __call__(self) -> dict[str, torch.Tensor]:
        """Constants by key, in the dtype and on the device of the parameters."""
        tensors = dict(tensors_of(self.model))
        dtype, device = dtype_and_device(self.model)
        current = CurrentValues(tensors, device)
        live = {}
        for key in self.graph.constants:
            constant = self.sources.get(key)
            if constant is not None:
                live[key] = current(constant).to(dtype)
            elif key.removesuffix("[0]") in self.sources:
                live[key] = current(self.sources[key.removesuffix("[0]")])[0].to(dtype)
        return live


# The captured program ----------------------------------------------------------------------


def _capture(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """The module's program, without in-place operations.

    Raises
    ------
    UnsupportedOperation
        If torch cannot capture it, with torch's own first line.
    """
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            captured = torch.export.export(module, (example,), strict=False)
            program: torch.export.ExportedProgram = captured.run_decompositions({})
    except Exception as error:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not Path(frame.filename).is_relative_to(Path(torch.__file__).parent)
        ]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        if "data-dependent" in str(error).lower():
            raise UnsupportedOperation(
                f"the model's control flow depends on the values of its input (at {place}), so "
                "it cannot be compiled; use relu, maximum or clamp instead of a branch"
            ) from error
        raise UnsupportedOperation(
            f"torch.export cannot capture the model (at {place}): {first_line(error)}"
        ) from error
    for spec in program.graph_signature.output_specs:
        if spec.kind != OutputKind.USER_OUTPUT:
            raise UnsupportedOperation(
                f"the model changes {spec.target!r} while it runs, so it is no function of its "
                "input alone"
            )
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing its program and a warning before it raises: we raise one line."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _rounds(program: torch.export.ExportedProgram) -> bool:
    """Whether a program captured in float64 computes something in a smaller dtype.

    Constants of a smaller dtype do no harm as long as they are only moved: they are read
    exactly, and torch widens them where they meet the data.
    """
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not node.all_input_nodes or not isinstance(value, torch.Tensor):
            continue
        narrow = value.is_floating_point() and value.dtype != torch.float64
        if narrow and operation(node.target) not in MOVES:
            return True
    return False


def _head(graph: torch.fx.Graph) -> torch.fx.Node | None:
    """The trailing softmax, log-softmax (over the last axis) or sigmoid."""
    node: Any = next(iter(graph.find_nodes(op="output"))).args[0][0]
    moved = False
    while isinstance(node, torch.fx.Node) and isinstance(node.target, torch._ops.OpOverload):
        short = operation(node.target)
        if len(node.users) != 1:
            return None
        if short in HEADS:
            source: Any = node.args[0]
            rank = source.meta["val"].ndim
            last = short == "sigmoid" or (not moved and node.args[1] in (-1, rank - 1))
            return node if last else None
        if short not in RESHAPES:
            return None
        moved = moved or short not in ("clone", "alias", "detach")
        node = node.args[0]
    return None


def _build(
    reader: TorchReader,
    program: torch.export.ExportedProgram,
    shape: Shape,
    head: torch.fx.Node | None,
) -> Graph:
    """The graph of a program."""
    x = reader.builder.input(shape)
    used = {node.name for node in program.graph.find_nodes(op="placeholder") if node.users}
    inputs: dict[str, Value | Constant] = {}
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind == InputKind.USER_INPUT:
            inputs[name] = x
        elif name in used and spec.target is not None:
            fixed = spec.kind == InputKind.CONSTANT_TENSOR
            tensors = program.constants if fixed else program.state_dict
            tensor = tensors.get(spec.target, program.constants.get(spec.target))
            inputs[name] = reader.fixed(tensor) if fixed else reader.parameter(spec.target, tensor)
    (result,) = reader.walk(program.graph, inputs, program.graph_module, head)
    if isinstance(result, Constant):
        nothing = np.full(tuple(result.value.shape), -1)
        empty = reader.builder.gather(x, nothing, "output")
        result = reader.builder.affine(empty, None, reader.key(result), "output")
    return reader.builder.finish(result)
