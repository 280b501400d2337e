"""Distance from a point to a hyperplane inside a box, for any l_p norm, batched.

For each row: minimise ``||delta||_p`` subject to ``<w, delta> = -r`` and ``l <= delta <= u``,
where r is the hyperplane's value at the point and l <= 0 <= u are the box's slacks there
(``low - x`` and ``high - x``). Source: MMR (arXiv 1810.07481), appendix A.1, which names the
problem and its one-dimensional dual; the algorithms and their laws are stated where they are used.

Only coordinates with a weight and with room to lower |r| move, each against the sign of its
weight, so with ``a = |w|``, ``c`` the room and ``R = |r|`` the problem is ``min ||m||_p`` subject
to ``sum a m = R, 0 <= m <= c``. Everything below speaks of a, c, m and R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from solvers._projection_torch import ProjectionStatus, torch_rows, weights_and_room
from solvers.errors import ProblemError
from solvers.norms import NormLike, dual_exponent, parse_norm, vector_norm

ArrayLike: TypeAlias = Tensor | npt.NDArray[np.floating[Any]]
Engine: TypeAlias = Literal["auto", "compiled", "torch"]

__all__ = [
    "Projection",
    "ProjectionStatus",
    "dual_bound",
    "hyperplane_distance",
    "project_to_hyperplane",
]

# The torch engine holds about a dozen temporaries of this many float64 at once (about 400 MB).
CHUNK_ELEMENTS = 2**22


@dataclass(frozen=True)
class Projection:
    """The result of `project_to_hyperplane`; all tensors on the input's device.

    Attributes
    ----------
    distance : Tensor (...)
        The l_p distance, infinite if the box does not meet the hyperplane. Differentiable.
    multiplier : Tensor (...)
        The hyperplane's multiplier, d distance / d residual: 0 where the residual is 0, signed
        infinity where the distance is infinite (the price of a Farkas proof). `dual_bound`
        turns it into a lower bound.
    status : Tensor (...), int8
        A `ProjectionStatus` per row.
    delta : Tensor (..., d) or None
        A nearest step, NaN where there is none; only if asked for. Not differentiable. Unique
        for 1 < p < inf; for p = inf the one with the smallest steps, for p = 1 ties in order.
    """

    distance: Tensor
    multiplier: Tensor
    status: Tensor
    delta: Tensor | None


def project_to_hyperplane(
    normal: ArrayLike,
    residual: ArrayLike | float,
    lower: ArrayLike | float,
    upper: ArrayLike | float,
    p: NormLike,
    *,
    return_delta: bool = False,
    engine: Engine = "auto",
) -> Projection:
    """Return the l_p distance from a point to hyperplanes inside a box, exactly, row by row.

    Parameters
    ----------
    normal : Tensor or array (..., d), float32 or float64
        The normals w, finite.
    residual : broadcastable to (...)
        ``<w, x> + b``, the hyperplane's value at the point, finite.
    lower, upper : broadcastable to (..., d)
        The slacks ``low - x <= 0`` and ``high - x >= 0``; infinite where the box is open, 0 where
        the coordinate is frozen. Not copied per row: (B, 1, d) beside normals (B, n, d) is cheap.
    p : number or str
        The norm, in [1, inf].
    return_delta : bool
        Also return the steps (as large as ``normal``).
    engine : {"auto", "compiled", "torch"}
        Compiled loops (CPU only) or batched torch; "auto" takes the compiled ones on a CPU.

    Returns
    -------
    Projection

    Raises
    ------
    ProblemError
        NaN or infinite normals or residuals, lower > 0 or upper < 0 (the point is outside the
        box), shapes, dtypes or devices that do not fit, p below 1, an unknown engine.

    Notes
    -----
    All arithmetic is float64; float32 input is widened and only the results are rounded. The step
    satisfies its constraints to ``d * 2.2e-16`` relative to ``|r|``, and the duality gap is as
    small relative to ``max(distance, |multiplier * r|)`` (the error that rounding r would cause).
    Results below the smallest normal float (2.2e-308) lose digits as such floats do.

    Gradients with respect to normal, residual, lower and upper follow the envelope theorem; at a
    kink they are one subgradient. They are 0 in rows whose status is not OPTIMAL.

    The time is linear in d, times usually 3 to 8 Newton steps (at worst d: p very close to 1).
    """
    exponent = parse_norm(p)
    w = _floats("normal", normal, None)
    if w.ndim == 0 or w.shape[-1] == 0:
        raise ProblemError(
            f"normal: got shape {tuple(w.shape)}, expected (..., d) with d >= 1; pass one row per "
            "hyperplane"
        )
    if engine not in ("auto", "compiled", "torch"):
        raise ProblemError(f"engine: got {engine!r}, expected 'auto', 'compiled' or 'torch'")
    if engine == "compiled" and w.device.type != "cpu":
        raise ProblemError(
            f"engine: got 'compiled' for tensors on {w.device}, expected tensors on the cpu; "
            "pass engine='torch' or 'auto'"
        )
    # Widened before they are expanded, so that shared bounds stay shared.
    r = _expand("residual", _floats("residual", residual, w).double(), w.shape[:-1])
    lo = _expand("lower", _floats("lower", lower, w).double(), w.shape)
    up = _expand("upper", _floats("upper", upper, w).double(), w.shape)
    _check_values(w, r, lo, up)
    compiled = engine == "compiled" or (engine == "auto" and w.device.type == "cpu")
    distance, multiplier, status, delta = _Distance.apply(  # type: ignore[no-untyped-call]
        w.double(), r, lo, up, exponent, compiled, return_delta
    )
    return Projection(
        distance=distance.to(w.dtype),
        multiplier=multiplier.to(w.dtype),
        status=status,
        delta=delta.to(w.dtype) if return_delta else None,
    )


def hyperplane_distance(normal: Tensor, residual: Tensor, p: NormLike) -> Tensor:
    """Return the l_p distance to hyperplanes without a box, ``|r| / ||w||_q`` (MMR Eq. 8).

    Parameters
    ----------
    normal : Tensor (..., d)
        The normals w.
    residual : Tensor (...)
        ``<w, x> + b``.
    p : number or str
        The norm, in [1, inf]; q is its dual.

    Returns
    -------
    Tensor (...)
        The distances; where w = 0, 0 if the residual is 0 and else infinite. Differentiable.

    Raises
    ------
    ProblemError
        If p is not in [1, inf].
    """
    size = vector_norm(normal, dual_exponent(p))
    flat = size == 0
    distance = residual.abs() / torch.where(flat, 1.0, size)
    return torch.where(flat & (residual != 0), math.inf, distance)


def dual_bound(
    normal: Tensor,
    residual: Tensor,
    lower: Tensor,
    upper: Tensor,
    p: NormLike,
    multiplier: Tensor,
    distance: Tensor,
) -> Tensor:
    """Return a lower bound on the distance by weak duality, whatever the last two arguments are.

    For a multiplier lambda and any ``0 <= z <= a``, Hoelder's inequality gives
    ``||m||_p >= (R - sum (a - z) c) / ||z||_q``; a multiplier of the sign of r prices the
    residual, and of the other sign proves nothing but 0. Here
    ``z = min(a, (c / distance)^(p-1) / |lambda|)``, which at the optimal pair gives the optimum.
    An infinite multiplier gives z = 0: an infinite bound where ``R > sum a c`` (unreachable).

    Parameters
    ----------
    normal, residual, lower, upper, p
        As in `project_to_hyperplane`, tensors that broadcast.
    multiplier, distance : Tensor (...)
        Any numbers (distance > 0); those of a `Projection` give a bound equal to its distance.

    Returns
    -------
    Tensor (...)
        The bounds, at least 0; valid up to the rounding of this evaluation.
    """
    exponent = parse_norm(p)
    goal = residual * torch.sign(multiplier)
    a, c = weights_and_room(normal, torch.sign(multiplier), lower, upper)
    z = _priced(a, c, multiplier.abs(), distance, exponent)
    blocked = torch.where(torch.isinf(c), 0.0, c)  # z = a there
    numerator = goal - ((a - z) * blocked).sum(-1)
    size = vector_norm(z, dual_exponent(exponent))
    bound = numerator / torch.where(size > 0, size, 1.0)
    bound = torch.where((size == 0) & (numerator > 0), math.inf, bound)
    proved = (multiplier != 0) & (distance > 0)
    return torch.where(proved, bound.clamp(min=0), 0.0)


def _priced(a: Tensor, c: Tensor, price: Tensor, distance: Tensor, p: float) -> Tensor:
    """Return z = min(a, (c / D)^(p-1) / price): price * z is the gradient of the norm at m.

    It is price * a on a coordinate below its cap; what is missing is the cap's multiplier.
    """
    size = distance.unsqueeze(-1)
    if p == math.inf:
        z = torch.where(c >= size, a, 0.0)
    else:
        share = torch.ones_like(c) if p == 1.0 else (c / size) ** (p - 1.0)
        z = torch.minimum(a, share / price.unsqueeze(-1))
    return torch.where(torch.isinf(c), a, z)


def _floats(name: str, value: ArrayLike | float, like: Tensor | None) -> Tensor:
    """Read an argument as a floating tensor; ``like`` is the normals, once they are read."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and like is not None:
        value = torch.tensor(float(value), dtype=like.dtype, device=like.device)
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProblemError(
            f"{name}: got {type(value).__name__}, expected a float tensor or array"
        ) from error
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ProblemError(
            f"{name}: got dtype {tensor.dtype}, expected float64 or float32; "
            f"convert it first, as in {name}.double()"
        )
    if like is not None and tensor.device != like.device:
        raise ProblemError(
            f"{name}: got a tensor on {tensor.device}, expected {like.device}, the normals' "
            "device; move one of them"
        )
    return tensor


