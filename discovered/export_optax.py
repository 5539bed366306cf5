"""A program as one readable Python file: an optax transformation that needs jax and optax and nothing of Stepsmith.

The lines that compute are those of `dsl.to_jax`. What optax has for all rules is optax's own here too: the learning
rate where it is a plain factor of the update, a decay `c * w` under it, and the routing of parameters to parts.

Choices:
- All is traced: hyperparameters and learning rate may be arrays, and a costly value that `every` makes stands in a
  `lax.cond`.
- The arithmetic of a part is in float32 at least, and in the dtype of its parameters together; updates have the dtype
  of their parameters, states too unless `mu_dtype` says otherwise.
- Numbers such as beta ** t are computed at that precision, as optax does.
- A matrix lies with its inputs in rows, as in Flax and Haiku, unless the caller says otherwise.
- Random projections are numpy's draws, called from the traced function: the same numbers as in every lowering.
"""

from __future__ import annotations

import builtins
import keyword

from ..dsl import Kind, Program, ProgramError
from ..dsl.flow import flow, needs_matrices
from ..dsl.layout import indent, wrapped
from ..dsl.parameter import ROLES
from ..dsl.program import FIRST, LR, NOISE, ORACLES, PROGRESS, T, W
from ..dsl.to_jax import JaxSource, helpers_of, reads_places
from .arguments import Named, free_names, name_constants
from .direction import decay, direction
from .export_torch import camel_case
from .header import LICENSE, header

#: Names that mean something else in the exported text.
_TAKEN = {
    "jax", "jnp", "optax", "np", "math", "NamedTuple", "learning_rate", "mask", "mu_dtype", "roles", "outputs_first",
    "total_steps", "seed", "params", "updates", "state", "extra", "count", "places", "kinds", "dtype", "init", "update",
    "w", "g", "t", "lr", "progress", "grads", "x", "y", "z", "i", "tree", "step", "parts", "part_of", *dir(builtins),
}  # fmt: skip


def export_optax(program: Program, name: str | None = None) -> str:
    r"""The text of a Python file with an optax optimizer that imports jax and optax alone.

    It holds `scale_by_NAME`, the direction without the learning rate, where the update is the learning rate times the
    rest; and the factory `NAME(learning_rate, ...)`, which takes a number or a schedule. Header hyperparameters and
    literals that play a known part are arguments (see `arguments.name_constants`); those of a program that others
    follow by role have its name before them, and RATE, its learning rate over that of the first.

    Raises ValueError for a `name` that is no Python name, and ProgramError for a program that an optax file does not
    hold: a schedule, codecs, oracles, noise.

    >>> text = export_optax(Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g"))
    >>> print(text[text.index("    return optax.chain") :].rstrip())
        return optax.chain(
            scale_by_sgd(),
            optax.scale_by_learning_rate(learning_rate),
        )
    """
    if reason := beyond_optax(program):
        raise ProgramError(f"{program.name} cannot be exported to optax: it {reason}")
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN):
        raise ValueError(f"an optimizer cannot be called {name!r}; give a Python name such as 'lion'")
    return _Writer(program, name).text()


def beyond_optax(program: Program) -> str:
    """What of a program an exported optax file does not do; "" when it does all."""
    if program.schedule:
        return "is a schedule; optax takes one as a function of the count of steps"
    for part in program.parts():
        live = flow(part)
        if any(part.states[index].codec for index, _ in live.states):
            return "keeps a state in a codec"
        if any(live.reads(slot) for slot in (NOISE, *ORACLES)):
            return "reads noise or an oracle"
    return ""


