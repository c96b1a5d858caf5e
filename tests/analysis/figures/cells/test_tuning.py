"""Figures of a tuning: the curve over one hyper-parameter and the surface over two, whatever was found."""

import re
from pathlib import Path

import numpy as np
import pytest

from analysis.figures.cells.tuning import Panel, plot_response, plot_response_surface
from analysis.figures.layout import Sheet
from analysis.report.provenance import Provenance
from analysis.statistics.answers import Refusal
from analysis.tuning.law import TunedRung
from analysis.tuning.response import Response, Trial, fit_response

PAIR = ("learning_rate", "batch_size")
ORIGIN = Provenance(
    source="tune-cpu",
    data="a corpus",
    version="9.9",
    budget_convention="exact",
    loss_column="loss",
    loss_unit="nats/token",
    num_used=18,
    left_out={"diverged": 1},
    method="quadratics",
    inputs_sha256="0" * 64,
)


def trials(best: float) -> list[Trial]:
    """Two hyper-parameters with their lowest loss at `best` and 8; one more setting diverged."""
    random = np.random.default_rng(0)
    found = [
        Trial(
            values={"learning_rate": rate, "batch_size": batch},
            losses=(
                4 + 0.05 * np.log(rate / best) ** 2 + 0.05 * np.log(batch / 8) ** 2 + 0.002 * random.standard_normal(),
            ),
        )
        for rate in np.geomspace(0.002, 0.05, 6)
        for batch in (4.0, 8.0, 16.0)
    ]
    return [*found, Trial(values={"learning_rate": 0.5, "batch_size": 8.0}, losses=(), diverged=1)]


def panel(tried: list[Trial]) -> Panel:
    rung = TunedRung(arm="vanilla", size="35k", params=35_000, tokens=700_000, response=fit_response(tried))
    return Panel(rung=rung, trials=tuple(tried))


@pytest.fixture
def found() -> Panel:
    known = panel(trials(0.01))
    assert isinstance(known.rung.response, Response)
    return known


@pytest.fixture
def refused() -> Panel:
    """Its best rate lies far beyond those tried."""
    unknown = panel(trials(5.0))
    assert isinstance(unknown.rung.response, Refusal)
    return unknown


def words(path: Path) -> str:
    """What is written on a figure, without its line breaks: an SVG file names each line that it draws."""
    return " ".join(re.findall("<!-- (.*?) -->", path.read_text()))


def test_figures_of_a_tuning_say_where_they_come_from_and_why_there_is_no_optimum(
    tmp_path: Path, found: Panel, refused: Panel
):
    drawn = {}
    for name, panels in {"found": [found], "refused": [refused], "both": [found, refused]}.items():
        curve, surface = (tmp_path / f"{name}-{kind}.svg" for kind in ("curve", "surface"))
        plot_response(panels, PAIR[0], Sheet(out_paths=[curve], provenance=ORIGIN))
        plot_response_surface(panels, PAIR, Sheet(out_paths=[surface], provenance=ORIGIN))
        drawn |= {path.stem: words(path) for path in (curve, surface)}
    for name, text in drawn.items():
        assert "tune-cpu on a corpus" in text, name
        assert "18 cells used, 1 left out (diverged 1)" in text, name
        assert ("no optimum: the lowest loss is at an end of the range" in text) == ("found" not in name), name


def test_a_surface_is_shaded_over_both_and_told_by_its_colour_bar(tmp_path: Path, found: Panel, refused: Panel):
    texts = []
    for name, each in {"found": found, "refused": refused}.items():
        plot_response_surface([each], PAIR, Sheet(out_paths=[tmp_path / f"{name}.svg"], provenance=ORIGIN))
        texts.append((tmp_path / f"{name}.svg").read_text())
    for text in texts:
        for label in ("learning rate", "batch size", "loss (nats/token)"):
            assert label in text
    assert texts[0].count("QuadContourSet") > 0
    assert texts[1].count("QuadContourSet") == 0, "where nothing was fitted there is nothing to shade"
