"""Bytes, names and metadata of assets, and where they can be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hydra_export import network, targets
from hydra_export.errors import BadInput, MissingExtra, UnknownName
from hydra_export.installation import install_command
from hydra_export.target import ExportSpec
from hydra_export.targets.coreai import check_system
from hydra_export.version import VERSION
from tests.targets.conftest import MakeCheckpoint
from tests.targets.coreai.conftest import COREAI, Write, case

_PROGRAM = """
import sys
from pathlib import Path
from hydra_export import targets
from hydra_export.checkpoint import load
from hydra_export.installation import install_command
from hydra_export.target import ExportSpec
out = Path(sys.argv[2])
out.mkdir()
for precision in ("fp32", "fp16", "int8"):
    spec = ExportSpec(precision=precision, graph="universal", input="image")
    targets.get("coreai").write(load(Path(sys.argv[1])), (1, 2, 4), spec, out)
"""


def test_two_processes_write_the_same_bytes(
    needs_coreai: None, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    make_checkpoint()
    trees = []
    for seed, name in (("1", "here"), ("2", "another place")):
        command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "checkpoint.safetensors"), str(tmp_path / name)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        trees.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert len(trees[0]) == 9
    assert trees[0] == trees[1]


def test_the_metadata_is_for_people_and_says_no_date(write: Write) -> None:
    _, _, path = write("fp16", (1, 2), "universal")
    metadata = json.loads((path / "metadata.json").read_bytes())
    assert path.name == "tiny-universal.aimodel"
    assert (metadata["author"], metadata["license"]) == ("hydra-export", "CC0-1.0")
    assert metadata["description"].startswith("tiny, subnetworks of 1, 2 of 4 attention heads, as functions")
    assert metadata["producer"].startswith("coreai-core ")
    assert "creationDate" not in metadata
    assert VERSION not in metadata["assetVersion"]  # of the format


def test_a_universal_asset_is_hardly_larger_than_its_largest_subnetwork(
    needs_coreai: None, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(heads=4, head_dim=64, depth=4)
    sizes = []
    for graph, heads in (("separate", (4,)), ("universal", (1, 2, 4))):
        (artifact,) = case("fp32", graph).write(checkpoint, heads, tmp_path / graph)  # type: ignore[arg-type]
        sizes.append((tmp_path / graph / artifact.path / "main.mlirb").stat().st_size)
    assert sizes[1] < 1.01 * sizes[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_program_takes_little_beside_its_weights(
    needs_coreai: None, make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: str
) -> None:
    checkpoint = make_checkpoint(heads=4, head_dim=64, depth=4)
    (artifact,) = case(precision).write(checkpoint, (4,), tmp_path / "out")  # type: ignore[arg-type]
    size = (tmp_path / "out" / artifact.path / "main.mlirb").stat().st_size
    bytes_per_weight = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    assert size < 1.03 * bytes_per_weight * network.num_params(checkpoint.info.config, 4)


@pytest.mark.parametrize(
    ("system", "machine", "libc", "problem"),
    [
        ("linux", "aarch64", ("glibc", "2.36"), "no coreai-core for linux on aarch64"),
        ("win32", "AMD64", ("", ""), "no coreai-core for win32 on AMD64"),
        ("darwin", "x86_64", ("", ""), "no coreai-core for darwin on x86_64"),
        ("linux", "x86_64", ("glibc", "2.31"), "glibc 2.34 or newer; this system has glibc 2.31"),
        ("linux", "x86_64", ("", ""), "glibc 2.34 or newer; this system has no glibc"),
    ],
)
def test_systems_that_apple_has_no_package_for_are_refused_with_what_works(
    system: str, machine: str, libc: tuple[str, str], problem: str
) -> None:
    with pytest.raises(BadInput, match=problem) as refused:
        check_system(system, machine, libc)
    assert "coreml" in refused.value.remedy
    assert not isinstance(refused.value, MissingExtra)


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("linux", "x86_64", ("glibc", "2.34")), ("linux", "x86_64", ("glibc", "2.4000")), ("darwin", "arm64", ("", ""))],
)
def test_systems_that_apple_has_a_package_for_are_taken(system: str, machine: str, libc: tuple[str, str]) -> None:
    check_system(system, machine, libc)


def _on(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """A Linux without the package."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "coreai" else find_spec(name))


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, "x86_64")
    with pytest.raises(MissingExtra, match="coreai-core") as missing:
        COREAI.requires()
    assert install_command("coreai") in missing.value.remedy


@pytest.mark.parametrize(("machine", "problem"), [("x86_64", "needs coreai-core"), ("aarch64", "linux on aarch64")])
def test_an_asset_that_cannot_be_read_here_is_no_failed_check(
    write: Write, monkeypatch: pytest.MonkeyPatch, machine: str, problem: str
) -> None:
    _, _, path = write()
    _on(monkeypatch, machine)
    for attempt in (COREAI.lint, COREAI.signature, lambda path: COREAI.load(path, 2)):
        with pytest.raises(MissingExtra, match=problem):
            attempt(path)


def test_a_batch_of_any_size_is_refused() -> None:
    with pytest.raises(BadInput, match="fixed batch"):
        COREAI.check(ExportSpec(batch="dynamic"))


def test_another_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="No Core AI runtime 'coreml'"):
        COREAI.load(tmp_path, 1, runtime="coreml")


def test_every_precision_is_verified_in_float32_first() -> None:
    for precision in COREAI.precisions:
        first, *others = COREAI.runtimes(precision)
        assert first.exact
        assert all(runtime.further for runtime in others)
    assert targets.get("coreai").experimental.keys() == {"separate", "universal"}
