"""RecurJac forwards: the recursion on the transposed product (arXiv 1810.11783, section 3.3).

Everything is as in recurjac.py with the direction turned round.  The Jacobian of a node's values
with respect to an input coordinate k is bounded by letting a *covector* run backwards from the
node: at each layer u the derivatives Z_u of what u reads, with respect to k, lie in [L_u, U_u]
by then, units whose Z_u has a known sign hand on a fixed covector, and the others pay.  In the
paper's terms the covector is the row ``w W^l``.  Where covectors of several readers meet they are
added; nodes that depend linearly on the input end the walk with their exact derivatives.

F0 starts at the input and keeps bounds of shape (layer, inputs); F1 starts behind the first layer
of units, keeps (layer, units), and appends the first layer by an interval product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from polytope.bounds.chain import Link, run_chain, worthwhile
from polytope.bounds.derivatives import Derivatives, Slopes, Winners
from polytope.bounds.fastlip import Interval, pull_interval
from polytope.bounds.interval import part_of
from polytope.bounds.layers import MEMORY
from polytope.bounds.linear_nodes import pull, terms_ahead, terms_back
from polytope.bounds.payment import Payment, WinnerPayment, payment, winner_payment
from polytope.bounds.recurjac import WIDER, both_signs, contract, weigh
from polytope.bounds.rounding import SLACK, above, below, gamma
from polytope.errors import InputError
from polytope.network.engine import Constants, Engine, apply
from polytope.network.ir import Gather, Linear, Node


@dataclass(eq=False)
class Forward:
    """The recursion over the nodes behind a base node, for n input sets.

    Parameters
    ----------
    net : Engine
    derivatives : dict
        Of all nonlinear nodes.
    rows : tensor (n or 1, m, outputs)
        The functions, as combinations of the outputs.
    base : int
        The node with respect to which derivatives are bounded.
    columns : slice
        The coordinates of that node that count.
    memory : int
        Bytes for the covectors of one block.
    """

    net: Engine
    derivatives: Derivatives
    rows: torch.Tensor
    base: int = 0
    columns: slice = field(default_factory=lambda: slice(None))
    memory: int = MEMORY
    inner: dict[int, Interval] = field(default_factory=dict)
    payments: dict[int, Payment | WinnerPayment] = field(default_factory=dict)
    _noise: dict[int, torch.Tensor] = field(default_factory=dict)
    _chains: dict[int, list[Link]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = self.net.graph.nodes
        self._c: Constants = self.net.constants(self.rows.dtype, self.rows.device)
        sizes = [len(self.rows)]
        for units in self.derivatives.values():
            sizes.append(len(_first(units)))
        self.n = max(sizes)
        self.inputs = len(range(*self.columns.indices(self._nodes[self.base].size)))
        self._readers = [0] * len(self._nodes)
        for node in self._nodes:
            for source in node.inputs:
                self._readers[source] += 1
        self._lost = self.rows.new_zeros(self.n, 2 * self.inputs)
        self._head: set[int] = {self.base}
        self._moving: set[int] = {self.base}
        self._prepare()

    def jacobian(self) -> Interval:
        """Bounds of the functions' derivatives with respect to the columns: (n, m, columns)."""
        last = len(self._nodes) - 1
        if last not in self._moving:
            zero = self.rows.new_zeros(self.n, self.rows.shape[1], self.inputs)
            return Interval(zero, zero)
        upper = self._sweep(last, self.rows[:, None])
        return Interval(
            -upper[:, self.inputs :].transpose(1, 2), upper[:, : self.inputs].transpose(1, 2)
        )

    def _prepare(self) -> None:
        """Walls, payments and allowances of all nodes, from the base to the last."""
        eye = torch.eye(self._nodes[self.base].size, dtype=self.rows.dtype)[None, self.columns]
        eye = eye.to(self.rows.device)
        self.inner[self.base] = Interval(eye, eye)
        sizes = {self.base: eye}
        tiny = torch.finfo(self.rows.dtype).tiny
        for number in range(self.base + 1, len(self._nodes)):
            node = self._nodes[number]
            used = [i for i in node.inputs if i in self._moving]
            if not used:
                continue
            self._moving.add(number)
            if number in self.derivatives:
                source = node.inputs[0]
                if source not in self.inner:
                    self._link(source)
                    self.inner[source] = self._wall(source, sizes[source])
                sizes[source] = torch.minimum(
                    sizes[source].expand_as(self.inner[source].low), self.inner[source].size
                )
                self._pay_units(number, source)
                size = self._size_behind(number, sizes[source])
                extra = 0
            else:
                if all(i in self._head for i in used):
                    self._head.add(number)
                    parts = [self.inner.get(i) for i in node.inputs]
                    self.inner[number] = self._push_interval(node, parts)
                size = self._push([sizes.get(i) for i in node.inputs], node, True)
                extra = terms_back(node, self._c)
            size = WIDER * size + tiny
            terms = extra + self._readers[number]
            if extra or self._readers[number] > 1:
                self._noise[number] = SLACK * gamma(terms + 2, size.dtype) * size
            each = 4 * tiny * (terms + terms_ahead(node, self._c) + 8)
            loss = each * (size.sum(dim=2) + node.size)
            self._lost = self._lost + torch.cat([loss, loss], 1)
            sizes[number] = size
            for i in used:
                if self.net.graph.last_use[i] <= number:
                    sizes.pop(i, None)

    def _pay_units(self, number: int, source: int) -> None:
        """The payments of a nonlinear node."""
        units, inner = self.derivatives[number], both_signs(self.inner[source])
        exact = source in self._head
        noise = self._noise.get(source)
        folded = noise is not None and self._readers[source] == 1
        allowance = torch.cat([noise, noise], 1) if folded and noise is not None else None
        if isinstance(units, Slopes):
            if allowance is None:
                allowance = torch.zeros_like(inner.low)
            paid = payment(units, inner, None if exact else allowance)
            assert isinstance(paid, Payment)
            self.payments[number] = paid
            return
        self.payments[number] = winner_payment(units, inner, exact, allowance)

    def _size_behind(self, number: int, size: torch.Tensor) -> torch.Tensor:
        """Absolute derivatives of a nonlinear node's outputs."""
        units = self.derivatives[number]
        if isinstance(units, Slopes):
            return size * units.size[:, None]
        read = size[..., units.index.clamp(min=0)]
        return torch.where(units.may[:, None], read, 0.0).amax(dim=3)

    def _link(self, number: int) -> None:
        """Note the chain of fully connected layers that ends at a node, if there is one."""
        if self.rows.dtype != torch.float64 or self.rows.device.type != "cpu":
            return
        node, matrix = self._nodes[number], None
        if isinstance(node.op, Linear) and len(node.shape) == 1:
            matrix = self._c[node.op.weight]
        before = node.inputs[0]
        while self._nodes[before].op == Gather(None):
            before = self._nodes[before].inputs[0]
        pays = self.payments.get(before)
        if matrix is None or not isinstance(pays, Payment):
            return
        source = self._nodes[before].inputs[0]
        rest = [] if source in self._head else self._chains.get(source)
        if rest is not None:
            self._chains[number] = [Link.of(matrix, pays), *rest]

    def _wall(self, number: int, size: torch.Tensor) -> Interval:
        """Bounds of the derivatives of a node's values: (n, inputs, size).

        Of values that only units that are off read, only their absolute `size` is given.
        """
        total, like = self._nodes[number].size, self.rows
        wanted = self._read_by_units(number)
        chain = self._chains.get(number)
        if chain is not None and worthwhile(chain, len(wanted)):
            paid, sizes = (torch.from_numpy(v) for v in run_chain(chain, wanted.numpy(), self.n))
            upper = self._finish(paid, sizes, self._noise_at(number, wanted))
        else:
            widest = max(node.size for node in self._nodes[self.base : number + 1])
            step = self.memory // (4 * like.element_size() * widest * self.n * 2 * self.inputs)
            parts = []
            for places in torch.split(wanted, max(1, step)) if len(wanted) else ():
                unit = like.new_zeros(len(places), total)
                unit.scatter_(1, places[:, None], 1.0)
                parts.append(self._sweep(number, unit[None, None]))
            upper = torch.cat([like.new_zeros(self.n, 2 * self.inputs, 0), *parts], 2)
        low, high = -upper[:, self.inputs :], upper[:, : self.inputs]
        if len(wanted) == total:
            return Interval(low, high)
        every = size.expand(self.n, -1, -1)
        return Interval((-every).index_copy(2, wanted, low), every.index_copy(2, wanted, high))

    def _read_by_units(self, number: int) -> torch.Tensor:
        """Places of a node's values that are read by units that are not off."""
        wanted = torch.zeros(self._nodes[number].size, dtype=torch.bool, device=self.rows.device)
        for reader, units in self.derivatives.items():
            if number in self._nodes[reader].inputs:
                if isinstance(units, Winners):
                    wanted = torch.ones_like(wanted)
                else:
                    wanted = wanted | ((units.low != 0) | (units.high != 0)).any(dim=0)
        return wanted.nonzero().flatten()

    def _noise_at(self, number: int, places: torch.Tensor) -> torch.Tensor | None:
        """What rounding costs unit covectors at a node."""
        noise = self._noise.get(number)
        return None if noise is None else torch.cat([noise, noise], 1)[:, :, places]

    def _sweep(self, start: int, covectors: torch.Tensor) -> torch.Tensor:
        """Upper bounds of the derivatives of covectors at a node.

        Parameters
        ----------
        start : int
        covectors : tensor (n or 1, 1, count, size)

        Returns
        -------
        tensor (n, 2 inputs, count)
        """
        nodes = self._nodes
        pending = {start: covectors}
        total = self.rows.new_zeros(self.n, 2 * self.inputs, covectors.shape[2])
        size = total
        for number in range(start, self.base - 1, -1):
            here = pending.pop(number, None)
            if here is None:
                continue
            node = nodes[number]
            found: torch.Tensor | None = None
            parts: list[tuple[int, torch.Tensor]] = []
            if number in self._head:
                found = contract(self.inner[number], here, self.n)
            else:
                noise = self._noise.get(number)
                if noise is not None and not (number != start and self._folded(number)):
                    found = weigh(here, torch.cat([noise, noise], 1), self.n)
                if number in self.derivatives:
                    pays = self.payments[number]
                    paid = pays.pay(here)
                    found = paid if found is None else found + paid
                    if pays.hands_on:
                        parts = [(node.inputs[0], pays.hand_on(here))]
                else:
                    parts = self._pulled(node, here)
            for source, part in parts:
                pending[source] = pending[source] + part if source in pending else part
            if found is not None:
                total, size = total + found, size + found.abs()
        return self._finish(total, size, None)

    def _finish(
        self, total: torch.Tensor, size: torch.Tensor, more: torch.Tensor | None
    ) -> torch.Tensor:
        """A sum of payments, and of `more`, rounded up."""
        if more is not None:
            total, size = total + more, size + more
        total = total + SLACK * gamma(len(self._nodes) + 4, total.dtype) * size
        upper = above(total + self._lost[:, :, None])
        return torch.where(torch.isnan(upper), torch.inf, upper)  # an overflow

    def _folded(self, number: int) -> bool:
        """Whether the only reader's payments already carry a node's allowance."""
        return self._readers[number] == 1 and any(
            number in self._nodes[k].inputs for k in self.derivatives
        )

    def _pulled(self, node: Node, here: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Covectors on the inputs of a linear node that depend on the base."""
        shapes = [self._nodes[i].shape for i in node.inputs]
        lead = here.shape[:3]
        found = pull(node, here.reshape(-1, *node.shape), shapes, self._c)
        return [
            (i, part.reshape(*lead, -1))
            for i, part in zip(node.inputs, found, strict=True)
            if i in self._moving
        ]

    def _push(self, values: list[torch.Tensor | None], node: Node, absolute: bool) -> torch.Tensor:
        """Rows (n or 1, inputs, size) behind a linear node; None is zero."""
        present = next(v for v in values if v is not None)
        count = max(len(v) for v in values if v is not None)
        part = part_of(node, self._c, 0) if absolute else (node, self._c)
        if part is None:  # a sum of no parts
            return present.new_zeros(1, self.inputs, node.size)
        args = []
        for value, source in zip(values, node.inputs, strict=True):
            shape = self._nodes[source].shape
            if value is None:
                args.append(present.new_zeros(count * self.inputs, *shape))
            else:
                args.append(value.expand(count, -1, -1).reshape(-1, *shape))
        found = apply(part[0], args, part[1], bias=False)
        return found.reshape(count, self.inputs, -1)

    def _push_interval(self, node: Node, parts: list[Interval | None]) -> Interval:
        """Exact derivatives behind a linear node, rounded outwards."""
        middle = [None if v is None else (v.low + v.high) / 2 for v in parts]
        terms = terms_ahead(node, self._c) + 4
        unit = SLACK * gamma(terms, self.rows.dtype)
        exact = all(v is None or torch.equal(v.low, v.high) for v in parts)
        found = self._push(middle, node, False)
        if exact and terms_ahead(node, self._c) == 0:
            return Interval(found, found)
        wide = [
            None if v is None else (v.high - v.low) / 2 * (1 + 4 * unit) + unit * v.size
            for v in parts
        ]
        tiny = 4 * terms * torch.finfo(self.rows.dtype).tiny
        width = self._push(wide, node, True) * (1 + 2 * unit) + tiny
        return Interval(below(found - width), above(found + width))


def forward_jacobian(
    net: Engine, derivatives: Derivatives, rows: torch.Tensor, first: bool, memory: int = MEMORY
) -> Interval:
    """RecurJac-F0 (``first=False``) or F1: bounds of the Jacobian, (n, m, inputs).

    The columns of the Jacobian do not depend on each other, and are taken in blocks.

    Raises
    ------
    InputError
        If F1 is asked for and no first layer of units lies on all paths.
    """
    base = min(derivatives) if first and derivatives else 0
    if base and _passable(net, base):
        raise InputError(
            f"method='recurjac-f1': the first layer of units, {net.graph.nodes[base].name!r}, "
            "does not lie on all paths from the input to the output (a connection skips it), so "
            "it cannot be split off; use method='recurjac' or 'recurjac-f0'"
        )
    nodes = net.graph.nodes
    n = max([len(rows)] + [len(_first(units)) for units in derivatives.values()])
    total = nodes[base].size
    widest = max(node.size for node in nodes[base:])
    step = max(1, memory // (16 * rows.element_size() * widest * n))
    parts = [
        Forward(net, derivatives, rows, base, slice(i, i + step), memory).jacobian()
        for i in range(0, total, step)
    ]
    found = Interval(torch.cat([v.low for v in parts], 2), torch.cat([v.high for v in parts], 2))
    return pull_interval(net, derivatives, base, found) if base else found


def _first(units: Slopes | Winners) -> torch.Tensor:
    return units.low if isinstance(units, Slopes) else units.may


def _passable(net: Engine, without: int) -> bool:
    """Whether the output still depends on the input if one node is taken away."""
    reached = {0}
    for number, node in enumerate(net.graph.nodes):
        if number != without and any(i in reached for i in node.inputs):
            reached.add(number)
    return len(net.graph.nodes) - 1 in reached
