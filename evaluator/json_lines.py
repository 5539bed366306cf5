"""Results in a text file, a line for each as it comes: the only state, from which an interrupted work goes on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")


class RecordError(ValueError):
    """A record that cannot be read or written: one line, with the file, and the line where it is one."""


class JsonLines(Generic[T]):
    """Results by key, in memory and in a file that grows by a line with each; close it, or use it in a `with`.

    Opening reads. The first line that is added locks the file for this process. A last line that was cut short, as by a
    kill, is dropped. Threads may share one.

    Args:
        path: The file; it need not exist.
        parse: The key and the result of a line's values; raises ValueError, KeyError or TypeError for others.

    Raises:
        RecordError: Another line that is none, or, when a line is added, another process that adds some.
        OSError: The file cannot be read or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "made" / "squares.jsonl"
    ...     with JsonLines(path, lambda held: (str(held["of"]), held["is"])) as squares:
    ...         squares.append({"of": 3, "is": 9})
    ...     JsonLines(path, lambda held: (str(held["of"]), held["is"])).rows
    {'3': 9}
    """

    def __init__(self, path: Path, parse: Callable[[Mapping[str, Any]], tuple[str, T]]) -> None:
        self.path, self.parse = path, parse
        self.rows: dict[str, T] = {}
        self._threads = threading.RLock()
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)
        self._whole = 0  # bytes of whole lines
        self._read()

    def _read(self) -> None:
        text = self.path.read_bytes() if self.path.exists() else b""
        self._whole = text.rfind(b"\n") + 1
        for number, line in enumerate(text[: self._whole].splitlines(), 1):
            key, row = self._parsed(line, number)
            self.rows[key] = row

    def claim(self) -> None:
        """Makes this process the one that adds lines. Raises RecordError where another is."""
        with self._threads:
            if self._lock.is_locked:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RecordError(
                    f"another process is writing to {self.path}; wait for it to end, or stop it"
                ) from None
            try:
                self._read()  # what others added in the meantime
                with open(self.path, "ab") as file:
                    file.truncate(self._whole)
            except BaseException:
                self._lock.release()
                raise

    def close(self) -> None:
        """Lets others add lines."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, values: Mapping[str, Any]) -> None:
        """Writes a line, to the disk, unless one with its key is there."""
        with self._threads:
            self.claim()
            key, row = self.parse(values)
            if key in self.rows:
                return
            with open(self.path, "ab") as file:
                file.write(json.dumps(values).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.rows[key] = row

    def _parsed(self, line: bytes, number: int) -> tuple[str, T]:
        try:
            return self.parse(json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise RecordError(f"{self.path}:{number}: no line of a record ({lacks}); take it out to go on") from None
