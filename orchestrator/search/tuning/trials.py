"""What `tune` tries: settings of the hyper-parameters at a rung, as cells of a sweep like any other. Pure.

A rung is one arm and size, trained for one number of tokens. A trial is one setting there; its cells (one a seed and
number of tokens) are content-addressed, so nothing is trained twice and the trials of a sweep are read off its cells.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.tuning.response import Trial
from mor_core.config.own_model import Model, OwnModel
from mor_core.config.sizes import Size
from mor_core.config.training import TrainConfig
from mor_core.data.snapshot import DataSnapshot
from mor_core.flops import unique_params, unrolled_params
from orchestrator.planning.cells import Cell
from orchestrator.planning.ladder import check_named_sizes, sizes_named, windows
from orchestrator.planning.plan import plan
from orchestrator.planning.recipe import batch_size, peak_learning_rate, resolve_model
from orchestrator.planning.spec.arms import Arm
from orchestrator.planning.spec.sweep_file import SweepFile
from orchestrator.planning.spec.sweep_spec import SweepSpec, parse_spec

LEARNING_RATE, BATCH_SIZE, WEIGHT_DECAY, WARMUP = "learning_rate", "batch_size", "weight_decay", "warmup"

AROUND_RECIPE = 4.0
"""Factor either way of the sweep's own learning rate that is tried where no range is given."""

DEFAULT_WARMUP = 0.05
"""Share of the steps where the sweep file gives steps or a budget and no share: the paper's."""

RUNGS = 3
"""Sizes that are tuned where none are named: the smallest, the middle and the largest of the sweep."""

Values = Mapping[str, float]
"""Hyper-parameter -> its value in a trial."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """What values a hyper-parameter may take."""

    low: float
    """Lowest, above 0."""
    high: float
    """Highest."""
    choices: tuple[int, ...] = ()
    """The only values, ascending; empty where every value between the ends will do."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What is varied, as asked for."""

    learning_rate: Range | None = None
    """None: a factor of 4 either way of the sweep's own."""
    batch_size: Range | None = None
    """Sequences per step; None keeps the sweep's."""
    weight_decay: Range | None = None
    """None keeps the sweep's."""
    warmup: Range | None = None
    """Share of the steps; None keeps the sweep's."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Where trials are compared with each other."""

    arm: Arm
    """The architecture."""
    size: str
    """Base shape, or size of an own model."""
    model: Model
    """Both resolved."""
    tokens: int
    """Training tokens that trials are judged at."""
    ranges: Mapping[str, Range]
    """What is varied here."""
    warmup: float
    """Share of the steps where that is not varied."""

    @property
    def name(self) -> str:
        """Such as mor-2 51k."""
        return f"{self.arm.label} {self.size}"

    @property
    def params(self) -> int:
        """N of the laws: unrolled non-embedding parameters."""
        return unrolled_params(self.model)

    def holds(self, cell: Cell) -> bool:
        """Whether a cell is of its arm and size."""
        return (cell.arm, cell.size) == (self.arm.label, self.size)

    def steps(self, batch: int) -> int:
        """Optimiser steps of a trial."""
        return max(1, round(self.tokens / (batch * self.model.context_length)))


def rungs_of(
    spec: SweepSpec, sizes: Sequence[str] | None, space: SearchSpace, tokens_per_param: float
) -> tuple[Rung, ...]:
    """The rungs of a sweep's arms: the sizes named, or the ends and the middle of what the sweep would train, also for
    an own model of which none is named.

    Raises SpecError for a size that there is not.
    """
    check_named_sizes(spec, sizes or ())
    return tuple(
        _rung(spec, arm, size, space, tokens_per_param)
        for arm in spec.members
        for size in _sizes_to_tune(spec, arm, sizes or ())
    )


def _sizes_to_tune(spec: SweepSpec, arm: Arm, names: Sequence[str]) -> Sequence[Size | OwnModel]:
    named = sizes_named(spec, arm, names) if names else ()
    return named or _spread(spec, arm)


