"""A validation as a person runs it: where it is kept, how far it is, and what is printed at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ..dsl import Program
from ..dsl.errors import did_you_mean
from ..evaluator.executors import check_device
from ..evaluator.validation.fits import check_target_fits
from ..evaluator.validation.pool import TargetPool
from ..evaluator.validation.protocol import PRESETS, Preset
from ..evaluator.validation.record import Record
from ..evaluator.validation.training import check_trainable
from ..evaluator.validation.validate import ADAMW, Validation, validate
from ..proxies.targets import target as target_named
from ..search.found import load_any
from .progress import clock
from .session import say
from .validation_page import headlines, write_page
from .validation_table import validation_table

if TYPE_CHECKING:
    from rich.console import Console

HOME = Path("runs", "validation")


class ValidationError(ValueError):
    """A validation that cannot be had, in one line."""


@dataclass(frozen=True)
class Wanted:
    """What is to be validated, as the command line says it."""

    name: str
    against: tuple[str, ...]
    target: str
    text: str
    preset: str
    device: str
    workers: int

    def folder(self) -> Path:
        """Where it is kept unless a folder is named."""
        parts = (self.name, self.target, Path(self.text).stem, self.preset)
        return HOME / "-".join(_safe(part) for part in parts if part)


def _safe(name: str) -> str:
    """A name as that of a file."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-")


def run_validation(wanted: Wanted, folder: Path | None, console: Console) -> None:
    """Validates, writes `validation.json` and `report.html`, and prints the table; exits with 130 when interrupted.

    Raises:
        ValidationError, TaskError, ProgramError, TargetTooLarge: In one line.
    """
    if wanted.preset not in PRESETS:
        raise ValidationError(f"unknown preset {wanted.preset!r}; {did_you_mean(wanted.preset, PRESETS)}")
    check_device(wanted.device)
    programs, preset = _programs(wanted), PRESETS[wanted.preset]
    target = target_named(wanted.target, wanted.text)
    for program in programs.values():
        check_trainable(program)
        check_target_fits(target, program, wanted.device, wanted.workers)
    folder = folder or wanted.folder()
    _claim(folder, wanted, programs)
    record = HOME / f"{_safe(target.name)}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(record.with_suffix(".lock"))
    try:
        with lock.acquire(timeout=0):
            found = _with_progress(wanted, programs, preset, record, console)
    except Timeout:
        raise ValidationError(f"another validation is writing to {record}; wait for it, or stop it") from None
    except KeyboardInterrupt:
        say(
            console, "interrupted: finished runs are kept, others have checkpoints; the same command goes on from there"
        )
        sys.exit(130)
    write_page(found, folder)
    console.print(validation_table(found))
    for line in headlines(found):
        say(console, line)
    for line in found.limits:
        say(console, line)
    say(console, f"{folder}/report.html, {folder}/validation.json")


def _programs(wanted: Wanted) -> dict[str, Program]:
    """Contenders by what they are called, AdamW apart."""
    names = [wanted.name, *(name for name in wanted.against if name != ADAMW)]
    return {name: load_any(name) for name in dict.fromkeys(names)}


def _claim(folder: Path, wanted: Wanted, programs: Mapping[str, Program]) -> None:
    """Marks a folder as this validation's; raises ValidationError where it is another's."""
    own = {"target": wanted.target, "text": wanted.text, "preset": wanted.preset, "device": wanted.device,
           "programs": {name: str(program) for name, program in programs.items()}}  # fmt: skip
    path = folder / "configuration.json"
    if path.is_file():
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError:
            raise ValidationError(f"{path} is damaged; name another folder with --out, or remove this one") from None
        other = [key for key in own if own[key] != there.get(key)]
        if other:
            raise ValidationError(
                f"{folder} holds a validation with another {' and '.join(other)}; name another folder with --out"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(own, indent=1) + "\n", "utf-8")


def _with_progress(
    wanted: Wanted, programs: Mapping[str, Program], preset: Preset, record: Path, console: Console
) -> Validation:
    with clock(console) as ticking:
        pool = TargetPool(wanted.target, Record(record), wanted.text, wanted.workers, wanted.device, ticking.ran)
        with pool:
            steps = round(preset.sides(len(programs)) * pool.target.steps)
            ticking.expect(steps)
            sides = f"AdamW and {', '.join(programs)}"
            say(console, f"{pool.target.name}, {wanted.preset}: {sides}, about {steps:,} training steps")
            return validate(pool, programs, preset, wanted.preset, ticking.say)
