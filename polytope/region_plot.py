"""Pictures of region graphs in two dimensions: exact polygons, the decision boundary, margins.

As in `polytope.plot`, matplotlib is imported when a picture is drawn, by its object interface.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from polytope.errors import InputError
from polytope.graph import RegionGraph
from polytope.inputs import as_batch
from polytope.plot import HUES, INK, new_figure
from polytope.regions.domain import Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from polytope.regions.tiles import Tiles

CIRCLE, ARROW, BORDER = "#b2182b", "#1a1a1a", "#3d3d3d"
#: Points up to this many are numbered discs, more are dots (as are those with circles).
NUMBERED = 12
#: The longest gradient arrow is this part of the picture's longer side.
LONGEST = 0.14
#: Borders are this wide in a picture of so many regions, and thinner with more.
BORDER_WIDTH, FEW = 0.6, 600
#: Panels in a row; in inches, a panel's width, its tick labels, its title and axis name, and
#: the room that an entry of the legend needs.
COLUMNS, WIDTH, SIDE, HEADING, ENTRY = 3, 5.0, 0.6, 1.1, 1.85
TITLE, SMALL = 13, 9


def plot_regions(
    graphs: RegionGraph | Mapping[str, RegionGraph],
    points: object = None,
    *,
    labels: object = None,
    circles: bool = False,
    arrows: bool = False,
    title: str | None = None,
) -> Figure:
    """Draw the regions of a plane, filled by the class decided, with the decision boundary.

    Every region is the polygon that it is, not a grid's idea of it; within a class each has
    its own tint.  Coordinates are the domain's: inputs, or l_2 distances within the slice.

    Parameters
    ----------
    graphs : RegionGraph, or mapping of titles to them
        Over bounded domains of two dimensions; several are drawn side by side.  What a partial
        graph has not found is left white.
    points : array (m, D) or (m, *input_shape), optional
        Inputs to mark, in each picture.
    labels : int array (m,), optional
        Classes of the points; by default the decided ones.
    circles : bool
        Around each point its l_2 margin within the plane: the nearest border touches it.
    arrows : bool
        At each point the gradient of the decision's margin (the first logit over the second),
        projected to the plane; lengths are proportional to the norms, in each picture.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If a domain is not two-dimensional and bounded, or the points do not fit or lie off it.
    """
    from polytope.regions.tiles import domain_outline, tiles_of  # compiled: only when wanted

    panels = {"": graphs} if isinstance(graphs, RegionGraph) else dict(graphs)
    if not panels:
        raise InputError("plot_regions: expected one graph or more, got none")
    outlines = [domain_outline(graph.domain) for graph in panels.values()]
    tiles = [tiles_of(graph.net, graph.domain, graph.found) for graph in panels.values()]
    partial = not all(graph.complete for graph in panels.values())
    marked = points is not None
    nets = [graph.net for graph in panels.values()]
    dots = marked and (circles or len(as_batch(nets[0], points, name="points")) > NUMBERED)
    handles = _handles(tiles, marked, dots, circles and marked, arrows and marked, partial)
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    width = WIDTH if len(panels) > 1 else 1.5 * WIDTH
    entries = min(len(handles), int(width * columns / ENTRY))
    tallest = max(np.ptp(outline[:, 1]) / np.ptp(outline[:, 0]) for outline in outlines)
    below = 0.4 + 0.2 * math.ceil(len(handles) / entries)
    height = (width - SIDE) * min(max(tallest, 0.4), 1.6) + HEADING
    figure = new_figure(width * columns, rows * height + below)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, graph), outline, shown in zip(
        grid, panels.items(), outlines, tiles, strict=False
    ):
        draw_tiles(axes, shown, outline)
        size = float(np.ptp(outline, axis=0).max())
        notes = [f"{len(graph):,} regions" + ("" if graph.complete else " found so far")]
        if points is not None:
            notes += _draw_points(axes, graph, points, labels, size, dots, circles, arrows)
        heading = name or title or "Linear regions of a network on a plane"
        axes.set_title(heading, loc="left", fontsize=TITLE if not name else 11, pad=20)
        note = axes.text(
            0, 1.015, "; ".join(notes), transform=axes.transAxes, fontsize=SMALL, color="#555555"
        )
        note.set_in_layout(False)
        across, up = _axis_names(graph.domain)
        axes.set_xlabel(across, fontsize=SMALL)
        axes.set_ylabel(up, fontsize=SMALL)
        axes.tick_params(labelsize=8)
    if title and len(panels) > 1:
        figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=entries, frameon=False,
        fontsize=SMALL, handlelength=1.8,
    )  # fmt: skip
    return figure


def draw_tiles(axes: Axes, tiles: Tiles, outline: np.ndarray) -> None:
    """Fill tiles and trace their borders, the decision boundary, and the domain's outline."""
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Polygon

    regions, place = np.unique(tiles.region, return_inverse=True)
    tint = np.random.default_rng(1).uniform(0.26, 0.56, len(regions))[place.reshape(-1)]
    hues = np.array([to_rgb(hue) for hue in HUES])[tiles.label % len(HUES)]
    fill = 1 - tint[:, None] * (1 - hues)
    thin = BORDER_WIDTH * min(1.0, math.sqrt(FEW / max(len(regions), 1)))
    # Each tile is outlined in its own colour first: antialiasing leaves hairlines otherwise.
    axes.add_collection(
        PolyCollection(tiles.corners, facecolors=fill, edgecolors=fill, linewidths=0.3, zorder=0)
    )
    axes.add_collection(
        PolyCollection(
            tiles.corners, facecolors="none", edgecolors=BORDER, linewidths=thin, zorder=2,
            joinstyle="round",
        )
    )  # fmt: skip
    axes.add_collection(
        LineCollection(list(tiles.decision), colors=INK, linewidths=2.2, zorder=4, capstyle="round")
    )
    axes.add_patch(
        Polygon(outline, closed=True, fill=False, edgecolor=INK, linewidth=0.8, zorder=5)
    )
    low, high = outline.min(axis=0), outline.max(axis=0)
    room = 0.02 * float((high - low).max())
    axes.set(
        xlim=(low[0] - room, high[0] + room), ylim=(low[1] - room, high[1] + room), aspect="equal"
    )
    axes.spines[:].set_visible(False)


