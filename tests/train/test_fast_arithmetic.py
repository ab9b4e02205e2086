"""PyTorch's global switches during a run, and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from hydra_export.errors import BadInput
from hydra_export.train import fast_arithmetic, rebase, run
from hydra_export.train.config import TrainConfig
from tests.train.test_run import tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # naming a GPU needs none


def switches() -> tuple[str, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = switches()
    yield
    assert switches() == before


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("benchmark", [True, False])
def test_switches_are_set_on_cuda_and_put_back(tf32: bool, benchmark: bool) -> None:
    before = switches()
    with fast_arithmetic.allowed(tiny(tf32=tf32, cudnn_benchmark=benchmark), CUDA):
        assert switches() == ("high" if tf32 else "highest", tf32, benchmark)
        assert torch.backends.cuda.matmul.allow_tf32 == tf32
    assert switches() == before
    with fast_arithmetic.allowed(tiny(cudnn_benchmark=True), CPU):
        assert switches() == before


def test_a_run_has_them_and_puts_them_back_though_it_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allowed, seen = fast_arithmetic.allowed, []

    def as_on_cuda(config: TrainConfig, device: torch.device) -> AbstractContextManager[None]:
        assert device == CPU
        return allowed(config, CUDA)

    def report(progress: run.Progress) -> None:
        seen.append(switches())
        raise BadInput("Something is wrong.", "Stop.")

    monkeypatch.setattr(fast_arithmetic, "allowed", as_on_cuda)
    before = switches()
    with pytest.raises(BadInput):
        run.run(tiny(cudnn_benchmark=True), tmp_path / "run", report=report, device=CPU)
    assert seen == [("high", True, True)]
    assert switches() == before


def test_the_first_weights_are_made_without_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A change of basis is verified within what float32 rounds, not TF32."""
    start = run.run(tiny(steps=1), tmp_path / "start", device=CPU).checkpoint
    allowed, of, seen = fast_arithmetic.allowed, rebase.of, []

    def watched(*arguments: Any) -> Any:
        seen.append(switches())
        return of(*arguments)

    monkeypatch.setattr(fast_arithmetic, "allowed", lambda config, device: allowed(config, CUDA))
    monkeypatch.setattr(rebase, "of", watched)
    run.run(tiny(steps=1, start=str(start)), tmp_path / "run", device=CPU)
    assert seen == [switches()] != [("high", True, False)]
