"""`cross_check`: several engines and attacks on the same points, and whether they agree."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polytope.attacks.attack import Attack, Attacked
from polytope.attacks.names import as_attacks
from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels, as_norm
from polytope.model import Network
from polytope.robustness.claims import MixedIntegerRun
from polytope.robustness.disagreement import write_disagreement
from polytope.robustness.interval import Progress
from polytope.robustness.minimal import MEMORY, minimal_perturbation, require_solver
from polytope.robustness.perturbation import Perturbation, Perturbations
from polytope.robustness.ran import METHODS
from polytope.rows import classes_of
from polytope.sets import BoxLike, as_box
from solvers.norms import NormLike

if TYPE_CHECKING:
    import pandas as pd

#: Engines whose results are the same agree to this part of the distance: two regions' programs
#: differ by some rounding of their solvers, polished to 1e-10 and better.
SAME = 1e-8
#: What solvers of mixed-integer programs claim is believed to this part of the distance: their
#: tolerances are 1e-9 for rows of size one, and the distances that follow some hundred times that.
CLAIMED = 1e-6
#: A distance is within tolerance of a radius if they differ by no more than this part: what a
#: source model in float32 can tell apart.
NEAR = 1e-5


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """What engines and attacks found for the same points.

    Attributes
    ----------
    methods : mapping of str to Perturbations
        By the name of the method ("mip" or "mip:scip", ...).
    attacks : mapping of str to Attacked
    lower, upper : float64 (n,)
        The intersection of all proved intervals.
    verdict : str (n,)
        "agree": all engines closed their intervals, at the same distance to 1e-8, and what
        solvers claim is the same to 1e-6.  "within gap": nothing contradicts anything, but some
        interval is open.  "disagree": two of them cannot both be right.
    reason : str (n,)
        Of a disagreement; else empty.
    at_radius : str (n,), or None
        Where a radius was given: "robust", "not robust", "within tolerance" (the distance
        equals the radius to 1e-5), or "undecided".
    files : tuple of Path
        Folders with what is needed to reproduce the disagreements.
    """

    methods: Mapping[str, Perturbations]
    attacks: Mapping[str, Attacked]
    lower: np.ndarray
    upper: np.ndarray
    verdict: np.ndarray
    reason: np.ndarray
    at_radius: np.ndarray | None
    files: tuple[Path, ...] = field(default=())

    def __len__(self) -> int:
        """Number of points."""
        return len(self.verdict)

    def ratios(self, attack: str) -> np.ndarray:
        """Distances of an attack over the lower ends: (n,); 1 where it found the optimum.

        NaN where the point itself is adversarial, inf where the attack found nothing.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.attacks[attack].distance / self.lower)

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, one line per point."""
        import pandas as pd  # slow to import, and only needed here

        first = next(iter(self.methods.values()))
        columns: dict[str, object] = {
            "label": [row.label for row in first], "lower": self.lower, "upper": self.upper,
            "verdict": self.verdict,
        }  # fmt: skip
        if self.at_radius is not None:
            columns["at_radius"] = self.at_radius
        for name, found in self.methods.items():
            columns[f"{name} lower"] = found.lower
            columns[f"{name} upper"] = found.upper
            if name.startswith("mip"):
                columns[f"{name} claimed"] = [row.claimed for row in found]
            columns[f"{name} status"] = [row.status for row in found]
            columns[f"{name} exactness"] = [row.exactness for row in found]
            columns[f"{name} seconds"] = [row.stats.seconds for row in found]
        for name, attacked in self.attacks.items():
            columns[name] = attacked.distance
            columns[f"{name} / optimum"] = self.ratios(name)
            columns[f"{name} seconds"] = attacked.seconds
        if (self.reason != "").any():
            columns["reason"] = self.reason
        return pd.DataFrame(columns)


def cross_check(
    net: Network,
    X: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    methods: Iterable[str] = ("branch_and_bound", "traversal", "mip"),
    attacks: Iterable[object] = ("linear_region",),
    *,
    target: object = None,
    radius: float | None = None,
    time_limit: float = 60.0,
    tol: float = 1e-9,
    seed: int = 0,
    memory: int = MEMORY,
    out: str | os.PathLike[str] = ".",
    callback: Callable[[str, Progress], None] | None = None,
) -> CrossCheck:
    """Run engines and attacks over the same points and compare what they find.

    Parameters
    ----------
    net : Network
    X : array or tensor (n, d) or (n, *input_shape)
    y : array (n,), optional
        The classes; those that the network decides by default.
    p : 1, 2 or "inf"
    box : Box or pair (low, high), optional
    methods : iterable of str
        As for `minimal_perturbation`; a solver may follow "mip" ("mip:scip").
    attacks : iterable of str, Attack or callable
        "pgd", "carlini_wagner" (l_2 alone), "linear_region", "deepfool", those of a fixed size
        with it ("fgsm:0.1"; "fgsm_20", "untargeted", "random_targeted", "multi_targeted"),
        attacks of `polytope.attacks`, foolbox's, or any callable ``(model, x, y) -> candidates``.
    target : int or array (n,), optional
    radius : float, optional
        Also say on which side of it each distance lies.
    time_limit : float
        Seconds for each point and method, and for each point and attack.
    tol, seed, memory
        As for `minimal_perturbation`.
    out : path
        Folder in which each disagreement gets a folder of its own: the programs (MPS), the
        points, the network and the seeds.
    callback : callable, optional
        Called as ``callback(method, progress)`` whenever an interval becomes smaller.

    Returns
    -------
    CrossCheck
        Ctrl-C stops the method at work, and what would come after it.

    Raises
    ------
    InputError
        For unusable arguments, an unknown method, solver or attack.
    SmoothActivation
        If the network is not piecewise linear.
    """
    named = _as_methods(methods)
    tools = as_attacks(attacks)
    number = isinstance(radius, int | float | np.number) and not isinstance(radius, bool)
    if radius is not None and not (number and 0 <= radius < math.inf):
        raise InputError(f"radius: got {radius!r}, expected a number of at least 0")
    exponent = as_norm(p)
    for method, solver in named.values():
        if method == "mip":  # before the others have worked for nothing
            require_solver(exponent, solver)
    points = as_batch(net, X)
    labels = as_labels(net.predict(points) if y is None else y, len(points), classes_of(net))
    found: dict[str, Perturbations] = {}
    for name, (method, solver) in named.items():

        def report(progress: Progress, name: str = name) -> None:
            if callback is not None:
                callback(name, progress)

        rows = minimal_perturbation(
            net, points, labels, p, box, target, None, method, time_limit, tol, report,
            solver=solver, seed=seed, memory=memory,
        )  # fmt: skip
        assert isinstance(rows, Perturbations)
        found[name] = rows
        if any(row.stopped == "interrupt" for row in rows):
            time_limit = 0.0
    attacked = {
        name: _attack(attack, net, points, labels, p, box, target, seed, time_limit)
        for name, attack in tools.items()
    }
    count = len(points)
    lower = np.max([rows.lower for rows in found.values()], axis=0, initial=0.0)
    uppers = [rows.upper for rows in found.values()] + [a.distance for a in attacked.values()]
    upper = np.min(uppers, axis=0, initial=math.inf)
    verdicts = [
        _verdict(
            {name: rows[i] for name, rows in found.items()},
            {name: float(a.distance[i]) for name, a in attacked.items()},
            max(SAME, tol),
        )
        for i in range(count)
    ]
    reason = np.array([why for _, why in verdicts], dtype=object)
    limits = as_box(box, net.input_size)
    asked = {
        "p": exponent, "target": None if target is None else np.asarray(target).tolist(),
        "box": None if limits is None else [limits.low.tolist(), limits.high.tolist()],
        "tol": tol, "time_limit": time_limit, "memory": memory,
    }  # fmt: skip
    files = tuple(
        write_disagreement(
            Path(out), net, points[i].flatten().numpy(), i, seed + i, str(reason[i]),
            {name: rows[i] for name, rows in found.items()}, asked,
        )
        for i in np.flatnonzero(reason != "").tolist()
    )  # fmt: skip
    sides = None
    if radius is not None:
        pairs = zip(lower.tolist(), upper.tolist(), strict=True)
        sides = np.array([_side(low, high, radius) for low, high in pairs], dtype=object)
    return CrossCheck(
        found, attacked, lower, upper, np.array([v for v, _ in verdicts], dtype=object), reason,
        sides, files,
    )  # fmt: skip


def _as_methods(methods: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Methods and solvers by the name that a table shows."""
    names = [methods] if isinstance(methods, str) else list(methods)
    found: dict[str, tuple[str, str | None]] = {}
    for name in names:
        method, _, solver = str(name).partition(":")
        if method not in METHODS or (solver and method != "mip"):
            raise InputError(
                f"methods: got {name!r}, expected {', '.join(METHODS)}, or mip:SOLVER as in "
                "mip:scip"
            )
        found[str(name)] = method, solver or None
    if not found:
        raise InputError(f"methods: got none, expected some of {', '.join(METHODS)}")
    return found


