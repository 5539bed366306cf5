"""A program as one readable Python file: a `torch.optim.Optimizer` that needs torch and nothing of Stepsmith.

The lines that compute are those of `dsl.torch_source`, which the live function runs too. `torch_class` executes
exactly the exported text, so that the class one trains with today is the file one keeps.

Choices:
- Parameters step together, as one list of tensors, when they stand in one group on one device at one
  precision and, where the rule reads `t`, have been stepped equally often. A reduction over all parameters
  (`dot`, `global_norm`, `clip`) is over such a list.
- `t` is counted per parameter, as torch's own optimizers do; steps without a gradient do not count.
- bfloat16 and float16 parameters are computed with in float32; their states have their own dtype.
- Complex parameters are pairs of real numbers.
"""

from __future__ import annotations

import builtins
import hashlib
import keyword
import linecache
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from ..dsl import Const, Kind, Program, ProgramError
from ..dsl.flow import Flow, flow
from ..dsl.layout import indent, wrapped
from ..dsl.ops import OPS
from ..dsl.program import FIRST, LR, NOISE, ORACLES, PROGRESS, Arg, T
from ..dsl.torch_source import TorchSource, helpers_of
from .arguments import BETA, Named, name_constants, rates

if TYPE_CHECKING:
    import torch

_NEST = 96  # a line that nests another stays within this
_FAMILY = {
    "sgd": "SGD", "adamw": "AdamW", "nadamw": "NAdamW", "rmsprop": "RMSprop", "adabelief": "AdaBelief",
    "signsgd": "SignSGD", "powersign": "PowerSign", "addsign": "AddSign",
}  # fmt: skip
#: Names that mean something else in the constructor, in a parameter group or in the exported text.
_TAKEN = {
    "self", "params", "grads", "lr", "betas", "maximize", "total_steps", "param_names", "initial_lr", "t",
    "progress", "torch", "math", "dtype", "x", "y", "z", "w", "g", "_divide", "_quantile", "_update", "_real",
    "_precision", *dir(builtins),
}  # fmt: skip


def export_torch(program: Program, class_name: str | None = None) -> str:
    r"""The text of a Python file with a `torch.optim.Optimizer` subclass that imports torch alone.

    Header hyperparameters are constructor arguments under their names, `beta1, beta2, ...` as `betas`;
    literals that play a known part become arguments too (see `arguments.name_constants`), the rest stay in
    the text. The constructor takes `maximize`, and `total_steps` where the program reads `progress`.

    Raises ValueError for a `class_name` that is no Python name, and ProgramError for a program that needs what an
    optimizer class of one file does not have yet: routes, codecs, oracles, noise.

    >>> text = export_torch(Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g"))
    >>> print(text[text.index("def _update") : text.index("class")].strip())
    def _update(params, grads, lr):
        ...
        return torch._foreach_mul(grads, lr)
    """
    if reason := beyond_export(program):
        raise ProgramError(f"{program.name} cannot be exported yet: it {reason}")
    name = camel_case(program.name) if class_name is None else class_name
    if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        raise ValueError(f"a class cannot be called {name!r}; give a Python name such as 'Lion'")
    return _Writer(program, name_constants(program), name).text()


def torch_class(program: Program, class_name: str | None = None) -> type[torch.optim.Optimizer]:
    r"""The optimizer class that `export_torch` writes, made by executing exactly that text.

    Its instances can be copied and pickled: the pickle carries the text.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch_class(Program.parse("def sgd(w, g, lr=0.5):\n  return lr * g"))([weight])
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.tolist()
    [0.5, 0.5]
    """
    return _class(export_torch(program, class_name), class_name or camel_case(program.name))


