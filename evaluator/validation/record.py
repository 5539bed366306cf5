"""The record of training runs: a text file with a line for each that came to its end, from which everything goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ...dsl import Program
from ...proxies.targets import Target
from ..machine import machine
from ..train import Run
from .training import VERSION, Result, Training

_DIGITS = 4  # of the numbers on a curve


class RecordError(ValueError):
    """A record that cannot be read: one line, with the file and the line."""


@dataclass(frozen=True)
class Row:
    """One finished run as the record holds it."""

    key: str
    target: str
    fingerprint: str
    training: Training
    result: Result
    machine: str


def key_of(target: Target, training: Training, device: str = "cpu") -> str:
    """16 hex digits for all that a run's result depends on: target, program, settings, seed, kind of machine."""
    content = {"version": VERSION, "target": target.fingerprint(), "machine": _kind(device),
               **_written(target, training)}  # fmt: skip
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


class Record:
    """Finished runs by key, in memory and in a file that grows by a line with each; close it, or use it in a `with`.

    Opening reads. The first line that is added locks the file for this process. A last line that was cut short, as by a
    kill, is dropped.

    Raises:
        RecordError: Another line that is none, or, when a line is added, another process that adds some.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._threads = threading.RLock()
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)
        self._whole = 0  # bytes of whole lines
        self._read()

    def _read(self) -> None:
        text = self.path.read_bytes() if self.path.exists() else b""
        self._whole = text.rfind(b"\n") + 1
        for number, line in enumerate(text[: self._whole].splitlines(), 1):
            row = self._parsed(line, number)
            self.rows[row.key] = row

    def claim(self) -> None:
        """Makes this process the one that adds lines. Raises RecordError where another is."""
        with self._threads:
            if self._lock.is_locked:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RecordError(f"another validation is writing to {self.path}; wait for it, or stop it") from None
            self._read()  # what others added in the meantime
            with open(self.path, "ab") as file:
                file.truncate(self._whole)

    def close(self) -> None:
        """Lets others add lines."""
        self._lock.release()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, target: Target, training: Training, device: str = "cpu") -> Result | None:
        """The result of a run that is here; a final run answers for one that is not."""
        for final in {training.final, True}:
            row = self.rows.get(key_of(target, replace(training, final=final), device))
            if row is not None:
                return row.result
        return None

    def add(self, target: Target, training: Training, result: Result, device: str = "cpu") -> None:
        """Writes a line, to the disk. The curve of a run that is not final stays out."""
        curve = [(step, round(one, _DIGITS), round(two, _DIGITS)) for step, one, two in result.curve]
        times = {name: round(getattr(result, name), 3) for name in ("seconds", "optimizer_seconds")}
        result = replace(result, curve=curve if training.final else [], **times)
        key, kind = key_of(target, training, device), _kind(device)
        row = Row(key, target.name, target.fingerprint(), training, result, kind)
        content = {"key": key, "target": row.target, "fingerprint": row.fingerprint,
                   **_written(target, training), **asdict(result), "machine": kind}  # fmt: skip
        with self._threads:
            self.claim()
            if key in self.rows:
                return
            self._append(content)
            self.rows[row.key] = row

    def _append(self, content: dict[str, Any]) -> None:
        with open(self.path, "ab") as file:
            file.write(json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            held = json.loads(line)
            run = Run(Program.parse(held["program"]), held["warmup"], held["decay"])
            training = Training(run, held["seed"], held["steps"], held["final"])
            names = Result.__dataclass_fields__
            result = Result(**{name: held[name] for name in names})
            result.curve = [(int(step), float(one), float(two)) for step, one, two in result.curve]
            for name in ("validation", "start", "seconds", "optimizer_seconds"):
                setattr(result, name, _number(name, held[name]))
            for name in ("test", "metric"):
                setattr(result, name, None if held[name] is None else _number(name, held[name]))
            return Row(held["key"], held["target"], held["fingerprint"], training, result, held["machine"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise RecordError(f"{self.path}:{number}: no line of a record ({lacks}); take it out to go on") from None


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, and no number")
    return float(value)


def _kind(device: str) -> str:
    facts = machine(device)
    return f"torch {facts['torch']}, numpy {facts['numpy']}, {facts['engine']}, {facts['machine']}"


def _written(target: Target, training: Training) -> dict[str, Any]:
    """A run in plain values."""
    warmup, decay = training.shape(target)
    text = str(replace(training.run.program, doc=""))
    return {"program": text, "warmup": warmup, "decay": decay, "seed": training.seed, "steps": training.steps,
            "final": training.final}  # fmt: skip
