from itertools import pairwise

import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from analysis.figures.drawing import shortened
from analysis.figures.frontier import plot_frontier
from analysis.figures.isoflop import plot_isoflop
from analysis.figures.layout import Sheet
from analysis.frontier.study import fit_study

ARMS = ("mor-2", "mor-3", "recursive-2", "recursive-3", "vanilla", "mor-3-token-choice")
SEVEN = tuple(str(int(flops)) for flops in (1e12, 2e12, 5e12, 1e13, 2e13, 5e13, 1e14))
LONG = tuple(f"rw__{part}__short__const__standard__val" for part in ("tuned", "untuned", "tuned__twice" * 9))
TWELVE = tuple(f"{digits}{'0' * (13 + power)}" for power in range(3) for digits in (125, 251, 433, 794))
CASES = {
    "six arms, three budgets": {"arms": ARMS, "budgets": SEVEN[::3], "cell_noise": 0.01},
    "six arms, seven budgets": {"arms": ARMS, "budgets": SEVEN, "cell_noise": 0.01},
    "one arm, seven budgets": {"arms": ARMS[:1], "budgets": SEVEN, "cell_noise": 0.01},
    "two budgets": {"arms": ARMS[:2], "budgets": SEVEN[:2]},
    "one size a budget": {"sizes": 1},
    "all refused": {"arms": ARMS[:3], "shift": 8.0},
}


def draw(study, folder, suffixes=(".png", ".svg")):
    for name, plot in (("isoflop", plot_isoflop), ("frontier", plot_frontier)):
        plot(study, Sheet(out_paths=[folder / f"{name}{suffix}" for suffix in suffixes]))
    return folder / "isoflop.svg", folder / "frontier.svg"


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * case.startswith("six arms")) for case in CASES]
)
def test_figures_are_written_whatever_the_study(planted, tmp_path, case):
    study = fit_study(planted(**CASES[case]))
    for path in draw(study, tmp_path):
        text = path.read_text()
        assert all(arm in text for arm in study.points.arms)


def test_a_table_without_a_finished_run_is_drawn_with_the_reason(planted, tmp_path):
    study = fit_study(planted(arms=ARMS[:2]).with_columns(status=pl.lit("failed")))
    for path in draw(study, tmp_path):
        assert "too few sizes" in path.read_text()
        assert path.with_suffix(".png").stat().st_size > 10_000


def test_an_empty_study_draws_words(planted, tmp_path):
    isoflop, frontier = draw(fit_study(planted().clear()), tmp_path)
    assert "no points to draw" in isoflop.read_text()
    assert "no optimum supported" in frontier.read_text()


def test_refusals_are_written_on_the_figures(planted, tmp_path):
    isoflop, frontier = draw(fit_study(planted(shift=8)), tmp_path, suffixes=(".svg",))
    assert "minimum at the edge" in isoflop.read_text()
    assert "No N* for vanilla at 1e12" in frontier.read_text()
    assert "none: too few optima" in frontier.read_text()


def test_exponents_are_drawn_with_their_intervals(planted, tmp_path):
    study = fit_study(planted(cell_noise=0.003))
    _, frontier = draw(study, tmp_path, suffixes=(".svg",))
    exponent = study.frontiers[0].params_law.exponent
    assert "a of N* [95% interval]" in frontier.read_text()
    assert f"{exponent.value:.3f} [{exponent.low:.3f}, {exponent.high:.3f}]" in frontier.read_text()


def drawn(study, monkeypatch) -> Figure:
    """The frontier of a study, laid out."""
    figures = []
    monkeypatch.setattr(Sheet, "save", lambda _, figure: figures.append(figure))
    plot_frontier(study, Sheet(out_paths=[]))
    figures[0].draw_without_rendering()
    return figures[0]


@pytest.mark.parametrize(
    "case",
    [{}, {"arms": ARMS[:2]}, {"arms": LONG}, {"arms": LONG[:1], "budgets": TWELVE}, {"arms": LONG[:2], "shift": 8.0}],
    ids=["one arm", "two arms", "long names", "twelve budgets", "refused"],
)
def test_panels_keep_their_width_and_no_words_of_a_frontier_overlap(planted, monkeypatch, case):
    figure = drawn(fit_study(planted(**case)), monkeypatch)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 3
    assert sum(axes.get_window_extent().width for axes in panels) > 0.75 * figure.bbox.width
    for axes in panels:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(labels) >= 3
        assert all(left.x1 < right.x0 for left, right in pairwise(labels))
    (legend,) = figure.findobj(Legend)
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 < min(axes.get_tightbbox().y0 for axes in panels)


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert shortened("vanilla", 24) == "vanilla"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert len(shortened(LONG[2], 24)) == 24


def test_the_same_study_gives_the_same_svg(planted, tmp_path):
    table = planted(arms=ARMS[:2], cell_noise=0.004)
    first = draw(fit_study(table), tmp_path / "a", suffixes=(".svg",))
    second = draw(fit_study(table.sample(fraction=1.0, shuffle=True, seed=2)), tmp_path / "b", suffixes=(".svg",))
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
