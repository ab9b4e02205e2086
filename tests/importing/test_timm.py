"""Every ViT that timm registers, without weights: its configuration is read, or it is refused with a reason."""

from __future__ import annotations

import re

import pytest

from hydra_export.errors import BadInput
from hydra_export.importing import timm_config
from tests.importing.timm_names import family, names, shell

_REFUSED = {  # whole families, and why
    "rotary, learned": "rotary positions of another kind",
    "relative positions": "a class of its own",
    "hybrids": "a patch embedding other than",
    "parallel or several attentions": "blocks of another kind",
}
_SOME = {  # of other families
    "eva02_enormous": "blocks of another kind",
    "vit_pe_core": "attention pooling of 8 heads",
    "sapiens2": "fewer heads of keys",
}


@pytest.mark.slow(reason="builds all 200 on the meta device")
def test_every_vit_of_timms_is_read_or_refused_with_a_reason() -> None:
    read, refused = [], {}
    for name in names():
        module = shell(name)
        try:
            config, _ = timm_config.of_module(module, name)
        except BadInput as error:
            refused[name] = error.message
            continue
        read.append(name)
        assert config.width(config.heads) == module.blocks[0].attn.proj.out_features  # type: ignore[union-attr,index]
    for name, message in refused.items():
        reason = next((reason for part, reason in _SOME.items() if part in name), None) or _REFUSED[family(name)]
        assert re.search(reason, message), (name, message)
    assert not [name for name in read if family(name) in _REFUSED]
    assert sum(name.startswith("vit_") for name in read) >= 160
