"""The report in a few lines: what is in the bundle, how far it can be trusted, what it costs."""

from __future__ import annotations

from hydra_export.report import words
from hydra_export.report.facts import ParityCheck, checks, grouped
from hydra_export.report.findings import Findings
from hydra_export.target import Precision


def glance(findings: Findings) -> dict[str, str]:
    """What there is to say of each term; a term of which there is nothing is left out."""
    changes = findings.changes
    terms: dict[str, str] = {
        "Subnetworks": _subnetworks(findings),
        "Artifacts": _artifacts(findings),
        "Warnings": _warnings(findings),
        "Parity": _parity(findings),
        **{str(precision): _cost(findings, precision) for precision in findings.gated},
        "To fetch": _sizes(findings),
        "Measured": _measured(findings),
        "Devices": _devices(findings),
        "Regressions": str(len(changes.regressions) or "none") if changes is not None else "",
    }
    return {term: text for term, text in terms.items() if text}


def _warnings(findings: Findings) -> str:
    """What the export warned of, and of which artifacts."""
    warned = [(warning, product.path) for product in findings.artifacts for warning in product.warnings]
    groups = grouped(warned, lambda pair: pair[0])
    return " ".join(f"{warning} ({', '.join(path for _, path in pairs)})" for warning, pairs in groups.items())


def _parity(findings: Findings) -> str:
    """How near the float artifacts came to their bounds."""
    bounded = [(product, c, c.share) for product, c in checks(findings.artifacts) if c.share is not None]
    if not bounded:
        return "no artifact is held to an error bound"
    product, worst, share = max(bounded, key=lambda each: each[2])
    if failed := sum(each[2] > 1 for each in bounded):
        return f"{failed} of {len(bounded)} checks are over the bound; the worst is {product.path} at k = {worst.heads}"
    count = words.counted(len(bounded), "check")
    return f"{count} within bounds; the worst error is {words.share(share)} of what is allowed"


def _cost(findings: Findings, precision: Precision) -> str:
    """What int8 or one of its kind costs at most."""
    found = [check for product, check in checks(findings.artifacts) if product.precision == precision]
    by_accuracy = [(c.accuracy_change, c) for c in found if c.accuracy_change is not None]
    by_agreement = [c for c in found if c.accuracy_change is None or "agreement" in c.judgement]
    costs = []
    if by_accuracy:
        change, worst = min(by_accuracy, key=lambda pair: pair[0])
        fall = f"changes by {words.points(change)} at worst" if change < 0 else "does not fall"
        costs = [f"top-1 {fall}, on {words.counted(worst.num_images, 'labelled image')} ({findings.images})"]
    if by_agreement:
        costs += [_agreement(min(by_agreement, key=lambda check: check.top1_agreement))]
    return "; ".join(costs)


def _agreement(check: ParityCheck) -> str:
    images = words.counted(check.num_images, "image")
    judgement = f"; judged {check.judgement}" if check.judgement else "; accuracy is unknown without labels"
    return f"agrees with the model on {check.top1_agreement:.1%} of {images} at worst, k = {check.heads}{judgement}"


def _subnetworks(findings: Findings) -> str:
    known = findings.model.accuracy.values()
    counts = words.heads(entry.heads for entry in findings.subnetworks)
    if not known:
        return f"{counts}; top-1 is not known"
    low, high = min(known), max(known)
    span = words.accuracy(low) if low == high else f"{low:.2f} to {words.accuracy(high)}"
    return f"{counts}; top-1 {span}"


def _artifacts(findings: Findings) -> str:
    count = words.counted(len(findings.artifacts), "artifact")
    precisions = words.enumerated(dict.fromkeys(product.precision for product in findings.artifacts))
    return f"{count} for {words.enumerated(findings.targets)}, {precisions}"


def _sizes(findings: Findings) -> str:
    sizes = [product.fetch_bytes for product in findings.artifacts]
    low, high = words.size(min(sizes)), words.size(max(sizes))
    return low if low == high else f"{low} to {high}"


def _measured(findings: Findings) -> str:
    moments = [(moment.ms, moment.heads, each) for each in findings.measured for moment in each.moments]
    if not moments:
        return ""
    ms, k, measured = min(moments, key=lambda each: each[0])
    return f"from {words.milliseconds(ms)} at k = {k} ({measured.runtime}, {measured.precision}, {measured.where})"


def _devices(findings: Findings) -> str:
    choices = [
        f"{entry.name}: {'every k, as no time is known' if entry.heads is None else f'k = {entry.heads}'}"
        for entry in findings.chosen
    ]
    chosen = {entry.id for entry in findings.chosen}
    for advice in findings.devices:
        if advice.profile.id not in chosen:
            without = "nothing is known to fit" if advice.choice else "no estimate"
            choices.append(f"{advice.profile.name}: {f'k = {advice.heads}' if advice.heads else without}")
    return "; ".join(choices)
