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
        keys = [("name", "".join(filter(str.isalnum, text.lower()))) for text in names]
        # Phones may share a chip; nothing else means two devices.
        fields = set(Match.__struct_fields__) - {"source", "android_soc_model"}
        keys += [(key, text) for key in fields for text in getattr(profile.match, key)]
        wrong += [
            f"{path}: {pair[0]}: '{pair[1]}' also means {meaning[pair]}"
            for pair in keys
            if meaning.setdefault(pair, profile.id) != profile.id
        ]
    return wrong


def test_all_of_ours_are_sound_and_none_is_taken_for_another() -> None:
    assert problems(profiles.packaged().values()) == []
    assert len(profiles.names()) >= 48


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
    assert {name for name, record in records if record.suspect} == {"rpi5", "axera-ax650n"}


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
    ],
)
def test_a_device_is_found_however_it_is_spelled(asked: str, meant: str) -> None:
    assert profiles.get(asked).profile.id == meant


def test_a_name_of_several_devices_is_not_guessed() -> None:
    with pytest.raises(BadInput, match=r"'orin nano' could be .*jetson-orin-nano"):
        profiles.get("orin nano")


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
        (Match(android_model=("Pixel 7",), android_soc_model=("Tensor G2",)), "pixel7", "android_model"),
        (Match(android_model=("Pixel 7 Pro",), android_soc_model=("Tensor G2",)), "pixel7", "android_soc_model"),
        (Match(android_model=("SM-S921U1",), android_soc_model=("SM8650",)), "galaxy-s24", "android_soc_model"),
        (Match(android_model=("SM-A536B",)), "galaxy-a53", "android_model"),
        (Match(ios_machine=("iPhone15,2",)), "iphone-14-pro", "ios_machine"),
        (Match(devicetree_model=("Raspberry Pi 5 Model B Rev 1.1",)), "rpi5", "devicetree_model"),
        (
            Match(cpu_name=("Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU",)),
            "snapdragon-x-elite",
            "cpu_name",
        ),
    ],
)
def test_a_device_is_recognised_by_what_it_says(said: Match, meant: str, by: str) -> None:
    found = profiles.match(said)
    assert found is not None
    assert (found[0].profile.id, found[1]) == (meant, by)


@pytest.mark.parametrize(
    "said",
    [
        Match(),
        Match(android_model=("Pixel 7 Pro",)),
        Match(cpu_name=("Apple M1 Max",)),
        Match(ios_machine=("iPhone15,20",)),
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
