"""Device profiles and latency records: facts with their sources, times with theirs, as TOML."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

import msgspec

from hydra_export import documents, files, targets
from hydra_export.errors import BadInput
from hydra_export.target import ComputeUnit

UNVERIFIED = "unverified"
UNKNOWN = "unknown"
SCHEMA_FILE = "docs/device-profile.schema.json"

Provenance = Literal["measured", "published", "published_secondhand", "estimated", "unknown"]
DeviceClass = Literal[
    "phone", "tablet", "board", "accelerator", "laptop", "desktop", "vehicle", "devkit", "microcontroller"
]
NumberFormat = Literal["fp32", "fp16", "bf16", "float", "int8", "int8-static", "w8a16", "w8a8_mixed_int16", "unknown"]
Statistic = Literal["median", "mean", "min", "p90", "p99", "from_throughput", "unknown"]
Range = float | tuple[float, float]  # one number, or the smallest and largest of the variants sold
Id = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]

_CHOICES: dict[str, tuple[str, ...]] = {
    "unit": get_args(ComputeUnit),
    "class": get_args(DeviceClass),
    "precision": get_args(NumberFormat),
    "provenance": get_args(Provenance),
    "statistic": get_args(Statistic),
}
Value = TypeVar("Value")


class Fact(msgspec.Struct, Generic[Value], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fact. *source* is a key of the profile's ``[sources]``, or "unverified"."""

    value: Value
    source: str
    note: str = ""


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """CPU cores of one kind; *ghz* is their highest clock."""

    cores: int
    core: str
    ghz: float | None = None


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a device is recognised; each key lists the values that match, with "*" at the end for any continuation.

    Attributes:
        android_model: ``Build.MODEL`` (``ro.product.model``).
        android_soc_model: ``Build.SOC_MODEL`` (``ro.soc.model``), for a profile of all phones with a chip.
        ios_machine: ``hw.machine``.
        devicetree_model: the start of ``/proc/device-tree/model``.
        cpu_name: the processor's name in ``/proc/cpuinfo`` or ``machdep.cpu.brand_string``.
    """

    android_model: tuple[str, ...] = ()
    android_soc_model: tuple[str, ...] = ()
    ios_machine: tuple[str, ...] = ()
    devicetree_model: tuple[str, ...] = ()
    cpu_name: tuple[str, ...] = ()
    source: str = UNVERIFIED


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known about the hardware; every field is optional.

    Attributes:
        npu_generation: orders NPUs of one name, such as 69 for a Hexagon V69.
    """

    soc: Fact[str] | None = None
    cpu: Fact[tuple[Cluster, ...]] | None = None
    gpu: Fact[str] | None = None
    npu: Fact[str] | None = None
    npu_generation: Fact[float] | None = None
    npu_tops: Fact[Range] | None = None
    ram_gb: Fact[Range] | None = None
    memory_gb_per_s: Fact[Range] | None = None
    os: Fact[str] | None = None


class LatencyBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The latency that an application on this device can usually afford: hydra-export's choice, with its reason."""

    ms: float
    reason: str


