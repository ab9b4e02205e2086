"""Device profiles as TOML: what a person may write, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hydra_export import device, profiles
from hydra_export.device import DeviceProfile
from hydra_export.errors import BadInput

ROOT = Path(__file__).parents[1]
PROFILE = """
schema_version = 1
id = "kiosk"
name = "Kiosk"
class = "board"

[facts]
cpu = { value = [{ cores = 4, core = "A76", ghz = 2.4 }], source = "datasheet" }
ram_gb = { value = [4, 8], source = "unverified" }
npu_tops = { value = 0, source = "datasheet" }

[sources]
datasheet = "Kiosk data sheet, revision 3"

[[latency]]
model = "hydravit_base_patch16_224"
k = 6
gmacs = 4.6
model_gmacs = 17.56
resolution = 224
runtime = "onnxruntime"
precision = "fp32"
unit = "cpu"
ms = 80.5
low = 79
high = 84
date = "2026-01-31"
provenance = "measured"
source = "datasheet"
"""


def changed(old: str, new: str) -> bytes:
    assert old in PROFILE
    return PROFILE.replace(old, new).encode()


def test_a_profile_says_what_was_written() -> None:
    profile = device.decode(PROFILE.encode())
    assert profile.device_class == "board"
    assert profile.facts.ram_gb is not None
    assert device.ends(profile.facts.ram_gb.value) == (4, 8)
    (record,) = profile.latency
    assert (record.k, record.ms, record.low, record.high, record.batch) == (6, 80.5, 79, 84, 1)


def test_every_profile_reads_back_as_it_was_written() -> None:
    strange = msgspec.structs.replace(
        device.decode(PROFILE.encode()), name='Ki"os\\k\n\x7fé', sources={"a b": "x", "datasheet": "y"}
    )
    for profile in [strange, *(entry.profile for entry in profiles.resolve().values())]:
        assert device.decode(device.encode(profile).encode()) == profile


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id = ", "it is not TOML: Invalid value"),
        (b"\xff", "it is not TOML"),
        (changed("ms = 80.5", "ms = -1"), "latency[0].ms: -1.0 is not a number above 0"),
        (changed("ms = 80.5", "ms = nan"), "latency[0].ms: nan is not a number above 0"),
        (changed("ms = 80.5", "ms = inf"), "latency[0].ms: inf is not a number above 0"),
        (changed("ms = 80.5", 'ms = "fast"'), "latency[0].ms: Expected `float`, got `str`"),
        (changed("high = 84", "high = nan"), "latency[0].high: nan is not"),
        (changed("high = 84", "high = 80"), "latency[0].high: 80.0 is below ms, 80.5"),
        (changed("low = 79", "low = 81"), "latency[0].low: 81.0 is above ms, 80.5"),
        (changed("gmacs = 4.6", "gmacs = 46"), "latency[0].gmacs: 46.0 is more than the whole model's 17.56"),
        (
            changed('runtime = "onnxruntime"', 'runtime = "onxruntime"'),
            "latency[0].runtime: there is no 'onxruntime' (did you mean 'onnxruntime'?)",
        ),
        (changed('runtime = "onnxruntime"', 'runtime = ""'), "latency[0].runtime: there is no '' (one of onnxruntime,"),
        (changed("k = 6", "k = 0"), "latency[0].k: 0 is not a number above 0"),
        (changed('unit = "cpu"', 'unit = "tpu"'), "latency[0].unit: Invalid enum value 'tpu' (one of cpu, gpu, npu)"),
        (
            changed('precision = "fp32"', 'precision = "f32"'),
            "latency[0].precision: Invalid enum value 'f32' (one of fp32,",
        ),
        (changed('class = "board"', 'class = "plank"'), "class: Invalid enum value 'plank' (one of phone,"),
        (changed('date = "2026-01-31"\n', ""), "latency[0]: Object missing required field `date`"),
        (
            changed('provenance = "measured"\nsource = "datasheet"', 'provenance = "measured"'),
            "missing required field `source`",
        ),
        (changed("2026-01-31", "2026-02-30"), "latency[0].date: '2026-02-30' is not YYYY-MM-DD"),
        (changed("2026-01-31", "20260131"), "latency[0].date: '20260131' is not YYYY-MM-DD"),
        (changed("2026-01-31", "unknown"), "latency[0].date: a measurement needs its date"),
        (
            changed('"measured"\nsource = "datasheet"', '"measured"\nsource = "web"'),
            "latency[0].source: [sources] does not list 'web'",
        ),
        (changed('"measured"', '"estimated"'), "latency[0].anchors: an estimate needs anchors"),
        (
            changed('ghz = 2.4 }], source = "datasheet"', 'ghz = 2.4 }], source = "web"'),
            "facts.cpu.source: [sources] does not list 'web'",
        ),
        (changed("cores = 4", "cores = 0"), "facts.cpu.value.cores: 0 is not"),
        (changed("value = [4, 8]", "value = [8, 4]"), "facts.ram_gb.value: 8.0 to 4.0 is not a range"),
        (
            changed('source = "unverified"', 'note = "no source"'),
            "facts.ram_gb: Object missing required field `source`",
        ),
        (changed('name = "Kiosk"', 'name = " "'), "name: is empty"),
        (changed('id = "kiosk"', 'id = "../kiosk"'), "id: Expected `str` matching regex"),
        (changed("[facts]", "[fact]"), "Object contains unknown field `fact`"),
        (changed("schema_version = 1", "schema_version = 2"), "schema_version: Invalid enum value 2"),
    ],
)
def test_a_wrong_file_is_told_the_file_and_the_field(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "kiosk.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        device.read(path)
    assert str(path) in caught.value.message
    assert told in caught.value.message
    assert caught.value.remedy


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        device.read(tmp_path / "none.toml")


def test_the_json_schema_is_current() -> None:
    assert (ROOT / device.SCHEMA_FILE).read_bytes() == device.schema(), (
        "run: python scripts/make_device_profiles.py --schema"
    )


def test_an_own_budget_needs_its_reason() -> None:
    fields = msgspec.to_builtins(device.decode(PROFILE.encode()))
    with pytest.raises(msgspec.ValidationError, match=r"budget\.reason: is empty"):
        msgspec.convert(fields | {"budget": {"ms": 5, "reason": ""}}, DeviceProfile)
