"""The latency model: what a time says of other sizes, ways and devices, how sure that is, and which k to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import device, latency, profiles
from hydra_export.architecture import HydraConfig
from hydra_export.device import Budget, Cluster, DeviceProfile, Fact, Facts, LatencyRecord
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
from hydra_export.latency.choice import Verdict, verdict
from hydra_export.latency.execution_paths import known_paths
from hydra_export.latency.spread import Spread, predicted
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


def test_one_time_on_an_npu_gives_the_others_with_an_overhead_share_of_a_quarter() -> None:
    found = estimated(evidence(profile("d", record(12, 40.0))))
    ratio = REFERENCE.gmacs[3] / REFERENCE.gmacs[12]
    assert found[3].ms == pytest.approx(40 * (0.25 + 0.75 * ratio), rel=1e-3)
    # The overhead alone may be from 0.03 to 0.45; the record's own error comes on top.
    assert found[3].low < 40 * (0.03 + 0.97 * ratio)
    assert found[3].high > 40 * (0.45 + 0.55 * ratio)
    assert (found[3].provenance, found[12].provenance) == ("estimated", "published")
    assert found[12].ms == 40


def test_one_time_on_a_cpu_gives_the_others_nearly_in_proportion() -> None:
    known = evidence(profile("d", record(12, 800.0, runtime="onnxruntime", unit="cpu")))
    found = estimated(known, path=CPU)
    assert found[3].ms == pytest.approx(800 * 1.25 / 17.56, rel=0.15)
    assert found[6].ms == pytest.approx(800 * 4.60 / 17.56, rel=0.05)
    assert found[6].spread.width < estimated(evidence(profile("d", record(12, 800.0))))[6].spread.width


def test_between_sizes_the_time_is_on_the_line_through_its_neighbours() -> None:
    found = estimated(evidence(profile("d", record(3, 8.0), record(6, 10.0), record(12, 30.0))))
    gmacs = REFERENCE.gmacs
    assert [round(found[k].ms, 6) for k in (3, 6, 12)] == [8, 10, 30]
    assert found[4].ms == pytest.approx(8 + 2 * (gmacs[4] - 1.25) / 3.35, rel=1e-3)
    assert found[9].ms == pytest.approx(10 + 20 * (gmacs[9] - 4.6) / 12.96, rel=1e-3)
    assert found[5].spread.width > found[6].spread.width
    assert found[9].spread.width > found[11].spread.width


def test_beyond_the_sizes_known_time_neither_falls_nor_outruns_the_work() -> None:
    falling = estimated(evidence(profile("d", record(3, 9.0), record(6, 8.0))))
    assert falling[12].ms >= 8
    steep = estimated(evidence(profile("d", record(6, 1.0), record(12, 30.0))))
    assert 0 < steep[3].ms <= 1
    assert steep[3].ms >= 1 * REFERENCE.gmacs[3] / 4.61


def test_no_estimate_is_above_that_of_the_whole_model(ours: Evidence) -> None:
    checked = 0
    for name in ours.profiles:
        for option in known_paths(ours, name, REFERENCE):
            whole = option.estimates[12]
            for estimate in option.estimates.values():
                assert 0 < estimate.low <= estimate.ms <= estimate.high < math.inf
                if estimate.provenance == "estimated":
                    checked += 1
                    assert estimate.ms <= whole.ms * (1 + 1e-9)
                    assert estimate.high <= whole.high * (1 + 1e-9)
    assert checked > 500
    # Noise in what was published: k = 3 and 6 slower than k = 12.
    noisy = estimated(evidence(profile("d", record(3, 33.0), record(6, 35.0), record(12, 30.0))))
    assert noisy[4].ms <= 30
    assert noisy[3].ms == 33, "what was timed stays as it was timed"


# Which records speak


def test_only_models_about_as_large_on_images_as_large_get_a_number() -> None:
    known = evidence(profile("d", record(12, 30.0)))

    def model(depth: int = 12, image_size: int = 224, patch_size: int = 16) -> Workload:
        changed = HydraConfig(heads=12, depth=depth, image_size=image_size, patch_size=patch_size)
        return Workload.of("m", changed, (1, changed.heads), {})

    assert estimated(known, model=model(depth=7))  # 0.6 times
    assert estimated(known, model=model(depth=23))  # 1.9 times
    assert not estimated(known, model=model(depth=5))
    assert not estimated(known, model=model(depth=25))
    assert not estimated(known, model=model(image_size=28, patch_size=4, depth=6))
    assert not estimated(known, model=model(image_size=240))


def test_of_a_model_that_lists_its_small_heads_alone_the_size_of_the_whole_counts() -> None:
    known = evidence(profile("d", record(12, 30.0)))
    small = estimated(known, model=Workload.of("m", HydraConfig(heads=12), (3, 6), {}))
    assert small.keys() == {3, 6}
    assert small[6] == estimated(known)[6]


def test_another_architecture_speaks_only_where_none_of_the_shape_does() -> None:
    analogue = record(None, 60.0, resolution=384, tokens=145)
    alone = estimated(evidence(profile("d", analogue)))
    assert alone[12].ms == pytest.approx(60, rel=1e-3)
    assert alone[12].provenance == "estimated"
    both = estimated(evidence(profile("d", analogue, record(12, 30.0))))
    assert both[12].ms == 30
    assert both[12].spread.width < alone[12].spread.width
    assert not estimated(evidence(profile("d", record(None, 60.0, resolution=384))))
    assert not estimated(evidence(profile("d", record(None, 60.0, resolution=384, tokens=577))))
    assert not estimated(evidence(profile("d", record(12, 60.0, resolution=384, tokens=145)))), (
        "of the shape, but larger"
    )


def test_suspect_batched_and_estimated_records_are_used_for_nothing() -> None:
    unusable: list[dict[str, Any]] = [{"suspect": "slower than its elder"}, {"batch": 8}]
    unusable += [{"provenance": "estimated", "anchors": ("x",), "formula": "y"}, {"provenance": "unknown"}]
    for fields in unusable:
        assert not estimated(evidence(profile("d", record(12, 30.0, **fields)))), fields


def test_the_newest_of_a_way_counts() -> None:
    old, new = record(12, 135.8, date="2024-02-22"), record(12, 12.5, date="2025-09-16")
    assert estimated(evidence(profile("d", old, new)))[12].ms == 12.5
    assert estimated(evidence(profile("d", new, old)))[12].ms == 12.5


def test_of_cpu_times_the_fastest_number_of_threads_counts() -> None:
    slow, fast = (record(12, ms, unit="cpu", runtime="onnxruntime", threads=n) for ms, n in ((900.0, 1), (300.0, 4)))
    assert estimated(evidence(profile("d", slow, fast)), path=CPU)[12].ms == 300


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


def test_a_doubtful_measurement_of_the_users_outranks_a_published_time_of_another_way() -> None:
    mine = record(3, 50.0, provenance="measured", low=5.0, high=500.0)
    others = [profile(n, record(12, 10.0), record(12, 10.0, runtime="qnn")) for n in "abc"]
    known = evidence(profile("d", mine, record(12, 9.0, runtime="qnn")), *others, own={"d": (mine,)})
    assert estimated(known)[3].ms == 50
    assert estimated(known)[12].ms > 100


def test_a_measurement_of_another_way_does_not_displace_a_time_of_this_one() -> None:
    theirs, mine = record(12, 5.9), record(12, 7.67, runtime="qnn", provenance="measured")
    others = [profile(n, record(12, 10.0), record(12, 10.0, runtime="qnn")) for n in "abc"]
    found = estimated(evidence(profile("d", theirs, mine), *others, own={"d": (mine,)}))
    assert (found[12].ms, found[12].provenance, found[12].distance) == (5.9, "published", 0)
    elsewhere = record(None, 5.9)
    without = estimated(evidence(profile("d", elsewhere, mine), *others, own={"d": (mine,)}))
    assert without[12].ms == pytest.approx(7.67, rel=0.01), "another architecture is no such time"


# Ways and devices


def test_another_way_on_the_device_is_used_by_the_ratio_on_its_relatives() -> None:
    def both(name: str, ms: float, ratio: float) -> DeviceProfile:
        return profile(name, record(12, ms), record(12, ms * ratio, runtime="qnn"))

    mine = profile("d", record(12, 20.0, runtime="qnn"))
    found = estimated(evidence(mine, both("a", 5.0, 2.0), both("b", 50.0, 2.2), both("c", 9.0, 1.8)))
    assert found[12].ms == pytest.approx(20 / 1.99, rel=0.01)
    assert (found[12].distance, found[12].provenance) == (1, "estimated")
    assert "3 other F devices" in found[12].formula
    assert estimated(evidence(mine, both("a", 5.0, 2.0), both("b", 50.0, 2.2)))[12].distance == 1
    same_soc = Facts(soc=Fact(value="X1", source="s"))
    twin = msgspec.structs.replace(both("b", 50.0, 2.2), facts=same_soc)
    on_it = msgspec.structs.replace(mine, facts=same_soc)
    assert estimated(evidence(on_it, both("a", 5.0, 2.0), twin))[12].distance == 2, (
        "a twin shares what is to be predicted"
    )
    proxy = msgspec.structs.replace(both("b", 50.0, 2.2), stand_in=True)
    assert estimated(evidence(mine, both("a", 5.0, 2.0), proxy))[12].distance == 2
    nameless = [msgspec.structs.replace(one, family="") for one in (mine, both("a", 5.0, 2.0), both("b", 50.0, 2.2))]
    assert not estimated(evidence(*nameless)), "no family is none in common"
    lonely = estimated(evidence(mine, both("a", 5.0, 2.0)))
    assert lonely[12].distance == 2, "one ratio is none: the relative itself is used"
    assert not estimated(evidence(mine))
    scattered = estimated(evidence(mine, both("a", 5.0, 1.0), both("b", 50.0, 4.0), both("c", 9.0, 2.0)))
    assert scattered[12].spread.width > found[12].spread.width


def test_another_runtime_is_taken_for_as_fast_on_a_cpu_alone() -> None:
    for unit, told in (("cpu", True), ("gpu", False)):
        known = evidence(profile("d", record(12, 300.0, runtime="ncnn", unit=unit)))
        found = estimated(known, path=ExecutionPath("onnxruntime", "float", unit))  # type: ignore[arg-type]
        assert bool(found) is told
        assert not estimated(known, path=ExecutionPath("onnxruntime", "int8", unit))  # type: ignore[arg-type]


def _cpu(*clusters: tuple[int, str, float]) -> Facts:
    return Facts(cpu=Fact(value=tuple(Cluster(cores=n, core=c, ghz=g) for n, c, g in clusters), source="s"))


def test_cpus_of_the_same_cores_speak_by_their_clocks() -> None:
    timed = profile("t", record(12, 400.0, runtime="onnxruntime", unit="cpu"), facts=_cpu((4, "A76", 2.0)))
    faster = profile("d", facts=_cpu((4, "A76", 2.5), (4, "A55", 1.8)))
    found = estimated(evidence(timed, faster), path=CPU)
    assert found[12].ms == pytest.approx(320, rel=1e-3)
    assert found[12].distance == 2
    for others in (_cpu((4, "A72", 2.5)), _cpu((2, "A76", 2.5), (6, "A55", 1.8)), Facts()):
        assert not estimated(evidence(timed, profile("d", facts=others)), path=CPU)


def test_relatives_speak_only_where_the_device_itself_does_not() -> None:
    cousins = [profile(name, record(12, ms)) for name, ms in (("a", 5.0), ("b", 10.0), ("c", 20.0))]
    alone = estimated(evidence(profile("d"), *cousins))
    assert alone[12].ms == pytest.approx(10, rel=1e-3)
    assert alone[12].low < 5
    assert alone[12].high > 20
    assert estimated(evidence(profile("d", record(12, 30.0)), *cousins))[12].ms == 30
    assert not estimated(evidence(profile("d", family="G"), *cousins))
    assert not estimated(evidence(profile("d", family=""), profile("a", record(12, 5.0), family="")))


def test_an_npu_of_another_name_is_no_relative() -> None:
    def with_npu(name: str, npu: str, *records: LatencyRecord) -> DeviceProfile:
        return profile(name, *records, facts=Facts(npu=Fact(value=npu, source="s")))

    timed = with_npu("t", "New", record(12, 5.0))
    assert estimated(evidence(timed, with_npu("d", "New")))
    assert not estimated(evidence(timed, with_npu("d", "Old")))


def test_one_relative_and_one_operation_are_told_as_one() -> None:
    timed = profile("t", record(12, 9.0, ops=device.Ops(npu=9, cpu=1)), family="Apple")
    found = estimated(evidence(timed, profile("d", family="Apple")))[12]
    assert found.formula.endswith("from one other Apple device")
    assert found.origins == ("t: vit k=12 9 ms, litert fp16 NPU (2026-01-01), 1 operation on the CPU, somewhere",)


def test_a_stand_in_predicts_nobody_else() -> None:
    proxy = profile("p", record(12, 5.0), stand_in=True)
    assert estimated(evidence(proxy), "p")[12].ms == 5
    assert not estimated(evidence(proxy, profile("d")))


def test_an_estimate_is_the_wider_the_farther_its_evidence(ours: Evidence) -> None:
    own = estimated(ours, "galaxy-s24")[12]
    known = profiles.packaged()
    without_it = estimated(Evidence(leave_one_out.without(known, {"galaxy-s24"}, NPU)), "galaxy-s24")[12]
    without_any = estimated(Evidence(leave_one_out.without(known, {"galaxy-s24"})), "galaxy-s24")[12]
    assert (own.distance, without_it.distance, without_any.distance) == (0, 1, 2)
    assert own.spread.width < without_it.spread.width < without_any.spread.width


def test_pixel_7_is_estimated_from_a_phone_of_the_same_cores_and_that_is_not_sure(ours: Evidence) -> None:
    found = estimated(ours, "pixel7", ExecutionPath("litert", "float", "cpu"))
    # From Snapdragon 888, ncnn ViT-B/32 at 384 px in 614 ms: T 59, S 217, B 827 ms, each x/÷ 2 at least.
    for k, ms in ((3, 59), (6, 217), (12, 827)):
        assert found[k].ms == pytest.approx(ms, rel=0.15)
        assert found[k].provenance == "estimated"
        assert found[k].low < ms / 2
        assert found[k].high > ms * 2
    assert "614 ms" in found[6].origins[0]


def test_nothing_is_said_where_nothing_is_known(ours: Evidence) -> None:
    assert not estimated(ours, "hailo-8", ExecutionPath("hailort", "float", "npu"))
    assert not estimated(ours, "pixel7", NPU)
    assert not estimated(ours, "coral-dev-board", NPU)
    assert known_paths(ours, "hailo-8", REFERENCE, precision="fp32") == []
    assert chosen_path(ours, "hailo-8", runtime="hailort", precision="fp32").runtime == "hailort"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("galaxy-s24", NPU),
        ("rpi5", CPU),
        ("pixel7", ExecutionPath("litert", "float", "cpu")),
        ("iphone-14-pro", ExecutionPath("coreml", "float", "npu")),
        ("jetson-orin-nano", ExecutionPath("tensorrt", "float", "gpu")),
        ("rpi5-hailo8l", ExecutionPath("hailort", "int8", "npu")),
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
        ("pixel7", "coreml", "onnxruntime, litert, ncnn"),
        ("pixel7", "qnn", "onnxruntime, litert, ncnn"),
        ("galaxy-s24", "hailort", "onnxruntime, litert, qnn, ncnn"),
        ("iphone-13", "qnn", "onnxruntime, coreml, litert, ncnn"),
        ("rpi5", "coreml", "onnxruntime, litert, openvino, hailort, axengine, ncnn, executorch"),
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


def test_few_values_say_less_than_many() -> None:
    few, many = predicted([5, 20], 0, 1), predicted([5, 20] * 8, 0, 1)
    assert few.ms == pytest.approx(10)
    assert few.width > many.width > 4
    # Student's t of one degree of freedom, 3.08, times the deviation ln(4) / sqrt(2), for one more value than two.
    assert few.up == pytest.approx(3.08 * math.log(4) / math.sqrt(2) * math.sqrt(1.5))
    assert predicted([10, 10, 10], 0.3, 1).up == 0.3
    assert predicted([10], 0.3, 1).up == 1


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
    assert "taken for the most accurate" in found.why
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
        "What was timed is another architecture: vit at 384 px; this is at 224 px.",
        "The bundle holds nothing for onnxruntime, which takes onnx: export that as well.",
    ]
    assert len(words.caveats(advice, ["onnx"])) == len(words.caveats(advice)) == 1
    cores = _cpu((4, "A76", 2.0))
    timed = profile("t", record(12, 400.0, runtime="onnxruntime", unit="cpu"), facts=cores)
    related = advised(profile("d", facts=cores), timed)
    assert related.inferred
    assert words.caveats(related)[0].startswith("All of it is inferred from other devices")


# Leaving one out


def test_the_table_in_the_docs_is_current() -> None:
    text = leave_one_out.DOCUMENT.read_text(encoding="utf-8")
    assert leave_one_out.document(text) == text, "run: python -m tests.leave_one_out"
    assert leave_one_out.document(text.replace("x/÷ 1.67", "x/÷ 9.99")) == text
    assert text.count("x/÷ 1.67") > 1


def test_the_measurement_shown_in_the_docs_is_a_profile() -> None:
    text = leave_one_out.DOCUMENT.read_text(encoding="utf-8")
    shown = device.decode(text.partition("```toml\n")[2].partition("```")[0].encode())
    packaged = profiles.packaged()[shown.id].profile
    assert (shown.name, shown.device_class) == (packaged.name, packaged.device_class)
    assert shown.latency[0].provenance == "measured"


def test_what_is_left_out_does_not_say_a_word() -> None:
    def predictions(
        known: Mapping[str, ResolvedProfile], *, whole: bool
    ) -> dict[tuple[str, ExecutionPath, int], Spread | None]:
        return {(c.device, c.path, c.k): c.predicted for c in leave_one_out.cases(known, whole_device=whole)}

    entry = profiles.get("hailo-8").profile
    shifted = tuple(
        msgspec.structs.replace(r, ms=r.ms * (50 if r.k == 6 and r.batch == 1 else 1)) for r in entry.latency
    )
    changed = msgspec.structs.replace(entry, latency=shifted)
    ours = profiles.packaged()
    other = {**ours, "hailo-8": ResolvedProfile(changed)}
    path = ExecutionPath("hailort", "int8", "npu")
    before, after = (predictions(known, whole=False) for known in (ours, other))
    assert before["hailo-8", path, 6] == after["hailo-8", path, 6]
    assert before["hailo-8", path, 3] != after["hailo-8", path, 3]
    before, after = (predictions(known, whole=True) for known in (ours, other))
    assert all(before["hailo-8", path, k] == after["hailo-8", path, k] for k in (3, 6, 12))
    assert before["hailo-10h", path, 6] != after["hailo-10h", path, 6]


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
    ours = profiles.packaged()
    for whole in (False, True):
        total = leave_one_out.rows(leave_one_out.cases(ours, whole_device=whole))[-1]
        assert total.num_socs >= 20
        assert 0.72 <= total.coverage <= 0.92
    families = {row.family for row in leave_one_out.rows(leave_one_out.cases(ours, whole_device=False))}
    assert families >= {"Hailo", "Axera", "Qualcomm", "Jetson", "Raspberry Pi", "all"}


def test_every_profile_of_ours_has_a_budget_with_a_reason() -> None:
    for entry in profiles.packaged().values():
        assert isinstance(entry.profile.budget, Budget), entry.profile.id


@pytest.mark.parametrize(
    "span", [(0.08, 4.6), (1.0, 1e4), (1.1, 1.4), (10.2, 10.3), (0.9, 1.1), (300, 800), (1e-4, 1e9)]
)
def test_ticks_of_a_logarithmic_axis_are_a_few_plain_numbers(span: tuple[float, float]) -> None:
    pytest.importorskip("matplotlib", reason="extra plot")
    from matplotlib.figure import Figure

    from hydra_export.latency.plot import plain_log_ticks

    figure = Figure()
    axes = figure.subplots()
    axes.plot(span, span)
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)
    figure.draw_without_rendering()
    labels = [float(tick.get_text()) for tick in axes.get_xticklabels()]
    assert 3 <= len(labels) <= 15
    assert sorted(set(labels)) == labels
    assert axes.get_xticklabels(minor=True) == []
