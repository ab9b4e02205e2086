"""The choice of a subnetwork when a file runs: small graphs of IFs over the graphs of the subnetworks.

``run`` asks the listed head counts one after the other, smallest first: LESS than the next one? Then EQUAL to this one?
What is equal to none runs a graph that cannot: its GATHER takes what is not there, and runtimes stop with an error.
Where one does not look (none is known), the logits are NaN: another subnetwork's are never what comes out.

An IF moves the inputs of its branches out of the interpreter's memory: a graph that is a branch must not be run by a
signature as well (LiteRT 2.3 and TensorFlow 2.21 then refuse the signature, or read memory that may be gone). So that
each subnetwork is in the file, and packed in memory, once, the signatures ``k3``, ... are IFs as well, of one branch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydra_export.target import TensorInfo
from hydra_export.targets.tflite.builder import TFLiteGraphBuilder, Value
from hydra_export.targets.tflite.operators import FLOAT32, UINT8

RUN = "run"
HEADS_INFO = TensorInfo(name="k", dtype="int32", shape=(1,))
NO_SUCH_HEADS = "no such head count"
_NOWHERE = 2**31 - 1


@dataclass(frozen=True)
class Question:
    """One graph of the choice: *compare* the head count with *number*, then run one of two graphs.

    *passed_on*: the branches take the head count as well.
    """

    name: str
    compare: str
    number: int
    graphs: tuple[int, int]
    passed_on: bool


@dataclass(frozen=True)
class Places:
    """Where graphs are in a file that holds *heads*: what signatures run, the questions, the branches, the failure."""

    heads: Sequence[int]

    def signature(self, heads: int) -> int:
        """The graph that the signature of a head count runs."""
        return len(self.heads) - 1 - self.heads.index(heads)

    @property
    def first_question(self) -> int:
        """``run``."""
        return len(self.heads)

    def branch(self, heads: int) -> int:
        """A subnetwork, as branches run it."""
        return 3 * len(self.heads) - 1 + self.signature(heads)

    @property
    def failure(self) -> int:
        """The last graph: it fails."""
        return 4 * len(self.heads) - 1

    def questions(self) -> list[Question]:
        """In their order."""
        places = {k: self.first_question + len(self.heads) - 1 + i for i, k in enumerate(self.heads)}
        found = []
        for i, (k, following) in enumerate(itertools.pairwise(self.heads)):
            is_last = i == len(self.heads) - 2
            otherwise = places[following] if is_last else self.first_question + i + 1
            found.append(Question(f"less_than_{following}", "LESS", following, (places[k], otherwise), passed_on=True))
        return found + [
            Question(f"is_{k}", "EQUAL", k, (self.branch(k), self.failure), passed_on=False) for k in self.heads
        ]


def emit_call(g: TFLiteGraphBuilder, branch: int, image_info: TensorInfo, output: TensorInfo) -> tuple[Value, Value]:
    """A graph that runs the graph *branch*; its input and its output."""
    image = g.input(image_info)
    always = g.constant("always", [True])
    return image, g.branch(output, always, [image], (branch, branch))


def emit(
    g: TFLiteGraphBuilder, question: Question, image_info: TensorInfo, output: TensorInfo
) -> tuple[Value, Value, Value]:
    """The graph of *question*; its inputs and its output."""
    image, k = g.input(image_info), g.input(HEADS_INFO)
    condition = g.op(f"k/{question.compare}", question.compare, [k, g.constant("k/number", [question.number])])
    given = [image, k] if question.passed_on else [image]
    return image, k, g.branch(output, condition, given, question.graphs)


def emit_failure(g: TFLiteGraphBuilder, image_info: TensorInfo, output: TensorInfo) -> tuple[Value, Value]:
    """A graph that cannot run; its input and what it does not come to."""
    image = x = g.input(image_info)
    if image.dtype == "uint8":
        x = g.op("image/CAST", "CAST", [x], in_data_type=UINT8, out_data_type=FLOAT32)
    elif image.dtype != "float32":
        x = g.op("image/DEQUANTIZE", "DEQUANTIZE", [x])
    flat = g.op("image/RESHAPE", "RESHAPE", [x, g.constant("image/flat", [image.shape[0], math.prod(image.shape[1:])])])
    nowhere = g.constant(f"{NO_SUCH_HEADS}/places", [_NOWHERE] * g.shape(output)[1])
    missing = g.op(f"{NO_SUCH_HEADS}/GATHER", "GATHER", [flat, nowhere], axis=1)
    x = g.op(output.name, "MUL", [missing, g.constant(f"{NO_SUCH_HEADS}/not_a_number", math.nan)])
    return image, x if output.dtype == "float32" else g.quantize(x, output)
