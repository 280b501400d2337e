"""How small numeric kernels are compiled: numba, cached on disk, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function that makes no arrays (it may take views of those that it is given).

    Without arrays of its own a kernel needs none of numba's reference counts (``_nrt``); they
    are atomic, and were a third to a half of the time of kernels that touch many small views.
    Division by zero gives an infinity, as in numpy.
    """
    options: dict[str, Any] = {"_nrt": False}
    compiled: Function = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    return compiled
