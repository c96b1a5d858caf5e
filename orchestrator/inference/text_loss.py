"""The loss of trained cells on any text or tokens: under every routing rule, by position and by depth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mor_core.config.model import ExpertChoice
from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.tokens.tokenizer import token_bytes
from mor_core.model.transformer import RoutingRule
from mor_core.training.token_evaluation import measure_tokens, text_windows
from orchestrator.inference.trained_cell import TrainedCell

BATCH_TOKENS = 8192
POSITION_BINS = 16
NATS_PER_BIT = float(np.log(2))
CAUSAL = "causal"
"""What the one rule of a model without expert choice is called."""


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """What was measured of one cell. Frames; losses in nats per token."""

    losses: pl.DataFrame
    """One row a rule: rule, loss, standard_error (over windows), bits_per_byte (null for tokens without bytes), tokens,
    depth."""
    positions: pl.DataFrame
    """rule, position (the first of a stretch), tokens, loss."""
    depths: pl.DataFrame
    """rule, depth, tokens, share, loss."""


def rules_of(cell: TrainedCell) -> dict[str, RoutingRule]:
    """What a rule is called -> the rule."""
    if isinstance(cell.cell.model.routing, ExpertChoice):
        return {"threshold": "threshold", "half": "half", "top-k": "top-k"}
    return {CAUSAL: "threshold"}


def text_loss(
    cell: TrainedCell, tokens_N: NDArray[np.int64], report: Callable[[str], None] = lambda _: None
) -> TextLoss:
    """Measure a cell on token ids, in windows of its context that each start afresh."""
    length = cell.cell.model.context_length
    sizes = token_bytes(cell.data.folder / TOKENIZER_FILE, cell.cell.model.vocab_size)
    frames: list[pl.DataFrame] = []
    for name, rule in rules_of(cell).items():
        report(f"{cell.name}: {len(tokens_N):,} tokens under the rule {name}")
        batches = text_windows(tokens_N, length, max(1, BATCH_TOKENS // length))
        measured = measure_tokens(cell.model, cell.cell.train, batches, rule)
        frames.append(
            pl.DataFrame(
                {
                    "window": measured.window_N,
                    "position": measured.position_N,
                    "depth": measured.depth_N,
                    "nats": measured.nats_N,
                    "bytes": sizes[tokens_N[1:]],
                }
            ).with_columns(rule=pl.lit(name))
        )
    return _summary(pl.concat(frames), length)


def _summary(tokens: pl.DataFrame, length: int) -> TextLoss:
    width = max(1, -(-length // POSITION_BINS))
    by_rule = tokens.group_by("rule", maintain_order=True)
    means = tokens.group_by("rule", "window").agg(pl.col("nats").mean())
    errors = means.group_by("rule").agg(standard_error=pl.col("nats").std() / pl.len().sqrt())
    total_bytes = pl.col("bytes").sum()
    losses = by_rule.agg(
        loss=pl.col("nats").mean(),
        bits_per_byte=pl.when(total_bytes > 0).then(pl.col("nats").sum() / NATS_PER_BIT / total_bytes),
        tokens=pl.len(),
        depth=pl.col("depth").mean(),
    ).join(errors, on="rule", how="left", maintain_order="left")
    stretches = tokens.with_columns(pl.col("position") // width * width)
    positions = stretches.group_by("rule", "position", maintain_order=True).agg(
        tokens=pl.len(), loss=pl.col("nats").mean()
    )
    depths = tokens.group_by("rule", "depth", maintain_order=True).agg(tokens=pl.len(), loss=pl.col("nats").mean())
    shares = depths.with_columns(share=pl.col("tokens") / pl.col("tokens").sum().over("rule"))
    order = {name: place for place, name in enumerate(losses["rule"])}
    return TextLoss(
        losses=losses.select("rule", "loss", "standard_error", "bits_per_byte", "tokens", "depth"),
        positions=positions.sort(pl.col("rule").replace_strict(order), "position"),
        depths=shares.sort(pl.col("rule").replace_strict(order), "depth").select(
            "rule", "depth", "tokens", "share", "loss"
        ),
    )
