"""Mutation: one random edit of a program's statement list, valid by construction.

The edits of the search that found Lion (Chen et al. 2023): insert a random statement, delete one, change one
argument; a constant, or its distance to 1, is multiplied by 2^N(0, 1), or it is drawn anew from N(0, 1), so that its
sign can flip. Beside them `wire` inserts a statement between a value and one of its readers, so that an edit can be
live at once; `double` writes a statement twice and joins the two, `split` gives the second to one of its readers.
Redundant statements are allowed on purpose: one-statement edits need them as stepping stones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.random import Generator

from ..dsl.kind import Kind
from ..dsl.ops import OPS
from ..dsl.program import FIRST, LR, Arg, Const, G, Program, Statement, W
from .statements import args_at, edited, fresh, inserted, kinds_at, makers_of, number_of, readers_of, replaced, rewired
from .vocabulary import Vocabulary, kind_of

MAX_STATEMENTS = 40
_GRAFTED = 0.5  # share of wired statements of several arguments that bring one of these along
_LONGER = 0.5  # chance that what is split brings along what it is computed from, again and again
_JOINS = ("add", "subtract", "multiply", "divide", "max", "min", "interp")  # what may make one of a doubled statement

Edit = Callable[["Mutator", Program, Generator], Program | None]


class Mutator:
    r"""Draws edits over a named space of ops.

    `edits` gives the weight of each kind of edit; with `constants_only` nothing but numbers changes.

    >>> sgd = Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g")
    >>> child, edit = Mutator("lion45").mutate(sgd, np.random.default_rng(0))
    >>> child != sgd
    True
    """

    def __init__(self, space: str = "lion45", constants_only: bool = False) -> None:
        self.vocabulary = Vocabulary(space)
        # Edits of structure that are live at once weigh most: numbers of a tuned start have little left to give,
        # and what is inserted is mostly dead until another edit reads it. docs/log.md has what each gains a step.
        self.edits: dict[str, tuple[float, Edit]] = (
            {"constant": (1.0, Mutator._constant)}
            if constants_only
            else {
                "insert": (0.75, Mutator._insert),
                "wire": (2.5, Mutator._wire),
                "double": (1.25, Mutator._double),
                "split": (0.75, Mutator._split),
                "delete": (0.5, Mutator._delete),
                "argument": (1.0, Mutator._argument),
                "constant": (0.5, Mutator._constant),
            }
        )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each kind of edit."""
        return {name: weight for name, (weight, _) in self.edits.items()}

    def mutate(
        self, program: Program, random: Generator, weights: Mapping[str, float] | None = None
    ) -> tuple[Program, str]:
        """A child that differs from the program in one edit, and the name of the edit.

        An edit that finds no valid change gives way to another; changing a number always finds one. `weights` of the
        kinds of edit may stand in for its own.
        """
        names = list(self.edits)
        drawn = np.array([(weights or self.weights)[n] for n in names])
        for _ in range(20):
            name = names[int(random.choice(len(names), p=drawn / drawn.sum()))]
            child = self.edits[name][1](self, program, random)
            if child is not None and child != program:
                return child, name
        return _scaled_lr(program, random), "constant"

    # --- edits: each returns a valid program, or None when it found none ---

    def _insert(self, program: Program, random: Generator) -> Program | None:
        """A random statement at a random place, into a new or an existing variable."""
        if len(program.statements) >= MAX_STATEMENTS:
            return None
        place = int(random.integers(len(program.statements) + 1))
        kinds = kinds_at(program, place)
        drawn = self.vocabulary.statement(kinds, random)
        if drawn is None:
            return None
        op, args = drawn
        slots = [s for s in kinds if s >= FIRST or s in (G, LR)]
        new = fresh(program)
        target = new if not slots or random.random() < 0.5 else slots[int(random.integers(len(slots)))]
        return edited(program, inserted(program.statements, place, Statement(target, op, args)))

    def _wire(self, program: Program, random: Generator) -> Program | None:
        """A new statement that takes a value on its way to one reader, and reaches that reader instead.

        What else it takes is there already, or one time in two is the result of another new statement.
        """
        if len(program.statements) + 2 > MAX_STATEMENTS:
            return None
        reader = int(random.integers(len(program.statements) + 1))
        args = args_at(program, reader)
        if not args:
            return None
        position = int(random.integers(len(args)))
        value = args[position]
        kinds = kinds_at(program, reader)
        drawn = self.vocabulary.statement(kinds, random, through=value, wanted=kind_of(value, kinds))
        if drawn is None:
            return None
        made = self._grafted(Statement(fresh(program), *drawn), value, kinds, random)
        statements, ends = rewired(program, reader, position, made[-1].target)
        return edited(program, [*statements[:reader], *made, *statements[reader:]], ends)

    def _grafted(self, statement: Statement, value: Arg, kinds: dict[int, Kind], random: Generator) -> list[Statement]:
        """The statement, or one time in two with another before it that makes one of its arguments but `value`."""
        others = [place for place, arg in enumerate(statement.args) if arg != value]
        operand = self.vocabulary.statement(kinds, random) if others and random.random() < _GRAFTED else None
        if operand is None:
            return [statement]
        args = list(statement.args)
        args[others[int(random.integers(len(others)))]] = statement.target
        return [Statement(statement.target, *operand), Statement(statement.target + 1, statement.op, tuple(args))]

    def _double(self, program: Program, random: Generator) -> Program | None:
        """A statement is written a second time with one argument drawn anew, and an op of both takes its place.

        As genes are doubled: published rules have pairs of averages, signs and norms that differ in one argument.
        """
        places = [i for i, s in enumerate(program.statements) if s.args]
        if not places or len(program.statements) + 2 > MAX_STATEMENTS:
            return None
        place = places[int(random.integers(len(places)))]
        statement, twin = program.statements[place], self._twin(program, place, random)
        if twin is None:
            return None
        join = _JOINS[int(random.integers(len(_JOINS)))]
        both = (statement.target, twin.target) if random.random() < 0.5 else (twin.target, statement.target)
        ends = both if OPS[join].arity == 2 else (*both, Const(float(random.random())))
        made = [twin, statement, Statement(statement.target, join, ends)]
        return edited(program, [*program.statements[:place], *made, *program.statements[place + 1 :]])

    def _split(self, program: Program, random: Generator) -> Program | None:
        """A value that is read more than once is computed a second time, the statement or several that lead to it, with
        one argument of the first drawn anew; one of its readers takes the second.

        So what had one purpose may have two: an average that is kept, and another that is stepped by.
        """
        read = [(place, readers) for place in range(len(program.statements)) if (readers := readers_of(program, place))]
        read = [(place, readers) for place, readers in read if len(readers) > 1 and program.statements[place].args]
        if not read:
            return None
        place, readers = read[int(random.integers(len(read)))]
        path = _path_to(program, place, random)
        twin = self._twin(program, path[0], random)
        if twin is None or len(program.statements) + len(path) > MAX_STATEMENTS:
            return None
        twins = [twin]
        for below, above in pairwise(path):
            own, last = program.statements[above], twins[-1].target
            args = tuple(last if arg == program.statements[below].target else arg for arg in own.args)
            twins.append(Statement(last + 1, own.op, args))
        statements, ends = rewired(program, *readers[int(random.integers(len(readers)))], twins[-1].target)
        for where, made in reversed([*zip(path, twins, strict=True)]):  # the last first: places stay what they are
            statements = inserted(statements, where, made)
        return edited(program, statements, ends)

    def _twin(self, program: Program, place: int, random: Generator) -> Statement | None:
        """The statement at a place with one argument drawn anew, into a variable of its own.

        In place of a number one time in two comes another that is like it.
        """
        statement, kinds = program.statements[place], kinds_at(program, place)
        position = int(random.integers(len(statement.args)))
        old = statement.args[position]
        value = number_of(program, old)
        if value is not None and random.random() < 0.5:
            new: Arg = Const(_moved(value, random))
        else:
            new = self.vocabulary.value(kinds, random, kind_of(old, kinds))
        args = replaced(statement.args, position, new)
        if args == statement.args or all(isinstance(a, Const) for a in args):
            return None  # the same, or a number in another dress
        return Statement(fresh(program), statement.op, args)

    def _delete(self, program: Program, random: Generator) -> Program | None:
        """A random statement goes; its readers take one of its arguments, or a variable of its kind."""
        if len(program.statements) <= 1:
            return None
        place = int(random.integers(len(program.statements)))
        gone = program.statements[place]
        rest = [*program.statements[:place], *program.statements[place + 1 :]]
        simply = edited(program, rest)
        if simply is not None:
            return simply
        stand_in = [a for a in gone.args if isinstance(a, int)] or [W, G]
        other: Arg = stand_in[int(random.integers(len(stand_in)))]
        until = next((i for i, s in enumerate(rest[place:], place) if s.target == gone.target), len(rest))
        for i in range(place, min(until + 1, len(rest))):
            rest[i] = rest[i]._replace(args=tuple(other if a == gone.target else a for a in rest[i].args))
        ends = program.returns
        if until == len(rest):
            ends = tuple(other if a == gone.target else a for a in ends)
        return edited(program, rest, ends)

    def _argument(self, program: Program, random: Generator) -> Program | None:
        """One argument of one statement, or one returned value, becomes another variable, or the argument a number."""
        place = int(random.integers(len(program.statements) + 1))
        args, kinds = args_at(program, place), kinds_at(program, place)
        if not args:
            return None
        position = int(random.integers(len(args)))
        draw = self.vocabulary.variable if place == len(program.statements) else self.vocabulary.value
        new = draw(kinds, random, kind_of(args[position], kinds))
        return edited(program, *rewired(program, place, position, new))

    def _constant(self, program: Program, random: Generator) -> Program | None:
        """One number, or the distance to 1 of one above a half, is multiplied by 2^N(0, 1), or (one time in four) the
        number is drawn anew from N(0, 1).
        """
        places = _constant_places(program)
        where, index, position = places[int(random.integers(len(places)))]
        if where == "lr":
            return _scaled_lr(program, random)
        if where == "hyper":
            hypers = list(program.hypers)
            hypers[index] = _moved(hypers[index], random)
            return replace(program, hypers=tuple(hypers))
        statement = program.statements[index]
        moved = Const(_moved(statement.args[position].value, random))  # type: ignore[union-attr]
        changed = list(program.statements)
        changed[index] = statement._replace(args=replaced(statement.args, position, moved))
        return edited(program, changed)


