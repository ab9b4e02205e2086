"""What the README names is there; tests/test_docs.py runs what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hydra_export import bundle
from hydra_export.cli import main
from tests.test_docs import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_option_that_it_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([*command.split(), "--help"]) == 0
    known = capsys.readouterr().out
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help"}:
        assert option in known, option


def test_the_manifest_schema_is_current() -> None:
    assert (ROOT / "docs" / "manifest.schema.json").read_bytes() == bundle.schema(), (
        "Run: python -c 'from hydra_export import bundle; print(bundle.schema().decode(), end=\"\")' "
        "> docs/manifest.schema.json"
    )
