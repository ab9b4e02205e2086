"""The report in a few lines: what is in the bundle, how far it can be trusted, what it costs."""

from __future__ import annotations

from hydra_export.report import words
from hydra_export.report.facts import Proof, proofs
from hydra_export.report.findings import Findings


def glance(findings: Findings) -> dict[str, str]:
    """Terms and what there is to say of each."""
    said = {"Subnetworks": _subnetworks(findings), "Artifacts": _artifacts(findings), "Parity": parity(findings)}
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
    changes = [proof.accuracy_change for proof in listed if proof.accuracy_change is not None]
    if changes:
        images = max(proof.num_images for proof in listed)
        told = f"changes by {words.points(min(changes))} at worst" if min(changes) < 0 else "falls nowhere"
        return f"top-1 {told}, on {words.counted(images, 'labelled image')}"
    return _agreement(min(listed, key=lambda proof: proof.top1_agreement))


def _agreement(proof: Proof) -> str:
    images = words.counted(proof.num_images, "image")
    return f"agrees with the model on {proof.top1_agreement:.1%} of {images} at worst; no labels, so no accuracy"


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
        chosen = f"k = {device.choice}" if device.choice else "no number" if not device.times else "nothing fits"
        said.append(f"{device.name}: {chosen}")
    return "; ".join(said)
