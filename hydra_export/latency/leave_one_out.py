"""How good are the estimates? Each published time is left out, predicted from the rest and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra_export import profiles
from hydra_export.errors import BadInput
from hydra_export.latency.estimate import by_size, estimates, mean_ms, soc_name
from hydra_export.latency.evidence import FLOAT, INT8, REFERENCE, Evidence, ExecutionPath
from hydra_export.latency.spread import Spread

FAMILIES = ("Hailo", "Axera", "Qualcomm", "Jetson", "Raspberry Pi")
DOCUMENT = "docs/latency-model.md"


@dataclass(frozen=True)
class Case:
    """One time, left out and predicted from the rest; *predicted* is None where the rest says nothing."""

    family: str
    soc: str
    device: str
    path: ExecutionPath
    k: int
    ms: float
    predicted: Spread | None

    @property
    def error(self) -> float:
        """|log(predicted / actual)|."""
        assert self.predicted is not None
        return abs(math.log(self.predicted.ms / self.ms))

    @property
    def covered(self) -> bool:
        assert self.predicted is not None
        return self.predicted.low <= self.ms <= self.predicted.high


@dataclass(frozen=True)
class Row:
    """Cases summed up, one vote per SoC. *error* and *width* are medians of ratios, *coverage* a share."""

    family: str
    num_socs: int
    num_cases: int
    num_silent: int
    error: float
    coverage: float
    width: float


def cases(evidence: Evidence, *, whole_device: bool) -> list[Case]:
    """Every time of a subnetwork's shape in float or int8, predicted without it.

    Args:
        whole_device: without anything of that device and of others with the same SoC.
    """
    left_out = []
    for device, profile in evidence.profiles.items():
        if profile.stand_in:
            continue
        soc = soc_name(evidence, device)
        for path in evidence.paths(device):
            if path.arithmetic not in (FLOAT, INT8):
                continue
            for gmacs, records in by_size(evidence.records(device, path, REFERENCE)).items():
                k = records[0].k
                if k is None or not math.isclose(gmacs, REFERENCE.gmacs[k], rel_tol=0.02):
                    continue
                rest = _without_soc(evidence, soc) if whole_device else evidence.without(device, path, k)
                estimate = estimates(rest, device, path, REFERENCE).get(k)
                spread = estimate.spread if estimate else None
                left_out.append(Case(profile.family, soc, device, path, k, mean_ms(records), spread))
    return left_out


def _without_soc(evidence: Evidence, soc: str) -> Evidence:
    for device in evidence.profiles:
        if soc_name(evidence, device) == soc:
            evidence = evidence.without(device)
    return evidence


def rows(cases: Sequence[Case]) -> list[Row]:
    """A row per family, the named ones first, and one over all."""
    families = dict.fromkeys([*FAMILIES, *sorted({case.family for case in cases})])
    grouped = [(family, [case for case in cases if case.family == family]) for family in families]
    return [_row(family, group) for family, group in [*grouped, ("all", list(cases))] if group]


def _row(family: str, group: list[Case]) -> Row:
    predicted = [case for case in group if case.predicted]
    votes = [1 / sum(other.soc == case.soc for other in predicted) for case in predicted]
    return Row(
        family=family,
        num_socs=len({case.soc for case in predicted}),
        num_cases=len(predicted),
        num_silent=len(group) - len(predicted),
        error=math.exp(_median([case.error for case in predicted], votes)),
        coverage=sum(vote for case, vote in zip(predicted, votes, strict=True) if case.covered) / sum(votes, 1e-9),
        width=math.exp(_median([math.log(case.predicted.width) for case in predicted if case.predicted], votes)),
    )


def _median(values: list[float], votes: list[float]) -> float:
    """The value that half of the votes do not exceed."""
    reached = 0.0
    for value, vote in sorted(zip(values, votes, strict=True)):
        reached += vote
        if reached >= sum(votes) / 2 - 1e-9:
            return value
    return math.nan


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [
        "| family | SoCs | times | no number | median error | within the interval | median high / low |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.family} | {row.num_socs} | {row.num_cases} | {row.num_silent or '-'} | "
        + (f"x/÷ {row.error:.2f} | {row.coverage:.0%} | {row.width:.1f} |" if row.num_cases else "- | - | - |")
        for row in rows
    ]
    return "\n".join(lines)


def write() -> None:
    """Writes the document in the repository that this is run from.

    Raises:
        BadInput: it is run from elsewhere.
    """
    path = Path(DOCUMENT)
    if not path.parent.is_dir():
        raise BadInput(f"There is no folder {path.parent} here.", f"Run it in the repository; it writes {path}.")
    path.write_text(document(), encoding="utf-8")


def document() -> str:
    """docs/latency-model.md."""
    evidence = Evidence(profiles.packaged())
    near = rows(cases(evidence, whole_device=False))
    far = rows(cases(evidence, whole_device=True))
    return _TEXT.format(near=table(near), far=table(far))


_TEXT = """\
# How good are the latency estimates?