def _path_to(program: Program, place: int, random: Generator) -> list[int]:
    """Places of statements each of which the next reads, the last of them given: before it one of what it is computed
    from, if a coin says so, and so on.
    """
    path = [place]
    while random.random() < _LONGER and (makers := makers_of(program, path[0])):
        path.insert(0, makers[int(random.integers(len(makers)))])
    return path


def _constant_places(program: Program) -> list[tuple[str, int, int]]:
    places = [("lr", 0, 0)]
    places += [("hyper", i, 0) for i in range(len(program.hypers))]
    for index, statement in enumerate(program.statements):
        places += [("body", index, p) for p, a in enumerate(statement.args) if isinstance(a, Const)]
    return places


def _moved(value: float, random: Generator) -> float:
    if random.random() >= 0.25:
        factor = 2.0 ** random.standard_normal()
        # What lies between a half and 1 is a rate as often as not, and then it is its distance to 1 that counts.
        longer = 1 - (1 - value) * factor
        moved = float(longer if 0.5 < value < 1 and longer > 0 and random.random() < 0.5 else value * factor)
        if moved != 0 and math.isfinite(moved):
            return moved
    return float(random.standard_normal())


def _scaled_lr(program: Program, random: Generator) -> Program:
    """The peak learning rate keeps its sign: a rule that climbs is nobody's ancestor."""
    return program.with_own_lr(program.peak * 2.0 ** float(random.standard_normal()))
