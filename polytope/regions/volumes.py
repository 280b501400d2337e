"""Vertices and volumes of regions: Qhull in low dimension, Monte Carlo beyond.

The Monte Carlo estimate is radial: with rho(w) the distance from an interior point to the
boundary along the unit vector w, the volume is that of the unit ball times the mean of
``rho(w)^k`` over the sphere.  The samples are independent and the estimate unbiased, so the
standard error is that of a mean; the body is first made round by a linear map (from a random
walk, which changes the spread and never the mean).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError

from polytope.errors import InputError
from polytope.regions.section import Section

#: Qhull is asked up to this dimension, and up to this many vertices that the rows could have.
HULL_DIMENSION = 7
HULL_VERTICES = 10**6
#: Directions of one Monte Carlo estimate; and of the walk that makes the body round before.
DIRECTIONS = 2**16
WALKERS, STEPS, ROUNDS = 64, 60, 2
#: Newton steps to the analytic center: each takes the barrier down by 0.005 at least, and far
#: more from where a linear program starts them.
NEWTON = 60
#: Vertices closer than this part of the region's size are one: Qhull repeats those that more
#: than k rows meet in, up to its rounding.
SAME_VERTEX = 1e-10


@dataclass(frozen=True)
class Volume:
    """A volume in the domain's coordinates: lengths, areas, and so on by dimension.

    Attributes
    ----------
    value : float
    error : float
        One standard error of a Monte Carlo estimate; 0 for a computed volume.
    exact : bool
        Whether it was computed (up to rounding, some 1e-12 of the value) and not estimated.
    """

    value: float
    error: float
    exact: bool


def vertices_of(section: Section) -> np.ndarray:
    """The vertices (n, k) of a bounded section, in coordinates, each once.

    Raises
    ------
    InputError
        If the section is unbounded, round (an l_2 ball), has no interior, or is too thin for
        floats; or the dimension is beyond `HULL_DIMENSION`.
    """
    if section.domain.ball is not None:
        raise InputError("vertices: the l_2 ball of the domain has none; give a box or a slice")
    if section.dimension > HULL_DIMENSION:
        raise InputError(
            f"vertices: a region in {section.dimension} dimensions can have too many to list "
            f"(up to {HULL_DIMENSION} are taken); study it on a Slice"
        )
    section.require_bounded("vertices")
    try:
        return _vertices(section)
    except QhullError as error:
        raise InputError("vertices: the region is too thin for floats (Qhull gave up)") from error


def volume_of(section: Section, directions: int = DIRECTIONS, seed: int = 0) -> Volume:
    """The volume of a bounded section, in the domain's coordinates.

    Parameters
    ----------
    section : Section
    directions : int
        Samples of a Monte Carlo estimate, where one is needed: above `HULL_DIMENSION`, inside
        an l_2 ball, or for a region that is too thin for Qhull.
    seed : int

    Raises
    ------
    InputError
        If the section is unbounded or has no interior.
    """
    if section.domain.ball is None:
        section.require_bounded("volume")
        k, rows = section.dimension, int(section.proper.sum())
        if k <= HULL_DIMENSION and _most_vertices(rows, k) <= HULL_VERTICES:
            try:
                corners = _vertices(section)
                return Volume(_hull_volume(corners), 0.0, True)
            except QhullError:
                pass
    return _monte_carlo(section, directions, np.random.default_rng(seed))


def _vertices(section: Section) -> np.ndarray:
    """Vertices of a bounded section, without the checks."""
    center, (low, high) = section.require_interior("vertices"), section.extent
    size = high - low
    A, room = section.A[section.proper] * size, (section.b - section.A @ center)[section.proper]
    norm = np.linalg.norm(A, axis=1)
    A, room = A / norm[:, None], room / norm
    if section.dimension == 1:
        ends = np.array([-(room[A[:, 0] < 0].min()), room[A[:, 0] > 0].min()])
        return np.asarray(center + size * ends[:, None])
    # Once more from the middle of what was found: duals from near a corner lose digits.
    middle = np.zeros(len(center))
    for _ in range(2):
        found = HalfspaceIntersection(
            np.column_stack([A, A @ middle - room]), np.zeros_like(middle)
        )
        corners = middle + found.intersections[np.isfinite(found.intersections).all(axis=1)]
        middle = corners.mean(axis=0)
    return np.asarray(center + size * _distinct(corners))


def _distinct(corners: np.ndarray) -> np.ndarray:
    """Corners without repetitions, in a body of size 1."""
    keep: list[int] = []
    probe = corners @ np.random.default_rng(0).uniform(0.5, 1.0, size=corners.shape[1])
    order = np.argsort(probe)
    reach = 2 * SAME_VERTEX * corners.shape[1]
    for i in order.tolist():
        near = [j for j in reversed(keep[-64:]) if probe[i] - probe[j] <= reach]
        if not any(np.abs(corners[i] - corners[j]).max() <= SAME_VERTEX for j in near):
            keep.append(i)
    return corners[keep]


def _hull_volume(corners: np.ndarray) -> float:
    """The volume of the hull of points, found in a frame where it is of size 1."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = high - low
    if corners.shape[1] == 1:
        return float(size[0])
    if not (size > 0).all():
        raise QhullError("flat")
    return float(ConvexHull((corners - low) / size).volume * np.prod(size))


