"""The sections of a report, each a heading with what belongs under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import get_args

from hydra_export.report import charts, words
from hydra_export.report.charts import Point, Series
from hydra_export.report.facts import ParityCheck, Product, accuracy_of, by_kind, checks, grouped
from hydra_export.report.findings import Findings
from hydra_export.report.markup import Markup, linked, tag
from hydra_export.report.tables import Table, without_unknown
from hydra_export.report.timings import Measurement, Moment
from hydra_export.target import Precision

_PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_GRAPHS = ("separate", "shared", "universal")
_GRAPH_SHAPES = {f"{graph} graph": shape for graph, shape in zip(_GRAPHS, charts.SHAPES, strict=False)}
_MOST_LABELS = 20
_ALL_NAMED = 3
_NO_ACCURACY = "Top-1 is unknown, as the checkpoint does not state it. hydra-export evaluate measures it."


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; *ident* is where links to it lead."""

    ident: str
    title: str
    content: tuple[object, ...]

    def html(self) -> Markup:
        label = f"{self.ident}-heading"
        heading = tag("h2", self.title, id=label)
        return tag("section", heading, *self.content, id=self.ident, aria_labelledby=label)


# Accuracy, over what it costs


def subnetworks_table(findings: Findings) -> Table:
    data = findings.model.accuracy_data
    caption = (f"Top-1 on {data}." if data else "") if findings.model.accuracy else _NO_ACCURACY
    rows = [
        [
            f"k = {s.heads}",
            words.accuracy(s.accuracy),
            f"{s.params:,}",
            f"{s.gmacs:.4g}",
            f"{s.width}",
            words.trained(s.trained),
        ]
        for s in findings.subnetworks
    ]
    columns = ("subnetwork", "top-1", "parameters", "GMACs", "width", "trained")
    return Table("subnetworks", f"Subnetworks. {caption}".strip(), *without_unknown(columns, rows))


def accuracy(findings: Findings) -> Section:
    content: list[object] = [subnetworks_table(findings).html()]
    if levels := findings.model.accuracy:
        figures = [*_over_gmacs(findings), *_over_size(findings), *_over_latency(findings)]
        notes = ["The vertical axis is top-1 in percent; it does not begin at 0."]
        if findings.gated:
            counted = words.enumerated(findings.gated)
            notes += [f"For {counted} it is the subnetwork's top-1 plus the change measured on {findings.images}."]
        if len(levels) > _ALL_NAMED:
            notes += ["Where head counts are close together, not all are labelled."]
        if missing := [f"{s.heads}" for s in findings.subnetworks if s.accuracy is None]:
            notes += [f"Not drawn, because top-1 is unknown: k = {', '.join(missing)}."]
        content += [tag("div", figures, class_="charts"), tag("p", " ".join(notes), class_="note")]
    return Section("accuracy", "Accuracy and what it costs", tuple(content))


def _panel(
    ident: str,
    title: str,
    about: str,
    series: Sequence[Series],
    levels: Mapping[int, float],
    x_title: str,
    shapes: Mapping[str, str],
) -> Iterator[Markup]:
    """A chart of accuracy over something; none without a mark. *shapes*: by what they stand for."""
    series = [each for each in series if each.points]
    if series:
        description = f"{about} {'; '.join(point.text for each in series for point in each.points)}.".lstrip()
        svg = charts.scatter(ident, title, description, series, levels, x_title)
        caption = tag("figcaption", title, tag("small", about) if about else None)
        yield tag("figure", caption, _legend(series, shapes) if shapes else None, svg, class_="panel")


def _over_gmacs(findings: Findings) -> Iterator[Markup]:
    known = [(s.heads, s.gmacs, s.accuracy) for s in findings.subnetworks if s.accuracy is not None]
    points = tuple(Point(g, a, f"k = {k}: {g:.4g} GMACs, {words.accuracy(a)}") for k, g, a in known)
    series = [Series("fp32", "disc", points)]
    yield from _panel("gmacs", "Accuracy over GMACs", "", series, findings.model.accuracy, "GMACs", {})


def _over_size(findings: Findings) -> Iterator[Markup]:
    """What is fetched for one head count, a series for each target and precision."""
    levels, shapes = findings.model.accuracy, dict(zip(findings.targets, cycle(charts.SHAPES), strict=False))
    groups = grouped(findings.artifacts, lambda product: (product.target, product.precision))
    series = [
        Series(precision, shapes[target], tuple(_sizes(group, levels))) for (target, precision), group in groups.items()
    ]
    about = "The smallest download of each format and precision at each head count."
    yield from _panel("size", "Accuracy over size", about, series, levels, "MB to fetch", shapes)


