"""Forecasts of a sweep whose results are in a bucket: the first machine's counts, on every machine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.records.fits.forecasts import keep_forecast, read_forecasts
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import open_store
from tests.helpers.remote_machine import Machine, objects_of
from tests.helpers.runs.forecast_sweep import made_up_forecast, plan_only
from tests.helpers.runs.planted_sweep import PlantedSweep

KEY = made_up_forecast().key.sha256
NAME = f"sweeps/planted/files/forecasts/{KEY}.json"


@contextlib.contextmanager
def at(machine: Machine) -> Iterator[Store]:
    """The results as a command on that machine opens them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOR_SWEEP_SCRATCH", str(machine.scratch))
        store = open_store(machine.url)
        store.upstream.pull()
        yield store
        store.upstream.push()


@pytest.fixture
def planned(machine: Machine) -> None:
    """A sweep in the bucket."""
    with at(machine) as store:
        plan_only(PlantedSweep(store=store), ["8e10"], ["13k"])
        assert store.upstream.append_revision("planted")


def dates(store: Store) -> list[str]:
    return [each.created[:10] for each in read_forecasts(store, "planted")]


def test_of_two_machines_that_freeze_at_once_both_have_the_first_ones(machine: Machine, other: Machine, planned: None):
    with at(other) as theirs, at(machine) as ours:
        assert keep_forecast(theirs, "planted", made_up_forecast(created="2026-05-01")).created.startswith("2026-05-01")
        assert keep_forecast(ours, "planted", made_up_forecast(created="2026-06-01")).created.startswith("2026-05-01")
    with at(machine) as ours:
        assert dates(ours) == ["2026-05-01"]


def test_a_file_that_another_machine_has_frozen_first_gives_way_and_the_bucket_keeps_its_own(
    machine: Machine, other: Machine, planned: None
):
    with at(other) as theirs:
        keep_forecast(theirs, "planted", made_up_forecast(created="2026-05-01"))
        first = objects_of(machine.url)[NAME]
        local = Store(root=machine.folder)  # As an import of a bundle writes it, without asking the bucket.
        keep_forecast(local, "planted", made_up_forecast(created="2026-06-01"))
    with at(machine):
        pass
    assert objects_of(machine.url)[NAME] == first
    with at(machine) as ours:
        assert dates(ours) == ["2026-05-01"]


def test_a_forecast_written_without_the_bucket_is_shared_at_the_end(machine: Machine, other: Machine, planned: None):
    with at(machine):
        keep_forecast(Store(root=machine.folder), "planted", made_up_forecast())
    with at(other) as theirs:
        assert dates(theirs) == ["2026-01-02"]
        assert not list(Path(theirs.root).rglob("*.writing"))
