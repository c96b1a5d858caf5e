"""Parameters and FLOPs of a ModelConfig: the one home of these numbers. Exact integers or fractions; no torch.

A multiply-add is 2 FLOPs. Three conventions for the cost of training on one token:

exact   3 x the forward pass (backward costs twice the forward): every matrix product, with the real grouped-query
        shapes, the T(T+1)/2 query-key pairs of causal attention, the LM head, the routers over their candidates, and
        routed layers at their whole number of tokens k_r. Norms, softmax, RoPE and the embedding look-up are left out.
paper   as the authors of Mixture-of-Recursions count (appendix D): forward only, keys and values as wide as the
        model, T^2/2 pairs, no LM head, no routers, routed layers at the fraction c_r. It reproduces the token counts
        of their Tables 3 and 9 and is good for nothing else.
6nd     6 x unique non-embedding parameters. For reference only: with shared and routed layers it biases exactly the
        comparison of one arm with another.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from mor_core.config import ModelConfig

Convention = Literal["exact", "paper", "6nd"]
CONVENTIONS: tuple[Convention, ...] = ("exact", "paper", "6nd")

FORWARD_AND_BACKWARD = 3


def layer_params(config: ModelConfig) -> int:
    """Parameters of one transformer layer, its two norms included."""
    attention = config.d_model * config.d_head * 2 * (config.num_heads + config.num_kv_heads)
    return attention + 3 * config.d_model * config.d_ff + 2 * config.d_model


def router_params(config: ModelConfig) -> int:
    """Parameters of all routers: one linear d_model -> 1 per recursion."""
    return config.recursion.count * config.d_model if config.routing else 0


def embedding_params(config: ModelConfig) -> int:
    """Parameters of the embedding, which is also the LM head."""
    return config.vocab_size * config.d_model


def unique_params(config: ModelConfig) -> int:
    """N: parameters that exist, without the embedding."""
    return config.num_unique_layers * layer_params(config) + config.d_model + router_params(config)


def unrolled_params(config: ModelConfig) -> int:
    """Non-embedding parameters, each layer counted once per application."""
    return config.num_layers * layer_params(config) + config.d_model + router_params(config)


def total_params(config: ModelConfig) -> int:
    """Parameters that exist, embedding included: the size of a checkpoint's weights."""
    return unique_params(config) + embedding_params(config)


def forward_flops(config: ModelConfig, length: int, tokens_per_recursion: Sequence[int]) -> int:
    """Exact forward FLOPs of one sequence of `length` tokens of which recursion r computes tokens_per_recursion[r].

    The routers score every token that reaches them: all at recursion 1, the survivors of r - 1 at r.
    """
    unshared = config.num_unshared_layers * _layer_forward(config, length)
    shared = config.block_depth * sum(_layer_forward(config, tokens) for tokens in tokens_per_recursion)
    head = 2 * config.d_model * config.vocab_size * length
    routers = 0
    if config.routing is not None:
        routers = 2 * config.d_model * sum((length, *tokens_per_recursion[:-1]))
    return unshared + shared + head + routers


def _layer_forward(config: ModelConfig, tokens: int) -> int:
    """Exact forward FLOPs of one layer over `tokens` tokens that attend causally among themselves."""
    matrices = layer_params(config) - 2 * config.d_model
    pairs = tokens * (tokens + 1) // 2
    return 2 * matrices * tokens + 4 * config.num_heads * config.d_head * pairs


def _exact_flops_per_token(config: ModelConfig) -> Fraction:
    length = config.context_length
    forward = forward_flops(config, length, config.tokens_per_recursion())
    return Fraction(FORWARD_AND_BACKWARD * forward, length)


def _paper_flops_per_token(config: ModelConfig) -> Fraction:
    """Paper appendix D: a layer at capacity c costs c (8 d^2 + 6 d d_ff) + c^2 2 T d."""
    linear = 8 * config.d_model**2 + 6 * config.d_model * config.d_ff
    attention = 2 * config.context_length * config.d_model
    shared = sum((c * linear + c**2 * attention for c in config.capacities), Fraction(0))
    return config.num_unshared_layers * Fraction(linear + attention) + config.block_depth * shared


def training_flops_per_token(config: ModelConfig, convention: Convention) -> Fraction:
    """FLOPs to train on one token of a full-length sequence, in the named convention (see the module's text)."""
    if convention == "exact":
        return _exact_flops_per_token(config)
    if convention == "paper":
        return _paper_flops_per_token(config)
    if convention == "6nd":
        return Fraction(6 * unique_params(config))
    raise ValueError(f"FLOP convention {convention!r}: expected one of {', '.join(CONVENTIONS)}")


def training_flops(config: ModelConfig, tokens: int, convention: Convention) -> int:
    """FLOPs to train on `tokens` tokens, rounded to a whole number."""
    return round(training_flops_per_token(config, convention) * tokens)
