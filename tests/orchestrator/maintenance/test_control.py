"""Following, stopping and retrying a sweep from another process."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.maintenance.fsck import check_results
from orchestrator.maintenance.gc import GcRefused, find_garbage
from orchestrator.maintenance.retry import RetryRefused
from orchestrator.records.cell_names import NoSuchCell, find_cell
from orchestrator.records.revisions import load_sweep
from orchestrator.store.attempts import LOCK, logged, scratch_folder
from orchestrator.store.drivers import driving, running_drivers
from orchestrator.store.store import Store
from tests.faults.disturbances import wait_for
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, rewrite_result


@pytest.fixture
def copy(reference: ToySweep, tmp_path: Path) -> ToySweep:
    """The undisturbed toy sweep, in a folder of its own."""
    shutil.copytree(reference.results, tmp_path / "results")
    return ToySweep(results=tmp_path / "results", text=reference.text, cache=reference.cache)


def mor_sweep(toy: ToySweep, *arguments: str) -> subprocess.Popen[str]:
    """Start a verb on the toy sweep's results."""
    command = [*MOR_SWEEP, *arguments, "--results", str(toy.results)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=toy.environment)


def segments(toy: ToySweep, kind: str) -> list[Path]:
    """Published segments of a kind."""
    paths = sorted(toy.results.glob("segments/*/spec.json"))
    return [path.parent for path in paths if json.loads(path.read_text())["kind"] == kind]


def make_diverged(toy: ToySweep) -> tuple[str, str]:
    """Publish a cooldown of the toy sweep as diverged; its id and that of the evaluation that waits for it."""
    evaluation = segments(toy, "evaluate")[0]
    (decay,) = json.loads((evaluation / "spec.json").read_text())["needs"]
    path = toy.results / "segments" / decay / "result.json"
    rewrite_result(path, lambda result: result.update(status="diverged", reason="the loss is nan at step 40"))
    shutil.rmtree(evaluation)
    return decay, evaluation.name


@pytest.mark.slow
def test_a_running_sweep_is_followed_and_cancelled_by_other_processes(toy: ToySweep):
    store = Store(root=toy.results)
    driver = toy.start(executor="in-process")
    wait_for(lambda: running_drivers(store, "toy"))
    watch, logs = mor_sweep(toy, "status", "--watch"), mor_sweep(toy, "logs", "-f", "vanilla/13k/2.4e9")
    wait_for(lambda: len(toy.published()) >= 4)
    cancelled = CliRunner().invoke(app, ["cancel", "--results", str(toy.results)])
    assert driver.poll() is not None or driver.wait(1) is not None  # Cancel has waited for it.
    assert driver.wait() == 143
    assert cancelled.exit_code == 0, cancelled.output
    assert f"asked process {driver.pid} to stop toy" in cancelled.output
    assert re.search(r"toy: (\d+ finished, )?\d+ pending", cancelled.output)
    watched, followed = (process.communicate(timeout=30)[0] for process in (watch, logs))
    assert watch.returncode == logs.returncode == 0
    assert "nothing runs the sweep toy" in watched
    assert re.search(r"== stable to step \d+, attempt 001-", followed)
    assert "mor-sweep" not in str(list((toy.results / "sweeps/toy/drivers").iterdir()))
    again = CliRunner().invoke(app, ["cancel", "--results", str(toy.results)])
    assert again.exit_code == 0
    assert "nothing runs the sweep toy" in again.output


def test_a_process_that_has_the_number_of_a_dead_driver_is_not_signalled(copy: ToySweep):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        stale = copy.results / "sweeps/toy/drivers" / f"{socket.gethostname()}-{bystander.pid}"
        stale.parent.mkdir(exist_ok=True)
        stale.touch()
        cancelled = CliRunner().invoke(app, ["cancel", "--results", str(copy.results)])
        assert "nothing runs the sweep toy" in cancelled.output
        assert bystander.poll() is None
        bystander.kill()
    with driving(Store(root=copy.results), "toy"):
        assert not stale.exists()


def test_several_drivers_are_seen_each_and_a_killed_one_is_not(copy: ToySweep):
    store = Store(root=copy.results)
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.store.drivers import driving; "
        "from orchestrator.store.store import Store\n"
        "with driving(Store(root=Path(sys.argv[1])), 'toy'): time.sleep(60)"
    )
    drivers = [subprocess.Popen([sys.executable, "-c", code, str(store.root)]) for _ in range(2)]
    wait_for(lambda: {driver.pid for driver in running_drivers(store)} == {process.pid for process in drivers})
    drivers[0].send_signal(signal.SIGKILL)
    drivers[0].wait()
    assert [driver.pid for driver in running_drivers(store)] == [drivers[1].pid]
    drivers[1].kill()
    drivers[1].wait()
    assert running_drivers(store) == []


