"""Read an ONNX file: the graph it means, and the file's own network to hold it against.

The reader is our own, over the `onnx` package (imported when it is needed): it checks the
file, finds the one input and the one output, and hands each node to the table in
`onnx_ops`.  Constants are read exactly: every ONNX float is exact in float64.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polytope.errors import FileProblem, InputError, UnsupportedOperation
from polytope.network.build import GraphBuilder, Value
from polytope.network.source import Evaluate, Imported

if TYPE_CHECKING:
    import onnx

    from polytope.network.onnx_call import Operand

#: Before this version the arithmetic operations broadcast by rules of their own.
OLDEST_OPSET = 7
#: Last operations that keep the order of the outputs, and the name of the head they make.
HEADS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class ModelInput:
    """The input of an ONNX model.

    Attributes
    ----------
    name : str
        Its name in the model.
    dtype : numpy.dtype
        float32 or float64.
    shape : tuple of int
        Shape of one input, without the batch.
    batched : bool
        Whether the model's first axis is a batch.
    batch : int or None
        The size the model fixes for that axis; None if it is free.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    batched: bool
    batch: int | None


def read_onnx(path: str | os.PathLike[str], input_shape: tuple[int, ...] | None = None) -> Imported:
    """Read an ONNX file.

    The first axis of the model's input is the batch, unless the input has one axis only or
    `input_shape` has as many axes as it.  A trailing Softmax, LogSoftmax or Sigmoid is taken
    off, with a notice.

    Parameters
    ----------
    path : path
        The file; weights stored beside it are read too.
    input_shape : tuple of int, optional
        Shape of one input, without the batch: needed where the model leaves sizes open.

    Returns
    -------
    Imported
        The graph in float64; `native` is the file run by onnxruntime on the CPU, on one
        thread, in the file's own dtype (by the `onnx` package's numpy implementation if
        onnxruntime is missing or refuses the model); `reference` is a float64 copy of it
        (None where nothing can run that).

    Raises
    ------
    FileProblem
        The file is missing, unreadable, empty, damaged, or no ONNX model.
    UnsupportedOperation
        An operation is not piecewise linear or not known (named, with its place), or the
        file's version is not supported.
    InputError
        The model has several inputs or outputs, is not of float32 or float64, holds NaN, or
        does not fit `input_shape`; or the package `onnx` is missing.
    """
    try:
        import onnx.inliner
    except ImportError as error:
        raise InputError("reading an ONNX file needs the package onnx: pip install onnx") from error
    from polytope.network.onnx_run import in_double, source_model

    model = onnx.inliner.inline_local_functions(_load(Path(path)))
    source = _model_input(model.graph, input_shape)
    if len(model.graph.output) != 1:
        names = ", ".join(output.name for output in model.graph.output)
        raise InputError(
            f"the model has {len(model.graph.output)} outputs ({names}): polytope compiles "
            "networks with one output; export the one you mean"
        )
    reader = _Reader(model, source)
    output, head = reader.read()
    graph = reader.builder.finish(output)
    native = source_model(model, source, graph.output_shape)
    reference: Evaluate | None = native
    if source.dtype != np.float64:
        try:
            reference = source_model(in_double(model), source, graph.output_shape)
        except UnsupportedOperation:  # nothing runs it in float64: `native` is the check
            reference = None
    return Imported(graph, native, source.dtype, reference, head, tuple(reader.notices))


def _load(path: Path) -> onnx.ModelProto:
    """The checked model of a file."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.exists():
        raise FileProblem(f"there is no file '{path}': check the path")
    if not path.is_file():
        raise FileProblem(f"'{path}' is not a file: give the path of an .onnx file")
    try:
        if path.stat().st_size == 0:
            raise FileProblem(f"'{path}' is empty (0 bytes): export the model again")
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise FileProblem(
            f"'{path}' is not an ONNX file, or is damaged or cut short: export the model again"
        ) from error
    except OSError as error:
        raise FileProblem(f"'{path}' cannot be read: {error.strerror or error}") from error
    _check_versions(path, model)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except OSError as error:
        raise FileProblem(
            f"weights that '{path}' stores in another file cannot be read: {_line(error)}; "
            "put that file beside it"
        ) from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise FileProblem(
            f"'{path}' is not a valid ONNX model: {_line(error)}; export the model again"
        ) from error
    return model


def _check_versions(path: Path, model: onnx.ModelProto) -> None:
    """Refuse what is no model, or of a version that the installed package cannot read."""
    import onnx

    if model.ir_version < 1 or not model.HasField("graph") or not model.graph.output:
        raise FileProblem(f"'{path}' is not an ONNX model, or is damaged: export the model again")
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedOperation(
            f"'{path}' has ONNX format version {model.ir_version}, newer than the installed "
            f"onnx package's {onnx.IR_VERSION}: pip install --upgrade onnx, or export an older one"
        )
    newest = onnx.defs.onnx_opset_version()
    opset = _opset(model)
    if not OLDEST_OPSET <= opset <= newest:
        raise UnsupportedOperation(
            f"'{path}' uses ONNX operation set {opset}, and {OLDEST_OPSET} to {newest} are "
            "supported: export it again with opset_version=13, say"
        )
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            raise UnsupportedOperation(
                f"ONNX operation {node.op_type} (node '{node.name}', output "
                f"'{', '.join(node.output)}'): no such operation in the ONNX standard"
            )


def _opset(model: onnx.ModelProto) -> int:
    """Version of the standard operations (0 if the model names none)."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(versions, default=0))


def _line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .")