def _expand(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    try:
        return tensor.expand(shape)
    except RuntimeError as error:
        raise ProblemError(
            f"{name}: got shape {tuple(tensor.shape)}, expected one that broadcasts to "
            f"{tuple(shape)}, as given by the normals"
        ) from error


def _check_values(normal: Tensor, residual: Tensor, lower: Tensor, upper: Tensor) -> None:
    if normal.numel() == 0:
        return
    for name, tensor in (("normal", normal), ("residual", residual)):
        low, high = (float(t) for t in tensor.detach().aminmax())
        if not (-math.inf < low and high < math.inf):  # NaN fails both
            raise ProblemError(
                f"{name}: got NaN or infinite entries, expected finite numbers; check the "
                "weights and the point"
            )
    for name, tensor, flip in (("lower", lower, 1.0), ("upper", upper, -1.0)):
        worst = float((flip * _distinct_rows(tensor.detach())[0]).max())
        if not worst <= 0.0:
            raise ProblemError(
                f"{name}: got a slack of {flip * worst}, expected lower <= 0 <= upper "
                "(low - x and high - x); the point must lie in the box"
            )


class _Distance(torch.autograd.Function):
    """The projection of every row; the backward pass is the envelope theorem."""

    @staticmethod
    def forward(
        ctx: Any,
        normal: Tensor,
        residual: Tensor,
        lower: Tensor,
        upper: Tensor,
        p: float,
        compiled: bool,
        return_delta: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with_gradient = any(ctx.needs_input_grad)
        lead, width = normal.shape[:-1], normal.shape[-1]
        rows = normal.reshape(math.prod(lead), width)
        solve = _solve_compiled if compiled else _solve_torch
        distance, multiplier, status, delta = solve(
            rows,
            residual.reshape(-1),
            *_distinct_rows(lower),
            *_distinct_rows(upper),
            p,
            return_delta or with_gradient,
        )
        distance, multiplier = distance.reshape(lead), multiplier.reshape(lead)
        status = status.reshape(lead)
        delta = delta.reshape(normal.shape) if return_delta or with_gradient else delta
        if with_gradient:
            ctx.p = p
            ctx.save_for_backward(normal, lower, upper, distance, multiplier, status, delta)
        ctx.mark_non_differentiable(multiplier, status, delta)
        return distance, multiplier, status, delta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        normal, lower, upper, distance, multiplier, status, delta = ctx.saved_tensors
        solved = status == ProjectionStatus.OPTIMAL
        price = torch.where(solved, multiplier, 1.0)
        size = torch.where(solved, distance, 1.0)
        grad = torch.where(solved, grad, 0.0)
        step = torch.where(solved.unsqueeze(-1), delta, 0.0)
        on_residual = grad * price
        on_normal = on_residual.unsqueeze(-1) * step
        if not any(ctx.needs_input_grad[2:4]):
            return on_normal, on_residual, None, None, None, None, None
        sign = torch.sign(price)
        a, c = weights_and_room(normal, sign, lower, upper)
        z = _priced(a, c, price.abs(), size, ctx.p)
        on_cap = (grad * price.abs()).unsqueeze(-1) * (a - z)
        downward = sign.unsqueeze(-1) * normal > 0
        on_lower = torch.where(downward, on_cap, 0.0)
        on_upper = torch.where(downward, 0.0, -on_cap)
        return on_normal, on_residual, on_lower, on_upper, None, None, None


def _distinct_rows(bound: Tensor) -> tuple[Tensor, Tensor]:
    """Undo the expansion of (..., d): the distinct rows, and for each row which one it is."""
    lead, compact = bound.shape[:-1], bound
    for dim, size in enumerate(lead):
        if bound.stride(dim) == 0 and size > 1:
            compact = compact.narrow(dim, 0, 1)
    count = math.prod(compact.shape[:-1])
    index = torch.arange(count, device=bound.device).reshape(compact.shape[:-1])
    return compact.reshape(count, bound.shape[-1]), index.expand(lead).reshape(-1)


def _solve_compiled(
    normal: Tensor,
    residual: Tensor,
    lower: Tensor,
    lower_row: Tensor,
    upper: Tensor,
    upper_row: Tensor,
    p: float,
    want_delta: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from solvers import _projection_numba as compiled  # numba is slow to import

    rows, width = normal.shape
    distance, multiplier = residual.new_empty(rows), residual.new_empty(rows)
    delta = normal.new_zeros(rows if want_delta else 0, width)
    status = torch.empty(rows, dtype=torch.int8)
    given = (normal, residual, lower, lower_row, upper, upper_row)
    w, r, lo, lo_row, up, up_row = (t.detach().contiguous().numpy() for t in given)
    found = (distance.numpy(), multiplier.numpy(), delta.numpy(), status.numpy())
    compiled.project_rows(w, r, lo, lo_row, up, up_row, p, want_delta, *found)
    return distance, multiplier, status, delta


def _solve_torch(
    normal: Tensor,
    residual: Tensor,
    lower: Tensor,
    lower_row: Tensor,
    upper: Tensor,
    upper_row: Tensor,
    p: float,
    want_delta: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, width = normal.shape
    distance, multiplier = residual.new_empty(rows), residual.new_empty(rows)
    delta = normal.new_empty(rows if want_delta else 0, width)
    status = torch.empty(rows, dtype=torch.int8, device=normal.device)
    chunk = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, rows, chunk):
        part = slice(start, min(start + chunk, rows))
        w, r = normal[part], residual[part]
        lo, up = lower[lower_row[part]], upper[upper_row[part]]
        distance[part], multiplier[part], status[part], step = torch_rows(w, r, lo, up, p)
        if want_delta:
            delta[part] = step
    return distance, multiplier, status, delta
