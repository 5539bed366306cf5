"""Program to lines of torch source, which the live function and every exported file share.

A tensor value is a list with one tensor per parameter, a scalar value a list of 0-d tensors, a global value
a 0-d tensor or a Python number. Ops with a `torch._foreach_*` form use it; the others loop over the list.
"""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources

from .flow import Flow, Node, flow
from .kind import Kind
from .kinds import axis_of
from .ops import OPS
from .program import FIRST, RESERVED, Arg, Const, G, Program, W

_INPUTS = {slot: name for slot, name in enumerate(RESERVED)} | {W: "params", G: "grads"}
_ELEMENT = {W: "w", G: "g"}
_HEAVY = 50  # cost of a row from which it is worth asking whether its result is read at this step
#: Spelled with operators, which take Python numbers beside tensors; torch's functions take tensors alone.
_TAKES_NUMBERS = {"add", "subtract", "multiply", "interp", "less", "less_equal", "greater", "greater_equal"}


@cache
def _helpers() -> dict[str, str]:
    """The text of each function that torch spellings call, by name."""
    text = resources.files(__package__).joinpath("torch_helpers.py").read_text("utf-8")
    functions = (x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef))
    return {f.name: ast.get_source_segment(text, f) or "" for f in functions}


def helpers_of(lines: Sequence[str]) -> list[str]:
    """The texts of the functions that these lines call, and of those that these call, for a file of its own."""
    wanted: list[str] = []
    todo = list(lines)
    while todo:
        line = todo.pop()
        called = [name for name in _helpers() if f"{name}(" in line and name not in wanted]
        wanted += called
        todo += [_helpers()[name] for name in called]
    return [text for name, text in _helpers().items() if name in wanted]


_TAKEN = {*_INPUTS.values(), *_ELEMENT.values(), "torch", "math", "dtype", "self", "len", "sum", "zip", "x", "y", "z",
          "i", "draw", "workers", "inputs", "states", *_helpers(), *dir(builtins)}  # fmt: skip


def choose_names(live: Flow, given: Mapping[int, str], taken: Collection[str]) -> dict[int, str]:
    """A name for each state, hyperparameter and node: as given, else the program's, else a new one."""
    names: dict[int, str] = {}
    used = {*taken, *given.values()}
    for value in range(FIRST, live.first_node + len(live.nodes)):
        if value in given:
            names[value] = given[value]
            continue
        wanted = live.labels.get(value) or f"t{value - live.first_node}"
        name, number = wanted, 1
        while name in used or keyword.iskeyword(name):
            number += 1
            name = f"{wanted}{number}"
        used.add(name)
        names[value] = name
    return names


