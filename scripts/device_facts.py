"""What is known of devices: devices.csv, and scripts/devices, which adds to it and corrects it."""

from __future__ import annotations

import functools
import re
import tomllib
from typing import Any

import msgspec
from device_tables import BUDGETS, OWN, Row, budget, clusters, family, number, source_key

from hydra_export.device import UNVERIFIED, DeviceClass, DeviceProfile, Fact, Facts, Match

# devices.csv


def described(row: Row) -> DeviceProfile:
    """A row of devices.csv; what it lists as general knowledge has no source."""
    sources: dict[str, str] = {}
    text = row["source"] if row["source"] != "as jetson-orin-nano" else _ORIN_NANO_SOURCE
    # What the table cites by a number that nobody else can look up is no source.
    text = "; ".join(part.strip() for part in text.split(";") if not re.search(r"^\s*code index,? id \d+", part))
    bandwidth = None
    if text.startswith(
        "Apple device database"
    ):  # of nobody knows which repository; what is left of it compares two chips
        text, bandwidth = "general-knowledge", re.search(r"topcpu\.net .*", text)
    if not text.startswith("general-knowledge"):
        sources[source_key(text.split(";")[0], {})] = text
    given = next(iter(sources), UNVERIFIED)
    if bandwidth:
        sources["topcpu"] = bandwidth[0]
    doubted = row["fields_general_knowledge"]

    def source(*fields: str) -> str:
        unsure = doubted.startswith("all") or any(field in doubted for field in fields)
        return UNVERIFIED if unsure else given

    def fact(column: str, *fields: str) -> Fact[str] | None:
        return Fact(value=row[column], source=source(*fields or (column,))) if row[column].strip("-") else None

    tops = row["npu_tops"] if row["npu_tops"] != "not published" else ""
    facts = Facts(
        soc=fact("soc"),
        cpu=clusters(row["cpu_clusters"], row["name"], source("cpu", "clock")),
        gpu=fact("gpu") if row["gpu"] != "Apple" else None,  # says nothing
        npu=fact("npu"),
        npu_tops=number(tops, source("npu_tops")),
        ram_gb=number(row["ram_gb"], source("ram_gb")),
        memory_gb_per_s=number(row["mem_bw_gbs"], "topcpu" if bandwidth else source("mem_bw_gbs")),
        os=fact("os"),
    )
    match, aliases = match_keys(row, UNVERIFIED if doubted == "all" else given)
    return DeviceProfile(
        id=row["profile_id"],
        name=row["name"],
        aliases=aliases,
        device_class=msgspec.convert(row["device_class"], DeviceClass),
        family=family(row["soc"]),
        match=match,
        facts=facts,
        budget=budget(row["device_class"], row["soc"]),
        sources=sources,
    )


_ORIN_NANO_SOURCE = (
    "hokwangchoi/jetson-orin-nano-benchmarks README; brojogopalsapui.com deep dive (quotes NVIDIA datasheet Dec 2024)"
)


def match_keys(row: Row, source: str) -> tuple[Match, tuple[str, ...]]:
    """What the column of identities says, and the names in it that a person may type."""
    texts = [text.strip().strip('"') for text in re.split(r" / ", re.sub(r"\([^)]*\)", "", row["id_values"]))]
    method = row["id_method"]
    if method.startswith("Android"):
        texts = [text for text in texts if text.strip("-")]
        models = [f"{text}*" if text.startswith("SM-") else text for text in texts if re.match(r"Pixel|SM-", text)]
        others = tuple(text for text in texts if re.fullmatch(r"[a-z]+", text))
        return Match(android_model=tuple(models), source=source if models else UNVERIFIED), others  # chips: chips.toml
    if method.startswith("sysctl hw.machine"):
        return Match(ios_machine=tuple(texts), source=source), ()
    if "machdep" in method or "Windows" in method:
        return Match(cpu_name=tuple(f"{text}*" if "Elite" in text else text for text in texts), source=source), ()
    boards = [re.sub(r"( Rev 1\.[\dx]| \.\.\.)$", "", text.strip('" ')) for text in texts]
    known = [board for board in boards if re.match(r"Raspberry|NVIDIA|NXP|Freescale", board)]
    return Match(devicetree_model=tuple(dict.fromkeys(known)), source=source if known else UNVERIFIED), ()


# scripts/devices


@functools.cache
def cited() -> dict[str, str]:
    return tomllib.loads((OWN / "sources.toml").read_text(encoding="utf-8"))


