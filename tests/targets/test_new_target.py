"""A target that is new is one folder among the targets: every command has it, with no other edit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hydra_export
from hydra_export import targets
from tests.targets import pickled

pytestmark = pytest.mark.slow  # a dozen processes that import torch
HERE, OURS = Path(pickled.__file__).parent, Path(hydra_export.__path__[0])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is as it is, but for one more target."""
    place = tmp_path_factory.mktemp("installed") / OURS.name
    (place / "targets").mkdir(parents=True)
    for path in OURS.iterdir():
        if path.name not in ("targets", "__pycache__"):
            (place / path.name).symlink_to(path)
    for path in Path(targets.__path__[0]).iterdir():
        (place / "targets" / path.name).symlink_to(path)
    shutil.copytree(HERE, place / "targets" / "pickled")
    return place.parent


@pytest.fixture(scope="module")
def exported(installed: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    out = tmp_path_factory.mktemp("exported")
    said = call(installed, out, "export", "--checkpoint", str(tiny), "--target", "pickled", "--protocol", "4")
    assert [artifact["target"] for artifact in said["manifest"]["artifacts"]] == ["pickled", "pickled"]
    assert (out / "hydra-bundle/pickled/tiny-k2.pt").is_file()
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hydra_export import checkpoint_file
    from hydra_export.architecture import HydraConfig
    from hydra_export.preprocess import imagenet
    from tests.conftest import perturbed

    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    info = checkpoint_file.CheckpointInfo(
        name="tiny", config=config, preprocessing=imagenet(16), export_heads=(2, 4), license="CC0-1.0"
    )
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    checkpoint_file.write(path, perturbed(config).state_dict(), info)
    return path


def ran(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CONFIG_HOME": str(folder), "COLUMNS": "120"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def call(installed: Path, folder: Path, *arguments: str) -> Any:
    """What a command says as JSON."""
    done = ran(installed, folder, "-m", "hydra_export", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_exported_with_its_own_option(exported: Path, installed: Path) -> None:
    found = ran(installed, exported, "-c", "from hydra_export import targets; print(*targets.names())").stdout.split()
    assert sorted(found) == sorted([*targets.names(), "pickled"])
    help_ = ran(installed, exported, "-m", "hydra_export", "export", "--help").stdout
    assert re.search(r"─ Pickled ─.*\n│ --protocol INT  The protocol of pickle, 2 to 5. \[default: 2\]", help_)
    unused = ran(installed, exported, "-m", "hydra_export", "--protocol", "4", "--out", "none")
    assert unused.returncode == 2
    assert "to target 'pickled', which is not exported" in unused.stderr


def test_it_is_verified_in_its_runtime(exported: Path, installed: Path) -> None:
    said = call(installed, exported, "verify", "hydra-bundle")
    assert {name for run in said["artifacts"] for name in run["runtimes"]} == {"pytorch"}
    shown = ran(installed, exported, "-m", "hydra_export", "verify", "hydra-bundle").stdout
    assert "pickled separate is experimental: anybody's code would run." in shown
    path = exported / "hydra-bundle/pickled/tiny-k2.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert ran(installed, exported, "-m", "hydra_export", "verify", "hydra-bundle").returncode == 1
    path.write_bytes(whole)


def test_it_gives_patch_tokens_of_images_that_are_not_square(installed: Path, tiny: Path, tmp_path: Path) -> None:
    choices = ["--target", "pickled", "--output", "tokens", "--image-size", "16x24", "--heads", "2"]
    said = call(installed, tmp_path, "export", "--checkpoint", str(tiny), *choices)
    (artifact,) = said["manifest"]["artifacts"]
    assert [tensor["shape"] for tensor in (*artifact["inputs"], *artifact["outputs"])] == [[1, 3, 16, 24], [1, 24, 16]]
    assert call(installed, tmp_path, "verify", "hydra-bundle")["artifacts"]
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (found,) = call(installed, tmp_path, "predict", "hydra-bundle", "red.png")["images"]
    assert found["shape"] == [24, 16]


def test_it_is_timed_here_and_on_a_board(exported: Path, installed: Path) -> None:
    said = call(installed, exported, "bench", "--bundle", "hydra-bundle", "--runs", "3")
    assert {(timing["path"], timing["runtime"]) for timing in said["timings"]} == {
        ("pickled/tiny-k2.pt", "pytorch"),
        ("pickled/tiny-k4.pt", "pytorch"),
    }
    call(installed, exported, "bench", "standalone", "hydra-bundle", "board")
    done = ran(installed, exported, "board/bench.py", "--runs", "3", "--threads", "1", "--out", "bench.json")
    assert done.returncode == 0, done.stderr
    call(installed, exported, "profile", "import", "bench.json", "--bundle", "hydra-bundle")
    advice = call(installed, exported, "profile", "--bundle", "hydra-bundle", "--runtime", "pytorch")
    assert advice["estimates"][0]["provenance"] == "measured"


def test_it_has_a_report_and_a_card(exported: Path, installed: Path) -> None:
    done = ran(installed, exported, "-m", "hydra_export", "report", "hydra-bundle", "--out", "report.html")
    assert done.returncode == 0, done.stderr
    assert "pickled/tiny-k2.pt" in (exported / "report.html").read_text()
    card = (exported / "hydra-bundle/README.md").read_text()
    (program,) = re.findall(r"```python\n(import numpy.*?)```", card, re.DOTALL)
    printed = ran(installed, exported / "hydra-bundle", "-c", program)
    best, expected = printed.stdout.split()
    assert best == expected
    inputs = json.loads((exported / "hydra-bundle/preprocessing.json").read_text())["inputs"]
    assert [(each["target"], each["layout"]) for each in inputs] == [("pickled", "NCHW")]
