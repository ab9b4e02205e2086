"""Each operation against torch's or numpy's own, and what each refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hydra_export import mil
from hydra_export.errors import CheckFailed
from hydra_export.mil.operation import names
from tests.mil.conftest import (
    add_const,
    add_input,
    add_operation,
    add_output,
    dtype_of,
    new_model,
    set_type,
    set_value,
    write_package,
)


@dataclass(frozen=True)
class Case:
    """An operation with everything that it takes, and what torch makes of it.

    Attributes:
        values: what comes while the program runs.
        constants: what stands in the program; a pair where the dtype does not follow from the array.
    """

    kind: str
    values: dict[str, Any]
    constants: dict[str, Any]
    expected: Callable[..., Any]
    ios: int = 18

    def __str__(self) -> str:
        return f"{self.kind}-{'-'.join(f'{name}={_short(value)}' for name, value in self.constants.items())}"


def _short(value: Any) -> str:
    text = str(value.shape if isinstance(value, np.ndarray) and value.size > 5 else value)
    return text.replace(" ", "").replace("\n", "")[:24]


def f16(values: Any) -> NDArray[np.float16]:
    return np.array(values, np.float16)


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def i8(values: Any) -> NDArray[np.int8]:
    return np.array(values, np.int8)


def u8(values: Any) -> NDArray[np.uint8]:
    return np.array(values, np.uint8)


def u32(values: Any) -> NDArray[np.uint32]:
    return np.array(values, np.uint32)


_random = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return _random.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> NDArray[np.int32]:
    return np.array(numbers, np.int32)


def number(value: int) -> NDArray[np.int32]:
    return np.array(value, np.int32)


def flags(*values: bool) -> NDArray[np.bool_]:
    return np.array(values)


def yes(value: bool = True) -> NDArray[np.bool_]:
    return np.array(value)


def small(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[1:], gamma, beta, eps)


def _in_integers(input: Tensor, scale: Tensor, output_dtype: str, zero_point: Any = 0, axis: int = -1) -> Tensor:
    dtype = {"int8": torch.int8, "uint8": torch.uint8}[output_dtype]
    ends = torch.iinfo(dtype)
    integers: Tensor = (input / scale).round() + zero_point
    return integers.clamp(ends.min, ends.max).to(dtype)


_masks = {"begin_mask": flags(True, False, False), "end_mask": flags(False, True, False)}
CASES = [
    Case("add", {"x": normal(2, 3), "y": normal(3)}, {}, lambda x, y: x + y),
    Case("add", {"x": ints(1, 2), "y": ints(3, -4)}, {}, lambda x, y: x + y),
    Case("add", {"x": normal(2, 1, 3)}, {"y": normal(4, 1)}, lambda x, y: x + y),
    Case("sub", {"x": normal(2, 3), "y": normal(2, 1)}, {}, lambda x, y: x - y),
    Case("mul", {"x": normal(2, 3), "y": normal(2, 3)}, {}, lambda x, y: x * y),
    Case("mul", {"x": normal(2, 3)}, {"y": small(0.25)}, lambda x, y: x * y),
    Case("real_div", {"x": normal(2, 3), "y": normal(1, 3)}, {}, lambda x, y: x / y),
    Case("identity", {"x": normal(2, 3)}, {}, lambda x: x),
    Case("erf", {"x": normal(5, 7)}, {}, torch.erf),
    Case("rsqrt", {"x": np.abs(normal(3, 4)) + 0.1}, {}, lambda x: torch.rsqrt(x + 1e-12)),
    Case("rsqrt", {"x": np.abs(normal(3, 4))}, {"epsilon": small(0.5)}, lambda x, epsilon: torch.rsqrt(x + 0.5)),
    Case("gelu", {"x": 3 * normal(5, 7)}, {}, F.gelu),
    Case("gelu", {"x": 3 * normal(5, 7)}, {"mode": "EXACT"}, lambda x, mode: F.gelu(x)),
    Case(
        "gelu", {"x": 3 * normal(5, 7)}, {"mode": "TANH_APPROXIMATION"}, lambda x, mode: F.gelu(x, approximate="tanh")
    ),
    Case(
        "gelu",
        {"x": 3 * normal(5, 7)},
        {"mode": "SIGMOID_APPROXIMATION"},
        lambda x, mode: x * torch.sigmoid(1.702 * x),
    ),
    Case("relu", {"x": normal(5, 7)}, {}, lambda x: F.relu(x)),
    Case("silu", {"x": f32([-200, -3, -0.5, 0, 2, 200])}, {}, lambda x: F.silu(x)),
    Case("cast", {"x": 9 * normal(5)}, {"dtype": "int32"}, lambda x, dtype: x.int()),
    Case("cast", {"x": ints(0, 3, -2)}, {"dtype": "fp32"}, lambda x, dtype: x.float()),
    Case("cast", {"x": ints(0, 3)}, {"dtype": "bool"}, lambda x, dtype: x.bool()),
    Case("softmax", {"x": 5 * normal(2, 3, 4)}, {}, lambda x: x.softmax(-1)),
    Case("softmax", {"x": 500 * normal(2, 3, 4)}, {"axis": number(-2)}, lambda x, axis: x.softmax(1)),
    Case("layer_norm", {"x": normal(2, 3)}, {}, lambda x: F.layer_norm(x.flatten(), (6,)).reshape(2, 3)),
    Case(
        "layer_norm",
        {"x": normal(2, 3, 4)},
        {"axes": ints(-1, 1), "gamma": normal(3, 4), "beta": normal(3, 4), "epsilon": small(0.125)},
        lambda x, axes, gamma, beta, epsilon: _layer_norm(x, gamma, beta, 0.125),
    ),
    Case(
        "layer_norm",
        {"x": normal(3, 4)},
        {"axes": ints(0), "gamma": normal(3)},
        lambda x, axes, gamma: (F.layer_norm(x.T, (3,)) * gamma).T,
    ),
    Case("reduce_mean", {"x": normal(2, 3, 4)}, {"axes": ints(-1, 0)}, lambda x, axes: x.mean((0, 2))),
    Case("reduce_mean", {"x": normal(2, 3)}, {"keep_dims": yes()}, lambda x, keep_dims: x.mean((0, 1), keepdim=True)),
    Case("reduce_max", {"x": normal(2, 3, 4)}, {"axes": ints(-1, 0)}, lambda x, axes: x.amax((0, 2))),
    Case("reduce_max", {"x": normal(2, 3)}, {"keep_dims": yes()}, lambda x, keep_dims: x.amax((0, 1), keepdim=True)),
    Case("reduce_max", {"x": ints(4, -7)}, {}, lambda x: x.max()),
    Case(
        "concat",
        {"values": [normal(2, 3), normal(2, 1)]},
        {"axis": number(-1)},
        lambda values, axis: torch.cat(values, 1),
    ),
    Case(
        "concat",
        {"values": [normal(2, 3)]},
        {"axis": number(0), "interleave": yes(False)},
        lambda values, **_: values[0],
    ),
    Case("reshape", {"x": normal(2, 3, 4)}, {"shape": ints(0, -1, 2)}, lambda x, shape: x.reshape(2, 6, 2)),
    Case("reshape", {"x": normal(2, 6)}, {"shape": ints(3, 4)}, lambda x, shape: x.reshape(3, 4)),
    Case("transpose", {"x": normal(2, 3, 4)}, {"perm": ints(2, 0, 1)}, lambda x, perm: x.permute(2, 0, 1)),
    Case("transpose", {"x": normal(2, 3, 4)}, {"perm": ints(0, -1, 1)}, lambda x, perm: x.permute(0, 2, 1)),
    Case("squeeze", {"x": normal(1, 3, 1)}, {}, lambda x: x.squeeze()),
    Case("squeeze", {"x": normal(1, 3, 1)}, {"axes": ints(-1)}, lambda x, axes: x.squeeze(2)),
    Case("expand_dims", {"x": normal(3, 4)}, {"axes": ints(0, -1)}, lambda x, axes: x[None, ..., None]),
    Case("expand_dims", {"x": normal(3, 4)}, {"axes": ints(1, 2)}, lambda x, axes: x[:, None, None]),
    Case("split", {"x": normal(2, 6)}, {"num_splits": number(3), "axis": number(1)}, lambda x, **_: x.split(2, 1)),
    Case("split", {"x": normal(5, 2)}, {"split_sizes": ints(1, 4), "axis": number(-2)}, lambda x, **_: x.split([1, 4])),
    Case(
        "slice_by_index",
        {"x": normal(5, 4, 3)},
        {"begin": ints(1, -3, 0), "end": ints(-1, 4, 3), "stride": ints(2, 1, 2)},
        lambda x, **_: x[1:-1:2, 1:4, 0:3:2],
    ),
    Case(
        "slice_by_index",
        {"x": normal(5, 4, 3)},
        {"begin": ints(3, 1, -1), "end": ints(4, 0, 0), **_masks, "squeeze_mask": flags(False, False, True)},
        lambda x, **_: x[:4, 1:, -1],
    ),
    Case(
        "slice_by_index",
        {"x": normal(3)},
        {"begin": ints(2), "end": ints(0), "squeeze_mask": flags(True)},
        lambda x, **_: x[2],
    ),
    Case("slice_by_size", {"x": normal(5, 4)}, {"begin": ints(-2, 1), "size": ints(-1, 2)}, lambda x, **_: x[-2:, 1:3]),
    Case("matmul", {"x": normal(2, 3, 4), "y": normal(4, 5)}, {}, lambda x, y: x @ y),
    Case(
        "matmul",
        {"x": normal(2, 1, 4, 3), "y": normal(3, 5, 4)},
        {"transpose_x": yes(), "transpose_y": yes()},
        lambda x, y, **_: x.mT @ y.mT,
    ),
    Case("linear", {"x": normal(2, 3, 4)}, {"weight": normal(5, 4), "bias": normal(5)}, F.linear),
    Case("linear", {"x": normal(4)}, {"weight": normal(5, 4)}, F.linear),
    Case(
        "conv",
        {"x": normal(2, 3, 8, 8)},
        {"weight": normal(4, 3, 4, 4), "bias": normal(4), "strides": ints(4, 4)},
        lambda x, weight, bias, strides: F.conv2d(x, weight, bias, 4),
    ),
    Case(
        "conv",
        {"x": normal(1, 4, 9, 7)},
        {
            "weight": normal(6, 2, 3, 2),
            "strides": ints(2, 1),
            "pad_type": "custom",
            "pad": ints(1, 1, 2, 2),
            "dilations": ints(1, 3),
            "groups": number(2),
        },
        lambda x, weight, **_: F.conv2d(x, weight, None, (2, 1), (1, 2), (1, 3), 2),
    ),
    Case(
        "conv",
        {"x": normal(1, 2, 9)},
        {"weight": normal(3, 2, 3), "pad_type": "custom", "pad": ints(0, 2)},
        lambda x, weight, **_: F.conv1d(F.pad(x, (0, 2)), weight),
    ),
    Case(
        "scaled_dot_product_attention",
        {"query": normal(2, 3, 4, 8), "key": normal(2, 3, 5, 8), "value": normal(2, 3, 5, 6)},
        {},
        F.scaled_dot_product_attention,
    ),
    Case(
        "scaled_dot_product_attention",
        {"query": normal(2, 4, 8), "key": normal(2, 5, 8), "value": normal(2, 5, 6)},
        {"attn_mask": normal(4, 5)},
        F.scaled_dot_product_attention,
    ),
    Case(
        "scaled_dot_product_attention",
        {"query": normal(2, 4, 8), "key": normal(2, 5, 8), "value": normal(2, 5, 6)},
        {"attn_mask": flags(True, False, True, True, False)[None]},
        F.scaled_dot_product_attention,
    ),
    # Compressed weights; the expectations are spelled out by hand.
    Case(
        "constexpr_cast",
        {},
        {"source_val": f16([1.5, -2]), "output_dtype": "fp32"},
        lambda **_: torch.tensor([1.5, -2]),
    ),
    Case(
        "constexpr_affine_dequantize",
        {},
        {
            "quantized_data": i8([[10, -128], [3, 127]]),
            "zero_point": np.array(3, np.int8),
            "scale": f32([0.5, 2]),
            "axis": number(0),
        },
        lambda **_: torch.tensor([[3.5, -65.5], [0, 248]]),
    ),
    Case(
        "constexpr_affine_dequantize",
        {},
        {
            "quantized_data": u8([[10, 0], [3, 255]]),
            "zero_point": u8([1, 2]),
            "scale": small(0.5),
            "axis": number(-1),
        },
        lambda **_: torch.tensor([[4.5, -1], [1, 126.5]]),
        ios=16,
    ),
    Case(
        "constexpr_blockwise_shift_scale",
        {},
        {"data": i8([[1, 2, 3, -4]]), "scale": f32([[0.5, 10]])},
        lambda **_: torch.tensor([[0.5, 1, 30, -40]]),
    ),
    Case(
        "constexpr_blockwise_shift_scale",
        {},
        {
            "data": (i8([[1, 7, -8, -1]]), "int4"),
            "scale": f32([[2]]),
            "offset": (i8([[-3]]), "int4"),
        },
        lambda **_: torch.tensor([[8, 20, -10, 4.0]]),
    ),
    Case(
        "constexpr_lut_to_dense",
        {},
        {"indices": u8([0b11100100, 0b01]), "lut": f32([5, 6, 7, 8]), "shape": u32([5])},
        lambda **_: torch.tensor([5.0, 6, 7, 8, 6]),
        ios=17,
    ),
    Case(
        "quantize",
        {"input": 9 * normal(4, 3)},
        {"scale": small(0.07), "zero_point": np.array(-5, np.int8), "output_dtype": "int8"},
        _in_integers,
        ios=17,
    ),
    Case(
        "quantize",
        {"input": 9 * normal(4, 3)},
        {"scale": f32([0.05, 0.1, 0.2]), "zero_point": u8([7, 128, 255]), "output_dtype": "uint8", "axis": number(-1)},
        _in_integers,
        ios=17,
    ),
    Case(
        "dequantize",
        {},
        {"input": i8([[-128, 0], [5, 127]]), "scale": small(0.5), "zero_point": np.array(-3, np.int8)},
        lambda input, scale, zero_point: (input.float() - zero_point.float()) * scale,
        ios=17,
    ),
    Case(
        "dequantize",
        {},
        {"input": u8([[0, 255], [5, 127]]), "scale": f32([0.5, 2]), "axis": number(0)},
        lambda input, scale, axis: input.float() * scale[:, None],
    ),
    Case(
        "constexpr_lut_to_dense",
        {},
        {  # one table for each row
            "indices": (u8([[1, 0, 1], [0, 0, 1]]), "uint1"),
            "lut": f32([[[[5], [6]]], [[[7], [8]]]]),
        },
        lambda **_: torch.tensor([[6.0, 5, 6], [7, 7, 8]]),
    ),
    Case(
        "constexpr_lut_to_dense",
        {},
        {
            "indices": (u8([[1, 0]]), "uint1"),
            "lut": f32([[[[5, 50], [6, 60]]]]),
            "vector_axis": number(0),
        },
        lambda **_: torch.tensor([[6.0, 5], [60, 50]]),
    ),
]


def package_of(case: Case, path: Path, results: Any, **changes: Any) -> Path:
    """A package with that one operation; *changes* replace constants, or drop them where None."""
    model, block = new_model(case.ios)
    given: dict[str, Any] = {}
    for name, value in case.values.items():
        for index, array in enumerate(value if isinstance(value, list) else [value]):
            add_input(model, f"{name}{index}", dtype_of(array), array.shape)
            given.setdefault(name, []).append(f"{name}{index}")
    constants = {name: value for name, value in {**case.constants, **changes}.items() if value is not None}
    constexpr = case.kind.startswith("constexpr_")
    as_attributes = constexpr and not (case.ios == 18 and ("lut" in constants or "data" in constants))
    outputs = [(f"result{i}", dtype_of(np.asarray(each)), np.asarray(each).shape) for i, each in enumerate(results)]
    if not constexpr:
        for name, value in constants.items():
            array, dtype = value if isinstance(value, tuple) else (value, "")
            add_const(block, name, array, dtype)
            given[name] = name
    operation = add_operation(block, case.kind, given, outputs, {})
    for name, value in constants.items() if constexpr else ():
        array, dtype = value if isinstance(value, tuple) else (value, "")
        if as_attributes:
            set_value(operation.attributes.add(key=name).value, array, dtype)
        else:
            set_value(operation.inputs.add(key=name).value.arguments.add().value, array, dtype)
    for name, dtype, shape in outputs:
        if dtype == "bool":  # no feature of a model can be one
            add_const(block, f"{name}_dtype", "int32")
            add_operation(block, "cast", {"x": name, "dtype": f"{name}_dtype"}, [(f"{name}_int", "int32", shape)])
            add_output(model, f"{name}_int", "int32", shape)
        elif dtype in ("int8", "uint8"):  # likewise
            add_const(block, f"{name}_one", small(1))
            given = {"input": name, "scale": f"{name}_one"}
            add_operation(block, "dequantize", given, [(f"{name}_float", "fp32", shape)])
            add_output(model, f"{name}_float", "fp32", shape)
        else:
            add_output(model, name, dtype, shape)
    return write_package(path, model)


def expected_of(case: Case) -> list[NDArray[Any]]:
    def tensor(value: Any) -> Any:
        if isinstance(value, list):
            return [tensor(each) for each in value]
        array = value[0] if isinstance(value, tuple) else value
        return array if isinstance(array, str) or array.dtype == np.uint32 else torch.from_numpy(np.array(array))

    results = case.expected(**{name: tensor(value) for name, value in {**case.values, **case.constants}.items()})
    return [each.numpy() for each in (results if isinstance(results, tuple | list) else [results])]


def inputs_of(case: Case) -> dict[str, NDArray[Any]]:
    return {
        f"{name}{index}": array
        for name, value in case.values.items()
        for index, array in enumerate(value if isinstance(value, list) else [value])
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operation_computes_what_torch_computes(case: Case, tmp_path: Path) -> None:
    expected = expected_of(case)
    package = mil.load(package_of(case, tmp_path / "a.mlpackage", expected))
    outputs = package.run(inputs_of(case))
    assert len(outputs) == len(expected)
    for result, wanted in zip(outputs.values(), expected, strict=True):
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=2e-6, atol=2e-6)  # float32 sums in another order


@pytest.mark.parametrize("case", [case for case in CASES if case.values], ids=str)
def test_in_float64_an_operation_is_exact(case: Case, tmp_path: Path) -> None:
    wide = {name: _wide(value) for name, value in case.values.items()}
    constants = {name: _wide(value) for name, value in case.constants.items()}
    expected = expected_of(Case(case.kind, wide, constants, case.expected))
    package = mil.load(package_of(case, tmp_path / "a.mlpackage", expected_of(case)))
    outputs = package.run(inputs_of(case), compute="fp64")
    for result, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-12)


def _wide(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide(each) for each in value]
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def test_every_operation_is_tested() -> None:
    assert {case.kind for case in CASES} | {"classify"} == set(names())


@dataclass(frozen=True)
class Refusal:
    """A case that is changed, and what is then said."""

    kind: str
    changes: dict[str, Any]
    message: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}-{self.message}"


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("gelu", {"mode": "QUICK"}, "mode 'QUICK' is not known"),
        Refusal("gelu", {"mode": None, "modus": "EXACT"}, "input 'modus' is not known"),
        Refusal("softmax", {"axis": number(3)}, "axis 3 is not one of 3"),
        Refusal("softmax", {"axis": ints(1)}, "input 'axis' is a int32"),
        Refusal("softmax", {"axis": small(1)}, "input 'axis' is a fp32"),
        Refusal("cast", {"dtype": "int8"}, "a cast to 'int8' is not known"),
        Refusal("cast", {"dtype": None}, "input 'dtype' is missing"),
        Refusal("cast", {"dtype": "fp32"}, "declared as int32.* is fp32"),
        Refusal("layer_norm", {"axes": ints(1, -2)}, "list one twice", 1),
        Refusal("layer_norm", {"gamma": normal(4, 3)}, "gamma is fp32", 1),
        Refusal("layer_norm", {"beta": normal(4)}, "beta is fp32", 1),
        Refusal("layer_norm", {"epsilon": np.array(0.1, np.float16)}, "input 'epsilon' is a fp16.*fp32", 1),
        Refusal("concat", {"axis": number(0)}, "do not fit"),
        Refusal("concat", {"interleave": yes()}, "interleave is not supported", 1),
        Refusal("reshape", {"shape": ints(-1, -1, 2)}, "shape .* is not valid"),
        Refusal("reshape", {"shape": ints(0, 3)}, "keeps sizes of"),
        Refusal("reshape", {"shape": ints(-1, 5)}, "does not fit shape"),
        Refusal("reshape", {"shape": ints(5, 5)}, "does not fit shape"),
        Refusal("reshape", {"shape": ints(-2, 6)}, "shape .* is not valid"),
        Refusal("transpose", {"perm": ints(0, 1, 1)}, "list one twice"),
        Refusal("transpose", {"perm": ints(0, 1)}, "another rank"),
        Refusal("transpose", {"perm": ints(0, 2, 1)}, "declared as"),
        Refusal("squeeze", {"axes": ints(1)}, "not all of size 1", 1),
        Refusal("expand_dims", {"axes": ints(0, 4)}, "axis 4 is not one of 4"),
        Refusal("expand_dims", {"axes": ints(*range(9))}, "too many"),
        Refusal("split", {"num_splits": number(4)}, "cannot be split"),
        Refusal("split", {"num_splits": None}, "cannot be split"),
        Refusal("split", {"split_sizes": ints(2, 4)}, "cannot be split"),
        Refusal("split", {"split_sizes": ints(0, 5)}, "cannot be split", 1),
        Refusal("slice_by_index", {"stride": ints(-2, 1, 2)}, "stride -2 is not supported"),
        Refusal("slice_by_index", {"end": ints(6, 4, 3)}, "is not a part of 5"),
        Refusal("slice_by_index", {"begin": ints(4, 1, 0)}, "is not a part of 5"),
        Refusal("slice_by_index", {"begin": ints(1, 1)}, "do not have 3 elements"),
        Refusal("slice_by_size", {"size": ints(3, 2)}, "is not a part of 5"),
        Refusal("slice_by_size", {"size": ints(-1, 0)}, "is not a part of 4"),
        Refusal("matmul", {"transpose_y": yes(False)}, "do not fit", 1),
        Refusal("linear", {"weight": normal(5, 3)}, "does not fit the weight"),
        Refusal("linear", {"bias": normal(4)}, "does not fit the weight"),
        Refusal("linear", {"bias": normal(1, 5)}, "input 'bias' is a"),
        Refusal("linear", {"weight": normal(5, 4).astype(np.float16)}, "input 'weight' is a fp16"),
        Refusal("conv", {"pad_type": "same"}, "pad_type 'same' is not supported"),
        Refusal("conv", {"strides": ints(2, 2)}, "declared as"),
        Refusal("conv", {"strides": ints(0, 1)}, "out of range"),
        Refusal("conv", {"strides": ints(1)}, "another rank"),
        Refusal("conv", {"groups": number(2)}, "in 2 groups"),
        Refusal("conv", {"groups": number(0)}, "in 0 groups"),
        Refusal("conv", {"weight": normal(4, 3, 9, 9)}, "is larger than"),
        Refusal("conv", {"pad": ints(1, -1, 2, 2)}, "out of range", 1),
        Refusal("scaled_dot_product_attention", {"attn_mask": normal(5, 4)}, "mask .* does not fit", 1),
        Refusal("scaled_dot_product_attention", {"attn_mask": ints(1, 1, 1, 1, 1)}, "'attn_mask' is a int32", 1),
        Refusal("quantize", {"output_dtype": "int16"}, "output_dtype 'int16' is not known"),
        Refusal("quantize", {"zero_point": np.array(5, np.uint8)}, "zero_point is uint8.* for int8"),
        Refusal("quantize", {"scale": np.array(1, np.float16)}, "input 'scale' is a fp16"),
        Refusal("quantize", {"axis": None}, "axis is missing", 1),
        Refusal("quantize", {"axis": number(0)}, "scale is fp32", 1),
        Refusal("dequantize", {"zero_point": np.array(5, np.uint8)}, "input 'zero_point' is a uint8.*int8"),
        Refusal("dequantize", {"scale": f32([1, 2, 3])}, "scale is fp32", 1),
        Refusal("constexpr_cast", {"output_dtype": "fp16"}, "a cast to 'fp16'"),
        Refusal("constexpr_affine_dequantize", {"axis": number(2)}, "axis 2 is not one of 2"),
        Refusal("constexpr_affine_dequantize", {"scale": f32([1, 2, 3])}, "scale is"),
        Refusal("constexpr_blockwise_shift_scale", {"scale": f32([[1, 2, 3]])}, "scale is"),
        Refusal("constexpr_blockwise_shift_scale", {"offset": (i8([[1, 2]]), "int4")}, "offset is", 1),
        Refusal("constexpr_blockwise_shift_scale", {"offset": u8([[1]])}, "offset is", 1),
        Refusal("constexpr_lut_to_dense", {"lut": f32([1, 2, 3])}, "a table of"),
        Refusal("constexpr_lut_to_dense", {"indices": u8([1])}, "does not contain"),
        Refusal("constexpr_lut_to_dense", {"lut": f32([[[[5]], [[6]]]])}, "a table of", 1),
        Refusal("constexpr_lut_to_dense", {"vector_axis": None}, "vector_axis is missing", 2),
    ],
    ids=str,
)
def test_what_an_operation_cannot_be_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    case = [case for case in CASES if case.kind == refusal.kind and case.values][refusal.index :]
    chosen = case[0] if case else [case for case in CASES if case.kind == refusal.kind][refusal.index]
    path = package_of(chosen, tmp_path / "a.mlpackage", expected_of(chosen), **refusal.changes)
    with pytest.raises(CheckFailed, match=f"function 'main': {refusal.kind} 'result0': .*{refusal.message}"):
        mil.load(path)


@pytest.mark.parametrize(
    "case", [next(case for case in CASES if case.kind == kind) for kind in names() if kind != "classify"], ids=str
)
def test_an_operation_without_its_inputs_is_refused(case: Case, tmp_path: Path) -> None:
    empty = Case(case.kind, {}, {}, case.expected, case.ios)
    with pytest.raises(CheckFailed, match=f"{case.kind} 'result0': input .* is missing"):
        mil.load(package_of(empty, tmp_path / "a.mlpackage", expected_of(case)))


def test_an_operation_newer_than_its_program_is_refused(tmp_path: Path) -> None:
    attention = next(case for case in CASES if case.kind == "scaled_dot_product_attention")
    older = Case(attention.kind, attention.values, {}, attention.expected, ios=17)
    with pytest.raises(CheckFailed, match="operation 'scaled_dot_product_attention' is not known before iOS 18"):
        mil.load(package_of(older, tmp_path / "a.mlpackage", expected_of(attention)))


def classifier(path: Path, labels: list[str], dtype: str = "fp32") -> Path:
    model, block = new_model()
    add_input(model, "shares", dtype, (1, 3))
    operation = add_operation(block, "classify", {"probabilities": "shares"}, [("label", "string", ())])
    given = operation.outputs.add(name="all").type.dictionaryType
    set_type(given.keyType, "string", ())
    set_type(given.valueType, "fp64", ())
    set_value(operation.inputs.add(key="classes").value.arguments.add().value, labels)
    block.outputs.extend(["label", "all"])
    model.description.output.add(name="label").type.stringType.SetInParent()
    model.description.output.add(name="all").type.dictionaryType.stringKeyType.SetInParent()
    model.description.predictedFeatureName, model.description.predictedProbabilitiesName = "label", "all"
    return write_package(path, model)


def test_classify_names_the_largest_probability(tmp_path: Path) -> None:
    package = mil.load(classifier(tmp_path / "a.mlpackage", ["ant", "bee", "cat"]))
    outputs = package.run({"shares": f32([[0.25, 0.5, 0.25]])})
    assert outputs == {"label": "bee", "all": {"ant": 0.25, "bee": 0.5, "cat": 0.25}}
    assert package.signatures["main"].predicted_label == "label"


@pytest.mark.parametrize(
    ("labels", "message"), [(["ant", "bee"], "does not fit list of 2 strings"), (["ant", "bee", "ant"], "listed twice")]
)
def test_labels_that_do_not_fit_are_refused(labels: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=message):
        mil.load(classifier(tmp_path / "a.mlpackage", labels))


def test_results_are_rounded_to_fp16_only_where_asked(tmp_path: Path) -> None:
    model, block = new_model()
    add_input(model, "x", "fp16", (2,))
    add_const(block, "y", f16([2**-11, 1]))
    add_operation(block, "add", {"x": "x", "y": "y"}, [("sum", "fp16", (2,))])
    add_operation(block, "sub", {"x": "sum", "y": "x"}, [("result", "fp16", (2,))])
    add_output(model, "result", "fp16", (2,))
    package = mil.load(write_package(tmp_path / "a.mlpackage", model))
    given = {"x": f32([1, 1])}
    assert package.run(given)["result"].tolist() == [2**-11, 1]
    assert package.run(given, compute="fp16")["result"].tolist() == [0, 1]  # 1 + 2^-11 rounds to 1
