"""From a predicted N* to what can be built: the named shape nearest to it, and the tokens its budget buys. Pure."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from mor_core.config import ModelConfig
from mor_core.flops import Convention, training_flops_per_token, unique_params
from mor_core.sizes import SIZES, Size, model_config


@dataclass(frozen=True, kw_only=True)
class NearestShape:
    """A named base shape as one arm of a sweep."""

    size: str
    """Its name, for --sizes."""
    num_layers: int
    """Unrolled layers of the arm."""
    d_model: int
    """Width."""
    unique_params: int
    """N."""
    of_optimum: float
    """N over the N* that was asked for."""
    tokens: float
    """What the budget trains it on."""


def nearest_shape(model: ModelConfig, convention: Convention, params: float, budget: int) -> NearestShape:
    """The shape whose unique parameters, built as `model` is, come nearest to `params` by their ratio.

    `budget` is in FLOPs, counted by `convention`. Vocabulary, context, recursion and routing are those of `model`.
    """
    shapes = [(size, _as_arm_of(model, size)) for size in SIZES.values()]
    size, nearest = min(shapes, key=lambda shape: abs(math.log(unique_params(shape[1]) / params)))
    return NearestShape(
        size=size.name,
        num_layers=nearest.num_layers,
        d_model=nearest.d_model,
        unique_params=unique_params(nearest),
        of_optimum=unique_params(nearest) / params,
        tokens=float(Fraction(budget) / training_flops_per_token(nearest, convention)),
    )


def _as_arm_of(model: ModelConfig, size: Size) -> ModelConfig:
    """The size with everything but its shape from `model`; a depth that does not divide is raised."""
    shape = model_config(
        size,
        vocab_size=model.vocab_size,
        context_length=model.context_length,
        recursion=model.recursion,
        routing=model.routing,
    )
    own = ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_head", "d_ff")
    return replace(model, **{name: getattr(shape, name) for name in own})
