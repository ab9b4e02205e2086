"""The README of a bundle: what the model is, how to run it, how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hydra_export import targets
from hydra_export.architecture import HydraConfig
from hydra_export.bundle import GOLDEN, ArtifactEntry, Manifest, ModelEntry
from hydra_export.card import front_matter, licences, plain, tables
from hydra_export.card.snippets import FOLDER, MODULES, PYTHON
from hydra_export.preprocess import Preprocessing
from hydra_export.target import Card
from hydra_export.text import in_markdown

_PROGRAMS_DO = (
    "These programs run the artifacts and compare their outputs with the golden data. Each prepares a photograph in "
    "the same steps. `run.py` and `run.mjs` (with `--image PHOTO`) and `run.cpp` print its best labels:"
)

_LIBRARY_DOES = (
    "the library for a page or an app in Node, with types: `load` a bundle, `run` a photograph, keep a `budget` of "
    "milliseconds, try small head counts first in a `cascade`"
)


def _accuracy(model: ModelEntry) -> str:
    if not model.accuracy:
        return ""
    return f"Top-1 in percent{f', on {in_markdown(model.accuracy_data)}' if model.accuracy_data else ''}.\n\n"


def _agreement(model: ModelEntry) -> str:
    if not model.agreement_data:
        return ""
    how = "images with the same largest logit" if model.config.num_classes else "the mean cosine of features, times 100"
    return f"Agreement with the dense model in percent: {how}, on {in_markdown(model.agreement_data)}.\n\n"


def render(manifest: Manifest, others: Sequence[str], image_license: str) -> str:
    """Markdown for a person who found this folder, with a head for the Hugging Face Hub.

    Args:
        others: paths of what else ``card`` writes.
        image_license: as in ``card.write``.
    """
    model, config, data = manifest.model, manifest.model.config, manifest.model.preprocessing
    inputs = "\n".join(_inputs(entry) for entry in _first_of_each_kind(manifest))
    output = manifest.artifacts[0].outputs[0].name
    programs = "\n\n".join(_snippet(entry) for entry in _first_of_each_kind(manifest))
    return f"""{front_matter.render(manifest)}
# {in_markdown(model.name)}

{_what(manifest)}
hydra-export {manifest.tool["hydra-export"]} wrote this bundle, ran every artifact and compared it with PyTorch.
{_warnings(manifest)}
{config.heads} heads of {config.head_dim} channels, depth {config.depth}, patch {config.patch_size}, \
{config.channels} x {config.image_shape[0]} x {config.image_shape[1]} images, {_gives(config)}.

{tables.subnetworks(manifest)}

{_accuracy(model)}{_agreement(model)}{_assumed(manifest)}\
{tables.calibration(manifest)}{tables.devices(manifest)}## Files

{tables.files(manifest)}

`{GOLDEN}` contains inputs and expected outputs. `hydra-export verify .` checks every hash and runs every artifact
again; `sha256sum -c SHA256SUMS` needs nothing installed.

## Parity

Errors are those of `{output}` against the float64 subnetwork (fp16: with rounded weights), on \
{in_markdown(manifest.images)}.

{tables.parity(manifest)}

{tables.quantization(manifest)}## Input and output

{inputs}

`{output}`: float32, {_one_per(config)}\
{f"; `{plain.LABELS}` lists them, one per line" if model.labels else ""}.
{_prepared(data)} `{plain.PREPROCESSING}` states all of this for programs.

{_called(manifest, others)}{programs}

## Licence

{_licences(manifest, image_license)}
"""


def _gives(config: HydraConfig) -> str:
    if config.num_classes:
        return f"{config.num_classes} classes"
    return f"no classes; the output is {config.output_text}"


def _one_per(config: HydraConfig) -> str:
    """What an image's outputs are numbers of."""
    if config.pooling == "none":
        rows, columns = config.grid
        return f"a vector of channels for each of {rows} x {columns} patches, row by row"
    if config.projection:
        return f"{config.projection} numbers at every head count"
    return f"one per {'class' if config.num_classes else 'channel'}"


def _prepared(data: Preprocessing) -> str:
    """What becomes of a photograph, step by step."""
    grey = ", made grey (`L = (19595 R + 38470 G + 7471 B + 32768) >> 16`)" if data.channels == 1 else ""
    smoothing = "without antialiasing" if data.interpolation == "nearest" else "with antialiasing, as Pillow"
    (height, width), (high, wide) = data.image_shape, data.covered_shape
    if data.is_square:
        sides = f"its shorter side to {high} pixels, the longer one to floor({high} * longer / shorter)"
        start = f"(side - {height}) / 2"
    else:
        ratio = f"min(height / {high}, width / {wide})"
        sides = f"each side to side / {ratio}, halves rounded to even, so that it covers {high} x {wide}"
        start = f"(height - {height}) / 2 and (width - {width}) / 2"
    return (
        f"A photograph is turned upright (EXIF){grey} and resized ({data.interpolation}, {smoothing}): {sides}. Its "
        f"centre of {height} x {width} is kept, from {start} on, halves rounded to even."
    )


