"""What a verification gives: the verdict, and the witness or the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polytope.certificate import Certificate
from polytope.errors import InputError


@dataclass(frozen=True, eq=False)
class Proof:
    """A tree that refutes one part: it splits the part's box until no box holds an unsafe point.

    Attributes
    ----------
    part : int
        Number of the part in `Property.parts`.
    tree : int64 (n, 2)
        Depth first: a unit and the pieces that it was split into, as bits; or -2 less the
        coordinate that was cut, and 0; or -1 and how many multipliers refute a box.
    cuts : float64 (...)
        The places of the cuts.
    multipliers : float64 (...)
        Leaf by leaf, at least 0: of the rows ``A y - b``, then of what each fixed unit reads minus
        the end of its piece (upper end first), unit by unit.  Combined with them CROWN's lower
        bounds of all these are positive over the whole box.  None where intervals show that no
        input of the box takes the fixed pieces.
    """

    part: int
    tree: np.ndarray
    cuts: np.ndarray
    multipliers: np.ndarray


@dataclass(frozen=True)
class VerifyStats:
    """How a verification went.

    Attributes
    ----------
    engine : str
        What answered: "attack", "boxes" (a search over sub-boxes and units), "bounds" (of the
        whole box, where the network is too large for a search) or "none".
    boxes, leaves, waiting : int
        Boxes bounded, refuted, and left open.
    refuted, parts : int
        Parts of the property refuted, of how many.
    checks : int
        Points checked in exact arithmetic.
    attack_seconds, search_seconds : float
    stopped : str
        "", "time_limit", "interrupt", "size" (of the network) or "rounding" (boxes too small to
        be split).
    """

    engine: str
    boxes: int
    leaves: int
    waiting: int
    refuted: int
    parts: int
    checks: int
    attack_seconds: float
    search_seconds: float
    stopped: str


@dataclass(frozen=True, eq=False)
class Verification:
    """The answer to `polytope.verify`.

    Attributes
    ----------
    verdict : str
        "unsat": no input is unsafe, proved in float64 with every rounding accounted for.
        "sat": `witness` is unsafe, in exact arithmetic on the compiled graph.
        "timeout": neither within the time limit.  "unknown": stopped for another reason.
    witness : float64 (d,) or None
        Inside the box; in the source model's dtype wherever that is unsafe too.
    outputs : float64 (outputs,) or None
        Of the compiled graph at the witness, exact ones rounded.
    native_point, native_outputs : float64 or None
        The witness in the source model's dtype, and what the source model (onnxruntime for an
        ONNX file) says there.
    replayed : bool or None
        Whether that lies in the box and is unsafe too; None without a source model.
    seconds : float
    explain : str
        What was done and why it ended, in a sentence.
    stats : VerifyStats
    proof : Certificate or None
        Of "unsat": a proof that `polytope.check` reads.  None where the network is too large to be
        searched and its bounds alone decided, or where the property speaks of no input.
    exactness : str
        "rational": decided in exact arithmetic (a witness, or a certificate that the checker
        accepted).  "safe-float": proved in floats with bounds on their rounding.  "" if open.
    """

    verdict: str
    witness: np.ndarray | None
    outputs: np.ndarray | None
    native_point: np.ndarray | None
    native_outputs: np.ndarray | None
    replayed: bool | None
    seconds: float
    explain: str
    stats: VerifyStats
    proof: Certificate | None
    exactness: str

    def certificate(self) -> Certificate:
        """The proof of "unsat", to be saved, for `polytope.check`.

        Raises
        ------
        InputError
            If there is none: see `proof`.
        """
        if self.proof is None:
            why = "the verdict is not unsat" if self.verdict != "unsat" else self.explain
            raise InputError(f"certificate: there is no proof to be written down ({why})")
        return self.proof

    def __repr__(self) -> str:
        """The verdict, the time and the explanation."""
        return f"Verification({self.verdict!r}, {self.seconds:.2f} s: {self.explain})"
