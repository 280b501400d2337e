"""ONNX files: every operation against onnxruntime, real networks, and bad files."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from polytope.errors import FileProblem, InputError, UnsupportedOperation
from polytope.network.from_layers import read_layers
from polytope.network.from_onnx import read_onnx
from polytope.network.source import Imported
from polytope.network.store import load_graph, save_graph
from tests.data import data_path
from tests.oracle.interpreter import run_graph

FloatType = type[np.float32] | type[np.float64]
#: Operation, inputs, attributes; the output is "y" for the last, else "n<number>".
Step = tuple[Any, ...]


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@dataclass(frozen=True)
class Case:
    """A small model: its steps, its constants, the shape of one input."""

    name: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17
    batch: int | str | None = "N"
    double: bool = True

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """What must be said beside the file: only that there is no batch."""
        return self.shape if self.batch is None else None

    def model(self, dtype: FloatType) -> onnx.ModelProto:
        elem = TensorProto.FLOAT if dtype is np.float32 else TensorProto.DOUBLE
        nodes = []
        for number, (op, inputs, *rest) in enumerate(self.steps):
            attributes = dict(rest[0]) if rest else {}
            last = number == len(self.steps) - 1
            outputs = attributes.pop("outputs", ["y" if last else f"n{number}"])
            if "value" in attributes and isinstance(attributes["value"], np.ndarray):
                attributes["value"] = numpy_helper.from_array(_cast(attributes["value"], dtype))
            if attributes.get("to") == "float":
                attributes["to"] = elem
            nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{number}", **attributes))
        stored = [numpy_helper.from_array(_cast(a, dtype), k) for k, a in self.constants.items()]
        dims = self.shape if self.batch is None else (self.batch, *self.shape)
        graph = helper.make_graph(
            nodes,
            self.name,
            [helper.make_tensor_value_info("x", elem, dims)],
            [helper.make_tensor_value_info("y", elem, None)],
            stored,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnx.shape_inference.infer_shapes(model)

    def write(self, folder: Path, dtype: FloatType = np.float32) -> Path:
        path = folder / f"{self.name}.onnx"
        onnx.save(self.model(dtype), path)
        return path


def _cast(array: np.ndarray, dtype: FloatType) -> np.ndarray:
    return np.array(array.astype(dtype) if array.dtype.kind == "f" else array)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def one(op: str, shape: tuple[int, ...], *more: str, name: str = "", **rest: Any) -> Case:
    """A model of one operation on x and constants."""
    constants = {key: rest.pop(key) for key in more if key}
    opset, batch, double = rest.pop("opset", 17), rest.pop("batch", "N"), rest.pop("double", True)
    return Case(name or op, shape, ((op, ["x", *more], rest),), constants, opset, batch, double)


IMAGE = (2, 7, 6)
MOVES = [
    one("Flatten", (2, 3), name="flatten", axis=1),
    one("Reshape", (2, 3), "s", name="reshape0", s=ints(0, -1)),
    one("Reshape", (2, 3), "s", name="reshape_free", s=ints(-1, 3, 2)),
    one("Reshape", (2, 6), "s", name="reshape_copy", s=ints(0, 0, 3, 2)),
    one("Transpose", (2, 3, 4), name="transpose", perm=[0, 3, 1, 2]),
    one("Squeeze", (1, 3), "a", name="squeeze", a=ints(1)),
    one("Squeeze", (1, 3), name="squeeze_old", axes=[1], opset=11),
    one("Unsqueeze", (3,), "a", name="unsqueeze", a=ints(1, -1)),
    one("Unsqueeze", (3,), name="unsqueeze_old", axes=[1], opset=11),
    one("Slice", (5, 4), "b", "e", "a", "s", name="slice", b=ints(4, 1), e=ints(-99, 3),
        a=ints(1, 2), s=ints(-2, 1)),
    one("Slice", (5, 4), name="slice_old", starts=[1], ends=[-1], axes=[1], opset=9),
    one("Gather", (5, 4), "i", name="gather", i=ints(3, -1, 0, 3), axis=2),
    one("Gather", (5, 4), "i", name="gather_scalar", i=np.array(2), axis=1),
    one("Expand", (1, 4), "s", name="expand", s=ints(1, 3, 4)),
    one("Tile", (2, 3), "r", name="tile", r=ints(1, 2, 2)),
    one("DepthToSpace", (8, 2, 3), name="depth_to_space", blocksize=2),
    one("Pad", (3, 4), "p", "v", name="pad", p=ints(0, 1, 2, 0, 0, 3), v=np.array(0.5)),
    one("Pad", (3, 4), "p", name="pad_zero", p=ints(0, 1, 2, 0, 0, 3)),
    one("Pad", (3, 4), "p", name="pad_cut", p=ints(0, -1, 2, 0, 0, -1)),
    one("Pad", (3, 4), "p", name="pad_reflect", p=ints(0, 1, 2, 0, 2, 3), mode="reflect"),
    one("Pad", (3, 4), "p", name="pad_edge", p=ints(0, 1, 2, 0, 2, 3), mode="edge"),
    one("Pad", (3, 4), "p", "", "a", name="pad_axes", p=ints(1, 2), a=ints(-1), opset=18),
    one("Pad", (3, 4), name="pad_old", pads=[0, 1, 0, 0, 0, 2], value=1.5, opset=10),
    one("Identity", (3,), name="identity"),
    one("Dropout", (3,), name="dropout"),
    one("Dropout", (3,), name="dropout_old", ratio=0.25, opset=10),
    one("Cast", (3,), name="cast", to="float"),
    Case("concat", (2, 3), (("Relu", ["x"]), ("Concat", ["x", "n0", "x"], {"axis": 2}))),
    Case("concat_constant", (2, 3), (("Concat", ["x", "c"], {"axis": 2}),),
         {"c": normal(1, 2, 2)}, batch=1),
    Case("split", (6, 2), (
        ("Split", ["x", "s"], {"axis": 1, "outputs": ["a", "b", "c"]}),
        ("Concat", ["c", "a"], {"axis": 1})), {"s": ints(1, 2, 3)}),
    Case("split_old", (6, 2), (
        ("Split", ["x"], {"axis": 1, "split": [2, 4], "outputs": ["a", "b"]}),
        ("Concat", ["b", "a"], {"axis": 1})), opset=11),
    Case("shape_subgraph", (2, 3, 4), (
        ("Shape", ["x"]), ("Gather", ["n0", "zero"]), ("Unsqueeze", ["n1", "zeros"]),
        ("Concat", ["n2", "free"], {"axis": 0}), ("Reshape", ["x", "n3"])),
        {"zero": np.array(0), "zeros": ints(0), "free": ints(-1)}),
    Case("constant_of_shape", (2, 3), (
        ("Shape", ["x"]), ("ConstantOfShape", ["n0"], {"value": np.array([1.5])}),
        ("Add", ["x", "n1"]))),
    Case("constant_of_shape_zero", (2, 3), (
        ("Shape", ["x"]), ("ConstantOfShape", ["n0"]), ("Cast", ["n1"], {"to": "float"}),
        ("Max", ["x", "n2"]))),
    Case("constant_node", (3,), (
        ("Constant", [], {"value": normal(3)}), ("Sub", ["n0", "x"]))),
]  # fmt: skip

AFFINE = [
    one("Gemm", (4,), "w", "b", name="gemm", w=normal(4, 3), b=normal(3)),
    one("Gemm", (4,), "w", "b", name="gemm_scaled", w=normal(3, 4), b=normal(1, 3), transB=1,
        alpha=0.3, beta=1.7),
    one("Gemm", (4,), "w", name="gemm_plain", w=normal(4, 3)),
    Case("gemm_left", (4, 3), (("Gemm", ["w", "x"], {"transA": 1, "transB": 1}),),
         {"w": normal(3, 2)}, batch=None),
    Case("gemm_value_bias", (3,), (("Relu", ["x"]), ("Gemm", ["x", "w", "n0"], {"beta": 0.5})),
         {"w": normal(3, 3)}),
    one("MatMul", (4,), "w", name="matmul", w=normal(4, 3)),
    one("MatMul", (2, 4), "w", name="matmul_stack", w=normal(1, 4, 3)),
    one("MatMul", (2, 4), "w", name="matmul_vector", w=normal(4)),
    Case("matmul_left", (4, 3), (("MatMul", ["w", "x"]),), {"w": normal(2, 4)}),
    Case("matmul_left_vector", (4, 3), (("MatMul", ["w", "x"]),), {"w": normal(4)}),
    Case("matmul_add", (4,), (("MatMul", ["x", "w"]), ("Add", ["b", "n0"])),
         {"w": normal(4, 3), "b": normal(3)}),
    one("Add", (2, 3), "c", name="add", c=normal(2, 1)),
    one("Add", (2, 1), "c", name="add_wider", c=normal(3)),
    one("Sub", (3,), "c", name="sub", c=normal(3)),
    Case("sub_from", (3,), (("Sub", ["c", "x"]),), {"c": normal(3)}),
    one("Mul", (2, 3), "c", name="mul", c=normal(2, 3)),
    Case("mul_left", (2, 3), (("Mul", ["c", "x"]),), {"c": np.array(-2.5)}),
    one("Div", (3,), "c", name="div_powers", c=np.array([0.5, -4.0, 1.0])),
    one("Div", (3,), "c", name="div_whole", c=np.array([3.0, -255.0, 7.0])),
    one("Div", (3,), "c", name="div_rounded", c=np.array([0.3, -1.7, 2.0])),
    one("Neg", (3,), name="neg"),
    Case("add_values", (2, 3), (("Relu", ["x"]), ("Neg", ["x"]), ("Add", ["n0", "n1"]))),
    Case("sub_values", (2, 3), (("Relu", ["x"]), ("Sub", ["n0", "x"]))),
    Case("sum", (3,), (("Relu", ["x"]), ("Sum", ["x", "c", "n0", "x"])), {"c": normal(3)}),
    Case("mean", (3,), (("Relu", ["x"]), ("Mean", ["x", "n0", "x"]))),
    Case("mean_constant", (3,), (("Relu", ["x"]), ("Mean", ["x", "n0", "c", "x"])),
         {"c": normal(3)}),
    one("BatchNormalization", IMAGE, "g", "b", "m", "v", name="batch_norm", epsilon=1e-3,
        g=normal(2), b=normal(2, seed=2), m=normal(2, seed=3), v=normal(2) ** 2),
    one("BatchNormalization", (5,), "g", "b", "m", "v", name="batch_norm_flat", opset=8,
        g=normal(5), b=normal(5, seed=2), m=normal(5, seed=3), v=normal(5) ** 2),
    Case("folded", (3,), (("Sqrt", ["c"]), ("Div", ["d", "n0"]), ("Mul", ["x", "n1"])),
         {"c": normal(3) ** 2, "d": normal(3)}),
]  # fmt: skip

W2 = normal(4, 2, 3, 2)
CONVOLUTIONS = [
    one("Conv", IMAGE, "w", "b", name="conv", w=W2, b=normal(4)),
    one("Conv", IMAGE, "w", name="conv_strided", w=W2, strides=[2, 1], pads=[1, 2, 1, 2],
        dilations=[2, 1]),
    one("Conv", IMAGE, "w", "b", name="conv_uneven", w=W2, b=normal(4), pads=[0, 1, 2, 0]),
    one("Conv", IMAGE, "w", name="conv_groups", w=normal(4, 1, 3, 3), group=2),
    one("Conv", IMAGE, "w", name="conv_same_upper", w=W2, auto_pad="SAME_UPPER", strides=[2, 2]),
    one("Conv", IMAGE, "w", name="conv_same_lower", w=W2, auto_pad="SAME_LOWER"),
    one("Conv", IMAGE, "w", name="conv_valid", w=W2, auto_pad="VALID"),
    one("Conv", (2, 9), "w", name="conv1d", w=normal(3, 2, 4), pads=[2, 1]),
    one("Conv", (1, 4, 4, 3), "w", name="conv3d", w=normal(2, 1, 2, 2, 2)),
    one("ConvTranspose", (4, 4, 3), "w", "b", name="conv_t", w=W2, b=normal(2)),
    one("ConvTranspose", (4, 4, 3), "w", "b", name="conv_t_strided", w=W2, b=normal(2),
        strides=[2, 3], pads=[1, 1, 1, 1], output_padding=[1, 2], dilations=[2, 1]),
    one("ConvTranspose", (4, 4, 3), "w", "b", name="conv_t_uneven", w=W2, b=normal(2),
        strides=[2, 2], pads=[0, 1, 2, 0], output_padding=[1, 0]),
    one("ConvTranspose", (4, 4, 3), "w", name="conv_t_groups", w=W2, group=2,
        double=False),
    one("ConvTranspose", (4, 4, 3), "w", name="conv_t_shape", w=W2, strides=[2, 2],
        output_shape=[8, 5], double=False),
    one("ConvTranspose", (4, 4, 3), "w", name="conv_t_same", w=W2, strides=[2, 1],
        auto_pad="SAME_UPPER"),
    one("ConvTranspose", (4, 4, 3), "w", name="conv_t_same_lower", w=W2, strides=[2, 1],
        auto_pad="SAME_LOWER"),
    one("ConvTranspose", (2, 5), "w", name="conv_t_1d", w=normal(2, 3, 4), strides=[3]),
]  # fmt: skip

POOLS = [
    one("AveragePool", IMAGE, name="avg", kernel_shape=[3, 2], strides=[2, 2]),
    one("AveragePool", IMAGE, name="avg_padded", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    one("AveragePool", IMAGE, name="avg_counted", kernel_shape=[3, 3], pads=[1, 0, 2, 1],
        count_include_pad=1),
    one("AveragePool", IMAGE, name="avg_ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    one("AveragePool", IMAGE, name="avg_ceil_padded", kernel_shape=[3, 3], strides=[2, 2],
        ceil_mode=1, pads=[1, 1, 1, 1], opset=19),
    one("AveragePool", IMAGE, name="avg_same", kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    one("MaxPool", IMAGE, name="max", kernel_shape=[3, 2], strides=[2, 2]),
    one("MaxPool", IMAGE, name="max_padded", kernel_shape=[3, 3], pads=[1, 0, 1, 2]),
    one("MaxPool", IMAGE, name="max_dilated", kernel_shape=[2, 2], dilations=[3, 2]),
    one("MaxPool", IMAGE, name="max_ceil", kernel_shape=[3, 3], strides=[3, 2], ceil_mode=1,
        pads=[1, 1, 1, 1]),
    one("MaxPool", IMAGE, name="max_same", kernel_shape=[3, 3], strides=[2, 2],
        auto_pad="SAME_UPPER"),
    one("MaxPool", (2, 9), name="max_1d", kernel_shape=[2], strides=[2]),
    one("GlobalAveragePool", IMAGE, name="global_avg"),
    one("GlobalMaxPool", IMAGE, name="global_max"),
    one("ReduceMean", (2, 3, 4), name="reduce_mean", axes=[2, -1], keepdims=0),
    one("ReduceMean", (2, 3, 4), "a", name="reduce_mean_18", a=ints(1), opset=18),
    one("ReduceSum", (2, 3, 4), "a", name="reduce_sum", a=ints(1, 3), keepdims=0),
    one("ReduceSum", (2, 3), "a", name="reduce_none", a=ints(), noop_with_empty_axes=1),
    one("ReduceSum", (2, 3), name="reduce_all", batch=1),
    one("ReduceMax", (2, 3, 4), name="reduce_max", axes=[1], keepdims=0),
    one("ReduceMin", (2, 3, 4), "a", name="reduce_min", a=ints(-1), opset=18),
]  # fmt: skip

NONLINEAR = [
    one("Relu", (5,), name="relu"),
    one("Abs", (5,), name="abs"),
    one("LeakyRelu", (5,), name="leaky_relu", alpha=0.2),
    one("LeakyRelu", (5,), name="leaky_relu_default"),
    one("PRelu", (2, 3, 3), "s", name="prelu", s=np.array([-0.5, 1.5]).reshape(2, 1, 1)),
    one("PRelu", (4,), "s", name="prelu_one", s=np.array([0.3])),
    one("PRelu", (4,), "s", name="prelu_batch", s=normal(1, 4), batch=1),
    one("Clip", (5,), "a", "b", name="clip", a=np.array(-0.5), b=np.array(0.25)),
    one("Clip", (5,), "", "b", name="clip_above", b=np.array(0.25)),
    one("Clip", (5,), "a", name="clip_below", a=np.array(0.25)),
    one("Clip", (5,), name="clip_old", min=-0.5, max=0.5, opset=10),
    one("HardSigmoid", (5,), name="hard_sigmoid"),
    one("HardSigmoid", (5,), name="hard_sigmoid_own", alpha=0.3, beta=0.4),
    Case("maximum", (2, 3), (("Neg", ["x"]), ("Max", ["x", "n0", "c"])), {"c": normal(3)}),
    Case("minimum", (2, 3), (("Mul", ["x", "d"]), ("Min", ["c", "x", "n0"])),
         {"c": normal(3), "d": np.array(0.5)}),
    one("Max", (2, 3), "c", name="max_scalar", c=np.array(0.1)),
    one("Min", (2, 3), "c", name="min_scalar", c=np.array([0.1])),
    one("Max", (1, 3), "c", name="max_wider", c=normal(1, 2, 3), batch=1),
    Case("smooth", (4,), (
        ("Sigmoid", ["x"]), ("Tanh", ["n0"]), ("Atan", ["n1"]), ("Softplus", ["n2"]),
        ("Elu", ["n3"], {"alpha": 0.7}), ("Neg", ["n4"]), ("Elu", ["n5"]))),
]  # fmt: skip

ALL = [*MOVES, *AFFINE, *CONVOLUTIONS, *POOLS, *NONLINEAR]


def forward(imported: Imported, inputs: np.ndarray) -> np.ndarray:
    return np.stack([run_graph(imported.graph, x) for x in inputs])


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_operation_agrees_with_onnxruntime_in_float32(case: Case, tmp_path: Path) -> None:
    inputs = normal(4, *case.shape, seed=5).astype(np.float32)
    imported = read_onnx(case.write(tmp_path), case.input_shape)
    assert imported.native is not None
    native, outputs = imported.native(inputs), forward(imported, inputs)
    assert imported.graph.input_shape == case.shape
    assert imported.native_dtype == np.float32
    assert native.dtype == np.float64
    assert native.shape == (4, *imported.graph.output_shape)
    np.testing.assert_allclose(outputs, native, rtol=1e-5, atol=1e-5)
    assert (imported.reference is not None) == case.double
    if imported.reference is not None:
        np.testing.assert_allclose(outputs, imported.reference(inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [c for c in ALL if c.double], ids=lambda case: case.name)
def test_operation_agrees_with_the_source_in_float64(case: Case, tmp_path: Path) -> None:
    inputs = normal(4, *case.shape, seed=5)
    imported = read_onnx(case.write(tmp_path, np.float64), case.input_shape)
    assert imported.native_dtype == np.float64
    assert imported.native is not None
    native = imported.native(inputs)
    np.testing.assert_allclose(forward(imported, inputs), native, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_what_is_read_can_be_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    graph = read_onnx(case.write(tmp_path), case.input_shape).graph
    save_graph(graph, tmp_path / "saved.npz")
    loaded = load_graph(tmp_path / "saved.npz")
    assert loaded.hash == graph.hash
    x = normal(*case.shape, seed=6)
    assert np.array_equal(run_graph(loaded, x), run_graph(graph, x))


# Real networks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "shape", "outputs", "units"),
    [
        (("acasxu", "ACASXU_run2a_1_1_batch_2000.onnx"), (1, 1, 5), 5, 300),
        (("acasxu", "ACASXU_run2a_3_9_batch_2000.onnx"), (1, 1, 5), 5, 300),
        (("mnistfc", "mnist-net_256x2.onnx"), (784, 1), 10, 512),
        (("digits", "digits_64_32_32_10.onnx"), (64,), 10, 64),
    ],
)
def test_real_networks(
    parts: tuple[str, ...], shape: tuple[int, ...], outputs: int, units: int
) -> None:
    imported = read_onnx(data_path(*parts))
    assert imported.graph.input_shape == shape
    assert imported.graph.output_shape == (outputs,)
    assert sum(layer.units for layer in imported.graph.layers) == units
    assert imported.head is None
    assert imported.native is not None
    assert imported.reference is not None
    inputs = np.random.default_rng(0).random((5, *shape)).astype(np.float32)
    result = forward(imported, inputs)
    scale = np.abs(result).max()
    np.testing.assert_allclose(result, imported.native(inputs), rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(result, imported.reference(inputs), rtol=0, atol=1e-13 * scale)


def test_the_digits_network_is_the_graph_of_its_layers() -> None:
    model = onnx.load(data_path("digits", "digits_64_32_32_10.onnx"))
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = [(arrays[f"W{i}"].T, arrays[f"b{i}"]) for i in range(3)]
    read = read_onnx(data_path("digits", "digits_64_32_32_10.onnx")).graph
    assert read.hash == read_layers(layers).graph.hash


# The meaning of a model --------------------------------------------------------------------

WEIGHT, BIAS = normal(4, 3), normal(3)
LOGITS: Step = ("Gemm", ["x", "w", "b"])
CONSTANTS = {"w": WEIGHT, "b": BIAS}


def test_equal_networks_written_differently_are_the_same_graph(tmp_path: Path) -> None:
    plain = Case("gemm", (4,), (LOGITS,), CONSTANTS)
    split = Case("split", (4,), (("MatMul", ["x", "w"]), ("Add", ["n0", "b"])), CONSTANTS)
    turned = Case(
        "turned",
        (4,),
        (("Identity", ["x"]), ("Reshape", ["n0", "s"]), ("Gemm", ["n1", "t", "b"], {"transB": 1})),
        {"t": WEIGHT.T.copy(), "b": BIAS, "s": ints(-1, 4)},
    )
    hashes = {read_onnx(case.write(tmp_path)).graph.hash for case in (plain, split, turned)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("op", "attributes", "opset", "head"),
    [
        ("Softmax", {"axis": 1}, 17, "softmax"),
        ("Softmax", {}, 11, "softmax"),
        ("LogSoftmax", {"axis": -1}, 13, "log_softmax"),
        ("Sigmoid", {}, 17, "sigmoid"),
    ],
)
def test_a_trailing_head_is_taken_off(
    op: str, attributes: dict[str, Any], opset: int, head: str, tmp_path: Path
) -> None:
    steps = (LOGITS, (op, ["n0"], attributes), ("Identity", ["n1"]))
    imported = read_onnx(Case("head", (4,), steps, CONSTANTS, opset).write(tmp_path))
    assert imported.head == head
    assert any(f"the trailing {op}" in notice for notice in imported.notices)
    x = normal(2, 4).astype(np.float32)
    logits = forward(imported, x)
    np.testing.assert_allclose(logits, x @ WEIGHT.astype(np.float32) + BIAS, atol=1e-6)
    exponentials = np.exp(logits)
    share = exponentials / exponentials.sum(axis=1, keepdims=True)
    expected = {
        "softmax": share,
        "log_softmax": np.log(share),
        "sigmoid": 1 / (1 + 1 / exponentials),
    }
    assert imported.native is not None
    np.testing.assert_allclose(imported.native(x), expected[head], atol=1e-6)


def test_a_softmax_over_part_of_the_outputs_is_refused(tmp_path: Path) -> None:
    case = one("Softmax", (2, 3), name="soft", axis=1)
    with pytest.raises(UnsupportedOperation, match=r"Softmax .*over all outputs"):
        read_onnx(case.write(tmp_path))


def test_rounded_constants_are_told(tmp_path: Path) -> None:
    rounded = next(case for case in AFFINE if case.name == "div_rounded")
    exact = next(case for case in AFFINE if case.name == "div_whole")
    norm = next(case for case in AFFINE if case.name == "batch_norm")
    assert any("Div" in notice for notice in read_onnx(rounded.write(tmp_path)).notices)
    assert not read_onnx(exact.write(tmp_path)).notices
    assert any("BatchNorm" in notice for notice in read_onnx(norm.write(tmp_path)).notices)


def test_constants_are_read_exactly(tmp_path: Path) -> None:
    graph = read_onnx(Case("exact", (4,), (LOGITS,), CONSTANTS).write(tmp_path)).graph
    (node,) = graph.nodes[1:]
    assert np.array_equal(graph.constants[node.op.weight], WEIGHT.T.astype(np.float32))  # type: ignore[union-attr]


def test_weights_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    model = Case("old", (4,), (LOGITS,), CONSTANTS).model(np.float32)
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    onnx.save(model, tmp_path / "old.onnx")
    assert read_onnx(tmp_path / "old.onnx").graph.input_shape == (4,)


def test_nodes_that_the_output_does_not_need_are_not_read(tmp_path: Path) -> None:
    steps = (("Floor", ["x"], {"outputs": ["unused"]}), LOGITS)
    graph = read_onnx(Case("dead", (4,), steps, CONSTANTS).write(tmp_path)).graph
    assert len(graph.nodes) == 2


def test_functions_of_the_model_are_inlined(tmp_path: Path) -> None:
    model = Case("function", (4,), (("Relu", ["x"]),)).model(np.float32)
    double = helper.make_function(
        "own", "Twice", ["a"], ["c"], [helper.make_node("Add", ["a", "a"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model.functions.append(double)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Twice", "own"
    onnx.save(model, tmp_path / "function.onnx")
    x = normal(4)
    np.testing.assert_allclose(run_graph(read_onnx(tmp_path / "function.onnx").graph, x), 2 * x)


# Shapes and batches ------------------------------------------------------------------------


def test_input_shape_fills_open_sizes(tmp_path: Path) -> None:
    case = one("ReduceMean", ("height", 3), name="open", axes=[1], keepdims=0)  # type: ignore[arg-type]
    path = case.write(tmp_path)
    assert read_onnx(path, (5, 3)).graph.input_shape == (5, 3)
    with pytest.raises(InputError, match=r"shape \(\?, \?, 3\) with sizes left open"):
        read_onnx(path)
    with pytest.raises(InputError, match=r"input_shape \(5, 4\) does not fit .* \(\?, \?, 3\)"):
        read_onnx(path, (5, 4))
    with pytest.raises(InputError, match=r"input_shape \(3,\) does not fit"):
        read_onnx(path, (3,))
    with pytest.raises(InputError, match="whole numbers above 0"):
        read_onnx(path, (0, 3))


def test_a_model_of_one_axis_has_no_batch(tmp_path: Path) -> None:
    imported = read_onnx(one("MatMul", (4,), "w", w=WEIGHT, batch=None).write(tmp_path))
    assert imported.graph.input_shape == (4,)
    x = normal(3, 4)
    assert imported.native is not None
    np.testing.assert_allclose(imported.native(x), forward(imported, x), atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 3, 7])
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_native_takes_any_number_of_rows(batch: int | str, rows: int, tmp_path: Path) -> None:
    imported = read_onnx(Case("rows", (4,), (LOGITS,), CONSTANTS, batch=batch).write(tmp_path))
    assert any("batches of 3" in notice for notice in imported.notices) == (batch == 3)
    x = normal(rows, 4)
    assert imported.native is not None
    expected = (x @ WEIGHT + BIAS).reshape(rows, 3)
    np.testing.assert_allclose(imported.native(x), expected, atol=1e-5)


def test_a_free_batch_that_is_fixed_inside_runs_row_by_row(tmp_path: Path) -> None:
    steps = (("Reshape", ["x", "s"]), ("Gemm", ["n0", "w", "b"]))
    case = Case("baked", (2, 2), steps, {**CONSTANTS, "s": ints(1, 4)})
    imported = read_onnx(case.write(tmp_path))
    x = normal(3, 2, 2)
    assert imported.native is not None
    np.testing.assert_allclose(imported.native(x), forward(imported, x), atol=1e-6)


def test_a_kernel_that_does_not_fit_is_named(tmp_path: Path) -> None:
    case = one("Conv", (2, "height", "width"), "w", name="conv", w=W2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Conv_0: filters of shape .* do not fit"):
        read_onnx(case.write(tmp_path), (2, 2, 9))


def test_a_fixed_batch_inside_the_model_is_named(tmp_path: Path) -> None:
    case = one("Reshape", (2, 2), "s", name="baked", s=ints(8, 4), batch=8)
    with pytest.raises(InputError, match=r"Reshape \(node 'Reshape_0', output 'y'\) does not fit"):
        read_onnx(case.write(tmp_path))


def test_without_onnxruntime_numpy_runs_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    imported = read_onnx(Case("slow", (4,), (LOGITS,), CONSTANTS).write(tmp_path))
    x = normal(3, 4)
    assert imported.native is not None
    np.testing.assert_allclose(imported.native(x), forward(imported, x), atol=1e-6)


def test_a_missing_onnx_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnx.inliner", None)
    with pytest.raises(InputError, match="pip install onnx"):
        read_onnx("model.onnx")


# What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (one("Floor", (3,)), r"Floor \(node 'Floor_0', output 'y'\): not supported"),
        (Case("square", (3,), (("Mul", ["x", "x"]),)), "Mul .*product of two computed"),
        (Case("quotient", (3,), (("Div", ["c", "x"]),), {"c": normal(3)}), "Div .*not piecewise"),
        (Case("gram", (3, 3), (("MatMul", ["x", "x"]),)), "MatMul .*product of two computed"),
        (one("MatMul", (2, 3, 4), "w", w=normal(2, 4, 3)), "MatMul .*stack of matrices"),
        (Case("attention", (3,), (("Softmax", ["x"]), ("Neg", ["n0"]))), "Softmax .*last"),
        (Case("random", (3,), (("RandomNormalLike", ["x"]), ("Add", ["x", "n0"]))), "Random"),
        (Case("indices", (2, 4, 4), (
            ("MaxPool", ["x"], {"kernel_shape": [2, 2], "outputs": ["m", "i"]}),
            ("Cast", ["i"], {"to": "float"}))), "MaxPool .*further output 'i'"),
        (Case("training", (3,), (("Dropout", ["x", "", "t"]),), {"t": np.array(True)}),
         "Dropout .*training mode"),
        (Case("gathered", (3,), (("Cast", ["x"], {"to": TensorProto.INT64}),
                                 ("Gather", ["x", "n0"]))), "Cast .*cast to INT64"),
        (one("RNN", (1, 3), "w", "r", w=normal(1, 2, 3), r=normal(1, 2, 2), hidden_size=2,
             activations=["Relu"], outputs=["y"]), "RNN .*not supported"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)  # fmt: skip
def test_what_is_not_piecewise_linear_is_refused_by_name(
    case: Case, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedOperation, match=message):
        read_onnx(case.write(tmp_path))


def _edited(tmp_path: Path, **changes: Any) -> Path:
    """A valid model with some fields set or emptied."""
    model = Case("edited", (4,), (LOGITS,), CONSTANTS).model(np.float32)
    for name, value in changes.items():
        if name == "opset":
            model.opset_import[0].version = value
        elif name == "ir_version":
            model.ir_version = value
        elif name == "op_type":
            model.graph.node[0].op_type = value
        elif name == "domain":
            model.graph.node[0].domain = value
            model.opset_import.append(helper.make_opsetid(value, 1))
        elif name == "input_type":
            model.graph.input[0].type.tensor_type.elem_type = value
        elif name in ("input", "output"):
            getattr(model.graph, name).append(value)
    path = tmp_path / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"opset": 6}, UnsupportedOperation, "operation set 6, and 7 to"),
        ({"opset": 9999}, UnsupportedOperation, "operation set 9999"),
        ({"ir_version": 9999}, UnsupportedOperation, "version 9999, newer than"),
        ({"op_type": "Frobnicate"}, UnsupportedOperation, "Frobnicate .*no such operation"),
        ({"domain": "com.acme"}, UnsupportedOperation, "Gemm .*domain 'com.acme'"),
        ({"input_type": TensorProto.INT64}, InputError, "type int64"),
        ({"input_type": TensorProto.FLOAT16}, InputError, "type float16"),
        ({"input": helper.make_tensor_value_info("z", 1, [1])}, InputError, r"2 inputs \(x, z\)"),
        ({"output": helper.make_tensor_value_info("x", 1, [1])}, InputError, r"2 outputs \(y, x\)"),
    ],
)
def test_models_of_other_kinds_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        read_onnx(_edited(tmp_path, **changes))


def test_an_output_that_is_constant_is_refused(tmp_path: Path) -> None:
    case = Case("constant", (3,), (("Neg", ["c"]),), {"c": normal(1, 3)})
    with pytest.raises(InputError, match="does not depend on its input"):
        read_onnx(case.write(tmp_path))


def test_nan_in_the_weights_is_named(tmp_path: Path) -> None:
    case = Case("nan", (4,), (LOGITS,), {"w": np.full((4, 3), np.nan), "b": BIAS})
    with pytest.raises(InputError, match=r"NaN or infinity \(in w, 12 of 12 values\)"):
        read_onnx(case.write(tmp_path))


# Bad files ---------------------------------------------------------------------------------


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = _edited(tmp_path).read_bytes()
    for name, content, message in (
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"this is a letter, not a network", "not an ONNX"),
        ("noise.onnx", np.random.default_rng(0).bytes(500), "not an ONNX"),
        ("cut.onnx", good[:-40], "not an ONNX"),
        ("half.onnx", good[: len(good) // 2], "not an ONNX"),
        ("tensor.onnx", numpy_helper.from_array(BIAS).SerializeToString(), "not an ONNX"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FileProblem, match=message) as caught:
            read_onnx(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileProblem, match="there is no file"):
        read_onnx(tmp_path / "missing.onnx")
    with pytest.raises(FileProblem, match="not a file"):
        read_onnx(tmp_path)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    good = _edited(tmp_path).read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(good) - 1, 7):
        path.write_bytes(good[:length])
        with pytest.raises((FileProblem, UnsupportedOperation)):
            read_onnx(path)


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = Case("wiring", (4,), (LOGITS,), CONSTANTS).model(np.float32)
    model.graph.node[0].input[1] = "nowhere"
    path = tmp_path / "wiring.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileProblem, match="not a valid ONNX model"):
        read_onnx(path)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    case = Case("outside", (4,), (LOGITS,), CONSTANTS)
    folder = tmp_path / "inside"
    folder.mkdir()
    path = tmp_path / "outside.onnx"
    onnx.save(
        case.model(np.float32), path, save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    assert read_onnx(path).graph.hash == read_onnx(case.write(folder)).graph.hash
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(FileProblem, match=r"outside\.onnx"):
        read_onnx(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FileProblem, match=r"outside\.onnx"):
        read_onnx(path)
