"""What counts as trouble is seen, and what does not is not."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from hydra_export.errors import BadInput
from tests.fuzz import judge, run
from tests.fuzz.reader import Reader


def _refuse(_path: Path) -> None:
    raise BadInput("It is wrong.")


def _raise(_path: Path) -> None:
    raise KeyError("x")


def _warn(_path: Path) -> None:
    warnings.warn("it is odd", stacklevel=1)


def _fill(path: Path) -> None:
    assert len(b"\1" * (200 * 2**20)) > path.stat().st_size


def _set_aside(path: Path) -> None:
    with path.open("rb") as file:
        file.read(200 * 2**20)  # so much is set aside, and never touched


def _take_long(_path: Path) -> None:
    until = time.process_time() + 1.2 * judge.MOST_SECONDS
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("read", "traced", "kind"),
    [
        (lambda _path: None, True, ""),
        (_refuse, False, ""),
        (_raise, False, "KeyError in test_judge.py:_raise"),
        (_warn, False, "warning UserWarning"),
        (_fill, False, "memory"),
        (_set_aside, True, "memory"),
        (_take_long, False, "time"),
    ],
)
def test_trouble_is_told_by_its_kind(read: Callable[[Path], object], traced: bool, kind: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"x")
    under_test = Reader(lambda: [b"x"], lambda _random, content: content, bytes, read)
    judge.forget_peak()
    fate = judge.judge(under_test, tmp_path / "input", traced=traced)
    assert fate.kind == kind, fate.trouble
    assert fate.refusal == ("BadInput" if read is _refuse else "")


def test_an_input_that_is_trouble_is_kept_with_what_is_wrong(tmp_path: Path) -> None:
    under_test, tally = Reader(lambda: [b"x"], lambda _random, content: content + b"y", bytes, _raise), run.Tally()
    (tmp_path / "kept").mkdir()
    for _ in range(9):
        run.take("any", under_test, run.Corpus([b"x"]), "0", tally, tmp_path, tmp_path / "kept")
    assert tally.trouble == {"KeyError in test_judge.py:_raise": 9}
    assert [Path(path).read_bytes() for path in tally.kept] == [b"x", b"xy", b"xy"]
    assert "raise KeyError" in Path(f"{tally.kept[0]}.why").read_text()


def test_a_reader_that_is_fuzzed_in_a_process_of_its_own_is_tallied(tmp_path: Path) -> None:
    tally = run.run("preprocessing", "0", seconds=60, most=30, kept=tmp_path / "kept")
    assert tally.inputs == 30
    assert tally.accepted + sum(tally.refused.values()) == 30
    assert "preprocessing      30" in run.table({"preprocessing": tally})
    assert not list((tmp_path / "kept").iterdir())


def test_a_process_that_ends_or_hangs_is_trouble_with_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import pathlib, sys, time; pathlib.Path(sys.argv[sys.argv.index('--alone') + 1], 'input.x').write_bytes(b'y')"
    )
    for code, seconds in ((f"{program}; sys.exit(7)", 60), (f"{program}; time.sleep(60)", 1)):
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nshift 2\nexec python3 -c "{code}" "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(run, "_STUCK_SECONDS", seconds)
        tally = run.run("any", "0", seconds=1, most=1, kept=tmp_path / "kept")
        (path,) = tally.kept
        assert Path(path).read_bytes() == b"y"
        assert list(tally.trouble) == [
            "the process ended with status 7" if seconds == 60 else "it hangs, or took all memory"
        ]
