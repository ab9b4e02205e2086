"""What every target promises, over each graph kind and precision that it declares."""

from __future__ import annotations

import hashlib
import itertools
import pkgutil
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from hydra_export import network, targets
from hydra_export.errors import BadInput, UnknownName
from hydra_export.exporting import jobs
from hydra_export.target import ExportSpec, GraphKind, InputForm, OptionField, Options, Precision, described
from tests.targets.conftest import Case, MakeCheckpoint, given


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_every_head_count_computes_its_subnetwork(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path, form: InputForm, batch: int | str
) -> None:
    if case.refuses(input=form, batch=batch):
        return
    checkpoint = make_checkpoint()
    artifacts = case.write(checkpoint, (1, 2, 3, 4), tmp_path / "out", input=form, batch=batch)
    case.verify(checkpoint, artifacts, tmp_path / "out")


@pytest.mark.parametrize("heads", [(1,), (4,), (1, 4), (2, 3)])
def test_any_list_of_head_counts_will_do(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path, heads: tuple[int, ...]
) -> None:
    checkpoint = make_checkpoint()
    artifacts = case.write(checkpoint, heads, tmp_path / "out")
    assert {k for artifact in artifacts for k in artifact.heads} == set(heads)
    case.verify(checkpoint, artifacts, tmp_path / "out")


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ({"channels": 1}, (1, 4)),
        ({"layer_scale": 0.5}, (1, 2, 4)),
        ({"separate_classifiers": (1, 2, 4)}, (1, 2, 4)),
        ({"separate_classifiers": (2, 3, 4), "layer_scale": 0.5, "channels": 1, "mlp_ratio": 3.0}, (2, 4)),
        ({"num_classes": 1}, (1, 4)),
        ({"depth": 1}, (1, 4)),
        ({"heads": 1}, (1,)),
        ({"patch_size": 16}, (1, 4)),
        ({"head_dim": 1, "mlp_ratio": 1.0, "layer_norm_eps": 2**-10}, (1, 4)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_every_architecture_is_exported(
    case: Case,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    architecture: dict[str, object],
    heads: tuple[int, ...],
    form: InputForm,
) -> None:
    checkpoint = make_checkpoint(**architecture)
    artifacts = case.write(checkpoint, heads, tmp_path / "out", input=form)
    case.verify(checkpoint, artifacts, tmp_path / "out")


def test_a_dynamic_batch_gives_each_image_the_logits_that_it_has_alone(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    if case.refuses(batch="dynamic"):
        return
    checkpoint = make_checkpoint()
    (artifact,) = case.write(checkpoint, (2,), tmp_path / "out", batch="dynamic")
    session = case.target.load(tmp_path / "out" / artifact.path, 2)
    images = given(checkpoint, artifact.spec)
    alone = np.concatenate([session.run(images[i : i + 1]) for i in range(len(images))])
    # float32 sums in another order; a call's images may share the scale of their int8 activations
    np.testing.assert_allclose(session.run(images), alone, atol=0.05 if case.precision == "int8" else 1e-6)


def test_a_fixed_batch_takes_any_number_of_images_and_gives_as_many_logits(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    (artifact,) = case.write(checkpoint, (2,), tmp_path / "out", batch=3)
    session = case.target.load(tmp_path / "out" / artifact.path, 2)
    for count in (1, 2, 3, 4, 7):
        assert session.run(given(checkpoint, artifact.spec, count)).shape == (count, 7)


def test_artifacts_list_exactly_the_files_that_were_written(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    artifacts = case.write(make_checkpoint(), (1, 2, 4), tmp_path / "out")
    written = {path.relative_to(tmp_path / "out").as_posix() for path in _files(tmp_path / "out")}
    assert {name for artifact in artifacts for name in artifact.files} == written
    for artifact in artifacts:
        assert artifact.path in artifact.files or all(name.startswith(f"{artifact.path}/") for name in artifact.files)
        assert len(set(artifact.files)) == len(artifact.files)
        assert all(PurePosixPath(name).as_posix() == name and not name.startswith(("/", "..")) for name in written)


@pytest.mark.parametrize("architecture", [{}, {"num_classes": 0}, {"separate_classifiers": (2, 4)}], ids=str)
def test_artifacts_are_those_that_were_planned(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path, architecture: dict[str, Any]
) -> None:
    checkpoint, spec = make_checkpoint(**architecture), case.spec()
    artifacts = case.write(checkpoint, (2, 4), tmp_path / "out")
    planned = case.target.planned(checkpoint, (2, 4), spec)
    needs = [case.target.needs(tmp_path / "out" / artifact.path) for artifact in planned]
    with_needs = [msgspec.structs.replace(a, needs=each) for a, each in zip(planned, needs, strict=True)]
    assert with_needs == artifacts


def test_artifacts_say_what_was_asked_for(case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    choices: dict[str, Any] = {"input": "image"} if case.refuses(batch="dynamic") else {"batch": "dynamic"}
    artifacts = case.write(make_checkpoint(), (1, 2), tmp_path / "out", **choices)
    batch = "batch" if "batch" in choices else 1
    for artifact in artifacts:
        assert artifact.target == case.target.name
        assert artifact.spec == case.spec(**choices)
        assert artifact.needs
        (logits,) = artifact.outputs
        assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", (batch, 7))
        assert artifact.inputs[0].name == "image"
        assert artifact.inputs[0].dtype == ("uint8" if choices.get("input") else "float32")
        assert sorted(map(str, artifact.inputs[0].shape)) == sorted(map(str, (batch, 16, 16, 3)))


def test_the_listed_files_are_all_that_a_device_must_fetch(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    for index, artifact in enumerate(case.write(checkpoint, (1, 2, 4), tmp_path / "out")):
        device = tmp_path / f"device {index}"  # in another place, its name with a space
        for name in artifact.files:
            (device / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tmp_path / "out" / name, device / name)
        case.verify(checkpoint, [artifact], device)


def test_the_same_bytes_are_written_twice(case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    case.write(checkpoint, (1, 2, 4), tmp_path / "first")
    case.write(checkpoint, (1, 2, 4), tmp_path / "second place")
    assert _tree(tmp_path / "first") == _tree(tmp_path / "second place")


def test_what_was_written_passes_lint(case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Which says what a run takes: never more than the model itself, the last block being less."""
    checkpoint = make_checkpoint()
    for artifact in case.write(checkpoint, (1, 4), tmp_path / "out", input="image"):
        work = case.target.lint(tmp_path / "out" / artifact.path)
        own = sum(network.macs(checkpoint.info.config, k) for k in artifact.heads)
        assert own / 10 < work.macs <= own
        assert 0 < work.tensor_bytes < 2**20


def test_what_was_written_says_what_it_is(case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    for artifact in case.write(checkpoint, (1, 4), tmp_path / "out"):
        metadata = case.target.metadata(tmp_path / "out" / artifact.path)
        told = described(checkpoint.info, checkpoint.sha256, artifact.heads, artifact.spec)
        assert told.items() <= metadata.items()


def test_the_checkpoint_is_left_as_it_was(case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(layer_scale=0.5)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    case.write(checkpoint, (1, 4), tmp_path / "out", input="image")
    assert all(tensor.equal(before[name]) for name, tensor in checkpoint.model.state_dict().items())


def test_a_head_count_without_a_classifier_is_refused(
    case: Case, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no classifier for heads 3"):
        case.write(make_checkpoint(separate_classifiers=(2, 4)), (3,), tmp_path / "out")


def test_every_declared_kind_and_precision_is_a_known_word() -> None:
    for name in targets.names():
        target = targets.get(name)
        assert target.name == name
        assert target.graphs
        assert set(target.graphs) <= set(get_args(GraphKind))
        assert target.precisions
        assert target.packages
        for precision in target.precisions:
            assert target.runtimes(precision)[0].exact
        assert set(target.precisions) <= set(get_args(Precision))


def test_names_are_the_files_in_the_folder_of_targets() -> None:
    files = {module.name for module in pkgutil.iter_modules(targets.__path__)}
    assert set(targets.names()) == files
    assert "onnx" in files
    assert list(targets.names()) == sorted(files)


def test_a_new_file_is_a_new_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "braille.py").write_text("TARGET = 'any object'\n")
    monkeypatch.setattr(targets, "__path__", [*targets.__path__, str(tmp_path)])
    assert "braille" in targets.names()
    assert targets.get("braille") == "any object"  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("given_name", "remedy"), [("onxn", "Did you mean 'onnx'?"), ("zzz", "Known: "), ("", "Known: "), ("ONNX", "onnx")]
)
def test_an_unknown_target_is_refused_with_the_nearest(given_name: str, remedy: str) -> None:
    with pytest.raises(UnknownName, match=f"No target '{given_name}'") as caught:
        targets.get(given_name)
    assert remedy in caught.value.remedy


def test_the_default_choice_is_one_that_every_target_takes() -> None:
    for name in targets.names():
        assert ExportSpec().graph in targets.get(name).graphs


@pytest.mark.parametrize("name", targets.names())
def test_every_option_has_a_help_and_a_default_and_a_flag_of_its_own(name: str) -> None:
    options = targets.get(name).options
    others = {field.flag for other in targets.names() if other != name for field in targets.get(other).options.fields()}
    for field in options.fields():
        assert field.about.help.endswith(".")
        assert field.default == getattr(options(), field.name)
        assert set(field.about.graphs) <= set(targets.get(name).graphs)
        assert field.flag not in others


@pytest.mark.parametrize("name", targets.names())
def test_options_are_refused_where_nothing_that_is_exported_has_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = targets.get(name)
    other = next(each for each in targets.names() if each != name)
    monkeypatch.setattr(type(target), "requires", lambda _self: None)
    monkeypatch.setattr(type(targets.get(other)), "requires", lambda _self: None)
    for field in target.options.fields():
        chosen = target.options(**{field.name: _another(field)})
        with pytest.raises(BadInput, match=f"to target '{name}', which is not exported") as refused:
            jobs(other, options=chosen)
        assert f"{other},{name}" in refused.value.remedy
        graphs = field.about.graphs or ("separate",)
        assert [job.spec.options for job in jobs(name, graphs, options=[chosen])] == [chosen]
        if field.about.graphs:
            with pytest.raises(BadInput, match=f"applies to graph kind '{graphs[0]}'"):
                jobs(name, "separate", options=chosen)
    assert [job.spec.options for job in jobs(name)] == [target.options()]


def _another(field: OptionField) -> object:
    """A value that is not the default."""
    if int in (field.kind, *get_args(field.kind)):
        return (field.default or 19) + 1
    choices = get_args(field.kind) or (False, True)
    return next(value for value in choices if value != field.default)


def test_options_of_another_target_are_a_bug() -> None:
    kinds = [targets.get(name).options for name in targets.names()]
    for kind, other in itertools.permutations([kind for kind in kinds if kind is not Options], 2):
        assert kind.of(ExportSpec()) == kind()
        with pytest.raises(TypeError, match="options of another target"):
            kind.of(ExportSpec(options=other()))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder)
    }