def _draw_points(
    axes: Axes,
    graph: RegionGraph,
    points: object,
    labels: object,
    size: float,
    dots: bool,
    circles: bool,
    arrows: bool,
) -> list[str]:
    """Mark points, with their margins and gradients; what the picture's note says of them."""
    from matplotlib.collections import EllipseCollection

    from polytope.regions.tiles import around

    net, domain = graph.net, graph.domain
    at = domain.coordinates(as_batch(net, points, name="points").flatten(1).cpu().numpy())
    local = around(net, domain, at)
    classes = local.logits.argmax(axis=1) if labels is None else np.asarray(labels)
    if classes.shape != (len(at),) or classes.dtype.kind not in "iu":
        raise InputError(
            f"plot_regions: got labels of shape {classes.shape} ({classes.dtype}), expected one "
            f"whole number for each of the {len(at)} points"
        )
    notes = []
    if circles:
        margin = np.where(np.isfinite(local.margin), local.margin, 0.0)
        axes.add_collection(
            EllipseCollection(
                2 * margin, 2 * margin, np.zeros(len(at)), units="xy", offsets=at,
                offset_transform=axes.transData, facecolors="none", edgecolors=CIRCLE,
                linewidths=1.3, zorder=6,
            )
        )  # fmt: skip
        notes.append(f"median margin {np.median(local.margin):.3g}")
    if arrows:
        every = np.arange(len(at))
        first, second = np.argsort(-local.logits, axis=1, kind="stable")[:, :2].T
        step = local.gradient[every, first] - local.gradient[every, second]
        longest = float(np.linalg.norm(step, axis=1).max(initial=0.0))
        if longest > 0:
            axes.quiver(
                *at.T, *(step * LONGEST * size / longest).T, angles="xy", scale_units="xy",
                scale=1, color=ARROW, width=0.004, headwidth=4, headlength=4.5, minshaft=2,
                zorder=7,
            )  # fmt: skip
        notes.append(f"longest gradient {longest:.3g}")
    if dots:
        colours = [HUES[c % len(HUES)] for c in classes.tolist()]
        axes.scatter(
            at[:, 0], at[:, 1], s=16, c=colours, edgecolors="white", linewidths=0.6, zorder=8
        )
        return notes
    axes.scatter(at[:, 0], at[:, 1], s=130, color="white", edgecolors=INK, linewidths=1.3, zorder=8)
    for (u, v), label in zip(at.tolist(), classes.tolist(), strict=True):
        axes.text(
            u, v, str(label), ha="center", va="center_baseline", fontsize=8.5,
            fontweight="bold", color=INK, zorder=9,
        )  # fmt: skip
    return notes


def _axis_names(domain: Domain) -> tuple[str, str]:
    """What the two coordinates are."""
    if domain.basis is None:
        return "input 0", "input 1"
    used = [np.flatnonzero(row) for row in domain.basis]
    if all(len(inputs) == 1 for inputs in used):
        return f"input {used[0][0]}", f"input {used[1][0]}"
    return "distance within the slice ($\\ell_2$)", ""


def _handles(
    tiles: list[Tiles], marked: bool, dots: bool, circles: bool, arrows: bool, partial: bool
) -> list[Any]:
    """The entries of the legend: what hues, lines and marks mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=HUES[c % len(HUES)], alpha=0.45, label=f"class {c}")
        for c in np.unique(np.concatenate([shown.label for shown in tiles])).tolist()
    ]
    if any(len(shown.decision) for shown in tiles):
        handles.append(Line2D([], [], color=INK, linewidth=2.2, label="decision boundary"))
    handles.append(Line2D([], [], color=BORDER, linewidth=0.6, label="border of a region"))
    marks: dict[str, Any] = {"marker": "o", "linestyle": "none"}
    if marked and not dots:
        handles.append(
            Line2D([], [], markerfacecolor="white", markeredgecolor=INK, markersize=9,
                   label="point and its class", **marks)
        )  # fmt: skip
    elif marked:
        handles.append(
            Line2D([], [], markerfacecolor=HUES[0], markeredgecolor="white", markersize=6,
                   label="point (hue: its class)", **marks)
        )  # fmt: skip
    if circles:
        handles.append(
            Line2D([], [], color=CIRCLE, markerfacecolor="none", markersize=9,
                   label="margin: nearest border", **marks)
        )  # fmt: skip
    if arrows:
        handles.append(
            Line2D([], [], color=ARROW, marker=r"$\rightarrow$", linestyle="none",
                   markersize=12, label="gradient of the decision")
        )  # fmt: skip
    if partial:
        handles.append(Patch(facecolor="white", edgecolor="#888888", label="not found yet"))
    return handles
