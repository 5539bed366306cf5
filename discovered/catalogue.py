"""The catalogue: programs as `.opt` text, found by name. A shelf is a folder of such files beside this one.

The leading comment of a file is its record: a first line that says what the rule is, `Source:` where it was
published, and a `Differs:` line for each point on which implementations disagree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ..dsl import Program, ProgramError, did_you_mean
from ..dsl.cost import Cost, cost

#: Folders of programs, in the order in which they are listed. Every name stands on one shelf only.
SHELVES = ("zoo", "found")
SUFFIX = ".opt"

_MAX_BYTES = 4_000_000  # the language's limit of a million characters, in the longest encoding


@dataclass(frozen=True)
class Entry:
    """A catalogued program: its name, the shelf on which it stands, and what its leading comment says."""

    name: str
    shelf: str
    program: Program

    @property
    def description(self) -> str:
        """What the rule is, in one line."""
        return self.program.doc.partition("\n")[0]

    @property
    def source(self) -> str:
        """Where it was published; "" where the file does not say."""
        return "; ".join(self._noted("Source"))

    @property
    def differs(self) -> tuple[str, ...]:
        """The points on which implementations disagree, and what this text does."""
        return tuple(self._noted("Differs"))

    @property
    def cost(self) -> Cost:
        """What a step costs per parameter; `cost.state` is the number of floats kept."""
        return cost(self.program)

    def _noted(self, word: str) -> Iterator[str]:
        """The notes that begin with a word; a line without a word of its own continues the note before it."""
        notes: list[list[str]] = []
        for line in self.program.doc.splitlines()[1:]:
            if line.startswith(("Source:", "Differs:")):
                notes.append([line])
            elif notes:
                notes[-1].append(line)
        for note in notes:
            head, _, rest = " ".join(note).partition(":")
            if head == word:
                yield rest.strip()


def names() -> list[str]:
    """The catalogued names, sorted.

    >>> [name for name in names() if name.startswith("sgd")]
    ['sgd', 'sgd_sai']
    """
    return sorted(_files())


def entries() -> list[Entry]:
    """Every catalogued program with its record, shelf by shelf.

    >>> next(e for e in entries() if e.name == "lion").description
    'Lion: evolved sign momentum.'
    """
    return [_entry(name) for name in _files()]


def file_stem(name: str) -> str:
    """How the file of a catalogued program is called; case and `-` for `_` do not matter.

    >>> file_stem("C-Lion")
    'c_lion'
    """
    return name.lower().replace("-", "_")


def entry(name: str) -> Entry:
    """The record of a catalogued program, under any spelling that `file_stem` knows.

    Raises ProgramError, a ValueError, for an unknown name.

    >>> entry("C-Lion").cost.state
    1
    """
    known = file_stem(name)
    if known not in _files():
        raise ProgramError(f"unknown program {name!r}; {did_you_mean(known, _files())}")
    return _entry(known)


def load(name_or_path: str | os.PathLike[str]) -> Program:
    """The program of a catalogued name, or of a file.

    A text that ends in `.opt` or holds a path separator is a path, as every `os.PathLike` is; others are
    names.

    Raises ProgramError, a ValueError whose message is one line: an unknown name, a file that cannot be read,
    or a text that is no program, with line and column.

    >>> load("sgd").peak
    0.1
    >>> load("loin")
    Traceback (most recent call last):
    stepsmith.dsl.errors.ProgramError: unknown program 'loin'; did you mean 'lion'?
    """
    if isinstance(name_or_path, str) and not _is_path(name_or_path):
        return entry(name_or_path).program
    return _read(Path(name_or_path))


def _is_path(text: str) -> bool:
    return text.endswith(SUFFIX) or "/" in text or os.sep in text


def _read(path: Path) -> Program:
    """The program that a file holds; only a regular file of a sane size is opened."""
    shown = str(path)
    try:
        if path.is_dir():
            raise ProgramError(f"cannot read {shown!r}: it is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise ProgramError(f"cannot read {shown!r}: it is no regular file")
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ProgramError(f"cannot read {shown!r}: {size} bytes are too long for a program")
        data = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"cannot read {shown!r}: {error.strerror or error}") from None
    except ValueError as error:  # a null character in the path
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(f"cannot read {shown!r}: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ProgramError(f"cannot read {shown!r}: it is no text file in UTF-8")
    return Program.parse(text, source=shown, resolve=lambda name: entry(name).program)


@cache
def _files() -> dict[str, tuple[str, Traversable]]:
    """Name -> shelf and file, in listing order."""
    home = resources.files(__package__)
    found: dict[str, tuple[str, Traversable]] = {}
    for shelf in SHELVES:
        folder = home.joinpath(shelf)
        files = folder.iterdir() if folder.is_dir() else ()
        for file in sorted(files, key=lambda f: f.name):
            name = file.name.removesuffix(SUFFIX)
            if name != file.name and name not in found:
                found[name] = shelf, file
    return found


@cache
def _entry(name: str) -> Entry:
    shelf, file = _files()[name]
    text, source = file.read_text("utf-8"), f"{shelf}/{file.name}"
    return Entry(name, shelf, Program.parse(text, source, resolve=lambda other: entry(other).program))
