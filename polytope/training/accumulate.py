"""A sum whose terms are differentiated one by one, so that only one is ever in memory.

A regulariser over a batch is a sum over chunks of points, rows and input coordinates.  Were it
built as one graph, all chunks would live until `backward`.  Here each term is made,
differentiated and let go while the sum is formed; what is kept is one gradient per parameter,
which `backward` scales.  It costs what `backward` would have cost: nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from polytope.errors import InputError

#: Makes the terms from the constants and further tensors: leaves, whose gradients are wanted.
Terms = Callable[[Mapping[str, torch.Tensor], Sequence[torch.Tensor]], Iterator[torch.Tensor]]


def accumulated(
    terms: Terms, constants: Mapping[str, torch.Tensor], *others: torch.Tensor
) -> torch.Tensor:
    """The sum of the terms, differentiable once in the constants and the other tensors.

    Parameters
    ----------
    terms : callable
        Called with leaves that stand for `constants` and `others`; yields scalars.
    constants : mapping of str to tensor
    *others : tensor

    Returns
    -------
    tensor ()
    """
    keys = list(constants)
    result: torch.Tensor = _Accumulated.apply(  # type: ignore[no-untyped-call]
        terms, keys, *constants.values(), *others
    )
    return result


class _Accumulated(torch.autograd.Function):
    """Gradients are made in `forward`; `backward` scales them."""

    @staticmethod
    def forward(ctx: Any, terms: Terms, keys: list[str], *tensors: torch.Tensor) -> torch.Tensor:
        needed = ctx.needs_input_grad[2:]
        leaves = [
            tensor.detach().requires_grad_(need)
            for tensor, need in zip(tensors, needed, strict=True)
        ]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        sums: list[torch.Tensor | None] = [None] * len(wanted)
        total = tensors[-1].new_zeros((), dtype=_dtype(tensors))
        constants = dict(zip(keys, leaves, strict=False))
        others = tuple(leaves[len(keys) :])
        with torch.set_grad_enabled(bool(wanted)):
            for term in terms(constants, others):
                total += term.detach()
                if not term.requires_grad:
                    continue
                found = torch.autograd.grad(term, wanted, allow_unused=True)
                for i, gradient in enumerate(found):
                    if gradient is not None:
                        held = sums[i]
                        sums[i] = gradient if held is None else held.add_(gradient)
        ctx.needed = needed
        ctx.save_for_backward(*sums)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "create_graph=True: got it for a loss whose gradient is already taken, expected "
                "False; these losses can be differentiated once only"
            )
        found = iter(ctx.saved_tensors)
        scaled = []
        for need in ctx.needed:
            gradient = next(found) if need else None
            scaled.append(None if gradient is None else gradient * grad)
        return None, None, *scaled


def _dtype(tensors: tuple[torch.Tensor, ...]) -> torch.dtype:
    """The floating dtype of the work."""
    return next(t.dtype for t in tensors if t.is_floating_point())
