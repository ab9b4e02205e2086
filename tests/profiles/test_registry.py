"""The registry of devices: all of ours are sound, people find them by name, and what a user adds outranks ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from hydra_export import device, profiles
from hydra_export.device import Match
from hydra_export.errors import BadInput, UnknownName
from hydra_export.profiles import ResolvedProfile

ROOT = Path(__file__).parents[2]
TABLES = ROOT.parent / "shared" / "devices"

OWN = """
schema_version = 1
id = "{id}"
name = "{name}"
class = "board"

[match]
cpu_name = ["{cpu}"]

[facts]
os = {{ value = "NixOS", source = "mine" }}

[sources]
mine = "looked"

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
date = "2026-01-31"
provenance = "measured"
source = "mine"
"""


@pytest.fixture(autouse=True)
def _no_profiles_of_whoever_runs_this(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write(folder: Path, name: str, *, own: str = "rpi5", title: str = "My Pi", cpu: str = "MyCPU 9") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(OWN.format(id=own, name=title, cpu=cpu))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG Base Directory Specification")
def test_the_users_own_are_where_settings_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert profiles.user_folder() == tmp_path / "config" / "hydra-export" / "profiles"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles.user_folder() == tmp_path / ".config" / "hydra-export" / "profiles"


def problems(entries: Iterable[ResolvedProfile]) -> list[str]:
    """What is wrong with profiles taken together: who could be taken for whom."""
    wrong = []
    meaning: dict[tuple[str, str], str] = {}
    for profile, path in ((entry.profile, entry.files[0]) for entry in entries):
        if path.stem != profile.id:
            wrong.append(f"{path}: id: '{profile.id}' is not the file's name")
        names = (profile.id, profile.name, *profile.aliases)
        keys = [("name", "".join(filter(str.isalnum, text.lower().replace("+", "plus")))) for text in names]
        fields = set(Match.__struct_fields__) - {"source"}
        keys += [(key, text) for key in fields for text in getattr(profile.match, key)]
        wrong += [
            f"{path}: {pair[0]}: '{pair[1]}' also means {meaning[pair]}"
            for pair in keys
            if meaning.setdefault(pair, profile.id) != profile.id
        ]
    return wrong


def test_all_of_ours_are_sound_and_none_is_taken_for_another() -> None:
    assert problems(profiles.packaged().values()) == []
    assert len(profiles.names()) >= 130


def test_every_fact_and_every_time_names_a_source_or_says_unverified() -> None:
    for name, entry in profiles.resolve().items():
        for record in entry.profile.latency:
            assert record.source in entry.profile.sources, name
        facts = [getattr(entry.profile.facts, field) for field in device.Facts.__struct_fields__]
        assert any(facts), name
        assert all(fact.source in {"unverified", *entry.profile.sources} for fact in facts if fact), name


def test_a_time_is_kept_once_however_many_proxies_share_its_job() -> None:
    jobs = [
        record.note.split(",")[0]
        for entry in profiles.resolve().values()
        for record in entry.profile.latency
        if "AI Hub job" in record.note
    ]
    assert len(jobs) > 100
    assert len(set(jobs)) == len(jobs)
    assert "qcs8275-proxy" not in profiles.names()
    assert profiles.get("QCS8275 (Proxy)").profile.id == "sa7255p-adp"


def test_what_must_not_be_used_is_not_there() -> None:
    records = [(name, record) for name, entry in profiles.resolve().items() for record in entry.profile.latency]
    assert not [name for name, record in records if "REJECT" in record.note or record.ms == 0.35]
    assert not [name for name, record in records if name == "iphone-14-pro"], "its only figure is a blog's"
    outdated = {name for name, record in records if "a newer release is" in record.suspect}
    assert outdated >= {"galaxy-s23", "snapdragon-8-elite-qrd"}
    assert "galaxy-s24" not in outdated
    suspects = {name for name, record in records if record.suspect and "a newer release is" not in record.suspect}
    assert suspects == {"rpi5", "axera-ax650n", "rk3588", "visionfive-2", "galaxy-s24"}
    overclocked = [record for name, record in records if "overclocked" in record.device]
    assert len(overclocked) == 2
    assert all("overclocked" in record.suspect for record in overclocked)


def test_of_a_model_run_in_one_way_only_the_newest_release_is_kept() -> None:
    for name, entry in profiles.packaged().items():
        ways = [
            (record.device, record.model, record.precision, record.note.split(", ")[1])
            for record in entry.profile.latency
            if "AI Hub job" in record.note
        ]
        assert len(set(ways)) == len(ways), name
    newest = [r for r in profiles.packaged()["galaxy-s24"].profile.latency if r.date == "2026-02-24"]
    assert len(newest) == 7


def test_most_facts_name_a_source() -> None:
    facts = [
        fact
        for entry in profiles.packaged().values()
        for field in device.Facts.__struct_fields__
        if (fact := getattr(entry.profile.facts, field))
    ]
    assert sum(fact.source != device.UNVERIFIED for fact in facts) >= 0.75 * len(facts)
    for entry in profiles.packaged().values():
        assert not [text for text in entry.profile.sources.values() if "not recorded which" in text]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("redmi-note-10-5g", "soc", "Dimensity 700"),
        ("galaxy-a73", "cpu", ((1, "A78", 2.4), (3, "A78", 2.2), (4, "A55", 1.9))),
        ("galaxy-s24", "cpu", ((1, "X4", 3.3), (3, "A720", 3.2), (2, "A720", 3.0), (2, "A520", 2.3))),
        ("macbook-m1", "ram_gb", (8, 16)),
        ("macbook-m4", "ram_gb", (16, 32)),
        ("rpi5", "ram_gb", (1, 16)),
        ("galaxy-s22", "npu_generation", 69),
        ("galaxy-s23", "npu_generation", 73),
        ("rpi5-hailo8", "npu_tops", 26),
    ],
)
def test_facts_that_were_wrong_or_missing(name: str, field: str, value: object) -> None:
    fact = getattr(profiles.packaged()[name].profile.facts, field)
    known = tuple((one.cores, one.core, one.ghz) for one in fact.value) if field == "cpu" else fact.value
    assert known == value


def test_what_npus_took_in_int8_is_of_integer_activations() -> None:
    records = [r for entry in profiles.packaged().values() for r in entry.profile.latency]
    assert {r.precision for r in records if r.unit == "npu" and "8" in r.precision} == {
        *("int8-static", "w8a16", "w8a8_mixed_int16"),
    }
    dynamic = {(r.runtime, r.unit) for r in records if r.precision == "int8"}
    assert dynamic == {("litert", "cpu"), ("executorch", "cpu")}, "whose sources say no more"


def test_phones_of_another_maker_are_not_of_its_family() -> None:
    assert profiles.packaged()["redmi-note-10-5g"].profile.family == "MediaTek"


@pytest.mark.skipif(not TABLES.is_dir(), reason="the tables that the profiles are made from are not here")
def test_the_files_are_what_the_script_makes_of_its_tables(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_device_profiles.py"
    subprocess.run([sys.executable, script, TABLES, tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.glob("*.toml")}
    assert made == {path.name: path.read_text() for path in (ROOT / "hydra_export" / "profiles").glob("*.toml")}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("pixel7", "pixel7"),
        ("Pixel 7", "pixel7"),
        ("google pixel 7", "pixel7"),
        ("panther", "pixel7"),
        ("galaxy s23", "galaxy-s23"),
        ("S25", "galaxy-s25"),
        ("iPhone 14 Pro", "iphone-14-pro"),
        ("iphone 12", "iphone-12"),
        ("hailo 8l", "rpi5-hailo8l"),
        ("Raspberry Pi 5", "rpi5"),
        ("pixel 8 pro", "pixel8-pro"),
        ("pixel 9 pro xl", "pixel9-pro"),
        ("iPhone 15", "iphone-15"),
        ("rpi 4", "rpi4"),
        ("raspberry pi 4", "rpi4"),
        ("pi 5", "rpi5"),
        ("Raspberry Pi 3B+", "rpi3b-plus"),
        ("raspberry pi 3b", "rpi3b"),
        ("CM4", "rpi-cm4"),
        ("orange pi 5", "rk3588"),
        ("ROCK 5B", "rk3588"),
        ("galaxy s23+", "galaxy-s23"),
        ("redmi note 10 5g", "redmi-note-10-5g"),
        ("M2 Pro", "macbook-m2-pro"),
        ("macbook air m3", "macbook-m3"),
        ("N100", "intel-n100"),
        ("coral", "coral-dev-board"),
        ("snapdragon 8+ gen 1", "snapdragon-8-plus-gen-1"),
    ],
)
def test_a_device_is_found_however_it_is_spelled(asked: str, meant: str) -> None:
    assert profiles.get(asked).profile.id == meant


def test_a_name_of_several_devices_is_not_guessed() -> None:
    with pytest.raises(BadInput, match=r"'orin nano' could be .*jetson-orin-nano"):
        profiles.get("orin nano")


def test_a_name_of_very_many_devices_lists_a_few() -> None:
    with pytest.raises(BadInput, match=r"'laptop' could be .* or \S+\. Pass one"):
        profiles.get("laptop")
    with pytest.raises(BadInput, match=r"'galaxy' could be (\S+, ){6}\S+ or \d+ others\."):
        profiles.get("galaxy")


@pytest.mark.parametrize("name", ["esp32", "ESP32-S3", "esp32-p4"])
def test_a_microcontroller_is_too_small_and_the_answer_says_why(name: str) -> None:
    with pytest.raises(BadInput, match=r"is too small: .*5\.7 million weights.*KB of memory.*Zero 2 W"):
        profiles.get(name)


def test_an_unknown_device_is_told_the_nearest_or_where_to_add_it(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'pixel7'"):
        profiles.get("pixle7")
    with pytest.raises(BadInput, match=str(tmp_path / "config" / "hydra-export" / "profiles")):
        profiles.get("nothing like it")
    with pytest.raises(BadInput, match="No device ''"):
        profiles.get("")


@pytest.mark.parametrize(
    ("said", "meant", "by"),
    [
        # ro.product.model and ro.soc.model
        (Match(android_model=("Pixel 7",), android_soc_model=("Tensor G2",)), "pixel7", "android_model"),
        (Match(android_model=("Pixel 7 Pro",), android_soc_model=("GS201",)), "pixel7-pro", "android_model"),
        (Match(android_model=("Pixel 6a",), android_soc_model=("Tensor",)), "pixel6a", "android_model"),
        (Match(android_model=("Pixel 9 Pro",)), "pixel9-pro", "android_model"),
        (Match(android_model=("Pixel 10 Pro XL",)), "pixel10-pro", "android_model"),
        (Match(android_model=("Pixel Fold",), android_soc_model=("Tensor G2",)), "tensor-g2", "android_soc_model"),
        (Match(android_model=("SM-S921U1",), android_soc_model=("SM8650",)), "galaxy-s24", "android_model"),
        (Match(android_model=("SM-S926N",), android_soc_model=("s5e9945",)), "galaxy-s24-exynos", "android_model"),
        (Match(android_model=("SM-S721B",), android_soc_model=("s5e9945",)), "exynos-2400", "android_soc_model"),
        (Match(android_model=("SM-A536B",)), "galaxy-a53", "android_model"),
        (Match(android_model=("SM-A546E",), android_soc_model=("s5e8835",)), "galaxy-a54", "android_model"),
        (Match(android_model=("CPH2581",), android_soc_model=("SM8650",)), "oneplus-12", "android_model"),
        (Match(android_model=("V2227A",), android_soc_model=("SM8550",)), "snapdragon-8-gen-2", "android_soc_model"),
        (Match(android_model=("RMX3300",), android_soc_model=("SM8450",)), "snapdragon-8-gen-1", "android_soc_model"),
        (Match(android_model=("2511FPC34G",), android_soc_model=("MT6897",)), "dimensity-8300", "android_soc_model"),
        (Match(android_soc_model=("MT6789V/CD",)), "helio-g99", "android_soc_model"),
        (Match(android_model=("M2103K19G",), android_soc_model=("MT6833",)), "redmi-note-10-5g", "android_model"),
        # hw.machine
        (Match(ios_machine=("iPhone15,2",)), "iphone-14-pro", "ios_machine"),
        (Match(ios_machine=("iPhone18,1",)), "iphone-17-pro", "ios_machine"),
        (Match(ios_machine=("iPad16,4",)), "ipad-pro-11-inch-m4", "ios_machine"),
        # /proc/device-tree/model
        (Match(devicetree_model=("Raspberry Pi 5 Model B Rev 1.1",)), "rpi5", "devicetree_model"),
        (Match(devicetree_model=("Raspberry Pi 500 Rev 1.0",)), "rpi500", "devicetree_model"),
        (Match(devicetree_model=("Raspberry Pi 3 Model B Rev 1.2",)), "rpi3b", "devicetree_model"),
        (Match(devicetree_model=("Raspberry Pi 3 Model B Plus Rev 1.3",)), "rpi3b-plus", "devicetree_model"),
        (Match(devicetree_model=("Raspberry Pi 4 Model B Rev 1.4",)), "rpi4", "devicetree_model"),
        (Match(devicetree_model=("Raspberry Pi Compute Module 4 Rev 1.1",)), "rpi-cm4", "devicetree_model"),
        (Match(devicetree_model=("Raspberry Pi Zero 2 W Rev 1.0",)), "rpi-zero2w", "devicetree_model"),
        (
            Match(devicetree_model=("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",)),
            "jetson-orin-nano-super",
            "devicetree_model",
        ),
        (Match(devicetree_model=("NVIDIA Jetson Orin Nano Developer Kit",)), "jetson-orin-nano", "devicetree_model"),
        (
            Match(devicetree_model=("NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",)),
            "jetson-orin-nx",
            "devicetree_model",
        ),
        (Match(devicetree_model=("NVIDIA Jetson AGX Orin Developer Kit",)), "jetson-agx-orin", "devicetree_model"),
        (Match(devicetree_model=("NVIDIA Jetson AGX Thor Developer Kit",)), "jetson-agx-thor", "devicetree_model"),
        (Match(devicetree_model=("Xunlong Orange Pi 5 Plus",)), "rk3588", "devicetree_model"),
        (Match(devicetree_model=("Radxa ROCK 5B",)), "rk3588", "devicetree_model"),
        (Match(devicetree_model=("Radxa ROCK 5 Model B",)), "rk3588", "devicetree_model"),
        (Match(devicetree_model=("Radxa ROCK3 Model A",)), "rk3568", "devicetree_model"),
        (Match(devicetree_model=("Pine64 RockPro64 v2.1",)), "rk3399", "devicetree_model"),
        (Match(devicetree_model=("NXP i.MX95 19X19 board",)), "imx95", "devicetree_model"),
        (Match(devicetree_model=("FSL i.MX8MM EVK board",)), "imx8mm", "devicetree_model"),
        (Match(devicetree_model=("StarFive VisionFive 2 v1.3B",)), "visionfive-2", "devicetree_model"),
        (Match(devicetree_model=("Arduino UnoQ",)), "arduino-uno-q", "devicetree_model"),
        # /proc/cpuinfo and machdep.cpu.brand_string
        (
            Match(cpu_name=("Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU",)),
            "snapdragon-x-elite",
            "cpu_name",
        ),
        (Match(cpu_name=("Apple M2 Pro",)), "macbook-m2-pro", "cpu_name"),
        (Match(cpu_name=("Intel(R) N100",)), "intel-n100", "cpu_name"),
        (Match(cpu_name=("11th Gen Intel(R) Core(TM) i7-11800H @ 2.30GHz",)), "core-i7-11800h", "cpu_name"),
        (Match(cpu_name=("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz",)), "intel-core-11th-gen", "cpu_name"),
        (Match(cpu_name=("12th Gen Intel(R) Core(TM) i7-12650H",)), "intel-core-12th-gen", "cpu_name"),
        (Match(cpu_name=("Intel(R) Core(TM) i9-14900K",)), "intel-core-14th-gen", "cpu_name"),
        (Match(cpu_name=("Intel(R) Core(TM) Ultra 7 155H",)), "intel-core-ultra-1", "cpu_name"),
        (Match(cpu_name=("Intel(R) Core(TM) i7-7700K CPU @ 4.20GHz",)), "core-i7-7700k", "cpu_name"),
        (Match(cpu_name=("AMD Ryzen 7 5700G with Radeon Graphics",)), "ryzen-7-5700g", "cpu_name"),
        (Match(cpu_name=("AMD Ryzen 7 5800H with Radeon Graphics",)), "ryzen-5000", "cpu_name"),
        (Match(cpu_name=("AMD Ryzen 7 7840U w/ Radeon  780M Graphics",)), "ryzen-7000", "cpu_name"),
        (Match(cpu_name=("AMD Ryzen AI 9 HX 370 w/ Radeon 890M",)), "ryzen-ai-300", "cpu_name"),
    ],
)
def test_a_device_is_recognised_by_what_it_says(said: Match, meant: str, by: str) -> None:
    found = profiles.match(said)
    assert found is not None
    assert (found[0].profile.id, found[1]) == (meant, by)


def test_a_phone_known_by_its_chip_alone_is_not_called_by_the_name_of_another() -> None:
    for entry in profiles.packaged().values():
        profile = entry.profile
        if profile.match.android_soc_model:
            assert profile.name.endswith(("phones", "devices")), profile.id
            assert not profile.match.android_model


@pytest.mark.parametrize(
    "said",
    [
        Match(),
        Match(android_model=("Pixel 77 Pro",)),
        Match(android_model=("SM-S921B5",), android_soc_model=("SM9999",)),
        Match(cpu_name=("Apple M9 Max",)),
        Match(ios_machine=("iPhone15,20",)),
        Match(devicetree_model=("Raspberry Pi Pico",)),
    ],
)
def test_a_device_that_is_none_of_these_is_not_taken_for_one(said: Match) -> None:
    assert profiles.match(said) is None


def test_this_machine_says_something_of_itself() -> None:
    said = profiles.here()
    assert any(getattr(said, key) for key in ("cpu_name", "devicetree_model", "ios_machine", "android_model"))


def test_what_a_user_adds_to_one_of_ours_is_marked_as_theirs(tmp_path: Path) -> None:
    ours = profiles.get("rpi5").profile
    path = write(tmp_path / "config" / "hydra-export" / "profiles", "kiosk.toml")
    entry = profiles.get("rpi5")
    assert entry.files[-1] == path
    assert entry.profile.name == "My Pi"
    assert [record.ms for record in entry.own] == [80.5]
    assert entry.profile.latency == (*ours.latency, *entry.own)
    assert entry.profile.facts.os is not None
    assert entry.profile.facts.os.value == "NixOS"
    assert entry.profile.facts.cpu == ours.facts.cpu
    assert entry.profile.sources.keys() == {*ours.sources, "mine"}
    assert profiles.get("rpi4").own == ()


def test_a_device_of_the_users_own_is_found_by_name_and_by_what_it_says(tmp_path: Path) -> None:
    write(tmp_path / "mine", "box.toml", own="box", title="The Box", cpu="ACME 9000")
    assert profiles.get("the box", tmp_path / "mine").profile.id == "box"
    assert set(profiles.names(tmp_path / "mine")) - set(profiles.names()) == {"box"}
    found = profiles.match(Match(cpu_name=("ACME 9000",)), tmp_path / "mine")
    assert found is not None
    assert found[0].profile.id == "box"


def test_a_folder_given_takes_the_place_of_the_users_own(tmp_path: Path) -> None:
    write(tmp_path / "config" / "hydra-export" / "profiles", "box.toml", own="box")
    write(tmp_path / "other", "crate.toml", own="crate")
    assert "box" in profiles.names()
    assert "box" not in profiles.names(tmp_path / "other")
    with pytest.raises(BadInput, match="is not a folder"):
        profiles.names(tmp_path / "none")


def test_two_profiles_with_one_id_are_refused_naming_both(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a.toml", own="box"), write(tmp_path, "b.toml", own="box")
    with pytest.raises(BadInput) as caught:
        profiles.resolve(tmp_path)
    assert str(first) in caught.value.message
    assert f"{second}: id:" in caught.value.message


def test_a_source_that_means_two_things_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "rpi5.toml")
    path.write_text(path.read_text().replace("mine", "ncnn"))
    with pytest.raises(BadInput, match=r"rpi5\.toml: sources\.ncnn"):
        profiles.resolve(tmp_path)


def test_the_validator_sees_who_could_be_taken_for_whom(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", own="a", title="One name")
    write(tmp_path, "c.toml", own="b", title="one NAME")
    found = profiles.resolve(tmp_path)
    told = "\n".join(problems([found["a"], found["b"]]))
    assert "id: 'b' is not the file's name" in told
    assert "name: 'onename' also means a" in told
    assert "cpu_name: 'MyCPU 9' also means a" in told


# What is measured

ADD = """
import sys
from pathlib import Path
from hydra_export import profiles
from hydra_export.device import DeviceProfile, LatencyRecord

