"""Reference outputs: what the original module computed of some images, which an import must reproduce."""

# N images, C channels, H height, W width, K outputs
from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hydra_export import files, npz, parity
from hydra_export.errors import BadData, BadInput, ParityFailed
from hydra_export.importing.imported_model import PREPROCESSING

if TYPE_CHECKING:
    import torch

    from hydra_export.architecture import HydraConfig
    from hydra_export.checkpoint import Checkpoint

_MOST_IMAGES = 64
_REMEDY = "Write it with hydra_export.save_reference(module, path)."


def save_reference(module: torch.nn.Module, path: Path | str, image: torch.Tensor | None = None) -> None:
    """Writes the outputs of *module* for *image*, so that its export can be compared with them.

    Args:
        module: a module from timm, transformers or your own code; its output, or ``output.logits``, is [N, K].
        path: the ``.npz`` file to write, with ``image`` and ``logits``.
        image: normalised, float32 [N, C, H, W]; by default random numbers, in the size that timm states for its
            modules, else 3 x 224 x 224.

    Raises:
        BadInput: the output is not [N, K].
    """
    import torch

    if image is None:
        size = _input_size(module)
        image = torch.randn((1, *size), generator=torch.Generator().manual_seed(0))
    arrays = {"image": image.float().cpu().numpy(), "logits": _outputs(module, image)}
    with files.replaced_file(Path(path)) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types its allow_pickle among them


def held_to(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """*checkpoint*, whose full width computes what the file at *path* says; what it settles is no longer assumed.

    Raises:
        BadData: the file is not such a file, or is of another model.
        ParityFailed: the outputs differ by more than float32's noise.
    """
    return _held_to(checkpoint, *_read(path, checkpoint.info.config), str(path))


def held_to_module(checkpoint: Checkpoint, module: torch.nn.Module) -> Checkpoint:
    """The same against *module* itself, which *checkpoint* was made of.

    Raises:
        BadInput: the output of *module* is no [N, K].
        ParityFailed: the outputs differ by more than float32's noise.
    """
    import torch

    config = checkpoint.info.config
    size = (1, config.channels, *config.image_shape)
    image_NCHW = torch.randn(size, generator=torch.Generator().manual_seed(0))
    return _held_to(checkpoint, image_NCHW.numpy(), _outputs(module, image_NCHW), f"the {type(module).__name__}")


def _held_to(
    checkpoint: Checkpoint, image_NCHW: NDArray[np.float32], logits_NK: NDArray[np.float32], who: str
) -> Checkpoint:
    expected = parity.of_images(checkpoint.model, checkpoint.info.config.heads, image_NCHW)
    if logits_NK.shape != expected.exact.shape:
        raise ParityFailed(
            f"{checkpoint.info.name} has outputs {list(expected.exact.shape)}; {who} has {list(logits_NK.shape)}.",
            "Nothing was written. Pass the reference of this model.",
        )
    error = float(np.abs(logits_NK.astype(np.float64) - expected.exact).max())
    if not error <= expected.bound:
        raise ParityFailed(
            f"{checkpoint.info.name} does not reproduce {who}: outputs differ by {error:.3g}, more than the allowed "
            f"{expected.bound:.3g}.",
            "Nothing was written. Set what is assumed, or write the reference in float32 on a CPU.",
        )
    # The image has the model's size and the outputs depend on all the rest.
    still = tuple(line for line in checkpoint.info.assumed if line.startswith(PREPROCESSING))
    return dataclasses.replace(checkpoint, info=msgspec.structs.replace(checkpoint.info, assumed=still))


def _outputs(module: torch.nn.Module, image_NCHW: torch.Tensor) -> NDArray[np.float32]:
    """Logits [N, K] of *module*, which is left in the mode that it was in."""
    import torch

    first = next(module.parameters(), image_NCHW)
    if first.dtype != image_NCHW.dtype or first.device != image_NCHW.device:
        raise BadInput(
            f"The {type(module).__name__} is of {first.dtype} on {first.device}.", "Pass module.float().cpu()."
        )
    was_training = module.training
    try:
        with torch.inference_mode():
            output: Any = module.eval()(image_NCHW)
    except (TypeError, ValueError) as error:  # of a module that needs texts, for one
        raise BadInput(
            f"The {type(module).__name__} does not take only images: {str(error).splitlines()[0]}.",
            "Pass the module of its image encoder.",
        ) from error
    finally:
        module.train(was_training)
    logits = _vectors(output, module)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(image_NCHW):
        raise BadInput(f"The module returns {type(logits).__name__}, not logits [N, K].", "Pass a module that does.")
    return np.asarray(logits.float().cpu().numpy(), np.float32)


def _vectors(output: Any, module: torch.nn.Module) -> Any:
    """Of what transformers' modules return, the logits, or what their features are.

    The pooler of a ViT or DeiT is a further layer, which a backbone of ours has not: there it is the class token.
    """
    for name in ("logits", "image_embeds"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    if hasattr(getattr(module, "pooler", None), "dense"):
        return output.last_hidden_state[:, 0]
    pooled, tokens = (getattr(output, name, None) for name in ("pooler_output", "last_hidden_state"))
    return pooled if pooled is not None else output if tokens is None else tokens[:, 0]


def _input_size(module: torch.nn.Module) -> tuple[int, int, int]:
    cfg = getattr(module, "pretrained_cfg", None)
    size = cfg.get("input_size") if isinstance(cfg, dict) else None
    embed: Any = getattr(module, "patch_embed", None)
    if (exact := getattr(embed, "img_size", None)) is not None:
        return (embed.proj.in_channels, *exact)
    return tuple(size) if size else (3, 224, 224)


def _read(path: Path, config: HydraConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Image and logits; what they are is compared with the model before anything of them is read."""
    shapes = {
        "image": (config.channels, *config.image_shape),
        "logits": config.output_shape(config.heads),
    }
    limit = 4 * _MOST_IMAGES * sum(map(math.prod, shapes.values())) + 2**16
    try:
        with npz.opened(path, limit, shapes) as archive:
            num_images = archive.headers["image"].shape[:1]
            for name, shape in shapes.items():
                header = archive.headers[name]
                if header.dtype != np.dtype("<f4") or header.shape != (*num_images, *shape):
                    raise ValueError(f"{name} is {header}, the model has float32 [N, {', '.join(map(str, shape))}]")
            image, logits = (archive.read(name) for name in shapes)
    except npz.DAMAGED as error:
        raise BadData(f"Reference {path} cannot be used: {error}.", _REMEDY) from error
    if not len(image) or not all(np.isfinite(array).all() for array in (image, logits)):
        raise BadData(f"Reference {path} has no images, or contains NaN or infinity.", _REMEDY)
    return image, logits
