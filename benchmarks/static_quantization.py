"""Integer activations, ours beside onnxruntime's and Google's quantizers: ``python benchmarks/static_quantization.py``.

    pip install ai-edge-quantizer                       # or leave its rows out
    python benchmarks/static_quantization.py [--bundle FOLDER ...] [--only onnxruntime,ai-edge-quantizer]
        [--heads 3,6,12] [--precisions fp32,int8,int8-static,w8a16] [--images 10000] [--calibration-images 300]
        [--runs 300] [--work FOLDER]

The packaged model. Every file answers for all test images of Fashion-MNIST, one at a time; the peers quantize our fp32
files, and all are calibrated by the same training images. Of ours: the artifacts of each bundle, or, without one, files
for each head count and universal ones that are made here. Agreement and drops are against the fp32 file of the same
runtime and head count; the drop of the worst class is in points of that class's own accuracy. Times are medians of CPU
time, one thread, all files of a head count interleaved. An hour on one core; with --images 1000 --runs 50 six minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMPARED, environment, interleaved, version
from numpy.typing import NDArray

import hydra_export
from hydra_export import checkpoint, gate, targets
from hydra_export.bench import runtimes
from hydra_export.data import FASHION_MNIST_LABELS
from hydra_export.data.datasets import Split, fashion_mnist
from hydra_export.data.images import ImageSet, in_turns
from hydra_export.preprocess import Preprocessing
from hydra_export.quantized.interface import as_integers, as_numbers
from hydra_export.target import TensorInfo

PACKAGES = ("onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "torch", "numpy")
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}
PEERS = ("onnxruntime", "ai-edge-quantizer")
PRECISIONS = ("fp32", "int8", "int8-static", "w8a16")
# Of onnxruntime: label, how ranges are chosen, type of activations.
STATIC = (
    ("MinMax", "MinMax", "QUInt8"),
    ("Percentile", "Percentile", "QUInt8"),
    ("Entropy", "Entropy", "QUInt8"),
    ("MinMax", "MinMax", "QUInt16"),
)
HEADINGS = ("file", "k", "top-1 %", "worst class loses", "agreement %", "bytes", "ms", "over fp32")

Images = NDArray[Any]


def normalise(pixels_nHWC: NDArray[np.uint8]) -> Images:
    """As the packaged model takes them, float32 [n, C, H, W]."""
    return preprocessing().normalise(pixels_nHWC)


@lru_cache
def preprocessing() -> Preprocessing:
    return checkpoint.load().info.preprocessing


@dataclass(frozen=True)
class Contestant:
    """A file at one head count.

    Attributes:
        run: from an image as the file takes it to what the file gives.
        image: what the file takes; result: what it gives.
    """

    label: str
    target: str
    num_bytes: int
    run: Callable[[Images], Images]
    image: TensorInfo
    result: TensorInfo

    def given(self, pixels_BHWC: NDArray[np.uint8]) -> Images:
        """Images as it takes them."""
        if self.image.shape[-1] == pixels_BHWC.shape[-1] and self.image.dtype == "uint8" and not self.image.scale:
            return pixels_BHWC
        image_BCHW = normalise(pixels_BHWC)
        return as_integers(image_BCHW if self.target == "onnx" else image_BCHW.transpose(0, 2, 3, 1), self.image)

    def answers(self, pixels_nHWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The class of each image."""
        given = self.given(pixels_nHWC)
        found = [as_numbers(self.run(given[i : i + 1]), self.result)[0].argmax() for i in range(len(given))]
        return np.array(found, np.int64)


def ours(bundle: hydra_export.Bundle, heads: int, precisions: Sequence[str]) -> Iterator[Contestant]:
    """The artifacts of *bundle* that run at a head count."""
    for each in bundle.artifacts:
        if heads not in each.heads or each.precision not in precisions or each.target not in RUNTIMES:
            continue
        entry = each.entry
        kind = each.graph if len(each.heads) > 1 or each.graph != "universal" else "universal, k fixed"
        num_bytes = sum((bundle.folder / file).stat().st_size for file in entry.files)
        run = runtimes.known()[RUNTIMES[each.target]]["open"](each.path, 1)(heads)
        (image, *_), (result, *_) = targets.get(each.target).signature(each.path)
        yield Contestant(f"{each.target}, ours, {kind} {each.precision}", each.target, num_bytes, run, image, result)


