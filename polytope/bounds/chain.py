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
#: Tangents of a function that are taken together, so that they stay in the cache.
ROWS = 1024


@dataclass(frozen=True, eq=False)
class Link:
    """A dense matrix and the layer of units behind it.

    Attributes
    ----------
    matrix : float64 (size before, units)
        ``tangents @ matrix`` is what the units read.
    order : tuple of tuples of int64 arrays, per sample and function
        The units that are not off: first those that hand anything on, the decided ones of them
        last, then the others.
    pay : tuple of tuples of float64 (2, 2, units in order)
        For a function and its negative, what positive and negative tangents pay.
    keep : tuple of tuples of float64 (2, 2, units that hand on)
        And the factors of what is handed on.
    decided : tuple of (int64 array, float64 array), one per sample
        The units of one slope, and the slopes: they hand on the same for all functions.
    """

    matrix: np.ndarray
    order: tuple[tuple[np.ndarray, ...], ...]
    pay: tuple[tuple[np.ndarray, ...], ...]
    keep: tuple[tuple[np.ndarray, ...], ...]
    decided: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, matrix: torch.Tensor, payment: Payment) -> Link:
        """A link from a matrix (size before, units) and its units' payments, of any device."""
        up, down, keep_up, keep_down = (
            v.cpu().numpy() for v in (payment.up, payment.down, payment.keep_up, payment.keep_down)
        )
        n, functions = up.shape[0], up.shape[1] // 2
        orders, pays, keeps, decided = [], [], [], []
        for i in range(n):
            pay = np.stack([up[i], down[i]], axis=1).reshape(2, functions, 2, -1)
            keep = np.stack([keep_up[i], keep_down[i]], axis=1).reshape(2, functions, 2, -1)
            slope = keep[0, 0, 0]
            same = (slope != 0) & (keep == slope).all(axis=(0, 1, 2))
            hands = (keep != 0).any(axis=(0, 2))
            used = (pay != 0).any(axis=(0, 2)) | hands
            places = np.flatnonzero(same)
            decided.append((places, slope[places]))
            order = [
                np.concatenate([
                    np.flatnonzero(hands[j] & ~same), places, np.flatnonzero(used[j] & ~hands[j])
                ])
                for j in range(functions)
            ]  # fmt: skip
            count = hands.sum(axis=1)
            orders.append(tuple(order))
            pays.append(tuple(pay[:, j][..., order[j]] for j in range(functions)))
            keeps.append(tuple(keep[:, j][..., order[j][: count[j]]] for j in range(functions)))
        dense = np.ascontiguousarray(matrix.cpu().numpy())
        return cls(dense, tuple(orders), tuple(pays), tuple(keeps), tuple(decided))


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
    functions, count = len(links[0].order[0]), len(start) if unit else start.shape[2]
    total, size = (np.zeros((samples, functions, 2, count)) for _ in range(2))
    rows = min(count, ROWS)
    widest = max((len(order) for link in links for order in link.order[0]), default=0)
    space = np.empty((2, 2 * rows * max(widest, max(len(k.matrix[0]) for k in links))))
    for i in range(samples):
        own = start if unit else start[i if len(start) > 1 else 0]
        shared = unit or len(own) == 1
        matrix = links[0].matrix
        whole = matrix[own] if unit else own[0] @ matrix
        common = _through_decided(links, i, whole) if shared and len(links) > 1 else None
        for j in range(functions):
            chain = _Chain.of(links, i, j, common)
            for k in range(0, count, rows):
                part = slice(k, k + rows)
                t = whole[part]
                if not shared:
                    t = own[[j, functions + j], part].reshape(-1, own.shape[2]) @ matrix
                sums = np.zeros((2, 2, len(whole[part])))
                chain.follow(t.take(links[0].order[i][j], axis=1), shared, sums, space, part)
                total[i, j, :, part], size[i, j, :, part] = sums
    shape = (samples, 2 * functions, count)
    return total.swapaxes(1, 2).reshape(shape), size.swapaxes(1, 2).reshape(shape)


def _through_decided(links: Sequence[Link], sample: int, t: np.ndarray) -> np.ndarray:
    """What tangents common to all functions become behind the first layer's decided units."""
    places, slopes = links[0].decided[sample]
    return np.asarray((t[:, places] * slopes) @ links[1].matrix[places])


@dataclass(frozen=True, eq=False)
class _Chain:
    """The links of one sample and function: payments, and the matrices between them.

    Attributes
    ----------
    pay, keep, between : list of arrays
        Up to the first layer that hands nothing on.
    common : float64 (directions, units) or None
        What the second layer reads of the first one's decided units, which then are neither in
        ``keep[0]`` nor in ``between[0]``.
    """

    pay: list[np.ndarray]
    keep: list[np.ndarray]
    between: list[np.ndarray]
    common: np.ndarray | None

    @classmethod
    def of(
        cls, links: Sequence[Link], sample: int, function: int, common: np.ndarray | None
    ) -> _Chain:
        """Of some links; `common` is over all units of the second layer."""
        pay, keep, between = [], [], []
        for k, link in enumerate(links):
            pay.append(link.pay[sample][function])
            keep.append(link.keep[sample][function])
            count = keep[-1].shape[2]
            if not count or k + 1 == len(links):
                break
            if k == 0 and common is not None:
                count -= len(link.decided[sample][0])
                keep[0] = np.ascontiguousarray(keep[0][..., :count])
            rows = link.order[sample][function][:count]
            behind = links[k + 1]
            between.append(behind.matrix[rows[:, None], behind.order[sample][function]])
        if common is not None and between:
            common = common[:, links[1].order[sample][function]]
        return cls(pay, keep, between, common)

    def follow(
        self, t: np.ndarray, shared: bool, sums: np.ndarray, space: np.ndarray, part: slice
    ) -> None:
        """Tangents from the first layer of units on.

        Parameters
        ----------
        t : float64 (2 d or d, units)
        shared : bool
            They are the same for the function and for its negative.
        sums : float64 (2, 2, d), added to
            Payments and their absolute values.
        space : float64 (2, cells)
            For what is handed on, and for what the next units read.
        part : slice
            Which directions these are.
        """
        from polytope.bounds.chain_kernels import pass_units  # compiled: only when it is wanted

        count = 2 * sums.shape[2]
        for k, (pay, keep) in enumerate(zip(self.pay, self.keep, strict=True)):
            out = space[0, : count * keep.shape[2]].reshape(count, keep.shape[2])
            pass_units(t, shared, pay, keep, sums[0], sums[1], out)
            if k == len(self.between):
                return
            matrix = self.between[k]
            behind = space[1, : count * matrix.shape[1]].reshape(count, matrix.shape[1])
            t, shared = np.matmul(out, matrix, out=behind), False
            if k == 0 and self.common is not None:
                own = self.common[part]
                t[: len(own)] += own
                t[len(own) :] += own
