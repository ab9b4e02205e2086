"""Results that others' tools wrote: Qualcomm AI Hub's profile as JSON, and what benchmark_model prints."""

from __future__ import annotations

import datetime
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from hydra_export import documents, files, targets
from hydra_export.bench.report import Report, decode
from hydra_export.bench.save import time_fields
from hydra_export.board import KIND
from hydra_export.device import LatencyRecord, NumberFormat, Ops, Statistic, is_date
from hydra_export.errors import BadInput, UnknownName
from hydra_export.latency import Workload
from hydra_export.target import ComputeUnit

AI_HUB, BENCHMARK_MODEL = "own-ai-hub", "own-benchmark-model"
SOURCES = {
    AI_HUB: "Qualcomm AI Hub, a profile job of yours",
    BENCHMARK_MODEL: "benchmark_model, on the device",
}
# No expression here tries a letter twice: others wrote the text.
_TIMINGS = re.compile(r"Inference timings in us:(.*)|STARTING!")
_MEAN = re.compile(r"Inference \(avg\): *([^\s,]+)")
_GRAPH = re.compile(r"\bGraph: \[([^\[\]\n]+)\]")
_THREADS = re.compile(r"(?:Num threads: \[|#threads used for CPU inference: \[)(\d{1,4})\]")
_PEAK = re.compile(r"(?:periodic monitoring: |\boverall=)([^\s,]+)")
_PARTLY = re.compile(r"\bpartially executed by the delegate")
_DELEGATES: dict[str, ComputeUnit] = {
    r"\bUse gpu: \[1\]|Explicitly applied GPU delegate": "gpu",
    r"\bUse NNAPI: \[1\]|Explicitly applied (?:NNAPI|EXTERNAL|Hexagon) delegate": "npu",
    r"External delegate path: \[[^\[\]\n]+\]": "npu",
}
_MOST_RUNS = 200  # in one file
_LONGEST_NUMBER = 40  # letters
_Z_80 = 1.2816  # standard deviations on each side of 80 %


@dataclass(frozen=True)
class Measured:
    """One time, as the tool told it; *graph* is the file's name, empty where it does not say."""

    ms: float
    low: float | None
    high: float | None
    statistic: Statistic
    unit: ComputeUnit
    source: str
    graph: str = ""
    threads: int | None = None
    peak_memory_mb: float | None = None
    ops: Ops | None = None
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """What the user says of the results, as far as the file does not.

    Attributes:
        model: whose results they are; *named* how messages call it.
        graphs: of that model: file name -> head count and precision; empty where no bundle was given.
        date: YYYY-MM-DD; that of the file where it is empty.
    """

    model: Workload
    named: str
    graphs: Mapping[str, tuple[int, NumberFormat]]
    heads: int | None = None
    runtime: str = ""
    precision: NumberFormat | None = None
    date: str = ""


def read_results(path: Path, asked: Asked) -> Report | list[LatencyRecord]:
    """What is in *path*, whoever wrote it: a report of ours, or records.

    Raises:
        BadInput: it is none of the known forms, of another model, or does not say enough.
    """
    content = files.read(path, documents.JSON_BYTES, remedy="Give a file of results.")
    if content.lstrip()[:1] == b"{":
        try:
            document = documents.decode_json(content)
        except msgspec.DecodeError as error:
            raise BadInput(f"{path} is no JSON: {error}.", "Give it unchanged.") from error
        if document.get("kind") == KIND:
            return decode(content, path)
        measured = [_ai_hub(document, path)] if "execution_summary" in document else []
    else:
        runs = _benchmark_model(content.decode("utf-8", errors="replace"), path)
        measured = list(itertools.islice(runs, _MOST_RUNS + 1))
        if len(measured) > _MOST_RUNS:
            raise BadInput(f"{path} holds more than {_MOST_RUNS} runs.", "Give them in several files.")
    if not measured:
        raise BadInput(f"{path}: it holds no results that are known here.", _FORMS)
    return [_record(one, path, asked) for one in measured]


_FORMS = (
    "Give a board's bench.json or the JSON output of bench, the JSON of a Qualcomm AI Hub profile "
    "(download_profile), or all that benchmark_model printed."
)


