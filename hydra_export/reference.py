"""Reference outputs: what the original module computed of some images, which an import must reproduce."""

# N images, C channels, H height, W width, K outputs
from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hydra_export import files, parity
from hydra_export.errors import BadData, BadInput, ParityFailed
from hydra_export.importing import archives, tensors
from hydra_export.importing.described import PREPROCESSING

if TYPE_CHECKING:
    import torch

    from hydra_export.architecture import HydraConfig
    from hydra_export.checkpoint import Checkpoint

_MOST_IMAGES = 64
_REMEDY = "Write it with hydra_export.save_reference(module, path)."


def save_reference(module: torch.nn.Module, path: Path | str, image: torch.Tensor | None = None) -> None:
    """Writes what *module* computes of *image*, so that an export of it can be held against it.

    Args:
        module: any, of timm, transformers or your own; its output, or ``output.logits``, is [N, K].
        path: of a ``.npz`` file with ``image`` and ``logits``.
        image: normalised, float32 [N, C, H, W]; by default one of random numbers, of the size that timm says of its
            modules, else 3 x 224 x 224.

    Raises:
        BadInput: the output is no [N, K].
    """
    import torch

    if image is None:
        size = _input_size(module)
        image = torch.randn((1, *size), generator=torch.Generator().manual_seed(0))
    was_training = module.training
    with torch.inference_mode():
        output: Any = module.eval()(image)
    module.train(was_training)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(image):
        raise BadInput(
            f"The module returns {type(logits).__name__}, not logits [N, K].", "Give one that returns these."
        )
    arrays = {"image": image.float().cpu().numpy(), "logits": logits.float().cpu().numpy()}
    with files.replaced_file(Path(path)) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types its allow_pickle among them


def held_to(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """*checkpoint*, whose full width computes what the file at *path* says; what it settles is no longer assumed.

    Raises:
        BadData: the file is not such a file, or is of another model.
        ParityFailed: the outputs differ by more than float32's noise.
    """
    config = checkpoint.info.config
    image_NCHW, logits_NK = _read(path, config)
    expected = parity.of_images(checkpoint.model, config.heads, image_NCHW)
    error = float(np.abs(logits_NK.astype(np.float64) - expected.exact).max())
    if not error <= expected.bound:
        raise ParityFailed(
            f"{checkpoint.info.name} does not compute what {path} says: outputs differ by {error:.3g}, allowed is "
            f"{expected.bound:.3g}.",
            "Nothing was written. Settle what is assumed of it, or write the reference in float32 on a CPU.",
        )
    # The image has the model's size and the outputs depend on all the rest.
    still = tuple(line for line in checkpoint.info.assumed if line.startswith(PREPROCESSING))
    return dataclasses.replace(checkpoint, info=msgspec.structs.replace(checkpoint.info, assumed=still))


def _input_size(module: torch.nn.Module) -> tuple[int, int, int]:
    cfg = getattr(module, "pretrained_cfg", None)
    size = cfg.get("input_size") if isinstance(cfg, dict) else None
    embed: Any = getattr(module, "patch_embed", None)
    if (exact := getattr(embed, "img_size", None)) is not None:
        return (embed.proj.in_channels, *exact)
    return tuple(size) if size else (3, 224, 224)


def _read(path: Path, config: HydraConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Image and logits; sizes are compared with the model's before anything of them is read."""
    limit = 4 * _MOST_IMAGES * (config.channels * config.image_size**2 + config.num_outputs(config.heads)) + 2**16
    try:
        with tensors.opened(path, limit) as file:
            if sorted(entry.filename for entry in archives.entries(file)) != ["image.npy", "logits.npy"]:
                raise BadInput("it has other members than image and logits.", _REMEDY)
            image = _array(archives.member(file, "image.npy"), (config.channels, *(config.image_size,) * 2))
            logits = _array(archives.member(file, "logits.npy"), (config.num_outputs(config.heads),))
        if len(image) != len(logits):
            raise BadInput(f"it has {len(image)} images and {len(logits)} logits.", _REMEDY)
    except BadInput as error:
        raise BadData(f"Reference {path} cannot be used: {error.message}", _REMEDY) from error
    return image, logits


def _array(content: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 array [N, *shape] in the bytes of a .npy file."""
    file = io.BytesIO(content)
    try:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        actual, fortran, dtype = read(file)
    except (ValueError, SyntaxError, TypeError, EOFError, RecursionError, MemoryError) as error:
        raise BadInput("a member is no array.", _REMEDY) from error
    rest = len(content) - file.tell()
    if actual[1:] != shape or not actual or not 1 <= actual[0] <= _MOST_IMAGES or dtype != np.dtype("<f4") or fortran:
        wanted = f"float32 [N, {', '.join(map(str, shape))}], N up to {_MOST_IMAGES}"
        raise BadInput(f"it has {dtype} {list(actual)}, the model has {wanted}.", _REMEDY)
    if rest != 4 * math.prod(actual):
        raise BadInput("a member is shorter or longer than it says.", _REMEDY)
    array = np.frombuffer(content, "<f4", offset=file.tell()).reshape(actual)
    if not np.isfinite(array).all():
        raise BadInput("it has NaN or infinite values.", _REMEDY)
    return array
