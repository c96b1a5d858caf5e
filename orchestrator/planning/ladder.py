"""Named shapes in order of size: which of them a budget is trained on, and which lies nearest to a predicted N*.
Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from mor_core.config.model import ModelConfig
from mor_core.config.own_model import OwnModel
from mor_core.config.sizes import PAPER_SIZES, SHALLOW_LADDER, SIX_LAYER_LADDER, SIZES, SMALL_LADDER, Size, model_config
from mor_core.errors import Fix
from mor_core.flops import Convention, training_flops_per_token, unique_params
from mor_core.interop.llama_folder import PretrainedLlama
from mor_core.units import budget_text, count_text
from orchestrator.planning.own_models.questions import remembered_ladder
from orchestrator.planning.recipe import own_ladder_of, pretrained, resolve_model
from orchestrator.planning.spec.arms import Arm
from orchestrator.planning.spec.sections import AutoSizes, ExpectedOptimum
from orchestrator.planning.spec.sweep_file import SpecError, did_you_mean
from orchestrator.planning.spec.sweep_spec import SweepSpec

LADDERS: dict[str, tuple[Size, ...]] = {
    "small": SMALL_LADDER,
    "shallow": SHALLOW_LADDER,
    "six-layers": SIX_LAYER_LADDER,
    "paper": PAPER_SIZES,
}


def ladder_of(sizes: Iterable[str]) -> str | None:
    """The name of the first ladder that has all these sizes; None where none has."""
    names = set(sizes)
    return next((name for name, rungs in LADDERS.items() if names <= {rung.name for rung in rungs}), None)


@dataclass(frozen=True, kw_only=True)
class NearestShape:
    """A named base shape as one arm of a sweep, or a size of a user's own model."""

    size: str
    """Its name, for --sizes."""
    num_layers: int | None
    """Unrolled layers of the arm; None of an own model, whose size has no such number."""
    d_model: int | None
    """Width; None of an own model."""
    unique_params: int
    """N."""
    of_optimum: float
    """N over the N* that was asked for."""
    tokens: float
    """What the budget trains it on."""
    note: str = ""
    """Why no nearer one of an own model is named; empty where it lies beside the N* that was asked for."""


def nearest_shape(tried: str, model: ModelConfig, convention: Convention, params: float, budget: int) -> NearestShape:
    """The shape whose unique parameters, built as `model` is, come nearest to `params` by their ratio, among those of
    the ladder that the size `tried` is on and of the paper.

    `budget` is in FLOPs, counted by `convention`. Vocabulary, context, recursion and routing are those of `model`.
    """
    ladder = LADDERS[ladder_of([tried]) or "small"]
    shapes = [(size, _as_arm_of(model, size)) for size in (*ladder, *PAPER_SIZES)]
    size, nearest = min(shapes, key=lambda shape: abs(math.log(unique_params(shape[1]) / params)))
    return NearestShape(
        size=size.name,
        num_layers=nearest.num_layers,
        d_model=nearest.d_model,
        unique_params=unique_params(nearest),
        of_optimum=unique_params(nearest) / params,
        tokens=float(Fraction(budget) / training_flops_per_token(nearest, convention)),
    )


def nearest_rung(tried: Sequence[OwnModel], convention: Convention, params: float, budget: int) -> NearestShape:
    """The size of a user's own model whose unique parameters come nearest to `params` by their ratio. It is one of the
    object's ladder where that was planned on this machine with the code as it is, otherwise one of those `tried`.

    `budget` is in FLOPs, counted by `convention`. No code of the user's runs.
    """
    model = tried[-1]
    ladder = remembered_ladder(model.object, model.vocab_size, model.context_length)
    is_whole = ladder is not None and ladder.models[0].version == model.version
    rungs = sorted(ladder.models if ladder and is_whole else tried, key=unique_params)
    nearest = min(rungs, key=lambda rung: abs(math.log(unique_params(rung) / params)))
    return NearestShape(
        size=nearest.size,
        num_layers=None,
        d_model=None,
        unique_params=unique_params(nearest),
        of_optimum=unique_params(nearest) / params,
        tokens=float(Fraction(budget) / training_flops_per_token(nearest, convention)),
        note=_rung_note(rungs, params, is_whole=is_whole),
    )


