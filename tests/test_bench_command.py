"""``hydra-export bench``: what it says, keeps and compares, and what it refuses. Timed for real, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hydra_export import bench, bundle, profiles
from hydra_export.bench import Report, Timing
from hydra_export.bench.compare import Comparison
from hydra_export.cli import main
from hydra_export.commands import bench as command
from hydra_export.errors import BadInput, CheckFailed

Capture = pytest.CaptureFixture[str]
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the user's own profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("COLUMNS", "100")
    return profiles.user_folder()


@pytest.fixture(scope="module")
def report(exported: Path) -> Report:
    return bench.bench(exported, runs=8, threads=(1,), runtimes=["onnxruntime"])


@pytest.fixture
def written(report: Report, tmp_path: Path) -> Path:
    path = tmp_path / "old.json"
    path.write_bytes(msgspec.json.encode(report))
    return path


def changed(path: Path, change: Change) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def refused(capsys: Capture, *arguments: str) -> str:
    assert main(["bench", *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


# Timing


@pytest.mark.parametrize(
    ("flags", "precision", "noted"),
    [
        (("avx2",), "int8", True),
        (("avx2", "avx512_vnni"), "int8", False),
        (("asimddp",), "int8", False),
        (("avx2",), "int8-static", True),
        (("avx2",), "w8a16", False),
        (("avx2",), "fp32", False),
        ((), "int8", False),  # which are there is not known
    ],
)
def test_where_the_processor_has_nothing_for_int8_it_is_said(
    report: Report, flags: tuple[str, ...], precision: str, noted: bool
) -> None:
    machine = msgspec.structs.replace(report.machine, cpu_flags=flags)
    timings = tuple(msgspec.structs.replace(each, precision=precision) for each in report.timings)
    changed = msgspec.structs.replace(report, machine=machine, timings=timings)
    assert any("no instructions for it (VNNI" in note for note in command._notes(changed, [])) == noted
    assert machine.name.endswith(f"({', '.join(flags)})") or not flags


def test_the_table_fits_a_terminal_and_says_what_its_columns_mean(exported: Path, capsys: Capture) -> None:
    assert main(["bench", "--bundle", str(exported), "--runs", "3", "--threads", "1,2"]) == 0
    out = capsys.readouterr().out
    assert "onnx shared" in out
    assert "threads" in out
    assert all(len(line.rstrip()) <= 100 for line in out.splitlines()[1:12])
    assert "load: without the start of the runtime" in out


def test_a_report_is_read_back_as_it_was(exported: Path, capsys: Capture, tmp_path: Path) -> None:
    assert main(["bench", "--bundle", str(exported), "--runs", "2", "--json"]) == 0
    (tmp_path / "report.json").write_text(capsys.readouterr().out)
    read = bench.read(tmp_path / "report.json")
    assert {timing.path for timing in read.timings} == {a.path for a in bundle.read(exported).artifacts}
    assert read.model.gmacs_at(4) == read.model.gmacs


def test_what_computes_something_else_than_the_model_is_not_timed(exported: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(exported, tmp_path / "swapped"))
    shutil.copyfile(exported / "onnx/tiny-shared-k2.onnx", folder / "onnx/tiny-shared-k4.onnx")
    with pytest.raises(CheckFailed, match=r"tiny-shared-k4\.onnx at heads 4 is off by"):
        bench.bench(folder, runs=2)


def test_a_runtime_that_is_not_there_is_refused(exported: Path, capsys: Capture) -> None:
    assert "No runtime 'onnxrutime'. Did you mean" in refused(
        capsys, "--bundle", str(exported), "--runtime", "onnxrutime"
    )
    told = refused(capsys, "--bundle", str(exported), "--runtime", "onnxruntime-cuda")
    assert "'onnxruntime-cuda' is not installed here" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--threads", "0"], "--threads is 0."),
        (["--threads", "1,"], "--threads is 1,."),
        (["--device", "rpi5"], "--device only works with --save"),
        (["--profiles", "x"], "--profiles only works with --save"),
        (["--standalone", "x"], "Unknown option: --standalone. Type: hydra-export bench standalone BUNDLE FOLDER."),
        (["--compare", "x"], "Unknown option: --compare. Type: hydra-export bench compare OLD NEW."),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys: Capture, exported: Path, arguments: list[str], told: str) -> None:
    assert told in refused(capsys, "--bundle", str(exported), *arguments)


# Keeping


def test_saved_times_answer_for_this_machine_and_leave_what_the_user_wrote(
    exported: Path, settings: Path, capsys: Capture
) -> None:
    assert main(["bench", str(exported), "--runs", "5", "--runtime", "onnxruntime", "--save", "--json"]) == 0
    saved = json.loads(capsys.readouterr().out)["saved"]
    assert Path(saved["file"]).parent == settings / "measured"
    assert saved["records"] == 2, "one per head count: separate before shared"
    own = settings / f"{saved['device']}.toml"
    own.write_text(f'# mine\nid = "{saved["device"]}"\nname = "The Kiosk"\nclass = "desktop"\n')
    assert main(["profile", "--bundle", str(exported), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["device"]["recognised_by"]
    assert [(one["heads"], one["provenance"]) for one in answer["estimates"]] == [(2, "measured"), (4, "measured")]
    assert main(["bench", str(exported), "--runs", "5", "--runtime", "onnxruntime", "--save"]) == 0
    assert own.read_text().startswith("# mine"), "the user's own file is not touched"
    assert len(profiles.resolve()[saved["device"]].own) == 2, "times of the same are replaced"


def test_times_may_be_saved_for_a_device_that_is_named(report: Report, settings: Path) -> None:
    known, path, count = bench.save(report, device="rpi5")
    assert (known.profile.id, path.name, count) == ("rpi5", "rpi5.toml", 2)
    assert profiles.resolve()["rpi5"].profile.name == "Raspberry Pi 5"
    assert len(profiles.resolve()["rpi5"].profile.latency) == len(profiles.packaged()["rpi5"].profile.latency) + 2


def test_times_of_different_days_and_threads_are_kept_side_by_side(report: Report, settings: Path) -> None:
    two = msgspec.structs.replace(
        report, timings=tuple(msgspec.structs.replace(timing, threads=2) for timing in report.timings)
    )
    bench.save(report, device="rpi5")
    bench.save(two, device="rpi5")
    assert sorted((r.k, r.threads) for r in profiles.resolve()["rpi5"].own) == [(2, 1), (2, 2), (4, 1), (4, 2)]


def test_a_machine_without_a_profile_gets_one(report: Report, settings: Path) -> None:
    says = {"devicetree_model": ("ACME Board 3 Rev 1.2",), "cpu_name": ("ACME A1",)}
    elsewhere = msgspec.structs.replace(report, machine=msgspec.structs.replace(report.machine, says=says))
    known, path, _count = bench.save(elsewhere)
    assert (known.profile.id, known.profile.device_class) == ("acme-board-3-rev-1-2", "board")
    assert known.profile.match.devicetree_model == ("ACME Board 3 Rev 1.2",)
    again, other, _count = bench.save(elsewhere)
    assert (again.profile.id, other) == (known.profile.id, path)
    nobody = msgspec.structs.replace(report, machine=msgspec.structs.replace(report.machine, says={}))
    with pytest.raises(BadInput, match="reports nothing to identify it by"):
        bench.save(nobody)


def test_what_a_record_says_is_what_was_measured(report: Report) -> None:
    record = next(r for r in bench.records(report) if r.k == 4)
    timing = next(t for t in report.timings if t.path == "onnx/tiny-k4.onnx")
    assert record.ms == pytest.approx(timing.median_ms, rel=1e-4)
    assert record.low == pytest.approx(timing.p10_ms, rel=1e-4)
    assert record.high == pytest.approx(timing.p90_ms, rel=1e-4)
    assert (record.runtime, record.unit, record.threads, record.precision) == ("onnxruntime", "cpu", 1, "fp32")
    assert record.gmacs == record.model_gmacs == report.model.gmacs
    assert record.peak_memory_mb == pytest.approx((timing.peak_mib or 0) * 2**20 / 1e6, abs=0.1)


def test_each_arithmetic_of_integers_has_a_record_of_its_own(report: Report) -> None:
    (timing, *_) = (t for t in report.timings if t.heads == 4)
    wanted = ("fp16", "fp32", "w8a16", "int8", "int8-static")
    timings = tuple(msgspec.structs.replace(timing, precision=each) for each in wanted)
    kept = bench.records(msgspec.structs.replace(report, timings=timings))
    assert [record.precision for record in kept] == ["fp32", "int8", "int8-static", "w8a16"]


def test_what_was_wrong_is_not_kept(report: Report) -> None:
    wrong = tuple(msgspec.structs.replace(t, max_abs_error=9.0) if t.heads == 4 else t for t in report.timings)
    assert [r.k for r in bench.records(msgspec.structs.replace(report, timings=wrong))] == [2]


# Comparing


def test_the_same_measurement_is_no_regression(report: Report) -> None:
    both, added, gone = bench.compare(report, report)
    assert (len(both), added, gone) == (len(report.timings), [], [])
    for one in both:
        assert one.ratio == 1
        assert one.low <= 1 <= one.high
        assert not one.regressed(0)


def slower(report: Report, factor: float, seed: int) -> Report:
    """As if its times had been drawn from a narrow distribution, *factor* times as long as 1 ms."""
    random = np.random.default_rng(seed)

    def again(timing: Timing) -> Timing:
        runs = tuple(factor * random.lognormal(0, 0.03, 50))
        return msgspec.structs.replace(timing, runs_ms=runs, median_ms=float(np.median(runs)), min_ms=min(runs))

    return msgspec.structs.replace(report, timings=tuple(map(again, report.timings)))


def test_the_interval_holds_the_true_ratio(report: Report) -> None:
    held = [
        one.low <= 1.2 <= one.high
        for seed in range(25)
        for one in bench.compare(slower(report, 1.2, seed), slower(report, 1.0, 1000 + seed))[0]
    ]
    assert len(held) == 100
    assert 85 <= sum(held) <= 100, "95 % of them"
    worst = bench.compare(slower(report, 1.2, 0), slower(report, 1.0, 1))[0]
    assert all(one.regressed(0.1) and not one.regressed(0.3) and one.high - one.low < 0.1 for one in worst)


def test_a_slower_median_alone_is_no_regression_where_the_fastest_call_is_as_fast(report: Report) -> None:
    one = Comparison(report.timings[0], 1.0, 1.5, 1.3, 1.7, of_fastest=1.0)
    assert not one.regressed(0.1)
    assert one.doubt(0.1) == "slower, but its fastest calls are not"
    surely = Comparison(report.timings[0], 1.0, 1.5, 1.3, 1.7, of_fastest=1.4)
    assert surely.regressed(0.1)
    assert surely.doubt(0.1) == ""
    wide = Comparison(report.timings[0], 1.0, 1.5, 0.9, 1.7, of_fastest=1.4)
    assert wide.doubt(0.1) == "slower, perhaps by chance"
    assert wide.doubt(0.6) == ""


def measured_again(exported: Path, written: Path) -> Path:
    new = written.with_name("new.json")
    assert main(["bench", str(exported), "--runs", "8", "--runtime", "onnxruntime", "--out", str(new)]) == 0
    assert len(bench.read(new).timings) == 4
    return new


def test_a_limit_that_is_none_is_refused(written: Path, capsys: Capture) -> None:
    asked = ["bench", "compare", str(written), str(written), "--max-regression", "-1"]
    assert main(asked) == 2
    assert "--max-regression is -1" in capsys.readouterr().err


def test_a_ratio_above_the_limit_that_is_no_failure_says_why_in_its_row(
    exported: Path, written: Path, capsys: Capture
) -> None:
    def faster_but_for_its_fastest_call(document: dict[str, Any]) -> None:
        for timing in document["timings"]:
            for name in ("median_ms", "p10_ms", "p90_ms"):
                timing[name] /= 100
            timing["runs_ms"] = [ms / 100 for ms in timing["runs_ms"]]
            timing["min_ms"] *= 10  # of a machine that was busy all the time

    changed(written, faster_but_for_its_fastest_call)
    new = measured_again(exported, written)
    assert main(["bench", "compare", str(written), str(new)]) == 0
    assert "but its fastest calls are not" in capsys.readouterr().out


def test_a_regression_has_status_1_and_names_the_worst(exported: Path, written: Path, capsys: Capture) -> None:
    def faster(document: dict[str, Any]) -> None:
        for timing in document["timings"]:
            for name in ("median_ms", "min_ms", "p10_ms", "p90_ms"):
                timing[name] /= 100
            timing["runs_ms"] = [ms / 100 for ms in timing["runs_ms"]]

    new = measured_again(exported, written)
    assert main(["bench", "compare", str(written), str(new), "--max-regression", "1000"]) == 0
    assert "compared with" in capsys.readouterr().out
    changed(written, faster)
    assert main(["bench", "compare", str(written), str(new)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "slower" in err
    assert f"4 of 4 take more than 10 % longer than in {written}" in " ".join(err.split())


def test_a_file_that_holds_no_times_is_not_written_over(exported: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "notes.json").write_text("{}")
    message = refused(capsys, "--bundle", str(exported), "--out", str(tmp_path / "notes.json"))
    assert "notes.json exists and does not contain times" in message
    assert (tmp_path / "notes.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["model"].update(checkpoint_sha256="0" * 64), "model.checkpoint_sha256: this is another model"),
        (lambda d: d["model"].update(name="giant"), "model.name: this is another model, giant"),
        (lambda d: d["timings"][1].update(median_ms=-1), "timings[1].median_ms: -1.0 is not a time above 0"),
        (lambda d: d["timings"][1].update(median_ms=None), "timings[1].median_ms: Expected `float`"),
        (lambda d: d["timings"][0].update(unit="tpu"), "timings[0].unit: Invalid enum value 'tpu'"),
        (lambda d: d["timings"][0].update(heads=3), "timings[0].heads: 3 is not in model.subnetworks"),
        (lambda d: d["timings"][0].update(runs_ms=[]), "timings[0].runs_ms"),
        (lambda d: d.update(date="yesterday"), "date: 'yesterday' is not YYYY-MM-DD"),
        (lambda d: d.pop("date"), "required field `date`"),
        (lambda d: d.pop("machine"), "required field `machine`"),
        (lambda d: d.update(timings=[]), "timings: the list is empty"),
        (lambda d: d.update(schema_version=2), "schema_version: 2"),
        (lambda d: d.update(kind="toaster"), "kind"),
        (lambda d: [t.update(runtime="litert") for t in d["timings"]], "have no timings in common"),
    ],
)
def test_a_bench_file_that_cannot_be_compared_is_refused_naming_file_and_field(
    written: Path, capsys: Capture, change: Change, told: str
) -> None:
    new = written.with_name("new.json")
    new.write_bytes(written.read_bytes())
    changed(written, change)
    message = refused(capsys, "compare", str(written), str(new))
    assert str(written) in message
    assert told in message


def test_a_bench_file_of_another_model_is_not_imported(exported: Path, written: Path, capsys: Capture) -> None:
    changed(written, lambda d: d["model"].update(checkpoint_sha256="0" * 64))
    assert main(["profile", "import", str(written), "--bundle", str(exported)]) == 2
    assert "model.checkpoint_sha256: this is another model" in " ".join(capsys.readouterr().err.split())


def test_what_is_no_bench_file_is_refused(tmp_path: Path, capsys: Capture) -> None:
    for content in (b"", b"[]", b'{"a": 1}', b"\xff"):
        (tmp_path / "x.json").write_bytes(content)
        told = refused(capsys, "compare", str(tmp_path / "x.json"), str(tmp_path / "x.json"))
        assert "x.json is not a bench file" in told
    assert "cannot be read" in refused(capsys, "compare", str(tmp_path / "none.json"), str(tmp_path / "x.json"))
