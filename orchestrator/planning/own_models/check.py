"""Whether a user's own model can be trained here: what is wrong with it, a sentence each, found on its smallest size.

Parameters and FLOPs against PyTorch's counters, weights that the seed decides, causality, gradients or what training
steps of its own do, training that goes on from a checkpoint bit for bit, and the losses that it names.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mor_core.config.own_model import OwnModel, OwnTraining
from mor_core.config.training import TrainConfig
from mor_core.model.language_model import LanguageModel
from mor_core.model.own.code import OwnModelError
from mor_core.model.own.counts import counted
from mor_core.model.own.model import Definition, PlainModel, build_own, definition_of, load_definition, one_line
from mor_core.training.checkpoint import load_checkpoint, save_checkpoint
from mor_core.training.loop import Diverged, train_steps
from mor_core.training.manifest import CheckpointError
from mor_core.training.optim import Optimizer, OwnSteps, build_optimizer

VOCAB_SIZE, CONTEXT_LENGTH = 512, 64
"""Of a check that belongs to no sweep."""

TRAIN = TrainConfig(batch_size=2, peak_learning_rate=1e-3, warmup_steps=0)
STEPS = 4
"""Taken at once, and again with a checkpoint halfway."""

SAME_LOGITS = 1e-4
"""Of the largest logit: how far logits may move when later tokens change, by rounding."""

NAMED = 3
"""Parameters that a sentence names."""

TRAINED_BY: dict[OwnTraining, str] = {
    "adamw": "",
    "steps": " by its own steps, on trunks that budgets share",
    "whole-runs": " by its own steps, each run as a whole",
}
"""What a verdict adds."""


@dataclass(frozen=True, kw_only=True)
class ModelCheck:
    """What a check found."""

    models: tuple[OwnModel, ...]
    """The sizes that could be counted, with their parameters and FLOPs; smallest first."""
    problems: tuple[str, ...]
    """What must be mended before it can be trained."""
    warnings: tuple[str, ...]
    """What a reader of its numbers should know."""

    @property
    def passed(self) -> bool:
        """Whether it can be trained."""
        return not self.problems

    def __str__(self) -> str:
        sizes = [f"{model.size}: N {model.unique_params:,}, {model.total_params:,} in all" for model in self.models]
        verdict = [] if self.problems else [f"it can be trained{TRAINED_BY[self.models[0].training]}"]
        return "\n".join((*self.problems, *(f"warning: {warning}" for warning in self.warnings), *sizes, *verdict))


def check_model(target: Any, *, vocab_size: int = VOCAB_SIZE, context_length: int = CONTEXT_LENGTH) -> ModelCheck:
    """Check an object, or the one at "package.module:object". Raises OwnImportError where its import fails."""
    definition = load_definition(target) if isinstance(target, str) else None
    problems, warnings, models = [], [], []
    try:
        definition = definition or definition_of(target)
        for size in definition.sizes:
            facts = counted(definition, size, vocab_size=vocab_size, context_length=context_length)
            models.append(facts.model)
            warnings += facts.warnings
        models.sort(key=lambda model: model.unique_params)
        problems += _trained(definition, models[0])
    except OwnModelError as error:
        problems += str(error).splitlines()
    return ModelCheck(models=tuple(models), problems=tuple(problems), warnings=tuple(warnings))


def _trained(definition: Definition, config: OwnModel) -> Iterator[str]:
    """What goes wrong when a size is built and trained for some steps."""
    where = f"{definition.name} {config.size}"
    model, again = (build_own(definition, config, seed=0) for _ in range(2))
    if _differing(model.stored_tensors(), again.stored_tensors()):
        yield f"{where}: two builds under one seed differ: draw weights with torch's generator, and nothing before"
        return
    if (place := _looks_ahead(model)) is not None:
        yield f"{where}: the logits before token {place} change with that token: expected a causal model"
    try:
        yield from _gradients(model, where) if config.training == "adamw" else _own_steps(definition, config, where)
        with tempfile.TemporaryDirectory() as folder:
            yield from _resumed(definition, config, where, Path(folder))
        yield from _named_losses(model, where)
    except Diverged as error:
        yield f"{where}: {error} of random tokens: expected finite numbers at a learning rate of 0.001"
    except OwnModelError:
        raise
    except Exception as error:  # Code of the user's runs here.
        yield f"{where}: it could not be trained: {one_line(error)}"


def _tokens(config: OwnModel, step: int) -> np.ndarray:
    shape = TRAIN.batch_size, config.context_length + 1
    return np.random.default_rng(step).integers(0, config.vocab_size, shape)


@torch.no_grad()
def _looks_ahead(model: LanguageModel) -> int | None:
    """The first tried token that logits before it depend on."""
    model.eval()
    tokens_BT = torch.from_numpy(_tokens(model.config, 0))[:, :-1]
    before_BTV, _ = model.encode(tokens_BT)
    length = tokens_BT.shape[1]
    for place in (length // 2, length - 1):
        changed_BT = tokens_BT.clone()
        changed_BT[:, place] = (changed_BT[:, place] + 1) % model.config.vocab_size
        after_BTV, _ = model.encode(changed_BT)
        moved = (before_BTV - after_BTV)[:, :place].abs().max() if place else before_BTV.new_zeros(())
        if moved > SAME_LOGITS * before_BTV.abs().max():
            return place
    return None


def _gradients(model: LanguageModel, where: str) -> Iterator[str]:
    """Parameters that a training step does not reach."""
    model.train()
    tokens_BT = torch.from_numpy(_tokens(model.config, 0))
    logits_BTV, _ = model.encode(tokens_BT[:, :-1])
    torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    without = [name for name, parameter in model.trained_parameters().items() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    if without:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        yield (
            f"{where}: no gradient reaches {', '.join(without[:NAMED])}{more}: use them in forward, or leave them out "
            "of training with requires_grad_(False)"
        )


def _own_steps(definition: Definition, config: OwnModel, where: str) -> Iterator[str]:
    """Whether training steps of its own train, and follow the rate that they are given where they say so."""
    first = build_own(definition, config, seed=0)
    trained, _ = _steps(build_own(definition, config, seed=0), 0, STEPS, None)
    if not _differing(first.stored_tensors(), trained.stored_tensors()):
        yield f"{where}: {STEPS} training steps leave every weight as it was: training_step changes `module` in place"
        return
    if config.training == "steps":
        cooled, _ = _steps(build_own(definition, config, seed=0), 0, STEPS, None, cooldown=(0, STEPS))
        if not _differing(trained.stored_tensors(), cooled.stored_tensors()):
            yield (
                f"{where}: supports_cooldown is True, and a falling rate ends with the weights of a constant one: use "
                "learning_rate in training_step, or leave supports_cooldown out"
            )


@torch.no_grad()
def _named_losses(model: LanguageModel, where: str) -> Iterator[str]:
    """Losses by name that are not finite. Raises OwnModelError where they are no losses of sequences."""
    model.eval()
    for name, losses_B in model.named_losses(torch.from_numpy(_tokens(model.config, 0))).items():
        if not torch.isfinite(losses_B).all():
            yield f"{where}: named_losses gave {losses_B.tolist()} for {name} of random tokens: expected finite numbers"


def _resumed(definition: Definition, config: OwnModel, where: str, folder: Path) -> Iterator[str]:
    """Whether training that goes on from a checkpoint has the bits of training that was never interrupted."""
    whole, whole_optimizer = _steps(build_own(definition, config, seed=0), 0, STEPS, None)
    half, optimizer = _steps(build_own(definition, config, seed=0), 0, STEPS // 2, None)
    try:
        save_checkpoint(folder / "half", half, optimizer, STEPS // 2)
        other = build_own(definition, config, seed=0)
        _spoil(other)
        resumed, resumed_optimizer = _steps(other, STEPS // 2, STEPS, folder / "half")
    except (CheckpointError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].removeprefix(f"{folder / 'half'}/")
        yield (
            f"{where}: its weights do not load back: {reason}: let build make each parameter and buffer, in the shape "
            "that it keeps"
        )
        return
    if names := _differing(_state(whole, whole_optimizer), _state(resumed, resumed_optimizer)):
        places = "parameters and buffers" if config.training == "adamw" else "parameters, buffers and state_tensors"
        yield (
            f"{where}: training that went on from a checkpoint differs in {', '.join(names[:NAMED])}: keep all state "
            f"in {places}, and draw nothing but from torch's generator"
        )


@torch.no_grad()
def _spoil(model: LanguageModel) -> None:
    """Other weights, so that those of a checkpoint are seen to be loaded."""
    for parameter in model.parameters():
        parameter.add_(1.0)


def _steps(
    model: PlainModel, start: int, stop: int, checkpoint: Path | None, cooldown: tuple[int, int] | None = None
) -> tuple[LanguageModel, Optimizer]:
    """The model after steps from `start`, and what took them. Raises Diverged."""
    train = replace(TRAIN, cosine_steps=STEPS) if model.config.training == "whole-runs" else TRAIN
    optimizer = build_optimizer(model, train)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model, optimizer)
    steps = train_steps(
        model,
        optimizer,
        train,
        lambda step: _tokens(model.config, step),
        steps=range(start, stop),
        cooldown=cooldown,
    )
    for metrics in steps:
        metrics.to_floats()
    return model, optimizer


def _state(model: LanguageModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a checkpoint keeps that the user's code decides, by name."""
    tensors = optimizer.tensors() if isinstance(optimizer, OwnSteps) else {}
    return model.stored_tensors() | {f"{name} of state_tensors": tensor for name, tensor in tensors.items()}


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same bits in both."""
    return [
        name
        for name in dict.fromkeys((*one, *other))
        if name not in one or name not in other or not _equal(one[name], other[name])
    ]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other) or not math.isfinite(float(one.double().sum())))
