"""The loss of a text, planted in a sweep whose cells are finished."""

from collections.abc import Callable

from orchestrator.planning.identity import Segment, TextEvaluation, evaluate_segment
from orchestrator.records.revisions import load_sweep
from orchestrator.store.published import read_spec
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import SweepText, sweep_texts, write_sweep_texts


def plant_text(store: Store, sweep: str, name: str, sha256: str, loss: Callable[[Segment], float]) -> None:
    """Every cell of the sweep measured on a text; `loss` is told the evaluation of the cell's own loss."""
    for cell in load_sweep(store, sweep).cells:
        evaluated = read_spec(store.published(str(cell.evaluate_segment)).spec)
        weights = read_spec(store.published(evaluated.needs[0]).spec)
        segment = evaluate_segment(weights, TextEvaluation(text_sha256=sha256, rule="threshold"))
        numbers = {"loss": loss(evaluated), "standard_error": 0.01, "bits_per_byte": None, "tokens": 999}
        measured = {"text_sha256": sha256, "rule": "threshold"} | numbers
        result = {"status": "finished", "step": segment.stop_step, "text": measured}
        assert store.publish(segment, store.new_attempt(segment), None, result)
    texts = sweep_texts(store, sweep)
    write_sweep_texts(store, sweep, texts | {name: SweepText(sha256=sha256, tokens=999, file=f"{name}.txt")})
