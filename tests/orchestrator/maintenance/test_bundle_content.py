"""A bundle whose sums are right and whose content is not is refused in one sentence and leaves the folder as it was."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.maintenance.bundle import export_bundle
from orchestrator.planning.canonical import content_id
from orchestrator.store.store import Store
from tests.helpers.paths import FIRST_STUDY
from tests.helpers.toy_sweep import run_here

SWEEP = "sweeps/first/sweep.json"

Files = dict[str, bytes]
"""Path in a bundle -> content, without the manifest."""


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What the bundle of a study of 39 segments holds."""
    path = tmp_path_factory.mktemp("bundle") / "first.tar"
    export_bundle(Store(root=FIRST_STUDY / "results"), "first", path)
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    del files["manifest.json"]
    return files


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with something of its own in it."""
    folder = tmp_path / "results"
    for path in ("segments/kept.txt", "trunks/kept.txt"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("something")
    return folder


def _packed(path: Path, files: Files, sweep: str = "first") -> Path:
    """A bundle of these files, with the sums that they have."""
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    manifest = json.dumps({"schema": "mor-sweep.bundle/1", "sweep": sweep, "files": sums}).encode()
    return _tar(path, {"manifest.json": manifest, **files})


def _tar(path: Path, members: Files) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _import(bundle: Path, results: Path) -> subprocess.CompletedProcess[str]:
    return run_here(["import", str(bundle), "--results", str(results)], dict(os.environ))


def _listing(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def _refused(bundle: Path, results: Path) -> str:
    """What an import says that is refused and changes nothing."""
    outside = _listing(results.parent)
    done = _import(bundle, results)
    assert done.returncode == 2, done.stderr[-2000:]
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.replace("\n", "").isprintable()
    assert _listing(results.parent) == outside
    return done.stderr


def _edited(files: Files, path: str, change: Callable[[dict], object]) -> Files:
    document = json.loads(files[path])
    change(document)
    return files | {path: json.dumps(document).encode()}


def _path_of(files: Files, kind: str, name: str = "result.json") -> str:
    """A file of the first segment of a kind that finished."""
    results = {path: json.loads(data) for path, data in files.items() if path.endswith("/result.json")}
    path = next(path for path, result in results.items() if (result["kind"], result["status"]) == (kind, "finished"))
    return path.replace("result.json", name)


def _measured(**changes: object) -> Callable[[dict], object]:
    return lambda result: result["evaluation"].update(changes)


RESULTS: dict[str, tuple[str, Callable[[dict], object]]] = {
    "no realised capacity": ("evaluate", lambda result: result["evaluation"].pop("realised_capacity")),
    "a depth that is a word": ("evaluate", _measured(depth_mean="x")),
    "a top-k loss that is a word": ("evaluate", _measured(loss_topk="x")),
    "a loss that is too large": ("evaluate", _measured(loss=10**400)),
    "numerics that are a number": ("evaluate", lambda result: result.update(numerics=7)),
    "attempts that are a word": ("evaluate", lambda result: result.update(attempts="7")),
    "no status": ("evaluate", lambda result: result.pop("status")),
    "no seconds of training": ("stable", lambda result: result.update(train_seconds=None)),
}


@pytest.mark.parametrize("what", RESULTS)
def test_a_result_of_another_shape_is_refused(what: str, bundled: Files, results: Path, tmp_path: Path) -> None:
    kind, change = RESULTS[what]
    files = _edited(bundled, _path_of(bundled, kind), change)
    _refused(_packed(tmp_path / "bundle.tar", files), results)


PLANS: dict[str, Callable[[dict], object]] = {}
"""What a test is called -> what it does to the first revision of sweep.json."""


def _plan(function: Callable[[dict], object]) -> Callable[[dict], object]:
    PLANS[function.__name__.strip("_").replace("_", " ")] = function
    return function


@_plan
def _an_evaluation_that_is_not_planned(plan: dict) -> None:
    plan["cells"][0]["evaluate_segment"] = "0" * 64


@_plan
def _an_evaluation_that_leads_out(plan: dict) -> None:
    plan["cells"][0]["evaluate_segment"] = "../../../../../etc"


@_plan
def _a_segment_under_another_id(plan: dict) -> None:
    plan["segments"][0]["id"] = "0" * 64


@_plan
def _a_segment_that_needs_itself(plan: dict) -> None:
    plan["segments"][0]["needs"] = [plan["segments"][0]["id"]]


@_plan
def _a_model_beyond_all_bounds(plan: dict) -> None:
    plan["cells"][0]["model"]["num_layers"] = 10**9


@_plan
def _a_segment_that_ends_elsewhere(plan: dict) -> None:
    plan["segments"][0]["stop_step"] += 1


@_plan
def _a_cell_under_another_id(plan: dict) -> None:
    plan["cells"][0]["cell_id"] = "0" * 64


@_plan
def _a_cell_of_another_budget(plan: dict) -> None:
    plan["cells"][0]["budget"] += 1


@_plan
def _a_cell_with_more_steps_than_were_trained(plan: dict) -> None:
    cell = plan["cells"][0]
    cell["steps"] *= 2
    cell["tokens"] *= 2


@_plan
def _a_cell_with_fewer_parameters_than_it_has(plan: dict) -> None:
    plan["cells"][0]["unique_params"] -= 1


def _relabelled(cell: dict, arm: str) -> None:
    """Another arm, with the id that makes it that arm's."""
    names = {"arm": arm, "evaluate": cell["evaluate_segment"]}
    cell["arm"] = arm
    cell["cell_id"] = content_id(names | {name: cell[name] for name in ("budget", "budget_convention")})


