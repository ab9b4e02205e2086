"""One graph that takes the head count as an input, and the graphs that fix it, over one weight file.

A runtime that is to choose call by call needs every byte, so there is one weight file, and what is in it for the
largest subnetwork needs no putting together. The run-time graph has one of two forms:

- *branches*: the listed subnetworks, chosen with If. Each is as fast as a graph of its own, and the weights of all of
  them are in memory as the runtime packs them.
- *slices*: one subnetwork whose weights are cut when it runs. Nothing is packed, so it takes hardly more memory than
  the weight file and is loaded at once, but runs longer: what is cut is copied, and multiplied as it lies in the file.

Measured in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import onnx_ir as ir

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.stored_weight import StoredWeight
from hydra_export.target import STATIC, Artifact, ExportSpec, Precision
from hydra_export.targets.onnx import file, fixed, quantized, shells
from hydra_export.targets.onnx.choice import HEADS_INFO, Choice
from hydra_export.targets.onnx.emitter import OnnxEmitter, subnetwork
from hydra_export.targets.onnx.graph import NodeBuilder, OnnxGraphBuilder, channels_first
from hydra_export.targets.onnx.shells import Assembly, Shell
from hydra_export.targets.onnx.slices import SlicingBuilder
from hydra_export.targets.onnx.weights import normalised, stored

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# The form is branches up to so many times the weights of the largest subnetwork, or so many bytes of weights.
_MOST_COPIES = 2.0
_MOST_BYTES = 2**27


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int) -> list[Artifact]:
    """``<model>-universal.onnx``, ``<model>-universal.bin`` and ``<model>-universal-k3.onnx``, ...

    One head count alone has no graph that fixes it: that would be graph kind ``separate``.
    """
    location, path = _location(checkpoint, spec), f"{file.name(checkpoint, spec, 'universal')}.onnx"
    artifacts = [file.artifact(checkpoint, path, [location], heads, spec, opset, HEADS_INFO)]
    for k in heads if len(heads) > 1 else ():
        path = f"{file.name(checkpoint, spec, 'universal', f'k{k}')}.onnx"
        artifacts.append(file.artifact(checkpoint, path, [location], [k], spec, opset))
    return artifacts


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*."""
    for k in heads:
        checkpoint.info.config.classifiers(k)  # one that is missing is refused before anything is written
    weights = stored(normalised(checkpoint, spec), spec, heads[-1])
    written = shells.write(weights, heads, {heads[-1]: _location(checkpoint, spec)}, out)
    artifacts = planned(checkpoint, heads, spec, opset)
    graph = _graph(checkpoint, heads, spec, opset, _BranchWeights(checkpoint, spec, written, weights))
    content = file.encoded(file.model(checkpoint, heads, spec, opset, graph))
    (out / artifacts[0].path).write_bytes(content)
    for artifact in artifacts[1:]:
        assembly = Assembly(artifact.heads[0], written, weights)
        (out / artifact.path).write_bytes(fixed.assembled(checkpoint, spec, opset, assembly))
    return artifacts


def _location(checkpoint: Checkpoint, spec: ExportSpec) -> str:
    """The weight file."""
    return f"{file.name(checkpoint, spec, 'universal')}.bin"


@dataclass(frozen=True)
class _BranchWeights:
    """The weights of subnetworks, put together outside of all branches: there runtimes fold and pack them."""

    checkpoint: Checkpoint
    spec: ExportSpec
    shells: Sequence[Shell]
    stored: Mapping[str, StoredWeight]
    assemblies: list[Assembly] = field(default_factory=list)
    loaded: list[OnnxGraphBuilder] = field(default_factory=list)

    def of(self, heads: int, scope: str = "") -> Callable[[str], ir.Value]:
        """What gives those of subnetwork *heads* by their names, ready for use."""
        self.assemblies.append(Assembly(heads, self.shells, self.stored, scope))
        self.loaded.append(OnnxGraphBuilder(heads, self.assemblies[-1].weight, self.spec.precision, scope))
        return self.loaded[-1].weight

    def branch(self, heads: int) -> OnnxGraphBuilder:
        """What collects the nodes of the branch of a head count."""
        scope, used = f"k{heads}/", msgspec.structs.replace(self.spec, precision=self.used_precision)
        weight = self.of(heads, scope)
        return quantized.builder(self.checkpoint, heads, used, self.stored, weight, scope, self.loaded[-1])

    @property
    def used_precision(self) -> Precision:
        """What the graph computes with: fp16 is how weights are stored."""
        return "fp32" if self.spec.precision == "fp16" else self.spec.precision

    def initializers(self) -> list[ir.Value]:
        put_together = [value for assembly in self.assemblies for value in assembly.initializers.values()]
        return put_together + [value for loaded in self.loaded for value in loaded.constants.values()]

    def nodes(self) -> list[ir.Node]:
        put_together = [node for assembly in self.assemblies for node in assembly.nodes]
        return put_together + [node for loaded in self.loaded for node in loaded.nodes]


