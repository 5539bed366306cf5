"""Laying out exported Python as a formatter would."""

from __future__ import annotations

from collections.abc import Iterable

WIDTH = 120


def indent(lines: Iterable[str]) -> list[str]:
    """The lines, one level deeper."""
    return ["    " + line if line else "" for line in lines]


def wrapped(line: str) -> list[str]:
    """A statement that is too long: broken inside its last outermost bracket, or a return at its commas."""
    code = line.lstrip()
    pad = line[: len(line) - len(code)]
    if len(line) <= WIDTH or code.startswith(("#", '"', 'f"')):
        return [line]
    if code.startswith("return ") and len(parts := comma_parts(code.removeprefix("return "))) > 1:
        return [pad + "return (", *_deeper(pad, [part + "," for part in parts]), pad + ")"]
    close = len(line.rstrip(":,")) - 1
    opened, depth = close, 0
    while opened >= 0:
        depth += (line[opened] in ")]}") - (line[opened] in "([{")
        if depth == 0:
            break
        opened -= 1
    if line[close] not in ")]}" or opened < 0:
        return [line]
    parts = [line[opened + 1 : close]]
    if len(pad) + 4 + len(parts[0]) > WIDTH:
        before, word, after = parts[0].partition(" for ")
        commas = [part + "," for part in comma_parts(parts[0])]
        parts = [before, word.lstrip() + after] if word and line[opened] == "[" else commas
    return [line[: opened + 1], *_deeper(pad, parts), pad + line[close:]]


def _deeper(pad: str, parts: Iterable[str]) -> list[str]:
    return [piece for part in parts for piece in wrapped(pad + "    " + part)]


def comma_parts(text: str) -> list[str]:
    """The parts between outermost commas."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
