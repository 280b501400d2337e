"""The decision boundary inside a region, as polytopes of one dimension less.

In a region the logits are affine, so where two classes s and t share the first place is
``{u in R : f_s(u) = f_t(u) >= f_c(u) for all other c}``: a polytope on one hyperplane.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polytope.regions.domain import Domain
from polytope.regions.section import Section
from solvers.problem import LinearProgram
from solvers.solve import solve

#: A row whose normalised coefficients differ from the equality's by no more than this is the
#: equality itself: a region that ends at the decision boundary.
PARALLEL = 1e-10


@dataclass(frozen=True, eq=False)
class DecisionPiece:
    """A part of the decision boundary, in the domain's coordinates.

    The polytope is ``{u : A u <= b, normal u = offset}``.

    Attributes
    ----------
    region : int
        Number of the region in its graph.
    classes : (int, int)
        The two that share the first place, s < t; a single logit f counts as (0, f).
    A, b : float64 array (rows, k), (rows,)
        Rows of the region and of the domain, then one for every other class.
    normal, offset : float64 array (k,), float
        ``f_s - f_t = normal u - offset``.
    point : float64 array (k,)
        In the relative interior.
    proved : bool
        Whether the point shows, beyond all rounding, that the part is not empty and has k - 1
        dimensions; if not, it is so up to rounding.
    everywhere : bool
        Whether the two logits are equal on the whole region (up to rounding): the part is then
        the region, where no other class is above them.
    """

    region: int
    classes: tuple[int, int]
    A: np.ndarray
    b: np.ndarray
    normal: np.ndarray
    offset: float
    point: np.ndarray
    proved: bool
    everywhere: bool


@dataclass(frozen=True, eq=False)
class Logits:
    """The logits of a region over the domain's coordinates: ``gradient u + value``.

    Attributes
    ----------
    gradient, value : float64 array (classes, k), (classes,)
    gradient_error, value_error : float64 array (classes,)
        Bounds on the l_1 norm of the error of each gradient, and on that of each value.
    """

    gradient: np.ndarray
    value: np.ndarray
    gradient_error: np.ndarray
    value_error: np.ndarray

    @classmethod
    def of(
        cls,
        domain: Domain,
        affine: tuple[np.ndarray, np.ndarray],
        errors: tuple[np.ndarray, np.ndarray],
    ) -> Logits:
        """From ``jacobian x + offset`` over the inputs; a single logit f becomes (0, f).

        Parameters
        ----------
        domain : Domain
        affine : array (outputs, D), array (outputs,)
        errors : array (outputs,), array (outputs,)
            Bounds on the l_1 norms of the Jacobian's rows, and on the offset.
        """
        gradient, value = affine
        gradient_error, value_error = errors
        if domain.basis is not None and domain.origin is not None:
            widest = np.abs(domain.basis).sum(axis=0)
            origin = np.abs(domain.origin)
            unit = (domain.size + 3) * np.finfo(np.float64).eps
            sizes = np.abs(gradient)
            value_error = (
                value_error + gradient_error * origin.max(initial=0.0)
                + unit * (sizes @ origin + np.abs(value))
            )  # fmt: skip
            gradient_error = gradient_error * widest.max(initial=0.0) + unit * (sizes @ widest)
            gradient, value = (
                gradient @ domain.basis.T, value + gradient @ domain.origin
            )  # fmt: skip
        if len(value) == 1:
            zero = np.zeros(1)
            gradient = np.vstack([np.zeros_like(gradient), gradient])
            value = np.concatenate([zero, value])
            gradient_error = np.concatenate([zero, gradient_error])
            value_error = np.concatenate([zero, value_error])
        return cls(gradient, value, gradient_error, value_error)


def decision_pieces(number: int, section: Section, logits: Logits) -> Iterator[DecisionPiece]:
    """The parts of the decision boundary inside one region.

    Parameters
    ----------
    number : int
        What the region is called in the results.
    section : Section
    logits : Logits

    Raises
    ------
    InputError
        If the section has no interior.
    """
    center = section.require_interior("decision boundary")
    low, high = section.extent
    reach = np.maximum(high - center, center - low)
    values = logits.gradient @ center + logits.value
    top = int(values.argmax())
    change = np.abs(logits.gradient - logits.gradient[top])
    most = values - values[top] + np.where(change > 0, change * reach, 0.0).sum(axis=1)
    slack = 1e-9 * (1 + np.abs(values).max())
    candidates = np.flatnonzero(most >= -slack).tolist()
    for s, t in itertools.combinations(candidates, 2):
        piece = _piece(number, section, logits, center, s, t)
        if piece is not None:
            yield piece


def _piece(
    number: int, section: Section, logits: Logits, center: np.ndarray, s: int, t: int
) -> DecisionPiece | None:
    """The part where s and t share the first place, if there is one."""
    normal = logits.gradient[s] - logits.gradient[t]
    offset = float(logits.value[t] - logits.value[s])
    largest = float(np.abs(center).max(initial=0.0))
    gradient_error = logits.gradient_error[s] + logits.gradient_error[t]
    error = logits.value_error[s] + logits.value_error[t]
    rounded = np.finfo(np.float64).eps * (
        np.abs(logits.value[[s, t]]).sum() + np.abs(logits.gradient[[s, t]]).sum() * largest
    )
    flat = float(np.abs(normal).sum()) <= gradient_error
    if flat and abs(offset) > error + gradient_error * largest + rounded:
        return None
    others = [c for c in range(len(logits.value)) if c not in (s, t)]
    A = np.vstack([section.A[section.proper], logits.gradient[others] - logits.gradient[t]])
    b = np.concatenate([section.b[section.proper], logits.value[t] - logits.value[others]])
    A_error = np.concatenate([
        section.normal_error[section.proper], logits.gradient_error[others] + gradient_error,
    ])  # fmt: skip
    b_error = np.concatenate([
        section.offset_error[section.proper], logits.value_error[others] + error + rounded,
    ])  # fmt: skip
    if flat:
        normal, offset = np.zeros_like(normal), 0.0
    strict = _strict(A, b, A_error, normal, offset)
    found = _relative_interior(A, b, strict, normal, offset, center)
    if found is None:
        return None
    point, room = found
    size = np.linalg.norm(A, axis=1)
    unit = (len(point) + 2) * np.finfo(np.float64).eps
    terms = np.abs(A) @ np.abs(point) + np.abs(b)
    band = np.abs(point).max(initial=0.0) * A_error + b_error + unit * terms
    residual = A @ point - b
    if flat:
        return DecisionPiece(number, (s, t), A, b, normal, offset, point, False, True)
    miss = abs(float(normal @ point) - offset) + error + rounded
    miss += gradient_error * float(np.abs(point).max(initial=0.0))
    length = float(np.linalg.norm(normal)) - gradient_error
    moved = miss / length if length > 0 else np.inf
    shown = bool((residual < -(band + size * moved)).all())
    if room <= 0 and not shown:
        return None
    return DecisionPiece(number, (s, t), A, b, normal, offset, point, shown, False)


def _strict(
    A: np.ndarray, b: np.ndarray, A_error: np.ndarray, normal: np.ndarray, offset: float
) -> np.ndarray:
    """Which rows the relative interior is strictly inside of: not those on the hyperplane."""
    size = np.linalg.norm(A, axis=1)
    strict = size > A_error
    length = float(np.linalg.norm(normal))
    if length > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.column_stack([A, b]) / size[:, None]
        line = np.append(normal, offset) / length
        allowed = np.full(len(line), PARALLEL)
        allowed[-1] *= max(1.0, abs(line[-1]))
        for side in (line, -line):
            strict &= ~(np.abs(rows - side) <= allowed).all(axis=1)
    return np.asarray(strict)


def _relative_interior(
    A: np.ndarray,
    b: np.ndarray,
    strict: np.ndarray,
    normal: np.ndarray,
    offset: float,
    center: np.ndarray,
) -> tuple[np.ndarray, float] | None:
    """The center of a largest ball on the hyperplane within the strict rows, and its radius.

    In coordinates around the `center` in which the least room of a row is about 1, so that
    the solver's tolerance is relative to the region.
    """
    k = A.shape[1]
    size = np.where(strict, np.linalg.norm(A, axis=1), 1.0)
    room = (b - A @ center) / size
    proper = room[strict & (room > 0)]
    scale = float(proper.min()) if len(proper) else 1.0
    length = float(np.linalg.norm(normal))
    rows = np.column_stack([A / size[:, None], strict.astype(float)])
    upper, lower = room / scale, np.full(len(rows), -np.inf)
    if length > 0:
        gap = (offset - float(normal @ center)) / (length * scale)
        rows = np.vstack([rows, np.append(normal / length, 0.0)])
        upper, lower = np.append(upper, gap), np.append(lower, gap)
    cost = np.zeros(k + 1)
    cost[-1] = -1.0
    solution = solve(
        LinearProgram(
            c=cost,
            A=rows,
            row_lower=lower,
            row_upper=upper,
            lower=np.append(np.full(k, -np.inf), 0.0),
            upper=np.append(np.full(k, np.inf), 1e6),
        ),
        "highs",
    )
    if solution.x is None or solution.x[-1] <= 1e-9:
        return None
    return center + scale * solution.x[:-1], scale * float(solution.x[-1])
