"""What README and docs/ show works as shown: every command and program in them is run, page by page, in order."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hydra_export.cli import main

ROOT = Path(__file__).parents[1]
README = "README.md"
PAGES = (
    README,
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
)
INCLUDED = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>[^>]+?) -->\n)?"
    r"^```(?P<language>sh|python)\n(?P<text>.*?)^```$"
    r"(?:\n\n```(?:text)?\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
WIDEST = 103  # columns of a block on the site, in a window of 1280 pixels: docs/_static/tables.css
NUMBER = re.compile(r"\d[\d.,]*(?:e[-+]?\d+)?")
STARTS_WITH = re.compile(r"^<!-- starts with: (.+?) of README\.md -->$", re.MULTILINE)
COMMANDS = (
    *("export", "verify", "bench", "train", "evaluate", "doctor", "profile", "report", "predict", "calibrate", "serve"),
    "check",
    *("bench compare", "bench standalone", "profile import", "profile fleet"),
)


@dataclass(frozen=True)
class Block:
    """One fenced block; *why* it is not run, or nothing; and what the page shows that it prints."""

    language: str
    text: str
    why: str
    shown: str


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    found = (match.groupdict() for match in FENCE.finditer(text(page)))
    return [Block(each["language"], each["text"], each["why"] or "", each["shown"] or "") for each in found]


def given(page: str) -> list[str]:
    """The folders of README's that a page takes for there."""
    found = STARTS_WITH.search(text(page))
    return re.split(r", | and ", found[1]) if found else []


def runnable(page: str) -> list[Block]:
    """Those that are to be run."""
    return [block for block in blocks(page) if not block.why]


def words(output: str) -> list[str]:
    """Its lines without numbers, marks of noise and spacing, which differ from run to run."""
    lines = (" ".join(NUMBER.sub("0", line).replace("~", "").replace("─", "").split()) for line in output.splitlines())
    return [line for line in lines if line not in ("", "...")]


def run(page: str, folder: Path) -> None:
    """Runs every block of *page* in *folder*; the user's own settings and caches are out of reach."""
    here = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    here |= {"COLUMNS": "100"}  # as the pages show what commands print
    here |= {f"XDG_{kind}_HOME": str(folder.parent / kind.lower()) for kind in ("CONFIG", "CACHE")}
    programs = {"sh": ["bash", "-eu", "-o", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for block in runnable(page):
        done = subprocess.run(
            [*programs[block.language], block.text],
            cwd=folder,
            env=os.environ | here,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{page}:\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        printed = words(done.stdout + done.stderr)
        for line in words(block.shown):
            assert line in printed, f"{page}:\n{block.text}\nprints no line like: {line}\n{done.stdout}"


@pytest.mark.slow
def test_the_readme_runs_in_order_and_then_the_pages_that_start_with_its_bundles(tmp_path: Path) -> None:
    readme = tmp_path / "readme"
    readme.mkdir()
    run(README, readme)
    for number, page in enumerate(filter(given, PAGES)):
        folder = tmp_path / str(number) / "page"
        for name in given(page):
            shutil.copytree(readme / name, folder / name)
        run(page, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page) and page != README and not given(page)])
def test_the_commands_and_programs_of_a_page_run_in_order(page: str, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    run(page, folder)


def test_every_block_is_run_or_says_why_not() -> None:
    assert sum(len(runnable(page)) for page in PAGES) >= 38
    for page in (*PAGES, *INCLUDED):
        fences = re.findall(r"^ *```(?:sh|bash|shell|console|python|py)\b", text(page), re.MULTILINE)
        assert len(blocks(page)) == len(fences), f"{page}: a block is fenced in a way that this test does not read"
    assert all(block.why for page in INCLUDED for block in blocks(page))


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_wider_than_the_site_or_has_comments_beside_its_commands(page: str) -> None:
    shown = re.sub(r"^<!-- .*?-->$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    for language, block in re.findall(r"^```(\S*)\n(.*?)^```$", shown, re.MULTILINE | re.DOTALL):
        if not language.isalpha() or language == "text":  # a table of the terminal scrolls
            continue
        for line in block.splitlines():
            assert len(line) <= WIDEST, f"{page}: {line}"
            beside = re.search(r"\S  +# ", line)
            assert language != "sh" or not beside or line[: beside.end()].count("'") % 2, f"{page}: {line}"


def test_every_option_of_a_command_that_is_not_run_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([*command.split(), "--help"]) == 0
    known = capsys.readouterr().out
    for page in PAGES:
        shown = [block.text for block in blocks(page) if block.why] + re.findall(r"`(hydra-export [^`]+)`", text(page))
        for command in re.findall(r"hydra-export (.*)", "\n".join(shown)):
            for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", command)) - {"--help"}:
                assert option in known, f"{page}: {option}"


@pytest.mark.parametrize("page", [*PAGES, *INCLUDED])
def test_every_file_that_a_page_links_to_exists(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text(page)):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", [README, *INCLUDED])
def test_every_heading_that_a_page_outside_the_site_links_to_exists(page: str) -> None:
    """Sphinx checks the links within the site."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)", text(page)):
        place = (Path(page).parent / target).as_posix() if target else page
        headings = re.findall(r"^#+ (.+)$", text(place), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("page", [*PAGES, *INCLUDED])
def test_no_page_has_a_placeholder(page: str) -> None:
    assert not re.findall(r"^[A-Z]{4,}$|TODO|FIXME", text(page), flags=re.MULTILINE)


def test_every_page_is_reached_from_the_index() -> None:
    listed = re.findall(r"^(?:[\w ]+ <)?([a-z/-]+)>?$", text("docs/index.md"), re.MULTILINE)
    assert {f"docs/{name}.md" for name in ("index", *listed)} == {*PAGES} - {README}


def test_every_public_name_is_described() -> None:
    import hydra_export
    from hydra_export import mil

    for page, module in (("docs/python.md", hydra_export), ("docs/mil.md", mil)):
        described = re.findall(r"^\.\. auto\w+:: (\w+)$", text(page), re.MULTILINE)
        assert set(described) >= set(module.__all__), page


def test_every_column_of_numbers_is_explained() -> None:
    from hydra_export.calibration import COLUMNS

    words = {
        "",
        "artifact",
        "run in",
        "image",
        "class",
        "device",
        "runtime",
        "fits",
        "precision",
        "unit",
        "date",
        "norm",
    }
    shown = set(COLUMNS)
    for command in ("export", "verify", "calibrate", "evaluate", "predict", "profile_import", "profile_fleet"):
        tree = ast.parse((ROOT / "hydra_export" / "commands" / f"{command}.py").read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        tables = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "table"]
        shown |= {str(node.value) for call in tables for node in call.args if isinstance(node, ast.Constant)}
    page = text("docs/numbers.md").replace("\\|", "|")
    assert not {column for column in shown - words if column.removesuffix(" %") not in page}


def test_every_error_code_is_listed() -> None:
    from hydra_export import errors

    base = errors.HydraExportError
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, base)}
    listed = re.findall(r"^\| `(\w+)` \| [12] \|", text("docs/bundles.md"), re.MULTILINE)
    assert {*listed} == codes - {"error"}


def test_every_input_of_the_action_is_listed() -> None:
    import yaml  # type: ignore[import-untyped]

    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    section = text("docs/bundles.md").partition("## GitHub Actions")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (?:`(.*?)`)? *\|", section, re.MULTILINE))
    assert rows == {name: given["default"] for name, given in action["inputs"].items()}
