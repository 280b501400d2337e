"""The Jacobians of many regions at once, with bounds on their rounding; and of one, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch

from polytope.extremes.area import Area
from polytope.jacobians import DEFAULT_MEMORY, chunk_rows, layer_gradients
from polytope.network.engine import Engine
from polytope.network.exact_ops import ExactArray
from polytope.network.rounding import rounding_bounds
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.rows import given_pieces

#: Products of integers up to which a Jacobian is computed exactly: about a second.
EXACT_PRODUCTS = 2**20

#: A matrix of rationals, row by row.
Rationals = list[list[Fraction]]


class Jacobians:
    """The Jacobians of a network's patterns, of all outputs or of linear functions of them.

    Parameters
    ----------
    net : Engine
        Piecewise linear.
    area : Area
        On a slice the derivatives are those along its directions.
    functions : float64 (m, outputs), optional
        Linear functions of the outputs; by default the outputs themselves.
    """

    def __init__(self, net: Engine, area: Area, functions: np.ndarray | None = None) -> None:
        self.net, self.area, self.functions = net, area, functions
        self.outputs = net.output_size if functions is None else len(functions)
        self.inputs = net.input_size if area.along is None else len(area.along)

    @cached_property
    def _exact(self) -> ExactMaps:
        """Exact maps over all inputs that count: made when asked for, which takes long."""
        size, area = self.net.input_size, self.area
        # With frozen coordinates the domain's own maps lack columns.
        if area.along is not None or area.domain.basis is None:
            return ExactMaps(self.net, area.domain)
        return ExactMaps(self.net, Domain(size, None, None, np.zeros((0, size)), np.zeros(0)))

    def chunks(self, count: int) -> Iterator[slice]:
        """Blocks of so many patterns that fit into memory."""
        size = max(1, chunk_rows(self.net, self.net.input_size, 8, DEFAULT_MEMORY))
        yield from (slice(i, i + size) for i in range(0, count, size))

    def of(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Jacobians (n, m, inputs), and bounds (n, m) on the l_1 norms of their rows' errors."""
        parts = [self._block(pieces[own]) for own in self.chunks(len(pieces))]
        if not parts:
            return np.zeros((0, self.outputs, self.inputs)), np.zeros((0, self.outputs))
        return np.concatenate([J for J, _ in parts]), np.concatenate([e for _, e in parts])

    def _block(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One block of `of`."""
        own = torch.as_tensor(pieces.astype(np.int64))
        x = torch.zeros(len(own), *self.net.input_shape, dtype=torch.float64)
        with torch.no_grad():
            *_, last = layer_gradients(self.net, x, decide=given_pieces(own))
            error = rounding_bounds(self.net, x, own)[-1].gradient.numpy()
        assert last.gradients is not None
        J = last.gradients.transpose(1, 2).expand(len(own), -1, -1).numpy()
        return self._functions(*self._along(J, error))

    def _along(self, J: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives along the slice."""
        basis = self.area.along
        if basis is None:
            return J, error
        widest = np.abs(basis).sum(axis=0)
        unit = (J.shape[2] + 3) * np.finfo(np.float64).eps
        return J @ basis.T, error * widest.max(initial=0.0) + unit * (np.abs(J) @ widest)

    def _functions(self, J: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The linear functions of the outputs."""
        if self.functions is None:
            return np.ascontiguousarray(J), error
        size = np.abs(self.functions)
        unit = (J.shape[1] + 3) * np.finfo(np.float64).eps
        rows = np.abs(J).sum(axis=2)
        return self.functions @ J, error @ size.T + unit * (rows @ size.T)

    def exact(self, pieces: np.ndarray) -> Rationals | None:
        """One Jacobian exactly; None where integers would take long."""
        nodes = self.net.graph.nodes
        constants = self.net.graph.constants
        products = sum(
            constants[key].size * max(1, node.size // max(1, constants[key].shape[0]))
            for node in nodes
            for key in node.constants
            if key == getattr(node.op, "weight", None)
        )
        if products * self.inputs > EXACT_PRODUCTS:
            return None
        found = self._exact.layer(len(self.net.layers), pieces.astype(np.int64))
        rows = [
            [found_fraction(found, int(v)) for v in row] for row in found.integers[:, :-1]
        ]  # fmt: skip
        if self.functions is None:
            return rows
        return [
            [
                sum((Fraction(float(c)) * row[k] for c, row in zip(f, rows, strict=True) if c),
                    Fraction(0))
                for k in range(len(rows[0]))
            ]
            for f in self.functions
        ]  # fmt: skip


def found_fraction(array: ExactArray, value: int) -> Fraction:
    """An integer of an array as the number that it stands for."""
    return Fraction(value, array.denominator) * Fraction(2) ** array.exponent
