"""The sections of the page, each a heading with what belongs under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra_export.report import charts, words
from hydra_export.report.charts import Point, Series
from hydra_export.report.facts import Product, Proof, accuracy_of, by_kind, proofs
from hydra_export.report.findings import Findings
from hydra_export.report.markup import Markup, anchor, linked, tag
from hydra_export.report.tables import folded, table
from hydra_export.report.timings import Moment, Timed

_DASH = "\N{EN DASH}"
_PRECISIONS = ("fp32", "fp16", "int8")
_GRAPHS = ("separate", "shared", "universal")
_MOST_LABELS = 20
_ALL_NAMED = 3


def section(ident: str, title: str, *inside: object) -> Markup:
    return tag(
        "section", tag("h2", title, id=f"{ident}-heading"), *inside, id=ident, aria_labelledby=f"{ident}-heading"
    )


# Accuracy, over what it costs


def accuracy(findings: Findings) -> Markup:
    levels = _levels(findings)
    rows = [
        (f"k = {s.heads}", s.width, f"{s.params:,}", f"{s.gmacs:.4g}", words.accuracy(s.accuracy), _trained(s.trained))
        for s in findings.subnetworks
    ]
    columns = ("subnetwork", "width", "parameters", "GMACs", "top-1", "trained")
    data = findings.model.accuracy_data
    caption = f"Subnetworks. {f'Top-1 on {data}.' if levels and data else _NO_ACCURACY if not levels else ''}".strip()
    cells = [[*map(str, row)] for row in rows]
    shown = table("subnetworks", caption, columns, cells)
    if not levels:
        return section("accuracy", "Accuracy and what it costs", shown)
    figures = [*_over_gmacs(findings), *_over_size(findings), *_over_latency(findings)]
    notes = "The vertical axis is top-1 in percent; it does not begin at 0."
    if any(product.precision == "int8" for product in findings.artifacts):
        notes += f" int8: that of the subnetwork, with the change that was measured on {findings.images}."
    if len(levels) > _ALL_NAMED:
        notes += " Where head counts lie close together, not all are named."
    missing = [f"{s.heads}" for s in findings.subnetworks if s.accuracy is None]
    if missing:
        notes += f" Not drawn, as its top-1 is not known: k = {', '.join(missing)}."
    return section(
        "accuracy",
        "Accuracy and what it costs",
        shown,
        _legend(findings),
        tag("div", figures, class_="charts"),
        tag("p", notes, class_="note"),
    )


_NO_ACCURACY = "Top-1 is not known: the checkpoint does not say. hydra-export evaluate measures it."


def _levels(findings: Findings) -> dict[int, float]:
    return findings.model.accuracy


def _figure(title: str, svg: Markup) -> Markup:
    return tag("figure", tag("figcaption", title), svg, class_="panel")


def _over_gmacs(findings: Findings) -> Iterator[Markup]:
    known = [(s.heads, s.gmacs, s.accuracy) for s in findings.subnetworks if s.accuracy is not None]
    points = tuple(Point(g, a, f"k = {k}: {g:.4g} GMACs, {words.accuracy(a)}") for k, g, a in known)
    told = "; ".join(point.told for point in points)
    series = [Series("fp32", "separate", points)]
    title = "Accuracy over GMACs"
    yield _figure(title, charts.scatter("gmacs", title, told, series, _levels(findings), "GMACs", _plain))


def _over_size(findings: Findings) -> Iterator[Markup]:
    """A panel for each target: what is fetched for one head count."""
    unrounded = _levels(findings)
    for target in dict.fromkeys(product.target for product in findings.artifacts):
        own = tuple(product for product in findings.artifacts if product.target == target)
        series = []
        for listed in by_kind(own).values():
            points = tuple(
                Point(
                    product.fetch_bytes / 1e6,
                    found,
                    f"{product.kind}, k = {k}: {words.size(product.fetch_bytes)}, {words.accuracy(found)}",
                )
                for product in listed
                for k in product.heads
                if (found := accuracy_of(product, k, unrounded)) is not None
            )
            series += [Series(listed[0].precision, listed[0].graph, points)] if points else []
        if series:
            title, ident = f"Accuracy over size: {target}", f"size-{anchor(target)}"
            told = f"Megabytes to fetch for one head count. {_told(series)}"
            svg = charts.scatter(ident, title, told, series, unrounded, "MB to fetch", _plain)
            yield _figure(title, svg)


def _over_latency(findings: Findings) -> Iterator[Markup]:
    """A panel for each device and way of running: what was measured."""
    unrounded = _levels(findings)
    for number, (title, listed) in enumerate(_panels(findings.measured).items()):
        series = [
            Series(
                timed.precision,
                timed.graph,
                tuple(
                    Point(moment.ms, moment.accuracy, _moment(timed, moment), moment.low, moment.high)
                    for moment in timed.moments
                    if moment.accuracy is not None
                ),
            )
            for timed in listed
        ]
        series = [each for each in series if each.points]
        if series:
            whole = f"Accuracy over measured latency: {title}"
            told = f"Median of one image; bars hold 80 % of the calls. {_told(series)}"
            svg = charts.scatter(f"measured-{number}", whole, told, series, unrounded, "milliseconds", _plain)
            yield _figure(whole, svg)


def _told(series: Sequence[Series]) -> str:
    return "; ".join(point.told for each in series for point in each.points) + "."


def _panels(measured: Sequence[Timed]) -> dict[str, list[Timed]]:
    found: dict[str, list[Timed]] = {}
    for timed in measured:
        found.setdefault(f"{timed.where}, {timed.how}", []).append(timed)
    return found


def _moment(timed: Timed, moment: Moment) -> str:
    return f"{timed.kind}, k = {moment.heads}: {_time(moment)}"


def _time(moment: Moment) -> str:
    spread = "" if moment.low is None or moment.high is None else f" ({words.interval(moment.low, moment.high)})"
    return f"{words.milliseconds(moment.ms)}{spread}"


def _legend(findings: Findings) -> Markup:
    precisions = [each for each in _PRECISIONS if any(p.precision == each for p in findings.artifacts)]
    graphs = [each for each in _GRAPHS if any(p.graph == each for p in findings.artifacts)]
    entries = [tag("li", charts.swatch(precision=each), f" {each}") for each in precisions]
    entries += [tag("li", charts.swatch(graph=each), f" {each} graph") for each in graphs]
    return tag("ul", entries, class_="legend", aria_label="Signs in the charts")


# Sizes and parity, a row for each kind of artifact and a column for each head count


def sizes(findings: Findings) -> Markup:
    rows = []
    for kind, listed in by_kind(findings.artifacts).items():
        cells = [_first(listed, entry.heads) for entry in findings.subnetworks]
        needs = ", ".join(f"{name} {version}" for name, version in listed[0].needs.items())
        rows.append([kind, *(words.size(p.fetch_bytes) if p else _DASH for p in cells), needs or _DASH])
    caption = "To fetch for one head count, weights that several share included."
    columns = ["artifact", *(f"k = {s.heads}" for s in findings.subnetworks), "needs at least"]
    return section("size", "Size", table("sizes", caption, columns, rows))


def _first(listed: Sequence[Product], heads: int) -> Product | None:
    return next((product for product in listed if heads in product.heads), None)


def parity(findings: Findings) -> Markup:
    rows = []
    for kind, listed in by_kind(findings.artifacts).items():
        found = [(p, p.proof(s.heads)) if (p := _first(listed, s.heads)) else None for s in findings.subnetworks]
        rows.append([kind, *(_proof(pair[1]) if pair and pair[1] else _DASH for pair in found)])
    columns = ["artifact", *(f"k = {s.heads}" for s in findings.subnetworks)]
    caption = (
        "The largest error of a logit against PyTorch in float64, as a share of what is allowed; "
        "int8: how top-1 changes, and where labels are none, few or not met, on how many images it agrees."
    )
    every = [
        [
            product.path,
            f"{proof.heads}",
            f"{proof.max_abs_error:.1e}",
            _DASH if proof.allowed is None else f"{proof.allowed:.1e}",
            _DASH if proof.share is None else words.share(proof.share),
            _DASH if proof.accuracy_change is None else words.points(proof.accuracy_change),
            f"{proof.top1_agreement:.1%}",
            proof.judgement or _DASH,
            f"{proof.cosine:.6f}",
            f"{proof.num_images:,}",
            ", ".join(f"{name} {error:.1e}" for name, error in proof.runtimes.items()) or _DASH,
        ]
        for product, proof in proofs(findings.artifacts)
    ]
    details = (
        "artifact",
        "k",
        "error",
        "allowed",
        "share",
        "top-1",
        "agreement",
        "judged",
        "least cosine",
        "images",
        "error in",
    )
    return section(
        "parity",
        "Parity with PyTorch",
        table("parity-table", caption, columns, rows),
        tag(
            "p",
            f"Measured on {findings.images}. The figures are the manifest's; ",
            tag("code", "hydra-export verify"),
            " computes them again.",
            class_="note",
        ),
        folded(
            "parity-all", "Every figure", table("parity-figures", "Every artifact at every head count.", details, every)
        ),
    )


def _proof(proof: Proof) -> object:
    if proof.share is not None:
        failed = proof.share > 1
        said = f"{words.share(proof.share)}{' (over)' if failed else ''}"
        return tag(
            "span", tag("span", said, class_="bad" if failed else None), charts.bar(proof.share, failed), class_="share"
        )
    if proof.accuracy_change is not None:
        points = words.points(proof.accuracy_change)
        return f"{points}, agrees {proof.top1_agreement:.1%}" if "agreement" in proof.judgement else points
    return f"agrees {proof.top1_agreement:.1%}"


# Latency


def measured(findings: Findings) -> Markup:
    if not findings.measured:
        said = (
            "Nothing was measured of this model. ",
            tag("code", "hydra-export bench --json"),
            " measures it on this machine, ",
            tag("code", "hydra-export bench --standalone"),
            " on a board, and ",
            tag("code", "hydra-export profile --device"),
            " says what does on a phone; give the output of a bench with ",
            tag("code", "--bench"),
            ".",
        )
        return section("latency", "Measured latency", tag("p", said))
    counts = [s.heads for s in findings.subnetworks]
    found = []
    for number, (title, listed) in enumerate(_panels(findings.measured).items()):
        rows = []
        for timed in listed:
            moments = {moment.heads: moment for moment in timed.moments}
            rows.append([timed.kind, *(_timing(moments.get(k)) for k in counts)])
        origin = words.listed(dict.fromkeys(f"{timed.origin}, {timed.date}" for timed in listed))
        caption = (
            tag("b", title),
            f". Median of one image and what holds 80 % of the calls, in milliseconds ({origin}).",
        )
        found.append(table(f"times-{number}", caption, ["artifact", *(f"k = {k}" for k in counts)], rows))
    noisy = any(moment.noisy for timed in findings.measured for moment in timed.moments)
    note = "* The times scatter, drift, or others had the core: repeat them on a quiet machine." if noisy else None
    return section("latency", "Measured latency", found, tag("p", note, class_="note") if note else None)


def _timing(moment: Moment | None) -> object:
    if moment is None:
        return _DASH
    spread = None
    if moment.low is not None and moment.high is not None:
        spread = tag("small", words.interval(moment.low, moment.high).removesuffix(" ms"))
    star = tag("abbr", "*", title=moment.noisy) if moment.noisy else None
    return (words.milliseconds(moment.ms).removesuffix(" ms"), star, spread)


# What the model is


def card(findings: Findings) -> Markup:
    model, config, data = findings.model, findings.model.config, findings.model.preprocessing
    more = len(model.labels) - _MOST_LABELS
    named = ", ".join(model.labels[:_MOST_LABELS]) + (f" and {more:,} more" if more > 0 else "")
    labels = f"{len(model.labels):,}: {named}" if model.labels else "none in the bundle"
    outputs = f"{config.num_classes} classes" if config.num_classes else "features, no classes"
    facts: dict[str, object] = {
        "Name": model.name,
        "Licence": linked(model.license or "The checkpoint names none: ask whoever trained it."),
        "Checkpoint, SHA-256": tag("code", model.checkpoint_sha256),
        "Architecture": (
            f"{'plain ViT' if model.is_plain else 'HydraViT'}, {config.heads} heads of {config.head_dim} channels, "
            f"depth {config.depth}, patch {config.patch_size}, MLP ratio {config.mlp_ratio:g}, {outputs}"
        ),
        "Input": (
            f"{config.channels} x {config.image_size} x {config.image_size}, {data.interpolation}, crop {data.crop:g}, "
            f"mean {_numbers(data.mean)}, std {_numbers(data.std)}"
        ),
        "Labels": labels,
        "Top-1 measured on": linked(model.accuracy_data or words.UNKNOWN),
        "Parity measured on": linked(findings.images),
        "Made with": ", ".join(f"{name} {version}" for name, version in findings.tool.items()),
    }
    listed = tag("dl", ((tag("dt", term), tag("dd", said)) for term, said in facts.items()), class_="facts")
    rows = [(p.path, words.size(p.fetch_bytes), f"{p.num_files}", tag("code", p.sha256)) for p in findings.artifacts]
    columns = ("artifact", "to fetch", "files", "SHA-256")
    hashes = table("hash-table", "Hashes, as in the manifest.", columns, rows)
    return section("model", "Model card", listed, folded("hashes", "Hashes of the artifacts", hashes))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _trained(trained: bool | str) -> str:
    return trained if isinstance(trained, str) else "yes" if trained else "no"


def _plain(value: float) -> str:
    return f"{value:.6g}"
