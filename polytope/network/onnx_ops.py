"""What each ONNX operation means in the compiled graph: one small function per operation.

Operands are `Value` (computed from the network's input) or numpy arrays (constants: float64
as read exactly from the file, int64 or bool).  Operations on constants alone, and operations
that only move data, are run by the `onnx` package's own numpy implementation, so each opset's
conventions are the standard's; the others are in the table `OPERATIONS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import numpy as np
import onnx

from polytope.errors import InputError, UnsupportedOperation
from polytope.network import onnx_linear as linear
from polytope.network.build import Value, reduction_index
from polytope.network.onnx_call import Call, Operand
from polytope.network.windows import window_index

#: Operations that only move elements of their first input: run on an array of positions.
MOVES = frozenset(
    (
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)
#: Operations whose result depends on the shape of the input alone.
SHAPES = frozenset(("Shape", "Size"))
#: Operations that draw random numbers: constant in form only.
RANDOM = frozenset(
    (
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    )
)
_LARGEST = float(np.finfo(np.float32).max)
_FLOATS = frozenset(
    (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    )
)


def apply(call: Call) -> Sequence[Operand]:
    """The results of a node: arrays where it has constant inputs only, values otherwise.

    Raises
    ------
    UnsupportedOperation
        The operation, or this use of it, is not piecewise linear or not known.
    InputError
        The operation does not fit its inputs.
    """
    op_type = call.node.op_type
    subgraphs = any(a.type == onnx.AttributeProto.GRAPH for a in call.node.attribute)
    if call.node.domain not in ("", "ai.onnx") or op_type in RANDOM or subgraphs:
        call.refuse(f"not supported (domain '{call.node.domain or 'ai.onnx'}')")
    arrays = [operand for operand in call.operands if not isinstance(operand, Value)]
    try:
        if len(arrays) == len(call.operands):
            return call.evaluate(arrays)
        if op_type in SHAPES:
            return call.evaluate([call.value().positions])
        if op_type in MOVES:
            return _move(call)
        if op_type not in OPERATIONS:
            call.refuse(
                "not supported; polytope compiles piecewise-linear operations and the smooth "
                "activations Sigmoid, Tanh, Atan, Softplus and Elu"
            )
        result = OPERATIONS[op_type](call)
        return result if isinstance(result, list) else [result]
    except (InputError, UnsupportedOperation):
        raise
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        shapes = ", ".join(str(o.shape) for o in call.operands if o is not None)
        raise InputError(
            f"{call.place} does not fit its inputs of shapes {shapes} (batch of one included): "
            f"{str(error).strip() or type(error).__name__}; check input_shape, or export the "
            "model for a batch of one or a dynamic batch"
        ) from error


# Moving data -------------------------------------------------------------------------------


def _move(call: Call) -> list[Operand]:
    x = call.value()
    rest = [call.constant(position) for position in range(1, len(call.operands))]
    indices = call.evaluate([x.positions, *rest])
    return [call.builder.gather(x, index, call.name) for index in indices]


def _promote(call: Call, operand: Operand) -> Value:
    """A constant as a value of the graph: zeros, shifted."""
    if isinstance(operand, Value):
        return operand
    source = Value(0, (1, *call.builder.nodes[0].shape))
    zeros = call.builder.gather(source, np.full(operand.shape, -1, np.int64), call.name)
    return linear.shift(call, zeros, operand, f"{call.name}.constant")


def _concat(call: Call) -> Value:
    parts = [_promote(call, operand) for operand in call.operands if operand is not None]
    return call.builder.concat(parts, call.attribute("axis"), call.name)


def _pad(call: Call) -> Value:
    x = call.value()
    rank = len(x.shape)
    mode = call.attribute("mode")
    if call.opset < 11:
        pads, fill = np.asarray(call.attribute("pads")), call.attribute("value")
        axes = np.arange(rank)
    else:
        value, chosen = call.constant(2), call.constant(3)
        pads, fill = call.weight(1), 0.0 if value is None else float(value.item())
        axes = np.arange(rank) if chosen is None else chosen % rank
    widths = np.zeros((rank, 2), dtype=np.int64)
    widths[axes] = pads.reshape(2, -1).T
    if (widths < 0).any() and mode != "constant":
        call.refuse(f"negative pads are not supported in mode '{mode}'")
    cut = tuple(
        slice(max(0, -begin), n - max(0, -end))
        for n, (begin, end) in zip(x.shape, widths.tolist(), strict=True)
    )
    extra = [(max(0, begin), max(0, end)) for begin, end in widths.tolist()]
    inside = x.positions[cut]
    if mode == "constant":
        index = np.pad(inside, extra, constant_values=-1)
    elif mode in ("reflect", "edge", "wrap"):
        index = np.pad(inside, extra, mode=mode)
    else:
        call.refuse(f"mode '{mode}' is not supported")
    padded = call.builder.gather(x, index, call.name)
    return linear.shift(call, padded, np.where(index < 0, fill, 0.0), f"{call.name}.fill")


def _identity(call: Call) -> Value:
    return call.value()


def _dropout(call: Call) -> Value:
    training = call.constant(2)
    if training is not None and training.any():
        call.refuse("training mode is random; export the model in evaluation mode")
    return call.value()


def _cast(call: Call) -> Value:
    target = call.attribute("to")
    if target not in _FLOATS:
        name = onnx.TensorProto.DataType.Name(target)
        call.refuse(f"a computed value is cast to {name}, which is not piecewise linear")
    return call.value()


# Pooling and reductions --------------------------------------------------------------------


def _pool_windows(call: Call) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    x = call.value()
    window = linear.window_of(call, x, call.attribute("kernel_shape", ()))
    ceil_mode = bool(call.attribute("ceil_mode"))
    return window_index(
        x.shape, window.kernel, window.stride, window.begin, window.dilation, ceil_mode, window.end
    )


def _average_pool(call: Call) -> Value:
    index, shape, padded_count = _pool_windows(call)
    count = padded_count if call.attribute("count_include_pad") else (index >= 0).sum(axis=1)
    if not count.all():
        raise InputError(f"{call.place}: a window lies wholly in the padding; use less padding")
    return call.builder.pool(call.value(), index, count, shape, call.name)


def _max_pool(call: Call) -> Value:
    index, shape, _ = _pool_windows(call)
    return call.builder.max(call.value(), index, shape, call.name)


def _global_average(call: Call) -> Value:
    x = call.value()
    return call.builder.reduce(x, range(2, len(x.shape)), True, True, call.name)


def _global_max(call: Call) -> Value:
    x = call.value()
    index, shape = reduction_index(x, range(2, len(x.shape)), True)
    return call.builder.max(x, index, shape, call.name)


def _axes(call: Call) -> list[int] | None:
    """Axes of a reduction; None where the node does nothing."""
    given = call.constant(1)
    axes = call.attribute("axes", []) if given is None else given.reshape(-1).tolist()
    if not axes and call.attribute("noop_with_empty_axes"):
        return None
    return [int(axis) for axis in axes]


def _reduce(call: Call, mean: bool) -> Value:
    x, axes = call.value(), _axes(call)
    keepdims = bool(call.attribute("keepdims"))
    return x if axes is None else call.builder.reduce(x, axes, keepdims, mean, call.name)


def _reduce_max(call: Call, sign: int = 1) -> Value:
    x, axes = call.value(), _axes(call)
    if axes is None:
        return x
    if sign < 0:
        x = call.builder.negate(x, call.name)
    index, shape = reduction_index(x, axes, bool(call.attribute("keepdims")))
    y = call.builder.max(x, index, shape, call.name)
    return call.builder.negate(y, call.name) if sign < 0 else y


# Nonlinear functions -----------------------------------------------------------------------


def _relu(call: Call) -> Value:
    return call.builder.relu(call.value(), call.name)


def _abs(call: Call) -> Value:
    return call.builder.abs(call.value(), call.name)


def _leaky_relu(call: Call) -> Value:
    return call.builder.leaky_relu(call.value(), call.attribute("alpha"), call.name)


def _per_element(x: Value, array: np.ndarray) -> np.ndarray:
    """A constant that broadcasts to a logical shape, made to broadcast to the graph's."""
    return array[0] if array.ndim == len(x.shape) and x.shape[0] == 1 else array


