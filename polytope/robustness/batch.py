"""The searches of a batch of points side by side, so that regions are swept in batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from polytope.distances import project_rows
from polytope.hyperplanes import Hyperplanes, chunk_size, hyperplanes
from polytope.model import Network
from polytope.pattern import ActivationPattern
from polytope.region import region_at
from polytope.robustness.cell import adversarial_cell, cell_distance, facet_cell
from polytope.robustness.certificates import Certificates
from polytope.robustness.crossing import Crossing, crossing_behind
from polytope.robustness.first_witness import first_witnesses
from polytope.robustness.search import Entry, Search
from polytope.robustness.witness import exact_witnesses, native_witnesses
from polytope.rows import row_values, unit_of_row
from polytope.sets import Box
from solvers.norms import dual_exponent

#: A row is exact when its interval is no wider than this, relative to its upper bound:
#: a thousand times the rounding of a network of usual size, far below any use of the number.
EXACT = 1e-9
#: The rounding errors of a very deep network may not be bounded usefully. If taking them off
#: costs more than this part of a distance, the plain float64 value is reported instead, and
#: `exactness` says "float" in place of "safe-float".
USEFUL = EXACT / 2
#: Rows times inputs of a network up to which the LP or QP of one cell takes milliseconds, less
#: than exploring behind a hyperplane that may not bound the region at all.
REFINE = 2**17


class BatchSearch:
    """A batch of points searched side by side, so that regions are swept in batches."""

    def __init__(
        self,
        net: Network,
        x: torch.Tensor,
        labels: torch.Tensor | None,
        p: float,
        box: Box | None,
        memory: int,
    ) -> None:
        self.begun = time.perf_counter()
        self.net, self.x, self.p, self.box, self.memory = net, x, p, box, memory
        self.q = dual_exponent(p)
        self.points = x.flatten(1).cpu().numpy()
        self.searches = [Search(box is not None) for _ in range(len(x))]
        self.witness = np.full(self.points.shape, np.nan)
        self.safe = np.ones(len(x), dtype=bool)
        self.interrupted = False
        logits = net.logits(x)
        predicted = logits.argmax(axis=1)
        self.labels = predicted if labels is None else labels.numpy()
        rivals = logits.copy()
        rivals[np.arange(len(x)), self.labels] = -np.inf
        self.lost = predicted != self.labels
        for i in np.flatnonzero(self.lost):
            search = self.searches[i]
            search.improve(0.0, int(rivals[i].argmax()))
            search.stop(0.0)
            self.witness[i] = self.points[i]

    def run(self, limit: int, report: Callable[[int], None]) -> None:
        """Search until every point is settled or out of regions, or until Ctrl-C."""
        try:
            start = np.flatnonzero(~self.lost)
            if len(start):
                self._first_witnesses(start)
                planes = self._planes(start, None)
                self._explored(start, planes, np.zeros(len(start)), None)
            while not self._round(limit):
                report(sum(s.done for s in self.searches))
        except KeyboardInterrupt:
            self.interrupted = True
        else:
            report(len(self.searches))

    def _first_witnesses(self, rows: np.ndarray) -> None:
        """Start the upper bounds with what a quick attack finds."""
        distance, witness, target = first_witnesses(
            self.net, self.x[rows], self.labels[rows], self.box, self.p, self.memory
        )
        for k, i in enumerate(rows):
            if self.searches[i].improve(float(distance[k]), int(target[k])):
                self.witness[i] = witness[k]

    def _round(self, limit: int) -> bool:
        """One step of every open search; True when all are done."""
        wanted: list[tuple[int, Entry]] = []
        crossings: list[tuple[int, Entry]] = []
        for i, search in enumerate(self.searches):
            if search.done:
                continue
            entry, asked = search.pop()
            wanted += [(i, e) for e in asked]
            if entry is None:
                continue
            if self._worth_refining(entry, limit):
                self._refine(i, entry)
            elif entry.row >= self.net.rows or len(search.regions) >= limit:
                search.stop(entry.key)
            else:
                crossings.append((i, entry))
        if wanted:
            self._project(wanted)
        width = chunk_size(self.net, self.x, self.memory)
        for first in range(0, len(crossings), width):
            self._cross(crossings[first : first + width])
        return all(s.done for s in self.searches)

    def _planes(self, rows: np.ndarray, decide: Crossing | None) -> Hyperplanes:
        """Hyperplanes at some of the points, by their own pieces or behind facets."""
        labels = torch.as_tensor(self.labels[rows], device=self.x.device)
        return hyperplanes(
            self.net, self.x[rows], self.q, labels, decide=decide, memory=self.memory
        )

    def _explored(
        self,
        rows: np.ndarray,
        planes: Hyperplanes,
        entered: np.ndarray,
        barred: torch.Tensor | None,
    ) -> None:
        """Queue the rows of newly explored regions and look for witnesses in them.

        `barred` marks the rows that lead back through the facet just crossed.
        """
        free, safe = planes.distances(), planes.safe_distances()
        if barred is not None:
            free = free.masked_fill(barred, math.inf)
            safe = safe.masked_fill(barred, math.inf)
        # Behind a facet the point is outside the region, so a row it violates is at 0.
        decision, proved = planes.decision_distances(), planes.safe_decision_distances()
        slack = 1 - (self.net.input_size + 8) * torch.finfo(self.x.dtype).eps
        fresh = torch.cat([free, decision.clamp(min=0)], 1)
        sure = slack * torch.cat([safe, proved], 1)
        useful = ~_wasted(fresh, sure)
        for j, i in enumerate(rows):
            good = bool(useful[j])
            self.safe[i] &= good
            distances = (sure if good else fresh)[j].cpu().numpy()
            pieces = planes.pieces[j].cpu().numpy()
            self.searches[i].visited.add(pieces.astype(np.uint16).tobytes())
            self.searches[i].add(pieces, distances, float(entered[j]))
        self._witnesses(rows, planes)

    def _witnesses(self, rows: np.ndarray, planes: Hyperplanes) -> None:
        """Project onto the decision rows that could be nearer, and verify the points."""
        upper = torch.as_tensor(
            [self.searches[i].upper for i in rows], dtype=self.x.dtype, device=self.x.device
        )
        free = planes.decision_distances().abs()
        samples, targets = (free < upper[:, None]).nonzero(as_tuple=True)
        if not len(samples):
            return
        _, step = project_rows(
            self.net, self.x[rows], planes.pieces, planes.classes, samples,
            targets + self.net.rows,
            planes.decision[samples, targets], self.box, self.p,
            memory=self.memory, with_step=True,
        )  # fmt: skip
        assert step is not None
        at = rows[samples.cpu().numpy()]
        distance, witness = exact_witnesses(
            self.net, self.points[at], step.cpu().numpy(), self.labels[at], self.box, self.p
        )
        for k in np.argsort(distance, kind="stable"):
            if not np.isfinite(distance[k]):
                break
            if self.searches[at[k]].improve(float(distance[k]), int(targets[k])):
                self.witness[at[k]] = witness[k]

    def _state(
        self, pairs: list[tuple[int, Entry]]
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Points, pieces and rows of some queue entries."""
        at = np.array([i for i, _ in pairs])
        stack = [self.searches[i].regions[e.region].pieces for i, e in pairs]
        device = self.x.device
        rows = torch.tensor([e.row for _, e in pairs], device=device)
        return at, torch.as_tensor(np.stack(stack), device=device), rows

    def _project(self, pairs: list[tuple[int, Entry]]) -> None:
        """Distances inside the box of queue entries, which go back into their queues."""
        at, pieces, rows = self._state(pairs)
        residual, error = self._row_values(at, pieces, rows)
        labels = torch.as_tensor(self.labels[at], device=self.x.device)
        samples = torch.arange(len(at), device=self.x.device)
        safe = torch.as_tensor(self.safe[at], device=self.x.device)
        target = (residual + torch.where(safe, error, 0.0)).clamp(max=0)
        distance, _ = project_rows(
            self.net, self.x[at], pieces, labels, samples, rows, target, self.box, self.p,
            memory=self.memory,
        )  # fmt: skip
        slack = 1 - (self.net.input_size + 8) * torch.finfo(self.x.dtype).eps
        for (i, entry), value in zip(pairs, (slack * distance).tolist(), strict=True):
            self.searches[i].put(entry, value)

    def _worth_refining(self, entry: Entry, limit: int) -> bool:
        """Whether a region's other rows should be taken into account before a row is used.

        Where an LP or QP of the region's size is cheap: for a decision row, which would end
        the search, and for a boundary row, behind which may be no region at all (the first
        region's nearest rows are its faces).
        """
        small = self.net.rows * self.net.input_size <= REFINE
        worth = entry.row >= self.net.rows or entry.region > 0
        return limit > 1 and small and worth and not entry.refined

    def _refine(self, i: int, entry: Entry) -> None:
        """Queue a row again with the distance to the part of it that bounds its region."""
        search, label = self.searches[i], int(self.labels[i])
        pattern = ActivationPattern.from_pieces(
            search.regions[entry.region].pieces, self.net.layout
        )
        region = region_at(self.net, self.x[i], pattern)
        if entry.row < self.net.rows:
            layer, unit, slot = unit_of_row(self.net, entry.row)
            cell = facet_cell(region, self.net.layers.index(layer), unit, slot)
            found = cell_distance(cell, self.points[i], self.p, self.box, quick=True)
        else:
            target = entry.row - self.net.rows
            cell = adversarial_cell(region, label, target)
            found = cell_distance(cell, self.points[i], self.p, self.box)
            if found.step is not None:
                distance, witness = exact_witnesses(
                    self.net, self.points[[i]], found.step[None], self.labels[[i]], self.box, self.p
                )
                if search.improve(float(distance[0]), target):
                    self.witness[i] = witness[0]
        search.put(entry, found.lower, refined=True)

    def _row_values(
        self, at: np.ndarray, pieces: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Oriented residuals of single rows and a bound on their error within the box.

        The error of a normal acts on a step of at most the box's size from the point.
        """
        net, x = self.net, self.x[at]
        decision = torch.as_tensor(self.labels[at], device=x.device)
        residual, value_error, normal_error = row_values(net, x, pieces, rows, decision)
        if self.box is None:
            return residual, value_error
        reach = np.maximum(self.box.high - self.points[at], self.points[at] - self.box.low)
        size = torch.as_tensor(reach.max(axis=1), dtype=x.dtype, device=x.device)
        caps = torch.as_tensor([self.searches[i].upper for i in at], dtype=x.dtype, device=x.device)
        size = torch.minimum(size, caps)
        spread = torch.where(normal_error > 0, normal_error * size, 0.0)
        return residual, value_error + spread

    def _cross(self, pairs: list[tuple[int, Entry]]) -> None:
        """Explore the regions behind the rows of queue entries."""
        at, pieces, rows = self._state(pairs)
        labels = torch.as_tensor(self.labels[at], device=self.x.device)
        crossing = crossing_behind(self.net, self.x[at], pieces, rows, labels, self.memory)
        planes = self._planes(at, crossing)
        barred = self._leads_back(planes, pieces, rows)
        fresh = []
        for j, (i, _) in enumerate(pairs):
            key = planes.pieces[j].cpu().numpy().astype(np.uint16).tobytes()
            if key not in self.searches[i].visited:
                fresh.append(j)
        if fresh:
            entered = np.array([pairs[j][1].key for j in fresh])
            self._explored(at[fresh], planes.select(fresh), entered, barred[fresh])

    def _leads_back(
        self, planes: Hyperplanes, before: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Rows of the new regions that are the crossed unit's hyperplane again."""
        barred = torch.zeros_like(planes.active)
        for j, row in enumerate(rows.tolist()):
            layer, unit, slot = unit_of_row(self.net, row)
            if layer.is_max:
                slot = int(before[j, layer.first_unit + unit])
            barred[j, layer.first_row + unit * layer.slots + slot] = True
        return barred

    def result(self) -> Certificates:
        """The arrays of this chunk."""
        count = len(self.searches)
        lower = np.array([s.lower for s in self.searches])
        upper = np.array([s.upper for s in self.searches])
        found = np.isfinite(upper)
        gap = np.where(found, upper, 0.0) - np.where(found, lower, 0.0)
        exact = np.where(found, gap <= EXACT * np.where(found, upper, 0.0), lower == math.inf)
        status = np.where(exact, "exact", "interval").astype(object)
        status[(lower == math.inf) & exact] = "unreachable"
        status[~exact & np.array([not s.done for s in self.searches], dtype=bool)] = "stopped"
        status[self.lost] = "misclassified"
        labels = np.asarray(self.labels, dtype=np.int64)
        native_upper, native = native_witnesses(
            self.net, self.points, self.witness, labels, self.box, self.p
        )
        spent = (time.perf_counter() - self.begun) / max(count, 1)
        return Certificates(
            lower=lower,
            upper=upper,
            native_upper=native_upper,
            exact=exact,
            status=status.astype(str),
            exactness=np.where(self.safe, "safe-float", "float"),
            label=labels,
            target=np.array([s.target for s in self.searches], dtype=np.int64),
            witness=self.witness,
            native_witness=native,
            regions=np.array([len(s.regions) for s in self.searches], dtype=np.int64),
            seconds=np.full(count, spent),
        )


def _wasted(fresh: torch.Tensor, sure: torch.Tensor) -> torch.Tensor:
    """Points (batch,) where taking off the rounding errors costs too much to be useful.

    That is so where a near row loses more than `USEFUL` of its distance, or where a row that
    rounds to zero, but is not zero by structure, would be a boundary at distance 0.
    """
    if fresh.shape[1] == 0:
        return torch.zeros(len(fresh), dtype=torch.bool, device=fresh.device)
    finite = torch.isfinite(fresh)
    loss = torch.where(finite & (fresh > 0), 1 - sure / fresh, 0.0)
    near = fresh <= 2 * fresh.amin(dim=1, keepdim=True)
    rounded_away = ~finite & torch.isfinite(sure)
    return ((near & finite & (loss > USEFUL)) | rounded_away).any(dim=1)
