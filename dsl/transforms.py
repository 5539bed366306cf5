"""Transforms: what an optimizer paper adds to any rule, as functions from program to program.

`cautious`, `cautious_decay`, `decoupled_decay`, `nesterov`, `clip` and `low_bit_state` edit the statements of a
program and keep the rest of its text. Each acts on every part of a program with a route. A part in which it has
nothing to do stays as it is; where no part has, it raises ProgramError. A clip norm is that of the parameters of
its part.

A rule is split into an update and a decay: the decay is the additive part that is linear in w and free of g, of
oracles and of states that depend on them. It is looked for through + and -, products with and quotients by
numbers that are free of w and g, and outside `repeat`; interp(u, w, a) counts as one update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from .codecs import Codec, codec_problem
from .edit import Edit, free_name
from .errors import ProgramError, did_you_mean, quoted
from .flow import flow
from .kind import Kind
from .kinds import check, infer
from .look_ahead import with_look_ahead
from .program import (
    FIRST,
    LR,
    Arg,
    Const,
    G,
    Program,
    State,
    Statement,
    W,
    rebuilt,
    routed,
)  # fmt: skip
from .ranges import Ranges, Source
from .uses import DECAY, MIXED, UPDATE, Uses

#: The published scalings of a cautious mask phi over n elements of a tensor, and where each stands.
SCALES: dict[str, str] = {
    "clamped_mean": "phi / max(mean(phi), 1e-3): C-AdamW in the authors' code since 2025-01, and timm's `caution`",
    "mean_eps": "phi / (mean(phi) + eps): algorithm 1 of the paper, version 4",
    "sum_plus_one": "phi * n / (sum(phi) + 1): the authors' first code, 2024-11, and their C-Lion",
    "sum_eps": "phi * n / (sum(phi) + eps): optax, pull request 1690",
}
EPS = 1e-8  # of mean_eps and sum_eps; it acts only where the whole mask is 0, and there the update is 0 anyway


@dataclass(frozen=True)
class Split:
    """The two additive parts of an update, each as a program with the states of the whole; None where there is none.

    >>> rule = Program.parse("def f(w, g, lr):\\n  return lr * (sign(g) + 0.1 * w)")
    >>> print(split(rule).decay, split(rule), sep="")
    def f(w, g, lr):
        return lr * (0.1 * w)
    weight decay is separate: cautious masks the rest
    """

    update: Program | None
    decay: Program | None

    def __str__(self) -> str:
        if self.decay is None:
            return "none: cautious masks the whole update"
        return "weight decay is separate: cautious masks the rest" if self.update else "the whole update is decay"


def split(program: Program) -> Split:
    """The update and the decay of a program's own part; its fallback stays as it is.

    The two sum to the program's update. Of a program with a route, take `[split(p) for p in p.parts()]`.

    >>> split(Program.parse("def sgd(w, g, lr=0.1):\\n  return lr * g")).decay is None
    True
    """
    _refuse_schedule(program)
    edit = Edit(program)
    root = edit.uses.ends[0]
    share = edit.uses.share(root)
    if share != MIXED:
        return Split(program, None) if share == UPDATE else Split(None, program)
    return Split(*(_only(program, which) for which in (UPDATE, DECAY)))


def _only(program: Program, which: str) -> Program:
    edit = Edit(program)
    edit.returns[0] = edit.part(edit.uses.ends[0], which, edit.end)
    found = edit.finish()
    if infer(found)[1][0] is Kind.TENSOR:
        return found
    nothing = edit.new(edit.end, "multiply", Const(0.0), edit.held(~W, edit.end))  # a number stood beside the decay
    edit.returns[0] = edit.new(edit.end, "add", edit.returns[0], nothing)
    return edit.finish()


# --- the transforms -----------------------------------------------------------------------------------------


def cautious(program: Program, scale: str = "clamped_mean") -> Program:
    """Masks the update where its sign disagrees with the gradient. Liang et al. 2024, arXiv:2411.16085.

    With update u, gradient g and phi = 1[u * g > 0], u becomes u * phi * s, where s makes up for what the mask
    takes: see `SCALES`, a number per tensor. The decay (see `split`) is not masked; where there is none the whole
    update is. g is the program's input, before any clipping; states are what they were. Where u is infinite and
    masked, the result is NaN, as it is in the authors' code.

    Differs: the authors' C-Muon masks the momentum before it is made orthogonal; here the update is masked.

    Raises ProgramError for an unknown scale, and for a program that never reads g, does nothing but decay, or masks
    its update already.

    >>> print(cautious(Program.parse("def lion(w, g, m, lr):\\n  u = sign(interp(g, m, 0.9))\\n"
    ...                              "  return lr * (u + 0.1 * w), interp(g, m, 0.99)")))
    # cautious, scale clamped_mean (arXiv:2411.16085)...
    def cautious_lion(w, g, m, lr):
        u = sign(interp(g, m, 0.9))
        mask = u * g > 0.0
        return lr * (u * (mask / max(mean(mask), 0.001)) + 0.1 * w), interp(g, m, 0.99)
    """
    if scale not in SCALES:
        raise ProgramError(f"unknown scale {quoted(scale)}; {did_you_mean(scale, SCALES)}")
    return _in_parts(
        program, "cautious", f"scale {scale} (arXiv:2411.16085)", lambda part: _with_mask(_reading_g(part), scale)
    )


def cautious_decay(program: Program) -> Program:
    """Decays a weight only where that goes along with the update. Chen et al. 2025, arXiv:2510.12402.

    With update u and decay d (see `split`), u + d becomes u + d * 1[u * w >= 0], algorithm 1 of the paper: where
    the signs of u and w agree, and where u is 0.

    Raises ProgramError for a program without a decay, or with nothing else.

    >>> print(cautious_decay(Program.parse("def f(w, g, lr):\\n  return lr * (sign(g) + 0.1 * w)")))
    # cautious_decay...
    def cautious_decay_f(w, g, lr):
        update = sign(g)
        return lr * (update + 0.1 * w * (update * w >= 0.0))
    """
    return _in_parts(program, "cautious_decay", "decay where u * w >= 0 (arXiv:2510.12402)", _with_agreement)


def decoupled_decay(program: Program, weight_decay: float = 0.01) -> Program:
    """Adds lr * weight_decay * w to the update. Loshchilov and Hutter 2019, arXiv:1711.05101.

    u becomes u + lr * weight_decay * w, with `weight_decay` in the header. lr is the number that depends on lr by
    which the program multiplies the whole of its update, a local `lr * 0.001` say; failing that, the input.

    Raises ProgramError for a program that decays already, and for a decay that is negative or not finite.

    >>> print(decoupled_decay(Program.parse("def f(w, g, lr=0.1):\\n  return lr * sign(g)")))
    # decoupled_decay...
    def decoupled_decay_f(w, g, lr=0.1, weight_decay=0.01):
        return lr * (sign(g) + weight_decay * w)
    """
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ProgramError(f"weight_decay is {weight_decay}; give a finite number, 0 or more")
    return _in_parts(program, "decoupled_decay", "lr * weight_decay * w (arXiv:1711.05101)",
                     lambda part: _with_decay(part, weight_decay))  # fmt: skip


def nesterov(program: Program) -> Program:
    """Reads the momentum one step ahead. Nesterov 1983; this form: Sutskever et al. 2013, ICML.

    Where a state becomes m' = f(m, x), an average interp(x, m, beta) or a heavy ball beta * m + x, the update
    reads f(m', x) in place of m'. It is so wherever the update reads m' other than by way of a state that is
    computed from its own last value; states are what they were. An average of what cannot be negative, squares say,
    is no momentum.

    Of adamw this is (beta1 * m' + (1 - beta1) * g) / (1 - beta1^t): the correction is that of m', not NAdam's,
    which divides the first term by 1 - beta1^(t + 1).

    Raises ProgramError for a program whose update reads no such average (Lion's reads the one before), reads it
    ahead already, or shares a repeat that reads it with a state.

    >>> print(nesterov(Program.parse("def f(w, g, m, lr):\\n  m = 0.9 * m + g\\n  return lr * m, m")))
    # nesterov...
    def nesterov_f(w, g, m, lr):
        m = 0.9 * m + g
        look_ahead = 0.9 * m + g
        return lr * look_ahead, m
    """
    return _in_parts(program, "nesterov", "reads the momentum one step ahead (Sutskever et al. 2013)", with_look_ahead)


def clip(program: Program, max_norm: float = 1.0) -> Program:
    """Clips the gradient to a global norm before anything reads it. Pascanu et al. 2013, arXiv:1211.5063.

    g becomes g * min(1, max_norm / norm(g)), the norm over all parameters of the part, with `max_norm` in the header.

    Raises ProgramError for a program that never reads g, for one that clips it so already, and for a norm that is
    not a finite number above 0.

    >>> print(clip(Program.parse("def f(w, g, lr=0.1):\\n  return lr * g")))
    # clip...
    def clip_f(w, g, lr=0.1, max_norm=1.0):
        g = clip(g, max_norm)
        return lr * g
    """
    if not (math.isfinite(max_norm) and max_norm > 0):
        raise ProgramError(f"max_norm is {max_norm}; give a finite number above 0")
    return _in_parts(program, "clip", "g to a global norm of max_norm (arXiv:1211.5063)",
                     lambda part: _with_clip(_reading_g(part), max_norm))  # fmt: skip


def low_bit_state(program: Program, codec: str = "int8", least: int = 0) -> Program:
    """Keeps the tensor states in fewer bits. Dettmers et al. 2022, arXiv:2110.02861.

    `int8`: a byte per element, in `uint8` where the formula of a state cannot give a negative number, and in
    full for tensors of fewer than `least` elements. `bf16`: two bytes, rounded at random. Scalars, states along
    one axis and states that have a codec stay as they are.

    Raises ProgramError for another codec, a `least` that it does not take, and a program with no such state.

    >>> rule = Program.parse("def f(w, g, m, v, lr):\\n  m = interp(g, m, 0.9)\\n  v = interp(g * g, v, 0.99)\\n"
    ...                      "  return lr * m / sqrt(v), m, v")
    >>> print(str(low_bit_state(rule, least=4096)).splitlines()[1])
    def low_bit_state_f(w, g, m: int8(4096), v: uint8(4096), lr):
    """
    if codec not in ("int8", "bf16"):
        raise ProgramError(f"{quoted(codec)} does not fit every state; {did_you_mean(codec, ('int8', 'bf16'))}")
    if problem := codec_problem(codec, least or None):
        raise ProgramError(problem)
    said = f"states in {codec}" + (f" from {least} elements" if least else "") + " (arXiv:2110.02861)"
    return _in_parts(program, "low_bit_state", said, lambda part: _with_codecs(part, codec, least))


TRANSFORMS: dict[str, Callable[..., Program]] = {
    f.__name__: f for f in (cautious, cautious_decay, decoupled_decay, nesterov, clip, low_bit_state)
}


def _in_parts(program: Program, name: str, said: str, change: Callable[[Program], Program]) -> Program:
    """The program with each part changed that can be; raises where none can."""
    _refuse_schedule(program)
    done: list[Program] = []
    refused: list[ProgramError] = []
    for part in program.parts():
        try:
            changed = change(part)
            done.append(replace(changed, name=f"{name}_{part.name}"))
        except ProgramError as error:
            refused.append(error)
            done.append(part)
    if len(refused) == len(done):
        raise refused[0]
    whole = routed(done)
    doc = f"{program.doc}\nDiffers: {name}: {said}" if program.doc else f"{name}, {said}"
    whole = replace(whole, doc=doc)
    check(whole)
    return whole


def _refuse_schedule(program: Program) -> None:
    if program.schedule:
        raise ProgramError(f"{program.name} is a schedule, not an update rule; transform the rule that it goes with")


def _reading_g(part: Program) -> Program:
    if not flow(part).reads(G):
        raise ProgramError(f"{part.name} never reads g; take a rule whose update depends on the gradient")
    return part


# --- how each part is changed -------------------------------------------------------------------------------


def _with_mask(part: Program, scale: str) -> Program:
    edit = Edit(part)
    spine = edit.spine()
    core = edit.source_at(spine[-1])
    share = edit.uses.share(core)
    if share == DECAY:  # g may stand in it for its shape
        raise _all_decay(part)
    if share == UPDATE:
        masked = _masked(edit, core, edit.behind(core, spine[-1][0]), scale)
    else:
        number = edit.sum_of_both(core)
        simple = edit.simple_sum(number)
        if simple:
            update = edit.uses.arg(number, simple[0])
            slot = _masked(edit, update, edit.behind(update, number), scale)
            masked = edit.redirect(number, {simple[0]: slot})
        else:
            slot = _scaled_mask(edit, edit.part(number, UPDATE, number), number, scale)
            masked = edit.instead(number, "add", slot, edit.part(number, DECAY, number))
    edit.rejoin(spine, masked)
    return edit.finish()


def _masked(edit: Edit, source: Source, place: int, scale: str) -> int:
    if _is_masked(edit.uses, source):
        raise ProgramError(f"{edit.program.name} masks its update so already; take the rule without its mask")
    update = edit.held(source, place)
    edit.call(update, "update", "direction")
    return _scaled_mask(edit, update, place, scale)


def _is_masked(uses: Uses, source: Source) -> bool:
    """Whether a product is over a factor x and what is made of x * g > 0."""
    factors: set[Source] = set()
    todo = [uses.same(source)]
    while todo:
        factor = todo.pop()
        if factor not in factors:
            factors.add(factor)
            if isinstance(factor, int) and factor >= 0 and uses.program.statements[factor].op in ("multiply", "divide"):
                todo += [] if uses.depth[factor] else uses.same_args(factor)
    products = [uses.known("multiply", [factor, ~G]) for factor in factors]
    masks = {uses.known("greater", [p, Const(0.0)]) for p in products if p is not None}
    return any(uses.same(s) in masks for s in uses.reach([source]))


def _scaled_mask(edit: Edit, update: Arg, place: int, scale: str) -> int:
    """U times its mask and scale."""

    def new(op: str, *args: Arg, name: str = "") -> int:
        return edit.new(place, op, *args, name=name)

    mask = new("greater", new("multiply", update, edit.held(~G, place)), Const(0.0), name="mask")
    if scale == "clamped_mean":
        factor = new("divide", mask, new("max", new("mean", mask), Const(1e-3)))
    elif scale == "mean_eps":
        factor = new("divide", mask, new("add", new("mean", mask), Const(EPS)))
    else:
        kept = new("multiply", mask, new("size", mask))
        factor = new("divide", kept, new("add", new("sum", mask), Const(1.0 if scale == "sum_plus_one" else EPS)))
    return new("multiply", update, factor)


def _with_agreement(part: Program) -> Program:
    edit = Edit(part)
    spine = edit.spine()
    share = edit.uses.share(edit.source_at(spine[-1]))
    if share == DECAY:
        raise _all_decay(part)
    if share == UPDATE:
        raise ProgramError(f"{part.name} has no decay; take a rule with a term such as weight_decay * w, free of g")
    core = edit.sum_of_both(edit.source_at(spine[-1]))
    simple = edit.simple_sum(core)
    if simple:
        update, decay = (edit.held(edit.uses.arg(core, place), core) for place in simple)
    else:
        update, decay = (edit.part(core, which, core) for which in (UPDATE, DECAY))
    edit.call(update, "update", "direction")
    agree = edit.new(core, "greater_equal", edit.new(core, "multiply", update, edit.held(~W, core)), Const(0.0))
    kept = edit.new(core, "multiply", decay, agree)
    edit.rejoin(spine, edit.redirect(core, {simple[1]: kept}) if simple else edit.instead(core, "add", update, kept))
    return edit.finish()


def _all_decay(part: Program) -> ProgramError:
    return ProgramError(f"{part.name} does nothing but decay; take a rule whose update depends on the gradient")


def _with_decay(part: Program, weight_decay: float) -> Program:
    if Edit(part).uses.share(Edit(part).uses.ends[0]) != UPDATE:
        raise ProgramError(f"{part.name} decays already; set the number that stands with w")
    part, rate = _with_hyper(part, "weight_decay", weight_decay)
    edit = Edit(part)
    place = edit.under_rate()
    whole = edit.source_at(place)
    if place[0] == edit.end:
        rate = edit.new(edit.end, "multiply", edit.held(~LR, edit.end), rate)
    decay = edit.new(place[0], "multiply", rate, edit.held(~W, place[0]))
    edit.rejoin(edit.path_to(place), edit.new(place[0], "add", edit.held(whole, place[0]), decay))
    return edit.finish()


def _with_clip(part: Program, max_norm: float) -> Program:
    live = flow(part)
    ends = (live.update, *(end for _, end in live.states))
    readers = [node for node in live.nodes if G in node.args]
    if G not in ends and all(n.op == "clip" and (isinstance(n.args[1], Const) or n.args[1] in live.hypers)
                             for n in readers):  # fmt: skip
        raise ProgramError(f"{part.name} clips g to a global norm already; set the number that stands there")
    part, limit = _with_hyper(part, "max_norm", max_norm)
    return rebuilt(part, (Statement(G, "clip", (G, limit)), *part.statements), part.returns)


def _with_codecs(part: Program, codec: str, least: int) -> Program:
    wide = [i for i, state in enumerate(part.states) if state.kind is Kind.TENSOR]
    free = [i for i in wide if part.states[i].codec is None]
    if not free:
        has = "has codecs for its states already" if wide else "keeps no tensor between steps"
        raise ProgramError(f"{part.name} {has}; take a rule with a tensor state in full precision")
    positive = Ranges(part).states
    states = list(part.states)
    for i in free:
        states[i] = State(Kind.TENSOR, Codec("uint8" if codec == "int8" and i in positive else codec, least))
    return replace(part, states=tuple(states))


def _with_hyper(program: Program, name: str, value: float) -> tuple[Program, int]:
    """The program with one more hyperparameter, and its slot."""
    slot = program.first_local

    def moved(arg: Arg) -> Arg:
        return arg + 1 if isinstance(arg, int) and arg >= slot else arg

    statements = [Statement(t + (t >= slot), op, tuple(map(moved, args))) for t, op, args in program.statements]
    names = [*program.names[: slot - FIRST], *[""] * (slot - FIRST - len(program.names))]
    names = [*names, free_name(program.names, name), *program.names[slot - FIRST :]]
    more = {"hypers": (*program.hypers, float(value)), "names": tuple(names)}
    returns = tuple(map(moved, program.returns))
    return replace(program, statements=tuple(statements), returns=returns, **more), slot  # type: ignore[arg-type]
