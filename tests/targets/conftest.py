"""Checkpoints of any architecture, and every target with every graph kind and precision that it declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import parity, targets
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadInput
from hydra_export.gate import Gate
from hydra_export.target import STATIC, Artifact, ExportSpec, GraphKind, Precision, Target

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# Five images are no multiple of the batch of three, so that the last batch is filled up.
NUM_IMAGES = 5

_OPEN = Gate(open=True)
_SMALLEST_COSINE: dict[Precision, float] = {
    "fp32": 0.999999,
    "fp16": 0.9999,
    "int8": 0.99,
    "int8-static": 0.85,  # what each target computes is held to its simulation in tests of its own
    "w8a16": 0.93,
}

MakeCheckpoint = Callable[..., "Checkpoint"]


@dataclass(frozen=True)
class Case:
    """One target with one graph kind and one precision."""

    target: Target
    graph: GraphKind
    precision: Precision

    def spec(self, **choices: Any) -> ExportSpec:
        """What to write: this graph kind and precision, and *choices*."""
        common = {name: choices.pop(name) for name in ("input", "batch") if name in choices}
        options = self.target.options(**choices)
        return ExportSpec(graph=self.graph, precision=self.precision, **common, options=options)

    def refuses(self, **choices: Any) -> bool:
        """Whether the target says that it does not have *choices*; then it says which."""
        try:
            self.target.check(self.spec(**choices))
        except BadInput:
            with pytest.raises(BadInput, match="|".join(map(str, choices))) as refused:
                self.target.check(self.spec(**choices))
            return bool(refused.value.remedy)
        return False

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], out: Path, **choices: Any) -> list[Artifact]:
        """Writes into the folder *out*, which is made."""
        out.mkdir(parents=True)
        if self.precision in STATIC:
            import torch

            from tests.targets.onnx.test_static import calibrated

            image_BCHW = checkpoint.info.preprocessing.normalise(pixels(checkpoint.info.config, 16))
            checkpoint = calibrated(checkpoint, self.precision, heads, image_BCHW=torch.from_numpy(image_BCHW))
        return self.target.write(checkpoint, heads, self.spec(**choices), out)

    def verify(self, checkpoint: Checkpoint, artifacts: Sequence[Artifact], folder: Path) -> None:
        """Runs every artifact at each of its head counts in every runtime, against float64 PyTorch.

        On noise through random weights no accuracy says anything of int8, so the direction of the logits has to hold.
        """
        images, data = pixels(checkpoint.info.config), checkpoint.info.preprocessing
        image = given(checkpoint, self.spec(input=artifacts[0].spec.input))
        for artifact in artifacts:
            assert self.target.signature(folder / artifact.path) == (artifact.inputs, artifact.outputs)
            for k in artifact.heads:
                expected = {
                    precision: parity.reference(checkpoint.model, k, images, data, precision)
                    for precision in {"fp32", self.precision}
                }
                path = folder / artifact.path
                record, _agreed = parity.verify(
                    self.target, path, k, self.precision, expected, lambda session: session.run(image), gate=_OPEN
                )
                is_number = checkpoint.info.config.num_outputs == 1  # which has a sign, and no direction
                assert record.cosine > _SMALLEST_COSINE[self.precision] or (is_number and self.precision in STATIC)


def pixels(config: HydraConfig, count: int = NUM_IMAGES) -> NDArray[np.uint8]:
    """Noise in 0-255: every pixel of every channel matters."""
    shape = (count, *config.image_shape, config.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def given(checkpoint: Checkpoint, spec: ExportSpec, count: int = NUM_IMAGES) -> NDArray[Any]:
    """The same images in the form that *spec* asks for."""
    raw = pixels(checkpoint.info.config, count)
    return raw if spec.input == "image" else checkpoint.info.preprocessing.normalise(raw)


def _cases() -> list[Any]:
    """Every combination; ``slow`` but for as few as show each graph kind and each precision once."""
    cases = []
    for target in map(targets.get, targets.names()):
        graphs, precisions = target.graphs, target.precisions
        longest = range(max(len(graphs), len(precisions)))
        quick = {(graphs[i % len(graphs)], precisions[i % len(precisions)]) for i in longest}
        for graph, precision in product(graphs, precisions):
            marks = () if (graph, precision) in quick else pytest.mark.slow
            name = f"{target.name}-{graph}-{precision}"
            cases.append(pytest.param(Case(target, graph, precision), id=name, marks=marks))
    return cases


@pytest.fixture(params=_cases())
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    try:
        chosen.target.requires()
    except BadInput as error:
        pytest.skip(str(error))
    return chosen


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Writes and reads back a checkpoint of ``HydraConfig(**overrides)``, tiny by default; every parameter matters."""
    import torch

    from hydra_export import checkpoint, checkpoint_file
    from hydra_export.model import HydraViT
    from hydra_export.preprocess import Preprocessing

    def make(**overrides: Any) -> Checkpoint:
        sizes = {"heads": 4, "head_dim": 8, "depth": 2, "patch_size": 4, "image_size": 16, "num_classes": 7}
        config = HydraConfig(**{**sizes, **overrides})
        torch.manual_seed(0)
        model = HydraViT(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        channels = config.channels
        data = Preprocessing(
            image_size=config.image_size, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.4)[:channels], crop=1.0
        )
        labels = tuple(f"class {i}" for i in range(config.num_classes))
        info = checkpoint_file.CheckpointInfo(
            name="tiny", config=config, preprocessing=data, labels=labels, license="CC0-1.0"
        )
        path = tmp_path / "checkpoint.safetensors"
        checkpoint_file.write(path, model.state_dict(), info)
        return checkpoint.load(path)

    return make
