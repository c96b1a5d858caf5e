"""Which cells to train next: edge minima first, then what narrows the widest interval by cost."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from analysis.advice.suggest import Candidate, Need, rank_candidates
from analysis.frontier.study import FitSettings, fit_study
from analysis.runs.points import read_points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from tests.helpers.runs.planted_runs import BUDGETS, Truth, row

LADDER = [round(5e3 * 10 ** (0.15 * rung)) for rung in range(24)]
TRUTH = Truth(params_scale=60.0, tokens_scale=150.0, params_power=0.36, tokens_power=0.36)
NOISE = 0.004
SETTINGS = FitSettings(resampling=Resampling(draws=200))


def measured(budget: str, params: int, seed: int, study: int, truth: Truth = TRUTH) -> dict:
    """A run of the planted law; the same cell has the same noise whoever asks for it."""
    tokens = float(budget) / 6 / params
    drawn = np.random.default_rng([study, params, seed, int(budget) // 10**9]).normal()
    return row("vanilla", f"{params}", budget, seed, params, tokens, truth.loss(params, tokens) + NOISE * drawn)


def table(cells, study=0) -> pl.DataFrame:
    return pl.DataFrame([measured(budget, params, seed, study) for budget, params, seed in cells])


def candidates(cells, budgets=BUDGETS, ladder=LADDER) -> list[Candidate]:
    """Every cell of the ladder that is not there, with one more seed than there is; it costs its budget."""
    taken = set(cells)
    wanted = ((budget, params, seed) for budget in budgets for params in ladder for seed in range(8))
    free: dict[tuple, int] = {}
    for budget, params, seed in wanted:
        if (budget, params, seed) not in taken:
            free.setdefault((budget, params), seed)
    return [
        Candidate(arm="vanilla", size=f"{params}", budget=budget, seed=seed, params=params, cost=float(budget))
        for (budget, params), seed in free.items()
    ]


def centred(width: int, shift: int = 0, budgets=BUDGETS) -> list[tuple[str, int, int]]:
    """A grid of `width` rungs around each budget's optimum, moved by `shift` rungs."""
    cells = []
    for budget in budgets:
        middle = int(np.argmin(np.abs(np.log(np.array(LADDER) / TRUTH.best_params(float(budget))))))
        first = middle - width // 2 + shift
        cells += [(budget, LADDER[rung], 0) for rung in range(first, first + width)]
    return cells


def asked(cells, **settings):
    found = rank_candidates(read_points(table(cells)), candidates(cells), **settings)
    assert not isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(("shift", "up"), [(-4, True), (4, False)])
def test_a_minimum_at_an_end_asks_for_sizes_beyond_that_end_first(shift, up):
    cells = [*centred(5, budgets=BUDGETS[:3]), *centred(5, shift, budgets=BUDGETS[3:])]
    first, second, third, *_ = asked(cells)
    tried = [params for budget, params, _ in cells if budget == BUDGETS[3]]
    beyond = [rung for rung in LADDER if (rung > max(tried) if up else rung < min(tried))]
    nearest = beyond[:2] if up else beyond[-2:]
    assert {first.candidate.params, second.candidate.params} == set(nearest)
    assert {first.candidate.budget, second.candidate.budget} == {BUDGETS[3]}
    assert (first.need, second.need, third.need) == (Need.edge, Need.edge, Need.width)
    assert ("largest" if up else "smallest") in first.reason


def test_too_few_sizes_ask_for_the_nearest_others():
    cells = [*centred(6, budgets=BUDGETS[:3]), *centred(2, budgets=BUDGETS[3:])]
    found = asked(cells)
    lacking = [each for each in found if each.need is Need.sizes]
    assert len(lacking) == 4
    assert {each.candidate.budget for each in lacking} == {BUDGETS[3]}
    rungs = [LADDER.index(params) for budget, params, _ in cells if budget == BUDGETS[3]]
    rungs += [LADDER.index(round(each.candidate.params)) for each in lacking]
    assert max(rungs) - min(rungs) <= 6


def test_an_outlier_asks_for_another_seed_of_its_size():
    cells = centred(9)
    runs = table(cells)
    wrong = cells[13]
    moved = (pl.col("budget") == wrong[0]) & (pl.col("unique_params") == wrong[1])
    runs = runs.with_columns(loss=pl.when(moved).then(pl.col("loss") + 0.5).otherwise(pl.col("loss")))
    first = rank_candidates(read_points(runs), candidates(cells))[0]
    assert first.need is Need.outlier
    assert (first.candidate.budget, first.candidate.params, first.candidate.seed) == (wrong[0], wrong[1], 1)


def test_an_outlier_is_named_by_the_fit_and_not_looked_for_in_its_words():
    """Where one name begins as another does, a search would take the wrong one."""
    cells = centred(9)
    runs = table(cells)
    wrong = cells[13]
    moved = (pl.col("budget") == wrong[0]) & (pl.col("unique_params") == wrong[1])
    names = [{10: "run", 13: "run 13"}.get(index, f"{index}") for index in range(len(cells))]
    runs = runs.with_columns(
        cell_id=pl.Series(names), loss=pl.when(moved).then(pl.col("loss") + 0.5).otherwise(pl.col("loss"))
    )
    first = rank_candidates(read_points(runs), candidates(cells))[0]
    assert (first.need, first.candidate.params) == (Need.outlier, wrong[1])
    assert "cell run 13 of this size" in first.reason


