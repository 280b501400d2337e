"""Operator norms ``||J||_{p,q} = max ||J v||_q over ||v||_p <= 1``: the ones that can be computed.

=====================  =====================================================================
pair                   value
=====================  =====================================================================
p = 1, any q           the largest q-norm of a column
any p, q = inf         the largest dual norm of a row
p = q = 2              the largest singular value
any p, q = 1           the largest dual norm of ``s J`` over signs s: at most `SIGNS` outputs
p = inf, any q         the largest q-norm of ``J v`` over signs v: at most `SIGNS` inputs
one output, one input  covered above for every pair: a row's dual norm, a column's norm
=====================  =====================================================================

Of a matrix without negative entries the last two need no enumeration: all signs are +1 at the
maximum.  The other pairs are NP-hard (Hendrickx and Olshevsky, SIAM J. Matrix Anal. Appl. 2010;
Steinberg 2005) and refused by name.
"""

from __future__ import annotations

import math

import numpy as np

from polytope.errors import InputError
from solvers.errors import ProblemError
from solvers.norms import NormLike, dual_exponent, parse_norm

#: Outputs (or inputs) whose 2^(SIGNS - 1) sign vectors are enumerated, up to a common sign.
SIGNS = 16
#: Entries of an array that a block of the enumeration may hold.
BLOCK = 2**22
#: Half the distance from 1 to the next float64.
UNIT = float(np.finfo(np.float64).eps) / 2
TINY = float(np.finfo(np.float64).tiny)

SUPPORTED = (
    "p=1 with any q, any p with q=inf, p=q=2, any p with q=1 (at most "
    f"{SIGNS} outputs, or no negative entries), p=inf with any q (at most {SIGNS} inputs, or no "
    "negative entries), and any pair for one output or one input"
)


def norm_pair(p: NormLike, q: NormLike) -> tuple[float, float]:
    """The exponents of the input's and the output's norm.

    Raises
    ------
    InputError
        If one is no number in [1, inf].
    """
    found = []
    for name, value in (("p", p), ("q", q)):
        try:
            found.append(parse_norm(value))
        except ProblemError as error:
            raise InputError(f"{name}: {error}") from error
    return found[0], found[1]


def computable(p: float, q: float, outputs: int, inputs: int, nonnegative: bool = False) -> bool:
    """Whether the norm of matrices (outputs, inputs) can be computed for this pair."""
    if p == 1 or q == math.inf or p == q == 2 or outputs == 1 or inputs == 1:
        return True
    if q == 1 and (nonnegative or outputs <= SIGNS):
        return True
    return p == math.inf and (nonnegative or inputs <= SIGNS)


def require_computable(
    p: NormLike, q: NormLike, outputs: int, inputs: int, what: str, nonnegative: bool = False
) -> tuple[float, float]:
    """The exponents of a pair whose norm can be computed.

    Parameters
    ----------
    p, q : number or "inf"
    outputs, inputs : int
        Size of the matrices.
    what : str
        Who asks; begins the message.
    nonnegative : bool
        The matrices have no negative entries.

    Raises
    ------
    InputError
        For no norms, and for a pair that is NP-hard, naming the pairs that can be computed.
    """
    pair = norm_pair(p, q)
    if not computable(*pair, outputs, inputs, nonnegative):
        raise InputError(
            f"{what}: the operator norm from p={pair[0]:g} to q={pair[1]:g} of a matrix with "
            f"{outputs} outputs and {inputs} inputs is NP-hard; ask for one that can be "
            f"computed: {SUPPORTED}"
        )
    return pair


def operator_norm(J: np.ndarray, p: NormLike, q: NormLike) -> np.ndarray:
    """Operator norms of a batch of matrices, in float64.

    Parameters
    ----------
    J : float64 (n, outputs, inputs) or (outputs, inputs)
    p, q : number or "inf"
        Norm of the inputs and of the outputs.

    Returns
    -------
    float64 (n,) or ()
        ``operator_norm_bounds`` encloses the exact values.

    Raises
    ------
    InputError
        For a pair that cannot be computed, and for what is no batch of finite matrices.
    """
    found = norm_and_step(J, p, q)[0]
    return np.asarray(found if np.ndim(J) == 3 else found[0])


