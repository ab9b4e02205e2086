"""One file for several head counts: a signature for each, and ``run``, which takes the head count as an input.

Every weight is stored once. A matrix is cut by its input channels at the listed head counts, and each block lies in one
piece, so that what a smaller subnetwork needs of it, fewer rows, is its beginning. A Linear is a sum over the blocks.

Without overlap the file is a conventional one: whole matrices, each subnetwork's own, and signatures whose graphs are
the subnetworks themselves; ``run`` has graphs of its own over the same buffers, which runtimes pack once more.

Overlapping buffers were run on x86 alone. Whether a phone's runtime takes them says TensorFlow's own benchmark_model:
``adb push FILE benchmark_model /data/local/tmp``, then ``adb shell /data/local/tmp/benchmark_model
--graph=/data/local/tmp/FILE --signature_to_run_for=k6``; and what it computes, on a board with Python, does
``hydra-export verify BUNDLE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.network import Span
from hydra_export.target import Artifact, ExportSpec, TensorInfo
from hydra_export.targets.tflite import TFLiteOptions, choice
from hydra_export.targets.tflite.builder import ConstantTensor, TFLiteGraphBuilder
from hydra_export.targets.tflite.choice import HEADS_INFO, RUN, Places
from hydra_export.targets.tflite.file import FileBuilder
from hydra_export.targets.tflite.graph import TFLiteEmitter
from hydra_export.targets.tflite.metadata import GraphSignature
from hydra_export.targets.tflite.quantized import builder, counted, interface
from hydra_export.targets.tflite.separate import artifact, finish
from hydra_export.targets.tflite.weights import begins_alike, normalised, stored

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
    """``<model>-universal.tflite``.

    Where outputs are as wide as the subnetwork there is no ``run``: one tensor has one shape.
    """
    run = [HEADS_INFO] if checkpoint.info.config.num_outputs else []
    return [artifact(checkpoint, heads, spec, *run)]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*."""
    file = _Universal(checkpoint, heads, spec)
    config, places, (whole,) = checkpoint.info.config, Places(heads), planned(checkpoint, heads, spec)
    described, has_run, image = [], config.num_outputs > 0, counted(whole.inputs[0], spec)
    for k in reversed(heads):  # who runs the file without naming a signature runs the first graph
        _image, output = interface(checkpoint, [k], spec)
        if has_run and TFLiteOptions.of(spec).overlap:
            file.add_call(k, places.branch(k), image, output)
        else:
            file.add_subnetwork(k, image, output, f"k{k}")
        described.append(GraphSignature(f"{checkpoint.info.name}-k{k}", [image], output))
    if has_run:
        file.add_choice(places, image, whole.outputs[0])
        described.append(GraphSignature(RUN, whole.inputs, whole.outputs[0]))
    return [finish(file.builder, checkpoint, whole, out, described)]


class _Universal:
    """Adds graphs to a file."""

    def __init__(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> None:
        self.checkpoint, self.heads, self.spec = checkpoint, heads, spec
        self.builder = FileBuilder()
        self._stored = stored(normalised(checkpoint, spec), spec.precision, heads[-1])

    def add_subnetwork(self, k: int, image_info: TensorInfo, output: TensorInfo, key: str = "") -> None:
        """Subnetwork *k*."""
        info, spec = self.checkpoint.info, self.spec
        cuts = [cut for cut in self.heads if cut <= k] if TFLiteOptions.of(spec).overlap else []
        g = self._graph(k)
        image = g.input(image_info)
        result = TFLiteEmitter(g, info.config, k, spec, info.preprocessing, cuts).emit(image)
        self.builder.graph(f"{info.name}-k{k}", g, {image_info.name: image}, {output.name: result}, key)

    def add_call(self, k: int, branch: int, image_info: TensorInfo, output: TensorInfo) -> None:
        """The signature of subnetwork *k*, whose graph is another."""
        g = self._graph(0)
        image, result = choice.emit_call(g, branch, image_info, output)
        self.builder.graph(f"k{k}", g, {image_info.name: image}, {output.name: result}, f"k{k}")

    def add_choice(self, places: Places, image_info: TensorInfo, output: TensorInfo) -> None:
        """``run``, and everything behind it."""
        for i, question in enumerate(places.questions()):
            g = self._graph(0)
            image, k, result = choice.emit(g, question, image_info, output)
            inputs, key = {image_info.name: image, HEADS_INFO.name: k}, "" if i else RUN
            self.builder.graph(key or question.name, g, inputs, {output.name: result}, key)
        for heads in reversed(places.heads):
            self.add_subnetwork(heads, image_info, output)
        g = self._graph(0)
        image, result = choice.emit_failure(g, image_info, output)
        self.builder.graph(choice.NO_SUCH_HEADS, g, {image_info.name: image}, {output.name: result})

    def _graph(self, k: int) -> TFLiteGraphBuilder:
        def weight(name: str, columns: Span | None) -> ConstantTensor:
            kept = self._stored[name]
            if TFLiteOptions.of(self.spec).overlap:
                assert columns is not None or begins_alike(kept)
                return self.builder.shared_weight(name, kept, k, self.heads[-1], columns)
            return self.builder.weight(name, kept, k)

        if not k:
            return TFLiteGraphBuilder(self.checkpoint.info.config, weight, self.builder.store, self.builder.opcode)
        return builder(self.checkpoint, k, self.spec, weight, self.builder.store, self.builder.opcode)
