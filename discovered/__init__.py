"""The catalogue of programs: loading by name or from a file, export to torch, optax, LaTeX. Imports `dsl` alone."""

from ..dsl.program import EXPORTERS
from .catalogue import SHELVES, Entry, entries, entry, load, names
from .export_latex import export_latex
from .export_optax import export_optax
from .export_torch import export_torch, torch_class
from .identify import Identity, identify

EXPORTERS["torch"] = torch_class

__all__ = [
    "SHELVES", "Entry", "Identity", "entries", "entry", "export_latex", "export_optax", "export_torch", "identify",
    "load", "names", "torch_class",
]  # fmt: skip
