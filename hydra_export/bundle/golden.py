"""The golden data: images, and what PyTorch computes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hydra_export import npz
from hydra_export.arrays import Array, Pixels
from hydra_export.bundle.manifest import Manifest
from hydra_export.errors import Unreadable, VerificationFailed
from hydra_export.files import MIB
from hydra_export.parity import Reference
from hydra_export.target import GATED, Precision

GOLDEN = "golden/golden.npz"
_GOLDEN_BYTES = 1024 * MIB
_MOST_GOLDEN_IMAGES = 64
# The manifest's bound is of more images than the golden ones, so it is as large or larger: at most so many times.
_LARGEST_BOUND = 10


References = Mapping[int, Mapping[Precision, Reference]]  # by head count, and by the precision that is held to it


@dataclass(frozen=True)
class Golden:
    """The golden data: images, and what PyTorch computes of them.

    Attributes:
        pixels: uint8 [n, H, W, C] in 0-255.
        image: the same normalised, float32 [n, C, H, W].
        expected: by head count, and by the precision of the artifacts that are held against it.
    """

    pixels: Pixels
    image: Array
    expected: dict[int, dict[Precision, Reference]]


def golden_name(array: Literal["logits", "torch_fp32_logits"], heads: int, precision: Precision) -> str:
    """What the golden data calls an array: ``logits_k3``, and ``fp16_logits_k3`` of rounded weights."""
    return f"{'' if precision == 'fp32' else f'{precision}_'}{array}_k{heads}"


def references(manifest: Manifest) -> dict[int, tuple[Precision, ...]]:
    """The precisions whose references the golden data of *manifest* holds, by head count."""
    rounded = {k for artifact in manifest.artifacts if artifact.precision == "fp16" for k in artifact.heads}
    return {s.heads: ("fp32", "fp16") if s.heads in rounded else ("fp32",) for s in manifest.model.subnetworks}


def write_golden(folder: Path, pixels: Pixels, image: Array, references: References) -> None:
    """Writes the golden data of a bundle that is to lie in *folder*; what they are is as in Golden."""
    arrays: dict[str, Array] = {"pixels": pixels, "image": image}
    for k, by_precision in references.items():
        for precision, reference in by_precision.items():
            arrays[golden_name("logits", k, precision)] = reference.exact
            arrays[golden_name("torch_fp32_logits", k, precision)] = reference.torch_fp32
    (folder / GOLDEN).parent.mkdir()
    np.savez(folder / GOLDEN, **arrays)  # type: ignore[arg-type]  # numpy types its allow_pickle among them


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """The golden data of a bundle; VerificationFailed where it is damaged or contradicts *manifest*."""
    names = {
        (k, precision): (golden_name("logits", k, precision), golden_name("torch_fp32_logits", k, precision))
        for k, precisions in references(manifest).items()
        for precision in precisions
    }
    array_names = ["pixels", "image", *(name for pair in names.values() for name in pair)]
    try:
        with npz.opened(folder / GOLDEN, _GOLDEN_BYTES, array_names) as archive:
            _check_shapes(archive, manifest, names)
            arrays = {name: archive.read(name) for name in array_names}
        return _golden(arrays, manifest, names)
    except (*npz.DAMAGED, Unreadable) as error:
        reason = error.reason if isinstance(error, Unreadable) else error
        raise VerificationFailed(
            f"{folder / GOLDEN} is not valid golden data: {reason}.", "Copy or export it again."
        ) from error


_Names = dict[tuple[int, Precision], tuple[str, str]]  # of the exact logits and of torch's in float32


def _check_shapes(archive: npz.Archive, manifest: Manifest, names: _Names) -> None:
    config, headers = manifest.model.config, archive.headers
    n = (headers["pixels"].shape or (0,))[0]
    if not 1 <= n <= _MOST_GOLDEN_IMAGES:
        raise ValueError(f"it contains {n} images; 1 to {_MOST_GOLDEN_IMAGES} are allowed")
    expected = {
        "pixels": npz.Header(np.dtype(np.uint8), (n, *config.image_shape, config.channels)),
        "image": npz.Header(np.dtype(np.float32), (n, config.channels, *config.image_shape)),
    }
    for (k, _), (exact, torch_fp32) in names.items():
        expected[exact] = npz.Header(np.dtype(np.float64), (n, *config.output_shape(k)))
        expected[torch_fp32] = npz.Header(np.dtype(np.float32), (n, *config.output_shape(k)))
    for name, header in expected.items():
        if headers[name] != header:
            raise ValueError(f"{name} is {headers[name]}, not {header}")


def _golden(arrays: dict[str, Array], manifest: Manifest, names: _Names) -> Golden:
    if not np.allclose(  # within float32's rounding
        arrays["image"], manifest.model.preprocessing.normalise(arrays["pixels"]), rtol=1e-5, atol=1e-6
    ):
        raise ValueError("image is not the normalised form of pixels")
    expected: dict[int, dict[Precision, Reference]] = {}
    for (k, precision), (exact, torch_fp32) in names.items():
        has_classes = manifest.model.config.num_classes > 0
        expected.setdefault(k, {})[precision] = Reference(arrays[exact], arrays[torch_fp32], has_classes)
    for by_precision in expected.values():
        by_precision |= dict.fromkeys(GATED, by_precision["fp32"])  # what they are held against, by agreement
    for artifact in manifest.artifacts:
        for k, record in artifact.parity.items():
            bound = expected[k][artifact.precision].bound
            if record.bound is not None and record.max_abs_error > record.bound:
                raise ValueError(
                    f"the manifest states an error of {record.max_abs_error:.3g} for {artifact.path}, "
                    f"larger than its own bound, {record.bound:.3g}"
                )
            if record.bound is not None and not bound <= record.bound <= _LARGEST_BOUND * bound:
                raise ValueError(
                    f"it allows an error of {bound:.3g} at heads {k}, but the manifest {record.bound:.3g} for "
                    f"{artifact.path}; credible is 1 to {_LARGEST_BOUND} times as much"
                )
    return Golden(arrays["pixels"], arrays["image"], expected)