def _rung_note(rungs: Sequence[OwnModel], params: float, *, is_whole: bool) -> str:
    """What stands between N* and a nearer size: the end of the ladder, or that only the sizes tried are known."""
    if not is_whole:
        return (
            f"of the sizes tried: the whole ladder of {rungs[0].object} is not known here until a plan of its "
            "sweep file has asked for it"
        )
    if params > unique_params(rungs[-1]):
        return f"the largest of {rungs[0].object}: add larger ones to its sizes"
    if params < unique_params(rungs[0]):
        return f"the smallest of {rungs[0].object}: add smaller ones to its sizes"
    return ""


def _as_arm_of(model: ModelConfig, size: Size) -> ModelConfig:
    """The size with everything but its shape from `model`; a depth that does not divide is raised."""
    shape = model_config(
        size,
        vocab_size=model.vocab_size,
        context_length=model.context_length,
        recursion=model.recursion,
        routing=model.routing,
    )
    shape_fields = ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_head", "d_ff")
    return replace(model, **{name: getattr(shape, name) for name in shape_fields})


@dataclass(frozen=True, kw_only=True)
class Window:
    """The sizes to train for one arm at one budget."""

    sizes: tuple[Size | OwnModel, ...]
    """Base shapes, or sizes of an own model."""
    note: str | None = None
    """Why the window is not where it should be; None when it is."""


def _pretrained_size(weights: PretrainedLlama) -> Size:
    """The one size of a sweep that starts from weights: named after their folder."""
    shape = weights.config
    return Size(
        name=weights.folder.name,
        num_layers=shape.num_layers,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        d_ff=shape.d_ff,
    )


def windows(spec: SweepSpec, arm: Arm) -> dict[int, Window]:
    """For each goal, the sizes to train: those named, or rungs around the arm's expected optimum.

    Goals are the sweep's budgets (FLOPs), or its numbers of tokens. Raises SpecError, and of an own model what asking
    it raises.
    """
    if arm.own is not None:
        return _own_windows(spec, arm)
    weights = pretrained(spec)
    if weights or spec.sizes is None:
        assert weights is not None
        return dict.fromkeys(spec.goals, Window(sizes=(_pretrained_size(weights),)))
    auto = spec.sizes.auto
    if auto is None:
        return dict.fromkeys(spec.goals, Window(sizes=sizes_named(spec, arm, spec.sizes.names or ())))
    ladder = LADDERS[auto.ladder]
    params = {size: unique_params(resolve_model(spec, arm, size)) for size in ladder}
    rungs = sorted(ladder, key=params.__getitem__)
    rung_params = [params[rung] for rung in rungs]
    return {budget: _window(auto, arm, budget, rungs, rung_params) for budget in spec.goals}


def own_rungs(spec: SweepSpec, arm: Arm) -> dict[str, OwnModel]:
    """The ladder of an own model by the names of its sizes, smallest first. Raises what asking it raises."""
    return {model.size: model for model in own_ladder_of(spec, arm).models}


def sizes_named(spec: SweepSpec, arm: Arm, names: Sequence[str]) -> tuple[Size | OwnModel, ...]:
    """Those on an arm's ladder among some names: base shapes, or sizes of its own model, of which there may be none.

    Raises SpecError where an arm of our family gets no base shape, and of an own model what asking it raises.
    """
    if arm.own is not None:
        rungs = own_rungs(spec, arm)
        return tuple(rungs[name] for name in names if name in rungs)
    shapes = tuple(SIZES[name] for name in names if name in SIZES)
    if not shapes:
        raise SpecError(
            f"none of {', '.join(names)} is a base shape, which arm {arm.label} needs: name one beside them, or leave "
            "the arm out",
            fix=Fix(setting="sizes"),
        )
    return shapes


