"""Makes hydra_export/profiles/*.toml from tables of devices and of published latencies.

Run from the repository: python scripts/make_device_profiles.py FOLDER [OUT]
or, for docs/device-profile.schema.json alone: python scripts/make_device_profiles.py --schema

FOLDER holds devices.csv (one row per device), qualcomm.csv (AI Hub's measurements) and published.csv (papers and
vendors), and later tables of both kinds: qualcomm-VERSION.csv, published-2.csv. Kept are times of vision transformers
that have, or come near, the shape of a subnetwork. Of the same model on the same device in the same precision and
runtime the newest release of AI Hub wins; profiles have no history, so what it replaces is dropped. Left out are rows
that their table marks do-not-use or REJECT, rows of other architectures (marked context), and of proxies that share a
job with a real device the copy.

scripts/devices/ holds what FOLDER lacks or has wrong, and where that is from: sources.toml, chips.toml, models.csv
(devices by name and by what they call themselves; a device that FOLDER has gets more of both) and facts.csv (single
facts, which replace all others).
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from ai_hub_times import AI_HUB_MODELS, ai_hub, is_copy, newest, real_device, speedups, way
from device_facts import chips, corrected, described, known_as, phones_with, pruned
from device_tables import OWN, rows, source_key, tables
from published_times import latest_edition, published, usable

from hydra_export import device
from hydra_export.device import DeviceProfile, LatencyRecord

OUT = Path(__file__).parents[1] / "hydra_export" / "profiles"


def main(folder: Path, out: Path) -> None:
    profiles = {row["profile_id"]: described(row) for row in rows(folder / "devices.csv")}
    for chip, about in chips().items():
        if "name" in about:
            profiles[chip] = phones_with(chip, about)
    for row in rows(OWN / "models.csv"):
        profiles[row["id"]] = known_as(profiles.get(row["id"]), row)
    for row in latest_edition(row for row in tables(folder, "published") if usable(row)):
        add(profiles, *published(row))
    measured = [row for row in tables(folder, "qualcomm") if row["model"] in AI_HUB_MODELS]
    shared = newest(measured)
    faster = speedups(measured)
    for row in shared:
        if not is_copy(row):
            add(profiles, *ai_hub(row, faster.get(way(row), ("", 1.0))))
    for row in rows(OWN / "facts.csv"):
        profiles[row["id"]] = corrected(profiles[row["id"]], row)
    for profile in profiles.values():
        copies = {row["device"] for row in shared if is_copy(row) and real_device(row) == profile.name}
        proxies = sorted(copies - {other.name for other in profiles.values()})
        profile = msgspec.structs.replace(pruned(profile), aliases=(*profile.aliases, *proxies))
        (out / f"{profile.id}.toml").write_text(device.encode(profile), encoding="utf-8")


def add(profiles: dict[str, DeviceProfile], profile: DeviceProfile, record: LatencyRecord, source: str) -> None:
    """Adds *record* to the profile, which is made where it is new, under the shortest key that is free."""
    profile = profiles.get(profile.id, profile)
    sources = dict(profile.sources)
    key = source_key(source, sources)
    sources[key] = source
    record = msgspec.structs.replace(record, source=key, device="" if record.device == profile.name else record.device)
    profiles[profile.id] = msgspec.structs.replace(
        profile,
        sources=sources,
        latency=(*profile.latency, record),
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        (OUT.parents[1] / device.SCHEMA_FILE).write_bytes(device.schema())
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else OUT)
