"""The checker of certificates: no solver, no code of the engines, nothing taken for granted.

**The claims.**  "robust": within distance r of x (in l_1, l_2 or l_inf) and inside the box, no
point is adversarial: for every class t that counts, f_label > f_t.  And, with a witness w, at
distance r' from x and inside the box f_t(w) >= f_label(w) for some t that counts.  (A radius of 0
claims nothing.)  "safe": no
point of the box of any part of a property has outputs with ``A y <= b``.

**The proofs.**  Trees of pieces of units and of cuts of boxes, with multipliers at their leaves:
see `polytope.proofs.trees`.  Or the linear regions around the point, with their neighbours or
multipliers behind each of their facets: see `polytope.region_checker`; always in exact arithmetic.

**What is trusted.**  Python's integers (python-flint's where it is installed: the same products
faster), how Python turns floats into fractions and fractions into the nearest floats, numpy's
indexing, the readers of zip, json and npy files and of the compiled graph, this file and
`polytope.proofs`.  Floats of the certificate are read as the exact numbers that they are.  The mode
"rational" computes with exact numbers, and rounds outwards only what it keeps.  The mode "interval"
computes with floats, each with a bound on its rounding, and trusts IEEE arithmetic and numpy's sums
besides.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polytope.certificate_file import Certificate, Checked, Fields, Rejected, plain, read
from polytope.errors import FileProblem, InputError
from polytope.network.exact_layers import Exact, Layer, Map, Windows, evaluate, layers_of
from polytope.network.ir import Graph
from polytope.proofs.enclosed import Enclosed
from polytope.proofs.sets import Set
from polytope.proofs.trees import Trees
from polytope.region_checker import check_regions
from polytope.verification.property import Property, Unsafe
from polytope.vnnlib import read_property

MODES = ("rational", "interval")
#: Coefficients of what is unsafe that are too many to be read.
ENTRIES = 2**20
NORMS = {"1": 1.0, "2": 2.0, "inf": math.inf}


def check(
    certificate: str | os.PathLike[str] | Certificate,
    model: object,
    mode: str = "rational",
    property: Property | str | os.PathLike[str] | None = None,
) -> Checked:
    """Check a certificate against a model.

    Parameters
    ----------
    certificate : path or Certificate
    model : path, Network or Graph
        An .onnx file, or an .npz file that `Network.save` wrote; or what was read already.
    mode : str
        "rational": in exact arithmetic.  "interval": in floats with bounds on their rounding, many
        times faster; for large proofs.  Proofs by regions are checked in exact arithmetic always.
    property : path or Property, optional
        A .vnnlib file: check also that the claim implies that nothing that it calls unsafe is
        reached.

    Returns
    -------
    Checked
        A certificate that does not hold is no exception: `valid` is False and `reason` says why.

    Raises
    ------
    FileProblem
        If a file is missing, or the model cannot be read.
    InputError
        If there is no such mode, or the property cannot be read.
    """
    begun = time.perf_counter()
    if mode not in MODES:
        raise InputError(f"mode: got {mode!r}, expected one of {', '.join(MODES)}")
    _require_denormals()
    graph = _graph(model)
    asked = property if isinstance(property, Property | None) else read_property(property)
    found, header, reason = _Found(mode=mode), {}, ""
    try:
        fields = read(_file(certificate))
        header = fields.header
        with np.errstate(all="ignore"):  # what overflows proves nothing
            found = _check(fields, graph, mode, asked)
    except Rejected as error:
        reason = str(error)
    except FileProblem:
        raise
    except Exception as error:  # whatever a hostile file makes fail
        reason = f"it could not be read as a proof ({plain(str(error))})"
    return Checked(
        not reason, found.claim, found.lower, found.upper, reason, found.leaves,
        time.perf_counter() - begun, found.mode, header, found.x, found.low, found.high,
    )  # fmt: skip


class _Found(NamedTuple):
    """What was proved."""

    claim: str = ""
    lower: float = 0.0
    upper: float = math.inf
    leaves: int = 0
    mode: str = ""
    x: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def _require_denormals() -> None:
    """Refuse a process in which the smallest floats are taken for zero, where nothing is exact."""
    tiny = math.ldexp(1.0, -1074)
    if tiny.as_integer_ratio()[0] != 1 or (np.array([tiny]) * 2.0**60)[0] == 0:
        raise InputError(
            "check: this process flushes denormal floats to zero (torch.set_flush_denormal, or a "
            "library built with -ffast-math); check certificates in another one"
        )


def _check(fields: Fields, graph: Graph, mode: str, asked: Property | None) -> _Found:
    """Check a certificate that was read."""
    claim = fields.header.get("claim")
    if fields.header.get("network") != graph.hash:
        raise Rejected("the certificate is of another network")
    if asked is not None:
        _covers(fields, graph, asked)
    layers, outputs = layers_of(graph)
    trees: Trees[Exact] | Trees[Enclosed] = (
        Trees(layers, outputs, Exact) if mode == "rational" else Trees(layers, outputs, Enclosed)
    )
    if claim == "robust":
        by_regions = fields.header.get("engine") == "traversal"
        found = _robust(fields, graph, layers, outputs, trees)
        return found._replace(mode="rational" if by_regions else mode)
    if claim == "safe":
        return _Found("safe", leaves=_safe(fields, graph, trees), mode=mode)
    raise Rejected(f"the certificate claims something unknown ({plain(claim)})")


def _robust(
    fields: Fields,
    graph: Graph,
    layers: list[Layer],
    outputs: Map,
    trees: Trees[Exact] | Trees[Enclosed],
) -> _Found:
    """Check the claim about a point."""
    header = fields.header
    p = NORMS.get(str(header.get("norm")))
    radius, label, target = (header.get(key) for key in ("radius", "label", "target"))
    if p is None or not isinstance(radius, str) or type(label) is not int:
        raise Rejected("the claim lacks a norm, a radius or a label")
    if target is not None and type(target) is not int:
        raise Rejected("the target is no class")
    size = abs(float.fromhex(radius))
    if not size < math.inf:
        raise Rejected("the radius is no number")
    if size == 0 and header.get("upper") is None:
        raise Rejected("it claims nothing: the radius is 0, and there is no witness")
    d = math.prod(graph.input_shape)
    x, low, high = (fields.array(key, np.float64, (d,)) for key in ("x", "low", "high"))
    around = Set.around(x, p, size, low, high)
    classes = max(2, len(outputs.constant.integers))
    if not 0 <= label < classes or target == label:
        raise Rejected("the label is no class, or is the target")
    targets = [t for t in range(classes) if t != label and target in (None, t)]
    if not targets:
        raise Rejected("the target is no class")
    upper = math.inf
    if header.get("upper") is not None:
        upper = _witness(layers, outputs, fields, p, label, targets)
    leaves = 0
    if size > 0 and header.get("engine") == "traversal":
        leads = {t: _lead(outputs, label, t) for t in targets}
        leaves = check_regions(layers, outputs, fields, p, size, leads)
    elif size > 0:
        slopes = [_slopes(fields, number, layer) for number, layer in enumerate(layers)]
        root = trees.root(around, slopes)
        none, zero = np.zeros(0), Exact.of(np.zeros(1))
        for t in targets:
            lead = Exact(_lead(outputs, label, t)[None])
            tree, multipliers = _tree(fields, str(t))
            leaves += trees.refute(root, lead, zero, tree, none, multipliers)
    lower = math.inf if around.whole and math.isinf(upper) else size
    return _Found("robust", lower, upper, leaves, "", x, low, high)


def _safe(fields: Fields, graph: Graph, trees: Trees[Exact] | Trees[Enclosed]) -> int:
    """Check each part of a property; the leaves."""
    parts, leaves = fields.header.get("parts"), 0
    if type(parts) is not int or parts < 1:
        raise Rejected("the claim has no parts")
    for k in range(parts):
        low, high, A, b = _part(fields, k, graph)
        if (low > high).any():
            raise Rejected(f"the box of part {k} is empty")
        middle = np.clip(low / 2 + high / 2, low, high)
        far = 2 * float(np.max(high - low, initial=0.0)) + 1e-300
        around = Set.around(middle, math.inf, far, low, high)
        tree, multipliers = _tree(fields, str(k))
        cuts = fields.array(f"cuts_{k}", np.float64, None)
        root = trees.root(around, None)
        leaves += trees.refute(root, Exact.of(A), Exact.of(b), tree, cuts.reshape(-1), multipliers)
    return leaves


def _part(
    fields: Fields, k: int, graph: Graph
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The box (d,), (d,) of a part, and what is unsafe: A (m, outputs) and b (m,)."""
    d, outputs = math.prod(graph.input_shape), graph.nodes[-1].size
    low, high = (fields.array(f"{key}_{k}", np.float64, (d,)) for key in ("from", "to"))
    A = fields.array(f"A_{k}", np.float64, None)
    if A.ndim != 2 or A.shape[1] != outputs or A.size > ENTRIES:
        raise Rejected(f"part {k} has other outputs than the network, or too many rows")
    return low, high, A, fields.array(f"b_{k}", np.float64, (len(A),))


