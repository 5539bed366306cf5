"""The engine of populations on GPUs: one Triton kernel interprets all programs (see `population_kernel`).

Here are its tables, and the memory that they point to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiled_engine import CompiledEngine
from .encode import ON_GLOBAL, ON_SCALAR, ON_TENSOR, STATES, TILE
from .phases import Layout, phases
from .program import Program

if TYPE_CHECKING:
    from torch import Tensor

# 64 registers a thread hold an instruction on four elements without spilling; four programs then fill the registers of
# a multiprocessor. Scratch is kept for as many as run at once, so that it stays in the caches.
_RESIDENT = 4
# Without fusion a * a - b * b is 0 where a is b, as everywhere else. Stages are for loops of matrix products.
OPTIONS = {"num_warps": 8, "maxnreg": 64, "num_stages": 1, "enable_fp_fusion": False}
_NUMBERS = 3  # globals that every step sets: peak, count, progress


class TritonEngine(CompiledEngine):
    """The kernel's tables, and the memory it works in, on the device of the parameters."""

    def __init__(self, programs: Sequence[Program], params: Sequence[Tensor]) -> None:
        import torch

        super().__init__(programs)
        self.device, self.dtype = params[0].device, params[0].dtype
        self.sizes = [p[0].numel() for p in params]
        self.layout = self._layout()
        self.running = min(self.count, self._resident())
        self.states = [torch.zeros_like(p) for _ in range(self.slots) for p in params]
        self.arrays = self._memory(len(params))
        self.addresses: tuple[int, ...] = ()
        self.places = torch.zeros(3, self.layout.end, len(params), dtype=torch.int64, device=self.device)
        self.tables = self._tables()

    def _layout(self) -> Layout:
        memory = STATES + self.slots
        each = (max(len(c.globals) for c in self.codes), self.most("scalars"), memory, self.slots, self.slots)
        return Layout(0, *np.cumsum([*each, self.most("kept"), self.most("locals")]).tolist())

    def _resident(self) -> int:
        import torch

        if self.device.type != "cuda":
            return 2  # more than one, so that tests see programs follow each other in one scratch
        return _RESIDENT * torch.cuda.get_device_properties(self.device).multi_processor_count

    def _memory(self, tensors: int) -> dict[str, Tensor]:
        """Memory for all values but weights and gradients; the numbers of a step are (P + 2,): rates, t, progress."""
        import torch

        real = np.dtype("float64" if self.dtype == torch.float64 else "float32")
        zeros = {
            "numbers": (self.count + 2,),
            "scalars": (self.count, self.most("scalars"), tensors),
            "scalar_states": (self.count, max(self.slots, 1), tensors),
            "global_states": (self.count, max(self.slots, 1)),
            "kept": (self.running, self.most("kept"), sum(self.sizes)),
            "locals": (self.running, self.most("locals"), TILE),
        }
        made = {name: torch.zeros(shape, dtype=self.dtype, device=self.device) for name, shape in zeros.items()}
        made["sums"] = torch.zeros(self.running, self.layout.end, dtype=torch.float64, device=self.device)
        return made | {"globals": torch.from_numpy(self.globals_table(real)).to(self.device)}

    def _tables(self) -> list[Tensor]:
        """Where a program's phases begin, phases, instructions, tiles, and sizes with their sum."""
        import torch

        count = len(self.sizes)
        tiles = [(k, 0, 1) for k in range(count)]
        tiles += [(k, b, min(TILE, n - b)) for k, n in enumerate(self.sizes) for b in range(0, max(n, 1), TILE)]
        ranges = {ON_GLOBAL: (0, 1), ON_SCALAR: (0, count), ON_TENSOR: (count, len(tiles))}
        starts, rows, lines = [0], [], []  # type: ignore[var-annotated]
        for code in self.codes:
            for unit, some in phases(code, self.layout):
                rows.append((len(lines), len(lines) + len(some), *ranges[unit]))
                lines += some
            starts.append(len(rows))
        made = (starts, rows, lines, tiles, [*self.sizes, sum(self.sizes)])
        return [torch.tensor(table, dtype=torch.int32, device=self.device) for table in made]

    def _places(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(3, rows, tensors): addresses, elements between copies, elements between neighbours."""
        at, a, item, sizes = self.layout, self.arrays, params[0].element_size(), np.array(self.sizes, np.int64)
        table = np.zeros((3, at.end, len(params)), np.int64)
        tensors = np.arange(len(params))
        begins = np.cumsum(sizes) - sizes

        def place(first: int, stop: int, name: str, each: int, within: Any = 0, step: int = 0) -> None:
            """Rows of an array (copies, rows, each)."""
            rows = np.arange(stop - first)[:, None]
            table[0, first:stop] = a[name].data_ptr() + item * (rows * each + within)
            table[1, first:stop], table[2, first:stop] = a[name][0].numel(), step

        place(at.globals, at.scalars, "globals", 1)
        place(at.scalars, at.memory, "scalars", len(params), tensors)
        place(at.scalar_states, at.global_states, "scalar_states", len(params), tensors)
        place(at.global_states, at.kept, "global_states", 1)
        place(at.kept, at.locals, "kept", sum(self.sizes), begins, 1)
        place(at.locals, at.end, "locals", TILE, 0, 1)
        numbers = a["numbers"].data_ptr() + item * np.array([0, self.count, self.count + 1])
        table[0, at.globals : at.globals + _NUMBERS] = numbers[:, None]
        table[1, at.globals : at.globals + _NUMBERS] = np.array([1, 0, 0])[:, None]
        tensors_at = np.array([x.data_ptr() for x in (*params, *grads, *self.states)], np.int64)
        table[0, at.memory : at.scalar_states] = tensors_at.reshape(-1, len(params))
        table[1, at.memory : at.scalar_states], table[2, at.memory : at.scalar_states] = sizes, 1
        return table

    def write_numbers(self, schedule: Any, t: int, progress: float) -> None:
        """Sets what a step reads of single numbers, on the device."""
        import torch

        numbers = torch.from_numpy(np.concatenate([self.peaks * schedule, [t, progress]]))
        self.arrays["numbers"].copy_(numbers.to(self.dtype))

    def launch(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Runs the programs once; the table of places is copied to the device where an address is new."""
        import torch
        import triton.language as tl

        from .population_kernel import step

        addresses = tuple(x.data_ptr() for x in (*params, *grads))
        if addresses != self.addresses:
            self.places.copy_(torch.from_numpy(self._places(params, grads)))
            self.addresses = addresses
        programs, lists, code, tiles, sizes = self.tables
        rows, tensors = self.layout.end, len(self.sizes)
        real = tl.float64 if self.dtype == torch.float64 else tl.float32
        with torch.cuda.device_of(params[0]):
            step[(self.running,)](
                programs, lists, code, tiles, self.places, sizes, self.arrays["sums"], self.count, rows, tensors,
                self.layout.kept, self.layout.locals, real, TILE, **OPTIONS,
            )  # fmt: skip
