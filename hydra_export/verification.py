"""A bundle against itself: every file is listed and hashed, every artifact runs and gives the golden logits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import archive, bundle, documents, files, parity, targets
from hydra_export.arrays import Array
from hydra_export.errors import (
    BadInput,
    UnknownName,
    Unreadable,
    VerificationFailed,
)
from hydra_export.guard import Guard, RunLimits
from hydra_export.target import METADATA_PREFIX, Interface, Precision, TensorInfo, described
from hydra_export.worker import Worker


@dataclass(frozen=True)
class Verified:
    """One artifact at one head count, run again on the golden input."""

    artifact: bundle.ArtifactEntry
    heads: int
    record: parity.ParityRecord

    @property
    def path(self) -> str:
        """The path of the artifact in the bundle."""
        return self.artifact.path


def verify(
    path: Path | str,
    progress: bundle.Progress = bundle.silent,
    *,
    limit_memory_mib: int | None = None,
    limit_seconds: float | None = None,
    verify_with: Sequence[str] = (),
) -> tuple[Verified, ...]:
    """Checks hashes, then runs everything in a process of its own.

    Args:
        path: of the bundle's folder, or of its archive.
        limit_memory_mib: what the process may allocate, by default what its largest artifact can be expected to need;
            held on Linux alone.
        limit_seconds: what each artifact may take at each head count, by default what a slow board would.
        verify_with: runtimes that run it beside each target's own.

    Raises:
        BadInput: *path* is no bundle at all.
        LimitExceeded: an artifact takes more memory or time than it may.
        VerificationFailed: it is one, and a file is damaged, missing, not listed, or computes something else.
    """
    path, limits = Path(path), RunLimits(memory_mib=limit_memory_mib, seconds=limit_seconds)
    if not path.is_file():
        return _verify(path, progress, limits, verify_with=verify_with)
    progress("unpacking", 0, 1)
    with archive.unpacked(path) as folder:
        return _verify(folder, progress, limits, verify_with=verify_with)


def _verify(
    folder: Path,
    progress: bundle.Progress,
    limits: RunLimits,
    worker: Worker | None = None,
    verify_with: Sequence[str] = (),
) -> tuple[Verified, ...]:
    progress("hashing", 0, 1)
    manifest = read_whole(folder)
    golden = bundle.read_golden(folder, manifest)
    num_runs = sum(len(artifact.heads) for artifact in manifest.artifacts)
    exported = {artifact.target for artifact in manifest.artifacts}
    parity.check_further(verify_with, [targets.get(name) for name in targets.names() if name in exported])
    verified: list[Verified] = []
    with Guard(folder, manifest, limits, worker) as guard:
        for artifact in manifest.artifacts:
            progress(f"opening {artifact.path}", len(verified), num_runs)
            check_artifact(guard, artifact)
            for k in artifact.heads:
                progress(f"running {artifact.path}", len(verified), num_runs)
                verified.append(Verified(artifact, k, _run(guard, artifact, k, golden, verify_with)))
    progress("done", num_runs, num_runs)
    return tuple(verified)


def read_whole(folder: Path) -> bundle.Manifest:
    """The manifest of a bundle that holds what it lists and nothing else, every file with its hash.

    Raises:
        BadInput: *folder* is no bundle at all, or cannot be read.
        VerificationFailed: it is one, and a file is damaged, missing or not listed.
    """
    bundle.check_present(folder)
    try:
        return _read_whole(folder)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error}.", "Grant yourself permission to read all of it.") from error


def _read_whole(folder: Path) -> bundle.Manifest:
    present = set(bundle.tree(folder))
    irregular = [path for path in present if not (folder / path).is_file() or (folder / path).is_symlink()]
    if irregular:
        raise _failed(folder, [f"{path} is a link or a special file" for path in irregular])
    for needed in (bundle.MANIFEST, bundle.SUMS):
        if needed not in present:
            raise _failed(folder, [f"{needed} is missing"])
    sums = _read_sums(folder)
    if _manifest_sha256(folder) != sums.get(bundle.MANIFEST):
        raise _failed(folder, [f"{bundle.MANIFEST} does not have the hash in {bundle.SUMS}; one of the two is damaged"])
    manifest = bundle.read(folder)
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    own = {bundle.MANIFEST, bundle.SUMS}
    problems = [f"{path} is missing" for path in digests.keys() - present]
    problems += [f"{path} is not listed in {bundle.MANIFEST}" for path in present - digests.keys() - own]
    problems += [problem for entry in manifest.files if entry.path in present for problem in _damage(folder, entry)]
    sums_of_files = {path: digest for path, digest in sums.items() if path != bundle.MANIFEST}
    if sums_of_files != digests:
        wrong = min(dict(sums_of_files.items() ^ digests.items()))
        problems.append(f"{bundle.SUMS} is damaged (it disagrees with {bundle.MANIFEST} on {wrong})")
    if problems:
        raise _failed(folder, problems)
    return manifest


def check_files(folder: Path, manifest: bundle.Manifest, artifact: bundle.ArtifactEntry) -> None:
    """Raises VerificationFailed where a file that *artifact* needs is not the one that *manifest* lists."""
    listed = (entry for entry in manifest.files if entry.path in artifact.files)
    if problems := [problem for entry in listed for problem in _damage(folder, entry)]:
        raise _failed(folder, problems)


def _manifest_sha256(folder: Path) -> str:
    try:
        return hashlib.sha256(files.read(folder / bundle.MANIFEST, documents.JSON_BYTES)).hexdigest()
    except Unreadable as error:
        raise _failed(folder, [f"{bundle.MANIFEST} cannot be read: {error.reason}"]) from error


def _damage(folder: Path, entry: bundle.FileEntry) -> Iterator[str]:
    """The size first: what is not as large as it should be costs no more than that look."""
    if (size := (folder / entry.path).stat().st_size) != entry.bytes:
        yield f"{entry.path} is damaged: it has {size} bytes, but {bundle.MANIFEST} states {entry.bytes}"
    elif files.sha256(folder / entry.path) != entry.sha256:
        yield f"{entry.path} is damaged (its SHA-256 differs)"


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        return bundle.read_sums(folder)
    except (Unreadable, ValueError) as error:
        reason = error.reason if isinstance(error, Unreadable) else error
        raise _failed(folder, [f"{bundle.SUMS} is damaged ({reason})"]) from error


def _failed(folder: Path, problems: list[str]) -> VerificationFailed:
    shown = "; ".join(sorted(problems)[:10])
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    return VerificationFailed(f"{folder} failed: {shown}{more}.", "Copy or export it again.")


def _other_metadata(
    metadata: dict[str, str], artifact: bundle.ArtifactEntry, model: bundle.ModelEntry
) -> Iterator[str]:
    """Where an artifact says something else of itself than the manifest: it would be judged as what it is not."""
    expected = described(model, model.checkpoint_sha256, artifact.heads, artifact)
    ours = {name: text for name, text in metadata.items() if name.startswith(METADATA_PREFIX)}
    for key in sorted(expected.keys() | ours.keys()):
        own, value = ours.get(key, ""), expected.get(key, "")
        if own != value:
            what = key.removeprefix(METADATA_PREFIX)
            yield f"states {what} {own[:80]!r}, but {bundle.MANIFEST} states {value[:80]!r}"


def _other_signature(signature: Interface, artifact: bundle.ArtifactEntry) -> Iterator[str]:
    """Where apps that go by the manifest would give or expect something else than the artifact does."""
    for what, own, expected in zip(("takes", "gives"), signature, (artifact.inputs, artifact.outputs), strict=True):
        if own != expected:
            yield f"{what} {_listed(own)}, but {bundle.MANIFEST} states {_listed(expected)}"


def _listed(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)


def check_artifact(guard: Guard, artifact: bundle.ArtifactEntry) -> None:
    """Raises where *artifact* is another one than the manifest says, before any runtime opens it."""
    try:
        target = targets.get(artifact.target)
    except UnknownName as error:
        raise _failed(guard.folder, [f"{artifact.path} has the unknown target '{artifact.target}'"]) from error
    if artifact.graph not in target.graphs or artifact.precision not in target.precisions:
        what = f"{artifact.graph} {artifact.precision}"
        problem = f"{artifact.path} is listed as {what}, which target '{target.name}' does not write"
        raise _failed(guard.folder, [problem])
    inspected = guard.inspect(artifact)
    for problem in (
        *_other_metadata(inspected.metadata, artifact, guard.manifest.model),
        *_other_signature(inspected.interface, artifact),
    ):
        raise _failed(guard.folder, [f"{artifact.path} {problem}"])
    guard.check_work(artifact, inspected)


def _run(
    guard: Guard, artifact: bundle.ArtifactEntry, heads: int, golden: bundle.Golden, verify_with: Sequence[str]
) -> parity.ParityRecord:
    path, images = guard.folder / artifact.path, golden.pixels if artifact.input == "image" else golden.image
    wanted: dict[Precision, parity.Reference] = golden.expected[heads]
    runtimes = parity.verifying(targets.get(artifact.target), artifact.precision, verify_with)
    num_runs = max(len(images), artifact.batch) * len(runtimes)
    record = guard.call(
        artifact,
        f"Running {path} at k = {heads}",
        f"{__name__}:run",
        guard.manifest.model.macs([heads], num_runs),
        target=artifact.target,
        path=str(path),
        name=artifact.path,
        heads=heads,
        precision=artifact.precision,
        images=images,
        verify_with=list(verify_with),
        expected={name: [wanted[name].exact, wanted[name].torch_fp32] for name in {"fp32", artifact.precision}},
        has_classes=wanted["fp32"].has_classes,
    )
    return msgspec.convert(record, parity.ParityRecord)


def run(
    target: str,
    path: str,
    name: str,
    heads: int,
    precision: Precision,
    images: Array,
    verify_with: list[str],
    expected: dict[Precision, Any],
    has_classes: bool,
) -> dict[str, Any]:
    """What the process does to run one head count of an artifact."""
    references = {kind: parity.Reference(exact, fp32, has_classes) for kind, (exact, fp32) in expected.items()}
    of_golden = lambda session: session.run(images)  # noqa: E731
    of, place = targets.get(target), Path(path)
    record, _agreed = parity.verify(of, place, heads, precision, references, of_golden, name, None, verify_with)
    answer: dict[str, Any] = msgspec.to_builtins(record)
    return answer
