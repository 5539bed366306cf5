"""Files that a reader finds whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file beside and renames it, so that neither a reader, a kill nor a power cut sees half of it.

    Several processes may write the same path at once; the last one's stays. The folder must exist.

    Raises:
        OSError: It cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "one.txt"
    ...     replace_file(path, "new")
    ...     print(path.read_text(), [p.name for p in Path(folder).iterdir()])
    new ['one.txt']
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(beside, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # else the name may reach the disk before what it names
    os.replace(beside, path)
