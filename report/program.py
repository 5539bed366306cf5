"""A program described: text, dataflow, cost, states, constants."""

from __future__ import annotations

from ..dsl import Program
from ..dsl.cost import cost
from ..dsl.flow import Flow, flow, reject_reason
from ..dsl.keys import behaviour, key
from ..dsl.program import FIRST, RESERVED, Const
from ..dsl.program import Arg as _Arg


def describe(program: Program) -> str:
    """Several lines for `stepsmith inspect`."""
    live, costs, seen = flow(program), cost(program), behaviour(program)
    dead = len(program.statements) - len(live.nodes)
    lines = [str(program).rstrip(), ""]
    problem = reject_reason(live)
    if problem:
        lines.append(f"not an optimizer: {problem}")
    lines += [
        f"cost        {costs.state} state floats, {costs.operations:g} operations, {costs.bytes} bytes moved"
        " a parameter",
        f"statements  {len(program.statements)} written, {costs.statements} live"
        + (f" ({dead} dead or repeated)" if dead > 0 else ""),
        "states      " + (", ".join(_states(program, live)) or "none"),
        "constants   " + ", ".join(f"{n or 'literal'} = {v!r}" for n, v in program.constants()),
        f"update      RMS {seen.rms:.3g} on the probe" if seen.finite else "update      not finite on the probe",
        f"key         {key(program, seen)}",
        "dataflow",
        *(f"  {line}" for line in dataflow(program)),
    ]
    return "\n".join(lines) + "\n"


def _states(program: Program, live: Flow) -> list[str]:
    kept = {index for index, _ in live.states}
    return [
        f"{program.name_of(FIRST + i)}: {state.kind}" + ("" if i in kept else " (dead)")
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
    lines.append(f"w <- w - {name(live.update)}")
    lines += [f"{name(FIRST + index)} <- {name(end)}" for index, end in live.states]
    return lines
