"""``hydra-export profile``: which subnetwork fits this device, and how sure is that?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hydra_export.commands import Result, candidates, talk
from hydra_export.commands.candidates import one_of

if TYPE_CHECKING:
    from hydra_export.bundle import Manifest
    from hydra_export.commands.profile_report import Context
    from hydra_export.latency import Advice, Evidence, Workload
    from hydra_export.profiles import ResolvedProfile

Flag = Annotated[bool, Parameter(negative="", show_default=False)]


def profile(
    *,
    device: Annotated[str, one_of(candidates.devices)] = "auto",
    budget_ms: float | None = None,
    max_ram_mib: float | None = None,
    runtime: Annotated[str | None, one_of(candidates.device_runtimes)] = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    bundle: Path | None = None,
    plot: Path | None = None,
    list: Flag = False,  # noqa: A002 (the option's name)
    show: Flag = False,
    profiles: Path | None = None,
    fleet: Path | None = None,
    import_: Annotated[Path | None, Parameter(name="--import")] = None,
    heads: int | None = None,
    date: str | None = None,
) -> Result:
    """Say which subnetwork fits a device: from times taken there, or estimated from the nearest that were.

    Args:
        device: Its name, such as pixel7, "Galaxy S23" or rpi5; auto for the one that this runs on.
        budget_ms: Milliseconds that one image may take; by default the profile's own. If nothing fits a budget given
            here, the exit status is 1.
        max_ram_mib: Memory that it may take.
        runtime: What runs it; by default the best known on the device.
        precision: fp32 and fp16, which devices compute alike, or int8.
        bundle: Speak of the model in this bundle; by default of hydravit_base_patch16_224.
        plot: Draw time and accuracy over k into this file (.png, .svg or .pdf).
        list: List the devices.
        show: Show what is known of the device, with its sources.
        profiles: The folder of your own profiles, instead of the one among your settings.
        fleet: A text file with a device a line (and a runtime, behind a comma): say it of all, and what each fetches.
        import_: Keep times that were measured elsewhere: what a board's bench.py or bench --json wrote, the JSON of a
            Qualcomm AI Hub profile, or what benchmark_model printed.
        heads: With --import: the head count, where the file does not say.
        date: With --import: the day of the measurement, YYYY-MM-DD; by default the file's own.
    """
    from hydra_export import profiles as registry
    from hydra_export.commands.profile_report import Context
    from hydra_export.errors import BadInput
    from hydra_export.latency import Constraints, Evidence, advise

    for option, value in (("--budget-ms", budget_ms), ("--max-ram-mib", max_ram_mib)):
        if value is not None and not 0 < value < 1e9:
            raise BadInput(f"{option} is {value:g}.", "Give a number above 0 and below 1e9.")
    if list or show:
        from hydra_export.commands.profile_facts import listed, shown_device

        return listed(registry.resolve(profiles)) if list else shown_device(_device(device, profiles)[0])
    if import_ is None and (heads is not None or date is not None):
        raise BadInput("--heads and --date are for --import.", "Add --import FILE, or leave them out.")
    model, manifest = _model(bundle)
    if import_ is not None:
        from hydra_export.commands.profile_import import imported

        said = {"heads": heads, "runtime": runtime or "", "precision": precision, "date": date or ""}
        return imported(import_, device, profiles, model, bundle, manifest, **said)
    constraints = Constraints(budget_ms=budget_ms, max_ram_mib=max_ram_mib, runtime=runtime or "", precision=precision)
    if fleet is not None:
        from hydra_export.commands.profile_fleet import listed_fleet

        return listed_fleet(fleet, profiles, model, bundle, manifest, constraints)
    resolved, recognised_by = _device(device, profiles)
    if plot is not None:
        from hydra_export.latency.plot import check_plot

        check_plot(plot)
    evidence = Evidence(registry.resolve(profiles))
    advice = advise(evidence, resolved, model, constraints)
    if plot is not None:
        _plot(plot, advice)
    context = Context(recognised_by, bundle, manifest, profiles or registry.user_folder())
    return _result(evidence, advice, context)


def _device(name: str, folder: Path | None) -> tuple[ResolvedProfile, str]:
    from hydra_export import profiles as registry
    from hydra_export.errors import BadInput

    if name != "auto":
        return registry.get(name, folder), ""
    keys = registry.here()
    match = registry.match(keys, folder)
    if match is None:
        values = {key: getattr(keys, key) for key in keys.__struct_fields__ if key != "source" and getattr(keys, key)}
        described = ", ".join(f"{key} = '{value[0]}'" for key, value in values.items()) or "nothing of itself"
        raise BadInput(
            f"This machine is none of the known devices: it says {described}.",
            "Name one with --device (hydra-export profile --list shows them), or describe this one in "
            f"{folder or registry.user_folder()}, as docs/device-profile.schema.json says.",
        )
    return match


def _model(folder: Path | None) -> tuple[Workload, Manifest | None]:
    from hydra_export.latency import REFERENCE

    if folder is None:
        return REFERENCE, None
    from hydra_export import bundle

    manifest = bundle.read(folder)
    return manifest.model.workload, manifest


def _plot(path: Path, advice: Advice) -> None:
    from hydra_export.latency.plot import plot

    if not advice.estimates:
        talk().print(f"note: {path} was not drawn: there is no number.", soft_wrap=True)
        return
    title = f"{advice.model.name} on {advice.profile.name}\n{advice.path}"
    plot(path, title, advice.model, advice.estimates, advice.budget.ms, advice.choice)


def _result(evidence: Evidence, advice: Advice, context: Context) -> Result:
    """The advice; CheckFailed where nothing is known to fit a budget of the user's."""
    from hydra_export.commands import profile_report as report
    from hydra_export.errors import CheckFailed

    shown = report.shown(advice, context)
    if advice.constraints.budget_ms is None or advice.heads is not None:
        return Result(report.document(advice, context), shown)
    talk().print(shown)
    raise CheckFailed(report.failure(evidence, advice, context), report.remedy(advice, context))
