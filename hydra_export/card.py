"""The README of a bundle: what the model is, how to run it, how far it can be trusted."""

from __future__ import annotations

from hydra_export.bundle import GOLDEN, ArtifactEntry, Manifest
from hydra_export.parity import ParityRecord

# Per target: what to import, and what to run. Core ML's own runtime is on Apple's systems alone; this runs anywhere.
_PROGRAMS = {
    "onnx": (
        "import numpy as np\nimport onnxruntime as ort",
        (
            'session = ort.InferenceSession("{path}")\n'
            '({output},) = session.run(["{output}"], {{"image": {image}{chosen}}})'
        ),
    ),
    "tflite": (
        "import numpy as np\nfrom ai_edge_litert.interpreter import Interpreter",
        'run = Interpreter("{path}").get_signature_runner({signature})\n{output} = run(image={image})["{output}"]',
    ),
    "coreml": (
        "from pathlib import Path\n\nimport numpy as np\n\nfrom hydra_export import mil",
        'package = mil.load(Path("{path}"))\n{output} = package.run({{"image": {image}}}{function})["{output}"]',
    ),
}

_CHOSEN = {
    "tflite": "signatures `k3`, ... fix the head count, `run` takes it as `k`, int32 [1]",
    "coreml": (
        "functions `k3`, ... are the head counts, the default is the largest; experimental: proven as a file, function "
        "by function, but not run on Apple hardware"
    ),
}


def render(manifest: Manifest) -> str:
    """Markdown for a person who found this folder."""
    model, config, data = manifest.model, manifest.model.config, manifest.model.preprocessing
    table = "\n".join(
        f"| {s.heads} | {s.params:,} | {s.gmacs:.4g} | {_accuracy(s.accuracy)} | {_trained(s.trained)} |"
        for s in model.subnetworks
    )
    artifacts = "\n".join(_artifact(entry) for entry in manifest.artifacts)
    inputs = "\n".join(_inputs(entry) for entry in _first_of_each_kind(manifest))
    output = manifest.artifacts[0].outputs[0].name
    snippets = "\n\n".join(_snippet(entry) for entry in _first_of_each_kind(manifest))
    return f"""# {model.name}

A HydraViT: the first k attention heads of one Vision Transformer are a complete smaller one. This bundle was written by
hydra-export {manifest.tool["hydra-export"]}; every artifact was run and compared with the PyTorch model.

{config.heads} heads of {config.head_dim} channels, depth {config.depth}, patch {config.patch_size}, \
{config.channels} x {config.image_size} x {config.image_size} images, {config.num_classes} classes.

| k | parameters | GMACs | top-1 | trained |
|---|---|---|---|---|
{table}

Top-1 in percent{f" on {model.accuracy_data}" if model.accuracy_data else ", where the checkpoint says"}.

## Files

| file | heads | to fetch | largest logit error | allowed |
|---|---|---|---|---|
{artifacts}

Errors are against the float64 subnetwork on {manifest.images}. `{GOLDEN}` holds inputs and expected logits;
`hydra-export verify .` re-hashes every file and runs them again; `sha256sum -c SHA256SUMS` needs nothing installed.

## Input and output

{inputs}

`{output}`: float32, one per {"class" if config.num_classes else "channel"}\
{"; labels are in the manifest" if model.labels else ""}.
An image is resized ({data.interpolation}) so that its shorter side has {int(data.image_size / data.crop)} pixels, \
and its centre {data.image_size} x {data.image_size} are kept.

{snippets}

## Licence

{model.license or "The checkpoint names none: ask whoever trained it."}
"""


def _first_of_each_kind(manifest: Manifest) -> list[ArtifactEntry]:
    """One artifact per target and graph kind, in the manifest's order."""
    return list({(entry.target, entry.graph): entry for entry in reversed(manifest.artifacts)}.values())[::-1]


def _snippet(entry: ArtifactEntry) -> str:
    """Python that runs one artifact on the golden data."""
    if entry.target not in _PROGRAMS:
        return ""
    imports, lines = _PROGRAMS[entry.target]
    form, output = entry.inputs[0], entry.outputs[0].name
    batch = form.shape[0] if isinstance(form.shape[0], int) else 1
    rows = "[:1]" if batch == 1 else f"[[0] * {batch}]"
    golden = f'golden["{"pixels" if entry.input == "image" else "image"}"]{rows}'
    # Pixels have their channels last, the normalised image has them first; some targets want the other.
    turned = {("tflite", "tensor"): ".transpose(0, 2, 3, 1)", ("coreml", "image"): ".transpose(0, 3, 1, 2)"}
    image = golden + turned.get((entry.target, entry.input), "")
    chosen = f', "{entry.inputs[1].name}": np.array({entry.heads[0]})' if len(entry.inputs) > 1 else ""
    signature = f'"k{entry.heads[0]}"' if entry.graph == "universal" else ""
    function = f", {signature}" if signature else ""
    program = lines.format(
        path=entry.path, image=image, chosen=chosen, signature=signature, function=function, output=output
    )
    return f"""```python
{imports}

golden = np.load("{GOLDEN}")
{program}
print({output}[0].argmax(), golden["logits_k{entry.heads[0]}"][0].argmax())
```"""


def _artifact(entry: ArtifactEntry) -> str:
    worst = max(entry.parity.values(), key=lambda record: record.max_abs_error)
    heads = ", ".join(map(str, entry.heads))
    is_folder, others = entry.path not in entry.files, [path for path in entry.files if path != entry.path]
    files = "the folder" if is_folder else " + ".join(["this file", *(f"`{path}`" for path in others)])
    return f"| `{entry.path}` | {heads} | {files} | {worst.max_abs_error:.2g} | {_allowed(worst)} |"


def _allowed(record: ParityRecord) -> str:
    if record.bound is not None:
        return f"{record.bound:.2g}"
    if record.accuracy is None or record.accuracy_fp32 is None:
        return f"agrees on {record.top1_agreement:.1%} of {record.num_images} images"
    return f"top-1 {record.accuracy:.1f} %, unrounded {record.accuracy_fp32:.1f} %, of {record.num_images} images"


def _accuracy(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:.2f}"


def _trained(trained: bool | str) -> str:
    return trained if isinstance(trained, str) else "yes" if trained else "no"


def _inputs(entry: ArtifactEntry) -> str:
    """What one artifact takes, and how its head count is chosen."""
    image, *choices = entry.inputs
    pixels = "(pixel / 255 - mean) / std with the mean and std of the manifest"
    if entry.input == "image":
        pixels = "pixels in 0-255, normalised inside the graph"
    chosen = "".join(f"; `{each.name}`: {each.dtype} {list(each.shape)}, the head count" for each in choices)
    if entry.graph == "universal" and entry.target in _CHOSEN:
        chosen += f"; {_CHOSEN[entry.target]}"
    return f"- {entry.target}, {entry.graph}: `{image.name}`: {image.dtype} {list(image.shape)}, {pixels}{chosen}"
