"""What ``make demo`` ends with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hydra_export import bundle

DEMO = Path(__file__).parents[1] / "scripts" / "demo.py"


def test_the_demo_ends_with_a_table_and_the_next_command(exported: Path) -> None:
    manifest = bundle.read(exported)
    ran = subprocess.run([sys.executable, DEMO, exported], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    header = next(line for line in lines if line.startswith(" k "))
    assert header.split() == ["k", "top-1", "%", "onnx", "ms", "here", "Pixel", "7", "Pi", "5"]
    rows = {int(line.split()[0]): line.split() for line in lines if line[1:2].isdigit()}
    for k in manifest.model.heads:
        size = next(manifest.fetch_bytes(a) for a in manifest.artifacts if a.heads == (k,))
        assert rows[k][1:3] == ["-", f"{size / 1e6:.1f}"]
        assert float(rows[k][3]) > 0
        assert (rows[k][4], rows[k][7]) == ("yes,", "yes,")  # so small a model fits everywhere
    assert max(map(len, lines[: lines.index(header) + 5])) <= 80
    assert f"{exported}/ contains these files" in ran.stdout
    assert lines[-1].endswith("timm:deit_tiny_patch16_224 --target onnx --out my-vit")
