"""Run an ONNX model as it is: the source that a compiled graph is held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from polytope.errors import InputError, UnsupportedOperation
from polytope.network.source import Evaluate

if TYPE_CHECKING:
    from polytope.network.from_onnx import ModelInput

_FLOAT, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
#: Rows given at a time to a model with a free batch: bounds its memory.
_ROWS = 256

Run = Callable[[np.ndarray], np.ndarray]


def source_model(
    model: onnx.ModelProto, source: ModelInput, output_shape: tuple[int, ...]
) -> Evaluate:
    """The model as a function of a batch of inputs.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    source : ModelInput
        Its input.
    output_shape : tuple of int
        Shape of one output, without the batch.

    Returns
    -------
    callable
        Takes float64 inputs (n, *input_shape), rounds them to the model's dtype, and returns
        float64 outputs (n, *output_shape).  Rows are run together where the model's batch is
        free and it can; else one by one, or in the batch it is made for (the last row
        repeated to fill it).

    Raises
    ------
    UnsupportedOperation
        Nothing here can run the model in its dtype.
    """
    dtype = np.float64 if _elem_type(model, source.name) == _DOUBLE else np.float32
    run = _runner(model, source.name)
    step = 1
    if source.batched:
        step = source.batch or (_ROWS if _takes_batches(run, source, dtype, output_shape) else 1)

    def evaluate(inputs: np.ndarray) -> np.ndarray:
        rows = np.asarray(inputs).astype(dtype)
        results = [np.empty((0, *output_shape))]
        for first in range(0, len(rows), step):
            batch = rows[first : first + step]
            count = len(batch)
            if source.batch is not None and count < source.batch:
                batch = np.concatenate([batch, np.repeat(batch[-1:], source.batch - count, axis=0)])
            output = run(batch if source.batched else batch[0])
            if output.size != len(batch) * math.prod(output_shape):
                raise InputError(
                    f"the ONNX model gives an output of shape {output.shape} for inputs of shape "
                    f"{batch.shape}, not one of {output_shape} per row: its first axis is no "
                    "batch; export it with a batch of one"
                )
            results.append(output.reshape(len(batch), *output_shape)[:count].astype(np.float64))
        return np.concatenate(results)

    return evaluate


def _takes_batches(
    run: Run, source: ModelInput, dtype: type, output_shape: tuple[int, ...]
) -> bool:
    """Whether a model with a free batch really gives one output per row (some fix it inside)."""
    try:
        output = run(np.zeros((2, *source.shape), dtype))
    except InputError:
        return False
    return output.shape[:1] == (2,) and output.size == 2 * math.prod(output_shape)


def _runner(model: onnx.ModelProto, name: str) -> Run:
    """Run by onnxruntime on one CPU thread; by numpy where it is missing or refuses."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return _numpy_runner(model, name)
    errors = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except errors:  # an operation that it lacks in this dtype, a version newer than it
        return _numpy_runner(model, name)

    def run(inputs: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {name: inputs})[0])
        except errors as error:
            raise _cannot_run(inputs, error) from error

    return run


def _numpy_runner(model: onnx.ModelProto, name: str) -> Run:
    """The `onnx` package's own implementation of the standard, in numpy."""
    for node in model.graph.node:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "ConvTranspose" and (
            given.get("group", 1) > 1 or "output_shape" in given
        ):
            # onnx 1.23 gives errors and wrong shapes here.
            raise UnsupportedOperation(
                f"ONNX operation ConvTranspose (node '{node.name}', output '{node.output[0]}'): "
                "with groups or output_shape only onnxruntime can run it, in float32: install "
                "onnxruntime, and export the model in float32"
            )
    evaluator = ReferenceEvaluator(model)

    def run(inputs: np.ndarray) -> np.ndarray:
        try:
            (output,) = evaluator.run(None, {name: inputs})
            return np.asarray(output)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _cannot_run(inputs, error) from error

    return run


def _cannot_run(inputs: np.ndarray, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the ONNX model cannot be run on inputs of shape {inputs.shape} (batch included): "
        f"{reason}; check input_shape"
    )


def _elem_type(model: onnx.ModelProto, name: str) -> int:
    return next(int(i.type.tensor_type.elem_type) for i in model.graph.input if i.name == name)


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float32 model that computes in float64, its weights the same numbers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]
    for entry in (*graph.input, *graph.output):
        if entry.type.tensor_type.elem_type == _FLOAT:
            entry.type.tensor_type.elem_type = _DOUBLE
    for tensor in graph.initializer:
        _promote(tensor)
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1))
            node.attribute.append(onnx.helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _promote(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                single = attribute.name == "value_float"
                array = np.array(attribute.f if single else list(attribute.floats))
                tensor = numpy_helper.from_array(array)
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
    return copy


def _promote(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
