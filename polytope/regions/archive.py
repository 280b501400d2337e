"""Save and load complexes: one npz file without pickle, checked when it is read; and GraphML.

The arrays of the file, which any program that reads npz can use:

``pieces`` (n, units), ``points`` (n, k), ``edges`` (m, 2), ``edge_points`` (m, k), ``edge_rows``
(m,) as in `Complex`; ``domain_A`` (r, k), ``domain_b`` (r,), and where they apply
``domain_origin`` (D,), ``domain_basis`` (k, D), ``ball_center`` (k,), ``ball_radius`` () as in
`Domain`; ``state_...``, what an engine needs to go on from a partial result; ``header``, a JSON
text in bytes with the format, its version, the hash of the network, ``size`` (D), ``complete``
and ``exact_verdicts``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polytope.errors import FileProblem
from polytope.network.engine import Engine
from polytope.network.store import BROKEN, HEADER, read_arrays, read_header
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.tables import write_file

if TYPE_CHECKING:
    import networkx as nx

FORMAT = "polytope regions"
VERSION = 1
STATE = "state_"


@dataclass(frozen=True, eq=False)
class Saved:
    """What a file holds.

    Attributes
    ----------
    network : str
        Hash of the network.
    domain : Domain
    found : Complex
    state : mapping of str to array
        What the engine needs to go on; empty for a complete result.
    """

    network: str
    domain: Domain
    found: Complex
    state: Mapping[str, np.ndarray] = field(default_factory=dict)


def save_complex(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a complex, in one step: a crash leaves the old file or the new one.

    Raises
    ------
    FileProblem
        If the file cannot be written (no folder, no right, a full disk).
    """
    domain, found = saved.domain, saved.found
    header = {
        "format": FORMAT, "version": VERSION, "network": saved.network, "size": domain.size,
        "complete": bool(found.complete), "exact_verdicts": int(found.exact_verdicts),
    }  # fmt: skip
    arrays = {
        "pieces": found.pieces, "points": found.points, "edges": found.edges,
        "edge_points": found.edge_points, "edge_rows": found.edge_rows,
        "domain_A": domain.A, "domain_b": domain.b,
    }  # fmt: skip
    if domain.origin is not None and domain.basis is not None:
        arrays |= {"domain_origin": domain.origin, "domain_basis": domain.basis}
    if domain.ball is not None:
        arrays |= {"ball_center": domain.ball[0], "ball_radius": np.array(domain.ball[1])}
    arrays |= {STATE + name: array for name, array in saved.state.items()}
    arrays[HEADER] = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)

    def write(file: Path) -> None:
        with file.open("xb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    write_file(Path(path), write)


def load_complex(path: str | os.PathLike[str], net: Engine) -> Saved:
    """Read what `save_complex` wrote, for the network that it was found on.

    Raises
    ------
    FileProblem
        If the file is missing, unreadable, damaged, of another kind, of a newer version, or
        of another network.
    """
    target = Path(path)
    try:
        arrays = read_arrays(target)
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{target}': check the path") from error
    except BROKEN as error:
        raise FileProblem(
            f"'{target}' is not a saved region graph, or is damaged: enumerate the regions again"
        ) from error
    except OSError as error:
        raise FileProblem(f"'{target}' cannot be read: {error.strerror or error}") from error
    try:
        header = read_header(arrays, FORMAT, VERSION)
        if header.get("network") != net.graph.hash:
            raise FileProblem(
                f"it holds the regions of another network (hash "
                f"{str(header.get('network'))[:12]}, this one has {net.graph.hash[:12]}); load "
                "the network that they were found on"
            )
        return _as_saved(net, header, arrays)
    except FileProblem as error:
        raise FileProblem(f"'{target}' is not a usable region graph: {error}") from error


def write_graphml(graph: nx.Graph, path: str | os.PathLike[str]) -> None:
    """Write the graph of a `RegionGraph` as GraphML; lists become JSON texts.

    Raises
    ------
    FileProblem
        If the file cannot be written.
    """
    import networkx as nx

    plain = nx.Graph(**graph.graph)
    plain.add_nodes_from((node, _as_text(values)) for node, values in graph.nodes(data=True))
    plain.add_edges_from((i, j, _as_text(values)) for i, j, values in graph.edges(data=True))
    write_file(Path(path), lambda file: nx.write_graphml(plain, file))


def _as_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that GraphML can hold."""
    return {
        name: json.dumps(value) if isinstance(value, list | tuple) else value
        for name, value in values.items()
    }


def _as_saved(net: Engine, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Saved:
    """The checked content of a file.

    Raises
    ------
    FileProblem
        Naming the array that is missing or does not fit.
    """
    complete, verdicts = header.get("complete"), header.get("exact_verdicts")
    if type(complete) is not bool or type(verdicts) is not int or verdicts < 0:
        raise FileProblem("its header does not say whether the graph is complete")
    if header.get("size") != net.input_size:
        raise FileProblem("its domain is over another number of inputs")
    A = _array(arrays, "domain_A", (None, None))
    rows, k = A.shape
    origin = basis = ball = None
    if "domain_basis" in arrays:
        origin = _array(arrays, "domain_origin", (net.input_size,))
        basis = _array(arrays, "domain_basis", (k, net.input_size))
    elif k != net.input_size:
        raise FileProblem("its domain has no frame, but fewer coordinates than inputs")
    if "ball_center" in arrays:
        center = _array(arrays, "ball_center", (k,))
        ball = (center, float(_array(arrays, "ball_radius", ())))
    domain = Domain(
        net.input_size, origin, basis, A, _array(arrays, "domain_b", (rows,)), ball
    )  # fmt: skip
    pieces = _array(arrays, "pieces", (None, net.units), "u")
    limits = np.repeat([p for _, p in net.layout], [n for n, _ in net.layout])
    if (pieces >= limits).any():
        raise FileProblem("its array 'pieces' holds a piece that its unit does not have")
    n = len(pieces)
    edges = _array(arrays, "edges", (None, 2), "i")
    if len(edges) and not (edges.min() >= 0 and edges.max() < n):
        raise FileProblem("its array 'edges' points at regions that are not in it")
    if (edges[:, 0] >= edges[:, 1]).any():
        raise FileProblem("its array 'edges' is not of pairs i < j")
    found = Complex(
        pieces=pieces,
        points=_array(arrays, "points", (n, k)),
        edges=edges,
        edge_points=_array(arrays, "edge_points", (len(edges), k)),
        edge_rows=_array(arrays, "edge_rows", (len(edges),), "i"),
        complete=complete,
        exact_verdicts=verdicts,
    )
    state = {
        name.removeprefix(STATE): array for name, array in arrays.items() if name.startswith(STATE)
    }
    return Saved(net.graph.hash, domain, found, state)


def _array(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...], kind: str = "f"
) -> np.ndarray:
    """One array of a file, of the expected shape (None: any length) and kind of numbers.

    Raises
    ------
    FileProblem
        If it is missing, of another shape or kind, or not finite.
    """
    array = arrays.get(name)
    if array is None:
        raise FileProblem(f"its array '{name}' is missing")
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind != kind:
        raise FileProblem(f"its array '{name}' is {array.dtype} of shape {array.shape}")
    if kind == "f" and not np.isfinite(array).all():
        raise FileProblem(f"its array '{name}' holds NaN or infinity")
    return array
