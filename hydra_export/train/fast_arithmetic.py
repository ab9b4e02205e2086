"""What a GPU may do to be faster: TF32, and cuDNN's choice of kernels by timing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hydra_export.train.config import TrainConfig


@contextmanager
def allowed(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """PyTorch's global switches as *config* has them, on CUDA alone; put back afterwards."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    _switch("high" if config.tf32 else "highest", config.tf32, config.cudnn_benchmark)
    try:
        yield
    finally:
        _switch(*before)


def _switch(matmul: str, convolution_tf32: bool, benchmark: bool) -> None:
    # The newer torch.backends.*.fp32_precision cannot be mixed with these, and torch.compile reads these.
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolution_tf32
    torch.backends.cudnn.benchmark = benchmark
