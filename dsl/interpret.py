"""The meaning of programs, in float64 numpy: the living definition that every lowering is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .draws import noise, projection, rounding
from .flow import Flow, Node, flow, needs_matrices
from .kind import Kind
from .kinds import axis_of
from .ops import OPS
from .parameter import ParameterView, check_matrices, infer_role
from .program import FIRST, LR, NOISE, ORACLES, PROGRESS, RESERVED, Arg, Const, G, Program, T, W

Tensors = list[NDArray[np.float64]]
Value = Any  # a list of arrays, one per tensor (numbers for a scalar), or one number (global)


class Interpreter:
    r"""Runs a program step by step on a list of parameter tensors, keeping its states.

    Args:
        shapes: Of the parameters.
        roles: Of the parameters; where None, from the number of axes: see `infer_role`.
        seed: Of random draws.
        workers: Of simulated data-parallel workers. `step` then takes the gradients of all of them, worker by
            worker, in one list; each keeps its own states.

    >>> sgd = Program.parse("def sgd(w, g, lr=0.5):\n  return lr * g")
    >>> Interpreter(sgd, [(2,)]).step([np.ones(2)], [np.array([2.0, 4.0])])
    [array([1., 2.])]
    """

    def __init__(
        self,
        program: Program,
        shapes: Sequence[tuple[int, ...]],
        disturb: Callable[[Value], Value] | None = None,
        roles: Sequence[str] | None = None,
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        roles = [infer_role(shape) for shape in shapes] if roles is None else roles
        claimed = program.assign(roles)
        self.workers, self.count = workers, len(shapes)
        self.parts: list[tuple[list[int], Part]] = []
        for number, part in enumerate(program.parts()):
            mine = [i for i, owner in enumerate(claimed) if owner == number]
            if mine or number == 0:
                tensors = [ParameterView(i, tuple(shapes[i]), roles[i]) for i in mine]
                self.parts.append((mine, Part(part, tensors, disturb, seed, workers)))

    @property
    def states(self) -> dict[int, Value]:
        """The live states of the program's own part, by their index in the header."""
        return self.parts[0][1].states

    def step(
        self,
        w: Tensors,
        g: Tensors,
        schedule: float = 1.0,
        t: int = 1,
        progress: float = 0.0,
        oracles: Mapping[str, Value] | None = None,
    ) -> Tensors:
        """The update of one step, one array per tensor; states move on.

        `schedule` multiplies the peak learning rate, `t` counts steps from 1, `progress` is t over the run,
        `oracles` gives what the program asks for and is due, like g for a tensor.
        """
        update: list[Any] = [None] * self.count
        for mine, part in self.parts:
            given = {name: _own(value, mine) for name, value in (oracles or {}).items()}
            every = [i + self.count * worker for worker in range(self.workers) for i in mine]
            found = part.step([w[i] for i in mine], [g[i] for i in every], schedule, t, progress, given)
            for index, u in zip(mine, found, strict=False):  # all workers give the same
                update[index] = u
        return update


def _own(value: Value, mine: Sequence[int]) -> Value:
    return [value[i] for i in mine] if isinstance(value, list) else value


