"""The Lipschitz constant by a mixed-integer program: an opinion from outside, checked.

What a solver claims proves nothing: the region that its binaries name is looked at again, its
Jacobian recomputed, and that is the proved lower end; the proved upper end is RecurJac's.  Closed
pieces share their boundaries, and a solver has tolerances: where hyperplanes meet in special
position, or a region only touches the domain, it may name a pattern that no region of full
dimension has, and claim more than the constant (LipMIP's values are known to be some 1e-6 too
high).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from polytope.bounds.layers import layer_bounds
from polytope.errors import InputError
from polytope.extremes.adjoint import Adjoint
from polytope.extremes.area import Area, as_area
from polytope.extremes.clock import Clock, plain_clock
from polytope.extremes.lipschitz import as_functional, measure_of
from polytope.extremes.maps import Jacobians
from polytope.extremes.measures import Measure, TotalNorm
from polytope.model import Network
from polytope.network.exact import exact_pieces
from polytope.operator_norms import norm_pair
from polytope.pattern import ActivationPattern
from polytope.robustness.encoding import Encoder
from polytope.robustness.query import Query
from polytope.robustness.tightening import Tighten, encoded
from polytope.sets import Ball, Box, BoxLike, as_box
from solvers.norms import NormLike
from solvers.problem import MixedIntegerProgram
from solvers.solution import Solution, Status
from solvers.solve import choose, solve

#: Part of the time that may go into tightening bounds.
TIGHTENING = 0.25
#: Seconds for tightening where there is no limit.
UNLIMITED = 60.0
#: Points of the domain whose regions give a first lower end.
SAMPLES = 256
#: A network whose constant is proved to be below this is constant but for underflow.
CONSTANT = 1e-250
#: Claims above a proved upper end, or below a proved lower one, by more than this part are wrong.
AGREES = 1e-6


@dataclass(frozen=True, eq=False)
class LipschitzClaim:
    """What a mixed-integer solver claims of a Lipschitz constant, and what of it is proved.

    Attributes
    ----------
    lower : float
        Proved: the norm of the Jacobian at the witness, rounded down.
    upper : float
        Proved: RecurJac's bound.
    claimed : float
        The value of the solver's best point; NaN without one.
    claimed_upper : float
        The solver's dual bound: its word, not a proof; inf where it gave none.
    wrong : str
        How the claim contradicts what is proved; "" if it does not.
    p, q : float
    status : Status
        Of the solver.
    solver : str
    witness : float64 (d,) or None
        Strictly inside a region of full dimension and the domain.
    jacobian : float64 (outputs, d) or None
    pattern : ActivationPattern or None
    binaries, nodes : int
    seconds : float
    """

    lower: float
    upper: float
    claimed: float
    claimed_upper: float
    wrong: str
    p: float
    q: float
    status: Status
    solver: str
    witness: np.ndarray | None = field(repr=False)
    jacobian: np.ndarray | None = field(repr=False)
    pattern: ActivationPattern | None = field(repr=False)
    binaries: int
    nodes: int
    seconds: float


def lipschitz_mip(
    net: Network,
    domain: Ball | BoxLike,
    p: NormLike,
    q: NormLike,
    *,
    box: BoxLike = None,
    functional: object = None,
    total: bool = False,
    solver: str = "highs",
    tighten: Tighten = "lp",
    time_limit: float | None = None,
) -> LipschitzClaim:
    """The largest ``||J||`` from l_p to l_q over a box or l_1 ball, by a mixed-integer program.

    As LipMIP (Jordan and Dimakis, NeurIPS 2020), for every architecture of piecewise-linear
    units: `polytope.extremes.adjoint`.  `exact_lipschitz` gives proofs.

    Parameters
    ----------
    net : Network
        Piecewise linear.
    domain : Box, pair (low, high), or Ball in l_1 or l_inf
        Bounded.
    p : 1 or "inf"
    q : 1 or "inf"
        Of no account for one output, or with a functional.
    box, functional, total
        As in `exact_lipschitz`.
    solver : str
        A name that `solvers.available` lists.
    tighten : "crown", "lp" or "mip"
        How the bounds of open units are tightened (`polytope.robustness.tightening`).
    time_limit : float, optional
        Seconds.

    Returns
    -------
    LipschitzClaim
        Ctrl-C ends the search with what is proved by then, and ``status`` says so.

    Raises
    ------
    InputError
        For other norms, sets or options.
    SmoothActivation
        If the network is not piecewise linear.
    UnknownBackendError, MissingPackageError, UnsupportedProblemError
        Where the solver cannot be had, or takes no mixed-integer programs.
    """
    from polytope.extremes.bound import upper_over  # compiled code: only when it is wanted

    net.require_piecewise_linear("lipschitz_mip")
    exponents = norm_pair(p, q)
    functions = None if functional is None else as_functional(net, functional)
    single = net.output_size == 1 or functions is not None
    if exponents[0] not in (1, math.inf) or not (single or exponents[1] in (1, math.inf)):
        raise InputError(
            f"lipschitz_mip: got p={exponents[0]:g} and q={exponents[1]:g}; only norms that are "
            "maxima of linear functions become linear programs: p and q of 1 and inf (any q for "
            "one output); use exact_lipschitz for others"
        )
    choose(MixedIntegerProgram([0.0], True, lower=0.0, upper=1.0), solver)
    area = as_area(net, domain, box, "lipschitz_mip")
    if area.inputs is None or area.inputs.p not in (1, math.inf):
        raise InputError(
            "lipschitz_mip: the domain has to be a bounded box or a ball in l_1 or l_inf, whose "
            "sides are linear; use exact_lipschitz for others"
        )
    jacobians = Jacobians(net, area, functions)
    measure = measure_of(jacobians, area, p, q, total, "lipschitz_mip")
    watch = plain_clock(time_limit)  # the solvers hear Ctrl-C themselves
    run, upper = _Run(net, area, jacobians, measure, watch), math.inf
    claim = _Claim(status=Status.INTERRUPTED)
    try:
        run.sample()
        upper = upper_over(net, area, measure, functions)
        claim = _Claim(run.lower, upper)
        if net.layers and upper > CONSTANT:
            claim = _Claim(status=Status.INTERRUPTED)
            claim = run.solved(functions, (exponents, total), (solver, tighten), upper)
    except KeyboardInterrupt:
        pass  # what was proved until then is the answer
    upper, seconds = max(run.lower, upper), watch.seconds
    pattern = jacobian = None
    if run.pieces is not None:
        pattern = ActivationPattern.from_pieces(run.pieces.astype(np.int64), net.layout)
        jacobian = Jacobians(net, Area(area.domain)).of(run.pieces[None])[0][0]
    wrong = ""
    if claim.upper < run.lower * (1 - AGREES):
        wrong = f"claims at most {claim.upper:.9g}, but {run.lower:.9g} is proved"
    elif claim.value > upper * (1 + AGREES):
        wrong = f"claims {claim.value:.9g}, but at most {upper:.9g} is proved"
    elif claim.value > run.lower * (1 + AGREES):
        wrong = (
            f"claims {claim.value:.9g} at a pattern whose region was not found to have an inside "
            "in the domain"
        )
    return LipschitzClaim(
        run.lower, upper, claim.value, claim.upper, wrong, exponents[0],
        1.0 if isinstance(measure, TotalNorm) else exponents[1], claim.status, solver,
        run.witness, jacobian, pattern, claim.binaries, claim.nodes, seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class _Claim:
    """What the solver said; by default of a network that is one affine map."""

    value: float = math.nan
    upper: float = math.inf
    status: Status = Status.OPTIMAL
    binaries: int = 0
    nodes: int = 0


class _Run:
    """What is proved while the solver works."""

    def __init__(
        self, net: Network, area: Area, jacobians: Jacobians, measure: Measure, watch: Clock
    ) -> None:
        self.net, self.area, self.jacobians = net, area, jacobians
        from polytope.extremes.inside import Inside  # compiled code: only when it is wanted

        self.measure, self.watch = measure, watch
        self.inside = Inside(net, area)
        self.lower = 0.0
        self.witness: np.ndarray | None = None
        self.pieces: np.ndarray | None = None

    def sample(self) -> None:
        """The best region of some random points."""
        assert self.area.inputs is not None
        low, high = (s[0].numpy() for s in (self.area.inputs.low, self.area.inputs.high))
        middle = (low + high) / 2
        points = np.random.default_rng(0).uniform(low, high, (SAMPLES, len(low)))
        if self.area.inputs.radius is not None:
            step = points - middle
            size = np.abs(step).sum(axis=1, keepdims=True)
            radius = float(self.area.inputs.radius[0])
            points = middle + step * np.minimum(1.0, 0.99 * radius / size)
        with torch.no_grad():
            pieces = self.net.pieces(torch.as_tensor(points).reshape(-1, *self.net.input_shape))
        patterns, first = np.unique(pieces.numpy(), axis=0, return_index=True)
        values = self.measure.values(self.jacobians.of(patterns)[0])
        for i in np.argsort(-values, kind="stable")[:4]:
            if self.offer(patterns[i], points[first[i]]):
                return

    def offer(self, pieces: np.ndarray, point: np.ndarray) -> bool:
        """A pattern and perhaps a point of it: whether its region meets the domain's inside."""
        J, error = self.jacobians.of(pieces[None])
        low = float(self.measure.bounds(J, error)[0][0])
        if low <= self.lower and self.witness is not None:
            return True
        hint = self.area.domain.coordinates(point)
        if self.area.ball is None:
            found = self.inside.point(pieces, hint)
        else:
            found = self.inside.in_ball(pieces, hint)[1]
        if found is None:
            return False
        self.lower, self.pieces = max(self.lower, low), pieces
        self.witness = self.area.domain.lift(found)
        return True

    def solved(
        self,
        functions: np.ndarray | None,
        norms: tuple[tuple[float, float], bool],
        chosen: tuple[str, Tighten],
        upper: float,
    ) -> _Claim:
        """Encode, solve, and offer what comes back."""
        (p, q), total = norms
        solver, tighten = chosen
        query, radius = _query(self.net, self.area)
        assert self.area.inputs is not None
        with torch.no_grad():
            bounds = layer_bounds(self.net, self.area.inputs)
        left = UNLIMITED if self.watch.left is None else TIGHTENING * self.watch.left
        until = self.watch.now + left
        encoder = encoded(query, bounds, radius, tighten, until)
        adjoint = Adjoint(encoder, bounds)
        rows = np.eye(self.net.output_size) if functions is None else functions
        if total:
            for row in rows:
                adjoint.add_objective(row[None], None, p, upper)
        else:
            adjoint.add_objective(rows, None if len(rows) == 1 else q, p, upper)
        program = adjoint.program()
        found = solve(program, solver, time_limit=self.watch.left)
        if found.x is not None:
            self._read(encoder, query, found)
        return _Claim(
            -found.value * upper if found.x is not None else math.nan,
            -found.dual_bound * upper, found.status, int(program.integrality.sum()),
            found.stats.nodes,
        )  # fmt: skip

    def _read(self, encoder: Encoder, query: Query, found: Solution) -> None:
        """Offer the pattern of the binaries, and the one of the point itself."""
        assert found.x is not None
        x = query.x + encoder.step(found.x)
        assert self.area.inputs is not None
        low, high = (s[0].numpy() for s in (self.area.inputs.low, self.area.inputs.high))
        x = np.clip(x, low, high)
        pieces = np.concatenate(
            [np.zeros(0, np.int64), *(known.pieces.argmax(axis=1) for known in encoder.known)]
        )
        for layer, switches in zip(self.net.layers, encoder.switches, strict=True):
            on = found.x[switches.column] > 0.5
            if layer.is_max:
                pieces[switches.unit[on]] = switches.piece[on]
            else:
                np.maximum.at(pieces, switches.unit[on], switches.piece[on])
        self.offer(pieces, x)
        self.offer(exact_pieces(self.net.graph, x.reshape(self.net.input_shape)), x)


def _query(net: Network, area: Area) -> tuple[Query, float]:
    """The area as a ball around a point met with a box, and its radius."""
    assert area.inputs is not None
    low, high = (s[0].numpy() for s in (area.inputs.low, area.inputs.high))
    blank = Query(net, low, 0, None, math.inf, None, None, 0.0, 0, 2**40)
    if area.inputs.radius is None:
        middle = (low + high) / 2
        radius = float(np.maximum(high - middle, middle - low).max())
        return replace(blank, x=middle, box=Box(low, high)), radius
    assert area.inputs.center is not None
    center, radius = area.inputs.center[0].numpy(), float(area.inputs.radius[0])
    sides = as_box(Box(low, high), len(low))
    return replace(blank, x=center, p=1.0, box=sides), radius
