"""`mor-sweep ui` and `mor-sweep mlflow sync`, with the real server."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from urllib.parse import parse_qs

import psutil
import pytest
import typer
from typer.testing import CliRunner

from mor_core.units import budget_text
from orchestrator.cli.main import exit_code_of
from orchestrator.cli.results import tracking
from orchestrator.records.curves import curve
from orchestrator.tracking.connection import engine_uri
from orchestrator.tracking.cursor import is_current, sqlite_uri, store_text
from orchestrator.tracking.mirror import sync
from orchestrator.tracking.server import TrackingServerUnreachable, UiError, filters, free_port, serving
from tests.helpers.mirror_samples import NAME, Sample, active_runs, history, sample

app = typer.Typer()
app.command("ui")(tracking.ui)
app.add_typer(tracking.mlflow_app, name="mlflow")

UI = "import typer; from orchestrator.cli import tracking; app = typer.Typer(); app.command()(tracking.ui); app()"


@pytest.mark.slow
def test_the_ui_serves_the_sweep_takes_another_and_leaves_no_process(small: Sample, tmp_path):
    small.publish_all()
    sync(small.store, small.sweep, small.uri)
    command = [sys.executable, "-c", UI, "--results", str(small.store.root), "--port", str(free_port(None))]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout is not None
        pages = dict(ui.stdout.readline().split() for _ in range(2))
        server = psutil.Process(ui.pid).children(recursive=True)
        assert pages["runs"].startswith("http://127.0.0.1:")
        assert pages["charts"] == f"{pages['runs']}&compareRunsMode=CHART"
        heard = {each.laddr.ip for process in server for each in process.net_connections() if each.status == "LISTEN"}
        assert heard == {"127.0.0.1"}
        address = pages["runs"].partition("/#/")[0]
        with urllib.request.urlopen(address) as page:
            assert b"MLflow" in page.read()
        other = sample(tmp_path / "other", "1.5e11", sizes=("115k",))
        other.publish_all()
        assert not is_current(other.store, other.sweep, address)
        sync(other.store, other.sweep, address)
        assert is_current(other.store, other.sweep, address)
        assert sync(other.store, other.sweep, address).points == 0
        ui.send_signal(signal.SIGINT)
        assert ui.wait(20) == 0
    finally:
        ui.terminate()
    assert server
    assert not [process for process in server if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    runs = active_runs(small.database)
    for cell in other.sweep.cells:  # what a server was sent over HTTP is exact to the last bit
        expected = [(row["step"], row["loss"]) for row in curve(other.store, other.sweep, cell)]
        assert history(small.database, runs[str(cell.cell_id)], "train/loss") == expected


def test_a_sweep_without_a_store_is_one_sentence(tmp_path):
    made = sample(tmp_path, "1.5e11", sizes=("70k",))
    with (
        pytest.raises(UiError, match=f"the sweep '{NAME}' has no MLflow store yet") as refusal,
        serving(made.store, NAME, None),
    ):
        raise AssertionError("nothing is served")
    assert exit_code_of(refusal.value) == 2


def test_the_ui_brings_what_was_fitted_and_drawn_to_mlflow_before_it_is_served(small: Sample, monkeypatch):
    """Served here by nobody: the port is taken."""
    small.publish_all()
    sync(small.store, small.sweep, small.uri)
    (small.folder / "report.html").write_text("<p>")
    (small.folder / "fits.json").write_text("{}")
    assert not is_current(small.store, small.sweep, small.uri)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["ui", "--results", str(small.store.root), "--port", port])
    assert isinstance(result.exception, UiError)
    assert is_current(small.store, small.sweep, small.uri)
    assert list((small.folder / "artifacts").rglob("report.html"))


def test_with_a_tracking_server_the_ui_prints_its_address_and_returns(small: Sample, monkeypatch):
    """A server that wants a password first (here: that knows no GET at all) is a server."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}/")
        result = CliRunner().invoke(app, ["ui", "--results", str(small.store.root)])
        document = json.loads(CliRunner().invoke(app, ["ui", "--json", "--results", str(small.store.root)]).stdout)
        server.shutdown()
    assert result.exit_code == 0
    assert f"http://127.0.0.1:{server.server_port}" in result.output
    assert "what is shown may be older than the results" in result.output
    assert "secret" not in result.output
    assert document["schema"] == "mor-sweep.ui/1"
    assert document["data"]["runs"].startswith(f"http://127.0.0.1:{server.server_port}")


