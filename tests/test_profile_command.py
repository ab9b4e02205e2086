"""``hydra-export profile``: what it says of a device, when it refuses to, and when a budget fails."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydra_export import network, profiles
from hydra_export.cli import main

Capture = pytest.CaptureFixture[str]
Said = Callable[..., str]
Answer = Callable[..., dict[str, Any]]
BENCHED = """
schema_version = 1
id = "{id}"
name = "{name}"
class = "{kind}"

[sources]
bench = "hydra-export bench"

[match]
{key} = ['{value}']
"""
TIME = """
[[latency]]
model = "{model}"
k = {k}
gmacs = {gmacs}
model_gmacs = {model_gmacs}
resolution = {resolution}
runtime = "onnxruntime"
precision = "fp32"
unit = "cpu"
ms = {ms}
date = "2026-02-03"
provenance = "measured"
source = "bench"
{more}
"""
REFERENCE = {"model": "hydravit_base_patch16_224", "model_gmacs": 17.564, "resolution": 224, "more": ""}


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the user's own profiles, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / "hydra-export" / "profiles"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def said(capsys: Capture) -> Said:
    """What a person reads on standard output."""

    def run(*arguments: str) -> str:
        assert main(["profile", *arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def answer(capsys: Capture) -> Answer:
    """What a program reads."""

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        assert main(["profile", *arguments, "--json"]) == status
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def own(folder: Path, *times: dict[str, Any], id: str = "box", **fields: str) -> None:  # noqa: A002 (the field's name)
    header = BENCHED.format(
        **{"id": id, "name": "The Box", "kind": "desktop", "key": "cpu_name", "value": "ACME"} | fields
    )
    (folder / f"{id}.toml").write_text(header + "".join(TIME.format(**REFERENCE | time) for time in times))


def test_the_first_line_is_the_answer_and_without_a_bundle_the_next_says_which_model_this_is_about(said: Said) -> None:
    answer, first, second = said("--device", "pixel7").splitlines()[:3]
    time = r"[\d.]+ ms \([\d.]+ to [\d.]+ ms, estimated\)"
    assert re.fullmatch(rf"Google Pixel 7: k = 3, {time}; within 33 ms: unlikely \(\d\d %\)", answer)
    assert first == "hydravit_base_patch16_224 (the reference model; pass --bundle DIR for yours)"
    assert second == "on Google Pixel 7: litert, float, CPU"


def test_pixel_7_is_an_estimate_with_a_wide_interval_and_the_command_that_settles_it(
    said: Said, answer: Answer
) -> None:
    shown = said("--device", "pixel7")
    assert "estimated" in shown
    assert "measured" not in shown
    assert "To settle it: adb shell" in shown
    estimates = {one["heads"]: one for one in answer("--device", "pixel7")["estimates"]}
    assert {one["provenance"] for one in estimates.values()} == {"estimated"}
    # A Galaxy S21, of the same cores, took 614 ms for 13 GMACs with ncnn; a Galaxy S23 271.
    assert estimates[12]["low"] < 614 * 17.56 / 13.04 < estimates[12]["high"]
    assert estimates[12]["high"] / estimates[12]["low"] > 3
    assert {k for k, one in estimates.items() if one["accuracy"]} == {3, 6}


def test_a_choice_says_why_and_how_sure_it_is(said: Said, answer: Answer) -> None:
    shown = said("--device", "rpi5", "--budget-ms", "200")
    chosen = answer("--device", "rpi5", "--budget-ms", "200")["choice"]
    assert f"Choice for 200 ms (as asked): k = {chosen['heads']}, {chosen['chance']:.0%} sure: the largest k" in (
        shown.replace(" %", "%")
    )
    assert f"k = {chosen['larger']['heads']} may fit as well" in shown
    assert chosen["sure"] is True
    assert chosen["chance"] >= 0.9
    assert chosen["larger"]["heads"] > chosen["heads"] >= 3


def test_a_guess_is_called_one(said: Said, answer: Answer) -> None:
    shown = said("--device", "rpi5", "--budget-ms", "50")
    assert "Best guess for 50 ms (as asked): k = 3" in shown
    assert "a guess: no high bound is within 50 ms" in shown
    assert answer("--device", "rpi5", "--budget-ms", "50")["choice"]["sure"] is False


def test_a_timed_phone_is_answered_from_its_time(said: Said, answer: Answer) -> None:
    shown = said("--device", "galaxy-s24", "--runtime", "litert")
    assert "Timed: vit k=12 5.88 ms, litert float NPU (2026-02-24), qualcomm/ai-hub-models." in shown, "with its source"
    assert "k = 12, more than 99 % sure" in shown
    assert answer("--device", "galaxy s24", "--runtime", "litert")["estimates"][-1]["provenance"] == "measured"


def test_what_is_inferred_from_other_devices_alone_is_called_so(said: Said) -> None:
    assert "All of this is inferred from other devices" in said("--device", "iphone-14-pro")
    assert "All of this is inferred from other devices" not in said("--device", "galaxy-s24")


def test_times_of_another_architecture_are_called_so(said: Said) -> None:
    caveat = "The timed models have another architecture: vit_b32_384 at 384 px; this one takes 224 px."
    assert caveat in said("--device", "rpi5")
    assert "another architecture" not in said("--device", "galaxy-s24")


def test_the_profiles_own_budget_is_used_and_never_fails(said: Said, answer: Answer) -> None:
    shown = said("--device", "pixel7")
    assert "Nothing is known to fit 33 ms (pixel7's own: a camera preview of 30 frames a second)" in shown
    assert re.search(r"Best guess: k = 3, the fastest: \d\d % that it fits\.", shown)
    budget = answer("--device", "pixel7")["budget"]
    assert (budget["ms"], budget["given"]) == (33, False)


def test_a_budget_that_nothing_fits_has_status_1_and_names_what_would(capsys: Capture, answer: Answer) -> None:
    asked = ["--device", "galaxy-s23", "--runtime", "onnxruntime", "--precision", "int8-static", "--budget-ms", "6"]
    assert main(["profile", *asked]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "within 6 ms" in err, "the table is told, though it is no result"
    assert "Nothing is known to fit 6 ms on Samsung Galaxy S23" in " ".join(err.split())
    assert "--runtime litert takes 5.22 ms at k = 7" in " ".join(err.split())
    assert "Measure it: hydra-export bench" in " ".join(err.split())
    error = answer(*asked, status=1)["error"]
    assert error["code"] == "check_failed"
    assert "even k = 3 takes" in error["message"]
    assert "--runtime litert takes 5.22 ms at k = 7" in error["message"], "a program reads what would fit, too"


def test_where_nothing_fits_what_comes_nearest_is_named(answer: Answer) -> None:
    error = answer("--device", "rpi5", "--budget-ms", "30", status=1)["error"]["message"]
    assert "; k = 2, fewer heads than the reference model was trained for, takes" in error
    error = answer("--device", "rpi5", "--budget-ms", "3", status=1)["error"]["message"]
    assert re.search(r"Nearest: --runtime \w+ --precision int8-static takes [\d.]+ ms at k = 3; --runtime", error)


def test_no_evidence_means_no_number_but_the_command_that_measures(said: Said, answer: Answer) -> None:
    shown = said("--device", "hailo-8", "--precision", "fp32")
    assert "No estimate" in shown
    assert "hailort, int8-static, NPU: 35.1 ms" in shown, "the other way is named"
    assert "Measure it: hailortcli benchmark" in shown
    document = answer("--device", "hailo-8", "--precision", "fp32")
    assert (document["estimates"], document["choice"]) == ([], None)
    assert document["measure"]
    assert main(["profile", "--device", "hailo-8", "--precision", "fp32", "--budget-ms", "9000"]) == 1


def test_memory_limits_the_choice(answer: Answer, capsys: Capture) -> None:
    chosen = answer("--device", "galaxy-s24", "--max-ram-mib", "100")
    assert chosen["choice"]["heads"] == 6
    assert chosen["estimates"][0]["least_ram_mib"] == pytest.approx(5_717_416 * 4 / 2**20)
    assert [one["fits"] for one in chosen["estimates"]][4:] == ["too much RAM"] * 6
    assert main(["profile", "--device", "galaxy-s24", "--max-ram-mib", "10", "--budget-ms", "100"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "the weights of every k exceed the allowed memory" in told
    assert re.search(r"Nearest: --runtime litert --precision int8-static takes [\d.]+ ms at k = 4", told), (
        "a quarter of it"
    )


def test_what_memory_excludes_has_no_chance(said: Said, answer: Answer) -> None:
    shown = " ".join(said("--device", "rpi5", "--max-ram-mib", "1").split())
    assert "the weights of every k exceed the allowed memory." in shown
    assert "Best guess" not in shown
    assert answer("--device", "rpi5", "--max-ram-mib", "1")["choice"]["chance"] == 0


def test_int8_with_float_activations_is_for_no_npu(said: Said, answer: Answer) -> None:
    reason = "NPUs do not multiply int8 weights by floats; int8-static and w8a16 have integer activations"
    shown = " ".join(said("--device", "galaxy-s24", "--precision", "int8").split())
    assert f"Hexagon, NPU: no estimate: {reason}" in shown
    assert answer("--device", "galaxy-s24", "--precision", "int8")["way"]["unit"] == "cpu"
    assert f"No estimate: {reason}." in " ".join(said("--device", "hailo-8", "--precision", "int8").split())
    assert reason not in " ".join(said("--device", "galaxy-s24").split())
    assert reason not in " ".join(said("--device", "rpi5", "--precision", "int8").split())


@pytest.mark.parametrize(
    ("precision", "ms", "runtime"), [("int8-static", 4.742, "litert"), ("w8a16", 7.368, "onnxruntime")]
)
def test_integer_activations_on_an_npu_take_what_such_files_took(
    said: Said, answer: Answer, precision: str, ms: float, runtime: str
) -> None:
    asked = ("--device", "galaxy-s24", "--precision", precision)
    found = answer(*asked)
    assert found["way"] == {"runtime": runtime, "arithmetic": precision, "unit": "npu"}
    assert (found["estimates"][-1]["heads"], found["estimates"][-1]["ms"]) == (12, ms)
    assert found["estimates"][-1]["anchors"] == [
        each for each in found["estimates"][-1]["anchors"] if precision in each
    ]
    assert {each["arithmetic"] for each in found["other_ways"]} == {precision}
    shown = " ".join(said(*asked).split())
    target = {"litert": "tflite", "onnxruntime": "onnx"}[runtime]
    assert f"Its file: hydra-export export --target {target} --precision {precision}" in shown
    if runtime == "litert":
        assert "hydravit_base_patch16_224-k12-int8-static.tflite" in shown, "the command that times it names that file"
    assert "Its file" not in said("--device", "galaxy-s24")


def test_compilers_that_quantize_are_given_the_fp32_file(said: Said) -> None:
    shown = " ".join(said("--device", "hailo-8").split())
    assert "on Hailo-8 M.2 module: hailort, int8-static, NPU" in shown
    assert "The compiler for hailort quantizes the fp32 file, calibrated with your images." in shown
    assert "Its file" not in shown
    assert "hailortcli benchmark hydravit_base_patch16_224-k9.hef" in shown
    assert "quantizes the fp32 file" not in said("--device", "galaxy-s24", "--precision", "int8-static")


# The user's own


def test_a_measurement_of_the_users_replaces_the_estimate(config: Path, said: Said, answer: Answer) -> None:
    before = answer("--device", "rpi5")["estimates"][3]
    assert before["provenance"] == "estimated"
    own(config, {"k": 6, "gmacs": 4.6, "ms": 150.0}, id="rpi5", name="My Pi", kind="board")
    after = answer("--device", "rpi5")["estimates"][3]
    assert (after["heads"], after["ms"], after["provenance"]) == (6, 150.0, "measured")
    assert after["high"] < 1.06 * 150
    shown = said("--device", "rpi5")
    assert "These times are your own and outrank all others" in shown
    assert "all of this" not in shown


def here() -> tuple[str, str]:
    """What this machine says of itself: a key and its value."""
    said = profiles.here()
    keys = ("android_model", "ios_machine", "devicetree_model", "cpu_name")
    return next((key, getattr(said, key)[0]) for key in keys if getattr(said, key))


def test_this_machine_is_recognised_by_a_profile_of_the_users(config: Path, said: Said, answer: Answer) -> None:
    key, value = here()
    times = {"k": 12, "gmacs": 17.56, "ms": 50.0}, {"k": 3, "gmacs": 1.25, "ms": 5.0}
    own(config, *times, key=key, value=value)
    assert f"on The Box, recognised by {key}: onnxruntime, float, CPU" in said()
    document = answer("--device", "auto", "--budget-ms", "40")
    assert document["device"]["recognised_by"] == key
    assert document["estimates"][0]["ms"] == 5.0
    assert document["choice"]["sure"] is True
    assert 8 <= document["choice"]["heads"] < 12


@pytest.mark.parametrize(("flags", "told"), [(["avx2"], True), (["avx2", "avx_vnni"], False), ([], False)])
def test_int8_on_a_processor_without_its_instructions_is_said_to_gain_little(
    config: Path, said: Said, monkeypatch: pytest.MonkeyPatch, flags: list[str], told: bool
) -> None:
    key, value = here()
    own(config, {"k": 12, "gmacs": 17.56, "ms": 50.0}, key=key, value=value)
    monkeypatch.setattr("hydra_export.board.cpu_flags", lambda: flags)
    caveat = "this processor has no instructions for it"
    assert (caveat in said("--precision", "int8")) is told
    assert caveat not in said()
    assert caveat not in said("--device", "rpi5", "--precision", "int8"), "that is not this machine"


@pytest.mark.skipif(profiles.match(profiles.here()) is not None, reason="this machine is one of the known devices")
def test_a_machine_that_nothing_describes_is_told_what_it_says(capsys: Capture, config: Path) -> None:
    assert main(["profile"]) == 2
    message = capsys.readouterr().err.replace("\n", "")
    assert " = '".join(here()) in message
    assert str(config) in message


def test_profiles_of_another_folder_may_be_given(tmp_path: Path, answer: Answer) -> None:
    folder = tmp_path / "fleet"
    folder.mkdir()
    own(folder, {"k": 6, "gmacs": 4.6, "ms": 7.0})
    found = answer("--device", "the box", "--profiles", str(folder))
    assert found["estimates"][3]["ms"] == 7.0
    assert main(["profile", "--device", "the box"]) == 2


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("ms = 7.0", "ms = -7.0", "latency[0].ms: -7.0"),
        ("ms = 7.0", "ms = nan", "latency[0].ms: nan"),
        ('unit = "cpu"', 'unit = "tpu"', "latency[0].unit: Invalid enum value 'tpu'"),
        ('date = "2026-02-03"', "", "required field `date`"),
        ('source = "bench"', "", "required field `source`"),
        ("id =", "id ==", "it is not TOML"),
    ],
)
def test_a_broken_profile_is_refused_naming_file_and_field(
    config: Path, capsys: Capture, old: str, new: str, told: str
) -> None:
    own(config, {"k": 6, "gmacs": 4.6, "ms": 7.0})
    path = config / "box.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert main(["profile", "list"]) == 2
    message = capsys.readouterr().err.replace("\n", "")
    assert "box.toml" in message
    assert told in message


# A bundle's model


@pytest.fixture
def small_bundle(folder: Path) -> Path:
    """tests/conftest.py's bundle of a tiny model with k = 2, 4."""
    return folder