# Qualcomm AI Hub: qai_hub's ProfileJob.download_profile(), times in us, memory in bytes


def _ai_hub(document: Mapping[str, Any], path: Path) -> Measured:
    summary = document["execution_summary"]
    if not isinstance(summary, dict):
        raise BadInput(f"{path}: execution_summary: it is no table.", _FORMS)
    counts: dict[ComputeUnit, int] = {"npu": 0, "gpu": 0, "cpu": 0}
    for at, layer in enumerate(_listed(document, "execution_detail", path)):
        said = layer.get("compute_unit") if isinstance(layer, dict) else None
        said = said.lower() if isinstance(said, str) else ""
        if said not in counts:
            raise BadInput(
                f"{path}: execution_detail[{at}].compute_unit: {said[:80]!r} is not NPU, GPU or CPU.", _FORMS
            )
        counts[said] += 1
    runs = _listed({**document, **summary}, "all_inference_times", path)
    peak = summary.get("estimated_inference_peak_memory")
    unit = next((one for one, count in counts.items() if count), None)
    if unit is None:
        raise BadInput(f"{path}: execution_detail: it does not say on which compute unit it ran.", _FORMS)
    field = "execution_summary.estimated_inference"
    low = high = None
    if runs:
        times = [_positive(us, f"all_inference_times[{at}]", path) / 1e3 for at, us in enumerate(runs)]
        low, ms, high = (float(np.percentile(times, share)) for share in (10, 50, 90))
    else:
        ms = _positive(summary.get("estimated_inference_time"), f"{field}_time", path) / 1e3
    return Measured(
        ms=ms,
        low=low,
        high=high,
        statistic="median" if runs else "unknown",
        unit=unit,
        source=AI_HUB,
        peak_memory_mb=_positive(peak, f"{field}_peak_memory", path) / 1e6 if peak else None,
        ops=Ops(**counts),
    )


