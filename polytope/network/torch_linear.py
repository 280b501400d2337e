"""Rules for the linear operations of torch: sums, products with constants, convolutions."""

from __future__ import annotations

import decimal
import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.build import Value
from polytope.network.torch_constants import Constant
from polytope.network.torch_reader import RefusalError, TorchReader

#: What an arithmetic operation may be given.
Operand = Value | Constant | int | float

PRODUCT = "it multiplies two quantities that both depend on the input"

# Elementwise arithmetic --------------------------------------------------------------------


def as_constant(r: TorchReader, x: Operand) -> Constant:
    """A constant, also from a number."""
    if isinstance(x, Value):
        raise RefusalError("an argument that must be constant depends on the input")
    return x if isinstance(x, Constant) else r.fixed(float(x))


def scale(r: TorchReader, name: str, x: Operand, by: Operand) -> Value | Constant:
    """``x * by`` with at most one factor that depends on the input."""
    if isinstance(x, Value) and isinstance(by, Value):
        raise RefusalError(PRODUCT)
    if isinstance(by, Value):
        x, by = by, x
    factor = as_constant(r, by)
    if not isinstance(x, Value):
        return r.fold(torch.mul, as_constant(r, x), factor)
    if factor.fixed and factor.value.ndim == 0 and factor.value == 1:
        return x
    return r.builder.affine(x, r.key(factor), None, name)


def combine(r: TorchReader, name: str, a: Operand, b: Operand, alpha: float) -> Value:
    """``a + alpha * b``."""
    if isinstance(a, Value) and isinstance(b, Value):
        if alpha == int(alpha):
            return r.builder.sum([a, b], [1, int(alpha)], name)
        scaled = scale(r, name, b, alpha)
        assert isinstance(scaled, Value)
        return r.builder.sum([a, scaled], [1, 1], name)
    if isinstance(a, Value):
        shift = as_constant(r, b)
        shift = shift if alpha == 1 else r.fold(torch.mul, shift, alpha)
        return r.builder.affine(a, None, r.key(shift), name)
    assert isinstance(b, Value)
    x = r.builder.negate(b, name) if alpha == -1 else scale(r, name, b, alpha)
    assert isinstance(x, Value)
    return r.builder.affine(x, None, r.key(as_constant(r, a)), name)


def add(r: TorchReader, name: str, self: Operand, other: Operand, alpha: float = 1) -> Value:
    """``self + alpha * other``."""
    return combine(r, name, self, other, alpha)


def sub(r: TorchReader, name: str, self: Operand, other: Operand, alpha: float = 1) -> Value:
    """``self - alpha * other``."""
    return combine(r, name, self, other, -alpha)


def rsub(r: TorchReader, name: str, self: Operand, other: Operand, alpha: float = 1) -> Value:
    """``other - alpha * self``."""
    return combine(r, name, other, self, -alpha)


def neg(r: TorchReader, name: str, self: Value) -> Value:
    """``-self``."""
    return r.builder.negate(self, name)


def mul(r: TorchReader, name: str, self: Operand, other: Operand) -> Value | Constant:
    """``self * other``, one of them constant."""
    return scale(r, name, self, other)


def div(
    r: TorchReader, name: str, self: Operand, other: Operand, rounding_mode: str | None = None
) -> Value:
    """``self / other``, `other` constant."""
    if rounding_mode is not None:
        raise RefusalError(f"a division that rounds ({rounding_mode!r}) is not continuous")
    if isinstance(other, Value):
        raise RefusalError("it divides by a quantity that depends on the input")
    assert isinstance(self, Value)
    return divide(r, name, self, as_constant(r, other))


