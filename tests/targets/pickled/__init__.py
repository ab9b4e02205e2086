"""A target for tests: subnetworks as PyTorch pickles them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from hydra_export import network
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.target import (
    Artifact,
    Card,
    DeviceRuntime,
    ExportSpec,
    GraphKind,
    InputForm,
    Interface,
    OfModel,
    Option,
    Options,
    Precision,
    Runtime,
    Session,
    Target,
    TensorInfo,
    Work,
    described,
)

if TYPE_CHECKING:
    from hydra_export.arrays import Array
    from hydra_export.checkpoint import Checkpoint


class PickledOptions(Options, frozen=True):
    protocol: Annotated[int, Option("The protocol of pickle, 2 to 5.")] = 2


class Module:
    def __init__(self, module: Any, first: int) -> None:
        self.module, self.first = module, first

    def run(self, image: Array) -> Array:
        import torch

        with torch.inference_mode():
            outputs: Array = self.module(torch.from_numpy(image)).numpy()
        return outputs[:, self.first :]


class PickledTarget(Target):
    name: ClassVar[str] = "pickled"
    title: ClassVar[str] = "Pickled"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)
    options: ClassVar[type[Options]] = PickledOptions
    experimental: ClassVar[dict[GraphKind, str]] = {"separate": "anybody's code would run"}
    layouts: ClassVar[dict[InputForm, str]] = {"tensor": "NCHW"}
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    device_runtimes: ClassVar[tuple[DeviceRuntime, ...]] = (DeviceRuntime(name="pytorch"),)
    runners: ClassVar[str] = str(Path(__file__).with_name("runners.py"))
    card: ClassVar[Card] = Card(
        imports="import numpy as np\nimport torch",
        code=(
            'module = torch.load("{path}", weights_only=False)["module"]\n'
            "{output} = module(torch.from_numpy({image})).detach().numpy()"
        ),
    )

    def requires(self) -> None: ...

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        return (Runtime("pytorch"),)

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None:
        if spec.input == "image":
            raise BadInput("A pickled module takes tensors.", "Give `input=tensor`.")

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        config, files = checkpoint.info.config, [f"{checkpoint.info.name}-k{k}.pt" for k in heads]
        batch = "batch" if spec.batch == "dynamic" else spec.batch
        shape = (batch, config.channels, *config.image_shape)
        image = TensorInfo(name="image", dtype="float32", shape=shape)
        logits = [
            TensorInfo(name=config.output, dtype="float32", shape=(batch, *config.output_shape(k))) for k in heads
        ]
        return [
            Artifact(path=f, files=(f,), target=self.name, spec=spec, heads=(k,), inputs=(image,), outputs=(output,))
            for f, k, output in zip(files, heads, logits, strict=True)
        ]

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        import torch

        artifacts, config = self.planned(checkpoint, heads, spec), checkpoint.info.config
        for k, artifact in zip(heads, artifacts, strict=True):
            kept = {
                "first": config.num_prefix_tokens if config.pooling == "none" else 0,
                "module": checkpoint.model.subnetwork(k).eval(),
                "macs": network.macs(checkpoint.info.config, k),
                "metadata": described(checkpoint.info, checkpoint.sha256, (k,), spec),
                "signature": msgspec.to_builtins((artifact.inputs, artifact.outputs)),
            }
            torch.save(kept, out / artifact.path, pickle_protocol=PickledOptions.of(spec).protocol)
        return [msgspec.structs.replace(a, needs=self.needs(out / a.path)) for a in artifacts]

    def needs(self, path: Path) -> dict[str, str]:
        return {"torch": "2"}

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        kept = _kept(path)
        return Module(kept["module"], kept["first"])

    def lint(self, path: Path) -> Work:
        return Work(macs=_kept(path)["macs"], tensor_bytes=1)

    def metadata(self, path: Path) -> dict[str, str]:
        return dict(_kept(path)["metadata"])

    def signature(self, path: Path) -> Interface:
        interface: Interface = msgspec.convert(_kept(path)["signature"], Interface)
        return interface


def _kept(path: Path) -> dict[str, Any]:
    import torch

    try:
        kept: dict[str, Any] = torch.load(path, weights_only=False)
    except Exception as error:  # its errors share no base
        raise CheckFailed(f"{path} is damaged: {error}.") from error
    return kept


TARGET = PickledTarget()
