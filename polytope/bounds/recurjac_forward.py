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

from polytope.bounds.derivatives import Derivatives, Slopes, Winners
from polytope.bounds.fastlip import Interval, pull_interval
from polytope.bounds.interval import part_of
from polytope.bounds.layers import MEMORY
from polytope.bounds.linear_nodes import pull, terms_ahead, terms_back
from polytope.bounds.payment import Payment, payment
from polytope.bounds.recurjac import WIDER, both_signs, contract, weigh
from polytope.bounds.rounding import SLACK, above, below, gamma
from polytope.errors import InputError
from polytope.network.engine import Constants, Engine, apply
from polytope.network.ir import Node


@dataclass(frozen=True, eq=False)
class WinnerPayment:
    """What maxima pay for covectors, and to which of their candidates they hand them on.

    Attributes
    ----------
    paid : Payment
        For units with several possible winners.
    where : int64 tensor (n, units)
        Position of the first possible winner.
    alone : bool tensor (n, units)
    size : int
        Number of values that the layer reads.
    """

    paid: Payment
    where: torch.Tensor
    alone: torch.Tensor
    size: int

    @property
    def hands_on(self) -> bool:
        """Whether anything is handed on."""
        return bool(self.alone.any())

    def pay(self, a: torch.Tensor) -> torch.Tensor:
        """As `Payment.pay`."""
        return self.paid.pay(a)

    def hand_on(self, a: torch.Tensor) -> torch.Tensor:
        """Covectors on what the layer reads: (n, functions, covectors, size)."""
        lead = torch.Size((len(self.where), *a.shape[1:3]))
        kept = torch.where(self.alone[:, None, None], a, torch.zeros_like(a)).expand(*lead, -1)
        index = self.where[:, None, None].expand(*lead, -1)
        return a.new_zeros(*lead, self.size).scatter_add(3, index, kept)


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
    memory : int
        Bytes for the covectors of one block.
    """

    net: Engine
    derivatives: Derivatives
    rows: torch.Tensor
    base: int = 0
    memory: int = MEMORY
    inner: dict[int, Interval] = field(default_factory=dict)
    payments: dict[int, Payment | WinnerPayment] = field(default_factory=dict)
    _noise: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = self.net.graph.nodes
        self._c: Constants = self.net.constants(self.rows.dtype, self.rows.device)
        sizes = [len(self.rows)]
        for units in self.derivatives.values():
            sizes.append(len(units.low if isinstance(units, Slopes) else units.may))
        self.n, self.inputs = max(sizes), self._nodes[self.base].size
        self._readers = [0] * len(self._nodes)
        for node in self._nodes:
            for source in node.inputs:
                self._readers[source] += 1
        self._lost = self.rows.new_zeros(self.n, 2 * self.inputs)
        self._head: set[int] = {self.base}
        self._moving: set[int] = {self.base}
        self._prepare()

    def jacobian(self) -> Interval:
        """Bounds of the functions' derivatives with respect to the base: (n, m, size of it)."""
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
        eye = torch.eye(self.inputs, dtype=self.rows.dtype, device=self.rows.device)[None]
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
                    self.inner[source] = self._wall(source)
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
        self.payments[number] = _winner_payment(units, inner, exact, allowance)

    def _size_behind(self, number: int, size: torch.Tensor) -> torch.Tensor:
        """Absolute derivatives of a nonlinear node's outputs."""
        units = self.derivatives[number]
        if isinstance(units, Slopes):
            return size * units.size[:, None]
        read = size[..., units.index.clamp(min=0)]
        return torch.where(units.may[:, None], read, 0.0).amax(dim=3)

    def _wall(self, number: int) -> Interval:
        """Bounds of the derivatives of a node's values: (n, inputs, size)."""
        size, like = self._nodes[number].size, self.rows
        widest = max(node.size for node in self._nodes[self.base : number + 1])
        cells = 4 * like.element_size() * widest * self.n * 2 * self.inputs
        step = max(1, self.memory // cells)
        parts = []
        for start in range(0, size, step):
            stop = min(start + step, size)
            unit = torch.zeros(stop - start, size, dtype=like.dtype, device=like.device)
            unit[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
            parts.append(self._sweep(number, unit[None, None]))
        upper = torch.cat(parts, 2)
        return Interval(-upper[:, self.inputs :], upper[:, : self.inputs])

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
        total = total + SLACK * gamma(len(nodes) + 4, total.dtype) * size
        return above(total + self._lost[:, :, None])

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

    Raises
    ------
    InputError
        If F1 is asked for and no first layer of units lies on all paths.
    """
    if not first:
        return Forward(net, derivatives, rows, 0, memory).jacobian()
    if not derivatives:
        return Forward(net, derivatives, rows, 0, memory).jacobian()
    base = min(derivatives)
    if _passable(net, base):
        raise InputError(
            f"method='recurjac-f1': the first layer of units, {net.graph.nodes[base].name!r}, "
            "does not lie on all paths from the input to the output (a connection skips it), so "
            "it cannot be split off; use method='recurjac' or 'recurjac-f0'"
        )
    behind = Forward(net, derivatives, rows, base, memory).jacobian()
    return pull_interval(net, derivatives, base, behind)


def _passable(net: Engine, without: int) -> bool:
    """Whether the output still depends on the input if one node is taken away."""
    reached = {0}
    for number, node in enumerate(net.graph.nodes):
        if number != without and any(i in reached for i in node.inputs):
            reached.add(number)
    return len(net.graph.nodes) - 1 in reached


def _winner_payment(
    units: Winners, inner: Interval, exact: bool, allowance: torch.Tensor | None
) -> WinnerPayment:
    """What maxima pay: covector times the derivative of any candidate that may win."""
    may = units.may[:, None]
    read = [end[..., units.index.clamp(min=0)] for end in (inner.low, inner.high)]
    most = torch.where(may, read[1], -torch.inf).amax(dim=3)
    least = torch.where(may, read[0], torch.inf).amin(dim=3)
    unit = SLACK * 2 * gamma(most.shape[2] + 8, most.dtype)
    up, down = most + unit * most.abs(), -least + unit * least.abs()
    where = units.index.expand(len(units.may), -1, -1).gather(
        2, units.may.to(torch.int64).argmax(dim=2, keepdim=True)
    )
    alone = units.may.sum(dim=2) == 1
    if exact:
        alone = torch.zeros_like(alone)
    else:
        extra = torch.zeros_like(up)
        if allowance is not None:
            extra = allowance.expand(len(up), -1, -1).gather(
                2, where.squeeze(2)[:, None].expand_as(up)
            )
        up, down = (torch.where(alone[:, None], extra, v) for v in (up, down))
    zero = torch.zeros_like(up)
    return WinnerPayment(Payment(up, down, zero, zero), where.squeeze(2), alone, inner.low.shape[2])
