"""The regions of a plane as polygons, cut where the decision changes: what pictures are made of.

For pictures and for areas, in plain float64 without verdicts: which regions there are was
decided before, and a corner is as right as the solution of two linear equations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.engine import Engine, LayerState
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.merging import blocks
from polytope.regions.polygon_kernels import clip
from polytope.rows import as_logits, given_pieces, layer_rows, layer_slopes

#: A row this much flatter than the steepest of its layer is the rounding of a zero row.
FLAT = 1e-13
#: Two logits closer than this part of the largest one in view are equal at a corner.
EQUAL = 1e-9
#: Corners of a disc's outline.
DISC = 720


@dataclass(frozen=True, eq=False)
class Tiles:
    """Polygons that tile the regions of a bounded plane domain, each with one decision.

    Attributes
    ----------
    region, label : int64 arrays (t,)
        The region that a tile is part of (all of it, unless the decision boundary runs
        through), and the class decided there.
    corners : list of float64 arrays (m, 2)
        Counter-clockwise, in the domain's coordinates.
    decision : float64 array (s, 2, 2)
        The ends of the parts of the decision boundary.
    """

    region: np.ndarray
    label: np.ndarray
    corners: list[np.ndarray]
    decision: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        """The area of each tile: (t,)."""
        return np.array([_area(corners) for corners in self.corners])


@dataclass(frozen=True, eq=False)
class Local:
    """The network around points of the plane, each frozen to its pattern.

    Everything is affine in ``s = u - point``: rows ``slopes s + residual <= 0``, logits
    ``gradient s + logits``.

    Attributes
    ----------
    residual, slopes : float64 arrays (n, rows), (n, rows, k)
        Rows that do not bind, or are zero up to rounding, have slope 0 and residual -1.
    logits, gradient : float64 arrays (n, classes), (n, classes, k)
    """

    residual: np.ndarray
    slopes: np.ndarray
    logits: np.ndarray
    gradient: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """The l_2 distance to the nearest row, in coordinates: (n,); inf if there is none."""
        size = np.linalg.norm(self.slopes, axis=2)
        with np.errstate(divide="ignore"):
            ratios = np.where(size > 0, np.maximum(-self.residual, 0.0) / size, np.inf)
        return np.asarray(ratios.min(axis=1, initial=np.inf))


def tiles_of(net: Engine, domain: Domain, found: Complex) -> Tiles:
    """Cut the regions of a plane domain into tiles.

    Raises
    ------
    InputError
        If the domain is not two-dimensional, or not bounded.
    """
    outline = domain_outline(domain)
    region, label, corners, decision = [], [], [], []
    for place in blocks(net, len(found.pieces)):
        points = found.points[place]
        local = around(net, domain, points, found.pieces[place])
        for i, point in enumerate(points):
            whole = clip(outline - point, local.slopes[i], local.residual[i])
            if len(whole) < 3:
                continue
            for own, part, lines in _by_decision(whole, local.gradient[i], local.logits[i]):
                region.append(place.start + i)
                label.append(own)
                corners.append(part + point)
                decision.extend(lines + point)
    return Tiles(
        np.array(region, dtype=np.int64), np.array(label, dtype=np.int64), corners,
        np.array(decision, dtype=np.float64).reshape(-1, 2, 2),
    )  # fmt: skip


def around(
    net: Engine, domain: Domain, points: np.ndarray, pieces: np.ndarray | None = None
) -> Local:
    """The network around coordinates (n, k), frozen to patterns (by default their own)."""
    x = torch.as_tensor(domain.lift(points)).reshape(-1, *net.input_shape)
    basis = np.eye(domain.size) if domain.basis is None else domain.basis.copy()
    tangents = torch.as_tensor(basis).reshape(1, -1, *net.input_shape)
    decide = None if pieces is None else given_pieces(torch.as_tensor(pieces.astype(np.int64)))
    with torch.no_grad():
        states = list(net.sweep(x, tangents, decide))
        rows = [_layer(net, state) for state in states[:-1]]
    last = states[-1]
    assert last.gradients is not None
    gradient = as_logits(last.gradients.expand(len(x), *last.gradients.shape[1:]))
    return Local(
        np.concatenate([residual for residual, _ in rows], axis=1),
        np.concatenate([slopes for _, slopes in rows], axis=1),
        as_logits(last.values).numpy(),
        gradient.transpose(1, 2).contiguous().numpy(),
    )


def _layer(net: Engine, state: LayerState) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n, rows) and slopes (n, rows, k) of a layer; idle rows are put out of the way."""
    c = net.constants(state.values.dtype, state.values.device)
    residual, active = layer_rows(net, state, c)
    slopes = layer_slopes(net, state, c)
    size = slopes.abs().sum(dim=1)
    idle = ~active | (size <= FLAT * size.amax(dim=1, keepdim=True))
    residual = residual.masked_fill(idle, -1.0)
    slopes = slopes.masked_fill(idle.unsqueeze(1), 0.0).transpose(1, 2)
    return residual.numpy(), slopes.contiguous().numpy()


def domain_outline(domain: Domain) -> np.ndarray:
    """The corners (m, 2) of a plane domain, counter-clockwise; a disc has many.

    Raises
    ------
    InputError
        If the domain is not two-dimensional, or not bounded.
    """
    if domain.dimension != 2:
        raise InputError(
            f"a picture needs a domain of two dimensions, this one has {domain.dimension}; take "
            "a Slice through three points"
        )
    if not domain.bounded:
        raise InputError(
            "a picture needs a bounded domain; give a box, or the slice a box or a margin"
        )
    if domain.ball is not None:
        angle = np.linspace(0, 2 * np.pi, DISC, endpoint=False)
        start = domain.ball[0] + domain.ball[1] * np.column_stack([np.cos(angle), np.sin(angle)])
    else:
        low, high = domain.limits
        wider = high - low
        (left, below), (right, above) = low - wider, high + wider
        start = np.array([[left, below], [right, below], [right, above], [left, above]])
    return np.asarray(clip(start, domain.A, -domain.b))


def _by_decision(
    whole: np.ndarray, gradient: np.ndarray, logits: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The parts of a polygon by decision: class, corners, ends (s, 2, 2) of its boundary.

    A part of the boundary is told by the lower of its two classes.
    """
    values = whole @ gradient.T + logits
    near = EQUAL * np.abs(values).max()
    # Whatever decides somewhere is there above the class that is ahead at a corner, so it is
    # above it at some corner too.
    top = int(values[0].argmax())
    some = np.flatnonzero((values >= values[:, [top]] - near).any(axis=0)).tolist()
    if some == [top]:
        yield top, whole, np.zeros((0, 2, 2))
        return
    taken: list[int] = []  # where classes are equal all over, the first of them decides
    for own in some:
        ahead, behind = gradient - gradient[own], logits - logits[own]
        ties = np.abs(whole @ ahead.T + behind).max(axis=0) <= near
        if ties[taken].any():
            continue
        taken.append(own)
        part = clip(whole, ahead[~ties], behind[~ties])
        if len(part) < 3 or _area(part) <= EQUAL * _area(whole):
            continue
        equal = np.abs(part @ ahead.T + behind) <= near
        edges = equal & np.roll(equal, -1, axis=0)
        edges[:, ties] = False
        edges[:, : own + 1] = False
        at = np.flatnonzero(edges.any(axis=1))
        yield own, part, np.stack([part[at], part[(at + 1) % len(part)]], axis=1)


def _area(corners: np.ndarray) -> float:
    """The area of a polygon, by the shoelace formula around its first corner."""
    x, y = (corners - corners[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