@pytest.mark.parametrize("verb", [["ui"], ["mlflow", "sync"]], ids=" ".join)
def test_a_tracking_server_that_does_not_answer_is_one_sentence_with_what_to_do(small: Sample, monkeypatch, verb):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    result = CliRunner().invoke(app, [*verb, "--results", str(small.store.root)])
    assert isinstance(result.exception, TrackingServerUnreachable)
    assert exit_code_of(result.exception) == 6
    sentence = str(result.exception)
    assert sentence.startswith("no MLflow server answers at http://127.0.0.1:9 (")
    assert "start it or correct MLFLOW_TRACKING_URI" in sentence
    assert "secret" not in sentence
    assert result.output == ""


def test_mlflow_sync_rebuilds_and_says_what_it_sent(small: Sample):
    small.publish_all()
    result = CliRunner().invoke(app, ["mlflow", "sync", NAME, "--results", str(small.store.root)])
    assert result.exit_code == 0, result.output
    assert "sample: 4 cells, 4 new runs" in result.stdout
    assert f"next: mor-sweep ui {NAME}" in result.stderr
    sent, compared = (
        CliRunner().invoke(app, ["mlflow", "sync", NAME, *flags, "--json", "--results", str(small.store.root)])
        for flags in ([], ["--check"])
    )
    document = json.loads(sent.stdout)
    assert (sent.exit_code, document["schema"]) == (0, "mor-sweep.mlflow-sync/1")
    assert (document["data"]["created"], document["data"]["cells"]) == (0, 4)
    document = json.loads(compared.stdout)
    assert (compared.exit_code, document["schema"]) == (0, "mor-sweep.mlflow-check/1")
    assert document["data"]["differences"] == []
    assert is_current(small.store, small.sweep, small.uri)


def test_ports_that_browsers_refuse_or_others_use_are_not_taken():
    with pytest.raises(UiError, match="5060"):
        free_port(5060)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UiError, match="is taken"):
            free_port(taken.getsockname()[1])


def test_the_command_line_and_the_driver_load_no_mlflow():
    check = (
        "import sys, orchestrator.cli.results.tracking, orchestrator.tracking.server, orchestrator.tracking.process, "
        "orchestrator.tracking.mirror, orchestrator.tracking.follower; sys.exit('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], env=os.environ, check=False).returncode == 0


def test_each_link_to_some_of_the_runs_finds_those_of_its_arm_or_budget(small: Sample):
    from mlflow import MlflowClient

    small.publish_all()
    sync(small.store, small.sweep, small.uri)
    client = MlflowClient(engine_uri(small.uri))
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    cells = small.sweep.cells
    of_part = {cell.arm: {str(each.cell_id) for each in cells if each.arm == cell.arm} for cell in cells}
    of_part |= {
        budget_text(cell.budget): {str(each.cell_id) for each in cells if each.budget == cell.budget} for cell in cells
    }
    parts = filters("http://127.0.0.1:5000", small.store, NAME)
    assert {part.name for part in parts} == of_part.keys()
    for part in parts:
        (search,) = parse_qs(part.page.partition("?")[2])["searchFilter"]
        assert search == part.search
        runs = client.search_runs([experiment.experiment_id], filter_string=search)
        assert {run.data.tags["mor.cell"] for run in runs} == of_part[part.name]


def test_a_store_that_is_a_file_is_named_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_text(sqlite_uri(tmp_path / "results" / "mlflow.db")) == "results/mlflow.db"
    assert store_text(sqlite_uri(tmp_path.parent / "mlflow.db")) == str(tmp_path.parent / "mlflow.db")
    assert store_text("http://someone:pa55word@host:5000") == "http://host:5000"
