import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from solvers.errors import ProblemError
from solvers.norms import dual_exponent, parse_norm, vector_norm


@pytest.mark.parametrize(
    ("given_p", "value"),
    [
        (1, 1.0),
        (3.0, 3.0),
        ("2", 2.0),
        ("inf", math.inf),
        ("Infinity", math.inf),
        (math.inf, math.inf),
        (np.float32(1.5), 1.5),
        (torch.tensor(2), 2.0),
    ],
)
def test_parse_norm_reads_numbers_and_text(given_p, value):
    assert parse_norm(given_p) == value


@pytest.mark.parametrize("bad", [0.5, 0, -1, math.nan, "nan", "two", None, True, [1, 2], -math.inf])
def test_parse_norm_refuses_the_rest(bad):
    with pytest.raises(ProblemError, match=r"norm p: got .* expected a number in \[1, inf\]"):
        parse_norm(bad)


def test_dual_exponent_of_the_corners():
    assert dual_exponent(1) == math.inf
    assert dual_exponent("inf") == 1.0
    assert dual_exponent(2) == 2.0
    assert dual_exponent(3) == 1.5


@given(st.floats(1.0, 1e6))
def test_dual_exponent_is_an_involution(p):
    q = dual_exponent(p)
    assert 1.0 / p + (0.0 if q == math.inf else 1.0 / q) == pytest.approx(1.0, abs=1e-12)
    if q > 1.0:
        assert dual_exponent(q) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("p", [1, 1.0001, 1.5, 2, 3, 50, 1e6, "inf"])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_vector_norm_survives_any_magnitude(p, size):
    x = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    exponent = float(p)
    reference = 4.0 if exponent == math.inf else 4.0 * (1 + 0.75**exponent) ** (1 / exponent)
    result = vector_norm(x * size, p) / size
    expected = torch.tensor([reference, 0.0], dtype=torch.float64)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("p", [1, 2, 2.5, "inf"])
def test_vector_norm_of_infinite_empty_and_other_dimensions(p):
    assert vector_norm(torch.tensor([1.0, -math.inf]), p) == math.inf
    assert vector_norm(torch.empty(2, 0), p).tolist() == [0.0, 0.0]
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(vector_norm(x, p, dim=1), vector_norm(x.transpose(1, 2), p))


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, "inf"])
def test_vector_norm_gradient(p):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: vector_norm(z, p), (x,))
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    vector_norm(zero, p).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
