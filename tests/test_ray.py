"""Ray: the same ledger as without it, on one node or two, whatever becomes of workers and nodes."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import ExecutorError, make_executor
from stepsmith.evaluator.fitness import Job, evaluate

sys.path.append(str(Path(__file__).parent))

from search_tools import (
    GUILTY,
    PIDS,
    TOML,
    alive,
    descendants,
    hanging,
    raising,
    rows,
    search,
    small,
    start_stepsmith,
    stepsmith,
    stopping,
    wait_for,
    write_inputs,
)
from test_executors import BAD, JOB, PROGRAMS, TRIAL, done

pytest.importorskip("ray", reason="ray is not installed")
# Room for a cluster on small machines; there is one at a time, as a file's tests run in one worker (Makefile).
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    config = small(folder)
    search(folder / "run", config)
    return rows(folder / "run"), config


@pytest.fixture(scope="module")
def pids(tmp_path_factory):
    """Where workers leave their numbers when they meet the guilty program."""
    return tmp_path_factory.mktemp("pids") / "pids"


@pytest.fixture(scope="module")
def cluster(pids):
    """A node of two CPUs whose workers find the work of the tests."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(Path(__file__).parent))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv(PIDS, str(pids))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield made
    made.shutdown()
    patch.undo()


@pytest.fixture
def ray_executor(cluster):
    """Makes executors on the cluster, and closes them."""
    from stepsmith.evaluator.ray_actors import RayActors

    made = []

    def make(workers, **options):
        made.append(RayActors(workers, cluster.address, **options))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_changes_no_row(tmp_path, undisturbed, ray_executor, workers):
    expected, config = undisturbed
    search(tmp_path / "run", config, ray_executor(workers))
    assert rows(tmp_path / "run") == expected


def test_closing_waits_for_no_callback_that_waits_for_it(ray_executor, monkeypatch):
    """Ray's kill may wait for its own thread, where the end of a call drops the worker."""
    executor = ray_executor(1)
    kill, waited = executor.ray.kill, []

    def kill_after_callback(handle):
        callback = threading.Thread(target=executor._drop, args=[None], daemon=True)
        callback.start()
        callback.join(10)
        waited.append(callback.is_alive())
        kill(handle)

    deadline = time.monotonic() + 60
    while not executor.queue.actors and time.monotonic() < deadline:
        time.sleep(0.05)
    monkeypatch.setattr(executor.ray, "kill", kill_after_callback)
    executor.close()
    assert waited == [False]


def test_a_node_that_is_killed_half_way_changes_no_row(tmp_path, undisturbed, cluster, ray_executor):
    """A node joins the cluster, gets workers, and is lost with them."""
    expected, config = undisturbed
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    executor = ray_executor(None)
    wait_for(lambda: sum(actor.ready for actor in executor.queue.actors) == 3, seconds=60)
    lost = []

    def kill(progress):
        if len(expected) // 2 < progress.fold.children and not lost:
            lost.append(node)
            cluster.remove_node(node, allow_graceful=False)

    search(tmp_path / "run", config, executor, progress=kill)
    assert lost and rows(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("work", "timeout", "words"),
    [
        (stopping, 1.0, "its worker hung"),
        (raising, 60, "ZeroDivisionError: one over none"),
    ],
    ids=["stops", "raises"],
)
def test_the_guilty_program_is_set_aside_and_the_others_are_scored(ray_executor, pids, work, timeout, words):
    pids.unlink(missing_ok=True)
    dispatcher = Dispatcher(ray_executor(1, timeout=timeout, work=work))
    [ended] = done(dispatcher, JOB)
    fair = evaluate(JOB)
    assert ended.scores[BAD].reason == f"set aside: {words}"
    assert [s for i, s in enumerate(ended.scores) if i != BAD] == [s for i, s in enumerate(fair) if i != BAD]
    assert [GUILTY in fault for fault in ended.faults] == [False] * 5 + [True]
    met = {int(pid) for pid in pids.read_text().split()}
    if work is not raising:
        wait_for(lambda: not any(alive(pid) for pid in met), seconds=10)
    [after] = done(dispatcher, Job(PROGRAMS[:2], TRIAL))  # the executor is as good as before
    assert after.scores == evaluate(Job(PROGRAMS[:2], TRIAL)) and not after.faults


