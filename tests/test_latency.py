"""The latency model: what a time says of other sizes, ways and devices, how sure that is, and which k to choose."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import device, latency, profiles
from hydra_export.architecture import HydraConfig
from hydra_export.device import Cluster, DeviceProfile, Fact, Facts, LatencyBudget, LatencyRecord
from hydra_export.errors import BadInput, UnknownName
from hydra_export.latency import (
    REFERENCE,
    Estimate,
    Evidence,
    ExecutionPath,
    HeadChoice,
    Workload,
    words,
)
from hydra_export.latency.chips import accelerator
from hydra_export.latency.choice import Verdict, verdict
from hydra_export.latency.cores import usual_threads
from hydra_export.latency.execution_paths import known_paths
from hydra_export.latency.spread import Spread
from hydra_export.profiles import ResolvedProfile
from tests import leave_one_out

ROOT = Path(__file__).parents[1]
NPU, CPU = ExecutionPath("litert", "float", "npu"), ExecutionPath("onnxruntime", "float", "cpu")
GMACS = {3: 1.25, 6: 4.60, 12: 17.56}


def record(k: int | None, ms: float, **fields: Any) -> LatencyRecord:
    gmacs = GMACS[k] if k else 17.56
    given: dict[str, Any] = {"gmacs": gmacs, "model_gmacs": 17.56, "resolution": 224, "runtime": "litert"}
    given |= {"precision": "fp16", "unit": "npu", "date": "2026-01-01", "provenance": "published", "source": "s"}
    return LatencyRecord(model="vit", k=k, ms=ms, **(given | fields))


def profile(name: str, *records: LatencyRecord, **fields: Any) -> DeviceProfile:
    given: dict[str, Any] = {"name": name, "device_class": "board", "family": "F", "sources": {"s": "somewhere"}}
    return DeviceProfile(id=name, latency=records, **(given | fields))


def evidence(*listed: DeviceProfile, own: dict[str, tuple[LatencyRecord, ...]] | None = None) -> Evidence:
    return Evidence({one.id: ResolvedProfile(one, (own or {}).get(one.id, ())) for one in listed})


def estimated(
    known: Evidence, name: str = "d", path: ExecutionPath = NPU, model: Workload = REFERENCE
) -> dict[int, Estimate]:
    return latency.estimates(known, name, path, model)


def chosen_path(known: Evidence, name: str, **constraints: Any) -> ExecutionPath:
    resolved = ResolvedProfile(known.profiles[name])
    return latency.advise(known, resolved, REFERENCE, latency.Constraints(**constraints)).path


@pytest.fixture(scope="module")
def ours() -> Evidence:
    return Evidence(profiles.packaged())


# Sizes


def test_one_time_gives_the_others_with_an_overhead_share_that_is_not_known() -> None:
    found = estimated(evidence(profile("d", record(12, 40.0))))
    ratio = REFERENCE.gmacs[3] / REFERENCE.gmacs[12]
    assert 40 * (0.03 + 0.97 * ratio) < found[3].ms < 40 * (0.45 + 0.55 * ratio), "NPUs showed 0.03 to 0.45"
    assert found[3].low < 40 * (0.1 + 0.9 * ratio)
    assert found[3].high > 40 * (0.4 + 0.6 * ratio)
    assert (found[3].provenance, found[12].provenance) == ("estimated", "published")
    assert found[12].ms == 40
    cpu = estimated(evidence(profile("d", record(12, 800.0, runtime="onnxruntime", unit="cpu"))), path=CPU)
    assert cpu[3].ms == pytest.approx(800 * 1.25 / 17.56, rel=0.2), "nearly in proportion"
    assert cpu[6].ms == pytest.approx(800 * 4.60 / 17.56, rel=0.1)
    assert cpu[6].spread.width < found[6].spread.width


def test_between_sizes_the_time_is_between_theirs_and_surest_near_them() -> None:
    found = estimated(evidence(profile("d", record(3, 8.0), record(6, 10.0), record(12, 30.0))))
    assert [found[k].ms for k in (3, 6, 12)] == [8, 10, 30]
    assert 8 < found[4].ms < 10
    assert 10 < found[8].ms < 30
    assert found[8].spread.width >= found[11].spread.width
    assert "at least the 10 ms of the smaller vit here; at most the 30 ms of the larger vit here" in found[8].formula


def test_a_time_never_falls_with_the_size_of_the_network(ours: Evidence) -> None:
    checked = 0
    for name in ours.profiles:
        for option in known_paths(ours, name, REFERENCE):
            ordered = [option.estimates[k] for k in sorted(option.estimates)]
            for smaller, larger in itertools.pairwise(ordered):
                assert 0 < smaller.low <= smaller.ms <= smaller.high < math.inf
                if "estimated" in (smaller.provenance, larger.provenance):
                    checked += 1
                    assert smaller.ms <= larger.ms * (1 + 1e-9), (name, option.path, smaller.k)
                if smaller.provenance == larger.provenance == "estimated":
                    assert smaller.high <= larger.high * (1 + 1e-9)
                    assert smaller.low <= larger.low * (1 + 1e-9)
    assert checked > 1000
    # Noise in what was published: k = 3 and 6 slower than k = 12.
    noisy = estimated(evidence(profile("d", record(3, 33.0), record(6, 35.0), record(12, 30.0))))
    assert noisy[4].ms <= 33
    assert noisy[3].ms == 33, "what was timed stays as it was timed"


def _vit(heads: int, **fields: Any) -> Workload:
    return Workload.of("m", HydraConfig(heads=heads, **fields), [heads], {})


# DeiT-tiny, ViT-S/16, ViT-S/16 at 384 px, ViT-B/16, ViT-L/16, a 96-pixel ViT of 0.05 GMACs.
VITS = {
    "96 px": _vit(4, head_dim=32, depth=6, image_size=96),
    "T": _vit(3),
    "S": _vit(6),
    "S at 384": _vit(6, image_size=384),
    "B": _vit(12),
    "L": _vit(16, depth=24),
}
COMMON: tuple[str, ...] = (
    "pixel7",
    "pixel8",
    "iphone-15",
    "galaxy-s22",
    "galaxy-s23",
    "galaxy-s24",
    "rpi4",
    "rpi5",
    "rk3588",
)
COMMON += ("jetson-orin-nano", "jetson-agx-orin", "macbook-m3", "redmi-note-10-5g")


@pytest.mark.parametrize("name", COMMON)
def test_any_vision_transformer_gets_a_number_the_larger_the_slower(ours: Evidence, name: str) -> None:
    for path in [option.path for option in known_paths(ours, name, REFERENCE)]:
        wholes = {vit: estimated(ours, name, path, model)[max(model.gmacs)] for vit, model in VITS.items()}
        for smaller, larger in (("96 px", "T"), ("T", "S"), ("S", "B"), ("S", "S at 384"), ("B", "L")):
            assert wholes[smaller].ms <= wholes[larger].ms * 1.02, (name, path, smaller, larger)
        assert wholes["L"].spread.width > wholes["B"].spread.width


def test_equal_shapes_take_equally_long_whichever_model_they_were_cut_from(ours: Evidence) -> None:
    for name in COMMON:
        for option in known_paths(ours, name, REFERENCE):
            for vit, k in (("T", 3), ("S", 6), ("B", 12)):
                alone = estimated(ours, name, option.path, VITS[vit])[k]
                assert (alone.spread, alone.provenance) == (option.estimates[k].spread, option.estimates[k].provenance)


def test_a_network_far_below_those_timed_surely_fits_where_they_do(ours: Evidence) -> None:
    advice = latency.advise(ours, profiles.get("galaxy-s24"), VITS["96 px"], latency.Constraints(budget_ms=33))
    assert advice.choice is not None
    assert (advice.heads, advice.choice.sure) == (4, True)
    assert "at most the 5.88 ms of the larger vit here" in advice.formula
    far, near = (estimated(ours, "galaxy-s24", model=VITS[vit])[max(VITS[vit].gmacs)] for vit in ("96 px", "S"))
    assert far.spread.width > near.spread.width


# Which records speak


def test_another_architecture_speaks_less_surely_than_one_of_the_shape() -> None:
    alone = estimated(evidence(profile("d", record(None, 60.0))))
    same = estimated(evidence(profile("d", record(12, 60.0))))
    assert alone[12].ms == pytest.approx(60, rel=0.1)
    assert (alone[12].provenance, same[12].provenance) == ("estimated", "published")
    assert alone[12].spread.width > same[12].spread.width
    other_size = estimated(evidence(profile("d", record(None, 60.0, resolution=384, tokens=577))))
    assert other_size[12].spread.width > alone[12].spread.width


def test_suspect_batched_and_estimated_records_are_used_for_nothing() -> None:
    unusable: list[dict[str, Any]] = [{"suspect": "slower than its elder"}, {"batch": 8}]
    unusable += [{"provenance": "estimated", "anchors": ("x",), "formula": "y"}, {"provenance": "unknown"}]
    for fields in unusable:
        assert not estimated(evidence(profile("d", record(12, 30.0, **fields)))), fields


def test_the_newest_of_a_way_counts() -> None:
    old, new = record(12, 135.8, date="2024-02-22"), record(12, 12.5, date="2025-09-16")
    assert estimated(evidence(profile("d", old, new)))[12].ms == pytest.approx(12.5)
    assert estimated(evidence(profile("d", new, old)))[12].ms == pytest.approx(12.5)


def test_of_cpu_times_the_fastest_number_of_threads_counts() -> None:
    slow, fast = (record(12, ms, unit="cpu", runtime="onnxruntime", threads=n) for ms, n in ((900.0, 1), (300.0, 4)))
    assert estimated(evidence(profile("d", slow, fast)), path=CPU)[12].ms == 300


def test_one_thread_is_not_taken_for_the_whole_cpu_here_or_elsewhere(ours: Evidence) -> None:
    # A MacBook M3 took 1029 ms for 13.04 GMACs on one thread with ncnn.
    whole = estimated(ours, "macbook-m3", ExecutionPath("ncnn", "float", "cpu"))[12]
    assert whole.ms < 1029 * 17.56 / 13.04 / 2
    cores = _cpu((4, "A76", 2.0))
    one = record(12, 1000.0, unit="cpu", runtime="onnxruntime", threads=1)
    known = evidence(profile("t", one, facts=cores), profile("d", facts=cores))
    assert estimated(known, path=CPU)[12].ms == pytest.approx(1000 / 4**0.85, rel=0.1)


def test_a_measurement_of_the_users_outranks_everything() -> None:
    published = [record(3, 8.0), record(6, 10.0), record(12, 30.0, date="2026-05-01")]
    mine = record(6, 20.0, provenance="measured", low=19.0, high=23.0)
    device_of_mine = profile("d", *published, mine)
    found = estimated(evidence(device_of_mine, profile("e", record(12, 3.0)), own={"d": (mine,)}))
    assert (found[6].ms, found[6].provenance) == (20, "measured")
    assert found[6].low == pytest.approx(19, rel=1e-3)
    assert found[6].high == pytest.approx(23, rel=1e-3)
    assert found[12].ms > 40, "the published 30 ms is of no account"
    theirs = estimated(evidence(device_of_mine))
    assert theirs[6].spread.width > found[6].spread.width


def test_a_measurement_of_another_way_does_not_displace_a_time_of_this_one() -> None:
    theirs, mine = record(12, 5.9), record(12, 7.67, runtime="qnn", provenance="measured")
    found = estimated(evidence(profile("d", theirs, mine), own={"d": (mine,)}))
    assert (found[12].ms, found[12].provenance, found[12].distance) == (5.9, "published", 0)


# Ways and devices


def _soc(name: str, soc: str, *records: LatencyRecord, **fields: Any) -> DeviceProfile:
    """A device with the NPU that devices of ours with that SoC have."""
    alike = (entry.profile.facts for entry in profiles.packaged().values())
    known = next((facts for facts in alike if facts.soc and facts.soc.value == soc), Facts())
    npu = {key: getattr(known, key) for key in ("npu_generation", "npu_tops")}
    npu = {key: msgspec.structs.replace(fact, source="s") for key, fact in npu.items() if fact}
    return profile(name, *records, facts=Facts(soc=Fact(value=soc, source="s"), **npu), **fields)


def test_another_way_on_the_device_is_used_by_the_ratio_on_its_relatives() -> None:
    def both(name: str, soc: str, ms: float, ratio: float) -> DeviceProfile:
        return _soc(name, soc, record(12, ms), record(12, ms * ratio, runtime="qnn"))

    mine = _soc("d", "Snapdragon 8 Gen 2", record(12, 20.0, runtime="qnn"))
    others = [("a", "Snapdragon 8 Gen 1", 25.0), ("b", "Snapdragon 8 Gen 3", 9.0), ("c", "Snapdragon 8 Elite", 6.0)]
    found = estimated(evidence(mine, *(both(name, soc, ms, 2.0) for name, soc, ms in others)))
    assert found[12].ms == pytest.approx(10, rel=0.2)
    assert (found[12].distance, found[12].provenance) == (1, "estimated")
    without = estimated(evidence(_soc("d", "Snapdragon 8 Gen 2"), *(both(*one, 2.0) for one in others)))
    assert without[12].distance == 2
    assert without[12].spread.width > found[12].spread.width


def test_cpus_run_all_runtimes_alike_and_accelerators_do_not() -> None:
    for unit, told in (("cpu", True), ("gpu", False)):
        known = evidence(profile("d", record(12, 300.0, runtime="ncnn", unit=unit)))
        found = estimated(known, path=ExecutionPath("onnxruntime", "float", unit))  # type: ignore[arg-type]
        assert bool(found) is told
        assert not estimated(known, path=ExecutionPath("onnxruntime", "int8", unit))  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["npu", "cpu"])
@pytest.mark.parametrize("timed", ["int8", "int8-static", "w8a16"])
def test_integers_say_nothing_of_other_kinds_of_integers(unit: str, timed: str) -> None:
    known = evidence(_soc("d", "Snapdragon 8 Gen 3", record(12, 5.0, precision=timed, unit=unit)))
    kinds = ("float", "int8", "int8-static", "w8a16")
    told = [kind for kind in kinds if estimated(known, path=ExecutionPath("litert", kind, unit))]  # type: ignore[arg-type]
    assert told == [timed]


def test_integer_activations_on_a_cpu_are_known_of_runtimes_that_were_timed_in_them() -> None:
    timed = record(12, 300.0, runtime="onnxruntime", unit="cpu", precision="int8-static")
    known = evidence(profile("t", timed), profile("d"))
    assert estimated(known, "d", ExecutionPath("onnxruntime", "int8-static", "cpu"))
    assert not estimated(known, "d", ExecutionPath("litert", "int8-static", "cpu"))


def _cpu(*clusters: tuple[int, str, float]) -> Facts:
    return Facts(cpu=Fact(value=tuple(Cluster(cores=n, core=c, ghz=g) for n, c, g in clusters), source="s"))


def test_cpus_speak_for_each_other_by_cores_and_clocks() -> None:
    timed = profile("t", record(12, 400.0, runtime="onnxruntime", unit="cpu"), facts=_cpu((4, "A76", 2.0)))

    def at(facts: Facts) -> Estimate:
        return estimated(evidence(timed, profile("d", facts=facts)), path=CPU)[12]

    same, faster = at(_cpu((4, "A76", 2.0))), at(_cpu((4, "A76", 2.5), (4, "A55", 1.8)))
    assert same.ms == pytest.approx(400, rel=0.1)
    assert faster.ms == pytest.approx(400 * 2.0 / 2.5, rel=0.1)
    assert faster.distance == 2
    assert at(_cpu((2, "A76", 2.0), (6, "A55", 1.8))).ms > same.ms * 1.2, "two large cores are not four"
    assert at(_cpu((4, "A53", 1.4))).ms > same.ms * 5
    unknown = at(Facts())
    assert unknown.spread.width > same.spread.width
    assert faster.spread.width > 2, "nobody's cores are those of another"


def test_an_accelerator_speaks_for_those_of_its_line_by_their_generations() -> None:
    timed = [
        _soc("a", "Snapdragon 8 Gen 3", record(12, 6.0)),
        _soc("b", "Snapdragon 8 Elite", record(12, 4.0)),
    ]
    known = evidence(*timed, _soc("d", "Snapdragon 8 Gen 1"), _soc("e", "Snapdragon 8 Gen 2"), _soc("f", "A17 Pro"))
    old, newer = estimated(known)[12], estimated(known, "e")[12]
    assert old.ms > newer.ms > 6
    assert old.spread.width > newer.spread.width > 2
    assert not estimated(known, "f"), "another line"
    for soc in ("Snapdragon 678", "a chip"):
        assert not estimated(evidence(*timed, _soc("d", soc, family="Qualcomm"))), "unknown is not equal"
    assert not estimated(evidence(*timed, profile("d", family="Qualcomm")))


def test_arithmetic_that_no_chip_of_the_tier_was_timed_in_is_not_known() -> None:
    flagship = _soc("a", "Snapdragon 8 Gen 3", record(12, 6.0), record(12, 5.0, precision="int8"))
    middle = _soc("b", "Snapdragon 7 Gen 4", record(12, 20.0, precision="int8"))
    known = evidence(flagship, middle, _soc("d", "Snapdragon 778G"))
    assert not estimated(known)
    assert estimated(known, path=ExecutionPath("litert", "int8", "npu"))[12].ms > 10


def test_one_operation_is_told_as_one() -> None:
    timed = _soc("t", "A14", record(12, 9.0, ops=device.Ops(npu=9, cpu=1)))
    found = estimated(evidence(timed, _soc("d", "A15")))[12]
    assert found.origins == ("t: vit k=12 9 ms, litert fp16 NPU (2026-01-01), 1 operation on the CPU, somewhere",)


def test_a_time_from_a_throughput_says_so(ours: Evidence) -> None:
    origins = estimated(ours, "hailo-8", ExecutionPath("hailort", "int8-static", "npu"))[12].origins
    assert all(", 1000 / images a second, " in origin for origin in origins)


def test_a_stand_in_says_less_of_others_than_the_chip_itself() -> None:
    other = _soc("d", "Snapdragon 8 Gen 1")
    proxy, real = (
        estimated(evidence(_soc("p", "QCS8450", record(12, 5.0), stand_in=stand_in), other))[12]
        for stand_in in (True, False)
    )
    assert proxy.spread.width > real.spread.width


def test_an_estimate_is_the_wider_the_farther_its_evidence(ours: Evidence) -> None:
    own = estimated(ours, "galaxy-s24")[12]
    known = profiles.packaged()
    without_it = estimated(Evidence(leave_one_out.without(known, {"galaxy-s24"}, NPU)), "galaxy-s24")[12]
    without_any = estimated(Evidence(leave_one_out.without(known, {"galaxy-s24"})), "galaxy-s24")[12]
    assert (own.distance, without_it.distance, without_any.distance) == (0, 1, 2)
    assert own.spread.width < without_it.spread.width < without_any.spread.width


def test_weights_are_of_the_records_that_an_estimate_rests_on(ours: Evidence) -> None:
    anchors = estimated(ours, "rpi5", CPU)[6].anchors
    assert anchors[0].device == "rpi5"
    assert [anchor.weight for anchor in anchors] == sorted((anchor.weight for anchor in anchors), reverse=True)
    assert 0.7 < sum(anchor.weight for anchor in anchors) < 2
    (timed,) = estimated(ours, "galaxy-s24")[12].anchors
    assert timed.weight == 1


# The whole registry


def _by_tier() -> dict[tuple[str, str], list[tuple[float, str]]]:
    """Devices with accelerators that were timed on none of those that have them, by generation."""
    tiers: dict[tuple[str, str], list[tuple[float, str]]] = {}
    chips = {name: accelerator(entry.profile, "npu") for name, entry in profiles.packaged().items()}
    timed = {
        chips[name]
        for name, entry in profiles.packaged().items()
        if any(record.unit == "npu" for record in entry.profile.latency)
    }
    for chip, name in {chip: name for name, chip in chips.items()}.items():  # one device of each
        if chip and chip.generation and chip not in timed:
            tiers.setdefault((chip.line, chip.tier), []).append((chip.generation, name))
    return tiers


def test_no_older_generation_is_faster_than_a_newer_at_equal_evidence(ours: Evidence) -> None:
    compared = 0
    for tier in _by_tier().values():
        for (before_it, older), (later, newer) in itertools.permutations(tier, 2):
            if before_it < later:
                paths = {option.path for option in known_paths(ours, older, REFERENCE)}
                for path in (path for path in paths if path.unit == "npu"):
                    before, after = (estimated(ours, name, path)[12] for name in (older, newer))
                    assert before.ms >= after.ms * 0.999, (older, newer, path)
                    compared += 1
    assert compared > 10
    s22, s23, s24 = (estimated(ours, f"galaxy-s2{n}")[12] for n in (2, 3, 4))
    assert s22.ms > s23.ms > s24.ms


def test_no_estimate_is_surer_than_a_measurement(ours: Evidence) -> None:
    for name in ours.profiles:
        for option in known_paths(ours, name, REFERENCE):
            timed = [e.spread.width for e in option.estimates.values() if e.provenance != "estimated"]
            for estimate in option.estimates.values():
                if estimate.provenance == "estimated":
                    assert estimate.spread.width >= min(timed, default=math.exp(0.5)) * 0.999, (name, option.path)


def test_the_way_spoken_of_is_usual_there_and_time_it_one_can(ours: Evidence) -> None:
    from hydra_export.commands.profile_report import Context, remedy

    usual = {"Apple": "coreml", "Jetson": "tensorrt"}
    for name, entry in profiles.packaged().items():
        profile = entry.profile
        if profile.too_small:
            continue
        advice = latency.advise(ours, entry, REFERENCE, latency.Constraints())
        assert advice.estimates, name
        if runtime := usual.get(profile.family):
            assert advice.path.runtime == runtime, name
        elif profile.device_class == "phone":
            assert advice.path.runtime in ("litert", *(record.runtime for record in profile.latency)), name
        told = remedy(advice, Context("", None, None, Path()))
        assert "bench standalone" not in told or profile.family != "Apple", name


def test_pixel_7_is_estimated_from_other_phones_and_boards_and_that_is_not_sure(ours: Evidence) -> None:
    found = estimated(ours, "pixel7", ExecutionPath("litert", "float", "cpu"))
    # On a Snapdragon 888 of the same cores ncnn took 614 ms for 13.04 GMACs, on the 8 Gen 2 two years after it 271.
    assert found[12].low < 614 * 17.56 / 13.04 < found[12].high
    assert found[12].ms > 271 * 17.56 / 13.04
    assert {estimate.provenance for estimate in found.values()} == {"estimated"}
    devices = {anchor.device for anchor in found[6].anchors}
    assert len(devices) > 5, "not one phone"


def test_a_cpu_leads_where_more_fits_on_it_than_on_an_accelerator(ours: Evidence) -> None:
    def path(model: Workload, budget_ms: float) -> str:
        asked = latency.Constraints(budget_ms=budget_ms)
        return latency.advise(ours, profiles.packaged()["rk3588"], model, asked).path.runtime

    assert path(REFERENCE, 100) == "rknn", "k = 5 surely, of which the CPU does 4"
    assert path(REFERENCE, 40) == "onnxruntime", "no k fits into the NPU's overhead"
    assert path(VITS["96 px"], 1000) == "onnxruntime", "both do it, the CPU surely faster"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "coral-dev-board",
            "Edge TPU, NPU: no estimate: it only takes TensorFlow Lite models that are fully quantized",
        ),
        ("pixel7", "Google EdgeTPU, NPU: no estimate: no known Vision Transformer was timed on such a unit"),
        ("pixel7", "Mali-G710 MP7, GPU: no estimate: no known Vision Transformer was timed on such a unit"),
    ],
)
def test_an_accelerator_without_a_number_says_why(ours: Evidence, name: str, told: str) -> None:
    advice = latency.advise(ours, profiles.packaged()[name], REFERENCE, latency.Constraints())
    assert any(line.startswith(told) for line in words.other_paths(advice))
    nano = latency.advise(ours, profiles.packaged()["jetson-orin-nano"], REFERENCE, latency.Constraints())
    assert not any("no estimate" in line for line in words.other_paths(nano)), "its GPU has one, and it has no NPU"


def test_the_generation_of_an_npu_is_its_profiles_fact() -> None:
    known = _soc("d", "Snapdragon 8 Gen 2")
    newer = Facts(soc=known.facts.soc, npu_generation=Fact(value=81.0, source="s"))
    chips = [accelerator(one, "npu") for one in (known, msgspec.structs.replace(known, facts=newer))]
    assert [chip and chip.generation for chip in chips] == [73, 81]
    assert chips[0] is not None
    assert chips[1] is not None
    assert chips[0].speed < chips[1].speed
    assert accelerator(msgspec.structs.replace(known, facts=Facts(soc=known.facts.soc)), "npu") is None


def test_threads_are_as_many_as_runtimes_take_there() -> None:
    def threads(kind: device.DeviceClass, *clusters: tuple[int, str]) -> int:
        cores = tuple(Cluster(cores=num, core=core, ghz=2.0) for num, core in clusters)
        facts = Facts(cpu=Fact(value=cores, source="s") if cores else None)
        return usual_threads(profile("d", device_class=kind, facts=facts))

    assert threads("desktop", (16, "Zen 3")) == 16
    assert threads("laptop") == 8
    assert threads("phone", (1, "X3"), (4, "A715"), (3, "A510")) == 4
    assert threads("board", (12, "A78AE")) == 12


def test_nothing_is_said_where_nothing_is_known(ours: Evidence) -> None:
    assert not estimated(ours, "hailo-8", ExecutionPath("hailort", "float", "npu"))
    assert not estimated(ours, "pixel7", NPU)
    assert not estimated(ours, "coral-dev-board", NPU)
    assert not estimated(ours, "redmi-note-10-5g", NPU), "its NPU is not known to be one of those timed"
    assert known_paths(ours, "hailo-8", REFERENCE, precision="fp32") == []
    assert chosen_path(ours, "hailo-8", runtime="hailort", precision="fp32").runtime == "hailort"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("galaxy-s24", NPU),
        ("galaxy-s22", NPU),
        ("rpi5", CPU),
        ("pixel7", ExecutionPath("litert", "float", "cpu")),
        ("iphone-14-pro", ExecutionPath("coreml", "float", "npu")),
        ("macbook-m3", ExecutionPath("coreml", "float", "npu")),
        ("jetson-orin-nano", ExecutionPath("tensorrt", "float", "gpu")),
        ("jetson-agx-orin", ExecutionPath("tensorrt", "float", "gpu")),
        ("rpi5-hailo8l", ExecutionPath("hailort", "int8-static", "npu")),
    ],
)
def test_the_way_spoken_of_is_the_one_that_a_user_would_take(ours: Evidence, name: str, path: ExecutionPath) -> None:
    assert chosen_path(ours, name) == path


def test_a_way_may_be_asked_for(ours: Evidence) -> None:
    assert {o.path.runtime for o in known_paths(ours, "galaxy-s24", REFERENCE, runtime="qnn")} == {"qnn"}
    assert {o.path.arithmetic for o in known_paths(ours, "galaxy-s24", REFERENCE, precision="int8")} == {"int8"}
    with pytest.raises(UnknownName, match="Did you mean 'litert'"):
        known_paths(ours, "galaxy-s24", REFERENCE, runtime="litrt")


# Spreads


@pytest.mark.parametrize(
    ("name", "lacks", "has"),
    [
        ("pixel7", "coreml", "onnxruntime, litert, ncnn, mnn"),
        ("pixel7", "qnn", "onnxruntime, litert, ncnn, mnn"),
        ("galaxy-s24", "hailort", "onnxruntime, litert, qnn, ncnn, mnn"),
        ("iphone-13", "qnn", "onnxruntime, coreml, litert, ncnn, mnn"),
        ("rpi5", "coreml", "onnxruntime, litert, openvino, hailort, axengine, ncnn, mnn, executorch"),
        ("hailo-8", "onnxruntime", "hailort"),
    ],
)
def test_a_runtime_for_the_chips_of_others_is_refused(ours: Evidence, name: str, lacks: str, has: str) -> None:
    with pytest.raises(BadInput, match=f"does not run {lacks}. It runs {has}.$"):
        chosen_path(ours, name, runtime=lacks)


def test_a_device_of_unknown_chip_or_timed_with_a_runtime_has_it() -> None:
    unknown, timed = profile("d", family="Acme"), profile("t", record(12, 9.0, runtime="rknn"), family="Intel")
    known = evidence(unknown, timed)
    assert chosen_path(known, "d", runtime="coreml").runtime == "coreml"
    assert chosen_path(known, "t", runtime="rknn").runtime == "rknn"


def test_the_interval_is_one_of_eighty_percent() -> None:
    spread = Spread(10.0, down=0.5, up=0.2)
    assert spread.chance_within(spread.high) == pytest.approx(0.9, abs=1e-4)
    assert spread.chance_within(10) == pytest.approx(0.5)
    assert spread.chance_within(spread.low) == pytest.approx(0.1, abs=1e-4)
    assert Spread(10.0).chance_within(9.9) == 0
    assert Spread(10.0).chance_within(10) == 1


# The choice


def choice(
    budget_ms: float,
    spreads: dict[int, Spread],
    accuracy: dict[int, float] | None = None,
    ram: tuple[dict[int, float], float] | None = None,
) -> HeadChoice:
    model = Workload("m", 224, 197, 1.0, dict.fromkeys(spreads, 1.0), accuracy or {}, {})
    estimates = {k: Estimate(k, spread, "estimated", 1, (), "") for k, spread in spreads.items()}
    needs, limit = ram or ({}, None)
    verdicts = {k: verdict(e, budget_ms, needs.get(k, 0), limit) for k, e in estimates.items()}
    return latency.choose(model, estimates, verdicts, budget_ms)


SPREADS = {k: Spread(ms, 0.5, 0.5) for k, ms in ((3, 10.0), (6, 30.0), (12, 100.0))}  # high: 16.5, 49.5, 165


def test_the_largest_k_is_chosen_whose_high_bound_fits() -> None:
    found = choice(50, SPREADS)
    assert (found.heads, found.sure) == (6, True)
    assert found.chance > 0.9
    assert found.larger is None
    assert "assumed to be the most accurate" in found.why
    assert choice(49, SPREADS).heads == 3


def test_a_larger_one_that_may_fit_is_named() -> None:
    found = choice(40, SPREADS)
    assert (found.heads, found.sure) == (3, True)
    assert found.larger is not None
    assert found.larger[0] == 6
    assert 0.5 < found.larger[1] < 0.9


def test_where_none_surely_fits_the_best_guess_is_marked_as_one() -> None:
    found = choice(12, SPREADS)
    assert (found.heads, found.sure) == (3, False)
    assert 0.5 < found.chance < 0.9
    assert "a guess" in found.why


def test_the_word_for_a_chance_never_falls_where_the_chance_rises() -> None:
    order: list[Verdict] = ["no", "unlikely", "about even", "likely", "yes"]
    estimate = Estimate(3, Spread(10.0, 0.5, 0.3), "estimated", 1, (), "")
    budgets = [5 + step / 100 for step in range(1200)]
    words = [verdict(estimate, budget) for budget in budgets]
    assert [*dict.fromkeys(words)] == order
    assert verdict(estimate, 9.9) == "about even", "a little less than half"
    chances = dict(zip(words, (estimate.spread.chance_within(budget) for budget in budgets), strict=True))
    assert [round(chances[word], 2) for word in order[:4]] == [0.1, 0.33, 0.66, 0.9], "where each word ends"
    assert [latency.describe_fit(False, chance) for chance in (0.05, 0.48, 0.61, 0.7)] == [
        "no (5 %)",
        "about even (48 %)",
        "about even (61 %)",
        "likely (70 %)",
    ]
    assert latency.describe_fit(True, 0.999) == "yes (more than 99 %)"


def test_where_nothing_fits_nothing_is_chosen() -> None:
    found = choice(9, SPREADS)
    assert found.heads is None
    assert "even k = 3 takes 10 ms" in found.why


def test_accuracy_decides_where_it_is_known_of_all() -> None:
    assert choice(1000, SPREADS, {3: 70, 6: 88.4, 12: 88.3}).heads == 6
    assert choice(1000, SPREADS, {3: 99.0}).heads == 12
    assert choice(1000, SPREADS, {3: 80, 6: 80, 12: 80}).heads == 3


def test_what_does_not_fit_into_memory_is_not_chosen() -> None:
    needs = {3: 22.0, 6: 84.0, 12: 330.0}
    assert choice(1000, SPREADS, ram=(needs, 100)).heads == 6
    nothing = choice(1000, SPREADS, ram=(needs, 10))
    assert nothing.heads is None
    assert "memory" in nothing.why


# The advice


def advised(mine: DeviceProfile, *others: DeviceProfile) -> latency.Advice:
    return latency.advise(evidence(mine, *others), ResolvedProfile(mine), REFERENCE, latency.Constraints())


def test_a_usual_way_is_named_where_no_time_is_known_of_it(ours: Evidence) -> None:
    for name, told in (("pixel4", True), ("galaxy-s24", False), ("hailo-8", False)):
        advice = latency.advise(ours, profiles.get(name), REFERENCE, latency.Constraints())
        line = "litert, float, NPU: no known time here"
        assert (line in words.other_paths(advice)) is told
        assert any("no known time" in line for line in words.other_paths(advice)) is told


def test_the_sources_are_those_of_the_records_behind_the_times() -> None:
    told_twice = record(12, 40.0, source="copy", suspect="copied from s")
    mine = profile("d", record(12, 40.0), told_twice, sources={"s": "somewhere", "copy": "elsewhere"})
    advice = advised(mine)
    assert advice.sources == {"d: s": "somewhere"}
    assert all(anchor.record is mine.latency[0] for e in advice.estimates.values() for anchor in e.anchors)
    unknown = profile("d", record(12, 40.0, source="unverified"))
    assert advised(unknown).sources == {}


def test_the_caveats_name_what_the_times_rest_on() -> None:
    other = record(None, 800.0, resolution=384, tokens=145, runtime="onnxruntime", unit="cpu")
    mine = profile("d", other)
    advice = advised(mine)
    assert words.caveats(advice, ["tflite"]) == [
        "The timed models have another architecture: vit at 384 px; this one takes 224 px.",
        "The bundle contains nothing for onnxruntime, which takes onnx. Export that as well.",
    ]
    assert len(words.caveats(advice, ["onnx"])) == len(words.caveats(advice)) == 1
    cores = _cpu((4, "A76", 2.0))
    timed = profile("t", record(12, 400.0, runtime="onnxruntime", unit="cpu"), facts=cores)
    related = advised(profile("d", facts=cores), timed)
    assert related.inferred
    assert words.caveats(related)[0].startswith("All of this is inferred from other devices")


# Leaving one out


def test_the_table_in_the_docs_is_current() -> None:
    text = leave_one_out.DOCUMENT.read_text(encoding="utf-8")
    assert leave_one_out.document(text) == text, "run: python -m tests.leave_one_out"
    stale = re.sub(r"x/÷ 1\.\d\d \|", "x/÷ 9.99 |", text)
    assert stale != text
    assert leave_one_out.document(stale) == text


def test_the_measurement_shown_in_the_docs_is_a_profile() -> None:
    text = leave_one_out.DOCUMENT.read_text(encoding="utf-8")
    shown = device.decode(text.partition("```toml\n")[2].partition("```")[0].encode())
    packaged = profiles.packaged()[shown.id].profile
    assert (shown.name, shown.device_class) == (packaged.name, packaged.device_class)
    assert shown.latency[0].provenance == "measured"


def test_what_is_left_out_does_not_say_a_word() -> None:
    def predictions(known: Mapping[str, ResolvedProfile], *, whole: bool) -> dict[float, Spread | None]:
        cases = leave_one_out.cases(known, whole_device=whole, only=("hailo-8",))
        return {case.gmacs: case.predicted for case in cases}

    entry = profiles.get("hailo-8").profile
    shifted = tuple(
        msgspec.structs.replace(r, ms=r.ms * (50 if r.k == 6 and r.batch == 1 else 1)) for r in entry.latency
    )
    changed = msgspec.structs.replace(entry, latency=shifted)
    ours = profiles.packaged()
    other = {**ours, "hailo-8": ResolvedProfile(changed)}
    before, after = (predictions(known, whole=False) for known in (ours, other))
    assert before[4.6] == after[4.6]
    assert before[1.25] != after[1.25]
    before, after = (predictions(known, whole=True) for known in (ours, other))
    assert before == after
    assert len(before) == 6


def test_a_soc_has_one_vote_however_many_times_are_known_of_it() -> None:
    def case(soc: str, ms: float) -> leave_one_out.Case:
        return leave_one_out.Case("F", soc, soc, NPU, 12, ms, Spread(10.0, 0.1, 0.1))

    many = [case("A", 40.0)] * 9 + [case("B", 10.0), case("C", 10.0)]
    row = leave_one_out.rows(many)[0]
    assert (row.num_socs, row.num_cases) == (3, 11)
    assert row.coverage == pytest.approx(2 / 3)
    assert row.error == 1


def test_a_time_without_a_prediction_is_counted_as_such() -> None:
    row = leave_one_out.rows([leave_one_out.Case("F", "A", "A", NPU, 12, 5.0, None)])[0]
    assert (row.num_socs, row.num_cases, row.num_silent) == (0, 0, 1)


def test_the_intervals_hold_about_what_they_promise() -> None:
    for whole in (False, True):
        rows = leave_one_out.rows(leave_one_out.packaged(whole))
        total = rows[-1]
        assert total.num_socs >= 20
        assert 0.75 <= total.coverage <= 0.95
        families = {row.family for row in rows}
        assert families >= {*leave_one_out.FAMILIES, "all"}


def test_every_profile_of_ours_has_a_budget_with_a_reason() -> None:
    for entry in profiles.packaged().values():
        assert isinstance(entry.profile.budget, LatencyBudget), entry.profile.id
