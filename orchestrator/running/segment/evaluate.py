"""What an attempt at an evaluation does: load a decay's weights and measure them, on validation data, a task
or a text."""

import math
from collections.abc import Iterator
from typing import Any, TypeVar

from mor_core.model.language_model import LanguageModel
from mor_core.model.own.code import OwnModelError
from mor_core.model.transformer import Transformer
from mor_core.training.checkpoint import load_checkpoint
from mor_core.training.evaluate import evaluate as evaluate_model
from mor_core.training.loop import Diverged
from mor_core.training.rehearsal import rehearse
from mor_core.training.token_evaluation import measure_tokens
from orchestrator.planning.canonical import to_jsonable
from orchestrator.planning.identity import TaskEvaluation, TextEvaluation
from orchestrator.running.segment.job import SegmentRun
from orchestrator.running.segment.measure_text import planned_text, text_result
from orchestrator.running.segment.score_task import TaskRun
from orchestrator.running.segment.start_state import new_model, open_data
from orchestrator.running.stopping import Interrupted, StopWatch
from orchestrator.store.losses import write_sequence_losses
from orchestrator.store.pruned import is_pruned
from orchestrator.store.published import StoreError, move_away

Item = TypeVar("Item")


def evaluate(run: SegmentRun) -> dict[str, Any]:
    """Load the decay's weights and measure them: what the segment publishes."""
    reader, shards = open_data(run)
    segment, recipe, spec = run.segment, run.segment.trunk, run.segment.evaluation
    assert spec is not None
    weights = segment.needs[0]
    if is_pruned(run.store, weights):
        folder = run.store.segment_folder(weights)
        raise StoreError(f"gc removed the weights that are to be measured; {move_away(folder)}")
    model = new_model(run)
    load_checkpoint(run.store.checkpoint_folder(weights), model, None)
    if isinstance(spec, TaskEvaluation):
        assert isinstance(model, Transformer)
        return _task_run(run, model).result(model)
    sequences = run.job.sequences(segment)
    if isinstance(spec, TextEvaluation):
        text = planned_text(run, spec)
        windows = _until_stopped(run, text.windows(sequences), model)
        return text_result(run, text, measure_tokens(model, recipe.train, windows, spec.rule))
    batches = reader.valid_batches(spec.num_sequences, recipe.model.context_length, sequences)
    evaluation = evaluate_model(model, recipe.train, _until_stopped(run, batches, model), reader.token_bytes)
    shards.check()
    if not math.isfinite(evaluation.loss):
        raise Diverged(segment.stop_step, evaluation.loss)
    for name, loss in (evaluation.own_losses or {}).items():
        if not math.isfinite(loss):
            raise OwnModelError(f"named_losses gave {loss} for {name}, expected a finite number: mend it")
    published = to_jsonable(evaluation)
    # A file of their own: `status` reads every result.json of a sweep.
    write_sequence_losses(run.attempt.sequence_losses, published.pop("sequence_losses"))
    return {"status": "finished", "step": segment.stop_step, "evaluation": published}


def _task_run(run: SegmentRun, model: LanguageModel) -> TaskRun:
    assert run.job.task_folder is not None
    stop = StopWatch(stop=run.job.stop)

    def before_batch(step: int) -> None:
        rehearse(model, lambda: run.where(step))
        if cause := stop.check():
            raise Interrupted(step - 1, cause)

    return TaskRun(
        segment=run.segment,
        store=run.store,
        attempt=run.attempt,
        data_folder=run.job.data_folder,
        task_folder=run.job.task_folder,
        before_batch=before_batch,
        after_batch=run.on_step,
    )


def _until_stopped(run: SegmentRun, batches: Iterator[Item], model: LanguageModel) -> Iterator[Item]:
    """The batches of an evaluation, as long as nobody asks to stop: there is no state to keep."""
    stop = StopWatch(stop=run.job.stop)
    for batch in batches:
        rehearse(model, lambda: run.where(run.segment.stop_step))
        if cause := stop.check():
            raise Interrupted(run.segment.stop_step, cause)
        yield batch
        run.on_step()
