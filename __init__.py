"""Stepsmith discovers neural-network optimizers as short symbolic programs.

Importing this module loads nothing else: a name is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .discovered import load as load
    from .dsl import Program as Program

__version__ = "0.1.0"

# Public name -> the folder that defines it.
_NAMES = {
    "Program": "dsl",
    "load": "discovered",
}
_FOLDERS = ("discovered", "dsl", "evaluator", "proxies", "report", "search")


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f".{name}", __name__)
    if name in _NAMES:
        value = getattr(import_module(f".{_NAMES[name]}", __name__), name)
        globals()[name] = value
        return value
    from difflib import get_close_matches

    close = get_close_matches(name, ["__version__", *_NAMES, *_FOLDERS], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*_NAMES, *_FOLDERS, *(name for name in globals() if name.startswith("__"))})
