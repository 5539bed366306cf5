"""Writes docs/zoo.md, the table of the catalogue: python benchmarks/zoo_docs.py

What a rule needs of the language is read off its program; its test is the file that follows it against an oracle;
losses are those that benchmarks/zoo.py recorded.
"""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path

from zoo import ranking

from stepsmith.discovered import Entry, entries
from stepsmith.dsl import Kind, Program
from stepsmith.dsl.cost import SHAPE, state_floats
from stepsmith.dsl.flow import flow
from stepsmith.dsl.ops import OPS
from stepsmith.dsl.program import NOISE, PROGRESS, TWO_POINT, T
from stepsmith.proxies import Task
from stepsmith.proxies import task as task_of

HOME = Path(__file__).parent.parent
#: Of these the survey of published optimizers has 26 rows; APOLLO-Mini shares one with APOLLO, C-Lion with C-AdamW.
SURVEY = """AdamW adamw|AdaBelief adabelief|EXAdam exadam|Lion lion|REX rex|SPAM spam|Stable-SPAM stable_spam|
C-AdamW, C-Lion c_adamw c_lion|SGD-SaI sgd_sai|AdamP adamp|SCALE scale|SinkGD sinkgd|Adafactor adafactor|Muon muon|
SWAN swan|ROOT root|SOAP soap|GaLore galore|Fira fira|APOLLO, APOLLO-Mini apollo apollo_mini|Conda conda|
Sophia-G sophia|AdaHessian adahessian|MeZO mezo|8-bit Adam adam8bit|1-bit Adam onebit_adam"""
_NEEDS = {
    "comparisons": {"where", "less", "less_equal", "greater", "greater_equal"},
    "periods": {"every"},
    "first step": {"first"},
    "random projection": {"random_projection"},
    "quantile": {"quantile"},
    "products": {"matmul", "newton_schulz", "orthogonalize"},
    "bases": {"svd_basis", "eigh_basis", "qr_basis", "inverse_sqrt"},
    "workers": {"worker_mean"},
    "global norms": {"global_norm", "dot", "clip", "cosine_sim"},
}


def needs(program: Program) -> list[str]:
    """What the text of a rule's own part asks of the language beyond elementwise arithmetic."""
    live = flow(program)
    ops = {statement.op for statement in program.statements} & OPS.keys()
    asked = {need: bool(ops & rows_) for need, rows_ in _NEEDS.items()} | {
        "axes": any(OPS[op].axis for op in ops),
        "tensor reductions": any(OPS[op].result is Kind.SCALAR and not OPS[op].axis for op in ops),
        "t": live.reads(T),
        "progress": live.reads(PROGRESS),
        "noise": live.reads(NOISE),
        "loss values": live.reads(TWO_POINT),
        "Hessian diagonal": any(slot != TWO_POINT for slot, _ in program.periods),
        "codecs": any(state.codec for state in program.states),
        "roles": program.fallback is not None,
    }
    return sorted(need for need, is_so in asked.items() if is_so)


@cache
def tests() -> dict[str, str]:
    """The file of tests that follows each rule against its oracle; each such file says which in COVERED."""
    files = sorted((HOME / "tests").glob("test_zoo*.py"))
    return {name: f"tests/{file.name}" for file in files for name in runpy.run_path(str(file))["COVERED"]}


def survey() -> str:
    """The 26 rows, each with its files, needs and test."""
    programs = {e.name: e.program for e in entries()}
    lines = ["| row | file | needs | test |", "|---|---|---|---|"]
    for row in SURVEY.replace("\n", "").split("|"):
        title = " ".join(word for word in row.split() if word not in programs)
        names = [word for word in row.split() if word in programs]
        shown = ", ".join(dict.fromkeys(need for name in names for need in needs(programs[name]))) or "arithmetic"
        lines.append(
            f"| {title} | {', '.join(names)} | {shown} | {', '.join(sorted({tests()[name] for name in names}))} |"
        )
    return "\n".join(lines)


def measured(task: Task, share: float) -> str:
    """Every tuned rule by its loss."""
    catalogued: dict[str, Entry] = {e.name: e for e in entries()}
    lines = ["| rule | state | loss | drop | speedup over tuned AdamW |", "|---|---|---|---|---|"]
    for rule, loss, drop, speedup in ranking(task, share):
        state = state_floats(catalogued[rule].program, SHAPE)
        interval = f"{speedup.mean:.2f} ({speedup.low:.2f}-{speedup.high:.2f})"
        lines.append(f"| {rule} | {state:.3g} | {loss:.4f} | {drop:.0%} | {interval} |")
    return "\n".join(lines)


def text(task: Task, share: float) -> str:
    """The whole page."""
    steps = round(task.steps * share)
    return f"""# The zoo

Made by `python benchmarks/zoo_docs.py` from `discovered/zoo/*.opt` and `benchmarks/results/zoo.jsonl`.

## The survey

Every row of a survey of published optimizers, the file that says it, what it needs of the language beyond elementwise
arithmetic, and the test that follows it against an independent oracle in float64.

{survey()}

## Tuned on the byte model

`python benchmarks/zoo.py --share {share:g}`: {task.name}, {steps} steps. Each rule's learning rate was swept, then all
its hyperparameters and its fallback's tuned together; losses are means over 8 seeds that picked nothing. State: floats
per parameter of a matrix of {SHAPE[0]} x {SHAPE[1]}. Drop: from the loss at initialisation, as a share of the better of
SGD with momentum and with Nesterov momentum. Speedup: steps of tuned AdamW to the same loss over own steps (95% over
seeds).

{measured(task, share)}
"""


def main() -> None:
    """Writes the page."""
    path = HOME / "docs" / "zoo.md"
    path.write_text(text(task_of("bytes_b64"), 0.25), "utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