def _sizes(group: Sequence[Product], levels: Mapping[int, float]) -> Iterator[Point]:
    for k in sorted({k for product in group for k in product.heads}):
        product = min((each for each in group if k in each.heads), key=lambda each: each.fetch_bytes)
        if (top1 := accuracy_of(product, k, levels)) is not None:
            text = f"{product.kind}, k = {k}: {words.size(product.fetch_bytes)}, {words.accuracy(top1)}"
            yield Point(product.fetch_bytes / 1e6, top1, text)


def _over_latency(findings: Findings) -> Iterator[Markup]:
    """A panel for each device and execution path: what was measured."""
    for number, ((where, how), group) in enumerate(_by_path(findings.measured).items()):
        series = [
            Series(each.precision, _GRAPH_SHAPES.get(f"{each.graph} graph", "disc"), _times_of(each)) for each in group
        ]
        title, about = f"Accuracy over latency: {how}", f"{where}. Median of one image; bars contain 80 % of the calls."
        levels = findings.model.accuracy
        yield from _panel(f"measured-{number}", title, about, series, levels, "milliseconds", _GRAPH_SHAPES)


def _times_of(measured: Measurement) -> tuple[Point, ...]:
    return tuple(
        Point(m.ms, m.accuracy, f"{measured.kind}, k = {m.heads}: {_time(m)}", m.low, m.high)
        for m in measured.moments
        if m.accuracy is not None
    )


