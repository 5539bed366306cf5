"""What a search is: one configuration, from defaults, a TOML file and the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..dsl.errors import OF_FEW, did_you_mean
from ..dsl.ops import SPACES
from ..dsl.symmetry import is_odd
from ..evaluator.curve import MOST_SHARE
from ..evaluator.fitness import TUNED, Trial
from ..proxies import full_name
from ..proxies.schedule import DECAYS
from .programs import ADAMW_ON, load_any, tuned_on
from .strategies import STRATEGIES

_NUMBERS = (int, int | None, float)
KNOWN_DECAYS = (TUNED, *DECAYS)


class ConfigError(ValueError):
    """A configuration that is not one: what, where, and the mend, in one line."""


class _AsWritten(BaseModel):
    """Values of the kind that is meant: pydantic would take true for 1, "3" for 3 and "no" for false."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: object, field: ValidationInfo) -> object:
        kind = cls.model_fields[field.field_name or ""].annotation
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"write true or false, not {value!r}")
        if kind in _NUMBERS and isinstance(value, bool | str):
            raise ValueError(f"write a number without quotes, not {value!r}")
        return value


class Stage(_AsWritten):
    """A rung: what children are trained on, and the share of them that goes no further.

    `seeds` is how many; which follows from the stage's place, so that every stage has fresh ones. The last stage drops
    none: what is below the quantile after its first seed has that for its fitness, at the scale of scores on all seeds,
    and is trained on no other, where it trains at one learning rate.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    share: float = Field(
        1.0, gt=0, le=MOST_SHARE, description="of the tasks' budgets, a run of its own with full decay"
    )
    seeds: int = Field(1, ge=1, le=1000)
    lr_factors: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    drop: float = Field(0.5, ge=0, lt=1, description="quantile of recent scores below which a child is dropped")

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            names = tuple(full_name(name) for name in names)
        except LookupError as error:
            raise ValueError(str(error)) from None
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} stands twice; leave one out")
        return names


_NAMED_ADAMW = re.compile(rf"\b{ADAMW_ON}([^\s,()]+)")  # inside a transform or a route
_THIRD = 1 / 3
#: Digits reject the broken and rank nothing, at four learning rates: what keeps the scale of a start that was never
#: tuned would fall there, and all that is like it later be its repeat. Their best is within three of the byte model's.
#: Then an eighth of the budget at three rates, since a sign that keeps its parent's scale has a third of its best; a
#: whole run on the task that tells more of the rest of fitness, as ranks at a part of the length say little of those at
#: the end; and fitness, on three seeds that no hurdle saw: one is off by a tenth and more, which is enough to tell that
#: a child is none of the best.
DEFAULT_STAGES = (
    Stage(tasks=("digits",), share=0.125, lr_factors=(_THIRD, 1.0, 3.0, 9.0), drop=0.0),
    Stage(tasks=("bytes",), share=0.125, lr_factors=(_THIRD, 1.0, 3.0), drop=0.3),
    Stage(tasks=("bytes_b64",), share=1.0, lr_factors=(0.5, 1.0), drop=0.6),
    Stage(tasks=("bytes", "bytes_b64"), share=1.0, seeds=3, drop=0.8),
)


def on_tasks(tasks: Sequence[str]) -> dict[str, Any]:
    """The options of a search on tasks of one's own: the default stages on them in place of the byte model's, from
    AdamW as tuned on the first, on its decay shape, nothing held out.

    >>> on_tasks(["quadratic"])["start"], on_tasks(["quadratic"])["stages"][-1].tasks
    (('adamw@quadratic',), ('quadratic',))
    """
    names = Stage(tasks=tuple(tasks)).tasks  # as stages keep them
    stages = tuple(s if s.tasks == ("digits",) else s.model_copy(update={"tasks": names}) for s in DEFAULT_STAGES)
    return {"stages": stages, "start": (f"{ADAMW_ON}{names[0]}",), "decay": TUNED, "held_out": ()}


class SearchConfig(_AsWritten):
    """Everything that the children of a search depend on, with the seed. Workers and time limits are not here."""

    start: tuple[str, ...] = Field(
        ("momentum",), min_length=1, description="programs to evolve from; adamw@TASK is AdamW as tuned there"
    )
    strategy: str = Field("evolution", description="how parents are chosen: evolution, random or constants")
    space: str = Field("pointwise", description="ops that mutation may write")
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int | None = Field(None, ge=1, description="stop after this many training steps of children")
    stages: tuple[Stage, ...] = Field(DEFAULT_STAGES, min_length=1, max_length=8)
    population: int = Field(100, ge=2, lt=2**63)
    tournament: int = Field(10, ge=1)
    edits: float = Field(1.5, ge=1, description="mean number of edits between parent and child, in evolution")
    odd: bool = Field(True, description="train only what negates its update where w and g are, at its peak rate")
    front: float = Field(0.5, ge=0, le=1, description="share of parents that are shorter than all fitter ones")
    parsimony: float = Field(
        0.02, ge=0, le=1, description="share of fitness that a statement must be worth, in parents and in what is shown"
    )
    tune: float = Field(0.15, ge=0, le=1, description="share of children that move the numbers of a new structure")
    mix: float = Field(
        0.1, ge=0, le=1, description="share of children that add the update of another niche's best to their parent's"
    )
    tidy: float = Field(
        0.5, ge=0, le=1, description="share of children whose parent loses dead code and arithmetic on numbers"
    )
    round: int = Field(48, ge=1, description="trainable children a round (B)")
    delay: int = Field(2, ge=1, lt=2**63, description="rounds in flight (D); with `round` it bounds the useful workers")
    patience: int = Field(30, ge=1, description="rounds without a better program before a restart")
    islands: int = Field(1, ge=1, le=64, description="populations that evolve apart")
    migrate: int = Field(10, ge=1, description="rounds between migrations of each island's best to the next")
    niches: bool = Field(
        True, description="an island for each number of states and elasticity, so that kinds of rule do not compete"
    )
    adapt: bool = Field(False, description="weigh kinds of edit by how often they paid off")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the model's passes in training")
    audit: float = Field(0.02, ge=0, le=1, description="share of the dropped that is trained to the end")
    decay: str = Field(
        "constant_linear",
        description="shape in which learning rates of candidates fall; tuned: as AdamW's does",
    )
    held_out: tuple[str, ...] = Field(("bytes_tied",), description="tasks the search never trains on")

    @field_validator("start", "held_out", mode="before")
    @classmethod
    def _one_or_many(cls, names: object) -> object:
        return (names,) if isinstance(names, str) else names

    @field_validator("strategy", "space")
    @classmethod
    def _known_name(cls, name: str, field: ValidationInfo) -> str:
        known: Mapping[str, object] = STRATEGIES if field.field_name == "strategy" else SPACES
        if name not in known:
            raise ValueError(f"unknown {field.field_name} {name!r}; {did_you_mean(name, known, OF_FEW)}")
        return name

    @field_validator("decay")
    @classmethod
    def _known_decay(cls, name: str) -> str:
        if name not in KNOWN_DECAYS:
            raise ValueError(f"unknown decay {name!r}; {did_you_mean(name, KNOWN_DECAYS, OF_FEW)}")
        return name

    @field_validator("start")
    @classmethod
    def _known_programs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                program = load_any(name)
            except (LookupError, RuntimeError) as error:
                raise ValueError(str(error)) from None
            if program.schedule:
                raise ValueError(f"{name} is a schedule; a search begins with a rule")
        return tuple(map(_anywhere, names))

    @field_validator("held_out")
    @classmethod
    def _known_held_out(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return Stage._known_tasks(names)

    @model_validator(mode="after")
    def _held_out_is_unseen(self) -> SearchConfig:
        seen = {name for stage in self.stages for name in stage.tasks}
        for name in self.held_out:
            if name in seen:
                raise ValueError(f"held_out: the search trains on {name!r}; name a task that no stage has")
        return self

    @model_validator(mode="after")
    def _odd_begins_with_odd(self) -> SearchConfig:
        for name in self.start if self.odd else ():
            if not all(map(is_odd, load_any(name).parts())):
                raise ValueError(f"start: {name} prefers a direction, as its children would; set odd = false")
        return self

    @model_validator(mode="after")
    def _islands_or_niches(self) -> SearchConfig:
        if self.niches and self.islands > 1:
            raise ValueError(
                f"niches: they have islands of their own; leave out islands = {self.islands}, or set niches = false"
            )
        return self

    def tells_copies(self, stage: int) -> bool:
        """Whether equal losses at a stage say that two programs are one: before the last, where it trains all tasks of
        it, or some of them whole.
        """
        here, last = self.stages[stage], self.stages[-1]
        whole = here.share >= last.share or set(here.tasks) == set(last.tasks)
        return stage + 1 < len(self.stages) and whole and self.foretells(stage)

    def foretells(self, stage: int) -> bool:
        """Whether what a stage trains is among what fitness is measured on."""
        return set(self.stages[stage].tasks) <= set(self.stages[-1].tasks)

    def trial(self, stage: int) -> Trial:
        """What stage number `stage` trains."""
        s = self.stages[stage]
        first = 1000 * (stage + 1)
        return Trial(s.tasks, s.share, tuple(range(first, first + s.seeds)), s.lr_factors, self.dtype, self.decay)

    def looks(self, stage: int) -> list[Trial]:
        """What stage number `stage` trains, in turn: of the last a first seed, then the others."""
        whole = self.trial(stage)
        first, others = whole.seeds[:1], whole.seeds[1:]
        if stage + 1 < len(self.stages) or not self.stages[stage].drop or not others or len(whole.lr_factors) > 1:
            return [whole]
        return [replace(whole, seeds=first), replace(whole, seeds=others)]


def _anywhere(name: str) -> str:
    """A start program's name as a stored configuration has it, which holds in any folder."""
    if (where := tuned_on(name)) is not None:
        return ADAMW_ON + full_name(where)
    return _NAMED_ADAMW.sub(lambda found: ADAMW_ON + full_name(found[1]), name)


