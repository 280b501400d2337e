"""Speed of the projection at d = 784, against cvxpy and scipy's linprog, per row.

    pytest -n 0 -s tests/benchmarks/test_projection_speed.py

Each ratio compares best CPU times, taken in turns, so that a busy machine does not decide.
"""

import math
import time

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack

from solvers.projection import project_to_hyperplane

ROWS, WIDTH = 1000, 784
TIMES_CVXPY, TIMES_LINPROG = 1000, 100
ROUNDS = 12


@pytest.fixture(scope="module")
def batch():
    """MMR's setting: an image in [0, 1]^784, normals of many units, a step that meets the box."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(0.3, 0.4, size=WIDTH), 0.0, 1.0)
    normal = rng.normal(size=(ROWS, WIDTH))
    residual = rng.uniform(0.02, 0.15, size=ROWS) * np.abs(normal).sum(1)
    return tuple(torch.from_numpy(t) for t in (normal, residual, -x, 1.0 - x))


def cvxpy_row(batch, p):
    normal, residual, lower, upper = (t.numpy() for t in batch)
    w, r, step = cp.Parameter(WIDTH), cp.Parameter(), cp.Variable(WIDTH)
    problem = cp.Problem(
        cp.Minimize(cp.norm(step, p)), [w @ step == -r, step >= lower, step <= upper]
    )

    def solve(i):
        w.value, r.value = normal[i], residual[i]
        problem.solve(solver=cp.CLARABEL)
        return problem.value

    solve(0)  # compiles the program; later rows only change its parameters
    return solve


def linprog_row(batch):
    normal, residual, lower, upper = (t.numpy() for t in batch)
    one, column = eye_array(WIDTH), csr_array(np.ones((WIDTH, 1)))
    above = vstack([hstack([one, -column]), hstack([-one, -column])]).tocsr()
    bounds = np.column_stack([np.append(lower, 0.0), np.append(upper, np.inf)])
    cost, right = np.append(np.zeros(WIDTH), 1.0), np.zeros(2 * WIDTH)

    def solve(i):
        plane = np.append(normal[i], 0.0)[None]
        return linprog(cost, above, right, plane, [-residual[i]], bounds, method="highs").fun

    return solve


def best_ratio(fast, slow):
    """Return slow seconds, fast seconds: the best of interleaved rounds."""
    times = []
    for i in range(ROUNDS):
        start = time.process_time()
        slow(i)
        middle = time.process_time()
        fast()
        times.append((middle - start, time.process_time() - middle))
    return tuple(min(column) for column in zip(*times, strict=True))


@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
def test_rows_per_second(benchmark, batch, p):
    result = benchmark(lambda: project_to_hyperplane(*batch, p))
    assert torch.isfinite(result.distance).all()


@pytest.mark.parametrize(
    ("rival", "p"), [*(("cvxpy", p) for p in (1, 2, 3, "inf")), ("linprog", "inf")]
)
def test_times_faster(batch, p, rival):
    solve = cvxpy_row(batch, p) if rival == "cvxpy" else linprog_row(batch)
    distance = project_to_hyperplane(*batch, p).distance
    assert math.isclose(solve(1), distance[1].item(), rel_tol=1e-5)
    slow, fast = best_ratio(lambda: project_to_hyperplane(*batch, p), solve)
    ratio = slow / (fast / ROWS)
    each = f"{fast / ROWS * 1e6:.1f} us per row, {rival} {slow * 1e3:.1f} ms"
    print(f"\np={p}: {each}: {ratio:.0f} times faster")
