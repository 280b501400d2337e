"""ONNX operations that are linear in the computed value: sums, scales, products, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.build import Value
from polytope.network.onnx_call import Call, Operand
from polytope.network.torch_linear import batch_norm_scale

# Sums and products with constants ----------------------------------------------------------


def shift(call: Call, x: Value, offset: np.ndarray, key: str) -> Value:
    """``x + offset`` for a constant, broadcast by numpy's rules."""
    builder = call.builder
    if not offset.any():
        return builder.broadcast(x, np.broadcast_shapes(x.shape, offset.shape), call.name)
    return builder.affine(x, None, builder.constant(offset.astype(float), key), call.name)


def scale(call: Call, x: Value, factor: np.ndarray, key: str) -> Value:
    """``x * factor`` for a constant, broadcast by numpy's rules."""
    builder = call.builder
    if (factor == 1).all():
        return builder.broadcast(x, np.broadcast_shapes(x.shape, factor.shape), call.name)
    return builder.affine(x, builder.constant(factor.astype(float), key), None, call.name)


def divide(call: Call, x: Value, divisor: np.ndarray) -> Value:
    """``x / divisor``: exact for powers of two and whole numbers, else rounded and said so."""
    builder, key = call.builder, f"{call.name}.reciprocal"
    if not divisor.all():
        raise InputError(f"{call.place}: division by zero; mend the model's constants")
    mantissa, _ = np.frexp(np.abs(divisor.astype(float)))
    if (mantissa == 0.5).all():
        return scale(call, x, 1.0 / divisor, key)
    if (divisor == np.rint(divisor)).all() and np.abs(divisor).max() < 2**53:
        x = builder.broadcast(x, np.broadcast_shapes(x.shape, divisor.shape), call.name)
        x = scale(call, x, np.sign(divisor), f"{call.name}.sign")
        whole = np.broadcast_to(np.abs(divisor).astype(np.int64), x.shape).reshape(-1)
        return builder.pool(x, np.arange(x.size)[:, None], whole, x.shape, call.name)
    call.notices.append(
        f"{call.place}: the reciprocals of its divisors are rounded to float64 (relative "
        "deviation at most 1.2e-16); the compiled network multiplies by them"
    )
    return scale(call, x, 1.0 / divisor, key)


def add_up(call: Call) -> Value:
    """Add and Sum: any number of values and constants."""
    values = [operand for operand in call.operands if isinstance(operand, Value)]
    total = values[0]
    if len(values) > 1:
        total = call.builder.sum(values, [1] * len(values), call.name)
    for position, operand in enumerate(call.operands):
        if isinstance(operand, np.ndarray):
            total = shift(call, total, operand, call.key(position))
    return total


def mean(call: Call) -> Value:
    """Mean of values and constants, divided exactly."""
    return divide(call, add_up(call), np.array(len(call.operands)))


def subtract(call: Call) -> Value:
    """Sub: a constant may stand on either side."""
    left, right = call.operands
    if isinstance(left, Value) and isinstance(right, Value):
        return call.builder.sum([left, right], [1, -1], call.name)
    if isinstance(left, Value):
        return shift(call, left, -call.weight(1), f"-{call.key(1)}")
    return shift(call, call.builder.negate(call.value(1), call.name), call.weight(0), call.key(0))


def multiply(call: Call) -> Value:
    """Mul by a constant on either side; two values are refused."""
    left, right = call.operands
    if isinstance(left, Value) and isinstance(right, Value):
        call.refuse("the product of two computed values is not piecewise linear")
    if isinstance(left, Value):
        return scale(call, left, call.weight(1), call.key(1))
    return scale(call, call.value(1), call.weight(0), call.key(0))


def div(call: Call) -> Value:
    """Div by a constant; a computed divisor is refused."""
    if isinstance(call.operand(1), Value):
        call.refuse("a division by a computed value is not piecewise linear")
    return divide(call, call.value(), call.weight(1))


def negate(call: Call) -> Value:
    """Neg."""
    return call.builder.negate(call.value(), call.name)