def _most_vertices(rows: int, k: int) -> int:
    """McMullen's upper bound on the vertices of a polytope with so many facets."""
    half = k // 2
    if rows <= k:
        return 0
    return math.comb(rows - (k + 1) // 2, half) + math.comb(rows - half - 1, k - half - 1)


def _monte_carlo(section: Section, directions: int, rng: np.random.Generator) -> Volume:
    """The radial estimate."""
    k = section.dimension
    center = section.require_interior("volume")
    frame, middle = _round_frame(section, center, rng)
    log_ball = k / 2 * math.log(math.pi) - math.lgamma(k / 2 + 1)
    log_scale = log_ball + float(np.linalg.slogdet(frame)[1])
    ways = rng.normal(size=(directions, k))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    reach = _reach(section, np.broadcast_to(middle, ways.shape), ways @ frame.T)
    powers = np.exp(k * np.log(reach) + log_scale)
    return Volume(float(powers.mean()), float(powers.std(ddof=1) / math.sqrt(directions)), False)


def _round_frame(
    section: Section, center: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A linear map and a center from which the body looks round.

    The Dikin ellipsoid at the analytic center, whatever the body's stretch, is within a factor
    of the number of rows of its shape; hit and run from there makes that better.
    """
    at, frame = _dikin(section, center)
    walkers = np.repeat(at[None], WALKERS, axis=0)
    for _ in range(ROUNDS):
        seen = []
        for _ in range(STEPS + 4 * section.dimension):
            ways = rng.normal(size=walkers.shape) @ frame.T
            far, back = _reach(section, walkers, ways), _reach(section, walkers, -ways)
            step = rng.uniform(size=len(walkers)) * (far + back) - back
            walkers = walkers + step[:, None] * ways
            seen.append(walkers)
        walked = np.concatenate(seen[len(seen) // 2 :])
        local = np.linalg.solve(frame, (walked - walked.mean(axis=0)).T)
        frame = frame @ np.linalg.cholesky(local @ local.T / len(walked))
    middle = walked.mean(axis=0)
    return frame, middle if section.inside(middle) else center


def _dikin(section: Section, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A point near the analytic center, and a map from the unit ball to its Dikin ellipsoid.

    Damped Newton steps on the log barrier, whose Hessian is ``R' R`` for the rows R of A, each
    divided by its room: least squares in R are half as sensitive to a body's stretch.
    """
    A, b = section.A[section.proper], section.b[section.proper]
    at, ball, k = center, section.domain.ball, section.dimension
    for _ in range(NEWTON):
        rows, target = A / (b - A @ at)[:, None], np.ones(len(A))
        if ball is not None:
            step = at - ball[0]
            room = float(ball[1] ** 2 - step @ step)
            rows = np.vstack([rows, 2 * step[None] / room, np.sqrt(2 / room) * np.eye(k)])
            target = np.concatenate([target, np.ones(1), np.zeros(k)])
        newton = -np.linalg.lstsq(rows, target, rcond=None)[0]
        decrement = float(np.linalg.norm(rows @ newton))
        if decrement < 0.1:
            break
        at = at + newton / (1 + decrement)
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    return at, vectors.T / np.maximum(values, values[0] * np.finfo(np.float64).eps)


def _reach(section: Section, at: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """How far each point can go along its direction within the section: (n,)."""
    A, b = section.A[section.proper], section.b[section.proper]
    rise, room = ways @ A.T, np.maximum(b - at @ A.T, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(rise > 0, room / rise, np.inf).min(axis=1, initial=np.inf)
    if section.domain.ball is not None:
        center, radius = section.domain.ball
        step, size = at - center, (ways**2).sum(axis=1)
        along = (ways * step).sum(axis=1) / size
        gap = np.maximum(along**2 + (radius**2 - (step**2).sum(axis=1)) / size, 0.0)
        reach = np.minimum(reach, np.maximum(np.sqrt(gap) - along, 0.0))
    return np.asarray(reach)
