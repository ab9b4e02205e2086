"""``check``: what is printed, in words and as JSON, and what its exit status is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from hydra_export import checking, delegates
from hydra_export.cli import main
from hydra_export.errors import BadInput, LimitExceeded, UnknownName, VerificationFailed
from tests.conftest import available_targets
from tests.test_verify import reseal

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the packaged model for every target that can be written here, and its archive."""
    out = tmp_path_factory.mktemp("check") / "dist"
    chosen = ("--target", ",".join(available_targets()), "--graph", "separate,universal", "--heads", "1,3")
    assert main(["export", *chosen, "--out", str(out), "--zip"]) == 0
    return out


def test_the_summary_has_every_delegate_that_takes_something(made: Path, capsys: Capture) -> None:
    assert main(["check", str(made)]) == 0
    out, err = capsys.readouterr()
    assert not err
    lines = [line.split() for line in out.splitlines()]
    assert ["onnx", "separate", "1,3", "?", "all", "?", "all"] in lines
    assert ["onnx", "universal", "1,3", "?", "no", "no", "no"] in lines
    if "tflite" in available_targets():
        assert ["tflite", "separate", "1,3", "no", "part", "?", "part", "all", "all", "all"] in lines
    if "coreai" in available_targets():
        assert "coreai: no known delegate accepts these artifacts." in out


def test_the_summary_fits_a_hundred_columns(made: Path, capsys: Capture) -> None:
    assert main(["check", str(made)]) == 0
    out, _err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out


def test_one_delegate_is_told_with_reasons_and_sources(made: Path, capsys: Capture) -> None:
    assert main(["check", str(made), "--for", "hailo"]) == 0
    out, _err = capsys.readouterr()
    delegate = delegates.get("hailo")
    assert delegate.title in out
    assert "Hailo's list of layers is not public" in out
    assert all(source.url in out for source in delegate.sources.values())


def test_what_is_refused_is_status_1_behind_the_whole_result(made: Path, capsys: Capture) -> None:
    assert main(["check", str(made), "--for", "rknn,hailo"]) == 1
    out, err = capsys.readouterr()
    assert "it takes a constant condition only" in out
    assert "rknn refuses onnx/hydravit-fashion-mnist-universal.onnx" in err
    assert "hailo refuses" not in err
    assert main(["check", str(made), "--for", "rknn", "--json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err.startswith("error: ")
    universal = next(each for each in document["artifacts"] if each["path"].endswith("mnist-universal.onnx"))
    refused = [each for each in universal["judged"]["rknn"] if each["verdict"] == "refused"]
    assert {each["operator"] for each in refused} == {"If", "NonZero"}
    assert all(each["source"]["url"].startswith("https://") and each["places"] for each in refused)
    assert {each["what"] for each in universal["noticed"]} >= {"branches", "64-bit integers that are computed"}


def test_json_is_the_same_for_a_folder_and_its_archive(made: Path, capsys: Capture) -> None:
    found = []
    for place in (made, made.with_name("dist.zip")):
        assert main(["check", str(place), "--for", "nnapi", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["artifacts"])
    assert found[0] == found[1]
    assert {each["target"] for each in found[0] if each["judged"]["nnapi"] is not None} <= {"tflite"}


def test_the_library_takes_names_and_judges_by_all_without(made: Path) -> None:
    every = checking.check(made)
    assert {tuple(each.judged) for each in every} == {delegates.names()}
    (one,) = {tuple(each.judged) for each in checking.check(made, ["rknn"])}
    assert one == ("rknn",)
    for each in every:
        for judged in each.judged.values():
            assert judged is None or sum(checking.counts(judged).values()) == sum(len(one.places) for one in judged)


def test_a_delegate_that_is_not_known_is_refused_before_anything_is_opened(tmp_path: Path, capsys: Capture) -> None:
    assert main(["check", str(tmp_path), "--for", "edge-tpu"]) == 2
    assert "No delegate 'edge-tpu'. Did you mean 'edgetpu'?" in capsys.readouterr().err
    assert main(["check", str(tmp_path), "--for", "rknn,"]) == 2
    assert "--for" in capsys.readouterr().err
    with pytest.raises(UnknownName):
        checking.check(tmp_path, ["edge-tpu"])


def test_no_bundle_and_a_damaged_one_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        checking.check(tmp_path)
    copy = shutil.copytree(made, tmp_path / "copy")
    graph = copy / "onnx" / "hydravit-fashion-mnist-k1.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(VerificationFailed, match="k1"):
        checking.check(copy)


def test_a_graph_that_is_not_ours_is_refused_by_name_before_it_is_judged(tmp_path: Path) -> None:
    copy = tmp_path / "dist"
    assert main(["export", "--heads", "1", "--out", str(copy)]) == 0
    path = copy / "onnx" / "hydravit-fashion-mnist-k1.onnx"
    model = onnx.load(path)
    deep = helper.make_node("Reshape", ["image", "to"], ["deep"], "deep")
    back = helper.make_node("Reshape", ["deep", "from"], ["again"], "back")
    for name, shape in (("to", [1, 1, 1, 28, 28]), ("from", [1, 1, 28, 28])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), name))
    for node in model.graph.node:
        node.input[:] = ["again" if each == "image" else each for each in node.input]
    model.graph.node.insert(0, back)
    model.graph.node.insert(0, deep)
    path.write_bytes(model.SerializeToString())
    reseal(copy)
    with pytest.raises(VerificationFailed, match="deep has rank 5"):
        checking.check(copy)


def test_opening_has_the_limits_of_verify(made: Path) -> None:
    with pytest.raises(LimitExceeded):
        checking.check(made, ["rknn"], limit_seconds=0.001)
