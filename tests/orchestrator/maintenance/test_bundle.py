"""A sweep as one file: what goes in comes out, and nothing of a bundle is believed before all of it is verified."""

import hashlib
import io
import json
import pickle
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.maintenance.bundle import export_bundle
from orchestrator.records.fits.forecasts import keep_forecast, read_forecasts
from orchestrator.store.store import Store
from tests.helpers.runs.forecast_sweep import made_up_forecast
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, run_here


@pytest.fixture(scope="module")
def bundle(reference: ToySweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy sweep, whole."""
    path = tmp_path_factory.mktemp("bundle") / "toy.tar"
    export_bundle(Store(root=reference.results), "toy", path)
    return path


def _import(toy: ToySweep, bundle: Path) -> subprocess.CompletedProcess[str]:
    return run_here(["import", str(bundle), "--results", str(toy.results)], toy.environment)


def _members(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def _pack(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            if member.isreg():
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_comes_out_as_it_went_in_and_the_sweep_goes_on(
    toy: ToySweep, reference: ToySweep, tmp_path: Path
) -> None:
    path = tmp_path / "toy.tar"
    shown = run_here(["export", "toy", str(path), "--results", str(reference.results)], reference.environment)
    assert shown.returncode == 0, shown.stderr
    done = _import(toy, path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("toy: 36 segments added, 0 were here already\nnext: mor-sweep status toy ")
    assert toy.published() == reference.published()
    assert toy.weights() == reference.weights()
    assert toy.science().equals(reference.science())
    on = ["--results", str(toy.results)]
    assert "12 finished" in run_here(["status", *on], toy.environment).stdout
    checked = run_here(["fsck", "--no-mlflow", *on], toy.environment)
    assert checked.returncode == 0, checked.stdout
    again = _import(toy, path)
    assert again.stderr.startswith("toy: 0 segments added, 36 were here already\n")
    further = toy.run("--only", "vanilla", "--sizes", "13k", "--budgets", "6e8,7e8")
    assert further.returncode == 0, further.stderr
    assert "3 of 6 segments to run" in further.stderr


@pytest.mark.slow
def test_an_imported_sweep_is_mirrored_to_mlflow(toy: ToySweep, bundle: Path) -> None:
    assert _import(toy, bundle).returncode == 0
    for flags in ([], ["--check"]):
        done = subprocess.run(
            [*MOR_SWEEP, "mlflow", "sync", *flags, "--results", str(toy.results)],
            env=toy.environment, capture_output=True, text=True, check=False, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_bundle_without_checkpoints_has_the_tables_and_goes_on_from_the_start(
    toy: ToySweep, reference: ToySweep, bundle: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.tar"
    arguments = ["export", "toy", str(small), "--without-checkpoints", "--results", str(reference.results)]
    assert run_here(arguments, reference.environment).returncode == 0
    assert small.stat().st_size < bundle.stat().st_size / 3
    assert _import(toy, small).returncode == 0
    assert not list(toy.results.glob("segments/*/checkpoint"))
    assert toy.science().equals(reference.science())
    checked = run_here(["fsck", "--no-mlflow", "--results", str(toy.results)], toy.environment)
    assert checked.returncode == 0, checked.stdout
    further = toy.run("--only", "vanilla", "--sizes", "13k", "--budgets", "6e8,7e8")
    assert further.returncode == 0, further.stderr
    assert "start from states that gc pruned" in further.stderr


def _with(members: dict[str, bytes], manifest: dict, **changed: bytes) -> list[tuple[tarfile.TarInfo | str, bytes]]:
    return [("manifest.json", json.dumps(manifest).encode()), *({**members, **changed}).items()]


def _linked(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


HOSTILE: dict[str, Callable[[dict[str, bytes], dict, str], list]] = {}


def _hostile(function: Callable) -> Callable:
    HOSTILE[function.__name__.strip("_").replace("_", " ")] = function
    return function


def _stated(manifest: dict, name: str, data: bytes) -> dict:
    said = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return manifest | {"files": manifest["files"] | {name: said}}


@_hostile
def _a_way_out(members: dict[str, bytes], manifest: dict, _first: str) -> list:
    name = "segments/../../../../tmp/out.json"
    return [*_with(members, _stated(manifest, name, b"{}")), (name, b"{}")]


@_hostile
def _an_absolute_name(members: dict[str, bytes], manifest: dict, _first: str) -> list:
    return [*_with(members, _stated(manifest, "/tmp/out.json", b"{}")), ("/tmp/out.json", b"{}")]


@_hostile
def _a_pickle(members: dict[str, bytes], manifest: dict, first: str) -> list:
    name, data = f"{first}/checkpoint/optimizer.pt", pickle.dumps([1])
    return [*_with(members, _stated(manifest, name, data)), (name, data)]


@_hostile
def _a_link(members: dict[str, bytes], manifest: dict, first: str) -> list:
    rest = {name: data for name, data in members.items() if name != f"{first}/spec.json"}
    return [*_with(rest, manifest), (_linked(f"{first}/spec.json", tarfile.SYMTYPE), b"")]


@_hostile
def _a_hard_link(members: dict[str, bytes], manifest: dict, first: str) -> list:
    rest = {name: data for name, data in members.items() if name != f"{first}/spec.json"}
    return [*_with(rest, manifest), (_linked(f"{first}/spec.json", tarfile.LNKTYPE), b"")]


@_hostile
def _a_device(members: dict[str, bytes], manifest: dict, first: str) -> list:
    rest = {name: data for name, data in members.items() if name != f"{first}/spec.json"}
    return [*_with(rest, manifest), (_linked(f"{first}/spec.json", tarfile.CHRTYPE), b"")]


@_hostile
def _a_wrong_sum(members: dict[str, bytes], manifest: dict, first: str) -> list:
    name = f"{first}/result.json"
    return _with({**members, name: members[name][:-1] + b" "}, manifest)


@_hostile
def _a_name_twice(members: dict[str, bytes], manifest: dict, first: str) -> list:
    return [*_with(members, manifest), (f"{first}/spec.json", members[f"{first}/spec.json"])]


@_hostile
def _a_file_that_nobody_states(members: dict[str, bytes], manifest: dict, first: str) -> list:
    return [*_with(members, manifest), (f"{first}/pruned.json", b"{}")]


@_hostile
def _more_bytes_than_stated(members: dict[str, bytes], manifest: dict, first: str) -> list:
    name = f"{first}/metrics.jsonl"
    return _with({**members, name: b"x" * 10**6}, manifest)


@_hostile
def _fewer_bytes_than_stated(members: dict[str, bytes], manifest: dict, first: str) -> list:
    name = f"{first}/metrics.jsonl"
    stated = manifest["files"] | {name: manifest["files"][name] | {"size": 10**15}}
    return _with(members, manifest | {"files": stated})


@_hostile
def _a_missing_file(members: dict[str, bytes], manifest: dict, first: str) -> list:
    return _with({name: data for name, data in members.items() if name != f"{first}/result.json"}, manifest)


@_hostile
def _a_segment_under_another_id(members: dict[str, bytes], manifest: dict, first: str) -> list:
    other = first[:-1] + ("0" if first[-1] != "0" else "1")
    renamed = {name.replace(first, other): data for name, data in members.items()}
    return _with(renamed, manifest | {"files": {n.replace(first, other): s for n, s in manifest["files"].items()}})


@_hostile
def _a_name_of_a_sweep_that_leads_out(members: dict[str, bytes], manifest: dict, _first: str) -> list:
    return _with(members, manifest | {"sweep": "../x"})


@_hostile
def _no_manifest(members: dict[str, bytes], _manifest: dict, _first: str) -> list:
    return list(members.items())


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_sentence_and_changes_nothing(
    what: str, toy: ToySweep, bundle: Path, tmp_path: Path
) -> None:
    members = _members(bundle)
    manifest = json.loads(members.pop("manifest.json"))
    first = next(name.rsplit("/", 1)[0] for name in members if name.endswith("/metrics.jsonl"))
    path = _pack(tmp_path / "hostile.tar", HOSTILE[what](members, manifest, first))
    done = _import(toy, path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not _files(toy.results)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_bundle_that_is_cut_short_is_refused(share: float, toy: ToySweep, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.tar"
    last = len(bundle.read_bytes().rstrip(b"\0"))
    path.write_bytes(bundle.read_bytes()[: int(last * share)])
    done = _import(toy, path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert not _files(toy.results)


def test_a_segment_that_differs_is_refused_with_both_sums(toy: ToySweep, reference: ToySweep, bundle: Path) -> None:
    shutil.copytree(reference.results, toy.results)
    changed = sorted(toy.results.glob("segments/*/result.json"))[0]
    changed.write_text(changed.read_text().replace('"attempts": 1', '"attempts": 2'))
    before = _files(toy.results)
    done = _import(toy, bundle)
    assert done.returncode == 2
    theirs = (reference.results / "segments" / changed.parent.name / "result.json").read_bytes()
    for data in (changed.read_bytes(), theirs):
        assert hashlib.sha256(data).hexdigest() in done.stderr
    assert _files(toy.results) == before


@pytest.mark.slow
def test_an_import_that_was_killed_leaves_whole_segments_and_is_repeated(
    toy: ToySweep, reference: ToySweep, bundle: Path
) -> None:
    """Killed at three moments of its work; what is there meanwhile is whole, and the sweep appears last."""
    command = [*MOR_SWEEP, "import", str(bundle), "--results", str(toy.results)]
    for number in range(3):
        process = subprocess.Popen(command, env=toy.environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline:
            done = len(list(toy.results.glob("segments/*/result.json")))
            staged = len(list(toy.results.glob("scratch/*/segments/*/result.json")))
            if (number == 0 and staged > 10) or (number > 0 and done >= 10 * number):
                process.kill()
            time.sleep(0.001)
        process.communicate()
        for name, result in toy.published().items():
            assert result == reference.published()[name]
        assert number > 0 or not (toy.results / "sweeps").exists()
    assert _import(toy, bundle).returncode == 0
    assert toy.published() == reference.published()
    assert toy.science().equals(reference.science())


def test_export_says_what_is_wrong_with_its_arguments(reference: ToySweep, tmp_path: Path) -> None:
    there = tmp_path / "there.tar"
    there.write_bytes(b"")
    for arguments, said in (
        (["nosuch", str(tmp_path / "a.tar")], "no sweep named 'nosuch'"),
        (["toy", str(tmp_path / "no/a.tar")], "is not a folder: name a file in one that exists"),
        (["toy", str(tmp_path / "toy")], "the bundle of a sweep is a file whose name ends in .tar"),
        (["toy/13k/6e8", str(tmp_path / "toy")], "is no cell of sweep toy"),
        (["toy", str(there)], "exists already"),
    ):
        done = run_here(["export", *arguments, "--results", str(reference.results)], reference.environment)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr, done.stderr


def test_forecasts_are_carried_and_never_replaced(toy: ToySweep, reference: ToySweep, tmp_path: Path) -> None:
    shutil.copytree(reference.results, tmp_path / "there")
    there, here = Store(root=tmp_path / "there"), Store(root=toy.results)
    for arm in ("vanilla", "mor-2"):
        keep_forecast(there, "toy", made_up_forecast(arm=arm))
    export_bundle(there, "toy", tmp_path / "toy.tar", checkpoints=False)
    here.root.mkdir()
    first = keep_forecast(here, "toy", made_up_forecast(created="2020-01-01"))
    done = _import(toy, tmp_path / "toy.tar")
    assert done.returncode == 0, done.stderr
    dates = {each.key.arm: each.created for each in read_forecasts(here, "toy")}
    assert dates == {"vanilla": first.created, "mor-2": "2026-01-02T03:04:05+00:00"}


def test_a_bundle_with_a_forecast_that_was_changed_is_refused(
    toy: ToySweep, reference: ToySweep, tmp_path: Path
) -> None:
    shutil.copytree(reference.results, tmp_path / "there")
    there = Store(root=tmp_path / "there")
    keep_forecast(there, "toy", made_up_forecast())
    (path,) = there.forecast_files("toy")
    path.write_text(path.read_text().replace("exact", "paper"))
    export_bundle(there, "toy", tmp_path / "toy.tar", checkpoints=False)
    refused = _import(toy, tmp_path / "toy.tar")
    assert refused.returncode == 2
    assert "was changed after it was frozen" in refused.stderr
    assert not toy.results.exists() or not list(toy.results.glob("sweeps/*"))
