"""``hydra-export doctor``: what is installed here, and which targets work?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra_export.commands import Result, table, talk, titled
from hydra_export.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hydra_export.doctor import Diagnosis, TargetState


def doctor(*, time_limit: float = 300.0) -> Result:
    """List what is installed, and try every target on a tiny model: export, verify, every runtime.

    A target whose packages are not installed is not a failure; one that is installed and does not work is.

    Args:
        time_limit: Time limit in seconds for each target.
    """
    import msgspec

    from hydra_export.commands.progress import shown_progress
    from hydra_export.doctor import diagnose
    from hydra_export.errors import BadInput

    if not 0 < time_limit < float("inf"):
        raise BadInput(f"`time_limit` is {time_limit}.", "Pass a number above 0.")
    console = talk()
    with shown_progress(console) as progress:
        diagnosis = diagnose(progress, time_limit)
    shown = _render(diagnosis)
    if failures := [target for target in diagnosis.targets if target.state == "fails"]:
        console.print(shown, soft_wrap=True)
        raise _failure(failures)
    document: dict[str, Any] = msgspec.to_builtins(diagnosis)
    return Result(document, shown)


def _failure(failures: list[TargetState]) -> Exception:
    from hydra_export.errors import CheckFailed

    problems = " ".join(f"Target '{target.name}' does not work here: {target.message}" for target in failures)
    remedies = " ".join(dict.fromkeys(target.remedy for target in failures if target.remedy))
    error = CheckFailed(problems, remedies or "Run it again with `debug` to see more.")
    for target in failures:
        error.add_note(f"{target.name}:\n{target.detail}")
    return error


def _render(diagnosis: Diagnosis) -> RenderableType:
    from rich.console import Group

    machine, accelerators = diagnosis.machine, diagnosis.accelerators
    available = "" if machine.available_memory_mib is None else f", {machine.available_memory_mib:,} MiB free"
    title = f"hydra-export {diagnosis.hydra_export}, Python {machine.python}, {machine.system}"
    hardware = (
        f"{machine.architecture}, {counted(machine.cores, 'core')}, {machine.memory_mib:,} MiB of memory{available}"
    )
    gpus = ", ".join(accelerators.gpus) or "none that torch can use"
    providers = ", ".join(accelerators.onnxruntime_providers) or "none"
    about = f"GPU: {accelerators.problem or gpus}", f"onnxruntime providers: {accelerators.problem or providers}"
    packages = table("package", "version", "for", "note")
    for package in diagnosis.packages:
        packages.add_row(package.name, package.version or "-", package.purpose, package.remedy)
    trials = table("target", "state", "precision", "s", "runtimes and their errors", "note")
    for target in diagnosis.targets:
        trials.add_row(
            target.name,
            target.state,
            target.precision,
            f"{target.seconds:.1f}" if target.seconds else "-",
            ", ".join(f"{name} {error:.0e}" for name, error in target.runtimes.items()) or "-",
            f"{target.message} {target.remedy}".strip(),
        )
    for listed in (packages, trials):
        for column in listed.columns:
            column.justify = "left"
        listed.columns[-1].no_wrap, listed.columns[-1].overflow = False, "fold"
    return Group(titled(title, packages, hardware, *about), "", trials)
