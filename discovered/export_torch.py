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
import copyreg
import keyword
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..dsl import Program
from ..dsl.layout import WIDTH, indent, wrapped
from ..dsl.program import PROGRESS, TWO_POINT
from ..dsl.source import executed, helpers
from ..dsl.torch_source import helpers_of
from .export_schedule import export_schedule
from .header import LICENSE, header
from .rule_text import RuleText

if TYPE_CHECKING:
    import torch

_FAMILY = {
    "sgd": "SGD", "adamw": "AdamW", "nadamw": "NAdamW", "rmsprop": "RMSprop", "adabelief": "AdaBelief",
    "signsgd": "SignSGD", "powersign": "PowerSign", "addsign": "AddSign",
}  # fmt: skip
#: Names that mean something else in the constructor, in a parameter group or in the exported text.
_TAKEN = {
    "self", "params", "grads", "lr", "betas", "maximize", "total_steps", "param_names", "initial_lr", "t", "progress",
    "role", "seed", "perturbation", "draw", "torch", "math", "dtype", "x", "y", "z", "w", "g", "_divide", "_quantile",
    "_update", "_real", "_precision", *dir(builtins),
}  # fmt: skip


def export_torch(program: Program, class_name: str | None = None, kernels: bool = True) -> str:
    r"""The text of a Python file with a `torch.optim.Optimizer` subclass that imports torch alone.

    Header hyperparameters are constructor arguments under their names, `beta1, beta2, ...` as `betas`;
    literals that play a known part become arguments too (see `arguments.name_constants`), the rest stay in
    the text. The constructor takes `maximize`, and `total_steps` where the program reads `progress`.

    Of a program that others follow by role the class splits groups of parameters by role; arguments of those others
    have their program's name before theirs.

    A schedule becomes a function that makes a `LambdaLR`, see `export_schedule`. Without `kernels` the file is half as
    long and compiles nothing: torch's multi-tensor functions step.

    Raises ValueError for a `class_name` that is no Python name.

    >>> text = export_torch(Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g"))
    >>> print(text[text.index("def _update") : text.index("_KERNEL_C")].strip())
    def _update(params, grads, lr):
        ...
        return torch._foreach_mul(grads, lr)
    """
    name = _name(program, class_name)
    if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        raise ValueError(f"a class cannot be called {name!r}; give a Python name such as 'Lion'")
    text = export_schedule(program, name) if program.schedule else _Writer(program, name, kernels).text()
    if _defined(text).count(name) != 1:
        raise ValueError(f"a class cannot be called {name!r}, which means something else in the file")
    return text


def torch_class(program: Program, class_name: str | None = None) -> type[torch.optim.Optimizer]:
    r"""The optimizer class that `export_torch` writes, made by executing exactly that text.

    Its instances can be copied and pickled: the pickle carries the text. Of a schedule it is the function.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch_class(Program.parse("def sgd(w, g, lr=0.5):\n  return lr * g"))([weight])
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.tolist()
    [0.5, 0.5]
    """
    return _class(export_torch(program, class_name), _name(program, class_name))


def _defined(text: str) -> list[str]:
    """The names that a file imports and defines."""
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def _name(program: Program, given: str | None) -> str:
    """What is asked for, or what the program is called: a class in camel case, a schedule as it stands."""
    usual = program.name if program.schedule else camel_case(program.name)
    return usual if given is None else given


def camel_case(name: str) -> str:
    """A program's name as a class is called.

    >>> [camel_case(n) for n in ("lion", "c_adamw", "train")]
    ['Lion', 'CAdamW', 'Train']
    """
    return "".join(_FAMILY.get(part, part.capitalize()) for part in name.split("_")) or "Rule"


@cache
def _class(text: str, class_name: str) -> type[torch.optim.Optimizer]:
    made: Any = executed(text, class_name, __name__)[class_name]

    def reduce(self: torch.optim.Optimizer) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        if type(self) is not made:  # a subclass is found by its name, as any class is
            return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]
        return _blank, (text, class_name), self.__getstate__()

    if isinstance(made, type):
        setattr(made, "__reduce__", reduce)  # noqa: B010
    return made


def _blank(text: str, class_name: str) -> torch.optim.Optimizer:
    """An instance without state, which unpickling fills."""
    made = _class(text, class_name)
    return made.__new__(made)


