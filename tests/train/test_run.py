"""Whole runs with tiny settings: folder, resume, failures, the commands."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from hydra_export import checkpoint
from hydra_export.commands.evaluate import evaluate
from hydra_export.commands.train import train
from hydra_export.data.datasets import digits
from hydra_export.errors import BadData, BadInput, CheckFailed, OutputRefused, UnknownName
from hydra_export.train import batches, initial, loop, recipes, record, run, speed
from hydra_export.train.config import Augmentation, TrainConfig
from hydra_export.train.distributed import World

TIMED = {"seconds", "images_per_s", "waiting", "memory_mib"}


def tiny(**changes: object) -> TrainConfig:
    """Forty steps on the digits, with everything random switched on."""
    base = recipes.digits()
    small = {
        "model": msgspec.structs.replace(base.model, heads=3, depth=2),
        "trained_heads": (1, 2, 3),
        "export_heads": (1, 3),
        "steps": 40,
        "batch_size": 16,
        "drop_path": 0.2,
        "augmentation": Augmentation(flip=0.5, shift=1, erase=0.5),
        "log_every": 10,
        "save_every": 10,
        "monitor_every": 20,
        "monitor_images": 50,
    }
    return msgspec.structs.replace(base, **(small | changes))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(path).model.state_dict())


def metrics(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / record.METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def trainer(config: TrainConfig) -> loop.Trainer:
    alone = World(0, 1, torch.device("cpu"))
    return loop.Trainer(config, initial.model(config, None, False), batches.batches(config, digits().train), alone)


def stop_at(step: int) -> object:
    def report(progress: run.Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run.run(tiny(), folder)
    return folder


def test_a_run_leaves_a_checkpoint_that_says_how_it_was_made(finished: Path) -> None:
    info = checkpoint.load(finished / record.CHECKPOINT).info
    assert info.trained_heads == (1, 2, 3)
    assert info.export_heads == (1, 3)
    assert info.labels == tuple("0123456789")
    assert set(info.accuracy) == {1, 2, 3}
    assert info.accuracy_data == "360 test images of scikit-learn's digits"
    words = info.training["command"].split()
    assert words[:5] == ["hydra-export", "train", "--recipe", "digits", "--out"]
    assert {"--train-heads", "model.heads=3", "augmentation.erase=0.5"} <= set(words)
    assert set(info.training["versions"]) >= {"torch", "timm", "hydra-export"}
    assert record.stored_config(finished) == tiny()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(finished: Path, tmp_path: Path) -> None:
    run.run(tiny(), tmp_path / "again")
    run.run(tiny(seed=1), tmp_path / "other")
    first, again, other = (tensors(p / record.CHECKPOINT) for p in (finished, tmp_path / "again", tmp_path / "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("stopped_at", [5, 20, 27])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(finished: Path, tmp_path: Path, stopped_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.run(tiny(), tmp_path, report=stop_at(stopped_at))  # type: ignore[arg-type]
    with (tmp_path / record.METRICS).open("a") as file:
        file.write('{"step": 3')  # a line cut off by the interruption
    run.run(tiny(), tmp_path, resume=True)
    whole, resumed = tensors(finished / record.CHECKPOINT), tensors(tmp_path / record.CHECKPOINT)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert metrics(tmp_path) == metrics(finished)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from hydra_export.train import record, run

def kill(progress):
    if progress.step == 25:
        os.kill(os.getpid(), signal.SIGKILL)

run.run(record.stored_config(Path(sys.argv[1])), Path(sys.argv[2]), report=kill)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_it_had_never_stopped(finished: Path, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(finished), str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / f".{record.STATE}.abc.partial").write_bytes(b"killed while saving")
    run.run(tiny(), tmp_path, resume=True)
    whole, resumed = tensors(finished / record.CHECKPOINT), tensors(tmp_path / record.CHECKPOINT)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    files = {record.CONFIG, record.METRICS, record.STATE, record.CHECKPOINT, record.PLOT}
    assert {path.name for path in tmp_path.iterdir()} == files


OTHER_RUN = """
import sys
from pathlib import Path
from hydra_export.errors import OutputRefused
from hydra_export.train import record, run

