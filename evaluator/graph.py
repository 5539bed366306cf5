"""A training step of a population as one replayed CUDA graph: the model's pass and the update, without their launches.

What a replay reads lies in memory that stays: the batch in buffers, the numbers of the step where the engine keeps
them, scratch in the model's workspace. Steps that are replayed and steps that are not may follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from ..dsl.to_population import PopulationStep
from ..proxies.data import Batch
from .gradients import Gradients

Action = Callable[[], None]


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures, because libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def record(action: Action, device: torch.device) -> Action:
    """Runs an action once, and gives what runs it again from one CUDA graph.

    The run is an ordinary one; it makes what must not be made in a capture: workspaces, constants, compiled kernels.
    """
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        action()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        action()
    return graph.replay


#: By type of device, what makes a replay of an action; steps on other devices are never replayed.
RECORDERS: dict[str, Callable[[Action, torch.device], Action]] = {"cuda": record}


class Replay:
    """The steps of one population on batches of one shape; the first call is an ordinary step and the recording."""

    def __init__(self, gradients: Gradients, engine: PopulationStep) -> None:
        self.gradients, self.engine = gradients, engine
        self.device = gradients.params[0].device
        self.batch: Batch | None = None
        self.replay: Action | None = None

    @staticmethod
    def of(gradients: Gradients, engine: PopulationStep) -> Replay | None:
        """None where steps cannot be: on a CPU, of a module, of a program in torch (as all with oracles are)."""
        possible = gradients.params[0].device.type in RECORDERS and engine.replayable and gradients.model.replayable
        return Replay(gradients, engine) if possible else None

    def __call__(
        self, batch: Batch, schedule: np.ndarray[tuple[int, ...], np.dtype[np.float64]], t: int, progress: float
    ) -> None:
        """One step, in place."""
        self.engine.write_numbers(schedule, t, progress)
        if self.replay is None or self.batch is None:
            self.batch = batch.map(lambda x: x.to(self.device, copy=True))
            self.replay = RECORDERS[self.device.type](self._step, self.device)
            return
        for kept, x in zip(self.batch.tensors(), batch.tensors(), strict=True):
            kept.copy_(x)
        self.replay()

    def _step(self) -> None:
        assert self.batch is not None
        self.gradients(self.batch)
        self.engine.launch(self.gradients.params, self.gradients.grads)
