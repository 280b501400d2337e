"""The recursion of RecurJac through a chain of fully connected layers, compiled.

The same as the walk of recurjac.py, a function at a time.  Units that are off (slope 0) are left
out, units that pay hand nothing on and are left out of the next product, and a function shares
its products with its negative, whose units of known sign are the same.  On large layers most of
the work is gone that way, and what is left stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polytope.bounds.payment import Payment

#: Multiplications per function below which tensors over all functions at once are faster.
WORTH = 2**17


@dataclass(frozen=True, eq=False)
class Link:
    """A dense matrix and the layer of units behind it.

    Attributes
    ----------
    matrix : float64 (size before, units)
        ``tangents @ matrix`` is what the units read.
    live : tuple of int64 arrays, one per sample
        The units that are not off.
    pay : tuple of float64 (functions, 2, 2, live units), one per sample
        For each function and its negative, what positive and negative tangents pay.
    alive : tuple of tuples of int64 arrays, per sample and function
        Positions among the live units of those that hand anything on.
    keep : tuple of tuples of float64 (2, 2, alive units)
    """

    matrix: np.ndarray
    live: tuple[np.ndarray, ...]
    pay: tuple[np.ndarray, ...]
    alive: tuple[tuple[np.ndarray, ...], ...]
    keep: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def of(cls, matrix: torch.Tensor, payment: Payment) -> Link:
        """A link from a matrix (size before, units) and its units' payments, of any device."""
        up, down, keep_up, keep_down = (
            v.cpu().numpy() for v in (payment.up, payment.down, payment.keep_up, payment.keep_down)
        )
        n, functions = up.shape[0], up.shape[1] // 2

        def sides(v: np.ndarray, i: int) -> np.ndarray:
            return np.asarray(v[i].reshape(2, functions, -1).swapaxes(0, 1))

        live, pay, alive, keep = [], [], [], []
        for i in range(n):
            used = (up[i] != 0) | (down[i] != 0) | (keep_up[i] != 0) | (keep_down[i] != 0)
            own = np.flatnonzero(used.any(axis=0))
            live.append(own)
            pays = np.stack([sides(up, i), sides(down, i)], axis=2)
            keeps = np.stack([sides(keep_up, i), sides(keep_down, i)], axis=2)[..., own]
            pay.append(np.ascontiguousarray(pays[..., own]))
            where = [np.flatnonzero((keeps[j] != 0).any(axis=(0, 1))) for j in range(functions)]
            alive.append(tuple(where))
            keep.append(tuple(np.ascontiguousarray(keeps[j][..., w]) for j, w in enumerate(where)))
        return cls(
            np.ascontiguousarray(matrix.cpu().numpy()), tuple(live), tuple(pay), tuple(alive),
            tuple(keep),
        )  # fmt: skip


def worthwhile(links: Sequence[Link], rows: int) -> bool:
    """Whether the chain is long and wide enough for so many tangents."""
    work = sum(link.matrix.size for link in links[1:])
    return rows * work >= WORTH


def run_chain(
    links: Sequence[Link], start: np.ndarray, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Payments of tangents on their way through a chain, and their absolute sums.

    Parameters
    ----------
    links : sequence of Link
        At least one; the last one hands nothing on.
    start : float64 (n or 1, 2 functions or 1, directions, size before the first), or int64
        For the functions, then for their negatives; or (directions,), places of unit tangents.
    samples : int
        n.

    Returns
    -------
    two float64 arrays (n, 2 functions, directions)
    """
    unit = start.ndim == 1
    functions, count = len(links[0].alive[0]), len(start) if unit else start.shape[2]
    total, size = (np.zeros((samples, functions, 2, count)) for _ in range(2))
    for i in range(samples):
        matrix = links[0].matrix[:, links[0].live[i]]
        own = start if unit else start[i if len(start) > 1 else 0]
        shared = unit or len(own) == 1
        first = matrix[own] if unit else own[0] @ matrix
        for j in range(functions):
            t = first
            if not shared:
                t = own[[j, functions + j]].reshape(2 * count, -1) @ matrix
            _follow(links, i, j, t, shared, total[i, j], size[i, j])
    shape = (samples, 2 * functions, count)
    return total.swapaxes(1, 2).reshape(shape), size.swapaxes(1, 2).reshape(shape)


def _follow(
    links: Sequence[Link], sample: int, function: int, t: np.ndarray, shared: bool,
    total: np.ndarray, size: np.ndarray,
) -> None:  # fmt: skip
    """Tangents of one function and of its negative from the first layer of units on."""
    from polytope.bounds.chain_kernels import pass_units  # compiled: only when it is wanted

    count = total.shape[1]
    for k, link in enumerate(links):
        alive = link.alive[sample][function]
        out = np.empty((2 * count, len(alive)))
        pass_units(
            t, shared, link.pay[sample][function], link.keep[sample][function], alive, total,
            size, out,
        )  # fmt: skip
        if not len(alive) or k + 1 == len(links):
            return
        behind = links[k + 1]
        rows = link.live[sample][alive]
        t, shared = out @ behind.matrix[rows[:, None], behind.live[sample]], False
