"""What is needed to reproduce a disagreement of engines, in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from polytope.errors import FileProblem
from polytope.model import Network
from polytope.robustness.perturbation import Perturbation


def write_disagreement(
    out: Path,
    net: Network,
    x: np.ndarray,
    row: int,
    seed: int,
    reason: str,
    found: Mapping[str, Perturbation],
    asked: Mapping[str, object],
) -> Path:
    """Write the point, the network, the programs, the seeds and what each engine said.

    Parameters
    ----------
    out : Path
        The folder is made in it, and named after the row.
    net : Network
    x : float64 (d,)
    row, seed : int
    reason : str
    found : mapping of str to Perturbation
    asked : mapping of str to object
        The other settings, as JSON takes them.

    Returns
    -------
    Path
        The folder: ``network.npz`` (for `pt.load`), ``points.npz`` (the point and every
        witness), ``report.json``, and the last program of each target as ``*.mps``.

    Raises
    ------
    FileProblem
        If it cannot be written.
    """
    from polytope.robustness.mip import MixedIntegerRun  # compiled code: only when it is wanted
    from solvers.mps import write_mps

    folder = out / f"disagreement_row{row}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        net.save(folder / "network.npz")
        witnesses = {f"witness_{_plain(name)}": r.witness for name, r in found.items()}
        np.savez(folder / "points.npz", x=x, **witnesses)  # type: ignore[arg-type]
        report = {
            "reason": reason, "row": row, "seed": seed, "label": next(iter(found.values())).label,
            "network": net.graph.hash, **asked,
            "methods": {
                name: {
                    "lower": r.lower, "upper": r.upper, "claimed": r.claimed, "status": r.status,
                    "stopped": r.stopped, "explain": r.explain, "target": r.target,
                }
                for name, r in found.items()
            },
        }  # fmt: skip
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        for name, result in found.items():
            if isinstance(result.evidence, MixedIntegerRun):
                for run in result.evidence.targets:
                    if run.program is not None:
                        path = folder / f"{_plain(name)}_target{run.target}.mps"
                        write_mps(run.program, path, f"row {row}, seed {seed}: {reason}")
    except OSError as error:
        raise FileProblem(f"out: cannot write to '{folder}': {error.strerror or error}") from error
    return folder


def _plain(name: str) -> str:
    """A name for files."""
    return name.replace(":", "_")
