"""A validation as a person runs it: where it is kept, how far it is, and what is printed at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..discovered import load
from ..dsl import Program
from ..dsl.errors import OF_FEW, did_you_mean
from ..evaluator.executors import check_device
from ..evaluator.validation.fits import check_target_fits
from ..evaluator.validation.pool import TargetPool
from ..evaluator.validation.protocol import PRESETS, Preset
from ..evaluator.validation.record import Record
from ..evaluator.validation.training import check_trainable
from ..evaluator.validation.validate import ADAMW, Validation, validate
from ..proxies.targets import target as target_named
from ..proxies.whole_file import replace_file
from ..search.programs import load_any
from .profile_page import profile_table, target_profiles, write_profile
from .progress import clock
from .session import say
from .validation_page import DATA, headlines, write_frozen, write_page
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
        return HOME / file_name(*parts, *([self.device] if self.device != "cpu" else []))

    def programs(self) -> dict[str, Program]:
        """Contenders by what they are called; AdamW, the baseline, is one where it is what is validated."""
        return {called(name): load_any(name) for name in dict.fromkeys([self.name, *self.against])}

    def check(self) -> None:
        """Raises, in one line, what stands in the way."""
        if self.preset not in PRESETS:
            raise ValidationError(f"unknown preset {self.preset!r}; {did_you_mean(self.preset, PRESETS, OF_FEW)}")
        check_device(self.device)
        target = target_named(self.target, self.text)
        for program in (load("adamw"), *self.programs().values()):
            check_trainable(program)
            check_target_fits(target, program, self.device, self.workers)


def called(name: str) -> str:
    """What a contender is called: as it was asked for, unless the baseline is called so."""
    return name.lower() if name == ADAMW else name


def file_name(*parts: str) -> str:
    """Names as that of one file, each once."""
    safe = ("".join(c if c.isalnum() or c in "-_." else "-" for c in part).strip("-") for part in parts)
    return "-".join(part for part in dict.fromkeys(safe) if part)


def run_validations(wanted: Sequence[Wanted], folder: Path | None, console: Console) -> None:
    """One validation after another, and over several targets the profile of time to target."""
    found = {each.target: run_validation(each, folder, console) for each in wanted}
    if len(found) > 1:
        path = HOME / f"{file_name(wanted[0].name, *wanted[0].against, *found, wanted[0].preset)}-profile.html"
        write_profile(found, path)
        console.print(profile_table(target_profiles(found)))
        say(console, str(path))


def run_validation(wanted: Wanted, folder: Path | None, console: Console) -> Validation:
    """Validates, writes `validation.json` and `report.html`, and prints the table; exits with 130 when interrupted.

    `wanted.check()` comes first, for all that is wanted, so that nothing waits for hours to be refused.

    Raises:
        ValidationError, TaskError, ProgramError, TargetTooLarge: In one line.
    """
    programs, preset = wanted.programs(), PRESETS[wanted.preset]
    target = target_named(wanted.target, wanted.text)
    named, folder = folder is not None, folder or wanted.folder()
    if _claim(folder, wanted, programs, target.fingerprint(), named):
        say(console, f"{folder} held another validation; its report will be replaced, and its runs stay in the record")
    try:
        found = _with_progress(
            wanted, programs, preset, Record(HOME / f"{file_name(target.name)}.jsonl"), folder, console
        )
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
    return found


def _claim(folder: Path, wanted: Wanted, programs: Mapping[str, Program], fingerprint: str, named: bool) -> bool:
    """Marks a folder as this validation's; raises ValidationError where it was named and is another's.

    A folder that has its name from us is taken over: the runs are in the record beside it. Whether it was another's.
    """
    own = {"target": wanted.target, "data": fingerprint, "preset": wanted.preset, "device": wanted.device,
           "programs": {name: str(program) for name, program in programs.items()}}  # fmt: skip
    path = folder / "configuration.json"
    other = ["all that it says"] if (folder / DATA).exists() and not path.is_file() else []
    if path.is_file():
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError:
            there = None
        if named and not isinstance(there, dict):
            raise ValidationError(f"{path} is damaged; name another folder with --out, or remove this one")
        there = there if isinstance(there, dict) else {}
        other = [key for key in own if own[key] != there.get(key)]
    if other and named:
        raise ValidationError(
            f"{folder} holds another validation, which differs in {' and '.join(other)}; name another folder with "
            "--out, or leave it out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(own, indent=1) + "\n")
    return bool(other)


def _with_progress(
    wanted: Wanted, programs: Mapping[str, Program], preset: Preset, record: Record, folder: Path, console: Console
) -> Validation:
    record.claim()
    with clock(console) as ticking:
        pool = TargetPool(wanted.target, record, wanted.text, wanted.workers, wanted.device, ticking.ran)
        with pool:
            steps = round(preset.sides(len(programs)) * pool.target.steps)
            ticking.expect(steps)
            sides = f"AdamW and {', '.join(programs)}"
            say(console, f"{pool.target.name}, {wanted.preset}: {sides}, about {steps:,} training steps")
            return validate(pool, programs, preset, wanted.preset, ticking.say, fixed=partial(write_frozen, folder))
