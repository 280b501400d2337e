"""The linear region around a point, as explicit halfspaces with the unit behind each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch

from polytope.errors import InputError
from polytope.inputs import as_batch, as_norm
from polytope.jacobians import layer_gradients
from polytope.network.engine import Engine
from polytope.network.rounding import rounding_bounds
from polytope.pattern import ActivationPattern
from polytope.regions.behind import patterns_behind
from polytope.regions.domain import Domain, as_domain
from polytope.regions.facets import Facets, facets_of
from polytope.regions.section import Section
from polytope.regions.volumes import Volume, vertices_of, volume_of
from polytope.rows import NEGLIGIBLE, given_pieces, oriented_part
from polytope.sets import Ball, Box, BoxLike, HPolytope, as_box
from polytope.slices import Slice
from polytope.units import RowUnits
from solvers.norms import NormLike, dual_exponent
from solvers.problem import LinearProgram
from solvers.solution import Status
from solvers.solve import solve

#: What a domain can be given as; None stands for all inputs.
DomainLike: TypeAlias = "Domain | Ball | HPolytope | Slice | BoxLike"

#: Two rows coincide if their normalised coefficients differ by no more than this. Rounding
#: leaves about 1e-15 times the depth; two trained units never come this close by chance.
COINCIDENT = 1e-10


@dataclass(frozen=True)
class ChebyshevCenter:
    """The center of a largest l_p ball inside a region.

    Attributes
    ----------
    center : array (d,) or None
        None if the region (met with the box) is empty.
    radius : float
        inf if balls of every size fit; -inf if the region is empty; computed by a linear
        program and then re-evaluated from the center, so never more than the center proves
        (up to the rounding of one product per row).
    """

    center: np.ndarray | None
    radius: float


@dataclass(frozen=True)
class Region:
    """A linear region: ``{z : A z <= b}``, where the network is ``jacobian z + offset``.

    The rows are over the flattened input and closed: a point on a boundary belongs to every
    region it touches. Rows that can never be reached before another breakpoint of the same
    unit are left out; every other row is kept, those with a zero normal too.

    Attributes
    ----------
    pattern : ActivationPattern
    A : array (rows, d)
    b : array (rows,)
    units : RowUnits
        The unit behind each row.
    jacobian : array (outputs, d)
    offset : array (outputs,)
    normal_error : array (rows,)
        Bound on the l_1 norm of the rounding error of each row of A.
    offset_error : array (rows,)
        Bound on the rounding error of each entry of b.
    jacobian_error, value_error : array (outputs,)
        The same for the rows of `jacobian` and for `offset`.
    point : array (d,)
        The point the region was made at.
    """

    pattern: ActivationPattern
    A: np.ndarray
    b: np.ndarray
    units: RowUnits
    jacobian: np.ndarray
    offset: np.ndarray
    normal_error: np.ndarray
    offset_error: np.ndarray
    jacobian_error: np.ndarray
    value_error: np.ndarray
    point: np.ndarray

    def __repr__(self) -> str:
        """The sizes alone: the arrays fill screens."""
        rows, d = self.A.shape
        return f"Region({rows} halfspaces, {d} inputs, {len(self.offset)} outputs)"

    @property
    def polytope(self) -> HPolytope:
        """The region as a plain `HPolytope`."""
        return HPolytope(self.A, self.b)

    @cached_property
    def zero_rows(self) -> np.ndarray:
        """Rows whose normal is zero up to rounding (`hyperplanes.NEGLIGIBLE`): no hyperplanes.

        Their offset decides: at least 0 holds everywhere (exactly 0: a pruned unit, whose
        piece has no meaning), below 0 means that the region is empty.
        """
        sizes = np.abs(self.A).sum(axis=1)
        largest = np.zeros(len(self.units.net.layers))
        np.maximum.at(largest, self.units.layer, sizes)
        small = sizes <= NEGLIGIBLE * largest[self.units.layer]
        return np.asarray(small & (sizes <= self.normal_error))

    @property
    def empty_by_offset(self) -> bool:
        """Whether a row with a zero normal is violated, beyond rounding."""
        return bool((self.b[self.zero_rows] < -self.offset_error[self.zero_rows]).any())

    @cached_property
    def coincident(self) -> tuple[np.ndarray, ...]:
        """Groups (two rows or more) that are one hyperplane, either way round."""
        rows = np.flatnonzero(~self.zero_rows)
        if len(rows) < 2:
            return ()
        full = np.column_stack([self.A[rows], self.b[rows]])
        full = full / np.abs(self.A[rows]).max(axis=1, keepdims=True)
        probe = np.random.default_rng(0).normal(size=full.shape[1])
        full *= np.sign(full[:, :-1] @ probe[:-1])[:, None]
        allowed = np.full_like(full, COINCIDENT)
        allowed[:, -1] *= np.maximum(1, np.abs(full[:, -1]))
        order = np.argsort(full @ probe)
        groups: list[list[int]] = []
        for here, after in itertools.pairwise(order):
            near = (np.abs(full[here] - full[after]) <= allowed[here]).all()
            if near and groups and groups[-1][-1] == here:
                groups[-1].append(int(after))
            elif near:
                groups.append([int(here), int(after)])
        return tuple(np.sort(rows[group]) for group in groups)

    def error_band(self, z: object) -> np.ndarray:
        """How far rounding may move ``A z - b`` at each point: (n, rows).

        A rigorous bound on the errors in A and b themselves and those of the product in
        float64: a point whose residual is within the band may be on either side of the row.
        Where that bound says nothing (a network of many layers) the band ends at
        `hyperplanes.NEGLIGIBLE` of the sizes of the row's terms, which float64 does not reach.
        """
        flat = self._points(z)
        size = np.abs(flat).max(axis=1, initial=0.0)
        unit = (self.A.shape[1] + 2) * np.finfo(np.float64).eps
        product = np.abs(flat) @ np.abs(self.A).T + np.abs(self.b)
        rigorous = size[:, None] * self.normal_error + self.offset_error + unit * product
        trusted = np.where(self.zero_rows, np.inf, NEGLIGIBLE * product)
        return np.asarray(np.minimum(rigorous, trusted))

    def contains(self, z: object) -> np.ndarray | bool:
        """Whether points satisfy every row, within the rounding error of each.

        Parameters
        ----------
        z : array (d,) or (n, d), flat or in the network's input shape

        Returns
        -------
        bool, or bool array (n,) for a batch

        Raises
        ------
        InputError
            For unusable points.
        """
        flat = self._points(z)
        shape = np.shape(z)  # type: ignore[call-overload]
        single = shape in (self.point.shape, tuple(self.units.net.input_shape))
        inside = (flat @ self.A.T - self.b <= self.error_band(flat)).all(axis=1)
        return bool(inside[0]) if single else np.asarray(inside)

    def affine(self, z: object) -> np.ndarray:
        """``jacobian z + offset`` for points (n, d): (n, outputs)."""
        return np.asarray(self._points(z) @ self.jacobian.T + self.offset)

    def chebyshev_center(self, box: BoxLike = None, p: NormLike = 2) -> ChebyshevCenter:
        """The center of a largest l_p ball in the region (met with a box).

        Parameters
        ----------
        box : Box or pair, optional
            The ball stays inside it too; frozen coordinates make its radius 0.
        p : number or "inf"

        Returns
        -------
        ChebyshevCenter
            Rows with a zero normal are decided by their offset.

        Raises
        ------
        InputError
            For an unusable box or norm, or if the linear program cannot be solved.
        """
        q = dual_exponent(as_norm(p))
        limits = as_box(box, self.A.shape[1])
        if self.empty_by_offset:
            return ChebyshevCenter(None, -np.inf)
        A, b = self._proper_rows(limits)
        if len(A) == 0:
            return ChebyshevCenter(self.point.copy(), np.inf)
        largest = np.abs(A).max(axis=1, keepdims=True)
        A, b = A / largest, b / largest[:, 0]
        size = np.linalg.norm(A, q, axis=1)
        cost = np.zeros(A.shape[1] + 1)
        cost[-1] = -1.0
        problem = LinearProgram(
            c=cost,
            A=np.column_stack([A / size[:, None], np.ones(len(A))]),
            row_lower=np.full(len(A), -np.inf),
            row_upper=b / size,
            lower=np.append(np.full(A.shape[1], -np.inf), 0.0),
            upper=np.full(A.shape[1] + 1, np.inf),
        )
        solution = solve(problem)
        if solution.status is Status.INFEASIBLE:
            return ChebyshevCenter(None, -np.inf)
        if solution.status is Status.UNBOUNDED:
            return ChebyshevCenter(self.point.copy(), np.inf)
        if solution.x is None:
            raise InputError(f"chebyshev_center: the linear program ended as {solution.status}")
        center = solution.x[:-1]
        if limits is not None:
            center = np.clip(center, limits.low, limits.high)
        return ChebyshevCenter(center, float(((b - A @ center) / size).min()))

    def section(self, domain: DomainLike = None) -> Section:
        """The region met with a domain, as halfspaces over the domain's coordinates.

        Parameters
        ----------
        domain : Box, pair (low, high), Ball, HPolytope, Slice, Domain or None (all inputs)

        Raises
        ------
        InputError
            If the domain does not fit the network.
        """
        units, net = self.units, self.units.net
        where = domain if isinstance(domain, Domain) else as_domain(net, domain)
        first = np.array([layer.first_row for layer in net.layers], dtype=np.int64)
        slots = np.array([layer.slots for layer in net.layers], dtype=np.int64)
        ids = first[units.layer] + units.unit * slots[units.layer] + units.slot
        errors = self.normal_error, self.offset_error
        try:
            start = where.coordinates(self.point)
        except InputError:
            start = None
        return Section.of(
            net, where, self.pattern.pieces, ids, (self.A, self.b), errors, start
        )  # fmt: skip

    def facets(self, domain: DomainLike = None) -> Facets:
        """The facets of the region in a domain, with a proof for every row (see `Facets`).

        Raises
        ------
        InputError
            If the region has no interior in the domain, or the domain is an l_2 ball.
        """
        return facets_of(self.section(domain))

    def neighbors(self, domain: DomainLike = None) -> list[Region]:
        """The regions behind the facets, those on the domain's own boundary left out.

        One for each facet, in the order of `facets`; all units whose hyperplanes coincide there
        have flipped.  Which pieces lie behind is decided in exact arithmetic.  The `point` of a
        neighbour lies on the shared facet.

        Raises
        ------
        InputError
            If the region has no interior in the domain, or the domain is an l_2 ball.
        """
        section, net = self.section(domain), self.units.net
        return [
            region_at(
                net, section.domain.lift(point), ActivationPattern.from_pieces(pieces, net.layout)
            )
            for pieces, point in patterns_behind(section)
        ]

    def vertices(self, domain: DomainLike = None) -> np.ndarray:
        """The vertices (n, k) in the domain's coordinates (the inputs, unless it has others).

        Raises
        ------
        InputError
            If the region is unbounded there, round, or of too many dimensions.
        """
        return vertices_of(self.section(domain))

    def volume(self, domain: DomainLike = None) -> Volume:
        """The volume in the domain's coordinates; an estimate with its error where need be.

        Raises
        ------
        InputError
            If the region is unbounded there, or has no interior in it.
        """
        return volume_of(self.section(domain))

    def bounding_box(self, domain: DomainLike = None) -> Box:
        """The least box, in the domain's coordinates, that holds the region (inf if none).

        Raises
        ------
        InputError
            If the region has no interior in the domain.
        """
        return Box(*self.section(domain).extent)

    def is_bounded(self) -> bool:
        """Whether the region (taken as non-empty) is bounded.

        By Stiemke's lemma: the normals span the space, and some combination of them with
        all weights positive is zero.
        """
        A = self.A[~self.zero_rows]
        d = self.A.shape[1]
        if len(A) <= d:
            return False
        A = A / np.abs(A).max(axis=1, keepdims=True)
        if np.linalg.matrix_rank(A) < d:
            return False
        problem = LinearProgram(
            c=np.zeros(len(A)), A=A.T, row_lower=np.zeros(d), row_upper=np.zeros(d),
            lower=np.ones(len(A)), upper=np.full(len(A), np.inf),
        )  # fmt: skip
        return solve(problem).status is Status.OPTIMAL

    def _points(self, z: object) -> np.ndarray:
        """One point or a batch as (n, d)."""
        return np.asarray(as_batch(self.units.net, z, name="z").flatten(1).cpu().numpy())

    def _proper_rows(self, box: Box | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a normal, and those of the box."""
        keep = ~self.zero_rows
        A, b = self.A[keep], self.b[keep]
        if box is None:
            return A, b
        eye = np.eye(self.A.shape[1])
        upper, lower = np.isfinite(box.high), np.isfinite(box.low)
        return (
            np.vstack([A, eye[upper], -eye[lower]]),
            np.concatenate([b, box.high[upper], -box.low[lower]]),
        )