class _Part:
    """One program without a route: its update function and its transformation."""

    def __init__(self, program: Program, name: str, routed: bool) -> None:
        self.name, self.routed = name, routed
        self.named: Named = name_constants(program)
        whole = self.named.program
        first = whole.first_hyper
        states = [whole.name_of(FIRST + i) for i in range(len(whole.states))]
        taken = _TAKEN | {f"{age}_{state}" for age in ("old", "new") for state in states}
        self.hypers = free_names([whole.name_of(first + i) for i in range(len(whole.hypers))], taken)
        self.default = dict(zip(self.hypers, whole.hypers, strict=True))
        self.peak = whole.peak
        apart = direction(whole)
        self.plain = apart is not None
        split = decay(apart) if apart is not None else None
        self.decay = self.hypers[split[1] - first] if split else None
        self.program = split[0] if split else apart or whole
        self.source = JaxSource(self.program, {first + i: h for i, h in enumerate(self.hypers)})
        self.flow = self.source.flow
        self.read = [h for i, h in enumerate(self.hypers) if self.flow.reads(first + i)]
        self.states = [(i, self.source.names[FIRST + i], self.flow.kinds[FIRST + i]) for i, _ in self.flow.states]
        self.matrices = needs_matrices(self.program, self.flow)
        self.draws = reads_places(self.source)
        self.total = self.flow.reads(PROGRESS)
        self.arrays = any(kind not in (Kind.GLOBAL, Kind.SCALAR) for _, _, kind in self.states)

    @property
    def maker(self) -> str:
        """The name of the function that makes the transformation."""
        return f"scale_by_{self.name}" if self.plain else f"_{self.name}_part" if self.routed else self.name

    @property
    def state_class(self) -> str:
        """The name of the state's class."""
        return f"ScaleBy{camel_case(self.name)}State" if self.plain else f"{camel_case(self.name)}State"

    def options(self) -> list[str]:
        """The arguments beside numbers, with their defaults."""
        found = ["mu_dtype=None"] if self.arrays else []
        found += ["roles=None", "outputs_first=False"] if self.matrices else []
        return found + (["seed=0"] if self.draws else [])

    def arguments(self) -> list[str]:
        """The arguments of the maker with their defaults."""
        rate = [] if self.plain else [f"learning_rate={self.peak!r}"]
        total = ["*", "total_steps"] if self.total else []
        return [*rate, *(f"{h}={self.default[h]!r}" for h in self.read), *total, *self.options()]

    def remarks(self, own: str) -> list[str]:
        """What the file says of this part's constants; `own` tells it from other parts."""
        lines = self.named.remarks(self.default, own)
        if any(node.op == "worker_mean" for node in self.flow.nodes):
            lines.append("A mean over workers is over one: average gradients before.")
        return [*lines, ""] if lines else []

    # --- text ---------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        return [*self._state(), "", "", *self._update(), "", "", *self._maker()]

    def _state(self) -> list[str]:
        trees = [f"{name}: {'jax.Array' if kind is Kind.GLOBAL else 'optax.Params'}" for _, name, kind in self.states]
        more = [f"{line}  # {self._about(kind)}" for line, (_, _, kind) in zip(trees, self.states, strict=True)]
        body = ['"""What is kept between steps."""', "", "count: jax.Array  # steps so far, int32", *more]
        return [f"class {self.state_class}(NamedTuple):", *indent(body)]

    def _about(self, kind: Kind) -> str:
        if kind.plain:
            return {Kind.GLOBAL: "one number", Kind.SCALAR: "a number per parameter"}.get(kind, "like the parameters")
        return f"a matrix {kind} per parameter"

    def _update(self) -> list[str]:
        ends = [self.source.update, *(self.source.new_states[i] for i, _, _ in self.states)]
        what = "The direction" if self.plain else "The update"
        doc = f'"""{what}{", then the new states" if self.states else ""}: an array per parameter."""'
        body = [doc, *self.source.lines, f"return {', '.join(ends)}"]
        return [f"def _update_{self.name}({', '.join(self._inputs())}):", *indent(body)]

    def _inputs(self) -> list[str]:
        """What the update function takes."""
        params = ["params"] if self.flow.reads(W) else []
        numbers = [self.source.names[v] for v in (LR, T, PROGRESS) if self.flow.reads(v)]
        drawn = ["places", "seed"] if self.draws else []
        return [*params, "grads", *(name for _, name, _ in self.states), *numbers, *self.read, *drawn]

    def _maker(self) -> list[str]:
        if self.plain:
            doc = ['"""The direction of the rule above, without the learning rate."""']
        elif self.routed:
            doc = ['"""Minus the update."""']
        else:
            names = [one.partition("=")[0] for one in self.arguments() if one != "*"]
            doc = _factory_doc({}, names)
        body = [*doc, "", *self._init(), "", *self._step(), ""]
        body.append("return optax.GradientTransformationExtraArgs(init, update)")
        return [f"def {self.maker}({', '.join(self.arguments())}):", *indent(body)]

    def _init(self) -> list[str]:
        fields = [f"{name}={self._zero(kind)}," for _, name, kind in self.states]
        if not fields:
            return ["def init(params):", *indent(["del params", f"return {self.state_class}({_COUNT})"])]
        return ["def init(params):", *indent([f"return {self.state_class}(", *indent([f"{_COUNT},", *fields]), ")"])]

    def _zero(self, kind: Kind) -> str:
        if kind is Kind.GLOBAL:
            return "jnp.zeros((), _precision(jax.tree.leaves(params)))"
        if kind is Kind.SCALAR:
            return "jax.tree.map(lambda p: jnp.zeros((), _precision([p])), params)"
        if kind is Kind.TENSOR:
            return "jax.tree.map(lambda p: jnp.zeros_like(p, dtype=mu_dtype), params)"
        axes = f"({_axis(kind.rows)}, {_axis(kind.columns)})"
        return f"_blank(params, roles, outputs_first, {axes}, mu_dtype)"

    def _step(self) -> list[str]:
        trees = [name for _, name, kind in self.states if kind is not Kind.GLOBAL]
        body = ["del extra", *self._weights_and_gradients()]
        body += ["dtype = _precision(w)", "count = optax.safe_increment(state.count)"]
        body += self._numbers()
        body += [f"old_{name} = _leaves(updates, state.{name})" for name in trees]
        results = ", ".join(["step", *(f"new_{name}" for _, name, _ in self.states)])
        body.append(f"{results} = _update_{self.name}({', '.join(self._given())})")
        if self.matrices:
            whole = [("step", "w"), *((f"new_{n}", f"old_{n}") for _, n, k in self.states if k is Kind.TENSOR)]
            body += [f"{name} = _backs({name}, {like}, kinds, outputs_first)" for name, like in whole]
        fields = [f"{name}={self._kept(name, kind)}," for _, name, kind in self.states]
        if fields:
            body += [f"state = {self.state_class}(", *indent(["count=count,", *fields]), ")"]
        else:
            body.append(f"state = {self.state_class}(count=count)")
        moved = "map(_as, step, w)" if self.plain else "(-_as(x, p) for x, p in zip(step, w))"
        body.append(f"return _put(updates, updates, {moved}), state")
        return ["def update(updates, state, params=None, **extra):", *indent(body)]

    def _weights_and_gradients(self) -> list[str]:
        if self.flow.reads(W):
            wanted = ["if params is None:", "    raise ValueError(_NO_PARAMS)"]
            return [*wanted, "w, g = _leaves(updates, params), _leaves(updates, updates)"]
        return ["g = _leaves(updates, updates)", "w = g if params is None else _leaves(updates, params)"]

    def _numbers(self) -> list[str]:
        """What the update function takes beside arrays."""
        body = ["kinds = _roles(updates, roles)"] if self.matrices else []
        body += ["places = _places(updates)"] if self.draws else []
        body += ["t = count.astype(dtype)"] if self.flow.reads(T) or self.total else []
        body += ["progress = t / total_steps"] if self.total else []
        if self.flow.reads(LR):
            body.append("lr = learning_rate(state.count) if callable(learning_rate) else learning_rate")
        return body

    def _given(self) -> list[str]:
        """What the update function is called with."""
        arrays = ["w", "g"] if self.flow.reads(W) else ["g"]
        given = [self._in_precision(name, Kind.TENSOR) for name in arrays]
        for _, name, kind in self.states:
            alone = f"state.{name}.astype(dtype)"
            given.append(alone if kind is Kind.GLOBAL else self._in_precision(f"old_{name}", kind))
        return [*given, *self._inputs()[len(given) :]]

    def _in_precision(self, name: str, kind: Kind) -> str:
        """A list of leaves in the dtype of the arithmetic, as matrices where the rule reads those."""
        if self.matrices and kind is Kind.TENSOR:
            return f"_views({name}, dtype, kinds, outputs_first)"
        return f"_in({name}, dtype)"

    def _kept(self, name: str, kind: Kind) -> str:
        if kind is Kind.GLOBAL:
            return f"_as(new_{name}, state.{name})"
        return f"_put(updates, state.{name}, map(_as, new_{name}, old_{name}))"