def batch_norm(call: Call) -> Value:
    """BatchNormalization with its evaluation statistics, all exact but the scale."""
    x = call.value()
    if call.attribute("training_mode") or not call.attribute("spatial", 1):
        call.refuse("only evaluation mode with one statistic per channel is supported")
    gamma, beta, centre, variance = (call.weight(position) for position in range(1, 5))
    factor, deviation = batch_norm_scale(
        call.place,
        torch.from_numpy(gamma),
        torch.from_numpy(variance),
        call.attribute("epsilon"),
    )
    call.notices.append(
        f"{call.place}: its scale gamma / sqrt(variance + epsilon) is rounded to float64 "
        f"(relative deviation {deviation:.1e})"
    )
    per_channel = (-1, *(1,) * (len(x.shape) - 2))
    builder, name = call.builder, call.name
    keys = [
        builder.constant(array.reshape(per_channel), f"{name}.{part}")
        for array, part in ((-centre, "shift"), (factor.numpy(), "scale"), (beta, "bias"))
    ]
    return builder.affine(builder.affine(x, None, keys[0], name), keys[1], keys[2], name)


# Matrix products and convolutions ----------------------------------------------------------


def product(call: Call, left: Operand, right: Operand, key: str) -> Value:
    """Product of a value and a constant matrix, on either side, by numpy's rules."""
    builder, name = call.builder, call.name
    if isinstance(left, Value) and isinstance(right, Value):
        call.refuse("the product of two computed values is not piecewise linear")
    constant = right if isinstance(left, Value) else left
    assert isinstance(constant, np.ndarray)
    while constant.ndim > 2 and constant.shape[0] == 1:
        constant = constant[0]
    if constant.ndim not in (1, 2):
        call.refuse(f"a stack of matrices of shape {constant.shape} is not supported")
    vector = constant.ndim == 1
    if isinstance(left, Value):
        matrix = constant[:, None] if vector else constant
        y = builder.linear(left, builder.constant(matrix.T, key), None, name)
        return builder.reshape(y, y.shape[:-1], name) if vector else y
    assert isinstance(right, Value)
    matrix = constant[None, :] if vector else constant
    if len(right.shape) == 1:
        y = builder.linear(right, builder.constant(matrix, key), None, name)
        return builder.reshape(y, y.shape[:-1], name) if vector else y
    y = builder.linear(_swap(call, right), builder.constant(matrix, key), None, name)
    return builder.reshape(y, y.shape[:-1], name) if vector else _swap(call, y)


def _swap(call: Call, x: Value) -> Value:
    return call.builder.gather(x, np.swapaxes(x.positions, -1, -2), call.name)


def matmul(call: Call) -> Value:
    """MatMul with a constant on either side."""
    left, right = call.operands
    assert left is not None
    assert right is not None
    return product(call, left, right, call.key(1 if isinstance(left, Value) else 0))


def gemm(call: Call) -> Value:
    """Gemm: ``alpha A B + beta C`` with A or B constant."""
    alpha, beta = call.attribute("alpha"), call.attribute("beta")
    factors: list[Operand] = []
    for position, flag in enumerate(("transA", "transB")):
        operand = call.operand(position)
        assert operand is not None
        if call.attribute(flag):
            operand = _swap(call, operand) if isinstance(operand, Value) else operand.T
        if isinstance(operand, np.ndarray):
            operand = operand * alpha
        factors.append(operand)
    left, right = factors
    y = product(call, left, right, call.key(1 if isinstance(left, Value) else 0))
    bias = call.operand(2)
    if isinstance(bias, Value):
        return call.builder.sum([y, scale(call, bias, np.array(beta), f"{call.name}.beta")], [1, 1])
    return y if bias is None else shift(call, y, bias * beta, call.key(2))


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and paddings of a convolution or pooling."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]