def divide(r: TorchReader, name: str, x: Value, divisor: Constant) -> Value:
    """``x / divisor``: exact for powers of two and whole numbers, else rounded and said so."""
    values = divisor.value.double().numpy()
    if not values.all():
        raise InputError(f"{name}: the model divides by zero; mend its constants")
    powers = (np.frexp(np.abs(values))[0] == 0.5).all()
    whole = (values > 0).all() and (values == np.rint(values)).all() and (values < 2**53).all()
    if divisor.fixed and whole and not powers:
        x = r.builder.broadcast(x, np.broadcast_shapes(x.shape, values.shape), name)
        counts = np.broadcast_to(values.astype(np.int64), x.shape).reshape(-1)
        return r.builder.pool(x, np.arange(x.size)[:, None], counts, x.shape, name)
    if not powers:
        r.deviates("the reciprocals of divisors", 2.0**-53)
    return r.builder.affine(x, r.key(r.fold(torch.reciprocal, divisor)), None, name)


def reduce(
    r: TorchReader,
    name: str,
    self: Value,
    mean: bool,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **_: object,
) -> Value:
    """Sum or mean over axes."""
    axes = [dim] if isinstance(dim, int) else list(dim or ())
    return r.builder.reduce(self, axes, keepdim, mean, name)


def total(r: TorchReader, name: str, self: Value, **axes: Any) -> Value:
    """Sum over all elements or over axes."""
    return reduce(r, name, self, False, **axes)


def mean(r: TorchReader, name: str, self: Value, **axes: Any) -> Value:
    """Mean over all elements or over axes."""
    return reduce(r, name, self, True, **axes)


# BatchNorm ---------------------------------------------------------------------------------


def batch_norm(
    r: TorchReader,
    name: str,
    input: Value,
    weight: Constant | None,
    bias: Constant | None,
    running_mean: Constant,
    running_var: Constant,
    eps: float,
    **_: object,
) -> tuple[Value]:
    """``(x - mean) * (gamma / sqrt(var + eps)) + beta``: all exact but the scale, rounded once."""
    channels = running_var.value.numel()
    gamma = weight or r.fold(torch.ones, channels)
    exact, deviation = batch_norm_scale(name, gamma.value, running_var.value, eps)
    r.deviates("the scales gamma / sqrt(variance + eps) of BatchNorm", deviation)
    factor = r.fold(spread_scale, gamma, running_var, eps, value=exact)
    shape = (channels, *(1,) * (len(input.shape) - 2))
    keys = [
        None if constant is None else r.key(r.fold(torch.reshape, constant, shape))
        for constant in (r.fold(torch.neg, running_mean), factor, bias)
    ]
    centred = r.builder.affine(input, None, keys[0], name)
    return (r.builder.affine(centred, keys[1], keys[2], name),)


def spread_scale(gamma: torch.Tensor, variance: torch.Tensor, eps: float) -> torch.Tensor:
    """BatchNorm's scale, differentiable."""
    return gamma / torch.sqrt(variance + eps)


def batch_norm_scale(
    name: str, gamma: torch.Tensor, variance: torch.Tensor, eps: float
) -> tuple[torch.Tensor, float]:
    """BatchNorm's scale correctly rounded to float64, and the largest relative deviation."""
    scales, worst = [], 0.0
    with decimal.localcontext() as context:
        context.prec = 60  # 17 digits decide a float64; 60 leave no doubt about its rounding
        for g, v in zip(gamma.tolist(), variance.tolist(), strict=True):
            spread = decimal.Decimal(v) + decimal.Decimal(eps)
            if spread <= 0:
                raise InputError(
                    f"{name}: BatchNorm's variance + eps is {float(spread)}, and must be "
                    "positive; mend the model's running statistics"
                )
            exact = decimal.Decimal(g) / spread.sqrt()
            scales.append(float(exact))
            if exact:
                worst = max(worst, abs(float(decimal.Decimal(scales[-1]) / exact - 1)))
    return torch.tensor(scales, dtype=torch.float64), worst


# Matrix products ---------------------------------------------------------------------------


def linear(
    r: TorchReader, name: str, input: Operand, weight: Operand, bias: Operand | None = None
) -> Value:
    """``input @ weight.T + bias``; the constant may be on either side."""
    if isinstance(input, Value) and isinstance(weight, Constant) and weight.value.ndim == 2:
        fused = r.key(bias) if isinstance(bias, Constant) else None
        y = r.builder.linear(input, r.key(weight), fused, name)
        return combine(r, name, y, bias, 1) if isinstance(bias, Value) else y
    equation = "...k,nk->...n"
    y = einsum(r, name, equation, [input, weight])
    return y if bias is None else combine(r, name, y, bias, 1)


