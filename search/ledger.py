"""The ledger: an append-only SQLite table with a row per child, the only state of a run.

Population, hall of fame and lineage are folds over it; resuming is replaying. Who computed a row, where and
how long, lives in a second table, so that the children table is the same whatever did the work.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from shlex import quote
from typing import Any

from filelock import FileLock, Timeout

from .niche import Niche

START = "start"  # the edit of a program that the search began with
FORMAT = 3  # of the tables; a ledger of another number is refused

_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE children (
    child INTEGER PRIMARY KEY, round INTEGER NOT NULL, parent INTEGER, edit TEXT NOT NULL,
    program TEXT NOT NULL, identity TEXT, alias_of INTEGER, reason TEXT NOT NULL, audited INTEGER NOT NULL,
    scores TEXT NOT NULL, final TEXT NOT NULL, lr_factor REAL NOT NULL, fitness REAL, rms REAL, steps INTEGER NOT NULL,
    state INTEGER NOT NULL, operations REAL NOT NULL, statements INTEGER NOT NULL, elastic INTEGER NOT NULL,
    skeleton TEXT NOT NULL)""",
    """CREATE TABLE work (
    round INTEGER NOT NULL, stage INTEGER NOT NULL, worker INTEGER NOT NULL, host TEXT NOT NULL,
    seconds REAL NOT NULL, faults TEXT NOT NULL)""",
)


class LedgerError(RuntimeError):
    """A ledger that cannot be read or written, in one line."""


@dataclass(frozen=True)
class Child:
    """A row: one child, trained, rejected, or an alias of an earlier row."""

    child: int
    round: int
    parent: int | None
    edit: str
    program: str  # as generated
    identity: str | None = None
    alias_of: int | None = None
    reason: str = ""  # why it was rejected or dropped; empty for one that came through all stages
    audited: bool = False  # dropped, but trained to the end to check the hurdles
    scores: tuple[dict[str, Any], ...] = ()  # one a stage
    final: str = ""  # with the best learning rate
    lr_factor: float = 1.0  # of that to the one as generated
    fitness: float | None = None
    rms: float | None = None  # of the update on the probe, as generated
    steps: int = 0  # training steps that it cost
    state: int = 0
    operations: float = 0.0
    statements: int = 0
    elastic: int = 0  # with the states, its niche
    skeleton: str = ""  # what programs share that differ in numbers alone

    @property
    def is_start(self) -> bool:
        """Whether it is a program that the search began with; what is bred of those has no parent either."""
        return self.edit == START

    @property
    def best_text(self) -> str:
        """The program at the best learning rate that its stages found; as generated, where it was not trained."""
        return self.final or self.program

    @property
    def kinds(self) -> list[str]:
        """The kind of each edit; the row that an update or hyperparameters came of stands behind it."""
        return [edit.partition(" ")[0] for edit in self.edit.split("+")]

    @property
    def moves_numbers_alone(self) -> bool:
        """Whether every edit was to a number."""
        return set(self.kinds) <= {"constant", "take"}

    @property
    def size(self) -> tuple[int, int]:
        """States, and live statements."""
        return self.state, self.statements

    @property
    def niche(self) -> Niche:
        """What it competes with, where niches have populations of their own."""
        return Niche(self.state, self.elastic)

    @property
    def scored(self) -> bool:
        """Whether it came through all stages on its own merit."""
        return self.fitness is not None and not self.reason


_FIELDS = tuple(Child.__dataclass_fields__)
_SCORES, _AUDITED = _FIELDS.index("scores"), _FIELDS.index("audited")
_NUMBERS = [i for i, f in enumerate(Child.__dataclass_fields__.values()) if str(f.type).startswith(("int", "float"))]


def _child(*row: Any) -> Child:
    """A row as it lies in the table. Raises ValueError with the column that cannot be read."""
    values = list(row)
    try:
        values[_SCORES] = tuple(json.loads(row[_SCORES])) if row[_SCORES] != "[]" else ()
    except (TypeError, ValueError):
        raise ValueError("scores") from None
    for i in _NUMBERS:
        if row[i].__class__ is str:  # SQLite keeps text in a column of numbers
            raise ValueError(_FIELDS[i])
    values[_AUDITED] = bool(row[_AUDITED])
    return Child(*values)


