"""Program to torch: one list of source lines that the live function and every exported file share.

A tensor value is a list with one tensor per parameter, a scalar value a list of 0-d tensors, a global value
a 0-d tensor or a Python number. Ops with a `torch._foreach_*` form use it; the others loop over the list.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .flow import Flow, Node, flow
from .ops import OPS, Kind
from .program import FIRST, LR, PROGRESS, Arg, Const, G, Program, T, W

if TYPE_CHECKING:
    from torch import Tensor

HELPERS = '''def _divide(x, y):
    """x / y, and 0 where y is 0."""
    return torch.where(y == 0, 0.0, x / torch.where(y == 0, 1.0, y))
'''

_INPUTS = {W: "params", G: "grads", LR: "lr", T: "t", PROGRESS: "progress"}
_ELEMENT = {W: "w", G: "g"}
_TAKEN = {*_INPUTS.values(), *_ELEMENT.values(), "torch", "math", "dtype", "self", "len", "sum", "zip", "x", "y", "z",
          "_divide"}  # fmt: skip
#: Spelled with operators, which take Python numbers beside tensors; torch's functions take tensors alone.
_TAKES_NUMBERS = {"add", "subtract", "multiply", "interp", "less", "less_equal", "greater", "greater_equal"}


class TorchSource:
    """The body of a step as source lines.

    `lines` compute, `update` names the update (a list of tensors), `new_states` the new value of each live
    state by its index in the program, `uses_divide` whether HELPERS is needed.
    """

    def __init__(self, program: Program, hypers: dict[int, str] | None = None) -> None:
        self.program = program
        self.flow: Flow = flow(program, expand=True)
        self.names = self._choose_names(hypers or {})
        self.lines: list[str] = []
        for number, node in enumerate(self.flow.nodes, self.flow.first_node):
            self.lines.append(f"{self.names[number]} = {self._spell(node)}")
        self.update = self._text(self.flow.update)
        self.new_states = {index: self._as_kind(end, self.flow.kinds[FIRST + index]) for index, end in self.flow.states}
        self.uses_divide = any("_divide(" in line for line in self.lines)

    def _choose_names(self, hypers: dict[int, str]) -> dict[int, str]:
        names = dict(_INPUTS)
        taken = _TAKEN | set(hypers.values())
        values = range(FIRST, self.flow.first_node + len(self.flow.nodes))
        for value in values:
            if value in hypers:
                names[value] = hypers[value]
                continue
            wanted = self.flow.labels.get(value) or f"t{value - self.flow.first_node}"
            name, number = wanted, 1
            while name in taken or keyword.iskeyword(name):
                number += 1
                name = f"{wanted}{number}"
            taken.add(name)
            names[value] = name
        return names

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
        if arg in (W, G):  # the caller may write into these
            return f"[x.clone() for x in {text}]"
        if given is kind:
            return text
        if given is Kind.GLOBAL:
            text = f"[{text}] * len(params)"
        if kind is Kind.SCALAR:
            return text
        return f"[torch.zeros_like(w) + x for w, x in zip(params, {text})]"

    def _spell(self, node: Node) -> str:
        row = OPS[node.op]
        kinds = [self.flow.kind(a) for a in node.args]
        if not row.elementwise:
            if row.result is Kind.GLOBAL:
                return row.torch.format(*(self._text(a) for a in node.args))
            return f"[{row.torch.format('x')} for x in {self._text(node.args[0])}]"
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


def _cast(tensors: str) -> str:
    """The tensors in the parameters' type, which a 0-d one loses to a number of more precision."""
    return f"[x.to(dtype) for x in {tensors}]"


def compile_step(program: Program) -> Callable[..., tuple[list[Tensor], list[Any]]]:
    """The program as a function of torch tensors.

    Called with (params, grads, states, lr, t, progress): lists of tensors, one entry of `states` per state in
    header order (a list of tensors, a list of 0-d tensors, or a 0-d tensor, by kind), and three numbers.
    Returns the update and the new states. Nothing is written in place.
    """
    import torch

    source = TorchSource(program)
    states = [source.names[FIRST + i] for i in range(len(program.states))]
    lines = ["dtype = params[0].dtype", f"[{', '.join(states)}] = states" if states else ""]
    number = "torch.tensor({}, dtype=torch.float64)"
    lines += [f"{name} = {number.format(name)}" for name in ("lr", "t", "progress")]
    lines += [f"{source.names[v]} = {number.format(repr(x))}" for v, x in source.flow.hypers.items()]
    lines += source.lines
    ends = [source.new_states.get(i, name) for i, name in enumerate(states)]
    tensors = [state.kind is Kind.TENSOR for state in program.states]
    ends = [_cast(end) if tensor else end for end, tensor in zip(ends, tensors, strict=True)]
    lines.append(f"return {_cast(source.update)}, [{', '.join(ends)}]")
    body = "".join(f"    {line}\n" for line in lines if line)
    text = f"{HELPERS}\ndef step(params, grads, states, lr, t, progress):\n{body}"
    scope: dict[str, Any] = {"torch": torch, "math": math}
    exec(compile(text, f"<{program.name}>", "exec"), scope)  # our own text, made from the op table
    return scope["step"]


def zero_states(program: Program, params: Sequence[Tensor]) -> list[Any]:
    """The states before the first step, in the form that `compile_step` takes."""
    import torch

    def zero(kind: Kind) -> Any:
        if kind is Kind.TENSOR:
            return [torch.zeros_like(p) for p in params]
        one = params[0].new_zeros(()) if params else torch.zeros(())
        return [one.clone() for _ in params] if kind is Kind.SCALAR else one

    return [zero(state.kind) for state in program.states]
