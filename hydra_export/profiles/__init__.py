"""The device profiles: one TOML per device here, and the user's own beside them, which outrank ours.

What the user writes is never changed: what is measured for them goes into a folder ``measured`` beside it.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from hydra_export import board, device, files
from hydra_export.device import DeviceProfile, LatencyRecord, Match
from hydra_export.errors import BadInput, UnknownName

MEASURED = "measured"
_MATCH_KEYS = ("android_model", "ios_machine", "devicetree_model", "android_soc_model", "cpu_name")  # surest first
_PATIENCE_SECONDS = 60.0  # with others who add records, each in milliseconds
_ALIKE = 0.75  # a name with a slip of the finger, and that of a device
_MOST_NAMED = 8  # of the devices that a name could mean
_TRADEMARKS = re.compile(r"\((R|TM)\)", re.IGNORECASE)


@dataclass(frozen=True)
class ResolvedProfile:
    """A profile as the latency model uses it: ours, completed by the user's.

    Attributes:
        own: the user's records, which outrank the others.
        files: where it was read from.
    """

    profile: DeviceProfile
    own: tuple[LatencyRecord, ...] = ()
    files: tuple[Path, ...] = ()


def user_folder() -> Path:
    """Where a user's own profiles are, by the conventions of the system."""
    return files.settings() / "profiles"


def names(folder: Path | None = None) -> tuple[str, ...]:
    """The id of every profile."""
    return tuple(sorted(resolve(folder)))


def resolve(folder: Path | None = None) -> dict[str, ResolvedProfile]:
    """Every profile by id.

    Args:
        folder: of the user's own profiles, ``user_folder()`` by default.

    Raises:
        BadInput: a file is not a profile, or two in one folder have the same id.
    """
    if folder is not None and not folder.is_dir():
        raise BadInput(f"`profiles` {folder} is not a folder.", "Pass a folder of device profiles (TOML).")
    place, entries = folder or user_folder(), dict(packaged())
    for part in (place, place / MEASURED):
        own = _read_folder(part)
        entries |= {name: _merged(entries.get(name), profile, path) for name, (profile, path) in own.items()}
    return entries


@functools.cache
def packaged() -> Mapping[str, ResolvedProfile]:
    """Every profile of ours by id, without the user's."""
    ours = _read_folder(Path(__file__).parent)
    return MappingProxyType({name: ResolvedProfile(profile, (), (path,)) for name, (profile, path) in ours.items()})


def get(name: str, folder: Path | None = None) -> ResolvedProfile:
    """The profile that *name* means: an id, a device's name or alias, in any spelling, or a clear part of one.

    Raises:
        UnknownName: no profile is meant, one is near.
        BadInput: several could be meant, or none, or one on which no model runs.
    """
    entries = resolve(folder)
    spellings = {one: [one, entry.profile.name, *entry.profile.aliases] for one, entry in entries.items()}
    exact = [one for one, texts in spellings.items() if _letters(name) in map(_letters, texts)]
    words = set(_words(name))
    meant = exact or [one for one, texts in spellings.items() if words and any(words <= set(_words(t)) for t in texts)]
    if len(meant) == 1:
        return _fit(entries[meant[0]])
    if meant:
        rest = len(meant) - _MOST_NAMED + 1
        shown = [*meant[: _MOST_NAMED - 1], f"{rest} others"] if rest > 1 else meant
        raise BadInput(f"'{name}' could be {', '.join(shown[:-1])} or {shown[-1]}.", "Pass one of these.")
    near = difflib.get_close_matches(name.lower().replace(" ", "-"), entries, n=1, cutoff=_ALIKE)
    if near:
        raise UnknownName("device", name, near)
    remedy = f"hydra-export profile list shows all; put your own profiles into {folder or user_folder()}."
    raise BadInput(f"No device '{name}'.", remedy)


def _fit(entry: ResolvedProfile) -> ResolvedProfile:
    """*entry*, if models run on that device at all."""
    profile = entry.profile
    if profile.too_small:
        remedy = "Choose a device that runs Linux, Android or iOS, such as a Raspberry Pi Zero 2 W (rpi-zero2w)."
        raise BadInput(f"{profile.name} is too small: {profile.too_small}.", remedy)
    return entry


def match(keys: Match, folder: Path | None = None) -> tuple[ResolvedProfile, str] | None:
    """The profile of the device with these *keys*, and the key that decided, which is the surest that fits one."""
    entries = resolve(folder).values()
    for key in _MATCH_KEYS:
        values = [(value, entry) for entry in entries for value in getattr(entry.profile.match, key)]
        for own in getattr(keys, key):
            fits = [(len(value), entry) for value, entry in values if _is(key, own, value)]
            if fits:
                return max(fits, key=lambda pair: (pair[0], bool(pair[1].own)))[1], key
    return None


