"""Stepsmith discovers neural-network optimizers as short symbolic programs.

Importing this module loads nothing else: a name is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dsl import Program as Program
    from .dsl.roles import role_groups as role_groups
    from .evaluator.smoketest import smoketest_task as smoketest_task
    from .proxies import Batch as Batch
    from .proxies import Examples as Examples
    from .proxies import Task as Task
    from .proxies import task_of_module as task_of_module
    from .search.programs import load_any

    load = load_any

__version__ = "0.1.0"

# Public name -> the module that defines it, and its name there.
_NAMES = {
    "Batch": ("proxies", "Batch"),
    "Examples": ("proxies", "Examples"),
    "Program": ("dsl", "Program"),
    "Task": ("proxies", "Task"),
    "load": ("search.programs", "load_any"),
    "role_groups": ("dsl.roles", "role_groups"),
    "smoketest_task": ("evaluator.smoketest", "smoketest_task"),
    "task_of_module": ("proxies", "task_of_module"),
}
_FOLDERS = ("discovered", "dsl", "evaluator", "proxies", "report", "search")


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f".{name}", __name__)
    if name in _NAMES:
        module, known_as = _NAMES[name]
        value = getattr(import_module(f".{module}", __name__), known_as)
        globals()[name] = value
        return value
    from difflib import get_close_matches

    close = get_close_matches(name, ["__version__", *_NAMES, *_FOLDERS], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*_NAMES, *_FOLDERS, *(name for name in globals() if name.startswith("__"))})
