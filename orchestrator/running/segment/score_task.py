"""One attempt at a task's score: put the answers to choose from through the model, and keep each batch that is done.

The batches follow from the task alone, so that an attempt takes over those of earlier attempts and computes the rest:
between equal numerics the score is the same to the bit, however often it was interrupted.

    metrics.jsonl    one line a batch: step (its number), which choices it holds, their log-likelihoods, whether greedy
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.spec import DataError
from mor_core.data.tokens.tokenizer import load_tokenizer, read_tokenizer
from mor_core.interop.scoring import NOTHING, Span, SpanScore, length_batches, score_batch
from mor_core.interop.task_scores import TaskScore, score_task
from mor_core.interop.tasks import Task, read_task
from mor_core.interop.text_model import TextModel
from mor_core.model.transformer import Transformer
from mor_core.training.loop import Diverged
from orchestrator.planning.canonical import to_jsonable
from orchestrator.planning.identity import Segment, TaskEvaluation
from orchestrator.store.attempts import Attempt
from orchestrator.store.losses import read_curve
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

SYNC_SECONDS = 5.0
"""A crash of the machine, not of the process, costs the batches of so long."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One attempt at one task with one set of weights."""

    segment: Segment
    """What is computed: an evaluation whose spec is a task's."""
    store: Store
    """Where earlier attempts are."""
    attempt: Attempt
    """Its private files."""
    data_folder: Path
    """The snapshot that the weights were trained on, for its tokenizer."""
    task_folder: Path
    """Where the task files are."""
    before_batch: Callable[[int], None]
    """Told of each batch (from 1) before it is computed; raises Interrupted where it must not be."""
    after_batch: Callable[[], None]
    """Told of each batch that is done."""

    def result(self, model: Transformer) -> dict[str, Any]:
        """What the segment publishes. Raises DataError where the task files are others than planned, Diverged where
        a log-likelihood is not a finite number."""
        spec = self._spec
        task, text_model = self._task(spec), self._text_model(model, spec)
        cut: list[bool] = []
        spans: list[Span] = []
        owners: list[int] = []
        for owner, pair_spans in enumerate(text_model.spans_of(task.pairs)):
            cut.append(pair_spans.is_cut)
            spans += pair_spans.spans
            owners += [owner] * len(pair_spans.spans)
        batches = length_batches(spans)
        done = self._taken_over([[owners[i] for i in batch] for batch in batches])
        executed = len(batches) - len(done)
        self._compute(text_model, spans, owners, batches, done)
        scores = [NOTHING] * len(cut)
        for step in sorted(done):
            for owner, score in _scores_of(done[step]):
                scores[owner] += score
        total: TaskScore = score_task(task, scores, cut)
        return {
            "status": "finished",
            "step": self.segment.stop_step,
            "task": _measured(total, spec) | {name: getattr(spec, name) for name in ("fingerprint", "limit", "rule")},
            "batches": len(batches),
            "batches_executed": executed,
        }

    @property
    def _spec(self) -> TaskEvaluation:
        assert isinstance(self.segment.evaluation, TaskEvaluation)
        return self.segment.evaluation

    def _task(self, spec: TaskEvaluation) -> Task:
        task = read_task(spec.task, self.task_folder, spec.limit)
        if task.fingerprint() != spec.fingerprint:
            raise DataError(
                f"{self.task_folder} holds other items of {spec.task} ({task.fingerprint()[:12]}) than were planned "
                f"({spec.fingerprint[:12]}): run the same command again to plan anew"
            )
        return task

    def _text_model(self, model: Transformer, spec: TaskEvaluation) -> TextModel:
        file = self.data_folder / TOKENIZER_FILE
        return TextModel(
            model=model.eval(),
            tokenizer=load_tokenizer(file),
            end_of_text=read_tokenizer(file).end_of_text_id,
            rule=spec.rule,
            precision=self.segment.trunk.train.precision,
        )

    def _compute(
        self,
        text_model: TextModel,
        spans: Sequence[Span],
        owners: Sequence[int],
        batches: Sequence[Sequence[int]],
        done: dict[int, Row],
    ) -> None:
        """Add the rows of the batches that are not done."""
        synced = 0.0
        with self.attempt.metrics.open("a") as file:
            for step, batch in enumerate(batches, start=1):
                if step in done:
                    continue
                self.before_batch(step)
                scores = score_batch(text_model.model, [spans[i] for i in batch], text_model.rule, text_model.precision)
                done[step] = _row(step, [owners[i] for i in batch], scores)
                self._check_finite(done[step])
                file.write(json.dumps(done[step]) + "\n")
                file.flush()
                if time.monotonic() - synced > SYNC_SECONDS:
                    os.fsync(file.fileno())
                    synced = time.monotonic()
                self.attempt.record_progress(len(done), len(batches))
                self.after_batch()

    def _check_finite(self, row: Row) -> None:
        for value in row["log_likelihoods"]:
            if not math.isfinite(value):
                raise Diverged(self.segment.stop_step, value, "log-likelihood")

    def _taken_over(self, owners: Sequence[list[int]]) -> dict[int, Row]:
        """By step: the batches that earlier attempts have done, written to this one's file too."""
        rows: dict[int, Row] = {}
        numerics = self.attempt.read_numerics()
        for attempt in self.store.attempts(self.segment.id):
            if attempt == self.attempt or not attempt.numerics.is_file():
                continue
            whole = {row["step"]: row for row in _whole_rows(attempt.metrics, owners)}
            if whole.keys() - rows.keys():
                numerics += [entry for entry in attempt.read_numerics() if entry not in numerics]
                rows = whole | rows
        self.attempt.metrics.write_text("".join(json.dumps(rows[step]) + "\n" for step in sorted(rows)))
        self.attempt.record_numerics(numerics)
        return rows


def _measured(score: TaskScore, spec: TaskEvaluation) -> Row:
    """What the evaluation asked for: one of old has no bits per byte, whoever computes it."""
    return {name: value for name, value in to_jsonable(score).items() if spec.measures > 1 or name != "bits_per_byte"}


def _row(step: int, owners: list[int], scores: Sequence[SpanScore]) -> Row:
    return {
        "step": step,
        "choices": owners,
        "log_likelihoods": [score.log_likelihood for score in scores],
        "greedy": [score.is_greedy for score in scores],
    }


def _scores_of(row: Row) -> list[tuple[int, SpanScore]]:
    return [
        (owner, SpanScore(log_likelihood=value, is_greedy=greedy))
        for owner, value, greedy in zip(row["choices"], row["log_likelihoods"], row["greedy"], strict=True)
    ]


def _whole_rows(path: Path, owners: Sequence[list[int]]) -> list[Row]:
    """The lines of an attempt that hold one of the batches; one damaged file is computed anew."""
    try:
        rows = read_curve(path).rows
    except StoreError:
        return []
    return [
        row
        for row in rows
        if 1 <= row["step"] <= len(owners)
        and row.get("choices") == owners[row["step"] - 1]
        and len(row.get("log_likelihoods", ())) == len(row.get("greedy", ())) == len(row["choices"])
    ]
