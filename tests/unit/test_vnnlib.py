"""The reader of properties in VNN-LIB: what it reads, and what it refuses with which message."""

from __future__ import annotations

import gzip
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import polytope as pt
from polytope.errors import FileProblem, InputError
from polytope.verification.property import float_above, float_below
from polytope.vnnlib import read_property
from tests.data import data_path

HEAD = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
"""
BOX = """
(assert (<= X_0 1)) (assert (>= X_0 -1.5e-1)) ; a comment (
(assert (and (<= X_1 0.1) (>= X_1 0.1)))
"""


def read(tmp_path: Path, text: str, name: str = "p.vnnlib"):
    path = tmp_path / name
    path.write_text(text)
    return read_property(path)


def test_box_and_rows_are_exact(tmp_path):
    found = read(tmp_path, HEAD + BOX + "(assert (<= Y_0 Y_1)) (assert (>= Y_1 3.5))")
    assert (found.inputs, found.outputs, len(found.parts)) == (2, 2, 1)
    part = found.parts[0]
    assert part.low == (Fraction(-3, 20), Fraction(1, 10))
    assert part.high == (Fraction(1), Fraction(1, 10))
    np.testing.assert_array_equal(part.A, [[1, -1], [0, -1]])
    assert part.limits == (Fraction(0), Fraction(-7, 2))


def test_floats_are_rounded_outwards(tmp_path):
    part = read(tmp_path, HEAD + BOX + "(assert (<= Y_0 0.1))").parts[0]
    for i in range(2):
        assert Fraction(part.box.low[i]) <= part.low[i]
        assert Fraction(part.box.high[i]) >= part.high[i]
    assert part.box.low[1] < part.box.high[1] == np.nextafter(part.box.low[1], 1)
    assert Fraction(part.b[0]) >= Fraction(1, 10)
    assert float_below(Fraction(1, 10)) < Fraction(1, 10) < float_above(Fraction(1, 10))
    assert float_below(Fraction(1, 2)) == 0.5 == float_above(Fraction(1, 2))


def test_disjunctions_mix_inputs_and_outputs(tmp_path):
    text = """(assert (or
      (and (>= X_0 0.5) (<= X_0 0.75) (<= Y_0 0))
      (and (>= X_0 2) (<= Y_0 1))
      (>= Y_1 1)))
    (assert (or (<= Y_0 5) (<= Y_0 6)))"""
    found = read(tmp_path, HEAD + BOX + text)
    assert len(found.parts) == 4  # the second's box is empty
    assert found.parts[0].low[0] == Fraction(1, 2)
    assert found.parts[0].high[0] == Fraction(3, 4)
    assert found.parts[2].low[0] == Fraction(-3, 20)
    assert [len(part.A) for part in found.parts] == [2, 2, 2, 2]


def test_linear_terms(tmp_path):
    text = "(assert (<= (+ (* 2 Y_0) (- Y_1) (* 0.1 Y_0)) (- 3 (* -1 Y_1) 1)))"
    part = read(tmp_path, HEAD + BOX + text).parts[0]
    np.testing.assert_array_equal(part.A, [[21, -20]])  # 2.1 is no float: the row is scaled by 10
    assert part.limits == (Fraction(20),)


def test_bounds_of_inputs_may_be_scaled(tmp_path):
    text = BOX + "(assert (<= (* 4 X_0) 1)) (assert (>= (* -2 X_0) -3)) (assert (<= Y_0 0))"
    assert read(tmp_path, HEAD + text).parts[0].high[0] == Fraction(1, 4)


def test_constraints_without_variables(tmp_path):
    text = HEAD + BOX + "(assert (or (<= 1 0) (and (<= 0 1) (<= Y_0 0))))"
    assert len(read(tmp_path, text).parts) == 1


def test_gz(tmp_path):
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress((HEAD + BOX + "(assert (<= Y_0 0))").encode()))
    assert len(read_property(path).parts) == 1
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(FileProblem, match="cannot be read"):
        read_property(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= Y_0 Z))", r"line 7: got 'Z'; expected a number, X_i or Y_i"),
        ("(assert (<= Y_0 Y_2))", r"line 7: 'Y_2' is not declared; expected \(declare-const"),
        ("(assert (< Y_0 0))", r"line 7: '<' is not supported .*; expected <=, >=, and, or"),
        ("(assert (= Y_0 0))", r"line 7: '=' is not supported; expected"),
        ("(assert (<= Y_0))", r"line 7: '<=' of 1 terms; expected two"),
        ("(assert (and))", r"line 7: an empty 'and'"),
        ("(assert (<= Y_0 0) (<= Y_1 0))", r"line 7: an assert of 2 formulas; expected one"),
        ("(assert Y_0)", r"line 7: got 'Y_0'; expected a formula"),
        ("(assert (<= (* Y_0 Y_1) 0))", r"line 7: a product of variables; expected a linear"),
        ("(assert (<= (/ Y_0 2) 0))", r"line 7: '/' of 2 terms; expected a linear term"),
        ("(assert (<= X_0 X_1))", r"line 7: a constraint on several inputs is not supported"),
        ("(assert (<= X_0 Y_1))", r"line 7: a constraint on inputs and outputs together"),
        ("(assert (<= Y_0 1e99999))", r"line 7: got '1e99999'; expected a number of usual size"),
        ("(assert (<= Y_0 0)", r"line 7: this '\(' is never closed"),
        ("(assert (<= Y_0 0)))", r"line 7: a '\)' too many"),
        ("word", r"line 7: got 'word'; expected a command"),
        ("(define-fun f)", r"line 7: 'define-fun' is not supported"),
        ("(declare-const X_0 Real)", r"line 7: 'X_0' is declared twice"),
        ("(declare-const W_0 Real)", r"line 7: got the name 'W_0'; expected X_0"),
        ("(declare-const X_2 Int)", r"line 7: got another declaration; expected"),
        ("(declare-const X_3 Real)", r"declares X_3 but not X_2"),
        ("()", r"line 7: got '\(' without a word"),
    ],
)
def test_refusals_name_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, HEAD + BOX + text)


def test_unbounded_inputs_are_named(tmp_path):
    with pytest.raises(InputError, match=r"p\.vnnlib: no lower bound for X_0, X_1"):
        read(tmp_path, HEAD + "(assert (<= X_0 1)) (assert (<= X_1 1)) (assert (<= Y_0 0))")


def test_missing_declarations(tmp_path):
    with pytest.raises(InputError, match="declares no outputs"):
        read(tmp_path, "(declare-const X_0 Real)")


def test_too_many_parts(tmp_path):
    text = "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 20
    with pytest.raises(InputError, match=r"multiply out to 1,048,576 parts"):
        read(tmp_path, HEAD + BOX + text)


def test_files(tmp_path):
    with pytest.raises(FileProblem, match="no such file"):
        read_property(tmp_path / "none.vnnlib")
    with pytest.raises(FileProblem, match="is empty"):
        read(tmp_path, " \n")
    path = tmp_path / "binary.vnnlib"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileProblem, match="is no text"):
        read_property(path)


def test_another_model(tmp_path):
    found = read(tmp_path, HEAD + BOX + "(assert (<= Y_0 0))")
    net = pt.compile([(np.eye(3), np.zeros(3))])
    with pytest.raises(InputError, match="2 inputs and 2 outputs, but the network has 3 and 3"):
        pt.verify(net, found)


def test_competition_files():
    assert len(read_property(data_path("mnistfc", "prop_0_0.03.vnnlib")).parts) == 9
    found = read_property(data_path("acasxu", "prop_1.vnnlib")).parts[0]
    assert found.limits == (Fraction("-3.991125645861615"),)
    assert found.high[0] == Fraction("0.679857769")


VERSION_2 = """; a comment
(vnnlib-version <2.0>)
(declare-network net
  (declare-input X real [3])
  (declare-output Y real [2]))
(assert (and (<= X[0] 1.0) (>= X[0] -0.1) (<= X[1] 1.0) (>= X[1] 0.0) (== X[2] 0.5)))
(assert (or (<= (- Y[0] 0.25) Y[1]) (>= (+ Y[0] (* 2.0 Y[1])) 3.5)))
"""


def test_version_2(tmp_path):
    found = read(tmp_path, VERSION_2)
    assert (found.inputs, found.outputs, len(found.parts)) == (3, 2, 2)
    assert found.parts[0].low == (Fraction(-1, 10), Fraction(0), Fraction(1, 2))
    np.testing.assert_array_equal(found.parts[1].A, [[-1, -2]])
    assert found.parts[0].limits == (Fraction(1, 4),)
    with pytest.raises(InputError, match=r"p\.vnnlib: line 6: Type mismatch"):
        read(tmp_path, VERSION_2.replace("X[1] 0.0", "X[1] 0"))


def test_version_2_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(InputError, match="pip install vnnlib"):
        read(tmp_path, VERSION_2)


class _Node:
    """A node of the stand-in; its class's name is what counts."""

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def __str__(self):
        return type(self).__name__


def _stand_in(constraint: str) -> ModuleType:
    """A module with the interface of `vnnlib`, and one property of one input and one output."""
    kinds = {name: type(name, (_Node,), {}) for name in (
        "And", "Or", "LessEqual", "GreaterEqual", "Equal", "LessThan", "Var", "Float", "Negate",
        "Plus", "Minus", "Multiply",
    )}  # fmt: skip
    x = kinds["Var"](name="X", indices=[0])
    y = kinds["Var"](name="Y", indices=[1, 0])
    number = {v: kinds["Float"](lexeme=v) for v in ("0.1", "-2.0", "3.0")}
    low = kinds["GreaterEqual"](lhs=x, rhs=number["-2.0"])
    box = kinds["And"](args=(low, kinds["LessEqual"](lhs=x, rhs=number["0.1"])))
    total = kinds["Plus"](args=(
        kinds["Multiply"](args=(number["3.0"], y)), kinds["Negate"](expr=y),
        kinds["Minus"](head=y, rest=(number["0.1"],)),
    ))  # fmt: skip
    product = kinds["Multiply"](args=(y, y))
    rows = {
        "linear": kinds["Or"](args=(kinds["Equal"](lhs=total, rhs=number["0.1"]),)),
        "strict": kinds["LessThan"](lhs=y, rhs=number["0.1"]),
        "product": kinds["LessEqual"](lhs=product, rhs=number["0.1"]),
    }
    network = _Node(
        inputs=(_Node(name="X", shape=[1]),), outputs=(_Node(name="Y", shape=[2, 1]),), hidden=()
    )
    query = _Node(
        networks=(network,), assertions=(_Node(expr=box), _Node(expr=rows[constraint]))
    )  # fmt: skip
    module = ModuleType("vnnlib")
    module.parse_query_string = lambda _: query
    module.VNNLibException = type("VNNLibException", (Exception,), {})
    return module


def test_version_2_through_a_stand_in(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vnnlib", _stand_in("linear"))
    found = read(tmp_path, VERSION_2)
    assert (found.inputs, found.outputs) == (1, 2)
    part = found.parts[0]
    assert part.high == (Fraction(1, 10),)
    np.testing.assert_array_equal(part.A, [[0, 3], [0, -3]])
    assert part.limits == (Fraction(1, 5), Fraction(-1, 5))


@pytest.mark.parametrize(
    ("constraint", "message"),
    [("strict", "'LessThan' is not supported"), ("product", "is not linear")],
)
def test_version_2_refusals(tmp_path, monkeypatch, constraint, message):
    monkeypatch.setitem(sys.modules, "vnnlib", _stand_in(constraint))
    with pytest.raises(InputError, match=message):
        read(tmp_path, VERSION_2)
