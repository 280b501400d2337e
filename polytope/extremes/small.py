"""Whether the regions met by a set are few enough to be enumerated without being asked to."""

from __future__ import annotations

import torch

from polytope.bounds.layers import layer_bounds
from polytope.extremes.area import Area
from polytope.network.engine import Engine

#: In so few dimensions regions are enumerated by tens of thousands in a second ...
DIMENSIONS = 4
#: ... of networks of at most so many units; and in any dimension, if bounds leave at most so
#: many units open: then there are at most 2^12 regions of ReLUs.
UNITS, OPEN_UNITS = 200, 12


def is_small(net: Engine, area: Area) -> bool:
    """Whether "auto" enumerates regions; a rule of thumb, nothing is proved by it."""
    if area.domain.dimension <= DIMENSIONS and net.units <= UNITS:
        return True
    if area.inputs is None:
        return False
    with torch.no_grad():
        bounds = layer_bounds(net, area.inputs)
    return int(bounds.undecided.sum()) <= OPEN_UNITS