def _covers(fields: Fields, graph: Graph, asked: Property) -> None:
    """Check that all parts of a property are among those that are claimed to be safe."""
    count = fields.header.get("parts")
    if fields.header.get("claim") != "safe" or type(count) is not int:
        raise Rejected("the certificate is not of a property")
    claimed: list[Unsafe] = []
    for k in range(count):
        low, high, A, b = _part(fields, k, graph)
        numbers = [tuple(Fraction(v) for v in side.tolist()) for side in (low, high, b)]
        claimed.append(Unsafe(numbers[0], numbers[1], A, numbers[2]))
    for number, part in enumerate(asked.parts):
        likely = claimed[number : number + 1]
        if not any(_within(part, own) for own in itertools.chain(likely, claimed)):
            raise Rejected(f"part {number} of the property is none that the certificate is about")


def _within(part: Unsafe, claimed: Unsafe) -> bool:
    """Whether all that a part calls unsafe is unsafe by what is claimed to be safe."""
    if len(part.low) != len(claimed.low) or part.A.shape[1:] != claimed.A.shape[1:]:
        return False
    limits = dict(zip(map(tuple, part.A.tolist()), part.limits, strict=True))
    rows = zip(map(tuple, claimed.A.tolist()), claimed.limits, strict=True)
    return (
        all(a <= b for a, b in zip(claimed.low, part.low, strict=True))
        and all(a >= b for a, b in zip(claimed.high, part.high, strict=True))
        and all(row in limits and limits[row] <= limit for row, limit in rows)
    )


