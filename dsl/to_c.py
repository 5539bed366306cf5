"""A program as C: one step over any number of tensors in one call, as fast as memory.

The text is `fused.c` with the program's passes written in. It is compiled for the dtypes at hand by lines that go
before it (`defines`), and needs nothing of Stepsmith.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources

from .flow import Node
from .kind import Kind
from .ops import OPS
from .passes import Pass, Passes
from .program import FIRST, Arg, Const, G, Program, T, W
from .source import choose_names

_COMPARISONS = ("less", "less_equal", "greater", "greater_equal")

_ROUNDING = [
    "#if ROUND == 2",
    "WEIGHT *restrict to_lost = AT(WEIGHT, LOST);",
    "#elif ROUND == 1",
    "const uint32_t from = hashed(J->seed ^ hashed((uint32_t)i) ^ (uint32_t)begin);",
    "#endif",
]


def c_source(program: Program, given: Mapping[int, str]) -> str:
    r"""The text of a fused step of a program that `passes.fusable` allows.

    `given` are the numbers that the caller passes, by value number, with their names, in their order.

    >>> program = Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g")
    >>> [line for line in c_source(program, {2: "lr"}).splitlines() if "*new_w =" in line]
    ['    *new_w = w - v_t0;']
    """
    return _CSource(program, given).text()


class _CSource:
    def __init__(self, program: Program, given: Mapping[int, str]) -> None:
        self.plan = Passes(program)
        self.program, self.flow, self.given = program, self.plan.flow, given
        self.labels = choose_names(self.flow, {W: "w", G: "g"} | dict(given), given, {"w", "g"})
        # Prefixes, so that no name is one of C's, of its libraries' macros or of this text's own: those without a
        # prefix, and those with new_, low_, high_, to_, most_, less_ and rest_ that go with a value.
        self.names = {v: name if v in (W, G) else f"v_{name}" for v, name in self.labels.items()}
        states = [FIRST + i for i, _ in self.flow.states]
        self.tensors = [s for s in states if self.flow.kinds[s] is Kind.TENSOR]
        self.singles = [s for s in states if self.flow.kinds[s] is not Kind.TENSOR]
        self.row: dict[Arg, int] = {v: i for i, v in enumerate([W, G, *self.tensors, *self.singles])}
        single = [v for v in self._nodes() if self.plan.node(v).kind is not Kind.TENSOR]
        own = [v for v in self.singles if self.flow.kinds[v] is Kind.GLOBAL]
        numbers = [*given, *own, *(v for v in single if self.plan.node(v).kind is Kind.GLOBAL)]
        scalars = [v for v in (*self.singles, *single) if self.flow.kind(v) is Kind.SCALAR]
        self.number = {v: f"k[{i}]" for i, v in enumerate(numbers)}
        self.scalar = {v: f"s[{i}]" for i, v in enumerate(scalars)}

    def _nodes(self) -> range:
        return range(self.flow.first_node, self.flow.first_node + len(self.flow.nodes))

    def text(self) -> str:
        passes = self.plan.passes
        shared = any(OPS[self.plan.node(v).op].result is Kind.GLOBAL for one in passes for v in one.reductions)
        counts = T in self.given or any(name == "progress" for name in self.given.values())
        rows = len(self.row)
        functions = [self._take()]
        for number, one in enumerate(passes):
            functions += [self._element_function(number, one), self._numbers(number, one), self._scalars(number, one),
                          self._pass(number, one), self._gather(number, one)]  # fmt: skip
        functions.append(self._keep())
        marks = {
            "TITLE": self.program.name, "PASSES": len(passes), "NUMBERS": len(self.number),
            "SCALARS": len(self.scalar), "SUMS": max(len(one.reductions) for one in passes),
            "SHARED": int(shared), "LOST": rows, "STEPS": f"({rows} + (ROUND == 2))" if counts else 0,
            "ROWS": ", ".join(["weights", "gradients", *(self.labels[v] for v in (*self.tensors, *self.singles))]),
            "FUNCTIONS": "\n\n".join(functions),
        } | {f"EACH_{kind.upper()}": ", ".join(f"{kind}_{i}" for i in range(len(passes)))
             for kind in ("numbers", "scalars", "pass", "gather")}  # fmt: skip
        text = resources.files(__package__).joinpath("fused.c").read_text("utf-8")
        return re.sub(r"@([A-Z_]+)@", lambda mark: str(marks[mark[1]]), text)

    # --- single numbers, in double ---

    def _take(self) -> str:
        lines = [f"k[{i}] = given[{i}]; /* {name} */" for i, name in enumerate(self.given.values())]
        lines += [f"{self.number[v]} = *(real *)J->table[{self.row[v]} * J->count]; /* {self.labels[v]} */"
                  for v in self.singles if v in self.number]  # fmt: skip
        return _function("void take_numbers(const job *J, const double *given, double *k)", lines)

    def _numbers(self, number: int, one: Pass) -> str:
        lines = [self._finished(v, self.number[v]) for v in self._reduced(number) if v in self.number]
        lines += [f"{self.number[v]} = {self._expression(v)}; /* {self.labels[v]} */" for v in one.numbers]
        return _function(f"void numbers_{number}(double *k)", lines)

    def _scalars(self, number: int, one: Pass) -> str:
        lines = []
        if number == 0:
            lines += [f"{self.scalar[v]} = *(real *)J->table[{self.row[v]} * J->count + i]; /* {self.labels[v]} */"
                      for v in self.singles if v in self.scalar]  # fmt: skip
        lines += [self._finished(v, self.scalar[v]) for v in self._reduced(number) if v in self.scalar]
        lines += [f"{self.scalar[v]} = {self._expression(v)}; /* {self.labels[v]} */" for v in one.scalars]
        if any(re.search(r"\bn\b", line.partition("/*")[0]) for line in lines):
            lines.insert(0, "const double n = J->size[i];")
        return _function(f"void scalars_{number}(const job *J, i64 i, const double *k, double *s)", lines)

    def _reduced(self, number: int) -> Sequence[int]:
        """The reductions that were summed up in the pass before."""
        return self.plan.passes[number - 1].reductions if number else ()

    def _finished(self, value: int, at: str) -> str:
        finish = re.sub(r"\bx\b", at, OPS[self.plan.node(value).op].finish)
        return f"{at} = {finish}; /* {self.labels[value]} */"

    def _gather(self, number: int, one: Pass) -> str:
        lines = []
        for place, value in enumerate(one.reductions):
            shared = value in self.number
            at = self.number[value] if shared else self.scalar[value]
            new = f"sums[{place}]"
            both = f"{at} != {at} || {at} > {new} ? {at} : {new}"
            both = both if self.plan.node(value).op == "amax" else f"{at} + {new}"
            lines.append(f"{at} = {'first_of_all' if shared else 'first'} ? {new} : {both};")
        head = f"void gather_{number}(const double *sums, int first, int first_of_all, double *k, double *s)"
        return _function(head, lines)

    def _keep(self) -> str:
        ends = {FIRST + index: end for index, end in self.flow.states}
        lines = [f"*(real *)J->table[{self.row[v]} * J->count + i] = {self._single(ends[v])};" for v in self.singles]
        return _function("void keep_singles(const job *J, i64 i, const double *k, const double *s)", lines)

    def _single(self, arg: Arg) -> str:
        """A single number, in double."""
        if isinstance(arg, Const):
            shown = repr(arg.value)
            return f"({shown})" if shown.startswith("-") else shown
        return self.number[arg] if arg in self.number else self.scalar[arg]

    def _expression(self, value: int) -> str:
        node = self.plan.node(value)
        if node.op == "size":
            return "n"
        return _spelled(node.op, [self._single(a) for a in node.args])

    # --- elements ---

    def _pass(self, number: int, one: Pass) -> str:
        last = number == len(self.plan.passes) - 1
        reads = self._inputs(one)
        written = [W, *self.tensors] if last else []
        lines = [self._pointer(v, v in written) for v in sorted({*reads, *written})]
        lines += _ROUNDING if last else []
        lines += [f"const real {name} = {value};" for name, value in self._constants(one).items()]
        lines += self._writing(number, one) if last else self._summing(number, one)
        what = "const job *J, i64 i, i64 begin, i64 n, const double *k, const double *s, double *sums"
        divisors = self._divisors(one)
        if not divisors:
            return _function(f"void pass_{number}({what})", lines)
        usual = " && ".join(f"USUAL({self._single(v)})" for v in divisors)
        choice = [f"if ({usual}) over_{number}(J, i, begin, n, k, s, sums, 1);",
                  f"else over_{number}(J, i, begin, n, k, s, sums, 0);"]  # fmt: skip
        both = _function(f"inline ALWAYS void over_{number}({what}, const int usual)", lines)
        return both + "\n\n" + _function(f"void pass_{number}({what})", choice)

    def _inputs(self, one: Pass) -> list[int]:
        """The tensors that a pass loads; the last one writes over weights."""
        return sorted({*self.plan.reads(one), *([] if one.reductions else [W])})

    def _summing(self, number: int, one: Pass) -> list[str]:
        """The loop of a pass that adds up: plain values in blocks, squares and products in double throughout."""
        places = range(len(one.reductions))
        largest = {place for place in places if self.plan.node(one.reductions[place]).op == "amax"}
        lines = [f"double sum{place} = {'-INFINITY' if place in largest else '0'};" for place in places]
        lines.append("for (i64 from = 0; from < n; from += BLOCK) {")
        lines.append("    const i64 to = from + BLOCK < n ? from + BLOCK : n;")
        for place, kind in enumerate(self._sum_kinds(one)):
            lines.append(f"    {kind} part{place} = {f'sum{place}' if place in largest else '0'};")
        parts = ", ".join(f"part{place}" for place in places)
        simd = [] if largest else [f"    #pragma omp simd reduction(+ : {parts})"]

        def add(half: str) -> list[str]:
            new = half.lower() or "new"
            kinds = enumerate(self._sum_kinds(one))
            lines = [*(f"{kind} {new}_x{place};" for place, kind in kinds), self._call(number, one, half, new)]
            for place in places:
                at, x = f"part{place}", f"{new}_x{place}"
                largest_yet = f"{at} = {at} != {at} || {at} > {x} ? {at} : {x};"
                lines.append(largest_yet if place in largest else f"{at} += {x};")
            return [f"        {line}" for line in lines]

        lines += [
            "    i64 done = from;",
            "#if PAIRED",
            *simd,
            "    for (i64 j = from / 2; j < to / 2; j++) {",
            *add("LOW"),
            *add("HIGH"),
            "    }",
            "    done = to / 2 * 2;",
            "#endif",
            *simd,
            "    for (i64 j = done; j < to; j++) {",
            *add(""),
            "    }",
        ]
        lines += [f"    sum{place} {'=' if place in largest else '+='} part{place};" for place in places]
        return [*lines, "}", *(f"sums[{place}] = sum{place};" for place in places)]

    def _sum_kinds(self, one: Pass) -> list[str]:
        """In what the reductions of a pass are added up within a block."""
        ops = [self.plan.node(v).op for v in one.reductions]
        return ["real" if OPS[op].c == "x" and op != "amax" else "double" for op in ops]

    def _summand(self, value: int, exact: bool = False) -> str:
        """What an element adds to a reduction; `exact` in double, so that squares of large numbers are finite."""
        node = self.plan.node(value)
        return _spelled(node.op, [f"(double){self._operand(a)}" if exact else self._operand(a) for a in node.args])

    def _element_function(self, number: int, one: Pass) -> str:
        """What becomes of one element in a pass: what it adds to reductions, or its new weight and states."""
        ends = {FIRST + index: end for index, end in self.flow.states}
        reads = [*(self.names[v] for v in self._inputs(one)), *self._constants(one)]
        lines = self._computed(one)
        if one.reductions:
            kinds = self._sum_kinds(one)
            writes = [f"{kind} *new_x{place}" for place, kind in enumerate(kinds)]
            lines += [f"*new_x{place} = {self._summand(v, exact=kinds[place] == 'double')};"
                      for place, v in enumerate(one.reductions)]  # fmt: skip
        else:
            writes = [f"real *new_{self.names[v]}" for v in (W, *self.tensors)]
            lines += [f"*new_w = w - {self._operand(self.flow.update)};"]
            lines += [f"*new_{self.names[v]} = {self._operand(ends[v])};" for v in self.tensors]
        what = [*(f"real {name}" for name in reads), *(["int usual"] if self._divisors(one) else []), *writes]
        return _function(f"inline ALWAYS void element_{number}({', '.join(what)})", lines)

    def _call(self, number: int, one: Pass, half: str, new: str) -> str:
        """A call of a pass's element function on an element, or on one of a pair."""
        given = [*(self._loaded(v, half) for v in self._inputs(one)), *self._constants(one)]
        given += ["usual"] if self._divisors(one) else []
        made = [f"x{place}" for place in range(len(one.reductions))]
        made = made or [self.names[v] for v in (W, *self.tensors)]
        return f"element_{number}({', '.join([*given, *(f'&{new}_{name}' for name in made)])});"

    def _writing(self, number: int, one: Pass) -> list[str]:
        """The loop of the last pass: bfloat16 in pairs, a word at a time, or element by element."""
        names = [self.names[v] for v in (W, *self.tensors)]
        return [
            "i64 done = 0;",
            "#if PAIRED",
            "for (i64 j = 0; j < n / 2; j++) {",
            f"    real {', '.join(f'{half}_{name}' for half in ('low', 'high') for name in names)};",
            f"    {self._call(number, one, 'LOW', 'low')}",
            f"    {self._call(number, one, 'HIGH', 'high')}",
            *(f"    ((pair *)to_{name})[j] = both(low_{name}, high_{name});" for name in names),
            "}",
            "done = n / 2 * 2;",
            "#endif",
            "for (i64 j = done; j < n; j++) {",
            f"    real {', '.join(f'new_{name}' for name in names)};",
            f"    {self._call(number, one, '', 'new')}",
            "    WRITE(new_w);",
            *(f"    to_{name}[j] = STORE(STATE, new_{name});" for name in names[1:]),
            "}",
        ]

    def _loaded(self, value: int, half: str = "") -> str:
        """An element of a tensor in memory, or one of a pair of them."""
        kind, name = {W: "WEIGHT", G: "GRAD"}.get(value, "STATE"), self.names[value]
        text = f"{half}(((const pair *)to_{name})[j])" if half else f"LOAD({kind}, to_{name}[j])"
        return f"SCALE({text})" if value == G else text

    def _computed(self, one: Pass) -> list[str]:
        return [f"const real {self.names[v]} = {self._element(v, bool(one.reductions))};" for v in one.elements]

    def _pointer(self, value: int, written: bool) -> str:
        kind = {W: "WEIGHT", G: "GRAD"}.get(value, "STATE")
        return f"{'' if written else 'const '}{kind} *restrict to_{self.names[value]} = AT({kind}, {self.row[value]});"

    def _constants(self, one: Pass) -> dict[str, str]:
        """Single numbers that elements read, in the precision of the arithmetic; 1 - a of an average in double."""
        args: dict[Arg, None] = {}
        rests: dict[Arg, None] = {}
        for value in (*one.elements, *one.reductions):
            node = self.plan.node(value)
            args.update(dict.fromkeys(node.args))
            if node.op == "interp" and self.flow.kind(node.args[2]) is not Kind.TENSOR:
                rests[node.args[2]] = None
        if not one.reductions:
            args.update(dict.fromkeys([self.flow.update, *(end for _, end in self.flow.states)]))
        single = [a for a in args if not isinstance(a, Const) and self.flow.kind(a) is not Kind.TENSOR]
        found = {self.names[a]: self._single(a) for a in single}
        found |= {self._rest(a): f"1 - {self._single(a)}" for a in rests if not isinstance(a, Const)}
        for name in (self.names[v] for v in self._divisors(one)):
            found |= {f"most_{name}": f"MOST_OF({name})", f"less_{name}": f"LESS_OF({name})"}
        return found

    def _divisors(self, one: Pass) -> list[int]:
        """Single numbers by which elements are divided: worth a look whether products do."""
        nodes = [self.plan.node(v) for v in one.elements]
        found = dict.fromkeys(node.args[1] for node in nodes if node.op == "divide")
        return [a for a in found if not isinstance(a, Const) and self.flow.kind(a) is not Kind.TENSOR]

    def _rest(self, arg: Arg) -> str:
        return f"(real)(1 - {arg.value!r})" if isinstance(arg, Const) else f"rest_{self.names[arg]}"

    def _operand(self, arg: Arg) -> str:
        return f"(real){self._single(arg)}" if isinstance(arg, Const) else self.names[arg]

    def _element(self, value: int, summed: bool) -> str:
        node = self.plan.node(value)
        args = [self._operand(a) for a in node.args]
        if node.op == "interp" and self.flow.kind(node.args[2]) is not Kind.TENSOR:
            return f"{self._rest(node.args[2])} * {args[0]} + {args[2]} * {args[1]}"
        text = _spelled(node.op, args)
        if summed and node.op == "greater" and node.args[1] == Const(0.0):
            return self._same_sign(node.args[0]) or text
        if node.op != "divide" or isinstance(node.args[1], Const) or self.flow.kind(node.args[1]) is Kind.TENSOR:
            return text
        (x, y), above = args, self._made_by(node.args[0])
        truth = above is not None and above.op in _COMPARISONS
        quick = f"({x} != 0 ? 1 / {y} : 0 / {y})" if truth else f"divided({x}, most_{y}, less_{y})"
        return f"usual ? {quick} : {text}"

    def _same_sign(self, value: Arg) -> str | None:
        """For sign(x) * y > 0: a comparison of signs, where no sign is worked out for another use."""
        product = self._made_by(value)
        for x, y in [product.args, product.args[::-1]] if product and product.op == "multiply" else []:
            sign = self._made_by(x)
            if sign and sign.op == "sign" and sign.kind is Kind.TENSOR:
                inner, other = self._operand(sign.args[0]), self._operand(y)
                return f"islessgreater({other}, 0) & ({inner} * copysign((real)1, {other}) > 0) ? 1 : 0"
        return None

    def _made_by(self, arg: Arg) -> Node | None:
        """The node that makes a value, if it is not given."""
        return self.plan.node(arg) if isinstance(arg, int) and arg >= self.flow.first_node else None


def _spelled(op: str, args: Sequence[str]) -> str:
    """A row's C with its arguments put in; functions are those of tgmath.h."""
    text = OPS[op].c.replace("{f}", "")
    return re.sub(r"\b[xyz]\b", lambda letter: args["xyz".index(letter[0])], text)


def _function(head: str, lines: Sequence[str]) -> str:
    body = "\n".join(line if line.startswith("#") else "    " + line for line in lines)
    return f"static {head} {{\n{body}\n}}" if lines else f"static {head} {{}}"
