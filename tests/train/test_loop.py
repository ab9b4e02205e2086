"""What a step may do: parts of a batch, precisions, mixing, teachers, clipping, compilation, and what stops it."""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from hydra_export import checkpoint, network
from hydra_export.architecture import HydraConfig
from hydra_export.data.datasets import digits
from hydra_export.errors import BadInput, CheckFailed, MissingExtra
from hydra_export.installation import install_command
from hydra_export.train import batches, distill, initial, loop, record, run
from hydra_export.train.config import TrainConfig, overridden
from hydra_export.train.distributed import World
from tests.train.test_run import stop_at, tiny
from tests.variants import VARIANTS

CPU = World(0, 1, torch.device("cpu"))


def trainer(config: TrainConfig) -> loop.Trainer:
    return loop.Trainer(config, initial.model(config, None, False), batches.batches(config, digits().train), CPU)


def weights(config: TrainConfig, steps: int) -> dict[str, torch.Tensor]:
    made = trainer(config)
    for _ in range(steps):
        made.train_step()
    return dict(made.model.state_dict())


def calm(**changes: object) -> TrainConfig:
    """Without what draws by position in a batch."""
    return overridden(tiny(drop_path=0.0), changes)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def test_accumulated_parts_are_the_whole_batch() -> None:
    whole = weights(calm(precision="float64"), 5)
    assert distance(whole, weights(calm(precision="float64", accumulate=4), 5)) < 1e-10


