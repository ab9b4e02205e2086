"""Bundles of a tiny model with everything that snippets have to tell apart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.conftest import available_targets, perturbed


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every graph kind of ONNX and TFLite: by input form, by batch, in every precision, without a classifier,
    with a projection, and patch tokens of images that are not square.
    """
    from hydra_export import checkpoint, checkpoint_file
    from hydra_export.architecture import HydraConfig
    from hydra_export.exporting import export, jobs
    from hydra_export.gate import Gate
    from hydra_export.preprocess import Preprocessing

    place = tmp_path_factory.mktemp("snippets")
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop=1.0)

    def saved(name: str, num_classes: int, projection: int = 0) -> checkpoint.Checkpoint:
        sizes = HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=num_classes)
        config = msgspec.structs.replace(sizes, projection=projection)
        labels = tuple("abcdefg")[:num_classes]
        info = checkpoint_file.CheckpointInfo(
            name=name, config=config, preprocessing=data, export_heads=(2, 4), labels=labels
        )
        path = place / f"{name}.safetensors"
        checkpoint_file.write(path, perturbed(config).state_dict(), info)
        return checkpoint.load(path)

    tiny, backbone = saved("tiny", 7), saved("backbone", 0)
    projection = saved("projection", 0, projection=9)
    tokens = checkpoint.with_output(checkpoint.with_image_size(tiny, (16, 24)), "tokens")
    onnx = jobs(["onnx"], ["separate", "shared", "universal"])
    tflite = ["tflite"] if "tflite" in available_targets() else []
    both, graphs = ["onnx", *tflite], ["separate", "universal"]
    precise = jobs(both, ["universal"], ["fp16", "int8"])
    export(tiny, place / "tensor", [*onnx, *jobs(tflite, graphs), *precise], gate=Gate(open=True))
    export(tiny, place / "image", jobs(both, graphs, input="image"))
    export(tiny, place / "three", jobs(both, graphs, batch=3))
    export(tiny, place / "dynamic", jobs(both, graphs, input="image", batch="dynamic"))
    export(backbone, place / "backbone", jobs(both, ["separate"]))
    export(projection, place / "projection", jobs(both, graphs))
    export(tokens, place / "tokens", [*jobs(both, ["separate"], ["fp32", "int8"], input="image")], gate=Gate(open=True))
    export(tokens, place / "normalised", jobs(both, ["separate"]))
    return {path.name: path for path in place.iterdir() if path.is_dir()}
