"""`mor-sweep backtest`: fit a study's first budgets, predict the later ones, and compare with what was measured."""

import typer

from orchestrator.cli.fits.study import (
    CAUSAL,
    Pinned,
    Runs,
    Tied,
    end_refused,
    fit_of,
    say_next_of,
)
from orchestrator.cli.options import AsJson, LossOption, options_from_dataclass, print_json, say


@options_from_dataclass
def backtest(
    source: Runs,
    loss: LossOption = CAUSAL,
    asymptote: Pinned = None,
    tied: Tied = False,
    as_json: AsJson = False,
) -> None:
    """Predict the later budgets from the first ones, and compare.

    Says how far off each law was. Exit code 5 where none can be fitted.
    """
    from analysis.advice.forecast.record import histories
    from analysis.frontier.study import backtest_repeats
    from analysis.report.backtests import backtests_as_json, backtests_as_markdown, repeats_as_markdown
    from analysis.report.text import plain
    from analysis.statistics.answers import Refusal

    fitted = fit_of(source, loss, ("parabola",), tied=tied)
    records = histories(fitted.study, asymptote)
    repeats = backtest_repeats(fitted.runs, fitted.study.settings)
    reasons = [f"{arm}: {record.sentence}" for arm, record in records.items() if isinstance(record, Refusal)]
    points = fitted.study.points
    if as_json:
        content = {"source": fitted.name, "budget_convention": points.budget_convention}
        content |= {"loss_column": points.loss_column, "loss_unit": points.loss_unit, "asymptote": asymptote}
        print_json("mor-sweep.backtest/1", content | backtests_as_json(records) | {"repeats": plain(repeats)})
    if len(reasons) == len(records) and all(isinstance(steps, Refusal) for steps in repeats.values()):
        reasons += [f"{arm}: {steps.sentence}" for arm, steps in repeats.items() if isinstance(steps, Refusal)]
        end_refused(reasons or ["the table has no run that a fit can use"])
    if as_json:
        return
    for reason in reasons:
        say(f"refused: {reason}")
    texts = [backtests_as_markdown(records)] if len(reasons) < len(records) else []
    typer.echo("\n".join([*texts, *([repeats_as_markdown(repeats)] if repeats else [])]), nl=False)
    say_next_of(source, fitted.name, "plot backtest")
