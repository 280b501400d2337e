"""`certified_radius`: how far around each point a decision holds, by bounds alone."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from polytope.bounds.dual import least_margins, search_radius
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import MEMORY
from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels, as_norm, positive_int, require_inside
from polytope.model import Network
from polytope.robustness.theorem import certify
from polytope.rows import classes_of
from polytope.sensitivity.integral import Integral
from polytope.sensitivity.jacobian import JacobianMethod, blocks
from polytope.sensitivity.samples import jacobians
from polytope.sets import Box, BoxLike, as_box
from solvers.norms import NormLike, dual_exponent

if TYPE_CHECKING:
    import pandas as pd

RadiusMethod = Literal["recurjac", "recurjac-f0", "recurjac-f1", "fastlip", "crown", "dual"]


@dataclass(frozen=True, eq=False)
class CertifiedRadii:
    """What bounds prove about the robustness of each decision: arrays with one entry per point.

    Attributes
    ----------
    radius : float64
        No point of the box nearer than this changes the decision; inf if none does at all, 0 for
        a point that is misclassified.
    theorem : float64
        What one linear region proves (Theorem 3.1 of MMR, `certify`); NaN where it was not asked
        or the network is not piecewise linear.
    label : int64
        The class whose robustness is meant.
    target : int64
        The class that stops the radius; -1 where none does.
    method : str
    exactness : str
        "safe-float": every rounding error is taken off.
    seconds : float64
        Time taken, shared evenly.
    """

    radius: np.ndarray
    theorem: np.ndarray
    label: np.ndarray
    target: np.ndarray
    method: str
    exactness: str
    seconds: np.ndarray

    def __len__(self) -> int:
        """Number of points."""
        return len(self.radius)

    def to_frame(self) -> pd.DataFrame:
        """One row per point, as a pandas table."""
        import pandas as pd  # slow to import, and only needed here

        return pd.DataFrame({f.name: getattr(self, f.name) for f in fields(self)})


def certified_radius(
    net: Network,
    X: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    method: RadiusMethod = "recurjac",
    *,
    targets: object = None,
    intervals: int = 30,
    theorem: bool = True,
    memory: int = MEMORY,
) -> CertifiedRadii:
    """The largest radius within which bounds prove each decision.

    Parameters
    ----------
    net : Network
        Piecewise linear or smooth.
    X : array or tensor (n, d) or (n, *input_shape)
    y : array (n,), optional
        Classes; the predicted ones by default.
    p : number or "inf"
        The norm, in [1, inf].
    box : Box or pair (low, high), optional
        Only points inside the box count; the points of X must lie in it.
    method : str
        "recurjac", "recurjac-f0", "recurjac-f1", "fastlip": the integral of local Lipschitz
        constants of the margins (RecurJac, Theorem 2).  "crown": the largest radius at which
        CROWN bounds the margins from below by more than 0.  "dual": the same by the dual bound of
        Wong and Kolter.  Every returned radius has itself been bounded.
    targets : array (n,), optional
        For each point the only class that counts; all others by default.
    intervals : int
        Parts into which the integral's radius is divided.
    theorem : bool
        Also compute what one linear region proves, on piecewise-linear networks.
    memory : int
        Bytes for one block of work.

    Returns
    -------
    CertifiedRadii

    Raises
    ------
    InputError
        For unusable points, labels, norm, box, method, targets or intervals.
    """
    if method not in get_args(RadiusMethod):
        raise InputError(f"method: got {method!r}, expected one of {get_args(RadiusMethod)}")
    exponent, count = as_norm(p), positive_int(intervals, "intervals")
    limits = as_box(box, net.input_size)
    x = as_batch(net, X)
    require_inside(x, limits)
    predicted = net.predict(x)
    labels = predicted if y is None else as_labels(y, len(x), classes_of(net)).numpy()
    aims = _targets(net, targets, labels)
    begin = time.perf_counter()
    flat = x.flatten(1)
    radius, target = np.zeros(len(x)), np.full(len(x), -1, np.int64)
    with torch.no_grad():
        for rows in blocks(net, len(x), classes_of(net), memory):
            part = _Part(net, flat[rows], labels[rows], aims[rows], exponent, limits, memory)
            if method in ("crown", "dual"):
                found = part.by_bounds(method)
            else:
                found = part.by_integral(method, count)
            radius[rows], target[rows] = found
    seconds = np.full(len(x), (time.perf_counter() - begin) / max(1, len(x)))
    proved = np.full(len(x), np.nan)
    if theorem and not net.graph.smooth and targets is None and len(x):
        proved = certify(net, x, labels, exponent, limits).lower
    return CertifiedRadii(radius, proved, labels, target, method, "safe-float", seconds)


def _targets(net: Network, targets: object, labels: np.ndarray) -> np.ndarray:
    """The classes that count for each point: int64 (n, k).

    Raises
    ------
    InputError
        If a target is the label.
    """
    classes = classes_of(net)
    if targets is None:
        every = np.arange(classes - 1)[None]
        return np.asarray(every + (every >= labels[:, None]), dtype=np.int64)
    found = as_labels(targets, len(labels), classes).numpy()
    if (found == labels).any():
        row = int(np.argmax(found == labels))
        raise InputError(
            f"targets: the target of row {row} is its own class {int(found[row])}; give another"
        )
    return found[:, None].astype(np.int64)


class _Part:
    """Some points, their margins over the classes that count, and how far they can go."""

    def __init__(
        self, net: Network, x: torch.Tensor, labels: np.ndarray, aims: np.ndarray, p: float,
        box: Box | None, memory: int,
    ) -> None:  # fmt: skip
        self.net, self.x, self.aims, self.p, self.memory = net, x, aims, p, memory
        n, k = aims.shape
        outputs = np.eye(classes_of(net))[:, -net.output_size :]
        if net.output_size == 1:
            outputs = np.array([[-0.5], [0.5]])
        self.C = torch.tensor(outputs[labels][:, None] - outputs[aims]).reshape(n, k, -1)
        self.low = None if box is None else torch.tensor(box.low.copy())[None]
        self.high = None if box is None else torch.tensor(box.high.copy())[None]
        self.cap = np.full(n, np.inf)
        if box is not None:
            far = np.maximum(x.numpy() - box.low, box.high - x.numpy())
            self.cap = np.linalg.norm(far, ord=p, axis=1) * (1 + 1e-9)
        margin = self.at_points()
        self.margin = margin.numpy()
        gradient = jacobians_of(net, x, self.C)
        steep = np.linalg.norm(gradient, ord=dual_exponent(p), axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(self.margin > 0, self.margin / steep, 0.0).min(axis=1)
        self.reach = np.where(np.isfinite(reach), reach, 1.0)

    def sets(self, rows: np.ndarray, radii: np.ndarray) -> InputSet:
        """Balls around some points, met with the box."""
        return InputSet.from_ball(
            self.x[torch.as_tensor(rows)], torch.tensor(radii), self.p, self.low, self.high
        )

    def at_points(self) -> torch.Tensor:
        """Lower bounds of the margins at the points themselves: (n, k)."""
        inputs = InputSet.from_box(self.x, self.x)
        return least_margins(self.net, inputs, self.C, "adaptive", self.memory)

    def by_bounds(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Radii at which CROWN or the dual bound is positive, and the targets that stop them."""
        open_ = np.flatnonzero((self.margin > 0).all(axis=1))
        radius, target = np.zeros(len(self.x)), self.aims[:, 0].copy()
        last = self.margin.copy()

        def value(rows: np.ndarray, radii: np.ndarray) -> np.ndarray:
            own = open_[rows]
            found = least_margins(
                self.net, self.sets(own, radii), self.C[torch.as_tensor(own)],
                "parallel" if method == "dual" else "adaptive", self.memory,
            ).numpy()  # fmt: skip
            worst = found.min(axis=1)
            last[own[worst <= 0]] = found[worst <= 0]
            return np.asarray(worst)

        start = np.maximum(self.reach[open_] / 4, np.finfo(float).tiny)
        radius[open_] = search_radius(value, start, self.cap[open_])
        target = self.aims[np.arange(len(self.x)), last.argmin(axis=1)]
        return radius, np.where(np.isinf(radius), -1, target)

    def by_integral(self, method: str, intervals: int) -> tuple[np.ndarray, np.ndarray]:
        """Radii by Theorem 2, and the targets that stop them."""
        kind: JacobianMethod = method  # type: ignore[assignment]
        integral = Integral(self.net, kind, self.p, intervals, self.memory)
        radius, place = integral.radii(self.sets, self.C, self.margin, self.reach, self.cap)
        return radius, np.where(place < 0, -1, self.aims[np.arange(len(self.x)), place])


def jacobians_of(net: Network, x: torch.Tensor, C: torch.Tensor) -> np.ndarray:
    """Gradients of each point's own functions ``C f``, in floats: (n, k, d)."""
    eye = torch.eye(net.output_size, dtype=torch.float64)[None]
    return torch.matmul(C, jacobians(net, x, eye)).numpy()
