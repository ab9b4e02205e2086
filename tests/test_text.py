"""Nasty names: escaped wherever people see them, kept without harm where programs read them."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import msgspec
import onnx
import pytest
from PIL import Image

from hydra_export import checkpoint, checkpoint_file, cli, text
from hydra_export.target import METADATA_PREFIX
from tests.nasty import NASTY, READABLE, names, raw

# Of each kind; HYDRA_EXPORT_NASTY_NAMES=1000 takes many minutes.
NAMES = int(os.environ.get("HYDRA_EXPORT_NASTY_NAMES", "8"))
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_what_cannot_be_seen_is_escaped_and_nothing_is_lost(name: str) -> None:
    assert not raw(text.shown(name))
    assert "\n" not in text.shown(name)
    back = text.shown(name).encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert back == re.sub("[\udc80-\udcff]", lambda found: chr(ord(found[0]) - 0xDC00), name)


@pytest.mark.parametrize("name", READABLE)
def test_what_people_read_stays_as_it_is(name: str) -> None:
    assert text.shown(name) == text.kept(name) == name


def test_escapes_say_which_character_it_was() -> None:
    assert text.shown("\x1b[2J \u202e \U000e0041 caf\udce9 a\nb") == r"\x1b[2J \u202e \U000e0041 caf\xe9 a\nb"


@pytest.mark.parametrize(
    ("name", "kept"),
    [("a\r\nb", "a b"), ("a\u2028b", "a b"), ("\x1b[31mred", "[31mred"), ("\ufeffa", "a"), ("pay\u200bpal", "paypal")],
)
def test_files_keep_the_text_alone(name: str, kept: str) -> None:
    assert text.kept(name) == kept


def test_only_a_line_s_end_ends_a_line() -> None:
    assert text.lines("\ufeffa\u2028b\r\nc\x85d\x0ce\n\nf") == ["a\u2028b", "c\x85d\x0ce", "", "f"]


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_json_says_the_same_with_nothing_raw(name: str) -> None:
    document = msgspec.json.encode(text.in_utf8([name])).decode()
    for encoding in ("utf-8", "ascii"):
        written = text.in_json(document, encoding)
        assert not raw(written)
        assert json.loads(written) == [re.sub("\udce9", r"\\xe9", name)]
        assert written.encode(encoding)


# Commands

REFUSED = [
    ["{}"],
    ["verify", "no/{}"],
    ["verify", "x", "{}"],
    ["export", "--checkpoint", "no/{}"],
    ["export", "--target", "{}"],
    ["export", "--labels", "no/{}"],
    ["export", "--device", "none of these {}"],
    ["export", "--preprocessing", "{}"],
    ["export", "--zip", "--out", "file/{}"],
    ["bench", "--bundle", "no/{}"],
    ["bench", "--runtimes", "{}"],
    ["profile", "--device", "none of these {}"],
    ["profile", "fleet", "no/{}"],
    ["profile", "import", "no/{}", "--device", "pixel7"],
    ["profile", "--profiles", "no/{}"],
    ["report", "no/{}"],
    ["evaluate", "--data", "{}"],
    ["train", "--out", "run", "--recipe", "{}"],
    ["train", "--out", "run", "--override", "{}"],
    ["train", "--out", "run", "--start", "no/{}"],
    ["doctor", "--time-limit", "{}"],
    ["completion", "{}"],
]


@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_a_refused_name_is_shown_escaped(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    every = [*NASTY.values(), *names(NAMES, REFUSED.index(command))]
    chosen = every if NAMES > 8 else every[REFUSED.index(command) % 4 :: 4]
    for name, option in zip(chosen, itertools.cycle(([], ["--json"], ["--debug"])), strict=False):
        if name.startswith("-"):
            continue  # is an option
        status = cli.main([*(part.replace("{}", name) for part in command), *option])
        out, err = capsys.readouterr()
        assert status == 2, (name, out, err)
        assert not raw(out + err), (name, out, err)
        assert not re.search("^(error: )?forged", out + err, re.MULTILINE)
        if "--json" in option:
            assert json.loads(out)["error"]["message"]
        elif not option:
            assert len(err.splitlines()) == 1, err


@pytest.fixture
def hostile(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose every text is nasty, in a folder of such a name."""
    loaded = checkpoint.load(tiny_checkpoint)
    some = ["color", "line", "both", "override", "one-byte escape", "line separator", "html"]
    info = msgspec.structs.replace(
        loaded.info,
        labels=tuple(NASTY[name] for name in some),
        license=NASTY["clear"] + NASTY["mention"],
        accuracy_data=NASTY["line"] + NASTY["override"] + NASTY["table"],
    )
    folder = tmp_path / (NASTY["color"] + NASTY["override"] + "\n- [x]")
    folder.mkdir()
    checkpoint_file.write(folder / "tiny.safetensors", loaded.model.state_dict(), info)
    for label, name in zip(some, info.labels, strict=True):
        place = folder / "photos" / name
        if "/" in name:
            continue
        place.mkdir(parents=True)
        for i in range(2):
            Image.effect_noise((20, 20), 60).convert("RGB").save(place / f"{label}{i}\x1b[2J.png")
    (folder / "photos" / some[0]).mkdir()
    return folder


