"""Attempts and publications made by hand: real checkpoints of a small model that nobody trained."""

import torch

from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.model.transformer import build_model
from mor_core.training.checkpoint import save_checkpoint
from mor_core.training.optim import build_optimizer
from orchestrator.planning.identity import Segment, TrunkRecipe
from orchestrator.store.attempts import Attempt
from orchestrator.store.store import Store

TRUNK = TrunkRecipe(
    model=model_config(SIZES["13k"], vocab_size=300, context_length=32),
    train=TrainConfig(batch_size=2, peak_learning_rate=0.01, warmup_steps=1),
    data_fingerprint="no such data",
    tokenizer_fingerprint="none",
    seed=0,
    numerics_version=1,
)


def published(store: Store, segment: Segment, step: int, **result: object) -> bool:
    """Publish a segment by hand, with a checkpoint of fresh weights."""
    attempt = store.new_attempt(segment)
    model = build_model(segment.trunk.model, seed=step)
    optimizer = build_optimizer(model, segment.trunk.train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_checkpoint(attempt.final, model, optimizer, step)
    return store.publish(segment, attempt, attempt.final, {"status": "finished", "step": step, **result})


def left_behind(store: Store, segment: Segment, step: int, weights_only: bool = False) -> Attempt:
    """What a killed attempt leaves: a curve with a torn tail, its numerics, a checkpoint."""
    attempt = store.new_attempt(segment)
    model = build_model(TRUNK.model, seed=7)
    optimizer = build_optimizer(model, TRUNK.train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_checkpoint(attempt.checkpoint(step), model, None if weights_only else optimizer, step)
    attempt.metrics.write_text('{"step": 1, "loss": 5.0}\n{"step": 10, "lo')
    attempt.record_numerics([{"device": "another"}])
    return attempt
