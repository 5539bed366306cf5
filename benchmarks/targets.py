"""Rules of the zoo, or finds, on targets, tuned alike: python benchmarks/targets.py [TARGET ...] [--finds]

Every finished run appends a line to benchmarks/results/targets/TARGET.jsonl; the same command goes on from there. When
a target is done its page and numbers are written to benchmarks/results/targets/TARGET/, the table to docs/targets.md;
of finds to TARGET-finds/ and docs/finds.md. The test allows for all rules of a table (Holm): all finds are sent here.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from stepsmith.cli import in_one_line
from stepsmith.discovered import entry, load
from stepsmith.dsl import Program
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.protocol import TABLE
from stepsmith.evaluator.validation.record import Record
from stepsmith.evaluator.validation.validate import ADAMW, Contender, Outcome, Validation, validate
from stepsmith.report.listing import state
from stepsmith.report.profile_page import target_profiles
from stepsmith.report.validation_page import read_validation, write_page
from stepsmith.report.validation_table import shown_speedup, validation_table
from stepsmith.search.find import finds

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "targets"
PRESET = TABLE
TARGETS = ("gpt-60k", "llama-60k")
RULES = (
    "muon", "lion", "sgd", "momentum", "signum", "rmsprop", "nadamw", "c_adamw", "c_lion", "adabelief",
    "scale", "swan", "sinkgd", "adafactor", "adagrad", "exadam", "signsgd",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What a table holds, where it is written, and what the folders of its pages are called after their target."""

    title: str
    rules: Sequence[str]
    page: Path
    ending: str = ""
    command: str = "python benchmarks/targets.py"

    def folder(self, target: str) -> Path:
        """Of the page of a target."""
        return RECORDS / f"{target}{self.ending}"


PUBLISHED = Table("Published rules on targets", RULES, ROOT / "docs" / "targets.md")


def found_here() -> Table:
    """The table of all that the search found and someone kept."""
    return Table("Finds on targets", finds(), ROOT / "docs" / "finds.md", "-finds", f"{PUBLISHED.command} --finds")


def measure(name: str, programs: Mapping[str, Program], folder: Path, workers: int, console: Console) -> None:
    """Everything of a target, shown and written to a folder as a page; what the record has is not trained again.

    A page of the same runs stays as it is, with the times of a step that were measured when they were trained.
    """
    tell = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    record, page = Record(RECORDS / f"{name}.jsonl"), folder / "validation.json"
    before = len(record.rows)
    with TargetPool(name, record, workers=workers) as pool:
        found = validate(pool, programs, PRESET, "table", tell)
    held = read_validation(page) if page.exists() and len(record.rows) == before else None
    if held is not None and _outcomes(held) == _outcomes(found):
        found = held
    else:
        write_page(found, folder)
    console.print(validation_table(found))


def _outcomes(found: Validation) -> dict[str, dict[float, Outcome]]:
    """All that is compared, by contender and data ratio."""
    return {name: contender.outcomes for name, contender in found.contenders.items()}


def measured(table: Table = PUBLISHED) -> dict[str, Validation]:
    """The targets that are done, by name."""
    found = {name: table.folder(name) / "validation.json" for name in TARGETS}
    return {name: read_validation(path) for name, path in found.items() if path.exists()}


def document(found: dict[str, Validation], table: Table) -> str:
    """A row for each rule."""
    [ratio] = PRESET.compared
    about = (
        f"Speedup over tuned AdamW at data ratio {ratio:g} (95% interval) on {PRESET.seeds} paired seeds that chose "
        "nothing; the hyperparameters of every rule tuned alike, numbers in its text as they stand, by a sweep of the "
        f"learning rate and {PRESET.budget} (joint random search, coordinate descent, finalists on two seeds). `*`: "
        "differs from AdamW at 5%, paired test over seeds, Holm over all rules: of this tuning, for two tunings of one "
        "rule may be told apart as well (docs/validation.md, Tunings as the unit). AdamW's curve has two more lengths, "
        f"tuned again in {PRESET.again}; what as many as the first make of them: `python benchmarks/adamw_curve.py`. "
        "`+`: beyond AdamW's longest runs, by its fitted law alone. Step: time of a whole step over AdamW's. Time to "
        "target: area under the performance profile "
        "over the targets, to 4, of steps to AdamW's final loss. Made by "
        f"`{table.command}`, from the runs in `benchmarks/results/targets`."
    )
    about = textwrap.fill(about, 120, break_on_hyphens=False)
    areas = {rule: profile.score() for rule, profile in target_profiles(found, ratio).items()}
    head = f"| rule | states | {' | '.join(f'{name} | step' for name in found)} | time to target |"
    lines = [f"# {table.title}", "", about, "", head, f"|---|---|{'---|---|' * len(found)}---|"]
    rules = dict.fromkeys(rule for v in found.values() for rule in v.contenders)
    first = next(iter(found.values()))
    for rule in sorted(rules, key=lambda r: -_mean(first.contenders.get(r), ratio)):
        cells = [cell for v in found.values() for cell in _cells(v, rule, ratio)]
        area = f"{areas[rule]:.2f}" if rule in areas else ""
        lines.append(f"| {rule} | {state(entry(rule.lower()))} | {' | '.join(cells)} | {area} |")
    return "\n".join(lines) + "\n"


def _mean(contender: Contender | None, ratio: float) -> float:
    return contender.outcomes[ratio].comparison.speedup.mean if contender else 0.0


def _cells(found: Validation, rule: str, ratio: float) -> list[str]:
    contender = found.contenders.get(rule)
    if contender is None:
        return ["", ""]
    outcome = contender.outcomes[ratio]
    shown = "1" if rule == ADAMW else f"{shown_speedup(outcome.comparison)}{' *' if outcome.differs else ''}"
    return [shown, f"{contender.cost.seconds / found.contenders[ADAMW].cost.seconds:.2f}"]


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line of what is measured target by target: that and which targets, all by default, and workers."""
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} [default: all]")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"the pages hold {' and '.join(TARGETS)} alone, not {unknown[0]}")
    given.targets = given.targets or TARGETS
    use_one_thread()
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finds", action="store_true")
    given = parsed(parser)
    console = Console()
    table = found_here() if given.finds else PUBLISHED
    for name in given.targets:
        measure(name, {rule: load(rule) for rule in table.rules}, table.folder(name), given.workers, console)
        table.page.write_text(document(measured(table), table), "utf-8")


if __name__ == "__main__":
    in_one_line(main)