class Ops(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Operations that ran on each compute unit, as the runtime reported."""

    npu: int = 0
    gpu: int = 0
    cpu: int = 0


class LatencyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One measured, published or estimated time.

    Attributes:
        model: its name in the source.
        k: head count, if the model has the shape of a subnetwork (DeiT-tiny, -small and -base are 3, 6 and 12).
        gmacs: of what ran; *model_gmacs*: of the full model that it was cut from (its largest head count).
        tokens: sequence length, if it is not that of a patch-16 ViT at *resolution*.
        device: its name in the source, if it is not this profile's name.
        ms: for one image. *low*, *high*: the spread that the source states.
        threads: CPU threads.
        peak_memory_mb: of the process; a range if the source states one.
        date: of the measurement, YYYY-MM-DD; "unknown" is allowed for published times.
        source: a key of the profile's ``[sources]``, or "unverified".
        anchors, formula: for an estimate: what it was computed from, and how.
        suspect: why the source's figure is listed, but not used.
    """

    model: str
    k: int | None = None
    gmacs: float
    model_gmacs: float
    resolution: int
    tokens: int | None = None
    device: str = ""
    runtime: str
    runtime_version: str = UNKNOWN
    precision: NumberFormat
    unit: ComputeUnit
    threads: int | None = None
    batch: int = 1
    ms: float
    low: float | None = None
    high: float | None = None
    statistic: Statistic = "unknown"
    peak_memory_mb: Range | None = None
    ops: Ops | None = None
    date: str
    provenance: Provenance
    source: str
    anchors: tuple[str, ...] = ()
    formula: str = ""
    note: str = ""
    suspect: str = ""


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known about one phone, board or accelerator.

    Attributes:
        family: devices whose compute units have the same maker; the accuracy of estimates is reported per family.
        stand_in: times were measured on a chip other than this one, which their source does not name.
        too_small: why no model of this kind runs on it; empty if some do.
        sources: short key -> citation.
    """

    schema_version: Literal[1] = 1
    id: Id
    name: str
    aliases: tuple[str, ...] = ()
    device_class: DeviceClass = msgspec.field(name="class")
    family: str = ""
    stand_in: bool = False
    too_small: str = ""
    match: Match = Match()
    facts: Facts = Facts()
    budget: LatencyBudget | None = None
    sources: dict[str, str] = {}
    latency: tuple[LatencyRecord, ...] = ()

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)


def read(path: Path) -> DeviceProfile:
    """The profile in a TOML file.

    Raises:
        BadInput: it cannot be read, or a field is wrong; names the file and the field.
    """
    content = files.read(path, documents.TOML_BYTES, f"Profile {path}", "Pass a TOML file.")
    return check(content, path)


def check(content: bytes, path: Path) -> DeviceProfile:
    """The profile in *content*, which is or will be in the file *path*.

    Raises:
        BadInput: *content* is no profile, or a field is wrong.
    """
    remedy = f"{SCHEMA_FILE} lists every field."
    try:
        return decode(content)
    except msgspec.DecodeError as error:
        problem = f"{_explained(error)}." if isinstance(error, msgspec.ValidationError) else f"it is not TOML: {error}."
        raise BadInput(f"Profile {path}: {problem}", remedy) from error


def decode(content: bytes) -> DeviceProfile:
    """The profile in the text of a TOML file; msgspec's errors where it is not one."""
    return documents.decode_toml(content, DeviceProfile)


def schema() -> bytes:
    """The JSON Schema of a profile, as docs/ holds it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(DeviceProfile)), indent=2) + b"\n"


def encode(profile: DeviceProfile) -> str:
    """TOML as a person would write it: facts one a line, then sources, then a table for each record."""
    fields = msgspec.to_builtins(profile)
    tables = {name: fields.pop(name, {}) for name in ("match", "facts", "budget", "sources")}
    records = fields.pop("latency", [])
    blocks = [_lines({"schema_version": 1, **fields})]
    blocks += [f"[{name}]\n{_lines(table)}" for name, table in tables.items() if table]
    blocks += [f"[[latency]]\n{_lines(record)}" for record in records]
    return "\n\n".join(blocks) + "\n"


def _lines(table: dict[str, Any]) -> str:
    return "\n".join(f"{_key(name)} = {_toml(value)}" for name, value in table.items())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case str():
            return '"' + "".join(_ESCAPES.get(letter, letter) for letter in value) + '"'
        case dict():
            return "{ " + ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items()) + " }"
        case _:
            return "[" + ", ".join(map(_toml, value)) + "]"


_ESCAPES = {chr(code): f"\\u{code:04x}" for code in (*range(32), 127)} | {'"': '\\"', "\\": "\\\\"}


def _explained(error: Exception) -> str:
    """msgspec's message with the field in front, and what may stand there."""
    message, _, place = str(error).rpartition(" - at `$")
    if not message:
        return str(error)
    field = place.rstrip("`").lstrip(".")
    choices = _CHOICES.get(field.rpartition(".")[2], ()) if message.startswith("Invalid enum value") else ()
    return f"{field}: {message}" + (f" (one of {', '.join(choices)})" if choices else "")


def _problems(profile: DeviceProfile) -> Iterator[str]:
    """What the types do not rule out."""
    if not profile.name.strip():
        yield "name: is empty"
    sources = {UNVERIFIED, *profile.sources}
    if UNVERIFIED in profile.sources:
        yield f"sources: '{UNVERIFIED}' is reserved for facts without a source"
    for name in Facts.__struct_fields__:
        fact = getattr(profile.facts, name)
        if fact is None:
            continue
        if fact.source not in sources:
            yield f"facts.{name}.source: [sources] does not list '{fact.source}'"
        yield from _bad_numbers(f"facts.{name}.value", fact.value)
    if profile.match.source not in sources:
        yield f"match.source: [sources] does not list '{profile.match.source}'"
    if profile.budget is not None:
        yield from _bad_numbers("budget.ms", profile.budget.ms)
        if not profile.budget.reason.strip():
            yield "budget.reason: is empty"
    for index, record in enumerate(profile.latency):
        for problem in _record_problems(record, sources):
            yield f"latency[{index}].{problem}"


def _record_problems(record: LatencyRecord, sources: set[str]) -> Iterator[str]:
    for name in ("gmacs", "model_gmacs", "resolution", "ms", "low", "high", "k", "tokens", "threads", "batch"):
        yield from _bad_numbers(name, getattr(record, name))
    if record.peak_memory_mb is not None and not all(x >= 0 and math.isfinite(x) for x in ends(record.peak_memory_mb)):
        yield f"peak_memory_mb: {record.peak_memory_mb} is not a size"
    if record.gmacs > record.model_gmacs * 1.001:
        yield f"gmacs: {record.gmacs} is more than the whole model's {record.model_gmacs}"
    if record.low is not None and record.low > record.ms:
        yield f"low: {record.low} is above ms, {record.ms}"
    if record.high is not None and record.high < record.ms:
        yield f"high: {record.high} is below ms, {record.ms}"
    if not record.model.strip():
        yield "model: is empty"
    if record.runtime not in targets.formats():
        yield f"runtime: there is no '{record.runtime}' ({_nearest(record.runtime)})"
    if record.source not in sources:
        yield f"source: [sources] does not list '{record.source}'"
    if record.date == UNKNOWN:
        if record.provenance == "measured":
            yield "date: a measurement needs its date, YYYY-MM-DD"
    elif not is_date(record.date):
        yield f"date: '{record.date}' is not YYYY-MM-DD"
    if record.provenance == "estimated" and not (record.anchors and record.formula):
        yield "anchors: an estimate needs anchors and a formula"


def _nearest(runtime: str) -> str:
    near = difflib.get_close_matches(runtime, targets.formats(), n=1)
    return f"did you mean '{near[0]}'?" if near else f"one of {', '.join(targets.formats())}"


def _bad_numbers(name: str, value: object) -> Iterator[str]:
    """Numbers here count or measure something: all are finite and above 0 (the TOPS of no NPU are 0)."""
    match value:
        case int() | float():
            if not (math.isfinite(value) and (value > 0 or (value == 0 and "npu_tops" in name))):
                yield f"{name}: {value} is not a number above 0"
        case Cluster():
            yield from _bad_numbers(f"{name}.cores", value.cores)
            yield from _bad_numbers(f"{name}.ghz", value.ghz)
        case tuple():
            for item in value:
                yield from _bad_numbers(name, item)
            if [type(item) for item in value] == [float, float] and value[0] > value[1]:
                yield f"{name}: {value[0]} to {value[1]} is not a range"


def ends(value: Range) -> tuple[float, float]:
    """The smallest and the largest of a range."""
    return value if isinstance(value, tuple) else (value, value)


def is_date(text: str) -> bool:
    """YYYY-MM-DD, of a day that there was."""
    try:
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text)) and bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False
