"""The sections of a sweep file, each with its settings, their defaults and what is refused."""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from mor_core.config.model import LayerSelection, ModelConfig, OutputInit, Precision
from mor_core.data.spec import PINNED_PYTHON
from orchestrator.planning.spec.fields import (
    Budget,
    LadderSize,
    LaterKey,
    Merged,
    NotEmpty,
    PositiveFloat,
    PositiveInt,
    ProperFraction,
    Section,
    Share,
    TokenCount,
)


class ExpectedOptimum(Section):
    """Where the best size is expected: N*(C) = unique_params * (C / budget) ** exponent, in the arm's own N."""

    budget: Budget
    """C at which unique_params is expected to be best, in FLOPs of the sweep's convention."""
    unique_params: PositiveInt
    """N* at that budget: non-embedding parameters that exist."""
    exponent: FiniteFloat
    """Growth of N* with C."""
    source: str
    """Where the numbers come from."""


class AutoSizes(Section):
    """For each arm and budget, consecutive rungs of a ladder around the expected optimum."""

    count: Annotated[int, Field(ge=1)]
    """Rungs per budget."""
    ladder: Literal["small", "shallow", "six-layers", "paper"] = "small"
    """Which list of base shapes."""
    optimum: dict[str, ExpectedOptimum]
    """By arm (mor-2), architecture (mor) or "default"; the most specific key holds."""


class SizesSection(Section):
    """Either explicit names or automatic windows."""

    names: Annotated[tuple[LadderSize, ...], NotEmpty, Merged] | None = None
    """Base shapes that every arm and budget uses. Where some are sizes of an own model, its arm trains those."""
    auto: AutoSizes | None = None
    """Windows around the expected optimum of each budget."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.names is None) == (self.auto is None):
            raise ValueError("give either names = [...] or a table auto, not both")
        return self


class InitFromSection(Section):
    """Pretrained weights that every model starts from: up-training. Their shape is the sweep's one size."""

    folder: Annotated[str, Field(min_length=1)]
    """A Hugging Face Llama folder: config.json and safetensors."""
    layers: LayerSelection = "stepwise"
    """Which of its layers fill the shared block (paper, Table 12)."""


class ScheduleSection(Section):
    """How the learning rate goes: linear warm-up, then a trapezoid's constant rate and linear cooldown, or a cosine."""

    kind: Literal["trapezoid", "cosine"] = "trapezoid"
    """trapezoid ends with a linear cooldown to 0; cosine falls from warm-up to the cell's last step."""
    warmup_budget: Budget | None = None
    """FLOPs: warm-up is a share of the steps at this budget. It does not follow --budgets, so that trunks stay. Where
    cells share no trunk, warm-up is a share of each cell's own steps."""
    warmup_fraction: Share = 0.05
    """Share of those steps."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of warm-up for every cell, in place of a share."""
    cooldown_fraction: ProperFraction | None = None
    """Share of each cell's steps that a trapezoid cools down over; None is 0.2."""
    cosine_floor: Share | None = None
    """Share of the peak rate at which a cosine ends; None is 0."""

    @model_validator(mode="after")
    def _has_only_what_it_uses(self) -> Self:
        if self.kind == "cosine" and self.cooldown_fraction is not None:
            raise ValueError("a cosine has no cooldown: leave out cooldown_fraction")
        if self.kind == "trapezoid" and self.cosine_floor is not None:
            raise ValueError('a trapezoid ends at 0: leave out cosine_floor, or use kind = "cosine"')
        if self.warmup_steps is not None and self.warmup_budget is not None:
            raise ValueError("give warmup_steps or warmup_budget, not both")
        return self


class ModelSection(Section):
    """What all models of the sweep have in common."""

    vocab_size: PositiveInt
    """Token ids."""
    context_length: PositiveInt
    """Tokens in a training sequence."""
    rope_theta: PositiveFloat = ModelConfig.rope_theta
    """Base of the rotary position frequencies."""
    norm_eps: PositiveFloat = ModelConfig.norm_eps
    """Added to the mean square inside RMSNorm."""
    init_std: PositiveFloat = ModelConfig.init_std
    """Standard deviation of initial matrices and embeddings."""
    output_init: Annotated[OutputInit, LaterKey(since="0.1.0")] = "constant"
    """That of the matrices that write into the residual stream: the same, or depth-scaled, divided by sqrt(2 L)."""


class LearningRateLaw(Section):
    """Peak rate = base * (unrolled_params / reference_params)^exponent * (C / reference_budget)^budget_exponent."""

    base: PositiveFloat
    """Peak learning rate at the reference."""
    reference_params: PositiveInt
    """Unrolled non-embedding parameters at which base holds."""
    exponent: FiniteFloat = 0.0
    """Growth with unrolled parameters."""
    reference_budget: Budget | None = None
    """FLOPs at which base holds; only for trunks = "per-budget"."""
    budget_exponent: FiniteFloat = 0.0
    """Growth with the budget; only for trunks = "per-budget"."""
    source: str
    """Where the numbers come from."""

    @model_validator(mode="after")
    def _has_a_reference_budget(self) -> Self:
        if self.budget_exponent and self.reference_budget is None:
            raise ValueError("budget_exponent needs a reference_budget")
        return self