def _graph(
    checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, opset: int, weights: _BranchWeights
) -> ir.Graph:
    config = checkpoint.info.config
    (image_info, *_), (output,) = file.interface(checkpoint, heads, spec)
    image, k = file.value(image_info), file.value(HEADS_INFO)
    g, is_static = NodeBuilder(), spec.precision in STATIC
    choice = Choice(g, k, heads)
    # How integers are counted is part of each branch: compilers look for it beside the operators.
    image_BCHW = image if is_static else channels_first(g, image, checkpoint.info.preprocessing, spec)
    form = _branches if is_static or _few(config, heads) else _slices
    result = form(g, choice, image_BCHW, config, spec, opset, weights)
    file.declare(result, output)
    return ir.Graph(
        [image, k],
        [result],
        nodes=[*weights.nodes(), *g.nodes],
        initializers=[*weights.initializers(), *g.constants.values()],
        name=f"{checkpoint.info.name}-universal",
    )


def _few(config: HydraConfig, heads: Sequence[int]) -> bool:
    """Whether the weights of all listed subnetworks are few enough to be in memory side by side."""
    together = sum(network.num_params(config, k) for k in heads)
    return together <= _MOST_COPIES * network.num_params(config, heads[-1]) or 4 * together <= _MOST_BYTES


def _branches(
    g: NodeBuilder,
    choice: Choice,
    image_BCHW: ir.Value,
    config: HydraConfig,
    spec: ExportSpec,
    opset: int,
    weights: _BranchWeights,
) -> ir.Value:
    def whole(inside: OnnxGraphBuilder) -> ir.Value:
        return subnetwork(inside, inside.image(image_BCHW), config, spec, opset, inside.heads)

    return _among(choice, whole, config, spec, weights)


def _slices(
    g: NodeBuilder,
    choice: Choice,
    image_BCHW: ir.Value,
    config: HydraConfig,
    spec: ExportSpec,
    opset: int,
    weights: _BranchWeights,
) -> ir.Value:
    largest = choice.heads[-1]
    sliced = SlicingBuilder(largest, choice.number(), weights.of(largest), weights.stored, weights.used_precision)
    emitter = OnnxEmitter(sliced, config, spec, opset)
    tokens = network.tokens(emitter, config, image_BCHW)
    features = network.pooled(emitter, config, tokens) if config.separate_classifiers else []
    result = None if features else network.output(emitter, config, tokens, largest)
    g.nodes += sliced.before.nodes + sliced.nodes
    g.constants |= sliced.before.constants | sliced.constants
    if result is not None:
        return result

    def logits(inside: OnnxGraphBuilder) -> ir.Value:
        classifiers = config.classifiers(inside.heads)
        return OnnxEmitter(inside, config, spec, opset).classifier(list(zip(features, classifiers, strict=True)))

    return _among(choice, logits, config, spec, weights)


def _among(
    choice: Choice,
    emit: Callable[[OnnxGraphBuilder], ir.Value],
    config: HydraConfig,
    spec: ExportSpec,
    weights: _BranchWeights,
) -> ir.Value:
    """What *emit* makes in the branch of the chosen head count."""
    branches = {}
    for k in choice.heads:
        inside = weights.branch(k)
        result = inside.result(emit(inside))
        name, (_image, (output,)) = result.name, file.interface(weights.checkpoint, [k], spec)
        file.declare(result, output)
        result.name = name  # names of a branch are not those of the graph around it
        constants = list(inside.constants.values())
        branches[k] = ir.Graph([], [result], nodes=inside.nodes, initializers=constants, name=f"k{k}")
    return choice.among(branches, config.output)