def norm_and_step(J: np.ndarray, p: NormLike, q: NormLike) -> tuple[np.ndarray, np.ndarray]:
    """Operator norms, and steps of p-norm at most 1 (within rounding) that attain them.

    Returns
    -------
    values : float64 (n,)
    steps : float64 (n, inputs)
    """
    matrices, a, b = _matrices(J, p, q, "operator_norm")
    n, m, d = matrices.shape
    if not n or not m or not d:
        return np.zeros(n), np.zeros((n, d))
    rows = np.arange(n)
    if a == 1 or d == 1:
        norms = vector_norms(matrices, b, axis=1)
        best = norms.argmax(axis=1)
        steps = np.zeros((n, d))
        steps[rows, best] = 1.0
        return norms[rows, best], steps
    if b == math.inf or m == 1:
        dual = vector_norms(matrices, dual_exponent(a), axis=2)
        best = dual.argmax(axis=1)
        return dual[rows, best], steepest(matrices[rows, best], a)
    if a == b == 2:
        _, sizes, right = np.linalg.svd(matrices, full_matrices=False)
        return sizes[:, 0], right[:, 0]
    nonnegative = bool((matrices >= 0).all())
    if b == 1 and (nonnegative or m <= SIGNS):
        best, signs = _best_signs(matrices.transpose(0, 2, 1), dual_exponent(a), nonnegative)
        return best, steepest(np.einsum("nm,nmd->nd", signs, matrices), a)
    return _best_signs(matrices, b, nonnegative)


