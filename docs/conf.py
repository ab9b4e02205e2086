"""The documentation site: ``make docs`` builds it from docs/ into docs/_build/html."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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

html_theme = "furo"
html_title = f"hydra-export {VERSION}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
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
    ("py:class", r"hydra_export\.device\.Value"),  # a type variable
    ("py:class", r"hydra_export\.mil\.(types|constants|program)\.(TensorType|ListType|DictionaryType|Constant|Step)"),
]

# Where the repository has a file, people who read it there find a link to that file; here it is a page.
_PAGES = {"benchmarks/README.md": "/benchmarks.md", "examples/browser/README.md": "/deploying/browser.md"}


def _link_to_pages(_app: Sphinx, _name: str, source: list[str]) -> None:
    for file, page in _PAGES.items():
        source[0] = re.sub(rf"\]\((\.\./)+{re.escape(file)}", f"]({page}", source[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("source-read", _link_to_pages)
