"""The tasks by name: the proxies here, and those in files of the user's own."""

from __future__ import annotations

from ..dsl.errors import did_you_mean
from .associative import Memory, Zipf
from .digits import Digits
from .mlp import MLP
from .quadratic import Linear, Regression
from .task import Task
from .task_error import TaskError
from .task_file import absolute, file_task, is_file_name
from .text import Text
from .transformer import Transformer


class UnknownTask(TaskError):
    """A task name that nothing answers to."""


_DIGITS = ("digits_split", "digits_wide")
_ASSOCIATIVE = ("associative_split", "associative_wide")
_BYTES = ("bytes_split", "bytes_wide", "bytes_code")
_BYTES_B64 = ("bytes_b64_split", "bytes_b64_wide", "bytes_b64_code")
_WIDE = Transformer(width=32, heads=2)
# Embeddings as GPT-2's start, and the head tied to them.
_TIED = Transformer(embedding_std=0.02, tied=True)
_TIED_WIDE = Transformer(width=32, heads=2, embedding_std=0.02, tied=True)
_BYTES_TIED = ("bytes_tied_split", "bytes_tied_wide", "bytes_tied_code")
_WIDE_MEMORY = Memory(items=192, width=48, inner=48, problem=1)

# Each task to search on, then its held-out variants: other data, on that another width, and another text.
_ALL = (
    Task("quadratic", Linear(), Regression(), batch=16, steps=200, held_out=("quadratic_steep",)),
    Task("quadratic_steep", Linear(), Regression(condition=1e5), batch=16, steps=200),
    Task("digits", MLP(), Digits(), batch=16, steps=400, held_out=_DIGITS),
    Task("digits_split", MLP(), Digits(split="other"), batch=16, steps=400),
    Task("digits_wide", MLP(hidden=96), Digits(split="other"), batch=16, steps=400),
    Task("associative", Memory(), Zipf(), batch=1024, steps=200, held_out=_ASSOCIATIVE),
    Task("associative_split", Memory(problem=1), Zipf(exponent=1.5), batch=1024, steps=200),
    Task("associative_wide", _WIDE_MEMORY, Zipf(items=192), batch=1024, steps=200),
    Task("bytes", Transformer(), Text(), batch=16, steps=1200, held_out=_BYTES),
    Task("bytes_split", Transformer(), Text(split="other"), batch=16, steps=1200),
    Task("bytes_wide", _WIDE, Text(split="other"), batch=16, steps=1200),
    Task("bytes_code", Transformer(), Text(source="code"), batch=16, steps=1200),
    Task("bytes_b64", Transformer(), Text(), batch=64, steps=500, held_out=_BYTES_B64),
    Task("bytes_b64_split", Transformer(), Text(split="other"), batch=64, steps=500),
    Task("bytes_b64_wide", _WIDE, Text(split="other"), batch=64, steps=500),
    Task("bytes_b64_code", Transformer(), Text(source="code"), batch=64, steps=500),
    Task("bytes_tied", _TIED, Text(), batch=64, steps=500, held_out=_BYTES_TIED),
    Task("bytes_tied_split", _TIED, Text(split="other"), batch=64, steps=500),
    Task("bytes_tied_wide", _TIED_WIDE, Text(split="other"), batch=64, steps=500),
    Task("bytes_tied_code", _TIED, Text(source="code"), batch=64, steps=500),
)
_BY_NAME = {task.name: task for task in _ALL}


def tasks() -> tuple[str, ...]:
    """The names of all tasks, held-out variants too.

    >>> tasks()[:3]
    ('quadratic', 'quadratic_steep', 'digits')
    """
    return tuple(_BY_NAME)


def task(name: str) -> Task:
    """The task of a name, or that a file defines: `path/my_task.py:MyTask`.

    Raises:
        UnknownTask: One line, with the nearest name.
        TaskError: One line: what is wrong with the file.

    >>> task("bytes").held_out
    ('bytes_split', 'bytes_wide', 'bytes_code')
    >>> task("byte")
    Traceback (most recent call last):
    stepsmith.proxies.registry.UnknownTask: unknown task 'byte': did you mean 'bytes'?
    """
    if is_file_name(name):
        return file_task(name)
    if name not in _BY_NAME:
        raise UnknownTask(f"unknown task {name!r}: {did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def full_name(name: str) -> str:
    """A task's name as it holds in any folder and process; raises what `task` does.

    >>> full_name("bytes")
    'bytes'
    """
    task(name)
    return absolute(name) if is_file_name(name) else name
