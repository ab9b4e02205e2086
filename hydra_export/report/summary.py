"""The report in a few lines: what is in the bundle, how far it can be trusted, what it costs."""

from __future__ import annotations

from hydra_export.report import words
from hydra_export.report.facts import Proof, proofs
from hydra_export.report.findings import Findings


def glance(findings: Findings) -> dict[str, str]:
    """Terms and what there is to say of each."""
    said = {"Subnetworks": _subnetworks(findings), "Artifacts": _artifacts(findings)}
    if any(product.warnings for product in findings.artifacts):
        said["Warnings"] = warnings(findings)
    said["Parity"] = parity(findings)
    if any(product.precision == "int8" for product in findings.artifacts):
        said["int8"] = int8(findings)
    said["To fetch"] = _sizes(findings)
    if findings.measured:
        said["Measured"] = _measured(findings)
    if findings.devices or findings.chosen:
        said["Devices"] = _devices(findings)
    if findings.changes is not None:
        said["Regressions"] = str(len(findings.changes.regressions) or "none")
    return said


def warnings(findings: Findings) -> str:
    """What the export warned of, and of which artifacts."""
    of: dict[str, list[str]] = {}
    for product in findings.artifacts:
        for warning in product.warnings:
            of.setdefault(warning, []).append(product.path)
    return " ".join(f"{warning} ({', '.join(paths)})" for warning, paths in of.items())


def parity(findings: Findings) -> str:
    """How near the float artifacts came to their bounds."""
    held = [(product, proof, proof.share) for product, proof in proofs(findings.artifacts) if proof.share is not None]
    if not held:
        return "no artifact is held to an error bound"
    product, proof, share = max(held, key=lambda each: each[2])
    failed = sum(each[2] > 1 for each in held)
    if failed:
        return f"over the bound are {failed} of {len(held)} checks; the worst is {product.path} at k = {proof.heads}"
    return (
        f"{words.counted(len(held), 'check')} within bounds; the worst error is {words.share(share)} of what is allowed"
    )


def int8(findings: Findings) -> str:
    """What int8 costs at most."""
    listed = [proof for product, proof in proofs(findings.artifacts) if product.precision == "int8"]
    by_accuracy = [proof for proof in listed if proof.accuracy_change is not None]
    by_agreement = [proof for proof in listed if proof.accuracy_change is None or "agreement" in proof.judgement]
    said = []
    if by_accuracy:
        worst = min(by_accuracy, key=lambda proof: proof.accuracy_change or 0)
        change = worst.accuracy_change or 0
        told = f"changes by {words.points(change)} at worst" if change < 0 else "falls nowhere"
        said = [f"top-1 {told}, on {words.counted(worst.num_images, 'labelled image')} ({findings.images})"]
    if by_agreement:
        said += [_agreement(min(by_agreement, key=lambda proof: proof.top1_agreement))]
    return "; ".join(said)


def _agreement(proof: Proof) -> str:
    images = words.counted(proof.num_images, "image")
    judged = f"; judged {proof.judgement}" if proof.judgement else "; no labels, so no accuracy"
    return f"agrees with the model on {proof.top1_agreement:.1%} of {images} at worst, k = {proof.heads}{judged}"


def _subnetworks(findings: Findings) -> str:
    known = [entry for entry in findings.subnetworks if entry.accuracy is not None]
    counts = words.heads(entry.heads for entry in findings.subnetworks)
    if not known:
        return f"{counts}; top-1 is not known"
    accuracies = [entry.accuracy or 0 for entry in known]
    low, high = min(accuracies), max(accuracies)
    span = words.accuracy(low) if low == high else f"{low:.2f} to {words.accuracy(high)}"
    return f"{counts}; top-1 {span}"


def _artifacts(findings: Findings) -> str:
    targets = words.listed(dict.fromkeys(product.target for product in findings.artifacts))
    precisions = words.listed(dict.fromkeys(product.precision for product in findings.artifacts))
    return f"{words.counted(len(findings.artifacts), 'artifact')} for {targets}, {precisions}"


def _sizes(findings: Findings) -> str:
    sizes = [product.fetch_bytes for product in findings.artifacts]
    low, high = words.size(min(sizes)), words.size(max(sizes))
    return low if low == high else f"{low} to {high}"


def _measured(findings: Findings) -> str:
    moments = [(moment.ms, moment.heads, timed) for timed in findings.measured for moment in timed.moments]
    ms, k, timed = min(moments, key=lambda each: each[0])
    return f"from {words.milliseconds(ms)} at k = {k} ({timed.runtime}, {timed.precision}, {timed.where})"


def _devices(findings: Findings) -> str:
    said = [
        f"{entry.name}: {'every k, as no time is known' if entry.heads is None else f'k = {entry.heads}'}"
        for entry in findings.chosen
    ]
    there = {entry.id for entry in findings.chosen}
    for device in findings.devices:
        if device.id in there:
            continue
        without = "nothing is known to fit" if device.times else "no number"
        chosen = f"k = {device.choice}" if device.choice else without
        said.append(f"{device.name}: {chosen}")
    return "; ".join(said)