def region_at(net: Engine, x: object, pattern: ActivationPattern | None = None) -> Region:
    """The linear region of a point, or the one of a pattern (which may be empty).

    Parameters
    ----------
    net : Network
    x : array or tensor (d,) or input_shape
        One point.
    pattern : ActivationPattern, optional
        Take these pieces instead of the point's own.

    Raises
    ------
    InputError
        For an unusable point or more than one.
    SmoothActivation
        If the network is not piecewise linear.
    """
    net.require_piecewise_linear("region")
    points = as_batch(net, x)
    if len(points) != 1:
        raise InputError(f"region: got {len(points)} points, expected one; call it for each")
    given = None
    if pattern is not None:
        if pattern.layout != net.layout:
            raise InputError("region: the pattern is of another network")
        given = torch.as_tensor(pattern.pieces.copy(), device=points.device).unsqueeze(0)
    with torch.no_grad():
        pieces = net.pieces(points) if given is None else given
        frozen = given_pieces(pieces)
        at_point = list(layer_gradients(net, points, "auto", None, frozen))
        at_zero = list(net.sweep(torch.zeros_like(points), None, frozen))
        bounds = rounding_bounds(net, torch.zeros_like(points), pieces)
        parts = [
            oriented_part(net, number, state, zero, bound.value, bound.gradient)
            for number, (state, zero, bound) in enumerate(
                zip(at_point[:-1], at_zero[:-1], bounds[:-1], strict=True)
            )
        ]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [
        np.zeros((0, net.input_size)), *(np.zeros(0) for _ in range(3)),
        *(np.zeros(0, np.int64) for _ in range(5)),
    ]  # fmt: skip
    A, b, normal_error, offset_error, *units = columns
    last = at_point[-1].gradients
    assert last is not None
    return Region(
        pattern=ActivationPattern.from_pieces(pieces[0].cpu().numpy(), net.layout),
        A=A,
        b=b,
        units=RowUnits(net, *units),
        jacobian=last[0].T.cpu().numpy().copy(),
        offset=at_zero[-1].values[0].cpu().numpy(),
        normal_error=normal_error,
        offset_error=offset_error,
        jacobian_error=bounds[-1].gradient[0].cpu().numpy(),
        value_error=bounds[-1].value[0].cpu().numpy(),
        point=points.flatten().cpu().numpy(),
    )
