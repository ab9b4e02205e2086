"""What the machine could do at best, for ``peers.py``: the rate of its FMA units, of matrix products, of its memory.

Each gives a call to be timed, and by what its time is multiplied to be that of the whole model.
"""

# B batch, H heads, N tokens, D width
from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import onnxruntime_session, spent

Call = Callable[[], Any]
Shapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
# Ten sums that do not wait for each other, in the widest registers that the compiler knows of this processor.
FMA = """
#ifdef __AVX512F__
#define BYTES 64
#elif defined __AVX__
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vector __attribute__((vector_size(BYTES)));
float sums(long turns, float start) {
    vector s[10], a = {0}, b = {0};
    a += start, b += 1 - start;
    for (int i = 0; i < 10; i++) s[i] = a * (float)i;
    for (long turn = 0; turn < turns; turn++)
#pragma GCC unroll 10
        for (int i = 0; i < 10; i++) s[i] = s[i] * b + a;
    for (int i = 1; i < 10; i++) s[0] += s[i];
    return s[0][0];
}
int lanes(void) { return BYTES / sizeof(float); }
"""


@dataclass(frozen=True)
class Case:
    """What all contestants of one table run, and how; precision is of one contestant."""

    heads: int
    batch: int
    threads: int
    precision: str = "fp32"

    def image(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((self.batch, 3, 224, 224), np.float32)


def products(case: Case) -> Shapes:
    """Shapes of the factors of every product of the whole model."""
    B, H, N, D = case.batch, case.heads, 197, 64 * case.heads
    linears = [((B * N, D), (D, 3 * D)), ((B * N, D), (D, D)), ((B * N, D), (D, 4 * D)), ((B * N, 4 * D), (4 * D, D))]
    attention = [((B * H, N, 64), (B * H, 64, N)), ((B * H, N, N), (B * H, N, 64))]
    return [((B * 196, 768), (768, D)), *12 * (linears + attention), ((B, D), (D, 1000))]


def macs(shapes: Shapes) -> int:
    return sum(int(np.prod(a)) * b[-1] for a, b in shapes)


def load_peak(_path: Path, case: Case) -> tuple[Call, float]:
    """Multiply-adds in registers, one loop a thread, compiled here; scaled to the products of the model."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "fma.c"), Path(folder, "fma.so")
        source.write_text(FMA)
        options = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
        subprocess.run(["cc", *options, "-o", library, source], check=True)
        compiled = ctypes.CDLL(str(library))
    compiled.sums.argtypes, compiled.sums.restype = (ctypes.c_long, ctypes.c_float), ctypes.c_float
    turns = 10**7
    pool = ThreadPoolExecutor(case.threads)
    done = case.threads * turns * 10 * compiled.lanes()
    scale = macs(products(case)) / done
    return lambda: list(pool.map(lambda _: compiled.sums(turns, 1e-3), range(case.threads))), scale


def load_gemm(path: Path, case: Case) -> tuple[Call, float]:
    """Every product of the model and nothing else, each by the fastest of numpy's BLAS, PyTorch's and onnxruntime."""
    shapes = products(case)
    fastest = {pair: fastest_product(*pair, case.threads, path.parent) for pair in dict.fromkeys(shapes)}
    return lambda: [fastest[pair]() for pair in shapes] and None, 1.0


def fastest_product(left: tuple[int, ...], right: tuple[int, ...], threads: int, folder: Path) -> Call:
    import onnx
    import torch

    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal(shape, np.float32) for shape in (left, right))
    a_torch, b_torch = map(torch.from_numpy, (a, b))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, left)],
        [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".onnx") as file:
        onnx.save_model(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), file.name)
        session = onnxruntime_session(Path(file.name), threads)
    ways: list[Call] = [lambda: a @ b, lambda: a_torch @ b_torch, lambda: session.run(None, {"a": a})]
    return min(ways, key=lambda way: min(spent(way)[0] for _ in range(5)))


def load_memory(path: Path, _case: Case) -> tuple[Call, float]:
    """Every byte of our file read once, at the rate at which memory is copied."""
    source, copy = np.ones(2**26, np.float32), np.zeros(2**26, np.float32)
    return lambda: np.copyto(copy, source), path.stat().st_size / (2 * source.nbytes)
