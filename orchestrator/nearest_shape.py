"""From a predicted N* to what can be built: the named shape nearest to it, and the tokens its budget buys. Pure."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from mor_core.config import ModelConfig
from mor_core.flops import training_flops_per_token, unique_params
from mor_core.sizes import SIZES, Size, model_config
from orchestrator.cells import Cell


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


def nearest_shape(cell: Cell, params: float, budget: int) -> NearestShape:
    """The shape whose unique parameters, built as the arm of `cell` is, come nearest to `params` by their ratio.

    `budget` is in FLOPs, counted as the cell's. A model's vocabulary, context and routing are the cell's own.
    """
    models = [(size, _as_arm_of(cell.model, size)) for size in SIZES.values()]
    size, model = min(models, key=lambda each: abs(math.log(unique_params(each[1]) / params)))
    return NearestShape(
        size=size.name,
        num_layers=model.num_layers,
        d_model=model.d_model,
        unique_params=unique_params(model),
        of_optimum=unique_params(model) / params,
        tokens=float(Fraction(budget) / training_flops_per_token(model, cell.budget_convention)),
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
