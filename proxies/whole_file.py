"""Files that a reader finds whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: Path, content: str | bytes | Callable[[Any], object], new: bool = False) -> None:
    """Writes a file beside and renames it, so that neither a reader, a kill nor a power cut sees half of it.

    Several processes and threads may write the same path at once; the last one's stays.

    Args:
        path: In a folder that exists.
        content: Text, bytes, or what writes them to a file that it is given.
        new: Leaves a file alone that is there already.

    Raises:
        FileExistsError: It is there already, and is to be new.
        OSError: It cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "one.txt"
    ...     replace_file(path, "new")
    ...     print(path.read_text(), [p.name for p in Path(folder).iterdir()])
    new ['one.txt']
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(beside, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else the name may reach the disk before what it names
        if new:
            os.link(beside, path)  # which the system refuses to all but the first
        else:
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
