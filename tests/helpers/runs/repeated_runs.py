"""Run tables that repeat their text, drawn from planted truths.

.venv/bin/python -m tests.helpers.runs.repeated_runs FILE.csv     # the table of two arms that pages show
"""

import sys

import numpy as np
import polars as pl

from analysis.surface.extended.repeated_law import RepeatedLaw
from analysis.surface.extended.repetition import Form
from analysis.surface.law import parameter_vector

CORPORA = (3e6, 1e7, 3e7, 3e8)
PASSES = (0.5, 1, 4, 8, 16, 32)


def planted_law(form: Form, *constants: float) -> RepeatedLaw:
    """L = 1.8 + 400 / N^0.34 + 2000 / D^0.36, and what the form adds to it."""
    theta = parameter_vector(np.log(400), np.log(2000), np.log(1.8), 0.34, 0.36, *np.log(constants))
    return RepeatedLaw(form=form, theta_kp=theta[None], centre=(0.0, 0.0))


def repeated_table(
    law: RepeatedLaw, *, corpora=CORPORA, passes=PASSES, sizes=(1e5, 3e5, 1e6, 3e6), noise=0.001, random_seed=0
) -> pl.DataFrame:
    """One row a run of every size on every corpus, read so often: N, D, passes, loss."""
    rng = np.random.default_rng(random_seed)
    rows = []
    for params in sizes:
        for corpus in corpora:
            for often in passes:
                tokens = corpus * often
                loss = float(law.loss(params, tokens, min(corpus, tokens))[0, 0]) * np.exp(noise * rng.normal())
                rows.append({"params": params, "tokens": tokens, "unique_tokens": corpus, "loss": loss})
    return pl.DataFrame(rows)


KAPPAS = {"vanilla": 0.03, "looped": 0.015}
"""What repetition costs the two arms of `two_arms`, which are alike on fresh text."""
FRESH_CORPUS = 1e12
SEEN = (1e9, 3e9, 1e10, 3e10)


def two_arms(
    *, kappas=KAPPAS, sizes=(1e7, 3e7, 1e8, 3e8), seen=SEEN, corpora=(1e8, 3e8, 1e9), seeds=(0, 1), noise=0.002
) -> pl.DataFrame:
    """One row a run of every arm, size and D on fresh text and on every smaller corpus: each has its twin."""
    rng = np.random.default_rng(7)
    rows = []
    for arm, kappa in kappas.items():
        law = planted_law("overfitting", kappa)
        for params in sizes:
            for tokens in seen:
                for corpus in (FRESH_CORPUS, *(corpus for corpus in corpora if corpus < tokens)):
                    for seed in seeds:
                        loss = float(law.loss(params, tokens, min(corpus, tokens))[0, 0]) * np.exp(noise * rng.normal())
                        place = {"arm": arm, "params": params, "tokens": tokens, "unique_tokens": corpus, "seed": seed}
                        rows.append(place | {"loss": round(loss, 5)})
    return pl.DataFrame(rows)


def one_budget(
    *, kappas=KAPPAS, sizes=(2e4, 4e4, 8e4), corpora=(2e5, 1e5, 5e4, 2.5e4), seeds=(0, 1), noise=0.01, random_seed=0
) -> pl.DataFrame:
    """One row a run of every arm and size at one budget, on fresh text and on every corpus; `noise` in units of loss.
    Fresh losses obey no law of N and D."""
    rng = np.random.default_rng(random_seed)
    rows = []
    for arm, kappa in kappas.items():
        for params in sizes:
            tokens, level = 1e11 / (6 * params), 4 + 0.1 * rng.normal()
            for corpus in (FRESH_CORPUS, *corpora):
                again = max(tokens / corpus - 1, 0.0)
                cost = kappa * again ** (1 / 3) * (params / corpus) ** (2 / 3)
                for seed in seeds:
                    place = {"arm": arm, "params": params, "tokens": tokens, "unique_tokens": corpus, "seed": seed}
                    rows.append(place | {"unrolled": 2 * params, "loss": level + cost + noise * rng.normal()})
    return pl.DataFrame(rows)


if __name__ == "__main__":
    two_arms().write_csv(sys.argv[1])
