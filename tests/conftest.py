"""What several tests share: start programs, and thousands of random valid programs."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from stepsmith.dsl import Program
from stepsmith.search.mutate import Mutator

STARTS = {
    # The three programs that the search's authors print, as they stand there.
    "adamw": """def train(w, g, m, v, lr):
  g2 = square(g)
  m = interp(g, m, 0.9)
  v = interp(g2, v, 0.999)
  sqrt_v = sqrt(v)
  update = m / sqrt_v
  wd = w * 0.01
  update = update + wd
  lr = lr * 0.001
  update = update * lr
  return update, m, v
""",
    "program4": """def train(w, g, m, v, lr):
  g = clip(g, lr)
  g = arcsin(g)
  m = interp(g, v, 0.899)
  m2 = m * m
  v = interp(g, m, 1.109)
  abs_m = sqrt(m2)
  update = m / abs_m
  wd = w * 0.4602
  update = update + wd
  lr = lr * 0.0002
  m = cosh(update)
  update = update * lr
  return update, m, v
""",
    "lion": """def lion(w, g, m, lr):
  update = interp(g, m, 0.9)
  update = sign(update)
  m = interp(g, m, 0.99)
  wd = w * 0.1
  update = update + wd
  update = update * lr
  return update, m
""",
    "sgd": "def sgd(w, g, lr=0.1):\n  return lr * g\n",
    "adam": """# Adam with bias correction: hyperparameters, eps, t.
def adam(w, g, m, v, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, t):
  m = interp(g, m, beta1)
  v = interp(g * g, v, beta2)
  return lr * (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + eps), m, v
""",
    "cautious": """def cautious(w, g, m, lr=1e-3, progress):
  u = sign(interp(g, m, 0.9))
  mask = g * u > 0
  u = u * mask / max(mean(mask), 1e-3)
  return lr * (1 - progress) * u, interp(g, m, 0.99)
""",
    "counted": """# A state of every kind.
def counted(w, g, m, n: scalar, peak: global, lr=0.01):
  n = interp(rms(g), n, 0.9)
  peak = max(peak, global_norm(g))
  m = interp(clip(g, peak), m, 0.9)
  return lr * m / (n + 1e-3), m, n, peak
""",
}


@pytest.fixture(scope="session")
def starts() -> dict[str, Program]:
    return {name: Program.parse(text) for name, text in STARTS.items()}


@cache
def _random_programs(count: int) -> tuple[Program, ...]:
    programs = []
    roots = [Program.parse(text) for text in STARTS.values()]
    mutators = [Mutator("lion45"), Mutator("elementwise")]
    index = 0
    while len(programs) < count:
        random = np.random.Generator(np.random.Philox(key=index))
        program, mutator = roots[index % len(roots)], mutators[index // len(roots) % len(mutators)]
        for _ in range(int(random.integers(1, 24))):
            program, _ = mutator.mutate(program, random)
            programs.append(program)
        index += 1
    return tuple(programs[:count])


@pytest.fixture(scope="session")
def random_programs() -> tuple[Program, ...]:
    """20,000 distinct ends of edit chains from the start programs, in both spaces."""
    return _random_programs(20_000)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`chunks(count, quick)`: a long check of `examples[chunk]`, part by part; all but the quick are slow."""
    for marker in metafunc.definition.iter_markers("chunks"):
        count, quick = marker.args
        chunks = [
            pytest.param(slice(i, None, count), id=str(i), marks=[pytest.mark.slow] if i >= quick else [])
            for i in range(count)
        ]
        metafunc.parametrize("chunk", chunks)


#: Files whose tests are few and long: searches that are killed, clusters, an interpreter of kernels.
LONG = (
    "test_triton", "test_ray", "test_simplify", "test_validation", "test_faults", "test_executors", "test_ledger",
    "test_symmetry", "test_search", "test_cells", "test_finds", "test_cli", "test_target_training", "test_task_files",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then those of most tests: a worker that begins a long one at the end leaves the other idle."""
    sizes = Counter(item.path for item in items)
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (rank.get(item.path.stem, len(LONG)), -sizes[item.path]))
