"""The table of torch operations: what each becomes in the graph, or why it is refused."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from polytope.network import torch_linear as linear
from polytope.network.build import Value, reduction_index
from polytope.network.torch_constants import Constant
from polytope.network.torch_linear import Operand, as_constant, each
from polytope.network.torch_reader import Handler, Indices, RefusalError, TorchReader
from polytope.network.windows import adaptive_windows, window_index

# Identities --------------------------------------------------------------------------------


def to(r: TorchReader, name: str, self: Value, dtype: Any = None, **_: object) -> Value:
    """A cast between floating dtypes, which changes nothing here."""
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise RefusalError(f"it rounds the data to {dtype}, which is not continuous")
    return r.builder.reshape(self, self.shape, name)


# Activations -------------------------------------------------------------------------------


def relu(r: TorchReader, name: str, self: Value) -> Value:
    """``max(z, 0)``."""
    return r.builder.relu(self, name)


def relu6(r: TorchReader, name: str, self: Value) -> Value:
    """``min(max(z, 0), 6)``."""
    return r.builder.clamp(self, 0.0, 6.0, name)


def absolute(r: TorchReader, name: str, self: Value) -> Value:
    """``|z|``."""
    return r.builder.abs(self, name)


def leaky_relu(r: TorchReader, name: str, self: Value, negative_slope: float) -> Value:
    """``z`` above 0, ``negative_slope * z`` below."""
    return r.builder.leaky_relu(self, negative_slope, name)


def rrelu(r: TorchReader, name: str, self: Value, lower: float, upper: float, **_: object) -> Value:
    """RReLU in evaluation: a LeakyReLU of the mean slope."""
    return r.builder.leaky_relu(self, (lower + upper) / 2, name)


def prelu(r: TorchReader, name: str, self: Value, weight: Operand) -> Value:
    """LeakyReLU with a learned slope, for all channels or for each."""
    slope = as_constant(r, weight)
    if slope.value.numel() > 1:
        ones = (1,) * (len(self.shape) - 2)
        slope = r.fold(torch.reshape, slope, (slope.value.numel(), *ones))
    else:
        slope = r.fold(torch.reshape, slope, ())
    pieces = r.fold(torch.stack, [slope, r.fold(torch.ones_like, slope)], -1)
    return r.builder.piecewise(self, "prelu", [0.0], r.key(pieces), [0.0, 0.0], name)


def hardtanh(r: TorchReader, name: str, self: Value, min_val: float, max_val: float) -> Value:
    """``min(max(z, min_val), max_val)``."""
    return r.builder.clamp(self, min_val, max_val, name)


def hardsigmoid(r: TorchReader, name: str, self: Value) -> Value:
    """``min(max(z + 3, 0), 6) / 6``, the division exact."""
    raised = r.builder.piecewise(
        self, "hardsigmoid", [-3.0, 3.0], [0.0, 1.0, 0.0], [0.0, 3.0, 6.0], name
    )
    return linear.divide(r, name, raised, r.fixed(6.0))


def threshold(r: TorchReader, name: str, self: Value, threshold: float, value: float) -> Value:
    """``z`` above the threshold, a value below; only if they meet."""
    if value != threshold:
        raise RefusalError(
            f"it jumps from {value} to {threshold} and is not continuous; use value = threshold"
        )
    return r.builder.clamp(self, threshold, None, name)


def clamp(
    r: TorchReader, name: str, self: Value, min: Operand | None = None, max: Operand | None = None
) -> Value:
    """``min(max(z, min), max)``; a bound may be a tensor, even of data."""
    if not isinstance(min, Value | Constant) and not isinstance(max, Value | Constant):
        return r.builder.clamp(self, min, max, name)
    raised = self if min is None else extremum(r, name, self, min, largest=True)
    return raised if max is None else extremum(r, name, raised, max, largest=False)


# Maxima ------------------------------------------------------------------------------------


def extremum(r: TorchReader, name: str, a: Operand, b: Operand, largest: bool) -> Value:
    """The larger or smaller of two, one of them perhaps constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        return (r.builder.maximum if largest else r.builder.minimum)([a, b], name)
    x, bound = (a, as_constant(r, b)) if isinstance(a, Value) else (b, as_constant(r, a))
    assert isinstance(x, Value)
    if bound.fixed and bound.value.numel() == 1:
        x = r.builder.broadcast(x, np.broadcast_shapes(x.shape, bound.value.shape), name)
        level = float(bound.value)
        low, high = (level, None) if largest else (None, level)
        return r.builder.clamp(x, low, high, name)
    x = r.builder.broadcast(x, np.broadcast_shapes(x.shape, bound.value.shape), name)
    bound = r.fold(per_element, bound, len(x.shape), x.shape[0] == 1)
    zero = r.fold(torch.zeros_like, bound)
    intercepts = r.fold(torch.stack, [bound, zero] if largest else [zero, bound], -1)
    slopes = [0.0, 1.0] if largest else [1.0, 0.0]
    edge = r.key(r.fold(torch.unsqueeze, bound, -1))
    return r.builder.piecewise(x, "clamp", edge, slopes, r.key(intercepts), name)


