"""Logit margins as linear functions of the outputs, and the point where they are linearised."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from polytope.errors import InputError
from polytope.extremes.measures import below
from polytope.inputs import as_batch, as_labels
from polytope.model import Network
from polytope.network.exact import ExactState, exact_pieces
from polytope.network.exact_ops import ExactArray
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.rows import classes_of


def one_point(net: Network, x: object) -> np.ndarray:
    """A single point as float64 (d,).

    Raises
    ------
    InputError
    """
    points = as_batch(net, x, name="x")
    if len(points) != 1:
        raise InputError(f"x: got {len(points)} points, expected one; call it for each")
    return np.asarray(points.flatten().cpu().numpy())


def as_class(net: Network, y: object, name: str) -> int:
    """A class of the network.

    Raises
    ------
    InputError
    """
    values = np.asarray(y)
    if values.size != 1 or values.ndim > 1 or values.dtype.kind not in "iuf":
        raise InputError(f"{name}: got {y!r}, expected the index of one class")
    return int(as_labels(torch.as_tensor(values.reshape(1)), 1, classes_of(net))[0])


def rivals_of(net: Network, y: int, target: object) -> list[int]:
    """The classes that a margin is to: the target, or all but y.

    Raises
    ------
    InputError
        If the target is y itself, or no class.
    """
    if target is None:
        return [t for t in range(classes_of(net)) if t != y]
    rival = as_class(net, target, "target")
    if rival == y:
        raise InputError(f"target: got {rival}, which is y itself; a margin is to another class")
    return [rival]


def margin(net: Network, y: int, rival: int) -> np.ndarray:
    """Coefficients (outputs,) of ``f_y - f_rival``; a single output f is the logits (0, f)."""
    row = np.zeros(net.output_size)
    if net.output_size == 1:
        row[0] = 1.0 if y == 1 else -1.0
    else:
        row[y], row[rival] = 1.0, -1.0
    return row


@dataclass(frozen=True, eq=False)
class Anchor:
    """A point at which the network is linearised: the affine map of its region, exactly.

    Attributes
    ----------
    net : Network
    x : float64 (d,)
    pieces : int64 (units,)
        Those of the point, by the convention for ties, exact.
    """

    net: Network
    x: np.ndarray
    pieces: np.ndarray

    @classmethod
    def at(cls, net: Network, x: np.ndarray) -> Anchor:
        """The anchor at a point."""
        return cls(net, x, exact_pieces(net.graph, x.reshape(net.input_shape)))

    def difference(self, z: np.ndarray, functions: np.ndarray) -> list[Fraction]:
        """``c (f(z) - f(x) - J(x) (z - x))`` for each function c of the outputs, exactly.

        That is the network at z less the affine map of the anchor's region there.
        """
        there = self._outputs(z, None)
        flat = self._outputs(z, self.pieces)
        steps = [a - b for a, b in zip(there, flat, strict=True)]
        return [
            sum((Fraction(float(c)) * s for c, s in zip(row, steps, strict=True) if c), Fraction(0))
            for row in functions
        ]

    def same(self, pieces: np.ndarray, function: np.ndarray) -> bool:
        """Whether a function of the outputs is the same affine map under two patterns, exactly."""
        d = len(self.x)
        everywhere = Domain(d, None, None, np.zeros((0, d)), np.zeros(0))
        maps = ExactMaps(self.net, everywhere)
        depth, live = len(self.net.layers), np.flatnonzero(function)
        rows = [
            maps.layer(depth, own.astype(np.int64)) for own in (pieces, self.pieces)
        ]  # fmt: skip
        scales = [Fraction(2) ** row.exponent / row.denominator for row in rows]
        return all(
            sum(
                (
                    Fraction(float(function[i])) * int(row.integers[i, k]) * scale * sign
                    for i in live
                    for row, scale, sign in zip(rows, scales, (1, -1), strict=True)
                ),
                Fraction(0),
            )
            == 0
            for k in range(d + 1)
        )

    def _outputs(self, z: np.ndarray, pieces: np.ndarray | None) -> list[Fraction]:
        """Outputs at a point, by its own pieces or by given ones."""
        state = ExactState.start(
            self.net.graph, ExactArray.from_floats(z.astype(np.float64).reshape(-1, 1))
        )
        for layer in self.net.layers:
            own = state.natural_pieces() if pieces is None else pieces[layer.unit_slice]
            state = state.advance(own)
        return state.preactivations.to_fractions()


def proved_size(values: list[Fraction]) -> tuple[float, int]:
    """The largest absolute value, rounded down, and its position."""
    at = max(range(len(values)), key=lambda i: abs(values[i]))
    return below(abs(values[at])), at


def is_within(z: np.ndarray, center: np.ndarray, radius: float, p: float) -> bool:
    """Whether a point is in the closed l_p ball (p one of 1, 2, inf), in exact arithmetic."""
    steps = [Fraction(float(a)) - Fraction(float(c)) for a, c in zip(z, center, strict=True)]
    if p == 2:
        return sum((s * s for s in steps), Fraction(0)) <= Fraction(radius) ** 2
    sizes = [abs(s) for s in steps]
    return (sum(sizes, Fraction(0)) if p == 1 else max(sizes)) <= Fraction(radius)
