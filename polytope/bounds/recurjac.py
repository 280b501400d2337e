"""RecurJac, backwards: elementwise bounds of the Jacobian (AAAI 2019, arXiv 1810.11783).

The paper bounds, for a chain ``Y^l = W^H D^{H-1} ... D^l W^l``, the entry (j, k) by merging the
units whose derivative has a known sign into a column ``W^{l+1} w`` and going on one layer up.  In
other words: column k is a *tangent* that runs forwards through the network, and at each layer
some units pay their contribution and the others hand on a tangent that is then fixed (see
payment.py).  That reading does not need a chain.  Let the nonlinear nodes v of any graph have
bounds ``L_v <= Y_v <= U_v`` of the derivative of a function with respect to their outputs, along
all paths behind them, and walk forwards.  The derivative is linear in the tangent t_v behind v:

    D f = (contributions that do not pass v) + Y_v t_v,     t_v = D_v (tangent before v),

and the tangent before v is by then a known number, since every slope before it was fixed or paid.
Replacing ``Y_v t_v`` by the payments of v and ``Y_v (handed on)`` is an upper bound for every
choice of the slopes behind v, so v can be left and the next node taken, in topological order:
where a residual sum joins two branches, the tangents handed on are added exactly, and the
payments of both are already in the total.  At the output the tangent is the rest of the bound.

The bounds ``[L_v, U_v]`` are made by the same walk from the unit tangents at v's output, for v
from last to first; where all behind v is linear they are exact, and v pays everything (the
paper's base case).  The input's unit tangents give the Jacobian.  A lower bound is minus the
upper one of the negated function.  Columns, functions and samples are batched: what a layer pays
and keeps depends on sample, function and the tangent's sign only.

Rounding: with bounds A of the absolute derivatives at every node, a linear node's rounded tangent
changes the result by at most ``sum A gamma |W| |t|``: an allowance per size of t, which is added
to the payments.  The result is a bound in exact arithmetic (see layers.py for the dtypes).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from polytope.bounds.chain import Link, run_chain, worthwhile
from polytope.bounds.derivatives import Derivatives, Slopes
from polytope.bounds.fastlip import Interval, through_linear
from polytope.bounds.interval import part_of
from polytope.bounds.layers import MEMORY
from polytope.bounds.linear_nodes import pull, scatter, terms_ahead
from polytope.bounds.payment import MaxPayment, Payment, payment
from polytope.bounds.rounding import SLACK, above, gamma
from polytope.network.engine import Constants, Engine, apply
from polytope.network.ir import Concat, Gather, Linear, Node, Sum

#: Bounds of absolute derivatives are enlarged by this at every node: far above their rounding.
WIDER = 1 + 1e-4


@dataclass(eq=False)
class Backward:
    """The recursion over the nodes of a network, for n input sets and m functions.

    Parameters
    ----------
    net : Engine
    derivatives : dict
        Of all nonlinear nodes.
    rows : tensor (n or 1, m, outputs)
        The functions, as combinations of the outputs.
    memory : int
        Bytes for the tangents of one block of directions.
    """

    net: Engine
    derivatives: Derivatives
    rows: torch.Tensor
    memory: int = MEMORY
    payments: dict[int, Payment | MaxPayment] = field(default_factory=dict)
    outer: dict[int, Interval] = field(default_factory=dict)
    _noise: dict[int, torch.Tensor] = field(default_factory=dict)
    _chains: dict[int, list[Link]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = self.net.graph.nodes
        self._c: Constants = self.net.constants(self.rows.dtype, self.rows.device)
        sizes = [len(self.rows)]
        for units in self.derivatives.values():
            sizes.append(len(units.low if isinstance(units, Slopes) else units.may))
        self.n, self.m = max(sizes), self.rows.shape[1]
        self._lost = self.rows.new_zeros(self.n, 2 * self.m)
        self._readers: list[list[int]] = [[] for _ in self._nodes]
        for number, node in enumerate(self._nodes):
            for source in node.inputs:
                self._readers[source].append(number)
        self._tail = self._linear_behind()
        self._widths = [
            node.size if i not in self.derivatives else max(node.size, self._windows(i))
            for i, node in enumerate(self._nodes)
        ]
        self._prepare()

    def jacobian(self) -> Interval:
        """Bounds of the functions' Jacobians with respect to the input: (n, m, inputs)."""
        self._link(0)
        return self._wall(0)

    def along(self, tangents: torch.Tensor) -> torch.Tensor:
        """Upper bounds of each function's derivative along its own direction.

        Parameters
        ----------
        tangents : tensor (n or 1, m, inputs)

        Returns
        -------
        tensor (n, m)
        """
        if 0 in self.outer:
            both = torch.cat([tangents, tangents], 1)[:, :, None]
            found = self._finish(contract(self.outer[0], both, self.n), None)
        else:
            both = torch.cat([tangents, tangents], 1)[:, :, None]
            found = self._sweep(0, both)
        return found[:, : self.m, 0]

    def _linear_behind(self) -> set[int]:
        """The nodes from which all paths to the output are linear, the output included."""
        found: set[int] = set()
        for number in range(len(self._nodes) - 1, -1, -1):
            readers = self._readers[number]
            if all(r in found and r not in self.derivatives for r in readers):
                found.add(number)
        return found

    def _windows(self, number: int) -> int:
        units = self.derivatives[number]
        return 1 if isinstance(units, Slopes) else units.index.numel()

    def _prepare(self) -> None:
        """Walls, payments and allowances of all nodes, from last to first."""
        last = len(self._nodes) - 1
        self.outer[last] = Interval(self.rows, self.rows)
        absolute: dict[int, torch.Tensor] = {last: self.rows.abs()}
        tiny = torch.finfo(self.rows.dtype).tiny
        for number in range(last, 0, -1):
            if number not in absolute:  # nothing behind it reads it
                continue
            node = self._nodes[number]
            size = absolute.pop(number)
            terms = terms_ahead(node, self._c) + 8
            loss = 4 * tiny * terms * (size.sum(dim=2) + node.size)
            self._lost = self._lost + torch.cat([loss, loss], 1)
            if number in self.derivatives:
                self._link(number)
                if number not in self.outer:
                    self.outer[number] = self._wall(number, size)
                size = torch.minimum(size, self.outer[number].size)
                self._pay_units(number)
                parts = [self._size_before(number, size)]
            else:
                parts = self._size_pulled(number, size)
            for source, part in zip(node.inputs, parts, strict=True):
                part = WIDER * part + tiny
                absolute[source] = absolute[source] + part if source in absolute else part
            if number in self._tail:
                self._pay_tail(number)

    def _pay_units(self, number: int) -> None:
        """The payments of a nonlinear node."""
        outer = self.outer[number]
        both = both_signs(outer)
        noise = self._noise.get(number)
        if number in self._tail:
            self.payments[number] = payment(self.derivatives[number], both, None)
            return
        noise = torch.zeros_like(outer.low) if noise is None else noise
        self.payments[number] = payment(
            self.derivatives[number], both, torch.cat([noise, noise], 1)
        )

    def _pay_tail(self, number: int) -> None:
        """Exact derivatives at what a node of the linear tail reads."""
        node = self._nodes[number]
        if number in self.derivatives:
            return
        shapes = [self._nodes[i].shape for i in node.inputs]
        parts = through_linear(node, self.outer[number], shapes, self._c)
        for source, part in zip(node.inputs, parts, strict=True):
            if source in self._tail:
                known = self.outer.get(source)
                self.outer[source] = part if known is None else known.plus(part)

    def _size_before(self, number: int, size: torch.Tensor) -> torch.Tensor:
        """Absolute derivatives at what a nonlinear node reads."""
        units = self.derivatives[number]
        if isinstance(units, Slopes):
            return size * units.size[:, None]
        each = torch.where(units.may[:, None], size[..., None], 0.0)
        source = self._nodes[self._nodes[number].inputs[0]].size
        flat = scatter(each.flatten(0, 1).flatten(1), units.index.flatten(), source)
        return flat.reshape(-1, self.m, source)

    def _size_pulled(self, number: int, size: torch.Tensor) -> list[torch.Tensor]:
        """Absolute derivatives at what a linear node reads; notes what rounding costs there."""
        node = self._nodes[number]
        shapes = [self._nodes[i].shape for i in node.inputs]
        part = part_of(node, self._c, 0)
        assert part is not None
        flat = size.reshape(-1, *node.shape)
        found = [v.reshape(len(size), self.m, -1) for v in pull(part[0], flat, shapes, part[1])]
        terms = terms_ahead(node, self._c)
        unit = SLACK * WIDER * gamma(terms + 2, size.dtype) if terms else 0.0
        for source, value in zip(node.inputs, found, strict=True):
            noise = unit * value
            known = self._noise.get(source)
            self._noise[source] = noise if known is None else known + noise
        return found

    def _link(self, number: int) -> None:
        """Note the chain of fully connected layers that begins at a node, if there is one."""
        if self.rows.dtype != torch.float64 or self.rows.device.type != "cpu":
            return
        reader, matrix = number, None
        for _ in range(4):  # reshapes before and behind one fully connected layer, then units
            readers = self._readers[reader]
            if len(readers) != 1:
                return
            reader = readers[0]
            op = self._nodes[reader].op
            if isinstance(op, Linear) and matrix is None and len(self._nodes[reader].shape) == 1:
                matrix = self._c[op.weight]
            elif op != Gather(None):
                break
        pays = self.payments.get(reader)
        if matrix is None or not isinstance(pays, Payment):
            return
        rest = [] if reader in self._tail else self._chains.get(reader)
        if rest is not None:
            self._chains[number] = [Link.of(matrix.T, pays), *rest]

    def _wall(self, number: int, size: torch.Tensor | None = None) -> Interval:
        """Bounds of the functions' derivatives with respect to a node's values.

        Of units that are off only their absolute `size` is given.
        """
        if number in self.outer:
            known = self.outer[number]
            return Interval(known.low.expand(self.n, -1, -1), known.high.expand(self.n, -1, -1))
        total, like = self._nodes[number].size, self.rows
        units = self.derivatives.get(number)
        wanted = torch.arange(total, device=like.device)
        if size is not None and isinstance(units, Slopes):
            wanted = ((units.low != 0) | (units.high != 0)).any(dim=0).nonzero().flatten()
        chain = self._chains.get(number)
        if chain is not None and worthwhile(chain, len(wanted)):
            upper = self._finish(*self._follow(chain, wanted, self._noise.get(number)))
        else:
            widest = max(self._widths[number:])
            step = self.memory // (4 * like.element_size() * widest * self.n * 2 * self.m)
            parts = []
            for places in torch.split(wanted, max(1, step)) if len(wanted) else ():
                unit = like.new_zeros(len(places), total)
                unit.scatter_(1, places[:, None], 1.0)
                parts.append(self._sweep(number, unit[None, None]))
            upper = torch.cat([like.new_zeros(self.n, 2 * self.m, 0), *parts], 2)
        low, high = -upper[:, self.m :], upper[:, : self.m]
        if size is None or len(wanted) == total:
            return Interval(low, high)
        every = size.expand(self.n, -1, -1)
        return Interval((-every).index_copy(2, wanted, low), every.index_copy(2, wanted, high))

    def _follow(
        self, chain: list[Link], start: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Payments along a chain, and their absolute sums.

        Parameters
        ----------
        chain : list of Link
        start : tensor
            Tangents at its beginning, or the places of unit tangents (see `run_chain`).
        noise : tensor, optional
            What rounding costs unit tangents there.
        """
        total, size = (torch.from_numpy(v) for v in run_chain(chain, start.numpy(), self.n))
        if noise is not None and start.ndim == 1:
            own = torch.cat([noise, noise], 1)[:, :, start]
            total, size = total + own, size + own
        return total, size

    def _sweep(self, start: int, tangents: torch.Tensor) -> torch.Tensor:
        """Upper bounds of the derivatives along tangents at a node.

        Parameters
        ----------
        start : int
            Not of the linear tail.
        tangents : tensor (n or 1, 2m or 1, directions, size)

        Returns
        -------
        tensor (n, 2m, directions)
        """
        nodes, last_use = self._nodes, self.net.graph.last_use
        moving = {start: tangents}
        total: torch.Tensor | None = None
        size: torch.Tensor | None = None
        noise = self._noise.get(start)
        if noise is not None:
            total = size = weigh(tangents, torch.cat([noise, noise], 1), self.n)
        for number in range(start + 1, len(nodes)):
            node = nodes[number]
            if not any(i in moving for i in node.inputs):
                continue
            found: torch.Tensor | None = None
            if number in self.derivatives:
                t = moving[node.inputs[0]]
                pays = self.payments[number]
                found = pays.pay(t)
                if pays.hands_on:
                    moving[number] = pays.hand_on(t)
                    chain = self._chains.get(number)
                    alone = all(last_use[i] <= number for i in moving if i != number)
                    if chain and alone and worthwhile(chain, t.shape[2]):
                        rest = self._follow(chain, moving.pop(number), None)
                        found, size = found + rest[0], rest[1] if size is None else size + rest[1]
            else:
                t = self._push(node, [moving.get(i) for i in node.inputs])
                if number in self._tail:
                    found = contract(self.outer[number], t, self.n)
                else:
                    moving[number] = t
                    noise = self._noise.get(number)
                    if noise is not None and bool((noise != 0).any()):
                        found = weigh(t, torch.cat([noise, noise], 1), self.n)
            for source in node.inputs:
                if last_use[source] <= number:
                    moving.pop(source, None)
            if found is not None:
                total = found if total is None else total + found
                size = found.abs() if size is None else size + found.abs()
        if total is None:
            total = self.rows.new_zeros(self.n, 2 * self.m, tangents.shape[2])
        return self._finish(total, size)

    def _finish(self, total: torch.Tensor, size: torch.Tensor | None) -> torch.Tensor:
        """A sum of payments, rounded up; two sums may have been added up by other routes."""
        if size is not None:
            total = total + SLACK * 2 * gamma(len(self._nodes) + 4, total.dtype) * size
        upper = above(total + self._lost[:, :, None])
        return torch.where(torch.isnan(upper), torch.inf, upper)  # an overflow

    def _push(self, node: Node, tangents: list[torch.Tensor | None]) -> torch.Tensor:
        """Tangents (n or 1, 2m or 1, directions, size) behind a linear node; None is zero."""
        present = [t for t in tangents if t is not None]
        lead = torch.Size(max(sizes) for sizes in zip(*(t.shape[:3] for t in present), strict=True))
        op = node.op
        kept = node
        used: list[tuple[torch.Tensor | None, int]] = list(zip(tangents, node.inputs, strict=True))
        if isinstance(op, Sum):
            signs = tuple(
                k for k, t in zip(op.coefficients, tangents, strict=True) if t is not None
            )
            kept = Node(Sum(signs), node.inputs, node.shape, node.name)
            used = [(t, i) for t, i in used if t is not None]
        args = []
        for t, source in used:
            shape = self._nodes[source].shape
            if t is None:
                assert isinstance(op, Concat)
                args.append(present[0].new_zeros(lead.numel(), *shape))
            else:
                args.append(t.expand(*lead, -1).reshape(lead.numel(), *shape))
        return apply(kept, args, self._c, bias=False).reshape(*lead, -1)


def both_signs(outer: Interval) -> Interval:
    """Bounds for the functions and for their negatives."""
    return Interval(torch.cat([outer.low, -outer.high], 1), torch.cat([outer.high, -outer.low], 1))


def contract(outer: Interval, t: torch.Tensor, n: int) -> torch.Tensor:
    """Upper bounds of ``Y t`` for Y in an interval: (n, 2m, directions)."""
    both = both_signs(outer)
    unit = SLACK * 2 * gamma(t.shape[3] + 4, t.dtype)
    up, down = both.high + unit * both.high.abs(), -both.low + unit * both.low.abs()
    zero = torch.zeros_like(up)
    return Payment(up, down, zero, zero).pay(t).expand(n, -1, -1)


def weigh(t: torch.Tensor, noise: torch.Tensor, n: int) -> torch.Tensor:
    """``sum noise |t|``: (n, 2m, directions)."""
    return Payment(noise, noise, noise, noise).pay(t).expand(n, -1, -1)
