"""Tasks in files: loading, curves beside them, and a search on one from the command line."""

import re
import sys
from pathlib import Path

import pytest
import torch

import stepsmith as stepsmith_package
from stepsmith import cli
from stepsmith.evaluator.curve import NoCurve, curve_of, curve_path
from stepsmith.evaluator.make_curve import make_curve
from stepsmith.evaluator.tune import Budget
from stepsmith.proxies import TaskError, full_name, task
from stepsmith.search.config import ConfigError, read_config

sys.path.append(str(Path(__file__).parent))

from search_tools import rows

FILE = """import torch
from torch import nn
import stepsmith as ss

x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


class Mine:
    steps, batch = 48, 8
    data = ss.Examples(x, (x @ torch.arange(6.0) > 0).long())

    def module(self):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


class Other(Mine):
    steps = 40
"""
TINY = Budget(first=4, rounds=1, each=2, finalists=2)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_task.py"
    path.write_text(FILE)
    return path


# --- loading ------------------------------------------------------------------------------------------------


def test_a_class_of_a_file_is_a_task_by_name(file):
    mine = task("my_task.py:Mine")
    assert mine.name == full_name("my_task.py:Mine") == f"{file}:Mine" == full_name(full_name("my_task.py:Mine"))
    assert (mine.steps, mine.batch, mine.file) == (48, 8, str(file))
    assert task("my_task.py:Mine") is task(str(file) + ":Mine") is mine
    assert task("my_task.py:Other").steps == 40


def test_a_changed_file_is_another_task(file):
    before = task("my_task.py:Mine")
    file.write_text(FILE + "# a remark\n")
    assert task("my_task.py:Mine").fingerprint() != before.fingerprint()