def test_a_search_on_a_cluster_of_its_own_changes_no_row(tmp_path):
    write_inputs(tmp_path)
    args = ("--config", "search.toml", "--executor", "ray", "--workers", "1", "--elites", "0")
    ended = stepsmith("search", *args, "--steps", "2000", "--out", "ended", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "1 worker on Ray" in ended.stdout and ended.stderr == ""
    alone = stepsmith("search", *args[:2], "--workers", "0", "--elites", "0", "--steps", "2000", "--out", "alone",
                      cwd=tmp_path)  # fmt: skip
    assert alone.returncode == 0 and rows(tmp_path / "ended") == rows(tmp_path / "alone")


@pytest.mark.parametrize(
    "every",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["workers", "services of Ray, which take a minute"],
)
def test_a_cluster_of_its_own_ends_with_a_killed_driver(tmp_path, every):
    write_inputs(tmp_path, TOML.replace("share = 0.125", "share = 4.0\nseeds = 900"))
    args = ("--config", "search.toml", "--executor", "ray", "--workers", "1", "--elites", "0", "--out", "run")
    process = start_stepsmith("search", *args, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for(lambda: any(b"_Worker" in command(pid) for pid in descendants(process.pid)), process)
    family = descendants(process.pid)
    agents = set() if every else {pid for pid in family if b"Agent" in command(pid)}
    assert len(family) >= 3
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in family - agents), seconds=120 if every else 20)


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_cluster_that_goes_away_ends_the_search_in_one_line(tmp_path):
    from ray.cluster_utils import Cluster

    write_inputs(tmp_path, TOML.replace("share = 0.125", "share = 4.0\nseeds = 900"))
    other = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    address = other.address
    args = ("--config", "search.toml", "--executor", "ray", "--address", address, "--out", "run")
    process = start_stepsmith("search", *args, cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "run" / "ledger.sqlite").exists(), process)
        time.sleep(5)
        other.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        other.shutdown()
    assert process.returncode == 2, said
    line = f"stepsmith: the Ray cluster at {address} is gone; closed rounds are saved, go on with: stepsmith search"
    assert f"{line} --resume run" in said.splitlines()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster at '127.0.0.1:1'; start one with: ray start --head, or leave out --address"),
        ("nowhere", "Ray does not start at 'nowhere': "),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(address, words):
    with pytest.raises(ExecutorError) as caught:
        make_executor(kind="ray", address=address)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_gpus_that_are_not_there_are_one_line(cluster):
    with pytest.raises(ExecutorError, match=r"^the Ray cluster has no GPU; leave out --gpus"):
        make_executor(1, "ray", address=cluster.address, gpus=0.5, device="cuda")
    for options in ({"gpus": 0.5}, {"device": "cuda"}):
        with pytest.raises(ExecutorError, match=r"asked for by --gpus and --device cuda together"):
            make_executor(1, "ray", address=cluster.address, **options)


def test_what_was_abandoned_holds_up_no_job_that_follows(ray_executor, pids):
    """A stage of many seeds is dropped in the middle, as when the minutes end, and re-scoring asks for others."""
    dispatcher = Dispatcher(ray_executor(1, work=hanging))
    for _ in range(12):
        dispatcher.submit(JOB)
    wait_for(lambda: any(actor.future for actor in dispatcher.executor.queue.actors), seconds=60)
    dispatcher.abandon()
    kept = Job(PROGRAMS[:2], TRIAL)
    assert [ended.scores for ended in done(dispatcher, kept, kept)] == [evaluate(kept)] * 2


def test_a_worker_that_would_compute_otherwise_gets_no_work(ray_executor, caplog, monkeypatch):
    from stepsmith.evaluator import ray_actors

    here = ray_actors.machine() | {"torch": "1.13"}
    monkeypatch.setattr(ray_actors, "machine", lambda: here)
    executor = ray_executor(1)
    wait_for(lambda: any(actor.refused for actor in executor.queue.actors))
    monkeypatch.setattr(ray_actors, "_PATIENCE", 1.0)
    error = executor.submit(JOB).exception(timeout=60)
    assert isinstance(error, ExecutorError) and "they would compute otherwise" in str(error)
    assert re.search(r"would compute otherwise: torch: \S+ there, 1\.13 here", caplog.text)


def test_without_ray_there_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('no ray here')")
    write_inputs(tmp_path)
    ended = stepsmith("search", "--config", "search.toml", "--executor", "ray", "--out", "run", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "stepsmith: the executor ray needs Ray: pip install 'stepsmith[ray]'\n"
    assert not (tmp_path / "run").exists()
