"""Training of one module by one exported optimizer class, as users train: what is validated is what is shipped."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ...discovered.export_torch import torch_class
from ...dsl import Program, ProgramError
from ...dsl.flow import flow, reject_reason
from ...dsl.program import ORACLES, RESERVED
from ...dsl.roles import role_groups
from ...proxies import TaskError, schedule
from ...proxies.data import Batch
from ...proxies.module_loss import seeded
from ...proxies.targets import Target
from ...proxies.whole_file import replace_file
from ..train import Run
from .width_transfer import transfer_rates, width_ratio

log = logging.getLogger(__name__)

VERSION = 1  # of what a run's result depends on here; a record's runs of another are not used
LOOKS = 20  # points of the validation curve, at even distances
_LOOK_BATCHES = 2  # of the validation data that a point measures on
_SAVE_EVERY = 20.0  # seconds between checkpoints


@dataclass(frozen=True)
class Training:
    """One training run, whole: what the losses of a run are a function of, beside the target and the machine.

    Attributes:
        run: The program with its constants, and the shape of its schedule.
        steps: Length of the run, with full decay.
        final: Whether the test data and the metric are measured at the end.
    """

    run: Run
    seed: int
    steps: int
    final: bool = False

    def shape(self, target: Target) -> tuple[float, str]:
        """Share of warm-up and shape of decay."""
        return (target.warmup if self.run.warmup is None else self.run.warmup), self.run.decay or target.decay


@dataclass
class Result:
    """What a run gave. Losses are in nats; a run that failed has a reason, and losses and metric at initialisation.

    Attributes:
        validation: Final loss on the data that settings are chosen on.
        test: On the data that is touched once; None unless the run was final.
        start: Validation loss at initialisation.
        curve: (step, mean training loss since the last point, validation loss on a part of that data).
        seconds: Wall time of the steps; of the optimizer's part of them in `optimizer_seconds`, which on a GPU is that
            of launching it: see `step_costs`.
    """

    validation: float
    start: float
    test: float | None = None
    metric: float | None = None
    reason: str = ""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    seconds: float = 0.0
    optimizer_seconds: float = 0.0


class Trainer:
    """A module, its optimizer and its schedule, step by step; `save` and `load` make a run go on exactly.

    Args:
        target: What is trained.
        training: How.
        device: Where.

    Raises:
        ProgramError: A program that no optimizer class can hold, or one that needs an oracle.
    """

    def __init__(self, target: Target, training: Training, device: str = "cpu") -> None:
        self.target, self.training, self.device = target, training, torch.device(device)
        self.module = target.module(training.seed).to(self.device).train()
        compiled = self.device.type == "cuda"
        self.called: Any = torch.compile(self.module, dynamic=False) if compiled else self.module
        self.optimizer = make_optimizer(training.run.program, self.module, target.model.roles, training)
        self.factors = schedule(training.steps, *training.shape(target))
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.result = Result(math.nan, math.nan)
        self._sum = torch.zeros((), device=self.device)
        self._since = 0

    def start(self) -> None:
        """Measures the loss at initialisation."""
        self.result.start = self.loss(self.target.validation())

    def advance(self, batch: Batch) -> None:
        """One step."""
        begun = time.perf_counter()
        self.backward(batch)
        before = time.perf_counter()
        self.update()
        now = time.perf_counter()
        self.result.optimizer_seconds += now - before
        self.result.seconds += now - begun

    def backward(self, batch: Batch) -> None:
        """The gradients of a step, accumulated and clipped."""
        parts = self.target.micro_batches
        for number, part in enumerate(_parts(batch.to(self.device), parts)):
            with seeded(part.key + number, self.device) if part.key is not None else nullcontext():
                loss = self._loss(self.called, part) / parts
            loss.backward()
            self._sum += loss.detach()
        if self.target.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.target.clip)

    def update(self) -> None:
        """The optimizer's part of a step, at the schedule's learning rate."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * float(self.factors[self.step])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._since += 1

    def look(self) -> bool:
        """Adds a point to the curve; False where the run has come to nothing and may stop."""
        mean = float(self._sum) / max(1, self._since)
        self._sum.zero_()
        self._since = 0
        if not math.isfinite(mean):
            self.result.reason = _failure(mean)
            return False
        self.result.curve.append((self.step, mean, self.loss(self.target.validation()[:_LOOK_BATCHES])))
        return True

    def finish(self) -> Result:
        """Measures the end."""
        result, target = self.result, self.target
        result.validation = math.nan if result.reason else self.loss(target.validation())
        if not result.reason and not result.validation <= result.start:
            result.reason = _failure(result.validation)
        if self.training.final and not result.reason:
            result.test = self.loss(target.test())
            result.reason = "" if math.isfinite(result.test) else _failure(result.test)
        if result.reason:
            self._count_as_initial()
        if self.training.final and (metric := target.metric) is not None:
            result.metric = self._measured(lambda: metric.of(self.module, self._moved(target.test())))
        return result

    def _count_as_initial(self) -> None:
        """A run that came to nothing is a model that never trained."""
        self.module = self.target.module(self.training.seed).to(self.device)
        self.result.validation = self.result.start
        self.result.test = self.loss(self.target.test()) if self.training.final else None

    def loss(self, batches: list[Batch]) -> float:
        """Mean loss in nats, in evaluation mode."""
        return self._measured(
            lambda: float(torch.stack([self._loss(self.module, b).float() for b in self._moved(batches)]).mean())
        )

    def save(self, path: Path) -> None:
        """Writes all that the rest of the run depends on, whole or not at all."""
        held = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                "sum": self._sum, "since": self._since, "result": asdict(self.result)}  # fmt: skip
        replace_file(path, lambda file: torch.save(held, file))

    def load(self, path: Path) -> None:
        """Goes on from what `save` wrote."""
        held = torch.load(path, map_location=self.device, weights_only=True)
        self.module.load_state_dict(held["module"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.step, self._since = held["step"], held["since"]
        self._sum = held["sum"]
        self.result = Result(**held["result"])

    def _loss(self, module: nn.Module, batch: Batch) -> Tensor:
        low = self.target.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self.target.loss(module, batch)

    def _measured(self, measure: Callable[[], float]) -> float:
        self.module.eval()
        with torch.no_grad():
            found = measure()
        self.module.train()
        return found

    def _moved(self, batches: list[Batch]) -> list[Batch]:
        return [batch.to(self.device) for batch in batches]


def train_target(target: Target, training: Training, checkpoint: Path | None = None, device: str = "cpu") -> Result:
    """Trains to the end. With a checkpoint's path a run that was killed goes on, to the same bits on one CPU thread.

    Raises:
        ProgramError: As `Trainer`.
    """
    trainer = _resumed(target, training, checkpoint, device) if checkpoint is not None and checkpoint.exists() else None
    if trainer is None:
        trainer = Trainer(target, training, device)
        trainer.start()
    looks = {round(training.steps * (i + 1) / LOOKS) for i in range(LOOKS)}
    saved = time.monotonic()
    batches = target.batches(training.seed, training.steps)
    for batch in islice(batches, trainer.step, None):
        trainer.advance(batch)
        if trainer.step in looks and not trainer.look():
            break
        if checkpoint is not None and time.monotonic() - saved > _SAVE_EVERY:
            trainer.save(checkpoint)
            saved = time.monotonic()
    result = trainer.finish()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return result


def _resumed(target: Target, training: Training, checkpoint: Path, device: str) -> Trainer | None:
    """A run as its checkpoint left it; one that cannot be read, as after a power cut, counts as none."""
    trainer = Trainer(target, training, device)
    try:
        trainer.load(checkpoint)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, UnpicklingError) as error:
        log.warning("%s cannot be read, so that its run begins anew (%s)", checkpoint, str(error).partition("\n")[0])
        return None  # and with it a module that may hold some of those weights
    return trainer


def make_optimizer(
    program: Program, module: nn.Module, roles: Mapping[str, str], training: Training
) -> torch.optim.Optimizer:
    """The exported class of a program over a module, its constants those of the program's text.

    Over a decoder that is not at its base width, groups are by role and their rates those of `width_transfer`.

    Raises:
        ProgramError: No class can hold the program, it is a schedule, or it needs an oracle.
    """
    check_trainable(program)
    made = torch_class(program)
    known = inspect.signature(made).parameters
    given: dict[str, Any] = {"total_steps": training.steps, "seed": training.seed}
    named = {name: value for name, value in given.items() if name in known}
    ratio = width_ratio(module)
    by_role = program.fallback is not None or ratio != 1
    optimizer = made(role_groups(module, roles) if by_role else module.parameters(), **named)
    if ratio != 1:
        transfer_rates(optimizer, program, ratio)
    return optimizer


def check_trainable(program: Program) -> None:
    """Raises ProgramError, in one line, for what a plain training loop cannot run."""
    if program.schedule:
        raise ProgramError(
            f"{program.name} is a schedule of the learning rate, not an optimizer; validate a rule with it"
        )
    for part in program.parts():
        if reason := reject_reason(flow(part)):
            raise ProgramError(f"{part.name} {reason}, so that there is nothing to train or to tune")
        asked = [RESERVED[slot] for slot in ORACLES if flow(part).reads(slot)]
        if asked:
            raise ProgramError(
                f"{part.name} needs the oracle {' and '.join(asked)}, extra passes that a training loop does not give; "
                "validation takes rules that read gradients"
            )


def _failure(loss: float) -> str:
    return "NaN" if math.isnan(loss) else "Inf" if math.isinf(loss) else "diverged"


def _parts(batch: Batch, count: int) -> list[Batch]:
    """A batch cut along its examples."""
    if count == 1:
        return [batch]
    size, rest = divmod(len(batch.tensors()[0]), count)
    if rest or not size:
        raise TaskError(f"a batch of {count * size + rest} cannot be accumulated over {count} equal parts")
    return [batch.map(lambda t, i=i: t[i * size : (i + 1) * size]) for i in range(count)]  # type: ignore[misc]
