"""Distances from points to the boundary of their region and to the decision boundary in it.

MMR (arXiv 1810.07481), Lemmas 3.1 and 3.2: d_B is the least distance to a hyperplane of the
region, d_D to a hyperplane ``f_c = f_s``.  Without a box both have closed forms; inside a box
they are projections (appendix A.1), taken in the order of the unboxed distances and stopped
as soon as the best is below the next unboxed one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polytope.hyperplanes import (
    DecisionRows,
    Hyperplanes,
    chunk_size,
    decision_chunk,
    decision_rows,
    hyperplanes,
)
from polytope.inputs import (
    as_batch,
    as_constants,
    as_labels,
    as_norm,
    positive_int,
    require_inside,
    to_like,
)
from polytope.jacobians import DEFAULT_MEMORY, Method
from polytope.nearest import Project, nearest_in_box
from polytope.network.engine import Constants, Engine
from polytope.rows import classes_of, row_normals
from polytope.sets import Box, BoxLike, as_box
from solvers.norms import NormLike, dual_exponent
from solvers.projection import Projection, project_to_hyperplane

ArrayLike = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class BoundaryDistance:
    """Distances to the nearest hyperplanes of each point's region (d_B).

    Attributes
    ----------
    distance : array or tensor (n,)
        Distance to the region's boundary in the asked norm; inf where no hyperplane can be
        reached (inside the box).
    nearest : array or tensor (n, k)
        The k smallest distances, ascending; `distance` is their first column.
    layer, unit, slot : int64 array (n, k)
        The unit behind each: position of its layer in ``net.layers``, index in the layer, and
        the breakpoint (or, for a maximum, the candidate); -1 where the distance is inf.
    projections, hyperplanes : int
        Projections into the box that were needed, out of the hyperplanes there were.
    """

    distance: ArrayLike
    nearest: ArrayLike
    layer: np.ndarray
    unit: np.ndarray
    slot: np.ndarray
    projections: int
    hyperplanes: int


@dataclass(frozen=True)
class DecisionDistance:
    """Signed distance to the decision hyperplanes of each point's affine map (d_D).

    Attributes
    ----------
    distance : array or tensor (n,)
        Least over the other classes s; positive where the class wins, negative where
        another is ahead, inf where the box cannot reach a hyperplane.
    target : int64 array (n,)
        The class s that attains it.
    label : int64 array (n,)
        The class analysed: the one given, or the predicted one.
    """

    distance: ArrayLike
    target: np.ndarray
    label: np.ndarray


def boundary_distance(
    net: Engine,
    X: object,
    p: NormLike = 2,
    box: BoxLike = None,
    k: int = 1,
    *,
    method: Method = "auto",
    constants: Constants | None = None,
    dtype: torch.dtype = torch.float64,
    memory: int = DEFAULT_MEMORY,
) -> BoundaryDistance:
    """d_B: the l_p distance of each point to the boundary of its linear region.

    It is MMR's d_B (Lemma 3.1) and ROLL's l_p margin (Proposition 6 for p = 2).

    Parameters
    ----------
    net : Network
    X : array or tensor (n, d) or (n, *input_shape)
        Points; a tensor's device is where the work is done.
    p : number or "inf"
        The norm, in [1, inf].
    box : Box or pair (low, high), optional
        Only steps inside the box count; the points must lie in it.
    k : int
        How many nearest rows to return.
    method : {"auto", "perturbation", "dynamic", "backprop"}
        How the gradients are computed (`polytope.jacobians`).
    constants : mapping, optional
        ``net.live()``: the distances then carry gradients to the weights.
    dtype : torch.dtype
        Precision of the work; float64 unless speed matters more.
    memory : int
        Bytes that a chunk of points may take.

    Returns
    -------
    BoundaryDistance
        Tensors if X is a tensor or `constants` are given, else arrays. A unit whose hyperplane is
        identically zero is no boundary; a point on a boundary has distance 0.

    Raises
    ------
    InputError
        For unusable points, norm, box, k or method.
    SmoothActivation
        If the network is not piecewise linear.
    """
    exponent, limits = prepare_norm_and_box(net, p, box, "boundary_distance")
    x, live = _prepare_points(net, X, limits, dtype, constants)
    count = min(positive_int(k, "k"), max(net.rows, 1))
    step = chunk_size(net, x, memory)
    like = X if live is None else x
    nearest, rows, solved, total = [], [], 0, 0
    for start in range(0, len(x), step):
        part = x[start : start + step]
        planes = hyperplanes(net, part, dual_exponent(exponent), None, method, live, memory=memory)
        free = planes.distances()
        if limits is None:
            found, where = _smallest(free, count)
        else:
            with torch.no_grad():
                project = _projector(net, part, planes, limits, exponent, live, memory)
                found, where, made = nearest_in_box(free, count, project)
            solved += made
            if live is not None:
                found = _again(net, part, planes, found, where, limits, exponent, live, memory)
        total += int(torch.isfinite(free).sum())
        nearest.append(found)
        rows.append(torch.where(torch.isfinite(found.detach()), where, -1))
    width = count if net.rows else 1
    values = torch.cat(nearest) if nearest else x.new_zeros(0, width)
    places = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, width), np.int64)
    layer, unit, slot = _places(net, places)
    return BoundaryDistance(
        to_like(values[:, 0], like), to_like(values, like), layer, unit, slot, solved, total
    )


def decision_distance(
    net: Engine,
    X: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    *,
    constants: Constants | None = None,
    dtype: torch.dtype = torch.float64,
    memory: int = DEFAULT_MEMORY,
) -> DecisionDistance:
    """d_D: the signed l_p distance to the decision hyperplanes of each point's affine map.

    It is MMR's d_D (Lemma 3.2) of the predicted class; with `y`, the signed distance that
    MMR's regulariser uses (Eq. 5). A single logit is the binary decision "1 if positive".

    Parameters
    ----------
    net, X, p, box, constants, dtype, memory
        As for `boundary_distance`; the gradients are always taken in reverse, class by class.
    y : array (n,), optional
        Classes; the predicted ones by default.

    Returns
    -------
    DecisionDistance

    Raises
    ------
    InputError, SmoothActivation
        As `boundary_distance`, and for a label out of range.
    """
    exponent, limits = prepare_norm_and_box(net, p, box, "decision_distance")
    x, live = _prepare_points(net, X, limits, dtype, constants)
    labels = None if y is None else as_labels(y, len(x), classes_of(net)).to(x.device)
    step = decision_chunk(net, x, memory)
    values, targets, classes = [], [], []
    for start in range(0, len(x), step):
        part = x[start : start + step]
        own = None if labels is None else labels[start : start + step]
        rows = decision_rows(net, part, own, live)
        if limits is None:
            signed = rows.distances(dual_exponent(exponent))
        else:
            signed = _decision_in_box(part, rows, limits, exponent)
        signed = torch.where(torch.isinf(rows.value), torch.inf, signed)
        best, target = signed.min(dim=1)
        values.append(best)
        targets.append(target)
        classes.append(rows.classes)
    empty = torch.zeros(0, dtype=torch.int64)
    return DecisionDistance(
        to_like(torch.cat(values) if values else x.new_zeros(0), X if live is None else x),
        torch.cat(targets or [empty]).cpu().numpy(),
        torch.cat(classes or [empty]).cpu().numpy(),
    )


def prepare_norm_and_box(
    net: Engine, p: NormLike, box: BoxLike, name: str
) -> tuple[float, Box | None]:
    """The norm's exponent and the box, after the checks that every distance makes."""
    net.require_piecewise_linear(name)
    return as_norm(p), as_box(box, net.input_size)


