"""From a run's row to the shelf: the record, the printed program's score, and replays that give the same row."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.keys import key
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.report import find_session, listing
from stepsmith.report.origin import origin
from stepsmith.search import find as finds
from stepsmith.search import keep as keeping
from stepsmith.search import replay as replays
from stepsmith.search.find import FindError, read_find
from stepsmith.search.keep import keep, measured
from stepsmith.search.ledger import Ledger, LedgerError
from stepsmith.search.programs import decay_of
from stepsmith.search.replay import differences, replay
from stepsmith.search.run import BREEDS, Stop, commit
from stepsmith.search.statements import hypers_of

sys.path.append(str(Path(__file__).parent))

from search_tools import environment, search, small


def dispatcher():
    return Dispatcher(Inline())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished search."""
    folder = tmp_path_factory.mktemp("home")
    search(folder / "run", small(folder))
    return folder / "run"


@pytest.fixture(scope="module")
def best(run):
    with Ledger.reading(run) as ledger:
        return ledger.best()


@pytest.fixture(scope="module")
def shelf(run, best, tmp_path_factory):
    """A shelf with that search's best as `swift`."""
    folder = tmp_path_factory.mktemp("shelf")
    keep(run, best.child, "swift", "Momentum, faster.", dispatcher(), folder)
    return folder


@pytest.fixture
def own_shelf(shelf, monkeypatch):
    monkeypatch.setattr(finds, "shelf", lambda: shelf)
    monkeypatch.setattr(keeping, "shelf", lambda: shelf)
    monkeypatch.setattr(find_session, "load", lambda name: load(shelf / f"{name}.opt"))


def test_a_find_has_its_whole_way_from_the_start_program(run, shelf, best):
    found = read_find("swift", shelf)
    assert (found.child, found.fitness, found.commit) == (best.child, best.fitness, commit())
    with Ledger.reading(run) as ledger:
        rows = [ledger.child(ancestor.child) for ancestor in found.lineage]
    assert [row.program for row in rows] == [ancestor.program for ancestor in found.lineage]
    assert [row.parent for row in rows] == [None, *(row.child for row in rows[:-1])]  # None: a start program
    assert rows[-1].child == best.child and Program.parse(found.starts[0]).name == "momentum"
    assert all(one.child < two.child for one, two in zip(found.lineage, found.lineage[1:], strict=False))
    assert best.steps < found.steps and found.children == best.child + 1


def test_its_text_says_what_it_is_and_where_it_is_from(shelf, best):
    program = load(shelf / "swift.opt")
    assert program.name == "swift"
    assert program.doc.startswith(f"Momentum, faster.\nSource: Stepsmith's search, seed 0, row {best.child}")
    assert len(program.statements) <= len(Program.parse(best.final).statements)


def test_its_numbers_can_be_set_and_stay_what_they_are(tmp_path):
    text = "def f(w, g, m, lr=0.6):\n m = interp(g, m, 0.8)\n return lr * (m + 0.3 * g), m"
    (tmp_path / "start.opt").write_text(text)
    found = tmp_path / "found"
    search(tmp_path / "run", small(tmp_path, start=(str(tmp_path / "start.opt"),), steps=2_000))
    keep(tmp_path / "run", 0, "mixed", "Momentum and gradient.", dispatcher(), found)
    program = load(found / "mixed.opt")
    assert hypers_of(program) == {"beta1": 0.8, "c1": 0.3}
    assert key(program) == key(Program.parse(text))
    assert "m = interp(g, m, beta1)" in str(program)  # reads as the search's programs do