class Part:
    """One program without a route, on the tensors that it claims."""

    def __init__(
        self,
        program: Program,
        tensors: Sequence[ParameterView],
        disturb: Callable[[Value], Value] | None = None,
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        self.flow: Flow = flow(program, expand=True)
        self.peak, self.seed, self.workers = program.peak, seed, workers
        self.matrices = needs_matrices(program, self.flow)
        self.tensors = list(tensors) * workers
        self.count = len(self.tensors)
        if self.matrices:
            check_matrices(tensors)
        self.disturb = disturb  # tests perturb every intermediate value to learn how well conditioned it is
        self.codecs = {i: s.codec for i, s in enumerate(program.states) if s.codec is not None}
        self.states: dict[int, Value] = {}
        for index, _ in self.flow.states:
            self.states[index] = self._zero(self.flow.kinds[FIRST + index])

    def step(
        self, w: Tensors, g: Tensors, schedule: float, t: int, progress: float, oracles: Mapping[str, Value]
    ) -> Tensors:
        """One step; see `Interpreter.step`."""
        w = w * self.workers
        inputs: dict[int, Value] = {W: w, G: g}
        for slot in ORACLES:
            if self.flow.reads(slot):
                inputs[slot] = self._oracle(slot, oracles)
        if self.flow.reads(NOISE):
            inputs[NOISE] = self._noise(t)
        if self.matrices:
            inputs = {slot: self._viewed(value) for slot, value in inputs.items()}
        values: dict[int, Value] = {
            LR: np.float64(self.peak * schedule), T: np.float64(t), PROGRESS: np.float64(progress), **inputs,
        }  # fmt: skip
        values.update({v: np.float64(x) for v, x in self.flow.hypers.items()})
        values.update({FIRST + index: state for index, state in self.states.items()})
        with np.errstate(all="ignore"):
            for number, node in enumerate(self.flow.nodes, self.flow.first_node):
                result = self._apply(node, [self._read(values, a) for a in node.args])
                values[number] = self.disturb(result) if self.disturb else result
            for index, end in self.flow.states:
                kind = self.flow.kinds[FIRST + index]
                state = self._spread(self._read(values, end), self.flow.kind(end), kind)
                self.states[index] = self._kept(index, state, t)
        update = self._read(values, self.flow.update)
        return [x.back(u) for x, u in zip(self.tensors, update, strict=True)] if self.matrices else update

    @staticmethod
    def _read(values: dict[int, Value], arg: Arg) -> Value:
        return np.float64(arg.value) if isinstance(arg, Const) else values[arg]

    def _apply(self, node: Node, args: list[Value]) -> Value:
        row = OPS[node.op]
        if row.name == "worker_mean":
            return self._over_workers(args[0])
        assert row.meaning is not None
        if row.elementwise:
            if node.kind is Kind.GLOBAL:
                return row.meaning(*args)
            return [row.meaning(*each) for each in self._each(args)]
        if row.result is Kind.GLOBAL:
            return row.meaning(*args)
        if not row.needs_matrix:
            return [row.meaning(*each) for each in self._each(args)]
        results = [self._on_matrix(node, i, each) for i, each in enumerate(self._each(args))]
        return [np.float64(x.reshape(())) for x in results] if node.kind is Kind.SCALAR else results

    def _on_matrix(self, node: Node, i: int, args: Sequence[Value]) -> Value:
        row = OPS[node.op]
        assert row.meaning is not None
        if row.axis:
            return row.meaning(*args, axis=axis_of(row, self.flow.kind(node.args[0])))
        tensor = self.tensors[i]
        if row.draws:
            return row.meaning(*args, draw=lambda shape, step: projection(self.seed, step, tensor.index, shape))
        if row.like:
            return row.meaning(*args, like=tensor.view(np.empty(tensor.shape)))
        return row.meaning(*args)

    def _each(self, args: Sequence[Value]) -> Any:
        """The arguments, tensor by tensor."""
        return zip(*(a if isinstance(a, list) else [a] * self.count for a in args), strict=True)

    def _over_workers(self, value: Tensors) -> Tensors:
        if self.workers == 1:
            return value
        own = self.count // self.workers
        return [np.mean(value[i::own], axis=0) for i in range(own)] * self.workers

    # --- inputs and states --------------------------------------------------------------------------------

    def _oracle(self, slot: int, oracles: Mapping[str, Value]) -> Value:
        """What the trainer gives; 0 at the steps between."""
        given = oracles.get(RESERVED[slot])
        if given is not None:
            return given * self.workers if isinstance(given, list) else np.float64(given)
        zero = [np.zeros(tensor.shape) for tensor in self.tensors]
        return zero if self.flow.kind(slot) is Kind.TENSOR else np.float64(0)

    def _noise(self, step: int) -> Tensors:
        return [noise(self.seed, step, x.index, x.shape).astype(np.float64) for x in self.tensors]

    def _viewed(self, value: Value) -> Value:
        if not isinstance(value, list):
            return value
        return [tensor.view(x) for tensor, x in zip(self.tensors, value, strict=True)]

    def _zero(self, kind: Kind) -> Value:
        if kind is Kind.GLOBAL:
            return np.float64(0)
        if kind is Kind.SCALAR:
            return [np.float64(0)] * self.count
        return [np.zeros(self._shape(tensor, kind)) for tensor in self.tensors]

    def _shape(self, tensor: ParameterView, kind: Kind) -> tuple[int, ...]:
        if not self.matrices:
            return tensor.shape
        return tensor.sides(kind.rows, kind.columns)

    def _spread(self, value: Value, kind: Kind, wanted: Kind) -> Value:
        """A value of a smaller kind, written out as its state's kind."""
        if kind is wanted:
            return value
        each = value if isinstance(value, list) else [value] * self.count
        if wanted is Kind.SCALAR:
            return each
        shapes = (self._shape(tensor, wanted) for tensor in self.tensors)
        return [np.broadcast_to(v, shape).copy() for shape, v in zip(shapes, each, strict=True)]

    def _kept(self, index: int, state: Value, t: int) -> Value:
        """The state as its codec gives it back."""
        codec = self.codecs.get(index)
        if codec is None:
            return state

        draws = [partial(rounding, self.seed, t, tensor.index, index) for tensor in self.tensors]
        return [codec.kept(x, uniform) for x, uniform in zip(state, draws, strict=True)]
