"""The catalogue of programs: loading by name or file; export to torch, optax, LaTeX, timm. Imports `dsl` alone."""

from ..dsl.program import EXPORTERS
from .catalogue import SHELVES, Entry, entries, entry, load, names
from .export_latex import export_latex
from .export_optax import export_optax
from .export_torch import export_torch, torch_class
from .identify import Identity, identify
from .register_timm import register_timm

EXPORTERS["torch"] = torch_class

__all__ = [
    "SHELVES", "Entry", "Identity", "entries", "entry", "export_latex", "export_optax", "export_torch", "identify",
    "load", "names", "register_timm", "torch_class",
]  # fmt: skip
