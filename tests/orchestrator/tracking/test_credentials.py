"""A tracking server on another machine that wants credentials: a real one, behind a door that asks for them."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.tracking.credentials import VARIABLE
from orchestrator.tracking.cursor import read_cursor
from orchestrator.tracking.server import isoflop_page, serving
from tests.faults.misbehaving import Misbehaving, misbehaving
from tests.helpers.mirror_samples import NAME, Sample, sample
from tests.helpers.toy_sweep import run_here

MOR_SWEEP = [sys.executable, "-c", "from orchestrator.cli.main import main; main()"]
SECRET = "a-token-that-nobody-may-see"


@pytest.fixture
def remote(small: Sample, tmp_path: Path):
    """A finished sweep with figures, and a guarded server that has never seen it."""
    small.publish_all()
    (small.folder / "figures").mkdir()
    (small.folder / "figures/isoflop.png").write_bytes(b"\x89PNG of a figure")
    (small.folder / "fits.json").write_text("{}")
    (small.folder / "report.html").write_text("<p>a report</p>")
    other = sample(tmp_path / "server", "1.5e11", sizes=("70k",))
    other.database.write_bytes(small.database.read_bytes())
    with serving(other.store, NAME, None) as server, misbehaving(server.address, "pass") as door:
        door.authorization = f"Bearer {SECRET}"
        yield small, door


def _sync(made: Sample, door: Misbehaving, credentials: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MLFLOW_TRACKING_URI": door.address, VARIABLE: str(credentials)}
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        environment.pop(name, None)
    command = [*MOR_SWEEP, "mlflow", "sync", *flags, "--results", str(made.store.root)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.slow
def test_a_guarded_server_is_sent_everything_and_no_file_shows_the_secret(
    remote: tuple[Sample, Misbehaving], tmp_path: Path
) -> None:
    made, door = remote
    token = _file(tmp_path / "token", f"[mlflow]\nmlflow_tracking_token = {SECRET}\n")
    sent = _sync(made, door, token)
    assert sent.returncode == 0, sent.stderr
    assert _sync(made, door, token, "--check").returncode == 0
    written = [path.read_bytes() for path in made.store.root.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in each for each in written)
    assert SECRET not in sent.stdout + sent.stderr

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", door.address)
        patch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
        from mlflow import MlflowClient

        client, cursor = MlflowClient(door.address), read_cursor(made.store, NAME, door.address)
        there = {each.path for each in client.list_artifacts(cursor.summary)}
        assert there >= {"isoflop.png", "fits.json", "report.html", "sweep.json"}
        picture = client.get_run(cursor.summary).data.metrics
        assert {name.split("/")[1] for name in picture} == {"vanilla", "mor-2"}
        tags = client.get_run(next(iter(cursor.runs.values())).run_id).data.tags
        assert {"mor.segments", "mor.data", "mor.version", "mor.settings", "mor.plan_revisions"} <= tags.keys()
        assert tags["mor.evaluate_segment"] in tags["mor.segments"]
        found = client.search_runs([cursor.experiment_id], "tags.`mor.arm` = 'vanilla' AND status = 'FINISHED'")
        assert len(found) == 2
        assert cursor.summary in isoflop_page(door.address, made.store, NAME)

    refused = _sync(made, door, _file(tmp_path / "wrong", "[mlflow]\nmlflow_tracking_token = other-secret\n"))
    assert refused.returncode == 6
    assert len(refused.stderr.splitlines()) == 1
    assert "it refused the credentials: put others into ~/.mlflow/credentials" in refused.stderr
    assert "other-secret" not in refused.stderr

    both = base64.b64encode(b"ada:a-password").decode()
    door.authorization = f"Basic {both}"
    basic = _file(tmp_path / "basic", "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = a-password")
    assert _sync(made, door, basic).returncode == 0


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (None, 0o600, "cannot be read (No such file or directory)"),
        ("[mlflow]\nmlflow_tracking_token = hidden", 0o644, "can be read by others: chmod 600"),
        ("mlflow_tracking_token = hidden", 0o600, "is of another form"),
        ("[default]\nmlflow_tracking_token = hidden", 0o600, "is of another form"),
        ("[mlflow]\ntoken = hidden", 0o600, "holds no credentials"),
    ],
)
def test_a_file_of_credentials_that_is_of_no_use_is_named_without_its_content(
    small: Sample, tmp_path: Path, text: str | None, mode: int, said: str
) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    done = run_here(["mlflow", "sync", "--results", str(small.store.root)], os.environ | {VARIABLE: str(path)})
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
    assert "hidden" not in done.stderr
