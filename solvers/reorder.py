"""The same problem with its rows and columns in another order.

Solvers break ties by the order in which they are given things, so another order sends any of
them along another path: what a seed does, for solvers that have none, and more. (Danna,
"Performance variability in mixed integer programming", MIP workshop 2008.)
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from solvers.problem import MixedIntegerProgram

__all__ = ["reordered"]


def reordered(
    problem: MixedIntegerProgram, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> MixedIntegerProgram:
    """Return the problem whose row i is ``rows[i]`` and whose column j is ``columns[j]``.

    Parameters
    ----------
    problem : MixedIntegerProgram
    rows, columns : int (m,), (n,)
        Permutations.
    """
    P: Any = problem.P
    return MixedIntegerProgram(
        problem.c[columns],
        problem.integrality[columns],
        csr_array(problem.A[rows][:, columns]),
        problem.row_lower[rows],
        problem.row_upper[rows],
        problem.lower[columns],
        problem.upper[columns],
        None if P is None else csr_array(P[columns][:, columns]),
    )
