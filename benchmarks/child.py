"""What a child costs before it is trained: mutation and checks alone, and with the behavioural key.

    python benchmarks/child.py

Prints medians over 2,000 children of the start programs' descendants. Bars: 1 ms and 3 ms.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from stepsmith.dsl import Program
from stepsmith.dsl.flow import flow, reject_reason
from stepsmith.dsl.keys import behaviour, key, structural_key
from stepsmith.search.mutate import Mutator

ADAMW = """def train(w, g, m, v, lr=0.001):
  m = interp(g, m, 0.9)
  v = interp(square(g), v, 0.999)
  return lr * (m / sqrt(v) + w * 0.01), m, v
"""
CHILDREN = 2_000
DEPTH = 20  # edits between the start program and its furthest descendant


def main() -> None:
    mutator, program = Mutator("lion45"), Program.parse(ADAMW)
    plain, keyed = [], []
    for number in range(CHILDREN):
        if number % DEPTH == 0:
            parent = program
        random = np.random.Generator(np.random.Philox(key=[7, number]))
        start = time.perf_counter()
        child, _ = mutator.mutate(parent, random)
        live = flow(child)
        reason = reject_reason(live)
        structural_key(child)
        plain.append(time.perf_counter() - start)
        if reason is None:
            start = time.perf_counter()
            key(child, behaviour(child))
            keyed.append(plain[-1] + time.perf_counter() - start)
            parent = child
    without, with_key = 1e3 * median(plain), 1e3 * median(keyed)
    print(f"a child without behaviour {without:.3f} ms, with it {with_key:.3f} ms, ratio {with_key / without:.1f}")


if __name__ == "__main__":
    main()
