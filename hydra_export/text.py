"""Text that others wrote, as people see it, as files keep it, and as it is read."""

from __future__ import annotations

import re
from typing import Any

# Control characters, what ends a line or a paragraph, what turns the direction of what follows it (Unicode Standard
# Annex 9), what cannot be seen at all, and halves of surrogate pairs. What joins letters or emoji (U+200C, U+200D) and
# what chooses among their forms stays: Persian, Hindi and families would fall apart.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_UNSEEN_RUN = re.compile(f"{UNSEEN.pattern}+")
_NOT_ASCII = re.compile("[^\x20-\x7e]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]")  # of a path that is no UTF-8, as Python holds them
_LINE_END = re.compile(r"\r\n|\r|\n")
# What Markdown would take for more than a letter; @ and # would call people and issues, // and www. make links.
_SPECIAL = re.compile(r"([\\`*_\[\]#|~@]|:(?=//)|(?<=www)\.|^[-+=](?=[-+=\s]|$))")
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")


def counted(count: int, noun: str) -> str:
    """*count* of what *noun* names in the singular: ``1 core``, ``1,000 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shown(text: str) -> str:
    """*text* on one line, what nobody can see as an escape such as ``\\x1b``; for a terminal, a page or a log."""
    return UNSEEN.sub(_escape, text)


def kept(text: str) -> str:
    """*text* on one line, without what nobody can see; for files that programs read."""
    return _UNSEEN_RUN.sub(lambda run: " " if any(map(str.isspace, run[0])) else "", text).strip()


def in_markdown(text: str) -> str:
    """*text* on one line, where it means nothing to Markdown, HTML or GitHub."""
    import html

    plain = _NUMBERED.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", shown(text).strip()))
    return html.escape(plain).replace("\\@", "@<!-- -->")


def in_code(text: str) -> str:
    """*text* as a span of code of Markdown, whatever quotes are in it."""
    plain = shown(text).strip().replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    room = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{room}{plain}{room}{fence}"


def in_json(document: str, encoding: str) -> str:
    """A JSON *document* that says the same; what nobody can see, or *encoding* may not have, as JSON's own escapes."""
    escaped = UNSEEN if encoding.lower() == "utf-8" else _NOT_ASCII
    return escaped.sub(lambda found: found[0] if found[0] == "\n" else _json_escape(found[0]), document)


def in_utf8(value: Any) -> Any:
    """*value*, of builtin types, in whose texts bytes that are not UTF-8 are escapes such as ``\\xff``."""
    match value:
        case str():
            return _SURROGATE.sub(_escape, value)
        case dict():
            return {in_utf8(key): in_utf8(each) for key, each in value.items()}
        case list() | tuple():
            return [in_utf8(each) for each in value]
    return value


def lines(content: str) -> list[str]:
    """The lines of a text file without its byte order mark; what Unicode alone calls a line's end ends none."""
    return _LINE_END.split(content.removeprefix("\ufeff"))


def _escape(found: re.Match[str]) -> str:
    if _BYTES.match(found[0]):
        return f"\\x{ord(found[0]) - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
