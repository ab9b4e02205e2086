"""What a bundle says to people and their apps, whatever the model is called and whoever wrote its licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from PIL import Image

from hydra_export import bundle, card, checkpoint
from hydra_export.card import front_matter, tables
from hydra_export.data import ImageSet
from hydra_export.exporting import export, jobs
from hydra_export.gate import Gate
from hydra_export.text import in_markdown
from hydra_export.verification import verify

ROOT = Path(__file__).parents[2]
HOSTILE = [
    '": {a: [*x, &y], !!python/object/apply:os.system ["true"]}',
    "---\nlicense: mit\n---\n# Another title",
    "a\\\\b\\\"c'd\te\x00\x07\x7f\x85\x9f",
    "line\u2028separator\u2029and\ufeffmark \ufffe\uffff \U0001f600 ümläut",
    "| a | b |\n|---|---|\n<script>alert(1)</script> [x](javascript:y) `code`",
    "# %TAG ! tag:x:\n- yes",
    "専有",
]


@pytest.fixture
def manifest(folder: Path) -> bundle.Manifest:
    return bundle.read(folder)


def changed(manifest: bundle.Manifest, **fields: Any) -> bundle.Manifest:
    return msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, **fields))


def written(folder: Path, manifest: bundle.Manifest, image_license: str = "") -> str:
    """The README that *manifest* gets, after everything was written again into *folder*."""
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    card.write(folder, manifest, pixels, {2: (1, 0.5), 4: (3, 1.5)}, image_license)
    return (folder / "README.md").read_text()


def head(readme: str) -> Any:
    _, text, _ = readme.split("---\n", 2)
    return yaml.safe_load(text)


def with_accuracy(manifest: bundle.Manifest, data: str) -> bundle.Manifest:
    known = tuple(msgspec.structs.replace(each, accuracy=60.5) for each in manifest.model.subnetworks)
    return changed(manifest, subnetworks=known, accuracy_data=data)


def test_the_head_is_what_the_hub_reads(folder: Path, manifest: bundle.Manifest) -> None:
    from huggingface_hub import ModelCard

    written(folder, changed(with_accuracy(manifest, "a made-up set"), license="CC0-1.0"))
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc0-1.0", "hydra-export", "image-classification")
    assert "onnx" in data.tags
    assert data.eval_results is not None
    results = [(each.metric_name, each.metric_value, each.dataset_name) for each in data.eval_results]
    assert results == [(f"Top-1 accuracy in percent, k = {k}", 60.5, "a made-up set") for k in (2, 4)]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_the_checkpoint_becomes_yaml_of_its_own(manifest: bundle.Manifest, text: str) -> None:
    found = yaml.safe_load(front_matter.render(with_accuracy(manifest, text)).strip("-\n"))
    (entry,) = found["model-index"]
    assert [result["dataset"]["name"] for result in entry["results"]] == [text]
    plain = yaml.safe_load(front_matter.render(with_accuracy(manifest, "plain")).strip("-\n"))
    assert found.keys() == plain.keys()
    licensed = yaml.safe_load(front_matter.render(changed(manifest, license=text)).strip("-\n"))
    assert licensed["license"] == "other"
    assert set(licensed["license_name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_the_checkpoint_becomes_markup_of_the_readme(
    folder: Path, manifest: bundle.Manifest, text: str
) -> None:
    plain = written(folder, changed(with_accuracy(manifest, "some data"), license="some terms"))
    hostile = written(folder, changed(with_accuracy(manifest, text), license=text))
    plain_body, body = (readme.split("\n---\n", 1)[1] for readme in (plain, hostile))
    assert len(body.splitlines()) == len(plain_body.splitlines())
    assert [line for line in body.splitlines() if line.startswith("#")] == [
        line for line in plain_body.splitlines() if line.startswith("#")
    ]
    assert "<script" not in body.replace("\\<script", "")


@pytest.mark.parametrize(
    ("said", "named"),
    [("Apache-2.0", "apache-2.0"), ("MIT", "mit"), ("", "unknown"), ("CC BY 4.0", "cc-by-4.0")],
)
def test_licences_that_the_hub_knows_are_named_as_it_does(manifest: bundle.Manifest, said: str, named: str) -> None:
    found = yaml.safe_load(front_matter.render(changed(manifest, license=said)).strip("-\n"))
    assert (found["license"], "license_name" in found) == (named, False)


def test_a_backbone_is_no_classifier_and_has_no_result(manifest: bundle.Manifest) -> None:
    config = msgspec.structs.replace(manifest.model.config, num_classes=0)
    found = yaml.safe_load(front_matter.render(changed(with_accuracy(manifest, "x"), config=config)).strip("-\n"))
    assert found["pipeline_tag"] == "image-feature-extraction"
    assert "model-index" not in found


def test_a_projection_reads_as_features_of_one_length(folder: Path, manifest: bundle.Manifest) -> None:
    config = msgspec.structs.replace(manifest.model.config, num_classes=0, projection=512)
    text = written(folder, changed(manifest, config=config, labels=()))
    assert "no classes; the output is 512 features." in text
    assert ": float32, 512 numbers at every head count." in text


@pytest.mark.parametrize("labels", [("a", "b\nc", "", " d\r\n", "e\u2028f", "ü", "g,\t'")])
def test_labels_are_one_a_line_whatever_they_hold(
    folder: Path, manifest: bundle.Manifest, labels: tuple[str, ...]
) -> None:
    written(folder, changed(manifest, labels=labels))
    assert (folder / "labels.txt").read_text(encoding="utf-8").split("\n") == [
        "a", "b c", "", "d", "e f", "ü", "g, '", ""
    ]  # fmt: skip


def test_a_model_without_labels_has_no_labels_file(folder: Path) -> None:
    assert not (folder / "labels.txt").exists()
    assert "labels.txt" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("crop", [0.875, 1.0])
@pytest.mark.parametrize("size", [(40, 30), (17, 90), (16, 16)])
def test_what_the_preprocessing_file_says_makes_the_models_input(
    folder: Path, manifest: bundle.Manifest, crop: float, size: tuple[int, int]
) -> None:
    data = msgspec.structs.replace(manifest.model.preprocessing, crop=crop)
    written(folder, changed(manifest, preprocessing=data))
    said = json.loads((folder / "preprocessing.json").read_text())
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8), "RGB")
    shorter = said["resize"]["shorter_side"]
    resized = picture.resize(
        tuple(shorter * side // min(size) for side in size),
        getattr(Image.Resampling, said["resize"]["interpolation"].upper()),
    )
    width, height = said["center_crop"]["width"], said["center_crop"]["height"]
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)))
    image = (pixels / 255 - np.array(said["normalise"]["mean"])) / np.array(said["normalise"]["std"])
    expected = data.normalise(data.fit(picture)[None], np.float64)[0]
    np.testing.assert_allclose(image.transpose(2, 0, 1), expected, rtol=1e-12)


@pytest.mark.parametrize("form", ["tensor", "image"])
def test_the_preprocessing_file_says_what_each_target_takes(bundles: dict[str, Path], form: str) -> None:
    said = json.loads((bundles[form] / "preprocessing.json").read_text())["inputs"]
    layouts = {each["target"]: each["layout"] for each in said}
    assert layouts == {"onnx": "NCHW" if form == "tensor" else "NHWC", "tflite": "NHWC"}
    assert len(said) == len(layouts)
    sizes = {"N": 1, "C": 3, "H": 16, "W": 16}
    assert [each["shape"] for each in said] == [[sizes[axis] for axis in each["layout"]] for each in said]
    assert {each["values"] for each in said} == {"normalised" if form == "tensor" else "pixels in 0-255"}


def test_the_licence_texts_that_a_bundle_needs_are_in_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded, pixels = checkpoint.load(tiny_checkpoint), np.zeros((8, 16, 16, 3), np.uint8)
    export(loaded, tmp_path / "packaged")
    export(loaded, tmp_path / "own", images=ImageSet(pixels, None, (), "mine"))
    texts = {name: {p.name for p in (tmp_path / name / "LICENSES").iterdir()} for name in ("packaged", "own")}
    assert texts == {"packaged": {"Apache-2.0.txt", "fashion-mnist.txt"}, "own": {"Apache-2.0.txt"}}
    assert (tmp_path / "own/LICENSES/Apache-2.0.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "Zalando SE" in (tmp_path / "packaged/LICENSES/fashion-mnist.txt").read_text()
    readme = (tmp_path / "packaged/README.md").read_text()
    assert "| the weights, in every artifact | CC0-1.0 | not in this bundle |" in readme


def test_quantization_is_told_with_its_size_where_fp32_is_there_as_well(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    both = export(loaded, tmp_path / "both", jobs(precisions=["fp32", "int8"]), gate=Gate(open=True))
    export(loaded, tmp_path / "alone", jobs(precisions=["int8"]), gate=Gate(open=True))
    export(loaded, tmp_path / "floats", jobs(precisions=["fp32", "fp16"]))
    sizes = {entry.path: entry.bytes for entry in both.artifacts}
    ratio = f"{sizes['onnx/tiny-k2-int8.onnx'] / sizes['onnx/tiny-k2.onnx']:.2f}"
    record = next(entry for entry in both.artifacts if entry.precision == "int8").parity[2]
    row = f"| `onnx/tiny-k2-int8.onnx` | 2 | {record.top1_agreement:.1%} | {record.judgement} |"
    with_sizes, alone = ((tmp_path / name / "README.md").read_text() for name in ("both", "alone"))
    assert "| file | k | agreement | judged | size / fp32 |" in with_sizes  # these images have no labels
    assert f"{row} {ratio} |\n" in with_sizes
    assert f"{row}\n" in alone
    assert "Quantization" not in (tmp_path / "floats/README.md").read_text()


def test_what_nobody_knows_has_no_column_and_no_sentence(folder: Path, manifest: bundle.Manifest) -> None:
    model, replace = manifest.model, msgspec.structs.replace
    known = replace(model, subnetworks=tuple(replace(s, accuracy=81.5) for s in model.subnetworks))
    readmes = [written(folder, replace(manifest, model=each)) for each in (model, known)]
    assert ["| k | parameters | GMACs |\n" in each for each in readmes] == [True, False]
    assert ["top-1" in each.lower() for each in readmes] == [False, True]


def test_the_choice_for_each_device_is_told_with_its_reason(folder: Path, manifest: bundle.Manifest) -> None:
    device = bundle.DeviceEntry(
        id="board", name="A | board", runtime="onnxruntime", unit="cpu", target="onnx", heads=2, fits=True, sure=False,
        chance=0.93, why="the largest that fits", budget_ms=33.0, ms=21.5, low=18.0, high=40.25, provenance="estimated",
        artifacts=("onnx/tiny-k2.onnx",),
    )  # fmt: skip
    unknown = msgspec.structs.replace(
        device, name="B", heads=None, chance=None, ms=None, low=None, high=None, fits=False, artifacts=()
    )
    readme = written(folder, msgspec.structs.replace(manifest, devices=(device, unknown)))
    assert (
        "| A \\| board | onnxruntime, cpu | 2 | 21.5 (18 to 40.2), estimated | 33 | likely (93 %) | "
        "`onnx/tiny-k2.onnx` |"
    ) in readme
    assert "| B | onnxruntime, cpu | any | unknown | 33 | unknown | none |" in readme
    assert "- A \\| board: the largest that fits." in readme
    assert "## Devices" not in written(folder, manifest)


def test_every_row_of_a_table_has_as_many_cells() -> None:
    lines = tables.table(("a", "b"), [("1", in_markdown("x|y\n|")), ("2", "z")]).split("\n")
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | x\\|y\\\\n\\| |", "| 2 | z |"]


def test_a_bundle_of_an_older_release_without_these_files_still_verifies(folder: Path) -> None:
    for name in (
        "preprocessing.json",
        "golden/pixels.bin",
        *(f"LICENSES/{p.name}" for p in (folder / "LICENSES").iterdir()),
    ):
        (folder / name).unlink()
    for path in (folder / "snippets").iterdir():
        path.unlink()
    manifest = bundle.read(folder)
    (folder / "manifest.json").unlink()
    (folder / "SHA256SUMS").unlink()
    bundle.seal(folder, manifest)
    assert verify(folder)
