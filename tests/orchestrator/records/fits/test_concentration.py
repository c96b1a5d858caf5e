"""`mor-sweep fit` says it where a few validation windows decide how the cells of a sweep differ."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.planning.identity import Segment
from orchestrator.records.fits import concentration
from orchestrator.records.fits.concentration import concentration_note
from orchestrator.records.fits.fitted import fit_of_sweep
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

WINDOWS = 400


def even(segment: Segment) -> list[float]:
    """Noise that is alike in every window."""
    noise_S = np.random.default_rng(int(segment.id[:8], 16)).normal(0.0, 0.05, WINDOWS)
    return (noise_S - noise_S.mean()).tolist()


def few(segment: Segment) -> list[float]:
    """The same, and in every hundredth window thirty times as much."""
    noise_S = np.array(even(segment))
    noise_S[::100] *= 30.0
    return (noise_S - noise_S.mean()).tolist()


def planted(root: Path, windows: Callable[[Segment], list[float]] | None) -> PlantedSweep:
    sweep = PlantedSweep(store=Store(root=root), windows=windows)
    shape = overrides(
        budgets=["8e10"],
        sizes={"names": ["13k", "23k", "35k", "51k"]},
        seeds=[0, 1],
        arms__architectures=["vanilla"],
        evaluation__num_sequences=WINDOWS,
    )
    sweep.publish(sweep.plan(SNAPSHOT, shape))
    return sweep


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> PlantedSweep:
    """A sweep of four sizes and two seeds of which a few windows decide: ten pairs of neighbours."""
    return planted(tmp_path_factory.mktemp("results"), few)


def note(sweep: PlantedSweep) -> str:
    return concentration_note(sweep.store, fit_of_sweep(sweep.store, sweep.name, "loss"))


def test_fit_warns_where_a_few_windows_decide(uneven: PlantedSweep):
    done = CliRunner().invoke(
        app, ["fit", uneven.name, "--approach", "parabola", "--json", "--results", str(uneven.store.root)]
    )
    assert done.exit_code in (0, 5)
    (line,) = (line for line in done.stderr.splitlines() if "windows" in line)
    assert line.startswith("note: a few windows of the validation text decide how cells differ: ")
    assert "(median of 10 pairs; 12% where noise is even)" in line
    assert "quality = true in [data]" in line
    assert "--" not in line


@pytest.mark.parametrize("windows", [even, None], ids=["even noise", "no losses of windows"])
def test_nothing_is_said_where_noise_is_even_or_no_cell_kept_its_windows(
    tmp_path: Path, windows: Callable[[Segment], list[float]] | None
):
    assert note(planted(tmp_path, windows)) == ""


def test_cells_without_losses_of_windows_are_passed_over_and_so_are_damaged_ones(uneven: PlantedSweep, tmp_path: Path):
    shutil.copytree(uneven.store.root, tmp_path, dirs_exist_ok=True)
    sweep = replace(uneven, store=Store(root=tmp_path))
    files = sorted(tmp_path.glob("segments/*/sequence_losses.npy"))
    assert len(files) == 8
    files[0].unlink()
    files[1].write_text("no array")
    assert "a few windows" in note(sweep)
    for path in files[1:]:
        path.unlink()
    assert note(sweep) == ""


def test_of_a_large_sweep_a_bounded_number_of_pairs_is_read(uneven: PlantedSweep, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(concentration, "MOST_PAIRS", 4)
    assert "(median of 4 pairs;" in note(uneven)
