"""The command line: what stepsmith can be told to do.

Heavy libraries are imported when a command runs.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from .dsl import Program
    from .evaluator.shorten import Shortening
    from .search.config import SearchConfig


_PROGRAM = "A name, an .opt file, RUN:best, RUN:CHILD, or a transform of one: cautious(lion)."
_TASK = "A name, or a class of a file: my_task.py:MyTask."


class _Group(TyperGroup):
    """Commands, with a hint for a misspelt one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "see stepsmith --help"
            ctx.fail(f"unknown command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Discovers neural-network optimizers as short symbolic programs.",
)


def _version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        from . import __version__

        print(f"stepsmith {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    """Options of no command."""


def main() -> None:
    """Entry point."""
    in_one_line(lambda: sys.exit(app(standalone_mode=False)))


def in_one_line(work: Callable[[], None]) -> None:
    """Does it: every expected error is one line on standard error and exit status 2."""
    try:
        work()
    except Exception as error:
        line = _expected(error)
        if line is None or os.environ.get("STEPSMITH_DEBUG"):
            raise
        print(line, file=sys.stderr, flush=True)
        if type(error).__name__ == "ClusterLost":
            os._exit(2)  # Ray would wait at the exit for a cluster that is gone
        sys.exit(2)


def _expected(error: Exception) -> str | None:
    """What to say of an error of our own, of the command line, or of the system's about files.

    Anything else is a bug and keeps its traceback.
    """
    if isinstance(error, OSError):
        return f"stepsmith: {error.filename or ''}{': ' if error.filename else ''}{error.strerror or error}"
    if hasattr(error, "format_message"):  # of click, which typer may keep inside itself
        text = error.format_message()
        return text if "\n" in text else f"stepsmith: {text}"  # the whole help, when no command is given
    return f"stepsmith: {error}" if type(error).__module__.startswith("stepsmith") else None


@app.command()
def search(
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Program to evolve from: a name, an .opt file, or two, 'momentum for matrix else adamw'; repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with all that children depend on; the README shows its keys.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help=f"Task to train on, in place of the byte model's; repeatable. {_TASK}"),
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="Task that the search never trains on, for the end; repeatable.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="evolution, random or constants.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Ops to mutate with: elementwise, published, pointwise, lion45 or matrix.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Stop after this many training steps, and the rounds that are begun.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after this long [default: 8 unless --steps]; re-scoring comes on top."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Workers; 0: this process [default: one a core, at most 2 `delay`; on Ray: all]."),
    ] = None,
    executor: Annotated[str, typer.Option(help="inline, processes or ray [default: processes].")] = "",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, such as auto or HOST:6379 [default: one of this process].")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of a worker on Ray; may be a fraction.")] = 0.0,
    device: Annotated[str, typer.Option(help="Where jobs train: cpu or cuda.")] = "cpu",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which the worker of a job is killed.")] = 600.0,
    elites: Annotated[int, typer.Option(min=0, help="Programs to re-score on unseen seeds at the end; 0: none.")] = 5,
    folder: Annotated[Path | None, typer.Option("--out", help="Run folder [default: runs/NUMBER].")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder, exactly.")] = None,
) -> None:
    """Evolve optimizers; prints those that hold up on seeds and tasks the search never saw."""
    from rich.console import Console

    from .evaluator.dispatcher import Dispatcher
    from .evaluator.executors import check_device, make_executor
    from .report.session import run_session, say
    from .search.config import ConfigError, read_config
    from .search.run import check_run, create_run, open_run

    console = Console()
    given = {"start": tuple(start) if start else None, "strategy": strategy, "space": space, "seed": seed,
             "steps": steps, "held_out": tuple(held_out) if held_out else None}  # fmt: skip
    wanted: dict[str, Any] = {"kind": executor, "timeout": timeout, "address": address, "gpus": gpus, "device": device}
    check_device(device, elsewhere=executor == "ray")
    with ExitStack() as stack:
        if resume is not None:
            named: dict[str, object] = {"from" if n == "start" else n: v for n, v in given.items()}
            named |= {"config": config, "out": folder, "task": task}
            if set_ := [f"--{n.replace('_', '-')}" for n, v in named.items() if v is not None]:
                raise ConfigError(f"--resume goes on with the run's own configuration; leave out {', '.join(set_)}")
            ledger, settings, changed = open_run(resume, device)
            stack.callback(ledger.close)
            if changed:
                say(console, "not what this run began with, so rows from here on may differ: " + "; ".join(changed))
            folder, pool = resume, make_executor(_workers(workers, settings, executor), **wanted)
            stack.callback(pool.close)
        else:
            settings = read_config(config, given, task or ())
            count = _workers(workers, settings, executor)
            starts = check_run(settings, device, count if count and executor != "ray" else 1)
            pool = make_executor(count, **wanted)  # before there is a folder
            stack.callback(pool.close)
            folder = folder or _next_folder()
            ledger = create_run(folder, settings, device, starts)
            stack.callback(ledger.close)
        say(console, f"run folder {folder}; strategy {settings.strategy}, from {', '.join(settings.start)}, "
                     f"seed {settings.seed}, {pool}")  # fmt: skip
        if minutes is None and settings.steps is None:
            minutes = 8.0
        run_session(ledger, settings, folder, Dispatcher(pool), minutes, elites, console)


def _workers(given: int | None, config: SearchConfig, executor: str) -> int | None:
    """As many as asked for; by default one a core of this machine, at most two for each round in flight, which is what
    these keep busy.
    """
    from .evaluator.executors import default_workers

    if given is not None or executor == "ray":
        return given
    return 0 if executor == "inline" else min(default_workers(), 2 * config.delay)


def _next_folder() -> Path:
    """runs/1, runs/2, ..."""
    number = 1
    while (path := Path("runs", str(number))).exists():
        number += 1
    return path


@app.command()
def tune(
    task: Annotated[str, typer.Argument(help=_TASK)],
    horizons: Annotated[
        str | None, typer.Option(help="Shares of the task's budget [default: 1/8,1/4,1/2,1,2,4; quick: 1/8,1/4,1,2].")
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Random draws at each horizon [default: 48].")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0: none [default: one a core].")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first try, a fifteenth of the work.")] = False,
) -> None:
    """Tune AdamW on a task at several horizons: the curve that a search on it measures programs by."""
    from .evaluator.curve import HORIZONS
    from .evaluator.make_curve import QUICK, QUICK_HORIZONS, WHOLE, make_curve
    from .proxies import full_name
    from .proxies import task as task_named

    budget = QUICK if quick else WHOLE
    budget = budget if first is None else budget.with_first(first)
    shares = _shares(horizons) if horizons is not None else QUICK_HORIZONS if quick else HORIZONS
    shown = task_named(full_name(task))
    try:
        make_curve(
            shown,
            budget,
            shares,
            _training_workers(workers),
            lambda text: print(text, flush=True),
        )
    except KeyboardInterrupt:
        print("interrupted: all finished horizons are saved; the same command goes on from there")
        sys.exit(130)


def _shares(text: str) -> tuple[float, ...]:
    """Fractions or decimals between commas."""
    from .dsl.errors import quoted
    from .evaluator.curve import MOST_SHARE
    from .search.config import ConfigError

    try:
        parts = [part.partition("/") for part in text.split(",")]
        shares = [float(above) / float(below if slash else 1) for above, slash, below in parts]
    except (ValueError, ZeroDivisionError):
        shares = []
    if not shares or not all(0 < share <= MOST_SHARE for share in shares):
        raise ConfigError(f"--horizons takes shares of the budget between commas, as 1/8,1/4,1, not {quoted(text)}")
    return tuple(shares)


@app.command()
def smoketest(
    task: Annotated[str, typer.Argument(help=_TASK)],
) -> None:
    """Look a task over: shapes, determinism, gradient, copies together and alone, and what a step costs."""
    from .evaluator.smoketest import looks
    from .evaluator.train import use_one_thread
    from .proxies import full_name

    use_one_thread()
    for name, found in looks(full_name(task)):
        print(f"{name:12} {found}", flush=True)


@app.command("validate")
def validate_(
    program: Annotated[str, typer.Argument(help=_PROGRAM)],
    against: Annotated[str, typer.Option(help="Rivals between commas, beside AdamW: adamw,lion,muon.")] = "adamw",
    target: Annotated[
        str, typer.Option(help="What is trained, or several between commas; stepsmith list shows them.")
    ] = "gpt-100k",
    text: Annotated[str, typer.Option(help="Text for the target: a file, a folder of .txt files, or a name.")] = "",
    preset: Annotated[str, typer.Option(help="How much is trained: quick, standard or full.")] = "quick",
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0: none [default: one a core].")] = None,
    device: Annotated[str, typer.Option(help="Where runs train: cpu or cuda.")] = "cpu",
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report [default: runs/validation/...].")
    ] = None,
) -> None:
    """Compare a program with a tuned AdamW on a target: speedup with an interval, cost, sensitivity, and a report."""
    from rich.console import Console

    from .report.validation_session import Wanted, run_validations
    from .search.config import ConfigError
    from .search.programs import program_names

    rivals = tuple(name for part in program_names(against) if (name := part.strip()) and name.lower() != "adamw")
    goals = [part.strip() for part in target.split(",") if part.strip()]
    if folder is not None and len(goals) > 1:
        raise ConfigError("--out is the folder of one target; leave it out, and each has its own")
    if not goals:
        raise ConfigError("--target names what is trained, such as gpt-100k; stepsmith list shows what there is")
    count = _training_workers(workers, device)
    wanted = [Wanted(program, rivals, goal, text, preset, device, count) for goal in goals]
    for each in wanted:
        each.check()  # before hours of training on the first
    run_validations(wanted, folder, Console())


def _training_workers(given: int | None, device: str = "cpu") -> int:
    """As many as asked for; by default one a core, and on a GPU this process."""
    from .evaluator.executors import default_workers

    return given if given is not None else default_workers() if device == "cpu" else 0


@app.command()
def funnel(
    sources: Annotated[list[str], typer.Argument(help=f"Run folders, or programs. {_PROGRAM}")],
    stages: Annotated[str, typer.Option(help="Of 10x, 100x and target, between commas.")] = "10x,100x",
    count: Annotated[
        int, typer.Option("--count", min=1, help="Programs of each run: the fittest, and those that were.")
    ] = 8,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0: none [default: one a core].")] = None,
    device: Annotated[str, typer.Option(help="Where runs train: cpu or cuda.")] = "cpu",
) -> None:
    """Send programs through targets of growing size; what does not beat an AdamW tuned alike ends there."""
    from rich.console import Console

    from .report.funnel_session import run_funnel

    named = [stage.strip() for stage in stages.split(",") if stage.strip()]
    run_funnel(sources, named, count, _training_workers(workers, device), device, Console())


@app.command()
def inspect(
    program: Annotated[str, typer.Argument(help=_PROGRAM)],
) -> None:
    """Show a program: text, cost, states, constants, dataflow."""
    from .report.origin import origin
    from .report.program import describe
    from .search.programs import load_any

    print(describe(load_any(program)), end="")
    for line in origin(program):
        print(line)


@app.command()
def simplify(
    program: Annotated[str, typer.Argument(help=_PROGRAM)],
    level: Annotated[
        str,
        typer.Option(
            help="How far: exact (bit for bit), algebraic (for real numbers) or empirical (for a loss that no one "
            "would see; trains)."
        ),
    ] = "algebraic",
    to: Annotated[str, typer.Option("--to", help="Form: text, markdown, or opt for the result alone.")] = "text",
    task: Annotated[
        list[str] | None, typer.Option(help="Task of the empirical level; may be given again [default: bytes_b64].")
    ] = None,
    runs: Annotated[int, typer.Option(help="Training runs that the empirical level may take.", min=1)] = 1_000,
    decay: Annotated[
        str | None,
        typer.Option(help="Shape in which the empirical level lets lr fall [default: the search's, else AdamW's]."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that train; 0: this one.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write [default: standard output].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Show the shortest equal program, and each step that proves it."""
    from .dsl.errors import OF_FEW, did_you_mean
    from .dsl.simplify import simplify as shortest
    from .report.simplification import empirical, simplification
    from .search.config import KNOWN_DECAYS, ConfigError
    from .search.programs import decay_of, load_any

    levels, forms = ("exact", "algebraic", "empirical"), ("text", "markdown", "opt")
    for name, value, known in (("level", level, levels), ("form", to, forms), ("decay", decay, KNOWN_DECAYS)):
        if value is not None and value not in known:
            raise ConfigError(f"unknown {name} {value!r}; {did_you_mean(value, known, OF_FEW)}")
    for option, given in (("--task", task), ("--decay", decay)):
        if level != "empirical" and given:
            raise ConfigError(f"{option} is an option of --level empirical; the {level} level trains nothing")
    rule = load_any(program)
    _check_out(out, force)
    if level == "empirical":
        found = _shortened(rule, tuple(task or ("bytes_b64",)), runs, decay or decay_of(program), workers)
        text = str(found.program) if to == "opt" else simplification(rule, "algebraic", to == "markdown")
        text += "" if to == "opt" else empirical(found, to == "markdown")
    else:
        text = str(shortest(rule, level)) if to == "opt" else simplification(rule, level, to == "markdown")
    _write(text, out, force)


def _shortened(rule: Program, tasks: tuple[str, ...], runs: int, decay: str, workers: int) -> Shortening:
    """The empirical level, with a progress bar of training runs on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from .evaluator.dispatcher import Dispatcher
    from .evaluator.executors import make_executor
    from .evaluator.shorten import Diverged, Judge, at_its_lr, shorten
    from .proxies import task as task_named
    from .search.config import ConfigError

    if rule.schedule or rule.fallback is not None:
        raise ConfigError(f"{rule.name}: the empirical level takes one rule without a route or a schedule")
    for name in tasks:
        try:
            task_named(name)
        except LookupError as error:
            raise ConfigError(str(error)) from None
    executor = make_executor(workers)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            shown = bar.add_task("peak learning rate", total=runs)
            tuned = at_its_lr(rule, tasks, Dispatcher(executor), decay)
            judge = Judge(tuned, tasks, Dispatcher(executor), runs, decay=decay,
                          tell=lambda done, text: bar.update(shown, completed=done, description=text))  # fmt: skip
            return shorten(judge)
    except Diverged as error:
        raise ConfigError(f"{rule.name} {error}") from None
    finally:
        executor.close()


def _write(text: str, out: Path | None, force: bool) -> None:
    """To a file that is not there yet, or to standard output."""
    if out is None:
        print(text, end="")
        return
    _check_out(out, force)
    out.write_text(text, "utf-8")
    print(f"wrote {out}")


def _check_out(out: Path | None, force: bool) -> None:
    """Raises ConfigError where a file cannot be written there."""
    from .search.config import ConfigError

    if out is None:
        return
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent}; make it, or write elsewhere")
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; --force writes over it")


@app.command()
def export(
    program: Annotated[str, typer.Argument(help=_PROGRAM)],
    to: Annotated[str, typer.Option("--to", help="Form: torch, optax or latex.")] = "torch",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write [default: standard output].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="To torch: no kernels, torch's own functions step.")] = False,
) -> None:
    """Write a program as one file that does not need stepsmith."""
    from functools import partial

    from .discovered import export_latex, export_optax, export_torch
    from .dsl.errors import OF_FEW, did_you_mean
    from .dsl.flow import flow, reject_reason
    from .dsl.keys import behaviour
    from .search.config import ConfigError
    from .search.programs import load_any

    forms: dict[str, Any] = {
        "torch": partial(export_torch, kernels=not plain),
        "optax": export_optax,
        "latex": export_latex,
    }
    if to not in forms:
        raise ConfigError(f"unknown form {to!r}; {did_you_mean(to, forms, OF_FEW)}")
    if plain and to != "torch":
        raise ConfigError(f"--plain leaves kernels out, and a file for {to} has none")
    rule = load_any(program)
    if not rule.schedule and (reason := reject_reason(flow(rule))):
        raise ConfigError(f"{program} is no optimizer: it {reason}")
    if out is not None and out.suffix == ".opt":
        form, suffix = ("LaTeX", ".tex") if to == "latex" else ("Python", ".py")
        raise ConfigError(f"{out} is a program's name, and this would write {form}; name a {suffix} file")
    _write(forms[to](rule), out, force)
    if not rule.schedule and not behaviour(rule).finite:
        print(f"stepsmith: beware, {program} has updates that are not finite on the probe", file=sys.stderr)


@app.command()
def keep(
    row: Annotated[str, typer.Argument(help="RUN:best, or RUN:CHILD.")],
    name: Annotated[str, typer.Argument(help="What the find is to be called: small letters, digits and _.")],
    about: Annotated[str, typer.Option(help="What the rule is, in one line.")],
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0: none [default: one a core].")] = None,
) -> None:
    """Put a program of a run on the shelf of finds: simplified, its numbers named, scored, with its record."""
    from rich.console import Console

    from .evaluator.dispatcher import Dispatcher
    from .evaluator.executors import make_executor
    from .report.find_session import run_keep

    executor = make_executor(_training_workers(workers))
    run_keep(row, name, about, Dispatcher(executor), Console())


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="A find; stepsmith list shows them.")],
    folder: Annotated[Path | None, typer.Option("--out", help="Run folder [default: runs/replay-NAME].")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0: none [default: one a core].")] = None,
) -> None:
    """Run a find's search again up to the find; with another version or machine, score the find again."""
    from rich.console import Console

    from .evaluator.dispatcher import Dispatcher
    from .evaluator.executors import make_executor
    from .report.find_session import run_replay

    executor = make_executor(_training_workers(workers))
    same = run_replay(name, folder or Path("runs", f"replay-{name}"), Dispatcher(executor), Console())
    sys.exit(0 if same else 1)


@app.command("list")
def list_() -> None:
    """List catalogued programs, tasks, ops, inputs and codecs."""
    from .report.listing import listing

    print(listing(), end="")
