"""The values of the 8-bit dynamic map, in plain Python: numpy's codec and torch's read the same numbers."""

from __future__ import annotations

from itertools import pairwise


def dynamic_tree(signed: bool) -> list[float]:
    """The 256 values from -1 (unsigned: 0) to 1, rising; the lower a decade, the fewer values it has.

    Dettmers et al. 2022, arXiv:2110.02861, section 1.3.

    >>> len(dynamic_tree(True)), dynamic_tree(False)[:2]
    (256, [0.0, 3.25e-07])
    """
    values = [0.0, 1.0]
    for decade in range(7):
        count = 2**decade if signed else 2 ** (decade + 1)
        edges = [0.1 + 0.9 * i / count for i in range(count + 1)]
        middles = [10.0 ** (decade - 6) * (low + high) / 2 for low, high in pairwise(edges)]
        values += [*middles, *(-x for x in middles if signed)]
    return sorted(values)
