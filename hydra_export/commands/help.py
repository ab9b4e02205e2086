"""How help looks: options in named groups, and sentences that wrap at any width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

# Targets have groups of their own; every other option is in one of these, whatever the command.
GROUPS = {
    "Model": (
        *("checkpoint", "bundle", "images", "heads", "labels", "architecture", "head-dim", "image-size", "drop"),
        *(
            "preprocessing",
            "allow-untrained",
            "artifact",
            "recipe",
            "start",
            "data",
            "max-images",
            "cascade",
            "old",
            "new",
            "file",
            "date",
        ),
    ),
    "Training": ("seed", "steps", "lr", "train-heads", "head-weights", "override", "no-training", "keep", "resume"),
    "Device": ("device", "runtime", "budget-ms", "max-ram-mib", "profiles"),
    "Checks": (
        *(
            "check-images",
            "calibrate",
            "calibration-images",
            "calibration-method",
            "no-smooth",
            "mixed",
            "reference",
            "verify-with",
            "max-drop",
            "max-class-drop",
            "accept-unchecked",
            "max-regression",
            "measure",
            "runs",
            "within",
            "for",
        ),
        *("against", "bench"),
    ),
    "Serving": ("port", "lan", "host", "https", "certificate", "key", "static", "install", "packages", "no-open"),
    "Output": (
        *(
            "target",
            "graph",
            "precision",
            "input",
            "batch",
            "io",
            "output",
            "out",
            "zip",
            "format",
            "top",
            "plot",
            "why",
            "save",
        ),
        *("tensorboard", "wandb", "json", "debug", "shell"),
    ),
    "Resources": (
        *("cache", "no-cache", "batch-size", "threads"),
        *("limit-memory", "limit-seconds", "time-limit"),
    ),
}
_GROUP_OF = {option: group for group, options in GROUPS.items() for option in options}


class Formatter:
    """What prints help."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Prints *panel*; options without a group of their own under the groups that they have in all commands."""
        from cyclopts.help.formatters import DefaultFormatter

        for entry in panel.entries:
            _unwrap(entry)
        if panel.title != "Parameters":
            DefaultFormatter()(console, options, panel)
            return
        groups = [_group(entry) for entry in panel.entries]
        for group in GROUPS:
            entries = [entry for entry, own in zip(panel.entries, groups, strict=True) if own == group]
            if entries:
                DefaultFormatter()(console, options, panel.copy(title=group, entries=entries))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        from cyclopts.help.formatters import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)


def _group(entry: HelpEntry) -> str:
    names = (*entry.positive_names, entry.positional_label or "")
    return next(_GROUP_OF[key] for name in names if (key := name.strip("-").lower()) in _GROUP_OF)


def _unwrap(entry: HelpEntry) -> None:
    """Joins the lines of a docstring."""
    from cyclopts.help import InlineText
    from rich.text import Text

    if isinstance(entry.description, InlineText) and isinstance(entry.description.primary_renderable, Text):
        entry.description.primary_renderable = Text(" ".join(entry.description.primary_renderable.plain.split()))
