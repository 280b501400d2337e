"""Exact analysis of piecewise-linear neural networks: every answer is a proof, a verified
witness, or an interval.

>>> import polytope as pt
>>> net = pt.compile(model, input_shape=(64,))  # doctest: +SKIP
>>> pt.certify(net, X, p=2, box=(0, 1)).to_frame()  # doctest: +SKIP
"""

from polytope.distances import boundary_distance, decision_distance
from polytope.errors import PolytopeError
from polytope.model import Network, compile, load
from polytope.region import Region
from polytope.robustness.theorem import certify
from polytope.sets import Box, HPolytope

__all__ = [
    "Box",
    "HPolytope",
    "Network",
    "PolytopeError",
    "Region",
    "boundary_distance",
    "certify",
    "compile",
    "decision_distance",
    "load",
]
