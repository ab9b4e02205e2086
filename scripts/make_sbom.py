"""Writes the software bill of materials of a release: what the wheel depends on here, as CycloneDX JSON.

    python scripts/make_sbom.py OUT.cdx.json

Required is what `pip install hydra-export` brings, optional what the extras tflite and coreml add. Versions, licences
and what depends on what are those of the environment that this runs in, on this system and with this Python; what
requirements/constraints.txt pins has to be installed as it says.
"""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("tflite", "coreml")
Graph = dict[str, set[str]]


def applying(requirements: Iterable[str], extras: Iterable[str]) -> list[Requirement]:
    """Those that hold on this system with *extras*."""
    read = map(Requirement, requirements)
    return [r for r in read if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))]


def add(graph: Graph, name: str, requirements: list[Requirement]) -> None:
    """What *name* needs, and what these need, whatever they are asked for with."""
    needed = graph.setdefault(name, set())
    for requirement in requirements:
        other = canonicalize_name(requirement.name)
        needed.add(other)
        further = applying(importlib.metadata.requires(other) or [], requirement.extras)
        if other not in graph or any(canonicalize_name(r.name) not in graph[other] for r in further):
            add(graph, other, further)


def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def check_pins(names: Iterable[str]) -> None:
    pins = pinned()
    for name in sorted(names):
        found = importlib.metadata.version(name)
        if pins.get(name, found) != found:
            sys.exit(f"{name} {found} is installed, requirements/constraints.txt says {pins[name]}. Run: make clean")


def seen() -> dict:
    """All that is installed here, as cyclonedx-py describes it."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", ROOT / "pyproject.toml"]
    command += ["--mc-type", "library", "--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON"]
    return json.loads(subprocess.run([*command, sys.executable], check=True, stdout=subprocess.PIPE).stdout)


def main(out: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    required: Graph = {}
    add(required, project["name"], applying(project["dependencies"], ()))
    graph = {name: set(needed) for name, needed in required.items()}
    add(graph, project["name"], applying([*project["dependencies"], *optional], ()))
    check_pins(graph.keys() - {project["name"]})

    bom = seen()
    root = bom["metadata"]["component"]
    root["purl"] = f"pkg:pypi/{project['name']}@{project['version']}"
    listed = {canonicalize_name(c["name"]): c for c in bom["components"] if canonicalize_name(c["name"]) in graph}
    listed.pop(project["name"], None)  # installed from here
    for name, component in listed.items():
        component["scope"] = "required" if name in required else "optional"
    references = {project["name"]: root["bom-ref"], **{name: c["bom-ref"] for name, c in listed.items()}}
    bom["components"] = [listed[name] for name in sorted(listed)]
    bom["dependencies"] = [
        {"ref": references[name], "dependsOn": sorted(references[other] for other in graph[name])}
        for name in sorted(graph)
    ]
    text = json.dumps(bom, indent=2) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"This is no CycloneDX: {problem}")
    out.write_text(text)
    print(f"{out}: {len(listed)} packages, {sum(name in required for name in listed)} of them required")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
