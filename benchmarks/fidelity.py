"""Do the proxies say what targets say? python benchmarks/fidelity.py proxies|agreement

proxies: published rules and their speedups over tuned AdamW on seeds that picked nothing. On a proxy all rules are
tuned in one way with as many runs. Each finished rule and task appends a line to
benchmarks/results/proxy_scores.jsonl; the same command goes on from there and prints the table. All of it takes about
an hour of one core.

agreement: Kendall's tau between each proxy's scores and the targets' that benchmarks/targets.py has measured, the suite
that agrees best on half of the rules and seeds, and its tau on the others and on the second target.
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
from stepsmith.evaluator.validation.fidelity import fidelity
from stepsmith.evaluator.validation.proxy_scores import RULES, TASKS, ProxyScore, read_scores, score_rules
from stepsmith.evaluator.validation.validate import Validation
from stepsmith.proxies import task

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
    for score in read_scores(PROXY_SCORES):
        if score.fingerprint == task(score.task).fingerprint():
            known.setdefault(score.task, {})[score.rule] = score.speedups
    found = fidelity(known, on_targets)
    for name, tau in found.each.items():
        print(f"{name:14} tau {tau} with {next(iter(on_targets))}")
    print(f"suite {' + '.join(found.suite)}, chosen on {found.rules[0]} rules: tau {found.chosen}")
    print(f"on the other {found.rules[1]} rules and seeds: tau {found.judged}")
    for name, tau in found.second.items():
        print(f"on {name}, the other rules: tau {tau}")


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
