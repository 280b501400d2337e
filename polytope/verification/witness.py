"""Unsafe points: checked in exact arithmetic, and replayed by the source model in its own dtype."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polytope.model import Network
from polytope.network.exact import ExactState
from polytope.network.exact_ops import ExactArray
from polytope.verification.property import Unsafe

#: Coordinates this near to zero are tried as zero too: where the unsafe points are a single one,
#: it is most often there.
NEAR = 1e-10


@dataclass(frozen=True, eq=False)
class Witness:
    """A point of the box that is unsafe in exact arithmetic.

    Attributes
    ----------
    part : int
        The part of the property that it satisfies.
    point : float64 (d,)
        Its coordinates; where the exact box holds no float (a coordinate frozen at 0.1) the float
        nearest to the box, the box's own rational having been checked.
    outputs : float64 (outputs,)
        The exact outputs, rounded.
    native_point : float64 (d,)
        The point in the source model's dtype, kept inside of the box where a number of that
        dtype is.
    native_outputs : float64 (outputs,) or None
        What the source model says there; None where there is no source model.
    replayed : bool or None
        Whether the native point lies in the exact box and the native outputs are unsafe.
    """

    part: int
    point: np.ndarray
    outputs: np.ndarray
    native_point: np.ndarray
    native_outputs: np.ndarray | None
    replayed: bool | None


def check_witness(net: Network, unsafe: Unsafe, part: int, point: np.ndarray) -> Witness | None:
    """The witness at a point rounded to the source's dtype, or at the point; None if neither is.

    Parameters
    ----------
    net : Network
    unsafe : Unsafe
    part : int
        Its number.
    point : float64 (d,)
        Moved into the box.
    """
    native = round_inside(unsafe, point, net.native_dtype)
    double = np.dtype(np.float64)
    plain = np.where(np.abs(point) <= NEAR, 0.0, point)
    tried = [native, round_inside(unsafe, point, double), round_inside(unsafe, plain, double)]
    for k, candidate in enumerate(tried):
        if any((candidate == before).all() for before in tried[:k]):
            continue
        outputs = exact_at(net, unsafe, candidate)
        if unsafe.holds(outputs):
            replay, unsafe_there = replay_native(net, unsafe, native)
            rounded = np.array([float(value) for value in outputs])
            return Witness(part, candidate, rounded, native, replay, unsafe_there)
    return None


def exact_at(net: Network, unsafe: Unsafe, point: np.ndarray) -> list[Fraction]:
    """The outputs at the point of the exact box nearest to a point of floats, exactly."""
    exact = [
        min(max(Fraction(value), low), high)
        for value, low, high in zip(point.tolist(), unsafe.low, unsafe.high, strict=True)
    ]
    if all(Fraction(value) == own for value, own in zip(point.tolist(), exact, strict=True)):
        start = ExactArray.from_floats(point.reshape(-1, 1))
    else:
        common = int(np.lcm.reduce([value.denominator for value in exact], dtype=object))
        whole = np.array([int(value * common) for value in exact], dtype=object)
        start = ExactArray(whole.reshape(-1, 1), 0, common)
    state = ExactState.start(net.graph, start)
    while state.layer < len(net.graph.layers):
        state = state.advance(state.natural_pieces())
    return state.preactivations.to_fractions()


def replay_native(
    net: Network, unsafe: Unsafe, point: np.ndarray
) -> tuple[np.ndarray | None, bool | None]:
    """What the source model says at a point of its dtype, and whether it is unsafe there.

    A model that was not read from a file or module is its own source: (None, None).
    """
    if net.native_dtype == np.float64:
        return None, None
    logits = net.native_logits(point[None])[0]
    outputs = logits[-net.output_size :]
    inside = all(
        low <= Fraction(value) <= high
        for value, low, high in zip(point.tolist(), unsafe.low, unsafe.high, strict=True)
    )
    held = np.isfinite(outputs).all() and unsafe.holds([Fraction(v) for v in outputs.tolist()])
    return np.asarray(outputs), bool(inside and held)


def round_inside(unsafe: Unsafe, point: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A point in a dtype, inside of the box wherever numbers of that dtype are: float64 (d,)."""
    rounded = point.astype(dtype)
    for i, (low, high) in enumerate(zip(unsafe.low, unsafe.high, strict=True)):
        value = rounded[i]
        while Fraction(float(value)) > high:
            value = min(np.nextafter(value, dtype.type(-np.inf)), dtype.type(float(high)))
            if Fraction(float(value)) < low:
                break
        while Fraction(float(value)) < low:
            value = max(np.nextafter(value, dtype.type(np.inf)), dtype.type(float(low)))
            if Fraction(float(value)) > high:
                break
        rounded[i] = value
    return rounded.astype(np.float64)
