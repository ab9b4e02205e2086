"""Twelve kinds of ViTs that people ship, exported to every target that is installed, at three head counts.

    python benchmarks/vit_exports.py [PART OF A NAME ...]

timm's architectures at their own width and image size, with random weights and depth 2; graph kinds separate and
universal. An export ends only where every artifact agrees with PyTorch in its runtime; the table gives the largest
difference of each target from float64, and what is allowed there. Five minutes.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from measuring import environment
from torch import nn

import hydra_export
from hydra_export import targets

_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeiT III": ("deit3_small_patch16_224", {}),
    "DeiT, distilled": ("deit_small_distilled_patch16_224", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 224}),
    "DINOv3": ("vit_small_patch16_dinov3", {"img_size": 224}),
    "CLIP": ("vit_base_patch32_clip_224", {}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "SigLIP 2": ("vit_base_patch32_siglip_256", {}),
    "EVA-02": ("eva02_tiny_patch14_224", {}),
    "average": ("vit_medium_patch16_gap_256", {}),
    "SwiGLU": ("vit_small_plus_patch16_dinov3", {"img_size": 224}),
    "384 pixels": ("deit_small_patch16_224", {"img_size": 384}),
    "224 x 448": ("deit_small_patch16_224", {"img_size": (224, 448)}),
}


def main() -> None:
    warnings.simplefilter("ignore")
    print(environment(("torch", "timm")), end="\n\n")
    names = targets.names()
    print(f"| model | head counts | {' | '.join(names)} |\n|{'---|' * (2 + len(names))}")
    for title, (name, arguments) in _MODELS.items():
        if sys.argv[1:] and not any(part in (title, name) for part in sys.argv[1:]):
            continue
        torch.manual_seed(0)
        module = _perturbed(timm.create_model(name, depth=2, **arguments))
        largest: int = module.blocks[0].attn.num_heads  # type: ignore[index,union-attr,assignment]
        heads = sorted({1, largest // 2, largest} if largest > 3 else {1, 2, 3})
        with tempfile.TemporaryDirectory() as folder:
            bundle = hydra_export.export(
                module, Path(folder) / "dist", targets=names, heads=heads, graphs=("separate", "universal")
            )
        errors = dict.fromkeys(names, 0.0)
        bounds = dict(errors)
        for artifact in bundle.manifest.artifacts:
            for record in artifact.parity.values():
                if record.max_abs_error >= errors[artifact.target]:
                    errors[artifact.target], bounds[artifact.target] = record.max_abs_error, record.bound or 0.0
        shown = (f"{errors[target]:.1e} of {bounds[target]:.1e}" for target in names)
        print(f"| {title}: `{name}` | {', '.join(map(str, heads))} | {' | '.join(shown)} |", flush=True)


def _perturbed(module: nn.Module) -> nn.Module:
    """Every parameter matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module.eval()


if __name__ == "__main__":
    main()
