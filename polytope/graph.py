"""The graph of a network's linear regions inside a domain: nodes are regions, edges facets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from polytope.errors import InputError
from polytope.inputs import as_batch
from polytope.model import Network
from polytope.pattern import ActivationPattern
from polytope.region import Region
from polytope.regions.archive import Saved, load_complex, save_complex, write_graphml
from polytope.regions.complex import Complex
from polytope.regions.decision import DecisionPiece, Logits, decision_pieces
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.facets import Facets, facets_of
from polytope.regions.flips import flipped_units, layer_of
from polytope.regions.merging import affine_regions, linear_regions
from polytope.regions.section import Section
from polytope.regions.statistics import edge_table, region_table, size_table
from polytope.regions.volumes import Volume, vertices_of, volume_of

if TYPE_CHECKING:
    import networkx as nx

#: How far outside the domain a point may lie, relative to its size, and still be looked up:
#: room for the rounding of its coordinates.
OUTSIDE = 1e-9


class RegionGraph:
    """Regions of full dimension inside a domain, and which of them share a facet.

    A node is an activation region: a pattern whose region, met with the domain, has an
    interior.  An edge is a shared facet; the units whose pieces change there are more than one
    where hyperplanes coincide.  `linear_regions` and `affine_regions` merge nodes on which the
    network is one affine map.  Made by `polytope.region_graph` and by `load`.

    Parameters
    ----------
    net : Network
    domain : Domain
        Its coordinates are those of `coordinates`: the inputs themselves, or, on a slice or in
        a box with frozen sides, fewer.
    found : Complex
        What an engine found.
    state : mapping of str to array, optional
        What the engine needs to go on from a partial result; kept in the file by `save`.
    stopped : str
        Why a search ended early: "max_regions", "time_limit", "interrupt"; "" if it did not.
    """

    def __init__(
        self,
        net: Network,
        domain: Domain,
        found: Complex,
        state: Mapping[str, np.ndarray] | None = None,
        stopped: str = "",
    ) -> None:
        self.net = net
        self.domain = domain
        self.found = found
        self.state = dict(state or {})
        self.stopped = stopped

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.found.pieces)

    def __repr__(self) -> str:
        """Regions, edges, dimension; and that it is partial where it is."""
        part = "" if self.complete else "partial: "
        return (
            f"RegionGraph({part}{len(self):,} regions, {len(self.edges):,} shared facets, "
            f"dimension {self.domain.dimension}, network {self.net.hash[:12]})"
        )

    @property
    def complete(self) -> bool:
        """Whether every region of the domain was found."""
        return self.found.complete

    @property
    def exact_verdicts(self) -> int:
        """How often rounding could not decide and rational arithmetic did."""
        return self.found.exact_verdicts

    @property
    def coordinates(self) -> np.ndarray:
        """A point in the interior of each region, in the domain's coordinates: (n, k)."""
        return self.found.points

    @cached_property
    def points(self) -> np.ndarray:
        """A point in the interior of each region, as inputs: (n, D)."""
        return self.domain.lift(self.found.points)

    @property
    def edges(self) -> np.ndarray:
        """Regions (i < j) that share a facet: int64 (m, 2)."""
        return self.found.edges

    @property
    def edge_points(self) -> np.ndarray:
        """A point in the relative interior of each shared facet, in coordinates: (m, k)."""
        return self.found.edge_points

    def pattern(self, i: int) -> ActivationPattern:
        """The activation pattern of a region.

        Raises
        ------
        InputError
            If there is no such region.
        """
        pieces = self.found.pieces[self._number(i)].astype(np.int64)
        return ActivationPattern.from_pieces(pieces, self.net.layout)

    def region(self, i: int) -> Region:
        """A region as halfspaces over the inputs, with the network's affine map there.

        Raises
        ------
        InputError
            If there is no such region.
        """
        point = self.domain.lift(self.found.points[self._number(i)])
        return self.net.region(point, self.pattern(i))

    def neighbors(self, i: int) -> np.ndarray:
        """The regions that share a facet with a region, ascending: int64.

        Raises
        ------
        InputError
            If there is no such region.
        """
        first, others = self._adjacency
        number = self._number(i)
        return others[first[number] : first[number + 1]]

    def index(self, at: ActivationPattern | object) -> int:
        """The number of the region with a pattern, or that holds a point.

        Parameters
        ----------
        at : ActivationPattern, or array (D,) or input_shape
            A point on a facet belongs to the region that the convention for ties
            (`polytope.pattern`) puts it in.

        Raises
        ------
        InputError
            For an unusable point or one outside the domain; if the graph has no such region:
            because it is partial, or because the point's pattern has no interior.
        """
        if isinstance(at, ActivationPattern):
            if at.layout != self.net.layout:
                raise InputError("index: the pattern is of another network")
            pieces = at.pieces
        else:
            pieces = self._pieces_at(at)
        found = self._numbers.get(pieces.astype(self.found.pieces.dtype).tobytes())
        if found is None:
            raise InputError(
                "index: no region of the graph has this pattern"
                + ("" if self.complete else " (the graph is partial: resume it)")
                + "; a point on a facet can have a pattern of its own, which no region of full "
                "dimension shares"
            )
        return found

    def flipped(self, edges: object = None) -> tuple[np.ndarray, np.ndarray]:
        """The units whose pieces change across shared facets.

        Parameters
        ----------
        edges : int array, optional
            Positions in the graph's edges; all by default.

        Returns
        -------
        edge, unit : int64 arrays of one length
            Ascending pairs, the position among `edges` first; units are numbered through all
            layers (``layer.first_unit``).
        """
        which = None if edges is None else np.asarray(edges, dtype=np.int64).reshape(-1)
        return flipped_units(self.found, which)

    @cached_property
    def graph(self) -> nx.Graph:
        """The same as a `networkx.Graph`, built when first asked for.

        Nodes 0 .. n - 1 carry `pattern` (hexadecimal) and `point` (coordinates); edges `units`
        (a list of (layer, unit) whose pieces change) and `point`; the graph `network` (its
        hash), `dimension` and `complete`.
        """
        import networkx as nx

        graph = nx.Graph(
            network=self.net.hash, dimension=self.domain.dimension, complete=self.complete
        )
        graph.add_nodes_from(
            (i, {"pattern": self.pattern(i).packed.hex(), "point": tuple(point)})
            for i, point in enumerate(self.found.points.tolist())
        )
        edge, unit = self.flipped()
        layer = layer_of(self.net.layers, unit)
        local = unit - np.array([part.first_unit for part in self.net.layers])[layer]
        names = list(zip(layer.tolist(), local.tolist(), strict=True))
        ends = np.searchsorted(edge, np.arange(len(self.edges) + 1)).tolist()
        graph.add_edges_from(
            (i, j, {"units": names[ends[e] : ends[e + 1]], "point": tuple(point)})
            for e, ((i, j), point) in enumerate(
                zip(self.edges.tolist(), self.edge_points.tolist(), strict=True)
            )
        )
        return graph

    def linear_regions(self) -> np.ndarray:
        """Merge through facets: the linear region of each activation region, int64 (n,).

        A linear region is a maximal set of activation regions, connected through facets within
        the domain, on which the network is one affine map (ROLL's *complete linear region*;
        the *open connected region* of arXiv 2505.16716; see `polytope.regions.merging`).
        Equality is proved in exact arithmetic wherever rounding leaves it open.
        """
        return self._linear.copy()

    def affine_regions(self) -> np.ndarray:
        """Merge wherever the affine map is the same, connected or not: int64 (n,).

        The *affine regions* of arXiv 2505.16716; at least as coarse as `linear_regions`.
        """
        return affine_regions(self.net, self.domain, self.found, self._linear)

    def section(self, i: int) -> Section:
        """A region met with the domain, as halfspaces over its coordinates.

        Its `extent` (bounding box) and `largest_ball` (Chebyshev center and inradius) are there.

        Raises
        ------
        InputError
            If there is no such region.
        """
        section = self.region(i).section(self.domain)
        return replace(section, start=self.found.points[self._number(i)])

    def facets(self, i: int) -> Facets:
        """The facets of a region in the domain, with a proof for every row.

        Raises
        ------
        InputError
            If there is no such region, or the domain is an l_2 ball.
        """
        return facets_of(self.section(i), self._maps)

    def vertices(self, i: int) -> np.ndarray:
        """The vertices (n, k) of a region in the domain, in its coordinates.

        Raises
        ------
        InputError
            If there is no such region, or it is unbounded, round, or of too many dimensions.
        """
        return vertices_of(self.section(i))

    def volume(self, i: int) -> Volume:
        """The volume of a region in the domain, in its coordinates.

        Raises
        ------
        InputError
            If there is no such region, or it is unbounded.
        """
        return volume_of(self.section(i))

    def decision_boundary(self, regions: Iterable[int] | None = None) -> list[DecisionPiece]:
        """The decision boundary inside the domain, as polytopes of one dimension less.

        Parameters
        ----------
        regions : iterable of int, optional
            Only inside these; by default in all.

        Returns
        -------
        list of DecisionPiece
            By region; where the boundary runs along a shared facet, both regions list it.
        """
        pieces: list[DecisionPiece] = []
        for i in range(len(self)) if regions is None else regions:
            region = self.region(i)
            errors = region.jacobian_error, region.value_error
            logits = Logits.of(self.domain, (region.jacobian, region.offset), errors)
            pieces += decision_pieces(i, self.section(i), logits)
        return pieces

    def statistics(self, sizes: bool = False) -> pd.DataFrame:
        """One row per region: see `polytope.regions.statistics.region_table`.

        Parameters
        ----------
        sizes : bool
            Also `inradius` (l_2), `volume` and `volume_error` (of a Monte Carlo estimate),
            NaN or infinite where a region is unbounded: some milliseconds for each region.
        """
        table = region_table(self.net, self.domain, self.found, self._linear)
        if sizes:
            sections = (self.section(i) for i in range(len(self)))
            table = table.join(size_table(sections))
        return table

    def edge_statistics(self) -> pd.DataFrame:
        """One row per shared facet: see `polytope.regions.statistics.edge_table`."""
        return edge_table(self.net, self.domain, self.found, self._linear)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, in one step (see `polytope.regions.archive`).

        The network itself is not in it: `load` is given it again and checks its hash.

        Raises
        ------
        FileProblem
            If the file cannot be written; an older file of the name is then left as it was.
        """
        save_complex(path, Saved(self.net.hash, self.domain, self.found, self.state))

    @classmethod
    def load(cls, path: str | os.PathLike[str], net: Network) -> RegionGraph:
        """Read a graph that `save` wrote.

        Raises
        ------
        FileProblem
            If the file is missing, damaged, no saved graph, or of another network.
        """
        saved = load_complex(path, net)
        return cls(net, saved.domain, saved.found, saved.state)

    def to_graphml(self, path: str | os.PathLike[str]) -> None:
        """Write `graph` as GraphML, points and units as text (JSON lists).

        Raises
        ------
        FileProblem
            If the file cannot be written.
        """
        write_graphml(self.graph, path)

    @cached_property
    def _linear(self) -> np.ndarray:
        return linear_regions(self.net, self.domain, self.found)

    @cached_property
    def _maps(self) -> ExactMaps:
        return ExactMaps(self.net, self.domain)

    @cached_property
    def _adjacency(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each region's neighbours start, and all neighbours."""
        ends = np.concatenate([self.edges, self.edges[:, ::-1]])
        ends = ends[np.lexsort((ends[:, 1], ends[:, 0]))]
        first = np.searchsorted(ends[:, 0], np.arange(len(self) + 1))
        return first, np.ascontiguousarray(ends[:, 1])

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        """The number of each region by its pieces."""
        return {row.tobytes(): i for i, row in enumerate(self.found.pieces)}

    def _number(self, i: int) -> int:
        if not isinstance(i, int | np.integer) or not 0 <= i < len(self):
            raise InputError(f"region {i!r}: the graph has regions 0 to {len(self) - 1}")
        return int(i)

    def _pieces_at(self, point: object) -> np.ndarray:
        x = as_batch(self.net, point, name="point")
        if len(x) != 1:
            raise InputError(f"index: got {len(x)} points, expected one; call it for each")
        flat = x.flatten().numpy()
        inside = self.domain.contains(
            self.domain.coordinates(flat), OUTSIDE * (1 + np.abs(flat).max(initial=0.0))
        )
        if not inside.all():
            raise InputError("index: the point lies outside the graph's domain")
        with torch.no_grad():
            return np.asarray(self.net.pieces(x)[0].numpy())
