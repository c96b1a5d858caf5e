"""Loss and saved compute of a trained cell when its tokens may not go as deep as in training (paper, Fig. 5c).

A token that would go deeper leaves the block after the highest recursion allowed and goes through the last layers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mor_core.config.model import CausalRule
from mor_core.data.prepare import open_tokens
from mor_core.errors import UserError
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import Request, Sampling
from mor_core.inference.stages import num_passes, trace
from orchestrator.inference.generate import whole_memory
from orchestrator.inference.trained_cell import TrainedCell

SEQUENCES_PER_TRACE = 8
BATCH = 32


class NoDepth(UserError):
    """A cell whose tokens have one depth only."""


@dataclass(frozen=True, kw_only=True)
class AtDepth:
    """A cell whose tokens go no deeper than this."""

    max_depth: int
    """Recursions at most."""
    loss: float
    """Mean cross-entropy of validation text, nats per token."""
    mean_depth: float
    """Recursions per token of that text."""
    tokens_per_second: float
    """Generated at a batch of 32."""
    flops_per_token: float
    """Exact forward FLOPs per generated token."""


def losses_by_depth(
    cell: TrainedCell,
    sequences: int,
    rule: CausalRule = "threshold",
    report: Callable[[str], None] = lambda _: None,
) -> list[AtDepth]:
    """One row for each depth from 1 to the cell's recursions. Raises NoDepth where there is one only."""
    deepest = num_passes(cell.model.config)
    if deepest < 2:
        raise NoDepth(
            f"cell {cell.name} has one depth only: name a cell of a recursive or mor arm whose block repeats as a whole"
        )
    rows: list[AtDepth] = []
    for depth in range(1, deepest + 1):
        report(f"depth {depth} of {deepest}")
        loss, mean_depth = _validation(cell, sequences, rule, depth)
        speed, flops = _generation(cell, rule, depth)
        rows.append(
            AtDepth(max_depth=depth, loss=loss, mean_depth=mean_depth, tokens_per_second=speed, flops_per_token=flops)
        )
    return rows


@torch.inference_mode()
def _validation(cell: TrainedCell, sequences: int, rule: CausalRule, depth: int) -> tuple[float, float]:
    """Mean loss and mean depth over validation sequences of the whole context."""
    length = cell.cell.model.context_length
    nats, depths, tokens = 0.0, 0, 0
    for batch in open_tokens(cell.data).valid_batches(sequences, length, SEQUENCES_PER_TRACE):
        for text, text_trace in zip(batch, trace(cell.model, batch[:, :-1].tolist(), rule, depth), strict=True):
            targets_T = torch.from_numpy(text[1:]).to(text_trace.logits_TV.device)
            nats += float(F.cross_entropy(text_trace.logits_TV.double(), targets_T, reduction="sum"))
            depths += sum(text_trace.depth)
            tokens += length
    return nats / tokens, depths / tokens


def _generation(cell: TrainedCell, rule: CausalRule, depth: int) -> tuple[float, float]:
    """Tokens per second, and FLOPs per token."""
    length = max(1, cell.cell.model.context_length // 2)
    requests = [
        Request(
            prompt=(cell.end_of_text,),
            max_new_tokens=length,
            sampling=Sampling(temperature=1.0, seed=seed),
            stream=False,
        )
        for seed in range(BATCH)
    ]
    options = EngineOptions(kv_bytes=whole_memory(cell, BATCH), max_batch=BATCH, rule=rule, max_depth=depth)
    engine = Engine(cell.model, options)
    started = time.perf_counter()
    for _ in engine.run(requests):
        pass
    seconds = time.perf_counter() - started
    return engine.totals.generated_tokens / seconds, engine.totals.forward_flops / engine.totals.computed_tokens
