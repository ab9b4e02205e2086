"""Results that others' tools wrote: Qualcomm AI Hub's profile, and what the targets read of their devices' tools."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hydra_export import documents, files, targets
from hydra_export.bench import browser
from hydra_export.bench.browser import BrowserRecord
from hydra_export.bench.report import Report, decode
from hydra_export.bench.save import time_fields
from hydra_export.board import KIND
from hydra_export.device import LatencyRecord, NumberFormat, Ops, is_date
from hydra_export.errors import BadInput, UnknownName
from hydra_export.latency import Workload
from hydra_export.printed import Measured, positive
from hydra_export.target import ComputeUnit

AI_HUB = "ai-hub"
_MOST_RUNS = 200  # in one file
_NARROW: tuple[NumberFormat, ...] = ("int8-static", "w8a16", "int8")  # by the names of files, the longest first


def sources() -> dict[str, str]:
    """What the sources of records are called that are made of these results, and what they are."""
    own = {_source(tool): f"{tool}, on the device" for tool in _tools()}
    return {_source(AI_HUB): "Qualcomm AI Hub, a profile job of yours", **own}


def _source(tool: str) -> str:
    return "own-" + "-".join(re.findall(r"[a-z0-9]+", tool.lower().replace("'s", "")))


def _tools() -> list[str]:
    return [tool for each in targets.device_runtimes().values() for tool in each.timed_by]


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


def read_results(path: Path, asked: Asked) -> Report | BrowserRecord | list[LatencyRecord]:
    """What is in *path*, whoever wrote it: a report of ours, what a browser measured, or records.

    Raises:
        BadInput: it is none of the known forms, of another model, or does not say enough.
    """
    content = files.read(path, documents.JSON_BYTES, remedy="Pass a file of results.")
    document = _decoded(content, path)
    if isinstance(document, dict) and document.get("kind") == KIND:
        return decode(content, path)
    if isinstance(document, dict) and document.get("kind") == browser.KIND:
        return browser.decode(content, str(path))
    if isinstance(document, dict) and "execution_summary" in document:
        measured = [_ai_hub(document, path)]
    else:
        text = content.decode("utf-8", errors="replace")
        every = [targets.get(name) for name in targets.names()]
        read = (t.printed(text, path) if document is None else t.reported(document, path) for t in every)
        measured = list(itertools.islice(itertools.chain.from_iterable(read), _MOST_RUNS + 1))
        if len(measured) > _MOST_RUNS:
            raise BadInput(f"{path} contains more than {_MOST_RUNS} runs.", "Pass them in several files.")
    if not measured:
        told = f"{_FORMS}, or all that one of these printed or wrote as JSON: {', '.join(_tools())}."
        raise BadInput(f"{path}: it contains no known results.", told)
    return [_record(one, path, asked) for one in measured]


def _decoded(content: bytes, path: Path) -> Any:
    """The JSON document that *content* is; None where it is text, which may begin with a bracket, too."""
    if (first := content.lstrip()[:1]) not in (b"{", b"["):
        return None
    try:
        return documents.decode_json(content)
    except msgspec.DecodeError as error:
        if first == b"[" and not content.lstrip()[1:].lstrip().startswith((b"{", b"]")):
            return None
        raise BadInput(f"{path} is not JSON: {error}.", "Pass it unchanged.") from error


_FORMS = (
    "Pass a board's bench.json or the JSON output of bench, the JSON of a Qualcomm AI Hub profile (download_profile)"
)


# Qualcomm AI Hub: qai_hub's ProfileJob.download_profile(), times in us, memory in bytes


def _ai_hub(document: Mapping[str, Any], path: Path) -> Measured:
    summary = document["execution_summary"]
    if not isinstance(summary, dict):
        raise BadInput(f"{path}: execution_summary: is not a table.", f"{_FORMS}.")
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
        raise BadInput(f"{path}: execution_detail: does not state which compute unit it ran on.", f"{_FORMS}.")
    field = "execution_summary.estimated_inference"
    low = high = None
    if runs:
        times = [positive(us, f"all_inference_times[{at}]", path) / 1e3 for at, us in enumerate(runs)]
        low, ms, high = (float(np.percentile(times, share)) for share in (10, 50, 90))
    else:
        ms = positive(summary.get("estimated_inference_time"), f"{field}_time", path) / 1e3
    return Measured(
        tool=AI_HUB,
        ms=ms,
        low=low,
        high=high,
        statistic="median" if runs else "unknown",
        unit=unit,
        peak_memory_mb=positive(peak, f"{field}_peak_memory", path) / 1e6 if peak else None,
        ops=Ops(**counts),
    )


def _listed(document: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    value = document.get(name) or []
    if not isinstance(value, list):
        raise BadInput(f"{path}: {name}: is not a list.", f"{_FORMS}.")
    return value


# Records


def _record(measured: Measured, path: Path, asked: Asked) -> LatencyRecord:
    model = asked.model
    heads, precision = _which(measured, path, asked)
    runtime, known = asked.runtime, targets.device_runtimes()
    if timed := next((name for name, each in known.items() if measured.tool in each.timed_by), ""):
        if runtime not in ("", timed):
            raise BadInput(
                f"{path} is from {measured.tool}, which runs {timed}, not {runtime}.", "Leave out `runtime`."
            )
        runtime = timed
    if not runtime:
        names = [name for name, each in known.items() if each.reads_results]
        remedy = f"Pass `runtime={names[0]}`, {', '.join(names[1:-1])} or {names[-1]}."
        raise BadInput(f"{path} does not state the runtime.", remedy)
    if runtime not in known:
        raise UnknownName("runtime", runtime, known)
    if known[runtime].browser:
        raise BadInput(f"{path} is not a browser measurement.", f"Pass another `runtime` than {runtime}.")
    return LatencyRecord(
        model=model.name,
        k=heads,
        gmacs=model.gmacs[heads],
        model_gmacs=model.full,
        resolution=model.resolution,
        tokens=model.tokens,
        runtime=runtime,
        precision=asked.precision or measured.precision or precision,
        unit=measured.unit,
        threads=measured.threads,
        **time_fields(measured.ms, measured.low, measured.high),
        statistic=measured.statistic,
        peak_memory_mb=None if measured.peak_memory_mb is None else round(measured.peak_memory_mb, 1),
        ops=measured.ops,
        date=_date(path, asked),
        provenance="measured",
        source=_source(measured.tool),
        note=measured.note,
    )


def _which(measured: Measured, path: Path, asked: Asked) -> tuple[int, NumberFormat]:
    """Head count and precision, by the graph's name, whatever a converter put behind it, or as the user says."""
    stem = measured.graph.partition(".")[0]
    told = next((each for name, each in asked.graphs.items() if stem and name.partition(".")[0] == stem), None)
    named = re.fullmatch(rf"{re.escape(asked.model.name)}-k(\d{{1,4}})\b.*", measured.graph)
    if told is None and named is not None and not asked.graphs:
        told = int(named[1]), next((each for each in _NARROW if each in measured.graph), "fp32")
    if told is None and asked.heads is None:
        if not measured.graph:
            raise BadInput(f"{path} does not state the head count.", "Pass `heads=K`.")
        raise BadInput(
            f"{path}: Graph: '{measured.graph}' is of another model than {asked.named}"
            + (f", which has {', '.join(asked.graphs)}." if asked.graphs else "."),
            "Pass the `bundle` of that model, or `heads=K` if only the file name differs.",
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
        raise BadInput(f"`date` {asked.date} is not a date.", "Use YYYY-MM-DD.")
    return asked.date
