"""The command line, as a person meets it."""

import fcntl
import importlib.util
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import stepsmith as stepsmith_package
from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.ops import ALIASES
from stepsmith.dsl.program import RESERVED
from stepsmith.dsl.syntax import CALLABLE
from stepsmith.proxies import tasks

sys.path.append(str(Path(__file__).parent))

from search_tools import (
    MOMENTUM,
    TOML,
    alive,
    descendants,
    resume,
    rows,
    search,
    small,
    start_stepsmith,
    stepsmith,
    wait_for,
    write_inputs,
)

QUICK = ("--config", "search.toml", "--steps", "2000", "--workers", "0")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished search in runs/1, and what that search said."""
    folder = tmp_path_factory.mktemp("home")
    write_inputs(folder)
    done = stepsmith("search", *QUICK, "--elites", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def fails(home, monkeypatch, capsys):
    """Runs the command line in this process, and gives the one line that an error is."""
    from stepsmith import cli

    monkeypatch.chdir(home[0])

    def run(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["stepsmith", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code == 2, out + err
        assert err.startswith("stepsmith: ") and err.count("\n") == 1, err
        return err.removeprefix("stepsmith: ").rstrip("\n")

    return run


# --- search -------------------------------------------------------------------------------------------------


def test_a_search_says_what_it_does_in_plain_lines_and_leaves_a_folder(home):
    folder, done = home
    assert done.stderr == "" and "\x1b" not in done.stdout
    assert done.stdout.startswith("run folder runs/1; strategy evolution, from momentum.opt, seed 0, in this process\n")
    assert "\nthe search is over: its 2,000 steps are spent\n" in done.stdout and "--resume" not in done.stdout
    for name in ("evaluations/s", "full runs/h", "cache hits", "wrongly dropped", "best fitness"):
        assert name in done.stdout
    assert {p.name for p in (folder / "runs" / "1").iterdir()} >= {"ledger.sqlite", "hall_of_fame.csv", "best"}
    text = (folder / "runs" / "1" / "best" / "1.opt").read_text()
    assert text[text.index("def ") :] in done.stdout and text.startswith("#")


def test_the_next_search_takes_the_next_folder_and_a_finished_one_resumes_to_the_same_end(home):
    folder, _ = home
    table = (folder / "runs" / "1" / "hall_of_fame.csv").read_text()
    second = stepsmith("search", *QUICK, "--elites", "0", cwd=folder)
    assert second.stdout.startswith("run folder runs/2;")
    assert rows(folder / "runs" / "1") == rows(folder / "runs" / "2")
    again = stepsmith("search", "--resume", "runs/2", "--workers", "0", "--elites", "2", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "\nthe search is over: its 2,000 steps are spent\n" in again.stdout
    assert (folder / "runs" / "2" / "hall_of_fame.csv").read_text() == table


def test_a_search_ends_with_what_it_wrote_twice_and_did_not_need(home):
    _, done = home
    said = re.search(r"seen before: ([\d.]+)% of ([\d,]+) trainable .*; redundant: ([\d.]+)% of", done.stdout)
    assert said and int(said[2].replace(",", "")) > 0 and 0 <= float(said[3]) <= 100


# --- simplify -----------------------------------------------------------------------------------------------


def test_simplify_trains_at_the_empirical_level_and_says_what_stays(home):
    folder, _ = home
    (folder / "padded.opt").write_text("def f(w, g, m, lr=0.01):\n  m = interp(g, m, 0.9)\n  return lr * sign(m), m\n")
    args = ("padded.opt", "--level", "empirical", "--task", "digits", "--runs", "200", "--out", "short.md")
    done = stepsmith("simplify", *args, "--to", "markdown", cwd=folder)
    assert done.returncode == 0, done.stderr
    text = (folder / "short.md").read_text()
    assert re.search(r"training runs.*from this program at its best learning rate", text)
    assert re.search(r"interp\(g, m, 0.9\) is g: stays; loss \+[\d.]+%", text)


def test_simplify_says_what_is_wrong_with_its_options(fails):
    assert fails("simplify", "lion", "--level", "empiric").endswith("did you mean 'empirical'?")
    assert fails("simplify", "lion", "--level", "empirical", "--task", "digit").endswith("did you mean 'digits'?")
    assert "without a route" in fails("simplify", "muon", "--level", "empirical")
    decay = ("--decay", "cosin")
    assert fails("simplify", "lion", "--level", "empirical", *decay).endswith("did you mean 'cosine'?")
    assert "is an option of --level empirical" in fails("simplify", "lion", "--decay", "cosine")


def test_options_go_before_the_file(home):
    folder, _ = home
    args = ("--from", "sgd", "--strategy", "random", "--space", "lion45", "--seed", "3", "--elites", "0", "--out", "x")
    done = stepsmith("search", *QUICK, *args, cwd=folder)
    assert done.stdout.startswith("run folder x; strategy random, from sgd, seed 3, in this process\n"), done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("args", "note"),
    [
        (("--from", "muon", "--space", "matrix"), ""),
        (("--space", "matrix"), "note: matrix ops stand in programs with a route, and this start has none"),
        ((), ""),
    ],
)
def test_a_search_warns_of_ops_that_it_will_not_hold(tmp_path, args, note):
    write_inputs(tmp_path)
    fast = ("--config", "search.toml", "--minutes", "0", "--workers", "0", "--elites", "0")
    done = stepsmith("search", *fast, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1].startswith(note or "time ")


def test_minutes_in_which_no_round_closes_say_that_nothing_is_saved(tmp_path):
    write_inputs(tmp_path)
    search = ("search", "--config", "search.toml", "--workers", "0", "--elites", "0", "--out", "run")
    done = stepsmith(*search, "--minutes", "1e-9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        "\nended after --minutes 1e-09\n"
        "no round was closed in that time, so nothing new is saved: give it more than --minutes 1e-09; "
        "go on with: stepsmith search --resume run\n"
    )
    assert _rounds(tmp_path / "run") == 0


def test_the_hint_to_resume_is_whole_however_long_the_folder(tmp_path):
    write_inputs(tmp_path)
    name = "a-long-name-" * 10
    process = start_stepsmith(
        "search", "--config", "search.toml", "--minutes", "5", "--workers", "0", "--out", name, cwd=tmp_path
    )
    wait_for(lambda: _rounds(tmp_path / name) > 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert f"go on with: stepsmith search --resume {name}\n" in out
    assert process.returncode == 130 and "saving; Ctrl-C again ends now" in err


def _rounds(run: Path) -> int:
    with suppress(Exception):
        return rows(run)[-1][1] + 1
    return 0


def test_ctrl_c_saves_and_ends_and_the_run_goes_on_from_there(tmp_path):
    """Sent to the whole group, workers too, as a terminal does."""
    write_inputs(tmp_path)
    config = small(tmp_path)
    search(tmp_path / "undisturbed", config)
    args = ("--config", "search.toml", "--from", config.start[0], "--steps", "8000", "--workers", "2", "--out", "run")
    process = start_stepsmith("search", *args, cwd=tmp_path)
    wait_for(lambda: _rounds(tmp_path / "run") > 0, process)
    family = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith("interrupted: all closed rounds are saved; go on with: stepsmith search --resume run\n")
    assert err.strip() == "saving; Ctrl-C again ends now"  # no traceback of a worker
    wait_for(lambda: not any(alive(pid) for pid in family), seconds=20)
    before = rows(tmp_path / "run")
    resume(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(tmp_path / "undisturbed") != before


def test_ctrl_c_while_workers_load_is_quiet_too(tmp_path):
    write_inputs(tmp_path)
    process = start_stepsmith("search", *QUICK[:-1], "2", "--out", "run", cwd=tmp_path)
    wait_for(lambda: len(descendants(process.pid)) >= 3, process)  # two workers and the tracker of semaphores
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume run" in out
    assert err.strip() == "saving; Ctrl-C again ends now"


def test_ctrl_c_twice_ends_now(tmp_path):
    """In the middle of a round that would take minutes; what was committed is as good as ever."""
    write_inputs(tmp_path, TOML.replace("share = 0.25", "share = 4.0").replace("seeds = 2", "seeds = 400"))
    process = start_stepsmith("search", *QUICK, "--out", "run", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "ledger.sqlite").exists(), process)
    assert process.stdout.readline().startswith("run folder run;")
    lines = []
    for _ in range(2):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.7)
        process.send_signal(signal.SIGINT)
        lines.append(process.stderr.readline().strip() or process.stderr.readline().strip())
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert lines == ["saving; Ctrl-C again ends now", ""]
    resume(tmp_path / "run", minutes=0)


@pytest.mark.parametrize("columns", [50, 100])
def test_on_a_terminal_the_live_view_and_the_table_keep_to_its_width(tmp_path, columns):
    write_inputs(tmp_path)
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = start_stepsmith(
        "search", *QUICK, "--elites", "2", cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    data = b""
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(control, 65536):
            data += chunk
    os.close(control)
    assert process.wait(30) == 0
    shown = data.decode()
    assert "Traceback" not in shown and "Ctrl-C: save and end" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is shown again
    assert "Hall of fame" in re.sub(r"\s+", " ", shown)


# --- other commands -----------------------------------------------------------------------------------------


def test_inspect_shows_what_a_program_is(home):
    folder, _ = home
    done = stepsmith("inspect", "momentum.opt", cwd=folder)
    assert done.returncode == 0 and done.stdout.startswith(MOMENTUM)
    assert "1 state floats" in done.stdout and "w <- w - " in done.stdout and "beta = 0.9" in done.stdout


def test_inspect_and_export_take_rows_of_a_run(home, monkeypatch):
    folder, _ = home
    best = stepsmith("inspect", "runs/1:best", cwd=folder).stdout
    file = load(folder / "runs" / "1" / "best" / "1.opt")
    assert Program.parse(best.split("\n\n")[0]) == file
    assert stepsmith("inspect", "runs/1:0", cwd=folder).stdout.split("\n")[0].startswith("def momentum(")
    done = stepsmith("export", "runs/1:best", "--to", "torch", "-o", "found.py", cwd=folder)
    assert done.stdout == "wrote found.py\n"
    assert r"\begin{align*}" in stepsmith("export", "runs/1:best", "--to", "latex", cwd=folder).stdout
    written = stepsmith("export", "runs/1:best", "--to", "optax", cwd=folder).stdout
    assert "import optax" in written and f"def {file.name}(" in written
    spec = importlib.util.spec_from_file_location("found", folder / "found.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "found", module)
    spec.loader.exec_module(module)
    made = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, torch.optim.Optimizer)]
    optimizer_class = made[-1]  # after the class that all exported rules share
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_class([weight])
    weight.grad = torch.tensor([1.0, -2.0, 0.5])
    optimizer.step()
    assert torch.isfinite(weight).all() and not torch.equal(weight.detach(), torch.ones(3))


def test_python_loads_whatever_the_command_line_takes(home, monkeypatch):
    monkeypatch.chdir(home[0])
    assert stepsmith_package.load("cautious(lion)").name == "cautious_lion"
    by_role = stepsmith_package.load("cautious(lion) for matrix, head else adamw@bytes_b64")
    assert [(p.name, p.roles) for p in by_role.parts()] == [
        ("cautious_lion_for_matrix_head", ("matrix", "head")),
        ("adamw_clip", ()),
    ]
    twice = stepsmith_package.load("cautious(lion for matrix, head else lion)")
    assert [p.name for p in twice.parts()] == ["cautious_lion_for_matrix_head", "cautious_lion"]
    assert stepsmith_package.load("runs/1:best") == load("runs/1/best/1.opt")
    assert stepsmith_package.load(Path("momentum.opt")) == stepsmith_package.load("./momentum.opt")
    assert stepsmith_package.load("adamw@bytes_b64").name.startswith("adamw")


def test_list_names_programs_tasks_and_spaces(home):
    shown = stepsmith("list", cwd=home[0]).stdout
    words = set(shown.replace(";", " ").split())
    assert set(tasks()) | {"lion", "adamw", "lion45", "elementwise"} <= words
    assert CALLABLE - set(ALIASES) | set(RESERVED) | {"repeat", "bf16", "low_rank(rank)"} <= words
    curves = {n: f"no AdamW curve yet: stepsmith tune {n}\n" in shown for n in ("digits", "digits_wide")}
    assert curves == {"digits": False, "digits_wide": True}
    assert re.search(r"^  adafactor +0\.002 state ", shown, re.MULTILINE)


def test_an_export_of_what_blows_up_says_so(tmp_path):
    (tmp_path / "huge.opt").write_text("def huge(w, g, lr):\n  return lr * g * exp(exp(9.0 + abs(w)))\n")
    done = stepsmith("export", "huge.opt", "-o", "huge.py", cwd=tmp_path)
    assert "huge.opt has updates that are not finite on the probe" in done.stderr and (tmp_path / "huge.py").exists()
    assert not stepsmith("export", "lion", "-o", "lion.py", cwd=tmp_path).stderr


def test_help_is_given_without_loading_anything_heavy(tmp_path):
    code = "import sys, stepsmith.cli as c; c.app(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    done = stepsmith_python(code, tmp_path)
    assert "search" in done and done.endswith("False\n")


def stepsmith_python(code: str, folder: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


# --- errors -------------------------------------------------------------------------------------------------


def test_misspelt_names_on_the_command_line_get_a_hint(fails):
    assert fails("searhc") == "unknown command 'searhc'; did you mean 'search'?"
    assert fails("search", "--from", "loin") == "start: unknown program 'loin'; did you mean 'lion'?"
    assert fails("search", "--space", "lion54") == "space: unknown space 'lion54'; did you mean 'lion45'?"
    few = "strategy: unknown strategy 'evolve'; known: constants, evolution, random"
    assert fails("search", "--strategy", "evolve") == few
    for before in (("--resume", "runs/9"), ("--from", "loin"), ()):
        assert fails("search", *before, "--device", "gpu") == "unknown device 'gpu'; known: cpu, cuda"
    assert fails("simplify", "lion", "--level", "empiricl") == "unknown level 'empiricl'; did you mean 'empirical'?"
    assert "--steps" in fails("search", "--stepz", "3")
    assert fails("export", "lion", "--to", "troch") == "unknown form 'troch'; did you mean 'torch'?"
    assert fails("export", "lion", "--to", "latex", "--plain").endswith("a file for latex has none")
    reason = "adam8bit cannot be exported to optax: it keeps a state in a codec"
    assert fails("export", "adam8bit", "--to", "optax") == reason
    wrong = "lion.opt is a program's name, and this would write LaTeX; name a .tex file"
    assert fails("export", "lion", "--to", "latex", "-o", "lion.opt") == wrong
    Path("mine.py").write_text("precious")
    assert fails("export", "lion", "-o", "mine.py") == "mine.py is there already; --force writes over it"
    assert (
        fails("inspect", "found/lion.json") == "found/lion.json is a record, not a program; name the find itself: lion"
    )
    assert Path("mine.py").read_text() == "precious"
    assert fails("inspect", "cautius(lion)") == "unknown transform 'cautius'; did you mean 'cautious'?"
    assert fails("inspect", "lion for matrx else adamw") == "unknown role 'matrx'; did you mean 'matrix'?"
    assert fails("inspect", "lion for matrix else adamv") == "unknown program 'adamv'; did you mean 'nadam'?"
    assert fails("inspect", "muon for matrix else adamw") == "muon has a route already: else adamw"
    assert fails("inspect", "cautious(loin)") == "unknown program 'loin'; did you mean 'lion'?"
    assert fails("inspect", "cautious(lion, scal=1)") == "cautious takes no 'scal=1'; options: scale"
    assert fails("inspect", "cautious(lion, scale=clamped)") == "unknown scale 'clamped'; did you mean 'clamped_mean'?"
    assert fails("inspect", "clip(lion, max_norm=big)") == "clip: max_norm is a number, not 'big'"
    assert fails("inspect", "cautious_decay(sgd)").startswith("sgd ")
    assert fails("inspect", "runs/1") == "runs/1 is a run, not a program; name one of its programs, as in runs/1:best"
    for number in ("999999", "9" * 20):
        assert fails("inspect", f"runs/1:{number}").startswith(f"runs/1: no child '{number}'; write best, or a number")
    for horizons in ("1e400", "1,1e999999999", "1/0", "0,1", "x"):
        assert fails("tune", "quadratic", "--horizons", horizons).endswith(f", not {horizons!r}")
    no_run = "; a program of a run is RUN:best or RUN:CHILD"
    assert fails("inspect", "runs/9:best") == f"there is no run folder runs/9{no_run}"
    assert fails("inspect", "runs/1:best:2") == f"there is no run folder runs/1:best{no_run}"
    assert fails("inspect", "runs/9") == "there is neither a file nor a run runs/9"
    Path("empty").mkdir()
    assert fails("funnel", "empty").startswith("empty is neither a program nor a run: it holds no ledger.sqlite")
    assert fails("inspect", "cautious(lion") == "'cautious(lion': a ) is missing at the end"
    assert fails("inspect", "cautious(clip(lion)") == "'clip(lion': a ) is missing at the end"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("tournamnt = 3", "search.toml: unknown option 'tournamnt'; did you mean 'tournament'?"),
        ("[[stages]]\ntasks = ['quadratic']\nsead = 3", "search.toml: unknown option 'sead'; did you mean 'seeds'?"),
        ("[[stages]]\ntask = ['quadratic']", "search.toml: unknown option 'task'; did you mean 'tasks'?"),
        ("taks = ['quadratic']", "search.toml: unknown option 'taks'; known: adapt, audit, decay, delay, dtype, "),
        ("tasks = ['quadratic']", "search.toml: unknown option 'tasks'; it is an option of a stage, under [[stages]]"),
        ("[[stages]]\ntasks = ['quadratik']", "search.toml: stages.0.tasks: unknown task 'quadratik': did you mean"),
        ("held_out = ['digit']", "search.toml: held_out: unknown task 'digit': did you mean 'digits'?"),
        ("round = 'many'", "search.toml: round: "),
        ("steps = 0", "search.toml: steps: "),
        ("seed = true", "search.toml: seed: write a number without quotes, not True"),
        ("seed = '3'", "search.toml: seed: write a number without quotes, not '3'"),
        ("edits = '2'", "search.toml: edits: write a number without quotes, not '2'"),
        ("niches = 'no'", "search.toml: niches: write true or false, not 'no'"),
        ("population = 9223372036854775808", "search.toml: population: Input should be less than 9223372036854775808"),
        ("task = 'quadratic'", "search.toml: unknown option 'task'; it is an option of the command line, --task"),
        ("config = 'a'", "search.toml: unknown option 'config'; it is an option of the command line, --config"),
        ("seeds = 3", "search.toml: unknown option 'seeds'; it is an option of a stage, under [[stages]]; that of the"),
        ("[[stages]]\ntasks = 'quadratic'", "search.toml: stages.0.tasks: a list is meant, as ['quadratic']"),
        ("[stages]\ntasks = ['quadratic']", "search.toml: stages: a list of tables is meant, each under its name in"),
        ("[[stages]]\ntasks = ['quadratic', 'quadratic']", "search.toml: stages.0.tasks: 'quadratic' stands twice;"),
        ("[[stages]]\ntasks = ['quadratic']\nshare = 1e306", "search.toml: stages.0.share: Input should be less than"),
        ("stages = []", "search.toml: stages: "),
        ("decay = 'linaer'", "search.toml: decay: unknown decay 'linaer'; did you mean 'linear'?"),
        ("dtype = 'float8'", "search.toml: dtype: "),
        ("round = 100_000_000", "round: 100000000 children train as 100000001 copies: a population of 100000001 on"),
        ("edits = inf", "search.toml: edits: Input should be a finite number"),
        ("space = lion45", "search.toml: Invalid value (at line 1, column 9)"),
        ("start = ['x.opt']", "search.toml: start: cannot read 'x.opt': No such file or directory"),
        ("held_out = ['quadratic_steep']", "task 'quadratic_steep' has no AdamW curve; make one: stepsmith tune"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(tmp_path, toml, words):
    from stepsmith.evaluator.curve import NoCurve
    from stepsmith.search.config import ConfigError, read_config
    from stepsmith.search.run import create_run

    path = tmp_path / "search.toml"
    path.write_text(toml)
    quick = {} if "stages" in toml else {"stages": ({"tasks": ["quadratic"]},)}
    with pytest.raises((ConfigError, NoCurve)) as caught:
        create_run(tmp_path / "run", read_config(path, {"start": None if "start" in toml else ("sgd",)} | quick))
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert message.startswith(words) and "\n" not in message
    assert not (tmp_path / "run").exists()


def test_the_readme_shows_every_key_with_its_default(tmp_path):
    from stepsmith.search.config import SearchConfig, Stage, read_config

    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    (tmp_path / "my.toml").write_text(readme.partition("```toml\n")[2].partition("```")[0])
    shown = read_config(tmp_path / "my.toml", {})
    assert shown.model_fields_set == SearchConfig.model_fields.keys()
    assert shown.stages[0].model_fields_set == Stage.model_fields.keys()
    changed = {"steps": None, "stages": SearchConfig().stages}
    assert shown.model_copy(update=changed) == SearchConfig()
    assert shown.stages == (Stage(tasks=shown.stages[0].tasks),)


def test_a_wrong_file_on_the_command_line_is_one_line(fails):
    folder = Path()
    (folder / "wrong.toml").write_text("tournamnt = 3\n")
    shown = fails("search", "--config", "wrong.toml")
    assert shown == "wrong.toml: unknown option 'tournamnt'; did you mean 'tournament'?"
    assert fails("search", "--config", "none.toml") == "none.toml: No such file or directory"
    (folder / "wrong.opt").write_text("def f(w, g, lr):\n    return lr * sgin(g)\n")
    shown = fails("search", "--config", "search.toml", "--from", "wrong.opt")
    assert "wrong.opt:2:17: " in shown and "did you mean 'sign'?" in shown


def test_numbers_that_make_no_sense_are_refused(fails):
    for option, value in (("--workers", "-1"), ("--elites", "-1"), ("--minutes", "-1"), ("--steps", "x")):
        assert option in fails("search", *QUICK, option, value)
    before = sorted(Path("runs").iterdir())
    for seed in ("-1", "9223372036854775808", "9" * 30):
        assert fails("search", *QUICK, "--seed", seed).startswith("search.toml: seed: ")
    assert sorted(Path("runs").iterdir()) == before


def test_a_resumed_run_keeps_its_own_options(fails):
    shown = fails("search", "--resume", "runs/1", "--seed", "4", "--from", "sgd", "--out", "y")
    assert shown == "--resume goes on with the run's own configuration; leave out --from, --seed, --out"
    assert fails("search", "--resume", "runs/0") == "runs/0: no run here (no ledger.sqlite)"
