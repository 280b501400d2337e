"""Bounds of a whole part by tensors, for networks too large to be searched."""

from __future__ import annotations

import torch

from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import layer_bounds
from polytope.bounds.slopes import optimised_bounds
from polytope.model import Network
from polytope.verification.property import Unsafe


def refuted_at_root(net: Network, unsafe: Unsafe) -> bool:
    """Whether CROWN with optimised slopes proves that no input of the box is unsafe.

    Parameters
    ----------
    net : Network
    unsafe : Unsafe
    """
    if not len(unsafe.A):
        return False
    box = unsafe.box
    low, high = (torch.as_tensor(side.copy())[None] for side in (box.low, box.high))
    with torch.no_grad():
        bounds = layer_bounds(net, InputSet.from_box(low, high))
    found = optimised_bounds(bounds, torch.as_tensor(unsafe.A), -torch.as_tensor(unsafe.b))
    return bool((found.lower[0] > 0).any() or bounds.empty[0])
