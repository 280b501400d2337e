"""Save and load graphs: one npz file without pickle, checked field by field when read.

The file holds the constants as arrays ``c0, c1, ...`` (equal ones once) and a JSON header:
the format's name and version, the nodes, and the canonical hash, which must come out the same
when the file is read.  A file from elsewhere can be wrong, but it cannot run code, unpack to
more than its own size, or make an index reach outside its array.
"""

from __future__ import annotations

import contextlib
import json
import os
import types
import typing
import uuid
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from polytope.errors import FileProblem
from polytope.network.ir import (
    CONSTANT_FIELDS,
    OPS,
    Graph,
    Node,
    Op,
    constant_digest,
    op_from_record,
    op_record,
)
from polytope.network.validate import validate

FORMAT = "polytope graph"
VERSION = 1
HEADER = "header"
#: What zipfile and numpy raise for files that are damaged or not theirs.
BROKEN = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph to a file, in one step: a crash leaves the old file or the new one.

    Parameters
    ----------
    graph : Graph
        The graph.
    path : path
        The file, by custom ``.npz``; the name is used as it is.

    Raises
    ------
    FileProblem
        The file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        try:
            with temporary.open("xb") as stream:
                np.savez(stream, **_as_arrays(graph))
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise FileProblem(
            f"the network cannot be saved as '{target}': {error.strerror or error}"
        ) from error


def load_graph(path: str | os.PathLike[str]) -> Graph:
    """Read a graph that `save_graph` wrote.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Graph
        With the same hash as the graph that was saved; its constants have new names.

    Raises
    ------
    FileProblem
        The file is missing, unreadable, damaged, of another kind, or of a newer version.
    """
    target = Path(path)
    try:
        arrays = read_arrays(target)
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{target}': check the path") from error
    except BROKEN as error:
        raise FileProblem(
            f"'{target}' is not a saved polytope network, or is damaged: save it again"
        ) from error
    except OSError as error:
        raise FileProblem(f"'{target}' cannot be read: {error.strerror or error}") from error
    try:
        return _as_graph(arrays)
    except FileProblem as error:
        raise FileProblem(f"'{target}' is not a usable polytope network: {error}") from error


def _as_arrays(graph: Graph) -> dict[str, Any]:
    """The arrays of the file."""
    arrays: dict[str, np.ndarray] = {}
    keys: dict[str | None, str | None] = {None: None}
    by_content: dict[str, str] = {}
    for key, array in graph.constants.items():
        keys[key] = by_content.setdefault(constant_digest(array), f"c{len(by_content)}")
        arrays.setdefault(str(keys[key]), array)
    nodes = []
    for node in graph.nodes:
        record = op_record(node.op)
        for name in CONSTANT_FIELDS.get(type(node.op).__name__, ()):
            record[name] = keys[getattr(node.op, name)]
        nodes.append([record, node.inputs, node.shape, node.name])
    header = {"format": FORMAT, "version": VERSION, "hash": graph.hash, "nodes": nodes}
    text = json.dumps(header, allow_nan=False).encode()
    return {HEADER: np.frombuffer(text, np.uint8), **arrays}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file of our making: not packed, no larger together than the file.

    Raises what `BROKEN` lists for any other file, and OSError.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("packed arrays are not of our making")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _as_graph(arrays: dict[str, np.ndarray]) -> Graph:
    """The checked graph that arrays of a file stand for."""
    header = read_header(arrays, FORMAT, VERSION)
    constants = {name: array for name, array in arrays.items() if name != HEADER}
    for name, array in constants.items():
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float64, np.int64):
            raise FileProblem(f"its constant '{name}' is not of float64 or int64")
        array.setflags(write=False)
    records = header.get("nodes")
    if not isinstance(records, list):
        raise FileProblem("its header has no list of nodes")
    nodes = tuple(_node(number, record) for number, record in enumerate(records))
    used = {key for node in nodes for key in node.constants}
    graph = Graph(nodes, {key: array for key, array in constants.items() if key in used})
    validate(graph)
    if graph.hash != header.get("hash"):
        raise FileProblem(
            "its content does not give the hash that it was saved with: it was changed or is "
            "damaged; save it again"
        )
    return graph


def read_header(arrays: dict[str, np.ndarray], kind: str, newest: int) -> dict[str, Any]:
    """The JSON header of a file, of the format `kind` and a version up to `newest`.

    Raises
    ------
    FileProblem
        If it is missing, damaged, of another format or of a newer version.
    """
    array = arrays.get(HEADER)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise FileProblem("it has no header: it was saved by something else")
    try:
        header = json.loads(array.tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise FileProblem("its header is damaged: save it again") from error
    if not isinstance(header, dict) or header.get("format") != kind:
        raise FileProblem("its header is of another format")
    version = header.get("version")
    if type(version) is not int or version < 1:
        raise FileProblem(f"its format has the version {version!r}")
    if version > newest:
        raise FileProblem(
            f"its format has version {version}, and this polytope reads up to {newest}: "
            "pip install --upgrade polytope-nn"
        )
    return header


def _node(number: int, record: object) -> Node:
    """One node, the types of all its fields checked."""
    if not isinstance(record, list) or len(record) != 4:
        raise FileProblem(f"node {number} is no record of four fields")
    op, inputs, shape, name = record
    whole = tuple[int, ...]
    if not (_is_of(inputs, whole) and _is_of(shape, whole) and isinstance(name, str)):
        raise FileProblem(f"node {number} has inputs, a shape or a name of a wrong type")
    return Node(_op(number, name, op), tuple(inputs), tuple(shape), name)


def _op(number: int, name: str, record: object) -> Op:
    kind = OPS.get(str(record.get("op"))) if isinstance(record, dict) else None
    if kind is None or not isinstance(record, dict):
        raise FileProblem(f"node {number} ('{name}') is of an unknown operation")
    hints = typing.get_type_hints(kind)
    expected = {field.name for field in fields(kind)}
    if set(record) != expected | {"op"} or not all(_is_of(record[f], hints[f]) for f in expected):
        raise FileProblem(f"node {number} ('{name}', {kind.__name__}) has fields of a wrong type")
    return op_from_record(record)


def _is_of(value: object, hint: Any) -> bool:
    """Whether a JSON value is of the type of a field: tuples are lists, True is no number."""
    if isinstance(hint, types.UnionType):
        return any(_is_of(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, list) and all(_is_of(entry, item) for entry in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
