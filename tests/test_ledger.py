"""A run is a function of its configuration and seed, and its ledger survives what happens to machines."""

import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from stepsmith.evaluator.curve import NoCurve
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.evaluator.processes import Processes
from stepsmith.search.config import ConfigError
from stepsmith.search.ledger import Child, Ledger, LedgerError
from stepsmith.search.run import Stop, create_run, open_run, run_search

sys.path.append(str(Path(__file__).parent))

from search_tools import (
    ONE_STAGE,
    TOML,
    alive,
    children,
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


@pytest.fixture(scope="module")
def two_workers():
    executor = Processes(2)
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing happened to, and its configuration."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = small(folder, steps=10_000)
    search(folder / "run", config)
    assert len(rows(folder / "run")) > 60
    return folder / "run", config


# --- determinism --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_ledger_and_another_seed_another(tmp_path, undisturbed):
    folder, config = undisturbed
    search(tmp_path / "again", config)
    search(tmp_path / "other", config.model_copy(update={"seed": 1}))
    assert rows(tmp_path / "again") == rows(folder) != rows(tmp_path / "other")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_row(tmp_path, undisturbed, workers, two_workers):
    folder, config = undisturbed
    executor = two_workers if workers == 2 else Processes(1)
    search(tmp_path / "run", config, executor)
    if workers == 1:
        executor.close()
    assert rows(tmp_path / "run") == rows(folder)
    with closing(Ledger.open(tmp_path / "run")) as ledger:
        assert ledger.seconds() > 0


@pytest.mark.parametrize(("size", "delay"), [(1, 1), (3, 1), (5, 4)])
def test_rounds_of_any_size_and_delay_are_reproducible(tmp_path, size, delay, two_workers):
    config = small(tmp_path, round=size, delay=delay, steps=3000)
    search(tmp_path / "here", config)
    search(tmp_path / "there", config, two_workers)
    assert rows(tmp_path / "here") == rows(tmp_path / "there")
    rounds = [c.round for c in children(tmp_path / "here")]
    assert rounds == sorted(rounds) and set(rounds) == set(range(rounds[-1] + 1))


def test_a_smaller_budget_gives_a_prefix(tmp_path, undisturbed):
    folder, config = undisturbed
    search(tmp_path / "run", config.model_copy(update={"steps": 3000}))
    short, long = rows(tmp_path / "run"), rows(folder)
    assert short == long[: len(short)] and len(short) < len(long)
    assert sum(c.steps for c in children(tmp_path / "run")) >= 3000


def test_no_time_at_all_is_a_run_that_can_be_gone_on_with(tmp_path, undisturbed, two_workers):
    """Rounds in flight when the minutes end are bred again, the same."""
    folder, config = undisturbed
    search(tmp_path / "run", config, two_workers, minutes=0)
    assert len(rows(tmp_path / "run")) < len(rows(folder))
    resume(tmp_path / "run", two_workers)
    assert rows(tmp_path / "run") == rows(folder)


def test_stopping_after_every_round_changes_nothing(tmp_path, undisturbed):
    folder, config = undisturbed
    ledger = create_run(tmp_path / "run", config)
    ledger.close()
    stops, rounds = 0, -1
    while True:
        ledger, stored, _ = open_run(tmp_path / "run")

        def stop(progress):
            nonlocal rounds
            if progress.fold.rounds > rounds:
                rounds = progress.fold.rounds
                raise Stop

        before = rounds
        with closing(ledger):
            run_search(ledger, stored, Dispatcher(Inline()), progress=stop)
        if rounds == before:
            break
        stops += 1
    assert stops > 5
    assert rows(tmp_path / "run") == rows(folder)


def test_more_starts_than_a_round_holds_resume_to_the_same_rows(tmp_path):
    starts = ("momentum", "sgd", "signum", "lion")
    config = small(tmp_path, start=starts, round=2, steps=600, stages=ONE_STAGE)
    search(tmp_path / "whole", config)
    search(tmp_path / "cut", config, progress=_stop)
    for _ in range(20):
        resume(tmp_path / "cut", progress=_stop)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert [c.round for c in children(tmp_path / "cut") if c.is_start] == [0, 0, 1, 1]


def _stop(progress):
    raise Stop


def test_replaying_gives_the_population_that_the_search_had(tmp_path, undisturbed):
    _, config = undisturbed
    live = search(tmp_path / "run", config.model_copy(update={"patience": 1}))
    replayed = resume(tmp_path / "run")
    assert live.restarts > 0
    assert (live.islands, live.credit, live.scored, live.counts, live.steps, live.hurdles, live.trained) == (
        replayed.islands, replayed.credit, replayed.scored, replayed.counts, replayed.steps, replayed.hurdles,
        replayed.trained,
    )  # fmt: skip


def test_start_programs_are_those_of_the_beginning(tmp_path, undisturbed):
    """The file that a run began with may change or go; the run does not."""
    folder, config = undisturbed
    small(tmp_path)
    mine = config.model_copy(update={"start": (str(tmp_path / "momentum.opt"),)})
    search(tmp_path / "run", mine, minutes=0)
    (tmp_path / "momentum.opt").unlink()
    resume(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(folder)


# --- kill -9 ------------------------------------------------------------------------------------------------


def kill_and_resume(folder: Path, kills: int) -> None:
    """Kills the driver `kills` times at random moments while the ledger grows; then lets it end."""
    chance = random.Random(5)
    steps = 10_000 * kills
    search(folder / "undisturbed", small(folder, steps=steps))
    new = ["search", "--config", "search.toml", "--steps", str(steps), "--out", "run"]
    for _ in range(kills):
        args = ["search", "--resume", "run"] if (folder / "run" / "ledger.sqlite").exists() else new
        process = start_stepsmith(*args, "--workers", "1", "--elites", "0", cwd=folder)
        before = committed(folder / "run")
        more = chance.randint(1, 3)
        wait_for(lambda b=before, m=more: committed(folder / "run") >= b + m, process)
        time.sleep(chance.random() * 0.1)
        family = descendants(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda f=family: not any(alive(pid) for pid in f), seconds=20)
    done = stepsmith("search", "--resume", "run", "--workers", "0", "--elites", "0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert rows(folder / "run") == rows(folder / "undisturbed")


def committed(run: Path) -> int:
    """Closed rounds; -1 when there is no ledger."""
    try:
        with closing(sqlite3.connect(f"file:{run}/ledger.sqlite?mode=ro", uri=True)) as base:
            return base.execute("SELECT COALESCE(MAX(round) + 1, 0) FROM children").fetchone()[0]
    except sqlite3.Error:
        return -1


def test_a_driver_killed_four_times_ends_with_the_undisturbed_ledger(tmp_path):
    kill_and_resume(tmp_path, 4)


@pytest.mark.slow
def test_a_driver_killed_ten_times_ends_with_the_undisturbed_ledger(tmp_path):
    kill_and_resume(tmp_path, 10)


def test_no_worker_outlives_a_killed_driver_nor_says_a_word(tmp_path):
    """Not even one in the middle of a job of minutes."""
    write_inputs(tmp_path, TOML.replace("share = 0.125", "share = 4.0\nseeds = 900"))
    args = ("--config", "search.toml", "--workers", "2", "--out", "run")
    process = start_stepsmith("search", *args, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(descendants(process.pid)) >= 3, process)  # two workers and the tracker of semaphores
    time.sleep(3)
    family = descendants(process.pid)
    assert len(family) >= 3
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in family), seconds=10)
    assert process.stderr.read() == ""


def test_a_run_killed_while_it_was_made_can_be_made_again(tmp_path):
    """The ledger appears whole or not at all."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.sqlite.part").write_bytes(b"half a ledger")
    search(tmp_path / "run", small(tmp_path, steps=1))
    assert rows(tmp_path / "run")


# --- disks and folders --------------------------------------------------------------------------------------


def test_a_full_ledger_says_so_and_goes_on_when_there_is_room(tmp_path, undisturbed):
    folder, config = undisturbed
    with closing(create_run(tmp_path / "run", config)) as ledger:
        ledger.base.execute("PRAGMA max_page_count = 12")
        with pytest.raises(LedgerError, match=r"run/ledger.sqlite: the disk is full; make room and resume, nothing"):
            run_search(ledger, config, Dispatcher(Inline()))
    assert 0 < len(rows(tmp_path / "run")) < len(rows(folder))
    resume(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(folder)


def test_a_write_that_fails_loses_nothing(tmp_path, undisturbed):
    """A limit on the size of files stands for any disk that refuses in the middle of a write."""
    folder, _ = undisturbed
    toml = write_inputs(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (48_000, 48_000))

    options = ("--workers", 0, "--elites", 0, "--out", "run")
    args = ("search", "--config", toml, "--steps", 10_000, *options)
    with start_stepsmith(*args, cwd=tmp_path, preexec_fn=limit) as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert "run/ledger.sqlite: " in err and "nothing committed is lost" in err
    resume(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(folder)


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 kB, and a function that mounts it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a small disk")

    if not shutil.which("mount"):
        pytest.skip("no mount command")
    mount("size=64k")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, undisturbed, disk):
    folder, _ = undisturbed
    place, mount = disk
    toml = write_inputs(tmp_path)
    options = ("--workers", "0", "--elites", "0")
    full = stepsmith("search", "--config", toml, "--steps", "10000", "--out", place / "run", *options, cwd=tmp_path)
    assert full.returncode == 2 and full.stderr.count("\n") == 1, full.stderr
    assert "the disk is full; make room and resume" in full.stderr
    stored = rows(place / "run")
    assert stored and stored == rows(folder)[: len(stored)]
    mount("remount,size=4m")
    done = stepsmith("search", "--resume", place / "run", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(place / "run") == rows(folder)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, disk):
    place, mount = disk
    toml = write_inputs(tmp_path)
    mount("remount,size=4m")
    search(place / "run", small(tmp_path, steps=1))
    mount("remount,ro")
    new = stepsmith("search", "--config", toml, "--steps", "1", "--out", place / "new", cwd=tmp_path)
    old = stepsmith("search", "--resume", place / "run", cwd=tmp_path)
    for done in (new, old):
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "Read-only file system; choose a folder that can be written" in done.stderr
    shown = stepsmith("inspect", f"{place}/run:0", cwd=tmp_path)
    assert shown.returncode == 0 and "momentum" in shown.stdout


def test_two_searches_in_one_folder_are_refused(tmp_path):
    config = small(tmp_path, steps=1)
    with closing(create_run(tmp_path / "run", config)):
        for args in (("--resume", "run"), ("--config", "search.toml", "--steps", "1", "--out", "run")):
            done = stepsmith("search", *args, cwd=tmp_path)
            assert done.returncode == 2
            assert done.stderr == "stepsmith: run: another search is running in this folder\n"
        assert children(tmp_path / "run") == []  # reading is free
    resume(tmp_path / "run")


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    config = small(tmp_path, steps=1)
    search(tmp_path / "run", config)
    before = (tmp_path / "run" / "ledger.sqlite").read_bytes()
    with pytest.raises(LedgerError, match=r"holds a run already; go on with it: stepsmith search --resume .*/run$"):
        create_run(tmp_path / "run", config)
    assert (tmp_path / "run" / "ledger.sqlite").read_bytes() == before


# --- ledgers that are none ----------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "garbage":
        path.write_bytes(os.urandom(len(data)))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("child,fitness\n0,1.0\n")
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "another database":
        path.unlink()
        with closing(sqlite3.connect(path)) as base:
            base.execute("CREATE TABLE songs (name TEXT)")
    else:
        with closing(sqlite3.connect(path, isolation_level=None)) as base:
            base.execute(how)


DAMAGE = {
    "garbage": "not a ledger (damaged, or another kind of file)",
    "text": "not a ledger (damaged, or another kind of file)",
    "empty": "not a ledger (no meta table)",
    "another database": "not a ledger (no meta table)",
    "cut": "the ledger is damaged",
    "UPDATE meta SET value = '7' WHERE name = 'format'": "ledger format 7, this version reads 3; go on with",
    "UPDATE meta SET value = '99' WHERE name = 'search_version'": "written with search_version 99, this is",
    "UPDATE meta SET value = 'beef' WHERE name = 'ops'": "written with ops beef, this is ",
    "UPDATE meta SET value = 'old' WHERE name = 'curves'": "quadratic is not the task that it was, or has another",
    "UPDATE meta SET value = '{' WHERE name = 'config'": "its configuration cannot be read by this version",
    "DELETE FROM meta WHERE name = 'starts'": "its configuration cannot be read by this version",
    "UPDATE children SET scores = substr(scores, 1, 20) WHERE child = 0": "row 0 is damaged (scores); put back a copy",
    "UPDATE children SET fitness = 'abc' WHERE child = 0": "row 0 is damaged (fitness); put back a copy",
    "DELETE FROM children WHERE child = 3": "row 3 is missing; put back a copy of it, or start a new run",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    search(folder / "run", small(folder, steps=1500, stages=ONE_STAGE))
    return folder / "run"


@pytest.mark.parametrize("how", DAMAGE)
def test_an_unreadable_ledger_is_named_and_left_alone(tmp_path, finished, how):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "ledger.sqlite"
    damage(path, how)
    before = path.read_bytes()
    for _ in range(2):  # and the folder is not locked by the first try
        with pytest.raises(LedgerError) as caught:
            resume(tmp_path / "run")
        message = str(caught.value)
        assert str(path) in message and DAMAGE[how] in message and "\n" not in message
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["garbage", "text", "empty", "another database", "cut", *list(DAMAGE)[5:6]])
def test_reading_an_unreadable_ledger_is_one_line_too(tmp_path, finished, how):
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / "ledger.sqlite", how)
    with pytest.raises(LedgerError, match=r"run/ledger.sqlite: .+"):
        children(tmp_path / "run")


def test_an_unreadable_ledger_on_the_command_line_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.sqlite").write_bytes(os.urandom(5000))
    for args in (("search", "--resume", "run"), ("inspect", "run:best"), ("export", "run:3")):
        done = stepsmith(*args, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "stepsmith: run/ledger.sqlite: not a ledger (damaged, or another kind of file)\n"


def test_a_folder_name_with_odd_characters_is_read(tmp_path):
    folder = tmp_path / "a run? 100% #1 [x]"
    search(folder, small(tmp_path, steps=1))
    assert len(children(folder)) == len(rows(folder)) > 0


def test_what_differs_from_the_beginning_is_said(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / "ledger.sqlite", "UPDATE meta SET value = '1.0' WHERE name = 'torch'")
    ledger, _, changed = open_run(tmp_path / "run")
    ledger.close()
    assert [line.split(" there")[0] for line in changed] == ["torch: 1.0"]


def test_what_would_stop_a_search_later_stops_it_before_there_is_a_folder(tmp_path):
    still = tmp_path / "still.opt"
    still.write_text("def still(w, g, lr=0.1):\n    return lr * (g - g)\n")
    with pytest.raises(ConfigError, match=r"start: .*still.opt cannot be trained: no update"):
        create_run(tmp_path / "run", small(tmp_path, start=(str(still),)))
    with pytest.raises(NoCurve, match="quadratic_steep"):
        create_run(tmp_path / "run", small(tmp_path, held_out=("quadratic_steep",)))
    assert not (tmp_path / "run").exists()


# --- rows ---------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_went(tmp_path):
    score = {"fitness": 1 / 3, "speedups": [[1.0, 2.0]], "losses": [[float("inf"), 0.1]], "dropped": False}
    child = Child(0, 0, None, "wire+constant", "def f(w, g, lr):\n    return lr * g\n", "k:1", None, "", True,
                  (score, score), "text", 1 / 7, 1e-300, 12, 2, 3.5, 4)  # fmt: skip
    other = Child(1, 0, 0, "delete", "text", alias_of=0)
    with closing(create_run(tmp_path / "run", small(tmp_path))) as ledger:
        ledger.commit_round([child, other], [])
        assert list(ledger.children()) == [child, other]


def test_a_round_is_committed_whole_or_not_at_all(tmp_path):
    good, bad = Child(0, 0, None, "start", "text"), Child(0, 0, None, "the same number", "text")
    with closing(create_run(tmp_path / "run", small(tmp_path))) as ledger:
        with pytest.raises(LedgerError, match="UNIQUE"):
            ledger.commit_round([good, bad], [])
        assert list(ledger.children()) == []
        ledger.commit_round([good], [])
    assert len(rows(tmp_path / "run")) == 1


def test_a_ledger_can_be_read_while_it_is_written(tmp_path):
    config = small(tmp_path)
    with closing(create_run(tmp_path / "run", config)) as ledger:
        seen: list[int] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.append(len(children(tmp_path / "run")))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            run_search(ledger, config, Dispatcher(Inline()))
        finally:
            stop.set()
            reader.join()
    assert seen == sorted(seen) and len(set(seen)) > 2


def test_the_configuration_is_stored_whole(tmp_path):
    config = small(tmp_path, seed=9, audit=0.25)
    search(tmp_path / "run", config, minutes=0)
    ledger, stored, _ = open_run(tmp_path / "run")
    with closing(ledger):
        assert stored == config
        assert json.loads(ledger.meta()["config"])["seed"] == 9


def test_re_scorings_are_counted_with_the_programs_they_asked_for(tmp_path):
    search(tmp_path / "run", small(tmp_path, steps=1, stages=ONE_STAGE))
    with closing(Ledger.open(tmp_path / "run")) as ledger:
        assert [ledger.next_look(count) for count in (20, 1, 5)] == [(1, 0), (2, 20), (3, 21)]