def _spread(spec: SweepSpec, arm: Arm) -> list[Size | OwnModel]:
    sizes = {size for window in windows(spec, arm).values() for size in window.sizes}
    ordered = sorted(sizes, key=lambda size: unique_params(resolve_model(spec, arm, size)))
    places = sorted({0, len(ordered) // 2, len(ordered) - 1})[:RUNGS]
    return [ordered[place] for place in places]


def _rung(spec: SweepSpec, arm: Arm, size: Size | OwnModel, space: SearchSpace, tokens_per_param: float) -> Rung:
    model = resolve_model(spec, arm, size)
    recipe_rate = peak_learning_rate(spec, arm, model, budget=spec.goals[0])
    ranges = {
        LEARNING_RATE: space.learning_rate or Range(low=recipe_rate / AROUND_RECIPE, high=recipe_rate * AROUND_RECIPE),
        BATCH_SIZE: space.batch_size,
        WEIGHT_DECAY: space.weight_decay,
        WARMUP: space.warmup,
    }
    step = batch_size(spec, arm, model) * model.context_length
    return Rung(
        arm=arm,
        size=size.name,
        model=model,
        tokens=max(step, round(tokens_per_param * unique_params(model))),
        ranges={key: limits for key, limits in ranges.items() if limits is not None},
        warmup=spec.schedule.warmup_fraction or DEFAULT_WARMUP,
    )


def rounded(values: Values) -> dict[str, float]:
    """Values short enough to be written in full: they are part of identities."""
    digits = {LEARNING_RATE: 3, WEIGHT_DECAY: 2, WARMUP: 2}
    return {
        name: float(round(value)) if name == BATCH_SIZE else float(f"{value:.{digits[name]}g}")
        for name, value in values.items()
    }


def tune_spec(file: SweepFile, name: str, seeds: Sequence[int]) -> SweepSpec:
    """What all trials of a tuning have in common, with its settings: the tuned values of no trial in particular."""
    spec = parse_spec(file)
    batch = batch_size(spec, spec.members[0], resolve_model(spec, spec.members[0], _any_size(spec)))
    document = _document(file, name, seeds) | {"tokens": ["1e9"], "sizes": {"names": [_any_size(spec).name]}}
    document["schedule"]["warmup_steps"] = 1
    document["train"] |= {"peak_learning_rate": 1.0, "batch_size": batch}
    return parse_spec(SweepFile(source=file.source, document=document))


def _any_size(spec: SweepSpec):
    return next(size for window in windows(spec, spec.members[0]).values() for size in window.sizes)


def trial_cells(
    file: SweepFile,
    name: str,
    rung: Rung,
    values: Values,
    *,
    seeds: Sequence[int],
    multiples: Sequence[float],
    data: DataSnapshot,
) -> tuple[Cell, ...]:
    """The cells of one trial: each seed, at each multiple of the rung's tokens, on one trunk a seed.

    Raises SpecError where the values are none that a model can be trained with, PlanError where no step is left.
    """
    document = _document(file, name, seeds)
    batch = int(values.get(BATCH_SIZE, batch_size(parse_spec(file), rung.arm, rung.model)))
    document["tokens"] = [str(round(rung.tokens * multiple)) for multiple in sorted(multiples)]
    document |= {"only": [rung.arm.label], "sizes": {"names": [rung.size]}}
    warmup = values.get(WARMUP, rung.warmup)
    document["schedule"]["warmup_steps"] = max(1, round(warmup * rung.steps(batch)))
    document["train"] |= {"batch_size": batch, "peak_learning_rate": values[LEARNING_RATE]}
    if WEIGHT_DECAY in values:
        document["train"]["weight_decay"] = values[WEIGHT_DECAY]
    spec = parse_spec(SweepFile(source=file.source, document=document))
    return plan(spec, data).cells


def _document(file: SweepFile, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The sweep file without what trials decide."""
    document = copy.deepcopy(file.document) | {"name": name, "seeds": list(seeds), "trunks": "shared"}
    document.pop("budgets", None)
    for table, keys in (
        ("schedule", ("warmup_budget", "warmup_fraction")),
        ("train", ("learning_rate", "batch_law", "peak_learning_rate", "batch_size")),
    ):
        document[table] = {key: value for key, value in document.get(table, {}).items() if key not in keys}
    return document


def values_of(rung: Rung, train: TrainConfig) -> dict[str, float]:
    """What a trial's optimiser says of the hyper-parameters that are varied."""
    share = train.warmup_steps / rung.steps(train.batch_size)
    values = {
        LEARNING_RATE: train.peak_learning_rate,
        BATCH_SIZE: float(train.batch_size),
        WEIGHT_DECAY: train.weight_decay,
        WARMUP: share,
    }
    return {name: values[name] for name in rung.ranges}


@dataclass(frozen=True, kw_only=True)
class TriedRung:
    """A rung and what has been trained there."""

    rung: Rung
    """Which."""
    trials: tuple[Trial, ...]
    """Judged at the rung's tokens, in the order in which they were asked for."""
    elsewhere: Mapping[int, tuple[Trial, ...]]
    """The same settings at other numbers of tokens."""


def tried(rung: Rung, cells: Iterable[Cell], rows: Mapping[str, Mapping[str, Any]]) -> TriedRung:
    """The trials of a rung among a sweep's cells; `rows` are records of the run table by cell id."""
    rung_cells = [cell for cell in cells if rung.holds(cell)]
    groups: dict[int, dict[TrainConfig, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in rung_cells:
        goal = rung.tokens if cell.steps == rung.steps(cell.train.batch_size) else cell.tokens
        groups[goal][cell.train].append(cell)
    trials = {
        goal: tuple(_trial(rung, train, members, rows) for train, members in settings.items())
        for goal, settings in groups.items()
    }
    return TriedRung(rung=rung, trials=trials.pop(rung.tokens, ()), elsewhere=dict(sorted(trials.items())))


def _trial(rung: Rung, train: TrainConfig, cells: Sequence[Cell], rows: Mapping[str, Mapping[str, Any]]) -> Trial:
    trial_rows = [rows[str(cell.cell_id)] for cell in cells if str(cell.cell_id) in rows]
    losses = [row["loss"] for row in trial_rows if row["status"] == "finished" and row["loss"] is not None]
    return Trial(
        values=values_of(rung, train),
        losses=tuple(loss for loss in losses if math.isfinite(loss)),
        diverged=sum(row["status"] == "diverged" for row in trial_rows),
    )