`hydra-export profile` gives a time with a low and a high, meant to hold it in 80 % of the cases. Here every published
time of a model with the shape of a subnetwork (DeiT-tiny, -small, -base: k = 3, 6, 12) is left out, predicted from the
rest and compared. Each SoC has one vote, however many of its times are known: error and width are medians over the
votes. Stand-ins, whose chip is not the one that they are named for, neither vote nor predict others.

## One time left out

What is known of other sizes on the device, of other runtimes and precisions there, and of other devices, predicts it.

{near}

## Everything of the device left out

Nothing is known of the device, nor of another with its SoC: other devices of the same cores or family predict it. This
is the case of a phone that nobody has timed. Where there is none like it, no number is given.

{far}

An error of x/÷ 1.30 means that half of the predictions are at most 1.30 times too high or too low.

## From three head counts of a device to the others

`python benchmarks/latency_model.py`: onnxruntime on one thread of an x86 server, ViT-B/16-224. One process timed k = 3,
6 and 12, a later one all; after one common factor from k = 6, the estimates were off by

| k | 1 | 2 | 4 | 5 | 7 | 8 | 9 | 10 | 11 |
|---|---|---|---|---|---|---|---|---|---|
| least CPU time of 40 calls | 55 % | 3.9 % | -0.1 % | -0.2 % | -0.1 % | 0.1 % | 0.3 % | 1.4 % | 1.5 % |
| median on the clock | 57 % | 4.7 % | 1.0 % | 3.0 % | -0.5 % | 0.4 % | -0.2 % | 0.8 % | 2.4 % |

For k = 4 to 11 that is 0.5 % on average and 1.5 % at most by CPU time, 1.2 % and 3.0 % by the clock, on a machine with
little else to do; while other programs wanted the cores, 1.6 % and 2.4 % by CPU time, and by the clock 11 % and 26 %.
Below the smallest that was timed, k = 1 and 2, it is a guess.

## What the model does

- **Sizes.** A time is affine in GMACs. Through two or more sizes it is interpolated; from one, an overhead share of the
  whole model's time is assumed: 0.25 (0.03 to 0.45) on NPUs and GPUs, 0.01 (0 to 0.05) on CPUs. No estimate is above
  that of the whole model.
- **Ways.** From another runtime or precision on the device, by the ratio of the two on at least two other devices of
  its family; on CPUs alone also from another runtime taken for as fast.
- **Devices.** Last, from CPUs of the same cores by their clocks, from the same NPU or NPUs and GPUs of the same family,
  and for a phone's CPU from all phones.
- **Widths.** Each step adds its error; those of ratios and relatives follow from how much they scatter and how few they
  are. The other constants were chosen by looking at these very tables, so expect somewhat less than they show.
- **Only what it is like.** Times of a model speak for models of 0.5 to 2 times its GMACs (whole model against whole
  model) at the same resolution. One exception: where nothing of a subnetwork's shape was timed, another architecture
  whose sequence is 0.5 to 2 times as long speaks at another resolution, too, with a wider interval. The Pixel 7 and
  ONNX Runtime on the Raspberry Pi 5 rest on ViT-B/32 at 384 px; the output says so. Others get no number: measure
  them.

## A measurement of your own

`hydra-export bench --save` and `hydra-export profile --import` keep it: [devices.md](devices.md). It outranks all of
this on that device. You may write it yourself, too: a file of yours among the profiles, on Linux in
`~/.config/hydra-export/profiles` (`--profiles DIR` names another place), with the id of a device that is known or of a
new one; [device-profile.schema.json](device-profile.schema.json) lists every field.

```toml
schema_version = 1
id = "rpi5"
name = "Raspberry Pi 5"
class = "board"

[sources]
bench = "hydra-export bench, active cooling"

[[latency]]
model = "hydravit_base_patch16_224"
k = 6
gmacs = 4.6
model_gmacs = 17.56
resolution = 224
runtime = "onnxruntime"
runtime_version = "1.23.0"
precision = "fp32"
unit = "cpu"
threads = 4
ms = 187
low = 184
high = 195
statistic = "median"
date = "2026-02-03"
provenance = "measured"
source = "bench"
```

Made by `python -m hydra_export.latency`.
"""