def test_watching_where_no_terminal_is_prints_a_line_for_each_change(copy: ToySweep):
    """A cell that is published while the watcher looks."""
    store = Store(root=copy.results)
    evaluation = segments(copy, "evaluate")[0]
    with FileLock(store.attempts_folder(evaluation.name) / LOCK), driving(store, "toy"):
        evaluation.rename(copy.results / "later")
        watch = mor_sweep(copy, "status", "--watch")
        assert watch.stdout is not None
        first = watch.stdout.readline()
        (copy.results / "later").rename(evaluation)
        second = watch.stdout.readline()
    rest, _ = watch.communicate(timeout=30)
    assert first == "toy: 11 finished, 1 pending\n"
    assert re.fullmatch(r"\[12/12\] \S+ (13k|23k) at \S+ seed 0: finished, loss \d\.\d{4}\n", second)
    assert "toy: 12 finished" in rest


def test_a_cell_is_found_by_what_tables_show_and_by_its_id(copy: ToySweep):
    sweep = load_sweep(Store(root=copy.results))
    cell = find_cell(sweep, "mor-2/13k/1.2e9")
    assert (cell.arm, cell.size, cell.budget) == ("mor-2", "13k", 1_200_000_000)
    assert find_cell(sweep, "mor-2/13k/1200000000/0") == cell
    assert find_cell(sweep, str(cell.cell_id)[:12]) == cell
    for name in ("mor-2/13k", "mor-2/13k/1.2e9/1", "mor-2/13k/much", "ab", "zzzz"):
        with pytest.raises(NoSuchCell, match=r"is no cell of sweep toy.*there are vanilla/13k/6e8/0"):
            find_cell(sweep, name)


def test_logs_say_the_cause_first_then_what_the_attempt_printed(copy: ToySweep):
    store = Store(root=copy.results)
    evaluation = segments(copy, "evaluate")[0]
    shutil.rmtree(evaluation)
    attempt = store.attempts(evaluation.name).named("002-elsewhere-1")
    attempt.folder.mkdir()
    with logged(attempt, "evaluate segment"):
        print("a line of the worker")
    attempt.record_failure({"reason": "data: shard 3 is missing", "traceback": "Trace"})
    attempt.record_interrupted(12, "SIGTERM")
    sweep = load_sweep(store)
    name = next(str(cell.cell_id) for cell in sweep.cells if cell.evaluate_segment == evaluation.name)
    result = CliRunner().invoke(app, ["logs", name[:10], "--results", str(copy.results)])
    lines = result.stdout.splitlines()
    assert "failed: evaluate to step" in lines[0]
    assert lines[0].endswith("data: shard 3 is missing")
    said = lines[lines.index(next(line for line in lines if "002-elsewhere-1" in line)) + 1 :]
    assert said[:3] == ["failed: data: shard 3 is missing", "interrupted: cause SIGTERM", "interrupted: step 12"]
    assert "a line of the worker" in said
    assert said[-1] == "Trace"
    assert any(line.startswith("last metrics: step ") for line in lines)


def test_every_attempt_of_a_sweep_keeps_a_log(copy: ToySweep):
    attempts = [path for path in copy.results.glob("attempts/*/*") if path.is_dir()]
    assert len(attempts) == 36
    for attempt in attempts:
        assert attempt.parent.name in (attempt / "log.txt").read_text().splitlines()[0]


