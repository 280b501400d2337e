"""`minimal_perturbation`: the distance to the nearest change of a decision, exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.attacks.criterion import as_criterion
from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels, as_norm, positive_int, require_inside
from polytope.model import Network
from polytope.robustness.interval import Progress
from polytope.robustness.perturbation import Perturbation, Perturbations
from polytope.robustness.point_search import Asked, Chunk, proved, untouched
from polytope.robustness.ran import METHODS
from polytope.robustness.saved_rows import SavedRows, question
from polytope.rows import classes_of
from polytope.sets import BoxLike, as_box
from solvers.errors import SolverError
from solvers.norms import NormLike

if TYPE_CHECKING:
    from polytope.robustness.engines import Engines

#: Points that are attacked together on a small network.
TOGETHER = 32
#: Rows times inputs of a small network: one point's share of the attack then takes milliseconds.
SMALL = 2**17
#: Tolerances: below, float64 cannot close the interval; above, it would not be called exact.
TOLERANCES = (1e-12, 1e-3)
#: Bytes that a search may hold by default.
MEMORY = 2**31
NORMS = (1.0, 2.0, math.inf)


def minimal_perturbation(
    net: Network,
    x: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    target: object = None,
    radius: float | None = None,
    method: str = "auto",
    time_limit: float = 60.0,
    tol: float = 1e-9,
    callback: Callable[[Progress], None] | None = None,
    *,
    solver: str | None = None,
    prove: bool = False,
    seed: int = 0,
    memory: int = MEMORY,
    save: str | os.PathLike[str] | None = None,
) -> Perturbation | Perturbations:
    """How far a point is from being decided otherwise, exactly, or as a proved interval.

    An attack gives a witness, and programs on linear regions move it to the nearest point of its
    own; then an engine proves that nothing is nearer, or finds it.

    Parameters
    ----------
    net : Network
    x : array or tensor (d,) or input_shape for one point; (n, d) or (n, *input_shape) for several
        In the box.
    y : int or array (n,), optional
        The classes; those that the network decides by default. A point decided otherwise has
        distance 0 and status "misclassified".
    p : 1, 2 or "inf"
        The norm.
    box : Box or pair (low, high), optional
        Only points inside the box count.
    target : int or array (n,), optional
        The only class that counts; any other than the label by default. A point is adversarial
        where the target is at least as high as the label.
    radius : float, optional
        Only decide whether the decision holds within this distance, which is faster.
    method : {"auto", "branch_and_bound", "traversal", "mip"}
        "auto" picks, and says why in ``explain``. "mip" asks a solver of mixed-integer programs
        whose points are proved but whose bounds are only reported as ``claimed``.
    time_limit : float
        Seconds for each point.
    tol : float
        The interval is exact when it is no wider than this, relative to its upper end; from
        1e-12 (float64 cannot do better) to 1e-3.
    callback : callable, optional
        Called with a `Progress` whenever an interval becomes smaller.
    solver : str, optional
        For "mip": "highs" (default), "scip" (the default in l_2), "pulp" (CBC), "scipy", "cvxpy".
    prove : bool
        Also make a certificate of every row and have it checked in exact arithmetic (within the
        time limit, once more): `exactness` is then "rational". A row whose certificate is
        rejected, or was not found in time, is not reported as exact.
    seed : int
        For all that is random; row i uses ``seed + i``.
    memory : int
        Bytes that the search of a point may hold; reaching it returns the interval.
    save : path, optional
        Each row is written to this file as it ends, and rows that it holds are not searched
        again (those that were stopped are).

    Returns
    -------
    Perturbation, or Perturbations for a batch
        The time limit, the memory limit and Ctrl-C return the interval reached.

    Raises
    ------
    InputError
        For unusable arguments; an unknown method or solver (the message lists those there are).
    FileProblem
        If `save` cannot be written, or answers another question.
    SmoothActivation
        If the network is not piecewise linear.

    Notes
    -----
    The bounds hold in exact arithmetic for the compiled graph (`Perturbation.exactness` says
    where a deep network makes that impossible); `native_upper` is replayed in the source model.
    """
    from polytope.robustness.engines import Engines  # compiled code: only when it is wanted

    asked = _checked(
        net, x, y, p, box, target, radius, time_limit, tol, callback, seed, memory, method, solver
    )
    saved = None
    if save is not None:
        criterion = asked.criterion
        rest = (
            asked.p, asked.box, criterion.targets, asked.radius, method, solver, asked.tol,
            asked.seed,
        )  # fmt: skip
        saved = SavedRows(save, question(net, asked.x.numpy(), criterion.labels, *rest))
    rows: list[Perturbation] = []
    size = TOGETHER if net.rows * net.input_size <= SMALL else 1
    engines: Engines | None = None
    interrupted = False
    for start in range(0, len(asked.x), size):
        part = np.arange(start, min(start + size, len(asked.x)))
        finished = [] if saved is None else [i for i in part.tolist() if i in saved]
        open_ = np.setdiff1d(part, finished)
        found: dict[int, Perturbation] = {}
        if len(open_) and not interrupted:
            if engines is None:
                engines = Engines(net, method, solver)
            chunk = Chunk(asked, open_, engines)
            for i in open_.tolist():
                found[i] = chunk.row(i)
                if prove and not chunk.interrupted:
                    found[i] = proved(found[i], asked.time_limit)
                if saved is not None:
                    saved.put(i, found[i])
                if chunk.interrupted:
                    interrupted = True
                    break
        for i in part.tolist():
            if saved is not None and i in saved:
                rows.append(saved.get(i, asked.query(i)))
            else:
                rows.append(found[i] if i in found else untouched(asked, i, method))
    return rows[0] if _alone(net, x) else Perturbations(tuple(rows))


def _alone(net: Network, x: object) -> bool:
    """Whether one point was given, not a batch of one."""
    shape = tuple(x.shape) if isinstance(x, torch.Tensor) else np.asarray(x).shape
    return shape in (tuple(net.input_shape), (net.input_size,))


def _checked(
    net: Network, x: object, y: object, p: NormLike, box: BoxLike, target: object,
    radius: float | None, time_limit: float, tol: float,
    callback: Callable[[Progress], None] | None, seed: int, memory: int, method: str,
    solver: str | None,
) -> Asked:  # fmt: skip
    """Refuse what cannot be used."""
    net.require_piecewise_linear("minimal_perturbation")
    exponent = as_norm(p)
    if exponent not in NORMS:
        raise InputError(
            f"p: got {p!r}; the minimal perturbation is exact for p = 1, 2 and inf; for other "
            "norms certify gives a proved interval"
        )
    if method not in METHODS:
        raise InputError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if solver is not None and method != "mip":
        raise InputError(
            f"solver: got {solver!r} with method={method!r}; only method='mip' asks a solver"
        )
    if method == "mip":
        require_solver(exponent, solver)
    limits = as_box(box, net.input_size)
    batch = as_batch(net, x, name="x").cpu()
    require_inside(batch, limits)
    classes = classes_of(net)
    labels = as_labels(net.predict(batch) if y is None else y, len(batch), classes)
    if classes < 2:
        raise InputError("net: decides between classes, but has only one")
    numbers = {"time_limit": time_limit, "tol": tol, "radius": 0.0 if radius is None else radius}
    for name, value in numbers.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not value >= 0 or (name == "radius" and math.isinf(value)):
            raise InputError(f"{name}: got {value!r}, expected a number of at least 0")
    if not TOLERANCES[0] <= tol <= TOLERANCES[1]:
        raise InputError(
            f"tol: got {tol!r}, expected from {TOLERANCES[0]:g} (float64 cannot do better) to "
            f"{TOLERANCES[1]:g}"
        )
    if callback is not None and not callable(callback):
        raise InputError(f"callback: got {callback!r}, expected a function of one Progress")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed: got {seed!r}, expected a whole number of at least 0")
    return Asked(
        net, batch, as_criterion(labels, target, classes), exponent, limits,
        None if radius is None else float(radius), float(tol), int(seed),
        positive_int(memory, "memory"), float(time_limit), callback,
    )  # fmt: skip


def require_solver(p: float, solver: str | None) -> None:
    """Refuse a solver that is unknown, not installed, or does not take the programs."""
    from polytope.robustness.mip import program_solver  # compiled code: only when it is wanted

    try:
        program_solver(p, solver)
    except SolverError as error:
        raise InputError(f"solver: {error}") from error