class _Writer:
    """Writes the file, part by part."""

    def __init__(self, original: Program, class_name: str, kernels: bool) -> None:
        self.original, self.class_name = original, class_name
        parts = original.parts()
        self.rules = [RuleText(part, parts, self._taken(parts), kernels) for part in parts]
        self.total = any(rule.reads(PROGRESS) for rule in self.rules)
        self.by_role = len(parts) > 1 or any(rule.matrices for rule in self.rules)
        self.fused = any(rule.fused for rule in self.rules)
        self.samples = any(rule.inputs for rule in self.rules)
        self.two_point = any(rule.reads(TWO_POINT) for rule in self.rules)

    def _taken(self, parts: Sequence[Program]) -> set[str]:
        """Names that no hyperparameter may have: those of flags, and arguments of later parts."""
        names = {"lr", "betas"} | {p.name_of(p.first_hyper + i) for p in parts for i in range(len(p.hypers))}
        return _TAKEN | {*shared_flags()} | {f"{part.name}_{name}" for part in parts[1:] for name in names}

    def text(self) -> str:
        shared = [module_text(module) for module in self._modules()]
        rules = [rule.update() for rule in self.rules]
        body = [
            line for text in helpers_of([x for rule in rules for x in rule]) for line in (*text.splitlines(), "", "")
        ]
        for number, (rule, update) in enumerate(zip(self.rules, rules, strict=True)):
            body += [*(["", ""] if number else []), *_laid_out(update), *rule.kernels()]
        imports = ["import torch", *(line for imports, _ in shared for line in imports)]
        imports += ["import difflib", "from collections.abc import Iterable"] if self.by_role else []  # for the helpers
        public = [f'"{name}"' for name in sorted({self.class_name, *(["role_groups"] if self.by_role else [])})]
        lines = [
            *_laid_out(self.comment()),
            "",
            "from __future__ import annotations",
            "",
            *_blocks(_merged(imports)),
            f"__all__ = [{', '.join(public)}]",
            "",
        ]
        lines += [*_title("the rule"), *body, "", "", *_title("what exported rules share")]
        for text in [*(_role_helpers() if self.by_role else []), *(text for _, text in shared)]:
            lines += [*text.splitlines(), "", ""]
        lines += [*_title("the optimizer"), *_laid_out(self.optimizer())]
        return "\n".join(lines) + "\n"

    def _modules(self) -> list[str]:
        """The modules of this package whose text the file carries."""
        codecs = any(state.codec for rule in self.rules for state in rule.program.states)
        modules = ["dsl.dynamic_tree", "dsl.torch_codecs"] if codecs else []
        modules += ["discovered.optimizer"]
        modules += ["dsl.compile_c", "discovered.fused_step"] if self.fused else []
        modules += ["dsl.parameter", "discovered.by_role", "dsl.roles"] if self.by_role else []
        return modules + (["discovered.sampled"] if self.samples else [])

    # --- what the file is -------------------------------------------------------------------------------

    def comment(self) -> list[str]:
        more = [f"Arguments: {', '.join(x for rule in self.rules for x in rule.arguments())}."]
        more += [line for rule in self.rules for line in rule.remarks()]
        wrapped_more = (part for line in more for part in textwrap.wrap(line, WIDTH - 2))
        lines = [*header(self.original), "", *wrapped_more, "", LICENSE, "Needs torch 2.6 or later."]
        lines += _COMPILES if self.fused else []
        return [f"# {line}".rstrip() for line in lines]

    # --- the class --------------------------------------------------------------------------------------

    def optimizer(self) -> list[str]:
        mixins = {"Sampled": self.samples, "ByRole": self.by_role, "Fused": self.fused}
        bases = [*(name for name, has in mixins.items() if has), "RuleOptimizer"]
        rows = [line for rule in self.rules for line in rule.row()]
        return [
            f"class {self.class_name}({', '.join(bases)}):",
            *indent(self._class_doc()),
            "",
            *indent(["_rules = (", *indent(rows), ")"]),
            "",
            *indent(self._constructor()),
        ]

    def _class_doc(self) -> list[str]:
        counts = any(rule.counts for rule in self.rules)
        gathers = any(rule.gathers for rule in self.rules)
        shared = "a device, a precision and a count of steps" if counts else "a device and a precision"
        first, *later = self.rules
        lines = [
            '"""The rule above.',
            "",
            f"Parameters of a group that share {shared} step together{';' if gathers else '.'}",
            *(["a reduction over all parameters is over those."] if gathers else []),
            *(_BY_ROLE if self.by_role else []),
            "",
            "Args:",
            "    params: Parameters, groups of them, or (name, parameter) pairs.",
            *indent(first.argument_docs()),
        ]
        if self.total:
            lines.append("    total_steps: Steps of the whole run; the rule reads the share that is over.")
        lines += indent(line for rule in later for line in rule.argument_docs())
        lines += ["    seed: Of random draws."] if self.samples else []
        lines += ["    perturbation: How far from the weights two_point reads the loss."] if self.two_point else []
        return [*lines, *_FLAG_DOCS, '"""']

    def _constructor(self) -> list[str]:
        total = ["total_steps"] if self.total else []
        flags = {name: repr(value).replace("'", '"') for name, value in shared_flags().items()}
        first, *later = self.rules
        own = (["seed=0"] if self.samples else []) + (["perturbation=1e-3"] if self.two_point else [])
        more = [*(x for rule in later for x in rule.arguments()), *own]
        arguments = ["self", "params", *first.arguments(), "*", *total, *more, *(f"{n}={v}" for n, v in flags.items())]
        keys = [*(key for rule in self.rules for key in rule.keys().values()), *total, *(x.split("=")[0] for x in own)]
        defaults = ", ".join(f'"{key}": {key}' for key in keys)
        body = [line for rule in self.rules for line in rule.checks()]
        body += [f"numbers = {{{defaults}}}"]
        body += [f"self._start(params, numbers, {', '.join(f'{name}={name}' for name in flags)})"]
        return [f"def __init__({', '.join(arguments)}):", *indent(body)]


