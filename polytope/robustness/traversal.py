"""The exact minimal perturbation by traversal: regions around a point, the nearest first.

A pattern's region is the polyhedron of its rows met with the box.  The queue holds the patterns
behind the rows of explored regions, each at a lower bound of the distance at which a straight
path from the point can come into its region: the path does not come in before it has entered
the region it leaves, before it has reached the hyperplane it leaves through, and not before the
distance of the new region itself, which one program with a proof by weak duality bounds when the
pattern comes up for the first time.

Why the lower end is right.  Let z be the nearest adversarial point.  It is in the closure of a
region of full dimension, and there are a point x' near x inside the first region and a point z'
near z inside z's region whose straight connection leaves every region through the inside of a
facet.  As these come nearer to x and z, the facets that are passed stay the same ones from some
time on; in the limit they are passed on the segment from x to z, which stays in the box, at
distances that grow along it.  If the last region was explored, its decision row has a key no
larger than |z - x|.  If not, one of the facets leads from an explored region to a pattern that
was not: the key of that pattern is no larger than the distance at which the segment passes the
facet, which is no larger than |z - x|.  So the least key that is left is a lower bound.

 - A row that the point is beyond is no way out: the path has come in through it.
 - The pattern behind a facet: coincident hyperplanes are crossed together, and a row that is
   identically zero is no boundary but has its piece recomputed.  Both are decided by rounding
   bounds, and in exact arithmetic where these leave it open.
 - A pattern is dropped for good when its own rows prove that its region has no point nearer than
   the radius: that holds whatever region it was met from.  (A facet that was proved empty says
   nothing about the pattern behind it; GeoCert's error.)  Or, in exact arithmetic, when its
   region has no inside: the path passes through regions of full dimension alone.
 - On the boundary of several regions x belongs to one of full dimension that touches it; the
   others are behind its rows, at distance 0.

Sources: Jordan, Lewis, Dimakis, "Provable certificates for adversarial examples: fitting a ball
in the union of polytopes" (NeurIPS 2019); Fromherz et al., "Fast geometric projections for local
robustness certification" (ICLR 2021).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from polytope.errors import InputError
from polytope.pattern import ActivationPattern
from polytope.region import region_at
from polytope.regions.index_kernels import fill
from polytope.robustness import traversal_arrays as arrays
from polytope.robustness import traversal_kernels as kernels
from polytope.robustness.cell import adversarial_cell, cell_distance
from polytope.robustness.interval import Interval
from polytope.robustness.query import Query
from polytope.robustness.traversal_evidence import Traversal, packed
from polytope.robustness.traversal_exact import ExactRegions
from polytope.robustness.traversal_rows import judge_rows, load_rows
from polytope.robustness.traversal_task import (
    exact_regions,
    free_steps,
    new_task,
    reach,
    set_radius,
)

__all__ = ["Traversal", "traverse"]

#: Patterns that there is room for at first; most that are looked at between two looks at the
#: clock, and the seconds from which on they are halved.
ROOM, BATCH, SLOW = 2**10, 256, 0.1
#: Where neither a box nor a radius nor a witness limits the search, distances beyond this many
#: times the size of the point are taken for infinite by the programs, and a region that far away
#: is looked at in exact arithmetic: most are empty.
FAR = 1e8
#: Rows of a region are tightened by this part of their size for a point inside of it.
INSIDE = 1e-11
#: Rows times coordinates up to which exact arithmetic finds out whether a region is flat.
EXACT_SIZE = 2**15


def traverse(query: Query, interval: Interval) -> Traversal:
    """Search the regions around a point until the interval is settled or has to stop.

    Parameters
    ----------
    query : Query
    interval : Interval
        Its lower end is raised by what is proved; what may be nearer witnesses is offered. It
        tells when to stop.

    Returns
    -------
    Traversal

    Raises
    ------
    SmoothActivation
        If the network is not piecewise linear.
    InputError
        If p is not 1, 2 or inf.
    """
    query.net.require_piecewise_linear("the traversal of regions")
    if query.p not in (1.0, 2.0, math.inf):
        raise InputError(
            f"traversal: got p = {query.p:g}, but its programs are those of p = 1, 2 and inf; use "
            "branch and bound, or the bounds of one of these norms"
        )
    search = _Search(query, interval)
    search.run()
    return search.result()


class _Search:
    """The state of one search."""

    def __init__(self, query: Query, interval: Interval) -> None:
        net = query.net
        self.query, self.interval = query, interval
        self.free, self.low, self.high = free_steps(query)
        self.k = len(self.free)
        self.closed = math.inf
        self.complete = False
        self.exact: ExactRegions | None = None
        if not self.k:
            return
        self.far = reach(query, self.low, self.high)
        self.limit = FAR * (1.0 + float(np.linalg.norm(query.x, ord=query.p)))
        self.task = new_task(query, self.free, self.low, self.high)
        targets = len(query.targets)
        self.place = arrays.new_place(net, self.task.program, query.p, targets)
        self.found = arrays.new_found(ROOM, net, self.k, targets)
        self._enter_start()

    def _radius(self) -> float:
        """How far there is anything to search for."""
        interval, radius = self.interval, self.query.radius
        upper = interval.upper * (1 - self.query.tol / 4)
        if radius is not None:
            upper = min(upper, radius)
        return min(upper, self.far, self.limit)

    def _set_radius(self) -> None:
        """Take the radius over into the arrays."""
        self.radius = self._radius()
        self.found.numbers[arrays.RADIUS] = self.radius
        set_radius(self.task, self.radius)

    def _regions(self) -> ExactRegions:
        """Exact arithmetic, once it is needed."""
        if self.exact is None:
            self.exact = exact_regions(self.query, self.free)
        return self.exact

    def _enter_start(self) -> None:
        """Put the region of the point in the queue."""
        net, task, place, found = self.query.net, self.task, self.place, self.found
        x = torch.as_tensor(self.query.x).reshape(1, *net.input_shape)
        pieces = net.pieces(x)[0].numpy().astype(np.uint16)
        m = load_rows(task, pieces, place)
        # On a boundary, or too near to one for floats, exact arithmetic says where the point is.
        if not (place.c[:m] < -place.region.error[:m, 1]).all():
            inward = np.where(self.low == 0, 1, 0) - np.where(self.high == 0, 1, 0)
            pieces = self._regions().start(inward).astype(np.uint16)
        place.query[0] = pieces
        kernels.meet(found, place, 0.0, 0, 0)
        found.own[0] = 0.0

    def run(self) -> None:
        """Go on until the interval is settled or has to stop."""
        interval = self.interval
        if not self.k:
            interval.prove(math.inf)
            self.complete = True
            return
        self._set_radius()
        batch = 1
        while not interval.stopped:
            begun = time.perf_counter()
            reason = kernels.advance(self.task, self.place, self.found, batch)
            slow = time.perf_counter() - begun > SLOW
            batch = max(1, batch // 2) if slow else min(BATCH, 2 * batch)
            found = self.found
            # What is beyond the radius, though nearer than the witness, was dropped.
            interval.prove(min(float(found.numbers[arrays.LOWER]), self.closed, self.radius))
            if reason == kernels.DONE:
                self._finish()
                break
            if reason == kernels.FULL:
                self._grow()
            elif reason == kernels.DOUBT:
                self._clear_doubts()
            elif reason == kernels.THIN:
                self._thin()
            elif reason == kernels.OPPOSED:
                self._drop_if(self._regions().opposed)
            elif reason == kernels.SETTLE:
                self._settle()
            interval.held = arrays.held(self.found)

    def _finish(self) -> None:
        """Nothing is left within the radius."""
        self.complete = self.radius < self.limit
        everything = self.complete and self.radius >= self.far
        self.interval.prove(min(self.closed, math.inf if everything else self.radius))

    def _settle(self) -> None:
        """Ways out on which hyperplanes may coincide, then what may be adversarial points."""
        found, state = self.found, self.found.state
        region = int(state[arrays.CURRENT])
        pieces = found.patterns[region].copy()
        for i in range(int(state[arrays.OPEN])):
            if self.interval.stopped:  # nothing more will be proved, so no way out is missed
                return
            row, key = int(found.open_row[i]), float(found.open_key[i])
            self.place.query[0] = self._regions().behind(pieces, row)
            kernels.meet(found, self.place, key, 0, 0)
        candidates = found.candidate[: int(state[arrays.CANDIDATES])].copy()
        for bound, target, step in sorted(
            ((c[2], int(c[1]), c[3:]) for c in candidates), key=lambda entry: entry[0]
        ):
            self._candidate(region, target, float(bound), step)
        state[arrays.OPEN] = state[arrays.CANDIDATES] = 0
        self._set_radius()

    def _candidate(self, region: int, target: int, bound: float, step: np.ndarray) -> None:
        """Offer the nearest adversarial point of a region; its bound limits the lower end."""
        query, interval = self.query, self.interval
        if bound >= self._radius():
            return
        if np.isfinite(step).all():
            whole = np.zeros(query.net.input_size)
            whole[self.free] = step
            interval.offer(query.x + whole)
        if bound < self._radius():
            bound = max(bound, self._again(region, query.targets[target]))
        if bound < self._radius():
            self.closed = min(self.closed, bound)

    def _again(self, region: int, rival: int) -> float:
        """The same with the library's solvers: a bound, and a point a little inside the region."""
        query, pieces = self.query, self.found.patterns[region].astype(np.int64)
        pattern = ActivationPattern.from_pieces(pieces, query.net.layout)
        cell = adversarial_cell(region_at(query.net, query.x, pattern), query.label, rival)
        found = cell_distance(cell, query.x, query.p, query.box)
        size = np.abs(cell.A) @ np.abs(query.x) + np.abs(cell.b)
        inside = replace(cell, b=cell.b - INSIDE * size)
        for step in (found.step, cell_distance(inside, query.x, query.p, query.box).step):
            if step is not None:
                self.interval.offer(query.x + step)
        return found.lower

    def _clear_doubts(self) -> None:
        """Rows that floats cannot tell from zero, in exact arithmetic."""
        found, place, state = self.found, self.place, self.found.state
        pieces = found.patterns[state[arrays.CURRENT]]
        region, m = place.region, int(state[arrays.RESUMED])
        for i in found.doubt[: int(state[arrays.DOUBTS])].tolist():
            normal, lead, spread, error = self._regions().row(pieces, int(region.ids[i]))
            region.A[i], place.c[i], region.b[i] = normal, lead, -lead
            region.error[i] = spread, error
        left = judge_rows(self.task, place, m, found.doubt)
        assert not left, "exact rows are never in doubt"

    def _thin(self) -> None:
        """A region that may have no inside: if so it is dropped."""
        size = int(self.found.state[arrays.RESUMED]) * self.k
        if size <= EXACT_SIZE:
            self._drop_if(self._regions().flat)

    def _drop_if(self, flat: Callable[[np.ndarray], bool]) -> None:
        """Drop the region at hand if it has no inside."""
        found, state = self.found, self.found.state
        region = int(state[arrays.CURRENT])
        if flat(found.patterns[region]):
            found.status[region] = arrays.FLAT
            state[arrays.STAGE] = kernels.NEXT

    def _grow(self) -> None:
        """Twice the room of what is nearly full."""
        found, state = self.found, self.found.state
        changed = {}
        net = self.query.net
        most = len(self.place.weights.own)
        ways = most + len(self.task.leads) + 2
        need = net.rows + 2, ways * most, ways, net.rows + 2
        used = arrays.COUNT, arrays.PROOFS, arrays.WAYS, arrays.HEAP
        for names, count, more in zip(arrays.GROWING, used, need, strict=True):
            length = len(getattr(found, names[0]))
            room = length
            while room < state[count] + more:
                room *= 2
            if room == length:
                continue
            for name in names:
                old = getattr(found, name)
                new = np.zeros((room, *old.shape[1:]), old.dtype)
                new[:length] = old
                changed[name] = new
        if "patterns" in changed:
            changed["table"] = np.full(4 * len(changed["patterns"]), -1, np.int64)
            fill(changed["table"], changed["patterns"], int(state[arrays.COUNT]))
        self.found = found._replace(**changed)

    def result(self) -> Traversal:
        """What was found."""
        query, net, k = self.query, self.query.net, self.k
        found = self.found if k else arrays.new_found(1, net, 0, 0)
        count, proofs, ways = (
            int(found.state[i]) for i in (arrays.COUNT, arrays.PROOFS, arrays.WAYS)
        )
        figures = found.figures.tolist()
        way, row = found.way[:ways].copy(), found.proof_row[:proofs].copy()
        classes = np.array(query.targets)
        for ids in (way[:, 1], row):
            decided = ids >= net.rows
            ids[decided] = net.rows + classes[ids[decided] - net.rows]
        return Traversal(
            patterns=packed(found.patterns[:count], net.layout),
            status=found.status[:count].astype(np.int8),
            key=found.best[:count].copy(),
            bound=found.own[:count].copy(),
            proof=found.proof[:count].copy(),
            way=way,
            way_bound=found.way_bound[:ways].copy(),
            row=row,
            weight=found.proof_weight[:proofs].copy(),
            radius=self.radius if k else 0.0,
            complete=self.complete,
            regions=figures[arrays.REGIONS],
            rows=figures[arrays.ROWS],
            hyperplanes=figures[arrays.HYPERPLANES],
            region_programs=figures[arrays.REGION_PROGRAMS],
            facet_programs=figures[arrays.FACET_PROGRAMS],
            decision_programs=figures[arrays.DECISION_PROGRAMS],
            exact_verdicts=0 if self.exact is None else self.exact.verdicts,
        )