class BatchLaw(Section):
    """Sequences per step = base * (unrolled_params / reference_params)^exponent, to the nearest power of two."""

    base: PositiveFloat
    """Sequences at the reference."""
    reference_params: PositiveInt
    """Unrolled non-embedding parameters at which base holds."""
    exponent: FiniteFloat = 0.0
    """Growth with unrolled parameters."""
    source: str
    """Where the numbers come from."""


class TrainSection(Section):
    """A recipe by name and what is changed in it; the recipes are in orchestrator/planning/recipe.py."""

    recipe: Literal["paper", "small"]
    """Where batch, peak learning rate and optimiser come from."""
    precision: Precision = "fp32"
    """Compute precision."""
    batch_size: PositiveInt | None = None
    """Sequences per optimiser step; None leaves the recipe's."""
    batch_law: Annotated[dict[str, BatchLaw] | None, LaterKey(since="0.1.0")] = None
    """In its place: laws by arm, architecture or "default"; the most specific key holds."""
    peak_learning_rate: PositiveFloat | None = None
    """One rate for every arm and size; None leaves the recipe's rule."""
    learning_rate: dict[str, LearningRateLaw] | None = None
    """Laws of the small recipe by arm, architecture or "default"; the most specific key holds."""
    beta1: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    """AdamW's first; None leaves the recipe's, as for those below."""
    beta2: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    """AdamW's second."""
    adam_eps: PositiveFloat | None = None
    """Added to the root of AdamW's second moment."""
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Times the rate, the share of a matrix that each step takes off."""
    gradient_clip: PositiveFloat | None = None
    """Largest global norm of a gradient."""
    decay_on: Literal["all-matrices", "hidden-matrices"] | None = None
    """What weight decay acts on; None is all-matrices, as in the paper."""

    @model_validator(mode="after")
    def _fits_the_recipe(self) -> Self:
        rates = [self.peak_learning_rate, self.learning_rate]
        if self.recipe == "paper" and self.learning_rate is not None:
            raise ValueError("recipe paper has one rate for all sizes: set peak_learning_rate, or use recipe small")
        if self.batch_size is not None and self.batch_law is not None:
            raise ValueError("give batch_size or a table batch_law, not both")
        batches = [self.batch_size, self.batch_law]
        if self.recipe == "small" and (batches.count(None) != 1 or rates.count(None) != 1):
            raise ValueError(
                "recipe small needs batch_size or a table batch_law, and peak_learning_rate or a table learning_rate"
            )
        return self


class DataSection(Section):
    """The corpus."""

    corpus: Annotated[str, Field(min_length=1)] = PINNED_PYTHON
    """pinned-python, python-sources, fineweb-edu, hf:NAME[:CONFIG][@REVISION], or the path of a file or folder of
    text."""
    max_megabytes: PositiveFloat | None = None
    """Most text to keep, in 10^6 bytes."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """A tokenizer.json, a folder that holds one, or a model of the hub; None trains a tokenizer of model.vocab_size ids
    on the text."""
    deduplicate: Literal["none", "exact", "near"] = "exact"
    """Which repeated documents are left out."""
    quality: Annotated[bool, LaterKey(since="0.1.0")] = False
    """Whether text that nobody wants to measure is left out, such as drawn tables and encoded data, and validation is
    drawn from many packages or folders alike; for Python files of libraries and files of less than 300 MB."""
    unique_tokens: Annotated[TokenCount | None, LaterKey(since="0.1.0")] = None
    """Training reads the first so many tokens of the training text, in their frozen order, and repeats them; validation
    and tokenizer stay as they are. None reads all."""


class EvaluationSection(Section):
    """How the loss of a cell is measured."""

    num_sequences: PositiveInt
    """Validation sequences of the context length."""


class ExecutionSection(Section):
    """How the work is done; no part of any identity."""

    checkpoint_every_steps: PositiveInt
    """Most optimiser steps that a crash can lose."""
    micro_batch: PositiveInt | None = None
    """Sequences in one forward and backward pass; None takes the whole batch."""
    compile: bool = False
    """Whether torch.compile translates the model first."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes activations again in place of keeping them."""
    deterministic: bool = True
    """Whether a GPU adds in a fixed order, so that the same work has the same bits."""
    stall_seconds: PositiveFloat = 600.0
    """A worker that takes no step for so long, or for 20 times its slowest step, is ended and replaced once."""
    gpus_per_segment: Annotated[FiniteFloat, Field(ge=0, le=1)] | Literal["auto"] | None = None
    """GPUs of each worker: 0, a share such as 0.25, or 1; "auto" gives each shape the smallest share whose memory holds
    it; None takes a whole one where the cluster has any."""
    gpu_memory_gigabytes: PositiveFloat | None = None
    """10^9 bytes of one GPU, by which "auto" divides it; None asks this machine's driver."""
    workers_per_segment: PositiveInt = 1
    """Processes that share the batches of one segment, each with a CPU and its GPUs."""

    @model_validator(mode="after")
    def _a_gpu_for_each_of_several_workers(self) -> Self:
        if self.workers_per_segment > 1 and self.gpus_per_segment not in (None, 0, 1, "auto"):
            raise ValueError(
                f"gpus_per_segment {self.gpus_per_segment} with {self.workers_per_segment} workers_per_segment: "
                "workers of one segment cannot share a GPU; give 0 or 1"
            )
        return self
