"""How small numeric kernels are compiled: numba, cached on disk, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def kernel(function: Function) -> Function: ...


@overload
def kernel(
    *, inline: bool = ..., fastmath: tuple[str, ...] = ...
) -> Callable[[Function], Function]: ...


def kernel(
    function: Callable[..., Any] | None = None,
    *,
    inline: bool = False,
    fastmath: tuple[str, ...] = (),
) -> Any:
    """Compile a function that makes no arrays (it may take views of those that it is given).

    Without arrays of its own a kernel needs none of numba's reference counts (``_nrt``); they
    are atomic, and were a third to a half of the time of kernels that touch many small views.
    Division by zero gives an infinity, as in numpy.

    Parameters
    ----------
    inline : bool
        Always inline it into its callers.
    fastmath : tuple of str
        Liberties with floating point that LLVM may take.
    """
    options: dict[str, Any] = {"_nrt": False, "forceinline": inline, "fastmath": set(fastmath)}
    compiler = njit(cache=True, nogil=True, error_model="numpy", **options)
    return compiler if function is None else compiler(function)
