"""Which engine answers a query, and why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from polytope.model import Network, compile
from polytope.robustness.branch_and_bound import branch_and_bound
from polytope.robustness.compiled_nodes import CompiledNodes
from polytope.robustness.crown_radius import crown_radius
from polytope.robustness.flat import FlatNetwork, flat_network
from polytope.robustness.interval import Interval
from polytope.robustness.mip import mixed_integer
from polytope.robustness.node import Node, NodeBounds
from polytope.robustness.nodes import TensorNodes
from polytope.robustness.query import Query
from polytope.robustness.ran import Ran
from polytope.robustness.traversal import traverse
from polytope.sets import Box

#: Multiplications of one node's bounds up to which the compiled ones, one node at a time, are
#: faster than tensors of many nodes.
COMPILED = 2**23
#: The first radius of a large network, in CROWN's: within that of a witness much farther off the
#: nodes would not become few.
FIRST = 1.5
#: Most pieces of a unit that the compiled bounds keep as bits.
PIECES = 60


class Engines:
    """The engines for one network; what they share is made once.

    Parameters
    ----------
    net : Network
    method : str
        One of `METHODS`.
    solver : str or None
        Of mixed-integer programs.
    """

    def __init__(self, net: Network, method: str, solver: str | None) -> None:
        self.method = method
        self._ready: set[tuple[str, float]] = set()
        self._net, self._solver = net, solver
        self._flat: FlatNetwork | None = None
        most = max((layer.pieces for layer in net.layers), default=1)
        if most <= PIECES and net.input_size * net.units <= COMPILED:
            flat = flat_network(net)
            if _work(flat) <= COMPILED:
                self._flat = flat

    @property
    def compiled(self) -> bool:
        """Whether the network is small enough for compiled bounds of nodes."""
        return self._flat is not None

    @property
    def bounds_first(self) -> bool:
        """Whether a radius is decided by bounds of nodes."""
        return self.method in ("auto", "branch_and_bound")

    def refuted(self, query: Query, radius: float) -> bool:
        """Whether CROWN alone proves that nothing adversarial is within a radius."""
        bounds = self._bounds(query)
        fixed = np.full(query.net.units, -1, dtype=np.int16)
        nodes = [Node(0.0, i, t, fixed, bounds.known(), radius)
                 for i, t in enumerate(query.targets)]  # fmt: skip
        return all(found is None for found in bounds.judge(nodes, radius))

    def ready(self, method: str, p: float) -> float:
        """Have an engine's code compiled, on a tiny network; the seconds that took.

        The first call of a fresh install compiles for some ten seconds (kept on disk): no time
        limit is to be spent on that.
        """
        if (method, p) in self._ready:
            return 0.0
        begun = time.perf_counter()
        self._ready.add((method, p))
        if method in ("traversal", "branch_and_bound"):
            eye = np.eye(2)
            tiny = compile([(eye, np.zeros(2)), (eye, np.zeros(2))])
            box = Box(np.full(2, -1.0), np.ones(2))
            query = Query(tiny, np.array([0.5, 0.2]), 0, None, p, box, None, 1e-9, 0, 2**30)
            interval = Interval(query, math.inf)
            interval.offer(np.array([0.3, 0.6]))
            Engines(tiny, method, None).run(query, interval, method, "")
        return time.perf_counter() - begun

    def choose(self, query: Query, interval: Interval) -> tuple[str, str]:
        """The engine for a query, and why."""
        if self.method != "auto":
            return self.method, "asked for"
        if query.box is None and math.isinf(interval.reach):
            return "traversal", "no witness is known and there is no box, so nothing bounds nodes"
        size = f"{self._net.units} units, {self._net.input_size} inputs"
        if self._flat is not None:
            return "branch_and_bound", f"compiled bounds are the fastest for {size}"
        return "branch_and_bound", f"bounds in batches of tensors for {size}"

    def run(self, query: Query, interval: Interval, method: str, why: str) -> Ran:
        """Let an engine work until the interval is settled or it has to stop."""
        call: Callable[[Query, Interval, str, str], Ran] = {
            "branch_and_bound": self._branch,
            "traversal": self._traverse,
            "mip": self._mip,
        }[method]
        return call(query, interval, method, why)

    def _branch(self, query: Query, interval: Interval, method: str, why: str) -> Ran:
        bounds, crown, first = self._bounds(query), math.nan, math.inf
        if self._flat is None and query.radius is None:
            crown = crown_radius(query, interval, bounds)
            interval.prove(crown)
            first = FIRST * interval.lower or math.inf
        found = branch_and_bound(query, interval, bounds, first)
        explain = f"branch and bound ({why}): {found.nodes} nodes, {found.programs} programs"
        if found.waiting:
            explain += f"; {found.waiting} nodes were open at the end"
        return Ran(method, explain, found, crown=crown, nodes=found.nodes, programs=found.programs)

    def _bounds(self, query: Query) -> NodeBounds:
        """Bounds of nodes of a query."""
        return TensorNodes(query) if self._flat is None else CompiledNodes(self._flat, query)

    def _traverse(self, query: Query, interval: Interval, method: str, why: str) -> Ran:
        found = traverse(query, interval)
        explain = f"traversal ({why}): {found.regions} regions, {found.programs} programs"
        return Ran(
            method, explain, found, exactness=found.exactness, regions=found.regions,
            programs=found.programs,
        )  # fmt: skip

    def _mip(self, query: Query, interval: Interval, method: str, why: str) -> Ran:
        if not np.isfinite(query.steps(interval.reach)).all():
            return Ran(method, f"mixed-integer programs ({why}): neither a box, nor a radius, nor "
                       "a witness bounds the search; give a box")  # fmt: skip
        found = mixed_integer(query, interval, self._solver)
        explain = (
            f"mixed-integer programs ({why}) by {found.solver}: its distance is claimed, the "
            "lower end is what bounds prove beside it"
        )
        return Ran(method, explain, found, claimed=found.claimed_lower)


def _work(flat: FlatNetwork) -> float:
    """Multiplications of pulling every value of a node back to the inputs."""
    sums, width = flat.sums, np.diff(flat.sums.start)
    cost = width + np.where(flat.flat.plain, 0, sums.base.shape[1] - 1)
    total, before = 0.0, 0.0
    for first, end, *_ in flat.flat.layers.tolist():
        total += min(end - first, 2048) * before
        before += float(cost[first:end].sum())
    return total + before
