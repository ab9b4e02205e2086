"""Devices instead of targets: what each gets in a bundle, and what many of them together need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import bundle, checkpoint, commands, fitting, network, profiles
from hydra_export.cli import main
from hydra_export.commands import profile_fleet
from hydra_export.latency import Constraints, Evidence, Workload, advise
from hydra_export.latency.evidence import REFERENCE_CONFIG
from hydra_export.verification import verify
from tests.conftest import available_targets

Capture = pytest.CaptureFixture[str]

BOX = """
id = "{id}"
name = "{id}"
class = "desktop"
budget = {{ ms = {budget}, reason = "as it was sold" }}
[sources]
bench = "a test"
"""
TIME = """
[[latency]]
model = "tiny"
k = {k}
gmacs = {gmacs}
model_gmacs = {whole}
resolution = 16
runtime = "{runtime}"
precision = "fp32"
unit = "cpu"
ms = {ms}
date = "2026-02-03"
provenance = "measured"
source = "bench"
"""


@pytest.fixture(autouse=True)
def boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two devices on which the tiny model of tests/conftest.py takes 2 ms at k = 2 and 5 ms at k = 4."""
    from hydra_export.architecture import HydraConfig

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("COLUMNS", "100")
    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    profiles.user_folder().mkdir(parents=True)
    for name, budget, runtime in (("fast", 10, "onnxruntime"), ("busy", 3, "onnxruntime"), ("lite", 10, "litert")):
        sizes = {k: network.macs(config, k) / 1e9 for k in (2, 4)}
        times = [
            TIME.format(k=k, gmacs=sizes[k], whole=sizes[4], runtime=runtime, ms=ms) for k, ms in ((2, 2.0), (4, 5.0))
        ]
        text = BOX.format(id=name, budget=budget) + "".join(times)
        (profiles.user_folder() / f"{name}.toml").write_text(text)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def exported_for(out: Path, checkpoint: Path, *arguments: str) -> dict[str, Any]:
    assert main(["--checkpoint", str(checkpoint), "--out", str(out), *arguments]) == 0
    return {entry.id: entry for entry in bundle.read(out).devices}


def test_each_device_gets_the_head_count_that_fits_and_no_other_is_written(tiny_checkpoint: Path, out: Path) -> None:
    busy = exported_for(out, tiny_checkpoint, "--device", "busy")["busy"]
    assert (busy.heads, busy.target, busy.sure, busy.ms) == (2, "onnx", True, 2.0)
    assert busy.artifacts == ("onnx/tiny-k2.onnx",)
    assert "within 3 ms" in busy.why
    manifest = bundle.read(out)
    assert [a.path for a in manifest.artifacts] == ["onnx/tiny-k2.onnx"]
    assert [s.heads for s in manifest.model.subnetworks] == [2]
    assert [each.path for each in verify(out)] == ["onnx/tiny-k2.onnx"]


def test_devices_share_what_they_both_need(tiny_checkpoint: Path, out: Path, capsys: Capture) -> None:
    both = exported_for(out, tiny_checkpoint, "--device", "busy,fast")
    assert {name: entry.heads for name, entry in both.items()} == {"busy": 2, "fast": 4}
    shown = capsys.readouterr().out
    assert "fast: onnxruntime, k = 4: 5 ms (4.76 to 5.26 ms, measured); within 10 ms: yes (more than 99 %)." in shown
    same = exported_for(out, tiny_checkpoint, "--device", "busy,fast", "--budget-ms", "4")
    assert {entry.heads for entry in same.values()} == {2}
    assert len(bundle.read(out).artifacts) == 1


@pytest.mark.skipif("tflite" not in available_targets(), reason="pip install 'hydra-export[tflite]'")
def test_the_runtime_of_a_device_is_its_target(tiny_checkpoint: Path, out: Path) -> None:
    entries = exported_for(out, tiny_checkpoint, "--device", "busy,lite")
    assert entries["lite"].target == "tflite"
    assert {a.path for a in bundle.read(out).artifacts} == {"onnx/tiny-k2.onnx", "tflite/tiny-k4.tflite"}


