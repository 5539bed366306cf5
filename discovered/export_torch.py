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

import ast
import builtins
import hashlib
import keyword
import linecache
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..dsl import Const, Kind, Program, ProgramError
from ..dsl.flow import Flow, flow
from ..dsl.layout import WIDTH, indent, wrapped
from ..dsl.ops import OPS
from ..dsl.passes import fusable
from ..dsl.program import FIRST, LR, NOISE, ORACLES, PROGRESS, RESERVED, Arg, T
from ..dsl.to_c import c_source
from ..dsl.to_triton import triton_source
from ..dsl.torch_source import TorchSource, helpers_of
from .arguments import BETA, Named, free_names, name_constants, rates

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
    >>> print(text[text.index("def _update") : text.index("_KERNEL_C")].strip())
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
        self.hypers = free_names([self.program.name_of(first + i) for i in range(len(self.program.hypers))], _TAKEN)
        self.default = dict(zip(self.hypers, self.program.hypers, strict=True))
        self.betas = sorted((h for h in self.hypers if BETA.fullmatch(h)), key=lambda h: int(h[4:]))
        self.others = [h for h in self.hypers if h not in self.betas]
        self.source = TorchSource(self.program, {first + i: name for i, name in enumerate(self.hypers)})
        self.flow: Flow = self.source.flow
        self.states = [self.source.names[FIRST + i] for i in range(len(self.program.states))]
        self.kinds = [state.kind for state in self.program.states]
        self.counts = self.flow.reads(T) or self.flow.reads(PROGRESS)

    def text(self) -> str:
        shared = [module_text(module) for module in ("dsl.compile_c", "discovered.optimizer")]
        rule = self.update()
        helpers = helpers_of(rule)
        kernels = ["", *self._kernels()] if fusable(self.program) else []
        body = [line for text in helpers for line in (*text.splitlines(), "", "")] + _laid_out(rule)
        imports = sorted({"import torch", *(line for imports, _ in shared for line in imports)}, key=_import_order)
        lines = [*_laid_out(self.comment()), "", "from __future__ import annotations", "", *_blocks(imports)]
        lines += [*_title("the rule"), *body, *kernels, "", "", *_title("what all exported rules share")]
        for _, text in shared:
            lines += [*text.splitlines(), "", ""]
        lines += [*_title("the optimizer"), *_laid_out(self.optimizer())]
        return "\n".join(lines) + "\n"

    def _kernels(self) -> list[str]:
        """The fused step as texts: for CPUs in C, for GPUs in Triton's Python."""
        reads = [slot for slot in (LR, T, PROGRESS) if self.flow.reads(slot)]
        hypers = {name: slot for name, slot in zip(self.hypers, self.flow.hypers, strict=True)}
        given = {slot: RESERVED[slot] for slot in reads} | {hypers[n]: n for n in (*self.betas, *self.others)}
        named = {slot: name for name, slot in hypers.items()}
        texts = [('_KERNEL_C = r"""\\', c_source(self.program, given), '"""'),
                 ("_KERNEL_TRITON = r'''\\", triton_source(self.program, named), "'''")]  # fmt: skip
        return [line for start, text, end in texts for line in ("", start, *text.splitlines(), end)]

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
        numbers = [self.source.names[v] for v in (LR, T, PROGRESS) if self.flow.reads(v)]
        numbers += [*self.betas, *self.others]
        keys = {name: _key(name) for name in self.states}
        tensors = [keys[n] for n, kind in zip(self.states, self.kinds, strict=True) if kind is Kind.TENSOR]
        singles = [(keys[n], kind is Kind.SCALAR) for n, kind in zip(self.states, self.kinds, strict=True)
                   if kind is not Kind.TENSOR]  # fmt: skip
        fields = [*_field("_tensors", tensors), *_field("_singles", singles), *_field("_numbers", numbers),
                  *_field("_betas", self.betas), *_field("_nonnegative", self._nonnegative())]  # fmt: skip
        fields += ["_reduces = True"] if any(not OPS[node.op].elementwise for node in self.flow.nodes) else []
        fields += ["_gathers = True"] if self._gathers() else []
        fields += ["_kernel_c = _KERNEL_C", "_kernel_triton = _KERNEL_TRITON"] if fusable(self.program) else []
        return [
            f"class {self.class_name}(RuleOptimizer):",
            *indent(self._class_doc()),
            "",
            *indent([*fields, "_update = staticmethod(_update)"]),
            "",
            *indent(self._constructor()),
        ]

    def _nonnegative(self) -> list[str]:
        """The numbers that are refused below 0."""
        usual = {"lr": self.program.peak} | {name: self.default[name] for name in self.others}
        return [name for name, value in usual.items() if name in ("lr", "eps", "weight_decay") and value >= 0]

    def _gathers(self) -> bool:
        """Whether the rule reduces over all parameters."""
        return any(OPS[node.op].result is Kind.GLOBAL for node in self.flow.nodes)

    def _class_doc(self) -> list[str]:
        shared = "a device, a precision and a count of steps" if self.counts else "a device and a precision"
        reduces = self._gathers()
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
        return [*lines, *_FLAG_DOCS, '"""']

    def _constructor(self) -> list[str]:
        total = ["total_steps"] if self.flow.reads(PROGRESS) else []
        flags = {name: repr(value).replace("'", '"') for name, value in shared_flags().items()}
        arguments = ["self", "params", *self._arguments(), "*", *total, *(f"{n}={v}" for n, v in flags.items())]
        keys = ["lr", *(["betas"] if self.betas else []), *self.others, *total]
        defaults = ", ".join(f'"{key}": {key}' for key in keys)
        body: list[str] = []
        if self.betas:
            in_range = set(self.betas) <= self._averaging()
            count = len(self.betas)
            numbers = "1 number" if count == 1 else f"{count} numbers"
            wrong = f"len(betas) != {count}"
            wrong += " or not all(0 <= beta < 1 for beta in betas)" if in_range else ""
            message = f"betas must be {numbers}{' in [0, 1)' if in_range else ''}, not {{betas}}"
            body += [f"if {wrong}:", f'    raise ValueError(f"{message}")']
        if total:
            body += ["if not total_steps >= 1:"]
            body += ['    raise ValueError(f"total_steps must be at least 1, not {total_steps}")']
        body += [f"numbers = {{{defaults}}}"]
        body += [f"self._start(params, numbers, {', '.join(f'{name}={name}' for name in flags)})"]
        return [f"def __init__({', '.join(arguments)}):", *indent(body)]

    def _averaging(self) -> set[str]:
        """The hyperparameters whose default is in [0, 1) and that are rates of averages."""
        used = {self.source.names[rate] for _, rate in rates(self.flow) if rate in self.flow.hypers}
        return {name for name in used if 0 <= self.default[name] < 1}


