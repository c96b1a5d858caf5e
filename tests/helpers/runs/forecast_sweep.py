"""A planted sweep of one arm that can be forecast, and a forecast made up by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.advice.forecast.forecast import RunNoise
from analysis.advice.forecast.frozen_forecast import ForecastKey, ForecastShape, FrozenForecast
from analysis.advice.forecast.frozen_law import FrozenLaw, FrozenSurface
from analysis.statistics.answers import Estimate
from analysis.statistics.bootstrap import Resampling
from analysis.surface.law import SurfaceLaw
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

SIZES = ["13k", "23k", "35k", "51k", "70k", "115k", "170k"]
BUDGETS = ["8e10", "1.6e11", "3.2e11"]
AHEAD = "1e12"
"""Some three times the largest budget."""


def forecast_sweep(root: Path) -> PlantedSweep:
    """Seven sizes at three budgets, two seeds of one of them."""
    sweep = PlantedSweep(store=Store(root=root))
    train(sweep, BUDGETS, SIZES)
    train(sweep, BUDGETS[1:2], SIZES[1:4], seeds=[1])
    return sweep


def train(sweep: PlantedSweep, budgets: list[str], sizes: list[str], **changes: object) -> None:
    """More cells of the arm, with the losses of the planted law."""
    grid = overrides(budgets=budgets, sizes={"names": sizes}, arms__architectures=["vanilla"], **changes)
    sweep.publish(sweep.plan(SNAPSHOT, grid))


def plan_only(sweep: PlantedSweep, budgets: list[str], sizes: list[str]) -> None:
    """The same, planned and not trained."""
    sweep.plan(SNAPSHOT, overrides(budgets=budgets, sizes={"names": sizes}, arms__architectures=["vanilla"]))


def copy_at(sweep: PlantedSweep, root: Path) -> PlantedSweep:
    """The sweep in another results folder."""
    return replace(sweep, store=Store(root=root))


def made_up_forecast(
    budget: str = "1000000000000", arm: str = "vanilla", created: str = "2026-01-02"
) -> FrozenForecast:
    """A surface whose draws differ in their asymptote."""
    resampling = Resampling(draws=100)
    law = _made_up_law()
    shape = ForecastShape(size="115k", num_layers=8, d_model=36, params=114_660.0, tokens=1.1e6)
    mean = law.loss_of(shape.params, shape.tokens, float(budget)).estimate
    count = Estimate(value=1.2e5, low=1e5, high=1.4e5, level=0.95)
    return FrozenForecast(
        key=ForecastKey(arm=arm, budget=budget, loss_column="loss", inputs_sha256="0" * 64, approach="surface"),
        budget_convention="exact",
        loss_unit="nats/token",
        reach=3.0,
        params=count,
        tokens=count,
        loss=mean,
        shape=shape,
        mean_loss=mean,
        run_loss=mean,
        law=law,
        weight=1.0,
        record="",
        noise=RunNoise(sd=0.001, dof=3),
        resampling=resampling,
        settings_id="",
        known=(),
        created=f"{created}T03:04:05+00:00",
        versions={"mor-sweep": "0.1.0"},
    )


def _made_up_law() -> FrozenLaw:
    theta_kp = np.tile([0.5, 1.0, 1.0, 0.4, 0.4], (101, 1))
    theta_kp[1:, 0] += np.linspace(-0.01, 0.01, 100)
    return FrozenLaw(
        parts={"surface": FrozenSurface(law=SurfaceLaw(theta_kp=theta_kp, centre=(11.0, 13.0)))},
        weights={"surface": 1.0},
        drift={"surface": np.linspace(-0.001, 0.001, 100)},
        chosen_k=("surface",) * 100,
        largest=3e11,
        level=0.95,
    )