class TorchSource:
    """The body of a step as source lines.

    `lines` compute, `update` names the update (a list of tensors), `new_states` the new value of each live
    state by its index in the program.
    """

    def __init__(self, program: Program, hypers: dict[int, str] | None = None) -> None:
        self.program = program
        self.flow: Flow = flow(program, expand=True)
        self.names = _INPUTS | choose_names(self.flow, hypers or {}, _TAKEN)
        self.lines: list[str] = []
        early = _early(self.flow)
        guards = _guards(self.flow, early)
        numbers = range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))
        for number in sorted(numbers, key=lambda n: n not in early):
            node = self.flow.nodes[number - self.flow.first_node]
            line = f"{self.names[number]} = {self.spell(node)}"
            guard = guards.get(number, ())
            if guard:
                wanted = " and ".join(("" if side else "not ") + self._text(cond) for cond, side in guard)
                line += f" if {wanted} else None"
            self.lines.append(line)
        self.update = self._text(self.flow.update)
        self.new_states = {index: self._as_kind(end, self.flow.kinds[FIRST + index]) for index, end in self.flow.states}

    def _text(self, arg: Arg, tensor: bool = False) -> str:
        if isinstance(arg, Const):
            shown = repr(arg.value)
            if tensor:
                return f"torch.tensor({shown}, dtype=torch.float64)"
            return f"({shown})" if arg.value < 0 else shown
        return self.names[arg]

    def _as_kind(self, arg: Arg, kind: Kind) -> str:
        """The value, written out as the kind of the state that takes it."""
        given, text = self.flow.kind(arg), self._text(arg, tensor=True)
        if arg in (W, G) or (self.flow.node(arg) and self._passes_on(arg)):  # the caller may write into these
            text = f"[x.clone() for x in {text}]"
        if given is kind:
            return text
        if given is Kind.GLOBAL:
            text = f"[{text}] * len(params)"
        if kind is Kind.SCALAR:
            return text
        if kind is not Kind.TENSOR:
            return f"[_filled(x, w, {kind.rows!r}, {kind.columns!r}) for w, x in zip(params, {text})]"
        return f"[torch.zeros_like(w) + x for w, x in zip(params, {text})]"

    def _passes_on(self, arg: Arg) -> bool:
        """Whether a value may be the very memory of an input or a state: a choice, a view, or a mean of one."""
        node = self.flow.node(arg)
        if node is None:
            return isinstance(arg, int) and arg not in self.flow.hypers and self.flow.kind(arg) is not Kind.GLOBAL
        if node.op == "where" and self.flow.kind(node.args[0]) is Kind.GLOBAL:
            return any(self._passes_on(a) for a in node.args[1:])
        return node.op in ("worker_mean", "wide", "unwide", "transpose") and self._passes_on(node.args[0])

    def spell(self, node: Node) -> str:
        """The expression that makes a value."""
        row = OPS[node.op]
        kinds = [self.flow.kind(a) for a in node.args]
        if not row.elementwise:
            if row.result is Kind.GLOBAL:
                return row.torch.format(*(self._text(a) for a in node.args))
            if node.op == "worker_mean":
                return f"_workers({self._text(node.args[0])}, workers)"
            return self._each(node, kinds)
        if node.op == "where" and kinds[0] is Kind.GLOBAL and kinds[1] is kinds[2] is node.kind is not Kind.GLOBAL:
            cond, x, y = (self._text(a) for a in node.args)
            return f"{x} if {cond} != 0 else {y}"
        if node.kind is Kind.GLOBAL:
            return _spelling(node).format(*(self._atom(node, a) for a in node.args))
        if node.kind is Kind.TENSOR and (short := self._foreach(node, kinds)):
            return short
        return self._loop(node, kinds)

    def _atom(self, node: Node, arg: Arg) -> str:
        numbers = node.op in _TAKES_NUMBERS or _plain_division(node)
        return self._text(arg, tensor=not numbers or all(isinstance(a, Const) for a in node.args))

    def _foreach(self, node: Node, kinds: Sequence[Kind]) -> str | None:
        """The multi-tensor form, where torch has one for these kinds."""
        row, args = OPS[node.op], [self._text(a) for a in node.args]
        if node.op == "interp" and kinds == [Kind.TENSOR, Kind.TENSOR, Kind.GLOBAL]:
            x, y, a = args
            return f"torch._foreach_add(torch._foreach_mul({x}, 1 - {a}), torch._foreach_mul({y}, {a}))"
        if node.op == "square":
            return f"torch._foreach_mul({args[0]}, {args[0]})"
        foreach = "div" if _plain_division(node) else row.foreach
        if not foreach:
            return None
        call = f"torch._foreach_{foreach}"
        if all(k is Kind.TENSOR for k in kinds):
            return f"{call}({', '.join(args)})"
        if row.arity == 2 and Kind.SCALAR not in kinds:
            numbers = [isinstance(a, Const) for a in node.args]
            if kinds[1] is Kind.GLOBAL and (numbers[1] or node.op == "multiply"):
                return f"{call}({args[0]}, {args[1]})"
            if kinds[0] is Kind.GLOBAL and node.op in ("multiply", "add") and (numbers[0] or node.op == "multiply"):
                return f"{call}({args[1]}, {args[0]})"
        return None

    def _each(self, node: Node, kinds: Sequence[Kind]) -> str:
        """A reduction or a matrix row, tensor by tensor."""
        row = OPS[node.op]
        axis = axis_of(row, kinds[0]) if row.axis else None
        more = {"axis": axis, "like": "w", "draw": "lambda shape, step, i=i: draw(i, shape, step)"}
        lists = [self._text(a) for a, kind in zip(node.args, kinds, strict=True) if kind is not Kind.GLOBAL]
        letters = iter("xyz")
        elements = [next(letters) if kind is not Kind.GLOBAL else self._text(a)
                    for a, kind in zip(node.args, kinds, strict=True)]  # fmt: skip
        text = row.torch.format(*elements, **more)
        if node.kind is Kind.SCALAR and row.shape:
            text = f"({text}).reshape(())"
        over, variables = lists, "xyz"[: len(lists)]
        if row.like:
            over, variables = [*over, "params"], variables + "w"
        source = over[0] if len(over) == 1 else f"zip({', '.join(over)})"
        if row.draws:
            return f"[{text} for i, x in enumerate({source})]"
        return f"[{text} for {', '.join(variables)} in {source}]"

    def _loop(self, node: Node, kinds: Sequence[Kind]) -> str:
        """A list comprehension over the tensors."""
        elements: list[str] = []
        lists: list[str] = []
        for arg, kind in zip(node.args, kinds, strict=True):
            if kind is Kind.GLOBAL:
                elements.append(self._atom(node, arg))
                continue
            text = self._text(arg)
            element = "xyz"[lists.index(text)] if text in lists else "xyz"[len(lists)]
            if text not in lists:
                lists.append(text)
            elements.append(element)
        over = lists[0] if len(lists) == 1 else f"zip({', '.join(lists)})"
        variables = ", ".join("xyz"[: len(lists)])
        return f"[{_spelling(node).format(*elements)} for {variables} in {over}]"