def test_a_small_model_is_estimated_from_times_of_large_ones_and_surely_no_slower(
    small_bundle: Path, said: Said, answer: Answer
) -> None:
    shown = said("--device", "galaxy-s24", "--bundle", str(small_bundle))
    assert "within 33 ms: yes (more than 99 %)" in shown.splitlines()[0]
    assert "; at most the 5.88 ms of the larger vit here" in " ".join(shown.split())
    small = answer("--device", "galaxy-s24", "--bundle", str(small_bundle))["estimates"]
    large = answer("--device", "galaxy-s24")["estimates"]
    assert all(0 < one["low"] < one["ms"] < one["high"] for one in small)
    assert all(one["high"] / one["low"] > 2 * large[-1]["high"] / large[-1]["low"] for one in small)
    board = said("--device", "rpi5", "--bundle", str(small_bundle))
    assert f"To settle it: hydra-export bench standalone {small_bundle} FOLDER, to run on the device" in board


def test_the_evidence_is_listed_with_its_weights(said: Said, answer: Answer) -> None:
    shown = " ".join(said("--device", "rpi5", "--why").split())
    assert "weight in k = 3" in shown
    assert re.search(r"\d\d % Raspberry Pi 5 vit_b32_384 612 ms, ncnn", shown)
    assert "weight in" not in said("--device", "rpi5")
    one = answer("--device", "rpi5")["estimates"][0]
    assert len(one["weights"]) == len(one["anchors"]) > 3
    assert one["weights"] == sorted(one["weights"], reverse=True)