def _slopes(fields: Fields, number: int, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """The slopes of a layer's lines: of maxima, places of candidates and weights."""
    windows = isinstance(layer.units, Windows)
    shape = layer.units.index.shape if isinstance(layer.units, Windows) else (layer.count,)
    low = fields.array(f"low_{number}", np.int64 if windows else np.float64, (layer.count,))
    high = fields.array(f"high_{number}", np.float64, shape)
    if isinstance(layer.units, Windows):
        if (low < 0).any() or (low >= shape[1]).any():
            raise Rejected("the lower line of a maximum is none of its candidates")
        if (layer.units.index[np.arange(layer.count), low] < 0).any():
            raise Rejected("the lower line of a maximum is none of its candidates")
    return low, high


def _tree(fields: Fields, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A tree (n, 2) and its multipliers (m,)."""
    tree = fields.array(f"tree_{name}", np.int64, None)
    multipliers = fields.array(f"multipliers_{name}", np.float64, None)
    if tree.ndim != 2 or tree.shape[1] != 2 or multipliers.ndim != 1:
        raise Rejected("a tree or its multipliers are no lists")
    return tree, multipliers


def _file(certificate: str | os.PathLike[str] | Certificate) -> str | os.PathLike[str] | io.BytesIO:
    """The file, or the content of one that was not written."""
    if isinstance(certificate, str | os.PathLike):
        return certificate
    return io.BytesIO(certificate.to_bytes())


def _graph(model: object) -> Graph:
    """The compiled graph of a model."""
    if isinstance(model, Graph):
        return model
    graph = getattr(model, "graph", None)
    if isinstance(graph, Graph):
        return graph
    path = Path(str(model))
    if path.suffix == ".onnx":
        from polytope.network.from_onnx import read_onnx

        return read_onnx(path).graph
    from polytope.network.store import load_graph

    return load_graph(path)


def _lead(outputs: Map, label: int, target: int) -> np.ndarray:
    """Coefficients of the label's lead; one output decides between 0 below zero and 1 above."""
    lead = np.zeros(len(outputs.constant.integers), dtype=object)
    if len(lead) == 1:
        lead[0] = 1 if target == 0 else -1
    else:
        if not 0 <= target < len(lead):
            raise Rejected("a target is no class")
        lead[label], lead[target] = 1, -1
    return lead


def _witness(
    layers: list[Layer], outputs: Map, fields: Fields, p: float, label: int, targets: Sequence[int]
) -> float:
    """Check the witness by an exact forward pass; its claimed distance."""
    upper = fields.header["upper"]
    claimed = float.fromhex(upper) if isinstance(upper, str) else math.nan
    if not 0 <= claimed < math.inf:
        raise Rejected("the witness's distance is no number of at least 0")
    x, low, high = (fields.array(key, np.float64, None) for key in ("x", "low", "high"))
    point = fields.array("witness", np.float64, x.shape)
    if (point < low).any() or (point > high).any():
        raise Rejected("the witness is outside of the box")
    step = [abs(Fraction(a) - Fraction(b)) for a, b in zip(point.tolist(), x.tolist(), strict=True)]
    size = max(step) if p == math.inf else sum(v ** int(p) for v in step)
    if size > Fraction(claimed) ** (2 if p == 2 else 1):
        raise Rejected("the witness is farther than claimed")
    logits = evaluate(layers, outputs, point).integers[:, 0]
    if min((_lead(outputs, label, t) * logits).sum() for t in targets) > 0:
        raise Rejected("the witness is not adversarial")
    return claimed
