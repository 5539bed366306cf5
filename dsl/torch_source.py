"""Program to lines of torch source, which the live function and every exported file share.

A tensor value is a list with one tensor per parameter, a scalar value a list of 0-d tensors, a global value
a 0-d tensor or a Python number. Ops with a `torch._foreach_*` form use it; the others loop over the list.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from .flow import Flow, Node, flow
from .kind import Kind
from .kinds import axis_of
from .ops import OPS
from .program import FIRST, RESERVED, Arg, Const, G, Program, W
from .source import called_helpers, choose_names, early_numbers, guards_of, helpers

_INPUTS = {slot: name for slot, name in enumerate(RESERVED)} | {W: "params", G: "grads"}
_ELEMENT = {W: "w", G: "g"}
_HELPERS = "torch_helpers.py"
#: Spelled with operators, which take Python numbers beside tensors; torch's functions take tensors alone.
_TAKES_NUMBERS = {"add", "subtract", "multiply", "interp", "less", "less_equal", "greater", "greater_equal"}


def helpers_of(lines: Sequence[str]) -> list[str]:
    """The texts of the helpers that these lines call, for a file of its own."""
    return called_helpers(_HELPERS, lines)


TAKEN = {*_INPUTS.values(), *_ELEMENT.values(), "torch", "math", "dtype", "self", "len", "sum", "zip", "x", "y", "z",
          "i", "draw", "inputs", "states", *helpers(_HELPERS), *dir(builtins)}  # fmt: skip


class TorchSource:
    """The body of a step as source lines.

    `lines` compute, `update` names the update (a list of tensors), `new_states` the new value of each live
    state by its index in the program. `asks` is whether a line chooses by a number that changes from step to step.
    """

    def __init__(self, program: Program, hypers: dict[int, str] | None = None) -> None:
        self.program = program
        self.flow: Flow = flow(program, expand=True)
        self.names = choose_names(self.flow, _INPUTS, hypers or {}, TAKEN)
        self.lines: list[str] = []
        early = early_numbers(self.flow)
        guards = guards_of(self.flow, early)
        numbers = range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))
        fixed = self._fixed()
        self.asks = any(not self._is_fixed(cond, fixed) for guard in guards.values() for cond, _ in guard)
        for number in sorted(numbers, key=lambda n: n not in early):
            node = self.flow.nodes[number - self.flow.first_node]
            self.asks |= self._chooses(node) and not self._is_fixed(node.args[0], fixed)
            line = f"{self.names[number]} = {self.spell(node)}"
            guard = guards.get(number, ())
            if guard:
                wanted = " and ".join(("" if side else "not ") + self._text(cond) for cond, side in guard)
                line += f" if {wanted} else None"
            self.lines.append(line)
        self.update = self._apart(self.flow.update, self._text(self.flow.update))
        self.new_states = {index: self._as_kind(end, self.flow.kinds[FIRST + index]) for index, end in self.flow.states}

    def _fixed(self) -> set[int]:
        """Values that are the same at every step: hyperparameters, and what is made of these and constants alone."""
        found = {*self.flow.hypers}
        for number, node in enumerate(self.flow.nodes, self.flow.first_node):
            if all(self._is_fixed(arg, found) for arg in node.args):
                found.add(number)
        return found

    @staticmethod
    def _is_fixed(arg: Arg, fixed: set[int]) -> bool:
        return isinstance(arg, Const) or arg in fixed

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
        if arg in (W, G) or self.flow.node(arg):
            text = self._apart(arg, text)
        if given is kind:
            return text
        if given is Kind.GLOBAL:
            text = f"[{text}] * len(params)"
        if kind is Kind.SCALAR:
            return text
        if kind is not Kind.TENSOR:
            return f"[_filled(x, w, {kind.rows!r}, {kind.columns!r}) for w, x in zip(params, {text})]"
        return f"[torch.zeros_like(w) + x for w, x in zip(params, {text})]"

    def _apart(self, arg: Arg, text: str) -> str:
        """A copy of what may be an input or a state: the caller writes into these before it reads all that is new."""
        return f"[x.clone() for x in {text}]" if self._passes_on(arg) else text

    def _passes_on(self, arg: Arg) -> bool:
        """Whether a value may be the very memory of an input or a state: a choice, a view, or a mean of one."""
        node = self.flow.node(arg)
        if node is None:
            return isinstance(arg, int) and arg not in self.flow.hypers and self.flow.kind(arg) is not Kind.GLOBAL
        if self._chooses(node):
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
                return f"_worker_mean({self._text(node.args[0])})"
            return self._each(node, kinds)
        if self._chooses(node):
            cond, x, y = (self._text(a) for a in node.args)
            return f"{x} if {cond} != 0 else {y}"
        if node.kind is Kind.GLOBAL:
            return _spelling(node).format(*(self._atom(node, a) for a in node.args))
        if node.kind is Kind.TENSOR and (short := self._foreach(node, kinds)):
            return short
        return self._loop(node, kinds)

    def _chooses(self, node: Node) -> bool:
        """Whether it is one of two lists, by a number."""
        if node.op != "where":
            return False
        kinds = [self.flow.kind(a) for a in node.args]
        return kinds[0] is Kind.GLOBAL and kinds[1] is kinds[2] is node.kind is not Kind.GLOBAL

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
                call = {"max": "torch._foreach_clamp_min", "min": "torch._foreach_clamp_max"}.get(node.op, call)
                return f"{call}({args[0]}, {args[1]})"  # a clamp is the same function, and shards have it too
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
        if row.stacks:
            return f"_stacked(lambda {', '.join(variables)}: {text}, {', '.join(lists)})"
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


def _plain_division(node: Node) -> bool:
    """Whether the divisor is a number other than 0, so that torch's own division means the same."""
    return node.op == "divide" and isinstance(node.args[1], Const) and node.args[1].value != 0


def _spelling(node: Node) -> str:
    return "{0} / {1}" if _plain_division(node) else OPS[node.op].torch