def window_of(call: Call, x: Value, kernel: Sequence[int]) -> Window:
    """The window that a node's attributes give, automatic padding worked out."""
    rank = len(kernel)
    if len(x.shape) != rank + 2:
        raise InputError(
            f"{call.place}: a kernel of {rank} axes needs an input (1, channels, ...) of "
            f"{rank + 2} axes, got shape {x.shape}; check input_shape"
        )
    stride = tuple(call.attribute("strides", [1] * rank))
    dilation = tuple(call.attribute("dilations", [1] * rank))
    pads = [int(n) for n in call.attribute("pads", [0] * (2 * rank))]
    begin, end = tuple(pads[:rank]), tuple(pads[rank:])
    auto = call.attribute("auto_pad")
    if auto == "VALID":
        begin = end = (0,) * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
        ]
        begin, end = _halves(totals, upper=auto == "SAME_UPPER")
    return Window(tuple(kernel), stride, dilation, begin, end)


def _halves(totals: Sequence[int], upper: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Total paddings split in two, the odd one at the end (upper) or the beginning."""
    small = tuple(total // 2 for total in totals)
    large = tuple(total - half for total, half in zip(totals, small, strict=True))
    return (small, large) if upper else (large, small)


def _filters(call: Call) -> tuple[np.ndarray, str, str | None]:
    weight, bias = call.weight(1), call.constant(2)
    builder = call.builder
    bias_key = None if bias is None else builder.constant(bias, call.key(2))
    return weight, builder.constant(weight, call.key(1)), bias_key


def conv(call: Call) -> Value:
    """Conv; paddings that differ at the two ends are a gather before it."""
    x = call.value()
    weight, weight_key, bias_key = _filters(call)
    window = window_of(call, x, weight.shape[2:])
    padding = window.begin
    if window.begin != window.end:
        x = zero_pad(call, x, window.begin, window.end)
        padding = (0,) * len(padding)
    return call.builder.conv(
        x, weight_key, bias_key, window.stride, padding, window.dilation,
        call.attribute("group"), name=call.name,
    )  # fmt: skip


def conv_transpose(call: Call) -> Value:
    """ConvTranspose; paddings that differ at the two ends are a cut after it."""
    x = call.value()
    weight, weight_key, bias_key = _filters(call)
    rank = weight.ndim - 2
    window = window_of(call, x, weight.shape[2:])
    extra = tuple(call.attribute("output_padding", [0] * rank))
    begin, end = window.begin, window.end
    auto = call.attribute("auto_pad")
    sizes = call.attribute("output_shape")
    if sizes is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [n * s for n, s in zip(x.shape[2:], window.stride, strict=True)]
    if sizes is not None:
        spans = [d * (k - 1) + 1 for d, k in zip(window.dilation, window.kernel, strict=True)]
        full = zip(x.shape[2:], window.stride, spans, extra, strict=True)
        totals = [
            (n - 1) * s + span + e - size
            for (n, s, span, e), size in zip(full, sizes[-rank:], strict=True)
        ]
        begin, end = _halves(totals, upper=auto == "SAME_UPPER")
    both = tuple(min(b, e) for b, e in zip(begin, end, strict=True))
    if min(both, default=0) < 0:
        call.refuse(f"output_shape {list(sizes or ())} is larger than the convolution gives")
    y = call.builder.conv(
        x, weight_key, bias_key, window.stride, both, window.dilation,
        call.attribute("group"), True, extra, call.name,
    )  # fmt: skip
    if begin == end:
        return y
    cut = tuple(
        slice(b - p, n - (e - p)) for b, e, p, n in zip(begin, end, both, y.shape[2:], strict=True)
    )
    return call.builder.gather(y, y.positions[(slice(None), slice(None), *cut)], call.name)


def zero_pad(call: Call, x: Value, begin: Sequence[int], end: Sequence[int]) -> Value:
    """Zeros before and behind the trailing axes."""
    lead = [(0, 0)] * (len(x.shape) - len(begin))
    widths = [*lead, *zip(begin, end, strict=True)]
    return call.builder.gather(x, np.pad(x.positions, widths, constant_values=-1), call.name)
