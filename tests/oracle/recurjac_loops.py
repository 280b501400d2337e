"""RecurJac on fully connected networks as the paper writes it: loops over entries, no batches.

``W[l]`` are the weights and ``slopes[l]`` the pairs (lam, mu) of the units between ``W[l]`` and
``W[l+1]``; layers count from 0 here, so that ``Y[l] = W[-1] D ... D[l] W[l]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Matrix = np.ndarray
Pairs = list[tuple[Matrix, Matrix]]


def relu_slopes(low: Matrix, high: Matrix, alpha: float = 0.0) -> tuple[Matrix, Matrix]:
    """(1, 1), (alpha, alpha) or (alpha, 1)."""
    lam = np.array([1.0 if a >= 0 else alpha for a in low])
    mu = np.array([1.0 if u > 0 else alpha for u in high])
    return lam, mu


def sigmoid_family_slopes(
    slope: Callable[[float], float], low: Matrix, high: Matrix
) -> tuple[Matrix, Matrix]:
    """The derivative is largest at 0 and falls on both sides."""
    lam, mu = [], []
    for a, u in zip(low, high, strict=True):
        if a >= 0:
            lam.append(slope(u))
            mu.append(slope(a))
        elif u <= 0:
            lam.append(slope(a))
            mu.append(slope(u))
        else:
            lam.append(slope(max(-a, u)))
            mu.append(slope(0.0))
    return np.array(lam), np.array(mu)


def tanh_slope(z: float) -> float:
    return 1 / math.cosh(z) ** 2


def backward(W: list[Matrix], slopes: Pairs) -> tuple[list[Matrix], list[Matrix]]:
    """RecurJac-B: lower and upper bounds of every Y[layer]."""
    count = len(W)
    low: list[Matrix] = [np.zeros(0)] * count
    high: list[Matrix] = [np.zeros(0)] * count
    low[-1] = high[-1] = W[-1]
    for layer in range(count - 2, -1, -1):
        shape = (len(W[-1]), W[layer].shape[1])
        low[layer], high[layer] = np.zeros(shape), np.zeros(shape)
        for j in range(shape[0]):
            for k in range(shape[1]):
                column = W[layer][:, k]
                high[layer][j, k] = entry(W, slopes, low, high, layer, j, column, upper=True)
                low[layer][j, k] = entry(W, slopes, low, high, layer, j, column, upper=False)
    return low, high


def entry(
    W: list[Matrix], slopes: Pairs, low: list[Matrix], high: list[Matrix], layer: int, j: int,
    column: Matrix, upper: bool,
) -> float:  # fmt: skip
    """A bound of ``(W[-1] D ... D[layer]) column`` in row j."""
    lam, mu = slopes[layer]
    if layer == len(W) - 2:
        total = 0.0
        for r, w in enumerate(column):
            product = W[-1][j, r] * w
            positive, negative = max(product, 0.0), min(product, 0.0)
            if upper:
                total += mu[r] * positive + lam[r] * negative
            else:
                total += lam[r] * positive + mu[r] * negative
        return total
    L, U = low[layer + 1][j], high[layer + 1][j]
    paid = 0.0
    merged = np.zeros(len(column))
    for r, w in enumerate(column):
        if L[r] < 0 < U[r] and lam[r] != mu[r]:
            plus, minus = max(w, 0.0), min(w, 0.0)
            paid += mu[r] * (
                (plus * U[r] + minus * L[r]) if upper else (plus * L[r] + minus * U[r])
            )
        else:
            positive = L[r] >= 0
            agree = (w >= 0) == positive
            merged[r] = w * (mu[r] if agree == upper else lam[r])
    return paid + entry(W, slopes, low, high, layer + 1, j, W[layer + 1] @ merged, upper)


def fastlip(W: list[Matrix], slopes: Pairs) -> tuple[Matrix, Matrix]:
    """The plain interval step at every layer."""
    low = high = W[-1]
    for layer in range(len(W) - 2, -1, -1):
        lam, mu = slopes[layer]
        D = np.minimum(lam * low, mu * low), np.maximum(lam * high, mu * high)
        plus, minus = np.maximum(W[layer], 0), np.minimum(W[layer], 0)
        low, high = D[0] @ plus + D[1] @ minus, D[1] @ plus + D[0] @ minus
    return low, high


def forward(W: list[Matrix], slopes: Pairs) -> tuple[Matrix, Matrix]:
    """RecurJac-F0: the recursion on the transposed product."""
    low, high = backward([w.T for w in W[::-1]], slopes[::-1])
    return low[0].T, high[0].T


def forward_after_first(W: list[Matrix], slopes: Pairs) -> tuple[Matrix, Matrix]:
    """RecurJac-F1: forwards from the second layer, the first appended by an interval product."""
    low, high = forward(W[1:], slopes[1:])
    lam, mu = slopes[0]
    D = np.minimum(lam * low, mu * low), np.maximum(lam * high, mu * high)
    plus, minus = np.maximum(W[0], 0), np.minimum(W[0], 0)
    return D[0] @ plus + D[1] @ minus, D[1] @ plus + D[0] @ minus


def row_sum(W: list[Matrix], slopes: Pairs, j: int) -> float:
    """The improved bound of the l_1 norm of row j (section 3.4)."""
    low, high = backward(W, slopes)
    positive, negative = low[0][j] > 0, high[0][j] < 0
    rest = ~(positive | negative)
    column = W[0][:, positive].sum(axis=1) - W[0][:, negative].sum(axis=1)
    sure = entry(W, slopes, low, high, 0, j, column, upper=True)
    return float(np.maximum(np.abs(low[0][j, rest]), np.abs(high[0][j, rest])).sum()) + sure
