"""How this package was installed, and the command that installs more of it in the same way."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import Distribution, PackageNotFoundError
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "hydra-export"


def install_command(extra: str = "") -> str:
    """What installs this package with *extra*: from an index, a checkout, a file or a repository, as it came.

    The origin is what the installer wrote into ``direct_url.json`` (PEP 610).
    """
    try:
        distribution = Distribution.from_name(_NAME)
    except PackageNotFoundError:  # run from its sources
        return f"pip install {shlex.quote(_with_extra(_NAME, extra))}"
    tool = "uv pip" if (distribution.read_text("INSTALLER") or "").strip() == "uv" else "pip"
    return f"{tool} install {_requirement(json.loads(distribution.read_text('direct_url.json') or '{}'), extra)}"


def _requirement(origin: dict[str, Any], extra: str) -> str:
    url = origin.get("url", "")
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return editable + shlex.quote(_with_extra(url2pathname(urlsplit(url).path), extra))
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = vcs.get("requested_revision") or vcs["commit_id"]
        url = f"{vcs['vcs']}+{url}@{revision}"
    if origin.get("subdirectory"):
        url += f"#subdirectory={origin['subdirectory']}"
    return shlex.quote(f"{_with_extra(_NAME, extra)} @ {url}" if url else _with_extra(_NAME, extra))


def _with_extra(what: str, extra: str) -> str:
    return f"{what}[{extra}]" if extra else what
