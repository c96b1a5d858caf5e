"""The request to measure trained cells on a text, and the name under which their sweep remembers that text."""

from collections.abc import Sequence
from pathlib import Path

from analysis.runs.losses import text_name
from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.tokens.text_tokens import read_tokens, tokens_sha256
from mor_core.errors import UserError
from orchestrator.inference.evaluations import Asked, first_trained, paired
from orchestrator.inference.trained_cell import data_of, weights_id
from orchestrator.planning.cells import Cell
from orchestrator.records.revisions import Sweep, plans_locked
from orchestrator.store.published import read_spec
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import SweepText, sweep_texts, write_sweep_texts


class OtherText(UserError):
    """A name that the sweep has for another text."""


def ask_text(store: Store, sweep: Sweep, cells: Sequence[Cell], name: str, path: Path) -> Asked:
    """The segments that measure cells on a text; without cells all of the sweep's that have weights here. The sweep
    knows the text by this name from now on.

    Raises NotTrained, LossError for a name that is none, DataError for a text that cannot be read or has nothing to
    predict, and OtherText where cells of the sweep were measured on another text of that name.
    """
    text_name(name)
    weights = first_trained(store, sweep, cells)
    data, model = data_of(store, weights), read_spec(store.published(weights).spec).trunk.model
    tokens = read_tokens(path, data.folder / TOKENIZER_FILE, model.vocab_size)
    text = SweepText(sha256=tokens_sha256(tokens), tokens=len(tokens) - 1, file=str(path))
    pairs, left_out = paired(store, sweep, cells, lambda _: {name: text.evaluation})
    _name_text(store, sweep, name, text)
    return Asked(kind="text", pairs=pairs, left_out=left_out, data_folder=data.folder, text_file=path.absolute())


def _name_text(store: Store, sweep: Sweep, name: str, text: SweepText) -> None:
    """Record what the sweep calls a text. A name under which nothing was measured is free. Raises OtherText."""
    with plans_locked(store, sweep.name):
        texts = sweep_texts(store, sweep.name)
        entry = texts.get(name)
        if entry is not None and entry.sha256 == text.sha256:
            return
        if entry is not None and any(store.is_done(entry.segment_id(weights_id(sweep, cell))) for cell in sweep.cells):
            raise OtherText(
                f"text {name!r} of sweep {sweep.name} is another one ({entry.file}, {entry.tokens:,} tokens, "
                f"{entry.sha256[:12]}) than {text.file} ({text.tokens:,} tokens, {text.sha256[:12]}): give this one "
                "another name"
            )
        write_sweep_texts(store, sweep.name, texts | {name: text})
