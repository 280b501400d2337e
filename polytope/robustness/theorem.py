"""`certify`: what linear regions prove about the robustness of a decision.

MMR (arXiv 1810.07481), Theorem 3.1: nothing adversarial is nearer than min(d_B, d_D), and if
d_D <= d_B the distance is d_D exactly.  With more regions the search goes on behind the
nearest hyperplanes (appendix A.2, made sound in `polytope.robustness.search`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch

from polytope.distances import prepare_norm_and_box, project_rows
from polytope.hyperplanes import (
    Hyperplanes,
    chunk_size,
    classes_of,
    hyperplanes,
    neighbour_piece,
    row_normals,
    row_values,
    unit_of_row,
)
from polytope.inputs import as_batch, as_labels, positive_int, require_inside
from polytope.jacobians import DEFAULT_MEMORY
from polytope.model import Network
from polytope.network.rounding import rounding_bounds
from polytope.robustness.crossing import Crossing
from polytope.robustness.search import Entry, Search
from polytope.robustness.witness import exact_witnesses, native_witnesses
from polytope.sets import Box, BoxLike
from solvers.norms import NormLike, dual_exponent

#: A row is exact when its interval is no wider than this, relative to its upper bound:
#: a thousand times the rounding of a network of usual size, far below any use of the number.
EXACT = 1e-9
#: The rounding errors of a very deep network may not be bounded usefully. If taking them off
#: costs more than this part of a distance, the plain float64 value is reported instead, and
#: `exactness` says "float" in place of "safe-float".
USEFUL = EXACT / 2


@dataclass(frozen=True)
class Certificates:
    """What was proved for each point; arrays with one entry (or row) per point.

    Attributes
    ----------
    lower : float64
        No point of the box nearer than this (in the asked norm) changes the decision.
    upper : float64
        Distance of `witness`, rounded up; inf if none was found.
    native_upper : float64
        Distance of `native_witness`.
    exact : bool
        Whether upper - lower is at most 1e-9 of upper (or both are inf: nothing in the box
        changes the decision).
    status : str
        "exact", "interval", "misclassified" (robustness 0), "unreachable" (nothing in the
        box changes the decision).
    exactness : str
        "safe-float": lower has every rounding error taken off; "float": computed in float64,
        as the error bounds of this (deep) network are too wide to be useful.
    label : int64
        The class whose robustness is measured.
    target : int64
        The class that the witness goes to; -1 without one.
    witness : float64 (n, d)
        A point inside the box that is adversarial in exact arithmetic; NaN without one.
    native_witness : float64 (n, d)
        A point of the source model's dtype, inside the box, that the source model itself
        decides otherwise; NaN without one.
    regions : int64
        Linear regions explored.
    seconds : float64
        Time spent, shared evenly among the points of a chunk.
    """

    lower: np.ndarray
    upper: np.ndarray
    native_upper: np.ndarray
    exact: np.ndarray
    status: np.ndarray
    exactness: np.ndarray
    label: np.ndarray
    target: np.ndarray
    witness: np.ndarray
    native_witness: np.ndarray
    regions: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        """Number of points."""
        return len(self.lower)

    def to_frame(self) -> pd.DataFrame:
        """The columns with one number per point, as a pandas table."""
        columns = [f.name for f in fields(self) if "witness" not in f.name]
        return pd.DataFrame({name: getattr(self, name) for name in columns})


def certify(
    net: Network,
    X: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    max_regions: int = 1,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> Certificates:
    """A lower bound, a witness, and where they meet the exact robustness of each decision.

    Parameters
    ----------
    net : Network
    X : array or tensor (n, d) or (n, *input_shape)
    y : array (n,), optional
        Classes; the predicted ones by default. A point that the network does not decide so
        has robustness 0 and status "misclassified".
    p : number or "inf"
        The norm, in [1, inf].
    box : Box or pair (low, high), optional
        Only points inside the box count; the points of X must lie in it.
    max_regions : int
        Linear regions to explore for each point; 1 is Theorem 3.1.
    memory : int
        Bytes that a chunk of points may take.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    Certificates
        Ctrl-C returns what is finished, the rest with the interval reached.

    Raises
    ------
    InputError
        For unusable points, labels, norm, box or max_regions.
    SmoothActivation
        If the network is not piecewise linear.
    """
    exponent, limits = prepare_norm_and_box(net, p, box, "certify")
    limit = positive_int(max_regions, "max_regions")
    x = as_batch(net, X)
    require_inside(x, limits)
    labels = None if y is None else as_labels(y, len(x), classes_of(net))
    step = chunk_size(net, x, memory)
    done: list[Certificates] = []
    with torch.no_grad():
        for start in range(0, len(x), step):
            part = x[start : start + step]
            own = None if labels is None else labels[start : start + step].to(x.device)
            chunk = _Chunk(net, part, own, exponent, limits, memory)
            offset = start

            def report(finished: int, offset: int = offset) -> None:
                if progress is not None:
                    progress(offset + finished, len(x))

            interrupted = chunk.run(limit, report)
            done.append(chunk.result())
            if interrupted:
                done.append(_untouched(net, x[start + step :], labels, start + step))
                break
    if not done:
        done = [_untouched(net, x, labels, 0)]
    return Certificates(
        **{f.name: np.concatenate([getattr(d, f.name) for d in done])
           for f in fields(Certificates)}
    )  # fmt: skip


class _Chunk:
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
        logits = net.logits(x)
        predicted = logits.argmax(axis=1)
        self.labels = predicted if labels is None else labels.cpu().numpy()
        rivals = logits.copy()
        rivals[np.arange(len(x)), self.labels] = -np.inf
        self.lost = predicted != self.labels
        for i in np.flatnonzero(self.lost):
            search = self.searches[i]
            search.improve(0.0, int(rivals[i].argmax()))
            search.stop(0.0)
            self.witness[i] = self.points[i]

    def run(self, limit: int, report: Callable[[int], None]) -> bool:
        """Search until every point is settled or out of regions; True if interrupted."""
        try:
            start = np.flatnonzero(~self.lost)
            if len(start):
                planes = self._planes(start, None)
                self._explored(start, planes, np.zeros(len(start)), None)
            while not self._round(limit):
                report(sum(s.done for s in self.searches))
        except KeyboardInterrupt:
            return True
        report(len(self.searches))
        return False

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
            if entry.row >= self.net.rows or len(search.regions) >= limit:
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
        finite = torch.isfinite(fresh)
        loss = torch.where(finite & (fresh > 0), 1 - sure / fresh, 0.0)
        nearest = torch.where(finite, fresh, math.inf).min(dim=1, keepdim=True).values
        close = fresh <= 2 * nearest
        useful = ~(close & (loss > USEFUL)).any(dim=1) if fresh.shape[1] else None
        for j, i in enumerate(rows):
            good = useful is None or bool(useful[j])
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
        caps = torch.as_tensor(
            [self.searches[i].upper for i in at], dtype=x.dtype, device=x.device
        )
        size = torch.minimum(size, caps)
        spread = torch.where(normal_error > 0, normal_error * size, 0.0)
        return residual, value_error + spread

    def _cross(self, pairs: list[tuple[int, Entry]]) -> None:
        """Explore the regions behind the rows of queue entries."""
        at, pieces, rows = self._state(pairs)
        x, device = self.x[at], self.x.device
        samples = torch.arange(len(at), device=device)
        labels = torch.as_tensor(self.labels[at], device=device)
        normal = row_normals(self.net, x, pieces, samples, rows, labels, memory=self.memory)
        residual, _, _ = row_values(self.net, x, pieces, rows, labels)
        places = [unit_of_row(self.net, int(row)) for row in rows]
        unit = torch.tensor([layer.first_unit + u for layer, u, _ in places], device=device)
        crossing = Crossing(
            self.net, pieces, normal, residual, unit,
            neighbour_piece(self.net, pieces, rows), rounding_bounds(self.net, x, pieces),
        )  # fmt: skip
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
        with np.errstate(invalid="ignore"):
            exact = (upper - lower <= EXACT * upper) | ((lower == math.inf) & (upper == math.inf))
        status = np.where(exact, "exact", "interval").astype(object)
        status[(lower == math.inf) & exact] = "unreachable"
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


def _untouched(
    net: Network, x: torch.Tensor, labels: torch.Tensor | None, start: int
) -> Certificates:
    """Rows that were not reached: the interval [0, inf]."""
    count = len(x)
    label = np.full(count, -1, np.int64) if labels is None else labels.numpy()[start:]
    nothing = np.full((count, net.input_size), np.nan)
    return Certificates(
        lower=np.zeros(count),
        upper=np.full(count, np.inf),
        native_upper=np.full(count, np.inf),
        exact=np.zeros(count, bool),
        status=np.full(count, "interval"),
        exactness=np.full(count, "safe-float"),
        label=label,
        target=np.full(count, -1, np.int64),
        witness=nothing,
        native_witness=nothing.copy(),
        regions=np.zeros(count, np.int64),
        seconds=np.zeros(count),
    )
