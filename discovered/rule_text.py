"""One rule of an exported file: its update function, its kernels, its arguments, and what its class says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from ..dsl import Const, Kind, Program
from ..dsl.flow import Flow, needs_matrices
from ..dsl.layout import WIDTH, indent
from ..dsl.ops import OPS
from ..dsl.passes import fusable
from ..dsl.program import FIRST, LR, NOISE, ORACLES, PROGRESS, RESERVED, TWO_POINT, Arg, G, T
from ..dsl.to_c import c_source
from ..dsl.to_triton import triton_source
from ..dsl.torch_source import TorchSource, helpers_of
from .arguments import BETA, Named, free_names, name_constants, rates

_NEST = 96  # a line that nests another stays within this
#: Ops that mean the same on Python numbers as on float64 tensors, wherever they stand.
_PLAIN = {"add", "subtract", "multiply", "negative", "interp", "cube"}


class RuleText:
    """One program without a route, as an exported file holds it.

    `parts` are all programs of the file: the first one's lr is that which the user gives, the arguments of later ones
    have the program's name before theirs. Without `kernels` it has no fused step.
    `taken` are names that its arguments must leave alone.
    """

    def __init__(
        self, program: Program, parts: Sequence[Program], taken: Collection[str], kernels: bool = True
    ) -> None:
        first = parts[0]
        self.original, self.later, self.alone = program, program is not first, len(parts) == 1
        self.named: Named = name_constants(program)
        self.program = self.named.program
        start = self.program.first_hyper
        self.hypers = free_names([self.program.name_of(start + i) for i in range(len(self.program.hypers))], taken)
        self.default = dict(zip(self.hypers, self.program.hypers, strict=True))
        self.betas = sorted((h for h in self.hypers if BETA.fullmatch(h)), key=lambda h: int(h[4:]))
        self.others = [h for h in self.hypers if h not in self.betas]
        self.source = TorchSource(self.program, {start + i: name for i, name in enumerate(self.hypers)})
        self.flow: Flow = self.source.flow
        self.reads: Callable[[int], bool] = self.flow.reads
        self.states = [self.source.names[FIRST + i] for i in range(len(self.program.states))]
        self.kinds = [state.kind for state in self.program.states]
        self.inputs = [RESERVED[slot] for slot in (NOISE, *ORACLES) if self.reads(slot)]
        self.inputs += ["draw"] if any(OPS[node.op].draws for node in self.flow.nodes) else []
        self.counts = self.reads(T) or self.reads(PROGRESS) or bool(self.inputs)
        self.fused = kernels and fusable(self.program)
        self.matrices = needs_matrices(self.program, self.flow)
        self.ratio = self.program.peak / name_constants(first).program.peak if self.later and first.peak else 1.0
        self.suffix = f"_{program.name}" if self.later else ""

    @property
    def gathers(self) -> bool:
        """Whether it reduces over all parameters."""
        return any(OPS[node.op].result is Kind.GLOBAL for node in self.flow.nodes)

    @property
    def asks(self) -> bool:
        """Whether what its lines do depends on values that change, which they read on the host."""
        called = "\n".join(helpers_of(self.source.lines))
        codecs = [state.codec.torch for state in self.program.states if state.codec]
        return (
            self.source.asks
            or bool(re.search(r"^def (_quantile|_finite|_projection)\(", called, re.MULTILINE))
            or any(text.startswith("LowRank") for text in codecs)
        )

    # --- arguments ------------------------------------------------------------------------------------------

    def keys(self) -> dict[str, str]:
        """What a parameter group holds of it -> the constructor's argument."""
        names = ["lr", *(["betas"] if self.betas else []), *self.others]
        return {name: f"{self.original.name}_{name}" if self.later else name for name in names}

    def arguments(self) -> list[str]:
        """The constructor's arguments with their defaults."""
        keys = self.keys()
        shown = [f"{keys['lr']}={None if self.later else self.program.peak!r}"]
        if self.betas:
            values = [repr(self.default[b]) for b in self.betas]
            shown.append(f"{keys['betas']}=({', '.join(values)}{',' if len(values) == 1 else ''})")
        return shown + [f"{keys[name]}={self.default[name]!r}" for name in self.others]

    def argument_docs(self) -> list[str]:
        """What the class says of each."""
        of = f" of {self.original.name}" if self.later else " of the program"
        keys = self.keys()
        lines = ["lr: Peak learning rate, a number or a tensor; read anew at each step."]
        if self.later:
            lines = [f"{keys['lr']}: Peak learning rate{of}; None: lr times {self.ratio:.6g}."]
        if self.betas:
            lines.append(f"{keys['betas']}: {', '.join(self.betas)}{of}.")
        return lines + [f"{keys[name]}: As in {self.original.name if self.later else 'the program'}."
                        for name in self.others]  # fmt: skip

    def checks(self) -> list[str]:
        """Lines of the constructor."""
        lines = []
        if self.later:
            own = self.keys()["lr"]
            lines.append(f"{own} = lr * {self.ratio!r} if {own} is None else {own}")
        return lines

    def _averaging(self) -> set[str]:
        """The hyperparameters whose default is in [0, 1) and that are rates of averages."""
        used = {self.source.names[rate] for _, rate in rates(self.flow) if rate in self.flow.hypers}
        return {name for name in used if 0 <= self.default[name] < 1}

    def remarks(self) -> list[str]:
        """What became of the program's numbers."""
        own = f" of {self.original.name}" if self.later else ""
        return self.named.remarks(self.default, own)

    # --- its row in the class -------------------------------------------------------------------------------

    def row(self) -> list[str]:
        """The lines that make a `Rule`."""
        fields = [f"_update{self.suffix},"]
        fields += _field("states", [(key, self._form(i)) for i, key in enumerate(self._state_keys())])
        numbers = [self.source.names[v] for v in (LR, T, PROGRESS) if self.reads(v)]
        fields += _field("numbers", [*map(repr, (*numbers, *self.betas, *self.others))])
        fields += _field("betas", [*map(repr, self.betas)])
        fields += _field("nonnegative", [*map(repr, self._nonnegative())])
        averaging = self._averaging()
        fields += _field("rates", [repr(h) for h in (*self.betas, *self.others) if h in averaging])
        fields += _field("inputs", [*map(repr, self.inputs)])
        periods = [(RESERVED[slot], str(n)) for slot, n in self.original.periods if self.reads(slot)]
        fields += _field("periods", periods)
        fields += _field("roles", [*map(repr, self.original.roles)])
        if not self.alone:
            fields += _bracketed("arguments={", [f'"{key}": "{name}"' for key, name in self.keys().items()], "},")
        reads_gradient = self.reads(G) or any(slot != TWO_POINT for slot, _ in self.original.periods)
        flags = {"matrices": self.matrices, "gathers": self.gathers,
                 "averages": any(node.op == "worker_mean" for node in self.flow.nodes),
                 "reduces": any(not OPS[node.op].elementwise for node in self.flow.nodes),
                 "asks": self.asks}  # fmt: skip
        fields += [f"{name}=True," for name, value in flags.items() if value]
        fields += [] if reads_gradient else ["gradients=False,"]
        if self.fused:
            fields += [f"kernel_{way}=_KERNEL_{way.upper()}{self.suffix.upper()}," for way in ("c", "triton")]
        return ["Rule(", *indent(field.replace("'", '"') for field in fields), "),"]

    def _state_keys(self) -> list[str]:
        """The states' names in `optimizer.state[p]`, where some mean something else."""
        kept = zip(self.states, self.program.states, strict=True)
        parts = {name + end for name, state in kept if state.codec for end in state.codec.torch_parts if end}
        return free_names(self.states, {"step", "lost", *parts})

    def _form(self, index: int) -> str:
        """How a state is kept, as the class says it."""
        state = self.program.states[index]
        if state.codec is not None:
            return state.codec.torch
        return repr(str(state.kind)) if state.kind.plain else repr((state.kind.rows, state.kind.columns))

    def _nonnegative(self) -> list[str]:
        """The numbers that are refused below 0."""
        usual = {"lr": self.program.peak} | {name: self.default[name] for name in self.others}
        return [n for n, value in usual.items() if n in ("lr", "eps", "weight_decay") and value >= 0]

    # --- text -----------------------------------------------------------------------------------------------

    def kernels(self) -> list[str]:
        """The fused step as texts: for CPUs in C, for GPUs in Triton's Python."""
        if not self.fused:
            return []
        reads = [slot for slot in (LR, T, PROGRESS) if self.reads(slot)]
        hypers = {name: slot for name, slot in zip(self.hypers, self.flow.hypers, strict=True)}
        given = {slot: RESERVED[slot] for slot in reads} | {hypers[n]: n for n in (*self.betas, *self.others)}
        named = {slot: name for name, slot in hypers.items()}
        own = self.suffix.upper()
        texts = [(f'_KERNEL_C{own} = r"""\\', c_source(self.program, given), '"""'),
                 (f"_KERNEL_TRITON{own} = r'''\\", triton_source(self.program, named), "'''")]  # fmt: skip
        return ["", *(line for start, text, end in texts for line in ("", start, *text.splitlines(), end))]

    def update(self) -> list[str]:
        """The update function."""
        lines = list(self.source.lines)
        ends = [self.source.update]
        for index, end in self.flow.states:
            ends.append(self._kept_apart(self.source.new_states[index], end, self.kinds[index]))
        lines, ends = self._nested(lines, ends)
        exact = self._exact()
        head = ["dtype = params[0].dtype"] if any("(dtype)" in line for line in lines) else []
        if exact:
            head.append(_as_float64(exact))
        what = ", then the new states" if self.states else ""
        doc = f'"""The update{what}: a tensor per parameter."""'
        body = [doc, *head, *lines, f"return {', '.join(ends)}"]
        inputs = [self.source.names[v] for v in (LR, T, PROGRESS) if self.reads(v)]
        arguments = ["params", "grads", *self.states, *inputs, *self.betas, *self.others, *self.inputs]
        return [f"def _update{self.suffix}({', '.join(arguments)}):", *indent(body)]

    def _kept_apart(self, text: str, end: Arg, kind: Kind) -> str:
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


def _field(name: str, values: Sequence[str | tuple[str, str]]) -> list[str]:
    """A keyword argument that is a tuple."""
    if not values:
        return []
    shown = [v if isinstance(v, str) else f'("{v[0]}", {v[1]})' for v in values]
    return _bracketed(f"{name}=(", shown, ",)," if len(shown) == 1 else "),")


def _bracketed(start: str, values: Sequence[str], end: str) -> list[str]:
    """On one line, or each on its own."""
    line = f"{start}{', '.join(values)}{end}"
    return [line] if len(line) <= WIDTH - 12 else [start, *indent(f"{v}," for v in values), end.lstrip(",")]


def _as_float64(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} = torch.as_tensor({names[0]}, dtype=torch.float64)"
    shown = ", ".join(names)
    return f"{shown} = [torch.as_tensor(x, dtype=torch.float64) for x in ({shown})]"