def _model_input(graph: onnx.GraphProto, input_shape: Sequence[int] | None) -> ModelInput:
    """The model's one input, its sizes settled with the caller's."""
    import onnx

    stored = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise InputError(
            f"the model has {len(inputs)} inputs ({names}): polytope compiles networks with one "
            "input; export the model with the others fixed"
        )
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    dtypes = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}
    if kind.elem_type not in dtypes:
        got = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise InputError(
            f"the model's input '{name}' is of type {got}: polytope compiles models of float32 "
            "or float64 (double); export it as one"
        )
    dtype = np.dtype(dtypes[kind.elem_type])
    if input_shape is not None and not all(int(n) == n and n > 0 for n in input_shape):
        raise InputError(f"input_shape must hold whole numbers above 0, got {tuple(input_shape)}")
    wanted = None if input_shape is None else tuple(int(n) for n in input_shape)
    sizes = [int(d.dim_value) or None for d in kind.shape.dim]
    told = f"({', '.join(str(n or '?') for n in sizes)})"
    if wanted is None:
        batched = len(sizes) > 1
        rest = sizes[1:] if batched else sizes
        known = tuple(n for n in rest if n is not None)
        if len(known) < len(rest) or not rest:
            raise InputError(
                f"the model's input '{name}' has shape {told} with sizes left open: give "
                "input_shape, without the batch"
            )
        return ModelInput(name, dtype, known, batched, sizes[0] if batched else None)
    batched = len(wanted) == len(sizes) - 1
    rest = sizes[1:] if batched else sizes
    if len(wanted) != len(rest) or any(
        n is not None and n != m for n, m in zip(rest, wanted, strict=True)
    ):
        raise InputError(
            f"input_shape {wanted} does not fit the model's input '{name}' of shape {told}, "
            "whose first axis is the batch: leave input_shape out, or give the shape without it"
        )
    return ModelInput(name, dtype, wanted, batched, sizes[0] if batched else None)


class _Reader:
    """Walks the nodes that the output needs, keeping what each name stands for."""

    def __init__(self, model: onnx.ModelProto, source: ModelInput) -> None:
        self.model = model
        self.builder = GraphBuilder()
        self.notices: list[str] = []
        x = self.builder.input(source.shape)
        if not source.batched:
            x = self.builder.reshape(x, source.shape, "input")
        elif source.batch is not None and source.batch > 1:
            whole = (source.batch, *source.shape)
            self.notices.append(
                f"the model is made for batches of {source.batch}: its first axis is read as the "
                f"batch; if it is part of the input, give input_shape {whole}"
            )
        self.names: dict[str, Operand] = {source.name: x}

    def read(self) -> tuple[Value, str | None]:
        """The value whose graph is wanted, and the head that was taken off."""
        from polytope.network import onnx_call, onnx_ops

        graph = self.model.graph
        if graph.sparse_initializer:
            raise UnsupportedOperation(
                "the model holds sparse weights, which are not supported: export them dense"
            )
        producers = {name: node for node in graph.node for name in node.output}
        wanted, last = _before_head(graph.output[0].name, producers)
        needed = _needed(wanted, producers)
        for tensor in graph.initializer:
            if tensor.name in needed:
                array = onnx_call.tensor_array(tensor)
                self.names[tensor.name] = array
        opset = _opset(self.model)
        for node in graph.node:
            if needed.isdisjoint(node.output):
                continue
            operands = tuple(self.names[name] if name else None for name in node.input)
            call = onnx_call.Call(self.builder, node, operands, opset, self.notices)
            results = onnx_ops.apply(call)
            extra = [name for name in node.output[len(results) :] if name in needed]
            if extra:
                call.refuse(f"its further output '{extra[0]}' is not supported")
            self.names.update(zip(node.output, results, strict=False))
        output = self.names[wanted]
        if not isinstance(output, Value):
            raise InputError(
                f"the model's output '{graph.output[0].name}' does not depend on its input"
            )
        if last is None:
            return output, None
        _check_head(last, output, opset)
        self.notices.append(
            f"the trailing {last.op_type} (node '{last.name}') is taken off: the compiled "
            "network gives what goes into it (the logits)"
        )
        return output, HEADS[last.op_type]


def _before_head(
    name: str, producers: Mapping[str, onnx.NodeProto]
) -> tuple[str, onnx.NodeProto | None]:
    """The name of the output without its head, and the head's node."""
    node = producers.get(name)
    if node is not None and node.op_type == "Identity":
        return _before_head(node.input[0], producers)
    if node is None or node.op_type not in HEADS:
        return name, None
    return node.input[0], node


def _check_head(node: onnx.NodeProto, logits: Value, opset: int) -> None:
    """A softmax that is taken off must run over all outputs."""
    if node.op_type == "Sigmoid":
        return
    given = {attribute.name: attribute.i for attribute in node.attribute}
    rank = len(logits.shape)
    axis = given.get("axis", -1 if opset >= 13 else 1) % max(rank, 1)
    over = logits.shape[axis:] if opset < 13 else logits.shape[axis : axis + 1]
    if int(np.prod(over)) != logits.size:
        raise UnsupportedOperation(
            f"ONNX operation {node.op_type} (node '{node.name}', output '{node.output[0]}'): "
            f"over axis {axis} of {logits.shape}; it can be taken off only where it runs over "
            "all outputs"
        )


def _needed(name: str, producers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """All names that an output is computed from, itself included."""
    needed: set[str] = set()
    stack = [name]
    while stack:
        current = stack.pop()
        if current and current not in needed:
            needed.add(current)
            if current in producers:
                stack.extend(producers[current].input)
    return needed
