"""Do the proxies say what targets say? python benchmarks/fidelity.py proxies|agreement

proxies: published rules and their speedups over tuned AdamW on seeds that picked nothing. On a proxy all rules are
tuned in one way with as many runs. Each finished rule and task appends a line to
benchmarks/results/proxy_scores.jsonl; the same command goes on from there and prints the table. All of it takes about
two hours of one core.

agreement: Kendall's tau between each proxy's scores and the targets' that benchmarks/targets.py has measured, the suite
that agrees most surely on half of the rules and seeds, and its tau on the others and on the second target; printed, and
written to docs/fidelity.md beside the scores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from targets import PRESET, measured

from stepsmith.evaluator.statistics import geometric_interval
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.fidelity import Fidelity, fidelity
from stepsmith.evaluator.validation.proxy_scores import RULES, TASKS, ProxyScore, read_scores, score_rules
from stepsmith.evaluator.validation.validate import Validation
from stepsmith.proxies import task

HEAD = """# Do the proxies say what targets say?

Made by `python benchmarks/fidelity.py agreement`, from benchmarks/results/proxy_scores.jsonl and
benchmarks/results/targets. Kendall's tau-b between the scores of published rules on a proxy and on a target, with a 90%
bootstrap interval over rules and seeds; on either every rule is tuned in one way with as many runs.

| proxy | tau with {first}, all rules and seeds |
|---|---|"""
JUDGED = """A suite is chosen on every second rule and seed: proxies whose tau there may be 0 are filters, and of the
rest the suite with the highest lower end is taken. It is then judged on the other rules and seeds, and on another
target.

Suite: **{suite}**, chosen on {choosing} rules with tau {chosen} on {first}.
On the other {judging} rules and seeds of {first}: {judged}.
It is a second look: with weaker tuning of the proxies and another rule of choice tau was 0.39 (docs/log.md)."""
SCORES = """## Scores

Speedup over tuned AdamW on seeds that picked nothing, with 95% intervals over seeds:
"""
PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"
PROXY_SCORES = Path(__file__).parent / "results" / "proxy_scores.jsonl"


def table(scores: Sequence[ProxyScore]) -> str:
    """A row a rule and a column a task: the mean speedup, and its interval over seeds."""
    names = list(dict.fromkeys(score.task for score in scores))
    cells = {(score.rule, score.task): str(geometric_interval(score.speedups)) for score in scores}
    lines = [f"{'rule':10} " + " ".join(f"{name:>19}" for name in names)]
    for rule in dict.fromkeys(score.rule for score in scores):
        lines.append(f"{rule:10} " + " ".join(f"{cells[rule, name]:>19}" for name in names))
    return "\n".join(lines)


def proxies(arguments: argparse.Namespace) -> None:
    """Scores what is missing and prints the table."""
    chosen, rules = (given.split(",") for given in (arguments.tasks, arguments.rules))
    tell = partial(print, flush=True)
    print(
        table(score_rules([task(name) for name in chosen], PROXY_SCORES, rules, workers=arguments.workers, tell=tell))
    )


def agreement(arguments: argparse.Namespace) -> None:
    """Joins the scores of proxies and targets, and prints how they agree."""
    [ratio] = PRESET.compared
    on_targets = {name: target_scores(found, ratio) for name, found in measured().items()}
    if not on_targets:
        sys.exit("no target is measured yet: python benchmarks/targets.py")
    known: dict[str, dict[str, Sequence[float]]] = {}
    scores = [s for s in read_scores(PROXY_SCORES) if s.fingerprint == task(s.task).fingerprint()]
    for score in scores:
        known.setdefault(score.task, {})[score.rule] = score.speedups
    text = page(fidelity(known, on_targets), next(iter(on_targets)), table(scores))
    PAGE.write_text(text, "utf-8")
    print(text)


def page(found: Fidelity, first: str, scores: str) -> str:
    """The agreement with the first target, for which the suite was chosen, and the others as a document."""
    choosing, judging = found.rules
    rows = [f"| {name} | {found.each.get(name, 'not measured')} |" for name in dict.fromkeys([*found.each, *TASKS])]
    second = [f"On {name}, the rules that did not choose: {tau}." for name, tau in found.second.items()]
    return "\n".join([HEAD.format(first=first), *rows, "", JUDGED.format(
        suite=" + ".join(found.suite), choosing=choosing, chosen=found.chosen, judging=judging, judged=found.judged,
        first=first,
    ), *second, "", SCORES, "```", scores, "```", ""])  # fmt: skip


def target_scores(found: Validation, ratio: float) -> dict[str, list[float]]:
    """Rule -> minus its test loss on each seed; a run that failed has the loss at initialisation."""
    return {
        rule.lower(): [-r.test for _, r in sorted(contender.results[ratio].items()) if r.test is not None]
        for rule, contender in found.contenders.items()
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True, metavar="PART")
    part = parts.add_parser("proxies", help="scores of published rules on the proxies")
    part.add_argument("--tasks", default=",".join(TASKS), help="names, with commas between them [default: %(default)s]")
    part.add_argument("--rules", default=",".join(RULES), help="names, with commas between them [default: %(default)s]")
    part.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0: this one [default: 0]")
    part.set_defaults(run=proxies)
    part = parts.add_parser("agreement", help="Kendall's tau between proxies and targets")
    part.set_defaults(run=agreement)
    arguments = parser.parse_args()
    use_one_thread()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
