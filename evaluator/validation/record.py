"""The record of training runs: a text file with a line for each that came to its end, from which everything goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
    """Finished runs by key, in memory and in a file that grows by a line with each.

    A last line that was cut short, as by a kill, is dropped.

    Raises:
        RecordError: Another line that is none.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            file.seek(0)
            text = file.read()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                file.truncate(whole)
        for number, line in enumerate(text[:whole].splitlines(), 1):
            row = self._parsed(line, number)
            self.rows[row.key] = row

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
        with self._lock, open(self.path, "ab") as file:
            file.write(json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.rows[row.key] = row

    def of(self, target: Target) -> list[Row]:
        """The runs on a target as it is now, in order."""
        fingerprint = target.fingerprint()
        return [row for row in list(self.rows.values()) if row.fingerprint == fingerprint]

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            held = json.loads(line)
            run = Run(Program.parse(held["program"]), held["warmup"], held["decay"])
            training = Training(run, held["seed"], held["steps"], held["final"], held["batch"])
            names = Result.__dataclass_fields__
            result = Result(**{name: held[name] for name in names})
            result.curve = [(point[0], point[1], point[2]) for point in result.curve]
            return Row(held["key"], held["target"], held["fingerprint"], training, result, held["machine"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise RecordError(f"{self.path}:{number}: no line of a record ({error}); take it out to go on") from None


def _kind(device: str) -> str:
    facts = machine(device)
    return f"torch {facts['torch']}, {facts['machine']}"


def _written(target: Target, training: Training) -> dict[str, Any]:
    """A run in plain values."""
    warmup, decay = training.shape(target)
    text = str(replace(training.run.program, doc=""))
    return {"program": text, "warmup": warmup, "decay": decay, "seed": training.seed, "steps": training.steps,
            "batch": training.batch or target.batch, "final": training.final}  # fmt: skip
