"""The loss of one set of weights on one text: check that it is the planned text, measure it, publish the losses.

N predicted tokens; B windows of T + 1 tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.spec import DataError
from mor_core.data.tokens.text_tokens import read_tokens, tokens_sha256
from mor_core.data.tokens.tokenizer import token_bytes
from mor_core.training.loop import Diverged
from mor_core.training.token_evaluation import TokenMeasurements, text_windows
from orchestrator.planning.identity import TextEvaluation
from orchestrator.running.segment.job import SegmentRun


@dataclass(frozen=True, kw_only=True)
class PlannedText:
    """The text that a segment measures."""

    spec: TextEvaluation
    """By what it is known."""
    tokens: NDArray[np.int64]
    """(N + 1,) its ids."""
    length: int
    """Tokens of a window that are predicted."""

    def windows(self, batch: int) -> Iterator[NDArray[np.int64]]:
        """All of it, `batch` windows at a time, [<=B, T + 1]."""
        return text_windows(self.tokens, self.length, batch)


def planned_text(run: SegmentRun, spec: TextEvaluation) -> PlannedText:
    """The text of a run's file. Raises DataError where the file holds another text than was planned."""
    path, model = run.job.text_file, run.segment.trunk.model
    assert path is not None
    tokens = read_tokens(path, run.job.data_folder / TOKENIZER_FILE, model.vocab_size)
    if (sha256 := tokens_sha256(tokens)) != spec.text_sha256:
        raise DataError(
            f"{path} holds another text ({sha256[:12]}) than was planned ({spec.text_sha256[:12]}): run the same "
            "command again to plan anew"
        )
    return PlannedText(spec=spec, tokens=tokens, length=model.context_length)


def text_result(run: SegmentRun, text: PlannedText, measured: TokenMeasurements) -> dict[str, Any]:
    """What the segment publishes. Raises Diverged where the loss is not a finite number."""
    nats_N = measured.nats_N
    loss = float(nats_N.mean())
    if not math.isfinite(loss):
        raise Diverged(run.segment.stop_step, loss)
    sizes = token_bytes(run.job.data_folder / TOKENIZER_FILE, run.segment.trunk.model.vocab_size)
    num_bytes = int(sizes[text.tokens[1:]].sum())
    return {
        "status": "finished",
        "step": run.segment.stop_step,
        "text": {
            "text_sha256": text.spec.text_sha256,
            "rule": text.spec.rule,
            "loss": loss,
            "standard_error": _standard_error(measured),
            "bits_per_byte": float(nats_N.sum()) / math.log(2) / num_bytes if num_bytes else None,
            "tokens": len(nats_N),
        },
    }


def _standard_error(measured: TokenMeasurements) -> float | None:
    """Of the mean, from the means of windows, which lose alike within themselves; None for a single one."""
    counts = np.bincount(measured.window_N)
    if len(counts) < 2:
        return None
    means = np.bincount(measured.window_N, weights=measured.nats_N) / counts
    return float(means.std(ddof=1) / math.sqrt(len(means)))
