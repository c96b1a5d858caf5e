"""Every variant of the family, small: what a test of the whole family runs over."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from mor_core.config.model import ExpertChoice, ModelConfig, Recursion, Routing, TokenChoice
from mor_core.config.sizes import SIZES, model_config
from mor_core.model.transformer import Transformer

VARIANTS: dict[str, tuple[Recursion, Routing | None]] = {
    "vanilla": (Recursion(), None),
    "recursive-2": (Recursion(count=2), None),
    "recursive-cycle": (Recursion(count=2, sharing="cycle"), None),
    "recursive-sequence": (Recursion(count=4, sharing="sequence"), None),
    "recursive-middle-sequence": (Recursion(count=3, sharing="middle-sequence"), None),
    "recursive-shared-kv": (Recursion(count=3, kv="shared"), None),
    "recursive-sequence-shared-kv": (Recursion(count=2, sharing="sequence", kv="shared"), None),
    "mor-2": (Recursion(count=2), ExpertChoice()),
    "mor-3": (Recursion(count=3), ExpertChoice()),
    "mor-cycle": (Recursion(count=4, sharing="cycle"), ExpertChoice()),
    "mor-mlp": (Recursion(count=2), ExpertChoice(router="mlp", activation="tanh", z_loss_weight=1e-3)),
    "mor-wide-mlp": (Recursion(count=2), ExpertChoice(router="wide-mlp", activation="none", alpha=1.0)),
    "mor-additive": (Recursion(count=2), ExpertChoice(gating="additive")),
    "mor-random": (Recursion(count=3), ExpertChoice(router="random")),
    "mor-aux-router": (Recursion(count=3), ExpertChoice(auxiliary="router", router="mlp")),
    "mor-capacities": (
        Recursion(count=3),
        ExpertChoice(capacities=(Fraction(1), Fraction(1, 2), Fraction(1, 2)), capacity_warmup_steps=3),
    ),
    "mor-shared-kv": (Recursion(count=3, kv="shared"), ExpertChoice()),
    "mor-hybrid-kv": (Recursion(count=3, kv="hybrid"), ExpertChoice()),
    "token-3": (Recursion(count=3), TokenChoice()),
    "token-exit": (Recursion(count=3), TokenChoice(gating="exit", activation="sigmoid", alpha=0.1)),
    "token-loss-free": (Recursion(count=2), TokenChoice(balancing="loss-free", router="mlp", z_loss_weight=1e-3)),
    "token-random": (Recursion(count=2, sharing="cycle"), TokenChoice(router="random", balancing="none")),
    "token-shared-kv": (Recursion(count=3, kv="shared"), TokenChoice()),
}

IN_DETAIL = [
    "recursive-2",
    "recursive-sequence",
    "recursive-middle-sequence",
    "recursive-sequence-shared-kv",
    "mor-2",
    "mor-cycle",
    "mor-random",
    "mor-mlp",
    "mor-wide-mlp",
    "mor-additive",
    "mor-aux-router",
    "token-exit",
    "token-loss-free",
    "token-random",
    "token-shared-kv",
]
"""Variants that share all but one part with another."""


def family(*left_out: str) -> list[Any]:
    """Names of the variants, to check a costly invariant over: those that differ in a detail are for the slow tests."""
    names = [name for name in VARIANTS if name not in left_out]
    return [*(name for name in names if name not in IN_DETAIL), *in_slow_tests(*(set(IN_DETAIL) & set(names)))]


def in_slow_tests(*names: str) -> list[Any]:
    """Parameters that are tried by the slow tests alone."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]


ROUTED = [name for name, (_, routing) in VARIANTS.items() if routing is not None]
EXPERT = [name for name, (_, routing) in VARIANTS.items() if isinstance(routing, ExpertChoice)]
TOKEN = [name for name, (_, routing) in VARIANTS.items() if isinstance(routing, TokenChoice)]


def variant(name: str, *, size: str = "35k", vocab_size: int = 64, context_length: int = 24) -> ModelConfig:
    recursion, routing = VARIANTS[name]
    return model_config(
        SIZES[size], vocab_size=vocab_size, context_length=context_length, recursion=recursion, routing=routing
    )


def spread_routers(model: Transformer, scale: float = 30.0) -> Transformer:
    """Give fresh routers scores that differ clearly, and state that is not 0."""
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "routers" in name and "score" in name:
            parameter.data *= scale
    for name, buffer in model.named_buffers():
        if name in ("threshold_R", "selection_bias_R"):
            noise = torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype)
            buffer.copy_(0.1 * noise)
    return model


def loss_and_gradients(model: Transformer, tokens_BT: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Of a loss that every parameter has a part in, the routers' own included; zeros where one has none."""
    output = model(tokens_BT)
    loss = output.logits_BTV.square().mean() + (output.routed.loss if output.routed else 0.0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return float(loss), dict(zip(names, gradients, strict=True))
