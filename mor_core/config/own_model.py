"""A user's own model, as planning sees it, and what can be planned at all. Frozen, validated, hashable; no torch."""

from dataclasses import dataclass
from typing import Literal

from mor_core.config.fields import fact_field, later_field
from mor_core.config.model import Architecture, ModelConfig, Recursion

OwnTraining = Literal["adamw", "steps", "whole-runs"]
"""How a user's own model is trained (see `OwnModel.training`)."""


@dataclass(frozen=True, kw_only=True)
class OwnModel:
    """One size of a user's model, as planning sees it: what it is, and what its object said when it was asked.

    Its code is at `object`, and nothing here imports it (see `mor_core.model.own.model`). What it is makes its id; what
    was counted does not. No layer of it is known to be shared and no token to be routed.
    """

    object: str
    """Where its object is: package.module:object."""
    version: str
    """What the object calls its version: raised by its author when losses change."""
    size: str
    """Its name on the object's ladder."""
    settings: str
    """The keyword arguments of that size, as canonical JSON."""
    vocab_size: int
    """Number of token ids."""
    context_length: int
    """T, tokens in a training sequence."""
    unique_params: int = fact_field()
    """N: parameters that exist, without embeddings and the output head."""
    unrolled_params: int = fact_field()
    """The same, each parameter counted once per application."""
    total_params: int = fact_field()
    """Parameters that exist."""
    training_flops: int = fact_field()
    """FLOPs to train on one sequence of full length: forward and backward."""
    forward_flops: int = fact_field()
    """FLOPs of the forward pass of it."""
    activation_bytes: int = fact_field()
    """Bytes that the backward pass of one sequence keeps, in fp32."""
    training: OwnTraining = later_field("adamw", since="0.1.0")
    """adamw, by the loop of this program; steps, by its object's own, at whatever rate they are given, so that budgets
    can share a trunk; whole-runs, by its object's own, which have to know where their run ends."""

    def __post_init__(self) -> None:
        counts = ("vocab_size", "context_length", "unique_params", "total_params", "training_flops", "forward_flops")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{self.object} {self.size}: {name} {getattr(self, name)}: expected at least 1")

    @property
    def name(self) -> str:
        """Of its size."""
        return self.size

    @property
    def architecture(self) -> Architecture:
        """own."""
        return "own"

    @property
    def recursion(self) -> Recursion:
        """Each layer is applied once, as far as is known."""
        return Recursion()

    @property
    def routing(self) -> None:
        """No token is routed, as far as is known."""
        return

    @property
    def capacity_warmup_steps(self) -> int:
        """See ModelConfig."""
        return 0

    def tokens_per_recursion(self, length: int | None = None, step: int | None = None) -> tuple[int, ...]:
        """Every token takes the one pass."""
        return (self.context_length if length is None else length,)


Model = ModelConfig | OwnModel
"""What can be planned and trained: our family, or a user's own."""