def test_the_printed_program_gives_the_recorded_score_in_a_fresh_process(shelf):
    code = """
import sys
from pathlib import Path
from stepsmith.discovered import load
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.search.find import read_find
from stepsmith.search.keep import measured
found = read_find("swift", Path(sys.argv[1]))
print(measured(load(Path(sys.argv[1]) / "swift.opt"), found.config, Dispatcher(Inline())) == found.scores)
"""
    run = [sys.executable, "-c", code, str(shelf)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "True\n"


def test_scores_are_on_seeds_that_no_search_and_no_rescoring_uses(shelf):
    [scored] = read_find("swift", shelf).scores
    assert scored.task == "quadratic" and len(scored.seeds) == len(scored.speedups) == 24
    assert min(scored.seeds) == 600_000  # re-scorings begin at 601,000, stages at 1,000
    assert scored.interval.low < scored.interval.mean < scored.interval.high


def test_a_replay_makes_the_same_row(shelf, tmp_path):
    found = read_find("swift", shelf)
    again = replay(found, tmp_path / "again", dispatcher())
    assert again.same_program and again.same_fitness
    assert (again.row.child, again.row.fitness) == (found.child, found.fitness)
    with Ledger.reading(tmp_path / "again") as ledger:
        assert ledger.count() < found.children + 200  # it ends there


def test_a_replay_that_gives_another_row_says_so(shelf, tmp_path, monkeypatch, own_shelf):
    found = read_find("swift", shelf)
    other = found.model_copy(update={"fitness": found.fitness + 1e-9})
    monkeypatch.setattr(find_session, "read_find", lambda name: other)
    console = Console(record=True, width=200)
    assert not find_session.run_replay("swift", tmp_path / "r", dispatcher(), console)
    assert f"the same program, fitness {found.fitness!r}, recorded {other.fitness!r}" in console.export_text()


def test_an_interrupted_replay_goes_on_and_a_finished_one_says_the_same_again(shelf, tmp_path):
    found, calls = read_find("swift", shelf), []

    def soon(now):
        calls.append(now)
        if now.fold.rounds >= 2:
            raise Stop

    assert replay(found, tmp_path / "again", dispatcher(), soon) is None
    with Ledger.reading(tmp_path / "again") as ledger:
        assert 0 < ledger.count() <= found.child
    once, twice = (replay(found, tmp_path / "again", dispatcher()) for _ in range(2))
    assert once == twice and once.same_program and once.same_fitness


def test_a_replay_in_the_folder_of_another_run_is_refused(shelf, tmp_path):
    search(tmp_path / "run", small(tmp_path, seed=1, steps=500))
    with pytest.raises(FindError, match="holds another run; name another folder with --out"):
        replay(read_find("swift", shelf), tmp_path / "run", dispatcher())


def test_a_search_that_ends_before_the_row_names_the_commit(shelf, tmp_path):
    found = read_find("swift", shelf)
    far = found.model_copy(update={"child": 10**6})
    with pytest.raises(FindError, match=r"the search ended after \d+ rows, before row 1000000; "):
        replay(far, tmp_path / "run", dispatcher())


def test_another_program_in_the_row_is_seen(shelf, tmp_path):
    found = read_find("swift", shelf)
    last = found.lineage[-1].model_copy(update={"program": found.starts[0]})
    again = replay(found.model_copy(update={"lineage": (last,)}), tmp_path / "run", dispatcher())
    assert not again.same_program and again.same_fitness


def test_keep_says_what_it_wrote_and_inspect_where_it_is_from(run, own_shelf, shelf):
    console = Console(record=True, width=200)
    find_session.run_keep(f"{run}:best", "swifter", "Momentum, faster still.", dispatcher(), console)
    said = console.export_text()
    assert "def swifter(" in said and "24 unseen seeds" in said
    assert origin("Swifter")[0] == "origin" and origin("lion") == []
    with pytest.raises(FindError, match="'swifter' is on the shelf already"):
        find_session.run_keep(f"{run}:best", "swifter", "Again.", dispatcher(), console)
    assert re.search(r"^ Speedup: quadratic \d\.\d\d", listing._scored("swifter"))
    assert "there is no find" in listing._scored("swiftest")


def test_of_two_that_keep_one_name_the_second_is_refused(run, best, tmp_path):
    def meanwhile(text):
        if text.startswith("scoring on") and not list(tmp_path.glob("*.opt")):
            keep(run, 0, "same", "The other's.", dispatcher(), tmp_path)

    with pytest.raises(FindError, match="'same' is on the shelf already; choose another name"):
        keep(run, best.child, "same", "Mine.", dispatcher(), tmp_path, meanwhile)
    assert read_find("same", tmp_path).child == 0 and load(tmp_path / "same.opt").doc.startswith("The other's.")
    assert {path.name for path in tmp_path.iterdir()} == {"same.json", "same.opt"}
    (tmp_path / "same.json").unlink()
    with pytest.raises(FindError, match=r"same\.opt has no record beside it, .*; remove it, or wait$"):
        keep(run, best.child, "same", "Mine.", dispatcher(), tmp_path)


def test_on_another_version_it_names_the_commit_and_scores_again(shelf, tmp_path, monkeypatch, own_shelf):
    monkeypatch.setattr("stepsmith.search.run.SEARCH_VERSION", 99)
    found = read_find("swift", shelf)
    assert list(differences(found)) == ["search_version"]
    with pytest.raises(FindError, match=re.escape(f"not as it was recorded: search_version; {replays.where(found)}")):
        replay(found, tmp_path / "run", dispatcher())
    console = Console(record=True, width=200)
    assert find_session.run_replay("swift", tmp_path / "run", dispatcher(), console)
    said = console.export_text()
    assert "99 here" in said and replays.where(found, ".venv/bin/stepsmith replay swift") in said
    assert "quadratic: recorded" in said and "the same on every seed" in said
    assert not (tmp_path / "run").exists()


def test_changes_that_were_not_committed_are_said(shelf):
    found = read_find("swift", shelf)
    assert "changes that were not committed" in replays.where(found.model_copy(update={"commit": "0123456789abcd+"}))
    assert "not recorded" in replays.where(found.model_copy(update={"commit": ""}))


def test_the_decay_of_a_name_is_that_of_its_search_alone(run, monkeypatch):
    assert decay_of(f"{run}:best") == decay_of(f"cautious({run}:3)") == "constant_linear" != decay_of("lion")
    monkeypatch.chdir(run)  # where a ledger lies that has nothing to do with lion
    assert decay_of("lion") == decay_of("cautious(lion)") == "tuned"


def test_what_was_dropped_is_not_kept_though_an_audit_trained_it_whole(tmp_path):
    search(tmp_path / "run", small(tmp_path, steps=3_000, audit=1.0))
    with Ledger.reading(tmp_path / "run") as ledger:
        row = next(row for row in ledger.children() if row.reason.startswith("dropped") and row.fitness is not None)
    with pytest.raises(FindError, match=f"row {row.child} .* did not come through all stages: {row.reason}"):
        keep(tmp_path / "run", row.child, "swift", "A rule.", dispatcher(), tmp_path / "found")


def test_what_cannot_be_kept_or_read_is_one_line(run, shelf, tmp_path):
    def refused(child, name, about="A rule."):
        with pytest.raises((FindError, LedgerError)) as error:
            keep(run, child, name, about, dispatcher(), tmp_path)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
        return str(error.value)

    assert refused(3, "Swift!") == "'Swift!' is no name for a find: small letters, digits and _, as in fading_adamw"
    assert refused(3, "lion") == "'lion' is on the shelf already; choose another name"
    assert refused(3, "swift", "Two\nlines") == refused(3, "swift", " ") == "--about says in one line what the rule is"
    assert "no child 999999; write a number from 0 to " in refused(999_999, "swift")
    with Ledger.reading(run) as ledger:
        dropped = next(row for row in ledger.children() if row.reason.startswith("dropped: stage"))
    assert refused(dropped.child, "swift").endswith(f"did not come through all stages: {dropped.reason}")
    with pytest.raises(FindError, match="there is no find 'swfit'; on the shelf: swift"):
        read_find("swfit", shelf)
    damaged = json.loads((shelf / "swift.json").read_text()) | {"child": "x"}
    (tmp_path / "swift.json").write_text(json.dumps(damaged))
    with pytest.raises(FindError, match=r"swift.json cannot be read .*; put back the file as it was committed"):
        read_find("swift", tmp_path)


def unlike_here(found):
    """What makes a find's scores other ones here."""
    return [what for what in differences(found) if what not in BREEDS]


def recorded_here(name):
    """The record of a find on the shelf; the test is skipped where scores need not be the same."""
    found = read_find(name)
    if changed := unlike_here(found):
        pytest.skip(f"{name} was scored with another {' and '.join(changed)}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", finds.finds())
def test_every_find_on_the_shelf_gives_its_recorded_scores(name):
    found = recorded_here(name)
    assert measured(load(name), found.config, dispatcher()) == found.scores


@pytest.fixture(scope="module")
def rescored():
    """Of each find its first seed on the first task, in a fresh process of one thread as workers are."""
    code = """
import json
import sys
from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.evaluator.fitness import Job, Trial, evaluate
from stepsmith.evaluator.train import use_one_thread
from stepsmith.search.find import read_find
use_one_thread()
scores = {}
for name in sys.argv[1:]:
    found, program = read_find(name), Program.parse(str(load(name)))
    scored, decay = found.scores[0], found.config.get("decay", "tuned")
    [score] = evaluate(Job((program,), Trial((scored.task,), seeds=scored.seeds[:1], decay=decay)))
    scores[name] = score.speedups[0][0]
print(json.dumps(scores))
"""
    names = [name for name in finds.finds() if not unlike_here(read_find(name))]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", finds.finds())
def test_a_find_on_the_shelf_scores_from_its_text_what_was_recorded(name, rescored):
    found = recorded_here(name)
    assert rescored[name] == pytest.approx(found.scores[0].speedups[0], rel=1e-6)
