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

from hydra_export.data import datasets

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


@pytest.mark.slow
@pytest.mark.skipif(
    not datasets.DEBIAN_FOLDER.is_dir(), reason="needs Fashion-MNIST: apt-get install dataset-fashion-mnist"
)
def test_static_quantization_has_a_line_for_each_file_of_ours_and_of_the_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("static_quantization")
    asked = "--heads 3 --precisions fp32,int8-static --only onnxruntime --images 40 --calibration-images 10 --runs 2"
    monkeypatch.setattr(sys, "argv", ["static_quantization.py", *asked.split()])
    benchmark.main()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = {line[0].removeprefix("| "): line[1:] for line in lines[1:]}
    assert {"onnx, ours, separate fp32", "tflite, ours, separate fp32", "onnx, ours, separate int8-static"} <= set(
        cells
    )
    assert sum("quantize_static" in name for name in cells) == 4
    assert cells["onnx, ours, separate fp32"][3] == "100.00"  # it agrees with itself
    for name, (heads, top1, _drop, agreement, num_bytes, _ms, _over) in cells.items():
        assert (heads, float(top1) > 70, float(agreement) > 70) == ("3", True, True), name
        is_narrow = not name.endswith("fp32")
        assert (int(num_bytes.replace(",", "")) < 400_000) is is_narrow, name