def read_config(path: Path | None, overrides: dict[str, Any], tasks: Sequence[str] = ()) -> SearchConfig:
    """Defaults, or those `on_tasks`; then the TOML file, then the command line. Raises ConfigError with one line."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if tasks and "stages" in values:
        raise ConfigError(f"{path} has [[stages]], which name their tasks; leave out --task, or the stages")
    try:
        values = (on_tasks(tasks) if tasks else {}) | values
    except ValidationError as error:
        raise ConfigError(_one_line(error, path)) from None
    return valid_config(values | {name: value for name, value in overrides.items() if value is not None}, path)


def valid_config(values: Mapping[str, Any], path: Path | None = None) -> SearchConfig:
    """The configuration of these values, read from `path`. Raises ConfigError with one line."""
    try:
        return SearchConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, path)) from None


def _one_line(error: ValidationError, path: Path | None) -> str:
    """The first unknown option, which is often why another seems to lack; else the first error."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in errors[0]["loc"])
    if errors[0]["type"] == "extra_forbidden":
        message = _unknown(str(errors[0]["loc"][-1]), place.startswith("stages."))
    else:
        said = _list_meant(errors[0]["input"]) if errors[0]["type"] == "tuple_type" else errors[0]["msg"]
        message = f"{place + ': ' if place else ''}{said.removeprefix('Value error, ')}"
    return f"{path}: {message}" if path else message


def _list_meant(given: object) -> str:
    """Of a value that is none; TOML has no tuples."""
    if isinstance(given, dict):
        return "a list of tables is meant, each under its name in double brackets, as [[stages]]"
    return f"a list is meant, as [{given!r}]"


_ELSEWHERE = (
    "minutes", "workers", "elites", "out", "resume", "executor", "address", "gpus", "device", "timeout", "task",
    "config",
)  # fmt: skip


def _unknown(name: str, in_stage: bool) -> str:
    elsewhere = {"from": "it is called 'start' here"} | {
        option: f"it is an option of the command line, --{option}" for option in _ELSEWHERE
    }
    elsewhere |= dict.fromkeys(Stage.model_fields, "it is an option of a stage, under [[stages]]")
    elsewhere["seeds"] += "; that of the search is 'seed'"
    if in_stage:
        del elsewhere["task"]  # is near to an option that it has
    fields = Stage.model_fields if in_stage else SearchConfig.model_fields
    return f"unknown option {name!r}; {elsewhere.get(name) or did_you_mean(name, fields, 0.65, len(fields))}"
