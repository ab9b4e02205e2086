"""Names that somebody hostile gives to labels, folders, files and devices, and what no output may hold of them."""

from __future__ import annotations

import random
import unicodedata

# By what each would do where it is shown as it is.
NASTY = {
    "color": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "one-byte escape": "\x9b2Jc1",
    "line": "fine\nerror: forged",
    "carriage return": "fine\rforged",
    "both": "fine\r\nforged",
    "tab": "a\tb",
    "bell": "ding\x07",
    "backspace": "secret\x08\x08\x08",
    "delete": "a\x7fb",
    "form feed": "a\x0cb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "override": "\u202egnp.exe",
    "isolate": "\u2067abc\u2069",
    "mark": "a\u200fb",
    "zero width": "pay\u200bpal",
    "byte order mark": "\ufeffa",
    "tag": "a\U000e0041b",
    "bytes": "caf\udce9",
    "table": "| a | b |",
    "code": "``x``",
    "link": "[here](https://evil.example)",
    "heading": "# big",
    "rule": "---",
    "numbered": "1. one",
    "mention": "@somebody fixes #1",
    "html": "<script>alert(1)</script>",
    "comment": "-->",
    "rich": "[red]x[/]",
    "emoji by name": ":cat:",
    "formula": "$x^$",
    "format": "{0} %s %(a)s",
    "option": "--json",
    "home": "~root",
}
# What people call things, and have to read again.
READABLE = ("猫", "قطة", "e\u0301té", "👨‍👩‍👧", "नमस्ते", "نمی‌خواهم", "größe", "a-b_c.d (1)")
_JOINERS = "\u200c\u200d"


def names(count: int, seed: int = 0) -> list[str]:
    """*count* names put together from those above, and from letters of the parts of Unicode that cannot be seen."""
    rng = random.Random(seed)
    unseen = [
        chr(code) for code in (*range(1, 0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0xDC80, 0xDCA0))
    ]
    parts = [*NASTY.values(), *READABLE, *unseen, "a", "/", " "]
    return ["".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(count)]


def raw(output: str) -> list[str]:
    """What of *output* cannot be seen, or steers what shows it; its lines are its own."""
    return [
        f"U+{ord(letter):04X}"
        for letter in output
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in f"\n{_JOINERS}"
    ]
