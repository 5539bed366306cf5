"""The engine of populations on CPUs: `population.c`, made from the op table and compiled once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from .compile_c import build_library
from .compiled_engine import CompiledEngine
from .encode import TILE
from .ops import OPCODE, ROWS
from .program import Program

if TYPE_CHECKING:
    from torch import Tensor


def _c_source(real: str) -> str:
    """population.c with the op table filled in."""
    suffix = "f" if real == "float" else ""

    def case(row_name: str, body: str) -> str:
        return f"    case {OPCODE[row_name]}: {body} break; /* {row_name} */"

    maps = [case(r.name, f"EACH{r.arity}({r.c.replace('{f}', suffix)});") for r in ROWS if r.elementwise and r.c]
    reductions = [r for r in ROWS if not r.elementwise and r.c]
    reduces = [case(r.name, "LARGEST;" if r.name == "amax" else f"SUM({r.c});") for r in reductions]
    finishes = [case(r.name, f"return {r.finish};") for r in reductions]
    text = resources.files(__package__).joinpath("population.c").read_text("utf-8")
    for mark, cases in (("@MAPS@", maps), ("@REDUCES@", reduces), ("@FINISHES@", finishes)):
        text = text.replace(mark, "\n".join(cases))
    return text.replace("typedef REAL real;", f"typedef {real} real;")


class _Space(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tensors", "elements", "slots")),
        *((name, ctypes.c_void_p) for name in ("size", "offset", "w", "g", "states", "scalar_states",
                                               "global_states", "globals", "scalars")),
        *((name, ctypes.c_int64) for name in ("globals_each", "scalars_each")),
        *((name, ctypes.c_void_p) for name in ("scratch", "memory")),
    ]  # fmt: skip


@cache
def compiled_interpreter(real: str) -> Any:
    """The function of the library, for "float" or "double". Raises CompilerMissing."""
    function = build_library(_c_source(real), name=f"population_{real}").population_step
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 4]
    return function


class CEngine(CompiledEngine):
    """The compiled interpreter and the memory it works in."""

    def __init__(self, programs: Sequence[Program], params: Sequence[Tensor], real: str) -> None:
        self.function = compiled_interpreter(real)
        super().__init__(programs)
        dtype, slots = np.dtype(real if real == "double" else "float32"), self.slots
        sizes = np.array([p[0].numel() for p in params], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.globals, scalars = self.globals_table(dtype), self.most("scalars")
        self.states = [p.new_zeros(p.shape) for _ in range(slots) for p in params]
        self.pointers = np.zeros((2 + slots, len(params)), np.uintp)
        self.pointers[2:].reshape(-1)[:] = [s.data_ptr() for s in self.states]
        self.arrays = {
            "size": sizes, "offset": offsets, "globals": self.globals,
            "scalars": np.zeros((self.count, scalars, len(params)), dtype),
            "scalar_states": np.zeros((self.count, max(slots, 1), len(params)), dtype),
            "global_states": np.zeros((self.count, max(slots, 1)), dtype),
            "scratch": np.zeros((self.most("locals"), TILE), dtype),
            "memory": np.zeros((self.most("kept"), int(sizes.sum())), dtype),
        }  # fmt: skip
        self.tables = self._tables()
        self.space = _Space(
            tensors=len(params), elements=int(sizes.sum()), slots=slots, globals_each=self.globals.shape[1],
            scalars_each=scalars, w=self.pointers[0].ctypes.data, g=self.pointers[1].ctypes.data,
            states=self.pointers[2:].ctypes.data, **{k: a.ctypes.data for k, a in self.arrays.items()},
        )  # fmt: skip
        self.call = (ctypes.addressof(self.space), self.count, *(t.ctypes.data for t in self.tables))

    def _tables(self) -> list[np.ndarray[Any, Any]]:
        programs, instructions, places, stores = [], [], [], []  # type: ignore[var-annotated]
        for code in self.codes:
            programs.append((len(instructions), len(instructions) + len(code.instructions), len(places),
                             code.update, len(stores), len(stores) + len(code.stores)))  # fmt: skip
            instructions += code.instructions
            places += code.places
            stores += code.stores
        return [np.array(rows or [(0,)], np.int32) for rows in (programs, instructions, places, stores)]

    def write_numbers(self, schedule: Any, t: int, progress: float) -> None:
        """Sets what a step reads of single numbers."""
        with np.errstate(over="ignore"):
            self.globals[:, 0] = self.peaks * schedule
        self.globals[:, 1] = t
        self.globals[:, 2] = progress

    def launch(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Runs the programs once."""
        self.pointers[0] = [p.data_ptr() for p in params]
        self.pointers[1] = [g.data_ptr() for g in grads]
        self.function(*self.call)
