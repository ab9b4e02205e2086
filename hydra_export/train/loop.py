"""The training loop: one drawn subnetwork per step. Its state after a step is all that a resumed run needs."""

# B batch, H height, W width, C channels
from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3

from hydra_export.errors import CheckFailed
from hydra_export.model import HydraViT
from hydra_export.train import sampling
from hydra_export.train.batches import Batches
from hydra_export.train.config import TrainConfig
from hydra_export.train.data import Split


class Trainer:
    """Model, optimiser, schedule and moving average of one run.

    Everything random is a function of (seed, step): no generator has a state of its own.
    """

    def __init__(self, config: TrainConfig, split: Split, device: torch.device) -> None:
        self.config, self.device, self.step = config, device, 0
        torch.manual_seed(config.seed)
        self.model = HydraViT(config.model, drop_path_rate=config.drop_path, weight_init="skip")
        initialise(self.model)
        self.model.to(device).train()
        self._ema = ModelEmaV3(self.model, config.ema_decay, use_warmup=True, warmup_power=0.75)
        self._optimizer = create_optimizer_v2(
            self.model, "adamw", lr=config.lr, weight_decay=config.weight_decay, fused=device.type in ("cpu", "cuda")
        )
        self._schedule = CosineLRScheduler(
            self._optimizer,
            t_initial=config.steps,
            lr_min=config.lr_min,
            warmup_t=round(config.warmup * config.steps),
            warmup_lr_init=config.lr / 100,
            t_in_epochs=False,
        )
        self._draw_heads = sampling.get(config.sampling, config.trained_heads, config.seed)
        self._batches = Batches(split, config.augmentation, config.preprocessing, config.batch_size, config.seed)

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def train_step(self) -> tuple[int, float]:
        """One update; the head count that it trained and the loss before it.

        Raises:
            CheckFailed: the loss or its gradient is NaN or infinite.
        """
        k = self._draw_heads(self.step)
        torch.manual_seed(hash((self.config.seed, self.step)) & (2**63 - 1))  # stochastic depth draws from it
        images_BCHW, labels_B = (tensor.to(self.device) for tensor in self._batches.batch(self.step))
        self._schedule.step_update(self.step)
        logits = self.model(images_BCHW, k)
        loss = F.cross_entropy(logits, labels_B, label_smoothing=self.config.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for name, value in (("loss", loss.item()), ("gradient", norm.item())):
            if not math.isfinite(value):  # before the weights are touched
                raise CheckFailed(
                    f"The {name} of k={k} became {value} at step {self.step}.", "Train with a smaller --lr."
                )
        self._optimizer.step()
        self.step += 1
        self._ema.update(self.model, self.step)
        return k, loss.item()

    def result(self) -> HydraViT:
        """The weights that the run keeps so far, in eval mode: not to be changed."""
        kept: HydraViT = self._ema.module if self.config.keep == "ema" else self.model
        return kept.eval()

    def state(self) -> dict[str, Any]:
        """What ``restore`` continues from: tensors and numbers alone."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self._ema.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state`` of a run with the same configuration."""
        self.model.load_state_dict(state["model"])
        self._ema.module.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


@torch.no_grad()
def initialise(model: HydraViT) -> None:
    """Normal of standard deviation 1 / sqrt(fan-in) for products, 0.02 for tokens, zero for biases."""
    for name, parameter in model.named_parameters():
        if name in ("cls_token", "pos_embed"):
            torch.nn.init.trunc_normal_(parameter, std=0.02)
        elif parameter.ndim > 1:
            torch.nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            parameter.zero_()
