"""Every reader on a few hundred mutants, and on each input that once was trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydra_export.errors import BadInput
from tests.fuzz import judge, reader, run
from tests.fuzz.reader import Reader

_INPUTS = {"archive": 60, "golden": 60, "tflite": 60, "safetensors": 60, "pth": 60}  # of slow ones
_INPUTS |= {"hub_config": 40, "coreai": 40}
_QUICK = 200
_SLOW = {"coreml"}  # coremltools, which writes what is mutated, takes ten seconds to import
_SEED = "tests"


def _reader(name: str) -> Reader:
    for target in ("tflite", "coreml", "coreai"):
        if name == target:
            from hydra_export import targets

            try:
                targets.get(name).requires()
            except BadInput as error:
                pytest.skip(str(error))
    return reader.get(name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in reader.names()]
)
def test_mutants_are_accepted_or_refused_by_errors_of_ours(name: str, tmp_path: Path) -> None:
    under_test, tally = _reader(name), run.Tally()
    corpus, kept = run.Corpus(under_test.seeds()), tmp_path / "kept"
    kept.mkdir()
    for _ in corpus.seeds:
        run.take(name, under_test, corpus, _SEED, tally, tmp_path, kept)
    assert tally.accepted == len(corpus.seeds), "what the mutants are made of is not refused"
    while tally.inputs < _INPUTS.get(name, _QUICK):
        run.take(name, under_test, corpus, _SEED, tally, tmp_path, kept)
    assert not tally.trouble, "".join(path.read_text() for path in kept.glob("*.why"))
    assert tally.parsed >= tally.asked / 2, "mutants that no parser takes say little of what is behind it"
    assert tally.refused, "some of the mutants are wrong"


@pytest.mark.parametrize(("name", "path"), [(name, path) for name in reader.names() for path in reader.found(name)])
def test_what_once_was_trouble_is_accepted_or_refused_by_errors_of_ours(name: str, path: Path, tmp_path: Path) -> None:
    under_test = _reader(name)
    under_test.seeds()  # what it is read with comes with them
    copy = tmp_path / f"input{under_test.suffix}"
    copy.write_bytes(path.read_bytes())
    for traced in (False, True):
        judge.forget_peak()
        assert not judge.judge(under_test, copy, traced=traced).trouble


@pytest.mark.parametrize("name", ["manifest", "device", "archive", "pth"])
def test_the_same_seed_gives_the_same_inputs(name: str) -> None:
    under_test = reader.get(name)
    corpus = run.Corpus(under_test.seeds())
    one, other = ([run.input_at(name, under_test, corpus, "7", index) for index in range(20)] for _ in range(2))
    assert one == other
    assert one != [run.input_at(name, under_test, corpus, "8", index) for index in range(20)]
