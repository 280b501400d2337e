"""Witnesses: points that change the decision, proved in exact arithmetic or replayed.

A candidate on the decision hyperplane is pushed outward by the smallest factor of a ladder
for which the change is proved: in float64 with its rounding error bound where that settles
it, otherwise in exact rational arithmetic.  The native witness is rounded to the source
model's dtype, kept inside the box, and accepted only when the source model itself decides
otherwise.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from polytope.model import Network
from polytope.network.exact import is_adversarial
from polytope.network.rounding import rounding_bounds
from polytope.rows import as_logits
from polytope.sets import Box

#: Relative pushes beyond the hyperplane: from none, in steps of 8, to a billionth.
PUSHES = (0.0, *(8.0**k * 2.0**-52 for k in range(8)))
#: The same where the last digits do not matter: to a hundred-thousandth.
ROUGH_PUSHES = (0.0, *(64.0**k * 2.0**-52 for k in range(1, 7)))
#: Pushes for the source model, whose float32 forward pass is off by about 1e-5.
NATIVE_PUSHES = (0.0, *(10.0 ** (k / 2) for k in range(-20, -1)))


def lp_norm(step: np.ndarray, p: float) -> np.ndarray:
    """l_p norms of the rows of `step`, rounded up so that they are never below the exact.

    The factor covers the summation error of d terms and the roots and powers.
    """
    size = np.asarray(np.linalg.norm(step, ord=p, axis=1))
    if p == math.inf:
        return size * (1 + 2.0**-52)
    return np.asarray(size * (1 + (step.shape[1] + 8) * 2.0**-52))


def prove_adversarial(
    net: Network, points: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which points are adversarial by float64 with error bounds, and which may be.

    Parameters
    ----------
    net : Network
    points : array (n, d)
    labels : array (n,)
    targets : array (n,), optional
        The only class that counts for each point; any other than the label by default.

    Returns
    -------
    proved : bool array (n,)
        Some other class (the target) is at least as high as the label's, whatever the rounding.
    possible : bool array (n,)
        The same as computed, the rounding errors set aside.
    """
    x = torch.as_tensor(points).reshape(-1, *net.input_shape)
    with torch.no_grad():
        pieces = net.pieces(x)
        logits = as_logits(net.forward(x).flatten(1)).numpy()
        errors = as_logits(rounding_bounds(net, x, pieces)[-1].value).numpy()
    rows = np.arange(len(points))
    lead = logits - logits[rows, labels][:, None]
    safe = lead - errors - errors[rows, labels][:, None]
    rival = _rivals(lead, labels, targets)
    lead[~rival] = safe[~rival] = -np.inf
    return (safe >= 0).any(axis=1), (lead >= 0).any(axis=1)


def exact_witnesses(
    net: Network,
    points: np.ndarray,
    steps: np.ndarray,
    labels: np.ndarray,
    box: Box | None,
    p: float,
    rough: bool = False,
    targets: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Push candidates until they are adversarial in exact arithmetic.

    Parameters
    ----------
    net : Network
    points, steps : array (n, d)
        The points and the steps to the decision hyperplanes (NaN: no candidate).
    labels : array (n,)
    box : Box or None
    p : float
    rough : bool
        Push up to a hundred-thousandth and rely on the error bounds, without the (slow)
        rational arithmetic: for upper bounds that need not be tight.
    targets : array (n,), optional
        As for `prove_adversarial`.

    Returns
    -------
    distance : array (n,)
        l_p distance of each witness, rounded up; inf where none was proved.
    witness : array (n, d)
        NaN where none was proved.
    """
    distance = np.full(len(points), np.inf)
    witness = np.full(points.shape, np.nan)
    maybe = np.full(points.shape, np.nan)
    open_rows = np.flatnonzero(np.isfinite(steps).all(axis=1))
    for push in ROUGH_PUSHES if rough else PUSHES:
        if not len(open_rows):
            break
        trial = _pushed(points[open_rows], steps[open_rows], push, box)
        own = None if targets is None else targets[open_rows]
        proved, possible = prove_adversarial(net, trial, labels[open_rows], own)
        first = possible & np.isnan(maybe[open_rows, 0])
        maybe[open_rows[first]] = trial[first]
        witness[open_rows[proved]] = trial[proved]
        open_rows = open_rows[~proved]
    for row in [] if rough else open_rows:
        target = None if targets is None else int(targets[row])
        # The nearest that floats call adversarial may not be; the last push is further than any
        # rounding of points, if not of the network's bounds on it.
        for candidate in (maybe[row], _pushed(points[row], steps[row], PUSHES[-1], box)):
            if not np.isnan(candidate).any() and is_adversarial(
                net.graph, candidate.reshape(net.input_shape), int(labels[row]), target
            ):
                witness[row] = candidate
                break
    found = ~np.isnan(witness).any(axis=1)
    distance[found] = lp_norm(witness[found] - points[found], p)
    return distance, witness


def native_witnesses(
    net: Network,
    points: np.ndarray,
    witness: np.ndarray,
    labels: np.ndarray,
    box: Box | None,
    p: float,
    targets: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Witnesses that the source model itself decides otherwise, in its own dtype.

    Parameters
    ----------
    net : Network
    points, witness : array (n, d)
        Points and exact witnesses (NaN: none).
    labels, box, p, targets
        As for `exact_witnesses`; between a label and its target alone where there is one.

    Returns
    -------
    distance, witness : arrays (n,), (n, d)
        inf and NaN where no push within the ladder changed the source model's decision.
    """
    distance = np.full(len(points), np.inf)
    native = np.full(points.shape, np.nan)
    open_rows = np.flatnonzero(np.isfinite(witness).all(axis=1))
    for push in NATIVE_PUSHES:
        if not len(open_rows):
            break
        step = witness[open_rows] - points[open_rows]
        trial = _inside_native(net, _pushed(points[open_rows], step, push, box), box)
        own = None if targets is None else targets[open_rows]
        logits = net.native_logits(trial)
        counted = _rivals(logits, labels[open_rows], own)
        counted[np.arange(len(trial)), labels[open_rows]] = True
        changed = np.where(counted, logits, -np.inf).argmax(axis=1) != labels[open_rows]
        native[open_rows[changed]] = trial[changed]
        open_rows = open_rows[~changed]
    found = ~np.isnan(native).any(axis=1)
    distance[found] = lp_norm(native[found] - points[found], p)
    return distance, native


def _rivals(logits: np.ndarray, labels: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
    """Which classes count against the label: bool (n, classes)."""
    classes = np.arange(logits.shape[1])
    if targets is None:
        return np.asarray(classes != labels[:, None])
    return np.asarray(classes == targets[:, None])


def _pushed(points: np.ndarray, steps: np.ndarray, push: float, box: Box | None) -> np.ndarray:
    """``points + (1 + push) steps``, clipped into the box."""
    moved = points + (1 + push) * steps
    return moved if box is None else np.clip(moved, box.low, box.high)


def _inside_native(net: Network, points: np.ndarray, box: Box | None) -> np.ndarray:
    """Points in the source model's dtype, rounded toward the inside where the box ends."""
    rounded = points.astype(net.native_dtype)
    if box is not None:
        toward = rounded.dtype.type
        high, low = rounded.astype(np.float64) > box.high, rounded.astype(np.float64) < box.low
        rounded = np.where(high, np.nextafter(rounded, toward(-np.inf)), rounded)
        rounded = np.where(low, np.nextafter(rounded, toward(np.inf)), rounded)
    return np.asarray(rounded, dtype=np.float64)
