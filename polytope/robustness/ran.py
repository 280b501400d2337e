"""What an engine did for one query, and the names of the engines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polytope.robustness.perturbation import Evidence

METHODS = ("auto", "branch_and_bound", "traversal", "mip")


@dataclass(frozen=True)
class Ran:
    """What an engine did.

    Attributes
    ----------
    method : str
    explain : str
    evidence : Evidence or None
    exactness : str
    claimed : float
    crown : float
    regions, nodes, programs : int
    """

    method: str
    explain: str
    evidence: Evidence | None = None
    exactness: str = "safe-float"
    claimed: float = math.nan
    crown: float = math.nan
    regions: int = 0
    nodes: int = 0
    programs: int = 0