def test_a_phone_that_runs_apps_alone_is_not_told_to_run_a_script(said: Said) -> None:
    assert "in Xcode and make a performance report on the device" in said("--device", "iphone-11")
    shown = said("--device", "iphone-11", "--runtime", "onnxruntime")
    assert "bench standalone" not in shown
    assert "in an app on the device" in shown


def test_a_small_model_is_answered_from_its_own_times(
    small_bundle: Path, config: Path, said: Said, answer: Answer
) -> None:
    from hydra_export import bundle

    model = bundle.read(small_bundle).model
    sizes = {entry.heads: entry.gmacs for entry in model.subnetworks}
    whole = network.macs(model.config, model.config.heads) / 1e9
    shape = {"model": model.name, "model_gmacs": whole, "resolution": model.config.image_size}
    own(config, {**shape, "k": 4, "gmacs": sizes[4], "ms": 0.5, "more": "peak_memory_mb = 90"})
    found = answer("--device", "box", "--bundle", str(small_bundle), "--budget-ms", "1")
    assert [one["heads"] for one in found["estimates"]] == [2, 4]
    assert found["estimates"][1]["ms"] == 0.5
    assert found["choice"]["heads"] == 4
    assert found["estimates"][1]["least_ram_mib"] == pytest.approx(90e6 / 2**20)
    first, second = said("--device", "box", "--bundle", str(small_bundle)).splitlines()[:2]
    assert first == "The Box: k = 4, 0.5 ms (0.476 to 0.526 ms, measured); within 100 ms: yes (more than 99 %)"
    assert second == f"{model.name} (bundle {small_bundle})"


