"""Walks a captured torch program and builds the graph: the interpreter behind `read_torch`.

Operations on constants alone are folded, and remembered (torch_constants.py); operations on
data are looked up in one table (torch_ops.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from polytope.errors import PolytopeError, UnsupportedOperation
from polytope.network.build import GraphBuilder, Value
from polytope.network.torch_constants import (
    Constant,
    constants_in,
    leaves_of,
    replaced,
    with_values,
)


class RefusalError(Exception):
    """A handler cannot take an operation: the reason; the walker adds the name and place."""


class Indices:
    """The positions of a maximum, which are not a piecewise-linear function."""


#: What an operation on data gives: a value, constants, or several of them.
Result = Any
Handler = Callable[..., Result]


class TorchReader:
    """Builds a graph from fx graphs of aten operations.

    Parameters
    ----------
    handlers : mapping
        Operation name to a function ``handler(reader, name, **arguments)``.
    moves : set of str
        Operations that only move data.
    refused : mapping
        Operations refused by name, with the reason.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], moves: frozenset[str], refused: Mapping[str, str]
    ) -> None:
        self.builder = GraphBuilder()
        self.sources: dict[str, Constant] = {}
        self.deviations: dict[str, float] = {}
        self._handlers, self._moves, self._refused = handlers, moves, refused
        self._keys: dict[Constant, str] = {}
        self._folded: dict[tuple[object, ...], Constant] = {}
        self._fixed = 0

    # Constants -----------------------------------------------------------------------------

    def parameter(self, name: str, tensor: torch.Tensor) -> Constant:
        """A parameter or buffer of the model."""
        return Constant(name, _plain(tensor), fixed=False)

    def fixed(self, value: object) -> Constant:
        """A constant of the model's code."""
        self._fixed += 1
        dtype = torch.float64 if isinstance(value, float) else None
        return Constant(f"={self._fixed}", _plain(torch.as_tensor(value, dtype=dtype)), fixed=True)

    def fold(
        self,
        function: Callable[..., torch.Tensor],
        *arguments: Any,
        value: torch.Tensor | None = None,
    ) -> Constant:
        """``function(*arguments)`` of constants; equal calls give the same constant.

        `value` is given where it is known better than `function` would compute it.
        """
        inputs = constants_in(arguments)
        named = replaced(arguments, lambda a: a.key if isinstance(a, Constant) else a)
        call = (function, repr(named), *(id(c) for c in inputs))
        if call not in self._folded:
            if value is None:
                value = _plain(function(*with_values(arguments, lambda c: c.value)))
            fixed = all(c.fixed for c in inputs)
            made = (function, arguments) if not fixed else (None, ())
            self._folded[call] = Constant(f"=fold{len(self._folded)}", value, fixed, *made)
        return self._folded[call]

    def key(self, constant: Constant) -> str:
        """The constant's key in the graph, as float64."""
        if constant not in self._keys:
            values = constant.value.double().numpy()
            key = self.builder.constant(values, constant.key)
            self._keys[constant], self.sources[key] = key, constant
        return self._keys[constant]

    def deviates(self, what: str, by: float) -> None:
        """Record the relative deviation of a constant that had to be rounded."""
        self.deviations[what] = max(by, self.deviations.get(what, 0.0))

    # The walk ------------------------------------------------------------------------------

    def walk(
        self,
        graph: torch.fx.Graph,
        inputs: Mapping[str, Value | Constant],
        owner: torch.nn.Module,
        skip: torch.fx.Node | None = None,
        within: str = "",
    ) -> Result:
        """Interpret the graph of `owner`; `skip` is taken as the identity.

        `inputs` are by placeholder name; `within` is the layer that the graph decomposes.
        """
        known: dict[torch.fx.Node, Result] = {}
        for node in graph.nodes:
            args, kwargs = replaced(
                (node.args, dict(node.kwargs)),
                lambda a: known[a] if isinstance(a, torch.fx.Node) else a,
            )
            if node.op == "placeholder":
                known[node] = inputs.get(node.name)
            elif node.op == "get_attr":
                known[node] = self.fixed(getattr(owner, str(node.target)))
            elif node.op == "output":
                return args[0]
            elif skip is not None and node is skip:
                known[node] = args[0]
            elif node.users:
                known[node] = self._step(node, args, kwargs, within)
        raise AssertionError("a captured graph ends with its output")

    def _step(
        self, node: torch.fx.Node, args: Sequence[Any], kwargs: dict[str, Any], within: str
    ) -> Result:
        """One operation, refused by name and place if there is no rule for it."""
        target = node.target
        if target is getitem:
            return args[0][args[1]]
        if not isinstance(target, torch._ops.OpOverload):
            raise UnsupportedOperation(
                f"cannot compile {getattr(target, '__name__', target)!r} {place(node)}: "
                "only plain tensor operations can be compiled"
            )
        try:
            name = f"{within}.{node.name}" if within else node_name(node)
            return self._apply(target, name, schema_arguments(target, args, kwargs))
        except RefusalError as reason:
            raise UnsupportedOperation(
                f"cannot compile {operation(target)!r} {place(node)}: {reason}"
            ) from None
        except PolytopeError:
            raise
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise UnsupportedOperation(
                f"cannot compile {operation(target)!r} {place(node)}: this form of it is not "
                f"supported ({error})"
            ) from error

    def _apply(self, target: torch._ops.OpOverload, name: str, arguments: dict[str, Any]) -> Result:
        leaves = leaves_of(arguments)
        if any(isinstance(leaf, Indices) for leaf in leaves):
            raise RefusalError("it uses the position of a maximum, which has no linear pieces")
        short = operation(target)
        if short in self._refused and any(isinstance(leaf, Value) for leaf in leaves):
            raise RefusalError(self._refused[short])
        if torch.Tag.nondeterministic_seeded in target.tags and _is_random(arguments):
            raise RefusalError("it draws random numbers, so the model is no function of its input")
        if not any(isinstance(leaf, Value) for leaf in leaves):
            return self.apply_constant(target, arguments)
        if short.endswith("_like") or short.startswith("new_"):
            return self.apply_constant(target, self._with_zeros(arguments))
        if short in self._handlers:
            return self._handlers[short](self, name, **arguments)
        if short in self._moves:
            return self.move(target, name, arguments)
        return self._decompose(target, name, arguments)

    def apply_constant(self, target: torch._ops.OpOverload, arguments: dict[str, Any]) -> Result:
        """An operation on constants alone: folded."""
        count = len(target._schema.returns)
        listed = count == 1 and "List" in str(target._schema.returns[0].type)
        if count == 1 and not listed:
            return self.fold(call, target, arguments)
        values = call(target, with_values(arguments, lambda c: c.value))
        return tuple(self.fold(call_part, target, arguments, i) for i in range(len(values)))

    def _with_zeros(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments with zeros for the data."""

        def zeros(leaf: Any) -> Any:
            is_data = isinstance(leaf, Value)
            return self.fold(torch.zeros, list(leaf.shape)) if is_data else leaf

        return replaced(arguments, zeros)  # type: ignore[no-any-return]

    # Data movement -------------------------------------------------------------------------

    def move(
        self, target: torch._ops.OpOverload, name: str, arguments: dict[str, Any]
    ) -> Value | tuple[Value, ...]:
        """Any operation that only moves data: run on positions, it gives the index.

        Cells that hold constants (padding, masked values, concatenated constants) are 0 in
        the index, so no position; what they hold is found by running the operation on the
        constants with zeros for the data, and added.
        """
        starts: dict[Value, int] = {}

        def positions(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                start = starts.setdefault(leaf, 1 + sum(x.size for x in starts))
                return start + torch.from_numpy(leaf.positions).double()
            if isinstance(leaf, Constant):
                value = leaf.value
                return torch.zeros_like(value) if value.is_floating_point() else value
            return leaf

        fills = {k: v for k, v in arguments.items() if k in FILLS and isinstance(v, int | float)}
        moved = replaced({**arguments, **dict.fromkeys(fills, 0.0)}, positions)
        index = call(target, moved)
        shift: Any = None
        floats = [c for c in constants_in(arguments) if c.value.is_floating_point()]
        if floats or any(fills.values()):
            shift = self.apply_constant(target, self._with_zeros(arguments))
        if isinstance(index, torch.Tensor):
            return self._moved(name, starts, index, shift)
        shifts = shift or [None] * len(index)
        return tuple(
            self._moved(name, starts, part, fill) for part, fill in zip(index, shifts, strict=True)
        )

    def _moved(
        self, name: str, starts: Mapping[Value, int], index: torch.Tensor, shift: Constant | None
    ) -> Value:
        """The gather that an index over several values stands for, plus a shift."""
        where = index.to(torch.int64).numpy()
        used, local, total = [], np.full(where.shape, -1), 0
        for x, start in starts.items():
            mine = (where >= start) & (where < start + x.size)
            if mine.any() or len(starts) == 1:
                local[mine] = where[mine] - start + total
                used.append(x)
                total += x.size
        used = used or [next(iter(starts))]
        flat = [self.builder.reshape(x, (1, x.size), name) for x in used]
        joined = used[0] if len(used) == 1 else self.builder.concat(flat, 1, name)
        result = self.builder.gather(joined, local, name)
        if shift is None or (shift.fixed and not shift.value.any()):
            return result
        return self.builder.affine(result, None, self.key(shift), name)

    # Operations without a rule -------------------------------------------------------------

    def _decompose(
        self, target: torch._ops.OpOverload, name: str, arguments: dict[str, Any]
    ) -> Result:
        """An operation that torch can write with simpler ones, if those have rules."""
        table = torch.export.default_decompositions()
        if target not in table:
            raise RefusalError("there is no rule for it; rewrite it with supported operations")
        rules = {op: table[op] for op in table}
        leaves = [a for a in leaves_of(arguments) if isinstance(a, Value | Constant)]

        def run(*tensors: torch.Tensor) -> Any:
            left = iter(tensors)
            filled = replaced(
                arguments, lambda a: next(left) if isinstance(a, Value | Constant) else a
            )
            return target(**filled)

        examples = [
            torch.zeros(a.shape, dtype=torch.float64) if isinstance(a, Value) else a.value
            for a in leaves
        ]
        simple = make_fx(run, decomposition_table=rules)(*examples)
        module = make_fx(torch.func.functionalize(simple))(*examples)
        places = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        try:
            inputs = dict(zip(places, leaves, strict=True))
            return self.walk(module.graph, inputs, module, within=name)
        except UnsupportedOperation as error:
            raise RefusalError(f"it is not piecewise linear ({error})") from None


#: Arguments that hold a number to fill cells with.
FILLS = frozenset({"value", "self", "other"})


def call(target: torch._ops.OpOverload, arguments: dict[str, Any]) -> Any:
    """Run an operation in float64, whatever floating dtype the model's code casts to.

    A tensor made from nothing keeps its dtype: its numbers are the model's.
    """
    dtype = arguments.get("dtype")
    given = any(isinstance(leaf, torch.Tensor) for leaf in leaves_of(arguments))
    if given and isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        arguments = {**arguments, "dtype": torch.float64}
    return target(**arguments)


def call_part(target: torch._ops.OpOverload, arguments: dict[str, Any], part: int) -> Any:
    """One of several results of an operation."""
    return call(target, arguments)[part]


def schema_arguments(
    target: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments by the names in the operation's schema, defaults included."""
    named = {}
    for place_, argument in enumerate(target._schema.arguments):
        if place_ < len(args):
            named[argument.name] = args[place_]
        elif argument.name in kwargs:
            named[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def operation(target: Any) -> str:
    """The short name of an aten operation: "conv2d"."""
    name: str = target._schema.name if isinstance(target, torch._ops.OpOverload) else str(target)
    return name.split("::")[-1]


def modules_of(node: torch.fx.Node) -> list[tuple[str, str]]:
    """(path, class) of the modules around a node, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(path, str(kind)) for path, kind in stack.values()]


def node_name(node: torch.fx.Node) -> str:
    """A name for a node: the path of its torch.nn layer, else the module's path and its own."""
    path, kind = (modules_of(node) or [("", "")])[-1]
    if path and kind.startswith("torch.nn.modules."):
        return path
    return f"{path}.{node.name}" if path else node.name


def place(node: torch.fx.Node) -> str:
    """Where in the user's model a node stands, in words."""
    path, kind = (modules_of(node) or [("", "the model")])[-1]
    words = f"in {path!r} ({kind.split('.')[-1]})" if path else f"in {kind.split('.')[-1]}"
    frames = re.findall(r'File "(.+)", line (\d+), in .*\n\s*(.+)', node.stack_trace or "")
    own = [frame for frame in frames if "/torch/nn/" not in Path(frame[0]).as_posix()]
    if own:
        file, line, code = own[-1]
        words += f", at {Path(file).name}:{line}: `{code.strip()}`"
    return words


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A constant's value: detached, on the CPU, float64 if it is floating."""
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        raise RefusalError("it holds complex numbers")
    return tensor.double() if tensor.is_floating_point() else tensor


def _is_random(arguments: Mapping[str, Any]) -> bool:
    """Whether a random operation is active (dropout and rrelu are not, in evaluation)."""
    return arguments.get("train", arguments.get("training", True)) is not False
