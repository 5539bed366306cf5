"""What is said of a task that cannot be had or trained on."""

from __future__ import annotations

import traceback
from pathlib import Path

_HERE = str(Path(__file__).parent)


class TaskError(LookupError):
    """A task that cannot be had or trained on: one line that says what is wrong, where, and the mend."""


def blamed(name: str, error: BaseException) -> TaskError:
    """An error of a task's own code in one line: the last place of that code, the kind of error, what it says.

    Args:
        name: Of the task; where it names a file, that file is its code, else all that is not installed.
        error: As it was raised.

    >>> try:
    ...     [][1]
    ... except IndexError as error:
    ...     print(blamed("mine", error))
    mine: IndexError: list index out of range
    """
    if isinstance(error, TaskError):
        return error
    if isinstance(error, SyntaxError) and error.filename:
        return TaskError(f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_code_of(name, f.filename)]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else name
    said = next((line for line in str(error).splitlines() if line.strip()), "")
    return TaskError(f"{place}: {type(error).__name__}{': ' if said else ''}{said}")


def _is_code_of(name: str, file: str) -> bool:
    if ".py" in name:
        return file == name.removesuffix(".py").partition(".py:")[0] + ".py"
    return "site-packages" not in file and not file.startswith((_HERE, "<"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the system or of a device.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("no"))
    (True, False)
    """
    # torch says it of a CPU in a RuntimeError, and Ray has a class of the name of torch's
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or ("can't allocate memory" in str(error))
    )
