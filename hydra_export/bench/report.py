"""What a measurement says, as ``bench --json`` and a board's bench.json hold it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from hydra_export import documents, files
from hydra_export.board import KIND
from hydra_export.bundle import ModelEntry
from hydra_export.device import Match, NumberFormat, is_date
from hydra_export.errors import BadInput
from hydra_export.target import ComputeUnit, GraphKind, InputForm, Precision

_SAID = set(Match.__struct_fields__) - {"source"}
_TIMES = ("load_ms", "median_ms", "mean_ms", "min_ms", "p10_ms", "p90_ms", "p99_ms")


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact at one head count in one runtime: milliseconds per call, which takes *batch* images.

    Attributes:
        compute: what the runtime computes in, where it may choose.
        peak_mib: of the process that ran it alone; *base_mib* before it was loaded.
        max_abs_error: of the golden image's logits; *bound*: what parity allows runtimes that compute in float32.
        cpu_ms: median of all cores' work, cpu_min_ms: the least.
        noise: why it may say little.
    """

    path: str
    target: str
    graph: GraphKind
    precision: Precision
    input: InputForm
    batch: int
    bytes: int
    heads: int
    runtime: str
    runtime_version: str
    unit: ComputeUnit
    compute: NumberFormat
    threads: int
    load_ms: float
    peak_mib: float | None
    base_mib: float | None
    warmup_calls: int
    max_abs_error: float
    bound: float | None
    median_ms: float
    mean_ms: float
    min_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    cpu_ms: float
    cpu_min_ms: float
    noise: tuple[str, ...]
    runs_ms: tuple[float, ...]

    @property
    def cell(self) -> tuple[str, int, str, int, str]:
        """What is compared with the same of another report."""
        return self.path, self.heads, self.runtime, self.threads, self.input

    @property
    def wrong(self) -> bool:
        """It computed something else than the model does."""
        exact = self.compute == "fp32" and self.bound is not None
        return not math.isfinite(self.max_abs_error) or (exact and self.max_abs_error > (self.bound or 0))


class Subnetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A head count and its size."""

    heads: int
    gmacs: float


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which model was timed; *gmacs* of its largest head count, listed or not."""

    name: str
    checkpoint_sha256: str
    resolution: int
    tokens: int
    gmacs: float
    subnetworks: tuple[Subnetwork, ...]

    def gmacs_at(self, heads: int) -> float:
        return next(each.gmacs for each in self.subnetworks if each.heads == heads)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was timed; *says* has the keys of a profile's ``[match]``, *cpu_flags* what Linux calls instructions."""

    says: dict[str, tuple[str, ...]]
    system: str
    architecture: str
    python: str
    cpu_flags: tuple[str, ...] = ()
    cores: int
    memory_mib: int | None
    load_average: float | None
    governor: str | None

    @property
    def name(self) -> str:
        """What it calls itself, and the instructions that its speed depends on."""
        own = next((values[0] for values in self.says.values() if values), f"{self.system} {self.architecture}")
        return f"{own} ({', '.join(self.cpu_flags)})" if self.cpu_flags else own


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime did not run."""

    path: str
    runtime: str
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement."""

    kind: Literal["hydra-export bench"] = KIND  # type: ignore[assignment]  # the same word
    schema_version: int = 1
    date: str
    model: ModelFacts
    machine: Machine
    runs: int
    timings: tuple[Timing, ...]
    failed: tuple[Failure, ...] = ()


def read(path: Path) -> Report:
    """The report in a file.

    Raises:
        BadInput: it is none; names the file and the field.
    """
    return decode(files.read(path, documents.JSON_BYTES, remedy="Pass the JSON that bench or a board wrote."), path)


def decode(content: bytes, path: Path) -> Report:
    """The report in *content*, which was read from *path*."""
    remedy = "Pass the JSON that bench or a board wrote, unchanged."
    try:
        report = documents.decode_json(content, Report)
    except msgspec.DecodeError as error:
        message, _, place = str(error).rpartition(" - at `$")
        said = f"{place.rstrip('`').lstrip('.')}: {message}" if message else str(error)
        raise BadInput(f"{path} is not a bench file: {said}.", remedy) from error
    for problem in _problems(report):
        raise BadInput(f"{path}: {problem}.", remedy)
    return report


def check_model(report: Report, ours: ModelEntry | ModelFacts, path: Path, place: Path) -> None:
    """Raises BadInput where the report in *path* is of another model than *ours*, which *place* is of."""
    theirs = report.model
    for field in ("checkpoint_sha256", "name"):
        given, expected = (getattr(model, field) for model in (theirs, ours))
        if given != expected:
            raise BadInput(
                f"{path}: model.{field}: this is another model, {theirs.name} ({given[:19]}), "
                f"than in {place}: {ours.name} ({expected[:19]}).",
                "Pass one of the same model.",
            )


def _problems(report: Report) -> Iterator[str]:
    if report.schema_version != 1:
        yield f"schema_version: {report.schema_version}; this release reads 1"
    if not is_date(report.date):
        yield f"date: '{report.date}' is not YYYY-MM-DD"
    for key in sorted(report.machine.says.keys() - _SAID):
        yield f"machine.says.{key[:80]}: no profile has that key"
    model = report.model
    sizes = [("gmacs", model.gmacs), ("resolution", model.resolution), ("tokens", model.tokens)]
    sizes += [(f"subnetworks[{at}].gmacs", each.gmacs) for at, each in enumerate(model.subnetworks)]
    for name, value in sizes:
        if not (math.isfinite(value) and value > 0):
            yield f"model.{name}: {value} is not a number above 0"
    listed = {each.heads for each in model.subnetworks}
    if not report.timings:
        yield "timings: the list is empty"
    for at, timing in enumerate(report.timings):
        for name in _TIMES:
            value = getattr(timing, name)
            if not (math.isfinite(value) and value > 0):
                yield f"timings[{at}].{name}: {value} is not a time above 0"
        if not timing.runs_ms or not all(math.isfinite(ms) and ms > 0 for ms in timing.runs_ms):
            yield f"timings[{at}].runs_ms: not all are times above 0"
        if timing.heads not in listed:
            yield f"timings[{at}].heads: {timing.heads} is not in model.subnetworks"
        if timing.batch < 1 or timing.threads < 1:
            yield f"timings[{at}]: batch and threads must be 1 or more"
        if not timing.p10_ms <= timing.median_ms <= timing.p90_ms:
            yield f"timings[{at}].median_ms: {timing.median_ms} is not between p10_ms and p90_ms"