def operator_norm_bounds(
    J: np.ndarray, p: NormLike, q: NormLike, error: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of operator norms that hold whatever rounding does.

    Parameters
    ----------
    J : float64 (n, outputs, inputs) or (outputs, inputs)
    p, q : number or "inf"
    error : float64 broadcastable to J
        How far each entry may be from the matrix that is meant.

    Returns
    -------
    lower, upper : float64 (n,) or ()
        About 1e-15 times the size apart, more for p or q other than 1, 2 and inf (powers are
        taken to be accurate to 16 units in the last place).

    Raises
    ------
    InputError
        As `operator_norm`.
    """
    matrices, a, b = _matrices(J, p, q, "operator_norm_bounds")
    n, m, d = matrices.shape
    value, _ = norm_and_step(matrices, a, b)
    powers = 0.0 if {a, b} <= {1.0, 2.0, math.inf} else 64 + 32 * _largest_power(a, b)
    # Sums over signs cancel: by Khintchine's inequality the largest one is at least 1/sqrt(2 m)
    # of the absolute sum, m at most SIGNS.
    relative = 2 * math.sqrt(2 * SIGNS) * (m + d + 16 + powers) * UNIT
    lower, upper = value * (1 - relative), value * (1 + relative)
    if a == b == 2 and min(m, d) > 1 and n:
        lower, upper = _stretch(matrices), _spectral_upper(matrices)
    changes = np.broadcast_to(np.asarray(error, dtype=np.float64), matrices.shape)
    off = norm_and_step(np.abs(changes), a, b)[0] * (1 + relative) if changes.any() else 0.0
    lower = np.maximum(lower - off, 0.0) * (1 - 4 * UNIT)
    upper = (upper + off) * (1 + 4 * UNIT) + np.where(upper > 0, 4 * m * d * TINY, 0.0)
    return (lower, upper) if np.ndim(J) == 3 else (lower[0], upper[0])


def vector_norms(x: np.ndarray, p: float, axis: int = -1) -> np.ndarray:
    """``||x||_p`` along an axis, without overflow of powers."""
    size = np.abs(x)
    if p == 1:
        return np.asarray(size.sum(axis=axis))
    largest = size.max(axis=axis, initial=0.0)
    if p == math.inf:
        return np.asarray(largest)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    parts = size / np.expand_dims(scale, axis)
    total = np.sqrt((parts * parts).sum(axis=axis)) if p == 2 else _powers(parts, p, axis)
    return np.asarray(scale * total)


def steepest(rows: np.ndarray, p: float) -> np.ndarray:
    """For each row w a step v of p-norm 1 (or 0) with ``w v = ||w||_q``, 1/p + 1/q = 1: (n, d)."""
    n, d = rows.shape
    size = np.abs(rows)
    if p == math.inf:
        return np.asarray(np.sign(rows))
    if p == 1:
        steps = np.zeros((n, d))
        at = size.argmax(axis=1)
        steps[np.arange(n), at] = np.sign(rows[np.arange(n), at])
        return steps
    largest = size.max(axis=1, keepdims=True, initial=0.0)
    parts = size / np.where(largest > 0, largest, 1.0)
    lengths = parts ** (dual_exponent(p) - 1)
    total = vector_norms(lengths, p)[:, None]
    return np.asarray(np.sign(rows) * lengths / np.where(total > 0, total, 1.0))


def _matrices(
    J: np.ndarray, p: NormLike, q: NormLike, what: str
) -> tuple[np.ndarray, float, float]:
    """A checked batch of matrices and the exponents."""
    values = np.asarray(J, dtype=np.float64)
    if values.ndim not in (2, 3):
        raise InputError(
            f"{what}: got an array of shape {values.shape}, expected matrices (n, outputs, "
            "inputs) or one (outputs, inputs)"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{what}: the matrices hold NaN or infinity; norms need finite entries")
    batch = values if values.ndim == 3 else values[None]
    free = bool((batch >= 0).all())
    return batch, *require_computable(p, q, batch.shape[1], batch.shape[2], what, free)


def _powers(parts: np.ndarray, p: float, axis: int) -> np.ndarray:
    return np.asarray((parts**p).sum(axis=axis) ** (1 / p))


def _largest_power(p: float, q: float) -> int:
    """What the powers taken for a pair can magnify their rounding by."""
    used = [q, dual_exponent(p)]
    return math.ceil(max([v for v in used if v not in (1.0, 2.0, math.inf)], default=1.0))


def _best_signs(matrices: np.ndarray, q: float, nonnegative: bool) -> tuple[np.ndarray, np.ndarray]:
    """``max ||J v||_q`` over signs v, and a maximiser: (n,) and (n, columns)."""
    n, m, d = matrices.shape
    if nonnegative:
        return vector_norms(matrices.sum(axis=2), q), np.ones((n, d))
    count = 2 ** (d - 1)
    best, at = np.full(n, -1.0), np.zeros(n, np.int64)
    step = max(1, BLOCK // max(1, n * m, d))
    for start in range(0, count, step):
        codes = np.arange(start, min(start + step, count))
        found = vector_norms(matrices @ _signs(codes, d).T, q, axis=1)
        top = found.argmax(axis=1)
        value = found[np.arange(n), top]
        better = value > best
        best, at = np.where(better, value, best), np.where(better, codes[top], at)
    return best, _signs(at, d)


def sign_vectors(size: int) -> np.ndarray:
    """All vectors of signs up to a common one: float64 (2^(size - 1), size)."""
    return _signs(np.arange(2 ** (size - 1)), size)


def _signs(codes: np.ndarray, size: int) -> np.ndarray:
    """Sign vectors of numbers: bit i set is -1 at i; the last sign is +1."""
    bits = (codes[:, None] >> np.arange(size)) & 1
    return 1.0 - 2.0 * bits


def _stretch(matrices: np.ndarray) -> np.ndarray:
    """Lower bounds of largest singular values: how far a step is really stretched."""
    _, _, right = np.linalg.svd(matrices, full_matrices=False)
    step = right[:, 0]
    image = np.einsum("nmd,nd->nm", matrices, step)
    d, m = matrices.shape[2], matrices.shape[1]
    lost = 2 * d * UNIT * np.einsum("nmd,nd->nm", np.abs(matrices), np.abs(step))
    length = vector_norms(np.maximum(np.abs(image) - lost, 0.0), 2)
    return np.asarray(length / vector_norms(step, 2) * (1 - 2 * (m + d + 8) * UNIT))


def _spectral_upper(matrices: np.ndarray) -> np.ndarray:
    """Upper bounds of largest singular values, by Gershgorin's circles.

    For any Q near an orthogonal matrix with ``||Q'Q - I|| <= t``, the largest eigenvalue of G is
    at most that of ``Q'G Q`` divided by 1 - t, and that is at most the largest row sum of its
    absolute values.
    """
    _, m, d = matrices.shape
    scale = np.abs(matrices).max(axis=(1, 2), initial=0.0)
    scale = np.where(scale > 0, scale, 1.0)
    A = (matrices if m <= d else matrices.transpose(0, 2, 1)) / scale[:, None, None]
    small, long = A.shape[1], A.shape[2]
    _, Q = np.linalg.eigh(A @ A.transpose(0, 2, 1))
    B = Q.transpose(0, 2, 1) @ A
    sizes = 1.01 * (small + 4) * UNIT * (np.abs(Q).transpose(0, 2, 1) @ np.abs(A))
    rows = np.abs(B) + sizes
    G = np.abs(B @ B.transpose(0, 2, 1))
    G += 1.01 * (long + 4) * UNIT * (np.abs(B) @ np.abs(B).transpose(0, 2, 1))
    G += 1.01 * (sizes @ rows.transpose(0, 2, 1) + np.abs(B) @ sizes.transpose(0, 2, 1))
    top = (G.sum(axis=2) * (1 + 4 * small * UNIT)).max(axis=1)
    defect = np.abs(Q.transpose(0, 2, 1) @ Q - np.eye(small))
    defect += 1.01 * (small + 4) * UNIT * (np.abs(Q).transpose(0, 2, 1) @ np.abs(Q))
    slack = (defect.sum(axis=2) * (1 + 4 * small * UNIT)).max(axis=1)
    sums = [np.abs(A).sum(axis=axis).max(axis=1) for axis in (1, 2)]
    plain = np.sqrt(sums[0] * sums[1]) * (1 + 4 * (m + d) * UNIT)
    bound = np.where(slack < 0.5, np.sqrt(top / (1 - np.minimum(slack, 0.5))), plain)
    return np.asarray(np.minimum(bound, plain) * scale * (1 + 16 * UNIT) + 8 * m * d * TINY)
