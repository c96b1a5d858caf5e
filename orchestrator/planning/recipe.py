"""Policy: from an arm and a size to a shape, a batch and a learning rate; from a budget to the sizes worth training.

Everything downstream obeys what is resolved here. Batch and peak rate depend on (arm, size) alone, so that budgets can
share a trunk; only trunks = "per-budget" lets the rate follow the budget.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from mor_core.config.model import ModelConfig, Recursion
from mor_core.config.own_model import Model, OwnModel
from mor_core.config.sizes import Size, model_config
from mor_core.config.training import TrainConfig
from mor_core.flops import unrolled_params
from mor_core.interop.layer_selection import source_layers
from mor_core.interop.llama_config import PretrainedError
from mor_core.interop.llama_folder import PretrainedLlama, read_llama
from orchestrator.planning.own_models.questions import OwnLadder, own_ladder
from orchestrator.planning.spec.arms import Arm
from orchestrator.planning.spec.sections import BatchLaw, LearningRateLaw
from orchestrator.planning.spec.sweep_file import SpecError
from orchestrator.planning.spec.sweep_spec import SweepSpec

PAPER_BATCH_SIZE = 1024
"""Sequences of 2048 tokens: the released configurations."""

PAPER_PEAK_LEARNING_RATE = 3e-3
"""From the released configurations of 360M. The rates of 135M, 730M and 1.7B are not published: 3e-3 serves them too.
The paper's optimiser (betas .9/.95, eps 1e-8, weight decay .1, clip 1) is TrainConfig's default."""

MOST_BATCH_DOUBLINGS = 24
"""Of a batch of one sequence: beyond that a law is mistaken."""

MOST_RAISED = 1.5
"""Times the layers of a size; beyond it an arm is another size by its depth, and a plan says so."""

OPTIMISER_FIELDS = ("beta1", "beta2", "adam_eps", "weight_decay", "gradient_clip", "decay_on")


@lru_cache(maxsize=8)
def _read_llama(folder: str) -> PretrainedLlama:
    return read_llama(folder)


def pretrained(spec: SweepSpec) -> PretrainedLlama | None:
    """The weights that the sweep's models start from, hashed once per process. Raises PretrainedError."""
    return _read_llama(spec.init_from.folder) if spec.init_from else None


def own_ladder_of(spec: SweepSpec, arm: Arm) -> OwnLadder:
    """What the object of an arm's own model answers: its sizes. Raises OwnImportError and OwnModelError."""
    assert arm.own is not None
    return own_ladder(arm.own.model, spec.model.vocab_size, spec.model.context_length)


def resolve_model(spec: SweepSpec, arm: Arm, size: Size | OwnModel) -> Model:
    """The size as the arm: its own depth where it has one, layers shared and routed; a size of an own model is resolved
    already. Raises SpecError, and PretrainedError where the sweep starts from weights that do not fit."""
    if isinstance(size, OwnModel):
        return size
    try:
        # A vanilla model shares nothing, so no sharing strategy is part of what it is.
        shared = Recursion()
        if arm.recursions > 1:
            shared = Recursion(count=arm.recursions, sharing=arm.sharing, kv=arm.kv)
        if weights := pretrained(spec):
            return _resolve_pretrained(spec, arm, weights, _depth(arm, size), shared)
        shape = model_config(
            replace(size, num_layers=_depth(arm, size)),
            vocab_size=spec.model.vocab_size,
            context_length=spec.model.context_length,
            recursion=shared,
            routing=arm.routing,
            fit_depth=arm.fit_depth,
        )
        return replace(shape, **spec.model.model_dump())
    except PretrainedError:
        raise
    except ValueError as error:
        raise SpecError(f"{arm.label} {size.name}: {error}") from error


def _resolve_pretrained(
    spec: SweepSpec, arm: Arm, weights: PretrainedLlama, num_layers: int, shared: Recursion
) -> ModelConfig:
    """The weights' shape as the arm. What [model] leaves out is theirs; what it says must be theirs."""
    shape = weights.arm(
        context_length=spec.model.context_length,
        num_layers=num_layers,
        recursion=shared,
        routing=arm.routing,
        fit_depth=arm.fit_depth,
    )
    written = {name: getattr(spec.model, name) for name in spec.model.model_fields_set}
    resolved = replace(shape, **written)
    weights.check_fits(resolved)
    assert spec.init_from is not None
    source_layers(resolved, weights.config.num_layers, spec.init_from.layers, seed=0)  # Refuses what cannot be filled.
    return resolved


def raised_depth_note(arm: Arm, models: Mapping[Size | OwnModel, Model]) -> str | None:
    """What to say where models have far more layers than their sizes, so that they divide into recursions."""
    layers = {
        size: model.num_layers
        for size, model in models.items()
        if isinstance(size, Size) and isinstance(model, ModelConfig)
    }
    raised = [size for size, count in layers.items() if count > MOST_RAISED * _depth(arm, size)]
    if not raised:
        return None
    first, *others = raised
    more = f" (and more of {len(others)} other sizes)" if others else ""
    return (
        f"{arm.label} {first.name}: {_depth(arm, first)} layers raised to {layers[first]}, so that "
        f"{arm.recursions} recursions divide them{more}: fewer recursions keep a size's depth"
    )


