"""What lies behind the facets of one region."""

from __future__ import annotations

import numpy as np

from polytope.regions.exact_crossing import facets_behind, pattern_behind
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.facets import facets_of
from polytope.regions.section import Section


def patterns_behind(section: Section) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pieces (units,) behind each facet that is not the domain's, and a point (k,) on it.

    Raises
    ------
    InputError
        As `facets_of` does.
    """
    maps = ExactMaps(section.net, section.domain)
    facets = facets_of(section, maps)
    result = []
    for group, point, outer in zip(facets.groups, facets.points, facets.on_domain, strict=True):
        if outer:
            continue
        row = int(section.ids[group[0]])
        if set(group).isdisjoint(facets.exact):
            result.append((pattern_behind(maps, section.pieces, row, point), point))
        else:  # the facet may be too small for a rounded point
            result += [
                (pieces, near) for _, pieces, near in facets_behind(maps, section.pieces, [row])
            ]
    return result
