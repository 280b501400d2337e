"""What a verification gives: the verdict, and the witness or the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Proof:
    """The leaves of a search: together they cover one part's box, and none holds an unsafe point.

    Attributes
    ----------
    part : int
        Number of the part in `Property.parts`.
    middle : float64 (d,)
        What steps are taken from.
    low, high : float64 (n, d)
        Least and greatest steps of each leaf's sub-box.
    units, pieces : int16 (n, depth)
        Units whose piece is fixed in the leaf and the pieces; -1 from the first free place on.
    multipliers : float64 (n, m + rows of fixed units)
        At least 0.  Combined with them, CROWN's lower bounds of the rows ``A y - b`` over the
        sub-box, and then of what each fixed unit reads minus the end of its piece (upper end
        first), are positive over the whole sub-box.  All zero where intervals show that no input
        of the sub-box takes the fixed pieces.
    complete : bool
        Whether all leaves were kept; beyond the memory allowed they are not.
    """

    part: int
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    units: np.ndarray
    pieces: np.ndarray
    multipliers: np.ndarray
    complete: bool


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
    evidence : tuple of Proof
        For each part that a search refuted.
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
    evidence: tuple[Proof, ...]

    def __repr__(self) -> str:
        """The verdict, the time and the explanation."""
        return f"Verification({self.verdict!r}, {self.seconds:.2f} s: {self.explain})"