def takes_own_steps(model: Model) -> bool:
    """Whether it is trained by steps of its own, in place of AdamW."""
    return isinstance(model, OwnModel) and model.training != "adamw"


def trains_whole_runs(spec: SweepSpec, model: Model) -> bool:
    """Whether each cell is a run of its own under a cosine over its steps: as the sweep says, or because the model has
    training steps of its own that support no constant rate with a cooldown."""
    return spec.schedule.kind == "cosine" or (isinstance(model, OwnModel) and model.training == "whole-runs")


def own_steps_note(spec: SweepSpec, arm: Arm, model: Model) -> str | None:
    """Which runs a model with training steps of its own gets; None for others."""
    if not takes_own_steps(model):
        return None
    if trains_whole_runs(spec, model) and spec.schedule.kind != "cosine":
        return (
            f"{arm.label}: its own training steps do not say supports_cooldown = True, so each of its cells is a run "
            "of its own, under a cosine over its steps, and no trunk is shared"
        )
    runs = "on trunks that budgets share" if spec.shares_trunks else "a run of its own for each budget"
    return f"{arm.label}: trained by its own steps, {runs}"


def _depth(arm: Arm, size: Size) -> int:
    """Layers before they are fitted to the recursions."""
    if isinstance(arm.num_layers, Fraction):
        return math.floor(arm.num_layers * size.num_layers)
    return size.num_layers if arm.num_layers is None else arm.num_layers


def batch_size(spec: SweepSpec, arm: Arm, model: Model) -> int:
    """Sequences per optimiser step: the sweep's own, else the recipe's. Raises SpecError where it does not divide."""
    batch = spec.train.batch_size or PAPER_BATCH_SIZE
    if spec.train.batch_law is not None:
        batch = _power_of_two(arm.entry(spec.train.batch_law), unrolled_params(model))
    workers = spec.execution.workers_per_segment
    if workers > 1 and takes_own_steps(model):
        raise SpecError(
            f"execution.workers_per_segment {workers}: the training steps of arms.{arm.label} are its own, and one "
            "worker takes them: leave it out"
        )
    if batch % workers:
        raise SpecError(
            f"execution.workers_per_segment {workers} does not divide the batch of {batch} sequences: use a divisor"
        )
    micro_batch, share = spec.execution.micro_batch or batch, batch // workers
    if share % min(micro_batch, share):
        of_whom = "batch" if workers == 1 else "worker's share"
        raise SpecError(
            f"execution.micro_batch {micro_batch} does not divide the {of_whom} of {share} sequences: use a divisor"
        )
    return batch


def _power_of_two(law: BatchLaw, params: int) -> int:
    """The law's value to the nearest power of two, in logarithms: whole steps of whole micro-batches."""
    exponent = math.log2(law.base) + law.exponent * math.log2(params / law.reference_params)
    if not 0 <= round(exponent) <= MOST_BATCH_DOUBLINGS:
        raise SpecError(
            f"train.batch_law gives 2^{exponent:.1f} sequences at {params} parameters, expected 1 to "
            f"2^{MOST_BATCH_DOUBLINGS}: use an exponent nearer to 0"
        )
    return 2 ** round(exponent)


def peak_learning_rate(spec: SweepSpec, arm: Arm, model: Model, budget: int) -> float:
    """The rate after warm-up. `budget` in FLOPs enters only laws with a budget_exponent (trunks = "per-budget")."""
    if spec.train.peak_learning_rate is not None:
        return spec.train.peak_learning_rate
    if spec.train.learning_rate is None:
        return PAPER_PEAK_LEARNING_RATE
    return _rate(arm.entry(spec.train.learning_rate), unrolled_params(model), budget)


def _rate(law: LearningRateLaw, params: int, budget: int) -> float:
    """The law's value to 4 significant digits: part of identities, so the last bits of pow() must not matter."""
    try:
        rate = law.base * (params / law.reference_params) ** law.exponent
        if law.reference_budget is not None:
            rate *= (budget / law.reference_budget) ** law.budget_exponent
    except OverflowError:
        rate = math.inf
    rounded = float(f"{rate:.3e}")
    if not 0 < rounded < math.inf:
        raise SpecError(
            f"train.learning_rate gives a peak rate of {rounded} at {params} parameters, expected a positive number: "
            "use exponents nearer to 0"
        )
    return rounded


def train_config(spec: SweepSpec, arm: Arm, model: Model, *, budget: int, steps: int, warmup_steps: int) -> TrainConfig:
    """Optimiser and schedule of a trunk: the recipe with the sweep's changes. `steps` matters to a cosine only."""
    changes = {name: getattr(spec.train, name) for name in OPTIMISER_FIELDS}
    if trains_whole_runs(spec, model):
        changes |= {"cosine_steps": steps, "cosine_floor": spec.schedule.cosine_floor}
    return TrainConfig(
        batch_size=batch_size(spec, arm, model),
        peak_learning_rate=peak_learning_rate(spec, arm, model, budget),
        warmup_steps=warmup_steps,
        precision=spec.train.precision,
        **{name: value for name, value in changes.items() if value is not None},
    )
