"""Tasks in files of the user's own: `path/my_task.py:MyTask`."""

from __future__ import annotations

import difflib
import hashlib
import linecache
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .own_task import task_of
from .task import Task
from .task_error import TaskError, blamed

_FILE = ".py"


def is_file_name(name: str) -> bool:
    """Whether a task's name names a file.

    >>> is_file_name("my_task.py:MyTask"), is_file_name("bytes_b64")
    (True, False)
    """
    return name.rpartition(":")[0].endswith(_FILE) or name.endswith(_FILE)


def absolute(name: str) -> str:
    """The same name from any folder, `~` written out."""
    path, colon, of = name.rpartition(":") if not name.endswith(_FILE) else (name, "", "")
    return str(Path(path).expanduser().absolute()) + colon + of


def file_task(name: str) -> Task:
    """The task that a file defines: a class, an object of one, or a `Task`; loaded once for each text of the file.

    The file's folder is searched for what it imports, after all else.

    Raises:
        TaskError: In one line: no such file or class, what the file raises and where, or what makes it no task.
    """
    path, of = _divided(absolute(name))
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise TaskError(f"task {name}: there is no file {path}{_near_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"task {name}: {getattr(error, 'strerror', None) or error}") from None
    if not of:
        found = re.findall(r"^class (\w+)", text, re.MULTILINE) or ["MyTask"]
        raise TaskError(f"task {name}: name a class of the file, as in {name}:{found[-1]}")
    return _task(str(path), of, text)


def _divided(name: str) -> tuple[Path, str]:
    path, _, of = name.rpartition(":") if not name.endswith(_FILE) else (name, "", "")
    return Path(path), of


def _near_file(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@cache
def _task(path: str, of: str, text: str) -> Task:
    """Cached by the text, so that a file that was changed is a new task."""
    module, name = _module(path, text), f"{path}:{of}"
    if not hasattr(module, of):
        own = [key for key, value in vars(module).items() if _defined_there(key, value, module)]
        close = difflib.get_close_matches(of, own, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(own) or 'no class'}"
        raise TaskError(f"{path}: there is no {of!r}; {hint}")
    try:
        found = task_of(getattr(module, of), name)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return replace(found, name=name, file=path, text_digest=digest)
    except Exception as error:
        raise blamed(name, error) from error


def _defined_there(key: str, value: Any, module: ModuleType) -> bool:
    return not key.startswith("_") and (
        isinstance(value, Task) or (isinstance(value, type) and value.__module__ == module.__name__)
    )


@cache
def _module(path: str, text: str) -> ModuleType:
    """The file run as a module of its own, which is not in anyone's way."""
    digest = hashlib.sha256(f"{path}\n{text}".encode()).hexdigest()[:12]
    module = ModuleType(f"stepsmith_task_{digest}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    if (folder := str(Path(path).parent)) not in sys.path:
        sys.path.append(folder)
    linecache.checkcache(path)
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # which a file ends with that is a script
        del sys.modules[module.__name__]
        raise blamed(path, error) from error
    return module
