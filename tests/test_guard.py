"""What is legal and asks for too much is refused, or stopped: by name, soon, and without the memory for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import archive, board, bundle, checkpoint, network, targets
from hydra_export.architecture import HydraConfig
from hydra_export.cli import main
from hydra_export.errors import BadInput, LimitExceeded, MissingExtra, VerificationFailed
from hydra_export.exporting import export, jobs
from hydra_export.guard import Guard, RunLimits
from hydra_export.verification import verify
from tests import hostile
from tests.conftest import children
from tests.test_verify import reseal

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system does not enforce memory limits")
NAME = "onnx/tiny-k2.onnx"
WORKER = "hydra_export.worker"
SOON = 60.0  # seconds within which anything here ends; reached by failing tests alone

Capture = pytest.CaptureFixture[str]
Made = Callable[[Callable[[Path], None]], Path]
MadeOfTFLite = Callable[[hostile.Emit], Path]


def refused(capsys: Capture, *arguments: str) -> str:
    """What a command says that ends with status 1."""
    capsys.readouterr()
    assert main([*arguments]) == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def made(folder: Path) -> Made:
    """The bundle with another graph in the place of that of two heads."""

    def make(hostile_graph: Callable[[Path], None]) -> Path:
        hostile_graph(folder / NAME)
        reseal(folder)
        return folder

    return make


@pytest.mark.parametrize("command", [["verify"], ["bench", "--bundle"]], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (hostile.expand, "it uses operators ['Expand']"),
        (hostile.expand_by_input, "it uses operators ['Expand']"),
        (hostile.loop, "has a graph inside"),
        (hostile.products, "takes 2.06e+04 GMACs per run; its model takes 0.000135"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_says_that_it_asks_for_too_much_is_refused_and_not_run(
    command: list[str], graph: Callable[[Path], None], said: str, made: Made, capsys: Capture
) -> None:
    told = refused(capsys, *command, str(made(graph)))
    assert NAME in told
    assert said in told


def test_a_tensor_that_is_larger_than_what_may_be_taken_is_refused(made: Made, capsys: Capture) -> None:
    told = refused(capsys, "verify", str(made(hostile.outer_product)), "--limit-memory", "8000")
    assert f"{NAME} needs 8,192 MiB for a single tensor; the limit is 8,000 MiB. Allow more with " in told
    assert "--limit-memory" in told


def test_a_model_of_more_parameters_than_its_file_has_bytes_is_refused(folder: Path, capsys: Capture) -> None:
    """What a run may take follows from the manifest, which may say anything."""

    def deepen(manifest: Any) -> None:
        model = manifest["model"]
        model["config"].update(depth=256)
        config = msgspec.convert(model["config"], HydraConfig)
        for entry in model["subnetworks"]:
            entry.update(
                params=network.num_params(config, entry["heads"]),
                gmacs=round(network.macs(config, entry["heads"]) / 1e9, 6),
            )

    reseal(folder, deepen)
    told = refused(capsys, "verify", str(folder))
    assert f"{NAME} has " in told
    assert re.search("too few for the [0-9,]+ parameters of subnetwork 2", told), told


@pytest.mark.parametrize("command", [["verify"], ["bench", "--bundle"]], ids=lambda command: command[0])
def test_what_takes_too_long_is_stopped(command: list[str], made: Made, capsys: Capture) -> None:
    began = time.monotonic()
    told = refused(capsys, *command, str(made(hostile.hidden_products)), "--limit-seconds", "4")
    assert time.monotonic() - began < SOON
    assert NAME in told
    assert "it took longer than 4 s" in told
    assert "--limit-seconds" in told


@linux
@pytest.mark.parametrize("command", [["verify"], ["bench", "--bundle"]], ids=lambda command: command[0])
def test_what_takes_too_much_memory_is_stopped(command: list[str], made: Made, capsys: Capture) -> None:
    told = refused(capsys, *command, str(made(hostile.hidden_outer_product)), "--limit-memory", "600")
    assert NAME in told
    assert re.search("needs more than its limit of 600 MiB|needs more memory than its limit", told), told
    assert "--limit-memory" in told


@pytest.fixture(scope="module")
def tflite_bundle(exported: Path) -> Path:
    """Written once, never changed."""
    try:
        targets.get("tflite").requires()
    except MissingExtra as error:
        pytest.skip(str(error))
    loaded, place = checkpoint.load(exported.parent / "tiny.safetensors"), exported.parent / "tflite bundle"
    export(loaded, place, jobs(["tflite"]), heads=(2,))
    return place


@pytest.fixture
def tflite(exported: Path, tflite_bundle: Path, tmp_path: Path) -> MadeOfTFLite:
    """A bundle with a TFLite file of two heads whose graph is another one."""

    def make(emit: hostile.Emit) -> Path:
        place = Path(shutil.copytree(tflite_bundle, tmp_path / "tflite bundle"))
        loaded = checkpoint.load(exported.parent / "tiny.safetensors")
        hostile.write_tflite(place / "tflite" / "tiny-k2.tflite", loaded, emit)
        reseal(place)
        return place

    return make


@pytest.mark.parametrize("emit", [hostile.tflite_outer_product, hostile.tflite_products])
def test_products_of_tflite_that_are_not_the_models_are_refused(
    emit: hostile.Emit, tflite: MadeOfTFLite, capsys: Capture
) -> None:
    told = refused(capsys, "verify", str(tflite(emit)))
    assert re.search(r"tflite/tiny-k2\.tflite takes .* GMACs per run; its model takes 0\.000135", told), told


def test_a_tflite_file_that_takes_too_long_is_stopped(tflite: MadeOfTFLite, capsys: Capture) -> None:
    told = refused(capsys, "verify", str(tflite(hostile.tflite_steps)), "--limit-seconds", "6")
    assert "tflite/tiny-k2.tflite at k = 2" in told
    assert "it took longer than 6 s" in told


@linux
def test_a_tflite_file_that_takes_too_much_memory_is_stopped(tflite: MadeOfTFLite, capsys: Capture) -> None:
    told = refused(capsys, "verify", str(tflite(hostile.tflite_kept)), "--limit-memory", "1000")
    assert "tflite/tiny-k2.tflite" in told
    assert "1000 MiB" in told
    assert "--limit-memory" in told


def test_a_runtime_that_crashes_is_a_failed_check_of_the_artifact(folder: Path) -> None:
    others = children(os.getpid(), WORKER)  # those of runtimes, which are kept

    def crash(what: str, _done: int, _total: int) -> None:
        if what == "running onnx/tiny-k4.onnx":
            (pid,) = set(children(os.getpid(), WORKER)) - {*others}
            os.kill(pid, signal.SIGSEGV)

    with pytest.raises(VerificationFailed, match=r"Running .*onnx/tiny-k4\.onnx at k = 4 crashed with SIGSEGV"):
        verify(folder, crash)
    assert children(os.getpid(), WORKER) == others


@pytest.mark.parametrize(
    ("end", "status", "packed"), [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_ends_the_run_and_leaves_nothing(
    made: Made, tmp_path: Path, end: signal.Signals, status: int, packed: bool
) -> None:
    place, temporary = made(hostile.hidden_products), tmp_path / "temporary"
    if packed:
        archive.write(place, tmp_path / "bundle.zip", "tiny")
        place = tmp_path / "bundle.zip"
    temporary.mkdir()
    command = [sys.executable, "-m", "hydra_export", "verify", str(place)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + SOON
        while not (workers := children(process.pid, WORKER)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(end)
        said = process.communicate(timeout=SOON)[1]
    assert process.returncode == status
    assert b"Interrupted" in said
    assert list(temporary.iterdir()) == []
    (worker,) = workers
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_the_library_has_the_same_limits(made: Made, tmp_path: Path, packed: bool) -> None:
    place = made(hostile.outer_product)
    if packed:
        archive.write(place, tmp_path / "bundle.zip", "tiny")
        place = tmp_path / "bundle.zip"
    with pytest.raises(LimitExceeded) as caught:
        verify(place, limit_memory_mib=1000, limit_seconds=SOON)
    assert caught.value.message.startswith(f"{place}/{NAME} needs 8,192 MiB")
    assert caught.value.resource == "memory"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit-memory", "0"], "--limit-memory is 0. Use 256 MiB or more."),
        (["--limit-seconds", "0"], "--limit-seconds is 0.0. Use seconds above 0."),
        (["--limit-seconds", "nan"], "--limit-seconds is nan. Use seconds above 0."),
    ],
)
def test_limits_that_nothing_keeps_are_refused(
    exported: Path, arguments: list[str], said: str, capsys: Capture
) -> None:
    for command in (["verify", str(exported)], ["bench", "--bundle", str(exported)]):
        assert main([*command, *arguments]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_the_default_limits_follow_from_the_size(exported: Path) -> None:
    smallest = 2048 + 32 * board.usable_cores()
    assert board.default_memory_mib(0, None) == smallest
    assert board.default_memory_mib(2**30, None) == smallest + 3 * 1024
    assert board.default_memory_mib(2**30, 1000) == 1000
    assert board.default_memory_mib(2**30, 10) == 512
    assert board.default_seconds(0, 0) == 60
    assert board.default_seconds(10**9, 100) == 60 + 200 + 200
    assert board.default_seconds(10**12, 0) == board.default_seconds(0, 10**9) == 3600
    assert Guard(exported, bundle.read(exported), RunLimits(memory_mib=700)).memory_mib == 700


def test_limits_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`limit_memory_mib` is 5"):
        verify(tmp_path / "none", limit_memory_mib=5)
