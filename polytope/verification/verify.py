"""`verify`: prove that no input of a box has unsafe outputs, or find one that has."""

from __future__ import annotations

import os
from dataclasses import replace

from polytope.checker import check
from polytope.errors import InputError
from polytope.inputs import positive_int
from polytope.model import Network
from polytope.verification.property import Property
from polytope.verification.result import Verification
from polytope.vnnlib import read_property

#: Bytes of proofs that are kept in memory.
MEMORY = 2**30


def verify(
    net: Network,
    property: Property | str | os.PathLike[str],
    time_limit: float = 60.0,
    seed: int = 0,
    workers: int | None = None,
    memory: int = MEMORY,
    prove: bool = False,
) -> Verification:
    """Prove that no input is unsafe, or find one that is.

    Parameters
    ----------
    net : Network
        Piecewise linear.
    property : path or Property
        A .vnnlib (or .vnnlib.gz) file, or what `polytope.vnnlib.read_property` made of one.
    time_limit : float
        Seconds, kept to within a second; loading compiled code is not counted (a second, and
        half a minute at the first call on a machine).
    seed : int
        Of the attack.
    workers : int, optional
        Threads; by default one for each core.
    memory : int
        Bytes of proofs that are kept in memory; what is more goes to temporary files.
    prove : bool
        Have the checker confirm "unsat" in exact arithmetic, which takes a tenth of a second to
        some seconds for each box and is not counted in the time limit; if it cannot, the verdict
        is "unknown".

    Returns
    -------
    Verification
        Stopping early, by Ctrl-C too, gives "timeout" or "unknown" with what was done.

    Raises
    ------
    FileProblem, InputError
        For a property that cannot be read or does not fit the network, and unusable arguments.
    SmoothActivation
        If the network is not piecewise linear.
    """
    from polytope.verification.run import Run  # Loads numba, which importing polytope must not.

    net.require_piecewise_linear("verify")
    if not isinstance(time_limit, int | float) or not time_limit > 0:
        raise InputError(f"time_limit: got {time_limit!r}, expected a number of seconds above 0")
    count = _cores() if workers is None else positive_int(workers, "workers")
    read = property if isinstance(property, Property) else read_property(property)
    read.check(net)
    _check_head(net, read)
    run = Run(net, read, float(time_limit), seed, count, positive_int(memory, "memory"))
    found = run.go()
    return _proved(net, found) if prove and found.verdict == "unsat" else found


def _proved(net: Network, found: Verification) -> Verification:
    """What the checker says of an unsat verdict."""
    if found.proof is None:
        reason = "there is no certificate"
        if not found.stats.parts:
            return replace(found, exactness="rational")
    else:
        checked = check(found.proof, net)
        if checked.valid:
            return replace(found, exactness="rational", explain=f"{found.explain}; checked")
        reason = f"the checker rejects the certificate: {checked.reason}"
    return replace(found, verdict="unknown", exactness="", explain=f"{found.explain}, but {reason}")


def _check_head(net: Network, read: Property) -> None:
    """Refuse a property of outputs behind a softmax that was taken off, unless it keeps order.

    Raises
    ------
    InputError
    """
    for notice in net.notices:
        for part in read.parts:
            ordered = all(
                limit == 0 and sorted(row[row != 0].tolist()) == [-1.0, 1.0]
                for row, limit in zip(part.A, part.limits, strict=True)
            )
            if not ordered:
                raise InputError(
                    f"{read.source}: constrains outputs by more than their order, but of this "
                    f"network only the values before its last function are analysed ({notice})"
                )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
