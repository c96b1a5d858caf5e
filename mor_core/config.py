"""What a run is: the model, its recursion and routing, and how it is trained. Frozen, validated, hashable; no torch.

Every value is resolved: nothing that reads these recomputes a depth, a batch or a learning rate.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from mor_core.sharing import SharingStrategy, block_depth, layer_map, num_unshared_layers

Architecture = Literal["vanilla", "recursive", "mor"]
Precision = Literal["fp32", "bf16"]

NUMERICS_VERSION = 1
"""Raised whenever a change of code changes the losses that a given configuration trains to: part of every identity."""


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """A shared block of layers applied several times."""

    count: int = 1
    """Nr, how often the block is applied; 1 is a vanilla transformer."""
    sharing: SharingStrategy = "middle-cycle"
    """Which unrolled layers share weights."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"recursion count {self.count}: expected a whole number of at least 1")
        num_unshared_layers(self.sharing)


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Expert-choice routing: at each recursion a linear router keeps the top-k tokens of each sequence.

    Paper section 2.2.1 and Table 13 (the final recipe); capacities are c_r = (Nr - r + 1) / Nr.
    """

    alpha: float = 0.1
    """Gate scale: a selected token's update is alpha * sigmoid(router logit) * block output (equation 2.1)."""
    aux_loss_weight: float = 0.001
    """Weight of the sum over recursions of the binary cross-entropy of router logits against selection."""
    threshold_decay: float = 0.99
    """Decay per optimiser step of the running mean of the top-k cut-off, the threshold of causal evaluation."""

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"routing alpha {self.alpha}: expected a number above 0")
        if not self.aux_loss_weight >= 0:
            raise ValueError(f"routing aux_loss_weight {self.aux_loss_weight}: expected 0 or more")
        if not 0 <= self.threshold_decay < 1:
            raise ValueError(f"routing threshold_decay {self.threshold_decay}: expected 0 or more and below 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama decoder (RMSNorm, RoPE, grouped queries, SwiGLU, tied embeddings) with shared and routed layers."""

    vocab_size: int
    """Number of token ids."""
    context_length: int
    """T, tokens in a training sequence."""
    num_layers: int
    """L, unrolled layers: each application of a shared layer counts. Already raised so that it divides."""
    d_model: int
    """D, width of the residual stream."""
    num_heads: int
    """H, query heads."""
    num_kv_heads: int
    """Key and value heads; divides num_heads."""
    d_head: int
    """Width of one head; even, for RoPE."""
    d_ff: int
    """Width of the SwiGLU hidden layer."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square inside RMSNorm."""
    init_std: float = 0.02
    """Standard deviation of every initial weight matrix and embedding."""
    recursion: Recursion = field(default_factory=Recursion)
    """How layers are shared."""
    routing: Routing | None = None
    """How tokens choose their depth; None gives every token the full depth."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "context_length",
            "num_layers",
            "d_model",
            "num_heads",
            "num_kv_heads",
            "d_head",
            "d_ff",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number of at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.d_head % 2:
            raise ValueError(f"d_head {self.d_head} must be even, for rotary positions")
        block_depth(self.num_layers, self.recursion.count, self.recursion.sharing)
        if self.routing is not None and self.recursion.count < 2:
            raise ValueError("routing needs at least 2 recursions: with 1 there is no depth to choose")
        if self.routing is not None and not self.recursion.sharing.endswith("cycle"):
            raise ValueError(f"routing under {self.recursion.sharing} sharing: expected cycle or middle-cycle")

    @property
    def architecture(self) -> Architecture:
        """vanilla, recursive (fixed depth) or mor (routed)."""
        if self.routing is not None:
            return "mor"
        return "recursive" if self.recursion.count > 1 else "vanilla"

    @property
    def layer_map(self) -> tuple[int, ...]:
        """For each unrolled layer, the unique layer it uses."""
        return layer_map(self.num_layers, self.recursion.count, self.recursion.sharing)

    @property
    def num_unique_layers(self) -> int:
        """Layers that own weights."""
        return max(self.layer_map) + 1

    @property
    def num_unshared_layers(self) -> int:
        """Layers outside the shared block, half of them before it and half after it."""
        return num_unshared_layers(self.recursion.sharing) if self.recursion.count > 1 else 0

    @property
    def block_depth(self) -> int:
        """b, layers in the shared block (all layers when nothing is shared)."""
        return block_depth(self.num_layers, self.recursion.count, self.recursion.sharing)

    @property
    def capacities(self) -> tuple[Fraction, ...]:
        """c_r for r = 1..Nr: the share of a sequence's tokens that recursion r computes (paper section 2.2.1)."""
        count = self.recursion.count
        if self.routing is None:
            return (Fraction(1),) * count
        return tuple(Fraction(count - r, count) for r in range(count))

    def tokens_per_recursion(self, length: int | None = None) -> tuple[int, ...]:
        """k_r = max(1, floor(c_r * length)) for r = 1..Nr; `length` in tokens defaults to the context length."""
        length = self.context_length if length is None else length
        return tuple(max(1, int(capacity * length)) for capacity in self.capacities)


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
    """On every matrix (embedding and routers included), not on norms, as in the paper."""
    gradient_clip: float = 1.0
    """Largest global gradient norm."""
    precision: Precision = "fp32"
    """Compute precision; the weights and the optimiser are fp32 under both."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: expected at least 1 sequence")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps {self.warmup_steps}: expected 0 or more")
        if not self.peak_learning_rate > 0:
            raise ValueError(f"peak_learning_rate {self.peak_learning_rate}: expected a number above 0")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: expected fp32 or bf16")
