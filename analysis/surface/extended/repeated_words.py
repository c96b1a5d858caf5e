"""The law of repeated text in words and as plain values."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.statistics.answers import Refusal
from analysis.surface.extended.excess import ArmExcess
from analysis.surface.extended.passes_ahead import PassesAhead
from analysis.surface.extended.repeated import FormScore, RepeatedFit, RepeatedOptimum
from analysis.surface.extended.repetition import FORMULAS
from mor_core.units import short_count

SYMBOLS = {"alpha": "α", "beta": "β", "kappa": "κ", "R_D": "R_D*", "R_N": "R_N*"}


def repeated_lines(fits: dict[str, RepeatedFit | Refusal]) -> list[str]:
    """The fits in words, one line each."""
    return [line for arm, fit in fits.items() for line in _lines(arm, fit)]


def _lines(arm: str, fit: RepeatedFit | Refusal) -> list[str]:
    if isinstance(fit, Refusal):
        return [f"{arm}: refused: {fit.sentence}"]
    shown = ", ".join(f"{SYMBOLS.get(name, name)} = {value.rounded}" for name, value in fit.parameters.items())
    return [
        f"{arm}: {FORMULAS[fit.form]} ({fit.form}), U the distinct tokens seen and R the repeats of each; {shown}",
        f"{arm}: {len(fit.best.problem.points)} runs, those that repeat their text included; "
        f"{fit.best.share_reached:.0%} of {fit.best.num_starts} starts reached the optimum, "
        f"condition {fit.best.condition:.1e}, residuals {fit.residuals.sd:.4f} in ln L",
        *(f"{arm}: {_score_text(score)}" for score in fit.scores),
    ]


def excess_lines(excesses: dict[str, ArmExcess | Refusal]) -> list[str]:
    """What repetition costs run by run, in words, one line an arm."""
    return [f"{arm}: {_excess_text(excess)}" for arm, excess in excesses.items()]


def _excess_text(excess: ArmExcess | Refusal) -> str:
    if isinstance(excess, Refusal):
        return f"excess over fresh text: refused: {excess.sentence}"
    kappas = {"exist": excess.kappa, "a token goes through": excess.kappa_unrolled}
    shown = [
        f"κ {kappa.estimate(excess.level).rounded} with N the parameters that {words}"
        for words, kappa in kappas.items()
        if kappa is not None
    ]
    noise = excess.noise
    scatter = "" if noise is None else f"; seeds of a cell scatter by {np.sqrt(noise.variance):.4f}"
    return (
        f"loss less that of the same run on fresh text, {excess.pairs.height} runs: κ R^(1/3) (N / U)^(2/3), "
        f"{', '.join(shown)}{scatter}"
    )


def excess_as_json(excess: ArmExcess) -> dict[str, Any]:
    """Everything but arrays; estimates and dataclasses are left for the caller to make plain."""
    unrolled = excess.kappa_unrolled
    columns = ("cell_id", "size", "seed", "params", "tokens", "unique", "epochs", "loss", "fresh_loss", "excess")
    return {
        "kappa": excess.kappa.estimate(excess.level),
        "kappa_unrolled": None if unrolled is None else unrolled.estimate(excess.level),
        "noise": excess.noise,
        "pairs": excess.pairs.select(columns).to_dicts(),
    }


def ahead_lines(rolled: dict[str, tuple[PassesAhead, ...] | Refusal]) -> Iterator[str]:
    """The back-test over passes, in words."""
    for arm, steps in rolled.items():
        if isinstance(steps, Refusal):
            yield f"{arm}: not rolled over its passes: {steps.sentence}"
        else:
            yield from (f"{arm}: {_ahead_text(step)}" for step in steps)


def _ahead_text(step: PassesAhead) -> str:
    fewest, most = step.passes
    errors = ", ".join(f"{form} {size:.2%} ({mean:+.2%})" for form, (mean, size) in step.errors.items())
    return (
        f"{step.fitted} runs of up to {step.most_passes:.3g} passes, asked for {step.predicted} of {fewest:.3g} to "
        f"{most:.3g}: off by {errors}"
    )


def _score_text(score: FormScore) -> str:
    parts = [f"{SYMBOLS[name]} {interval.rounded}" for name, interval in score.constants.items()]
    errors = ((score.by_corpus, "corpora"), (score.by_passes, "passes"))
    parts += [f"{error:.2%} off on {noun} left out" for error, noun in errors if error is not None]
    parts += [f"not told from a simpler law: {score.refused}"] if score.refused else []
    return f"{score.form}: {'; '.join([f'objective {score.objective:.4g}', *parts])}"


def corpus_lines(answers: dict[str, RepeatedOptimum | Refusal]) -> list[str]:
    """What to train with a budget and a corpus, one line an arm."""
    return [
        f"{arm}: refused: {answer.sentence}" if isinstance(answer, Refusal) else f"{arm}: {optimum_text(answer)}"
        for arm, answer in answers.items()
    ]


def optimum_text(answer: RepeatedOptimum) -> str:
    """What to train with a budget and a corpus."""
    epochs, loss = answer.epochs.estimate, answer.loss.estimate
    beyond = f"; no run passed over its text more than {answer.most_passes:.3g} times" if answer.beyond else ""
    return (
        f"N* {answer.params.estimate.shown(short_count)}, D* {answer.tokens.estimate.shown(short_count)} in "
        f"{epochs.value:.3g} [{epochs.low:.3g}, {epochs.high:.3g}] passes, "
        f"L* {loss.value:.4f} [{loss.low:.4f}, {loss.high:.4f}]{beyond}"
    )


def optimum_as_json(answer: RepeatedOptimum) -> dict[str, Any]:
    """Everything but the draws; estimates are left for the caller to make plain."""
    numbers = {name: getattr(answer, name).estimate for name in ("params", "tokens", "epochs", "loss")}
    place = {"arm": answer.arm, "budget": answer.budget, "unique_tokens": answer.unique_tokens}
    return place | numbers | {"most_passes": answer.most_passes}


def repeated_as_json(fit: RepeatedFit) -> dict[str, Any]:
    """Everything but arrays; estimates and dataclasses are left for the caller to make plain."""
    return {
        "form": fit.form,
        "formula": FORMULAS[fit.form],
        "parameters": fit.parameters,
        "scores": fit.scores,
        "corpora": fit.corpora,
        "num_points": len(fit.best.problem.points),
        "objective": fit.best.objective,
        "share_reached": fit.best.share_reached,
        "condition": fit.best.condition,
        "residuals": fit.residuals,
    }