def test_a_step_on_several_head_counts_has_the_mean_of_their_gradients() -> None:
    made = trainer(calm(sampling="fixed", trained_heads=[1, 3], precision="float64"))
    images, labels = made._batches.batch(0)
    model, images = made.model, images.double()
    expected = sum(F.cross_entropy(model(images, k), labels) for k in (1, 3)) / 2
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    wanted = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    seen: dict[str, torch.Tensor] = {}
    take = made._updates.take

    def watched(gradients: dict[str, torch.Tensor], heads: tuple[int, ...]) -> None:
        seen.update(gradients)
        take(gradients, heads)

    made._updates.take = watched  # type: ignore[method-assign, assignment]
    assert made.train_step().loss == pytest.approx(expected.item())
    for name, gradient in wanted.items():
        torch.testing.assert_close(seen[name].view_as(gradient), gradient, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_is_near_to_full_and_keeps_float32_weights(precision: str) -> None:
    full, mixed = weights(calm(), 10), weights(calm(precision=precision), 10)
    assert mixed["cls_token"].dtype == torch.float32
    assert 0 < distance(full, mixed) < 0.05


def test_the_scaler_of_float16_is_part_of_the_state() -> None:
    made, other = trainer(calm(precision="float16")), trainer(calm(precision="float16"))
    for _ in range(3):
        made.train_step()
    made._scaler.update(512.0)
    other.restore(copy.deepcopy(made.state()))
    assert other._scaler.get_scale() == 512.0
    assert made.train_step() == other.train_step()
    assert distance(dict(made.model.state_dict()), dict(other.model.state_dict())) == 0


def test_mixing_changes_the_loss_and_repeats_itself() -> None:
    mixed = calm(**{"augmentation.mixup": 0.8, "augmentation.cutmix": 1.0})
    assert distance(weights(mixed, 4), weights(mixed, 4)) == 0
    assert distance(weights(mixed, 4), weights(calm(), 4)) > 0
    with pytest.raises(BadInput, match="even number of images"):
        run.run(overridden(mixed, {"batch_size": 15}), Path("never"))


def test_clipping_bounds_the_gradient_and_none_leaves_it() -> None:
    def norm(clip: float | None) -> float:
        made = trainer(calm(clip=clip, optimizer="sgd", weight_decay=0))
        made.train_step()
        squares = sum(p.grad.square().sum() for p in made.model.parameters() if p.grad is not None)
        return float(torch.as_tensor(squares).sqrt())

    assert norm(0.01) == pytest.approx(0.01, rel=1e-3)
    assert norm(None) == norm(1e9) > 0.1


def test_without_a_moving_average_the_weights_themselves_are_kept() -> None:
    made = trainer(calm(ema_decay=0, kept_weights="raw"))
    made.train_step()
    assert made.result() is made.model
    assert made.state()["ema"] == {}


def test_the_schedule_warms_up_falls_and_cools_down() -> None:
    made = trainer(calm(steps=40, lr=1.0, lr_min=0.1, lr_warmup=0.01, warmup=0.25, cooldown=0.25))
    rates = []
    for _ in range(40):
        made.train_step()
        rates.append(made.lr)
    assert rates[0] == pytest.approx(0.01)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[30:] == [pytest.approx(0.1)] * 10


def test_distillation_pulls_the_smaller_towards_the_largest() -> None:
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    soft = calm(distill_temperature=2.0)
    assert distill.loss(teacher, teacher, soft).item() == pytest.approx(0, abs=1e-7)
    p = torch.softmax(teacher / 2, 1)
    expected = 4 * (p * (p.log() - torch.tensor(0.5).log())).sum()
    torch.testing.assert_close(distill.loss(student, teacher, soft), expected)
    taught = weights(calm(sampling="sandwich", distill="largest"), 5)
    assert distance(taught, weights(calm(sampling="sandwich"), 5)) > 1e-4


def test_a_teacher_from_a_checkpoint_sees_the_images_as_it_expects(tmp_path: Path) -> None:
    outcome = run.run(tiny(steps=2), tmp_path / "teacher")
    loaded = checkpoint.load(outcome.checkpoint)
    wanted = overridden(tiny(), {"distill": str(outcome.checkpoint), "preprocessing.mean": [0.5], "distill_share": 1})
    teach = distill.get(wanted, loaded.model, torch.device("cpu"))
    assert teach is not None
    pixels = digits().test.pixels[:5]
    ours, theirs = (torch.from_numpy(p.normalise(pixels)) for p in (wanted.preprocessing, loaded.info.preprocessing))
    torch.testing.assert_close(teach(ours, {}), loaded.model(theirs), rtol=0, atol=1e-5)


def test_a_teacher_that_counts_the_classes_otherwise_is_taken_by_their_names() -> None:
    packaged = checkpoint.packaged_path()
    labels = checkpoint.load().info.labels
    wanted, device = overridden(tiny(), {"distill": str(packaged)}), torch.device("cpu")
    model = trainer(tiny()).model
    image = torch.rand(2, 1, 8, 8)
    straight, turned = (distill.get(wanted, model, device, names) for names in (labels, labels[::-1]))
    assert straight is not None
    assert turned is not None
    torch.testing.assert_close(turned(image, {}), straight(image, {}).flip(1))
    with pytest.raises(BadInput, match=r"other classes \(T-shirt/top, Trouser, .*\) than the data \(0, 1, 2"):
        distill.get(wanted, model, device, [str(digit) for digit in range(10)])


def test_a_teacher_of_other_classes_is_refused() -> None:
    packaged = str(checkpoint.packaged_path())
    assert distill.get(overridden(tiny(), {"distill": packaged}), trainer(tiny()).model, torch.device("cpu"))
    other = overridden(tiny(), {"distill": packaged, "model.num_classes": 7})
    with pytest.raises(BadInput, match="10 classes, but the model has 7"):
        distill.get(other, trainer(other).model, torch.device("cpu"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    def spoil(progress: run.Progress) -> None:
        if progress.step == 23:
            with torch.no_grad():
                spoilt[0].model.patch_embed.proj.bias.fill_(torch.nan)

    spoilt: list[loop.Trainer] = []
    made = loop.Trainer.__init__

    def remembered(self: loop.Trainer, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        spoilt.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "__init__", remembered)
        with pytest.raises(CheckFailed, match=r"k=\d became nan at step 23\. The state of step 20 is kept in"):
            run.run(tiny(), tmp_path, report=spoil)
    state = record.read_state(tmp_path, torch.device("cpu"))
    assert state is not None
    assert state["step"] == 20
    info = checkpoint.load(tmp_path / record.CHECKPOINT).info
    assert info.training["step"] == 20
    assert info.accuracy == {}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from hydra_export.errors import OutputRefused
from hydra_export.train import record, run

def fill(progress):
    if progress.step == 12:  # from here on no file may grow beyond a few bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    run.run(record.stored_config(Path(sys.argv[1])), Path(sys.argv[2]), report=fill)
except OutputRefused as error:
    sys.exit(f"refused: {error.message}")
"""


FULL_DISK_AT = """
import resource, signal, sys
from pathlib import Path
import torch
from hydra_export.errors import OutputRefused
from hydra_export.train import record

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit, tensors, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    record.write_state(out, {str(i): torch.zeros(400_000 // tensors) for i in range(tensors)})
except OutputRefused as error:
    sys.exit(f"refused: {error.message}")
"""


@pytest.mark.parametrize("tensors", [pytest.param(1, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize(
    "limit",
    [pytest.param(100, marks=pytest.mark.slow), 20_000, 500_000, pytest.param(1_500_000, marks=pytest.mark.slow)],
)
def test_a_disk_that_is_full_at_any_point_of_a_state_is_named(tmp_path: Path, limit: int, tensors: int) -> None:
    program = [sys.executable, "-c", FULL_DISK_AT, str(limit), str(tensors), str(tmp_path)]
    stopped = subprocess.run(program, capture_output=True, text=True, check=False)
    assert "refused: Cannot write" in stopped.stderr, stopped.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_while_saving_leaves_the_last_good_state(tmp_path: Path) -> None:
    record_of = tmp_path / "config"
    record_of.mkdir()
    record.write_config(record_of, tiny())
    out = tmp_path / "run"
    program = [sys.executable, "-c", FULL_DISK, str(record_of), str(out)]
    stopped = subprocess.run(program, capture_output=True, text=True, check=False)
    assert "refused: Cannot write" in stopped.stderr, stopped.stderr
    state = record.read_state(out, torch.device("cpu"))
    assert state is not None
    assert state["step"] == 10
    checkpoint.load(out / record.CHECKPOINT)
    assert not list(out.glob(".*.partial"))
    run.run(tiny(), out, resume=True)


def test_tensorboard_is_an_extra(tmp_path: Path) -> None:
    try:
        import tensorboard  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match=re.escape(install_command("train"))):
            run.run(tiny(), tmp_path / "run", tensorboard=True)
        assert not (tmp_path / "run").exists()
        return
    run.run(tiny(), tmp_path / "run", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_blocks_that_are_computed_again_give_the_same_weights(precision: str) -> None:
    chosen: dict[str, object] = {"drop_path": 0.3, "sampling": "sandwich", "precision": precision}
    chosen |= {"model.layer_scale": 0.1, "accumulate": 2}
    plain, repeated = (weights(calm(checkpoint_blocks=again, **chosen), 4) for again in (False, True))
    assert distance(plain, repeated) == 0


def test_blocks_are_computed_again_with_the_weights_that_they_were_computed_with() -> None:
    model = trainer(calm()).model
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for again in (False, True):
        model.set_grad_checkpointing(again)
        other = {name: (1.5 * tensor.detach()).requires_grad_() for name, tensor in model.named_parameters()}
        functional_call(model, other, (image, 2)).square().sum().backward()
        gradients.append({name: tensor.grad for name, tensor in other.items() if tensor.grad is not None})
    assert distance(*gradients) == 0
    assert gradients[0]["blocks.0.mlp.fc1.weight"].any()


def test_blocks_are_computed_again_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []
    taken = network._block

    def counted(*arguments: Any, **named: Any) -> Any:
        blocks.append(named["block"])
        return taken(*arguments, **named)

    monkeypatch.setattr(network, "_block", counted)
    made = trainer(calm(checkpoint_blocks=True))
    made.train_step()
    assert sorted(blocks) == ["blocks.0", "blocks.0", "blocks.1", "blocks.1"]
    blocks.clear()
    made.result()(torch.zeros(1, 1, 8, 8))
    assert blocks == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_weights_change(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(calm(sampling="fixed", trained_heads=[1, 3]))
    made.train_step()
    before = copy.deepcopy(made.state())
    taken = made._loss

    def spoiled(outputs: torch.Tensor, targets: torch.Tensor, taught: torch.Tensor | None, heads: int) -> torch.Tensor:
        loss = taken(outputs, targets, taught, heads)
        if heads == 1 and what == "loss":
            return loss * math.nan
        return loss + (outputs.sum() * 0).sqrt() if heads == 1 else loss  # 0, whose slope is infinite

    monkeypatch.setattr(made, "_loss", spoiled)
    named = "loss of k=1 became nan" if what == "loss" else "gradient of k=1,3 became nan"
    with pytest.raises(CheckFailed, match=f"The {named} at step 1"):
        made.train_step()
    after = made.state()
    assert distance(before["model"], after["model"]) == distance(before["ema"], after["ema"]) == 0
    for key, moments in before["optimizer"]["state"].items():
        assert all(torch.equal(value, after["optimizer"]["state"][key][name]) for name, value in moments.items())


@pytest.mark.parametrize("sampling", ["uniform", "fixed"])
def test_a_step_reads_its_device_once_however_many_head_counts_it_trains(
    sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(calm(sampling=sampling, distill="largest", accumulate=2))
    made.train_step()
    reads = []

    def counting(name: str, taken: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def read(tensor: torch.Tensor) -> Any:
            reads.append(name)
            return taken(tensor)

        return read

    for name in ("item", "tolist", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, counting(name, getattr(torch.Tensor, name)))
    made.train_step()
    assert reads == ["tolist"]


@pytest.mark.slow
def test_compiled_steps_compute_the_same() -> None:
    chosen: dict[str, object] = {"sampling": "fixed", "trained_heads": [1, 3], "model.depth": 1}  # compiling takes long
    compiled, plain = trainer(calm(compile=True, **chosen)), trainer(calm(**chosen))
    for _ in range(2):
        assert compiled.train_step().loss == pytest.approx(plain.train_step().loss, abs=1e-5)


def test_separate_classifiers_are_trained_measured_and_stored(tmp_path: Path) -> None:
    wanted = overridden(tiny(), {"model.separate_classifiers": [1, 2, 3]})
    outcome = run.run(wanted, tmp_path)
    assert set(outcome.accuracy) == {1, 2, 3}
    model = checkpoint.load(outcome.checkpoint).model
    assert all(model.get_parameter(f"head.k{k}.weight").any() for k in (1, 2, 3))


def variant(name: str) -> HydraConfig:
    """One of VARIANTS with the sizes of the model of ``tiny``."""
    sizes = ("heads", "head_dim", "depth", "patch_size", "image_size", "channels", "num_classes")
    return msgspec.structs.replace(VARIANTS[name], **{field: getattr(tiny().model, field) for field in sizes})


@pytest.mark.parametrize("classifiers", [(), (1, 2, 3)])
@pytest.mark.parametrize(
    "name", ["plain", "registers", "distilled", "class token and average", "attention pooling", "rotary, average"]
)
def test_steps_are_those_of_autograd_through_the_whole_model(name: str, classifiers: tuple[int, ...]) -> None:
    """The reference has no leaves and no optimiser of ours: sliced forward, full-size gradients, torch's AdamW."""
    model = msgspec.structs.replace(variant(name), separate_classifiers=classifiers)
    wanted = msgspec.structs.replace(calm(precision="float64", weight_decay=0.3), model=model)
    made = trainer(wanted)
    reference = copy.deepcopy(made.model)
    kept = reference.no_weight_decay()
    assert {"cls_token", "pos_embed"} <= kept
    decayed = [p for name, p in reference.named_parameters() if p.ndim > 1 and name not in kept]
    others = [p for p in reference.parameters() if all(p is not q for q in decayed)]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}])
    drawn = set()
    for step in range(12):
        images, labels = made._batches.batch(step)
        (k,) = made.train_step().heads
        drawn.add(k)
        loss = F.cross_entropy(reference(images.double(), k), labels)
        for parameter in reference.parameters():  # unlike None, zeros are decayed and moved
            parameter.grad = torch.zeros_like(parameter)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        for group in adamw.param_groups:
            group["lr"] = made.lr
        adamw.step()
    assert drawn == {1, 2, 3}
    assert distance(dict(made.model.state_dict()), dict(reference.state_dict())) < 1e-10


def test_the_moving_average_follows_the_weights() -> None:
    made = trainer(calm(ema_decay=0.5, ema_warmup=False))
    made.train_step()  # timm starts from the weights after the first
    expected = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    for _ in range(4):
        made.train_step()
        for name, tensor in made.model.state_dict().items():
            expected[name].lerp_(tensor, 0.5)
    assert distance(dict(made.result().state_dict()), expected) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [{"active_slices": False}, {"sampling": "sandwich", "augmentation.mixup": 0.8, "precision": "float16"}],
)
def test_every_kind_of_run_resumes_bit_for_bit(changes: dict[str, object], tmp_path: Path) -> None:
    wanted = overridden(tiny(steps=24), changes)
    run.run(wanted, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run.run(wanted, tmp_path / "cut", report=stop_at(17))  # type: ignore[arg-type]
    run.run(wanted, tmp_path / "cut", resume=True)
    whole, cut = (record.read_state(tmp_path / name, torch.device("cpu")) for name in ("whole", "cut"))
    assert whole is not None
    assert cut is not None
    for part in ("model", "ema"):
        assert distance(whole[part], cut[part]) == 0
    assert whole["scaler"] == cut["scaler"]
