"""One ONNX node as the reader sees it: its operands, its attributes, its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from polytope.errors import UnsupportedOperation
from polytope.network.build import GraphBuilder, Value

#: A value computed from the network's input, or a constant (float64, int64 or bool).
Operand = Value | np.ndarray


@dataclass(frozen=True)
class Call:
    """One node being read: its operands, its attributes, and the builder to add to.

    Attributes
    ----------
    builder : GraphBuilder
        Where the operation is added.
    node : onnx.NodeProto
        The node.
    operands : tuple of Value, array or None
        Its inputs; None where an optional input is left out.
    opset : int
        Version of the standard operations.
    notices : list of str
        Collects what the user should know.
    """

    builder: GraphBuilder
    node: onnx.NodeProto
    operands: tuple[Operand | None, ...]
    opset: int
    notices: list[str]

    @property
    def name(self) -> str:
        """The node's name, or its first output's where it has none."""
        return str(self.node.name or self.node.output[0])

    @property
    def place(self) -> str:
        """The operation and where it stands, for messages."""
        return (
            f"ONNX operation {self.node.op_type} (node '{self.node.name}', "
            f"output '{self.node.output[0]}')"
        )

    def refuse(self, reason: str) -> NoReturn:
        """Raise `UnsupportedOperation` with the node's place."""
        raise UnsupportedOperation(f"{self.place}: {reason}")

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value (text decoded), else the standard's default, else `default`."""
        attributes = {attribute.name: attribute for attribute in self.node.attribute}
        schema = onnx.defs.get_schema(self.node.op_type, self.opset)
        attribute = attributes.get(name)
        if attribute is None and name in schema.attributes:
            attribute = schema.attributes[name].default_value
        if attribute is None or attribute.type == onnx.AttributeProto.UNDEFINED:
            return default
        value = helper.get_attribute_value(attribute)
        return value.decode() if isinstance(value, bytes) else value

    def operand(self, position: int) -> Operand | None:
        """An input; None where it is left out."""
        return self.operands[position] if position < len(self.operands) else None

    def value(self, position: int = 0) -> Value:
        """An input that must be computed from the network's input."""
        operand = self.operand(position)
        if not isinstance(operand, Value):
            self.refuse(f"input {position} must be computed from the network's input")
        return operand

    def constant(self, position: int) -> np.ndarray | None:
        """An input that must be a constant; None where it is left out."""
        operand = self.operand(position)
        if isinstance(operand, Value):
            self.refuse(f"input {position} ('{self.node.input[position]}') must be a constant")
        return operand

    def weight(self, position: int) -> np.ndarray:
        """A constant input that must be there."""
        array = self.constant(position)
        if array is None:
            self.refuse(f"input {position} is missing")
        return array

    def key(self, position: int) -> str:
        """The name of a constant input."""
        return str(self.node.input[position])

    def evaluate(self, operands: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Run the node on arrays with the standard's numpy implementation."""
        names = list(self.node.input)
        graph = helper.make_graph(
            [self.node],
            "fold",
            [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names) if name],
            [helper.make_empty_tensor_value_info(name) for name in self.node.output if name],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        feeds = {name: array for name, array in zip(names, operands, strict=True) if name}
        results = iter(ReferenceEvaluator(model).run(None, feeds))
        return [
            exact_array(next(results), self.place) if name else np.zeros(0)
            for name in self.node.output
        ]


def exact_array(array: object, place: str) -> np.ndarray:
    """A constant as float64, int64 or bool; every ONNX float is exact in float64."""
    if not isinstance(array, np.ndarray | np.generic):
        raise UnsupportedOperation(f"{place}: a {type(array).__name__} is not an array of numbers")
    values = np.asarray(array)
    if values.dtype.kind == "b":
        return values
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind in "OSUc":
        raise UnsupportedOperation(f"{place}: constants of type {values.dtype} are not supported")
    return values.astype(np.float64)


def tensor_array(tensor: onnx.TensorProto) -> np.ndarray:
    """A stored constant as an array."""
    return exact_array(numpy_helper.to_array(tensor), f"stored constant '{tensor.name}'")
