"""Failures, retries and bundles where results are on object storage, and a server that nobody listens at."""

import json
import socket
from pathlib import Path

import pytest

from orchestrator.store.upstream import objects, segments, upstream
from tests.faults.faulty_server import FaultyServer
from tests.helpers.remote_machine import Machine, objects_of
from tests.helpers.toy_sweep import ToySweep, run_here

ONE = ("--only", "vanilla", "--sizes", "13k", "--budgets", "6e8")


def _states(machine: Machine) -> list[tuple[str, str]]:
    """(status, reason) of every cell, as one machine sees it."""
    rows = json.loads(machine.run("status", "--json").stdout)["data"]["runs"]
    return [(row["status"], row["reason"] or "") for row in rows]


def _failures(machine: Machine) -> list[str]:
    return [name for name in objects_of(machine.url, "attempts") if name.endswith("/failure.json")]


@pytest.fixture
def failed(machine: Machine) -> Machine:
    """A machine that has failed at the one cell of its sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_REHEARSE", "raise step=37")
        done = machine.run(*machine.sweep(*ONE))
    assert done.returncode == 3, done.stderr
    assert len(_failures(machine)) == 1
    return machine


@pytest.mark.slow
def test_a_failure_is_seen_on_another_machine_which_clears_it_for_all(failed: Machine, other: Machine) -> None:
    ((status, reason),) = _states(other)
    assert status == "failed"
    assert "error: " in reason
    assert _states(failed) == [(status, reason)]
    assert "Traceback" in other.run("logs", "vanilla/13k/6e8").stdout
    retried = other.run("retry", "--json")
    assert retried.returncode == 0, retried.stderr
    assert json.loads(retried.stdout)["data"]["cells"] == ["vanilla/13k/6e8/0"]
    assert _failures(failed) == []
    assert _states(other) == _states(failed) == [("pending", "")]
    assert "nothing to retry" in failed.run("retry").stderr
    done = other.run(*other.sweep(*ONE))
    assert done.returncode == 0, done.stderr
    assert _states(failed) == [("finished", "")]
    assert not objects_of(failed.url, "attempts")


@pytest.mark.slow
def test_what_is_tried_again_elsewhere_has_not_failed_any_more(failed: Machine, other: Machine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_REHEARSE", "raise step=38")
        assert other.run(*other.sweep(*ONE)).returncode == 3
    (name,) = _failures(failed)
    ((_, theirs),) = _states(other)
    assert _states(failed) == [("failed", theirs)]
    assert "002-" in name


@pytest.mark.slow
def test_a_published_divergence_is_taken_back_by_retry_on_another_machine_and_kept_aside(
    machine: Machine, other: Machine
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_REHEARSE", "nan step=37")
        assert machine.run(*machine.sweep(*ONE)).returncode == 3
    ((status, reason),) = _states(other)
    assert (status, "not finite" in reason or "nan" in reason) == ("diverged", True), reason
    published = {name: data for name, data in objects_of(machine.url, "segments").items() if "result.json" in name}
    assert other.run("retry").returncode == 4  # No terminal to ask.
    assert {name for name in objects_of(machine.url, "segments") if "result.json" in name} == set(published)
    assert other.run("retry", "--yes").returncode == 0
    kept = objects_of(machine.url, "retried").values()
    assert [data for data in published.values() if b'"diverged"' in data] == list(kept)
    assert _states(machine) == _states(other) == [("pending", "")]
    assert machine.run(*machine.sweep(*ONE)).returncode == 0
    assert _states(other) == [("finished", "")]


@pytest.mark.slow
def test_a_failure_that_could_not_be_uploaded_is_by_the_next_command(
    machine: Machine, other: Machine, faulty: FaultyServer
) -> None:
    def refuse_failures(method: str, path: str) -> None:
        faulty.failing = method == "PUT" and path.endswith("/failure.json")

    faulty.before = refuse_failures
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_REHEARSE", "raise step=37")
        patch.setattr(upstream, "KEEP_PATIENCE_SECONDS", 0.1)
        patch.setattr(objects, "PATIENCE_SECONDS", 0.1)
        done = machine.run(*machine.sweep(*ONE))
    assert done.returncode in (3, 6), done.stderr
    assert "Traceback" not in done.stderr
    faulty.before = lambda _method, _path: None
    faulty.failing = False
    assert _states(other) == [("pending", "")]
    assert [status for status, _ in _states(machine)] == ["failed"]
    assert [status for status, _ in _states(other)] == ["failed"]


def test_a_bundle_is_refused_a_bucket_and_nothing_is_written(
    machine: Machine, reference: ToySweep, tmp_path: Path
) -> None:
    bundle = tmp_path / "toy.tar"
    export = ["export", "toy", str(bundle), "--without-checkpoints", "--results", str(reference.results)]
    assert run_here(export, reference.environment).returncode == 0
    refused = machine.run("import", str(bundle))
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: a bundle is not imported into {machine.url}: import it into a folder, such as --results results\n"
    )
    assert not objects_of(machine.url)


def test_a_closed_port_is_one_sentence(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setattr(objects, "PATIENCE_SECONDS", 0.3)
    closed = Machine(
        url=machine.url,
        scratch=machine.scratch,
        text=machine.text,
        cache=machine.cache,
        variables={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
    )
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for verb in (["status"], ["retry"], ["fit"], closed.sweep(*ONE)):
        done = closed.run(*verb)
        assert done.returncode == 6, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert f"{machine.url} does not answer as it should" in done.stderr
        assert "check AWS_ENDPOINT_URL" in done.stderr
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.slow
def test_an_endpoint_that_closes_during_training_costs_the_last_steps_only(
    machine: Machine, faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained stays here; the same command publishes it from the last checkpoint."""

    def close(method: str, path: str) -> None:
        if method == "PUT" and "/segments/" in path:
            faulty.close()

    monkeypatch.setattr(segments, "PUBLISH_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(upstream, "KEEP_PATIENCE_SECONDS", 0.3)
    faulty.before = close
    monkeypatch.setattr(objects, "PATIENCE_SECONDS", 0.3)
    done = machine.run(*machine.sweep(*ONE))
    assert done.returncode in (3, 6), done.stderr
    assert "Traceback" not in done.stderr
    assert "does not answer as it should" in done.stderr
    kept = sorted(machine.folder.glob("attempts/*/*/checkpoint-*"))
    assert kept
    faulty.before = lambda _method, _path: None
    faulty.reopen()
    again = machine.run(*machine.sweep(*ONE))
    assert again.returncode == 0, again.stderr
    results = {name: json.loads(data) for name, data in objects_of(machine.url, "segments").items() if "result" in name}
    first = min(results.values(), key=lambda result: result["step"])
    assert first["steps_executed"] < first["step"]
    assert _states(machine) == [("finished", "")]