_COMPILES = """\
At the first step on a CPU the C text below is compiled by $CC, or cc, for this machine; the library is kept in
$STEPSMITH_CACHE, or stepsmith/ in the user's cache folder. Without a compiler, or with foreach=True, torch's own
functions step.""".splitlines()
_BY_ROLE = """\
Each group is split into one for each role of its parameters: its "role" if it has one, else "matrix" from two axes,
"vector" below. `role_groups(module)` makes groups that know embeddings and heads too. What a given group says holds for
all of its parameters, but that "lr" is the first rule's rate, to which those of the others keep
their ratio.""".splitlines()
_FLAG_DOCS = """\
    maximize: Climb instead of descend.
    foreach: True: torch's multi-tensor functions; False: a tensor at a time.
    capturable: Counts of steps live on the device, so that a CUDA graph can hold a step. Parameters that step
        together are then taken to have been stepped equally often.
    differentiable: Steps are part of the graph of gradients; then they are not fused.
    fused: One compiled kernel over all tensors. None: on CPUs and GPUs, where there is one and nothing else is
        asked for.
    state_dtype: Of states that hold a tensor per parameter; None: that of the parameter.
    rounding: Of bfloat16 and float16 weights: "nearest", "stochastic" (bfloat16), or "kahan", which keeps what
        rounding lost in one more state.""".splitlines()


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


def _role_helpers() -> list[str]:
    """What the text of `roles` calls of other modules."""
    return [helpers("errors.py")[name] for name in ("short", "quoted", "did_you_mean")]


def _merged(imports: Iterable[str]) -> list[str]:
    """Import lines in order, one for each module; torch last."""
    plain = sorted({line for line in imports if line.startswith("import ") and line != "import torch"})
    names: dict[str, set[str]] = {}
    for line in imports:
        if line.startswith("from "):
            module, _, some = line.removeprefix("from ").partition(" import ")
            names.setdefault(module, set()).update(some.split(", "))
    merged = [
        f"from {module} import {', '.join(sorted(some, key=_as_sorted))}" for module, some in sorted(names.items())
    ]
    return [*plain, *merged, "import torch"]


def _as_sorted(name: str) -> tuple[bool, str]:
    """Constants first, as linters want imported names."""
    return not name.isupper(), name


def _laid_out(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in wrapped(line)]


def _blocks(imports: list[str]) -> list[str]:
    return [*imports[:-1], "", imports[-1], ""]


def _title(what: str) -> list[str]:
    return [f"# --- {what} {'-' * (100 - len(what))}", "", ""]