def beyond_export(program: Program) -> str:
    """What of a program the exported class does not do; "" when it does all."""
    if program.schedule:
        return "is a schedule; torch takes one through LambdaLR"
    if program.fallback is not None:
        return "routes parameters by role"
    if any(state.codec for state in program.states):
        return "keeps a state in a codec"
    live = flow(program)
    if any(live.reads(slot) for slot in (NOISE, *ORACLES)):
        return "reads noise or an oracle"
    if any(OPS[node.op].needs_matrix for node in live.nodes):
        return "needs matrices"
    return "averages over workers" if any(node.op == "worker_mean" for node in live.nodes) else ""


def camel_case(name: str) -> str:
    """A program's name as a class is called.

    >>> [camel_case(n) for n in ("lion", "c_adamw", "train")]
    ['Lion', 'CAdamW', 'Train']
    """
    return "".join(_FAMILY.get(part, part.capitalize()) for part in name.split("_")) or "Rule"


@cache
def _class(text: str, class_name: str) -> type[torch.optim.Optimizer]:
    file = f"<{class_name} {hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}>"
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, file, "exec"), scope)  # our own text, made from the op table
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file  # tracebacks show it
    made = scope[class_name]

    def reduce(self: torch.optim.Optimizer) -> tuple[Callable[..., Any], tuple[str, str], Any]:
        return _blank, (text, class_name), self.__getstate__()

    made.__reduce__ = reduce
    return made


def _blank(text: str, class_name: str) -> torch.optim.Optimizer:
    """An instance without state, which unpickling fills."""
    made = _class(text, class_name)
    return made.__new__(made)


