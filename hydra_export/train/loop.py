"""The training loop: subnetworks are cut out, run and put back. Its state is all that a resumed run needs."""

# B batch, H height, W width, C channels, K classes
from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.func import functional_call

from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import CheckFailed
from hydra_export.model import HydraViT
from hydra_export.network import Cut
from hydra_export.train import distill, optimizer, sampling
from hydra_export.train.batches import Batches
from hydra_export.train.config import TrainConfig
from hydra_export.train.distributed import World

Forward = Callable[[dict[str, Tensor], Tensor], Tensor]
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Attributes:
        losses: of each head count that it trained on any process, before the update.
        waited_s: how long it waited for its images.
    """

    losses: dict[int, float]
    waited_s: float = field(compare=False)

    @property
    def heads(self) -> tuple[int, ...]:
        """The head counts that it trained."""
        return tuple(self.losses)

    @property
    def loss(self) -> float:
        """Their mean loss."""
        return sum(self.losses.values()) / len(self.losses)


class Trainer:
    """Model, optimiser, schedule, scaler and moving average of one run.

    Everything random is a function of (seed, step): no generator has a state of its own.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: HydraViT,
        batches: Batches,
        world: World,
        label_names: Sequence[str] = (),
        start: Checkpoint | None = None,
    ) -> None:
        self.config, self.world, self.step = config, world, 0
        self.model = model.to(world.device, torch.float64 if config.precision == "float64" else None).train()
        self.model.set_grad_checkpointing(config.checkpoint_blocks)
        self._parameters, self._cuts = dict(model.named_parameters()), model.cuts
        self._ema = None
        if config.ema_decay:
            self._ema = ModelEmaV3(
                model, config.ema_decay, use_warmup=config.ema_warmup, warmup_power=0.75, exclude_buffers=True
            )
        self._updates = optimizer.get(config, model, world.size)
        cooldown = round(config.cooldown * config.steps)
        self._schedule = CosineLRScheduler(
            self._updates.optimizer,
            t_initial=max(2, config.steps - cooldown),
            lr_min=config.lr_min,
            warmup_t=round(config.warmup * config.steps),
            warmup_lr_init=config.lr / 100 if config.lr_warmup is None else config.lr_warmup,
            t_in_epochs=False,
        )
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "float16")
        self._draw_heads = sampling.get(config, world.rank)
        self._draw_all_heads = sampling.of_all(config, world.size)
        self._teacher = distill.get(config, model, world.device, label_names, start)
        self._batches = batches
        self._forwards: dict[int, Forward] = {}
        if config.compile:  # torch counts the graphs of all head counts as those of one function, and stops at eight
            limit = torch.compiler.config.recompile_limit
            torch.compiler.config.recompile_limit = max(limit, 2 * len(config.trained_heads))

    def teacher(self, images_BCHW: Tensor) -> Tensor:
        """What the teacher makes of normalised images [B, C, H, W]."""
        assert self._teacher is not None
        return self._teacher(images_BCHW, {})

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self._updates.optimizer.param_groups[-1]["lr"])

    def train_step(self) -> StepResult:
        """One update.

        Raises:
            CheckFailed: the loss or its gradient is NaN or infinite.
        """
        config, heads, all_heads = self.config, self._draw_heads(self.step), self._draw_all_heads(self.step)
        began = time.perf_counter()
        images_BCHW, labels_B = self._batches.batch(self.step)
        waited_s = time.perf_counter() - began
        self._seed()
        self.set_lr()
        active = leaves(self._parameters, self._cuts, heads)
        images_BCHW, labels_B = (t.to(self.world.device, non_blocking=True) for t in (images_BCHW, labels_B))
        parts = zip(images_BCHW.chunk(config.accumulate), labels_B.chunk(config.accumulate), strict=True)
        losses_K = torch.stack([self._backward(active, heads, images, labels) for images, labels in parts]).mean(0)
        gradients = {name: leaf.grad for name, leaf in active.items() if leaf.grad is not None}
        if config.sampling == sampling.PER_RANK and self.world.size > 1:
            gradients = widened(gradients, self._parameters, self._cuts, heads, all_heads)
        losses_2K = _placed(losses_K, heads, all_heads)
        self.world.mean({**gradients, "loss": losses_2K})
        losses = self._update(gradients, all_heads, losses_2K[0] / losses_2K[1])
        self.step += 1
        if self._ema is not None:
            self._ema.update(self.model, self.step)
        return StepResult(losses, waited_s)

    def _backward(self, active: dict[str, Tensor], heads: tuple[int, ...], images: Tensor, labels: Tensor) -> Tensor:
        """Adds the gradients of one part of the batch to *active*; the loss of each head count, left on the device."""
        config, losses, logits = self.config, dict[int, Tensor](), dict[int, Tensor]()
        taught_BK = None
        images = images.to(self.model.patch_embed.proj.weight.dtype)
        autocast = _AUTOCAST.get(config.precision)
        for k in sorted(heads, reverse=True):  # the largest first: it may teach the others
            with torch.autocast(self.world.device.type, autocast) if autocast else contextlib.nullcontext():
                logits[k] = self._forward(k)(active, images)
                if self._teacher is not None and taught_BK is None:
                    taught_BK = self._teacher(images, logits)
            loss = self._loss(logits[k], labels, taught_BK, k)
            losses[k] = loss.detach()
            share = loss / (len(heads) * config.accumulate)
            self._scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        return torch.stack([losses[k] for k in heads])

    def _loss(self, outputs_BK: Tensor, targets: Tensor, taught_BK: Tensor | None, heads: int) -> Tensor:
        """What subnetwork *heads* learns from the labels and from the teacher."""
        config = self.config
        outputs_BK = outputs_BK if config.precision == "float64" else outputs_BK.float()
        if taught_BK is None or (config.distill == "largest" and heads == config.trained_heads[-1]):
            return F.cross_entropy(outputs_BK, targets, label_smoothing=config.label_smoothing)
        distilled = distill.loss(outputs_BK, taught_BK.to(outputs_BK.dtype), config)
        if config.labels == "ignore":
            return distilled
        loss = F.cross_entropy(outputs_BK, targets, label_smoothing=config.label_smoothing)
        return (1 - config.distill_share) * loss + config.distill_share * distilled

    def _update(self, gradients: dict[str, Tensor], heads: tuple[int, ...], losses_K: Tensor) -> dict[int, float]:
        """Moves the weights that *heads* use; the loss of each head count."""
        optimizer = self._updates.optimizer
        self._updates.take(gradients, heads)
        self._scaler.unscale_(optimizer)
        with_gradient = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(with_gradient, math.inf if self.config.clip is None else self.config.clip)
        # The only wait for the device in a step, before the weights are touched.
        *losses, norm_read = torch.cat([losses_K, norm.to(losses_K.dtype)[None]]).tolist()
        for k, loss in zip(heads, losses, strict=True):
            self._check_finite("loss", (k,), loss)
        if not self._scaler.is_enabled():  # the scaler meets infinite gradients by itself, with a smaller scale
            self._check_finite("gradient", heads, norm_read)
        self._scaler.step(optimizer)
        self._scaler.update()
        self._updates.give(heads)
        return dict(zip(heads, losses, strict=True))

    def _check_finite(self, name: str, heads: tuple[int, ...], value: float) -> None:
        if not math.isfinite(value):
            k = ",".join(map(str, heads))
            raise CheckFailed(f"The {name} of k={k} became {value} at step {self.step}.", "Train with a smaller `lr`.")

    def _forward(self, heads: int) -> Forward:
        if heads not in self._forwards:

            def forward(active: dict[str, Tensor], images_BCHW: Tensor) -> Tensor:
                logits: Tensor = functional_call(self.model, active, (images_BCHW, heads))
                return logits

            self._forwards[heads] = torch.compile(forward, dynamic=False) if self.config.compile else forward
        return self._forwards[heads]

    def set_lr(self) -> None:
        """The learning rate of the step to come: of the first step of its epoch where it changes per epoch."""
        step, config = self.step, self.config
        if config.lr_per_epoch:
            epoch = math.floor(step * config.epochs / config.steps)
            step = math.ceil(epoch * config.steps / config.epochs)
        self._schedule.step_update(step)

    def _seed(self) -> None:
        """Stochastic depth draws from a generator that starts anew at each step, apart on each process."""
        (seed,) = np.random.SeedSequence((self.config.seed, self.step, self.world.rank)).generate_state(1)
        torch.manual_seed(int(seed))

    def result(self) -> HydraViT:
        """The weights that the run keeps so far, in eval mode: not to be changed."""
        kept: HydraViT = self._ema.module if self._ema is not None and self.config.kept_weights == "ema" else self.model
        return kept.eval()

    def state(self) -> dict[str, Any]:
        """What ``restore`` continues from: tensors and numbers alone."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": {} if self._ema is None else self._ema.module.state_dict(),
            "optimizer": self._updates.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state`` of a run with the same configuration."""
        self.model.load_state_dict(state["model"])
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        self._updates.refresh()
        self._updates.optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])


