"""Two gloo processes under torchrun against one process with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hydra_export import checkpoint
from hydra_export.data.datasets import digits
from hydra_export.train import batches, initial, loop, recipes, record, run, sampling
from hydra_export.train.config import TrainConfig, overridden
from hydra_export.train.distributed import World
from tests.train.test_run import tiny
from tests.train.test_sources import write_folder

pytestmark = pytest.mark.slow  # several processes that import PyTorch each

# Every strategy, everything that a step may do and that does not draw per process.
RUNS = {
    "uniform": {},
    "weighted": {"sampling": "weighted", "weights": "1,1,4"},
    "fixed": {"sampling": "fixed"},
    "sandwich": {"sampling": "sandwich", "distill": "largest"},
    "whole": {"active_slices": "false"},
    "classifiers": {"model.separate_classifiers": "1,2,3", "accumulate": "2"},
    "fp32": {"precision": "float32"},
}
# Each process draws its own head count: on two processes they train what one alone does not.
PER_RANK = {"sampling": "per-rank"}
APART: dict[str, dict[str, str]] = {
    "whole": {"active_slices": "false"},
    "slices": {"clip": "none"},
    "weights": {"weights": "1,1,4", "accumulate": "2"},
    "classifiers": {"model.separate_classifiers": "1,2,3", "clip": "none"},
}
COMMON = {
    "model.heads": "3",
    "model.depth": "2",
    "trained_heads": "1,2,3",
    "export_heads": "1,3",
    "precision": "float64",
    "steps": "20",
    "batch_size": "16",
    "augmentation.erase": "0.5",
    "save_every": "10",
    "monitor_every": "10",
}
PROGRAM = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from hydra_export.train import recipes, run
from hydra_export.train.config import overridden

if "RANK" in os.environ:  # one group for all runs
    dist.init_process_group("gloo")
runs, common, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
for name, values in runs.items():
    run.run(overridden(recipes.digits(), common | values), out / name)
if dist.is_initialized():
    dist.destroy_process_group()
"""


def torchrun(*arguments: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launch, f"--max-restarts={restarts}", *arguments],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The runs in one process, and in two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    program = one / "program.py"
    program.write_text(PROGRAM)
    apart = {f"apart-{name}": PER_RANK | values for name, values in APART.items()}
    options = (json.dumps(RUNS | apart), json.dumps(COMMON))
    subprocess.run([sys.executable, str(program), *options, str(one)], check=True)
    finished = torchrun(str(program), *options, str(two))
    assert finished.returncode == 0, finished.stderr
    return one, two


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = record.read_state(folder, torch.device("cpu"))
    assert state is not None
    return {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in state[part].items()}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "fp32"])
def test_two_processes_train_the_weights_of_one(both: tuple[Path, Path], name: str) -> None:
    one, two = (weights(folder / name) for folder in both)
    assert max((one[key] - two[key]).abs().max().item() for key in one) < 1e-10
    assert one["model.cls_token"].dtype == torch.float64


@pytest.mark.parametrize("name", APART)
def test_processes_that_draw_apart_train_as_under_ddp(both: tuple[Path, Path], name: str) -> None:
    """The reference is one process: each half of the batch through its own head count, gradients of the whole model
    averaged with zeros where a half has none."""
    config = overridden(recipes.digits(), COMMON | PER_RANK | APART[name])
    apart, drawn = as_under_ddp(config), weights(both[1] / f"apart-{name}")
    assert max((apart[key] - drawn[f"model.{key}"]).abs().max().item() for key in apart) < 1e-10
    alone = weights(both[0] / f"apart-{name}")
    assert max((alone[key] - drawn[key]).abs().max().item() for key in alone) > 1e-3


