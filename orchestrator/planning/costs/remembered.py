"""Training speeds that this machine reached in earlier sweeps, cached for sweeps in other results folders.

    <cache>/speeds/<sha256 of the setting>.json    by exact FLOPs of a step: exact FLOPs per second of one worker

Each was measured with the sweep's other workers beside it: a worker alone may be faster.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mor_core.data.spec import cache_folder
from mor_core.files import write_json
from orchestrator.planning.canonical import content_id
from orchestrator.planning.costs.probe import ProbeSetting
from orchestrator.planning.costs.speeds import Basis, FinishedTraining, rates_of, step_flops
from orchestrator.planning.plan import Plan

SCHEMA = "mor-sweep.speeds/1"

MOST_SPEEDS = 200
"""In one file; sweeps have some tens of shapes. The oldest go first."""


def remember(
    plan: Plan, setting: ProbeSetting, results: Mapping[str, FinishedTraining], report: Callable[[str], None]
) -> None:
    """Keep the speeds of the shapes of which segments are finished. What cannot be written is reported."""
    rates = rates_of(plan, setting.device, results, {})
    speeds = {
        step_flops(shape): rate.flops_per_second for shape, rate in rates.items() if rate.basis is Basis.earlier_runs
    }
    earlier = remembered(setting, report)
    if not speeds or speeds.items() <= earlier.items():
        return
    kept = list(({speed: earlier[speed] for speed in earlier if speed not in speeds} | speeds).items())[-MOST_SPEEDS:]
    path = speeds_file(setting)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": SCHEMA, "speeds": kept})
    except OSError as error:
        report(f"note: {path} cannot be written ({error.strerror}): the speeds of this sweep are not remembered")


def remembered(setting: ProbeSetting, report: Callable[[str], None]) -> dict[float, float]:
    """Exact FLOPs of a step -> exact FLOPs per second of one worker. A file that cannot be read is reported and counts
    as empty."""
    path = speeds_file(setting)
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, expected {SCHEMA!r}")
        speeds = {float(flops): float(speed) for flops, speed in document["speeds"]}
        if not all(0 < number < float("inf") for pair in speeds.items() for number in pair):
            raise ValueError("a speed is no positive number")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        report(f"note: {path} cannot be read ({error}) and counts as empty: the next sweep writes it again")
        return {}
    return speeds


def speeds_file(setting: ProbeSetting) -> Path:
    """Where the speeds of a machine are kept. What is computed at a time is told by the FLOPs."""
    return cache_folder() / "speeds" / f"{content_id(replace(setting, micro_batch=None))[:32]}.json"
