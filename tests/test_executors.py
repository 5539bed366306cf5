"""Executors change no result, and a program that harms its worker is found, named and set aside."""

import os
import sys
import time
from collections import Counter
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from stepsmith.dsl import Program
from stepsmith.evaluator.completed import TRIES, WorkerLost, completed
from stepsmith.evaluator.curve import LOWEST, NoCurve, curves_digest
from stepsmith.evaluator.dispatcher import Dispatcher, Done
from stepsmith.evaluator.executors import ExecutorError, Inline, Report, make_executor
from stepsmith.evaluator.fitness import Job, Trial, evaluate
from stepsmith.evaluator.processes import Processes

sys.path.append(str(Path(__file__).parent))  # workers get it too, and find the work there by name

from search_tools import (
    GUILTY,
    PIDS,
    alive,
    descendants,
    dying,
    dying_once,
    hanging,
    raising,
    raising_always,
    telling_memory,
    wait_for,
)

TRIAL = Trial(("quadratic",), share=0.125, seeds=(0, 1))
TEXTS = (f"def sgd(w, g, lr={lr}):\n    return lr * g\n" for lr in (0.6, 0.9, GUILTY, 1.2, 0.3))
PROGRAMS = tuple(map(Program.parse, TEXTS))
JOB = Job(PROGRAMS, TRIAL)
BAD = 2  # the place of the guilty one


def done(dispatcher: Dispatcher, *jobs: Job) -> list[Done]:
    """The jobs brought to an end, in order of submission."""
    tickets = [dispatcher.submit(job) for job in jobs]
    ended: dict[int, Done] = {}
    while len(ended) < len(jobs):
        ended |= {d.ticket: d for d in dispatcher.finished()}
    return [ended[t] for t in tickets]


@pytest.fixture
def processes():
    """Makes process executors and closes them."""
    made = []

    def make(workers: int, **options) -> Dispatcher:
        made.append(Processes(workers, **options))
        return Dispatcher(made[-1])

    yield make
    for executor in made:
        executor.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_scores_of_this_process(processes, workers):
    jobs = [JOB, Job(PROGRAMS[:2], Trial(("digits",), share=0.125)), JOB]
    here = [d.scores for d in done(Dispatcher(Inline()), *jobs)]
    assert [d.scores for d in done(processes(workers), *jobs)] == here
    assert here[0] == evaluate(JOB)
    assert all(s.fitness > LOWEST for scores in here for s in scores[:2])


@pytest.mark.parametrize("after", [0.0, 0.3, 2.0])
def test_jobs_that_a_closed_pool_had_not_begun_end_too(after):
    executor = Processes(1, work=hanging)
    futures = [executor.submit(JOB) for _ in range(3)]
    time.sleep(after)
    executor.close()
    ended, _ = wait(futures, timeout=5)
    assert ended == set(futures)
    assert all(future.exception() is not None for future in futures)


def test_reports_name_the_worker_and_its_time(processes):
    [ended] = done(processes(1), JOB)
    [report] = ended.reports
    assert report.worker != os.getpid() and report.seconds > 0 and report.host


@pytest.mark.parametrize(
    ("work", "timeout", "words"),
    [
        (dying, 60, "its worker died"),
        (hanging, 1.0, "its worker hung"),
        (raising, 60, "ZeroDivisionError: one over none"),
    ],
    ids=["dies", "hangs", "raises"],
)
def test_the_guilty_program_is_set_aside_and_the_others_are_scored(
    processes, monkeypatch, tmp_path, work, timeout, words
):
    monkeypatch.setenv(PIDS, str(tmp_path / "pids"))
    dispatcher = processes(1, timeout=timeout, work=work)
    [ended] = done(dispatcher, JOB)
    fair = evaluate(JOB)
    assert ended.scores[BAD].reason == f"set aside: {words}"
    assert (ended.scores[BAD].program, ended.scores[BAD].fitness) == (PROGRAMS[BAD], LOWEST)
    assert [s for i, s in enumerate(ended.scores) if i != BAD] == [s for i, s in enumerate(fair) if i != BAD]
    taken = ["retried", "split", "split", "retried", "retried"]  # the batch of four, its half, the guilty one alone
    assert ended.faults[:-1] == [f"{what}: {words}" for what in taken]
    assert GUILTY in ended.faults[-1]
    met = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(met) >= 5  # tried again, split, alone, named
    if work is not raising:
        wait_for(lambda: not any(alive(pid) for pid in met), seconds=10)
    [after] = done(dispatcher, Job(PROGRAMS[:2], TRIAL))  # the executor is as good as before
    assert after.scores == evaluate(Job(PROGRAMS[:2], TRIAL)) and not after.faults


def test_an_exception_in_this_process_is_set_aside_too():
    [ended] = done(Dispatcher(Inline(raising)), JOB)
    assert [bool(s.reason) for s in ended.scores] == [i == BAD for i in range(len(PROGRAMS))]


def test_a_worker_that_died_by_accident_costs_nothing_but_a_retry(processes, monkeypatch, tmp_path):
    monkeypatch.setenv(PIDS, str(tmp_path / "pids"))
    [ended] = done(processes(1, work=dying_once), JOB)
    assert ended.scores == evaluate(JOB) and ended.faults == ["retried: its worker died"]


def test_a_worker_that_dies_idle_is_replaced(processes):
    """The pool calls that broken; it makes way for a new one."""
    dispatcher = processes(1)
    [first] = done(dispatcher, JOB)
    os.kill(first.reports[0].worker, 9)
    time.sleep(0.5)
    [second] = done(dispatcher, JOB)
    assert second.scores == first.scores and not second.faults