class _Writer:
    """Writes the file, part by part."""

    def __init__(self, original: Program, named: Named, class_name: str) -> None:
        self.original, self.named, self.class_name = original, named, class_name
        self.program = named.program
        first = self.program.first_hyper
        self.hypers = _free_names([self.program.name_of(first + i) for i in range(len(self.program.hypers))])
        self.default = dict(zip(self.hypers, self.program.hypers, strict=True))
        self.betas = sorted((h for h in self.hypers if BETA.fullmatch(h)), key=lambda h: int(h[4:]))
        self.others = [h for h in self.hypers if h not in self.betas]
        self.source = TorchSource(self.program, {first + i: name for i, name in enumerate(self.hypers)})
        self.flow: Flow = self.source.flow
        self.states = [self.source.names[FIRST + i] for i in range(len(self.program.states))]
        self.kinds = [state.kind for state in self.program.states]
        self.counts = self.flow.reads(T) or self.flow.reads(PROGRESS)

    def text(self) -> str:
        body = [*self.update(), "", "", *self.optimizer()]
        helpers = helpers_of(body)
        head = [*self.comment(), ""]
        head += ["import math", ""] if any("math." in line for line in (*body, *helpers)) else []
        head += ["import torch", "", ""]
        for text in helpers:
            head += [*text.splitlines(), "", ""]
        lines = [part for line in (*head, *body) for part in wrapped(line)]
        return "\n".join(lines) + "\n"

    # --- what the file is -------------------------------------------------------------------------------

    def comment(self) -> list[str]:
        named = self.named
        lines = [line for line in self.original.doc.splitlines()]
        lines += [""] if lines else []
        text = str(self.original).splitlines()[len(self.original.doc.splitlines()) :]
        lines += ["The program (the caller does w = w - update; every state is zero at the start):"]
        lines += ["    " + line for line in text]
        lines += ["", f"Arguments: {', '.join(self._arguments())}."]
        if named.found:
            values = ", ".join(f"{name} was {self.default[name]!r}" for name in named.found)
            lines.append(f"Literals of the program that became arguments: {values}.")
        if named.folded is not None:
            lines.append(f"The peak lr holds the factor {named.folded!r}, which the program spells out.")
        if named.literals:
            lines.append(f"Literals that stayed: {', '.join(map(repr, named.literals))}.")
        if named.unused:
            lines.append(f"Left out, because they change nothing: {', '.join(named.unused)}.")
        lines += ["", "Exported by Stepsmith. SPDX-License-Identifier: Apache-2.0"]
        return [f"# {line}".rstrip() for line in lines]

    def _arguments(self) -> list[str]:
        """The constructor's arguments with their defaults."""
        shown = [f"lr={self.program.peak!r}"]
        if self.betas:
            values = [repr(self.default[b]) for b in self.betas]
            shown.append(f"betas=({', '.join(values)}{',' if len(values) == 1 else ''})")
        return shown + [f"{name}={self.default[name]!r}" for name in self.others]

    # --- the rule ---------------------------------------------------------------------------------------

    def update(self) -> list[str]:
        lines = list(self.source.lines)
        ends = [self._apart(self.source.update, self.flow.update, Kind.TENSOR)]
        for index, end in self.flow.states:
            ends.append(self._apart(self.source.new_states[index], end, self.kinds[index]))
        lines, ends = self._nested(lines, ends)
        exact = self._exact()
        head = ["dtype = params[0].dtype"] if any("(dtype)" in line for line in lines) else []
        if exact:
            head.append(_as_float64(exact))
        what = ", then the new states" if self.states else ""
        doc = f'"""The update{what}: a tensor per parameter."""'
        body = [doc, *head, *lines, f"return {', '.join(ends)}"]
        inputs = [self.source.names[v] for v in (LR, T, PROGRESS) if self.flow.reads(v)]
        arguments = ["params", "grads", *self.states, *inputs, *self.betas, *self.others]
        return [f"def _update({', '.join(arguments)}):", *indent(body)]

    def _apart(self, text: str, end: Arg, kind: Kind) -> str:
        """A state that is given back as it came: a copy, because states are overwritten one by one."""
        if not isinstance(end, int) or not FIRST <= end < self.flow.first_node or end in self.flow.hypers:
            return text
        if kind is Kind.GLOBAL:
            return f"{text}.clone()"
        return (
            text if self.flow.kind(end) is not Kind.TENSOR and kind is Kind.TENSOR else f"[x.clone() for x in {text}]"
        )

    def _nested(self, lines: list[str], ends: list[str]) -> tuple[list[str], list[str]]:
        """Calls over lists of tensors move into the one place that reads them, where the line stays short."""
        kept = dict(enumerate(lines, self.flow.first_node))
        for number in list(kept):
            name, _, text = kept[number].partition(" = ")
            if number in self.flow.labels or not text.startswith("torch._foreach"):
                continue
            word = re.compile(rf"\b{name}\b")
            readers = [n for n, line in kept.items() if n != number and word.search(line)]
            if len(readers) + sum(bool(word.search(end)) for end in ends) != 1:
                continue
            if not readers:
                if [end for end in ends if end == name] and len(", ".join(ends)) + len(text) < _NEST:
                    ends = [text if end == name else end for end in ends]
                    del kept[number]
                continue
            line = kept[readers[0]]
            nested = word.sub(lambda _, text=text: text, line)  # type: ignore[misc]
            if len(word.findall(line)) == 1 and len(nested) < _NEST and " = torch._foreach" in line:
                kept[readers[0]] = nested
                del kept[number]
        return list(kept.values()), ends

    def _exact(self) -> list[str]:
        """The numbers that must come as float64 tensors: torch would refuse or round Python's there."""
        needed: set[Arg] = set()
        for index, end in self.flow.states:
            if self.kinds[index] is not Kind.TENSOR:
                needed.add(end)
        for number, node in reversed(list(enumerate(self.flow.nodes, self.flow.first_node))):
            takes_numbers = node.op in _PLAIN or (node.op == "divide" and self._plain_divisor(node.args[1]))
            if (number in needed and node.kind is Kind.GLOBAL) or not takes_numbers:
                needed.update(node.args)
        slots = [LR, T, PROGRESS, *self.flow.hypers]
        return [self.source.names[slot] for slot in slots if slot in needed]

    def _plain_divisor(self, arg: Arg) -> bool:
        """Whether a numerator may be a Python number over this."""
        return arg.value != 0 if isinstance(arg, Const) else self.flow.kind(arg) is not Kind.GLOBAL

    # --- the class --------------------------------------------------------------------------------------

    def optimizer(self) -> list[str]:
        name = self.class_name
        return [
            f"class {name}(torch.optim.Optimizer):",
            *indent(self._class_doc()),
            "",
            *indent(self._constructor()),
            "",
            *indent(_STEP.splitlines()),
            "",
            *indent(self._buckets()),
            "",
            *indent(self._step_together()),
            "",
            "",
            *_REAL.strip().splitlines(),
        ]

    def _class_doc(self) -> list[str]:
        shared = "a device, a precision and a count of steps" if self.counts else "a device and a precision"
        reduces = any(OPS[node.op].result is Kind.GLOBAL for node in self.flow.nodes)
        lines = [
            '"""The rule above.',
            "",
            f"Parameters of a group that share {shared} step together{';' if reduces else '.'}",
            *(["a reduction over all parameters is over those."] if reduces else []),
            "",
            "Args:",
            "    params: Parameters, groups of them, or (name, parameter) pairs.",
            "    lr: Peak learning rate, a number or a tensor; read anew at each step.",
        ]
        if self.betas:
            lines.append(f"    betas: {', '.join(self.betas)} of the program.")
        lines += [f"    {name}: As in the program." for name in self.others]
        if self.flow.reads(PROGRESS):
            lines.append("    total_steps: Steps of the whole run; the rule reads the share that is over.")
        lines.append("    maximize: Climb instead of descend.")
        return [*lines, '"""']

    def _constructor(self) -> list[str]:
        total = ["total_steps"] if self.flow.reads(PROGRESS) else []
        arguments = ["self", "params", *self._arguments(), "*", *total, "maximize=False"]
        keys = ["lr", *(["betas"] if self.betas else []), *self.others, *total, "maximize"]
        defaults = ", ".join(f'"{key}": {key}' for key in keys)
        body = [
            "if isinstance(lr, torch.Tensor) and lr.numel() != 1:",
            '    raise ValueError(f"a Tensor lr must hold one number, not {lr.numel()}")',
        ]
        body += _at_least_0("lr") if self.program.peak >= 0 else []
        if self.betas:
            in_range = set(self.betas) <= self._averaging()
            count = len(self.betas)
            numbers = "1 number" if count == 1 else f"{count} numbers"
            wrong = f"len(betas) != {count}"
            wrong += " or not all(0 <= beta < 1 for beta in betas)" if in_range else ""
            message = f"betas must be {numbers}{' in [0, 1)' if in_range else ''}, not {{betas}}"
            body += [f"if {wrong}:", f'    raise ValueError(f"{message}")']
        for name in self.others:
            body += _at_least_0(name) if name in ("eps", "weight_decay") and self.default[name] >= 0 else []
        if total:
            body += ["if not total_steps >= 1:"]
            body += ['    raise ValueError(f"total_steps must be at least 1, not {total_steps}")']
        body += [f"super().__init__(params, {{{defaults}}})"]
        return [f"def __init__({', '.join(arguments)}):", *indent(body)]

    def _averaging(self) -> set[str]:
        """The hyperparameters whose default is in [0, 1) and that are rates of averages."""
        used = {self.source.names[rate] for _, rate in rates(self.flow) if rate in self.flow.hypers}
        return {name for name in used if 0 <= self.default[name] < 1}

    def _buckets(self) -> list[str]:
        start = ['state["step"] = torch.zeros(())'] if self.counts else []
        for name, kind in zip(self.states, self.kinds, strict=True):
            zero = "torch.zeros_like(_real(p))" if kind is Kind.TENSOR else "_real(p).new_zeros(())"
            start.append(f'state["{_key(name)}"] = {zero}')
        body = [
            '"""Lists of parameters that step together."""',
            'params = [p for p in group["params"] if p.grad is not None and p.numel()]',
            "if any(p.grad.layout != torch.strided for p in params):",
            "    raise RuntimeError(",
            f'        "{self.class_name} does not take sparse gradients; "',
            '        "use torch.optim.SparseAdam for these parameters, or make the layer with sparse=False"',
            "    )",
            "buckets = {}",
            "for p in params:",
        ]
        loop = []
        if start:
            loop += ["state = self.state[p]", "if not state:", *indent(start)]
        loop += ['state["step"] += 1'] if self.counts else []
        key = "p.device, _precision(p)" + (', state["step"].item()' if self.counts else "")
        loop.append(f"buckets.setdefault(({key}), []).append(p)")
        return ["def _buckets(self, group):", *indent([*body, *indent(loop), "return buckets.values()"])]

    def _step_together(self) -> list[str]:
        body = ['"""One step of parameters that step together."""', "precision = _precision(params[0])"]
        if self.states or self.counts:
            body.append("states = [self.state[p] for p in params]")
        body += ["w = [_real(p).to(precision) for p in params]"]
        body += ["g = [_real(p.grad).to(precision) for p in params]"]
        body += ['if group["maximize"]:', "    g = torch._foreach_neg(g)"]
        keys = [(name, _key(name), kind) for name, kind in zip(self.states, self.kinds, strict=True)]
        for name, key, kind in keys:
            one = f'states[0]["{key}"].to(precision)'
            each = f'[s["{key}"].to(precision) for s in states]'
            body.append(f"old_{name} = {one if kind is Kind.GLOBAL else each}")
        given = [f"old_{name}" for name in self.states]
        given += ['group["lr"]'] if self.flow.reads(LR) else []
        if self.counts:
            body.append('t = states[0]["step"].item()')
        given += ["t"] if self.flow.reads(T) else []
        given += ['t / group["total_steps"]'] if self.flow.reads(PROGRESS) else []
        given += ['*group["betas"]'] if self.betas else []
        given += [f'group["{name}"]' for name in self.others]
        results = ", ".join(["update", *(f"new_{name}" for name in self.states)])
        body.append(f"{results} = _update({', '.join(['w', 'g', *given])})")
        for name, key, kind in keys:
            new = f"[new_{name}] * len(states)" if kind is Kind.GLOBAL else f"new_{name}"
            body.append(f'torch._foreach_copy_([s["{key}"] for s in states], {new})')
        body.append("torch._foreach_sub_([_real(p) for p in params], update)")
        return ["def _step_together(self, group, params):", *indent(body)]