def test_times_of_integer_activations_are_said_to_be_of_such_files() -> None:
    model = Workload.of("vit", REFERENCE_CONFIG, [3, 12], {})
    listed = ["imx93", "hailo-8", "galaxy-s24"]
    counted, compiled, floating = (entry.why for entry in fitting.fit(listed, model, 1e6))
    assert counted.endswith("; these times are of int8-static files")
    assert "int8" not in compiled, "its compiler takes the fp32 file"
    assert "int8" not in floating


def test_a_device_of_which_nothing_is_known_gets_every_head_count_and_says_so(
    tiny_checkpoint: Path, out: Path, capsys: Capture
) -> None:
    entry = exported_for(out, tiny_checkpoint, "--device", "rpi5:hailort")["rpi5"]
    assert (entry.heads, entry.fits, entry.ms) == (None, False, None)
    assert entry.artifacts == ("onnx/tiny-k2.onnx", "onnx/tiny-k4.onnx")
    assert "no estimate" in capsys.readouterr().err


def test_a_budget_cannot_be_judged_where_nothing_is_known(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    info = checkpoint.load(tiny_checkpoint).info
    (entry,) = fitting.fit(["rpi5:hailort"], fitting.workload(info, (2, 4)), 100, tmp_path / "none")
    assert (entry.heads, entry.fits, entry.chance) == (None, False, None)
    assert "timed in this way on Raspberry Pi 5 or a similar device" in entry.why
    assert entry.why.endswith("; whether it meets 100 ms is unknown")


def test_where_nothing_fits_the_smallest_is_exported_or_with_a_budget_nothing(
    tiny_checkpoint: Path, out: Path, capsys: Capture
) -> None:
    asked = ["--checkpoint", str(tiny_checkpoint), "--out", str(out), "--device", "fast", "--budget-ms", "1"]
    assert main(asked) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Nothing is known to fit 1 ms on fast: even k = 2 takes 2 ms" in said
    assert "the fastest, was exported" not in said
    assert said.endswith("hydra-export profile shows how to settle it for onnxruntime on fast.")
    assert not out.exists()
    (profiles.user_folder() / "busy.toml").write_text(
        (profiles.user_folder() / "busy.toml").read_text().replace("ms = 3,", "ms = 1,")
    )
    entry = exported_for(out, tiny_checkpoint, "--device", "busy")["busy"]
    assert (entry.heads, entry.fits) == (2, False)
    assert entry.why.endswith("; k = 2, the fastest, was exported")
    assert "k = 2, the fastest, is exported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "toaster"], "No device 'toaster'"),
        (["--device", "fast,fast"], "lists a name twice"),
        (["--device", "fast:toast"], "No runtime 'toast'"),
        (["--device", "pixel7:coreml"], "Google Pixel 7 does not run coreml. It runs onnxruntime, litert, ncnn, mnn."),
        (["--device", "fast", "--target", "tflite"], "--device already sets the target of each device"),
        (["--budget-ms", "5"], "--budget-ms needs --device"),
    ],
)
def test_bad_devices_are_refused(
    tiny_checkpoint: Path, out: Path, capsys: Capture, arguments: list[str], told: str
) -> None:
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(out), *arguments]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


# A fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "devices.txt"
    path.write_text("fast\n\n# the old ones\nbusy, onnxruntime  # by the door\nrpi5, hailort\nlite\n")
    return path