def matmul(r: TorchReader, name: str, **factors: Operand) -> Value:
    """matmul, mm, bmm, mv, dot: products by numpy's rules, one factor constant."""
    left, right = factors.values()
    a = "k" if _rank(left) == 1 else "...nk"
    b = "k" if _rank(right) == 1 else "...km"
    out = "..." + "n" * (len(a) > 1) + "m" * (len(b) > 1)
    return einsum(r, name, f"{a},{b}->{out}", [left, right])


def addmm(
    r: TorchReader, name: str, self: Operand, beta: float = 1, alpha: float = 1, **factors: Operand
) -> Value:
    """``beta * self + alpha * (a @ b)``: addmm, addmv, baddbmm."""
    y = scale(r, name, matmul(r, name, **factors), alpha)
    return combine(r, name, y, scale(r, name, self, beta), 1)


def einsum(
    r: TorchReader,
    name: str,
    equation: str,
    tensors: Sequence[Operand],
    **_: object,
) -> Value:
    """Einstein's sum with one operand that depends on the input."""
    terms, out = plain_equation(equation, [_rank(t) for t in tensors])
    data = [(t, term) for t, term in zip(tensors, terms, strict=True) if isinstance(t, Value)]
    others = [(t, term) for t, term in zip(tensors, terms, strict=True) if isinstance(t, Constant)]
    if len(data) != 1:
        raise RefusalError(PRODUCT)
    x, letters = data[0]
    if len(set(letters)) < len(letters):
        raise RefusalError(f"a repeated index in {equation!r} is not supported")
    if not others:
        return contract(r, name, x, letters, r.fixed(1.0), "", out)
    needed = "".join(sorted({c for _, term in others for c in term if c in letters + out}))
    if len(others) == 1 and set(others[0][1]) == set(needed) and len(others[0][1]) == len(needed):
        return contract(r, name, x, letters, *others[0], out)
    constants = [constant for constant, _ in others]
    inner = ",".join(term for _, term in others) + "->" + needed
    return contract(r, name, x, letters, r.fold(torch.einsum, inner, constants), needed, out)


