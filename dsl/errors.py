"""What the language says when a text or a program is wrong: what, where, and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OF_FEW = 0.75  # `near_from` where all that is known fits into the hint: no guess hides it


class ProgramError(ValueError):
    """A program that is not one: one line that says what is wrong, where, and how to mend it.

    `line` and `column` count from 1 and are None for programs that were built rather than parsed.
    """

    def __init__(self, message: str, line: int | None = None, column: int | None = None, source: str = "") -> None:
        self.message, self.line, self.column, self.source = message, line, column, source
        super().__init__(str(self))

    def __str__(self) -> str:
        place = self.source or ("program" if self.line else "")
        if self.line:
            place += f":{self.line}:{self.column}"
        return f"{place}: {self.message}" if place else self.message

    def located(self, source: str) -> ProgramError:
        """The same error, naming the file it came from."""
        return ProgramError(self.message, self.line, self.column, source)


def short(word: str) -> str:
    """A word of the text as an error shows it: not at any length.

    >>> short("sign"), len(short("x" * 5000))
    ('sign', 40)
    """
    return str(word) if len(word) <= 40 else word[:37] + "..."


def quoted(word: str) -> str:
    """The same in quotes; what is not printable is escaped."""
    return repr(short(word))


def did_you_mean(word: str, known: Iterable[str], near_from: float = 0.5, most: int = 10) -> str:
    """A hint that names the nearest known word, or the first known words when none is near.

    `near_from` is the least share of letters that two near words have in common, `most` how many known words are shown.

    >>> did_you_mean("sgin", ["sign", "sqrt"])
    "did you mean 'sign'?"
    """
    known = sorted(known)
    near = [name for name in known if sorted(name) == sorted(word)]  # two letters changed places
    near = near or difflib.get_close_matches(word[:60], known, n=1, cutoff=near_from)
    if near:
        return f"did you mean {quoted(near[0])}?"
    shown = [short(name) for name in known[:most]]
    shown += [f"and {len(known) - most} more"] if len(known) > most else []
    return "known: " + ", ".join(shown) if known else "none are known"
