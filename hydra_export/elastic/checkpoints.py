"""A checkpoint in the basis that images give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec
import torch

from hydra_export.checkpoint import Checkpoint
from hydra_export.checkpoint_file import UNMEASURED
from hydra_export.elastic.observation import Batch
from hydra_export.elastic.rebasing import How, rebased
from hydra_export.errors import BadInput


def check_dense(checkpoint: Checkpoint) -> None:
    """Refuses a universal model, whose narrower subnetworks a new basis would lose."""
    info = checkpoint.info
    if info.trained_heads and not info.config.is_plain(info.trained_heads):
        raise BadInput(
            f"{info.name} is already universal: head counts {','.join(map(str, info.trained_heads))} were trained. "
            "In another basis, all but the full width would have to be trained again.",
            "Pass a dense ViT, or train this one further with recipe finetune.",
        )


def made_elastic(
    dense: Checkpoint, batches: Iterable[Batch], how: How = "rotate", device: torch.device | None = None
) -> Checkpoint:
    """*dense* in another basis, with notes of what was done: its full width computes the same.

    Raises:
        BadInput, CheckFailed: it cannot be (see ``rebased``), or is universal already.
    """
    check_dense(dense)
    result = rebased(dense.model.to(device), batches, how)
    name, heads = dense.info.name, result.config.heads
    half = max(1, heads // 2)
    before, after = (100 * shares[half] for shares in result.energy)
    note = (
        f"{name} is in a new basis, chosen by {result.num_images} images: the channels of {half} of its {heads} heads "
        f"contain {after:.0f} % of the variance, {before:.0f} % before. The outputs of its full width stay the same, "
        f"within {result.error:.0e} of the largest."
    )
    info = msgspec.structs.replace(
        dense.info,
        name=f"{name}-elastic",
        config=result.config,
        trained_heads=(heads,),
        export_heads=(),
        training={"elastic": how, "images": result.num_images, "of": name},
        **UNMEASURED,
    )
    return replace(dense, state=result.state, info=info, notes=(*dense.notes, note, *result.notes))
