"""A sweep in a results folder whose losses come from a planted law: planned for real, trained never."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mor_core.data.snapshot import DataSnapshot
from mor_core.flops import training_flops_per_token, unique_params
from orchestrator.planning.identity import Segment, trunk_id
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import record_revision
from orchestrator.store.losses import write_sequence_losses
from orchestrator.store.store import Store
from tests.helpers.made_up_data import MADE_UP_DATA

SNAPSHOT = replace(MADE_UP_DATA, folder=Path("tokens/snapshot"))


@dataclass(frozen=True, kw_only=True)
class Law:
    """loss(N, D) = bottom + params_scale / N^power + tokens_scale / D^power, a routed model's N worth a bit more."""

    bottom: float = 1.6
    params_scale: float = 55.0
    tokens_scale: float = 135.0
    power: float = 0.4
    noise: float = 0.004
    routed_worth: float = 1.3

    def loss(self, segment: Segment) -> float:
        """Of a model after its cooldown; noise by trunk and by cell, the same every time."""
        model = segment.trunk.model
        params = unique_params(model) * (self.routed_worth if model.routing else 1.0)
        tokens = segment.stop_step * segment.trunk.train.batch_size * model.context_length
        words = (int(trunk_id(segment.trunk)[:8], 16), int(segment.id[:8], 16))
        drawn = sum(np.random.default_rng(word).normal() for word in words) / math.sqrt(2)
        smooth = self.bottom + self.params_scale / params**self.power + self.tokens_scale / tokens**self.power
        return smooth + self.noise * drawn


@dataclass(frozen=True, kw_only=True)
class PlantedSweep:
    """A results folder with one finished sweep."""

    store: Store
    name: str = "planted"
    law: Law = field(default_factory=Law)
    windows: Callable[[Segment], Sequence[float]] | None = None
    """How far the loss of each validation window of an evaluation is from its loss; None keeps no losses of windows."""

    def plan(self, data: DataSnapshot, overrides: Sequence[Override], preset: str = "cpu") -> Plan:
        """Plan and record one more revision, of one seed where nothing else is asked for."""
        alone = Override(flag="--seeds", path=("seeds",), value=[0])
        spec = load_spec(preset, [alone, *overrides, Override(flag="--name", path=("name",), value=self.name)])
        planned = plan(spec, data)
        record_revision(self.store, planned, data)
        return planned

    def publish(self, planned: Plan) -> None:
        """Every segment of a plan that is not there yet."""
        for segment in planned.segments:
            if not self.store.is_done(segment.id):
                _publish(self.store, segment, self.law, self.windows)


def overrides(**changes: object) -> list[Override]:
    """budgets=[...], sizes={"names": [...]}, arms__architectures=[...] as what flags lay over a preset. Another text
    comes without rules of quality, as --data has it."""
    changes = {"data__quality": False} | changes if "data__corpus" in changes else changes
    return [Override(flag=key, path=tuple(key.split("__")), value=value) for key, value in changes.items()]


def _publish(store: Store, segment: Segment, law: Law, windows: Callable[[Segment], Sequence[float]] | None) -> None:
    attempt = store.new_attempt(segment)
    result = {"status": "finished", "reason": "", "step": segment.stop_step, "kind": segment.kind, "attempts": 1}
    result |= {"wall_seconds": 3.0, "numerics": [{"device": "cpu", "torch": "2.13"}], "peak_memory_bytes": 1 << 28}
    if segment.kind == "evaluate":
        loss = law.loss(segment)
        if windows is not None:
            write_sequence_losses(attempt.sequence_losses, [loss + shift for shift in windows(segment)])
        routed = segment.trunk.model.routing is not None
        result["evaluation"] = {"loss": loss, "loss_topk": loss - 0.03 * routed, "bits_per_byte": loss / 2}
        result["evaluation"] |= {"tokens": 4096, "depth_mean": 1.5 if routed else 1.0}
        result["evaluation"] |= {"realised_capacity": [1.0, 0.5] if routed else [1.0]}
        result["evaluation"] |= {
            "planned_capacity": [1.0, 0.5] if routed else [1.0],
            "forward_flops_per_token": float(training_flops_per_token(segment.trunk.model, "exact") / 3),
        }
    else:
        first = (segment.decay_start or 0) + 1
        result |= {"train_seconds": 0.002 * segment.stop_step, "steps_executed": segment.stop_step - first + 1}
        attempt.metrics.write_text(
            "".join(f"{json.dumps(_row(segment, law, step))}\n" for step in _logged(first, segment.stop_step))
        )
    assert store.publish(segment, attempt, None, result)


def _logged(first: int, last: int) -> list[int]:
    return [step for step in range(first, last + 1) if step % 10 == 0 or step in (1, last)]


def _row(segment: Segment, law: Law, step: int) -> dict[str, float]:
    """A training curve that comes down to the planted loss, batch by batch."""
    cooled = 0.1 if segment.decay_start is None else 0.1 * (segment.stop_step - step) / segment.stop_step
    loss = law.loss(segment) + 2.5 / math.sqrt(1 + step / 15) + cooled + 0.05 * math.sin(step)
    return {"step": step, "tokens": step * 512, "loss": loss, "learning_rate": 0.01, "gradient_norm": 1.0}
