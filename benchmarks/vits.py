"""What becomes of every ViT that timm registers: imported and equal, or refused with a reason.

    python benchmarks/vits.py [PART OF A NAME ...]

Each is built with random weights, depth 2 and small images where its architecture allows; those that would have more
than 300 million parameters even so are read and not run. The error is that of the full width's float32 output on a
random image, over the largest output; the import itself holds both against each other in float64. Exit status 1 where
one was accepted and computes something else. Ten minutes; without weights: ``tests/importing/test_timm.py``.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the families are the tests' own

import timm
import torch
from measuring import environment
from torch import nn

from hydra_export import checkpoint
from hydra_export.errors import BadInput
from hydra_export.importing import timm_config
from tests.importing.timm_names import family, names

_LARGEST = 300_000_000
_SIDES = (4, 6, 8, 14)  # patches


@dataclass
class _Found:
    """What became of one name; *reason* is that of a refusal."""

    name: str
    error: float | None = None
    reason: str = ""


def main() -> None:
    warnings.simplefilter("ignore")
    print(environment(("torch", "timm")), end="\n\n")
    found = [_import(name) for name in names() if not sys.argv[1:] or any(part in name for part in sys.argv[1:])]
    print("| family | names | imported | refused | largest error |\n|---|---|---|---|---|")
    for each in dict.fromkeys(family(one.name) for one in found):
        of_it = [one for one in found if family(one.name) == each]
        reasons = "; ".join(dict.fromkeys(one.reason for one in of_it if one.reason))
        refused = sum(bool(one.reason) for one in of_it)
        largest = max((one.error for one in of_it if one.error is not None), default=None)
        error = "" if largest is None else f"{largest:.1e}"
        said = f"{refused}: {reasons}" if refused else ""
        print(f"| {each} | {len(of_it)} | {len(of_it) - refused or ''} | {said} | {error} |")
    wrong = [one.name for one in found if one.error is not None and not one.error < 1e-5]
    for prefix in ("", "vit_"):
        some = [one for one in found if one.name.startswith(prefix)]
        run, accepted = (
            sum(test(one) for one in some) for test in (lambda o: o.error is not None, lambda o: not o.reason)
        )
        print(
            f"\n{prefix}*: {len(some)} names, {accepted} imported, of which {run} were run; {len(wrong)} wrong {wrong}"
        )
    sys.exit(1 if wrong else 0)


def _import(name: str) -> _Found:
    arguments = _smallest(name)
    with torch.device("meta"):
        shell = timm.create_model(name, **arguments)
    try:
        if sum(parameter.numel() for parameter in shell.parameters()) > _LARGEST:
            timm_config.of_module(shell, name)
            return _Found(name)
        torch.manual_seed(0)
        module = timm.create_model(name, **arguments).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        loaded = checkpoint.load(module)
    except BadInput as error:
        said = re.sub(r"^(Checkpoint \S+: )?(this ViT|timm's \S+|\S+) has ", "", error.message)
        return _Found(name, reason=re.sub(r" \([^)]*\)|, where its blocks have \d+|\.$", "", said))
    config = loaded.info.config
    return _Found(name, _error(loaded.model, module, torch.randn(1, config.channels, *config.image_shape)))


def _smallest(name: str) -> dict[str, Any]:
    """The arguments of the smallest form that timm builds."""
    patch = int(match[1]) if (match := re.search(r"patch(\d+)", name)) else 16
    for arguments in (*({"depth": 2, "img_size": patch * side} for side in _SIDES), {"depth": 2}, {}):
        try:
            with torch.device("meta"):
                timm.create_model(name, **arguments)
        except Exception:  # noqa: BLE001 (of timm and torch, which share no base)
            continue
        return arguments
    raise ValueError(f"timm does not build {name}")


def _error(ours: nn.Module, theirs: nn.Module, image: torch.Tensor) -> float:
    with torch.inference_mode():
        expected = theirs(image)
        return float((ours(image) - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main()