def test_nothing_raw_is_on_any_output_of_a_hostile_checkpoint(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(hostile)
    given, out = ["--checkpoint", str(hostile / "tiny.safetensors")], hostile / "bundle\x1b[2J\u202e"
    commands = [
        ["export", "--zip", *given, "--heads", "2", "--no-cache", "--out", str(out)],
        ["verify", str(out)],
        ["bench", "--bundle", str(out), "--runs", "2"],
        ["report", str(out), "--out", "page.html"],
        ["report", str(out), "--format", "md"],
        ["evaluate", *given, "--heads", "2", "--data", str(hostile / "photos")],
        ["profile", "--device", "pixel7", "--bundle", str(out)],
    ]
    for command in commands:
        for option in ([], ["--json"]):
            status = cli.main([*command, *option])
            printed = "".join(capsys.readouterr())
            assert status == (2 if command[0] == "evaluate" else 0), printed
            assert not raw(printed), printed
    for path in (hostile / "page.html", out / "README.md", out / "labels.txt"):
        content = path.read_text(encoding="utf-8")
        assert not raw(content)
        assert not re.search("^(error: )?forged", content, re.MULTILINE)
        assert "<script>" not in content or path.suffix == ".txt"
    assert len((out / "labels.txt").read_text(encoding="utf-8").split("\n")) == 8
    model = onnx.load(out / "onnx" / "tiny-k2.onnx")
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(props[f"{METADATA_PREFIX}labels"])[:2] == ["[31mred", "fine error: forged"]
    assert not raw("".join(props.values()))


@pytest.mark.parametrize("command", [["export", "--out"], ["verify"], ["report"], ["evaluate", "--data"]], ids=" ".join)
def test_a_path_that_is_no_utf8_is_refused_and_json_prints_its_document(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = tmp_path / "caf\udce9"
    assert cli.main([*command, str(folder), "--json"]) == 2
    assert r"caf\xe9' is not UTF-8" in json.loads(capsys.readouterr().out)["error"]["message"]
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert cli.main([*command, "x"]) == 2
    assert r"caf\xe9' is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["\ufeffant\r\nbee\r\ncat\r\ndog\r\neel\r\nfox\r\ngnu", "ant\n\nbee\ncat\ndog\neel\nfox\ngnu\n\n"]
)
def test_labels_of_any_editor_are_read(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, content: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content.replace("cat", "c\u2028a\x85t\x0c!").encode())
    given = ["--checkpoint", str(tiny_checkpoint), "--heads", "2", "--labels", str(tmp_path / "labels.txt"), "--json"]
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 0
    labels = json.loads(capsys.readouterr().out)["manifest"]["model"]["labels"]
    assert labels == ["ant", "bee", "c\u2028a\x85t\x0c!", "dog", "eel", "fox", "gnu"]
    assert (tmp_path / "out" / "labels.txt").read_text().split("\n") == [
        "ant",
        "bee",
        "c a t !",
        "dog",
        "eel",
        "fox",
        "gnu",
        "",
    ]


def test_one_of_a_kind_is_singular() -> None:
    assert [text.counted(count, "core") for count in (0, 1, 2, 1000)] == ["0 cores", "1 core", "2 cores", "1,000 cores"]
