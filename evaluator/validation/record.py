"""The record of training runs: a text file with a line for each that came to its end, from which everything goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...dsl import Program
from ...proxies.targets import Target
from ..json_lines import JsonLines
from ..machine import machine
from ..train import Run
from .training import VERSION, Result, Training

_DIGITS = 4  # of the numbers on a curve


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


class Record(JsonLines[Row]):
    """The finished runs of a file, by what their results depend on; see `JsonLines`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _parsed)

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
        self.append(
            {"key": key_of(target, training, device), "target": target.name, "fingerprint": target.fingerprint(),
             **_written(target, training), **asdict(result), "machine": _kind(device)}
        )  # fmt: skip


def _parsed(held: Mapping[str, Any]) -> tuple[str, Row]:
    run = Run(Program.parse(held["program"]), held["warmup"], held["decay"])
    training = Training(run, held["seed"], held["steps"], held["final"])
    result = Result(**{name: held[name] for name in Result.__dataclass_fields__})
    result.curve = [(int(step), float(one), float(two)) for step, one, two in result.curve]
    for name in ("validation", "start", "seconds", "optimizer_seconds"):
        setattr(result, name, _number(name, held[name]))
    for name in ("test", "metric"):
        setattr(result, name, None if held[name] is None else _number(name, held[name]))
    return held["key"], Row(held["key"], held["target"], held["fingerprint"], training, result, held["machine"])


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
