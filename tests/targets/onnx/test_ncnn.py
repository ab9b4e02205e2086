"""ncnn's converter, pnnx, reads separate files, and ncnn computes what they do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hydra_export import checkpoint
from hydra_export.exporting import export, jobs
from hydra_export.gate import Gate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("ncnn", "pnnx")), reason="ncnn, pnnx are not installed"
    ),
]

# It reads what pnnx wrote into the folder it runs in; a process of its own, as ncnn ends it where a net is not whole.
_PROGRAM = """
import sys
import ncnn
import numpy as np
net = ncnn.Net()
assert net.load_param("model.ncnn.param") == 0 and net.load_model("model.ncnn.bin") == 0
golden, heads = np.load(sys.argv[1]), sys.argv[2]
images = np.ascontiguousarray(golden["image"])
for image, logits in zip(images, golden[f"logits_k{heads}"]):
    extractor = net.create_extractor()
    given = ncnn.Mat(image)
    extractor.input("in0", given)
    status, found = extractor.extract("out0")
    assert status == 0
    print(float(np.abs(np.array(found) - logits).max()))
"""


@pytest.mark.parametrize("heads", [3, 12])
def test_separate_files_are_converted_and_computed(tmp_path: Path, heads: int) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    export(checkpoint.load(), out, jobs(["onnx"], ["separate"], ["fp32"]), heads=(heads,), gate=Gate(open=True))
    work.mkdir()
    (file,) = (out / "onnx").glob("*.onnx")
    (work / "model.onnx").write_bytes(file.read_bytes())
    pnnx = Path(sys.executable).with_name("pnnx")
    asked = [str(pnnx), "model.onnx", "inputshape=[1,1,28,28]", "fp16=0"]
    subprocess.run(asked, cwd=work, check=True, capture_output=True)
    program = [sys.executable, "-c", _PROGRAM, str(out / "golden/golden.npz"), str(heads)]
    done = subprocess.run(program, cwd=work, check=True, capture_output=True, text=True)
    errors = [float(line) for line in done.stdout.split()]
    assert len(errors) == len(np.load(out / "golden/golden.npz")["image"])
    assert max(errors) < 1e-4
