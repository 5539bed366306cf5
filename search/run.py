"""The search, start to finish: open the ledger, replay it, breed and train rounds, close them in order."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..dsl import Program
from ..dsl.ops import SPACES
from ..evaluator.curve import curve_of, curves_digest
from ..evaluator.dispatcher import Dispatcher
from ..evaluator.fitness import Trial
from ..evaluator.machine import machine
from ..evaluator.memory import PopulationTooLarge, check_fits
from ..proxies import task
from .breed import make_start, remember, remember_best, start_member
from .config import ConfigError, SearchConfig, valid_config
from .ledger import Child, Ledger, LedgerError
from .population import Fold
from .programs import load_any
from .rounds import Round, breed_round
from .strategies import STRATEGIES

_BARREN = 5  # rounds in a row without anything new to train: the mutations are exhausted
BREEDS = ("search_version", "ops")  # what must be equal for a seed to breed the same children
_SOURCES = ("dsl", "discovered", "proxies", "evaluator", "search")
SEARCH_VERSION = 39  # changes with anything that changes which children a seed gives


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cyclic garbage: a replay makes none, and a tenth of its time went to the looking."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Stop(Exception):
    """Raised by a progress callback to end the search after what is committed."""


def run_search(
    ledger: Ledger,
    config: SearchConfig,
    dispatcher: Dispatcher,
    minutes: float | None = None,
    progress: Callable[[Progress], None] = lambda p: None,
) -> Fold:
    """Runs, or goes on with, the search that a ledger records; returns the fold of all closed rounds.

    Ends at the configuration's steps, after `minutes`, or when `progress` raises Stop. Rounds in flight at
    such an end are not lost: they are bred again, the same, when the run is resumed.
    """
    search = _Search(config, start_programs(ledger), ledger.rounds())
    told = Progress(search.fold, time.monotonic(), search.fold.steps, search.fold.judged)
    deadline = None if minutes is None else told.started + 60 * minutes
    tickets: dict[int, Round] = {}
    try:
        while search.refill():
            for round_ in search.flight:
                if not round_.closed and round_ not in tickets.values():
                    tickets |= dict.fromkeys(round_.submit(dispatcher), round_)
            for done in dispatcher.finished(timeout=0.5) if tickets else ():
                tickets.pop(done.ticket).take(done)
            while search.flight and search.flight[0].closed:
                closed = search.flight.popleft()
                ledger.commit_round(closed.children, closed.work)
                search.close(closed.children)
            told.in_flight = sum(len(r.active) for r in search.flight)
            progress(told)
            if deadline is not None and time.monotonic() > deadline:
                break
    except Stop:
        pass
    finally:
        dispatcher.abandon()
    return search.fold


class Over(NamedTuple):
    """Why a search breeds no more, however often it is resumed, and what would."""

    why: str
    mend: str


def why_over(fold: Fold) -> Over | None:
    """None while it would go on."""
    if fold.barren >= _BARREN:
        return Over(f"{_BARREN} rounds in a row had no new child to train", "begin anew with another start or --space")
    if fold.config.steps is not None and fold.steps >= fold.config.steps:
        return Over(f"its {fold.config.steps:,} steps are spent", "begin anew with more --steps, or another --seed")
    return None


def start_programs(ledger: Ledger) -> list[Program]:
    """The programs that a run began with, as they were then."""
    return [Program.parse(text) for text in json.loads(ledger.meta()["starts"])]


@dataclass
class Progress:
    """What a person watches."""

    fold: Fold
    started: float
    steps_before: int  # at the start of this process
    trained_before: int
    in_flight: int = 0  # children still in training

    @property
    def seconds(self) -> float:
        """Since this process began to search."""
        return time.monotonic() - self.started


class _Search:
    """Folds and flight. Round r is bred when the fold holds the rounds up to r - D and no more."""

    def __init__(self, config: SearchConfig, starts: list[Program], stored: Iterator[list[Child]]) -> None:
        self.config = config
        self.fold = Fold(config, [start_member(program) for program in starts])
        self.strategy = STRATEGIES[config.strategy](config)
        self.known: dict[str, int] = {}
        self.flight: deque[Round] = deque()
        self.bred = 0  # rounds bred or introduced from the ledger
        self.children = 0
        with _uncollected():
            self._replay(stored)

    def _replay(self, stored: Iterator[list[Child]]) -> None:
        """Introduces and folds stored rounds in the very order in which they were bred and closed."""
        ahead = deque(islice(stored, self.config.delay))
        for children in ahead:
            self._introduce(children)
        while ahead:
            if len(ahead) < self.config.delay:
                self._breed_due()  # the ledger has come to its end: what follows was in flight
            self._add_round(ahead.popleft())
            for children in islice(stored, 1):
                self._introduce(children)
                ahead.append(children)

    def _introduce(self, children: list[Child]) -> None:
        for child in children:
            if child.identity is not None and child.alias_of is None:
                remember(self.known, child)
        self.children += len(children)
        self.bred += 1

    def _breed_due(self) -> None:
        """Breeds every round that the fold allows now, unless the budget of steps is spent."""
        while self.bred < self.fold.rounds + self.config.delay and not self._spent():
            round_ = breed_round(self.bred, self.children, self.fold, self.strategy, self.known)
            self.flight.append(round_)
            self.children += len(round_.children)
            self.bred += 1

    def _spent(self) -> bool:
        return why_over(self.fold) is not None

    def refill(self) -> bool:
        """Whether there is anything to do."""
        self._breed_due()
        return bool(self.flight)

    def close(self, children: list[Child]) -> None:
        """Folds the oldest round in and breeds the one that waited for it, before the next is folded."""
        self._add_round(children)
        self._breed_due()

    def _add_round(self, children: list[Child]) -> None:
        self.fold.add_round(children)
        for child in children:
            remember_best(self.known, child)


# --- the run folder -------------------------------------------------------------------------------------


def create_run(folder: Path, config: SearchConfig, device: str = "cpu", starts: list[Program] | None = None) -> Ledger:
    """A new run folder; the ledger records configuration, start programs, versions and the kind of machine.

    `starts` are those that `check_run` gave; without them it is called, and what it raises is raised.
    """
    starts = check_run(config, device) if starts is None else starts
    texts = json.dumps([str(program) for program in starts])
    meta = {"config": config.model_dump_json(), "starts": texts, "commit": commit(), **environment(config, device)}
    return Ledger.create(folder, meta)


def check_run(config: SearchConfig, device: str = "cpu", workers: int = 1) -> list[Program]:
    """The start programs of a run that can be.

    What would stop the search later stops it here: a start program that cannot be trained, a task whose AdamW curve is
    missing (NoCurve), a round too large for the memory that so many workers share (ConfigError).
    """
    starts = [load_any(name) for name in config.start]
    for name, program in zip(config.start, starts, strict=True):
        if reason := make_start(0, program, {}).child.reason:
            raise ConfigError(f"start: {name} cannot be trained: {reason.removeprefix('rejected: ')}")
    _curves(config)
    _check_room(config, starts, device, workers)
    return starts


def _check_room(config: SearchConfig, starts: list[Program], device: str, workers: int) -> None:
    """Raises PopulationTooLarge where a round does not fit the memory that it would train in, if that is here."""
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        return  # workers elsewhere say it
    for stage in config.stages:
        for name in stage.tasks:
            copies = config.round * len(stage.lr_factors) + 1  # and AdamW beside them
            try:
                check_fits(task(name), starts, device, config.dtype, workers * copies)
            except PopulationTooLarge as error:
                each = f" on each of {workers} workers" if workers > 1 else ""
                raise ConfigError(f"round: {config.round} children train as {copies} copies{each}: {error}") from None


def open_run(folder: Path, device: str = "cpu") -> tuple[Ledger, SearchConfig, list[str]]:
    """An existing run, its configuration, and what differs here from where it was begun.

    Raises LedgerError when the search version or the op list differ: the same seed would breed other children.
    """
    ledger = Ledger.open(folder)
    try:
        meta = ledger.meta()
        config = _config_of(ledger.path, meta)
        here = environment(config, device)
        for name in BREEDS:
            if meta.get(name) != here[name]:
                raise LedgerError(
                    f"{ledger.path}: written with {name} {meta.get(name)}, this is {here[name]}; "
                    "go on with the version that wrote it"
                )
    except BaseException:
        ledger.close()
        raise
    if meta.get("curves") != here["curves"]:
        ledger.close()
        names = dict.fromkeys(n for s in config.stages for n in s.tasks) | dict.fromkeys(config.held_out)
        raise LedgerError(
            f"{ledger.path}: {' or '.join(names)} is not the task that it was, or has another AdamW curve: "
            "put back the files that the run began with, or start a new run"
        )
    changed = [f"{n}: {meta.get(n)} there, {v} here" for n, v in here.items() if meta.get(n) != v]
    return ledger, config, changed


def stored_config(values: dict[str, Any]) -> SearchConfig:
    """A configuration as it was stored, whose start programs are stored beside it: their names may mean others now."""
    config = valid_config(values | {"start": ("adamw",)})
    return config.model_copy(update={"start": tuple(values["start"])})


def _config_of(path: Path, meta: dict[str, str]) -> SearchConfig:
    try:
        json.loads(meta["starts"])
        return stored_config(json.loads(meta["config"]))
    except ConfigError as error:
        raise LedgerError(f"{path}: its configuration does not hold here: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise LedgerError(f"{path}: its configuration cannot be read by this version") from None


@cache
def commit() -> str:
    """The commit of the code, with a + where code or data differ from it; "" where this is no checkout.

    As it was when this process first asked: what is checked out later is not what runs.
    """
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != root.resolve():
            return ""  # a package inside somebody's repository
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", *_SOURCES).strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def environment(config: SearchConfig, device: str = "cpu") -> dict[str, str]:
    """What besides configuration and seed a run depends on."""
    ops = json.dumps(SPACES[config.space].ops)
    return {
        "search_version": str(SEARCH_VERSION),
        "ops": hashlib.blake2b(ops.encode(), digest_size=6).hexdigest(),
        **machine(device),
        "curves": _curves(config),
    }


def _curves(config: SearchConfig) -> str:
    """A hash of every AdamW curve that the search and its re-scoring read; raises NoCurve where one is missing."""
    shares = [(name, stage.share) for stage in config.stages for name in stage.tasks]
    shares += [(name, 1.0) for name in (*config.stages[-1].tasks, *config.held_out)]
    for name, share in shares:
        curve_of(task(name)).point(Trial((name,), share).steps_each())
    return curves_digest(tuple(name for name, _ in shares))
