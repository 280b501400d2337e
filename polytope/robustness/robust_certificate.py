"""Certificates of robustness: that nothing adversarial is nearer than a radius."""

from __future__ import annotations

import math
import time

import numpy as np

from polytope.certificate import Certificate
from polytope.certificate_file import KIND, VERSION
from polytope.checker import check
from polytope.errors import InputError
from polytope.robustness.flat import flat_network
from polytope.robustness.kept_nodes import KeptNodes, Root
from polytope.robustness.proof_search import ProofSearch, search_proof
from polytope.robustness.query import Query
from polytope.robustness.region_proof import region_proof
from polytope.robustness.traversal_evidence import Traversal

#: Part of a lower bound that its certificate leaves out: far below any use, far above rounding.
MARGIN = 1e-12


def make_certificate(
    query: Query, lower: float, witness: np.ndarray, upper: float, time_limit: float,
    evidence: object = None,
) -> Certificate:  # fmt: skip
    """Prove that nothing adversarial is nearer than a lower bound, and write the proof down.

    Parameters
    ----------
    query : Query
    lower : float
        inf: nothing in the (bounded) box is adversarial.
    witness : float64 (d,)
        NaN without one.
    upper : float
        Its distance.
    time_limit : float
        Seconds.
    evidence : object, optional
        What the engine left behind. A `Traversal` is made into a proof; where that cannot be done,
        and without one, branch and bound finds another proof.

    Raises
    ------
    InputError
        If there is nothing to prove, or no proof was found in time.
    """
    found_witness = bool(np.isfinite(witness).all())
    if not lower > 0 and not found_witness:
        raise InputError("certificate: nothing is proved of this point: no bound and no witness")
    deadline = time.perf_counter() + time_limit
    radius = _radius(query, lower)
    d = len(query.x)
    low = np.full(d, -np.inf) if query.box is None else query.box.low
    high = np.full(d, np.inf) if query.box is None else query.box.high
    arrays = {"x": query.x, "low": low, "high": high}
    header: dict[str, object] = {
        "kind": KIND, "version": VERSION, "claim": "robust", "engine": "branch_and_bound",
        "network": query.net.graph.hash,
        "norm": "inf" if query.p == math.inf else f"{query.p:g}",
        "radius": float(radius).hex(), "label": query.label, "target": query.target,
        "upper": None,
    }  # fmt: skip
    if found_witness:
        header["upper"] = float(upper).hex()
        arrays["witness"] = witness
    if radius == 0:
        return _certificate(header, arrays)
    if isinstance(evidence, Traversal):
        made, reason = _by_regions(query, evidence, radius, header, arrays, deadline)
        if made is not None:
            return made
        header["note"] = f"not by the regions that the traversal explored: {reason}"
    return _by_branching(query, radius, header, arrays, deadline)


def _certificate(header: dict[str, object], arrays: dict[str, np.ndarray]) -> Certificate:
    return Certificate(header, {k: np.ascontiguousarray(v) for k, v in arrays.items()})


def _by_regions(
    query: Query, evidence: Traversal, radius: float, header: dict[str, object],
    arrays: dict[str, np.ndarray], deadline: float,
) -> tuple[Certificate | None, str]:  # fmt: skip
    """The proof that the regions of a traversal are, or None and why there is none."""
    found = region_proof(query, evidence, radius, deadline)
    if found.reason:
        return None, found.reason
    made = _certificate({**header, "engine": "traversal"}, {**arrays, **found.arrays})
    if found.doubtful:
        verdict = check(made, query.net)
        if not verdict.valid:
            return None, verdict.reason
    return made, ""


def _by_branching(
    query: Query, radius: float, header: dict[str, object], arrays: dict[str, np.ndarray],
    deadline: float,
) -> Certificate:  # fmt: skip
    """A proof by branch and bound."""
    note = f" ({header['note']})" if "note" in header else ""
    nodes = KeptNodes(flat_network(query.net), query)
    found = search_proof(query, nodes, radius, deadline)
    if not found.complete:
        raise InputError(f"certificate: no proof for radius {radius!r}: {found.reason}{note}")
    roots, trees = _root_arrays(nodes, found.root), _tree_arrays(found)
    made = _certificate(header, {**arrays, **roots, **trees})
    if found.doubtful:
        verdict = check(made, query.net)
        if not verdict.valid:
            raise InputError(f"certificate: no proof for radius {radius!r}: {verdict.reason}{note}")
    return made


def _radius(query: Query, lower: float) -> float:
    """What is proved: a little less than the bound, so that rounding leaves room; or the box."""
    if math.isfinite(lower):
        return lower * (1 - MARGIN)
    low, high = query.steps()
    far = np.maximum(np.abs(low), np.abs(high))
    if not np.isfinite(far).all():
        raise InputError("certificate: that nothing is adversarial can be proved in a box only")
    # Of a box that is one point any radius holds all.
    return float(np.linalg.norm(far, ord=query.p)) * (1 + MARGIN) or 1.0


def _root_arrays(nodes: KeptNodes, root: Root) -> dict[str, np.ndarray]:
    """The slopes of the root's lines, layer by layer."""
    flat, arrays = nodes.network.flat, {}
    for number, (_, _, unit, count, _, offset) in enumerate(flat.layers[:-1].tolist()):
        own = slice(unit, unit + count)
        candidates = int(flat.winners[number])
        if candidates:
            table = slice(offset, offset + count * candidates)
            places = flat.table[table].reshape(count, candidates) == root.below[own, None]
            arrays[f"low_{number}"] = places.argmax(axis=1)
            arrays[f"high_{number}"] = root.weights[table].reshape(count, candidates)
        else:
            arrays[f"low_{number}"] = root.lines[own, 0]
            arrays[f"high_{number}"] = root.lines[own, 2]
    return arrays


def _tree_arrays(found: ProofSearch) -> dict[str, np.ndarray]:
    arrays = {}
    for tree in found.trees:
        arrays[f"tree_{tree.target}"] = tree.tree
        arrays[f"multipliers_{tree.target}"] = tree.multipliers
    return arrays
