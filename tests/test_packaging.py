"""What is published: the wheel and the sdist, what is in them, and that the wheel works where it is installed."""

from __future__ import annotations

import email
import hashlib
import os
import re
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import hydra_export
from hydra_export import bundle, profiles
from hydra_export.version import VERSION

pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install 'hydra-export[dev]'")
pytest.importorskip("build", reason="build builds the wheel: pip install 'hydra-export[dev]'")
ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hydra_export"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMIT_TIME = "1700000000"


def built(place: Path, *what: str, source: Path = ROOT) -> list[Path]:
    """Builds without network, with the hatchling that is installed."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(place), str(source)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": COMMIT_TIME}
    subprocess.run(command, env=environment, cwd=place.parent, check=True, capture_output=True)
    return sorted(place.iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (found,) = built(tmp_path_factory.mktemp("build") / "sdist", "--sdist")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (found,) = built(tmp_path_factory.mktemp("build") / "wheel", "--wheel")
    return found


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (folder,) = place.iterdir()
    return folder


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"hydra_export-{VERSION}.dist-info/METADATA"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment into which pip installed the wheel; what it depends on is linked."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    (packages,) = (place / "lib").glob("python*/site-packages")
    for here in map(Path, site.getsitepackages()):
        for entry in here.iterdir():
            if entry.suffix not in (".pth", ".egg-link") and "hydra_export" not in entry.name:
                (packages / entry.name).symlink_to(entry)
    install = ["install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    return python


def run(*command: str | Path, place: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)), cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    described = f"hydra_export-{VERSION}.dist-info/"
    assert names_in(wheel) == package | {
        f"{described}{name}"
        for name in (
            "METADATA",
            "RECORD",
            "WHEEL",
            "entry_points.txt",
            "licenses/LICENSE",
            "licenses/hydra_export/data/LICENSE-digits.txt",
            "licenses/hydra_export/data/LICENSE-fashion-mnist.txt",
        )
    }
    assert {path.suffix for path in map(Path, package)} == {
        *(
            ".py",
            ".typed",
            ".toml",
            ".css",
            ".html",
            ".js",
            ".json",
            ".svg",
            ".safetensors",
            ".npz",
            ".md",
            ".txt",
            ".mjs",
            ".mts",
            ".cpp",
            ".hpp",
            ".kt",
            ".swift",
        )
    }


def test_the_wheel_has_types_model_images_licences_and_every_device(wheel: Path) -> None:
    expected = {"py.typed", "data/hydravit-fashion-mnist.safetensors", "data/fashion-mnist-1000.npz"}
    expected |= {"data/digits.npz", "data/LICENSE-digits.txt", "data/LICENSE-fashion-mnist.txt"}
    expected |= {"data/hydravit-fashion-mnist.md", "report/page.css"}
    expected |= {f"profiles/{name}.toml" for name in profiles.packaged()}
    assert {f"hydra_export/{name}" for name in expected} <= names_in(wheel)


def test_the_metadata_says_what_pyproject_says(metadata: Message) -> None:
    assert metadata["Name"] == "hydra-export"
    assert metadata["Version"] == VERSION == PROJECT["version"] == hydra_export.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT AND CC-BY-4.0"
    data = [f"hydra_export/data/LICENSE-{name}.txt" for name in ("digits", "fashion-mnist")]
    assert metadata.get_all("License-File") == ["LICENSE", *data]
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = metadata.get_payload(decode=True)
    assert isinstance(readme, bytes)
    assert readme.decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert metadata.get_all("Provides-Extra") == sorted(PROJECT["optional-dependencies"])
    required = metadata.get_all("Requires-Dist") or []
    assert sum("extra ==" not in line for line in required) == len(PROJECT["dependencies"])


def test_the_version_is_written_once() -> None:
    said = re.compile(rf"^_*version_* *= *[\"']{re.escape(VERSION)}", re.MULTILINE | re.IGNORECASE)
    files = [ROOT / "pyproject.toml", *PACKAGE.rglob("*.py")]
    assert [path.name for path in files if said.search(path.read_text(encoding="utf-8"))] == ["pyproject.toml"]


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml reads it: pip install 'hydra-export[dev]'")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["type"], cited["title"], str(cited["version"])) == ("software", PROJECT["name"], VERSION)


def test_the_same_source_gives_the_same_bytes(wheel: Path, sdist: Path, unpacked: Path, tmp_path: Path) -> None:
    """From the checkout, again under another umask, and from the sdist."""
    mask = os.umask(0o077)
    try:
        again = built(tmp_path / "again", "--sdist", "--wheel")
        (from_sdist,) = built(tmp_path / "from sdist", "--wheel", source=unpacked)
    finally:
        os.umask(mask)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, sdist)]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in again] == hashes
    assert hashlib.sha256(from_sdist.read_bytes()).hexdigest() == hashes[0]


def test_the_sdist_is_the_repository(unpacked: Path) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this is no git repository")
    kept = {name for name in found.stdout.splitlines() if (ROOT / name).exists()}
    packed = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert packed == kept | {"PKG-INFO"}
    for name in kept:
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes(), name
        assert os.access(unpacked / name, os.X_OK) == os.access(ROOT / name, os.X_OK), name


@pytest.mark.slow
def test_the_installed_wheel_exports_and_verifies(installed: Path, tmp_path: Path) -> None:
    script = installed.with_name("hydra-export")
    exported = run(script, "--target", "onnx", "--heads", "3", "--out", "x", place=tmp_path)
    assert exported.returncode == 0, exported.stderr
    verified = run(script, "verify", "x", place=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert [artifact.heads for artifact in bundle.read(tmp_path / "x").artifacts] == [(3,)]


def test_the_installed_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    found = run(installed, "-c", "import hydra_export; print(hydra_export.__file__)", place=tmp_path)
    assert Path(found.stdout.strip()).is_relative_to(installed.parents[1])
    version = run(installed, "-m", "hydra_export", "--version", place=tmp_path)
    assert (version.returncode, version.stdout.strip()) == (0, VERSION)
    devices = run(installed.with_name("hydra-export"), "profile", "--device", "pixel7", "--json", place=tmp_path)
    assert devices.returncode == 0, devices.stderr


@pytest.mark.slow
def test_its_types_are_seen_by_those_who_import_it(installed: Path, tmp_path: Path) -> None:
    consumer = """\