class Ledger:
    """An open ledger in a run folder, locked against a second search."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.path, self.lock = folder / "ledger.sqlite", lock
        self.base = _connect(self.path)

    @staticmethod
    def create(folder: Path, meta: dict[str, str]) -> Ledger:
        """A new ledger; the folder must not hold one. It appears whole or not at all."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{folder}: {error.strerror or error}; choose a folder that can be written") from None
        lock = _lock(folder)
        path, beside = folder / "ledger.sqlite", folder / "ledger.sqlite.part"
        try:
            if path.exists():
                raise LedgerError(
                    f"{folder} holds a run already; go on with it: stepsmith search --resume {quote(str(folder))}"
                )
            beside.unlink(missing_ok=True)
            _fill(beside, meta | {"format": str(FORMAT)})
            os.replace(beside, path)
            return Ledger(folder, lock)
        except OSError as error:
            lock.release()
            raise LedgerError(f"{path}: {error.strerror or error}") from None
        except LedgerError:
            lock.release()
            raise

    @staticmethod
    def open(folder: Path) -> Ledger:
        """An existing ledger; raises LedgerError when there is none, or it is no ledger of this format."""
        _find(folder)
        lock = _lock(folder)
        try:
            return Ledger(folder, lock)._checked()
        except LedgerError:
            lock.release()
            raise

    @staticmethod
    def reading(folder: Path) -> AbstractContextManager[Ledger]:
        """The ledger of a run, running or not, to be read without locking it; closes at the end of the block."""
        _find(folder)
        return closing(Ledger(folder, FileLock(folder / "lock"))._checked())

    def _checked(self) -> Ledger:
        """This, if it is a ledger of this format; else its connection is closed."""
        try:
            found = self.meta().get("format")
            if found != str(FORMAT):
                raise LedgerError(
                    f"{self.path}: ledger format {found}, this version reads {FORMAT}; "
                    "go on with the version that wrote it"
                )
        except LedgerError:
            self.base.close()
            raise
        return self

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Row by row: a ledger may be larger than memory."""
        with _one_line(self.path):
            yield from self.base.execute(query, values)

    def meta(self) -> dict[str, str]:
        """Configuration and versions."""
        return dict(self._rows("SELECT name, value FROM meta"))

    def next_look(self, count: int) -> tuple[int, int]:
        """Which re-scoring of this run comes, from 1, and how many programs the earlier ones asked for.

        This one, of `count` programs, is counted now, whatever becomes of it.
        """
        meta = self.meta()
        earlier = int(meta.get("looks", "0"))
        asked = int(meta.get("asked", str(earlier * count)))  # older versions counted looks alone
        values = [("looks", str(earlier + 1)), ("asked", str(asked + count))]
        with _one_line(self.path), _all_or_nothing(self.base):
            self.base.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        return earlier + 1, asked

    def commit_round(self, children: Sequence[Child], work: Sequence[tuple[Any, ...]]) -> None:
        """A closed round, whole."""
        rows = [[_plain(v) for v in asdict(c).values()] for c in children]
        marks = ", ".join("?" * len(_FIELDS))
        with _one_line(self.path), _all_or_nothing(self.base):
            self.base.executemany(f"INSERT INTO children VALUES ({marks})", rows)
            self.base.executemany("INSERT INTO work VALUES (?, ?, ?, ?, ?, ?)", work)

    def children(self) -> Iterator[Child]:
        """All rows in order. Raises LedgerError where one is missing."""
        for number, child in enumerate(self._children("ORDER BY child")):
            if child.child != number:
                raise LedgerError(f"{self.path}: row {number} is missing; {_PUT_BACK}")
            yield child

    def _children(self, which: str, *values: Any) -> Iterator[Child]:
        for row in self._rows(f"SELECT {', '.join(_FIELDS)} FROM children {which}", *values):
            try:
                yield _child(*row)
            except ValueError as error:
                raise LedgerError(f"{self.path}: row {row[0]} is damaged ({error}); {_PUT_BACK}") from None

    def rounds(self) -> Iterator[list[Child]]:
        """The rows of each round, in order."""
        return (list(rows) for _, rows in groupby(self.children(), key=lambda child: child.round))

    def child(self, number: int) -> Child | None:
        """A row by its number, if it is there."""
        return next(self._children("WHERE child = ?", number), None)

    def best(self) -> Child | None:
        """The row that the search ranks first of those that came through all stages on their own merit."""
        parsimony = json.loads(self.meta()["config"]).get("parsimony", 0.0)  # older searches had none
        ranked = (  # by worth, as `Fittest` ranks
            "WHERE fitness IS NOT NULL AND reason = '' ORDER BY fitness / (1 + ? * statements) DESC, statements, "
            "child LIMIT 1"
        )
        return next(self._children(ranked, parsimony), None)

    def count(self) -> int:
        """How many rows there are."""
        return int(next(self._rows("SELECT COALESCE(MAX(child) + 1, 0) FROM children"))[0])

    def steps(self, child: int) -> int:
        """Training steps of all rows up to this one."""
        return int(next(self._rows("SELECT COALESCE(SUM(steps), 0) FROM children WHERE child <= ?", child))[0])

    def seconds(self) -> float:
        """Wall seconds of all workers together."""
        return float(next(self._rows("SELECT COALESCE(SUM(seconds), 0) FROM work"))[0])

    def close(self) -> None:
        """Releases the folder, if this held it."""
        self.base.close()
        self.lock.release()


def _find(folder: Path) -> None:
    if not (folder / "ledger.sqlite").is_file():
        raise LedgerError(f"{folder}: no run here (no ledger.sqlite)")


def _lock(folder: Path) -> FileLock:
    """The folder's lock, held; the system lets go of it when the process ends, however it ends."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LedgerError(f"{folder}: another search is running in this folder") from None
    except OSError as error:
        raise LedgerError(f"{folder}: {error.strerror or error}; choose a folder that can be written") from None
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    """An existing database, for writing if the system allows it."""
    with _one_line(path):
        base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=60)
        base.execute("PRAGMA synchronous = FULL")
        return base


def _fill(path: Path, meta: dict[str, str]) -> None:
    """A new database with the tables and `meta`."""
    with _one_line(path), closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous = FULL")
        with _all_or_nothing(base):
            for table in _TABLES:
                base.execute(table)
            base.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))


@contextmanager
def _all_or_nothing(base: sqlite3.Connection) -> Iterator[None]:
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        if base.in_transaction:
            base.execute("ROLLBACK")
        raise


_PUT_BACK = "put back a copy of it, or start a new run"
_KNOWN = {
    "file is not a database": "not a ledger (damaged, or another kind of file)",
    "database disk image is malformed": f"the ledger is damaged; {_PUT_BACK}",
    "database or disk is full": "the disk is full; make room and resume, nothing committed is lost",
    "disk I/O error": "cannot be written (disk I/O error); mend that and resume, nothing committed is lost",
    "attempt to write a readonly database": "cannot be written; check the folder's permissions",
    "no such table: meta": "not a ledger (no meta table)",
}


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """SQLite's complaints as ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: {_KNOWN.get(str(error), str(error))}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return json.dumps(value) if isinstance(value, (tuple, list)) else value
