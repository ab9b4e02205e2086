"""The shapes that operators make, and what is refused before an interpreter sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hydra_export.targets.tflite.operators import OPERATORS, Operand

INFER = {operator.name: operator.infer for operator in OPERATORS}

PATCH = {"padding": 1, "stride_h": 4, "stride_w": 4}
MATMUL = {"adj_x": 0, "adj_y": 0}
MASKS = {"begin_mask": 5, "end_mask": 5}
CHANNELS = {"begin_mask": 3, "end_mask": 3}
HALVES = {"begin_mask": 7, "end_mask": 7}
KEEP, TAKE = {"keep_num_dims": 1}, [[0, 0, 0], [0, 1, 0], [1, 1, 1]]


def operands(*given: tuple[int, ...] | list[Any]) -> list[Operand]:
    """Tuples are shapes of float32, lists constant numbers."""
    return [
        Operand("float32", shape)
        if isinstance(shape, tuple)
        else Operand("int32", np.shape(shape), np.array(shape, np.int32))
        for shape in given
    ]


@pytest.mark.parametrize(
    ("name", "given", "options", "made"),
    [
        ("ADD", [(2, 5, 8), (2, 5, 8)], {}, (2, 5, 8)),
        ("ADD", [(-1, 5, 8), (1, 5, 8)], {}, (-1, 5, 8)),
        ("MUL", [(2, 5, 8), (8,)], {}, (2, 5, 8)),
        ("ADD", [(2, 5, 1), ()], {}, (2, 5, 1)),
        ("SUB", [(-1, 5, 8), (-1, 5, 1)], {}, (-1, 5, 8)),
        ("BATCH_MATMUL", [(2, 3, 5, 8), (2, 3, 8, 7)], MATMUL, (2, 3, 5, 7)),
        ("BATCH_MATMUL", [(2, 3, 5, 8), (2, 3, 7, 8)], {**MATMUL, "adj_y": 1}, (2, 3, 5, 7)),
        ("CAST", [(-1, 16, 16, 3)], {"in_data_type": 3, "out_data_type": 0}, (-1, 16, 16, 3)),
        ("CONCATENATION", [(-1, 3, 5, 4), (-1, 3, 5, 4)], {"axis": 3}, (-1, 3, 5, 8)),
        ("CONV_2D", [(-1, 16, 16, 3), (8, 4, 4, 3), (8,)], PATCH, (-1, 4, 4, 8)),
        ("CONV_2D", [(1, 18, 31, 3), (8, 4, 4, 3), (8,)], PATCH, (1, 4, 7, 8)),
        ("FULLY_CONNECTED", [(2, 5, 8), (7, 8), (7,)], KEEP, (2, 5, 7)),
        ("GELU", [(2, 5, 8)], {"approximate": 0}, (2, 5, 8)),
        ("GELU", [(2, 5, 8)], {"approximate": 1}, (2, 5, 8)),
        ("LOGISTIC", [(2, 5, 8)], {}, (2, 5, 8)),
        ("MEAN", [(2, 5, 8), [2]], {"keep_dims": 1}, (2, 5, 1)),
        ("MEAN", [(-1, 3, 5, 8), [3]], {"keep_dims": 1}, (-1, 3, 5, 1)),
        ("MEAN", [(-1, 5, 8), [1]], {"keep_dims": 1}, (-1, 1, 8)),
        ("MUL", [(-1, 3, 5, 8), (1, 1, 5, 8)], {}, (-1, 3, 5, 8)),
        ("REDUCE_MAX", [(-1, 5, 8), [1]], {"keep_dims": 1}, (-1, 1, 8)),
        ("RELU", [(2, 5, 8)], {}, (2, 5, 8)),
        ("PAD", [(-1, 16, 8), [[0, 0], [1, 0], [0, 0]]], {}, (-1, 17, 8)),
        ("PAD", [(-1, 16, 8), [[0, 0], [257, 0], [0, 0]]], {}, (-1, 273, 8)),
        ("RESHAPE", [(-1, 4, 4, 8), [-1, 16, 8]], {}, (-1, 16, 8)),
        ("RSQRT", [(2, 5, 1)], {}, (2, 5, 1)),
        ("SOFTMAX", [(2, 3, 5, 5)], {"beta": 1}, (2, 3, 5, 5)),
        ("STRIDED_SLICE", [(-1, 17, 8), *TAKE], MASKS, (-1, 1, 8)),
        ("STRIDED_SLICE", [(-1, 17, 8), [0, 0, 0], [0, 2, 0], [1, 1, 1]], MASKS, (-1, 2, 8)),
        ("STRIDED_SLICE", [(-1, 17, 8), [0, 5, 0], [0, 17, 0], [1, 1, 1]], MASKS, (-1, 12, 8)),
        ("STRIDED_SLICE", [(-1, 17, 8), [0, 0, 2], [0, 0, 8], [1, 1, 1]], CHANNELS, (-1, 17, 6)),
        ("STRIDED_SLICE", [(-1, 3, 17, 8), [0] * 4, [0, 0, 0, 4], [1] * 4], HALVES, (-1, 3, 17, 4)),
        ("STRIDED_SLICE", [(-1, 3, 17, 8), [0, 0, 0, 4], [0, 0, 0, 8], [1] * 4], HALVES, (-1, 3, 17, 4)),
        ("STRIDED_SLICE", [(2, 8), [0, 0], [0, 5], [1, 1]], {"begin_mask": 1, "end_mask": 1}, (2, 5)),
        ("DEQUANTIZE", [(8, 4)], {}, (8, 4)),
        ("FULLY_CONNECTED", [(2, 5, 8), (7, 8)], KEEP, (2, 5, 7)),
        ("LESS", [(1,), [6]], {}, (1,)),
        ("EQUAL", [(1,), [6]], {}, (1,)),
        ("GATHER", [(-1, 48), [48, 2**31 - 1]], {"axis": 1}, (-1, 2)),
        ("TRANSPOSE", [(2, 3, 5, 8), [0, 2, 1, 3]], {}, (2, 5, 3, 8)),
    ],
)
def test_what_operators_make(name: str, given: list[Any], options: dict[str, int], made: tuple[int, ...]) -> None:
    assert INFER[name](operands(*given), options) == made


@pytest.mark.parametrize(
    ("name", "given", "options"),
    [
        ("ADD", [(2, 5, 8), (5, 8)], {}),  # GPU delegates take no such ranks
        ("ADD", [(8,), (2, 5, 8)], {}),
        ("ADD", [(2, 5, 8), (2, 4, 8)], {}),
        ("MUL", [(2, 5, 1), (2, 5, 8)], {}),
        ("BATCH_MATMUL", [(2, 3, 5, 8), (2, 1, 8, 7)], MATMUL),
        ("BATCH_MATMUL", [(3, 5, 8), (3, 8, 7)], MATMUL),
        ("BATCH_MATMUL", [(2, 3, 5, 8), (2, 3, 8, 7)], {**MATMUL, "adj_x": 1}),
        ("BATCH_MATMUL", [(2, 3, 5, 8), (2, 3, 8, 7)], {**MATMUL, "adj_y": 1}),
        ("CAST", [(1, 16, 16, 3)], {"in_data_type": 3, "out_data_type": 2}),
        ("CONCATENATION", [(2, 3, 5, 4), (2, 3, 5, 4)], {"axis": 2}),
        ("CONCATENATION", [(2, 3, 5, 4), (2, 3, 5, 8)], {"axis": 3}),
        ("CONCATENATION", [(3, 5, 4), (3, 5, 4)], {"axis": 2}),
        ("CONV_2D", [(1, 16, 16, 3), (8, 4, 4, 1), (8,)], PATCH),
        ("CONV_2D", [(1, 16, 16, 0), (8, 4, 4, 0), (8,)], PATCH),
        ("CONV_2D", [(16, 16, 3), (8, 4, 4, 3), (8,)], PATCH),
        ("CONV_2D", [(1, 16, 16, 3), (8, 4, 4, 3), (7,)], PATCH),
        ("CONV_2D", [(1, 16, 16, 3), (8, 4, 4, 3), (8,)], {**PATCH, "stride_w": 2}),
        ("CONV_2D", [(1, 16, 16, 3), (8, 4, 4, 3), (8,)], {**PATCH, "stride_w": 0, "stride_h": 0}),
        ("CONV_2D", [(1, 16, 16, 3), (8, 3, 4, 3), (8,)], PATCH),
        ("CONV_2D", [(1, 3, 16, 3), (8, 4, 4, 3), (8,)], PATCH),
        ("CONV_2D", [(1, 16, 16, 3), (8, 4, 4, 3), (8,)], {**PATCH, "padding": 0}),
        ("FULLY_CONNECTED", [(2, 5, 8), (7, 9), (7,)], KEEP),
        ("FULLY_CONNECTED", [(8,), (7, 8), (7,)], KEEP),
        ("FULLY_CONNECTED", [(2, 5, 8), (7, 8), (8,)], KEEP),
        ("FULLY_CONNECTED", [(2, 5, 8), (7, 8), (7,)], {"keep_num_dims": 0}),
        ("MEAN", [(2, 3, 5, 8), [2]], {"keep_dims": 1}),
        ("MEAN", [(2, 3, 5, 8), [1]], {"keep_dims": 1}),
        ("MEAN", [(2, 5, 8), [-1]], {"keep_dims": 1}),
        ("MEAN", [(2, 5, 8), [1]], {"keep_dims": 0}),
        ("MEAN", [(2, 5, 8), [1, 2]], {"keep_dims": 1}),
        ("MEAN", [(8,), [0]], {"keep_dims": 1}),
        ("MEAN", [(2, 5, 8), [2]], {"keep_dims": 0}),
        ("MEAN", [(2, 5, 8), (1,)], {"keep_dims": 1}),  # its axis is no constant
        ("PAD", [(1, 16, 8), [[0, 0], [0, 1], [0, 0]]], {}),
        ("PAD", [(1, 16, 8), [[0, 0], [2**31 - 1, 0], [0, 0]]], {}),
        ("PAD", [(1, 16, 8), [[0, 0], [258, 0], [0, 0]]], {}),
        ("PAD", [(1, 16, 8), [[0, 0], [0, 0], [0, 0]]], {}),
        ("PAD", [(1, 16, 8), [[0, 0], [-1, 0], [0, 0]]], {}),
        ("PAD", [(1, 16, 8), [[0, 0], [1, 0], [1, 0]]], {}),
        ("PAD", [(1, 16, 8), [0, 0, 1, 0, 0, 0]], {}),
        ("PAD", [(1, 16, 8, 1), [[0, 0], [1, 0], [0, 0], [0, 0]]], {}),
        ("REDUCE_MAX", [(2, 5, 8), [2]], {"keep_dims": 1}),
        ("REDUCE_MAX", [(2, 5, 8), [1]], {"keep_dims": 0}),
        ("REDUCE_MAX", [(2, 3, 5, 8), [1]], {"keep_dims": 1}),
        ("RESHAPE", [(2, 4, 4, 8), [1, 32, 8]], {}),
        ("RESHAPE", [(2, 4, 4, 8), [1, 16, 8]], {}),
        ("RESHAPE", [(2, 4, 4, 8), [2, 16, 9]], {}),
        ("RESHAPE", [(2, 4, 4, 8), [2, -16, -8]], {}),
        ("RESHAPE", [(2, 4, 4, 8), [[2, 16, 8]]], {}),
        ("RESHAPE", [(2, 4, 4, 8), []], {}),
        ("RSQRT", [(2, 5, 8)], {}),
        ("SOFTMAX", [(2, 3, 5, 5)], {"beta": 2}),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 1, 0], [0, 2, 0], [1, 1, 1]], MASKS),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 0, 0], [0, 3, 0], [1, 1, 1]], MASKS),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 5, 0], [0, 18, 0], [1, 1, 1]], MASKS),
        ("STRIDED_SLICE", [(2, 3, 17, 8), [0, 0, 0, 2], [0, 0, 0, 6], [1] * 4], HALVES),
        ("STRIDED_SLICE", [(2, 3, 17, 9), [0, 0, 0, 0], [0, 0, 0, 4], [1] * 4], HALVES),
        ("STRIDED_SLICE", [(2, 3, 16, 8), [0, 0, 8, 0], [0, 0, 16, 0], [1] * 4], {"begin_mask": 11, "end_mask": 11}),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 0, 0], [0, 1, 0], [1, 0, 1]], MASKS),
        ("STRIDED_SLICE", [(1, 17, 8), *TAKE], {**MASKS, "end_mask": 0}),
        ("STRIDED_SLICE", [(1, 17, 8), *TAKE], {**MASKS, "begin_mask": 7}),
        ("STRIDED_SLICE", [(1, 17, 8, 1), *TAKE], MASKS),
        ("STRIDED_SLICE", [(1, 17, 8), *TAKE], {"begin_mask": 13, "end_mask": 13}),
        ("STRIDED_SLICE", [(1, 17, 8), *TAKE], {"begin_mask": 4, "end_mask": 4}),
        ("STRIDED_SLICE", [(4, 17, 8), *TAKE], {"begin_mask": 6, "end_mask": 6}),  # it takes some of the images
        ("STRIDED_SLICE", [(1, 17, 8), [0, 1, 2], [0, 0, 8], [1, 1, 1]], CHANNELS),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 0, 2], [0, 0, 9], [1, 1, 1]], CHANNELS),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 0, -2], [0, 0, 8], [1, 1, 1]], CHANNELS),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 0, 8], [0, 0, 8], [1, 1, 1]], CHANNELS),
        ("STRIDED_SLICE", [(1, 17, 8), [0, 0, 2], [0, 0, 8], [1, 1, 2]], CHANNELS),
        ("FULLY_CONNECTED", [(2, 5, 8), (7, 9)], KEEP),
        ("LESS", [(2,), [6]], {}),  # which of the two?
        ("LESS", [(1,), (1,)], {}),
        ("EQUAL", [(1,), [6, 7]], {}),
        ("GATHER", [(2, 48), [47]], {"axis": 1}),  # it would run
        ("GATHER", [(2, 48), [-1]], {"axis": 1}),
        ("GATHER", [(2, 48), [48]], {"axis": 0}),
        ("GATHER", [(2, 3, 48), [48]], {"axis": 1}),
        ("GATHER", [(2, 48), []], {"axis": 1}),
        ("IF", [(1,), (2, 3)], {}),  # a check of its own knows its branches
        ("TRANSPOSE", [(2, 3, 5, 8), [1, 0, 2, 3]], {}),
        ("TRANSPOSE", [(2, 3, 5, 8), [0, 1, 1, 3]], {}),
        ("TRANSPOSE", [(2, 3, 5, 8), [0, 4, 1, 3]], {}),
        ("TRANSPOSE", [(2, 3, 5, 8), [0, 1, 2]], {}),
    ],
)
def test_what_operators_refuse(name: str, given: list[Any], options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        INFER[name](operands(*given), options)
