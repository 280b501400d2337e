"""Pictures: linear regions and certified balls on a slice; bounds of many points.

matplotlib is imported when a picture is drawn, by its object interface: no global state, no
window.  The figures are returned, so a notebook shows them and ``figure.savefig`` saves them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from polytope.errors import InputError
from polytope.grids import Sweep, sweep_slice
from polytope.inputs import as_norm
from polytope.network.engine import Engine
from polytope.sets import BoxLike, as_box
from polytope.slices import Slice
from solvers.norms import NormLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from polytope.robustness.certificates import Certificates

#: Ten quiet but distinct hues (after Paul Tol's and Okabe-Ito's colour-blind safe sets);
#: class c takes hue c modulo ten.
HUES = (
    "#3b6fb6", "#e8833a", "#3a9a5b", "#d4b02c", "#a8478f",
    "#2fa5b8", "#b5525c", "#7a68c9", "#8a9a2e", "#8c6d4f",
)  # fmt: skip
INK = "#1a1a1a"
EXACT_COLOUR, OPEN_COLOUR = "#1b7837", "#c2a5cf"
#: Two bounds closer than this part of the upper one are drawn as one circle.
SAME = 1e-6


def plot_slice(
    net: Engine,
    points: np.ndarray,
    lower: Sequence[float] | np.ndarray,
    upper: Sequence[float] | np.ndarray | None = None,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
    p: NormLike = 2,
    box: BoxLike = None,
    resolution: int = 600,
    title: str | None = None,
) -> Figure:
    """Linear regions on the plane through three points, with the points' certified balls.

    Distances in the picture are l_2 distances in the input space: a unit to the right is a
    unit in the plane, so the section of an l_2 ball is a circle (of another l_p ball, its
    true outline).

    Parameters
    ----------
    net : Network
    points : array (3, d) or (3, *input_shape)
    lower, upper : array (3,)
        Radii of the balls: nothing nearer than `lower` changes the decision (solid);
        something at `upper` does (dashed where it differs).
    labels : array (3,), optional
        Classes of the points; the decided ones by default.
    names : sequence of 3 str, optional
        What the points are called ("row 7"); "point 1" and so on by default.
    p : number or "inf"
        Norm of the balls.
    box : Box or pair (low, high), optional
        What lies outside it is faded.
    resolution : int
        Grid points along the longer side.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the points are not three or lie on one line, or there is not one radius for each.
    SmoothActivation
        If the network is not piecewise linear.
    """
    net.require_piecewise_linear("plot_slice")
    exponent, limits = as_norm(p), as_box(box, net.input_size)
    flat = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
    if len(flat) != 3:
        raise InputError(f"plot_slice: a plane goes through three points, got {len(flat)}")
    plane = Slice(flat)
    radii = np.asarray(lower, dtype=np.float64)
    outer = radii if upper is None else np.asarray(upper, dtype=np.float64)
    if radii.shape != (3,) or outer.shape != (3,):
        raise InputError(f"plot_slice: expected three radii, got {radii.shape} and {outer.shape}")
    at = plane.coordinates
    balls = [plane.ball(at[i], r, exponent) for i in range(3) for r in _finite(radii[i], outer[i])]
    seen = np.concatenate([at, *balls])
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = 0.06 * float((high - low).max())
    low, high = low - margin, high + margin
    step = float((high - low).max()) / resolution
    u, v = (np.arange(low[k], high[k] + step, step) for k in (0, 1))
    swept = sweep_slice(net, plane, u, v)
    outline = np.array([[u[0], v[0]], [u[-1], v[0]], [u[-1], v[-1]], [u[0], v[-1]]])
    inside = outline if limits is None else plane.clip(outline, limits)

    figure = new_figure(11.0, 8.0)
    grid = figure.add_gridspec(
        4, 2, width_ratios=[4.2, 1], height_ratios=[1, 1, 1, 1.35], left=0.065, right=0.985,
        bottom=0.09, top=0.9, wspace=0.04, hspace=0.42,
    )  # fmt: skip
    axes = figure.add_subplot(grid[:, 0])
    shown = _draw_regions(axes, swept)
    if limits is not None:
        _fade_outside(axes, outline, inside)
    decided = [_nearest(swept, at[i]) for i in range(3)]
    classes = decided if labels is None else [int(c) for c in labels]
    for i in range(3):
        _draw_ball(axes, plane, at[i], radii[i], outer[i], exponent)
    axes.scatter(at[:, 0], at[:, 1], s=190, color="white", edgecolors=INK, linewidths=1.4, zorder=8)
    for i in range(3):
        axes.text(
            at[i, 0], at[i, 1] - 0.002, str(classes[i]), ha="center", va="center_baseline",
            fontsize=10, fontweight="bold", color=INK, zorder=9,
        )  # fmt: skip
        name = f"point {i + 1}" if names is None else names[i]
        _describe(
            figure.add_subplot(grid[i, 1]), net, flat[i], name, classes[i], radii[i], outer[i]
        )
    axes.set(xlim=(u[0], u[-1]), ylim=(v[0], v[-1]), aspect="equal")
    axes.set_xlabel(
        "distance within the slice ($\\ell_2$)\n"
        "the change of decision that is nearest to a point usually lies outside this plane"
    )
    norm = "\\infty" if exponent == math.inf else f"{exponent:g}"
    axes.set_title(
        title or f"Linear regions on a slice through three inputs, with certified "
        f"$\\ell_{{{norm}}}$ balls",
        loc="left", fontsize=13, pad=22,
    )  # fmt: skip
    axes.text(
        0, 1.012, f"{shown:,} linear regions in view, each with its own tint; "
        "the hue is the class decided",
        transform=axes.transAxes, fontsize=9, color="#555555",
    )  # fmt: skip
    _legend(figure.add_subplot(grid[3, 1]), swept, limits is not None, radii, outer)
    return figure


def plot_certificates(results: Mapping[object, Certificates], title: str | None = None) -> Figure:
    """Lower and upper bounds of many points, sorted, one panel for each norm.

    Parameters
    ----------
    results : mapping from a norm (1, 2, "inf") to what `polytope.certify` returned for it
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no result.
    """
    if not results:
        raise InputError("plot_certificates: expected one result or more, got none")
    figure = new_figure(4.2 * len(results) + 0.6, 4.2)
    for k, (norm, result) in enumerate(results.items()):
        axes = figure.add_subplot(1, len(results), k + 1)
        order = np.lexsort((result.lower, np.where(result.exact, result.upper, result.lower)))
        lower, upper, exact = result.lower[order], result.upper[order], result.exact[order]
        place = np.arange(len(order))
        ends = upper[np.isfinite(upper)]
        top = 1.06 * float(ends.max()) if ends.size and ends.max() > 0 else 1.0
        gap = ~exact
        axes.vlines(
            place[gap], lower[gap], np.minimum(upper[gap], top), color=OPEN_COLOUR, linewidth=2.2
        )
        axes.scatter(place[gap], lower[gap], s=9, color="#762a83", zorder=3, label="lower bound")
        axes.scatter(
            place[exact], lower[exact], s=15, color=EXACT_COLOUR, zorder=4,
            label="exact (lower = upper)",
        )  # fmt: skip
        value = as_norm(norm)  # type: ignore[arg-type]
        symbol = "\\infty" if value == math.inf else f"{value:g}"
        axes.set_title(
            f"$\\ell_{{{symbol}}}$: {int(exact.sum())} of {len(order)} exact", fontsize=11
        )
        axes.set(xlabel="points, sorted by their bound", ylim=(0, top))
        if k == 0:
            axes.set_ylabel("distance to the nearest change of decision")
            axes.legend(loc="upper left", frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    figure.set_layout_engine("tight")
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that draws without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _finite(*radii: float) -> list[float]:
    """The radii that can be drawn."""
    return [r for r in radii if math.isfinite(r) and r > 0]


def _nearest(swept: Sweep, at: np.ndarray) -> int:
    """The class decided at the grid point nearest to a point."""
    row, column = np.abs(swept.v - at[1]).argmin(), np.abs(swept.u - at[0]).argmin()
    return int(swept.classes[row, column])


def _draw_regions(axes: Axes, swept: Sweep) -> int:
    """Fill the regions, trace their borders and the decision; the number of regions."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    ids, place = np.unique(swept.region, return_inverse=True)
    shade = np.random.default_rng(1).uniform(0.28, 0.68, len(ids))[place.reshape(-1)]
    hues = np.array([to_rgb(HUES[c % len(HUES)]) for c in range(int(swept.classes.max()) + 1)])
    colour = hues[swept.classes]
    image = 1 - shade.reshape(swept.region.shape)[..., None] * (1 - colour)
    half = (swept.u[1] - swept.u[0]) / 2
    axes.imshow(
        image, origin="lower", interpolation="nearest", zorder=0,
        extent=(swept.u[0] - half, swept.u[-1] + half, swept.v[0] - half, swept.v[-1] + half),
    )  # fmt: skip
    axes.add_collection(
        LineCollection(list(swept.borders), colors="#3d3d3d", linewidths=0.7, alpha=0.8, zorder=2)
    )
    axes.add_collection(
        LineCollection(
            swept.decision_lines(), colors=INK, linewidths=2.6, zorder=4, capstyle="round"
        )
    )
    return len(ids)


