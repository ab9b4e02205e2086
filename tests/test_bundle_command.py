"""``hydra-export export --zip``: a folder and its archive that come and stay together, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hydra_export import archive, checkpoint, checkpoint_file, files
from hydra_export.architecture import HydraConfig
from hydra_export.cache import Cache
from hydra_export.cli import main
from hydra_export.exporting import export, jobs
from hydra_export.preprocess import Preprocessing
from hydra_export.verification import verify
from tests.conftest import SOON, available_targets, perturbed, snapshot
from tests.killed import artifacts

# 500 were run by hand; every one takes the start of a process.
KILLS = int(os.environ.get("HYDRA_EXPORT_KILLS", "12"))
PROGRAM = Path(__file__).with_name("killed.py")


def contents(folder: Path) -> dict[str, str]:
    return {name: digest for name, (_mode, digest) in snapshot(folder).items()}


def bundled(*arguments: object) -> int:
    return main(["export", "--zip", *map(str, arguments)])


def test_the_same_choices_give_the_same_bytes_in_another_folder_under_another_umask(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    chosen = ["--checkpoint", tiny_checkpoint, "--graph", "separate,shared,universal", "--cache", tmp_path / "cache"]
    assert bundled(*chosen, "--out", tmp_path / "first") == 0
    before = os.umask(0o077)
    try:
        assert bundled(*chosen, "--out", tmp_path / "deep" / "second") == 0
        assert bundled(*chosen[:-2], "--no-cache", "--out", tmp_path / "third") == 0
    finally:
        os.umask(before)
    archives = [tmp_path / "first.zip", tmp_path / "deep" / "second.zip", tmp_path / "third.zip"]
    assert len({files.sha256(path) for path in archives}) == 1
    assert contents(tmp_path / "first") == contents(tmp_path / "deep" / "second")
    assert verify(archives[0]) == verify(tmp_path / "first")


@pytest.mark.slow
def test_every_target_bundled_twice_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Here, and in a new process, another folder and under another umask."""
    chosen = [
        "--target",
        ",".join(available_targets()),
        "--graph",
        "separate,universal",
        "--heads",
        "2,4",
        "--no-cache",
    ]
    chosen += ["--checkpoint", str(tiny_checkpoint)]
    first, second = tmp_path / "first", tmp_path / "some where" / "second"
    assert bundled(*chosen, "--out", first) == 0
    again = [sys.executable, "-m", "hydra_export", "export", "--zip", *chosen, "--out", str(second)]
    subprocess.run(again, check=True, capture_output=True, umask=0o077)
    assert files.sha256(first.with_suffix(".zip")) == files.sha256(second.with_suffix(".zip"))
    assert contents(first) == contents(second)


def test_the_result_says_where_the_archive_is_and_what_was_reused(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", tiny_checkpoint, "--cache", tmp_path / "cache", "--out", tmp_path / "out", "--json"]
    assert bundled(*arguments, "--heads", "2") == 0
    first = json.loads(capsys.readouterr().out)
    assert bundled(*arguments, "--heads", "2,4") == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["reused"], second["reused"], len(second["manifest"]["artifacts"])) == (0, 1, 2)
    zipped = tmp_path / "out.zip"
    said = {"path": str(zipped), "bytes": zipped.stat().st_size, "sha256": files.sha256(zipped)}
    assert second["archive"] == said