def check_named_sizes(spec: SweepSpec, names: Sequence[str]) -> None:
    """Raises SpecError for a name that is no base shape and on the ladder of no own model, and of own models what
    asking them raises."""
    others = [name for name in names if name not in SIZES]
    own_sizes = [name for arm in spec.members if arm.own and others for name in own_rungs(spec, arm)]
    for name in others:
        if name not in own_sizes:
            raise SpecError(
                f"size {name!r} is unknown: {did_you_mean(name, [*own_sizes, *SIZES])}", fix=Fix(setting="sizes")
            )


def _own_windows(spec: SweepSpec, arm: Arm) -> dict[int, Window]:
    """Sizes of an own model: those of its ladder that the sweep names, else that its arm names, else rungs of its
    ladder as of ours."""
    assert arm.own is not None
    assert spec.sizes is not None
    if named := sizes_named(spec, arm, spec.sizes.names or ()):
        return dict.fromkeys(spec.goals, Window(sizes=named))
    rungs = own_rungs(spec, arm)
    for name in arm.own.sizes or ():
        if name not in rungs:
            raise SpecError(
                f"arms.{arm.label}.sizes: {arm.own.model} has no size {name!r}: {did_you_mean(name, rungs)}"
            )
    auto = spec.sizes.auto
    if auto is None or arm.own.sizes is not None:
        return dict.fromkeys(spec.goals, Window(sizes=tuple(rungs[name] for name in arm.own.sizes or rungs)))
    params = [unique_params(model) for model in rungs.values()]
    return {budget: _window(auto, arm, budget, list(rungs.values()), params) for budget in spec.goals}


def num_sizes(spec: SweepSpec) -> int:
    """Sizes that `windows` names for each arm and goal."""
    if spec.sizes is None:
        return 1
    if spec.sizes.auto is None:
        return len(spec.sizes.names or ())
    return min(spec.sizes.auto.count, len(LADDERS[spec.sizes.auto.ladder]))


def expected_optimum(law: ExpectedOptimum, budget: int) -> float:
    """N*(C) in the arm's unique parameters."""
    return law.unique_params * (budget / law.budget) ** law.exponent


def _window(
    auto: AutoSizes, arm: Arm, budget: int, rungs: Sequence[Size | OwnModel], rung_params: Sequence[int]
) -> Window:
    """`count` consecutive rungs whose two ends lie as evenly as possible around N*(C) in log N."""
    count = min(auto.count, len(rungs))
    target = expected_optimum(arm.entry(auto.optimum), budget)

    def offset(start: int) -> float:
        """Distance of the window's middle from the target, in log N."""
        ends = rung_params[start] * rung_params[start + count - 1]
        return abs(math.log(ends) / 2 - math.log(target))

    start = min(range(len(rungs) - count + 1), key=offset)
    return Window(
        sizes=tuple(rungs[start : start + count]),
        note=_window_note(auto, arm, budget, target, rung_params[start : start + count]),
    )


def _window_note(auto: AutoSizes, arm: Arm, budget: int, target: float, params: Sequence[int]) -> str | None:
    """A sentence where the ladder has too few rungs, or none on one side of the target."""
    where, ladder = f"{arm.label} at {budget_text(budget)}", arm.own.model if arm.own else f"the {auto.ladder} ladder"
    if len(params) < auto.count:
        return f"{where}: {ladder} has only {len(params)} of the {auto.count} rungs asked for"
    below = sum(size <= target for size in params)
    if auto.count > 2 and not 1 < below < auto.count - 1:
        return f"{where}: N* is expected at {count_text(target)}, near an end of {ladder} or beyond it"
    return None


RUNGS_BEYOND = 4
"""Untried sizes of the ladder on either side of those tried."""
