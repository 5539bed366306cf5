"""A validation as a person runs it: where it is kept, how far it is, and what is printed at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..discovered import load
from ..dsl import Program
from ..dsl.errors import did_you_mean
from ..evaluator.executors import check_device
from ..evaluator.validation.fits import check_target_fits
from ..evaluator.validation.pool import TargetPool
from ..evaluator.validation.protocol import PRESETS, Preset
from ..evaluator.validation.record import Record
from ..evaluator.validation.training import check_trainable
from ..evaluator.validation.validate import Validation, validate
from ..proxies.targets import target as target_named
from ..proxies.whole_file import replace_file
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
        parts = (self.name, *self.against, self.target, Path(self.text).stem, self.preset)
        return HOME / "-".join(_safe(part) for part in dict.fromkeys(parts) if part)

    def programs(self) -> dict[str, Program]:
        """Contenders by what they are called; AdamW, the baseline, is one where it is what is validated."""
        return {name: load_any(name) for name in dict.fromkeys([self.name, *self.against])}

    def check(self) -> None:
        """Raises, in one line, what stands in the way."""
        if self.preset not in PRESETS:
            raise ValidationError(f"unknown preset {self.preset!r}; {did_you_mean(self.preset, PRESETS)}")
        check_device(self.device)
        target = target_named(self.target, self.text)
        for program in (load("adamw"), *self.programs().values()):
            check_trainable(program)
            check_target_fits(target, program, self.device, self.workers)


def _safe(name: str) -> str:
    """A name as that of a file."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-")


def run_validation(wanted: Wanted, folder: Path | None, console: Console) -> None:
    """Validates, writes `validation.json` and `report.html`, and prints the table; exits with 130 when interrupted.

    `wanted.check()` comes first, for all that is wanted, so that nothing waits for hours to be refused.

    Raises:
        ValidationError, TaskError, ProgramError, TargetTooLarge: In one line.
    """
    programs, preset = wanted.programs(), PRESETS[wanted.preset]
    target = target_named(wanted.target, wanted.text)
    named, folder = folder is not None, folder or wanted.folder()
    _claim(folder, wanted, programs, target.fingerprint(), named)
    try:
        found = _with_progress(wanted, programs, preset, HOME / f"{_safe(target.name)}.jsonl", console)
    except KeyboardInterrupt:
        say(console, "interrupted: finished runs are kept; the same command goes on from there")
        sys.exit(130)
    write_page(found, folder)
    console.print(validation_table(found))
    for line in headlines(found):
        say(console, line)
    for line in found.limits:
        say(console, line)
    say(console, f"{folder}/report.html, {folder}/validation.json")


def _claim(folder: Path, wanted: Wanted, programs: Mapping[str, Program], fingerprint: str, named: bool) -> None:
    """Marks a folder as this validation's; raises ValidationError where it was named and is another's.

    A folder that has its name from us is taken over: the runs are in the record beside it.
    """
    own = {"target": wanted.target, "data": fingerprint, "preset": wanted.preset, "device": wanted.device,
           "programs": {name: str(program) for name, program in programs.items()}}  # fmt: skip
    path = folder / "configuration.json"
    if path.is_file() and named:
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError:
            raise ValidationError(f"{path} is damaged; name another folder with --out, or remove this one") from None
        other = [key for key in own if own[key] != there.get(key)]
        if other:
            raise ValidationError(
                f"{folder} holds another validation, which differs in {' and '.join(other)}; name another folder with "
                "--out, or leave it out"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(own, indent=1) + "\n")


def _with_progress(
    wanted: Wanted, programs: Mapping[str, Program], preset: Preset, record: Path, console: Console
) -> Validation:
    lines = Record(record)
    lines.claim()
    with clock(console) as ticking:
        pool = TargetPool(wanted.target, lines, wanted.text, wanted.workers, wanted.device, ticking.ran)
        with pool:
            steps = round(preset.sides(len(programs)) * pool.target.steps)
            ticking.expect(steps)
            sides = f"AdamW and {', '.join(programs)}"
            say(console, f"{pool.target.name}, {wanted.preset}: {sides}, about {steps:,} training steps")
            return validate(pool, programs, preset, wanted.preset, ticking.say)
