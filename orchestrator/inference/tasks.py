"""The request to score trained cells on tasks: which cells, which tasks, and by which rule."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mor_core.config.model import CausalRule, ExpertChoice
from mor_core.interop.tasks import read_task
from orchestrator.inference.evaluations import Asked, first_trained, paired
from orchestrator.inference.trained_cell import data_of
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import TaskEvaluation
from orchestrator.records.revisions import Sweep
from orchestrator.store.store import Store

MEASURES = 2
"""What is measured today (`TaskEvaluation.measures`)."""


def ask_tasks(
    store: Store,
    sweep: Sweep,
    cells: Sequence[Cell],
    tasks: Sequence[str],
    task_folder: Path,
    *,
    limit: int | None,
    rule: CausalRule,
) -> Asked:
    """The segments that score cells on tasks; without cells all of the sweep's that have weights here.

    Raises NotTrained, and TaskError for a task that cannot be read.
    """
    read = {name: read_task(name, task_folder, limit) for name in tasks}
    planned = {
        name: TaskEvaluation(
            task=name, fingerprint=task.fingerprint(), limit=limit, rule="threshold", measures=MEASURES
        )
        for name, task in read.items()
    }

    def evaluations(cell: Cell) -> dict[str, TaskEvaluation]:
        own_rule: CausalRule = rule if isinstance(cell.model.routing, ExpertChoice) else "threshold"
        return {name: replace(evaluation, rule=own_rule) for name, evaluation in planned.items()}

    pairs, left_out = paired(store, sweep, cells, evaluations)
    return Asked(
        kind="task",
        pairs=pairs,
        left_out=left_out,
        data_folder=data_of(store, first_trained(store, sweep, cells)).folder,
        task_folder=task_folder.absolute(),
    )
