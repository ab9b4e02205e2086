"""What benchmarks say of the machine, and that a contestant that dies does not end the comparison."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R)
flags\t\t: fpu avx2 fma avx512f avx512_vnni amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
AMD = "model name\t: AMD EPYC\nflags\t\t: fpu avx2 fma avx512_vnni_not\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (
            INTEL,
            "Intel(R) Xeon(R), with avx2, fma, avx512f, avx512_vnni, amx_tile, amx_int8, without avx_vnni, amx_bf16",
        ),
        (AMD, "AMD EPYC, with avx2, fma, without avx512f, avx512_vnni, avx_vnni, amx_tile, amx_int8, amx_bf16"),
        (ARM, "model unknown (part 0xd0b), with asimd, asimddp, without i8mm, sve"),
        ("", "model unknown (part unknown), flags unknown"),
    ],
)
def test_flags_of_a_processor_are_exact_words_of_the_first_one(peers: ModuleType, cpuinfo: str, expected: str) -> None:
    assert sys.modules["measuring"].processor(cpuinfo) == expected


def test_every_benchmark_prints_the_processor() -> None:
    programs = [path for path in BENCHMARKS.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")]
    assert len(programs) > 10
    for path in programs:
        assert re.search(r"print\((measuring\.)?environment\(", path.read_text(encoding="utf-8")), path.name


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark pins its processes with taskset")
def test_a_contestant_that_dies_is_reported(peers: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "weights.onnx"
    file.write_bytes(b"no model" * 100)
    cores = sorted(os.sched_getaffinity(0))[:1]
    case = peers.Case(3, 1, 1)
    process = peers.Process(tmp_path, "memory", case, file, cores)
    assert len(process.run(2)) == 2
    process.popen.send_signal(signal.SIGSEGV)
    with pytest.raises(peers.Ended, match=r"^crashed \(SIGSEGV\)$"):
        process.run(1)
    process.close()
    with pytest.raises(peers.Ended, match=r"^failed: .*INVALID_PROTOBUF"):
        peers.Process(tmp_path, "onnx", case, file, cores)