def test_our_own_complaints_are_no_programs_fault(processes):
    job = Job(PROGRAMS, Trial(("quadratic_steep",)))
    for dispatcher in (Dispatcher(Inline()), processes(1)):
        with pytest.raises(NoCurve, match="'quadratic_steep' has no AdamW curve"):
            done(dispatcher, job)


def test_jobs_that_end_out_of_order_keep_their_own_scores():
    class Backwards:
        """Runs a job when the next one comes."""

        def __init__(self):
            self.waiting = []

        def submit(self, job):
            future = Future()
            self.waiting.append((future, job))
            if len(self.waiting) == 2:
                for f, j in reversed(self.waiting):
                    f.set_result(Inline().submit(j).result())
            return future

    jobs = [JOB, Job(PROGRAMS[::-1], TRIAL)]
    assert [d.scores for d in done(Dispatcher(Backwards()), *jobs)] == [evaluate(j) for j in jobs]


def test_abandoned_jobs_never_come_back(processes):
    dispatcher = processes(1)
    dispatcher.submit(JOB)
    dispatcher.abandon()
    assert list(dispatcher.finished(timeout=0)) == []
    [ended] = done(dispatcher, JOB)
    assert ended.scores == evaluate(JOB)


def test_closing_leaves_no_worker(processes):
    dispatcher = processes(2, work=hanging)
    dispatcher.submit(JOB)
    wait_for(lambda: len(workers()) >= 2)
    dispatcher.executor.close()
    wait_for(lambda: not workers(), seconds=10)


def workers() -> set[int]:
    """Worker processes of this one."""
    found = set()
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command and alive(pid):
            found.add(pid)
    return found


def test_work_in_this_process_leaves_its_arithmetic_as_it_was():
    """Denormal floats are 0 while a job trains; children are bred in the same process and must not see that."""
    import numpy as np

    tiny = np.full(64, 1e-310)
    done(Dispatcher(Inline()), JOB)
    assert (tiny * 0.5 > 0).all()


def test_no_workers_means_this_process():
    assert isinstance(make_executor(0), Inline)
    two = make_executor(2)
    assert isinstance(two, Processes) and two.workers == 2
    two.close()


def test_when_all_of_a_batch_fail_the_search_ends_in_one_line(processes):
    """A machine without memory is not the programs' fault."""
    dispatcher = processes(1, work=raising_always)
    with pytest.raises(ExecutorError, match=r"all 5 programs of a batch failed, the last because it ran out of memory"):
        done(dispatcher, JOB)


def test_workers_without_memory_are_refused(monkeypatch):
    from stepsmith.evaluator import available

    monkeypatch.setattr(available, "available", lambda device: 1_000_000_000)
    with pytest.raises(ExecutorError, match=r"64 workers have 0\.02 GB of memory each, .* --workers 2$"):
        make_executor(64)


def test_a_job_made_elsewhere_for_another_task_is_refused():
    with pytest.raises(NoCurve, match=r"quadratic is another task on .*: bring its file there, and its curve$"):
        evaluate(Job(PROGRAMS, TRIAL, curves="beef"))
    assert evaluate(Job(PROGRAMS[:1], TRIAL, curves=curves_digest(TRIAL.tasks))) == evaluate(Job(PROGRAMS[:1], TRIAL))


@pytest.mark.parametrize("name", ["thread", "slurm"])
def test_an_unknown_executor_is_named(name):
    with pytest.raises(ExecutorError, match=f"unknown executor '{name}'"):
        make_executor(2, name)


def test_options_of_ray_are_for_ray():
    with pytest.raises(ExecutorError, match="an address is an option of the executor ray, not of processes"):
        make_executor(2, address="auto")
    with pytest.raises(ExecutorError, match="needs a worker; leave out --workers 0"):
        make_executor(0, "processes")
    with pytest.raises(ExecutorError, match="the executor inline is this process alone; leave out --workers 4"):
        make_executor(4, "inline")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is bounded on Linux alone")
def test_a_bounded_worker_knows_its_bound(processes):
    """So that a population that is too large is refused there, and not allocated."""
    [ended] = done(processes(1, work=telling_memory, memory=700_000_000), Job(PROGRAMS[:1], TRIAL))
    assert 100_000_000 < ended.scores[0].fitness < 600_000_000


# --- works that are brought to their ends -------------------------------------------------------------------


class ProcessExpired(Exception):
    """By the name of the pool's own."""


class Dying:
    """Every work's worker dies a number of times before it is done."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.tries, self.cancelled = deaths, Counter(), []

    def submit(self, job):
        future = Future()
        self.tries[job] += 1
        if job == "waits":
            return future
        if job == "broken":
            future.set_exception(ValueError("broken"))
        elif self.tries[job] <= self.deaths:
            future.set_exception(ProcessExpired())
        else:
            future.set_result(Report(job.upper(), 0, 0.0))
        return future

    def cancel(self, future):
        self.cancelled.append(future)


def test_a_work_whose_worker_dies_is_tried_again():
    executor = Dying(TRIES - 1)
    assert sorted(completed(executor, ["a", "b"])) == [(0, "A"), (1, "B")]
    assert executor.tries == {"a": TRIES, "b": TRIES}


def test_a_work_that_kills_every_worker_ends_in_a_line_and_gives_the_rest_up():
    executor = Dying(TRIES)
    with pytest.raises(WorkerLost, match="a worker died 3 times over one work"):
        list(completed(executor, ["a", "waits"]))
    assert len(executor.cancelled) == 1


def test_a_works_own_error_is_not_tried_again():
    executor = Dying(0)
    with pytest.raises(ValueError, match="broken"):
        list(completed(executor, ["broken"]))
    assert executor.tries["broken"] == 1
