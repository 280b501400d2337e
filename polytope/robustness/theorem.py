"""`certify`: what linear regions prove about the robustness of a decision.

MMR (arXiv 1810.07481), Theorem 3.1: nothing adversarial is nearer than min(d_B, d_D), and if
d_D <= d_B the distance is d_D exactly.  With more regions the search goes on behind the
nearest hyperplanes (appendix A.2, made sound in `polytope.robustness.search`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from polytope.distances import prepare_norm_and_box
from polytope.hyperplanes import chunk_size
from polytope.inputs import as_batch, as_labels, positive_int, require_inside
from polytope.jacobians import DEFAULT_MEMORY
from polytope.model import Network
from polytope.robustness.batch import REFINE, BatchSearch
from polytope.robustness.certificates import Certificates
from polytope.rows import classes_of
from polytope.sets import BoxLike
from solvers.norms import NormLike


def certify(
    net: Network,
    X: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    max_regions: int = 1,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> Certificates:
    """A lower bound, a witness, and where they meet the exact robustness of each decision.

    Parameters
    ----------
    net : Network
    X : array or tensor (n, d) or (n, *input_shape)
    y : array (n,), optional
        Classes; the predicted ones by default. A point that the network does not decide so
        has robustness 0 and status "misclassified".
    p : number or "inf"
        The norm, in [1, inf].
    box : Box or pair (low, high), optional
        Only points inside the box count; the points of X must lie in it.
    max_regions : int
        Linear regions to explore for each point; 1 is Theorem 3.1.
    memory : int
        Bytes that a chunk of points may take.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    Certificates
        Ctrl-C returns what is finished; the other points have status "stopped" and the
        interval reached.

    Raises
    ------
    InputError
        For unusable points, labels, norm, box or max_regions.
    SmoothActivation
        If the network is not piecewise linear.
    """
    exponent, limits = prepare_norm_and_box(net, p, box, "certify")
    limit = positive_int(max_regions, "max_regions")
    x = as_batch(net, X)
    require_inside(x, limits)
    labels = None if y is None else as_labels(y, len(x), classes_of(net))
    step = chunk_size(net, x, memory)
    done: list[Certificates] = []
    with torch.no_grad(), _threads_for(net):
        for start in range(0, len(x), step):
            own = None if labels is None else labels[start : start + step]
            part = x[start : start + step]
            batch = BatchSearch(net, part, own, exponent, limits, memory)
            offset = start

            def report(finished: int, offset: int = offset) -> None:
                if progress is not None:
                    progress(offset + finished, len(x))

            batch.run(limit, report)
            done.append(batch.result())
            if batch.interrupted:
                break
    reached = sum(len(part) for part in done)
    rest = np.full(len(x) - reached, -1) if labels is None else labels[reached:].numpy()
    return Certificates.join([*done, Certificates.untouched(rest, net.input_size)])


@contextmanager
def _threads_for(net: Network) -> Iterator[None]:
    """Torch on one thread while a small network is searched.

    Its matrices are so small that several threads mostly wait for each other: on a busy
    machine with two cores they took six to nine times as long as one.
    """
    before = torch.get_num_threads()
    if net.rows * net.input_size <= REFINE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