@_plan
def _an_arm_that_renames_the_window(plan: dict) -> None:
    _relabelled(plan["cells"][0], "\x1b]0;renamed\x07mor-4")


@_plan
def _a_size_of_two_lines(plan: dict) -> None:
    plan["cells"][0]["size"] = "5.5k\nproblem: all is lost"


@pytest.mark.parametrize("what", PLANS)
def test_plans_that_are_not_what_was_trained_are_refused(
    what: str, bundled: Files, results: Path, tmp_path: Path
) -> None:
    files = _edited(bundled, SWEEP, lambda document: PLANS[what](document["revisions"][0]))
    _refused(_packed(tmp_path / "bundle.tar", files), results)


@pytest.mark.parametrize("path", ["manifest.json", SWEEP, "result.json", "spec.json", "sweeps/first/fits.json"])
def test_a_file_that_is_nested_too_deeply_is_refused(path: str, bundled: Files, results: Path, tmp_path: Path) -> None:
    nested = b"[" * 200_000
    if path == "manifest.json":
        bundle = _tar(tmp_path / "bundle.tar", {path: nested, **bundled})
    else:
        where = path if "/" in path else _path_of(bundled, "evaluate", path)
        bundle = _packed(tmp_path / "bundle.tar", bundled | {where: nested})
    _refused(bundle, results)


@pytest.mark.parametrize("needs", [["../../../outside"], [], ["0" * 64]])
def test_a_spec_that_needs_another_segment_is_refused(
    needs: list[str], bundled: Files, results: Path, tmp_path: Path
) -> None:
    files = _edited(bundled, _path_of(bundled, "evaluate", "spec.json"), lambda spec: spec.update(needs=needs))
    _refused(_packed(tmp_path / "bundle.tar", files), results)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME], ids=["x", "g", "L"])
def test_a_header_of_gigabytes_is_refused_unread(kind: bytes, results: Path, tmp_path: Path) -> None:
    header = tarfile.TarInfo("manifest.json")
    header.type, header.size = kind, 4 * 2**30
    bundle = tmp_path / "bundle.tar"
    with bundle.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(header.size + 2**20)
    done = _import(bundle, results)
    assert done.returncode == 2
    assert "is longer than 8,192 bytes" in done.stderr


def test_more_headers_than_a_file_can_have_are_refused(results: Path, tmp_path: Path) -> None:
    header = tarfile.TarInfo("manifest.json")
    header.type, header.size = tarfile.XHDTYPE, 0
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 2000)
    assert "is longer than 8,192 bytes" in _refused(bundle, results)


def test_a_small_file_that_is_stated_to_be_large_is_refused(bundled: Files, results: Path, tmp_path: Path) -> None:
    path = _path_of(bundled, "evaluate")
    files = bundled | {path: bundled[path] + b" " * 2**24}
    assert "expected at most 16,777,216" in _refused(_packed(tmp_path / "bundle.tar", files), results)


def test_a_bundle_of_a_sweep_with_a_name_that_is_not_shown_is_refused(
    bundled: Files, results: Path, tmp_path: Path
) -> None:
    files = {path.replace("sweeps/first/", "sweeps/\x1b[2J/"): data for path, data in bundled.items()}
    _refused(_packed(tmp_path / "bundle.tar", files, sweep="\x1b[2J"), results)


def test_pages_and_drawings_are_not_taken_in_and_pictures_are(bundled: Files, results: Path, tmp_path: Path) -> None:
    script = b"<script>alert(1)</script>"
    scripted = ["report.html", "figures/x.svg", "figures/y.html"]
    files = bundled | {f"sweeps/first/{name}": script for name in scripted}
    files |= {"sweeps/first/figures/x.png": b"\x89PNG", "sweeps/first/figures/x.json": b"{}"}
    done = _import(_packed(tmp_path / "bundle.tar", files), results)
    assert done.returncode == 0, done.stderr
    assert "left out: 3 pages and drawings (HTML, SVG)" in done.stderr
    assert not [path for path in results.rglob("*") if path.suffix in (".html", ".svg")]
    assert (results / "sweeps/first/figures/x.png").read_bytes() == b"\x89PNG"
    assert (results / "sweeps/first/figures/x.json").read_bytes() == b"{}"
    checked = run_here(["fsck", "--no-mlflow", "--results", str(results)], dict(os.environ))
    assert checked.returncode == 0, checked.stdout


def test_a_bundle_is_written_without_pages_and_drawings(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(FIRST_STUDY / "results", copy)
    figures = copy / "sweeps/first/figures"
    figures.mkdir(exist_ok=True)
    for path in (copy / "sweeps/first/report.html", figures / "x.svg", figures / "x.html", figures / "x.png"):
        path.write_bytes(b"")
    export_bundle(Store(root=copy), "first", tmp_path / "first.tar")
    with tarfile.open(tmp_path / "first.tar") as tar:
        names = tar.getnames()
    assert "sweeps/first/figures/x.png" in names
    assert not [name for name in names if name.endswith((".html", ".svg"))]