def _assumed(manifest: Manifest) -> str:
    lines = [f"- {in_markdown(line)}" for line in manifest.model.assumed]
    if not lines:
        return ""
    intro = "The checkpoint does not state the following. If an assumption is wrong, so is every artifact:"
    return "\n".join(["## Assumed", "", intro, "", *lines, "", ""])


def _what(manifest: Manifest) -> str:
    if manifest.model.is_plain:
        return f"A plain Vision Transformer, trained at its full width of {manifest.model.config.heads} heads."
    return "A HydraViT: the first k attention heads of one Vision Transformer are a complete smaller one."


def _warnings(manifest: Manifest) -> str:
    """What to know of artifacts before they are used, with the paths of those concerned."""
    of: dict[str, list[str]] = {}
    for entry in manifest.artifacts:
        for warning in entry.warnings:
            of.setdefault(warning, []).append(f"`{entry.path}`")
    lines = [f"> **Warning:** {in_markdown(warning)} ({', '.join(paths)})" for warning, paths in of.items()]
    return "\n".join(["", *"\n>\n".join(lines).split("\n"), ""]) if lines else ""


def _called(manifest: Manifest, others: Sequence[str]) -> str:
    if not any(path.startswith(f"{FOLDER}/") for path in others):
        return ""
    k, cards = manifest.model.subnetworks[-1].heads, _cards(manifest)
    called = {program.name: program.called for card in cards for program in card.programs if program.called}
    if packages := [card.javascript for card in cards if card.javascript]:
        called = {MODULES[0]: f"{_LIBRARY_DOES}; needs {' or '.join(packages)}", **called}
    if packages := [card.python for card in cards if card.python]:
        called = {
            PYTHON: f"`python {FOLDER}/{PYTHON} --heads {{k}}`; needs numpy, and {' or '.join(packages)}",
            **called,
        }
    lines = [f"- `{FOLDER}/{name}`: {how.replace('{k}', str(k))}" for name, how in called.items()]
    return "\n".join([_PROGRAMS_DO, "", *lines, "", ""])


def _cards(manifest: Manifest) -> list[Card]:
    """Of the targets in *manifest*, in its order."""
    return [targets.get(name).card for name in dict.fromkeys(entry.target for entry in manifest.artifacts)]


def _licences(manifest: Manifest, image_license: str) -> str:
    rows = []
    for part in licences.parts(manifest, image_license):
        said = in_markdown(part.license) or "The checkpoint does not state one. Ask whoever trained it."
        rows.append((part.what, said, f"`{part.path}`" if part.path else "not in this bundle"))
    return tables.table(("what", "licence", "text"), rows)


def _first_of_each_kind(manifest: Manifest) -> list[ArtifactEntry]:
    """One artifact per target and graph kind, in the manifest's order."""
    return list({(entry.target, entry.graph): entry for entry in reversed(manifest.artifacts)}.values())[::-1]


def _snippet(entry: ArtifactEntry) -> str:
    """Python that runs one artifact on the golden data."""
    card = targets.get(entry.target).card
    if not card.code:
        return ""
    form, output = entry.inputs[0], entry.outputs[0].name
    batch = form.shape[0] if isinstance(form.shape[0], int) else 1
    rows = "[:1]" if batch == 1 else f"[[0] * {batch}]"
    golden = f'golden["{"pixels" if entry.input == "image" else "image"}"]{rows}'
    # Pixels have their channels last, the normalised image has them first; some targets want the other.
    image = golden + card.image.get(entry.input, "")
    if form.scale is not None:
        ends = np.iinfo(form.dtype)
        counted = f"np.rint({image} / {form.scale!r} + {form.zero_point})"
        image = f"np.clip({counted}, {ends.min}, {ends.max}).astype(np.{form.dtype})"
    chosen = f', "{entry.inputs[1].name}": np.array({entry.heads[0]})' if len(entry.inputs) > 1 else ""
    function = f'"k{entry.heads[0]}"' if entry.graph == "universal" else card.only_function
    last = f", {function}" if entry.graph == "universal" else ""  # as the last of several arguments
    code = card.code.format(path=entry.path, image=image, chosen=chosen, function=function, last=last, output=output)
    code = code.replace("np.float32", f"np.{entry.outputs[0].dtype}")
    return f"""```python
{card.imports}

golden = np.load("{GOLDEN}")
{code}
print({output}[0].argmax(), golden["logits_k{entry.heads[0]}"][0].argmax())
```"""


def _inputs(entry: ArtifactEntry) -> str:
    """What one artifact takes, and how its head count is chosen."""
    image, *choices = entry.inputs
    pixels = "(pixel / 255 - mean) / std with mean and std of `preprocessing.json`"
    if entry.input == "image":
        pixels = "pixels in 0-255, normalised inside the graph"
    chosen = "".join(f"; `{each.name}`: {each.dtype} {list(each.shape)}, the head count" for each in choices)
    if image.scale is not None:
        pixels += f", counted in integers: round(number / {image.scale:.9g}) + {image.zero_point}"
    choice = targets.get(entry.target).card.choice
    if entry.graph == "universal" and choice:
        chosen += f"; {choice}"
    return f"- {entry.target}, {entry.graph}: `{image.name}`: {image.dtype} {list(image.shape)}, {pixels}{chosen}"