def plain_equation(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """An equation's terms and result with letters for its dots and an explicit result."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    dots = [rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True)]
    widest = max((n for n, t in zip(dots, terms, strict=True) if "..." in t), default=0)
    names = "".join(free[:widest])
    if not arrow:
        letters = "".join(terms).replace("...", "")
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        out = ("..." if any("..." in t for t in terms) else "") + "".join(once)
    filled = [t.replace("...", names[widest - n :]) for t, n in zip(terms, dots, strict=True)]
    return filled, out.replace("...", names)


def contract(
    r: TorchReader, name: str, x: Value, x_letters: str, c: Constant, c_letters: str, out: str
) -> Value:
    """The product of data and a constant, with axes named by letters.

    Axes that only one factor has, or that both have and the result has not, make one
    `Linear`; an axis that both factors and the result have (a batch of matrices) makes an
    elementwise product and a sum.
    """
    for letter in sorted(set(x_letters) & set(c_letters)):
        if c.value.shape[c_letters.index(letter)] == 1:
            c = r.fold(torch.squeeze, c, c_letters.index(letter))
            c_letters = c_letters.replace(letter, "")
        elif x.shape[x_letters.index(letter)] == 1:
            axis = x_letters.index(letter)
            x = r.builder.reshape(x, x.shape[:axis] + x.shape[axis + 1 :], name)
            x_letters = x_letters.replace(letter, "")
    alone = [axis for axis, c_ in enumerate(x_letters) if c_ not in c_letters + out]
    if alone:
        x = r.builder.reduce(x, alone, False, False, name)
        x_letters = "".join(c_ for axis, c_ in enumerate(x_letters) if axis not in alone)
    sizes = dict(zip(c_letters, c.value.shape, strict=True))
    sizes.update(zip(x_letters, x.shape, strict=True))
    summed = "".join(c_ for c_ in x_letters if c_ not in out)
    if any(c_ in c_letters and c_ in out for c_ in x_letters):
        order = out + summed
        x = _arrange(r, name, x, x_letters, "".join(c_ for c_ in order if c_ in x_letters))
        x = r.builder.reshape(x, [sizes[c_] if c_ in x_letters else 1 for c_ in order], name)
        inner = "".join(c_ for c_ in order if c_ in c_letters)
        c = r.fold(torch.permute, c, [c_letters.index(c_) for c_ in inner])
        c = r.fold(torch.reshape, c, [sizes[c_] if c_ in c_letters else 1 for c_ in order])
        y = r.builder.affine(x, r.key(c), None, name)
        axes = list(range(len(out), len(order)))
        return r.builder.reduce(y, axes, False, False, name) if axes else y
    kept = "".join(c_ for c_ in out if c_ in x_letters)
    if not c_letters:
        return _arrange(r, name, x, x_letters, out)
    new = "".join(c_ for c_ in out if c_ not in x_letters)
    x = _arrange(r, name, x, x_letters, kept + summed)
    lead = [sizes[c_] for c_ in kept]
    x = r.builder.reshape(x, [*lead, math.prod(sizes[c_] for c_ in summed)], name)
    if c_letters != new + summed:
        c = r.fold(torch.permute, c, [c_letters.index(c_) for c_ in new + summed])
    if len(new) != 1 or len(summed) != 1:
        c = r.fold(torch.reshape, c, [math.prod(sizes[c_] for c_ in new), x.shape[-1]])
    y = r.builder.linear(x, r.key(c), None, name)
    y = r.builder.reshape(y, [*lead, *(sizes[c_] for c_ in new)], name)
    return _arrange(r, name, y, kept + new, out)


def _arrange(r: TorchReader, name: str, x: Value, letters: str, order: str) -> Value:
    """Permute axes named by letters."""
    return r.builder.gather(x, x.positions.transpose([letters.index(c) for c in order]), name)


def _rank(x: Operand) -> int:
    """Number of axes."""
    shape = x.shape if isinstance(x, Value) else x.value.shape if isinstance(x, Constant) else ()
    return len(shape)


# Convolutions ------------------------------------------------------------------------------


def conv(
    r: TorchReader,
    name: str,
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Sequence[int] = (1,),
    padding: str | Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sequence[int] = (0,),
) -> Value:
    """Convolution with constant filters, on torch's own terms."""
    if not isinstance(input, Value) or isinstance(weight, Value) or isinstance(bias, Value):
        raise RefusalError(f"{PRODUCT}, or its filters do")
    filters = as_constant(r, weight)
    kernel = filters.value.shape[2:]
    rank = len(kernel)
    strides, dilations = each(stride, rank), each(dilation, rank)
    if isinstance(padding, str):
        padding, input = same_padding(r, name, input, kernel, dilations, padding)
    return r.builder.conv(
        input,
        r.key(filters),
        None if bias is None else r.key(as_constant(r, bias)),
        strides,
        each(padding, rank),
        dilations,
        groups,
        transposed,
        each(output_padding, rank),
        name,
    )


def conv_transpose(r: TorchReader, name: str, **arguments: Any) -> Value:
    """Transposed convolution with constant filters."""
    return conv(r, name, transposed=True, **arguments)


def same_padding(
    r: TorchReader,
    name: str,
    x: Value,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> tuple[Sequence[int], Value]:
    """Symmetric padding for "same", and the input with the odd cell at its far ends."""
    spans = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    odd = [(0, 0)] * (len(x.shape) - len(kernel)) + [(0, span % 2) for span in spans]
    if any(far for _, far in odd):
        x = r.builder.gather(x, np.pad(x.positions, odd, constant_values=-1), name)
    return [span // 2 for span in spans], x


def each(values: Sequence[int], rank: int) -> tuple[int, ...]:
    """One number per axis, from one for all."""
    return tuple(values) * rank if len(values) == 1 else tuple(values)
