"""What a reader of models returns: the graph, and the source model to hold it against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from polytope.network.ir import Graph

#: A function of a batch (n, *input_shape) to outputs (n, ...), as float64 arrays.
Evaluate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Imported:
    """A model as read from its source.

    Attributes
    ----------
    graph : Graph
        The compiled graph.
    native : callable or None
        The source model itself, in its own dtype and on its own device: takes float64
        inputs (n, *input_shape), rounds them to that dtype, returns outputs as float64.
        None where the graph is the only source there is (a saved graph, a list of layers).
    native_dtype : numpy.dtype
        The dtype of the source model.
    reference : callable or None
        The source model evaluated in float64, to check the graph against; None if the source
        can only be run in its own dtype (the check is then made with `native`).
    head : str or None
        The trailing "softmax", "log_softmax" or "sigmoid" that was taken off the graph; the
        outputs of `native` and `reference` still have it.
    notices : tuple of str
        What was done that the user should know.
    live : callable or None
        Maps nothing to the current values of the graph's floating constants as torch tensors
        that carry gradients to the *caller's* module's parameters (for training); None if
        the source has no parameters.
    """

    graph: Graph
    native: Evaluate | None = None
    native_dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float64))
    reference: Evaluate | None = None
    head: str | None = None
    notices: tuple[str, ...] = ()
    live: Callable[[], Mapping[str, torch.Tensor]] | None = None