def test_a_file_may_hold_a_task_or_an_object_and_import_its_neighbours(file):
    (file.parent / "neighbour_of_my_task.py").write_text("STEPS = 31\n")
    file.write_text(FILE + "from neighbour_of_my_task import STEPS\nobj = Other()\nobj.steps = STEPS\n"
                    "whole = ss.task_of_module(Mine().module, Mine.data, batch=8, steps=7)\n")  # fmt: skip
    assert task("my_task.py:obj").steps == 31
    assert task("my_task.py:whole").name == f"{file}:whole"


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (FILE, "my_tsk.py:Mine", "there is no file .*my_tsk.py; did you mean 'my_task.py'"),
        (FILE, "my_task.py:Min", "my_task.py: there is no 'Min'; did you mean 'Mine'"),
        (FILE, "my_task.py:Zebra", "there is no 'Zebra'; it has Mine, Other"),
        (FILE, "my_task.py", "name a class of the file, as in my_task.py:Other"),
        (FILE + "1 / 0\n", "my_task.py:Mine", r"my_task.py:18: ZeroDivisionError: division by zero$"),
        (FILE + "raise SystemExit(3)\n", "my_task.py:Mine", r"my_task.py:18: SystemExit: 3$"),
        (FILE + "def\n", "my_task.py:Mine", r"my_task.py:18: SyntaxError: invalid syntax$"),
        (FILE + "import no_such\n", "my_task.py:Mine", r"my_task.py:18: ModuleNotFoundError: No module named"),
        (FILE.replace("steps, batch", "step, batch"), "my_task.py:Mine", r"no task: it lacks steps \(it has 'step'\)$"),
        (FILE.replace("data =", "dat ="), "my_task.py:Mine", r"it lacks data or batches\(\) with validation\(\)$"),
        (FILE.replace("steps, batch", "warm_up, steps, batch = 0.1, 48, 8 #"), "my_task.py:Mine", "it has 'warm_up'"),
        (FILE.replace("nn.ReLU()", "nn.RELU()"), "my_task.py:Mine", r"my_task.py:13: AttributeError: .*'RELU'"),
        (FILE.replace("(6, 8)", "(6, 8), 3"), "my_task.py:Mine", r"my_task.py:13: TypeError: "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(file, text, name, says):
    file.write_text(text)
    with pytest.raises(TaskError, match=says) as caught:
        task(name)
    assert "\n" not in str(caught.value)


def test_what_a_file_raises_in_use_names_its_line(file):
    file.write_text(FILE.replace("nn.Linear(8, 2)", "nn.Linear(9, 2)"))
    with pytest.raises(TaskError, match=r"RuntimeError: mat1 and mat2 shapes") as caught:
        stepsmith_package.smoketest_task("my_task.py:Mine")
    assert "\n" not in str(caught.value)


# --- curves -------------------------------------------------------------------------------------------------


def test_a_curve_stands_beside_the_file_and_is_good_for_its_text(file):
    mine = task("my_task.py:Mine")
    with pytest.raises(NoCurve, match=rf"has no AdamW curve; make one: stepsmith tune {re.escape(mine.name)}$"):
        curve_of(mine)
    made = make_curve(mine, TINY, (0.25, 1.0))
    assert curve_path(mine) == file.with_name("my_task.Mine.curve.jsonl")
    assert curve_of(mine).points == made.points and [p.steps for p in made.points] == [12, 48]
    assert stepsmith_package.load("adamw@my_task.py:Mine") == made.point(48).run().program
    file.write_text(FILE + "# a remark\n")
    with pytest.raises(NoCurve, match="was made on other data or settings; make it anew"):
        curve_of(task("my_task.py:Mine"))


def test_tuning_goes_on_where_it_was_interrupted_and_makes_a_quick_curve_whole(file):
    mine = task("my_task.py:Mine")

    def interrupted(text):
        if text.startswith(f"{mine.name} 48 steps"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_curve(mine, TINY, (0.25, 1.0), tell=interrupted)
    assert [p.steps for p in curve_of(mine).points] == [12]
    told = []
    made = make_curve(mine, TINY, (0.25, 1.0), tell=told.append)
    assert told[0].startswith(f"{mine.name}: 1 horizons, {TINY.runs()} runs at each, ")
    assert not any(" 12 steps" in text for text in told)
    assert make_curve(mine, TINY, (0.25, 1.0)).points == made.points
    curve_path(mine).unlink()
    assert make_curve(mine, TINY, (0.25, 1.0)).points == made.points  # as if it had never been interrupted
    more = make_curve(mine, Budget(first=5, rounds=1, each=2, finalists=2), (0.25, 0.5))
    assert [p.runs for p in more.points] == [TINY.runs() + 1, TINY.runs() + 1, TINY.runs()]


@pytest.mark.parametrize("text", ["", "{", '{"task": "x"}\n', "[1]\n"], ids=["empty", "cut", "half", "other"])
def test_a_damaged_curve_is_one_line(file, text):
    curve_path(task("my_task.py:Mine")).write_text(text)
    for use in (curve_of, lambda mine: make_curve(mine, TINY, (0.25, 0.5))):
        with pytest.raises(NoCurve, match=r"Mine.curve.jsonl is damaged; remove it, and make it anew: stepsmith tune"):
            use(task("my_task.py:Mine"))


def test_workers_make_the_same_curve(file):
    mine = task("my_task.py:Mine")
    alone = make_curve(mine, TINY, (0.25, 0.5))
    curve_path(mine).unlink()
    assert make_curve(mine, TINY, (0.25, 0.5), workers=1).points == alone.points


def test_what_no_curve_can_be_made_of_is_said(file):
    with pytest.raises(TaskError, match="a curve has two horizons or more, and this would be one, 12 steps"):
        make_curve(task("my_task.py:Mine"), TINY, (0.25,))
    file.write_text(
        FILE + "    def loss(self, module, batch):\n        return module(batch.x).mean() / module.training\n"
    )
    with pytest.raises(TaskError, match="AdamW comes to no lower loss"):
        make_curve(task("my_task.py:Other"), TINY, (0.25, 1.0), tell=lambda text: None)


# --- search -------------------------------------------------------------------------------------------------


@pytest.fixture
def stepsmith(file, monkeypatch, capsys):
    """The command line, in this process; gives what it prints."""

    def run(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["stepsmith", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    return run


def test_a_run_whose_task_is_gone_says_which(file, stepsmith, tmp_path, monkeypatch, capsys):
    make_curve(task("my_task.py:Mine"), TINY, (0.125, 0.25, 1.0))
    stepsmith(
        "search", "--task", "my_task.py:Mine", "--minutes", "0", "--workers", "0", "--elites", "0", "--out", "run"
    )
    file.rename(tmp_path / "elsewhere.py")
    monkeypatch.setattr(sys, "argv", ["stepsmith", "search", "--resume", "run"])
    from stepsmith.proxies import registry

    for cached in (getattr(registry, name) for name in dir(registry)):
        getattr(cached, "cache_clear", lambda: None)()
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith("stepsmith: run/ledger.sqlite: its configuration does not hold here: stages.")
    assert "my_task.py" in said and said.count("\n") == 1


def test_a_search_on_a_task_of_ones_own_from_tuning_to_resuming(file, stepsmith):

    looked = stepsmith("smoketest", "my_task.py:Mine")
    assert [line.split()[0] for line in looked.splitlines()] == [
        "shapes", "determinism", "validation", "gradient", "population", "cost"]  # fmt: skip
    tuned = stepsmith("tune", "my_task.py:Mine", "--quick", "--first", "4", "--workers", "0")
    assert tuned.splitlines()[0].startswith(f"{file}:Mine: 4 horizons, 32 runs at each, 6,480 steps: about ")
    assert "4 horizons in " in tuned.splitlines()[-1]
    Path("search.toml").write_text("round = 4\npopulation = 8\ntournament = 3\n")
    search = ("search", "--config", "search.toml", "--task", "my_task.py:Mine", "--steps", "300", "--workers", "0")
    said = stepsmith(*search, "--elites", "1", "--out", "whole")
    assert f"from adamw@{file}:Mine, seed 0" in said
    stepsmith(*search, "--elites", "0", "--out", "cut", "--minutes", "0")
    assert len(rows(Path("cut"))) < len(rows(Path("whole")))
    stepsmith("search", "--resume", "cut", "--elites", "0", "--workers", "0")
    assert rows(Path("cut")) == rows(Path("whole"))


def test_task_replaces_bytes_in_the_default_stages(file):
    config = read_config(None, {"start": ("sgd",)}, ["my_task.py:Mine", "quadratic"])
    assert [stage.tasks[0] for stage in config.stages] == ["digits", *[f"{file}:Mine"] * 3]
    assert config.stages[-1].tasks == (f"{file}:Mine", "quadratic")
    assert config.start == ("sgd",) and config.held_out == ()
    held_out = read_config(None, {"start": ("sgd",), "held_out": ("my_task.py:Mine",)}, ["quadratic"]).held_out
    assert held_out == (f"{file}:Mine",)


def test_a_folder_of_any_name_may_hold_the_task_that_a_search_begins_with(file, tmp_path, monkeypatch):
    folder = tmp_path / "my tasks, (2)"
    folder.mkdir()
    file.rename(folder / "my_task.py")
    monkeypatch.chdir(folder)
    make_curve(task("my_task.py:Mine"), TINY, (0.25, 1.0))
    assert read_config(None, {}, ["my_task.py:Mine"]).start == (f"adamw@{folder}/my_task.py:Mine",)
    inside = read_config(None, {"start": ("cautious(adamw@my_task.py:Mine) for matrix else sgd",), "odd": False})
    assert inside.start == (f"cautious(adamw@{folder}/my_task.py:Mine) for matrix else sgd",)


def test_task_beside_stages_is_an_error(file):
    config = Path("search.toml")
    config.write_text('start = ["sgd"]\n[[stages]]\ntasks = ["quadratic"]\n')
    with pytest.raises(ConfigError, match=r"search.toml has \[\[stages\]\], .*leave out --task, or the stages"):
        read_config(config, {}, ["quadratic"])
    with pytest.raises(ConfigError, match=r"held_out: the search trains on '.*my_task.py:Mine'"):
        read_config(None, {"start": ("sgd",), "held_out": ("my_task.py:Mine",)}, ["my_task.py:Mine"])


def test_the_example_learns():
    from stepsmith.evaluator.train import train

    digits = task(str(Path(__file__).parents[1] / "examples" / "my_task.py") + ":Digits")
    before = torch.random.get_rng_state()
    [outcome] = train(digits, [stepsmith_package.load("adamw").with_lr(0.02)], seed=0)
    assert outcome.loss < 0.2
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_readme_s_task_is_one(file):
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    (text,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "class Digits" in block)
    Path("readme_task.py").write_text(text)
    assert stepsmith_package.smoketest_task("readme_task.py:Digits")["shapes"].startswith("2,410 parameters")