def _listed(document: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    value = document.get(name) or []
    if not isinstance(value, list):
        raise BadInput(f"{path}: {name}: it is no list.", _FORMS)
    return value


def _positive(value: object, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadInput(f"{path}: {name}: {str(value)[:80]} is not a number above 0.", "Give the file unchanged.")
    return float(value)


# benchmark_model: tensorflow/lite/tools/benchmark, times in us, one or several runs in one file


def _benchmark_model(text: str, path: Path) -> Iterator[Measured]:
    begins, runs = 0, 0
    marks = [*_TIMINGS.finditer(text), None]
    for timings, after in itertools.pairwise(marks):
        if timings is not None and timings[1] is not None:
            runs += 1
            yield _run(text[begins : after.start() if after else len(text)], timings, f"run {runs}", path)
            begins = timings.end()


def _run(text: str, timings: re.Match[str], which: str, path: Path) -> Measured:
    mean = _MEAN.search(timings[1])
    ms = _positive(_number(mean[1]) if mean else None, f"{which}: Inference (avg)", path) / 1e3
    low = high = None
    statistic: Statistic = "mean"
    counted = _counted(text)
    if middle := counted.get("median"):
        ms, statistic = _positive(_number(middle), f"{which}: median", path) / 1e3, "median"
    if (deviation := counted.get("std")) and _number(deviation) != 0:
        spread = _Z_80 * _positive(_number(deviation), f"{which}: std", path) / 1e3
        low, high = max(ms - spread, ms / 10), ms + spread
    threads, graph, peaks = _THREADS.search(text), _GRAPH.search(text), _PEAK.findall(text)
    peak = _number(peaks[-1]) if peaks else 0.0
    if isinstance(peak, str) or not math.isfinite(peak):
        raise BadInput(f"{path}: {which}: memory footprint: {peak} is not a number.", "Give the file unchanged.")
    unit: ComputeUnit = next((unit for said, unit in _DELEGATES.items() if re.search(said, text)), "cpu")
    return Measured(
        ms=ms,
        low=low,
        high=high,
        statistic=statistic,
        unit=unit,
        source=BENCHMARK_MODEL,
        graph=PurePosixPath(graph[1]).name if graph else "",
        threads=int(threads[1]) if threads and unit == "cpu" else None,
        peak_memory_mb=peak if peak > 0 else None,  # a difference, or -1 where it was not watched
        note="part of it ran on the CPU" if _PARTLY.search(text) else "",
    )


def _counted(text: str) -> dict[str, str]:
    """The last line of ``count=50 first=... avg=... std=...``, empty where there is none."""
    for line in reversed(text.split("\n")):
        if "count=" in line and "std=" in line:
            fields = {name: value for name, sign, value in (word.partition("=") for word in line.split()) if sign}
            if fields.get("count", "").isdecimal() and {"avg", "std"} <= fields.keys():
                return fields
    return {}


def _number(text: str) -> float | str:
    """What *text* says, or the text itself where that is no number."""
    try:
        return float(text) if len(text) < _LONGEST_NUMBER else text
    except ValueError:
        return text


# Records


def _record(measured: Measured, path: Path, asked: Asked) -> LatencyRecord:
    model = asked.model
    heads, precision = _which(measured, path, asked)
    runtime, known = asked.runtime, targets.device_runtimes()
    if measured.source == BENCHMARK_MODEL:
        (timed,) = (name for name, each in known.items() if each.benchmark_model)
        if runtime not in ("", timed):
            raise BadInput(f"{path} is of benchmark_model, which runs {timed}, not {runtime}.", "Leave out `runtime`.")
        runtime = timed
    if not runtime:
        names = [name for name, each in known.items() if each.reads_results]
        remedy = f"Say it: `runtime={names[0]}`, {', '.join(names[1:-1])} or {names[-1]}."
        raise BadInput(f"{path} does not say which runtime ran it.", remedy)
    if runtime not in known:
        raise UnknownName("runtime", runtime, known)
    return LatencyRecord(
        model=model.name,
        k=heads,
        gmacs=model.gmacs[heads],
        model_gmacs=model.full,
        resolution=model.resolution,
        tokens=model.tokens,
        runtime=runtime,
        precision=asked.precision or precision,
        unit=measured.unit,
        threads=measured.threads,
        **time_fields(measured.ms, measured.low, measured.high),
        statistic=measured.statistic,
        peak_memory_mb=None if measured.peak_memory_mb is None else round(measured.peak_memory_mb, 1),
        ops=measured.ops,
        date=_date(path, asked),
        provenance="measured",
        source=measured.source,
        note=measured.note,
    )


def _which(measured: Measured, path: Path, asked: Asked) -> tuple[int, NumberFormat]:
    """Head count and precision, by the graph's name or as the user says."""
    told = asked.graphs.get(measured.graph)
    named = re.fullmatch(rf"{re.escape(asked.model.name)}-k(\d{{1,4}})\b.*", measured.graph)
    if told is None and named is not None and not asked.graphs:
        told = int(named[1]), "int8" if "int8" in measured.graph else "fp32"
    if told is None and asked.heads is None:
        if not measured.graph:
            raise BadInput(f"{path} does not say which head count it is of.", "Say it: `heads=K`.")
        raise BadInput(
            f"{path}: Graph: '{measured.graph}' is of another model than {asked.named}"
            + (f", which has {', '.join(asked.graphs)}." if asked.graphs else "."),
            "Give the `bundle` of the model that it was, or `heads=K` where the file only has another name.",
        )
    heads = told[0] if told else asked.heads
    assert heads is not None
    if asked.heads not in (None, heads):
        raise BadInput(f"{path}: Graph: '{measured.graph}' is of k = {heads}, and `heads` says {asked.heads}.")
    if heads not in asked.model.gmacs:
        raise BadInput(f"{asked.named} has no k = {heads}.", f"It has {', '.join(map(str, asked.model.gmacs))}.")
    return heads, told[1] if told else "float"


def _date(path: Path, asked: Asked) -> str:
    if not asked.date:
        return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).astimezone().date().isoformat()
    if not is_date(asked.date):
        raise BadInput(f"`date` {asked.date} is not a date.", "Give YYYY-MM-DD.")
    return asked.date