def _by_path(measured: Sequence[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    return grouped(measured, lambda each: (each.where, each.how))


def _time(moment: Moment) -> str:
    spread = "" if moment.low is None or moment.high is None else f" ({words.interval(moment.low, moment.high)})"
    return f"{words.milliseconds(moment.ms)}{spread}"


def _legend(series: Sequence[Series], shapes: Mapping[str, str]) -> Markup:
    precisions = [each for each in _PRECISIONS if any(one.precision == each for one in series)]
    drawn = {one.shape for one in series}
    entries = [tag("li", charts.line_swatch(each), each) for each in precisions]
    if len(drawn) > 1:
        entries += [tag("li", charts.mark_swatch(shape), name) for name, shape in shapes.items() if shape in drawn]
    return tag("ul", entries, class_="legend", aria_label="Signs in the chart")


# Sizes and parity, a row for each kind of artifact and a column for each head count


def sizes_table(findings: Findings) -> Table:
    rows = []
    for kind, group in by_kind(findings.artifacts).items():
        cells = [_first(group, entry.heads) for entry in findings.subnetworks]
        needs = ", ".join(f"{name} {version}" for name, version in group[0].needs.items())
        rows.append([kind, *(words.size(p.fetch_bytes) if p else words.DASH for p in cells), needs or words.DASH])
    caption = "What to fetch for one head count, including weights that several files share."
    return Table("sizes", caption, ["artifact", *_heads(findings), "needs at least"], rows)


def sizes(findings: Findings) -> Section:
    return Section("size", "Size", (sizes_table(findings).html(),))


def _heads(findings: Findings) -> list[str]:
    return [f"k = {s.heads}" for s in findings.subnetworks]


def _first(group: Sequence[Product], heads: int) -> Product | None:
    return next((product for product in group if heads in product.heads), None)


def parity(findings: Findings) -> Section:
    rows = []
    for kind, group in by_kind(findings.artifacts).items():
        of_heads = [(_first(group, s.heads), s.heads) for s in findings.subnetworks]
        known = [product.check(k) if product else None for product, k in of_heads]
        rows.append([kind, *(_check(check) if check else words.DASH for check in known)])
    caption = "The largest error of a logit against PyTorch in float64, as a share of what is allowed."
    if findings.gated:
        caption += (
            f" For {words.enumerated(findings.gated)}: how top-1 changes and, where labels are missing or too few, on "
            "how many images the answer agrees."
        )
    note = f"Measured on {findings.images}. The figures come from the manifest; "
    verify = tag("p", note, tag("code", "hydra-export verify"), " recomputes them.", class_="note")
    table = Table("parity-table", caption, ["artifact", *_heads(findings)], rows)
    return Section("parity", "Parity with PyTorch", (table.html(), verify, _every_check(findings).html()))


def _every_check(findings: Findings) -> Table:
    rows = [
        [
            product.path,
            f"{check.heads}",
            f"{check.max_abs_error:.1e}",
            words.DASH if check.allowed is None else f"{check.allowed:.1e}",
            words.DASH if check.share is None else words.share(check.share),
            words.DASH if check.accuracy_change is None else words.points(check.accuracy_change),
            f"{check.top1_agreement:.1%}",
            check.judgement or words.DASH,
            f"{check.cosine:.6f}",
            f"{check.num_images:,}",
            ", ".join(f"{name} {error:.1e}" for name, error in check.runtimes.items()) or words.DASH,
        ]
        for product, check in checks(findings.artifacts)
    ]
    columns = ("artifact", "k", "error", "allowed", "share", "top-1", "agreement", "judged", "least cosine", "images")
    caption = "Every artifact at every head count."
    return Table("parity-figures", caption, *without_unknown((*columns, "error in"), rows), folded="Every figure")


def _check(check: ParityCheck) -> object:
    agreement = f"agrees {check.top1_agreement:.1%}"
    if check.share is not None:
        failed = check.share > 1
        text = tag("span", f"{words.share(check.share)}{' (over)' if failed else ''}", class_="bad" if failed else None)
        return tag("span", text, charts.bar(check.share, failed), class_="share")
    if check.accuracy_change is None:
        return agreement
    points = words.points(check.accuracy_change)
    return f"{points}, {agreement}" if "agreement" in check.judgement else points


# Latency


def measured(findings: Findings) -> Section:
    noisy = any(m.noisy for each in findings.measured for m in each.moments)
    by_device = grouped(findings.measured, lambda each: each.where)
    tables = (_times(number, where, group, findings) for number, (where, group) in enumerate(by_device.items()))
    note = "* The times scatter or drift, or another program had the core. Repeat them on a quiet machine."
    return Section("latency", "Measured latency", (tables, tag("p", note, class_="note") if noisy else None))


def _times(number: int, where: str, group: Sequence[Measurement], findings: Findings) -> Markup:
    moments = [{moment.heads: moment for moment in each.moments} for each in group]
    rows = [
        [(each.kind, tag("small", each.how)), *(_timing(own.get(s.heads)) for s in findings.subnetworks)]
        for each, own in zip(group, moments, strict=True)
    ]
    origin = words.enumerated(dict.fromkeys(f"{each.origin}, {each.date}" for each in group))
    note = f". Milliseconds for one image: the median, and what contains 80 % of the calls ({origin})."
    return Table(f"times-{number}", (tag("b", where), note), ["artifact", *_heads(findings)], rows).html()


def _timing(moment: Moment | None) -> object:
    if moment is None:
        return words.DASH
    spread = None
    if moment.low is not None and moment.high is not None:
        spread = tag("small", words.interval(moment.low, moment.high).removesuffix(" ms"))
    star = tag("abbr", "*", title=moment.noisy) if moment.noisy else None
    return (words.milliseconds(moment.ms).removesuffix(" ms"), star, spread)


# What the model is


def card(findings: Findings) -> Section:
    model, config, data = findings.model, findings.model.config, findings.model.preprocessing
    more = len(model.labels) - _MOST_LABELS
    named = ", ".join(model.labels[:_MOST_LABELS]) + (f" and {more:,} more" if more > 0 else "")
    labels = f"{len(model.labels):,}: {named}" if model.labels else ""
    outputs = f"{config.num_classes} classes" if config.num_classes else f"{config.output_text}, no classes"
    facts: dict[str, object] = {
        "Name": model.name,
        "Licence": linked(model.license or "The checkpoint does not state one. Ask whoever trained it."),
        "Checkpoint, SHA-256": tag("code", model.checkpoint_sha256),
        "Architecture": (
            f"{'plain ViT' if model.is_plain else 'HydraViT'}, {config.heads} heads of {config.head_dim} channels, "
            f"depth {config.depth}, patch {config.patch_size}, MLP ratio {config.mlp_ratio:g}, {outputs}"
        ),
        "Input": (
            f"{config.channels} x {config.image_shape[0]} x {config.image_shape[1]}, {data.interpolation}, "
            f"crop {data.crop:g}, mean {_numbers(data.mean)}, std {_numbers(data.std)}"
        ),
        "Labels": labels,
        "Top-1 measured on": linked(model.accuracy_data),
        "Parity measured on": linked(findings.images),
        "Made with": ", ".join(f"{name} {version}" for name, version in findings.tool.items()),
    }
    terms = tag("dl", ((tag("dt", term), tag("dd", text)) for term, text in facts.items() if text), class_="facts")
    rows = [(p.path, words.size(p.fetch_bytes), f"{p.num_files}", tag("code", p.sha256)) for p in findings.artifacts]
    columns = ("artifact", "to fetch", "files", "SHA-256")
    hashes = Table("hashes", "Hashes, as in the manifest.", columns, rows, folded="Hashes of the artifacts")
    return Section("model", "Model card", (terms, hashes.html()))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
