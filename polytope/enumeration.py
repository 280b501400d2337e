"""`region_graph` and `resume`: enumerate the linear regions of a network inside a domain."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polytope.errors import FileProblem, InputError, Notice
from polytope.graph import RegionGraph
from polytope.inputs import as_batch
from polytope.model import Network
from polytope.regions.archive import Saved, save_complex
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain, as_domain
from polytope.sets import Ball, BoxLike, HPolytope
from polytope.slices import Slice
from polytope.tables import check_writable

if TYPE_CHECKING:
    from polytope.regions.search import Outcome

#: How far outside the domain a start may lie by rounding, relative to its size.
OUTSIDE = 1e-9


def region_graph(
    net: Network,
    domain: Ball | HPolytope | Slice | BoxLike = None,
    max_regions: int | None = None,
    start: object = None,
    *,
    order: str | None = None,
    method: str = "auto",
    workers: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[int], None] | None = None,
    save: str | os.PathLike[str] | None = None,
    save_every: float = 30.0,
) -> RegionGraph:
    """Find the linear regions inside a domain, and which of them share a facet.

    Regions are activation regions of full dimension within the domain.  Every one is found
    (unless the search is stopped) and none is invented: a verdict stands on floats only outside
    a rigorous bound on their rounding, else it is taken in rational arithmetic.

    Parameters
    ----------
    net : Network
        Any piecewise-linear network.
    domain : Box, pair (low, high), Ball, HPolytope, Slice, or None
        None is the whole input space.  An l_2 ball is taken as a ball, an l_1 ball needs 2^k
        halfspaces (k at most 12).
    max_regions : int, optional
        Stop after so many regions.
    start : array (D,) or input_shape, optional
        A point of the domain from which to walk; by default one inside it.
    order : "breadth" or "nearest", optional
        Walk breadth-first from the start, or take the region nearest to it next (in l_2, over
        the domain's coordinates): with `max_regions` these are then the nearest regions.
    method : "auto", "splitting" or "crossing"
        Splitting cells that know their vertices is the fastest way to all regions in few
        dimensions (Berzins, arXiv 2306.07212); crossing facets works in any, from any start, and
        is what max_regions, start, order and l_2 balls need.
    workers : int, optional
        Threads; by default one for each core.
    time_limit : float, optional
        Seconds.
    progress : callable, optional
        Called now and then as ``progress(regions)``.
    save : path, optional
        Save to this file (.npz) every `save_every` seconds and at the end; `resume` goes on from
        it if the process is killed.

    Returns
    -------
    RegionGraph
        ``.complete`` says whether everything was found.  max_regions, the time limit and Ctrl-C
        end the search with what there is; ``graph.stopped`` says which, and `resume` goes on.

    Raises
    ------
    InputError
        For an unusable domain (empty, without interior, of another size), start or option.
    SmoothActivation
        If the network is not piecewise linear.
    FileProblem
        If `save` cannot be written to, which is tried before the search.  What cannot be saved
        later (the disk is full) is told in a `Notice`: the search goes on and returns its graph.
    """
    from polytope.regions.search import Limits, search  # compiled code: only when it is wanted

    net.require_piecewise_linear("region_graph")
    if not net.layers:
        raise InputError(
            "region_graph: the network has no piecewise-linear layer: it is one affine map, and "
            "all inputs are one region"
        )
    over = as_domain(net, domain)
    begin = None if start is None else _start(net, over, start)
    limits = Limits(max_regions, time_limit, workers, progress, _saver(net, over, save), save_every)
    outcome = search(net, over, limits, begin, method, order)
    return _graph(net, over, outcome, save)


def resume(
    graph: RegionGraph | str | os.PathLike[str],
    net: Network | None = None,
    max_regions: int | None = None,
    *,
    workers: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[int], None] | None = None,
    save: str | os.PathLike[str] | None = None,
    save_every: float = 30.0,
) -> RegionGraph:
    """Go on with a search that was stopped or killed; the result is that of one search.

    Parameters
    ----------
    graph : RegionGraph or path
        A partial graph, or the file that one was saved to (`net` is then needed).
    net : Network, optional
    max_regions : int, optional
        Regions in all, those found before included.
    save : path, optional
        By default the file that was given, if one was.

    Other parameters, the result and the errors are those of `region_graph`; a complete graph is
    returned as it is.
    """
    from polytope.regions.search import Limits, search

    if not isinstance(graph, RegionGraph):
        if net is None:
            raise InputError("resume: a file needs net=, the network whose regions it holds")
        save = graph if save is None else save
        graph = RegionGraph.load(graph, net)
    if graph.complete:
        return graph if save is None else _saved(graph, save)
    if not graph.state:
        raise InputError("resume: the graph does not hold the state of its search; start anew")
    over = graph.domain
    limits = Limits(
        max_regions, time_limit, workers, progress, _saver(graph.net, over, save), save_every
    )
    outcome = search(graph.net, over, limits, state=graph.state)
    return _graph(graph.net, over, outcome, save)


def _graph(
    net: Network, domain: Domain, outcome: Outcome, save: str | os.PathLike[str] | None
) -> RegionGraph:
    """The result, saved where that was asked for."""
    graph = RegionGraph(net, domain, outcome.found, outcome.state, outcome.stopped)
    return graph if save is None else _saved(graph, save)


def _saved(graph: RegionGraph, path: str | os.PathLike[str]) -> RegionGraph:
    """The graph itself, saved; a notice if that fails."""
    try:
        graph.save(path)
    except FileProblem as error:
        message = f"{error}; the graph was returned unsaved: graph.save() it elsewhere"
        warnings.warn(message, Notice, stacklevel=4)
    return graph


def _saver(
    net: Network, domain: Domain, path: str | os.PathLike[str] | None
) -> Callable[[Complex, Mapping[str, np.ndarray]], None] | None:
    """What saves a search as it goes.

    A save that fails later (a full disk) is told in a notice and does not end the search.

    Raises
    ------
    FileProblem
        At once, if nothing can be written there.
    """
    if path is None:
        return None
    check_writable(Path(path))

    def save(found: Complex, state: Mapping[str, np.ndarray]) -> None:
        try:
            save_complex(path, Saved(net.hash, domain, found, state))
        except FileProblem as error:
            warnings.warn(f"{error}; the search goes on unsaved", Notice, stacklevel=2)

    return save


def _start(net: Network, domain: Domain, start: object) -> np.ndarray:
    """Coordinates (k,) of the start.

    Raises
    ------
    InputError
        If it is no single point, or outside the domain.
    """
    points = as_batch(net, start, name="start")
    if len(points) != 1:
        raise InputError(f"start: got {len(points)} points, expected one")
    flat = points.flatten().cpu().numpy()
    u = domain.coordinates(flat)
    room = OUTSIDE * (1 + float(np.abs(flat).max(initial=0.0)))
    if not domain.contains(u, room).all():
        raise InputError(
            "start: the point lies outside the domain; give one inside it, or none at all"
        )
    return u
