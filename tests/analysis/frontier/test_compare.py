import pytest

from analysis.frontier.study import fit_study
from analysis.statistics.answers import Estimate, Refusal

ARMS = ("mor-2", "vanilla")


def test_a_planted_gap_is_found_with_its_sign(planted, truths):
    study = fit_study(planted(truths["bowl"], arms=ARMS, arm_gap=0.05, seeds=2, cell_noise=0.004))
    assert len(study.comparisons) == 4
    for comparison in study.comparisons:
        assert comparison.gap.high < 0
        assert "mor-2 is better" in comparison.sentence
    # Each interval holds the truth in 95 % of studies, so one of four may miss it here.
    assert sum(comparison.gap.low < -0.05 < comparison.gap.high for comparison in study.comparisons) >= 3


def test_equal_arms_are_reported_as_no_difference_seen_with_what_could_have_been(planted, truths):
    study = fit_study(planted(truths["bowl"], arms=ARMS, seeds=2, cell_noise=0.004))
    silent = [comparison for comparison in study.comparisons if comparison.gap.holds_zero]
    assert len(silent) >= 3
    for comparison in silent:
        assert "no difference seen" in comparison.sentence
        assert f"{comparison.smallest_visible_gap:.4f}" in comparison.sentence


def test_noise_that_both_arms_share_narrows_their_gap_as_far_as_it_surely_is_shared(planted, truths):
    shared = planted(truths["bowl"], arms=("vanilla",), sizes=9, trunk_noise=0.008)
    same = shared.with_columns(
        arm=shared["arm"].str.replace("vanilla", "mor-2"), cell_id=shared["cell_id"] + "b", loss=shared["loss"] - 0.001
    )
    # The same losses under another seed: nothing says that their noise has anything in common.
    apart = same.with_columns(seed=same["seed"] + 1, trunk_id=same["trunk_id"] + "b")
    paired, unpaired = (fit_study(shared.vstack(each)).comparisons for each in (same, apart))
    for one, other in zip(paired, unpaired, strict=True):
        assert isinstance(one.gap, Estimate)
        assert isinstance(other.gap, Estimate)
        assert one.gap.value == other.gap.value == pytest.approx(-0.001, abs=1e-9)
        assert one.gap.high - one.gap.low < 0.8 * (other.gap.high - other.gap.low)


def test_an_arm_without_an_optimum_is_not_compared(planted):
    good, bad = planted(arms=("mor-2",)), planted(arms=("vanilla",), shift=8)
    study = fit_study(good.vstack(bad))
    assert all(isinstance(comparison.gap, Refusal) for comparison in study.comparisons)
    assert "no supported optimum for vanilla" in study.comparisons[0].sentence
    assert study.comparisons[0].smallest_visible_gap is None


def test_arms_are_compared_at_shared_budgets_only(planted):
    one = planted(arms=("mor-2",), budgets=("1000000000000", "3000000000000"))
    two = planted(arms=("vanilla",), budgets=("3000000000000", "10000000000000"))
    assert [comparison.budget for comparison in fit_study(one.vstack(two)).comparisons] == ["3000000000000"]


def test_the_mean_over_budgets_shows_a_gap_that_single_budgets_are_too_noisy_for(planted, truths):
    study = fit_study(planted(truths["bowl"], arms=ARMS, arm_gap=0.006, seeds=2, cell_noise=0.006))
    (pair,) = study.over_budgets
    assert len(pair.budgets) == 4
    assert any(comparison.gap.holds_zero for comparison in study.comparisons)
    assert pair.gap.low < -0.006 < pair.gap.high < 0
    assert "mor-2 against vanilla over 4 budgets: mor-2 is better; mean gap -0.0" in pair.sentences[0]


def test_the_interval_of_a_mean_gap_holds_the_truth(planted, truths):
    """40 studies; 95 % intervals miss more than six of them in one case of 250."""
    plant = {"arms": ARMS, "arm_gap": 0.01, "seeds": 2, "cell_noise": 0.004, "trunk_noise": 0.004}
    studies = (fit_study(planted(truths["bowl"], random_seed=seed, **plant)) for seed in range(40))
    gaps = [study.over_budgets[0].gap for study in studies]
    assert sum(gap.low < -0.01 < gap.high for gap in gaps) >= 34