def here() -> Match:
    """The keys of the machine that this runs on."""
    return msgspec.convert(board.says(), Match)


def new_id(name: str, taken: Iterable[str]) -> str:
    """An id for a device that calls itself *name*."""
    stem = "-".join(_words(name))[:50].strip("-") or "device"
    return next(
        one for number in itertools.count(1) if (one := stem if number == 1 else f"{stem}-{number}") not in taken
    )


def add_measured(
    about: DeviceProfile | Callable[[], DeviceProfile],
    records: Iterable[LatencyRecord],
    sources: Mapping[str, str],
    folder: Path | None = None,
) -> tuple[str, Path]:
    """Adds records to what was measured of a device; they replace those of the same model, run in the same way.

    Args:
        about: the device, known already or new; or a function that returns it, called while no other process adds any.
        sources: of the records.

    Returns:
        the device's id, and the file.

    Raises:
        BadInput: no profile can have them.
        OutputRefused: the file cannot be written, or another process does not stop writing into its folder.
    """
    measured = (folder or user_folder()) / MEASURED
    with files.alone_in(measured, _PATIENCE_SECONDS):
        profile = about() if callable(about) else about
        path = measured / f"{profile.id}.toml"
        _add(profile, tuple(records), sources, path)
    return profile.id, path


def _add(about: DeviceProfile, fresh: tuple[LatencyRecord, ...], sources: Mapping[str, str], path: Path) -> None:
    kept: tuple[LatencyRecord, ...] = ()
    if path.exists():
        before = device.read(path)
        new = {_same(record) for record in fresh}
        kept = tuple(record for record in before.latency if _same(record) not in new)
        sources = {**before.sources, **sources}
    used = {record.source for record in (*kept, *fresh)} | ({about.match.source} - {device.UNVERIFIED})
    try:
        profile = DeviceProfile(
            id=about.id,
            name=about.name,
            device_class=about.device_class,
            match=about.match if about.id not in packaged() else Match(),
            sources={key: text for key, text in sources.items() if key in used},
            latency=(*kept, *fresh),
        )
    except ValueError as problem:
        raise BadInput(
            f"The measurements of {about.id} cannot be saved: {problem}.", "Pass the file unchanged."
        ) from problem
    content = device.encode(profile).encode()
    device.check(content, path)  # what could not be read back would be in the way of every command
    with files.replaced_file(path) as partial:
        partial.write_bytes(content)


def _same(record: LatencyRecord) -> tuple[object, ...]:
    """What a newer record has to share to replace this one."""
    return record.model, record.k, record.runtime, record.precision, record.unit, record.threads, record.batch


def _read_folder(folder: Path) -> dict[str, tuple[DeviceProfile, Path]]:
    """The profiles of a folder by id; none where it does not exist."""
    by_id: dict[str, tuple[DeviceProfile, Path]] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise BadInput(
            f"The profiles in {folder} cannot be read: {reason}.", "Grant yourself read permission."
        ) from error
    for path in paths:
        profile = device.read(path)
        if profile.id in by_id:
            twin = by_id[profile.id][1]
            raise BadInput(
                f"Profile {path}: id: '{profile.id}' is also the id of {twin}.", "Use a different id for each."
            )
        by_id[profile.id] = profile, path
    return by_id


def _merged(before: ResolvedProfile | None, own: DeviceProfile, path: Path) -> ResolvedProfile:
    """The user's facts where there are any, else ours; all records, the user's marked as such."""
    if before is None:
        return ResolvedProfile(own, own.latency, (path,))
    ours = before.profile
    facts = {name: getattr(own.facts, name) or getattr(ours.facts, name) for name in device.Facts.__struct_fields__}
    for key in ours.sources.keys() & own.sources.keys():
        if ours.sources[key] != own.sources[key]:
            raise BadInput(
                f"Profile {path}: sources.{key}: the packaged profile '{own.id}' uses that key for another source.",
                "Use another key.",
            )
    profile = msgspec.structs.replace(
        ours,
        name=own.name,
        aliases=(*ours.aliases, *(alias for alias in own.aliases if alias not in ours.aliases)),
        device_class=own.device_class,
        family=own.family or ours.family,
        match=own.match if own.match != Match() else ours.match,
        facts=device.Facts(**facts),
        budget=own.budget or ours.budget,
        sources=ours.sources | own.sources,
        latency=(*ours.latency, *own.latency),
    )
    return ResolvedProfile(profile, (*before.own, *own.latency), (*before.files, path))


def _is(key: str, own: str, value: str) -> bool:
    own, value = (" ".join(_TRADEMARKS.sub("", text).lower().split()) for text in (own, value))
    begins = value.endswith("*") or key == "devicetree_model"
    return own.startswith(value.removesuffix("*")) if begins else own == value


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower().replace("+", "plus") if letter.isalnum())


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+\d*\w*|\d+\w*", text.lower().replace("+", " plus"))
