import pytest

from analysis.frontier import fit_study
from analysis.plots import plot_frontier, plot_isoflop

ARMS = ("mor-2", "mor-3", "recursive-2", "recursive-3", "vanilla", "mor-3-token-choice")
SEVEN = tuple(str(int(flops)) for flops in (1e12, 2e12, 5e12, 1e13, 2e13, 5e13, 1e14))
CASES = {
    "one arm": {},
    "six arms, seven budgets": {"arms": ARMS, "budgets": SEVEN, "cell_noise": 0.01},
    "two budgets": {"arms": ARMS[:2], "budgets": SEVEN[:2]},
    "one size a budget": {"sizes": 1},
    "all refused": {"arms": ARMS[:3], "shift": 8.0},
}


def draw(study, folder, suffixes=(".png", ".svg")):
    for name, plot in (("isoflop", plot_isoflop), ("frontier", plot_frontier)):
        plot(study, [folder / f"{name}{suffix}" for suffix in suffixes])
    return folder / "isoflop.svg", folder / "frontier.svg"


@pytest.mark.parametrize("case", CASES)
def test_figures_are_written_whatever_the_study(planted, tmp_path, case):
    study = fit_study(planted(**CASES[case]))
    for path in draw(study, tmp_path):
        text = path.read_text()
        assert all(arm in text for arm in study.points.arms)
        assert path.with_suffix(".png").stat().st_size > 10_000


def test_an_empty_study_draws_words(planted, tmp_path):
    isoflop, frontier = draw(fit_study(planted().clear()), tmp_path)
    assert "no points to draw" in isoflop.read_text()
    assert "no optimum supported" in frontier.read_text()


def test_refusals_are_written_on_the_figures(planted, tmp_path):
    isoflop, frontier = draw(fit_study(planted(shift=8)), tmp_path, suffixes=(".svg",))
    assert "minimum at the edge" in isoflop.read_text()
    assert "No N* for vanilla at 1e12" in frontier.read_text()
    assert "no exponent" in frontier.read_text()


def test_exponents_are_drawn_with_their_intervals(planted, tmp_path):
    study = fit_study(planted(cell_noise=0.003))
    _, frontier = draw(study, tmp_path, suffixes=(".svg",))
    exponent = study.frontiers[0].params_law.exponent
    assert f"a = {exponent.value:.3f} [{exponent.low:.3f}, {exponent.high:.3f}]" in frontier.read_text()


def test_the_same_study_gives_the_same_svg(planted, tmp_path):
    table = planted(arms=ARMS[:2], cell_noise=0.004)
    first = draw(fit_study(table), tmp_path / "a", suffixes=(".svg",))
    second = draw(fit_study(table.sample(fraction=1.0, shuffle=True, seed=2)), tmp_path / "b", suffixes=(".svg",))
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
