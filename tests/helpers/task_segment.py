"""One task scored by a process of its own, so that its end is real:

python task_segment.py RESULTS DATA_FOLDER TASK_FOLDER WEIGHTS_SEGMENT TASK RULE
"""

import sys
from pathlib import Path

from mor_core.interop.tasks import read_task
from orchestrator.planning.identity import Segment, TaskEvaluation, evaluate_segment
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.published import read_spec
from orchestrator.store.store import Store


def task_segment(store: Store, weights: str, tasks: Path, task: str, rule: str = "threshold") -> Segment:
    """The segment that scores weights on a task."""
    evaluation = TaskEvaluation(task=task, fingerprint=read_task(task, tasks).fingerprint(), limit=None, rule=rule)
    return evaluate_segment(read_spec(store.published(weights).spec), evaluation)


def main() -> None:
    """See the module."""
    results, data, tasks, weights, task, rule = sys.argv[1:]
    segment = task_segment(Store(root=Path(results)), weights, Path(tasks), task, rule)
    job = Job(
        results=Path(results), data_folder=Path(data), task_folder=Path(tasks), checkpoint_every_steps=1, run="a run"
    )
    run_segment(segment, job)


if __name__ == "__main__":
    main()
