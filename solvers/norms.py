"""The norm exponent p and its dual q, read and used the same way everywhere.

p is any number in [1, inf]; ``1/p + 1/q = 1`` with 1 and inf dual to each other, so that
``|<w, x>| <= ||w||_q ||x||_p`` (Hoelder) holds with equality for some x.
"""

from __future__ import annotations

import math
from typing import SupportsFloat, TypeAlias

import torch

from solvers.errors import ProblemError

NormLike: TypeAlias = SupportsFloat | str

__all__ = ["NormLike", "dual_exponent", "parse_norm", "vector_norm"]


def parse_norm(p: NormLike) -> float:
    """Read a norm exponent.

    Parameters
    ----------
    p : number or str
        ``1``, ``2``, ``3.0``, ``math.inf``, ``"inf"``, ``"2"``, ...

    Returns
    -------
    float
        The exponent, in [1, inf].

    Raises
    ------
    ProblemError
        For anything that is not a number of at least 1 (NaN and booleans included).
    """
    value = math.nan
    if not isinstance(p, bool):
        try:
            value = float(p)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
    if not value >= 1.0:
        raise ProblemError(
            f"norm p: got {p!r}, expected a number in [1, inf]; "
            "pass 1, 2, 'inf' or any real number of at least 1"
        )
    return value


def dual_exponent(p: NormLike) -> float:
    """Return q with 1/p + 1/q = 1: the exponent of the dual norm (1 <-> inf, 2 <-> 2).

    Raises
    ------
    ProblemError
        If p is not in [1, inf].
    """
    value = parse_norm(p)
    if value == 1.0:
        return math.inf
    # 1 + 1/(p - 1) rather than p/(p - 1): exact at p = inf, no cancellation near p = 1.
    return 1.0 + 1.0 / (value - 1.0)


def vector_norm(x: torch.Tensor, p: NormLike, dim: int = -1) -> torch.Tensor:
    """Return ``||x||_p`` along one dimension, for entries of any size.

    The entries are divided by the largest first, so no power overflows or underflows: the result
    is infinite only if it exceeds the dtype's range.

    Parameters
    ----------
    x : Tensor, float32 or float64, any shape and device
    p : number or str
        The norm exponent, in [1, inf].
    dim : int
        The dimension that is summed over. An empty one gives 0.

    Returns
    -------
    Tensor
        The norms, x's shape without ``dim``. Differentiable; at 0 the gradient is 0.

    Raises
    ------
    ProblemError
        If p is not in [1, inf].
    """
    value = parse_norm(p)
    if x.shape[dim] == 0:
        return x.sum(dim)
    if value == 1.0 or value == math.inf:
        norm: torch.Tensor = torch.linalg.vector_norm(x, value, dim=dim)
        return norm
    # The norm does not depend on the scale, so a detached scale leaves the gradient exact.
    scale = x.detach().abs().amax(dim, keepdim=True)
    scale = torch.where((scale > 0) & torch.isfinite(scale), scale, torch.ones_like(scale))
    norm = torch.linalg.vector_norm(x / scale, value, dim=dim)
    return scale.squeeze(dim) * norm