def per_element(constant: torch.Tensor, rank: int, batched: bool) -> torch.Tensor:
    """A constant that broadcasts to a logical shape, made to broadcast to the graph's."""
    full = constant.double().reshape((1,) * (rank - constant.ndim) + tuple(constant.shape))
    return full[0] if batched and rank else full


def binary(largest: bool) -> Handler:
    """Elementwise maximum or minimum of two."""

    def handler(r: TorchReader, name: str, self: Operand, other: Operand) -> Value:
        return extremum(r, name, self, other, largest)

    return handler


def reduced(largest: bool, with_indices: bool = False) -> Handler:
    """Max and min over all elements or one axis, amax and amin over axes."""

    def handler(
        r: TorchReader,
        name: str,
        self: Value,
        dim: int | Sequence[int] | None = None,
        keepdim: bool = False,
        other: Operand | None = None,
    ) -> Value | tuple[Value, Indices]:
        if other is not None:
            return extremum(r, name, self, other, largest)
        axes = [dim] if isinstance(dim, int) else list(dim or ())
        x = self if largest else r.builder.negate(self, name)
        y = r.builder.max(x, *reduction_index(x, axes, keepdim), name)
        y = y if largest else r.builder.negate(y, name)
        return (y, Indices()) if with_indices and isinstance(dim, int) else y

    return handler


# Pooling -----------------------------------------------------------------------------------