def made(work: Path, shown: ImageSet, heads: Sequence[int], precisions: Sequence[str]) -> list[hydra_export.Bundle]:
    """A bundle of each target: files for each head count, and universal ones of what counts integers."""
    bundles = []
    for target in RUNTIMES:
        listed = [each for each in precisions if each in targets.get(target).precisions]
        for graph in ("separate", "universal"):
            chosen = [each for each in listed if graph == "separate" or each in ("int8-static", "w8a16")]
            if chosen:
                out = work / f"{target}-{graph}"
                how: dict[str, Any] = {"max_drop": 5.0}  # measured here, not refused
                if set(chosen) - {"fp32", "int8"}:
                    how |= {"calibrate": shown, "calibration_images": len(shown)}
                bundles.append(
                    hydra_export.export(
                        None, out, targets=target, graphs=graph, precisions=chosen, heads=list(heads), **how
                    )
                )
    return bundles


def source(work: Path, target: str, heads: Sequence[int]) -> dict[int, Path]:
    """Our fp32 files, which peers quantize, by head count."""
    bundle = hydra_export.export(None, work / f"source-{target}", targets=target, heads=list(heads))
    return {each.heads[0]: each.path for each in bundle.artifacts}


# Peers: each writes its files beside *path* and yields them.


def by_onnxruntime(path: Path, images_BCHW: Images) -> Iterator[tuple[str, Path]]:
    """QDQ, all operators, int8 weights with a scale per channel."""
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Shown(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images_BCHW)

        def get_next(self) -> dict[str, Images] | None:
            image_CHW = next(self.left, None)
            return None if image_CHW is None else {"image": image_CHW[None]}

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    for label, method, activations in STATIC:
        out = path.with_suffix(f".{method}-{activations}.onnx")
        ort.quantize_static(
            prepared,
            out,
            Shown(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType[activations],
            weight_type=ort.QuantType.QInt8,
            calibrate_method=ort.CalibrationMethod[method],
        )
        yield f"quantize_static, {label}, {activations.removeprefix('Q').lower()} activations", out


def by_ai_edge_quantizer(path: Path, images_BCHW: Images) -> Iterator[tuple[str, Path]]:
    """Its two static recipes."""
    from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-not-found]

    shown = [{"image": image_HWC[None]} for image_HWC in np.ascontiguousarray(images_BCHW.transpose(0, 2, 3, 1))]
    for name in ("static_wi8_ai8", "static_wi8_ai16"):
        out = path.with_suffix(f".{name}.tflite")
        opened = quantizer.Quantizer(str(path))
        opened.load_quantization_recipe(getattr(recipe, name)())
        opened.quantize(opened.calibrate({"serving_default": shown})).export_model(str(out), overwrite=True)
        yield f"ai-edge-quantizer, {name}", out


def peers(
    only: Sequence[str], sources: dict[str, dict[int, Path]], heads: int, images_BCHW: Images
) -> Iterator[Contestant]:
    """Their files at a head count."""
    writers = {"onnxruntime": ("onnx", by_onnxruntime), "ai-edge-quantizer": ("tflite", by_ai_edge_quantizer)}
    for peer in only:
        target, write = writers[peer]
        if version(peer) == "not installed":
            print(f"Skipped: {peer} is not installed.")
            continue
        with contextlib.redirect_stdout(sys.stderr):  # they talk
            files = list(write(sources[target][heads], images_BCHW))
        for label, path in files:
            run = runtimes.known()[RUNTIMES[target]]["open"](path, 1)(heads)
            yield Contestant(f"{target}, {label}", target, path.stat().st_size, run, *_interface(target, path))