def _prelu(call: Call) -> Value:
    x, slope = call.value(), call.weight(1)
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        call.refuse(f"slopes of shape {slope.shape} do not broadcast to {x.shape}")
    slope = _per_element(x, slope)
    slopes = np.stack([slope, np.ones_like(slope)], axis=-1)
    return call.builder.piecewise(x, "prelu", [0.0], slopes, [0.0, 0.0], call.name)


def _clip(call: Call) -> Value:
    if call.opset < 11:
        bounds = [call.attribute("min"), call.attribute("max")]
    else:
        given = (call.constant(1), call.constant(2))
        bounds = [None if bound is None else float(bound.item()) for bound in given]
    # Exporters write the largest float32 where they mean no bound.
    low, high = (None if b is None or abs(b) >= _LARGEST else b for b in bounds)
    return call.builder.clamp(call.value(), low, high, call.name)


def _hard_sigmoid(call: Call) -> Value:
    alpha, beta = call.attribute("alpha"), call.attribute("beta")
    x = linear.scale(call, call.value(), np.array(alpha), f"{call.name}.alpha")
    x = linear.shift(call, x, np.array(beta), f"{call.name}.beta")
    return call.builder.clamp(x, 0.0, 1.0, call.name)


def _extremum(call: Call, largest: bool) -> Value:
    """Max and Min: any number of values and constants."""
    builder = call.builder
    values = [operand for operand in call.operands if isinstance(operand, Value)]
    arrays = [operand for operand in call.operands if isinstance(operand, np.ndarray)]
    y = values[0]
    if len(values) > 1:
        y = (builder.maximum if largest else builder.minimum)(values, call.name)
    if not arrays:
        return y
    bound = functools.reduce(np.maximum if largest else np.minimum, arrays).astype(float)
    y = builder.broadcast(y, np.broadcast_shapes(y.shape, bound.shape), call.name)
    if bound.size == 1:
        low, high = (bound.item(), None) if largest else (None, bound.item())
        return builder.clamp(y, low, high, call.name)
    bound = _per_element(y, bound)
    pieces = [(0.0, bound), (1.0, np.zeros_like(bound))]
    slopes, intercepts = zip(*(pieces if largest else reversed(pieces)), strict=True)
    table = np.stack(intercepts, axis=-1)
    return builder.piecewise(y, "clamp", bound[..., None], slopes, table, call.name)


