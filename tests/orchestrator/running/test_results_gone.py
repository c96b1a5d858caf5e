"""A results folder that is moved away in mid-run: nothing is made at the old place, nothing has failed, and the same
command at the new place goes on."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.folder import ResultsGone, holding
from orchestrator.store.store import Store
from orchestrator.store.workers.stop_request import StopFile
from tests.faults.disturbances import SIX_CELLS, assert_nothing_is_left, checkpoints, wait_for
from tests.helpers.single_segment import job_for, segment_on
from tests.helpers.toy_sweep import SCIENCE, ToySweep


@dataclass(frozen=True, kw_only=True)
class MovingFolder(StopFile):
    """Moves the results folder away when a worker that has kept a checkpoint asks whether it is to stop."""

    results: Path
    target: Path

    def asked(self) -> str | None:
        if list(self.results.glob("attempts/*/*/checkpoint-*/manifest.json")):
            self.results.rename(self.target)
        return super().asked()


def test_a_folder_that_is_moved_replaced_or_deleted_is_gone(tmp_path: Path):
    root = tmp_path / "results"
    root.mkdir()
    with holding(root) as folder:
        folder.check()
        root.rename(tmp_path / "elsewhere")
        with pytest.raises(ResultsGone, match=f"the results folder is gone: {root} was moved"):
            folder.check()
        root.mkdir()  # Another one.
        with pytest.raises(ResultsGone):
            folder.check()
    with pytest.raises(ResultsGone), holding(tmp_path / "never"):
        pass


def test_what_fails_in_a_folder_that_is_gone_failed_because_of_that(tmp_path: Path):
    root = tmp_path / "results"
    root.mkdir()
    with pytest.raises(ZeroDivisionError), holding(root):
        raise ZeroDivisionError
    with pytest.raises(ResultsGone) as caught, holding(root):
        (root.rename(tmp_path / "elsewhere") and root / "file").write_text("")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_the_store_makes_folders_below_its_root_only(data: DataSnapshot, tmp_path: Path):
    store, segment = Store(root=tmp_path / "results"), segment_on(data)
    with pytest.raises(FileNotFoundError):
        store.new_attempt(segment)
    assert not store.root.exists()
    store.root.mkdir()
    assert store.new_attempt(segment).folder.is_dir()


def test_a_segment_whose_folder_is_moved_away_is_interrupted_and_goes_on_at_the_new_place(
    data: DataSnapshot, tmp_path: Path
):
    segment, old, new = segment_on(data, stop_step=120), tmp_path / "old", tmp_path / "new"
    stop = MovingFolder(path=tmp_path / "stop", results=old, target=new)
    outcome = run_segment(segment, job_for(old, data, stop=stop))
    assert outcome.status == "interrupted", outcome
    assert "the results folder is gone" in outcome.reason
    assert not old.exists()
    assert not list(new.glob("attempts/*/*/failure.json"))
    assert run_segment(segment, job_for(new, data)).status == "finished"
    result = Store(root=new).result(segment.id)
    assert result
    assert result.steps_executed < 120, "it goes on from a checkpoint"


@pytest.mark.slow
def test_a_sweep_whose_folder_is_moved_away_says_so_and_its_command_goes_on_at_the_new_place(
    toy: ToySweep, reference: ToySweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    moved = ToySweep(results=tmp_path / "moved", text=toy.text, cache=toy.cache)
    stop = MovingFolder(path=tmp_path / "stop", results=toy.results, target=moved.results)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "new_stop_file", lambda *_, **__: stop)
        stopped = toy.run(*SIX_CELLS)
    assert stopped.returncode == 6, stopped.stderr
    assert f"error: the results folder is gone: {toy.results} was moved" in stopped.stderr
    assert "failed" not in stopped.stderr.replace("not failed", "")
    assert not toy.results.exists()
    done = moved.run(*SIX_CELLS)
    assert done.returncode == 0, done.stderr
    expected = reference.science().filter(reference.science()["size"] == "13k")
    assert moved.science().select(SCIENCE).equals(expected)


@pytest.mark.slow
@pytest.mark.faults("F6", invariants=("I1", "I4", "I8"))
def test_workers_driver_and_mirror_leave_when_the_folder_is_moved_away(
    toy: ToySweep, reference: ToySweep, tmp_path: Path, figures
):
    moved = ToySweep(results=tmp_path / "moved", text=toy.text, cache=toy.cache)
    driver = toy.start(*SIX_CELLS)
    wait_for(lambda: checkpoints(toy) and list(toy.results.glob("sweeps/toy/mlflow.db")))
    toy.results.rename(moved.results)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 6, output
    assert "the results folder is gone" in output
    assert not toy.results.exists()
    assert_nothing_is_left(toy)
    done = moved.run(*SIX_CELLS, executor="ray", mlflow=True)
    assert done.returncode == 0, done.stderr
    assert "MLflow mirror incomplete" not in done.stderr
    assert not toy.results.exists()
    expected = reference.science().filter(reference.science()["size"] == "13k")
    assert moved.science().equals(expected)
    figures("F6", "a folder moved away in mid-run: exit 6, nothing made at the old place, the new place goes on")
