"""The certificate of a property that holds: a box, what is unsafe, and a tree for each part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polytope.certificate import Certificate
from polytope.certificate_file import KIND, VERSION
from polytope.model import Network
from polytope.verification.property import Property
from polytope.verification.result import Proof


def safe_certificate(net: Network, read: Property, proofs: Sequence[Proof]) -> Certificate:
    """Write down that no part of a property has an unsafe input.

    Parameters
    ----------
    net : Network
    read : Property
        Its numbers are rounded outwards: what is claimed of the floats holds for it.
    proofs : sequence of Proof
        Of each part.
    """
    arrays: dict[str, np.ndarray] = {}
    for proof in proofs:
        k, unsafe = proof.part, read.parts[proof.part]
        arrays |= {
            f"from_{k}": unsafe.box.low, f"to_{k}": unsafe.box.high,
            f"A_{k}": unsafe.A, f"b_{k}": unsafe.b,
            f"tree_{k}": proof.tree, f"cuts_{k}": proof.cuts,
            f"multipliers_{k}": proof.multipliers,
        }  # fmt: skip
    header = {
        "kind": KIND, "version": VERSION, "claim": "safe", "engine": "boxes",
        "network": net.graph.hash, "source": read.source, "parts": len(proofs),
    }  # fmt: skip
    return Certificate(header, {key: np.ascontiguousarray(v) for key, v in arrays.items()})
