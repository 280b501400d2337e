"""Rounding of the bounds: the constants of the error analysis and sums that may be infinite.

With ``u`` half the machine epsilon, a sum of n products is computed, in any order, within
``gamma_n = n u / (1 - n u)`` times the sum of the absolute products, and one operation within
``u`` times its computed result (Higham, Accuracy and Stability of Numerical Algorithms,
sections 2.2 and 3.1).  A product that underflows loses at most the smallest normal number.
"""

from __future__ import annotations

import torch

#: Room for the rounding of the error bounds themselves and for the (n u)^2 terms.
SLACK = 1.01


def gamma(terms: int, dtype: torch.dtype) -> float:
    """The relative error of a sum of products: ``n u / (1 - n u)``."""
    unit = torch.finfo(dtype).eps / 2
    return terms * unit / (1 - terms * unit)


def below(x: torch.Tensor) -> torch.Tensor:
    """A number below every real that one addition rounds to `x` (`x` itself where it is 0)."""
    return torch.where(torch.isfinite(x), x - torch.finfo(x.dtype).eps * x.detach().abs(), x)


def above(x: torch.Tensor) -> torch.Tensor:
    """A number above every real that one addition rounds to `x` (`x` itself where it is 0)."""
    return torch.where(torch.isfinite(x), x + torch.finfo(x.dtype).eps * x.detach().abs(), x)


def contract(a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``sum_i a[n, s, i] v[n, i]`` where ``0 * inf`` counts as 0: (n, s).

    Parameters
    ----------
    a : tensor (n or 1, s, size)
    v : tensor (n or 1, size) or (n, s, size)
        Its infinities must all push a sum to one side.
    """
    endless = torch.isinf(v)
    if not bool(endless.any()):
        return _contract(a, v)
    count = _contract(a.sign(), torch.where(endless, v.sign(), torch.zeros_like(v)))
    finite = _contract(a, torch.where(endless, torch.zeros_like(v), v))
    return torch.where(count == 0, finite, count * torch.inf)


def _contract(a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if v.ndim == 3:
        return (a * v).sum(dim=2)
    if len(a) == 1:
        return v @ a[0].T
    return torch.matmul(a, v.unsqueeze(2)).squeeze(2)
