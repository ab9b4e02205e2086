"""Resolves a training request to a full configuration: a recipe with changes, or the run to continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hydra_export.architecture import check_heads, parse_heads
from hydra_export.data import datasets
from hydra_export.errors import BadInput
from hydra_export.train import distributed, recipes, record, sampling
from hydra_export.train.config import TrainConfig, overridden

DEFAULT_RECIPE = "fashion-mnist"
PACKAGED = "packaged"  # the name of the packaged model as a start
_MAY_CHANGE = {"data", "workers"}  # when a run continues: images may have moved, and any number of processes reads them


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The options of a run; None takes the value of the recipe, or of the run that is continued.

    Attributes:
        start: the checkpoint that the first weights come from, as ``load_checkpoint`` takes it.
        train_heads: the head counts to draw from, or ``all``; as text separated by commas.
        head_weights: how often to draw each of them; as text separated by commas.
        fields: other values of TrainConfig by dotted name; texts are read as ``overridden`` reads them.
    """

    recipe: str | None = None
    start: str | None = None
    train_heads: str | Sequence[int] | None = None
    head_weights: str | Sequence[float] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingPlan:
    """The run that a TrainingRequest resolves to.

    Attributes:
        resume: the run in the folder goes on.
        start_is_default: nobody asked for the checkpoint that the run starts from.
    """

    config: TrainConfig
    resume: bool
    start_is_default: bool


def resolve(request: TrainingRequest, out: Path, *, resume: bool = False) -> TrainingPlan:
    """The configuration of the run in the folder *out*, which goes on where torchrun has restarted its processes.

    Raises:
        BadInput: a field that is unknown or of another type, or, with *resume*, no run in *out*, or one that the
            request contradicts.
    """
    # torchrun starts all processes again with the same command where one has died.
    again = distributed.restarted() or record.belongs_to(out, distributed.launch_id())
    resume = resume or (again and (out / record.CONFIG).is_file())
    stored = record.stored_config(out) if resume else None
    recipe, start = request.recipe, request.start
    if stored is not None:
        recipe, start = recipe or stored.recipe, stored.start if start is None else start
    recipe = recipe or _dataset(request.fields) or DEFAULT_RECIPE
    requested = _configuration(request, recipe, "" if start in (None, PACKAGED) else start or "")
    config = requested if stored is None else _continue_run(stored, requested, request)
    return TrainingPlan(config, resume, start_is_default=start is None)


def _configuration(request: TrainingRequest, recipe: str, start: str) -> TrainConfig:
    fields = dict(request.fields)
    head_dim = str(fields.get("model.head_dim", ""))
    config = recipes.get(recipe, start, int(head_dim) if head_dim.isdecimal() else None)
    if dataset := _dataset(fields):
        if dataset != config.dataset != "folder":
            raise BadInput(
                f"Recipe {recipe} trains on {config.dataset}, not on {dataset}.",
                f"Set `recipe={dataset}`, or `recipe=finetune` to train on any images.",
            )
        fields["dataset"] = fields.pop("data")
    if request.train_heads is not None:
        largest = int(fields.get("model.heads", config.model.heads))
        fields["trained_heads"] = _heads(request.train_heads, largest)
    if request.head_weights is not None:
        strategy = config.sampling if config.sampling == sampling.PER_RANK else "weighted"
        fields = {"sampling": strategy, "weights": request.head_weights, **fields}
    if "lr" in fields and "lr_min" not in fields:
        fields["lr_min"] = min(config.lr_min, float(fields["lr"]))
    config_with_fields = overridden(config, fields)
    if "model.num_classes" in fields and config_with_fields.classes == "data":
        raise BadInput(
            f"`model.num_classes={fields['model.num_classes']}` sets the number of classes, but this recipe takes "
            "the data's.",
            "Leave it out, or set `classes=recipe`.",
        )
    sampling.get(config_with_fields)  # refuses weights that do not match
    return config_with_fields


def _dataset(fields: Mapping[str, Any]) -> str:
    """The dataset that comes with hydra-export and is asked for as ``data``, if one is; a recipe has its name."""
    data = fields.get("data")
    return data if data in datasets.names() and not Path(data).exists() else ""


def _heads(heads: str | Sequence[int], largest: int) -> tuple[int, ...]:
    if isinstance(heads, str):
        return parse_heads(heads, largest, argument="train_heads")
    return check_heads(heads, largest, argument="train_heads")


def _continue_run(stored: TrainConfig, requested: TrainConfig, request: TrainingRequest) -> TrainConfig:
    """The stored configuration; a request that says otherwise is refused, as it would change the run midway."""
    named = {name.replace("-", "_") for name in request.fields}
    named |= {name for name in ("recipe", "start") if getattr(request, name) is not None}
    named |= {"trained_heads"} if request.train_heads is not None else set()
    named |= {"weights", "sampling"} if request.head_weights is not None else set()
    for name in sorted(named - _MAY_CHANGE):
        before, now = (_value(config, name) for config in (stored, requested))
        if before != now:
            raise BadInput(
                f"The interrupted run has `{name}` {before}, not {now}.", f"Leave `{name}` out, or start a new run."
            )
    return msgspec.structs.replace(stored, **{name: getattr(requested, name) for name in _MAY_CHANGE & named})


def _value(config: TrainConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
