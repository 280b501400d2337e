"""Exact analysis of piecewise-linear neural networks.

Every answer is a proof, a verified witness, or an interval.

>>> import polytope as pt
>>> net = pt.compile(model, input_shape=(64,))  # doctest: +SKIP
>>> pt.certify(net, X, p=2, box=(0, 1)).to_frame()  # doctest: +SKIP
>>> pt.minimal_perturbation(net, X, p="inf", box=(0, 1)).to_frame()  # doctest: +SKIP
"""

import os as _os


def _refuse_foreign_distribution(folder: str) -> None:
    """Stop where PyPI's `polytope` is installed in the same folder: the files are mixed."""
    for entry in _os.listdir(folder):
        if entry.startswith("polytope-") and entry.endswith((".dist-info", ".egg-info")):
            raise ImportError(
                "the PyPI distribution 'polytope' (tulip-control) is installed beside "
                "polytope-nn, and both write into the folder 'polytope': pip uninstall polytope, "
                "then reinstall polytope-nn (pip install --force-reinstall --no-deps polytope-nn)."
            )


_refuse_foreign_distribution(_os.path.dirname(_os.path.dirname(_os.path.abspath(__file__))))

from polytope import training  # noqa: E402
from polytope.certificate_file import Checked  # noqa: E402
from polytope.checker import check  # noqa: E402
from polytope.distances import (  # noqa: E402
    BoundaryDistance,
    DecisionDistance,
    boundary_distance,
    decision_distance,
)
from polytope.enumeration import region_graph, resume  # noqa: E402
from polytope.errors import PolytopeError  # noqa: E402
from polytope.examples import Examples  # noqa: E402
from polytope.extremes.distortion import GradientDistortion, gradient_distortion  # noqa: E402
from polytope.extremes.linearity import LocalLinearity, local_linearity  # noqa: E402
from polytope.extremes.lipschitz import exact_lipschitz  # noqa: E402
from polytope.extremes.lipschitz_mip import LipschitzClaim, lipschitz_mip  # noqa: E402
from polytope.graph import RegionGraph  # noqa: E402
from polytope.lipschitz_result import Lipschitz  # noqa: E402
from polytope.margins import (  # noqa: E402
    count_complete_regions,
    directional_margin,
    stability_intervals,
)
from polytope.model import Network, compile, load  # noqa: E402
from polytope.named_datasets import Dataset, load_dataset  # noqa: E402
from polytope.pattern import ActivationPattern  # noqa: E402
from polytope.region import Region  # noqa: E402
from polytope.region_plot import plot_regions  # noqa: E402
from polytope.robustness.certificates import Certificates  # noqa: E402
from polytope.robustness.compare import CrossCheck, cross_check  # noqa: E402
from polytope.robustness.minimal import minimal_perturbation  # noqa: E402
from polytope.robustness.perturbation import Perturbation, Perturbations  # noqa: E402
from polytope.robustness.theorem import certify  # noqa: E402
from polytope.sensitivity.jacobian import JacobianBounds, jacobian_bounds  # noqa: E402
from polytope.sensitivity.lipschitz import lipschitz  # noqa: E402
from polytope.sensitivity.preactivations import (  # noqa: E402
    PreactivationBounds,
    preactivation_bounds,
)
from polytope.sensitivity.radius import CertifiedRadii, certified_radius  # noqa: E402
from polytope.sensitivity.stationary import StationaryRadii, stationary_radius  # noqa: E402
from polytope.sets import Ball, Box, HPolytope  # noqa: E402
from polytope.slices import Slice  # noqa: E402
from polytope.verification.result import Verification  # noqa: E402
from polytope.verification.verify import verify  # noqa: E402

__all__ = [
    "ActivationPattern",
    "Ball",
    "BoundaryDistance",
    "Box",
    "Certificates",
    "CertifiedRadii",
    "Checked",
    "CrossCheck",
    "Dataset",
    "DecisionDistance",
    "Examples",
    "GradientDistortion",
    "HPolytope",
    "JacobianBounds",
    "Lipschitz",
    "LipschitzClaim",
    "LocalLinearity",
    "Network",
    "Perturbation",
    "Perturbations",
    "PolytopeError",
    "PreactivationBounds",
    "Region",
    "RegionGraph",
    "Slice",
    "StationaryRadii",
    "Verification",
    "boundary_distance",
    "certified_radius",
    "certify",
    "check",
    "compile",
    "count_complete_regions",
    "cross_check",
    "decision_distance",
    "directional_margin",
    "exact_lipschitz",
    "gradient_distortion",
    "jacobian_bounds",
    "lipschitz",
    "lipschitz_mip",
    "load",
    "load_dataset",
    "local_linearity",
    "minimal_perturbation",
    "plot_regions",
    "preactivation_bounds",
    "region_graph",
    "resume",
    "stability_intervals",
    "stationary_radius",
    "training",
    "verify",
]
