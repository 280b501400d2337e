"""Linear, convex quadratic and mixed-integer programs, by any backend, every answer checked.

Knows arrays, never networks; importing it loads no backend.

>>> from solvers import LinearProgram, solve
>>> solve(LinearProgram([1.0, 2.0], [[1.0, 1.0]], row_lower=1.0, lower=0.0)).value
1.0
"""

import os as _os


def _refuse_foreign_distribution(folder: str) -> None:
    for entry in _os.listdir(folder):
        name = entry.lower()
        if name.startswith("solvers-") and name.endswith((".dist-info", ".egg-info")):
            raise ImportError(
                "the PyPI distribution 'solvers' is installed beside polytope-nn, and both write "
                "into the folder 'solvers': pip uninstall solvers, then reinstall polytope-nn "
                "(pip install --force-reinstall --no-deps polytope-nn)."
            )


_refuse_foreign_distribution(_os.path.dirname(_os.path.dirname(_os.path.abspath(__file__))))

from solvers.backend import Backend, Capabilities, Engine  # noqa: E402
from solvers.errors import (  # noqa: E402
    MissingPackageError,
    ProblemError,
    SolverError,
    UnknownBackendError,
    UnsupportedProblemError,
)
from solvers.problem import (  # noqa: E402
    LinearProgram,
    MixedIntegerProgram,
    Problem,
    QuadraticProgram,
)
from solvers.registry import available, get  # noqa: E402
from solvers.session import Session  # noqa: E402
from solvers.solution import Duals, Solution, Stats, Status  # noqa: E402
from solvers.solve import solve  # noqa: E402

__all__ = [
    "Backend",
    "Capabilities",
    "Duals",
    "Engine",
    "LinearProgram",
    "MissingPackageError",
    "MixedIntegerProgram",
    "Problem",
    "ProblemError",
    "QuadraticProgram",
    "Session",
    "Solution",
    "SolverError",
    "Stats",
    "Status",
    "UnknownBackendError",
    "UnsupportedProblemError",
    "available",
    "get",
    "solve",
]
