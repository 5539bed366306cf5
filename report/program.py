"""A program described: text, and for each of its parts cost, states, constants, symmetries, dataflow."""

from __future__ import annotations

from collections.abc import Iterator

from ..discovered import identify
from ..dsl import Program, ProgramError
from ..dsl.cost import SHAPE, step_cost
from ..dsl.flow import Flow, flow, needs_matrices, reject_reason
from ..dsl.keys import behaviour, key, structural_key
from ..dsl.program import FIRST, RESERVED, Const, G, W
from ..dsl.program import Arg as _Arg
from ..dsl.schedules import multipliers
from ..dsl.symmetry import symmetries
from ..dsl.transforms import split

_PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)


def describe(program: Program) -> str:
    r"""Several lines for `stepsmith inspect`.

    >>> print(describe(Program.parse("def half(progress):\n  return 1 - progress / 2")), end="")
    def half(progress):
        return 1.0 - progress / 2.0
    <BLANKLINE>
    multiplier  1 at 0, 0.875 at 0.25, 0.75 at 0.5, 0.625 at 0.75, 0.5 at 1
    constants   literal = 2.0, literal = 1.0
    key         ...
    dataflow
      %0: global = divide(progress, 2.0)
      %1: global = subtract(1.0, %0)
      multiplier = %1
    """
    lines = [str(program).rstrip(), ""]
    if not program.schedule:
        lines.append(f"known as    {identify(program)}")
    if program.schedule:
        lines += _schedule(program)
    elif program.fallback is None:
        lines += _part(program)
    else:
        lines.append(f"key         {key(program)}")
        for part in program.parts():
            lines += ["", _heading(part), *_part(part)]
    return "\n".join(lines) + "\n"


def _heading(part: Program) -> str:
    return f"{part.name}, for {', '.join(part.roles) if part.roles else 'the rest'}"


def _schedule(program: Program) -> Iterator[str]:
    try:
        values = zip(_PROGRESS, multipliers(program, _PROGRESS), strict=True)
        yield "multiplier  " + ", ".join(f"{value:.4g} at {at:g}" for at, value in values)
    except ProgramError as error:
        yield f"multiplier  not shown: {error}"
    yield "constants   " + (
        ", ".join(f"{n or 'literal'} = {v!r}" for n, v in program.constants() if n != "lr") or "none"
    )
    yield f"key         {structural_key(program)}"
    yield from ("dataflow", *(f"  {line}" for line in dataflow(program)))


def _part(program: Program) -> Iterator[str]:
    """A program without its route."""
    live, seen = flow(program), behaviour(program)
    dead = len(program.statements) - len(live.nodes)
    problem = reject_reason(live) or ("" if seen.finite else "its updates are not finite on the probe")
    if problem:
        yield f"not an optimizer: {problem}"
    yield from _costs(program, live)
    yield f"statements  {len(program.statements)} written, {len(live.nodes)} live" + (
        f" ({dead} dead or repeated)" if dead > 0 else ""
    )
    yield f"decay       {split(program)}"
    last = live.node(live.update)
    if last is not None and last.op in ("add", "subtract") and W in last.args:
        yield "note        the update holds w itself: a program returns what is subtracted from w, not the new weights"
    yield "states      " + (", ".join(_states(program, live)) or "none")
    yield "constants   " + ", ".join(f"{n or 'literal'} = {v!r}" for n, v in program.constants())
    yield f"update      RMS {seen.rms:.3g} on the probe" if seen.finite else "update      not finite on the probe"
    yield f"key         {key(program)}"
    yield "symmetries"
    yield from (f"  {name:<24}{verdict}" for name, verdict in symmetries(program).items())
    yield from ("dataflow", *(f"  {line}" for line in dataflow(program)))


def _costs(program: Program, live: Flow) -> Iterator[str]:
    costs = step_cost(program)
    shaped = needs_matrices(program, live) or any(program.states[i].codec for i, _ in live.states)
    yield (
        f"cost        {costs.state_floats:.4g} state floats in {costs.state_bytes:.4g} bytes,"
        f" {costs.operations:.4g} operations, {costs.bytes:.4g} bytes moved a parameter"
        + (f" of a tensor of shape {SHAPE}" if shaped else "")
    )
    yield f"passes      {costs.passes} over memory in a fused step"
    if program.periods or costs.oracle_passes:
        asked = [f"{RESERVED[slot]} every {period}" for slot, period in program.periods]
        asked += [] if live.reads(G) else ["no backward for g"]
        yield f"oracles     {costs.oracle_passes:+.3g} forward-backward passes a step: {', '.join(asked)}"


def _states(program: Program, live: Flow) -> list[str]:
    kept = {index for index, _ in live.states}
    return [
        f"{program.name_of(FIRST + i)}: {state.kind}"
        + (f" in {state.codec.words}" if state.codec else "")
        + ("" if i in kept else " (dead)")
        for i, state in enumerate(program.states)
    ]


def dataflow(program: Program) -> list[str]:
    """Live code in single-assignment form, one value a line."""
    live = flow(program)

    def name(arg: _Arg) -> str:
        if isinstance(arg, Const):
            return repr(arg.value)
        if arg < FIRST:
            return RESERVED[arg]
        if arg < live.first_node:
            return live.labels.get(arg, f"s{arg - FIRST}")
        return f"%{arg - live.first_node}"

    lines = []
    for number, node in enumerate(live.nodes):
        label = live.labels.get(number + live.first_node, "")
        note = f"   # {label}" if label else ""
        lines.append(f"%{number}: {node.kind} = {node.op}({', '.join(name(a) for a in node.args)}){note}")
    lines.append(f"multiplier = {name(live.update)}" if program.schedule else f"w <- w - {name(live.update)}")
    lines += [f"{name(FIRST + index)} <- {name(end)}" for index, end in live.states]
    return lines
