"""A tracking server that fails costs time of nobody who trains, and no cell; afterwards a sync makes all equal."""

import subprocess
import sys
import time

import psutil
import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.tracking.check import differences
from orchestrator.tracking.cursor import is_current
from orchestrator.tracking.mirror import MirrorError, sync
from orchestrator.tracking.process import following
from orchestrator.tracking.server import serving
from tests.faults.misbehaving import Misbehaving, misbehaving
from tests.helpers.mirror_samples import NAME, Sample, change, publish


@pytest.fixture
def impatient(monkeypatch):
    """What a test need not wait for."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def fails_to_send(made: Sample, server: Misbehaving) -> None:
    """One pass that the server does not take."""
    started = time.monotonic()
    with pytest.raises(MirrorError, match="did not take the sweep"):
        sync(made.store, made.sweep, server.address)
    assert time.monotonic() - started < 20
    assert not is_current(made.store, made.sweep, server.address)


@pytest.mark.slow
def test_outages_at_the_start_in_the_middle_and_at_the_end_are_made_good_by_a_sync(small: Sample, impatient):
    with serving(small.store, NAME, None) as upstream, misbehaving(upstream.address, "500") as server:
        for mode in ("500", "cut", "hang"):  # at the start
            server.mode = mode
            fails_to_send(small, server)
        server.mode = "pass"
        sync(small.store, small.sweep, server.address)
        assert differences(small.store, small.sweep, server.address) == []
        for mode, good in (("500", 3), ("cut", 4), ("hang", 6)):  # in the middle of a pass
            publish(small.store, next(each for each in small.plan.segments if not small.store.is_done(each.id)))
            server.mode, server.good_requests = mode, good
            fails_to_send(small, server)
        small.publish_all()
        server.mode, server.good_requests = "500", 10  # at the end
        fails_to_send(small, server)
        server.mode = "pass"
        assert differences(small.store, small.sweep, server.address) != []
        assert sync(small.store, small.sweep, server.address).problems == ()
        assert differences(small.store, small.sweep, server.address) == []
        assert is_current(small.store, small.sweep, server.address)


@pytest.mark.parametrize(
    "mode", ["500", pytest.param("cut", marks=pytest.mark.slow), pytest.param("hang", marks=pytest.mark.slow)]
)
def test_a_server_that_fails_at_the_end_is_not_waited_for_long(small: Sample, monkeypatch, mode: str):
    """The mirror of a sweep whose server fails: the sweep ends soon after its last cell."""
    with misbehaving(None, mode) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        with following(small.store, NAME) as mirror:
            small.publish_all()
            deadline = time.monotonic() + 60
            while not server.requests:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            ended = time.monotonic()
        assert time.monotonic() - ended < 30
        assert mirror.warning.startswith(f"MLflow mirror incomplete: {server.address} did not take everything")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["500", "cut", "hang"])
def test_a_mirror_whose_server_fails_takes_under_two_percent_of_a_core(small: Sample, monkeypatch, mode: str):
    small.publish_all()
    with misbehaving(None, mode) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        command = [sys.executable, "-m", "orchestrator.tracking.follower", "--results", str(small.store.root)]
        mirror = subprocess.Popen([*command, "--sweep", NAME], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            process = psutil.Process(mirror.pid)
            deadline = time.monotonic() + 90
            while server.requests < 2:  # The first pass loads mlflow.
                assert time.monotonic() < deadline
                time.sleep(0.1)
            before, started = process.cpu_times(), time.monotonic()
            time.sleep(30)
            after = process.cpu_times()
            spent = after.user + after.system - before.user - before.system
            assert spent / (time.monotonic() - started) < 0.02
        finally:
            mirror.kill()
            mirror.wait()


@pytest.mark.slow
def test_the_check_tells_every_kind_of_difference_and_changes_nothing(small: Sample, monkeypatch):
    check = ["mlflow", "sync", "--check", NAME, "--results", str(small.store.root)]
    small.publish_all()
    unsent = CliRunner().invoke(app, check)
    assert unsent.exit_code == 1
    assert "MLflow has no experiment 'sample'" in unsent.output
    sync(small.store, small.sweep, small.uri)
    equal = CliRunner().invoke(app, check)
    assert equal.exit_code == 0, equal.output
    assert "equals the results of 4 cells" in equal.output
    for sql, said in (
        ("UPDATE metrics SET value = 99 WHERE key = 'train/loss' AND step = 10", "curve train/loss has"),
        ("UPDATE params SET value = '7' WHERE key = 'unique_params'", "parameter unique_params is 7"),
        ("UPDATE latest_metrics SET value = 99 WHERE key = 'loss'", "metric loss is 99.0"),
        ("UPDATE tags SET value = 'pending' WHERE key = 'mor.status'", "tag mor.status is pending, expected finished"),
        ("UPDATE runs SET status = 'RUNNING'", "status RUNNING, expected FINISHED"),
        ("UPDATE runs SET lifecycle_stage = 'deleted'", "MLflow has 0 runs of it, expected 1"),
    ):
        change(small.database, sql)
        before = small.database.read_bytes()
        found = differences(small.store, small.sweep, small.uri)
        assert any(said in line for line in found), (said, found)
        assert CliRunner().invoke(app, check).exit_code == 1
        assert small.database.read_bytes() == before
        sync(small.store, small.sweep, small.uri, thorough=True)
        assert differences(small.store, small.sweep, small.uri) == []


def test_a_check_of_no_database_says_so_and_makes_none(small: Sample):
    small.database.unlink()
    assert differences(small.store, small.sweep, small.uri) == [f"{small.uri} does not exist"]
    assert not small.database.exists()
