"""Run tables that repeat their text, drawn from planted truths."""

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
