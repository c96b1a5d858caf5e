"""Laws of repeated text against the published fit of published runs (`results/published/repeated`)."""

import numpy as np
import polars as pl
import pytest

from analysis.surface.extended.repeated_law import RepeatedPoints
from analysis.surface.extended.repetition import CONSTANTS
from analysis.surface.optimum import SurfaceRules, fit_from
from analysis.surface.profile import profiles
from tests.helpers.runs.published_tables import published

LEFT_OUT = [
    "14m7b5100m",
    "14m300b100m",
    "619m3b9100m",
    "619m5b9100m",
    "619m7b5100m",
    "619m22b100m",
    "421m300b1b5",
    "221m91b400m",
    "221m174b400m",
    "221m600b400m",
]
"""What the authors' fit leaves out of the models below 1e9 parameters."""
LN_A, LN_B, LN_E, ALPHA = 6.255414, 7.3049974, 0.6254804, 0.3526596
PUBLISHED = {"R_D": 15.387756, "R_N": 5.309743}


def authors_points(form):
    runs = published("datablations/runs.csv").filter(~pl.col("name").is_in(LEFT_OUT))
    params, tokens, unique, loss = (runs[name].to_numpy() for name in ("params", "tokens", "unique_tokens", "loss"))
    return RepeatedPoints(
        form=form,
        log_params=np.log(params),
        log_tokens=np.log(tokens),
        log_unique=np.log(np.minimum(unique, tokens)),
        loss=loss,
    )


def authors_fit(form):
    """The law of fresh text held at what the authors took for C4, the form's own constants free."""
    points = authors_points(form)
    log_n, log_d = points.centre
    fresh = [LN_A - ALPHA * log_n, LN_B - ALPHA * log_d, LN_E, ALPHA, ALPHA]
    grid = [(x, y)[: len(CONSTANTS[form])] for x in (0.0, 2.0, 4.0) for y in (0.0, 2.0)]
    starts = np.array([[*fresh, *each] for each in grid])
    return fit_from(points, SurfaceRules(), starts, np.eye(starts.shape[1])[:, 5:])


def test_the_published_constants_lie_in_the_intervals_of_the_authors_own_procedure():
    best = authors_fit("decay")
    assert len(best.problem.points) == 128
    assert best.share_reached == 1.0
    for each in profiles(best, 0.95, CONSTANTS["decay"]):
        assert each.bounded
        assert each.interval.low <= PUBLISHED[each.name] <= each.interval.high
    values = dict(zip(CONSTANTS["decay"], np.exp(best.theta[5:]), strict=True))
    assert values == pytest.approx({"R_D": 7.594, "R_N": 12.33}, rel=1e-3)


def test_the_published_pair_is_not_the_optimum_of_its_objective():
    best = authors_fit("decay")
    theta = np.array([[*best.theta[:5], *np.log(list(PUBLISHED.values()))]])
    assert best.problem.objective(theta)[0] > best.objective * 1.01