_FLAG_DOCS = """\
    maximize: Climb instead of descend.
    foreach: True: torch's multi-tensor functions; False: a tensor at a time.
    capturable: Counts of steps live on the device, so that a CUDA graph can hold a step. Parameters that step
        together are then taken to have been stepped equally often.
    differentiable: Steps are part of the graph of gradients; then they are not fused.
    fused: One compiled kernel over all tensors. None: on CPUs, where there is one and nothing else is asked for.
    state_dtype: Of states that hold a tensor per parameter; None: that of the parameter.
    rounding: Of bfloat16 and float16 weights: "nearest", "stochastic" (bfloat16), or "kahan", which keeps what
        rounding lost in one more state.""".splitlines()

#: Ops that mean the same on Python numbers as on float64 tensors, wherever they stand.
_PLAIN = {"add", "subtract", "multiply", "negative", "interp", "cube"}


@cache
def module_text(name: str) -> tuple[list[str], str]:
    """The imports and the rest of a module of this package, as exported files carry them."""
    package, _, module = name.rpartition(".")
    text = resources.files(f"{__package__.rpartition('.')[0]}.{package}").joinpath(f"{module}.py").read_text("utf-8")
    lines, nodes = text.splitlines(), ast.parse(text).body
    imports = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    own = [n for n in imports if not (isinstance(n, ast.ImportFrom) and (n.level or n.module == "__future__"))]
    return [lines[n.lineno - 1] for n in own], "\n".join(lines[imports[-1].end_lineno or 0 :]).strip()


@cache
def shared_flags() -> dict[str, Any]:
    """What every exported optimizer takes beside its rule's own arguments, with defaults; read without torch."""
    nodes = ast.parse(module_text("discovered.optimizer")[1]).body
    named = [n for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_FLAGS"]
    return dict(ast.literal_eval(named[0].value))


def _import_order(line: str) -> tuple[bool, bool, str]:
    """Torch last; from-imports after imports."""
    return line == "import torch", line.startswith("from"), line


def _laid_out(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in wrapped(line)]


def _blocks(imports: list[str]) -> list[str]:
    return [*imports[:-1], "", imports[-1], ""]


def _title(what: str) -> list[str]:
    return [f"# --- {what} {'-' * (100 - len(what))}", "", ""]


def _field(name: str, values: Sequence[object]) -> list[str]:
    """A class attribute that holds a tuple."""
    if not values:
        return []
    shown = [repr(v).replace("'", '"') for v in values]
    line = f"{name} = ({', '.join(shown)}{',' if len(shown) == 1 else ''})"
    return [line] if len(line) < WIDTH - 4 else [f"{name} = (", *indent(f"{v}," for v in shown), ")"]


def _key(state: str) -> str:
    """A state's name in `optimizer.state[p]`; "step" is the count that torch knows."""
    return "step_" if state == "step" else state


def _as_float64(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} = torch.as_tensor({names[0]}, dtype=torch.float64)"
    shown = ", ".join(names)
    return f"{shown} = [torch.as_tensor(x, dtype=torch.float64) for x in ({shown})]"
