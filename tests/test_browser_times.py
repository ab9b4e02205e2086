"""Times of browsers answer for themselves alone: they change nothing of what is said of others, nor others of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import profiles, targets
from hydra_export.bench import Asked, browser, read_results
from hydra_export.cli import main
from hydra_export.device import LatencyRecord
from hydra_export.errors import BadInput
from hydra_export.latency import REFERENCE, Constraints, Evidence, advise

Capture = pytest.CaptureFixture[str]
BROWSERS = [name for name, runtime in targets.device_runtimes().items() if runtime.browser]


def document(name: str = REFERENCE.name, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "hydra-export browser times",
        "schema_version": 1,
        "date": "2025-02-03",
        "model": {"name": name, "checkpoint_sha256": ""},
        "artifact": {"path": "onnx/x.onnx", "sha256": "0" * 64, "precision": "fp32"},
        "backend": "onnxruntime-web",
        "version": "1.30.0",
        "provider": "wasm",
        "threads": 4,
        "browser": {
            "user_agent": "Mozilla/5.0 AppleWebKit/537.36 Chrome/140.0.0.0 Mobile Safari/537.36",
            "platform": "Android",
            "platform_version": "16.0.0",
            "model": "Pixel 7",
            "architecture": "",
            "mobile": True,
            "cores": 8,
            "memory_gb": None,
            "gpu": "",
            "cross_origin_isolated": True,
        },
        "conditions": {"hidden": False, "drift": 1.0, "warmup_calls": 5},
        "checks": {str(k): {"error": 0.0, "allowed": None, "passed": True} for k in (3, 6)},
        "samples_ms": {"3": [1.0] * 20, "6": [3.0] * 20},
        **changes,
    }


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "times.json"
    file.write_text(json.dumps(document()))
    return file


def answer(mine: Path, capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert main(["profile", "--profiles", str(mine), *arguments, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def imported(file: Path, mine: Path, capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert main(["profile", "import", str(file), "--profiles", str(mine), *arguments, "--json"]) == 0, (
        capsys.readouterr().err
    )
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_there_is_a_runtime_of_browsers_for_each_target_that_runs_there() -> None:
    assert {name: targets.formats()[name] for name in BROWSERS} == {"onnxruntime-web": "onnx", "litert-web": "tflite"}


def test_what_a_page_saved_is_imported_for_the_device_that_it_names(saved: Path, mine: Path, capsys: Capture) -> None:
    found = imported(saved, mine, capsys)
    assert found["device"] == "pixel7"
    assert [(one["k"], one["ms"], one["runtime"]) for one in found["records"]] == [
        (3, 1.0, "onnxruntime-web"),
        (6, 3.0, "onnxruntime-web"),
    ]
    assert main(["profile", "import", str(saved), "--profiles", str(mine)]) == 0
    assert "Now: hydra-export profile --device pixel7 --runtime onnxruntime-web" in capsys.readouterr().out


def test_or_for_the_one_that_the_user_names(saved: Path, mine: Path, capsys: Capture) -> None:
    assert imported(saved, mine, capsys, "--device", "rpi5")["device"] == "rpi5"


def test_asked_for_the_browser_profile_answers_with_the_measured_times(
    saved: Path, mine: Path, capsys: Capture
) -> None:
    imported(saved, mine, capsys)
    said = answer(mine, capsys, "--device", "pixel7", "--runtime", "onnxruntime-web")
    assert said["way"] == {"runtime": "onnxruntime-web", "arithmetic": "float", "unit": "cpu"}
    times = [(one["heads"], one["ms"], one["provenance"]) for one in said["estimates"]]
    assert times == [(3, 1.0, "measured"), (6, 3.0, "measured")], "and nothing is estimated from them"
    assert said["choice"]["heads"] == 6


def test_a_browsers_times_change_no_native_answer(saved: Path, mine: Path, capsys: Capture) -> None:
    questions = [
        *([], ["--budget-ms", "400"], ["--runtime", "litert"], ["--runtime", "onnxruntime"], ["--precision", "int8"]),
        ["--why"],
    ]
    devices = ("pixel7", "pixel8", "rpi5")
    before = [answer(mine, capsys, "--device", one, *more) for one in devices for more in questions]
    for provider in ("wasm", "webgpu"):
        for backend in BROWSERS:
            saved.write_text(json.dumps(document(provider=provider, backend=backend)))
            imported(saved, mine, capsys)
    after = [answer(mine, capsys, "--device", one, *more) for one in devices for more in questions]
    for old, new in zip(before, after, strict=True):
        for each in (old, new):  # the count of the user's own times, which is shown
            each["device"].pop("files", None)
        assert new == old


@pytest.mark.parametrize("runtime", BROWSERS)
def test_native_times_estimate_no_browsers(runtime: str, mine: Path, capsys: Capture) -> None:
    for device in ("pixel7", "rpi5", "jetson-orin-nano", "galaxy-s24"):
        said = answer(mine, capsys, "--device", device, "--runtime", runtime)
        assert (said["estimates"], said["choice"], said["way"]["runtime"]) == ([], None, runtime)
        assert "hydra-export serve" in said["measure"]
    assert main(["profile", "--profiles", str(mine), "--device", "pixel7", "--runtime", runtime]) == 0
    assert "this model was not timed in a browser on Google Pixel 7" in capsys.readouterr().out


def test_one_browsers_times_say_nothing_of_another_or_of_another_device(
    saved: Path, mine: Path, capsys: Capture
) -> None:
    imported(saved, mine, capsys)
    assert answer(mine, capsys, "--device", "pixel7", "--runtime", "litert-web")["estimates"] == []
    assert answer(mine, capsys, "--device", "pixel8", "--runtime", "onnxruntime-web")["estimates"] == []
    assert (
        answer(mine, capsys, "--device", "pixel7", "--runtime", "onnxruntime-web", "--precision", "int8")["estimates"]
        == []
    )


def test_its_gpus_times_are_beside_its_cpus(saved: Path, mine: Path, capsys: Capture) -> None:
    imported(saved, mine, capsys)
    faster = {"3": [0.5] * 20, "6": [1.0] * 20}
    saved.write_text(json.dumps(document(provider="webgpu", samples_ms=faster)))
    imported(saved, mine, capsys)
    said = answer(mine, capsys, "--device", "pixel7", "--runtime", "onnxruntime-web")
    ways = {said["way"]["unit"]: said["estimates"][-1]["ms"]} | {one["unit"]: one["ms"] for one in said["other_ways"]}
    assert ways == {"gpu": 1.0, "cpu": 3.0}


def test_no_native_path_is_known_by_a_browsers_times() -> None:
    """Of a device without any other: as much is said of it as if it had none."""
    time = LatencyRecord(
        model="vit", k=12, gmacs=17.56, model_gmacs=17.56, resolution=224, runtime="onnxruntime-web", precision="fp32",
        unit="gpu", ms=5.0, date="2025-02-03", provenance="measured", source="own-browser",
    )  # fmt: skip
    known = dict(profiles.packaged())
    before = Evidence(known)
    entry = known["pixel7"]
    profile = msgspec.structs.replace(entry.profile, latency=(*entry.profile.latency, time), sources={
        **entry.profile.sources, "own-browser": "here"
    })  # fmt: skip
    after = Evidence({**known, "pixel7": profiles.ResolvedProfile(profile, (time,))})
    assert len(after.all) == len(before.all)
    assert after.paths("pixel7") == before.paths("pixel7")
    told = [advise(each, entry, REFERENCE, Constraints()) for each in (before, after)]
    for k, estimate in told[0].estimates.items():
        assert math.isclose(told[1].estimates[k].ms, estimate.ms, rel_tol=1e-12)
        assert told[1].estimates[k].anchors == estimate.anchors


def test_what_other_tools_printed_is_of_no_browser(tmp_path: Path) -> None:
    summary = {"execution_summary": {"estimated_inference_time": 5900}, "execution_detail": [{"compute_unit": "CPU"}]}
    (tmp_path / "hub.json").write_text(json.dumps(summary))
    asked = Asked(model=REFERENCE, named="it", graphs={}, heads=6, runtime="onnxruntime-web")
    with pytest.raises(BadInput, match="not a browser measurement"):
        read_results(tmp_path / "hub.json", asked)


def test_a_record_of_another_model_is_refused_with_what_to_give(tmp_path: Path, mine: Path, capsys: Capture) -> None:
    (tmp_path / "times.json").write_text(json.dumps(document("other")))
    assert main(["profile", "import", str(tmp_path / "times.json"), "--profiles", str(mine)]) == 2
    said = capsys.readouterr().err
    assert "model.name: it is 'other', not hydravit_base_patch16_224. Pass the --bundle" in said
    assert [*mine.iterdir()] == []


def test_a_head_count_that_the_model_has_not_is_refused(tmp_path: Path, mine: Path, capsys: Capture) -> None:
    more = document(samples_ms={"13": [1.0]}, checks={"13": {"error": 0.0, "allowed": None, "passed": True}})
    (tmp_path / "times.json").write_text(json.dumps(more))
    assert main(["profile", "import", str(tmp_path / "times.json"), "--profiles", str(mine)]) == 2
    assert "samples_ms: hydravit_base_patch16_224 has no k = 13" in capsys.readouterr().err


@pytest.mark.parametrize("said", [["--heads", "3"], ["--runtime", "litert-web"], ["--date", "2025-01-01"]])
def test_what_the_record_states_is_not_said_again(saved: Path, mine: Path, capsys: Capture, said: list[str]) -> None:
    assert main(["profile", "import", str(saved), "--profiles", str(mine), *said]) == 2
    assert f"already states the {said[0].strip('-')}. Leave out {said[0]}." in capsys.readouterr().err


def test_a_fleet_takes_the_head_counts_that_were_timed(
    saved: Path, mine: Path, capsys: Capture, tmp_path: Path
) -> None:
    saved.write_text(json.dumps(document(samples_ms={"6": [3.0] * 20})))
    imported(saved, mine, capsys)
    (tmp_path / "fleet.txt").write_text("pixel7, onnxruntime-web\n")
    assert main(["profile", "fleet", str(tmp_path / "fleet.txt"), "--profiles", str(mine), "--json"]) == 0
    assert '"heads": 6' in capsys.readouterr().out
    from hydra_export.fitting import fit

    (entry,) = fit(["pixel7:onnxruntime-web"], REFERENCE, budget_ms=1.0, folder=mine)
    assert (entry.heads, entry.fits, entry.ms) == (6, False, 3.0)


def test_the_record_is_read_as_the_server_reads_it() -> None:
    content = json.dumps(document()).encode()
    assert browser.decode(content, "it").samples_ms[6][0] == 3.0
    with pytest.raises(BadInput, match="is not a record of browser times"):
        browser.decode(content[:-1], "it")