def _interface(target: str, path: Path) -> tuple[TensorInfo, TensorInfo]:
    if target == "onnx":
        (image, *_), (result, *_) = targets.get(target).signature(path)
        return image, result
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path))
    found = []
    for details in (*opened.get_input_details(), *opened.get_output_details()):
        scale, zero_point = details["quantization"]
        counted = {"scale": scale, "zero_point": zero_point} if scale else {}
        shape = tuple(map(int, details["shape"]))
        found.append(TensorInfo(name=details["name"], dtype=np.dtype(details["dtype"]).name, shape=shape, **counted))
    image, result = found
    return image, result


def table(contestants: Sequence[Contestant], heads: int, test: Split, runs: int) -> Iterator[tuple[str, ...]]:
    """A line for each; the fp32 file of each target comes first."""
    image = test.pixels[:1]
    calls = {each.label: partial(each.run, each.given(image)) for each in contestants}
    times = interleaved(calls, runs)
    float_labels = {each.target: each.label for each in reversed(contestants) if each.label.endswith(" fp32")}
    answers: dict[str, NDArray[np.int64]] = {}
    for each in contestants:
        print(f"k = {heads}: {each.label}", file=sys.stderr)
        answers[each.label] = each.answers(test.pixels)
        fp32, found = answers[float_labels[each.target]], answers[each.label]
        worst = gate.worst_class(test.labels, fp32 == test.labels, found == test.labels)
        is_float = each.label in float_labels.values()
        drop = "" if worst is None or is_float else f"{worst[1]:.1f} ({FASHION_MNIST_LABELS[worst[0]]})"
        taken = times[each.label]
        yield (
            each.label,
            str(heads),
            f"{100 * (found == test.labels).mean():.2f}",
            drop,
            f"{100 * (found == fp32).mean():.2f}",
            f"{each.num_bytes:,}",
            f"{taken['ms']:.3f}",
            f"{taken['over'][float_labels[each.target]]:.2f}",
        )


def report(work: Path, asked: argparse.Namespace) -> None:
    print(environment(PACKAGES))
    data = fashion_mnist()
    chosen = in_turns(data.train.labels, asked.calibration_images)
    shown = ImageSet(data.train.pixels[chosen], data.train.labels[chosen], data.label_names, "training images")
    first = in_turns(data.test.labels, asked.images)
    test = Split(data.test.pixels[first], data.test.labels[first])
    images_BCHW = normalise(shown.pixels)
    sources = {target: source(work, target, asked.heads) for target in RUNTIMES}
    bundles = [hydra_export.open_bundle(path) for path in asked.bundle]
    wanted = [each for each in asked.precisions if each != "fp32"]
    if not bundles and wanted:
        bundles = made(work, shown, asked.heads, wanted)
    floats = [hydra_export.open_bundle(work / f"source-{target}") for target in RUNTIMES]
    print(f"{len(test):,} test images, {len(shown)} for calibration, medians of {asked.runs} runs.\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    for k in asked.heads:
        contestants = [
            *(each for bundle in floats for each in ours(bundle, k, ["fp32"])),
            *(each for bundle in bundles for each in ours(bundle, k, wanted)),
            *peers(asked.only, sources, k, images_BCHW),
        ]
        for line in table(contestants, k, test, asked.runs):
            print(f"| {' | '.join(line)} |", flush=True)
    print(f"\nLoad at the end {os.getloadavg()[0]:.1f}.")


def main() -> None:
    """The table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--only", type=lambda text: [each for each in text.split(",") if each], default=PEERS)
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=PRECISIONS)
    parser.add_argument("--heads", type=lambda text: [int(each) for each in text.split(",")], default=COMPARED)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--calibration-images", type=int, default=300)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--work", type=Path)
    asked = parser.parse_args()
    if unknown := [peer for peer in asked.only if peer not in PEERS]:
        parser.error(f"No peer {', '.join(unknown)}. Peers: {', '.join(PEERS)}.")
    with tempfile.TemporaryDirectory() as folder:
        report(asked.work or Path(folder), asked)


if __name__ == "__main__":
    main()
