"""The product of the layers' operator norms: a Lipschitz constant for the whole input space.

Of a map from the input in l_p to a node in l_r a constant is kept for r = p and r = q.  A linear
node multiplies it by its own operator norm, units by their steepest slope, a sum adds those of
its parts; the change from p to q is made where it costs least.  For p = q this is the textbook's
product.  Where a norm is NP-hard or the matrix large, a bound takes its place: Riesz-Thorin's
``||W||_p <= ||W||_1^(1/p) ||W||_inf^(1-1/p)``, or the cost of changing norms in n dimensions.
"""

from __future__ import annotations

import math

import torch

from polytope.bounds.interval import part_of
from polytope.bounds.linear_nodes import pull, repeats
from polytope.bounds.smooth import slope_bounds
from polytope.network.engine import Constants, Engine, apply
from polytope.network.ir import Concat, Gather, Max, Node, Piecewise, Shape, Smooth, Sum
from polytope.operator_norms import UNIT, computable, operator_norm_bounds

#: Entries of a matrix whose singular values, or norms between different p and q, are computed.
DENSE = 2**21
#: Room for the rounding of sums, powers and products of constants.
ROOM = 1 + 1e-11


def norm_product(net: Engine, p: float, q: float, functional: torch.Tensor | None = None) -> float:
    """A constant L with ``||f(x) - f(z)||_q <= L ||x - z||_p`` for all inputs.

    Parameters
    ----------
    net : Engine
    p, q : float
        Any exponents in [1, inf].
    functional : tensor (1, outputs), optional
        A linear function of the outputs, taken as one more layer.
    """
    c = net.constants(torch.float64, torch.device("cpu"))
    nodes = net.graph.nodes
    found: list[dict[float, float]] = [{p: 1.0, q: _change(nodes[0].size, p, q)}]
    for node in nodes[1:]:
        before = [found[i] for i in node.inputs]
        steep = _steepness(node, c)
        if steep is not None:
            found.append({r: steep[0] * k * steep[1] ** (1 / r) for r, k in before[0].items()})
        elif isinstance(node.op, Sum):
            parts = list(zip(node.op.coefficients, before, strict=True))
            found.append({r: ROOM * sum(abs(k) * part[r] for k, part in parts) for r in (p, q)})
        elif isinstance(node.op, Concat):
            found.append({r: ROOM * _joined([part[r] for part in before], r) for r in (p, q)})
        elif node.op == Gather(None):
            found.append(before[0])
        else:
            found.append(
                _through(_LinearMap.of(node, nodes[node.inputs[0]].shape, c), before[0], p, q)
            )
    last = found[-1]
    if functional is not None:
        last = _through(_LinearMap(len(functional), functional.shape[1], functional), last, p, q)
    return last[q]


class _LinearMap:
    """A linear map with one input, and upper bounds of its operator norms."""

    def __init__(
        self, outputs: int, inputs: int, matrix: torch.Tensor | None,
        source: tuple[Node, Shape, Constants] | None = None,
    ) -> None:  # fmt: skip
        self.outputs, self.inputs = outputs, inputs
        self._matrix, self._source = matrix, source

    @classmethod
    def of(cls, node: Node, shape: Shape, c: Constants) -> _LinearMap:
        """A linear node that reads a value of the given shape."""
        return cls(node.size, math.prod(shape), None, (node, shape, c))

    def norm(self, p: float, q: float) -> float:
        """At least the operator norm from l_p to l_q."""
        small = self.outputs * self.inputs <= DENSE
        if small and computable(p, q, self.outputs, self.inputs):
            return float(operator_norm_bounds(self.matrix.numpy(), p, q)[1])
        if p != q:
            ahead = self.norm(p, p) * _change(self.outputs, p, q)
            return ROOM * min(ahead, _change(self.inputs, p, q) * self.norm(q, q))
        first, last = self._sums()
        if p == math.inf:
            return last
        return ROOM * float(first ** (1 / p) * last ** (1 - 1 / p))

    @property
    def matrix(self) -> torch.Tensor:
        """(outputs, inputs)."""
        if self._matrix is None:
            assert self._source is not None
            node, shape, c = self._source
            eye = torch.eye(self.outputs, dtype=torch.float64).reshape(-1, *node.shape)
            self._matrix = pull(node, eye, [shape], c)[0].reshape(self.outputs, self.inputs)
        return self._matrix

    def _sums(self) -> tuple[float, float]:
        """The operator norms in l_1 and in l_inf: largest column and row sums, rounded up."""
        room = ROOM + 2 * (self.outputs + self.inputs) * UNIT
        if self._matrix is not None:
            size = self._matrix.abs()
            return room * float(size.sum(dim=0).max()), room * float(size.sum(dim=1).max())
        assert self._source is not None
        node, shape, c = self._source
        part = part_of(node, c, 0)
        assert part is not None
        ones, before = (torch.ones(1, *s, dtype=torch.float64) for s in (node.shape, shape))
        columns = pull(part[0], ones, [shape], part[1])[0]
        rows = apply(part[0], [before], part[1], bias=False)
        return room * float(columns.max()), room * float(rows.max())


def _through(
    map_: _LinearMap, before: dict[float, float], p: float, q: float
) -> dict[float, float]:
    """Constants behind a linear map."""
    kept = ROOM * map_.norm(p, p) * before[p]
    if p == q:
        return {p: kept}
    return {
        p: kept, q: ROOM * min(map_.norm(q, q) * before[q], map_.norm(p, q) * before[p])
    }  # fmt: skip


def _steepness(node: Node, c: Constants) -> tuple[float, int] | None:
    """A nonlinear node's steepest slope, and how many units read one value; None if linear."""
    op = node.op
    if isinstance(op, Piecewise):
        return float(c[op.slopes].abs().max()), 1
    if isinstance(op, Max):
        return 1.0, repeats(c[op.index])
    if isinstance(op, Smooth):
        ends = torch.full((1, 1), torch.inf, dtype=torch.float64)
        return max(abs(float(v)) for v in slope_bounds(op, -ends, ends)), 1
    return None


def _change(size: int, p: float, q: float) -> float:
    """The largest ``||x||_q / ||x||_p`` in so many dimensions, rounded up."""
    power = 1 / q - 1 / p
    return 1.0 if power <= 0 else ROOM * float(size**power)


def _joined(constants: list[float], p: float) -> float:
    """The constant of several maps side by side."""
    largest = max(constants)
    if p == math.inf or largest == 0:
        return largest
    return largest * float(sum((k / largest) ** p for k in constants) ** (1 / p))
