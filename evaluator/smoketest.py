"""A first look at a task: that it is deterministic, that its gradient is one, and what a step costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ..proxies import Batch, Task, TaskError, blamed, task_of
from ..proxies import task as task_named
from ..proxies.source import Source, digest_of

_COPIES = 4
_TIMED_COPIES = 16
# Step of finite differences along directions of length 1, and what they may differ by, of the gradient's length.
_DIFFERENCES = {torch.float64: (1e-6, 1e-5), torch.float32: (1e-2, 5e-2)}
_TOGETHER = 1e-4  # what a population may differ from its copies alone by, in float32


def smoketest_task(task: Task | str | type) -> dict[str, str]:
    """What is found of a task, by what was looked at; takes seconds.

    Shapes; that a seed fixes weights, batches, losses and gradients to the bit, and another seed gives other weights;
    that validation data is fixed and in batches of one size; the gradient against central differences, in float64
    where the task can; that copies train together as they do alone; the time of a step.

    Args:
        task: A task, its name (`path/my_task.py:MyTask`), or the class that gives it.

    Raises:
        TaskError: In one line, the first thing that is not so.

    >>> found = smoketest_task("quadratic")
    >>> list(found)
    ['shapes', 'determinism', 'validation', 'gradient', 'population', 'cost']
    >>> found["shapes"]
    '64 parameters in 1 tensors (1 matrix); batch of 16; loss 7.87'
    """
    return dict(looks(task))


def looks(task: Task | str | type) -> Iterator[tuple[str, str]]:
    """What `smoketest_task` gives, one after another."""
    shown = task_named(task) if isinstance(task, str) else task_of(task)
    try:
        for name, look in _LOOKS.items():
            yield name, look(shown)
    except TaskError:
        raise
    except Exception as error:
        raise blamed(shown.name, error) from error


def step_seconds(task: Task, copies: int = _TIMED_COPIES) -> float:
    """Seconds that losses and gradients take a copy and step, in a population of `copies`."""
    params, batch = _population(task, copies), _first(task)
    grads = [torch.empty_like(p) for p in params]
    task.model.gradients(params, batch, out=grads)
    start, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < 0.3 or count < 2:
        task.model.gradients(params, batch, out=grads)
        count += 1
    return taken / count / copies


def validation_seconds(task: Task, copies: int = _TIMED_COPIES) -> float:
    """Seconds that the held-out loss takes a copy."""
    params, batches = _population(task, copies), task.validation()
    start = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            task.model.loss(params, batch)
    return (time.perf_counter() - start) / copies


def _first(task: Task, seed: int = 0, steps: int = 1) -> Batch:
    return next(iter(task.batches(seed, steps)))


def _population(task: Task, copies: int = _COPIES) -> list[Tensor]:
    """Copies that differ: one seed each, up to four."""
    each = [task.model.init(i % _COPIES) for i in range(copies)]
    return [torch.stack(p) for p in zip(*each, strict=True)]


def _shapes(task: Task) -> str:
    copy, batch = task.model.init(0), _first(task)
    if [tuple(p.shape) for p in copy] != list(task.model.shapes.values()):
        _fail(task, "shapes", "init gives tensors of other shapes than `shapes` says")
    if list(task.model.roles) != list(task.model.shapes):
        _fail(task, "shapes", "`roles` names other parameters than `shapes`")
    losses = task.model.loss(_population(task), batch)
    if losses.shape != (_COPIES,) or not bool(losses.isfinite().all()):
        _fail(task, "shapes", f"losses of {_COPIES} copies are {losses.tolist()}; finite numbers are needed")
    if not all(bool(g.isfinite().all()) for g in task.model.gradients(_population(task), batch)[1]):
        _fail(task, "shapes", "a gradient is not finite on the first batch; look for roots and logarithms of 0")
    roles = list(task.model.roles.values())
    counts = ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))
    return (
        f"{sum(p.numel() for p in copy):,} parameters in {len(copy)} tensors ({counts}); "
        f"batch of {len(batch.tensors()[0])}; loss {losses[0]:.3g}"
    )


def _determinism(task: Task) -> str:
    params, other = task.model.init(0), task.model.init(1)
    with torch.random.fork_rng(devices=[]):
        torch.rand(1)
        again = task.model.init(0)
    if not _equal(params, again):
        _fail(task, "determinism", "seed 0 twice gives other initial weights; draw them from torch's generator alone")
    if _equal(params, other):
        _fail(task, "determinism", "seeds 0 and 1 give the same initial weights; make fresh ones in module()")
    three, four = list(task.batches(0, 3)), list(task.batches(0, 4))
    for step, (a, b) in enumerate(zip(three, four, strict=False)):
        if not _equal(a.tensors(), b.tensors()):
            _fail(task, "determinism", f"batch {step} of seed 0 is another the second time; draw by seed and step")
    population = _population(task)
    once, twice = (task.model.gradients(population, three[0]) for _ in range(2))
    if not _equal([once[0], *once[1]], [twice[0], *twice[1]]):
        _fail(task, "determinism", "the same weights and batch give other losses or gradients the second time")
    _same_elsewhere(task)
    same = digest_of(three) == digest_of(list(task.batches(1, 3)))
    return f"a seed fixes every bit; another gives other weights{'' if same else ' and batches'}"


def _same_elsewhere(task: Task) -> None:
    """Another process loads the file anew: what it draws while it loads is not fixed by looking twice in this one."""
    if not task.file:
        return
    code = "import sys; from stepsmith.proxies import task; print(task(sys.argv[1]).fingerprint())"
    done = subprocess.run([sys.executable, "-c", code, task.name], capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.split()[-1:] != [task.fingerprint()]:
        _fail(task, "determinism", "another process loads other data or settings from the file; draw them from a seed")


def _validation(task: Task) -> str:
    data = task.data
    once, again = (data.fresh_validation() if isinstance(data, Source) else data.validation() for _ in range(2))
    if digest_of(once) != digest_of(again):
        _fail(task, "validation", "validation() gives other data the second time; draw it from a seed of its own")
    sizes = sorted({len(batch.tensors()[0]) for batch in once})
    if len(sizes) > 1:
        _fail(task, "validation", f"batches have {sizes} examples; one size is needed, as their mean loss is shown")
    return f"{len(once)} batches of {sizes[0]}, fixed"


def _gradient(task: Task) -> str:
    try:
        apart = _difference(task, torch.float64)
        return f"as finite differences within {apart:.0e} (float64)"
    except TaskError:
        raise
    except Exception:  # a module may hold tensors of float32 that no one can see
        return f"as finite differences within {_difference(task, torch.float32):.0e} (float32)"


def _difference(task: Task, dtype: torch.dtype) -> float:
    """How far the gradient is from central differences along it and along random directions."""
    h, allowed = _DIFFERENCES[dtype]
    batch = _first(task).map(lambda t: t.to(dtype) if t.is_floating_point() else t)
    params = [p[:1].to(dtype) for p in _population(task)]
    _, gradient = task.model.gradients(params, batch)
    length = float(_length(gradient))
    generator = torch.Generator().manual_seed(0)
    normal = ([torch.randn(p.shape, generator=generator, dtype=dtype) for p in params] for _ in range(2))
    apart = []
    for direction in (gradient, *normal):
        unit = [d / max(float(_length(direction)), 1e-30) for d in direction]
        ahead, behind = (
            float(task.model.loss([p + side * h * d for p, d in zip(params, unit, strict=True)], batch))
            for side in (1, -1)
        )
        slope = sum(float((g * d).sum()) for g, d in zip(gradient, unit, strict=True))
        apart.append(abs((ahead - behind) / (2 * h) - slope) / max(length, 1e-6))
    worst = float(np.max(apart))  # NaN where any is
    if not worst <= allowed:
        _fail(task, "gradient", f"is {worst:.1e} of its length away from finite differences; {allowed:g} is allowed")
    return worst


def _together(task: Task) -> str:
    params, batch = _population(task), _first(task)
    losses, gradients = task.model.gradients(params, batch)
    away: list[float] = []
    for i in range(_COPIES):
        loss, alone = task.model.gradients([p[i : i + 1].contiguous() for p in params], batch)
        apart = float(_length([g[i : i + 1] - a for g, a in zip(gradients, alone, strict=True)]))
        away += [apart / max(float(_length(alone)), 1e-6), float((losses[i] - loss).abs() / loss.abs())]
    worst = float(np.max(away))
    if not worst <= _TOGETHER:
        _fail(task, "population", f"copies together are {worst:.1e} away from each alone; {_TOGETHER:g} is allowed")
    one_by_one = "" if getattr(task.model, "together", True) else ", one by one"
    return f"{_COPIES} copies together as alone within {worst:.0e}{one_by_one}"


def _cost(task: Task) -> str:
    seconds = step_seconds(task)
    return f"{1e3 * seconds:.3g} ms a copy and step; {seconds * task.steps:.3g} s a run of {task.steps} steps"


def _equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def _length(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(t) for t in tensors]).norm()


def _fail(task: Task, what: str, says: str) -> NoReturn:
    raise TaskError(f"{task.name}: {what}: {says}")


_LOOKS = {
    "shapes": _shapes,
    "determinism": _determinism,
    "validation": _validation,
    "gradient": _gradient,
    "population": _together,
    "cost": _cost,
}
