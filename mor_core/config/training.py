"""How a trunk is trained. Every value is resolved: nothing that reads it recomputes a batch or a learning rate. Frozen,
validated, hashable; no torch."""

from dataclasses import dataclass
from typing import Literal

from mor_core.config.fields import check_choices
from mor_core.config.model import Precision

NUMERICS_VERSION = 2
"""Raised whenever a change of code changes the losses that a given configuration trains to: part of every identity."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a trunk is trained. Nothing here depends on a budget, so that budgets can share the trunk."""

    batch_size: int
    """Sequences per optimiser step, over all workers and micro-batches."""
    peak_learning_rate: float
    """Learning rate after warm-up, constant until the cooldown."""
    warmup_steps: int
    """Steps of linear warm-up from 0."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.95
    """AdamW's decay of the second moment."""
    adam_eps: float = 1e-8
    """AdamW's denominator offset."""
    weight_decay: float = 0.1
    """AdamW's decay towards 0, on what `decay_on` names."""
    decay_on: Literal["all-matrices", "hidden-matrices"] = "all-matrices"
    """all-matrices decays the embedding and the routers too, as the paper does; norms never decay."""
    gradient_clip: float = 1.0
    """Largest global gradient norm."""
    precision: Precision = "fp32"
    """Compute precision; the weights and the optimiser are fp32 under both."""
    cosine_steps: int | None = None
    """Steps over which the rate falls along half a cosine after warm-up, the paper's schedule of its ablations; such a
    trunk ends there and has no cooldown. None keeps the rate constant until a cooldown."""
    cosine_floor: float = 0.0
    """Share of the peak at which the cosine ends. Not published; the released code would fall back to 0.1."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: expected at least 1 sequence")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps {self.warmup_steps}: expected 0 or more")
        if not self.peak_learning_rate > 0:
            raise ValueError(f"peak_learning_rate {self.peak_learning_rate}: expected a number above 0")
        check_choices(self)
        if self.cosine_steps is not None and self.cosine_steps <= self.warmup_steps:
            raise ValueError(f"cosine_steps {self.cosine_steps}: expected more than the {self.warmup_steps} of warm-up")
        if not 0 <= self.cosine_floor < 1:
            raise ValueError(f"cosine_floor {self.cosine_floor}: expected 0 or more and below 1")
