"""Which settings to try next: the only file that imports optuna.

The first trials of a rung fill the range evenly; the others are proposed by Optuna's TPE sampler. Nothing is
kept by Optuna: its study is rebuilt from the trials that the store holds each time it is asked, so a torn study file,
a crash or a second driver cannot lose or corrupt one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from analysis.tuning.response import Trial
from orchestrator.search.tuning.trials import Range, Values, rounded


def propose(
    ranges: Mapping[str, Range], trials: Sequence[Trial], *, count: int, spread: int, seed: int
) -> list[dict[str, float]]:
    """`count` new settings, none of them tried before; the first `spread` of all trials fill the range evenly."""
    keys = {tuple(sorted(trial.values.items())) for trial in trials}
    proposals: list[dict[str, float]] = []
    evenly = _even(ranges, spread, seed)[len(trials) :]
    for values in [*evenly, *_by_tpe(ranges, trials, count, seed)]:
        key = tuple(sorted(values.items()))
        if key not in keys and len(proposals) < count:
            keys.add(key)
            proposals.append(values)
    return proposals


def _even(ranges: Mapping[str, Range], count: int, seed: int) -> list[dict[str, float]]:
    """A quasi-random net; along a single hyper-parameter, equal steps from end to end."""
    if len(ranges) == 1:
        shares_nd = np.linspace(0.0, 1.0, count)[:, None]
    else:
        # Halton rather than Sobol: any number of points is a good one.
        shares_nd = qmc.Halton(len(ranges), rng=seed).random(count)
    return [
        rounded({name: _at(limits, share) for (name, limits), share in zip(ranges.items(), row, strict=True)})
        for row in shares_nd
    ]


def _at(limits: Range, share: float) -> float:
    if limits.choices:
        return float(limits.choices[min(len(limits.choices) - 1, int(share * len(limits.choices)))])
    return float(limits.low * (limits.high / limits.low) ** share)


def _by_tpe(ranges: Mapping[str, Range], trials: Sequence[Trial], count: int, seed: int) -> list[dict[str, float]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(limits.choices)
        if limits.choices
        else optuna.distributions.FloatDistribution(limits.low, limits.high, log=True)
        for name, limits in ranges.items()
    }
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, constant_liar=True, seed=seed + len(trials))
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for trial in trials:
        if not _is_inside(ranges, trial.values) or not (trial.losses or trial.diverged):
            continue
        values = {name: int(value) if ranges[name].choices else value for name, value in trial.values.items()}
        # A setting that diverges is the worst there is; no other trial is ever cut short.
        state = optuna.trial.TrialState.COMPLETE if trial.counts else optuna.trial.TrialState.PRUNED
        value = trial.loss if trial.counts else None
        study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=value, state=state))
    # A few more than needed: rounding may make two of them one.
    proposals = (study.ask(distributions).params for _ in range(3 * count))
    return [rounded({name: float(value) for name, value in params.items()}) for params in proposals]


def _is_inside(ranges: Mapping[str, Range], values: Values) -> bool:
    """Whether a trial, perhaps of an earlier range, can be told to the study."""
    return all(
        int(values[name]) in limits.choices if limits.choices else limits.low <= values[name] <= limits.high
        for name, limits in ranges.items()
    )