def test_a_fleet_is_covered_by_few_head_counts_and_knows_its_bytes(
    exported: Path, fleet: Path, capsys: Capture
) -> None:
    assert main(["profile", "fleet", str(fleet), "--bundle", str(exported), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(row["device"], row["heads"]) for row in document["devices"]] == [
        ("fast", 4),
        ("busy", 2),
        ("rpi5", None),
        ("lite", 4),
    ]
    assert (document["heads"], document["covered"]) == ([2, 4], 3)
    manifest = bundle.read(exported)
    sizes = {file.path: file.bytes for file in manifest.files}
    shells = sizes["onnx/tiny-shared-k2.bin"] + sizes["onnx/tiny-shared-k4.bin"]
    expected = {
        "separate": sizes["onnx/tiny-k4.onnx"],
        "shared": sizes["onnx/tiny-shared-k4.onnx"] + shells,
        "universal": None,
    }
    assert document["devices"][0]["bytes"] == expected
    assert document["devices"][2]["bytes"] == dict.fromkeys(expected)
    assert document["devices"][3]["bytes"] == dict.fromkeys(expected), "the bundle has nothing for its runtime"
    assert main(["profile", "fleet", str(fleet), "--bundle", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "3 of 4 devices are covered by 2 head counts: k = 2, 4." in shown
    shown = " ".join(shown.split())
    reason = next(row["why"] for row in document["devices"] if row["device"] == "rpi5")
    assert f"rpi5: no estimate, as {reason}. hydra-export profile --device rpi5 shows" in shown
    assert "lite: the bundle has no file for lite:litert. To export it: hydra-export --device lite:litert" in shown
    published = sizes["onnx/tiny-k4.onnx"] + sizes["onnx/tiny-k2.onnx"]
    assert commands.size(published) in next(line for line in shown.splitlines() if "all together" in line)


@pytest.mark.parametrize(
    ("device", "runtime", "precision", "gets"),
    [
        ("galaxy-s24", "onnxruntime", "int8-static", "int8-static"),
        ("galaxy-s24", "onnxruntime", "w8a16", None),
        ("galaxy-s24", "onnxruntime", "fp32", "fp32"),
        ("rpi5", "onnxruntime", "int8", "int8"),
        ("hailo-8", "hailort", "int8-static", "fp32"),  # whose compiler makes the integers
    ],
)
def test_a_device_of_the_fleet_gets_the_file_of_its_arithmetic(
    exported: Path, device: str, runtime: str, precision: Any, gets: str | None
) -> None:
    manifest = bundle.read(exported)
    separate = [artifact for artifact in manifest.artifacts if artifact.graph == "separate"]
    listed = [
        msgspec.structs.replace(artifact, precision=each)
        for artifact in separate
        for each in ("fp32", "int8-static", "int8")
    ]
    held = msgspec.structs.replace(manifest, artifacts=tuple(listed))
    model = Workload.of("tiny", manifest.model.config, [2, 4], {})
    constraints = Constraints(budget_ms=1e6, runtime=runtime, precision=precision)
    advice = advise(Evidence(profiles.packaged()), profiles.get(device), model, constraints)
    found = profile_fleet._artifacts(advice, held).get("separate")
    assert (found.precision if found else None) == gets


def test_a_fleet_of_one_is_a_device(exported: Path, fleet: Path, capsys: Capture) -> None:
    fleet.write_text("fast\n")
    assert main(["profile", "fleet", str(fleet), "--bundle", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 device is covered by 1 head count" in shown
    assert "1 devices" not in shown


def test_a_budget_that_a_device_of_the_fleet_misses_has_status_1(exported: Path, fleet: Path, capsys: Capture) -> None:
    asked = ["profile", "fleet", str(fleet), "--bundle", str(exported)]
    assert main([*asked, "--budget-ms", "4"]) == 1
    assert "Nothing is known to fit 4 ms on rpi5." in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("fast\nbuzy\n", "devices.txt line 2: No device 'buzy'. Did you mean 'busy'?"),
        ("fast, toast\n", "devices.txt line 1: no runtime 'toast'"),
        ("fast\nbusy\nfast\n", "devices.txt line 3: fast is listed twice"),
        ("# nobody\n\n", "devices.txt lists no device"),
    ],
)
def test_a_bad_line_is_named(fleet: Path, exported: Path, capsys: Capture, content: str, told: str) -> None:
    fleet.write_text(content)
    assert main(["profile", "fleet", str(fleet), "--bundle", str(exported)]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_device_of_which_nothing_is_known_gets_every_head_count_whatever_the_budget(
    tiny_checkpoint: Path, out: Path, capsys: Capture
) -> None:
    devices = exported_for(out, tiny_checkpoint, "--device", "rpi5:hailort", "--budget-ms", "100")
    assert devices["rpi5"].heads is None
    assert bundle.read(out).artifacts[-1].heads == (4,)
    assert "rpi5" in capsys.readouterr().err
