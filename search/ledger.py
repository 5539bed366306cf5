"""The ledger: an append-only SQLite table with a row per child, the only state of a run.

Population, hall of fame and lineage are folds over it; resuming is replaying. Who computed a row, where and
how long, lives in a second table, so that the children table is the same whatever did the work.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

FORMAT = 1  # of the tables; a ledger of another number is refused

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE children (
    child INTEGER PRIMARY KEY, round INTEGER NOT NULL, parent INTEGER, edit TEXT NOT NULL,
    program TEXT NOT NULL, identity TEXT, alias_of INTEGER, reason TEXT NOT NULL, audited INTEGER NOT NULL,
    scores TEXT NOT NULL, final TEXT NOT NULL, fitness REAL, rms REAL, steps INTEGER NOT NULL,
    state INTEGER NOT NULL, operations REAL NOT NULL, statements INTEGER NOT NULL);
CREATE TABLE work (
    round INTEGER NOT NULL, stage INTEGER NOT NULL, worker INTEGER NOT NULL, host TEXT NOT NULL,
    seconds REAL NOT NULL, faults TEXT NOT NULL);
"""


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
    fitness: float | None = None
    rms: float | None = None  # of the update on the probe, as generated
    steps: int = 0  # training steps that it cost
    state: int = 0
    operations: float = 0.0
    statements: int = 0

    @property
    def scored(self) -> bool:
        """Whether it came through all stages on its own merit."""
        return self.fitness is not None and not self.reason


class Ledger:
    """An open ledger in a run folder, locked against a second search."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.lock = FileLock(folder / "lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise LedgerError(f"{folder}: another search is running in this folder") from None
        except OSError as error:
            raise LedgerError(f"{folder}: {error.strerror or error}; choose a folder that can be written") from None
        try:
            self.base = sqlite3.connect(self.path, isolation_level=None)
            self._guard(self.base.execute, "PRAGMA synchronous = FULL")
        except (sqlite3.Error, LedgerError) as error:
            self.lock.release()
            raise LedgerError(f"{self.path}: {error}") from None

    @staticmethod
    def create(folder: Path, meta: dict[str, str]) -> Ledger:
        """A new ledger; the folder must not hold one."""
        if (folder / "ledger.sqlite").exists():
            raise LedgerError(f"{folder} holds a run already; go on with it: stepsmith search --resume {folder}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{folder}: {error.strerror or error}; choose a folder that can be written") from None
        ledger = Ledger(folder)
        ledger._write([("executescript", _TABLES, None)])
        rows = [(k, v) for k, v in (meta | {"format": str(FORMAT)}).items()]
        ledger._write([("executemany", "INSERT INTO meta VALUES (?, ?)", rows)])
        return ledger

    @staticmethod
    def open(folder: Path) -> Ledger:
        """An existing ledger; raises LedgerError when there is none, or it is no ledger of this format."""
        if not (folder / "ledger.sqlite").is_file():
            raise LedgerError(f"{folder}: no run here (no ledger.sqlite)")
        ledger = Ledger(folder)
        try:
            found = ledger.meta().get("format")
            if found != str(FORMAT):
                raise LedgerError(
                    f"{ledger.path}: ledger format {found}, this version reads {FORMAT}; "
                    "go on with the version that wrote it"
                )
        except LedgerError:
            ledger.close()
            raise
        return ledger

    @staticmethod
    def read(folder: Path) -> list[Child]:
        """The rows of a run, running or not, without locking it."""
        reader = Ledger.__new__(Ledger)
        reader.path = folder / "ledger.sqlite"
        if not reader.path.is_file():
            raise LedgerError(f"{folder}: no run here (no ledger.sqlite)")
        reader.base = sqlite3.connect(f"file:{reader.path}?mode=ro", uri=True)
        try:
            return list(reader.children())
        finally:
            reader.base.close()

    def _guard(self, call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except sqlite3.DatabaseError as error:
            known = {
                "file is not a database": "not a ledger (damaged, or another kind of file)",
                "database or disk is full": "the disk is full; make room and resume, nothing committed is lost",
                "attempt to write a readonly database": "cannot be written; check the folder's permissions",
                "no such table: meta": "not a ledger (no meta table)",
            }
            raise LedgerError(f"{self.path}: {known.get(str(error), str(error))}") from None

    def _write(self, commands: Sequence[tuple[str, str, Any]]) -> None:
        """All commands, or none."""

        def run() -> None:
            for how, text, rows in commands:
                call = getattr(self.base, how)
                call(text) if rows is None else call(text, rows)

        if commands[0][0] == "executescript":
            self._guard(run)
            return
        self._guard(self.base.execute, "BEGIN IMMEDIATE")
        try:
            self._guard(run)
            self._guard(self.base.execute, "COMMIT")
        except LedgerError:
            if self.base.in_transaction:
                self.base.execute("ROLLBACK")
            raise

    def meta(self) -> dict[str, str]:
        """Configuration and versions."""
        return dict(self._guard(self.base.execute, "SELECT name, value FROM meta"))

    def commit_round(self, children: Sequence[Child], work: Sequence[tuple[Any, ...]]) -> None:
        """A closed round, whole."""
        rows = [[_plain(v) for v in asdict(c).values()] for c in children]
        marks = ", ".join("?" * len(Child.__dataclass_fields__))
        self._write([
            ("executemany", f"INSERT INTO children VALUES ({marks})", rows),
            ("executemany", "INSERT INTO work VALUES (?, ?, ?, ?, ?, ?)", list(work)),
        ])  # fmt: skip

    def children(self) -> Iterator[Child]:
        """All rows in order."""
        names = ", ".join(Child.__dataclass_fields__)
        for row in self._guard(self.base.execute, f"SELECT {names} FROM children ORDER BY child").fetchall():
            values = dict(zip(Child.__dataclass_fields__, row, strict=True))
            values["scores"] = tuple(json.loads(values["scores"]))
            values["audited"] = bool(values["audited"])
            yield Child(**values)

    def seconds(self) -> float:
        """Wall seconds of all workers together."""
        return float(self._guard(self.base.execute, "SELECT COALESCE(SUM(seconds), 0) FROM work").fetchone()[0])

    def close(self) -> None:
        """Releases the folder."""
        self.base.close()
        self.lock.release()


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return json.dumps(value) if isinstance(value, (tuple, list)) else value