@functools.cache
def chips() -> dict[str, dict[str, Any]]:
    return tomllib.loads((OWN / "chips.toml").read_text(encoding="utf-8"))


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def typed(field: str, value: str, source: str, note: str = "") -> Fact[Any]:
    """A fact of a table: cores and numbers are parsed."""
    assert source in cited() or source == UNVERIFIED, source
    if field == "cpu":
        fact: Fact[Any] | None = clusters(value, "", source)
    elif field in ("npu_generation", "npu_tops", "ram_gb", "memory_gb_per_s"):
        fact = number(value, source)
    else:
        fact = Fact(value=value, source=source)
    assert fact is not None, value
    return msgspec.structs.replace(fact, note=note or fact.note)


def chip_facts(chip: str) -> dict[str, Fact[Any]]:
    about = chips()[chip] if chip else {}
    fields = [field for field in Facts.__struct_fields__ if field in about]
    return {field: typed(field, **about[field]) for field in fields}


def phones_with(chip: str, about: dict[str, Any]) -> DeviceProfile:
    """What is known of a phone of which its chip alone is known."""
    return DeviceProfile(
        id=chip,
        name=about["name"],
        device_class="phone",
        family=about["family"],
        match=Match(android_soc_model=tuple(about["android_soc_model"]), source=about.get("match_source", UNVERIFIED)),
        facts=Facts(**chip_facts(chip)),
        budget=BUDGETS["phone"],
        sources=cited(),
    )


def known_as(profile: DeviceProfile | None, row: Row) -> DeviceProfile:
    """The device of a row of models.csv: a new one, or *profile* with more names, more keys and better facts."""
    family_of_chip = chips()[row["chip"]]["family"] if row["chip"] else ""
    if profile is None:
        profile = DeviceProfile(
            id=row["id"],
            name=row["name"],
            device_class=msgspec.convert(row["class"], DeviceClass),
            family=family_of_chip,
            budget=budget(row["class"], family_of_chip),
        )
    keys = {key: listed(row.get(key, "")) for key in Match.__struct_fields__ if key != "source"}
    match = merged_match(profile.match, keys, row["match_source"] or row["source"])
    facts = {field: getattr(profile.facts, field) for field in Facts.__struct_fields__}
    fresh = chip_facts(row["chip"])
    if row["ram_gb"]:
        fresh["ram_gb"] = typed("ram_gb", row["ram_gb"], row["ram_source"])
    if row["os"]:
        fresh["os"] = typed("os", row["os"], row["source"])
    for field, fact in fresh.items():
        if facts[field] is None or better(fact, facts[field]):
            facts[field] = fact
    name = row["name"] or profile.name
    names = tuple(text for text in dict.fromkeys((*profile.aliases, *listed(row["aliases"]))) if text != name)
    return msgspec.structs.replace(
        profile,
        name=name,
        aliases=names,
        family=family_of_chip if family_of_chip and profile.family != "Hailo" else profile.family,
        match=match,
        facts=Facts(**facts),
        too_small=row["too_small"],
        sources={**cited(), **profile.sources},
    )


def better(fact: Fact[Any], than: Fact[Any]) -> bool:
    """Has it a source that anybody can look up, where the other has none?"""
    return fact.source != UNVERIFIED and than.source == UNVERIFIED


def merged_match(match: Match, keys: dict[str, tuple[str, ...]], source: str) -> Match:
    """*match* and *keys*; of two sources that of the keys, which are more."""
    added = {key: tuple(dict.fromkeys((*getattr(match, key), *values))) for key, values in keys.items()}
    return Match(**added, source=source if any(keys.values()) and source != UNVERIFIED else match.source)


def corrected(profile: DeviceProfile, row: Row) -> DeviceProfile:
    """*profile* with one fact of facts.csv in place of what it had."""
    fact = typed(row["field"], row["value"], row["source"], row["note"])
    changed = msgspec.structs.replace(
        profile,
        facts=msgspec.structs.replace(profile.facts, **{row["field"]: fact}),
        sources={**cited(), **profile.sources},
    )
    if row["field"] != "soc" or not family(row["value"]):
        return changed
    known = family(row["value"])
    return msgspec.structs.replace(changed, family=known, budget=budget(profile.device_class, row["value"]))


def pruned(profile: DeviceProfile) -> DeviceProfile:
    """*profile* without sources that nothing in it names."""
    facts = [getattr(profile.facts, field) for field in Facts.__struct_fields__]
    used = {fact.source for fact in facts if fact} | {profile.match.source}
    used |= {record.source for record in profile.latency}
    sources = {key: text for key, text in profile.sources.items() if key in used}
    return msgspec.structs.replace(profile, sources=sources)