def _early(live: Flow) -> set[Arg]:
    """Single numbers that depend on no tensor."""
    early: set[Arg] = set()
    for number, node in enumerate(live.nodes, live.first_node):
        inputs = [a for a in node.args if isinstance(a, int)]
        known = all(a in early or (a < live.first_node and live.kind(a) is Kind.GLOBAL) for a in inputs)
        if known and node.kind is Kind.GLOBAL:
            early.add(number)
    return early


def _guards(live: Flow, early: set[Arg]) -> dict[int, tuple[tuple[Arg, bool], ...]]:
    """Value -> the conditions under which it is read, where it is costly to make or made from such.

    A choice by one number, as `every` makes, reads one of its branches alone.
    """
    if not any(OPS[n.op].needs_matrix and OPS[n.op].cost >= _HEAVY for n in live.nodes):
        return {}
    uses: dict[Arg, list[tuple[tuple[Arg, bool], ...]]] = {}
    for end in (live.update, *(e for _, e in live.states)):
        uses.setdefault(end, []).append(())
    guards: dict[int, tuple[tuple[Arg, bool], ...]] = {}
    for number in reversed(range(live.first_node, live.first_node + len(live.nodes))):
        node = live.nodes[number - live.first_node]
        own = _common(uses.get(number, [()])) if node.kind is not Kind.GLOBAL else ()
        if own:
            guards[number] = own
        chooses = node.op == "where" and node.args[0] in early
        same = chooses and live.kind(node.args[1]) is live.kind(node.args[2]) is node.kind
        for position, arg in enumerate(node.args):
            branch = ((node.args[0], position == 1),) if same and position else ()
            uses.setdefault(arg, []).append((*own, *branch))
    return guards


def _common(guards: Sequence[tuple[tuple[Arg, bool], ...]]) -> tuple[tuple[Arg, bool], ...]:
    """The conditions with which all begin."""
    shared = []
    for each in zip(*guards, strict=False):
        if any(one != each[0] for one in each):
            break
        shared.append(each[0])
    return tuple(shared)


def _plain_division(node: Node) -> bool:
    """Whether the divisor is a number other than 0, so that torch's own division means the same."""
    return node.op == "divide" and isinstance(node.args[1], Const) and node.args[1].value != 0


def _spelling(node: Node) -> str:
    return "{0} / {1}" if _plain_division(node) else OPS[node.op].torch
