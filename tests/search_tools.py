"""What the tests of searches share. Workers import this module by name, so it stands on sys.path for them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Executor, Inline
from stepsmith.evaluator.fitness import Job, Score, evaluate
from stepsmith.evaluator.processes import Processes
from stepsmith.search.config import SearchConfig, Stage, read_config
from stepsmith.search.ledger import Ledger
from stepsmith.search.population import Fold
from stepsmith.search.run import create_run, open_run, run_search

MOMENTUM = """def momentum(w, g, m, lr=0.6, beta=0.9):
    m = interp(g, m, beta)
    return lr * m, m
"""

TOML = """start = ["momentum.opt"]
space = "elementwise"
niches = false
round = 6
population = 8
tournament = 3
edits = 1.3
held_out = []
[[stages]]
tasks = ["quadratic"]
share = 0.125
drop = 0.3
[[stages]]
tasks = ["quadratic"]
share = 0.25
seeds = 2
lr_factors = [0.3, 1.0, 3.0]
drop = 0.0
"""


def write_inputs(folder: Path, toml: str = TOML) -> Path:
    """momentum.opt and search.toml in a folder; gives the latter."""
    (folder / "momentum.opt").write_text(MOMENTUM)
    (folder / "search.toml").write_text(toml)
    return folder / "search.toml"


def small(folder: Path, **changes: Any) -> SearchConfig:
    """A search of a second or two from a slow momentum."""
    start = (str(write_inputs(folder).with_name("momentum.opt")),)
    return read_config(folder / "search.toml", {"start": start, "steps": 8000} | changes)


ONE_STAGE = (Stage(tasks=("quadratic",), share=0.125, drop=0.0),)


def search(folder: Path, config: SearchConfig, executor: Executor | None = None, **options: Any) -> Fold:
    """A new run in a folder."""
    ledger = create_run(folder, config)
    with closing(ledger):
        return run_search(ledger, config, Dispatcher(executor or Inline()), **options)


def resume(folder: Path, executor: Executor | None = None, **options: Any) -> Fold:
    ledger, config, changed = open_run(folder)
    with closing(ledger):
        assert not changed
        return run_search(ledger, config, Dispatcher(executor or Inline()), **options)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """The children table as it stands on the disk; a ledger that is not there yet is an error and is not made."""
    path = (folder / "ledger.sqlite").absolute().as_uri()
    with closing(sqlite3.connect(f"{path}?mode=rw", uri=True)) as base:
        return base.execute("SELECT * FROM children ORDER BY child").fetchall()


def children(folder: Path) -> list[Any]:
    with Ledger.reading(folder) as ledger:
        return list(ledger.children())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def start_stepsmith(*args: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process group of its own, as a shell would start it."""
    command = [sys.executable, "-m", "stepsmith", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=cwd, env=environment(), text=True, start_new_session=True, **pipes)


def stepsmith(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    with start_stepsmith(*args, cwd=cwd) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def descendants(pid: int) -> set[int]:
    """Processes below a process."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parent = {int(p): int(pp) for p, pp in (line.split() for line in listing.splitlines())}
    below = {pid}
    while more := {p for p, pp in parent.items() if pp in below} - below:
        below |= more
    return below - {pid}


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, process: subprocess.Popen[str] | None = None, seconds: float = 60.0) -> None:
    """Until the condition holds, while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


# --- work for executors: what a program may do to its worker ------------------------------------------------

GUILTY = "0.0123"  # a number in the text of the one program that misbehaves
PIDS = "STEPSMITH_TEST_PIDS"  # names a file that collects the workers which met it


def _meets_guilty(job: Job) -> bool:
    met = any(GUILTY in str(program) for program in job.programs)
    if met and PIDS in os.environ:
        with open(os.environ[PIDS], "a") as file:
            file.write(f"{os.getpid()}\n")
    return met


def dying(job: Job) -> list[Score]:
    if _meets_guilty(job):
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(job)


def hanging(job: Job) -> list[Score]:
    if _meets_guilty(job):
        time.sleep(600)
    return evaluate(job)


def raising(job: Job) -> list[Score]:
    if _meets_guilty(job):
        raise ZeroDivisionError("one over none\nand more")
    return evaluate(job)


def dying_once(job: Job) -> list[Score]:
    """The first worker dies, as one does that the system kills for its memory."""
    first = not Path(os.environ[PIDS]).exists()
    Path(os.environ[PIDS]).touch()
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(job)


def stopping(job: Job) -> list[Score]:
    """Stopped as by a debugger: it hears neither its driver nor a polite signal."""
    if _meets_guilty(job):
        os.kill(os.getpid(), signal.SIGSTOP)
    return evaluate(job)


def raising_always(job: Job) -> list[Score]:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def telling_memory(job: Job) -> list[Score]:
    """What the worker takes for available, as fitness."""
    from stepsmith.evaluator.available import available

    return [Score(program, available("cpu")) for program in job.programs]


# --- many faults in one run: what a plan says becomes of each job -------------------------------------------

PLAN = "STEPSMITH_TEST_PLAN"  # names a folder: faults.json by number of job, poison.json, and the count of jobs


def plagued(job: Job) -> list[Score]:
    """Does the job, unless the plan has a fault for it, which comes first, or it holds a program that kills."""
    plan = Path(os.environ[PLAN])
    number = _next_number(plan / "count")
    fault = json.loads((plan / "faults.json").read_text()).get(str(number))
    poison = json.loads((plan / "poison.json").read_text())
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "balloon":
        balloon = []
        while True:
            balloon.append(bytearray(2**26))
    if fault == "raised":
        raise RuntimeError("by the plan")
    if any(str(program) in poison for program in job.programs):
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(job)


def _next_number(path: Path) -> int:
    """Counts calls of all processes."""
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(".")
        return file.tell()


def drive(folder: str, timeout: float) -> None:
    """Begins or goes on with a run under `plagued`: what the command line does, with work of ours."""
    run = Path(folder, "run")
    if (run / "ledger.sqlite").exists():
        ledger, config, _ = open_run(run)
    else:
        config = read_config(Path(folder, "search.toml"), {"start": (f"{folder}/momentum.opt",)})
        ledger = create_run(run, config)
    executor = Processes(2, timeout, plagued, memory=2**31)
    with closing(ledger):
        try:
            run_search(ledger, config, Dispatcher(executor))
        finally:
            executor.close()
