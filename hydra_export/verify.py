"""A bundle against itself: every file is listed and hashed, every artifact runs and gives the golden logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra_export import archive, bundle, files, parity, targets
from hydra_export.errors import BadInput, CheckFailed, MissingExtra, UnknownName, Unreadable, VerificationFailed
from hydra_export.target import METADATA_PREFIX, Interface, TensorInfo, described


@dataclass(frozen=True)
class Verified:
    """One artifact at one head count, run again on the golden input."""

    artifact: bundle.ArtifactEntry
    heads: int
    record: parity.ParityRecord

    @property
    def path(self) -> str:
        """Of the artifact, in the bundle."""
        return self.artifact.path


def verify(path: Path | str, progress: bundle.Progress = bundle.silent) -> tuple[Verified, ...]:
    """Checks hashes, then runs everything.

    Args:
        path: of the bundle's folder, or of its archive.

    Raises:
        BadInput: *path* is no bundle at all.
        VerificationFailed: it is one, and a file is damaged, missing, not listed, or computes something else.
    """
    path = Path(path)
    if not path.is_file():
        return _verify(path, progress)
    progress("unpacking", 0, 1)
    with archive.unpacked(path) as folder:
        try:
            return _verify(folder, progress)
        except VerificationFailed as error:  # nobody knows the temporary folder
            raise VerificationFailed(error.message.replace(str(folder), str(path)), error.remedy) from error


def _verify(folder: Path, progress: bundle.Progress) -> tuple[Verified, ...]:
    bundle.check_present(folder)
    progress("hashing", 0, 1)
    try:
        manifest = _check_files(folder)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error}.", "Give yourself permission to read all of it.") from error
    golden = bundle.read_golden(folder, manifest)
    runs = [(artifact, k) for artifact in manifest.artifacts for k in artifact.heads]
    verified = []
    for step, (artifact, k) in enumerate(runs):
        progress(f"running {artifact.path}", step, len(runs))
        verified.append(Verified(artifact, k, _run(folder, artifact, k, golden, manifest.model)))
    progress("done", len(runs), len(runs))
    return tuple(verified)


def _check_files(folder: Path) -> bundle.Manifest:
    present = set(bundle.tree(folder))
    irregular = [path for path in present if not (folder / path).is_file() or (folder / path).is_symlink()]
    if irregular:
        raise _failed(folder, [f"{path} is a link or a special file" for path in irregular])
    for needed in (bundle.MANIFEST, bundle.SUMS):
        if needed not in present:
            raise _failed(folder, [f"{needed} is missing"])
    sums = _read_sums(folder)
    hashes = {path: files.sha256(folder / path) for path in present if path != bundle.SUMS}
    if hashes[bundle.MANIFEST] != sums.get(bundle.MANIFEST):
        raise _failed(folder, [f"{bundle.MANIFEST} does not have the hash in {bundle.SUMS}; one of both is damaged"])
    manifest = bundle.read(folder)
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    own = {bundle.MANIFEST, bundle.SUMS}
    problems = [f"{path} is missing" for path in listed.keys() - present]
    problems += [f"{path} is not listed in {bundle.MANIFEST}" for path in present - listed.keys() - own]
    problems += [
        f"{path} is damaged (its SHA-256 differs)" for path in listed if hashes.get(path, "") not in ("", listed[path])
    ]
    named = {path: digest for path, digest in sums.items() if path != bundle.MANIFEST}
    if named != listed:
        wrong = min(dict(named.items() ^ listed.items()))
        problems.append(f"{bundle.SUMS} is damaged (it disagrees with {bundle.MANIFEST} on {wrong})")
    problems += [
        f"{path} has {(folder / path).stat().st_size} bytes, {bundle.MANIFEST} says {sizes[path]}"
        for path in listed.keys() & present
        if hashes[path] == listed[path] and (folder / path).stat().st_size != sizes[path]
    ]
    if problems:
        raise _failed(folder, problems)
    return manifest


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


def _told_otherwise(said: dict[str, str], artifact: bundle.ArtifactEntry, model: bundle.ModelEntry) -> Iterator[str]:
    """Where an artifact says something else of itself than the manifest: it would be judged as what it is not."""
    told = described(model, model.checkpoint_sha256, artifact.heads, artifact)
    said = {name: text for name, text in said.items() if name.startswith(METADATA_PREFIX)}
    for key in sorted(told.keys() | said.keys()):
        own, value = said.get(key, ""), told.get(key, "")
        if own != value:
            what = key.removeprefix(METADATA_PREFIX)
            yield f"says {what} {own[:80]!r} of itself, and {bundle.MANIFEST} says {value[:80]!r}"


def _declared_otherwise(declared: Interface, artifact: bundle.ArtifactEntry) -> Iterator[str]:
    """Where apps that go by the manifest would give or expect something else than the artifact does."""
    for what, own, told in zip(("takes", "gives"), declared, (artifact.inputs, artifact.outputs), strict=True):
        if own != told:
            yield f"{what} {_listed(own)}, and {bundle.MANIFEST} says {_listed(told)}"


def _listed(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)


def _run(
    folder: Path, artifact: bundle.ArtifactEntry, heads: int, golden: bundle.Golden, model: bundle.ModelEntry
) -> parity.ParityRecord:
    try:
        target = targets.get(artifact.target)
    except UnknownName as error:
        raise _failed(folder, [f"{artifact.path} has the unknown target '{artifact.target}'"]) from error
    if artifact.graph not in target.graphs or artifact.precision not in target.precisions:
        what = f"{artifact.graph} {artifact.precision}"
        raise _failed(folder, [f"{artifact.path} is said to be {what}, which target '{target.name}' does not write"])
    path, images = folder / artifact.path, golden.pixels if artifact.input == "image" else golden.image
    try:
        target.lint(path)
        for problem in (
            *_told_otherwise(target.said(path), artifact, model),
            *_declared_otherwise(target.declared(path), artifact),
        ):
            raise _failed(folder, [f"{artifact.path} {problem}"])
        record, _agreed = parity.prove(
            target,
            path,
            heads,
            artifact.precision,
            golden.expected[heads],
            lambda session: session.run(images),
            artifact.path,
        )
    except (MissingExtra, VerificationFailed):
        raise
    except (CheckFailed, BadInput) as error:  # BadInput: the manifest says something else than the file
        raise VerificationFailed(f"{folder / artifact.path}: {error.message}", "Export it again.") from error
    return record
