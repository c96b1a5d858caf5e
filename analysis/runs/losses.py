"""The losses that a fit can be of: each a column of the run table, with a unit.

`analysis.runs.points` picks the one that is fitted. For all that comes after, its name and unit are mere labels.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches

import polars as pl

from mor_core.errors import Fix, UserError
from mor_core.files import is_folder_name, is_plain_name

NATS_PER_TOKEN = "nats/token"
BITS_PER_BYTE = "bits/byte"
ERROR_RATE = "error rate"
TEXT, TASK, BPB, OWN = "text", "task", "bpb", "own"
OF_VALIDATION = {
    "loss": NATS_PER_TOKEN,
    "loss_topk": NATS_PER_TOKEN,
    "loss_half": NATS_PER_TOKEN,
    "bits_per_byte": BITS_PER_BYTE,
}
"""What every evaluation of a cell measures, on validation text -> its unit; results/README.md explains each."""

NAMES = (*OF_VALIDATION, f"{TEXT}:NAME", f"{TASK}:NAME", f"{BPB}:NAME", f"{OWN}:NAME")
FORMER_NAMES = {"causal": "loss", "topk": "loss_topk"}
"""What two of them were once called on the command line."""


class LossError(UserError):
    """A loss that is not known, or that no cell has."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One kind of loss: less is better."""

    name: str
    """On the command line; the column of the run table that holds it."""
    unit: str
    """nats/token, bits/byte (of text, or of a task's right answers), or error rate (a task's 1 - score)."""

    @property
    def kind(self) -> str:
        """`text`, `task` or `bpb` where it is measured apart from the cell's own evaluation, `own` where a user's own
        model names it; else empty."""
        kind, mark, _ = self.name.partition(":")
        return kind if mark else ""

    @property
    def subject(self) -> str:
        """The text's, the task's or the own loss's name; else empty."""
        return self.name.partition(":")[2]

    @property
    def is_on_curves(self) -> bool:
        """Whether it can stand beside a training curve: of validation text, in nats/token."""
        return not self.kind and self.unit == NATS_PER_TOKEN


def parse_loss(words: str) -> Loss:
    """A loss by its name. Raises LossError."""
    name = FORMER_NAMES.get(words, words)
    if name in OF_VALIDATION:
        return Loss(name=name, unit=OF_VALIDATION[name])
    kind, mark, subject = name.partition(":")
    if mark and kind == TEXT:
        return Loss(name=f"{TEXT}:{text_name(subject)}", unit=NATS_PER_TOKEN)
    if mark and kind in (TASK, BPB):
        if not is_plain_name(subject):
            raise LossError(f"task {subject!r:.80}: expected a plain name, such as that of its file")
        return Loss(name=name, unit=ERROR_RATE if kind == TASK else BITS_PER_BYTE)
    if mark and kind == OWN and is_folder_name(subject):
        return Loss(name=name, unit=NATS_PER_TOKEN)
    near = get_close_matches(name, NAMES, n=1)
    meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(NAMES)}"
    raise LossError(f"loss {words!r:.80} is unknown: {meant}")


def text_name(name: str) -> str:
    """The name of a text as it is. Raises LossError for one that could be no column or metric."""
    if is_folder_name(name):
        return name
    raise LossError(f"text {name!r:.110}: expected a name of up to 100 letters, digits, dots, dashes and underscores")


def loss_values(table: pl.DataFrame, loss: Loss) -> pl.Series | None:
    """The loss of every row, null where it was not measured; None where the table has no such column.

    A task's error rate is 1 - the score that the run table keeps of it, its bits per byte those of the right answers,
    which scores of old do not have. Raises LossError where cells were scored on different items.
    """
    if loss.name in table.columns:
        return table[loss.name].cast(pl.Float64)
    if loss.kind not in (TASK, BPB) or "tasks" not in table.columns:
        return None
    scores = [json.loads(text or "{}").get(loss.subject) for text in table["tasks"]]
    items = sorted({str(score.get("fingerprint"))[:12] for score in scores if score})
    if len(items) > 1:
        raise LossError(
            f"cells were scored on different items of {loss.subject} ({', '.join(items)}): score all of them with one "
            "folder of task files"
        )
    if loss.kind == BPB:
        values = [score.get("bits_per_byte") if score else None for score in scores]
    else:
        values = [1 - score["score"] if score else None for score in scores]
    return pl.Series(loss.name, values, dtype=pl.Float64)


def no_cell_has(table: pl.DataFrame, loss: Loss) -> LossError:
    """What to say where no row of a table has a loss."""
    measured = _measured(table)
    if loss.kind == "":
        return LossError(f"no cell has {loss.name}: choose one of {', '.join(measured) or 'none'}, which cells have")
    subjects = [name.partition(":")[2] for name in measured if name.startswith(f"{loss.kind}:")]
    near = get_close_matches(loss.subject, subjects, n=1)
    meant = f" (did you mean {loss.kind}:{near[0]}?)" if near else ""
    if loss.kind == OWN:
        return LossError(f"no cell has {loss.name}{meant}: it is one that a model of your own gives in named_losses")
    fix = {
        TEXT: Fix(verb="eval", setting="text", value=f"{loss.subject}=FILE", words="measure it with {}"),
        TASK: Fix(verb="eval", setting="tasks", value=loss.subject, words="score it with {}"),
        BPB: Fix(
            verb="eval", setting="tasks", value=loss.subject, words="score it (again, where it was before) with {}"
        ),
    }[loss.kind]
    return LossError(f"no cell has {loss.name}{meant}", fix=fix)


def _measured(table: pl.DataFrame) -> list[str]:
    """Names of the losses that some row has."""
    columns = [name for name in table.columns if name in OF_VALIDATION or name.startswith((f"{TEXT}:", f"{OWN}:"))]
    texts = table["tasks"].drop_nulls().unique().to_list() if "tasks" in table.columns else []
    tasks = [json.loads(text) for text in texts]
    measured = [name for name in columns if table[name].null_count() < table.height]
    with_bits = {f"{BPB}:{name}" for scores in tasks for name, score in scores.items() if score.get("bits_per_byte")}
    return measured + sorted({f"{TASK}:{name}" for scores in tasks for name in scores} | with_bits)
