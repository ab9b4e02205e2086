"""``hydra-export report DIR``: a bundle as one page to read, or as a comment on a pull request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hydra_export.commands import Result, candidates, table, titled
from hydra_export.commands.candidates import some_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hydra_export.report import Findings

_PAGE = Path("report.html")


def report(
    bundle: Path,
    *,
    out: Path | None = None,
    format: Literal["html", "md"] = "html",  # noqa: A002 (the option's name)
    against: Path | None = None,
    device: Annotated[str | None, some_of(candidates.devices)] = None,
    profiles: Path | None = None,
    bench: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
) -> Result:
    """Write a report of a bundle: accuracy, size, parity and latency, and what changed since another one.

    The HTML page is self-contained and loads nothing from other machines.

    Args:
        bundle: Its folder, or its archive.
        out: The file to write; report.html by default. Markdown goes to standard output unless this is given.
        format: html for a page, md for a comment on a pull request.
        against: An older bundle to compare with: the report says what changed and what became worse.
        device: Devices to choose head counts for, such as pixel7,rpi5. By default those on which you measured this
            model.
        profiles: The folder of your own profiles. By default the one among your settings.
        bench: Outputs of bench --json, or a board's bench.json, for this bundle or the older one. May be repeated.
    """
    from hydra_export import report as reports

    place = out if out is not None else _PAGE if format == "html" else None
    if place is not None:  # before anything takes time
        reports.check_replaceable(place)
    findings = reports.gather(
        bundle, against=against, devices=_device_names(device), profile_folder=profiles, bench_files=bench
    )
    text = reports.page(findings) if format == "html" else reports.markdown(findings)
    if place is not None:
        reports.write(place, text)
    document = reports.document(findings) | {"out": None if place is None else str(place), "format": format}
    return Result(document, text if place is None else _shown(findings, place))


def _device_names(devices: str | None) -> list[str]:
    from hydra_export.errors import BadInput

    if devices is None:
        return []
    names = [name.strip() for name in devices.split(",")]
    if not all(names):
        raise BadInput(f"`device` is '{devices}'.", "Pass names separated by commas, such as pixel7,rpi5.")
    return names


def _shown(findings: Findings, out: Path) -> RenderableType:
    from hydra_export.report.summary import glance

    shown = table("", "")
    shown.show_header = False
    shown.columns[1].justify, shown.columns[1].no_wrap, shown.columns[1].overflow = "left", False, "fold"
    for term, text in glance(findings).items():
        shown.add_row(term, text)
    regressions = findings.changes.regressions if findings.changes else ()
    return titled(f"{out}: report of {findings.bundle}", shown, *regressions)
