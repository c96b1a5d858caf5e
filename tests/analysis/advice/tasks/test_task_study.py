import json

import numpy as np
import polars as pl
import pytest

from analysis.advice.tasks.direct import DirectLaw, law_at
from analysis.advice.tasks.held_out import SizeHeldOut, leave_sizes_out
from analysis.advice.tasks.task_study import fit_task_study
from analysis.advice.tasks.two_steps import TaskLaw, TaskPrediction
from analysis.frontier.study import FitSettings, fit_study
from analysis.runs.losses import LossError, loss_values, parse_loss
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.optimum import SurfaceRules
from tests.helpers.runs.planted_tasks import CHANCE, LAW, RATE, planted_score, planted_task

FEW = FitSettings(loss_column="bpb:quiz", approaches=("surface",), resampling=Resampling(draws=100))


def laws_of(runs, chance: float | None = CHANCE):
    (arm,) = fit_task_study(runs, "quiz", fit_study(runs, FEW), chance=chance).arms
    return arm


@pytest.fixture(scope="module")
def planted_laws():
    return laws_of(planted_task())


def test_a_planted_two_step_law_is_recovered(planted_laws):
    law = planted_laws.two_steps
    assert isinstance(law, TaskLaw)
    assert law.curve.rate == pytest.approx(RATE, rel=0.05)
    params, tokens = 6e9, 6e11
    answer = law.predict(params, tokens)
    assert isinstance(answer, TaskPrediction)
    bits = LAW.loss(params, tokens)
    assert answer.bits_per_byte.low <= bits <= answer.bits_per_byte.high
    assert answer.score.low <= planted_score(bits) <= answer.score.high
    assert answer.run.high - answer.run.low > answer.score.high - answer.score.low
    assert answer.score.high - answer.score.low < 0.1
    assert answer.reach == pytest.approx(params * tokens / (200 * 1.6e9**2), rel=1e-6)


def test_without_noise_both_steps_are_exact():
    law = laws_of(planted_task(noise_bits=0, noise_score=0)).two_steps
    assert isinstance(law, TaskLaw)
    answer = law.predict(6e9, 6e11)
    assert isinstance(answer, TaskPrediction)
    assert answer.score.value == pytest.approx(float(planted_score(LAW.loss(6e9, 6e11))), abs=2e-4)


def test_far_beyond_the_runs_a_score_is_refused_unless_forced(planted_laws):
    far = planted_laws.two_steps.predict(1e12, 1e14)
    assert isinstance(far, Refusal)
    assert far.kind == RefusalKind.EXTRAPOLATION
    assert isinstance(planted_laws.two_steps.predict(1e12, 1e14, forced=True), TaskPrediction)


def test_laws_by_compute_answer_at_their_own_ratios_only():
    share = (-1.2 * (pl.col("flops") / 1e20) ** -0.15).exp()
    runs = planted_task().with_columns(score=CHANCE + (1 - CHANCE) * share + 0.01 * (pl.col("score") - 0.5).sin())
    laws = laws_of(runs).direct
    assert isinstance(laws, tuple)
    assert [law.ratio for law in laws] == pytest.approx([20.0, 40.0, 100.0, 200.0])
    law = law_at(laws, 105.0)
    assert isinstance(law, DirectLaw)
    assert law.curve.rate == pytest.approx(0.15, rel=0.1)
    answer = law.predict(4 * law.largest_flops)
    assert isinstance(answer, Estimate)
    truth = CHANCE + (1 - CHANCE) * np.exp(-1.2 * (4 * law.largest_flops / 1e20) ** -0.15)
    assert answer.value == pytest.approx(truth, abs=0.01)
    assert isinstance(law.predict(1000 * law.largest_flops), Refusal)
    between = law_at(laws, 60.0)
    assert isinstance(between, Refusal)
    assert "60 tokens per parameter" in between.sentence


@pytest.mark.slow
def test_a_size_left_out_is_predicted(planted_laws):
    held_out = leave_sizes_out(planted_laws.cells, SurfaceRules(), Resampling(draws=100))
    assert list(held_out) == ["1e+08", "2e+08", "4e+08", "8e+08", "1.6e+09"]
    answers = [answer for answer in held_out.values() if isinstance(answer, SizeHeldOut)]
    assert len(answers) >= 4
    assert [answer.extrapolates for answer in answers].count(True) <= 2
    assert sum(answer.inside for answer in answers) >= 0.8 * sum(answer.cells for answer in answers)
    assert all(answer.mean_size < 0.02 for answer in answers)


def test_a_first_step_that_is_refused_says_so():
    one_ratio = laws_of(planted_task(ratios=(200.0,), midpoint=0.85, sizes=tuple(np.geomspace(1e8, 1.6e9, 8))))
    assert isinstance(one_ratio.two_steps, Refusal)
    assert one_ratio.two_steps.kind == RefusalKind.NOT_IDENTIFIED
    assert one_ratio.two_steps.sentence.startswith(
        "bits per byte of the right answer by N and D: N and D move together"
    )


def test_a_task_at_chance_has_no_law():
    arm = laws_of(planted_task(midpoint=-3.0, noise_score=0.01))
    assert isinstance(arm.two_steps, Refusal)
    assert arm.two_steps.kind == RefusalKind.AT_CHANCE
    assert isinstance(arm.direct, Refusal)


def test_sizes_too_close_together_are_not_read_beyond():
    law = laws_of(planted_task(sizes=(1e8, 1.2e8, 1.44e8, 1.7e8, 2e8), noise_bits=0.0003)).two_steps
    assert isinstance(law, Refusal) or isinstance(law.predict(2e9, 4e10), Refusal)


def test_chance_is_asked_for_where_the_table_does_not_say_it():
    with pytest.raises(LossError, match="picking at random"):
        laws_of(planted_task(), chance=None)
    with pytest.raises(LossError, match="expected one share"):
        laws_of(planted_task(), chance=25.0)
    assert isinstance(laws_of(planted_task().with_columns(chance=0.25), chance=None).two_steps, TaskLaw)


def test_scores_that_are_no_shares_are_refused():
    with pytest.raises(LossError, match="expected a share"):
        laws_of(planted_task().with_columns(score=pl.col("score") * 100))
    with pytest.raises(LossError, match="no scores on quiz"):
        laws_of(planted_task().drop("score"))


def test_the_scores_of_a_sweep_carry_their_chance_and_bits():
    runs = planted_task()
    texts = [
        json.dumps({"quiz": {"score": score, "chance": CHANCE, "bits_per_byte": bits, "fingerprint": "f"}})
        for score, bits in runs.select("score", "bpb:quiz").iter_rows()
    ]
    of_sweep = runs.drop("score", "bpb:quiz").with_columns(tasks=pl.Series(texts))
    bits = loss_values(of_sweep, parse_loss("bpb:quiz"))
    assert bits is not None
    assert bits.to_list() == pytest.approx(runs["bpb:quiz"].to_list())
    assert isinstance(laws_of(of_sweep, chance=None).two_steps, TaskLaw)


def test_scores_of_old_have_no_bits_and_say_what_to_do():
    old = json.dumps({"quiz": {"score": 0.4, "chance": CHANCE, "fingerprint": "f"}})
    runs = planted_task().drop("score", "bpb:quiz").with_columns(tasks=pl.lit(old))
    with pytest.raises(LossError, match="no cell has bpb:quiz") as error:
        laws_of(runs)
    assert error.value.fix is not None
    assert error.value.fix.verb == "eval"