def test_a_smaller_head_count_than_the_bundle_holds_is_named_where_it_would_fit(
    small_bundle: Path, config: Path, capsys: Capture
) -> None:
    from hydra_export import bundle

    model = bundle.read(small_bundle).model
    macs = {k: network.macs(model.config, k) / 1e9 for k in (1, 2, 4)}
    shape = {"model": model.name, "model_gmacs": macs[4], "resolution": model.config.image_size}
    own(config, *({**shape, "k": k, "gmacs": macs[k], "ms": ms} for k, ms in ((1, 20.0), (2, 50.0), (4, 100.0))))
    assert main(["profile", "--device", "box", "--bundle", str(small_bundle), "--budget-ms", "30"]) == 1
    assert "k = 1, which is not in the bundle, takes" in " ".join(capsys.readouterr().err.split())


def test_what_the_bundle_lacks_for_the_runtime_is_said(small_bundle: Path, config: Path, said: Said) -> None:
    from hydra_export import bundle

    model = bundle.read(small_bundle).model
    whole = network.macs(model.config, 4) / 1e9
    shape = {"model": model.name, "model_gmacs": whole, "resolution": model.config.image_size}
    own(config, {**shape, "k": 4, "gmacs": whole, "ms": 0.5})
    assert "contains nothing for" not in said("--device", "box", "--bundle", str(small_bundle))
    shown = said("--device", "box", "--bundle", str(small_bundle), "--runtime", "litert")
    assert "The bundle contains nothing for litert, which takes tflite. Export that as well." in shown