def record(model):
    return LatencyRecord(
        model=model, k=3, gmacs=1.0, model_gmacs=1.0, resolution=224, runtime="onnxruntime", precision="fp32",
        unit="cpu", threads=1, ms=1.0, date="2026-01-31", provenance="measured", source="mine",
    )

def whose():
    taken = profiles.resolve(Path(sys.argv[1]))
    return DeviceProfile(id=profiles.new_id("board", taken), name=f"Board {who}", device_class="board", sources=mine)

who, mine = sys.argv[2], {"mine": "looked"}
print("ready", flush=True)
sys.stdin.readline()
ours, _ = profiles.add_measured(whose, [record("first")], mine, Path(sys.argv[1]))
print(ours)
for number in range(int(sys.argv[3])):
    about = DeviceProfile(id="rpi5", name="Raspberry Pi 5", device_class="board")
    profiles.add_measured(about, [record(f"{who}-{number}")], mine, Path(sys.argv[1]))
"""


def test_records_that_two_processes_add_at_once_are_all_kept(tmp_path: Path) -> None:
    """500 each were added by hand."""
    count = int(os.environ.get("HYDRA_EXPORT_RECORDS", "25"))
    adding = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(tmp_path), who, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in "ab"
    ]
    for each in adding:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in adding:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    names = [each.communicate()[0].strip() for each in adding]
    assert [each.returncode for each in adding] == [0, 0]
    found = profiles.resolve(tmp_path)
    assert {record.model for record in found["rpi5"].own} == {f"{who}-{n}" for who in "ab" for n in range(count)}
    assert sorted(names) == ["board", "board-2"]  # nor do two devices get one id
    assert [found[name].profile.name for name in names] == ["Board a", "Board b"]
    assert {path.suffix for path in (tmp_path / profiles.MEASURED).iterdir()} == {".toml"}
