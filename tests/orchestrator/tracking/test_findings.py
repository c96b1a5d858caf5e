"""A tuning and a pilot with MLflow on, from the command to what the tracking store then shows."""

import json
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(toy: ToySweep, verb: str, *flags: str) -> Path:
    """The folder of the verb's sweep, once its command has ended well."""
    where = ["--preset", str(TOY_PRESET), "--data", str(toy.text), "--results", str(toy.results), "--only", "vanilla"]
    command = [*MOR_SWEEP, verb, *where, "--executor", "in-process", "--yes", *flags]
    done = subprocess.run(command, env=toy.environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode in (0, 5), done.stderr
    assert "MLflow mirror incomplete" not in done.stderr
    return toy.results / "sweeps" / f"{verb}-toy"


def in_mlflow(folder: Path) -> tuple[list[Run], dict[str, bytes]]:
    """The runs of the cells, and the artifacts of the run that holds what was found."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (each for each in client.search_experiments() if each.name == folder.name)
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    (summary,) = (each for each in runs if each.data.tags["mor.kind"] == "summary")
    fetched = Path(client.download_artifacts(summary.info.run_id, ""))
    cells = [each for each in runs if each.data.tags["mor.kind"] == "cell"]
    return cells, {path.name: path.read_bytes() for path in fetched.iterdir()}


def test_mlflow_shows_every_trial_of_a_tuning_with_its_settings_and_the_response_surface(toy: ToySweep):
    ranges = ["--learning-rate", "3e-3:1e-1", "--batch-size", "2,4,8", "--weight-decay", "0.01:0.3"]
    grid = ["--sizes", "5.5k", "--trials", "12", "--tokens-per-param", "1", "--multiples", "2"]
    folder = run(toy, "tune", *grid, *ranges)
    cells, files = in_mlflow(folder)
    tuned = json.loads((folder / "tuned.json").read_text())["data"]
    trials = [trial for rung in tuned["rungs"] for trial in rung["trials"]]
    assert len(trials) == 12
    assert len(cells) == 2 * 12, "one run for each number of tokens"
    names = {"learning_rate": "peak_learning_rate", "batch_size": "batch_size", "weight_decay": "weight_decay"}
    for trial in trials:
        same = [
            cell
            for cell in cells
            if all(float(cell.data.params[name]) == trial["values"][key] for key, name in names.items())
        ]
        assert len(same) == 2
        assert all(cell.info.status == "FINISHED" and "train/loss" in cell.data.metrics for cell in same)
        assert trial["losses"][0] in [cell.data.metrics["loss"] for cell in same]
    figures = {f"response{which}.{kind}" for which in ("", "_batch_size", "_weight_decay") for kind in ("png", "svg")}
    assert figures | {"tuned.json", "runs.parquet", "sweep.json"} <= files.keys()
    for name in figures:
        assert files[name] == (folder / "figures" / name).read_bytes()
    assert files["tuned.json"] == (folder / "tuned.json").read_bytes()


def test_mlflow_shows_every_cell_of_a_pilot_what_it_found_and_what_it_advises(toy: ToySweep, tmp_path: Path):
    advised = tmp_path / "mine.toml"
    grid = ["--sizes", "5.5k,10k,13k,23k", "--budgets", "3e8,6e8", "--replicates", "2"]
    folder = run(toy, "pilot", *grid, "--out", str(advised))
    cells, files = in_mlflow(folder)
    assert len(cells) == 2 * (4 + 3), "three of four sizes have a second seed"
    assert all(cell.info.status == "FINISHED" for cell in cells)
    assert json.loads(files["pilot.json"])["data"]["noise"]["vanilla"]["cells"] == 2 * 2 * 3
    assert files["advised.toml"] == advised.read_bytes()
