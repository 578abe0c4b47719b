"""Runs on Ray: the rows of one machine, also where workers, nodes and drivers are killed."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from normball.lab.config import RunConfig
from normball.lab.errors import LabError, WorkerError
from normball.lab.rows import ROWS, open_folder, read_rows
from normball.lab.sweep import SweepEvent, make_plan, run_plan
from normball.lab.workers import Advanced, Engine, Finished, Local, Started
from tests.command import PATIENCE, call, start, wait_for
from tests.lab.errands import Errand, do
from tests.lab.samples import config
from tests.lab.test_arena_runs import numbers, rows_of, sitting
from tests.lab.test_until import NEAR, experiment

pytestmark = [
    pytest.mark.slow,
    # Ray leaves processes that it has killed for the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TOKEN = secrets.token_hex(32)  # Ray reads it once in a process

CONFIGS = tuple(config(lr=lr, seed=seed, epochs=25) for seed in (0, 1) for lr in (2**-6, 2**-5))
SWEEP = "--optimizers scion --lr 2^-6,2^-5 --seeds 0,1 --epochs 25".split()  # noqa: SIM905


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray with addresses and a password of its own, so that nothing leaves this machine."""
    # Named for the systems where it is the default: all addresses are 127.0.0.1.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    module = pytest.importorskip("ray", reason='needs pip install "normball[ray]"')
    from ray._private import ray_constants

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    yield module
    module.shutdown()


@pytest.fixture
def here(ray: Any) -> Engine:
    """Ray on this machine, for two runs at a time."""
    from normball.lab.on_ray import connect

    return connect(2)


