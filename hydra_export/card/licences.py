"""Which licences a bundle's parts come under, and their texts where they are known."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from hydra_export.bundle import GOLDEN, Manifest

_APACHE, _APACHE_TEXT = "Apache-2.0", "LICENSE-apache-2.0.txt"


@dataclass(frozen=True)
class Part:
    """Something with a licence of its own.

    Attributes:
        license: in words; "" where nobody said.
        source: of the text, in the package's data; "" where it is not known.
        path: of the text, in the bundle.
    """

    what: str
    license: str
    source: str = ""
    path: str = ""


def parts(manifest: Manifest, image_license: str) -> list[Part]:
    """The parts of the bundle; *image_license* as ``ImageSet`` says it of the golden images."""
    apache = (_APACHE_TEXT, f"LICENSES/{_APACHE}.txt")
    said = " ".join(manifest.model.license.split())
    known = apache if said.casefold() in ("apache-2.0", "apache 2.0", "apache license 2.0") else ("", "")
    images = Part(f"the images in `{GOLDEN}`", "those of whoever exported them")
    if image_license:
        images = Part(
            f"{images.what}: {manifest.images}",
            "MIT",
            image_license,
            f"LICENSES/{image_license.removeprefix('LICENSE-')}",
        )
    return [
        Part("the weights, in every artifact", said, *known),
        images,
        Part("the code in `snippets/`", f"{_APACHE}, hydra-export", *apache),
    ]


def files(manifest: Manifest, image_license: str) -> dict[str, str]:
    """By path in the bundle, the licence texts that it needs."""
    data = resources.files("hydra_export.data")
    listed = parts(manifest, image_license)
    return {part.path: (data / part.source).read_text(encoding="utf-8") for part in listed if part.path}


def of_images(manifest: Manifest) -> str:
    """The ``image_license`` that a bundle was written with, by the texts in it."""
    data, names = resources.files("hydra_export.data"), (path.removeprefix("LICENSES/") for path in _paths(manifest))
    return next((f"LICENSE-{name}" for name in names if (data / f"LICENSE-{name}").is_file()), "")


def _paths(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files if file.path.startswith("LICENSES/") and _APACHE not in file.path]