def test_a_log_keeps_prints_warnings_and_records_and_shows_them_still(tmp_path: Path):
    code = (
        "import logging, sys, warnings; from pathlib import Path\n"
        "from orchestrator.store.attempts import Attempt, logged\n"
        "with logged(Attempt(folder=Path(sys.argv[1])), 'title'):\n"
        "    print('printed'); warnings.warn('warned'); logging.getLogger('some.library').warning('recorded')\n"
        "print('after')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    log = (tmp_path / "log.txt").read_text()
    for text in ("title", "printed", "UserWarning: warned", "WARNING some.library: recorded"):
        assert text in log
    assert "after" not in log
    assert done.stdout == "printed\nafter\n"
    assert "UserWarning: warned" in done.stderr


@pytest.mark.slow
def test_retry_moves_a_divergence_aside_and_the_same_command_then_trains_it(copy: ToySweep, reference: ToySweep):
    decay, _ = make_diverged(copy)
    command = ["retry", "--results", str(copy.results)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, RetryRefused)
    assert (copy.results / "segments" / decay).exists()
    with driving(Store(root=copy.results), "toy"):
        assert isinstance(CliRunner().invoke(app, [*command, "--yes"]).exception, RetryRefused)
    done = CliRunner().invoke(app, [*command, "--yes"])
    assert done.exit_code == 0, done.output
    assert "the loss is nan" in (copy.results / "retried" / f"{decay}-1" / "result.json").read_text()
    assert not (copy.results / "segments" / decay).exists()
    run = copy.run()
    assert run.returncode == 0, run.stderr
    assert copy.science().equals(reference.science())
    assert copy.weights() == reference.weights()
    assert "nothing to retry" in CliRunner().invoke(app, command).output


def test_retry_of_one_cell_leaves_the_others_and_clears_its_failure(copy: ToySweep):
    store = Store(root=copy.results)
    sweep = load_sweep(store)
    first, second = sweep.cells[:2]
    for cell in (first, second):
        shutil.rmtree(store.segment_folder(str(cell.evaluate_segment)))
        (attempt,) = [path for path in store.attempts_folder(str(cell.evaluate_segment)).iterdir() if path.is_dir()]
        (attempt / "failure.json").write_text(json.dumps({"reason": "oom: 3 GB", "traceback": ""}))
    done = CliRunner().invoke(app, ["retry", str(first.cell_id)[:12], "--sweep", "toy", "--results", str(copy.results)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["status", "--json", "--results", str(copy.results)])
    rows = {row["cell_id"]: row["status"] for row in json.loads(shown.output)["data"]["runs"]}
    assert (rows[str(first.cell_id)], rows[str(second.cell_id)]) == ("pending", "failed")


def test_gc_keeps_what_growth_needs_and_fsck_accepts_what_went(copy: ToySweep):
    assert len(list(copy.results.glob("segments/*/checkpoint"))) == 24
    before = sum(path.stat().st_size for path in copy.results.rglob("segments/*/checkpoint/*"))
    results = {path: path.read_bytes() for path in copy.results.glob("segments/*/result.json")}
    command = ["gc", "--results", str(copy.results)]
    assert "8 checkpoints and 0 leftovers" in CliRunner().invoke(app, [*command, "--dry-run"]).output
    assert isinstance(CliRunner().invoke(app, command).exception, GcRefused)
    with driving(Store(root=copy.results), "toy"):
        assert isinstance(CliRunner().invoke(app, [*command, "--yes"]).exception, GcRefused)
    assert sum(path.stat().st_size for path in copy.results.rglob("segments/*/checkpoint/*")) == before
    done = CliRunner().invoke(app, [*command, "--yes"])
    assert done.exit_code == 0, done.output
    assert len(list(copy.results.glob("segments/*/pruned.json"))) == 8
    assert sum(path.stat().st_size for path in copy.results.rglob("segments/*/checkpoint/*")) < before
    assert check_results(Store(root=copy.results), ask_mlflow=False).findings == ()

    run = copy.run("--budgets", "6e8,1.2e9,2.4e9,3e9", "--sizes", "13k", "--arms", "vanilla")
    assert run.returncode == 0, run.stderr
    assert {path: path.read_bytes() for path in results} == results
    (longer,) = [path for path in segments(copy, "stable") if path / "result.json" not in results]
    result = json.loads((longer / "result.json").read_text())
    assert 0 < result["steps_executed"] < result["step"] / 2  # It went on from the newest state of its trunk.
    assert check_results(Store(root=copy.results), ask_mlflow=False).problems == ()


def test_gc_keeps_every_state_that_unfinished_work_starts_from(copy: ToySweep):
    store = Store(root=copy.results)
    prunable = {each.segment_id for each in find_garbage(store).checkpoints}
    decay, evaluation = make_diverged(copy)
    (parent,) = json.loads((store.segment_folder(decay) / "spec.json").read_text())["needs"]
    after = {each.segment_id for each in find_garbage(store).checkpoints}
    assert after == prunable - {parent}
    assert not {decay, evaluation} & {each.segment_id for each in find_garbage(store, weights=True).checkpoints}


def test_gc_touches_nothing_that_no_sweep_of_the_folder_has_planned(copy: ToySweep):
    shutil.rmtree(copy.results / "sweeps" / "toy")
    assert find_garbage(Store(root=copy.results), weights=True).checkpoints == ()


def test_gc_removes_what_dead_attempts_left_and_nothing_of_one_at_work(copy: ToySweep):
    store = Store(root=copy.results)
    stable, decay, *_ = [path.name for kind in ("stable", "decay") for path in segments(copy, kind)[:1]]
    left = {}
    for name in (stable, decay):
        (attempt,) = [path for path in store.attempts_folder(name).iterdir() if path.is_dir()]
        left[name] = attempt / "checkpoint-20"
        left[name].mkdir()
        (left[name] / "weights.safetensors").write_bytes(b"x" * 1000)
    scratch = scratch_folder(store.root, "a run that was killed")
    scratch.mkdir(parents=True)
    with FileLock(store.attempts_folder(stable) / LOCK):
        done = CliRunner().invoke(app, ["gc", "--yes", "--results", str(copy.results)])
    assert "2 leftovers" in done.output
    assert not scratch.exists()
    assert left[stable].exists()
    assert not left[decay].exists()


def test_the_light_verbs_load_no_torch_ray_or_mlflow(copy: ToySweep):
    code = (
        "import sys; from typer.testing import CliRunner; from orchestrator.cli.main import app\n"
        "for verb in (['status'], ['status', '--watch'], ['logs', 'vanilla/13k/6e8'], ['cancel'], ['retry'], "
        "['gc', '--dry-run']):\n"
        "    result = CliRunner().invoke(app, [*verb, '--results', sys.argv[1]])\n"
        "    assert result.exit_code == 0, (verb, result)\n"
        "assert not {'torch', 'ray', 'mlflow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(copy.results)], check=True, env=os.environ)
