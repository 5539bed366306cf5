"""Program to a Python module of Triton kernels that steps any number of tensors at once, in place.

A kernel is a pass (see `passes`): one program of it takes 1,024 elements of one tensor, 2,048 in a module with
reductions, which it finds by a table of addresses, so that a launch does not depend on how many tensors there are. A
pass that reduces writes one partial result per program; the last program of a tensor, or of all, adds them up in their
order. Numbers that need no tensor are worked out in float64 before the launch, on the device only where a number is
given there. Everything else is float32, or float64 for float64 tensors. Roots and quotients are rounded correctly, as
Triton's own are not; but not where weights have 16 bits, whose own rounding hides the last bits of float32, and whose
steps would wait for arithmetic rather than for memory. No kernel is tuned by running it, because it writes in place.

Functions that Triton lacks are those of libdevice, which are as accurate as C's: formulas of our own from `tl.exp` and
the like would lose digits. Triton's interpreter does not call libdevice; `interpret_libdevice` mends that.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from .errors import ProgramError
from .flow import Node
from .kind import Kind
from .layout import indent, wrapped
from .ops import OPS
from .passes import Pass, Passes, fusable
from .program import FIRST, LR, PROGRESS, RESERVED, Arg, Const, G, Program, T, W
from .source import executed
from .torch_source import TAKEN as TORCH_TAKEN
from .torch_source import TorchSource, helpers_of

#: Names in the text that no value may have.
_TAKEN = {
    "triton", "tl", "libdevice", "step", "steps", "singles", "numbers", "maximize", "grad_scale", "found_inf", "plan",
    "table", "programs", "counters", "sums", "partials", "count", "held", "real", "exact", "grid", "device", "place",
    "tensor", "chunk", "full", "size", "offsets", "whole", "inside", "alive", "end", "number", "total", "_numbers",
    *(f"{name}_{i}" for name in ("part", "_pass") for i in range(100)),
}  # fmt: skip
_NOT_SPECIALIZED = 'do_not_specialize=["count", "held", "grad_scale", "found_inf"]'
#: Rows that mean the same on Python numbers as on float64 tensors.
_PLAIN = {"add", "subtract", "multiply", "negative", "interp", "cube"}
_SIZES, _PARAMS, _GRADS, _STATES = range(4)  # rows of the table


def triton_source(program: Program, names: Mapping[int, str]) -> str:
    r"""The text of a module with a function `step` that moves lists of tensors on by one step of a program.

    It imports torch and triton. The call is `step(params, grads, states, singles, steps, numbers, *, maximize=False,
    grad_scale=None, found_inf=None)`; its docstring, written by `_Writer.step`, says what each is. `names` are the
    keys of `numbers` for hyperparameters, by their slots.

    Raises ProgramError where `fusable` is false.

    >>> text = triton_source(Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g"), {})
    >>> print(text[text.index("            t0 =") : text.index("def _numbers")].strip())
    t0 = lr * g
                tl.store(to_w, w - t0, mask=inside)
    """
    if not fusable(program):
        raise ProgramError(f"{program.name} cannot be one kernel: it needs matrices, a codec, an oracle or a route")
    return _Writer(program, names).text()


def triton_step(program: Program, names: Mapping[int, str]) -> Callable[..., None]:
    """The function `step` of that text, made by executing exactly it."""
    step: Callable[..., None] = executed(triton_source(program, names), f"kernels of {program.name}", __name__)["step"]
    return step


def interpret_libdevice() -> None:
    """Let Triton's interpreter call what programs use of libdevice, with numpy's functions."""
    import triton.language as tl
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import TensorHandle

    def put(name: str, function: Any) -> None:
        def call(*args: Any) -> Any:
            with np.errstate(all="ignore"):
                data = function(*(x.handle.data for x in args)).astype(args[0].handle.data.dtype)
            like = next((x for x in args if x.type.is_block()), args[0])
            return tl.tensor(TensorHandle(data, like.dtype), like.type)

        setattr(libdevice, name, call)

    for row in OPS.values():
        for name in re.findall(r"libdevice\.(\w+)", row.in_triton):
            numpy_name = {"pow": "float_power"}.get(name, name)
            put(name, (lambda x: np.power(10.0, x)) if name == "exp10" else getattr(np, numpy_name))


@cache
def _helpers() -> dict[str, str]:
    """The text of each part of triton_helpers.py behind its imports, with comments and decorators, by name."""
    text = resources.files(__package__).joinpath("triton_helpers.py").read_text("utf-8")
    lines, parts, end = text.splitlines(), {}, 0
    for part in ast.parse(text).body:
        name = getattr(part, "name", "")
        if isinstance(part, (ast.Assign, ast.AnnAssign)):
            target = part.targets[0] if isinstance(part, ast.Assign) else part.target
            name = target.id if isinstance(target, ast.Name) else ""
        if name:
            parts[name] = "\n".join(lines[end : part.end_lineno]).strip("\n")
        end = part.end_lineno or end
    return parts


def _helpers_of(text: str) -> dict[str, str]:
    """The parts that a text uses, and that these use."""
    wanted: set[str] = set()
    todo = [text]
    while todo:
        words = set(re.findall(r"\b_\w+", todo.pop()))
        more = [name for name in _helpers() if name in words - wanted]
        wanted.update(more)
        todo += [_helpers()[name] for name in more]
    return {name: part for name, part in _helpers().items() if name in wanted}


class _Writer:
    """Writes the module; values are known by their numbers in the flow."""

    def __init__(self, program: Program, names: Mapping[int, str]) -> None:
        self.passes = Passes(program)
        self.flow = self.passes.flow
        self.folded: dict[Arg, Const] = {}
        self.nodes = self._nodes()
        self.inputs = [v for v in (LR, T, PROGRESS, *self.flow.hypers) if self.flow.reads(v)]
        self.keys = {v: RESERVED[v] if v < FIRST else names[v] for v in self.inputs}
        self.host = self._host()
        self.states = [FIRST + i for i, _ in self.flow.states if self.flow.kinds[FIRST + i] is Kind.TENSOR]
        self.singles = [FIRST + i for i, _ in self.flow.states if self.flow.kinds[FIRST + i] is not Kind.TENSOR]
        self.ends = {FIRST + i: self._arg(end) for i, end in self.flow.states}
        self.update = self._arg(self.flow.update)
        self.names = self._choose_names(names)
        self.memory = dict(zip((W, G, *self.states, *self.singles), range(_PARAMS, 99), strict=False))
        self.reductions = [v for each in self.passes.passes for v in each.reductions]
        self.passed: dict[str, str] = {}  # numbers that kernels take, and how `_numbers` spells them
        self.source = TorchSource(program)
        self.source.names = self.names

    # --- values -----------------------------------------------------------------------------------------

    def _nodes(self) -> dict[int, Node]:
        """The nodes, with what is made of constants alone worked out."""
        nodes: dict[int, Node] = {}
        for value, node in enumerate(self.flow.nodes, self.flow.first_node):
            args = tuple(self._arg(a) for a in node.args)
            meaning = OPS[node.op].meaning
            constants = [np.float64(a.value) for a in args if isinstance(a, Const)]
            if len(constants) == len(args) and OPS[node.op].elementwise and meaning is not None:
                with np.errstate(all="ignore"):
                    self.folded[value] = Const(float(meaning(*constants)))
            else:
                nodes[value] = node._replace(args=args)
        return nodes

    def _arg(self, arg: Arg) -> Arg:
        return self.folded.get(arg, arg)

    def _host(self) -> dict[int, None]:
        """The numbers that are made of given numbers alone, in order."""
        host = dict.fromkeys(self.inputs)
        for value, node in self.nodes.items():
            known = all(isinstance(a, Const) or a in host for a in node.args)
            if known and node.kind is Kind.GLOBAL and OPS[node.op].elementwise:
                host[value] = None
        return host

    def _choose_names(self, given: Mapping[int, str]) -> dict[Arg, str]:
        names: dict[Arg, str] = {W: "w", G: "g", **{value: RESERVED[value] for value in self.inputs if value < FIRST}}
        taken = {*_TAKEN, *TORCH_TAKEN, *_helpers(), *(more for name in names.values() for more in _family(name))}
        for value in (*self.flow.hypers, *self.states, *self.singles, *self.nodes):
            wanted = given.get(value) or self.flow.labels.get(value) or f"t{value - self.flow.first_node}"
            name, number = wanted, 1
            while keyword.iskeyword(name) or not taken.isdisjoint(_family(name)):
                number += 1
                name = f"{wanted}{number}"
            taken.update(_family(name))
            names[value] = name
        return names

    def _kind(self, arg: Arg) -> Kind:
        return self.flow.kind(arg)

    def _pass(self, name: str, spelled: str) -> str:
        """The name of a number that kernels take."""
        self.passed.setdefault(name, spelled)
        return name

    def _text(self, arg: Arg, typed: bool = False) -> str:
        """A value in a kernel; `typed` for a constant that is not beside a tensor in a plain sum or product."""
        if isinstance(arg, Const):
            shown = repr(arg.value) if math.isfinite(arg.value) else f'float("{arg.value}")'
            if typed:
                return f"tl.full((), {shown}, real)"
            return f"({shown})" if arg.value < 0 else shown
        name = self.names[arg]
        return self._pass(name, name) if arg in self.host else name

    def _spell(self, node: Node) -> str:
        """A value from its arguments, in Triton."""
        if node.op == "size":
            return "size.to(real)"
        template, last = OPS[node.op].in_triton, node.args[-1]
        if node.op == "divide" and isinstance(last, Const) and last.value != 0:
            template = "x / y"
        if (
            node.op == "interp" and not isinstance(last, Const) and last in self.host
        ):  # 1 - z of a rate near 1 would lose digits in float32
            rate = self.names[last]
            template = template.replace("(1 - z)", self._pass(f"rest_{rate}", f"1 - {rate}"))
        template = re.sub(r"\b(_quotient|_root)\(([^()]*)\)", r"\1(\2, exact)", template)
        typed = bool(re.search(r"\w\(|\)\.", template))
        args = {letter: self._text(a, typed) for letter, a in zip("xyz", node.args, strict=False)}
        return re.sub(r"\b[xyz]\b", lambda found: args[found.group()], template)

    # --- kernels ----------------------------------------------------------------------------------------

    def text(self) -> str:
        """The module."""
        lines: list[str] = []
        calls = []
        bodies = [self._body(one) for one in self.passes.passes]  # now it is known what is passed
        for number, body in enumerate(bodies):
            takes = self._takes(body)
            values = [f"{name}: tl.float64" for name in self.passed]
            declared = ", ".join(
                part for name in takes for part in [_declared(name), *(values if name == "held" else [])]
            )
            lines += [f"@triton.jit({_NOT_SPECIALIZED})", f"def _pass_{number}({declared}):", *indent(body), "", ""]
            calls.append(f"_pass_{number}[grid]({', '.join(takes.values())}, **_OPTIONS)")
        lines += [*self._numbers(), "", ""] if self.passed else []
        return _assembled([*lines, *self._step(calls)], warps=8 if self.reductions else 4)

    def _takes(self, body: Sequence[str]) -> dict[str, str]:
        """The arguments of a kernel, and what `step` gives for them."""
        dtypes = {f"{self.names[W]}_type": "params", f"{self.names[G]}_type": "grads"}
        for group, values in (("states", self.states), ("singles", self.singles)):
            dtypes.update({f"{self.names[value]}_type": f"{group}[{i}]" for i, value in enumerate(values)})
        names = {name: f"plan.{name}" for name in ("table", "programs", "counters")}
        names |= {"sums": "sums", "partials": "partials", "count": "count", "held": "held, *values"}
        names |= {name: name for name in ("grad_scale", "found_inf", "maximize", "real", "exact")}
        names |= {name: f"_TYPES[{tensors}[0].dtype]" for name, tensors in dtypes.items()}
        words = set(re.findall(r"\w+", "\n".join(body)))
        return {name: given for name, given in names.items() if name in words}

    def _body(self, one: Pass) -> list[str]:
        last = one is self.passes.passes[-1]
        elements = [v for v in one.elements if v in self.nodes]
        wanted = [a for v in (*elements, *one.reductions) for a in self.nodes[v].args]
        wanted += [self.update, *self.ends.values()] if last else []
        rest = self._singles(wanted)
        rest += _DEAD.splitlines() if last else []
        rest += ["offsets = chunk.to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK)"]
        rest += [f"part_{i} = tl.full((), 0.0, tl.float64)" for i in range(len(one.reductions))]
        rest += ["for whole in tl.static_range(2):", "    if full == whole:  # no mask then, and wide moves"]
        rest += indent(indent(self._elements(one, elements, last)))
        rest += self._write_singles() if last else self._add_up(one)
        return [
            '"""New weights and states."""' if last else '"""What the next pass must know of all elements."""',
            "place = tl.program_id(0)",
            "tensor = tl.load(programs + 3 * place)",
            "chunk = tl.load(programs + 3 * place + 1)",
            "full = tl.load(programs + 3 * place + 2)",
            "size = tl.load(table + tensor)",
            *self._read_numbers(rest),
            *rest,
        ]

    def _read_numbers(self, rest: Sequence[str]) -> list[str]:
        """Given numbers, in the precision of the arithmetic."""
        words = set(re.findall(r"\w+", "\n".join(rest)))
        used = [(row, name) for row, name in enumerate(self.passed) if name in words]
        if not used:
            return []
        given = [f"{name} = tl.full((), {name}, real)" for _, name in used]
        there = [f"{name} = tl.load({_row('held', row, 'tensor')}).to(real)" for row, name in used]
        return ["if held is None:", *indent(given), "else:", *indent(there)]

    def _singles(self, wanted: Iterable[Arg]) -> list[str]:
        """Values per tensor, and single numbers that are made of states or reductions."""
        reach: set[int] = set()
        todo = list(wanted)
        while todo:
            arg = todo.pop()
            if isinstance(arg, Const) or arg in reach or arg in self.host or self._kind(arg) is Kind.TENSOR:
                continue
            reach.add(arg)
            if arg in self.nodes and arg not in self.reductions and self.nodes[arg].op != "size":
                todo += self.nodes[arg].args
        lines = []
        for value in sorted(reach):
            name = self.names[value]
            if value in self.reductions:
                tensor = "tensor" if self._kind(value) is Kind.SCALAR else ""
                place = _row("sums", self.reductions.index(value), tensor)
                lines.append(f"{name} = tl.load({place}).to(real)")
            elif value in self.nodes:
                lines.append(f"{name} = {self._spell(self.nodes[value])}")
            else:
                lines += [f"to_{name} = {self._address(value, '0')}", f"{name} = tl.load(to_{name}).to(real)"]
        return lines

    def _address(self, value: int, aligned: str) -> str:
        return f"_address(table, {self.memory[value]}, tensor, count, {self.names[value]}_type, {aligned})"

    def _elements(self, one: Pass, elements: Sequence[int], last: bool) -> list[str]:
        """What is done to a chunk."""
        end = "end" if last else "size"
        lines = [f"inside = tl.full((_BLOCK,), True, tl.int1) if whole else offsets < {end}"]
        reads = {a for v in (*elements, *one.reductions) for a in self.nodes[v].args}
        reads |= {W, self.update, *self.ends.values()} if last else set()
        memory = [value for value in (W, G, *self.states) if value in reads or (last and value in self.ends)]
        lines += [f"to_{self.names[value]} = {self._address(value, 'whole')} + offsets" for value in memory]
        for value in memory:
            if value in reads:
                name = self.names[value]
                lines.append(f"{name} = tl.load(to_{name}, mask=inside).to(real)")
        lines += ["g = _gradient(g, grad_scale, maximize, exact)"] if G in reads else []
        lines += [f"{self.names[v]} = {self._spell(self.nodes[v])}" for v in elements]
        for i, value in enumerate(one.reductions):
            lines.append(f"part_{i} = {self._partial(self.nodes[value])}")
        if last:
            lines.append(f"tl.store(to_w, w - {self._text(self.update)}, mask=inside)")
            for value in self.states:
                new = self._text(self.ends[value], typed=True)
                lines.append(f"tl.store(to_{self.names[value]}, {new}, mask=inside)")
        return lines

    def _partial(self, node: Node) -> str:
        if node.op == "amax":
            return f'_largest(tl.where(inside, {self._spell(node)}, float("-inf"))).to(tl.float64)'
        return f"tl.sum(tl.where(inside, {self._spell(node)}, 0.0), 0).to(tl.float64)"

    def _add_up(self, one: Pass) -> list[str]:
        """Partial results are written, and the last program that counts finishes them."""
        lines: list[str] = []
        rows = [_row("partials", i, "", "tl.num_programs(0)") for i in range(len(one.reductions))]
        lines += [f"tl.store({row} + place, part_{i})" for i, row in enumerate(rows)]
        each: list[str] = []
        together: list[str] = []
        for row, value in zip(rows, one.reductions, strict=True):
            op, scalar = self.nodes[value].op, self._kind(value) is Kind.SCALAR
            add = "_amax" if op == "amax" else "_sum"
            what = f"{row} + place - chunk, number" if scalar else f"{row}, tl.num_programs(0)"
            finish = re.sub(r"\bx\b", "total", OPS[op].finish).replace("sqrt", "tl.sqrt")
            finish = re.sub(r"\bn\b", "size", finish)
            to = _row("sums", self.reductions.index(value), "tensor" if scalar else "")
            (each if scalar else together).extend([f"total = {add}({what})", f"tl.store({to}, {finish})"])
        if each:
            lines += ["number = tl.cdiv(size, _BLOCK)", "if _is_last(counters + tensor, number):", *indent(each)]
        if together:
            lines += ["if _is_last(counters + count, tl.num_programs(0)):", *indent(together)]
        return lines

    def _write_singles(self) -> list[str]:
        """The last program of a tensor writes what the others read before."""
        if not self.singles:
            return []
        lines = ["if _is_last(counters + tensor, tl.cdiv(size, _BLOCK)):"]
        for value in self.singles:
            name = self.names[value]
            lines.append(f"    to_{name} = {self._address(value, '0')}")
            lines.append(f"    tl.store(to_{name}, {self._text(self.ends[value], typed=True)}, mask=end > 0)")
        return lines

    # --- the host ---------------------------------------------------------------------------------------

    def _numbers(self) -> list[str]:
        """The function that works out what kernels take of single numbers."""
        nodes = [v for v in self.host if v in self.nodes]
        exact = any(self.nodes[v].op not in _PLAIN for v in nodes)
        lines = ['"""Single numbers that need no tensor."""']
        for value in self.inputs:
            given = f'numbers["{self.keys[value]}"]'
            given = f"torch.as_tensor({given}, dtype=torch.float64)" if exact else given
            lines.append(f"{self.names[value]} = {given}")
        body = [f"{self.names[v]} = {self.source.spell(self.nodes[v])}" for v in nodes]
        lines += ["dtype = torch.float64"] if any("dtype)" in line for line in body) else []
        results = ", ".join(self.passed.values())
        results = f"({results},)" if len(self.passed) == 1 else results
        return ["def _numbers(numbers):", *indent([*lines, *body, f"return {results}"])]

    def _step(self, calls: Sequence[str]) -> list[str]:
        counts = T in self.inputs
        body = [*_DOC.splitlines(), "if not params:", "    return", "device, count = params[0].device, len(params)"]
        body += ["real = _TYPES[torch.promote_types(params[0].dtype, torch.float32)]"]
        singles = 'singles if "t" in numbers else [*singles, steps]' if counts else "singles"
        body += ["exact = params[0].dtype.itemsize > 2"]
        body += [f"plan = _plan([params, grads, *states], {singles})", "grid = (len(plan.programs),)"]
        body += ["if not grid[0]:", "    return"]
        inner = []
        if counts:
            row = _PARAMS + len(self.memory)
            inner += ['if "t" not in numbers:', f'    numbers = {{**numbers, "t": _counts(plan, {row}, count)}}']
        inner += ["held, values = _values(_numbers, numbers, count, device)"] if self.passed else []
        if self.reductions:
            most = max(len(one.reductions) for one in self.passes.passes)
            for name, size in (("sums", _times(len(self.reductions), "count")), ("partials", _times(most, "grid[0]"))):
                inner.append(f"{name} = torch.empty({size}, dtype=torch.float64, device=device)")
        body += ["with torch.cuda.device_of(params[0]):", *indent([*inner, *calls])]
        body += ["torch.autograd.graph.increment_version(params)"]
        return [f"def step({_SIGNATURE}):", *indent(body)]


_SIGNATURE = "params, grads, states, singles, steps, numbers, *, maximize=False, grad_scale=None, found_inf=None"
_DOC = '''
"""One step, in place; gradients stay as they are.

Args:
    params, grads: Lists of tensors, each of one dtype; a parameter and what goes with it have one layout.
    states: For each state that is a tensor, a list of tensors, of one dtype.
    singles: For each state that is a number, a list of 0-d tensors, one for each parameter.
    steps: Counts of steps with this one, 0-d float32 tensors on the device; read if `numbers` has no "t".
    numbers: By name, floats or tensors with one number; those on the device are read there.
    maximize: Climb instead of descend.
    grad_scale: Divides the gradients; a tensor with one number on the device.
    found_inf: Likewise; unless it is 0 nothing is written.
"""
'''.strip()


_DEAD = """
end = size
if found_inf is not None:
    alive = tl.load(found_inf) == 0
    full, end = tl.where(alive, full, 0), tl.where(alive, size, 0)
""".strip()


def _family(name: str) -> set[str]:
    """The names that go with a value's."""
    return {name, f"to_{name}", f"{name}_type", f"rest_{name}"}


def _row(base: str, row: int, place: str, length: str = "count") -> str:
    """An element of a table by rows."""
    start = [_times(row, length)] if row else []
    return " + ".join([base, *start, *([place] if place else [])])


def _times(number: int, length: str) -> str:
    return length if number == 1 else f"{number} * {length}"


def _declared(name: str) -> str:
    return f"{name}: tl.constexpr" if name in ("real", "exact", "maximize") or name.endswith("_type") else name


def _assembled(body: Sequence[str], warps: int) -> str:
    """The module of some lines, with what they use."""
    carried = (_helpers_of("\n".join(body)) | {"_WARPS": f"_WARPS = {warps}"}).values()
    constants = [part for part in carried if not re.search("^(def|class) ", part, re.MULTILINE)]
    functions = [part for part in carried if part not in constants] + helpers_of(body)
    whole = "\n".join([*functions, *body])
    head = ["import math"] if "math." in whole else []
    head += ["from typing import NamedTuple", "", "import torch", "import triton", "import triton.language as tl"]
    head += ["from triton.language.extra import libdevice"] if "libdevice." in whole else []
    lines = [*head, "", *"\n".join(constants).splitlines(), "", ""]
    for part in functions:
        lines += [*part.splitlines(), "", ""]
    return "\n".join(part for line in (*lines, *body) for part in wrapped(line)) + "\n"
