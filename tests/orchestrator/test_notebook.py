"""A sweep in a notebook: what it shows, and that reading starts and writes nothing."""

import ast
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

import mor_sweep as ms
from analysis.runs.points import TableError
from analysis.statistics.answers import Estimate
from orchestrator.cli.main import app
from orchestrator.notebook import FIGURES, OF_A_SWEEP, NoFigure, Sweep
from orchestrator.store.sweep_document import NoSuchSweep
from tests.helpers.paths import ROOT
from tests.helpers.toy_sweep import ToySweep
from tests.helpers.verbs import VERBS

NOTEBOOK = ROOT / "docs/notebook.ipynb"


def contents(folder: Path) -> dict[str, str]:
    """Every file with the sha256 of its bytes and when it was last changed."""
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    } | {str(path.relative_to(folder)): "folder" for path in folder.rglob("*") if path.is_dir()}


LOOK_AT_EVERYTHING = """
import sys
import mor_sweep as ms
sweep = ms.open(results=sys.argv[1])
shown = [sweep, sweep.plan, sweep.status, sweep.table(), sweep.segments(), sweep.fit(), sweep.figure("frontier")]
shown += [sweep.predict(1e9), sweep.compare(), sweep.suggest(), sweep.forecast(), sweep.backtest()]
pages = [each._repr_html_() for each in shown]
print(sweep.pandas().shape, sweep.curves().height, sweep.plan.frame().height, sweep.status.frame().height)
print(*sorted({"torch", "ray", "mlflow"} & set(sys.modules)), "<" in "".join(pages))
"""


def test_reading_imports_no_torch_ray_or_mlflow_and_writes_no_file(reference: ToySweep):
    before = contents(reference.results)
    done = subprocess.run(
        [sys.executable, "-c", LOOK_AT_EVERYTHING, str(reference.results)],
        env=reference.environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes, loaded = done.stdout.splitlines()
    assert re.fullmatch(r"\(12, \d+\) [1-9]\d* 12 12", sizes)
    assert loaded.strip() == "True", "no module, and pages of HTML"
    assert contents(reference.results) == before


def test_the_tables_are_those_of_the_command_line(reference: ToySweep):
    sweep = Sweep.open("toy", results=reference.results)
    assert sweep.table().select(reference.science().columns).sort("cell_id").equals(reference.science())
    assert sweep.plan.frame()["cell_id"].to_list() == sweep.table()["cell_id"].to_list()
    assert repr(sweep.status) == "toy: 12 finished"
    assert repr(sweep) == "toy: 12 of 12 cells finished"
    assert set(sweep.curves()["cell"]) == {
        f"{a}/{s}/{b}/0" for a in ("vanilla", "mor-2") for s in ("13k", "23k") for b in ("6e8", "1.2e9", "2.4e9")
    }
    assert sweep.segments().height == 36
    assert "refused" in sweep.fit()._repr_html_(), "two sizes are too few for a parabola, and the page says so"


def test_a_page_shows_what_is_under_way_and_escapes_what_it_is_told(reference: ToySweep, tmp_path: Path):
    copy = tmp_path / "results"
    shutil.copytree(reference.results, copy)
    path = copy / "sweeps/toy/sweep.json"
    document = json.loads(path.read_text())
    for cell in document["revisions"][-1]["cells"]:
        cell["arm"] = cell["arm"].replace("vanilla", "<b>&")
    path.write_text(json.dumps(document))
    page = Sweep.open(results=copy).status._repr_html_()
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    shutil.rmtree(copy / "segments")
    assert repr(Sweep.open(results=copy).status) == "toy: 12 pending"
    assert repr(Sweep.open(results=copy)) == "toy: 0 of 12 cells finished, 12 pending"


def test_what_is_not_there_is_said_in_a_sentence(reference: ToySweep, tmp_path: Path):
    with pytest.raises(NoSuchSweep, match="no sweep has been run in"):
        Sweep.open(results=tmp_path)
    with pytest.raises(NoSuchSweep, match=r"no sweep named 'other' in .*; there are: toy"):
        Sweep.open("other", results=reference.results)
    with pytest.raises(ValueError, match=r"figure 'map': expected one of isoflop, frontier"):
        Sweep.open(results=reference.results).figure("map")  # type: ignore[arg-type]


def table_of_others(path: Path) -> Path:
    """Runs on a plane-free law L = 1.7 + 400 / N^0.34 + 400 / D^0.28 at four budgets of C = 6 N D, in foreign words."""
    rows = ["N,D,val_loss"]
    for budget in (1e18, 3e18, 1e19, 3e19):
        for share in (0.2, 0.35, 0.6, 1.0, 1.7, 2.9, 5.0):
            params = 0.1 * budget**0.5 * share
            tokens = budget / (6 * params)
            noise = 1e-3 * math.sin(1e3 * share * math.log(budget))
            rows.append(f"{params:.6g},{tokens / 1e9:.8g},{1.7 + 400 / params**0.34 + 400 / tokens**0.28 + noise:.6f}")
    path.write_text("\n".join(rows))
    return path


def test_a_table_of_others_is_fitted_asked_and_drawn_as_a_sweep_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    columns = {"params": "N", "tokens": "D*1e9", "loss": "val_loss"}
    runs = ms.open_table(table_of_others(tmp_path / "runs.csv"), columns)
    assert repr(runs) == "runs.csv: a table of 28 runs"
    (advice, *_) = runs.predict(1e19).values
    exponent = 0.28 / (0.34 + 0.28)
    known = ((0.34 * 400) / (0.28 * 400)) ** (1 / (0.34 + 0.28)) * (1e19 / 6) ** exponent
    assert isinstance(advice.params, Estimate)
    assert advice.params.value == pytest.approx(known, rel=0.15)
    assert "columns: 'params=N,tokens=D*1e+09,loss=val_loss'" in capfd.readouterr().err.replace('"', "'")
    assert "<svg" in runs.figure("isoflop")._repr_html_()
    assert "columns:" not in capfd.readouterr().err, "what was said once is not said again"
    assert "fewer than two arms" in repr(runs.compare())


def test_a_corpus_is_asked_about_as_on_the_command_line():
    path = ROOT / "results" / "published" / "repeated" / "planted.csv"
    runs = ms.open_table(path)
    answer = runs.predict("1e19", unique_tokens="3e8")
    assert answer.values["vanilla"].epochs.estimate.value > answer.values["looped"].epochs.estimate.value > 20
    shown = CliRunner().invoke(app, ["predict", "--table", str(path), "--budget", "1e19", "--unique-tokens", "3e8"])
    assert answer.text in shown.stdout
    with pytest.raises(TableError, match="unique_tokens: found 'many', expected a number of tokens such as 1e9"):
        runs.predict("1e19", unique_tokens="many")


@pytest.mark.parametrize("question", OF_A_SWEEP)
def test_what_only_a_sweep_can_answer_is_refused_of_a_table_in_a_sentence(question: str, tmp_path: Path):
    runs = ms.open_table(table_of_others(tmp_path / "runs.csv"))
    with pytest.raises(AttributeError, match=rf"runs.csv is a table of runs, which has no {question}: open the sweep"):
        getattr(runs, question)


def test_a_mistake_about_a_table_is_one_sentence(tmp_path: Path):
    runs = ms.open_table(table_of_others(tmp_path / "runs.csv"), "params=N,tokens=D*1e9,loss=val_loss")
    with pytest.raises(TableError, match=r"missing\.csv"):
        ms.open_table(tmp_path / "missing.csv")
    with pytest.raises(TableError, match="budget: 'many' is not a number"):
        runs.predict("many")
    with pytest.raises(TableError, match="other names a sweep"):
        runs.compare("toy")
    with pytest.raises(NoFigure, match="a table of runs has no curves to draw"):
        runs.figure("curves")
    with pytest.raises(NoFigure, match="figure 'isoflop' takes no tide: it takes loss"):
        runs.figure("isoflop", tide=True)


def test_every_figure_of_the_command_line_is_drawn_or_refused_in_a_sentence(reference: ToySweep):
    verbs = {name.removeprefix("plot ") for name in VERBS if name.startswith("plot ")}
    assert set(FIGURES) == verbs
    sweep = ms.open("toy", results=reference.results)
    for name in ("compare", "forecasts", "curves", "backtest"):
        assert "<svg" in sweep.figure(name).svg
    with pytest.raises(NoFigure, match="refused: "):
        sweep.figure("lifetime")


def test_a_forecast_is_frozen_and_scored_from_a_notebook(reference: ToySweep, tmp_path: Path):
    shutil.copytree(reference.results, tmp_path / "results")
    sweep = ms.open("toy", results=tmp_path / "results")
    assert repr(sweep.forecast()) == "toy has no forecast yet"
    assert "refused" in repr(sweep.forecast("1e10")), "so small a sweep supports none, and the answer says why"
    with pytest.raises(ValueError, match="it has a finished cell at"):
        sweep.forecast("1e9", arm="vanilla")


def test_the_door_is_short_and_leads_to_the_notebook_alone():
    text = (ROOT / "mor_sweep.py").read_text()
    assert len(text.splitlines()) <= 40
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"collections.abc", "pathlib", "orchestrator.notebook"}
    assert (ms.Sweep, ms.open.__module__) == (Sweep, "mor_sweep")