def _attack(
    attack: Attack, net: Network, points: object, labels: object, p: NormLike, box: BoxLike,
    target: object, seed: int, time_limit: float,
) -> Attacked:  # fmt: skip
    """Run one attack on all points."""
    count = len(np.asarray(labels))
    return attack(
        net, points, labels, p, box, target, seed=seed, time_limit=time_limit * max(1, count)
    )


def _verdict(
    rows: Mapping[str, Perturbation], attacks: Mapping[str, float], same: float
) -> tuple[str, str]:
    """The verdict of one point, and what two of them contradict each other in.

    Closed intervals may differ in their upper ends by a part of `same`.
    """
    low_name, low = max(((n, r.lower) for n, r in rows.items()), key=lambda pair: pair[1])
    uppers = {name: row.upper for name, row in rows.items()} | dict(attacks)
    high_name = min(uppers, key=lambda name: uppers[name])
    high = uppers[high_name]
    if low > high * (1 + SAME):
        return "disagree", (
            f"{low_name} proves that nothing is nearer than {low!r}, {high_name} has a witness at "
            f"{high!r}"
        )
    closed = True
    for name, row in rows.items():
        if not name.startswith("mip"):
            closed &= row.exact
            continue
        claimed = row.claimed
        if claimed > high * (1 + CLAIMED):
            return "disagree", (
                f"{name} claims that nothing is nearer than {claimed!r}, {high_name} has a "
                f"witness at {high!r}"
            )
        closed &= row.exact or _claimed(row)
    if not closed:
        return "within gap", ""
    spread = max(row.upper for row in rows.values())
    if spread > high * (1 + same) and math.isfinite(spread):
        slow = max(rows, key=lambda name: rows[name].upper)
        return "disagree", (
            f"{slow} closed its interval at {spread!r}, {high_name} has a witness at {high!r}"
        )
    return "agree", ""


def _claimed(row: Perturbation) -> bool:
    """Whether a solver claims that nothing is nearer than the witness, or that there is none."""
    if math.isinf(row.upper):
        run = row.evidence
        return isinstance(run, MixedIntegerRun) and run.finished and not run.contradicted
    return abs(row.claimed - row.upper) <= CLAIMED * row.upper


def _side(lower: float, upper: float, radius: float) -> str:
    """On which side of a radius an interval lies."""
    room = NEAR * radius
    if abs(lower - radius) <= room and abs(upper - radius) <= room:
        return "within tolerance"
    if lower >= radius:
        return "robust"
    return "not robust" if upper <= radius else "undecided"