def windows(
    x: Value,
    rank: int,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """The windows of a pooling over the last `rank` axes."""
    kernel = each(kernel_size, rank)
    steps = each(stride, rank) if len(stride) else kernel
    return window_index(
        x.shape, kernel, steps, each(padding, rank), each(dilation, rank), ceil_mode
    )


def max_pool(rank: int, with_indices: bool = False) -> Handler:
    """Max-pooling over the last `rank` axes."""

    def handler(r: TorchReader, name: str, self: Value, **geometry: Any) -> Any:
        index, shape, _ = windows(self, rank, **geometry)
        y = r.builder.max(self, index, shape, name)
        return (y, Indices()) if with_indices else y

    return handler


def avg_pool(rank: int) -> Handler:
    """Average pooling over the last `rank` axes."""

    def handler(
        r: TorchReader,
        name: str,
        self: Value,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        **geometry: Any,
    ) -> Value:
        index, shape, padded = windows(self, rank, **geometry)
        counts = padded if count_include_pad else (index >= 0).sum(axis=1)
        if divisor_override is not None:
            if divisor_override < 1:
                raise RefusalError(f"its divisor {divisor_override} must be positive")
            counts = np.full(len(index), divisor_override)
        return r.builder.pool(self, index, counts, shape, name)

    return handler


def adaptive_avg_pool(r: TorchReader, name: str, self: Value, output_size: Sequence[int]) -> Value:
    """Average over windows that share an axis out evenly."""
    index, shape, counts = adaptive_windows(self.shape, output_size)
    return r.builder.pool(self, index, counts, shape, name)


def adaptive_max_pool(
    r: TorchReader, name: str, self: Value, output_size: Sequence[int]
) -> tuple[Value, Indices]:
    """Maximum over windows that share an axis out evenly."""
    index, shape, _ = adaptive_windows(self.shape, output_size)
    return r.builder.max(self, index, shape, name), Indices()


# Smooth activations ------------------------------------------------------------------------


def smooth(kind: str) -> Handler:
    """A smooth activation without parameters."""

    def handler(r: TorchReader, name: str, self: Value) -> Value:
        return r.builder.smooth(self, kind, (), name)

    return handler


def softplus(r: TorchReader, name: str, self: Value, beta: float, threshold: float) -> Value:
    """``log(1 + exp(beta z)) / beta``, linear where ``beta z`` is above the threshold."""
    return r.builder.smooth(self, "softplus", (beta, threshold), name)


def elu(
    r: TorchReader, name: str, self: Value, alpha: float, scale: float, input_scale: float
) -> Any:
    """ELU, times a scale."""
    if input_scale != 1:
        raise RefusalError("an ELU with an input scale is not supported")
    return linear.scale(r, name, r.builder.smooth(self, "elu", (alpha,), name), scale)


#: The two constants of self-normalising networks (Klambauer et al. 2017), as torch has them.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def selu(r: TorchReader, name: str, self: Value) -> Any:
    """SELU: an ELU times a scale."""
    return elu(r, name, self, SELU_ALPHA, SELU_SCALE, 1)


def celu(r: TorchReader, name: str, self: Value, alpha: float) -> Any:
    """``alpha * elu(z / alpha)``, where the division is exact."""
    if math.frexp(abs(alpha))[0] != 0.5:
        raise RefusalError(
            f"a CELU with alpha = {alpha} cannot be written exactly with an ELU; "
            "use a power of two, or nn.ELU"
        )
    inner = linear.scale(r, name, self, 1 / alpha)
    assert isinstance(inner, Value)
    return linear.scale(r, name, r.builder.smooth(inner, "elu", (1.0,), name), alpha)


# The table ---------------------------------------------------------------------------------


def _named(handler: Callable[..., Any], *names: str) -> dict[str, Handler]:
    return dict.fromkeys(names, handler)


_max, _min = functools.partial(reduced, True), functools.partial(reduced, False)

HANDLERS: dict[str, Handler] = {
    **_named(to, "_to_copy"),
    **_named(linear.add, "add"),
    **_named(linear.sub, "sub", "subtract"),
    **_named(linear.rsub, "rsub"),
    **_named(linear.neg, "neg", "negative"),
    **_named(linear.mul, "mul", "multiply"),
    **_named(linear.div, "div", "divide", "true_divide"),
    **_named(linear.total, "sum"),
    **_named(linear.mean, "mean"),
    **_named(linear.batch_norm, "_native_batch_norm_legit_no_training"),
    **_named(linear.linear, "linear"),
    **_named(linear.matmul, "matmul", "mm", "bmm", "mv", "dot"),
    **_named(linear.addmm, "addmm", "addmv", "baddbmm"),
    **_named(linear.einsum, "einsum"),
    **_named(linear.conv, "conv1d", "conv2d", "conv3d"),
    **_named(linear.conv_transpose, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    **_named(relu, "relu"),
    **_named(relu6, "relu6"),
    **_named(absolute, "abs", "absolute"),
    **_named(leaky_relu, "leaky_relu"),
    **_named(rrelu, "rrelu"),
    **_named(prelu, "prelu"),
    **_named(hardtanh, "hardtanh"),
    **_named(hardsigmoid, "hardsigmoid"),
    **_named(threshold, "threshold"),
    **_named(clamp, "clamp", "clamp_min", "clamp_max"),
    **_named(binary(largest=True), "maximum", "fmax"),
    **_named(binary(largest=False), "minimum", "fmin"),
    "max": _max(with_indices=True),
    "min": _min(with_indices=True),
    "amax": _max(),
    "amin": _min(),
    **{f"max_pool{n}d": max_pool(n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": max_pool(n, with_indices=True) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": avg_pool(n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": adaptive_max_pool for n in (1, 2, 3)},
    **_named(smooth("sigmoid"), "sigmoid"),
    **_named(smooth("tanh"), "tanh"),
    **_named(smooth("atan"), "atan", "arctan"),
    **_named(softplus, "softplus"),
    **_named(elu, "elu"),
    **_named(selu, "selu"),
    **_named(celu, "celu"),
}

#: Operations that keep every element in its place; a trailing sigmoid may stand before them.
RESHAPES = frozenset(
    ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "clone", "detach", "alias")
)

#: Operations that only move data (and perhaps fill cells with constants), as torch.export and
#: torch's decompositions leave them: flatten is a view by then, and narrow a slice.
MOVES = RESHAPES | frozenset(
    ("expand", "permute", "transpose", "t", "select", "slice", "split", "unsafe_split", "unbind",
     "flip", "fliplr", "flipud", "roll", "rot90", "pad", "constant_pad_nd", "unfold", "im2col",
     "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "stack", "cat", "concat", "hstack",
     "vstack", "dstack", "index_select", "index", "gather", "take", "diagonal", "diag", "tril",
     "masked_fill", "where", "select_scatter", "slice_scatter", "index_copy", "fill", "repeat",
     "tile", "repeat_interleave", "upsample_nearest1d", "upsample_nearest2d")
)  # fmt: skip

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "rms_norm", "linalg_vector_norm", "std",
         "var"),
        "it divides by a statistic of its own input, so it is not piecewise linear",
    ),
    "_native_batch_norm_legit": (
        "it normalises with the statistics of the batch; keep running statistics"
    ),
    **dict.fromkeys(
        ("lstm", "gru", "lstm_cell", "gru_cell", "glu"),
        "it multiplies gates that depend on the input; nn.RNN(nonlinearity='relu') is supported",
    ),
    **dict.fromkeys(
        ("gelu", "silu", "mish", "log_sigmoid", "hardswish", "exp", "log", "sqrt", "sin", "cos",
         "erf", "pow", "square", "logsumexp"),
        "this smooth function is not supported; sigmoid, tanh, arctan, softplus and ELU are, for "
        "bounds, and ReLU, LeakyReLU or Hardtanh for exact analysis",
    ),
    **dict.fromkeys(
        ("softmax", "log_softmax"), "only a trailing one, over the last axis, can be taken off"
    ),
    **dict.fromkeys(
        ("gt", "ge", "lt", "le", "eq", "ne", "sign", "heaviside"),
        "a comparison of data is not continuous; use maximum, clamp or relu",
    ),
    **dict.fromkeys(
        ("argmax", "argmin", "topk", "sort", "argsort"),
        "positions and orders are not continuous; return the logits",
    ),
    "item": "it reads a number out of the data, which may steer the control flow",
    "reciprocal": "it divides by a quantity that depends on the input",
    **dict.fromkeys(("prod", "scaled_dot_product_attention"), linear.PRODUCT),
}  # fmt: skip
