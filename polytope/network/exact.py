"""The compiled graph in exact rational arithmetic: what the network says, with no rounding.

Nothing here computes in floats; a witness that `is_adversarial` is adversarial for the network
itself, not for one way of rounding it.  The graph is walked layer by layer on rows of numbers
(n, columns): one column is a point; with columns of derivatives before it, the same walk gives
the pieces just beyond a point, or the affine map of a pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.network.exact_ops import (
    ExactArray,
    apply,
    exact_constants,
    frozen,
    pieces_beyond,
    winners,
)
from polytope.network.ir import Graph, Max, Node, Piecewise


def exact_outputs(graph: Graph, x: np.ndarray) -> ExactArray:
    """The outputs at a point, exactly.

    Parameters
    ----------
    graph : Graph
    x : float array of the graph's input shape
        Taken as exact.

    Returns
    -------
    ExactArray
        With flat ``integers`` (outputs,).

    Raises
    ------
    InputError
        If `x` has another shape, is not of floats, or is not finite.
    SmoothActivation
        If the network is not piecewise linear.
    """
    return _evaluate(graph, x)[0]


def exact_pieces(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The pieces of all units at a point, by the convention for ties, exactly.

    Parameters and errors are those of `exact_outputs`; the result is int64 (units,).
    """
    return np.concatenate([np.zeros(0, np.int64), *_evaluate(graph, x)[1]])


def is_adversarial(graph: Graph, x: np.ndarray, label: int, target: int | None = None) -> bool:
    """Whether some other class (or the class `target`) is at least as high as `label`, exactly.

    A single output f is a binary decision with the logits (0, f).  Parameters and errors are
    those of `exact_outputs`.

    Raises
    ------
    InputError
        Also if there is no such label or target.
    """
    outputs = exact_outputs(graph, x).integers
    logits = np.append([0], outputs) if len(outputs) == 1 else outputs
    if not 0 <= label < len(logits):
        raise InputError(f"label: got {label}, expected a class from 0 to {len(logits) - 1}")
    if target is not None and (target == label or not 0 <= target < len(logits)):
        raise InputError(
            f"target: got {target}, expected a class from 0 to {len(logits) - 1} other than the "
            f"label {label}"
        )
    rivals = range(len(logits)) if target is None else (target,)
    return any(logits[s] >= logits[label] for s in rivals if s != label)


def _evaluate(graph: Graph, x: np.ndarray) -> tuple[ExactArray, list[np.ndarray]]:
    """The flat outputs, and the pieces of each layer."""
    Engine(graph).require_piecewise_linear("exact arithmetic")
    point = np.asarray(x)
    if point.dtype.kind != "f" or point.dtype.itemsize > 8:
        raise InputError(f"x: got dtype {point.dtype}, expected float64; convert it first")
    if point.shape != graph.input_shape:
        raise InputError(f"x: got shape {point.shape}, expected one input {graph.input_shape}")
    if not np.isfinite(point).all():
        raise InputError("x: got NaN or infinity, expected finite numbers")
    column = point.astype(np.float64).reshape(-1, 1)
    state = ExactState.start(graph, ExactArray.from_floats(column))
    pieces: list[np.ndarray] = []
    while state.layer < len(graph.layers):
        pieces.append(state.natural_pieces())
        state = state.advance(pieces[-1])
    out = state.preactivations
    return ExactArray(out.integers[:, -1], out.exponent, out.denominator), pieces


@dataclass(frozen=True)
class ExactState:
    """The graph evaluated up to a layer, whose pieces are to be chosen next.

    Attributes
    ----------
    graph : Graph
    layer : int
        Position in ``graph.layers``; their number once the output is reached.
    values : mapping of int to ExactArray (n, columns)
        By node, those that this layer or a later node reads.
    """

    graph: Graph
    layer: int
    values: Mapping[int, ExactArray]

    @classmethod
    def start(cls, graph: Graph, inputs: ExactArray) -> ExactState:
        """From the inputs (input size, columns) to the first layer."""
        return cls._run(graph, {0: inputs}, 1, 0)

    @property
    def preactivations(self) -> ExactArray:
        """What the layer reads (for a max, all that its windows read), or the outputs."""
        layers = self.graph.layers
        if self.layer == len(layers):
            return self.values[len(self.graph.nodes) - 1]
        return self.values[self.graph.nodes[layers[self.layer].node].inputs[0]]

    def natural_pieces(self) -> np.ndarray:
        """The pieces (units,), int64, that the last column decides, by the convention for ties.

        With derivatives before it they are the pieces just beyond the point in the direction
        of the first one, where that ties too of the second one, and so on.
        """
        node, z = self._node(), self.preactivations
        if isinstance(node.op, Piecewise):
            breakpoints = exact_constants(self.graph)[node.op.breakpoints]
            return pieces_beyond(z, breakpoints, node.shape)
        assert isinstance(node.op, Max)
        return winners(z.integers, self.graph.constants[node.op.index])

    def advance(self, pieces: np.ndarray) -> ExactState:
        """The state at the next layer, with this layer as the affine map of its `pieces`."""
        node, z = self._node(), self.preactivations
        if isinstance(node.op, Piecewise):
            value = frozen(node.op, z, pieces, exact_constants(self.graph), node.shape)
        else:
            assert isinstance(node.op, Max)
            index = self.graph.constants[node.op.index]
            chosen = index[np.arange(len(index)), pieces]
            value = ExactArray(z.integers[chosen], z.exponent, z.denominator)
        number = self.graph.layers[self.layer].node
        values = {**self.values, number: value}
        return self._run(self.graph, values, number + 1, self.layer + 1)

    def _node(self) -> Node:
        return self.graph.nodes[self.graph.layers[self.layer].node]

    @classmethod
    def _run(
        cls, graph: Graph, values: dict[int, ExactArray], first: int, layer: int
    ) -> ExactState:
        """Evaluate the nodes from `first` up to a layer, and let go what is not read again."""
        nodes, constants = graph.nodes, exact_constants(graph)
        last = len(nodes) - 1
        stop = graph.layers[layer].node if layer < len(graph.layers) else last + 1
        for number in range(first, stop):
            node = nodes[number]
            args = [values[i] for i in node.inputs]
            shape = nodes[node.inputs[0]].shape
            values[number] = apply(node, args, shape, constants, graph.constants)
        live = {i: v for i, v in values.items() if i == last or graph.last_use[i] >= stop}
        return cls(graph, layer, live)