def script():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "docs/make_notebook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_notebook_has_the_scripts_cells_with_outputs_and_names_no_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)
    committed = nbformat.reads(text, as_version=4)
    made = script().notebook("isoflop-cpu", "results")
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ]
    for cell in committed.cells:
        if cell.cell_type == "code":
            (output,) = cell.outputs
            assert output.output_type == "execute_result"
            assert "text/html" in output.data


@pytest.mark.slow
def test_the_script_makes_such_a_notebook_from_any_sweep(reference: ToySweep, tmp_path: Path):
    out = tmp_path / "made.ipynb"
    command = [sys.executable, str(ROOT / "docs/make_notebook.py"), "--results", str(reference.results)]
    done = subprocess.run(
        [*command, "--sweep", "toy", "--out", str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = nbformat.read(out, as_version=4)
    assert "toy: 12 finished" in made.cells[1].outputs[0].data["text/html"]


def test_a_fit_speaks_of_a_small_corpus_only_where_the_sweep_was_trained_on_one(reference: ToySweep, tmp_path: Path):
    results, snapshot = tmp_path / "results", tmp_path / "snapshot"
    shutil.copytree(reference.results / "sweeps", results / "sweeps")
    shutil.copytree(Sweep.open(results=results)._load().data_folder, snapshot)
    assert Sweep.open(results=results).fit().study.on_small_corpus
    manifest = snapshot / "manifest.json"
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["tokens"] = 10**10
    manifest.write_text(json.dumps(content))
    document = results / "sweeps/toy/sweep.json"
    recorded = json.loads(document.read_text())
    recorded["revisions"][-1]["data_folder"] = str(snapshot)
    document.write_text(json.dumps(recorded))
    assert not Sweep.open(results=results).fit().study.on_small_corpus