def as_under_ddp(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The final weights of two processes under DistributedDataParallel, worked out in one by autograd."""
    loaded = batches.batches(config, digits().train)
    pair = World(0, 2, torch.device("cpu"))  # of which nothing that reaches another process is called
    made = loop.Trainer(config, initial.model(config, None, False), loaded, pair)
    draws = [sampling.get(config, rank) for rank in range(2)]
    cuts = made.model.cuts
    for step in range(config.steps):
        images, labels = loaded.batch(step)
        together = tuple(sorted({draw(step)[0] for draw in draws}))
        for parameter in made.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for draw, half, labels_of_half in zip(draws, images.double().chunk(2), labels.chunk(2), strict=True):
            loss = F.cross_entropy(made.model(half, draw(step)[0]), labels_of_half) / 2
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        gradients = {}
        for name, parameter in made.model.named_parameters():
            assert parameter.grad is not None
            if cuts[name].used_by(together):
                part = cuts[name].first(parameter.grad.clone(), max(together))
                gradients[name] = part.flatten(0, 1) if cuts[name].stacked > 1 else part.contiguous()
        made.step = step
        made.set_lr()
        made._update(gradients, together, torch.zeros(len(together)))
    return dict(made.model.state_dict())


DDP = """
import copy, json, os, sys
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from hydra_export.data.datasets import digits
from hydra_export.train import batches, initial, loop, recipes, sampling
from hydra_export.train.config import overridden
from hydra_export.train.distributed import World

dist.init_process_group("gloo")
rank = dist.get_rank()
config = overridden(recipes.digits(), json.loads(sys.argv[1]))
mine, theirs = (batches.batches(config, digits().train, rank, 2) for _ in range(2))
made = loop.Trainer(config, initial.model(config, None, False), mine, World(rank, 2, torch.device("cpu")))
reference = copy.deepcopy(made.model)
parallel = DistributedDataParallel(reference)
adamw = torch.optim.AdamW(reference.parameters(), weight_decay=config.weight_decay)
draw, num_apart = sampling.get(config, rank), 0
for step in range(config.steps):
    images, labels = theirs.batch(step)
    adamw.zero_grad()
    loss = F.cross_entropy(parallel(images.double(), draw(step)[0]), labels, label_smoothing=config.label_smoothing)
    loss.backward()
    num_apart += len(made.train_step().heads) == 2
    adamw.param_groups[0]["lr"] = made.lr
    adamw.step()
pairs = zip(made.model.parameters(), reference.parameters(), strict=True)
if rank == 0:
    print(json.dumps([num_apart, max((one - other).abs().max().item() for one, other in pairs)]), flush=True)
dist.barrier()
os._exit(0)  # threads that gloo leaves behind DistributedDataParallel may abort a process that ends otherwise
"""


def test_steps_of_processes_that_draw_apart_are_those_of_torchs_ddp(tmp_path: Path) -> None:
    """As the authors train: DistributedDataParallel around the universal model, torch's AdamW over all of it."""
    program = tmp_path / "ddp.py"
    program.write_text(DDP)
    whole = {"active_slices": "false", "weight_decay": "0", "clip": "none"}
    finished = torchrun(str(program), json.dumps(COMMON | PER_RANK | whole))
    assert finished.returncode == 0, finished.stderr
    num_apart, difference = json.loads(finished.stdout)
    assert num_apart > 5
    assert difference < 1e-9


def test_in_float32_the_logits_of_two_processes_are_those_of_one(both: tuple[Path, Path]) -> None:
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    models = [checkpoint.load(folder / "fp32" / record.CHECKPOINT).model for folder in both]
    for k in (1, 2, 3):
        one, two = (model(images, k) for model in models)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_each_image_is_counted_once(both: tuple[Path, Path]) -> None:
    for name in RUNS:
        one, two = (checkpoint.load(folder / name / record.CHECKPOINT).info for folder in both)
        assert one.accuracy == two.accuracy
        assert one.accuracy_data == two.accuracy_data == "360 test images of scikit-learn's digits"
        assert (one.training["processes"], two.training["processes"]) == (1, 2)


DYING = """
import os, signal, sys
from pathlib import Path
from hydra_export.train import distributed, loop

step = loop.Trainer.train_step

def dying(trainer):
    if trainer.step == 15 and trainer.world.rank == 1 and not distributed.restarted():
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer)

loop.Trainer.train_step = dying
sys.argv[0] = "hydra-export"
from hydra_export.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(("name", "values"), [("uniform", {}), ("apart-slices", PER_RANK | APART["slices"])])
def test_a_killed_process_is_started_again_and_the_run_completes(
    both: tuple[Path, Path], tmp_path: Path, name: str, values: dict[str, str]
) -> None:
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    overrides = [f"--override={field}={value}" for field, value in (COMMON | values).items()]
    out = tmp_path / "run"
    finished = torchrun(str(program), "--recipe", "digits", "--out", str(out), *overrides, restarts=1)
    assert finished.returncode == 0, finished.stderr
    assert "exitcode: -9" in finished.stderr
    resumed, whole = weights(out), weights(both[1] / name)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_the_module_for_torchrun_makes_the_same_elastic_model_and_prints_one_result(tmp_path: Path) -> None:
    plain = {"trained_heads": [6], "export_heads": [6]}
    start = run.run(overridden(recipes.digits(), {"steps": 150, **plain}), tmp_path / "dense").checkpoint
    values = [f"--override={name}={value}" for name, value in {"monitor_every": 1000, "rebase_images": 64}.items()]
    options = ["--recipe", "elastic", "--start", str(start), "--data", "digits", "--steps", "20", "--json", *values]
    # Without the dashes, torchrun takes --start for its own --start-method.
    finished = torchrun("-m", "--", "hydra_export.train", *options, "--out", str(tmp_path / "two"))
    assert finished.returncode == 0, finished.stderr
    alone = subprocess.run(
        [sys.executable, "-m", "hydra_export.train", *options, "--out", tmp_path / "one"],
        capture_output=True,
        text=True,
        check=True,
    )
    two, one = (json.loads(done.stdout)["subnetworks"] for done in (finished, alone))
    assert [row["top1"] for row in two] == pytest.approx([row["top1"] for row in one], abs=1)


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    options = ["--recipe", "digits", "--out", str(tmp_path / "run"), "--steps", "1", "--batch-size", "7"]
    finished = torchrun("-m", "hydra_export.train", *options)
    assert finished.returncode != 0
    assert "A batch of 7 images does not divide into 2 processes" in finished.stderr
    assert not (tmp_path / "run").exists()


def test_unreadable_images_of_all_processes_are_named(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "images", range(80))
    for path in sorted(data.rglob("*.png"))[::5]:
        path.write_bytes(path.read_bytes()[:60])
    whole = overridden(tiny(), {"dataset": "folder", "data": str(data)})
    expected = run.run(whole, tmp_path / "one").unreadable  # 40 steps of 16 images: all of them have been met
    assert len(expected) > 8
    values = ["--override=dataset=folder", f"--data={data}", *(f"--override={n}={v}" for n, v in COMMON.items())]
    finished = torchrun("-m", "hydra_export.train", "--recipe=digits", f"--out={tmp_path / 'two'}", "--json", *values)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["unreadable_images"] == list(expected)
