"""Do the proxies say what larger tasks say? python benchmarks/fidelity.py proxies [--tasks A,B] [--workers N]

proxies: published rules and their speedups over tuned AdamW on seeds that picked nothing. On a proxy all rules are
tuned in one way with as many runs. Each finished rule and task appends a line to
benchmarks/results/proxy_scores.jsonl; the same command goes on from there and prints the table. All of it takes about
an hour of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stepsmith.evaluator.statistics import geometric_interval
from stepsmith.evaluator.train import use_one_thread
from stepsmith.evaluator.validation.proxy_scores import RULES, TASKS, ProxyScore, score_rules
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


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True, metavar="PART")
    part = parts.add_parser("proxies", help="scores of published rules on the proxies")
    part.add_argument("--tasks", default=",".join(TASKS), help="names, with commas between them [default: %(default)s]")
    part.add_argument("--rules", default=",".join(RULES), help="names, with commas between them [default: %(default)s]")
    part.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0: this one [default: 0]")
    part.set_defaults(run=proxies)
    arguments = parser.parse_args()
    use_one_thread()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