_STEP = '''@torch.no_grad()
def step(self, closure=None):
    """One step; returns the loss of the closure, if there is one."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    for group in self.param_groups:
        for params in self._buckets(group):
            self._step_together(group, params)
    return loss'''

_REAL = '''
def _real(x):
    """A complex tensor as pairs of real numbers."""
    return torch.view_as_real(x) if x.is_complex() else x


def _precision(x):
    """The dtype of the arithmetic: at least float32."""
    return torch.promote_types(_real(x).dtype, torch.float32)
'''

#: Ops that mean the same on Python numbers as on float64 tensors, wherever they stand.
_PLAIN = {"add", "subtract", "multiply", "negative", "interp", "cube"}


def _key(state: str) -> str:
    """A state's name in `optimizer.state[p]`; "step" is the count that torch knows."""
    return "step_" if state == "step" else state


def _as_float64(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} = torch.as_tensor({names[0]}, dtype=torch.float64)"
    shown = ", ".join(names)
    return f"{shown} = [torch.as_tensor(x, dtype=torch.float64) for x in ({shown})]"


def _at_least_0(name: str) -> list[str]:
    return [f"if not {name} >= 0:", f'    raise ValueError(f"{name} must be at least 0, not {{{name}}}")']


def _free_names(wanted: Iterable[str]) -> list[str]:
    """The names, changed where Python, a parameter group or the exported text uses them otherwise."""
    names: list[str] = []
    for name in wanted:
        while name in _TAKEN or keyword.iskeyword(name) or name in names:
            name += "_"
        names.append(name)
    return names
