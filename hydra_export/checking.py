"""What will run where: the operators of a bundle's artifacts against tables of what delegates take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import archive, bundle, targets
from hydra_export.delegates import VERDICTS, Delegate, Verdict, get, names
from hydra_export.delegates.judging import Judged, Noticed, judge, notice
from hydra_export.guard import Guard, RunLimits
from hydra_export.target import UsedOperator
from hydra_export.verification import check_artifact, read_whole


class CheckedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact.

    Attributes:
        kind: what it is, in fewer letters than its path.
        noticed: what is unusual about it, for any delegate.
        judged: by delegate; None where it takes no such artifacts.
    """

    path: str
    target: str
    kind: str
    heads: tuple[int, ...]
    noticed: tuple[Noticed, ...]
    judged: dict[str, tuple[Judged, ...] | None]


def counts(judged: Sequence[Judged]) -> dict[Verdict, int]:
    """How many operators each verdict is for."""
    return {verdict: sum(len(each.places) for each in judged if each.verdict == verdict) for verdict in VERDICTS}


def check(
    path: Path,
    delegates: Sequence[str] = (),
    progress: bundle.Progress = bundle.silent,
    *,
    limit_memory_mib: int | None = None,
    limit_seconds: float | None = None,
) -> tuple[CheckedArtifact, ...]:
    """Judges every artifact of a bundle, which is opened in a process of its own and run by nothing.

    Args:
        path: of the bundle's folder, or of its archive.
        delegates: by name, all by default.
        limit_memory_mib, limit_seconds: what opening an artifact may take, as for ``verify``.

    Raises:
        BadInput: *path* is no bundle.
        LimitExceeded: an artifact takes more memory or time than it may.
        UnknownName: a delegate is not known.
        VerificationFailed: a file is damaged, or is not as portable as promised.
    """
    wanted = {name: get(name) for name in delegates or names()}
    limits = RunLimits(memory_mib=limit_memory_mib, seconds=limit_seconds)
    if not path.is_file():
        return _check(path, wanted, progress, limits)
    with archive.unpacked(path) as folder:
        return _check(folder, wanted, progress, limits)


def _check(
    folder: Path, wanted: dict[str, Delegate], progress: bundle.Progress, limits: RunLimits
) -> tuple[CheckedArtifact, ...]:
    manifest, checked = read_whole(folder), list[CheckedArtifact]()
    with Guard(folder, manifest, limits) as guard:
        for number, artifact in enumerate(manifest.artifacts):
            progress(f"opening {artifact.path}", number, len(manifest.artifacts))
            check_artifact(guard, artifact)
            place = folder / artifact.path
            arguments = {"target": artifact.target, "path": str(place)}
            listed = guard.call(artifact, f"Reading {place}", f"{__name__}:operators", 0, **arguments)
            used = msgspec.convert(listed, tuple[UsedOperator, ...])
            checked.append(
                CheckedArtifact(
                    path=artifact.path,
                    target=artifact.target,
                    kind=artifact.kind,
                    heads=artifact.heads,
                    noticed=notice(used),
                    judged={name: judge(delegate, artifact.target, used) for name, delegate in wanted.items()},
                )
            )
    return tuple(checked)


def operators(target: str, path: str) -> list[dict[str, Any]]:
    """What the process does to list the operators of an artifact."""
    listed: list[dict[str, Any]] = msgspec.to_builtins(list(targets.get(target).operators(Path(path))))
    return listed
