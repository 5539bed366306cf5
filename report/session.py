"""A search as a person runs it: executor, live view, Ctrl-C, and the programs that hold up at the end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ..discovered import identify
from ..dsl import Program
from ..evaluator.dispatcher import Dispatcher
from ..evaluator.executors import ExecutorError
from ..search.config import SearchConfig
from ..search.elites import Elite, rescore
from ..search.ledger import Ledger
from ..search.population import Fold
from ..search.run import Progress, Stop, run_search, start_programs, why_over
from ..search.shares import shares
from .elites import elite_table, write_elites
from .live import LiveView, line

if TYPE_CHECKING:
    from rich.console import Console


def say(console: Console, text: str) -> None:
    """A line as it is: folders may hold brackets, and no line is cut where someone may copy it from."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def run_session(
    ledger: Ledger,
    config: SearchConfig,
    folder: Path,
    dispatcher: Dispatcher,
    minutes: float | None,
    elites: int,
    console: Console,
) -> None:
    """Searches, shows how it goes, and re-scores `elites` programs at the end; exits with 130 when interrupted."""
    interrupted = Interrupts()
    last: list[Progress] = []
    command = f"stepsmith search --resume {quote(str(folder))}"
    resume = f"go on with: {command}"
    if config.space == "matrix" and not any(p.fallback for p in start_programs(ledger)):
        say(console, "note: matrix ops stand in programs with a route, and this start has none")
    try:
        with LiveView(console) as view, interrupted:

            def progress(now: Progress) -> None:
                last[:] = [now]
                view(now)
                if interrupted.count:
                    raise Stop

            fold = run_search(ledger, config, dispatcher, minutes, progress)
        if last:
            say(console, line(last[0]))
        in_flight = last[0].in_flight if last else 0
        over = None if in_flight else why_over(fold)
        if over or not interrupted.count:
            say(console, f"the search is over: {over.why}" if over else f"ended after --minutes {minutes:g}")
        if minutes and last and in_flight and fold.steps == last[0].steps_before:
            say(console, f"no round was closed in that time, so nothing new is saved: give it more than --minutes "
                         f"{minutes:g}; {resume}")  # fmt: skip
        if interrupted.count:
            say(console, f"interrupted: all closed rounds are saved; {f're-score with: {command}' if over else resume}")
            sys.exit(130)
        elif elites:
            more = over.mend if over else f"try another --seed, or {resume}"
            _show_elites(fold, dispatcher, ledger, folder, elites, console, more)
            if found := shares(ledger.children()):
                say(console, str(found))
    except KeyboardInterrupt:
        say(console, f"interrupted while re-scoring; {resume}")
        sys.exit(130)
    except ExecutorError as error:
        raise type(error)(f"{error}; closed rounds are saved, {resume}") from None
    finally:
        with interrupted:
            dispatcher.executor.close()


def _show_elites(
    fold: Fold, dispatcher: Dispatcher, ledger: Ledger, folder: Path, count: int, console: Console, more: str
) -> None:
    found = rescore(fold, dispatcher, count, *ledger.next_look(count), lambda text: say(console, text))
    if not found:
        say(console, f"no program came through all stages; {more}")
        return
    write_elites(folder, found, fold.children)
    console.print(elite_table(found), crop=False)  # where it is wider, the screen wraps it
    say(console, f"\nThe first, row {found[0].child} ({folder}/best/1.opt):\n\n{found[0].program}")
    say(console, f"known as: {identify(Program.parse(found[0].program))}")
    if (best := ledger.child(found[0].child)) and best.is_start:
        say(console, f"{_of_the_start(found)}: {more}")
    run = quote(f"{folder}:best")
    say(console, f"stepsmith inspect {run}    stepsmith export {run} --to torch -o best.py")


def _of_the_start(found: Sequence[Elite]) -> str:
    """What to say where the seeds that pick chose the start, which those that are shown may not agree with."""
    best = max(found, key=lambda elite: elite.seen.mean)
    if best is found[0]:
        return "nothing that was found beats the start"
    return f"the seeds that pick chose the start, though row {best.child} shows more on others"


class Interrupts:
    """Ctrl-C once asks for an end, twice ends now."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Interrupts:
        self.before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def _on_signal(self, number: int, frame: object) -> None:
        self.count += 1
        if self.count > 1:
            if sys.stdout.isatty():
                os.write(1, b"\x1b[?25h\n")  # the live view hides the cursor
            os._exit(130)
        os.write(2, b"\nsaving; Ctrl-C again ends now\n")  # print is not safe inside a signal handler