def _fade_outside(axes: Axes, outline: np.ndarray, inside: np.ndarray) -> None:
    """Fade what lies outside the box, and outline the box's section."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    holes = [outline, inside[::-1]] if len(inside) else [outline]
    path = Path.make_compound_path(*(Path(np.vstack([h, h[:1]]), closed=True) for h in holes))
    axes.add_patch(
        PathPatch(path, facecolor="white", alpha=0.5, edgecolor="none", linewidth=0, zorder=5)
    )
    if len(inside):
        axes.add_patch(
            Polygon(
                inside,
                closed=True,
                fill=False,
                edgecolor=INK,
                linewidth=1.0,
                linestyle=":",
                zorder=6,
            )
        )


def _draw_ball(
    axes: Axes, plane: Slice, at: np.ndarray, lower: float, upper: float, p: float
) -> None:
    """The certified ball (solid) and the nearest known change of decision (dashed)."""
    from matplotlib.patches import Polygon

    if lower in _finite(lower):
        section = plane.ball(at, lower, p)
        axes.add_patch(Polygon(section, facecolor="white", alpha=0.25, edgecolor="none", zorder=1))
        axes.add_patch(Polygon(section, fill=False, edgecolor="#b2182b", linewidth=2.0, zorder=7))
    if upper in _finite(upper) and upper - lower > SAME * upper:
        axes.add_patch(
            Polygon(
                plane.ball(at, upper, p),
                fill=False,
                edgecolor="#b2182b",
                linewidth=1.3,
                linestyle=(0, (4, 3)),
                zorder=7,
            )
        )


def _image_of(net: Engine, point: np.ndarray) -> np.ndarray | None:
    """A point as a picture, if its shape is that of one."""
    shape = tuple(n for n in net.input_shape if n != 1)
    side = math.isqrt(point.size)
    if len(shape) == 1 and side * side == point.size and side > 1:
        return point.reshape(side, side)
    if len(shape) == 2:
        return point.reshape(shape)
    if len(shape) == 3 and shape[0] == 3:
        return point.reshape(shape).transpose(1, 2, 0)
    return None


def _describe(
    axes: Axes, net: Engine, point: np.ndarray, name: str, label: int, lower: float, upper: float
) -> None:
    """A margin panel: the point as a picture, its class and its bounds."""
    picture = _image_of(net, point)
    axes.set_axis_off()
    if picture is not None:
        low, high = float(picture.min()), float(picture.max())
        grey = (picture - low) / max(high - low, 1e-12)
        axes.imshow(grey if grey.ndim == 3 else 1 - grey, cmap="gray", vmin=0, vmax=1)
    exact = upper - lower <= SAME * upper
    bounds = f"exactly {lower:.3f}" if exact else f"{lower:.3f} to {upper:.3f}"
    axes.set_title(f"{name}: class {label}\nrobustness {bounds}", fontsize=9.5, color=INK)


def _legend(axes: Axes, swept: Sweep, boxed: bool, lower: np.ndarray, upper: np.ndarray) -> None:
    """What the lines and hues mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    axes.set_axis_off()
    handles: list[Any] = [
        Line2D([], [], color=INK, linewidth=2.6, label="decision boundary"),
        Line2D([], [], color="#3d3d3d", linewidth=0.7, label="border of a linear region"),
        Line2D(
            [],
            [],
            color="#b2182b",
            linewidth=2.0,
            label="certified ball" + (", in the box" if boxed else ""),
        ),
    ]
    if any(upper - lower > SAME * upper):
        handles.append(
            Line2D([], [], color="#b2182b", linewidth=1.3, linestyle=(0, (4, 3)),
                   label="nearest witness known")
        )  # fmt: skip
    if boxed:
        handles.append(
            Line2D([], [], color=INK, linewidth=1.0, linestyle=":", label="box (outside: faded)")
        )
    for c in np.unique(swept.classes):
        handles.append(Patch(facecolor=HUES[c % len(HUES)], alpha=0.45, label=f"decided {c}"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False,
                fontsize=8.5, handlelength=1.8, labelspacing=0.35)  # fmt: skip
