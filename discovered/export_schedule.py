"""A schedule as one Python file: a function that makes a `LambdaLR`, and needs torch alone."""

from __future__ import annotations

from ..dsl import Program, ProgramError
from ..dsl.layout import indent, wrapped
from ..dsl.program import FIRST, PROGRESS, T
from ..dsl.torch_source import TAKEN as TORCH_TAKEN
from ..dsl.torch_source import TorchSource, helpers_of
from .arguments import free_names
from .header import LICENSE, header

#: Names that no hyperparameter may have: those of the text that it is put in.
_TAKEN = {*TORCH_TAKEN, "optimizer", "total_steps", "last_epoch", "step", "LambdaLR", "_multiplier"}


def export_schedule(program: Program, name: str) -> str:
    r"""The text of a file with a function `name(optimizer, total_steps, ...)` that makes a `LambdaLR`.

    The program's hyperparameters are arguments under their names. At step t, counted from 1, each group's peak
    learning rate is multiplied by the program's value at progress t / total_steps, at most 1.

    Raises ProgramError for a program that is no schedule.

    >>> text = export_schedule(Program.parse("def line(progress, floor=0.0):\n  return 1 - progress + floor"), "line")
    >>> print(text[text.index("def _m") :].partition("\n\n")[0])
    def _multiplier(t, progress, floor):
        progress = torch.as_tensor(progress, dtype=torch.float64)
        floor = torch.as_tensor(floor, dtype=torch.float64)
        t0 = 1.0 - progress
        t1 = t0 + floor
        return t1
    """
    if not program.schedule:
        raise ProgramError(
            f"{program.name} is an update rule, not a schedule; a schedule reads progress and no tensors"
        )
    hypers = free_names([program.name_of(program.first_hyper + i) for i in range(len(program.hypers))], _TAKEN)
    source = TorchSource(program, {FIRST + i: hyper for i, hyper in enumerate(hypers)})
    rule = _multiplier(source, hypers)
    helpers = [line for text in helpers_of(rule) for line in ("", "", *text.splitlines())]
    imports = ["import math", ""] if any("math." in line for line in rule) else []
    lines = ["from __future__ import annotations", "", *imports, "import torch"]
    lines += ["from torch.optim.lr_scheduler import LambdaLR", *helpers, "", "", *rule, "", ""]
    lines += _factory(program, name, hypers)
    return "\n".join([*_comment(program), "", *(part for line in lines for part in wrapped(line))]) + "\n"


def _comment(program: Program) -> list[str]:
    return [f"# {line}".rstrip() for line in (*header(program, "The program:"), "", LICENSE)]


def _multiplier(source: TorchSource, hypers: list[str]) -> list[str]:
    arguments = ["t", "progress", *hypers]
    numbers = [source.names[slot] for slot in (T, PROGRESS, *source.flow.hypers) if source.flow.reads(slot)]
    exact = [f"{x} = torch.as_tensor({x}, dtype=torch.float64)" for x in numbers]
    exact += ["dtype = torch.float64"] if any("(dtype)" in line for line in source.lines) else []
    body = [*exact, *source.lines, f"return {source.update}"]
    return [f"def _multiplier({', '.join(arguments)}):", *indent(body)]


def _factory(program: Program, name: str, hypers: list[str]) -> list[str]:
    defaults = [f"{hyper}={value!r}" for hyper, value in zip(hypers, program.hypers, strict=True)]
    given = ", ".join(["step + 1", "min((step + 1) / total_steps, 1.0)", *hypers])
    body = [
        '"""The schedule above.',
        "",
        "Args:",
        "    optimizer: Whose groups' learning rates are their peaks.",
        "    total_steps: Steps of the whole run; call step() of what comes back after each.",
        *(f"    {hyper}: As in the program." for hyper in hypers),
        "    last_epoch: Steps taken before, less one.",
        '"""',
        "if not total_steps >= 1:",
        '    raise ValueError(f"total_steps must be at least 1, not {total_steps}")',
        f"return LambdaLR(optimizer, lambda step: float(_multiplier({given})), last_epoch)",
    ]
    return [f"def {name}({', '.join(['optimizer', 'total_steps', *defaults, 'last_epoch=-1'])}):", *indent(body)]