record._PATIENCE_SECONDS = float(sys.argv[3])
try:
    run.run(record.stored_config(Path(sys.argv[1])), Path(sys.argv[2]), resume=sys.argv[4] == "resume")
except OutputRefused as error:
    sys.exit(str(error))
"""


def other_run(finished: Path, out: Path, patience: float, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER_RUN, str(finished), str(out), str(patience), how]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_no_other_run_continues_one_that_goes_on(finished: Path, tmp_path: Path) -> None:
    told = []

    def meanwhile(progress: run.Progress) -> None:
        if progress.step == 15:
            other = other_run(finished, tmp_path, 0, "resume")
            told.append((other.communicate()[1], other.returncode))

    run.run(tiny(), tmp_path, report=meanwhile)
    ((said, status),) = told
    assert f"Another process is writing into {tmp_path}. Wait until it has ended" in said
    assert status == 1
    assert metrics(tmp_path) == metrics(finished)


@pytest.mark.slow
def test_of_two_runs_that_start_in_one_folder_one_goes_on(finished: Path, tmp_path: Path) -> None:
    both = [other_run(finished, tmp_path / "run", 60, "new") for _ in range(2)]
    said = [each.communicate()[1] for each in both]
    assert sorted(each.returncode for each in both) == [0, 1], said
    assert any("is not empty" in each for each in said)
    assert metrics(tmp_path / "run") == metrics(finished)


def test_metrics_have_loss_and_accuracy_by_step(finished: Path) -> None:
    rows = metrics(finished)
    assert [row["step"] for row in rows if "loss" in row] == [10, 20, 30, 40]
    measured = [row["accuracy"] for row in rows if "accuracy" in row]
    assert [sorted(row) for row in measured if isinstance(row, dict)] == [["1", "3"], ["1", "2", "3"]]
    assert rows[-1] == {
        "step": 40,
        "accuracy": {str(k): top1 for k, top1 in checkpoint.load(finished / record.CHECKPOINT).info.accuracy.items()},
    }


def test_a_finished_run_that_is_continued_is_measured_once(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "again")
    run.run(tiny(), tmp_path / "again", resume=True)
    assert metrics(tmp_path / "again") == metrics(finished)


def test_metrics_have_speed_memory_and_the_loss_of_each_head_count(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / record.METRICS).read_text().splitlines()]
    rows = [row for row in lines if "loss" in row]
    assert all(set(row["loss_per_k"]) <= {"1", "2", "3"} for row in rows)
    assert {k for row in rows for k in row["loss_per_k"]} == {"1", "2", "3"}
    for row in rows:
        assert min(row["loss_per_k"].values()) <= row["loss"] <= max(row["loss_per_k"].values())
        assert row["images_per_s"] > 0
        assert 0 < row["waiting"] < 1
        assert row["memory_mib"] > 50  # PyTorch alone has more


def test_speed_is_that_of_the_last_steps_alone() -> None:
    window = speed.Window(16, torch.device("cpu"))
    for seconds, losses in ((4.0, {1: 9.0}), (1.0, {1: 2.0}), (3.0, {1: 4.0, 3: 8.0})):
        window._seconds += seconds
        window.add(loop.StepResult(losses, waited_s=seconds / 4))
        if seconds == 4:
            window.taken()
    means, pace = window.taken()
    assert means == {"loss": 4.0, "loss_per_k": {1: 3.0, 3: 8.0}}
    assert (pace.images_per_s, pace.waiting) == (8.0, 0.25)


def checkpoints(folder: Path) -> dict[str, int]:
    """The step of each checkpoint by file name."""
    return {path.name: checkpoint.load(path).info.training["step"] for path in folder.glob("*.safetensors")}


def test_the_last_checkpoints_and_the_best_are_kept_as_if_the_run_had_not_been_stopped(tmp_path: Path) -> None:
    wanted = tiny(keep=2, monitor_every=5)
    run.run(wanted, tmp_path / "whole")
    steps = checkpoints(tmp_path / "whole")
    best = steps.pop(record.BEST)
    assert steps == {"checkpoint-step-30.safetensors": 30, "checkpoint-step-40.safetensors": 40, record.CHECKPOINT: 40}
    rows: list[dict[str, Any]] = metrics(tmp_path / "whole")
    means = {row["step"]: np.mean([*row["accuracy"].values()]) for row in rows if "accuracy" in row}
    info = checkpoint.load(tmp_path / "whole" / record.BEST).info
    assert np.mean([*info.accuracy.values()]) >= max(means[step] for step in range(5, 40, 5))
    assert best == 40 or np.mean([*info.accuracy.values()]) == means[best]
    with pytest.raises(KeyboardInterrupt):
        run.run(wanted, tmp_path / "cut", report=stop_at(37))  # type: ignore[arg-type]
    run.run(wanted, tmp_path / "cut", resume=True)
    assert checkpoints(tmp_path / "cut") == checkpoints(tmp_path / "whole")
    whole, cut = tensors(tmp_path / "whole" / record.BEST), tensors(tmp_path / "cut" / record.BEST)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_kill_between_a_checkpoint_and_its_state_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = record.write_state

    def killed(out: Path, state: dict[str, Any]) -> None:
        if state["step"] == 30:
            raise KeyboardInterrupt
        write(out, state)

    with monkeypatch.context() as patched:
        patched.setattr(record, "write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            run.run(tiny(keep=2), tmp_path)
    assert {10, 20, 30} <= {*checkpoints(tmp_path).values()}
    run.run(tiny(keep=2), tmp_path, resume=True)
    assert {name for name in checkpoints(tmp_path) if "step" in name} == {
        "checkpoint-step-30.safetensors",
        "checkpoint-step-40.safetensors",
    }


def test_the_picture_of_a_short_run_has_points(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="extra plot")
    from hydra_export import pictures
    from hydra_export.train import plot

    rows: list[dict[str, Any]] = [{"step": 42, "loss": 2.1}, {"step": 42, "accuracy": {"1": 40.0, "2": 55.0}}]
    with Image.open(plot.run(rows, tmp_path / "run.png")) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in (pictures.INK, pictures.BLUE, pictures.ORANGE)]
    ink, blue, orange = ((pixels == colour).all(axis=2) for colour in colours)
    middle = pixels.shape[1] // 2
    assert min(ink[:, :middle].sum(), blue[:, middle:].sum(), orange[:, middle:].sum()) > 20
    with Image.open(plot.run(rows[:1], tmp_path / "run.png")) as narrow:
        assert narrow.size[0] < pixels.shape[1]  # no panel without accuracy


def test_the_digits_are_learnt_at_every_trained_head_count(tmp_path: Path) -> None:
    config = tiny(steps=300, batch_size=64, drop_path=0.0, augmentation=Augmentation(flip=0), lr=1e-2)
    outcome = run.run(config, tmp_path)
    assert min(outcome.accuracy.values()) > 60
    assert outcome.accuracy[3] > 80


def test_a_subnetwork_that_is_never_drawn_is_not_learnt_and_not_offered(tmp_path: Path) -> None:
    config = tiny(
        steps=150, batch_size=64, drop_path=0.0, augmentation=Augmentation(flip=0), lr=1e-2, trained_heads=(3,)
    )
    outcome = run.run(config, tmp_path)
    assert outcome.accuracy[3] > outcome.accuracy[1] + 30
    info = checkpoint.load(outcome.checkpoint).info
    assert info.trained_heads == info.export_heads == (3,)


def test_stored_accuracy_is_that_of_the_rounded_weights(tmp_path: Path) -> None:
    outcome = run.run(tiny(stored="float16"), tmp_path)
    found = evaluate(checkpoint=outcome.checkpoint, data="digits", heads="all").document
    assert {row["heads"]: row["top1"] for row in found["subnetworks"]} == outcome.accuracy
    assert outcome.checkpoint.stat().st_size < 3 * sum(t.numel() for t in tensors(outcome.checkpoint).values())


def test_a_loss_that_is_not_finite_stops_the_run_naming_k_and_step(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"k=\d became (nan|inf) at step \d+"):
        run.run(tiny(lr=1e3, clip=1e12, warmup=0.0, weight_decay=1e3), tmp_path)
    assert not (tmp_path / record.CHECKPOINT).exists()


def test_matrices_decay_and_norms_biases_and_tokens_do_not() -> None:
    made = trainer(tiny())
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    decayed = {
        names[id(parameter)]: group["weight_decay"] > 0
        for group in made._updates.optimizer.param_groups
        for parameter in group["params"]
    }
    assert set(decayed) == set(names.values())
    for name, decays in decayed.items():
        assert decays == (name.endswith("weight") and "norm" not in name), name


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputRefused, match="is not empty"):
        run.run(tiny(), tmp_path)
    with pytest.raises(OutputRefused, match="is a file"):
        run.run(tiny(), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_is_written_where_the_data_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadData):
        train(out=tmp_path / "run", data=str(tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()


def test_only_a_run_can_be_resumed_and_only_with_its_own_settings(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run to continue"):
        train(out=tmp_path, resume=True)
    with pytest.raises(BadInput, match=r"has `lr` 0.005, not 0.5"):
        train(out=finished, recipe="digits", lr=0.5, resume=True)
    with pytest.raises(BadInput, match="`recipe` digits, not fashion-mnist"):
        train(out=finished, recipe="fashion-mnist", resume=True)


def test_a_damaged_state_or_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.run(tiny(), tmp_path, report=stop_at(10))  # type: ignore[arg-type]
    state = (tmp_path / record.STATE).read_bytes()
    for damaged in (state[:1000], b"", b"not a state"):
        (tmp_path / record.STATE).write_bytes(damaged)
        with pytest.raises(BadInput, match="cannot be continued"):
            run.run(tiny(), tmp_path, resume=True)
    (tmp_path / record.CONFIG).write_text("{}")
    with pytest.raises(BadInput, match="not valid"):
        record.stored_config(tmp_path)


def test_the_command_trains_and_returns_a_table_and_a_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(out=tmp_path / "run", recipe="digits", steps=3, batch_size=8, train_heads="2,6", seed=4)
    assert [row["heads"] for row in result.document["subnetworks"]] == [2, 4, 6]
    assert [row["trained"] for row in result.document["subnetworks"]] == [True, False, True]
    assert result.document["trained_heads"] == [2, 6]
    assert json.dumps(result.document)
    assert "4 (not trained)" in drawn(result.shown)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "digit"}, "Did you mean 'digits'"),
        ({"steps": 0}, "steps"),
        ({"lr": -1.0}, "`lr` of a training run is -1"),
        ({"train_heads": "13"}, "13 is out of range"),
        ({"threads": 0}, "`threads` is 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        train(out=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_evaluate_takes_class_folders_and_counts_like_the_dataset(finished: Path, tmp_path: Path) -> None:
    test = digits().test
    for i in range(60):
        folder = tmp_path / str(test.labels[i])
        folder.mkdir(exist_ok=True)
        Image.fromarray(test.pixels[i, ..., 0]).save(folder / f"{i}.png")
    found = evaluate(checkpoint=finished / record.CHECKPOINT, data=str(tmp_path), heads="3").document
    model = checkpoint.load(finished / record.CHECKPOINT)
    with torch.no_grad():
        images = torch.from_numpy(model.info.preprocessing.normalise(test.pixels[:60]))
        right = (model.model(images, 3).argmax(1).numpy() == test.labels[:60]).mean()
    assert found["num_images"] == 60
    assert found["subnetworks"][0]["top1"] == pytest.approx(100 * right, abs=0.01)


def test_evaluate_refuses_images_of_other_classes_or_without_labels(finished: Path, tmp_path: Path) -> None:
    path = finished / record.CHECKPOINT
    with pytest.raises(BadInput, match="has 10 classes"):
        evaluate(checkpoint=path)
    with pytest.raises(UnknownName, match="Did you mean 'digits'"):
        evaluate(checkpoint=path, data="digit")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(BadData, match="without classes"):
        evaluate(checkpoint=path, data=str(tmp_path))
    with pytest.raises(BadInput, match="4 is out of range"):
        evaluate(checkpoint=path, data="digits", heads="4")


def drawn(renderable: object) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