def test_equal_budgets_are_served_by_width_and_equal_widths_by_cost():
    cells = centred(7)
    dear, cheap = (
        [each for each in candidates(cells) if each.budget == BUDGETS[1]],
        [
            Candidate(**{**vars(each), "cost": each.cost / 100})
            for each in candidates(cells)
            if each.budget == BUDGETS[2]
        ],
    )
    found = rank_candidates(read_points(table(cells)), [*dear, *cheap], count=3)
    assert {each.candidate.budget for each in found} == {BUDGETS[2]}


def test_each_run_named_is_expected_to_narrow_an_interval_and_is_in_its_window():
    cells = centred(7)
    found = asked(cells, count=6)
    assert len(found) == 6
    assert len({(each.candidate.budget, each.candidate.params, each.candidate.seed) for each in found}) == 6
    for each in found:
        assert 0 < each.narrower < 1
        assert abs(np.log10(each.candidate.params / TRUTH.best_params(float(each.candidate.budget)))) < 0.8


@pytest.mark.parametrize(
    ("cells", "kind"),
    [([], RefusalKind.TOO_FEW_POINTS), (centred(7), RefusalKind.NO_CANDIDATE)],
    ids=["no run", "none"],
)
def test_without_runs_or_candidates_there_is_a_reason_in_place_of_advice(cells, kind):
    points = read_points(table(cells) if cells else table(centred(3)).clear())
    refused = rank_candidates(points, [])
    assert isinstance(refused, Refusal)
    assert refused.kind is kind


def widths(cells, study) -> list[float]:
    """Half-widths of ln N* at every budget; that of the whole ladder where N* is refused."""
    (frontier,) = fit_study(table(cells, study), SETTINGS).frontiers
    whole = np.log(LADDER[-1] / LADDER[0]) / 2
    return [
        np.log(each.params.high / each.params.low) / 2
        if isinstance(each.params, Estimate) and not (each.params.low_open or each.params.high_open)
        else whole
        for each in frontier.optima
    ]


def followed(cells, spend: float, study: int) -> list[tuple[str, int, int]]:
    """The cells after following the advice, a few at a time, until the money is spent."""
    cells = list(cells)
    while True:
        found = rank_candidates(read_points(table(cells, study)), candidates(cells), count=4)
        if isinstance(found, Refusal):
            return cells
        for each in found:
            if each.candidate.cost > spend:
                return cells
            spend -= each.candidate.cost
            cells.append((each.candidate.budget, round(each.candidate.params), each.candidate.seed))


def fixed_grids(start) -> dict[str, list[tuple[str, int, int]]]:
    """Two ways to spend as much again on the same grid: every cell with another seed, or as many sizes again, half of
    them on either side."""
    repeated = [*start, *((budget, params, 1) for budget, params, _ in start)]
    wider = []
    for budget in BUDGETS:
        rungs = sorted(LADDER.index(params) for each, params, _ in start if each == budget)
        below = len(rungs) // 2
        ends = range(max(0, rungs[0] - below), min(len(LADDER), rungs[-1] + 1 + len(rungs) - below))
        wider += [(budget, LADDER[rung], 0) for rung in ends]
    return {"repeated": repeated, "wider": wider}


SKEWED = (-3, 0, 0, 3)
"""By how many rungs the first grid lies beside the optimum of each budget: two minima are at an end."""


def compared(num_studies: int, shifts: tuple[int, ...] = SKEWED) -> dict[str, float]:
    """Mean squared half-width of ln N* over budgets and studies, for the advice and for fixed grids at equal cost."""
    start = [cell for budget, shift in zip(BUDGETS, shifts, strict=True) for cell in centred(6, shift, (budget,))]
    spend = sum(float(budget) for budget, _, _ in start)
    grids = fixed_grids(start)
    assert all(sum(float(cell[0]) for cell in grid) <= 2 * spend * 1.001 for grid in grids.values())
    squares: dict[str, list[float]] = {"start": [], "advice": [], **{name: [] for name in grids}}
    for study in range(num_studies):
        ends = {"start": start, "advice": followed(start, spend, study), **grids}
        for name, cells in ends.items():
            squares[name] += [width**2 for width in widths(cells, study)]
    return {name: float(np.mean(each)) for name, each in squares.items()}


@pytest.mark.slow
def test_following_the_advice_narrows_more_than_a_fixed_grid_at_equal_cost():
    found = compared(4)
    assert found["advice"] < 0.7 * min(found["repeated"], found["wider"]), found
    assert found["advice"] < 0.3 * found["start"], found


def test_following_the_advice_brings_every_minimum_inside():
    start = [*centred(6, -4, BUDGETS[:2]), *centred(6, 4, BUDGETS[2:])]
    (before,) = fit_study(table(start), SETTINGS).frontiers
    assert [each.params.kind for each in before.optima] == [RefusalKind.MINIMUM_AT_EDGE] * 4
    cells = followed(start, 1.5 * sum(float(budget) for budget, _, _ in start), 0)
    (after,) = fit_study(table(cells), SETTINGS).frontiers
    assert all(isinstance(each.params, Estimate) for each in after.optima)
    values = [each.params.value for each in after.optima]
    assert all(low < high for low, high in pairwise(values))


@pytest.mark.slow
@pytest.mark.parametrize(("shifts", "most"), [(SKEWED, 0.3), ((0, 0, 0, 0), 0.9)], ids=["edges", "centred"])
def test_the_advice_beats_fixed_grids_over_many_studies(capsys, shifts, most):
    found = compared(40, shifts)
    with capsys.disabled():
        print()
        for name, square in found.items():
            print(f"{name:10} N* known to a factor of {np.exp(np.sqrt(square)):.3f} either way")
    assert found["advice"] < most * min(found["repeated"], found["wider"]), found
