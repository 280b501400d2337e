"""Tables of a complex: its regions, and the facets that they share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from polytope.network.engine import Engine
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.flips import flipped_units, layer_of
from polytope.regions.merging import blocks
from polytope.regions.section import Section
from polytope.regions.volumes import Volume, volume_of
from polytope.rows import as_logits


def region_table(net: Engine, domain: Domain, found: Complex, linear: np.ndarray) -> pd.DataFrame:
    """One row per region; `linear` is what `linear_regions` returns.

    Returns
    -------
    pandas.DataFrame
        `region`; `linear_region` (see `linear_regions`); `label`, the class decided at the
        region's point; `neighbors`, the facets shared with other regions; and of those, by the
        layer of the first unit that changes, `neighbors_layer_0` and so on.
    """
    n = len(found.pieces)
    depth = _first_layers(net, found)
    counts = np.zeros((n, len(net.layers)), dtype=np.int64)
    for end in found.edges.T:
        np.add.at(counts, (end, depth), 1)
    columns = {
        "region": np.arange(n),
        "linear_region": linear,
        "label": _labels(net, domain, found.points),
        "neighbors": counts.sum(axis=1),
    }
    columns |= {f"neighbors_layer_{layer}": counts[:, layer] for layer in range(counts.shape[1])}
    return pd.DataFrame(columns)


def size_table(sections: Iterable[Section]) -> pd.DataFrame:
    """Inradius (l_2) and volume of sections, in the domain's coordinates.

    Returns
    -------
    pandas.DataFrame
        `inradius` (inf if balls of every size fit), `volume` (inf if unbounded) and
        `volume_error` (one standard error of a Monte Carlo estimate, else 0).
    """
    rows = []
    for section in sections:
        volume = volume_of(section) if section.bounded else Volume(np.inf, 0.0, True)
        rows.append((section.largest_ball()[1], volume.value, volume.error))
    return pd.DataFrame(rows, columns=["inradius", "volume", "volume_error"])


def edge_table(net: Engine, domain: Domain, found: Complex, linear: np.ndarray) -> pd.DataFrame:
    """One row per shared facet; `linear` is what `linear_regions` returns.

    Returns
    -------
    pandas.DataFrame
        `i`, `j`, the regions; `units`, how many units change their pieces (more than one where
        hyperplanes coincide); `layer`, the layer of the first that does; `same_map`, whether
        the network is one affine map on both sides; `label_changes`, whether the classes
        decided at the two regions' points differ.
    """
    i, j = found.edges.T
    edge, _ = flipped_units(found)
    labels = _labels(net, domain, found.points)
    return pd.DataFrame({
        "i": i,
        "j": j,
        "units": np.bincount(edge, minlength=len(i)),
        "layer": _first_layers(net, found),
        "same_map": linear[i] == linear[j],
        "label_changes": labels[i] != labels[j],
    })  # fmt: skip


def _first_layers(net: Engine, found: Complex) -> np.ndarray:
    """The layer of the first unit that changes across each shared facet: int64 (m,)."""
    edge, unit = flipped_units(found)
    first = np.searchsorted(edge, np.arange(len(found.edges)))
    return layer_of(net.layers, unit[first])


def _labels(net: Engine, domain: Domain, points: np.ndarray) -> np.ndarray:
    """The class decided at each point (first of equal logits): int64 (n,)."""
    labels = [np.zeros(0, dtype=np.int64)]
    for place in blocks(net, len(points)):
        x = torch.as_tensor(domain.lift(points[place])).reshape(-1, *net.input_shape)
        with torch.no_grad():
            labels.append(as_logits(net.forward(x).flatten(1)).argmax(dim=1).numpy())
    return np.concatenate(labels)
