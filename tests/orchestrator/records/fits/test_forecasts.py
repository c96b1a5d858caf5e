"""Files of forecasts: written once and whole, whatever ends the writer; believed only as they were written."""

import errno
import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.maintenance.check_sweep import forecast_findings
from orchestrator.records.fits.forecasts import UnreadableForecast, keep_forecast, read_forecasts
from orchestrator.store.folder import ResultsError
from orchestrator.store.published import summed_content
from orchestrator.store.store import Store
from tests.helpers.runs.forecast_sweep import made_up_forecast


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A results folder."""
    return Store(root=tmp_path)


def files(store: Store) -> list[str]:
    return sorted(path.name for path in store.forecasts_folder("study").glob("*"))


def test_a_forecast_comes_out_as_it_went_in(store: Store):
    frozen = made_up_forecast()
    kept = keep_forecast(store, "study", frozen)
    assert kept.as_json() == frozen.as_json()
    assert [each.as_json() for each in read_forecasts(store, "study")] == [frozen.as_json()]
    assert files(store) == [f"{frozen.key.sha256}.json"]
    assert list(forecast_findings(store, "study")) == []


def test_what_was_frozen_first_stays(store: Store):
    first = keep_forecast(store, "study", made_up_forecast())
    second = keep_forecast(store, "study", made_up_forecast(created="2027-01-01"))
    assert second.created == first.created
    assert len(files(store)) == 1


def test_of_many_that_freeze_at_once_one_is_kept(store: Store):
    gate = threading.Barrier(8)
    dates: list[str] = []

    def freeze(day: int) -> None:
        forecast = made_up_forecast(created=f"2026-01-0{day}")
        gate.wait()
        dates.append(keep_forecast(store, "study", forecast).created)

    threads = [threading.Thread(target=freeze, args=(day,)) for day in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(dates) == 8
    assert len(set(dates)) == 1
    assert len(files(store)) == 1


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["mor_core.files.os.link", "mor_core.files.os.fsync", "pathlib.Path.write_bytes"])
def test_a_failing_write_leaves_nothing_and_is_a_sentence(store: Store, call: str, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(ResultsError, match="No space left on device"):
            keep_forecast(store, "study", made_up_forecast())
    assert files(store) == []
    keep_forecast(store, "study", made_up_forecast())
    assert len(files(store)) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.records.fits.forecasts import keep_forecast
from orchestrator.store.store import Store
from tests.helpers.runs.forecast_sweep import made_up_forecast
setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
keep_forecast(Store(root=Path(sys.argv[1])), "study", made_up_forecast())
"""


@pytest.mark.parametrize("call", ["fsync", "link", "unlink"])
def test_a_kill_leaves_none_or_a_whole_one(store: Store, call: str):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root), call], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    whole = read_forecasts(store, "study")
    assert len(whole) == (call == "unlink")
    (finding,) = forecast_findings(store, "study")
    assert finding.is_note
    keep_forecast(store, "study", made_up_forecast())
    assert len(read_forecasts(store, "study")) == 1


def edited(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    path.write_bytes(summed_content(document | changes, indent=None))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"budget": "2000000000000"}, "its key is not the sha256"),
        ({"schema": "mor-sweep.frozen-forecast/2"}, "its schema is"),
        ({"law": None}, "it is no frozen forecast"),
        ({"known": [1]}, "expected a line of text"),
        ({"mean_loss": {"value": 9.0, "low": 8.0, "high": 10.0, "level": 0.95}}, "its law says"),
    ],
)
def test_a_document_that_contradicts_itself_is_a_sentence_and_a_problem(store: Store, changes: dict, what: str):
    keep_forecast(store, "study", made_up_forecast())
    (path,) = store.forecast_files("study")
    edited(path, **changes)
    with pytest.raises(UnreadableForecast, match=what):
        read_forecasts(store, "study")
    (finding,) = forecast_findings(store, "study")
    assert what in finding.what
    assert not finding.is_note


def test_a_byte_that_was_changed_is_found(store: Store):
    keep_forecast(store, "study", made_up_forecast())
    (path,) = store.forecast_files("study")
    path.write_text(path.read_text().replace('"reach": 3.0', '"reach": 2.0'))
    with pytest.raises(UnreadableForecast, match="was changed after it was frozen"):
        read_forecasts(store, "study")


def test_a_file_under_another_name_is_a_problem(store: Store):
    keep_forecast(store, "study", made_up_forecast())
    (path,) = store.forecast_files("study")
    path.rename(path.with_name(f"{'0' * 64}.json"))
    (finding,) = forecast_findings(store, "study")
    assert "it is another forecast than its name says" in finding.what


def test_forecasts_are_listed_by_date(store: Store):
    for created, arm in (("2026-03-01", "b"), ("2026-01-01", "c"), ("2026-02-01", "a")):
        keep_forecast(store, "study", made_up_forecast(arm=arm, created=created))
    assert [each.key.arm for each in read_forecasts(store, "study")] == ["c", "a", "b"]


def test_a_number_that_is_not_finite_is_not_written(store: Store):
    broken = replace(made_up_forecast(), reach=float("nan"))
    assert not broken.is_finite
    with pytest.raises(ValueError, match="not JSON compliant"):
        keep_forecast(store, "study", broken)
    assert files(store) == []