def test_a_folder_that_is_no_bundle_is_bad_input(tmp_path: Path) -> None:
    assert main(["profile", "--device", "rpi5", "--bundle", str(tmp_path)]) == 2


# Listing, showing, drawing


@pytest.mark.parametrize(("columns", "most"), [(None, 100), ("160", 160), ("40", 80)])
def test_a_piped_list_is_as_wide_as_it_is_told_and_cuts_no_name(
    columns: str | None, most: int, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS") if columns is None else monkeypatch.setenv("COLUMNS", columns)
    shown = said("list")
    assert max(map(len, shown.splitlines())) <= most
    assert {line.split()[0] for line in shown.splitlines() if line.strip()} >= set(profiles.names())
    assert "…" not in shown


def test_every_device_is_listed(said: Said, answer: Answer) -> None:
    shown = said("list")
    assert all(name in shown for name in profiles.names())
    listed = {one["id"]: one for one in answer("list")["devices"]}
    assert listed.keys() == set(profiles.names())
    assert listed["pixel7"]["soc"] == "Tensor G2 (GS201)"
    assert (listed["pixel7"]["times"], listed["rpi5"]["times"]) == (0, 7)


def test_a_device_is_shown_with_the_source_of_each_fact(said: Said, answer: Answer) -> None:
    shown = said("show", "rpi5")
    assert "4x A76 2.4 GHz" in shown
    assert "1 to 16" in shown
    assert "unverified" in shown
    assert "threads" in shown
    assert "unused: slower than" in " ".join(shown.split()), "the suspect time and why"
    assert "Tencent/ncnn@" in shown
    assert answer("show", "rpi5")["profile"]["facts"]["soc"]["value"] == "BCM2712"
    assert "No Vision Transformer was timed on this device" in said("show", "pixel7")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_estimates_are_drawn(kind: str, tmp_path: Path, said: Said) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'hydra-export[plot]'")
    path = tmp_path / f"plot.{kind}"
    said("--device", "rpi5-hailo8l", "--plot", str(path))
    content = path.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "png":
        assert struct.unpack(">II", content[16:24]) == (960, 600)
    if kind == "svg":
        said("--device", "pixel7", "--plot", str(tmp_path / "untimed.svg"))
        legends = [text for text in (content.decode(), (tmp_path / "untimed.svg").read_text()) if "78.4 %" in text]
        assert [">timed</text>" in text for text in legends] == [True, False]
    assert list(tmp_path.glob(".*partial")) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "pixle7"], "Did you mean 'pixel7'?"),
        (["--device", "toaster"], "hydra-export profile list"),
        (["--device", "rpi5", "--runtime", "onyxruntime"], "Did you mean 'onnxruntime'?"),
        (["--device", "rpi5", "--precision", "int4"], "int4"),
        (["--device", "rpi5", "--budget-ms", "0"], "--budget-ms is 0. Use a number above 0"),
        (["--device", "rpi5", "--budget-ms", "nan"], "--budget-ms is nan"),
        (["--device", "rpi5", "--max-ram-mib", "-1"], "--max-ram-mib is -1"),
        (["--device", "rpi5", "--plot", "plot.gif"], "Use .png, .svg, .pdf"),
        (["--device", "rpi5", "--profiles", "none"], "is not a folder"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(arguments: list[str], told: str, capsys: Capture) -> None:
    assert main(["profile", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert told in " ".join(err.split())
    assert "Traceback" not in err


def test_the_list_for_programs_has_all_that_is_known(capsys: Capture) -> None:
    assert main(["profile", "list", "--json"]) == 0
    listed = {each["id"]: each for each in json.loads(capsys.readouterr().out)["devices"]}
    assert main(["profile", "show", "pixel7", "--json"]) == 0
    assert listed["pixel7"]["profile"] == json.loads(capsys.readouterr().out)["profile"]
    assert sum(len(each["profile"].get("latency", [])) for each in listed.values()) >= 300