def _smooth(kind: str) -> Callable[[Call], Value]:
    return lambda call: call.builder.smooth(call.value(), kind, (), call.name)


def _elu(call: Call) -> Value:
    return call.builder.smooth(call.value(), "elu", (call.attribute("alpha"),), call.name)


def _softplus(call: Call) -> Value:
    # torch's softplus, and its default threshold: linear where the difference is below 3e-9.
    return call.builder.smooth(call.value(), "softplus", (1.0, 20.0), call.name)


def _head(call: Call) -> NoReturn:
    call.refuse(
        "not piecewise linear in the middle of a network; it is taken off only as the last "
        "operation, over all outputs"
    )


#: Operations on values, by ONNX operation type.
OPERATIONS: Mapping[str, Callable[[Call], Value | list[Value]]] = {
    "Abs": _abs,
    "Add": linear.add_up,
    "Atan": _smooth("atan"),
    "AveragePool": _average_pool,
    "BatchNormalization": linear.batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": linear.conv,
    "ConvTranspose": linear.conv_transpose,
    "Div": linear.div,
    "Dropout": _dropout,
    "Elu": _elu,
    "Gemm": linear.gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "HardSigmoid": _hard_sigmoid,
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _head,
    "MatMul": linear.matmul,
    "Max": functools.partial(_extremum, largest=True),
    "MaxPool": _max_pool,
    "Mean": linear.mean,
    "Min": functools.partial(_extremum, largest=False),
    "Mul": linear.multiply,
    "Neg": linear.negate,
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMax": _reduce_max,
    "ReduceMean": functools.partial(_reduce, mean=True),
    "ReduceMin": functools.partial(_reduce_max, sign=-1),
    "ReduceSum": functools.partial(_reduce, mean=False),
    "Relu": _relu,
    "Sigmoid": _smooth("sigmoid"),
    "Softmax": _head,
    "Softplus": _softplus,
    "Sub": linear.subtract,
    "Sum": linear.add_up,
    "Tanh": _smooth("tanh"),
}
