"""How sure the model is, and its cascades: a section of a report, where a bundle is calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra_export.calibration import COLUMNS, Calibration
from hydra_export.report import charts, words
from hydra_export.report.charts import Point, Series
from hydra_export.report.findings import Findings
from hydra_export.report.markup import tag
from hydra_export.report.sections import Section
from hydra_export.report.tables import Table


def calibration(findings: Findings) -> Iterator[Section]:
    """The section; none for a bundle that nobody calibrated."""
    found = findings.calibration
    if found is None:
        return
    content: list[object] = [_confidence(found, findings).html()]
    if found.cascades:
        content += [cascades_table(found, findings).html(), tag("div", _chart(found, findings), class_="charts")]
    yield Section("calibration", "Confidence and cascades", tuple(content))


def _confidence(found: Calibration, findings: Findings) -> Table:
    rows = [
        (
            f"k = {each.heads}",
            words.accuracy(each.accuracy),
            f"{each.low:.1f} to {each.high:.1f}",
            f"{each.temperature:.2f}",
            f"{each.ece_before:.1f}",
            f"{each.ece_after:.1f}",
        )
        for each in found.subnetworks
    ]
    right = "the image's label" if found.labels else f"the answer of k = {max(findings.model.heads)}"
    caption = (
        f"Fitted on {found.num_fitted:,} of {found.data}, evaluated on the other {found.num_reported:,}. An answer is "
        f"correct if it is {right}. The error is the expected calibration error, in points, without and with the "
        "temperature."
    )
    columns = ("subnetwork", "correct", "95 % interval", "temperature", "error before", "after")
    return Table("confidence", caption, columns, rows)


def cascades_table(found: Calibration, findings: Findings) -> Table:
    rows = [each.cells(findings.model.gmacs) for each in found.cascades]
    caption = (
        "Cascades: a head count answers if its probability reaches its threshold; otherwise the next one runs. The "
        "gain is over the single head count, with its 95 % interval."
    )
    return Table("cascades", caption, COLUMNS, rows, text=3)


def _chart(found: Calibration, findings: Findings) -> object:
    gmacs = findings.model.gmacs
    single = [(f"k = {each.heads}", gmacs[each.heads], each.accuracy) for each in found.subnetworks]
    several = [(" > ".join(map(str, each.heads)), each.gmacs, each.accuracy) for each in found.cascades]
    series = [Series("fp32", "disc", _points(single)), Series("int8", "diamond", _points(several))]
    title = "Cascades (diamonds) beside single head counts (discs)"
    description = "; ".join(point.text for each in series for point in each.points)
    levels = {each.heads: each.accuracy for each in found.subnetworks}
    svg = charts.scatter("cascade-chart", title, f"{description}.", series, levels, "GMACs of an image on average")
    return tag("figure", tag("figcaption", title), svg, class_="panel")


def _points(rows: Sequence[tuple[str, float, float]]) -> tuple[Point, ...]:
    return tuple(Point(gmacs, right, f"{name}: {gmacs:.3g} GMACs, {right:.1f} %") for name, gmacs, right in rows)
