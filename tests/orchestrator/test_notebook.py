"""A sweep in a notebook: what it shows, and that reading starts and writes nothing."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from orchestrator.notebook import Sweep
from orchestrator.store.sweep_document import NoSuchSweep
from tests.helpers.paths import ROOT
from tests.helpers.toy_sweep import ToySweep

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
from orchestrator.notebook import Sweep
sweep = Sweep.open(results=sys.argv[1])
shown = [sweep, sweep.plan, sweep.status, sweep.table(), sweep.segments(), sweep.fit(), sweep.figure("frontier")]
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


def test_what_is_not_there_is_said_in_a_sentence(reference: ToySweep, tmp_path: Path):
    with pytest.raises(NoSuchSweep, match="no sweep has been run in"):
        Sweep.open(results=tmp_path)
    with pytest.raises(NoSuchSweep, match=r"no sweep named 'other' in .*; there are: toy"):
        Sweep.open("other", results=reference.results)
    with pytest.raises(ValueError, match=r"figure 'map': expected one of isoflop, frontier"):
        Sweep.open(results=reference.results).figure("map")  # type: ignore[arg-type]


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
