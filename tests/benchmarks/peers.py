"""Peers that list linear regions, run in environments of their own.

The environment variable POLYTOPE_PEERS names a folder that holds one virtual environment per
peer, made for example so:

    python -m venv $POLYTOPE_PEERS/affinitree
    $POLYTOPE_PEERS/affinitree/bin/pip install affinitree==0.23 numpy
    python -m venv $POLYTOPE_PEERS/relucent
    $POLYTOPE_PEERS/relucent/bin/pip install relucent==1.0.0 torch
    python -m venv $POLYTOPE_PEERS/regioncam
    $POLYTOPE_PEERS/regioncam/bin/pip install regioncam==0.5.2
    python -m venv $POLYTOPE_PEERS/edges
    $POLYTOPE_PEERS/edges/bin/pip install torch numpy
    git clone https://github.com/arturs-berzins/relu_edge_subdivision $POLYTOPE_PEERS/edges/src

A peer waits in one process, imports done, and answers each request for a run with its number
of regions and its time, so that its runs can alternate with ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import nn

VARIABLE = "POLYTOPE_PEERS"


@dataclass(frozen=True)
class Run:
    """One run: regions found, wall time and CPU time (with ended children) in seconds."""

    regions: int
    wall: float
    cpu: float


#: Read the layers, then answer each line (radius of the box, limit) with one run of `regions`.
_HEAD = """
import json, sys, time
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
import numpy as np
saved = np.load(sys.argv[1])
layers = [(saved[f"w{i}"], saved[f"b{i}"]) for i in range(len(saved.files) // 2)]
size = layers[0][0].shape[1]
"""
_TAIL = """
def cpu_time():
    used = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)
if __name__ == "__main__":
    for line in sys.stdin:
        radius, limit = json.loads(line)
        ready = prepare(radius, limit)
        wall, cpu = time.perf_counter(), cpu_time()
        result = work(ready)
        wall, cpu = time.perf_counter() - wall, cpu_time() - cpu
        print("\\n" + json.dumps([count(result), wall, cpu]), flush=True)
"""
SCRIPTS = {
    "affinitree": """
import affinitree
def prepare(radius, limit):
    network = affinitree.Architecture(size)
    for number, (weight, bias) in enumerate(layers):
        network.linear(affinitree.AffFunc.from_mats(weight.astype(float), bias.astype(float)))
        if number < len(layers) - 1:
            network.relu()
    box = affinitree.Polytope.hyperrectangle(size, [(-radius, radius)] * size)
    return network, affinitree.AffTree.from_poly(box, affinitree.AffFunc.identity(size))
def work(ready):
    return affinitree.builder.from_layers(ready[0], precondition=ready[1])
def count(tree):
    return tree.num_terminals()
""",
    "relucent": """
import relucent, torch
torch.set_num_threads(1)
def prepare(radius, limit):
    modules = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        modules += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*modules[:-1]).double()
    return relucent.Complex(network), radius, limit or float("inf")
def work(ready):
    cells, radius, limit = ready
    cells.bfs(cube_radius=radius, cube_mode="intersect", max_polys=limit, nworkers=1, verbose=0)
    return cells
def count(cells):
    return len(cells)
""",
    "regioncam": """
import regioncam
def prepare(radius, limit):
    return regioncam.Regioncam(size=radius)
def work(plane):
    for weight, bias in layers[:-1]:
        plane.linear(np.ascontiguousarray(weight.T), bias)
        plane.relu()
    return plane
def count(plane):
    return plane.num_faces
""",
    "edges": """
import itertools, os
import torch
sys.path.insert(0, os.path.join(sys.prefix, "src"))
from NN import Net
from edge_subdivision import skeletal_subdivision
torch.set_num_threads(1)
def prepare(radius, limit):
    network = Net([size] + [len(bias) for _, bias in layers[:-1]])
    for linear, (weight, bias) in zip(network.fcs, layers):
        linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return network, (-radius, radius)
def work(ready):
    with torch.no_grad():
        return skeletal_subdivision(
            ready[0], bbox=ready[1], device=torch.device("cpu"), verbose=False
        )
def count(complex):
    signs = complex[2][:, 2 * size:].numpy()
    zeros = (signs == 0).sum(1)
    found = []
    for number in np.unique(zeros):
        part = signs[zeros == number]
        places = np.nonzero(part == 0)[1].reshape(len(part), number)
        for choice in itertools.product((1, -1), repeat=int(number)):
            np.put_along_axis(part, places, np.array([choice], dtype=part.dtype), 1)
            found.append(np.unique(np.packbits(part > 0, axis=1), axis=0))
    return len(np.unique(np.concatenate(found), axis=0))
""",
}


class Peer:
    """A peer with one network, waiting to be asked for runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, radius: float = 1.0, limit: int | None = None) -> Run:
        """The regions that meet the box [-radius, radius]^d, or the first `limit` found."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([radius, limit]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("["):
                regions, wall, cpu = json.loads(line)
                return Run(regions, wall, cpu)
        raise RuntimeError(f"the peer ended with code {self.process.wait()}; its words are above")


@contextmanager
def peer(name: str, model: nn.Sequential, folder: Path) -> Iterator[Peer]:
    """A peer's process; the test is skipped where the peer is not installed."""
    python = interpreter(name)
    weights, script = folder / f"{name}.npz", folder / f"run_{name}.py"
    np.savez(weights, **layers_of(model))
    script.write_text(_HEAD + SCRIPTS[name] + _TAIL)
    command = [str(python), str(script), str(weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.terminate()


def interpreter(name: str) -> Path:
    """The Python of a peer's environment, or a skip that says what is missing."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"{VARIABLE} names no folder of peers' environments (tests/benchmarks/peers)")
    python = Path(folder) / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is not installed: no {python}")
    return python


def layers_of(model: nn.Sequential) -> dict[str, np.ndarray]:
    """Weights and biases of the linear layers."""
    linear: Sequence[nn.Linear] = [part for part in model if isinstance(part, nn.Linear)]
    return {
        f"{letter}{i}": tensor.detach().numpy()
        for i, layer in enumerate(linear)
        for letter, tensor in (("w", layer.weight), ("b", layer.bias))
    }