class _Writer:
    """Writes the file, part by part."""

    def __init__(self, program: Program, name: str | None) -> None:
        self.program = program
        parts = program.parts()
        names = free_names([name or program.name, *(part.name for part in parts[1:])], _TAKEN)
        self.name, self.routed = names[0], len(parts) > 1
        self.parts = [_Part(part, own, self.routed) for part, own in zip(parts, names, strict=True)]
        self.outer = self._outer_names()

    def _outer_names(self) -> dict[tuple[str, str], str]:
        """The factory's name for each number of a part: those of later parts have the part's name before theirs."""
        first = self.parts[0]
        inner = [(first.name, h) for h in first.hypers]
        inner += [(part.name, h) for part in self.parts[1:] for h in ("rate", *part.hypers)]
        wanted = [h if part == first.name else f"{part}_{h}" for part, h in inner]
        return dict(zip(inner, free_names(wanted, _TAKEN), strict=True))

    def text(self) -> str:
        body = []
        for part in self.parts:
            body += [*part.lines(), "", ""]
        body += self._factory() if self.routed or self.parts[0].plain else []
        while not body[-1]:
            body.pop()
        head = [f"# {line}".rstrip() for line in self._comment()]
        helpers = [line for text in helpers_of(body) for line in (*text.splitlines(), "", "")]
        if any("_NO_PARAMS" in line for line in body):
            body = [*_NO_PARAMS, "", "", *body]
        used = "\n".join([*helpers, *body])
        head += ["", *(["import math"] if "math." in used else []), "from typing import NamedTuple", ""]
        head += ["import jax", "import jax.numpy as jnp", *(["import numpy as np"] if "np.random" in used else [])]
        head += ["import optax", "", ""]
        lines = [piece for line in (*head, *helpers, *body) for piece in wrapped(line)]
        return "\n".join(lines) + "\n"

    def _comment(self) -> list[str]:
        lines = [*header(self.program), ""]
        for part in self.parts:
            lines += part.remarks(f" of {part.name}" if part is not self.parts[0] else "")
        return [*lines, LICENSE]

    # --- the factory --------------------------------------------------------------------------------------

    def _factory(self) -> list[str]:
        numbers = [f"learning_rate={self.parts[0].peak!r}"]
        for place, part in enumerate(self.parts):
            numbers += [f"{self.outer[part.name, 'rate']}={self._rate(part)!r}"] if place else []
            used = [h for h in part.hypers if h in part.read or h == part.decay]
            numbers += [f"{self.outer[part.name, h]}={part.default[h]!r}" for h in used]
        total = ["*", "total_steps"] if any(part.total for part in self.parts) else []
        named = [*numbers, *total, *(f"{name}={default}" for name, default in self._options())]
        body = self._routing() if self.routed else _statement("return ", self._chain(self.parts[0]))
        names = [one.partition("=")[0] for one in named if one != "*"]
        return [f"def {self.name}({', '.join(named)}):", *indent([*_factory_doc(self._about(), names), *body])]

    def _routing(self) -> list[str]:
        body = ["parts = {}"]
        for part in self.parts:
            body += _statement(f'parts["{part.name}"] = ', self._chain(part))
        claimed = [self.parts[i].name for i in self.program.assign(ROLES)]
        body += ["part_of = {"]
        body += indent(f'"{role}": "{part}",' for role, part in zip(ROLES, claimed, strict=True))
        return [*body, "}", "return optax.partition(parts, lambda tree: _assigned(tree, roles, part_of))"]

    def _about(self) -> dict[str, str]:
        """What the arguments are that only some rules have."""
        decays = [self.outer[part.name, part.decay] for part in self.parts if part.decay]
        about = {"mask": f"{_ABOUT['mask']} {' and '.join(decays)} act{'s' if len(decays) == 1 else ''}."}
        rates = {self.outer[part.name, "rate"]: part.name for part in self.parts[1:]}
        return about | {rate: f"Learning rate of {part} over learning_rate." for rate, part in rates.items()}

    def _rate(self, part: _Part) -> float:
        """A part's peak learning rate over the first one's."""
        return part.peak / self.parts[0].peak if self.parts[0].peak else 1.0

    def _options(self) -> list[tuple[str, str]]:
        wanted = dict(option.split("=") for part in self.parts for option in part.options())
        if self.routed:
            wanted = {"roles": "None", **wanted}
        if any(part.decay for part in self.parts):
            wanted = {"mask": "None", **wanted}
        order = ("mask", "mu_dtype", "roles", "outputs_first", "seed")
        return [(name, wanted[name]) for name in order if name in wanted]

    def _chain(self, part: _Part) -> list[str]:
        """The transformation of a part, from its direction to the update."""
        rate = "learning_rate"
        if part is not self.parts[0]:
            rate = f"_times({self.outer[part.name, 'rate']}, learning_rate)"
        given = [one.partition("=")[0] for one in part.arguments() if one != "*"]
        outer = {"learning_rate": rate} | {h: self.outer[part.name, h] for h in part.hypers}
        made = f"{part.maker}({', '.join(f'{one}={outer.get(one, one)}' for one in given)})"
        if not part.plain:
            return [made]
        decayed = [f"optax.add_decayed_weights({outer[part.decay]}, mask),"] if part.decay else []
        return ["optax.chain(", *indent([f"{made},", *decayed, f"optax.scale_by_learning_rate({rate}),"]), ")"]


_ABOUT = {
    "learning_rate": "A number, or a schedule of the count of steps.",
    "total_steps": "Steps of the whole run; the rule reads the share that is over.",
    "mask": "A tree of booleans like the parameters, or a function that makes one: where",
    "mu_dtype": "Dtype of arrays kept between steps; that of the parameters unless given.",
    "roles": "matrix, vector, embedding or head for each parameter, as a tree or a function of one; by axes if None.",
    "outputs_first": "Whether matrices have a row per output, as in torch and Equinox; Flax and Haiku: False.",
    "seed": "Of random projections.",
}
_COUNT = "count=jnp.zeros((), jnp.int32)"
_NO_PARAMS = """_NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, "
    "but you are not passing `params` when calling `update`."
)""".splitlines()


def _statement(to: str, lines: list[str]) -> list[str]:
    return [to + lines[0], *lines[1:]]


def _factory_doc(about: dict[str, str], names: list[str]) -> list[str]:
    lines = [f"    {name}: {(_ABOUT | about).get(name, 'As in the program.')}" for name in names]
    return ['"""The rule above.', "", "Args:", *lines, '"""']


def _axis(axis: str | int) -> str:
    return f'"{axis}"' if isinstance(axis, str) else str(axis)
