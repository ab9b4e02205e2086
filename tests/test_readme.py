"""What the README shows works as shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hydra_export import bundle
from hydra_export.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_quick_start_and_the_python_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = README[README.index("## Quick start") : README.index("Your own model:")]
    commands = [line.split("#")[0].strip() for block in _blocks("sh", start) for line in block.splitlines()]
    quick = [line for line in commands if line.startswith("hydra-export") and "doctor" not in line]
    assert len(quick) == 3
    for command in quick:
        assert main(shlex.split(command)[1:]) == 0
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert bundle.read(tmp_path / "bundle").model.subnetworks[-1].heads == 6


def test_every_option_that_it_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("export", "verify", "bench", "train", "evaluate", "doctor", "profile", "bundle", "report"):
        assert main([command, "--help"]) == 0
    known = capsys.readouterr().out
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help"}:
        assert option in known, option


def test_every_file_that_it_links_to_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_manifest_schema_is_current() -> None:
    assert (ROOT / "docs" / "manifest.schema.json").read_bytes() == bundle.schema(), (
        "Run: python -c 'from hydra_export import bundle; print(bundle.schema().decode(), end=\"\")' "
        "> docs/manifest.schema.json"
    )


def test_no_page_has_a_placeholder() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"):
        assert not re.findall(r"^[A-Z]{4,}$|TODO|FIXME", page.read_text(encoding="utf-8"), flags=re.MULTILINE), page
