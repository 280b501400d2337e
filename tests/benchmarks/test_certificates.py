"""The proofs of the digits' exact distances: made, checked in both arithmetics, and timed.

    OMP_NUM_THREADS=1 pytest -n 0 -s tests/benchmarks/test_certificates.py

CPU seconds of this process on one core, and how much the check costs in units of the search.
"""

import time

import numpy as np
import torch

import polytope as pt
from polytope import datasets
from tests.data import data_path


def test_a_hundred_digits():
    X, y = datasets.digits()
    torch.set_num_threads(1)
    own = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    pt.minimal_perturbation(own, X[:1], y[:1], 2, (0, 1), prove=True)  # compiled once
    print()
    for name, net in (("shipped network", datasets.digits_network()), ("shared network", own)):
        for p in (1, 2, "inf"):
            begun = time.process_time()
            found = pt.minimal_perturbation(net, X, y, p, (0, 1))
            finding = time.process_time() - begun
            certificates = [row.certificate() for row in found]
            making = time.process_time() - begun - finding
            checked = {mode: [pt.check(c, net, mode) for c in certificates]
                       for mode in ("rational", "interval")}  # fmt: skip
            assert all(own.valid for both in checked.values() for own in both)
            widths = [own.upper - own.lower for own in checked["rational"]]
            assert max(widths) <= 1e-9
            sizes = [len(c.to_bytes()) / 1000 for c in certificates]
            rational, interval = (sum(own.seconds for own in both) for both in checked.values())
            print(
                f"{name}, l_{p}: {len(found)} of {len(found)} accepted, intervals at most "
                f"{max(widths):.1e} wide; {finding:.1f} s found, {making:.1f} s proved, "
                f"{rational:.1f} s checked rationally ({rational / finding:.1f} times finding), "
                f"{interval:.1f} s in intervals ({interval / finding:.1f} times); median "
                f"{np.median(sizes):.1f} kB, largest {max(sizes):.0f} kB"
            )
