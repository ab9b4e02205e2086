"""ViTs of transformers' own classes, with random weights: what is imported computes what they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hydra_export
from hydra_export import checkpoint, targets
from tests.importing.cases import perturbed

transformers = pytest.importorskip("transformers", reason="needs transformers")

_SMALL: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8
}  # fmt: skip
_WIDE = {"intermediate_size": 96}
Output = Callable[[Any], torch.Tensor]


def _logits(output: Any) -> torch.Tensor:
    return output.logits  # type: ignore[no-any-return]


def _class_token(output: Any) -> torch.Tensor:
    return output.last_hidden_state[:, 0]  # type: ignore[no-any-return]


def _pooled(output: Any) -> torch.Tensor:
    return output.pooler_output  # type: ignore[no-any-return]


def _image_embeds(output: Any) -> torch.Tensor:
    return output.image_embeds  # type: ignore[no-any-return]


def _models() -> Iterator[tuple[str, Any, Output]]:
    """Each with what its output is."""
    t = transformers

    def config(kind: str, **changes: Any) -> Any:
        return getattr(t, f"{kind}Config")(**_SMALL | changes)

    yield "ViT", t.ViTForImageClassification(config("ViT", **_WIDE, num_labels=5)), _logits
    yield "ViT without qkv bias", t.ViTForImageClassification(config("ViT", **_WIDE, qkv_bias=False)), _logits
    yield "ViT, tanh GELU", t.ViTForImageClassification(config("ViT", **_WIDE, hidden_act="gelu_new")), _logits
    yield "ViT's features", t.ViTModel(config("ViT", **_WIDE)), _class_token
    yield "ViT of 24x40", t.ViTForImageClassification(config("ViT", **_WIDE | {"image_size": (24, 40)})), _logits
    yield "DeiT", t.DeiTForImageClassification(config("DeiT", **_WIDE, num_labels=5)), _logits
    yield "DeiT, distilled", t.DeiTForImageClassificationWithTeacher(config("DeiT", **_WIDE, num_labels=5)), _logits
    yield "DINOv2", t.Dinov2Model(config("Dinov2")), _pooled
    yield "DINOv2, SwiGLU", t.Dinov2Model(config("Dinov2", use_swiglu_ffn=True)), _pooled
    yield "DINOv2's classifier", t.Dinov2ForImageClassification(config("Dinov2", num_labels=5)), _logits
    registers = config("Dinov2WithRegisters", num_labels=5)
    yield "DINOv2 with registers, classifier", t.Dinov2WithRegistersForImageClassification(registers), _logits
    yield "DINOv2 with registers", t.Dinov2WithRegistersModel(config("Dinov2WithRegisters")), _pooled
    yield "CLIP", t.CLIPVisionModel(config("CLIPVision", **_WIDE)), _pooled
    projection = config("CLIPVision", **_WIDE, projection_dim=7)
    yield "CLIP with projection", t.CLIPVisionModelWithProjection(projection), _image_embeds
    vision = {"vision_config": _SMALL | _WIDE, "num_labels": 5}
    yield "CLIP's classifier", t.CLIPForImageClassification(t.CLIPConfig(**vision)), _logits
    yield "SigLIP", t.SiglipVisionModel(config("SiglipVision", **_WIDE)), _pooled
    yield "SigLIP's classifier", t.SiglipForImageClassification(t.SiglipConfig(**vision)), _logits


@pytest.mark.parametrize(
    ("name", "module", "output"), list(_models()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_computes_what_transformers_computes(name: str, module: Any, output: Output, tmp_path: Path) -> None:
    perturbed(module).save_pretrained(tmp_path)
    loaded = checkpoint.load(tmp_path)
    config = loaded.info.config
    image = torch.randn(2, config.channels, *config.image_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, ours = output(module(image)), loaded.model(image)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5)
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.load(module).model(image), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ViT", "DINOv2 with registers, classifier", "CLIP", "CLIP with projection", "SigLIP"])
def test_as_it_is_initialised_it_is_exported_to_every_target(kind: str, tmp_path: Path) -> None:
    """Of so little variance that a norm's epsilon matters, which float16 rounds."""
    (module,) = (module for name, module, _ in _models() if name == kind)
    module.save_pretrained(tmp_path / "theirs")
    hydra_export.export(
        tmp_path / "theirs", tmp_path / "dist", targets=targets.names(), heads=(1, 3), graphs=("separate", "universal")
    )


def test_the_projection_of_clip_is_no_classifier(tmp_path: Path) -> None:
    """Also where config.json names classes, which transformers writes of any model."""
    found = {name: module for name, module, _ in _models() if name.startswith("CLIP")}
    projects, classifies = found["CLIP with projection"], found["CLIP's classifier"]
    projects.config.id2label = {number: f"class {number}" for number in range(7)}
    perturbed(projects).save_pretrained(tmp_path / "clip")
    for source in (projects, tmp_path / "clip"):
        info = checkpoint.load(source).info
        config = info.config
        assert (config.projection, config.num_classes, config.output, info.labels) == (7, 0, "features", ())
        assert config.output_shape(1) == config.output_shape(3) == (7,)
    config = checkpoint.load(classifies).info.config
    assert (config.projection, config.num_classes, config.output) == (0, 5, "logits")


def test_the_texts_tower_of_clip_is_left_out(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config=_SMALL | _WIDE, projection_dim=7)
    module = perturbed(transformers.CLIPModel(config))
    module.save_pretrained(tmp_path)
    loaded = checkpoint.load(tmp_path)
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        features = module.visual_projection(module.vision_model(image).pooler_output)
        torch.testing.assert_close(loaded.model(image), features, rtol=2e-5, atol=2e-5)
    assert loaded.info.config.projection == 7
    assert any("text_model" in note and "left out" in note for note in loaded.notes)
