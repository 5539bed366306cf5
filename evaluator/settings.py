"""Settings of a program: its named constants and its schedule, their ranges, draws and neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from ..dsl import Program
from .curve import Point
from .train import Run

Settings = dict[str, float | str]


class Range(NamedTuple):
    """A log-uniform range of a hyperparameter; of a `rate`, 1 minus it is drawn, and it stays in [0, 1)."""

    low: float
    high: float
    rate: bool = False


Ranges = Mapping[str, Range]

#: Ranges of AdamW's hyperparameters. Local rounds may leave them, so a best value never sits on an edge.
ADAMW_RANGES: Ranges = {
    "lr": Range(1e-3, 6e-2), "beta1": Range(0.02, 0.5, True), "beta2": Range(0.001, 0.3, True),
    "eps": Range(1e-12, 1e-4), "weight_decay": Range(1e-3, 1.0), "max_norm": Range(0.1, 10.0),
}  # fmt: skip
_DECAY_AT = 8e-3  # the learning rate at which AdamW's range of weight_decay is meant
_AROUND = 4.0  # a hyperparameter that the table does not know is drawn within this factor of its default
WARMUPS = (0.0, 0.02, 0.05, 0.1, 0.2)
DECAYS = ("linear", "cosine", "constant_linear")
NO_CLIP = 1e9


def ranges_of(program: Program, peak: float) -> Ranges:
    """Ranges of every hyperparameter of a program and its fallbacks, by setting; `peak` is a learning rate that works.

    A fallback's settings carry its name: "adamw.beta1". Hyperparameters known by name have AdamW's ranges, others
    lie around their defaults; a default between a half and 1 is a rate. What is 0, 1 or negative, or counts steps,
    stays as it is.

    >>> rule = Program.parse("def f(w, g, lr=0.1, beta=0.9, zeta=3.0):\\n  return lr * beta * zeta * g")
    >>> ranges_of(rule, 0.1)["beta"], ranges_of(rule, 0.1)["zeta"]
    (Range(low=0.02, high=0.5, rate=True), Range(low=0.75, high=12.0, rate=False))
    """
    found: dict[str, Range] = {}
    for index, part in enumerate(program.parts()):
        start = f"{part.name}." if index else ""
        own = part.peak * (peak / (program.peak or 1.0))
        decay = _DECAY_AT / own if own > 0 else 1.0  # what shrinks a weight is lr x decay
        found[f"{start}lr"] = Range(own / _AROUND, own * _AROUND)
        for name, default in zip(hyper_names(part), part.hypers, strict=True):
            known = "beta1" if name in ("beta", "momentum") else name
            if known == "weight_decay":
                low, high, _ = ADAMW_RANGES[known]
                found[start + name] = Range(low * decay, high * decay)
            elif known in ADAMW_RANGES:
                found[start + name] = ADAMW_RANGES[known]
            elif 0.5 <= default < 1:
                found[start + name] = Range((1 - default) / _AROUND, min(0.9, (1 - default) * _AROUND), rate=True)
            elif default > 0 and default != 1 and not name.endswith(("steps", "period", "freeze")):
                found[start + name] = Range(default / _AROUND, default * _AROUND)
    return found


def hyper_names(program: Program) -> list[str]:
    """The names of a program's own hyperparameters."""
    return [program.name_of(program.first_hyper + i) for i in range(len(program.hypers))]


def draw(random: Generator, ranges: Ranges = ADAMW_RANGES) -> Settings:
    """Joint random settings; no decay and no clipping are among them."""
    settings: Settings = {}
    for name, (low, high, rate) in ranges.items():
        value = float(np.exp(random.uniform(math.log(low), math.log(high))))
        settings[name] = 1 - value if rate else value
    for name in ranges:
        if name.endswith("weight_decay") and random.random() < 0.3:
            settings[name] = 0.0
    for name in ranges:
        if name.endswith("max_norm") and random.random() < 0.3:
            settings[name] = NO_CLIP
    settings["schedule.warmup"] = WARMUPS[int(random.integers(len(WARMUPS)))]
    settings["schedule.decay"] = DECAYS[int(random.integers(len(DECAYS)))]
    return settings


def nudge(settings: Settings, random: Generator, width: float = 1.0, ranges: Ranges = ADAMW_RANGES) -> Settings:
    """Near settings: each number moves by 2^(width N(0, 1) / 2) with probability 1/2, the rest stay."""
    near = dict(settings)
    fresh = draw(random, ranges)
    for name, value in settings.items():
        if random.random() < 0.5:
            continue
        if isinstance(value, str) or name == "schedule.warmup" or value in (0.0, NO_CLIP) or random.random() < 0.1:
            near[name] = fresh.get(name, value)
            continue
        factor = float(2 ** (width * random.standard_normal() / 2))
        rate = name in ranges and ranges[name].rate
        near[name] = min(max(1 - (1 - value) * factor, 0.0), 0.9999) if rate else value * factor
    return near


def as_run(program: Program, settings: Settings) -> Run:
    """A program with its named constants and schedule set, and those of its fallbacks."""
    return Run(_with(program, settings, ""), float(settings["schedule.warmup"]), str(settings["schedule.decay"]))


def _with(program: Program, settings: Settings, start: str) -> Program:
    names = hyper_names(program)
    hypers = tuple(float(settings.get(start + n, v)) for n, v in zip(names, program.hypers, strict=True))
    fallback = program.fallback and _with(program.fallback, settings, f"{program.fallback.name}.")
    return replace(program, hypers=hypers, lr=float(settings.get(f"{start}lr", program.peak)), fallback=fallback)


def settings_of(point: Point) -> Settings:
    """The settings that gave a point."""
    return written_settings(Program.parse(point.program), point.warmup, point.decay)


def written_settings(program: Program, warmup: float, decay: str, peak: float | None = None) -> Settings:
    """The settings that a program's text has, with this schedule; `peak` moves the learning rates of all its parts.

    >>> written_settings(Program.parse("def f(w, g, lr=0.1, beta=0.9):\\n  return lr * beta * g"), 0.05, "cosine", 0.2)
    {'beta': 0.9, 'lr': 0.2, 'schedule.warmup': 0.05, 'schedule.decay': 'cosine'}
    """
    factor = 1.0 if peak is None else peak / program.peak
    named: Settings = {}
    for index, part in enumerate(program.parts()):
        start = f"{part.name}." if index else ""
        named |= {start + n: value for n, value in zip(hyper_names(part), part.hypers, strict=True)}
        named[f"{start}lr"] = part.peak * factor
    return {**named, "schedule.warmup": warmup, "schedule.decay": decay}
