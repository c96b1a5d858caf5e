"""Where MLflow's store is: said before anything is trained where nobody could use it, and quoted where it is a path."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app, exit_code_of
from orchestrator.maintenance.doctor import examine
from orchestrator.store.store import Store
from orchestrator.tracking.cursor import (
    TrackingUriError,
    absolute_uri,
    check_uri,
    public_uri,
    sqlite_path,
    sqlite_uri,
    tracking_uri,
)
from orchestrator.tracking.process import following
from tests.helpers.mirror_samples import NAME, ODD_FOLDER, sample

UNUSABLE = {
    "http://me:secret@[::1": "http://[::1 is malformed (Invalid IPv6 URL)",
    "http://me:secret@host:port/": "http://host:port/ is malformed (Port could not be cast",
    "http://me:secret@host:99999/": "http://host:99999/ is malformed (Port out of range",
    "http://": "http:// is malformed (it names no host)",
    "postgresql://me:secret@host/db": "MLflow cannot use postgresql://host/db (No module named 'psycopg",
    "postgresql+nodriver://me:secret@host/db": "MLflow cannot use postgresql+nodriver://host/db (Can't load plugin",
}


@pytest.mark.parametrize("uri", UNUSABLE)
def test_a_uri_that_mlflow_could_never_use_is_one_sentence_without_its_password(uri: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingUriError) as caught:
        tracking_uri(Store(root=Path("results")), NAME)
    said = str(caught.value)
    assert said.startswith(f"MLFLOW_TRACKING_URI: {UNUSABLE[uri]}")
    assert "unset" in said
    assert "secret" not in said
    assert "\n" not in said
    assert exit_code_of(caught.value) == 2


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000/", "https://host", "databricks", "file:///x", "foo://x"])
def test_what_only_mlflow_can_judge_is_left_to_it(uri: str):
    check_uri(uri)


@pytest.mark.parametrize("uri", ["http://me:secret@[::1", "postgresql://me:secret@host/db"])
@pytest.mark.parametrize("verb", [["mlflow", "sync", NAME], ["ui", NAME]], ids=" ".join)
def test_verbs_refuse_it_too(uri: str, verb: list[str], tmp_path: Path, monkeypatch):
    made = sample(tmp_path / "results", "1.5e11", sizes=("70k",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = CliRunner().invoke(app, [*verb, "--results", str(made.store.root)])
    assert isinstance(result.exception, TrackingUriError)
    with pytest.raises(TrackingUriError), following(made.store, NAME):
        raise AssertionError("the body is not entered")


def test_doctor_says_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("orchestrator.maintenance.doctor.TORCH_PROBE", "print(1/0)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@[::1")
    line = next(line for line in examine(Store(root=tmp_path), deep=False) if line.name == "mlflow")
    assert line.level == "bad"
    assert "http://[::1 is malformed" in line.found
    assert "secret" not in line.found


@pytest.mark.parametrize("name", ["plain", "ü b", ODD_FOLDER, "a%41", "q?x=1", "100%", "#1", "%3F"])
def test_the_uri_of_a_path_leads_back_to_it_and_stays_the_same(name: str, tmp_path: Path):
    path = (tmp_path / name / "mlflow.db").resolve()
    uri = sqlite_uri(path)
    assert sqlite_path(uri) == path
    assert absolute_uri(uri) == uri
    assert absolute_uri(f"{uri}?timeout=20") == f"{uri}?timeout=20"
    assert public_uri(uri) == uri


def test_what_a_user_quoted_is_read_as_sqlalchemy_reads_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///my%20store.db?timeout=20") == tmp_path.resolve() / "my store.db"
    assert (
        absolute_uri("sqlite:///my%20store.db?timeout=20") == f"sqlite:///{tmp_path.resolve()}/my store.db?timeout=20"
    )
