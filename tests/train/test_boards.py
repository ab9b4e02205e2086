"""Where metrics are shown: TensorBoard, and Weights & Biases, whose own module a stand-in takes the place of here."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hydra_export.cli import main
from hydra_export.errors import BadInput, MissingExtra
from hydra_export.installation import install_command
from hydra_export.train import record, run
from tests.train.test_run import stop_at, tiny

VARIABLES = ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME")


class Told:
    """A module in the place of wandb, which remembers what it is told."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.logs: list[dict[str, float]] = []
        self.metrics: list[tuple[str, str]] = []
        self.ends: list[int] = []
        self.module = ModuleType("wandb")
        self.module.__spec__ = ModuleSpec("wandb", None, origin="stand-in")
        self.module.init, self.module.Error = self.init, RuntimeError  # type: ignore[attr-defined]

    def init(self, **told: Any) -> Told:
        self.inits.append(told)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, row: dict[str, float]) -> None:
        self.logs.append(row)

    def finish(self, exit_code: int = 0) -> None:
        self.ends.append(exit_code)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What wandb is told."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    stand_in = Told()
    monkeypatch.setitem(sys.modules, "wandb", stand_in.module)
    return stand_in


def test_boards_have_losses_and_accuracies_per_head_count() -> None:
    added: list[tuple[int, Mapping[str, float]]] = []

    class Board:
        def add(self, step: int, scalars: Mapping[str, float]) -> None:
            added.append((step, scalars))

    record.Metrics(io.StringIO(), [Board()]).add(7, loss=2.0, loss_per_k={3: 1.5}, accuracy={3: 40.0})
    assert added == [(7, {"loss": 2.0, "loss/k3": 1.5, "accuracy/k3": 40.0})]


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "train"), ("wandb", "wandb")])
def test_a_board_that_is_not_installed_is_refused_before_anything_is_written(
    name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("hydra_export.train.boards.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=re.escape(install_command(extra))):
        run.run(tiny(), tmp_path / "run", tensorboard=name == "tensorboard", wandb=name == "wandb")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_wandb_left_behind_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(MissingExtra, match="`wandb` needs wandb"):
        run.run(tiny(), tmp_path / "run", wandb=True)


def test_wandb_has_the_configuration_and_every_row(told: Told, tmp_path: Path) -> None:
    run.run(tiny(), tmp_path, wandb=True)
    (begun,) = told.inits
    assert begun["config"]["augmentation"]["erase"] == 0.5
    assert (begun["dir"], begun["resume"]) == (str(tmp_path), "allow")
    rows = record.rows(tmp_path)
    assert [row["step"] for row in told.logs] == [row["step"] for row in rows]
    assert [row["loss"] for row in told.logs if "loss" in row] == [row["loss"] for row in rows if "loss" in row]
    assert {"accuracy/k1", "accuracy/k2", "accuracy/k3"} <= told.logs[-1].keys()
    assert (told.metrics, told.ends) == ([("*", "step")], [0])


def test_a_run_that_goes_on_is_the_same_one_to_wandb_and_a_stopped_one_failed(told: Told, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.run(tiny(), tmp_path, wandb=True, report=stop_at(15))  # type: ignore[arg-type]
    run.run(tiny(), tmp_path, wandb=True, resume=True)
    first, second = (begun["id"] for begun in told.inits)
    assert first == second
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert told.ends == [1, 0]


def test_its_own_variables_configure_wandb(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "mine")
    run.run(tiny(steps=1), tmp_path, wandb=True)
    assert set(told.inits[0]) == {"config"}
    assert not (tmp_path / "wandb-run-id").exists()


def test_an_error_of_wandb_is_one_of_ours(told: Told, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no API key")

    told.module.init = refuse  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="`wandb` cannot start: no API key"):
        run.run(tiny(), tmp_path, wandb=True)


def test_wandb_itself_takes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ("--recipe", "digits", "--steps", "2", "--batch-size", "8", "--out", str(tmp_path / "run"))
    assert main(["train", *options, "--wandb"]) == 0
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
