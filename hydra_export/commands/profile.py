"""``hydra-export profile``: which subnetwork fits this device, and how sure is that?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App

from hydra_export.commands import Result, candidates, examples, talk
from hydra_export.commands.candidates import one_of
from hydra_export.target import Precision

if TYPE_CHECKING:
    from hydra_export.bundle import Manifest
    from hydra_export.commands.profile_report import Context
    from hydra_export.latency import Advice, Constraints, Evidence, Workload
    from hydra_export.profiles import ResolvedProfile

app = App(
    name="profile",
    help_epilogue=examples(
        "hydra-export profile --device pixel7",
        "hydra-export profile --bundle hydra-bundle --budget-ms 33",
    ),
)
Device = Annotated[str, one_of(candidates.devices)]
DeviceRuntime = Annotated[str | None, one_of(candidates.device_runtimes)]


@app.default
def profile(
    *,
    device: Device = "auto",
    budget_ms: float | None = None,
    max_ram_mib: float | None = None,
    runtime: DeviceRuntime = None,
    precision: Precision | None = None,
    bundle: Path | None = None,
    plot: Path | None = None,
    why: bool = False,
    profiles: Path | None = None,
) -> Result:
    """Show which subnetwork fits a device, from times measured on it or estimated from the nearest measured ones.

    Args:
        device: Its name, such as pixel7, "Galaxy S23" or rpi5; auto for this machine.
        budget_ms: Time budget for one image in milliseconds; by default the profile's own. If nothing fits a budget
            passed here, the exit status is 1.
        max_ram_mib: Memory limit in MiB.
        runtime: Runtime; by default the best known on the device.
        precision: fp32 or fp16, which devices compute alike; int8, with float activations; int8-static or w8a16, for
            NPUs.
        bundle: The bundle of the model to ask about; by default the model is hydravit_base_patch16_224.
        why: List the records behind the answer, each with its weight.
        plot: Plot time and accuracy over k into this file (.png, .svg or .pdf).
        profiles: The folder of your own profiles, instead of the default one.
    """
    from hydra_export import profiles as registry
    from hydra_export.commands.profile_report import Context
    from hydra_export.latency import Evidence, advise

    constraints = _constraints(budget_ms, max_ram_mib, runtime, precision)
    model, manifest = _model(bundle)
    resolved, recognised_by = resolved_device(device, profiles)
    if plot is not None:
        from hydra_export import pictures

        pictures.check(plot)
    evidence = Evidence(registry.resolve(profiles))
    advice = advise(evidence, resolved, model, constraints)
    if plot is not None:
        _plot(plot, advice)
    context = Context(recognised_by, bundle, manifest, profiles or registry.user_folder(), why)
    return _result(evidence, advice, context)


@app.command(
    name="list",
    help_epilogue=examples(
        "hydra-export profile list",
        "hydra-export profile list --profiles mine --json",
    ),
)
def list_devices(*, profiles: Path | None = None) -> Result:
    """List the known devices.

    Args:
        profiles: The folder of your own profiles, instead of the default one.
    """
    from hydra_export import profiles as registry
    from hydra_export.commands.profile_facts import list_devices

    return list_devices(registry.resolve(profiles))


@app.command(
    help_epilogue=examples(
        "hydra-export profile show pixel7",
        "hydra-export profile show",
    ),
)
def show(device: Device = "auto", *, profiles: Path | None = None) -> Result:
    """Show what is known about a device, with sources.

    Args:
        device: Its name, such as pixel7; auto for this machine.
        profiles: The folder of your own profiles, instead of the default one.
    """
    from hydra_export.commands.profile_facts import shown_device

    return shown_device(resolved_device(device, profiles)[0])


@app.command(
    name="import",
    help_epilogue=examples(
        "hydra-export profile import bench.json --bundle dist",
        "hydra-export profile import s24.json --device galaxy-s24 --heads 6",
    ),
)
def import_times(
    file: Path,
    *,
    device: Device = "auto",
    heads: str | None = None,
    runtime: DeviceRuntime = None,
    precision: Precision | None = None,
    date: str | None = None,
    bundle: Path | None = None,
    profiles: Path | None = None,
) -> Result:
    """Import times measured elsewhere into your profiles, which outrank all others.

    Args:
        file: The output of a board's bench.py or of bench --json, the JSON of a Qualcomm AI Hub profile, or the printed
            or JSON output of a tool such as benchmark_model, trtexec or benchncnn.
        device: Where it was measured, if the file does not state it.
        heads: The head count (k), if the file does not state it.
        runtime: The runtime, if the file does not state it.
        precision: The precision of the weights, if the file does not state it.
        date: The day of the measurement, YYYY-MM-DD; by default the file's own.
        bundle: The bundle whose model was measured; by default hydravit_base_patch16_224.
        profiles: The folder of your own profiles, instead of the default one.
    """
    from hydra_export.commands.profile_import import import_results
    from hydra_export.errors import BadInput

    if heads is not None and not (heads.isascii() and heads.isdigit() and len(heads) < 6):
        raise BadInput(f"`heads` {heads!r} is not a head count.", "Pass the one that was measured, such as `heads=6`.")
    count = None if heads is None else int(heads)
    model, manifest = _model(bundle)
    details = {"heads": count, "runtime": runtime or "", "precision": precision, "date": date or ""}
    return import_results(file, device, profiles, model, bundle, manifest, **details)


@app.command(
    help_epilogue=examples(
        "hydra-export profile fleet devices.txt",
        "hydra-export profile fleet devices.txt --bundle dist --budget-ms 33",
    ),
)
def fleet(
    file: Path,
    *,
    budget_ms: float | None = None,
    max_ram_mib: float | None = None,
    runtime: DeviceRuntime = None,
    precision: Precision | None = None,
    bundle: Path | None = None,
    profiles: Path | None = None,
) -> Result:
    """Show which subnetwork fits each device of a fleet, and how many bytes each downloads.

    Args:
        file: A text file with one device per line, optionally followed by a comma and a runtime.
        budget_ms: Time budget for one image in milliseconds; by default each profile's own. If nothing fits a budget
            passed here on one of the devices, the exit status is 1.
        max_ram_mib: Memory limit in MiB.
        runtime: Runtime where the file lists none; by default the best known on each device.
        precision: fp32 or fp16, which devices compute alike; int8, with float activations; int8-static or w8a16, for
            NPUs.
        bundle: The bundle of the model to ask about; by default the model is hydravit_base_patch16_224.
        profiles: The folder of your own profiles, instead of the default one.
    """
    from hydra_export.commands.profile_fleet import listed_fleet

    constraints = _constraints(budget_ms, max_ram_mib, runtime, precision)
    model, manifest = _model(bundle)
    return listed_fleet(file, profiles, model, bundle, manifest, constraints)


def _constraints(
    budget_ms: float | None, max_ram_mib: float | None, runtime: str | None, precision: Precision | None
) -> Constraints:
    from hydra_export.errors import BadInput
    from hydra_export.latency import Constraints

    for argument, value in (("budget_ms", budget_ms), ("max_ram_mib", max_ram_mib)):
        if value is not None and not 0 < value < 1e9:
            raise BadInput(f"`{argument}` is {value:g}.", "Use a number above 0 and below 1e9.")
    return Constraints(budget_ms=budget_ms, max_ram_mib=max_ram_mib, runtime=runtime or "", precision=precision)


def resolved_device(name: str, folder: Path | None) -> tuple[ResolvedProfile, str]:
    from hydra_export import profiles as registry
    from hydra_export.errors import BadInput

    if name != "auto":
        return registry.get(name, folder), ""
    keys = registry.here()
    match = registry.match(keys, folder)
    if match is None:
        values = {key: getattr(keys, key) for key in keys.__struct_fields__ if key != "source" and getattr(keys, key)}
        properties = ", ".join(f"{key} = '{value[0]}'" for key, value in values.items()) or "nothing"
        raise BadInput(
            f"This machine is not a known device: it reports {properties}.",
            "Choose one with `device` (hydra-export profile list shows them), or describe this one in "
            f"{folder or registry.user_folder()}, in the form of docs/device-profile.schema.json.",
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
        talk().print(f"note: {path} was not drawn, because there is no estimate.", soft_wrap=True)
        return
    title = f"{advice.model.name} on {advice.profile.name}: {advice.path}"
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
