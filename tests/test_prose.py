"""What people read is plain English: the phrases that crept in before are refused, with what to write instead."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hydra_export
from tests.test_docs import INCLUDED, PAGES, ROOT, text

INSTEAD = {
    r"proven": "verified",
    r"such that there (is|are) none|that (is|are) (?-i:none)": "without",
    r"speaks? (of|for)": "describe, mean",
    r"says? how sure|how sure (it|that|this) is": "confidence",
    r"(?<!there )is no (?!better|longer|more)\w+": "is not a",
    r"as well as (it|they) can": "nothing: leave it out",
    r"allowed (is|are)": "choose from, at most",
    r"(is|are|was|were) taken for": "is assumed to be",
    r"(lies|lie) in": "is in",
    r"even(s|ed|ing)? out": "equalize",
    r"goe?s? without": "has no, needs no",
    r"by itself": "automatically",
    r"which see": "see",
    r"(?-i:Not) (known|measured|run|timed|tried) (is|are)": "the subject first",
    r"alone(?=[.,;)])": "only, before the verb",
    r"(some|any)thing else than": "other than",
    r"(nothing|none) of ours": "nothing from hydra-export",
}
PHRASES = {re.compile(rf"\b({phrase})(?!\w)", re.IGNORECASE): instead for phrase, instead in INSTEAD.items()}
PACKAGE = Path(hydra_export.__file__).parent


def refused(prose: str) -> Iterator[str]:
    for phrase, instead in PHRASES.items():
        for found in phrase.finditer(re.sub(r"\s+", " ", prose)):
            yield f"{found[0]!r}; write: {instead}"


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Those of a module that may be shown, by line. Docstrings are for developers, but commands show theirs as help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(shown)) if path.parent.name == "commands" or shown not in docstrings:
                yield node.lineno, shown


@pytest.mark.parametrize("page", [*PAGES, *INCLUDED])
def test_pages_are_plain_english(page: str) -> None:
    prose = re.sub(r"`[^`\n]*`", "` `", text(page))
    assert [*refused(prose)] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_and_help_are_plain_english(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {why}" for line, shown in strings(path) for why in refused(shown)]
    assert found == []


@pytest.mark.parametrize("name", hydra_export.__all__)
def test_docstrings_of_public_names_are_plain_english(name: str) -> None:
    public = getattr(hydra_export, name)
    described = [public, *(vars(public).values() if inspect.isclass(public) else ())]
    assert [why for each in described for why in refused(inspect.getdoc(each) or "")] == []


@pytest.mark.parametrize(
    "prose",
    [
        "The file was proven in LiteRT.",
        "--bundle DIR speaks of yours",
        "It is no number.",
        "It has 5 bytes, allowed are\n4.",
        "Not measured is the load time.",
        "Images are read from a folder alone.",
        "The folder holds something else than times.",
    ],
)
def test_what_reads_as_translated_is_refused(prose: str) -> None:
    assert [*refused(prose)]


def test_plain_english_is_not_refused() -> None:
    assert [
        *refused("There is no folder x. It is no longer read. The model runs alone on a board, not in a lie.")
    ] == []