@pytest.mark.parametrize("content", [b"holidays", b"", b"PK\x03\x04 damaged"])
def test_a_file_in_the_archives_place_that_is_none_is_refused_and_kept(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "out.zip").write_bytes(content)
    assert bundled("--checkpoint", tiny_checkpoint, "--no-cache", "--out", tmp_path / "out") == 2
    assert "out.zip exists and is not a bundle's archive" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out.zip").read_bytes() == content
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_the_old_folder_and_the_old_archive(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--checkpoint", tiny_checkpoint, "--no-cache", "--out", tmp_path / "out"]
    assert bundled(*arguments) == 0
    before = snapshot(tmp_path)
    monkeypatch.setattr("hydra_export.parity.Reference.bound", 1e-12)
    assert bundled(*arguments) == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("out", "zipped"), [(".", "above/here.zip"), ("folder/", "above/here/folder.zip"), ("../there", "above/there.zip")]
)
def test_the_archive_lies_beside_the_folder_and_never_in_it(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, zipped: str
) -> None:
    (tmp_path / "above" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "here")
    assert bundled("--checkpoint", tiny_checkpoint, "--no-cache", "--out", out) == 0
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.zip")] == [zipped]


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of different models, and their archives beside them."""
    place = tmp_path_factory.mktemp("two")
    config = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7)
    packaged = checkpoint.load().info
    for seed, name in enumerate(("first", "second")):
        data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0)
        info = checkpoint_file.CheckpointInfo(name="tiny", config=config, preprocessing=data, license=packaged.license)
        checkpoint_file.write(place / f"{name}.safetensors", perturbed(config, seed).state_dict(), info)
        loaded = checkpoint.load(place / f"{name}.safetensors")
        export(loaded, place / name, jobs(["onnx"], ["separate", "shared"]), heads=(2, 4))
        archive.write(place / name, place / f"{name}.zip", "tiny")
    return place / "first", place / "second"


def start(place: Path, two: tuple[Path, Path], rounds: int, most_bytes: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, PROGRAM, place, rounds, most_bytes, *two]
    # Without a buffer, in which communicate would not look for what came right behind the first line.
    running = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, bufsize=0)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    return running


def finished(place: Path, two: tuple[Path, Path]) -> int:
    """The exit status of one round."""
    running = start(place, two, 1, 0)
    running.communicate(timeout=SOON)
    return running.returncode


def check(place: Path, two: tuple[Path, Path]) -> str:
    """What lies there is the one or the other, or nothing yet; the name of which."""
    out, zipped = place / "out", place / "out.zip"
    known = {json.dumps(contents(folder), sort_keys=True): folder for folder in two}
    found = None
    if out.exists():
        found = known[json.dumps(contents(out), sort_keys=True)]
    if zipped.exists():
        assert found is not None
        assert files.sha256(zipped) == files.sha256(found.with_suffix(".zip"))
    check_cache(place / "cache", two)
    return found.name if found else ""


def check_cache(folder: Path, two: tuple[Path, Path]) -> None:
    originals = [{path.name: path.read_bytes() for path in (each / "onnx").iterdir()} for each in two]
    for entry in (folder / "writes").glob("[!.]*.json"):
        with tempfile.TemporaryDirectory() as out:
            if Cache(folder).fetch(entry.stem, artifacts(two[0]), Path(out)):
                assert {path.name: path.read_bytes() for path in Path(out).iterdir()} in originals


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(two: tuple[Path, Path], tmp_path: Path) -> None:
    rng, kills, latest, seen = random.Random(0), 0, 0.15, {""}
    while kills < KILLS or seen == {""}:
        running = start(tmp_path, two, 0, 0)
        time.sleep(rng.uniform(0, latest))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        seen.add(check(tmp_path, two))
        kills += 1
        if seen == {""}:  # a slow or busy machine
            latest *= 1.5
    assert finished(tmp_path, two) == 0
    assert check(tmp_path, two) == "first"
    assert (tmp_path / "out.zip").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("out", "out.zip", "cache")] == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_disk_that_is_full_meanwhile_leaves_the_old(two: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    assert finished(tmp_path, two) == 0
    before = {name: digest for name, digest in contents(tmp_path).items() if name.startswith("out")}
    size = two[1].with_suffix(".zip").stat().st_size
    running = start(tmp_path, (two[1], two[1]), 1, int(size * share))
    said, _ = running.communicate(timeout=SOON)
    assert running.returncode == 2
    assert b"Cannot write" in said
    assert {name: digest for name, digest in contents(tmp_path).items() if name.startswith("out")} == before
    check(tmp_path, two)
    assert finished(tmp_path, (two[1], two[1])) == 0
    assert check(tmp_path, two) == "second"
