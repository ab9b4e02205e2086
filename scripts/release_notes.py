"""Prints what CHANGELOG.md says of a release; refuses a tag that is not the version, and a version without a section.

python scripts/release_notes.py v0.1.0 > notes.md
"""

import re
import sys
import tomllib
from pathlib import Path


def notes(tag: str, version: str, changelog: str) -> str:
    if tag != f"v{version}":
        sys.exit(f"The tag is {tag!r}, pyproject.toml says version {version!r}. Tag v{version}, or change the version.")
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    titles = {section.partition("\n")[0].strip(): section.partition("\n")[2].strip() for section in sections}
    if titles.get("[Unreleased]"):
        sys.exit(f"CHANGELOG.md has unreleased changes. Move them into a section '## [{version}] - YYYY-MM-DD'.")
    found = [
        text for title, text in titles.items() if re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", title)
    ]
    if len(found) != 1 or not found[0]:
        sys.exit(f"CHANGELOG.md says nothing of {version}. Write a section '## [{version}] - YYYY-MM-DD'.")
    return found[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{len(sys.argv) - 1} arguments were passed. Pass one, the tag: v0.1.0")
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(notes(sys.argv[1], project["version"], Path("CHANGELOG.md").read_text(encoding="utf-8")))
