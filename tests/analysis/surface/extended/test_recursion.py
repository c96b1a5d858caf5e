import numpy as np
import polars as pl
import pytest

from analysis.runs.points import read_points
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.extended.recursion import RecursionFit, RecursionPoints, fit_recursion
from analysis.surface.optimum import SurfaceRules
from analysis.surface.problem import Problem
from tests.helpers.runs.derivatives import assert_derivatives_are_those_of_differences

FEW = Resampling(draws=200)


def recursive_table(*, counts, phi, noise=0.0, routed=False, seed=0):
    """Arms with one recursion count each: a fifth of the unique parameters is passed once, the rest is shared."""
    rng = np.random.default_rng(seed)
    rows = []
    for count in counts:
        architecture = "vanilla" if count == 1 else "mor" if routed else "recursive"
        depth = count if not routed else (count + 1) / 2
        for budget in (1e13, 4e13, 1.6e14, 6.4e14):
            for step in range(7):
                unique = 2e5 * (budget / 1e13) ** 0.5 * 1.6 ** (step - 3)
                once, block = unique * 0.2, unique * 0.8
                tokens = budget / 6 / (once + depth * block)
                effective = once + (depth**phi * block if count > 1 else block)
                loss = 1.8 + 400 / effective**0.34 + 2000 / tokens**0.36
                name = f"{architecture}-{count}"
                rows.append(
                    {
                        "cell_id": f"{name}-{step}-{budget:g}",
                        "status": "finished",
                        "arm": name,
                        "architecture": architecture,
                        "size": f"{unique:.6g}",
                        "budget": f"{budget:.0f}",
                        "budget_convention": "exact",
                        "seed": 0,
                        "unique_params": round(unique),
                        "unrolled_params": round(once + count * block),
                        "recursions": count,
                        "depth_mean": float(depth),
                        "tokens": round(tokens),
                        "loss": loss * np.exp(noise * rng.normal()),
                        "loss_topk": loss,
                        "trunk_id": f"{name}-{step}-{budget:g}",
                    }
                )
    return pl.DataFrame(rows)


def fitted(table, resampling=FEW):
    return fit_recursion(table, read_points(table), SurfaceRules(), resampling)


@pytest.mark.parametrize("phi", [0.0, 0.46, 1.0])
def test_what_a_recursion_is_worth_is_recovered(phi):
    fit = fitted(recursive_table(counts=(1, 2, 4), phi=phi, noise=1e-5))
    assert isinstance(fit, RecursionFit)
    assert fit.phi["recursive"].value == pytest.approx(phi, abs=2e-3)
    assert fit.law.alpha == pytest.approx(0.34, abs=2e-3)
    assert fit.best.share_reached > 0.5


def test_a_routed_family_has_its_own_worth():
    fixed = recursive_table(counts=(1, 2, 3), phi=0.3, noise=1e-4)
    routed = recursive_table(counts=(2, 3), phi=0.7, noise=1e-4, routed=True, seed=1)
    fit = fitted(pl.concat([fixed, routed]))
    assert fit.phi["recursive"].value == pytest.approx(0.3, abs=0.02)
    assert fit.phi["mor"].value == pytest.approx(0.7, abs=0.02)


def test_the_interval_of_phi_holds_the_truth_and_widens_with_noise():
    narrow, wide = (fitted(recursive_table(counts=(1, 2, 4), phi=0.46, noise=noise)) for noise in (0.001, 0.003))
    for fit in (narrow, wide):
        assert fit.phi["recursive"].low <= 0.46 <= fit.phi["recursive"].high
    assert width(wide) > 1.5 * width(narrow)


def width(fit):
    return fit.phi["recursive"].high - fit.phi["recursive"].low


def test_one_recursion_count_identifies_nothing():
    fit = fitted(recursive_table(counts=(3,), phi=0.5))
    assert isinstance(fit, Refusal)
    assert fit.kind is RefusalKind.NOT_IDENTIFIED


def test_noise_that_drowns_the_recursion_is_not_identified():
    fit = fitted(recursive_table(counts=(1, 2), phi=0.5, noise=0.5))
    assert isinstance(fit, Refusal)


def test_a_table_without_recursion_is_silent(planted):
    table = planted()
    assert fit_recursion(table, read_points(table), SurfaceRules(), FEW) is None


def test_the_derivatives_of_the_law_agree_with_differences():
    rng = np.random.default_rng(0)
    n = 12
    points = RecursionPoints(
        families=("recursive", "mor"),
        log_params=rng.normal(11, 1, n),
        log_once=rng.normal(10, 1, n),
        log_recursive=rng.normal(11, 1, n),
        log_depth=np.log(rng.integers(1, 5, n)),
        family=rng.integers(0, 2, n),
        log_tokens=rng.normal(15, 1, n),
        loss=rng.uniform(2, 4, n),
    )
    theta = np.array([[-0.5, -0.4, 0.6, 0.3, 0.4, 0.2, 0.8]])
    for residual, delta in (("log", 0.05), ("loss", float("inf"))):
        problem = Problem(
            points=points,
            centre=points.centre,
            loss_kn=points.loss[None],
            weights_kn=rng.uniform(0, 2, (1, n)),
            delta=delta,
            residual=residual,
        )
        assert_derivatives_are_those_of_differences(problem, theta)
