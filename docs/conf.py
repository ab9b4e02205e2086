"""The documentation site: ``make docs`` builds it from docs/ into docs/_build/html."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes

from hydra_export import profiles
from hydra_export.profiles import ResolvedProfile
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "hydra-export"
author = "the authors of hydra-export"
copyright = "the authors of hydra-export, Apache-2.0"  # noqa: A001 (Sphinx's name)
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "cyclopts.ext.sphinx"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # pages link to each other's headings as on GitHub
myst_links_external_new_tab = False

smartquotes = False  # would make one dash of an option's two

html_theme = "furo"
html_title = f"hydra-export {VERSION}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_js_files = ["filter.js"]
html_show_copyright = False
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Our own names have to resolve; those of other packages would need their sites to be asked, and of what a program in a
# package is made of only the outside is described.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!hydra_export).*"),
    ("py:class", r"hydra_export\.(device\.Value|network\.V)"),  # type variables
    ("py:class", r"hydra_export\.mil\.(types|constants|program)\.(TensorType|ListType|DictionaryType|Constant|Step)"),
]

# Where the repository has a file, people who read it there find a link to that file; here it is a page.
_PAGES = {"benchmarks/README.md": "/benchmarks.md"}


def _link_to_pages(_app: Sphinx, _name: str, source: list[str]) -> None:
    for file, page in _PAGES.items():
        source[0] = re.sub(rf"\]\((\.\./)+{re.escape(file)}", f"]({page}", source[0])


def _registry(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Every device in a table, where a page asks for it."""
    rows = sorted(_row(known) for known in profiles.resolve(None).values())
    table = "\n".join(
        [":::{table}", ":class: searchable", "", "| name | device | chip | timed | by |", "|---|---|---|---|---|"]
    )
    source[0] = source[0].replace("<!-- the registry -->", "\n".join([table, *rows, ":::"]))


def _row(known: ResolvedProfile) -> str:
    profile, records = known.profile, [record for record in known.profile.latency if record.provenance != "estimated"]
    timed = sorted({f"{record.runtime} ({record.unit.upper()})" for record in records})
    by = sorted(
        {profile.sources.get(record.source, record.source).partition("@")[0].partition(",")[0] for record in records}
    )
    chip = profile.facts.soc.value if profile.facts.soc else "unknown"
    name = profile.name + (", stand-in" if profile.stand_in else "")
    cells = (
        f"`{profile.id}`",
        name,
        str(chip),
        f"{len(records)}: {', '.join(timed)}" if records else "-",
        ", ".join(by) or "-",
    )
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _readable_defaults(*told: Any) -> tuple[str | None, str | None]:
    """A default that is made anew each time is shown as such: Sphinx cannot read a signature that says <factory>."""
    *_, signature, returned = told
    return signature and signature.replace("<factory>", "..."), returned


def _several_names(*told: Any) -> None:
    """Where "a, b: text" describes two attributes, napoleon would take the first for the type of the second."""
    lines: list[str] = told[-1]
    lines[:] = [re.sub(r"^ {4}\w+(, \w+)+(?=: )", lambda names: names[0].replace(", ", ","), line) for line in lines]


def _dashes(_app: Sphinx, page: nodes.document) -> None:
    """Sphinx writes two of them between a name and its description."""
    for text in [node for node in page.findall(nodes.Text) if node == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("autodoc-process-docstring", _several_names, priority=400)  # before napoleon
    app.connect("source-read", _link_to_pages)
    app.connect("source-read", _registry)
    app.connect("autodoc-process-signature", _readable_defaults)
    app.connect("doctree-read", _dashes)
