"""Changes documents of tables, lists and scalars (JSON, TOML) where they are still trees, and writes them again."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from tests.fuzz.reader import Random

NUMBERS: list[int] = [
    0,
    1,
    -1,
    2,
    3,
    7,
    64,
    255,
    256,
    65535,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    -(2**63),
]
NUMBERS += [2**64 - 1, 2**64, 10**30]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 1e9, 1e30, 1e-300, 1.8e308, math.inf, -math.inf, math.nan]
TEXTS = ["", " ", "x", "..", "../x", "/x", "C:\\x", "\0", "a\nb", "\x1b[2J", "\u202e", "\ufeff", "\u2028", "\x85"]
TEXTS += ["é" * 300, "a" * 5000, "a." * 3000, "a/" * 2000, "🙂", "CON", "nul.txt", "x.", "1e999", "9" * 400, "-" * 70]
# What no tree can hold, by the text that stands for it until the document is written.
_DEEP, _DIGITS = "\ue000deep", "\ue000digits"
_MOST_ITEMS, _MOST_LETTERS = 20_000, 200_000  # of what is grown
Place = tuple[Any, Any]  # a table or list, and the key or index of what is in it


def mutate(random: Random, tree: Any) -> Any:
    """The tree with one change or a few; *tree* itself is changed."""
    root = [tree]
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change(random, root)
    return root[0]


def places(root: list[Any]) -> list[Place]:
    """Where every value stands."""
    everywhere: list[Place] = []
    waiting: list[Any] = [root]
    while waiting:
        inside = waiting.pop()
        for key in inside if isinstance(inside, dict) else range(len(inside)):
            everywhere.append((inside, key))
            if isinstance(inside[key], dict | list):
                waiting.append(inside[key])
    return everywhere


def _change(random: Random, root: list[Any]) -> None:
    everywhere = places(root)
    inside, key = random.choice(everywhere)
    old, choice = inside[key], random.random()
    if choice < 0.5:
        inside[key] = _near(random, old, everywhere)
    elif choice < 0.6 and inside is not root:
        del inside[key]
    elif choice < 0.7:
        other, at = random.choice(everywhere)
        inside[key], copied = _copied(other[at]), _copied(old)
        if random.random() < 0.5 and other is not root:
            other[at] = copied
    elif choice < 0.8:
        _add(random, inside, old, everywhere)
    elif choice < 0.9:
        inside[key] = random.choice([None, True, 3, -0.5, "x", [], {}, [old], {"x": old}, [[]], _DEEP, _DIGITS])
    elif isinstance(old, list) and old:
        times = random.choice((2, 10, 100, 1000, 3000))
        inside[key] = (old * times)[: max(_MOST_ITEMS // (1 + len(places([old[0]]))), 1)]
    elif isinstance(old, str):
        inside[key] = (old * random.choice((2, 100, 3000)))[:_MOST_LETTERS]


def _near(random: Random, old: Any, everywhere: list[Place]) -> Any:
    """Another value of the same type: what most checks look at is whether that one is allowed."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return random.choice([old + 1, old - 1, -old, old * 2, old // 2, *NUMBERS])
    if isinstance(old, float):
        return random.choice([old * 2, -old, math.nextafter(old, 1e9), *FLOATS, *map(float, NUMBERS[:8])])
    if isinstance(old, str):
        other = random.choice(everywhere)
        there = other[0][other[1]]
        return random.choice(
            [there if isinstance(there, str) else str(other[1]), f"{old} ", old[1:], old.upper(), *TEXTS]
        )
    if isinstance(old, list):
        shuffled = random.sample(old, len(old))
        return random.choice([shuffled, old[:1], old[1:], old + old, old + old[:1], []])
    if isinstance(old, dict) and old:
        return {name: old[name] for name in random.sample(list(old), random.randrange(len(old)))}
    return random.choice([None, 0, "", old])


def _add(random: Random, inside: Any, old: Any, everywhere: list[Place]) -> None:
    other, at = random.choice(everywhere)
    if isinstance(inside, list):
        inside.insert(random.randrange(len(inside) + 1), _copied(random.choice([old, other[at]])))
    else:
        key = random.choice([at if isinstance(at, str) else str(at), "x", *random.choices(TEXTS, k=3)])
        inside[key] = _copied(random.choice([old, other[at], 1, "x"]))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def to_json(random: Random, tree: Any) -> bytes:
    """Its text, and rarely something that only a text can be."""
    text = json.dumps(tree, ensure_ascii=random.random() < 0.5)
    text = _with_extremes(
        random, text.replace(json.dumps(_DEEP), f'"{_DEEP}"').replace(json.dumps(_DIGITS), f'"{_DIGITS}"')
    )
    if random.random() < 0.05 and (keys := re.findall(r'"\w+": ', text)):
        text = text.replace(random.choice(keys), random.choice(keys), random.choice((1, -1)))  # the same key twice
    return bruise(random, text.encode("utf-8", "surrogatepass"), 0.08)


def _with_extremes(random: Random, text: str) -> str:
    depth = random.choice((3, 100, 900, 5000, 100_000))
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth).replace(
        f'"{_DIGITS}"', "9" * random.choice((25, 400, 5000))
    )


def to_toml(random: Random, table: Any) -> bytes:
    """Its text, everything below the first tables within lines."""
    if not isinstance(table, dict):
        table = {"x": table}
    lines = [f"{_key(key)} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{_key(key)}]", *(f"{_key(inner)} = {_toml(each)}" for inner, each in value.items())]
    if random.random() < 0.05:  # dots make tables in tables
        count = random.choice((2, 30, 300, 5000, 50_000))
        key = random.choice(
            (".".join("a" * count), "a" * count, " " * count + "a", '"' + "a" * count, "a." * 6 + "a" * count)
        )
        lines.insert(random.randrange(len(lines) + 1), random.choice((f"{key} = 1", f"[{key}]", f"[[{key}]]", key)))
    return bruise(random, _with_extremes(random, "\n".join(lines) + "\n").encode("utf-8", "surrogatepass"), 0.05)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool) or value is None:
        return "true" if value else "false"
    if isinstance(value, str) and value not in (_DEEP, _DIGITS):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f'"{value}"' if isinstance(value, str) else str(value)  # of a date as of a number


def bruise(random: Random, content: bytes, share: float = 1.0) -> bytes:
    """A *share* of contents with bytes changed, cut out or doubled, without regard for what they mean."""
    if random.random() >= share or not content:
        return content
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        at, choice = random.randrange(len(damaged) + 1), random.random()
        if choice < 0.4:
            damaged[at : at + 1] = random.choice((b"\0", b"\xff", b"\x80", b"\n", b'"', random.randbytes(1)))
        elif choice < 0.6:
            del damaged[at : at + random.choice((1, 2, 100))]
        elif choice < 0.9:
            damaged[at:at] = damaged[at : at + random.choice((1, 10, 100))]
        else:
            del damaged[at:]
    return bytes(damaged)