from pathlib import Path
import hydra_export
checkpoint = hydra_export.load_checkpoint()
bundle = hydra_export.export(checkpoint, Path("out"), targets="onnx", heads=[3])
reveal_type(bundle.artifacts[0].target)
"""
    (tmp_path / "consumer.py").write_text(consumer)
    # Ours are read in full; theirs would take a minute.
    skipped = "[mypy]\n[mypy-torch.*,torchvision.*,timm.*,numpy.*,onnx.*]\nfollow_imports = skip\n"
    (tmp_path / "mypy.ini").write_text(skipped)
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        f"--python-executable={installed}",
        f"--cache-dir={tmp_path}/cache",
    ]
    good = run(*mypy, "consumer.py", place=tmp_path)
    assert good.returncode == 0, good.stdout
    assert 'note: Revealed type is "str"' in good.stdout.replace("builtins.", "")
    (tmp_path / "consumer.py").write_text(consumer.replace("heads=[3]", "heads=3.5"))
    bad = run(*mypy, "consumer.py", place=tmp_path)
    assert bad.returncode == 1
    assert 'Argument "heads" to "export" has incompatible type' in bad.stdout


def test_the_run_time_library_is_a_wheel_of_one_file_for_older_pythons(tmp_path: Path) -> None:
    (wheel,) = built(tmp_path / "runtime", "--wheel", source=ROOT / "runtime")
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert modules == ["hydra_runtime.py"]
        assert archive.read("hydra_runtime.py") == (PACKAGE / "runtime.py").read_bytes()
        (metadata,) = (archive.read(name) for name in archive.namelist() if name.endswith("/METADATA"))
    said = email.message_from_bytes(metadata)
    assert (said["Version"], said["Requires-Python"]) == (VERSION, ">=3.9")
    required = [each for each in said.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert [re.split("[^a-z]", each)[0] for each in required] == ["numpy"]
