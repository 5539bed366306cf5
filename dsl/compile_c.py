"""C text to a loaded library, built once by the system's compiler and cached by content."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

# No -ffast-math: NaN and Inf mean something here. No contraction: a fused multiply-add would round
# differently from machine to machine.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-std=gnu11")


class CompilerMissing(RuntimeError):
    """No compiler for an engine answers on this machine."""


def cache_dir() -> Path:
    """Where built libraries are kept: $STEPSMITH_CACHE, or the user's cache folder."""
    root = os.environ.get("STEPSMITH_CACHE")
    if root:
        return Path(root)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "stepsmith"


def build_library(source: str, name: str, more: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The library that a C text compiles to; from the cache when the same text was built here before.

    `more` are flags of which the library can do without: a compiler that refuses them builds it without.

    Raises CompilerMissing when there is no working compiler ($CC, else cc).
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise CompilerMissing("no C compiler found (install gcc or clang, or set CC)")
    identity = "\0".join([source, *FLAGS, *more, compiler, _processor()])
    digest = hashlib.blake2b(identity.encode(), digest_size=10).hexdigest()
    try:
        folder = cache_dir()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{name}-{digest}.so"
        if path.exists():
            with suppress(OSError):  # a file that is no library any more is built again
                return ctypes.CDLL(str(path))
        _compile(compiler, source, path, more)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # no home, or a cache that cannot be written: build for this process alone
        if isinstance(error, CompilerMissing):
            raise
        with tempfile.TemporaryDirectory(prefix="stepsmith-", ignore_cleanup_errors=True) as own:
            path = Path(own) / f"{name}-{digest}.so"
            _compile(compiler, source, path, more)
            return ctypes.CDLL(str(path))


def _compile(compiler: str, source: str, path: Path, more: tuple[str, ...]) -> None:
    """Compiles next to the target and renames, so that two processes never see half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, made = Path(folder) / "source.c", Path(folder) / "made.so"
        text.write_text(source, "utf-8")
        for flags in dict.fromkeys([more, ()]):
            command = [*shlex.split(compiler), *FLAGS, "-shared", "-fPIC", str(text), "-o", str(made), *flags, "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CompilerMissing(f"the C compiler {compiler} does not run ({error})") from None
            if not done.returncode:
                break
        else:
            lines = done.stderr.strip().splitlines() or ["no message"]
            lines = [line for line in lines if "error" in line] or lines
            raise CompilerMissing(f"the C compiler {compiler} failed: {lines[0]}")
        os.replace(made, path)


def _processor() -> str:
    """What -march=native stands for here: libraries are not shared between kinds of processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor() or platform.machine()
