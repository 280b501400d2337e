"""A search that is killed at random moments and resumed ends as one that was left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import polytope as pt
from polytope.errors import FileProblem
from tests.nets import dense
from tests.region_checks import assert_same, assert_sound

ROOT = Path(__file__).parents[3]
WIDTHS, SEED = (4, 20, 20, 2), 5
#: Longest wait before a kill: a search takes about twice as long.
PATIENCE = {"splitting": 0.3, "crossing": 1.0}
#: Says that its imports and compiled code are ready, searches, saves at every look.
SEARCH = """
import sys
import polytope as pt
from tests.nets import dense
path, method, fresh = sys.argv[1], sys.argv[2], sys.argv[3] == "fresh"
net = dense(*{widths}, seed={seed})
pt.region_graph(net, ([0.0] * 4, [0.01] * 4), method=method, workers=1)
print("ready", flush=True)
options = dict(workers=1, save=path, save_every=0.0)
if fresh:
    pt.region_graph(net, (-2, 2), method=method, **options)
else:
    pt.resume(path, net, **options)
print("done", flush=True)
"""


def attempt(path: Path, method: str, fresh: bool, patience: float) -> bool:
    """One process, killed `patience` seconds after its search began; whether it ended first."""
    script = SEARCH.format(widths=WIDTHS, seed=SEED)
    command = [sys.executable, "-c", script, str(path), method, "fresh" if fresh else "resumed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(patience)
        process.kill()  # SIGKILL: nothing of the process runs after it
        rest = process.stdout.read()
    return "done" in rest


@pytest.mark.parametrize("method", ["splitting", "crossing"])
def test_killed_and_resumed(method: str, tmp_path: Path) -> None:
    net = dense(*WIDTHS, seed=SEED)
    whole = pt.region_graph(net, (-2, 2), method=method)
    path = tmp_path / "graph.npz"
    rng = random.Random(method)
    kills, progress, done = 0, [0], False
    while not done and kills < 2:
        done = attempt(path, method, not path.exists(), rng.uniform(0.01, PATIENCE[method]))
        kills += not done
        if path.exists():
            partial = pt.RegionGraph.load(path, net)  # never a torn file
            assert partial.complete == (len(partial) == len(whole)) or not partial.complete
            assert len(partial) >= progress[-1]
            progress.append(len(partial))
    assert kills >= 1
    graph = pt.resume(path, net) if path.exists() else pt.region_graph(net, (-2, 2), save=path)
    assert_same(graph, whole)
    assert_sound(graph, 50)
    again = pt.RegionGraph.load(path, net)
    assert_same(again, whole)
    assert pt.resume(path, net).complete
    with pytest.raises(FileProblem, match="another network"):
        pt.resume(path, dense(*WIDTHS, seed=SEED + 1))