@pytest.fixture
def cluster(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes with one core each, and a head that takes no runs."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    assert made.address.startswith("127.0.0.1:")
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def alike(folder: Path) -> dict[str, Any]:
    """All of the rows that does not depend on how fast the machine is."""
    found = {}
    for row in read_rows(folder / ROWS):
        values = asdict(row)
        del values["result"]["seconds"]
        assert row.config.key() not in found
        found[row.config.key()] = values
    return found


def sweep(
    folder: Path, engine: Engine, on_event: Callable[[SweepEvent], None] = lambda _: None
) -> dict[str, Any]:
    with open_folder(folder) as held:
        run_plan(make_plan(CONFIGS, held), held, engine=engine, on_event=on_event)
    return alike(folder)


def errands(engine: Engine, *todo: Errand) -> list[Any]:
    waiting = iter(todo)
    return list(engine.carry_out(do, lambda: next(waiting, None)))


# -- a worker --------------------------------------------------------------------------------------


def test_a_killed_worker_loses_its_run_only_and_no_report_comes_twice(
    here: Engine, tmp_path: Path
) -> None:
    lost, other = Errand(tmp_path / "lost", deaths=2), Errand(tmp_path / "other")
    events = errands(here, lost, other)
    assert lost.begun() == 3
    assert other.begun() == 1
    for errand in (lost, other):
        kinds = [type(event) for event in events if event.run == errand]
        assert kinds == [Started, Advanced, Advanced, Finished]
        assert [e.report for e in events if isinstance(e, Advanced) and e.run == errand] == [1, 2]
    assert {e.run: e.row for e in events if isinstance(e, Finished)} == {
        lost: "lost",
        other: "other",
    }
    assert {event.worker for event in events} == {0, 1}


def test_a_run_that_is_lost_again_and_again_is_named(here: Engine, tmp_path: Path) -> None:
    from normball.lab.on_ray import RETRIES

    doomed = Errand(tmp_path / "doomed", deaths=99)
    with pytest.raises(WorkerError, match=r"errand doomed failed on Ray.* up to 3 times\. Fin"):
        errands(here, doomed)
    assert doomed.begun() == 1 + RETRIES


def test_faults_and_refusals_are_those_of_one_machine(here: Engine, tmp_path: Path) -> None:
    for engine in (here, Local(1)):
        with pytest.raises(LabError, match=r"^no such thing is to be had\.$"):
            errands(engine, Errand(tmp_path / "a", fault="refused"))
        with pytest.raises(WorkerError, match=r"(?s)^the run errand b failed\..*Traceback.*do\n"):
            errands(engine, Errand(tmp_path / "b", fault="broken"))


@pytest.mark.parametrize(("gpus", "jobs"), [(0, 1), (1, None)])
def test_no_run_begins_beside_as_many_as_were_asked_for_or_have_a_gpu(
    ray: Any, gpus: int, jobs: int | None, tmp_path: Path
) -> None:
    from normball.lab.on_ray import connect

    ray.init("local", num_cpus=2, num_gpus=gpus, include_dashboard=False)
    events = errands(connect(jobs), *(Errand(tmp_path / str(n)) for n in range(3)))
    assert [type(event) for event in events] == 3 * [Started, Advanced, Advanced, Finished]


# -- nodes and drivers -----------------------------------------------------------------------------


def test_a_killed_node_changes_no_row(cluster: Any, tmp_path: Path) -> None:
    from normball.lab.on_ray import connect

    advanced: set[RunConfig] = set()
    finished: list[SweepEvent] = []
    killed: list[Any] = []

    def on_event(event: SweepEvent) -> None:
        if isinstance(event, Advanced):
            advanced.add(event.run)
        if isinstance(event, Finished):
            finished.append(event)
        if len(advanced) == 2 and not killed:  # one on each node
            assert not finished
            killed.append(cluster.list_all_nodes()[-1])
            cluster.remove_node(killed[0], allow_graceful=False)

    found = sweep(tmp_path / "ray", connect(None), on_event)
    assert killed
    assert found == sweep(tmp_path / "local", Local(2))
    assert len(found) == len(CONFIGS)


def test_a_killed_driver_goes_on_to_the_same_rows(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "ray"
    words = ("sweep", "digits", "--out", str(out), *SWEEP, "--engine", "ray")
    driver = start(*words)
    wait_for(lambda: (out / ROWS).exists() or driver.poll() is not None)
    driver.kill()
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    kept = (out / ROWS).read_bytes()
    assert 0 < len(alike(out)) < len(CONFIGS)
    wait_for(lambda: not runs_under_way(cluster))

    again = start(*words)
    printed, _ = again.communicate()
    assert again.returncode == 0
    assert f"of {len(CONFIGS)} runs are finished already and kept" in printed
    assert f"{len(CONFIGS)}/{len(CONFIGS)} runs  scion, step 2^-" in printed
    assert (out / ROWS).read_bytes().startswith(kept)
    assert alike(out) == sweep(tmp_path / "local", Local(2))


def test_ctrl_c_says_what_is_kept_and_ends_the_runs(cluster: Any, tmp_path: Path) -> None:
    driver = start("sweep", "digits", "--out", str(tmp_path), *SWEEP, "--engine", "ray")
    wait_for(lambda: (tmp_path / ROWS).exists() or driver.poll() is not None)
    os.killpg(driver.pid, signal.SIGINT)
    printed, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130
    assert "Traceback" not in errors
    assert f"Interrupted: {len(alike(tmp_path))} of {len(CONFIGS)} runs are kept" in printed
    wait_for(lambda: not runs_under_way(cluster))


def runs_under_way(cluster: Any) -> list[int]:
    """Workers of the cluster's nodes that have a run."""
    nodes = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in nodes and (place / "cmdline").read_bytes().startswith(b"ray::_work"):
                found.append(int(place.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


# -- the commands ----------------------------------------------------------------------------------


def test_the_arena_on_ray_has_the_rows_of_one_machine(
    sets: Path, cluster: Any, tmp_path: Path
) -> None:
    from normball.lab.on_ray import connect

    for name, engine in (("ray", connect(None)), ("local", Local(2))):
        (tmp_path / name).mkdir()
        assert sitting(tmp_path / name, engine)
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "local")
    assert len(rows_of(tmp_path / "ray")) == 2 * (4 + 2)


def test_a_figure_until_decided_on_ray(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = experiment(NEAR | {"at_least": -200.0, "at_most": 200.0})
    monkeypatch.setattr("normball.cli.commands.reproduce.load_experiment", lambda *_: wide)
    words = ("reproduce", "fig5", "--until-decided", "--budget", "1h", "--out")
    assert call(*words, str(tmp_path / "ray"), "--engine", "ray") == 0
    assert call(*words, str(tmp_path / "local"), "--jobs", "2") == 0
    assert alike(tmp_path / "ray") == alike(tmp_path / "local")
    verdicts = [(tmp_path / name / "fig5.json").read_bytes() for name in ("ray", "local")]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_where_no_cluster_answers_nothing_is_begun(
    ray: Any,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    out = tmp_path / "out"
    assert call("sweep", "digits", "--out", str(out), "--engine", "ray") == 2
    assert f"no Ray cluster answers at RAY_ADDRESS={address}" in capsys.readouterr().err
    assert not out.exists()