def leaves(parameters: Mapping[str, Tensor], cuts: Mapping[str, Cut], heads: Collection[int]) -> dict[str, Tensor]:
    """Copies of all that a step on *heads* uses, cut to the largest: what autograd sees of the universal model.

    Gradients then have the size of that subnetwork. Slicing inside the graph instead would fill and add a gradient of
    the universal model's size for each parameter.
    """
    largest, copies = max(heads), {}
    for name, parameter in parameters.items():
        cut = cuts[name]
        if cut.used_by(heads):
            whole = cut.first(parameter.detach(), largest).clone(memory_format=torch.contiguous_format)
            copies[name] = (whole.flatten(0, 1) if cut.stacked > 1 else whole).requires_grad_()
    return copies


def _placed(losses_K: Tensor, heads: Collection[int], all_heads: Collection[int]) -> Tensor:
    """The losses of *heads* among those of *all_heads*, and below them how often there is one: [2, K]."""
    places = [sorted(all_heads).index(k) for k in heads]
    placed_2K = losses_K.new_zeros(2, len(all_heads))
    placed_2K[0, places], placed_2K[1, places] = losses_K, losses_K.new_ones(len(places))
    return placed_2K


def widened(
    gradients: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    cuts: Mapping[str, Cut],
    heads: Collection[int],
    all_heads: Collection[int],
) -> dict[str, Tensor]:
    """*gradients* of a step on *heads* as those of one on *all_heads*: zero where only other processes have some.

    Every process then gives the same names and sizes to be averaged.
    """
    wide = {}
    for name, parameter in parameters.items():
        cut = cuts[name]
        if cut.used_by(all_heads):
            whole = torch.zeros_like(parameter)
            if name in gradients:
                place = cut.first(whole, max(heads))
                place.copy_(gradients[name].view(place.shape))
            part = cut.first(whole, max(all_heads))
            wide[name] = part.flatten(0, 1) if cut.stacked > 1 else part.contiguous()
    return wide