def _prepare_points(
    net: Engine,
    X: object,
    box: Box | None,
    dtype: torch.dtype,
    constants: Constants | None,
) -> tuple[torch.Tensor, Constants | None]:
    """Points and live constants in `dtype`; the box is held against the points as given."""
    points = as_batch(net, X)
    require_inside(points, box)
    x = as_batch(net, points, dtype)
    return x, as_constants(constants, x.device, dtype)


def project_rows(
    net: Engine,
    x: torch.Tensor,
    pieces: torch.Tensor,
    classes: torch.Tensor,
    samples: torch.Tensor,
    rows: torch.Tensor,
    residual: torch.Tensor,
    box: Box | None,
    p: float,
    *,
    memory: int = DEFAULT_MEMORY,
    constants: Constants | None = None,
    with_step: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Distances inside the box to single rows, and the steps that attain them.

    Parameters
    ----------
    net, x, memory, constants
        The network and the points.
    pieces : tensor (batch, units)
    classes : tensor (batch,)
        The classes whose decision rows are meant.
    samples, rows : tensor (pairs,)
        Rows from ``net.rows`` on are decision rows.
    residual : tensor (pairs,)
        The value to be removed (a row's residual, or less for a proved bound).
    box : Box or None
    p : float
    with_step : bool
        Also return the steps (pairs, d); NaN where the hyperplane cannot be reached.
    """
    normal = row_normals(net, x, pieces, samples, rows, classes, constants, memory)
    result = _project(x.flatten(1)[samples], normal, residual, box, p, with_step)
    return result.distance, result.delta


def _project(
    points: torch.Tensor,
    normal: torch.Tensor,
    residual: torch.Tensor,
    box: Box | None,
    p: float,
    with_step: bool = False,
) -> Projection:
    """Steps (pairs, d) from points (pairs, d) that remove a residual inside the box."""
    if box is None:
        low, high = torch.full_like(points, -torch.inf), torch.full_like(points, torch.inf)
    else:
        low = torch.as_tensor(box.low.copy(), dtype=points.dtype, device=points.device) - points
        high = torch.as_tensor(box.high.copy(), dtype=points.dtype, device=points.device) - points
    return project_to_hyperplane(normal, residual, low, high, p, return_delta=with_step)


def _smallest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest `count` per row, ascending; a network without rows has distance inf."""
    if values.shape[1] == 0:
        none = torch.zeros((len(values), 1), dtype=torch.int64, device=values.device)
        return values.new_full((len(values), 1), torch.inf), none
    found = values.topk(count, dim=1, largest=False)
    return found.values, found.indices


def _projector(
    net: Engine,
    x: torch.Tensor,
    planes: Hyperplanes,
    box: Box,
    p: float,
    constants: Constants | None,
    memory: int,
) -> Project:
    """Distances inside the box of pairs of a point and a row, without a graph."""
    fixed = None if constants is None else {k: v.detach() for k, v in constants.items()}

    def project(samples: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        distance, _ = project_rows(
            net, x, planes.pieces, planes.classes, samples, rows,
            planes.residual[samples, rows], box, p, memory=memory, constants=fixed,
        )  # fmt: skip
        return distance.detach()

    return project


def _again(
    net: Engine,
    x: torch.Tensor,
    planes: Hyperplanes,
    found: torch.Tensor,
    where: torch.Tensor,
    box: Box,
    p: float,
    constants: Constants,
    memory: int,
) -> torch.Tensor:
    """The finite distances of rows already chosen, now with gradients to the weights."""
    samples, column = torch.isfinite(found).nonzero(as_tuple=True)
    rows = where[samples, column]
    residual = planes.residual[samples, rows]
    distance, _ = project_rows(
        net,
        x,
        planes.pieces,
        planes.classes,
        samples,
        rows,
        residual,
        box,
        p,
        constants=constants,
        memory=memory,
    )
    return found.index_put((samples, column), distance)


def _decision_in_box(x: torch.Tensor, found: DecisionRows, box: Box, p: float) -> torch.Tensor:
    """Signed distances inside the box to every decision row: (batch, classes)."""
    samples, rows = torch.isfinite(found.value).nonzero(as_tuple=True)
    residual = found.value[samples, rows]
    normal = found.normal[samples, rows]
    distance = _project(x.flatten(1)[samples], normal, residual, box, p).distance
    signed = torch.where(residual > 0, -distance, distance)
    table = signed.new_full(found.value.shape, torch.inf)
    return table.index_put((samples, rows), signed)


def _places(net: Engine, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Layer, unit and slot of each row; -1 for none."""
    layer, unit, slot = (np.full(rows.shape, -1, np.int64) for _ in range(3))
    for number, entry in enumerate(net.layers):
        place = entry.row_slice
        mine = (rows >= place.start) & (rows < place.stop)
        local = rows[mine] - place.start
        layer[mine] = number
        unit[mine], slot[mine] = local // entry.slots, local % entry.slots
    return layer, unit, slot
